//! Redo: the log since a view's last write-back, applied to its pages that lack it.
//!
//! How a view's updates follow from its stream's events is the caller's word: `state` knows no expressions.
//!
//! Invariants: a page takes only updates above the epoch it contains, so redo may repeat anything. Neighbours:
//! `cache` moves the redo points, `offline` projects events, `engine` calls this before it serves.

use std::fmt::Display;

use arrow::array::RecordBatch;

use super::cache::Cache;
use super::commit::LogKind;
use super::{StateError, Store};
use crate::fold::columns::from_batch;
use crate::fold::entry::Updates;
use crate::plan::Plan;

/// Applies the log's tail behind each view's redo point to its pages: of all views, or of one. `project`: the updates of a view
/// (its index in the plan) that follow from a batch of its stream's events.
///
/// # Errors
/// A log record that cannot be read or does not fit the plan.
pub fn redo<E: Display>(
    store: &Store,
    plan: &Plan,
    cache: &Cache,
    only: Option<usize>,
    project: impl Fn(usize, &RecordBatch) -> Result<Vec<Updates>, E>,
) -> Result<u64, StateError> {
    let until = cache.published().epoch;
    let mut applied = 0;
    for (view, planned) in plan.views.iter().enumerate().filter(|(n, _)| only.is_none_or(|o| o == *n)) {
        let misfit =
            |why: String| StateError::Damaged { what: format!("the log of view `{}`", planned.plan.name), why };
        let (id, log) = (store.ids().view(view), store.ids().log_of(view));
        let from = store.redo_point(id)?;
        let mut complete = Complete::after(from);
        for record in store.tail(log, from, until)? {
            let record = record?;
            let complete = complete.before(record.last);
            for batch in record.batches {
                let updates = match log {
                    LogKind::Events(_) => project(view, &batch).map_err(|e| misfit(e.to_string()))?,
                    LogKind::Updates(_) => {
                        vec![from_batch(id, &batch, &planned.fold.plan).map_err(|e| misfit(e.to_string()))?]
                    }
                };
                for updates in updates {
                    applied += updates.len() as u64;
                    cache.redo(&updates, complete)?;
                }
            }
        }
    }
    Ok(applied)
}

/// Up to where a view's updates have all been applied: the end of the commit before the one that is being read. Pages
/// merge up to there on the way, so that memory holds no more of the tail than a running node does.
struct Complete {
    before: u64,
    reading: u64,
}

impl Complete {
    fn after(redo_point: u64) -> Complete {
        Complete { before: redo_point, reading: redo_point }
    }

    fn before(&mut self, last: u64) -> u64 {
        if last != self.reading {
            (self.before, self.reading) = (self.reading, last);
        }
        self.before
    }
}
