//! The engine from outside: real data, random histories, broken stores, wrong command lines, killed nodes.
//!
//! One binary, because linking is what a test binary costs. `support` is the only module that touches the engine's API;
//! the others say what should hold. Neighbours: the library and the built program.

mod cli;
mod hostile;
mod kafka;
mod oracle;
mod real;
mod support;
mod tables;
mod tamper;
