//! The online read path, without protocol: features of entities under one stamp.
//!
//! Every view and entity of a request is answered at one epoch and one instant. A live request takes the last published
//! epoch and the present; a request that gives its stamp back gets the same answer, from pages or, past those, the log.
//!
//! Invariants: `visible(E) <= as_of < visible(next commit)` for live answers; nothing above `E` is counted.
//! Neighbours: `state::cache` holds the pages, `offline` answers what they no longer hold; `serve` and `cli` call this.

use std::sync::Arc;

use datafusion::common::ScalarValue;

use crate::fold::{Evaluation, Status};
use crate::key::{EntityCodec, KeyError};
use crate::offline::{Offline, OfflineError, Timeline};
use crate::plan::Plan;
use crate::plan::output::Outputs;
use crate::state::StateError;
use crate::state::cache::{Cache, Published, Read};
use crate::time::{Ask, Clock, Epoch};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No such view.
    #[error("there is no view `{name}`; there are {known}")]
    UnknownView {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No such feature.
    #[error("view `{view}` has no feature `{name}`; it has {known}")]
    UnknownFeature {
        /// The view.
        view: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The key does not name an entity.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The stamp is an instant later than now, and no epoch.
    #[error("as_of {as_of} is later than now ({now}); leave it out to ask about now, or name an epoch with it")]
    Future {
        /// What was asked for.
        as_of: Ask,
        /// The present.
        now: Ask,
    },
    /// The stamp's epoch is not committed yet.
    #[error("epoch {epoch} is not committed yet; the last is {last}")]
    NotYet {
        /// What was asked for.
        epoch: Epoch,
        /// What there is.
        last: Epoch,
    },
    /// The epoch is past and was never one.
    #[error("no commit ends with epoch {epoch}; name the epoch of an answer; the last is {last}")]
    Gone {
        /// What was asked for.
        epoch: Epoch,
        /// What there is.
        last: Epoch,
    },
    /// The store or the log failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log could not answer.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// Arrow or DataFusion refused; a bug.
    #[error("the answer could not be computed: {0}")]
    Compute(String),
}

/// Which stamp a request asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct StampRequest {
    /// `epoch`, if given.
    pub epoch: Option<Epoch>,
    /// `as_of`, if given.
    pub as_of: Option<Ask>,
}

/// What is asked of one view: the view's index, indices of features, and entities in declared order.
pub struct ViewRequest {
    /// Index in the plan.
    pub view: usize,
    /// Indices of features.
    pub features: Vec<usize>,
    /// One entity a row.
    pub entities: Vec<Vec<ScalarValue>>,
}

/// One entity's features.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Is there a row?
    pub status: Status,
    /// Greatest event time among the entity's events.
    pub event_time: Option<i64>,
    /// In the order asked.
    pub values: Vec<ScalarValue>,
}

/// An answer: its stamp, and rows by view as asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The commit it was read from.
    pub epoch: Epoch,
    /// The instant it is about.
    pub as_of: Ask,
    /// For each view request, a row per entity.
    pub rows: Vec<Vec<Row>>,
}

/// The read path.
pub struct Online {
    plan: Arc<Plan>,
    cache: Arc<Cache>,
    offline: Arc<Offline>,
    clock: Clock,
    views: Vec<(EntityCodec, Outputs)>,
}

