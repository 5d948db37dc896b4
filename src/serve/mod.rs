//! The outside: requests in their protocols, answered by the one read path.
//!
//! Invariants: every protocol gives one answer: requests become [`request::Request`], answers become JSON, in one place.
//! Neighbours: `online` answers, `telemetry` counts; `engine` starts the endpoints and `cli get` prints what they serve.

pub mod http;
pub mod json;
pub mod problem;
pub mod request;

#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod testing;
