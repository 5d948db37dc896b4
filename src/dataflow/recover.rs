//! Redo: the log since the last write-back, applied to the pages that lack it.
//!
//! Invariants: a page takes only updates above the epoch it contains, so redo may repeat anything. Neighbours:
//! `state::cache` moves the redo point, `engine` calls this before it serves.

use crate::dataflow::project::Projector;
use crate::fold::columns::from_batch;
use crate::fold::entry::Updates;
use crate::plan::Plan;
use crate::state::cache::Cache;
use crate::state::commit::LogKind;
use crate::state::{StateError, Store};

/// Applies the log's tail behind the redo point to the pages of all views, or of one.
///
/// # Errors
/// A log record that cannot be read or does not fit the plan.
pub fn redo(store: &Store, plan: &Plan, cache: &Cache, only: Option<usize>) -> Result<u64, StateError> {
    let (from, until) = (store.redo_point()?, cache.published().epoch);
    let mut applied = 0;
    for (view, planned) in plan.views.iter().enumerate().filter(|(n, _)| only.is_none_or(|o| o == *n)) {
        let misfit =
            |why: String| StateError::Damaged { what: format!("the log of view `{}`", planned.plan.name), why };
        if planned.plan.joins.is_empty() {
            let projector = Projector::new(view, planned).map_err(|e| misfit(e.to_string()))?;
            let Some(source) = plan.source_index(&planned.plan.stream.name) else { continue };
            for record in store.tail(LogKind::Events(source), from, until) {
                for batch in record?.batches {
                    let projected = projector.project_events(&batch, 1).map_err(|e| misfit(e.to_string()))?;
                    for updates in projected.updates {
                        applied += updates.len() as u64;
                        cache.redo(&updates)?;
                    }
                }
            }
            continue;
        }
        for record in store.tail(LogKind::Updates(view), from, until) {
            for batch in record?.batches {
                let updates = from_batch(&batch, &planned.fold.plan).map_err(|e| misfit(e.to_string()))?;
                applied += updates.len() as u64;
                cache.redo(&Updates { view, ..updates })?;
            }
        }
    }
    Ok(applied)
}
