//! `decayed_sum` and `decayed_count`: rows weigh half as much each half-life after their event.
//!
//! A row's term is worked out anew at each ask, x · 2^(−age / half-life), in doubles; terms are added exactly, and the sum is rounded
//! once: the order of the rows does not show. From [`LIVES`] half-lives on a row weighs nothing, so rows are kept no longer.
//!
//! Invariants: a term follows from the row and the ask alone. Neighbours: `evaluate` walks over the rows; `plan::aggregate` bounds
//! their window.

use super::aggregate::Acc;
use super::entry::Entry;
use super::group::Fold;
use super::multiset::as_double;
use super::plan::Aggregate;
use crate::exact_sum::ExactSum;

/// Half-lives after which a row is nothing.
pub const LIVES: i64 = 64;

/// What is left of a row of this age.
fn weight(age: i64, half_life: i64) -> f64 {
    (-(age as f64 / half_life as f64)).exp2()
}

/// The decayed sum or count of these rows at an instant.
pub(super) fn decayed<'a>(
    entries: impl Iterator<Item = Entry<'a>>,
    (now, half_life): (i64, i64),
    aggregate: &Aggregate,
    fold: &Fold,
) -> Acc {
    let (plan, shape) = (&fold.plan, &fold.shape);
    let (mut sum, mut n) = (ExactSum::default(), 0);
    for entry in entries {
        let age = now.saturating_sub(entry.event_time());
        let filtered = aggregate.filter.is_some_and(|f| !entry.bit(plan.values.len() + f));
        if filtered || age >= half_life.saturating_mul(LIVES) || aggregate.value.is_some_and(|v| entry.is_null(v)) {
            continue;
        }
        let x = aggregate.value.map_or(1.0, |value| as_double(&entry, value, plan, shape));
        let times = i64::from(entry.multiplicity());
        sum.add(x * weight(age, half_life), times);
        n += times;
    }
    Acc::Float { sum, n }
}
