//! The one evaluator: a group's updates, a commit and an instant give its features. Pure: no I/O, no clock.
//!
//! A [`Group`] takes updates as they become due and answers at an instant. Online state, the point-in-time join and
//! verification of the updates log all go through it, so they cannot disagree about what a query means.
//!
//! Invariants: an answer depends on the set of updates, not on the order in which they came; what was inserted can be
//! retracted without residue. Neighbours: `plan` says what to keep; `state::page` keeps groups by commit,
//! `offline::point_in_time` slides them over labels.

pub mod aggregate;
pub mod chunk;
pub mod columns;
pub mod decay;
pub mod entry;
pub mod evaluate;
pub mod group;
pub mod latest;
pub mod layout;
pub mod list;
pub mod multiset;
pub mod plan;
pub mod sketch;
pub mod tally;
pub mod total;

#[cfg(test)]
mod function_tests;
#[cfg(test)]
mod tests;

pub use entry::{Entry, Updates};
pub use evaluate::{Evaluation, Status, Wanted};
pub use group::{Fold, Group};
