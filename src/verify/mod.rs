//! The consistency proof: pages, the updates log and a batch recomputation from the events must say the same.
//!
//! Neighbours: `recompute` is the batch side, with the modules named `oracle_*`.

mod oracle_functions;
mod oracle_numbers;
mod oracle_plan;
mod oracle_rows;
mod oracle_scalars;
#[cfg(test)]
mod oracle_tests;
pub mod recompute;
