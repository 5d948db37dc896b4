//! The online read path, without protocol: features of entities under one stamp.
//!
//! Every view and entity of a request is answered at one epoch and one instant. A live request takes the published pair,
//! the last epoch and the instant up to which that is settled; a request that gives its stamp back gets the same answer,
//! from pages or, past those, the log.
//!
//! Invariants: `visible(E) <= as_of < visible(next commit)` for live answers; nothing above `E` is counted; no epoch is
//! held while the log is scanned, and a request scans it once for each view.
//! Neighbours: `state::cache` holds the pages, `offline` answers what they no longer hold; `serve` and `cli` call this.

use std::sync::Arc;
use std::time::Duration;

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
    /// More may still become visible up to that instant.
    #[error(
        "what is served at {as_of} is not settled yet; it is up to {through}: ask again a moment later, or say how long to wait"
    )]
    Unsettled {
        /// What was asked for.
        as_of: Ask,
        /// Up to where it is.
        through: Ask,
        /// The last commit.
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

    /// Answers a request under one stamp. It may block, to read the log or to let another reader go on: in a runtime's
    /// threads [`Online::try_lookup`] is for the present.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn lookup(&self, requests: &[ViewRequest], stamp: StampRequest) -> Result<Answer, LookupError> {
        for _ in 0..PATIENCE {
            match self.read_pages(requests, stamp, true)? {
                Tried::Pages(read) => return self.complete(requests, read),
                Tried::HeldBack => std::thread::sleep(PAUSE),
            }
        }
        match self.read_pages(requests, stamp, false)? {
            Tried::Pages(read) => self.complete(requests, read),
            Tried::HeldBack => unreachable!("whoever is not patient is answered from a copy"),
        }
    }

    /// Answers a request about the present from the pages, without waiting for anything. `None`: another reader is in the
    /// way, or a page knows a later present only; ask again in a moment, a few times, then [`Online::lookup`] on a thread
    /// that may block.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn try_lookup(&self, requests: &[ViewRequest]) -> Result<Option<Answer>, LookupError> {
        match self.read_pages(requests, StampRequest::default(), true)? {
            Tried::Pages(read) if read.is_whole() => self.complete(requests, read).map(Some),
            Tried::Pages(_) | Tried::HeldBack => Ok(None),
        }
    }

    /// What the pages know of a request, under a hold that ends with this.
    fn read_pages(&self, requests: &[ViewRequest], stamp: StampRequest, patient: bool) -> Result<Tried, LookupError> {
        let (published, _hold) = self.cache.hold_published();
        let (epoch, as_of) = self.stamp(stamp, &published)?;
        // A page that has been asked about the future may not know the present any more.
        let ahead = as_of.0 > published.through;
        let mut views = Vec::with_capacity(requests.len());
        for request in requests {
            let ((codec, outputs), fold) = (&self.views[request.view], &self.plan.views[request.view].fold);
            let asked = outputs.asked(&request.features);
            let mut rows = Vec::with_capacity(request.entities.len());
            for entity in &request.entities {
                let group = codec.group(entity).map_err(compute)?;
                let Some(group) = group else {
                    rows.push(Found::Answer(Evaluation::of_nothing(fold)));
                    continue;
                };
                let read = match (ahead, patient) {
                    (true, _) => Some(Read::NeedsLog),
                    (false, true) => self.cache.try_read(request.view, &group, epoch.0, as_of.0, &asked)?,
                    (false, false) => Some(self.cache.read_some(request.view, &group, epoch.0, as_of.0, &asked)?),
                };
                rows.push(match read {
                    Some(Read::Answer(answer)) => Found::Answer(answer),
                    Some(Read::Nothing) => Found::Answer(Evaluation::of_nothing(fold)),
                    Some(Read::NeedsLog) => Found::InLog(group),
                    None => return Ok(Tried::HeldBack),
                });
            }
            views.push(rows);
        }
        Ok(Tried::Pages(FromPages { epoch, as_of, views }))
    }

    /// Adds what only the log knows, one scan per view, and evaluates the expressions above the aggregates.
    fn complete(&self, requests: &[ViewRequest], read: FromPages) -> Result<Answer, LookupError> {
        let FromPages { epoch, as_of, views } = read;
        let mut rows = Vec::with_capacity(views.len());
        for (request, found) in requests.iter().zip(views) {
            let groups: Vec<&[u8]> = found.iter().filter_map(Found::group).collect();
            let outputs = &self.views[request.view].1;
            let asked = outputs.asked(&request.features);
            let mut logged = self.offline.evaluate_groups(request.view, &groups, epoch, as_of, &asked)?.into_iter();
            let mut answers = Vec::with_capacity(found.len());
            for (entity, found) in request.entities.iter().zip(found) {
                let evaluation = match found {
                    Found::Answer(answer) => answer,
                    Found::InLog(_) => logged.next().expect("every group that was asked for is answered"),
                };
                let columns = group_columns(&self.plan, request.view, entity);
                let evaluation = outputs.judge(&columns, evaluation, as_of.0).map_err(compute)?;
                let values = outputs.one(&request.features, &columns, &evaluation.values, as_of.0).map_err(compute)?;
                answers.push(Row { status: evaluation.status, event_time: evaluation.event_time, values });
            }
            rows.push(answers);
        }
        Ok(Answer { epoch, as_of, rows })
    }

    /// The stamp that a request asks for, given what is published.
    ///
    /// # Errors
    /// [`LookupError::Future`], [`LookupError::Unsettled`], [`LookupError::NotYet`] or [`LookupError::Gone`]: there is
    /// none, or not yet.
    pub fn stamp(&self, stamp: StampRequest, published: &Published) -> Result<(Epoch, Ask), LookupError> {
        let (last, through) = (Epoch(published.epoch), Ask(published.through));
        match (stamp.epoch, stamp.as_of) {
            (None, None) => Ok((last, through)),
            (Some(epoch), _) if epoch > last => Err(LookupError::NotYet { epoch, last }),
            (Some(epoch), as_of) => {
                let visible = self.timeline()?.stamped(epoch);
                let visible = visible.ok_or(LookupError::Gone { epoch, last })?;
                Ok((epoch, as_of.unwrap_or(Ask(visible))))
            }
            (None, Some(as_of)) if as_of > through => {
                // What will be served then, nobody knows yet. A node may be ahead of a clock that was set back.
                let now = Ask(self.clock.now().max(through.0));
                if as_of > now {
                    return Err(LookupError::Future { as_of, now });
                }
                Err(LookupError::Unsettled { as_of, through, last })
            }
            (None, Some(as_of)) if as_of.0 >= published.visible => Ok((last, as_of)),
            (None, Some(as_of)) => Ok((self.timeline()?.served(as_of), as_of)),
        }
    }

    fn timeline(&self) -> Result<Arc<Timeline>, LookupError> {
        Ok(self.offline.timeline()?)
    }
}

/// How often a reader asks again for what another reader holds back, before it copies, and the time between.
const PATIENCE: u32 = 40;
const PAUSE: Duration = Duration::from_micros(50);

/// What came of asking the pages.
enum Tried {
    /// All that they know.
    Pages(FromPages),
    /// A large group is behind what this request asks for, because another reader holds it there.
    HeldBack,
}

/// What pages know of a request.
struct FromPages {
    epoch: Epoch,
    as_of: Ask,
    /// By view request, by entity.
    views: Vec<Vec<Found>>,
}

impl FromPages {
    /// Is nothing left for the log?
    fn is_whole(&self) -> bool {
        self.views.iter().flatten().all(|found| found.group().is_none())
    }
}

/// One entity's answer, or that it must be looked up.
enum Found {
    Answer(Evaluation),
    /// The group, whose page cannot answer.
    InLog(Vec<u8>),
}

impl Found {
    fn group(&self) -> Option<&[u8]> {
        match self {
            Found::Answer(_) => None,
            Found::InLog(group) => Some(group),
        }
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
