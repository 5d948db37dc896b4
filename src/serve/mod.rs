//! The protocols: each a way to ask the same core, none with an answer of its own.
//!
//! Neighbours: `engine` starts the servers; `online` and `offline` answer.

pub mod flight;
#[cfg(test)]
mod flight_tests;
mod uploads;