impl Online {
    /// Over pages and the log behind them.
    ///
    /// # Errors
    /// Group types without a row format.
    pub fn new(plan: Arc<Plan>, cache: Arc<Cache>, offline: Arc<Offline>, clock: Clock) -> Result<Online, LookupError> {
        let view =
            |v: &crate::plan::PlannedView| Ok((EntityCodec::new(&v.plan).map_err(compute)?, Outputs::new(&v.plan)));
        let views = plan.views.iter().map(view).collect::<Result<_, LookupError>>()?;
        Ok(Online { plan, cache, offline, clock, views })
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The pages.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The log.
    pub fn offline(&self) -> &Arc<Offline> {
        &self.offline
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A view's entities.
    pub fn entities(&self, view: usize) -> &EntityCodec {
        &self.views[view].0
    }

    /// A view by name.
    ///
    /// # Errors
    /// [`LookupError::UnknownView`].
    pub fn view(&self, name: &str) -> Result<usize, LookupError> {
        find_view(&self.plan, name)
    }

    /// Answers a request under one stamp.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn lookup(&self, requests: &[ViewRequest], stamp: StampRequest) -> Result<Answer, LookupError> {
        let (published, _hold) = self.cache.hold_published();
        let (epoch, as_of) = self.stamp(stamp, &published)?;
        // A page that has been asked about the future may not know the present any more.
        let ahead = as_of.0 > self.clock.now().max(published.visible);
        let mut rows = vec![];
        for request in requests {
            rows.push(self.view_rows(request, epoch, as_of, ahead)?);
        }
        Ok(Answer { epoch, as_of, rows })
    }

    /// The stamp that a request asks for.
    ///
    /// # Errors
    /// [`LookupError::Future`], [`LookupError::NotYet`] or [`LookupError::Gone`]: there is none, or not yet.
    pub fn stamp(&self, stamp: StampRequest, published: &Published) -> Result<(Epoch, Ask), LookupError> {
        let now = self.clock.now();
        let last = Epoch(published.epoch);
        match (stamp.epoch, stamp.as_of) {
            (None, None) => {
                // Up to the next commit's instant, which readers of that commit will start at.
                let upto = published.next_visible.map_or(i64::MAX, |v| v - 1);
                Ok((last, Ask(now.min(upto).max(published.visible))))
            }
            (Some(epoch), as_of) => {
                if epoch > last {
                    return Err(LookupError::NotYet { epoch, last });
                }
                let timeline = self.timeline()?;
                let Some(visible) = timeline.stamped(epoch) else { return Err(LookupError::Gone { epoch, last }) };
                Ok((epoch, as_of.unwrap_or(Ask(visible))))
            }
            // What will be served then, nobody knows yet.
            (None, Some(as_of)) if as_of.0 > now => Err(LookupError::Future { as_of, now: Ask(now) }),
            (None, Some(as_of))
                if as_of.0 >= published.visible && published.next_visible.is_none_or(|v| as_of.0 < v) =>
            {
                Ok((last, as_of))
            }
            (None, Some(as_of)) => Ok((self.timeline()?.served(as_of), as_of)),
        }
    }

    fn timeline(&self) -> Result<Arc<Timeline>, LookupError> {
        Ok(self.offline.timeline()?)
    }

    /// `ahead`: the pages are not to be asked.
    fn view_rows(&self, request: &ViewRequest, epoch: Epoch, as_of: Ask, ahead: bool) -> Result<Vec<Row>, LookupError> {
        let (codec, outputs) = &self.views[request.view];
        let fold = &self.plan.views[request.view].fold;
        let asked = outputs.asked(&request.features);
        let mut rows = Vec::with_capacity(request.entities.len());
        for entity in &request.entities {
            let group = codec.group(entity).map_err(compute)?;
            let evaluation = match &group {
                None => Evaluation::of_nothing(fold),
                Some(group) if ahead => self.offline.evaluate_some(request.view, group, epoch, as_of, &asked)?,
                Some(group) => match self.cache.read_some(request.view, group, epoch.0, as_of.0, &asked)? {
                    Read::Answer(answer) => answer,
                    Read::Nothing => Evaluation::of_nothing(fold),
                    Read::NeedsLog => self.offline.evaluate_some(request.view, group, epoch, as_of, &asked)?,
                },
            };
            let columns = group_columns(&self.plan, request.view, entity);
            let values = outputs.one(&request.features, &columns, &evaluation.values, as_of.0).map_err(compute)?;
            rows.push(Row { status: evaluation.status, event_time: evaluation.event_time, values });
        }
        Ok(rows)
    }
}

/// An entity's values in the order of the query's groups.
fn group_columns(plan: &Plan, view: usize, entity: &[ScalarValue]) -> Vec<ScalarValue> {
    let declared = &plan.views[view].plan.entity;
    let mut columns = vec![ScalarValue::Null; entity.len()];
    for ((_, group), value) in declared.iter().zip(entity) {
        columns[*group] = value.clone();
    }
    columns
}

/// A view by name.
///
/// # Errors
/// [`LookupError::UnknownView`], with what there is.
pub fn find_view(plan: &Plan, name: &str) -> Result<usize, LookupError> {
    plan.view_index(name).ok_or_else(|| LookupError::UnknownView {
        name: name.to_string(),
        known: plan.views.iter().map(|v| v.plan.name.as_str()).collect::<Vec<_>>().join(", "),
    })
}

/// A view's features by name; all of them, in order, for `*` or none named.
///
/// # Errors
/// [`LookupError::UnknownFeature`], with what there is.
pub fn find_features(plan: &Plan, view: usize, names: Option<&[&str]>) -> Result<Vec<usize>, LookupError> {
    let plan = &plan.views[view].plan;
    let Some(names) = names else { return Ok((0..plan.features.len()).collect()) };
    let find = |name: &&str| {
        let found = plan.features.iter().position(|f| f.name == **name);
        found.ok_or_else(|| LookupError::UnknownFeature {
            view: plan.name.clone(),
            name: (*name).to_string(),
            known: plan.features.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    };
    names.iter().map(find).collect()
}

fn compute(error: impl std::fmt::Display) -> LookupError {
    LookupError::Compute(error.to_string())
}
