//! The engine from outside: real data, random histories, broken stores, wrong command lines, killed nodes, the demo.
//!
//! One binary, because linking is what a test binary costs. `support` is the only module that touches the engine's API;
//! the others say what should hold. Neighbours: the library and the built program.

mod cli;
mod damage;
mod demo;
mod docs;
mod hostile;
mod housekeeping;
mod joins;
mod kafka;
mod oracle;
mod proof;
mod real;
mod sql;
mod support;
mod tables;
mod tamper;
mod time;
