//! The library behind the program: its stages, in the order in which an event passes them.
//!
//! Invariant: a module imports only from those declared above it. What follows is `ARCHITECTURE.md`.
//!
#![doc = include_str!("ARCHITECTURE.md")]

// The order of these declarations is the architecture: a module imports only from those above it.

// Shared words.
pub mod time;
pub mod offset;
pub mod id;
pub mod diagnostic;
pub mod exact_sum;
pub mod telemetry;

// The pipeline: each stage knows those before it.
pub mod definition;
pub mod event;
pub mod fold;
pub mod plan;
pub mod source;
pub mod key;
pub mod state;
pub mod dataflow;
pub mod offline;
pub mod reader;
pub mod online;

// Around the pipeline: reads it, is not read by it.
pub mod verify;

// Edges: the outside world.
pub mod serve;
pub mod config;
pub mod monitor;
pub mod engine;
pub mod housekeeping;
pub mod cli;
