//! The refused records as they were committed, commit by commit.
//!
//! Invariant: what a commit says it refused is what comes, in its order; less, more or other is damage, and the end.
//! Neighbours: `commit` writes them, with their number and digest; `check` and the commands read.

use std::collections::VecDeque;

use rocksdb::{DBIterator, IteratorMode};
use xxhash_rust::xxh3::Xxh3;

use super::commit::{decode, key_number, read_commit};
use super::{StateError, Store, View};
use crate::source::Rejected;
use crate::time::Epoch;

impl Store {
    /// Refused records, oldest first: those that the commits say, all of them.
    pub fn quarantine(&self) -> Quarantine<'_> {
        let view = View::new(self);
        let commits = view.rows("commits", IteratorMode::Start);
        let rows = view.rows("quarantine", IteratorMode::Start);
        Quarantine { commits, rows, found: VecDeque::new(), ended: false, _view: view }
    }
}

/// The refused records of a store, each commit's compared with its record.
pub struct Quarantine<'a> {
    commits: DBIterator<'a>,
    rows: DBIterator<'a>,
    found: VecDeque<Rejected>,
    ended: bool,
    /// Dropped last.
    _view: View<'a>,
}

impl Quarantine<'_> {
    /// The refused records of the next commit that has any; none at the end.
    fn next_commit(&mut self) -> Result<VecDeque<Rejected>, StateError> {
        for commit in self.commits.by_ref() {
            let commit = read_commit(commit)?;
            let damaged = |why: &str| StateError::Damaged {
                what: format!("the quarantine of the commit up to {}", Epoch(commit.last)),
                why: why.into(),
            };
            let (mut hasher, mut found) = (Xxh3::new(), VecDeque::new());
            for number in 0..commit.rejected {
                let (key, row) = self.rows.next().ok_or_else(|| damaged("a refused record is missing"))??;
                let place = [commit.last.to_be_bytes().as_slice(), &key_number(number)].concat();
                if *key != *place {
                    return Err(damaged("a refused record is missing, or one too many is there"));
                }
                hasher.update(&row);
                found.push_back(decode(&row, "a quarantine record")?);
            }
            if hasher.digest() != commit.rejected_digest {
                return Err(damaged("its digest is not its commit's"));
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        match self.rows.next() {
            None => Ok(VecDeque::new()),
            Some(_) => {
                Err(StateError::Damaged { what: "the quarantine".into(), why: "no commit knows a record".into() })
            }
        }
    }
}

impl Iterator for Quarantine<'_> {
    type Item = Result<Rejected, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.found.is_empty() && !self.ended {
            match self.next_commit() {
                Ok(found) => self.found = found,
                Err(e) => {
                    self.ended = true;
                    return Some(Err(e));
                }
            }
            self.ended = self.found.is_empty();
        }
        self.found.pop_front().map(Ok)
    }
}
