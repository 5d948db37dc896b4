//! What a command prints as its result, on standard output.
//!
//! Invariants: that nobody reads on changes nothing of what a command does, nor its exit code; a result that cannot be
//! written for any other reason is an error. Neighbours: all commands print with this; what is not a
//! result goes to standard error through `diagnostic::note`.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use anyhow::Context;

/// A line of result.
///
/// # Errors
/// It cannot be written, although somebody reads: the disk is full.
pub(super) fn say(line: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        // Whoever closed the pipe has read what they wanted; what is left to do, and its outcome, stand.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
