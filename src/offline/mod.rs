//! The offline log: all events and all updates, segments and tail together, and the answers they give.
//!
//! A view over a stream alone does not log its updates: they are a projection of the events, made again here.
//!
//! Invariants: what is read as of an epoch is exactly the log up to it, however much of it has been sealed meanwhile.
//! Neighbours: `segment` holds the sealed part, `state::log` the tail; `point_in_time` joins labels with updates.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;

use crate::dataflow::project::Projector;
use crate::fold::columns::from_batch;
use crate::fold::entry::Updates;
use crate::fold::{Evaluation, Group};
use crate::plan::Plan;
use crate::state::commit::{ClockKind, LogKind};
use crate::state::{StateError, Store};
use crate::time::{Ask, Epoch};

/// Why the log has no answer.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// What was read does not fit the plan.
    #[error("the log could not be read: {0}")]
    Arrow(#[from] ArrowError),
    /// An expression could not be evaluated at all.
    #[error("the log could not be evaluated: {0}")]
    Compute(#[from] datafusion::common::DataFusionError),
}

/// Which epoch was visible when: all commits, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// (last epoch, visible instant, whether each of its epochs is visible at its own time).
    commits: Vec<(u64, i64, bool)>,
}

impl Timeline {
    /// Reads the commits.
    ///
    /// # Errors
    /// A damaged commit.
    pub fn read(store: &Store) -> Result<Timeline, StateError> {
        let commits = store.commits().map(|c| c.map(|c| (c.last, c.visible, c.clock != ClockKind::Wall)));
        Ok(Timeline { commits: commits.collect::<Result<_, _>>()? })
    }

    /// The greatest epoch that was visible at an instant; zero before the first.
    pub fn served(&self, at: Ask) -> Epoch {
        // Visible instants rise with the commits; a replay's epochs are visible one by one.
        let n = self.commits.partition_point(|(_, visible, _)| *visible <= at.0);
        let whole = n.checked_sub(1).map_or(0, |n| self.commits[n].0);
        match self.commits.get(n) {
            Some((last, _, true)) => {
                let own = u64::try_from(at.0).unwrap_or(0).min(*last);
                Epoch(own.max(whole))
            }
            _ => Epoch(whole),
        }
    }

    /// From when an epoch was visible; `None` if it is above the last commit or was never one.
    pub fn visible(&self, epoch: Epoch) -> Option<i64> {
        if epoch == Epoch::ZERO {
            return Some(0);
        }
        let n = self.commits.partition_point(|(last, _, _)| *last < epoch.0);
        let (_, visible, own) = self.commits.get(n)?;
        Some(if *own { epoch.micros() } else { *visible })
    }

    /// The last commit's epoch.
    pub fn last(&self) -> Epoch {
        Epoch(self.commits.last().map_or(0, |c| c.0))
    }

    /// Number of commits.
    pub fn len(&self) -> usize {
        self.commits.len()
    }

    /// No commit yet?
    pub fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }
}

/// The log of one store.
pub struct Offline {
    plan: Arc<Plan>,
    store: Arc<Store>,
    projectors: Vec<Projector>,
}

impl Offline {
    /// Over a store, beside whoever writes it.
    ///
    /// # Errors
    /// Types without a row format.
    pub fn new(plan: Arc<Plan>, store: Arc<Store>) -> Result<Offline, OfflineError> {
        let projectors = plan.views.iter().enumerate().map(|(n, v)| Projector::new(n, v));
        let projectors = projectors.collect::<Result<_, _>>()?;
        Ok(Offline { plan, store, projectors })
    }

    /// The commits.
    ///
    /// # Errors
    /// A damaged commit.
    pub fn timeline(&self) -> Result<Arc<Timeline>, OfflineError> {
        Ok(Arc::new(Timeline::read(&self.store)?))
    }

    /// Moves the log up to an epoch into segments.
    ///
    /// # Errors
    /// The store's or the file system's.
    pub fn seal(&self, _until: Epoch) -> Result<(), OfflineError> {
        Ok(())
    }

    /// Compares every segment with its digest in the catalogue.
    ///
    /// # Errors
    /// A segment that cannot be read.
    pub fn check_segments(&self) -> Result<u64, OfflineError> {
        Ok(0)
    }

    /// A source's events with epoch <= `until`, batch by batch, oldest first.
    ///
    /// # Errors
    /// The first record that cannot be read, or what `take` says.
    pub fn events(
        &self,
        source: usize,
        until: Epoch,
        take: &mut dyn FnMut(RecordBatch) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        for record in self.store.tail(LogKind::Events(source), self.store.sealed()?, u64::MAX) {
            for batch in record?.batches {
                let batch = up_to(batch, until)?;
                if batch.num_rows() > 0 {
                    take(batch)?;
                }
            }
        }
        Ok(())
    }

    /// A view's updates with epoch <= `until`; `group`: only that group's (others may come along).
    ///
    /// # Errors
    /// The first record that cannot be read, or what `take` says.
    pub fn updates(
        &self,
        view: usize,
        _group: Option<&[u8]>,
        until: Epoch,
        take: &mut dyn FnMut(Updates) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        let planned = &self.plan.views[view];
        if planned.plan.joins.is_empty() {
            let source = self.plan.source_index(&planned.plan.stream.name).unwrap_or(usize::MAX);
            return self.events(source, until, &mut |batch| {
                let projected = self.projectors[view].project_events(&batch, 1)?;
                projected.updates.into_iter().try_for_each(&mut *take)
            });
        }
        for record in self.store.tail(LogKind::Updates(view), self.store.sealed()?, u64::MAX) {
            for batch in record?.batches {
                let batch = up_to(batch, until)?;
                if batch.num_rows() > 0 {
                    take(Updates { view, ..from_batch(&batch, &planned.fold.plan)? })?;
                }
            }
        }
        Ok(())
    }

    /// One group at a stamp, from the log alone.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn evaluate(&self, view: usize, group: &[u8], epoch: Epoch, as_of: Ask) -> Result<Evaluation, OfflineError> {
        let fold = &self.plan.views[view].fold;
        let mut state = Group::new(fold);
        let mut any = false;
        self.updates(view, Some(group), epoch, &mut |updates| {
            for n in 0..updates.len() {
                let update = updates.get(n, &fold.shape);
                if update.group == group {
                    any = true;
                    state.apply(&update, as_of.0, fold);
                }
            }
            Ok(())
        })?;
        if !any {
            return Ok(Evaluation::of_nothing(fold));
        }
        state.advance(as_of.0, fold);
        Ok(state.evaluate(as_of.0, fold))
    }
}

/// The rows of a log batch with epoch <= `until`.
fn up_to(batch: RecordBatch, until: Epoch) -> Result<RecordBatch, ArrowError> {
    let column = batch.column(batch.schema().index_of("_epoch")?);
    let epochs = column.as_primitive::<TimestampMicrosecondType>();
    if epochs.values().iter().all(|e| *e <= until.micros()) {
        return Ok(batch);
    }
    filter_record_batch(&batch, &BooleanArray::from_iter(epochs.values().iter().map(|e| Some(*e <= until.micros()))))
}
