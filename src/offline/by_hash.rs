//! A view's updates in the order of their groups' hashes, from all segments and the tail at once. Segments hold updates,
//! or the events that they follow from.
//!
//! Every segment is sorted by hash, so one pass with a cursor in each brings all updates of a group together; in memory
//! are the tail's asked updates, a batch per segment, and one group.
//!
//! Invariants: every asked group's updates with epoch <= `until` come, each once. Neighbours: `segment` skips what was not
//! asked for; `point_in_time` and verification walk through groups with this.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use super::segment::{Asked, SegmentRows};
use super::{Offline, OfflineError};
use crate::event::up_to;
use crate::fold::entry::Updates;
use crate::time::Epoch;

/// One sorted run of updates.
struct Cursor {
    /// What comes after `parts`; `None`: nothing.
    reader: Option<SegmentRows>,
    /// What comes after `updates`.
    parts: VecDeque<Updates>,
    updates: Updates,
    at: usize,
}

impl Cursor {
    /// The hash it stands at; reads on where a batch has ended. `None` at the end.
    fn hash(&mut self, offline: &Offline, view: usize, until: Epoch) -> Result<Option<u64>, OfflineError> {
        while self.at == self.updates.len() {
            if let Some(part) = self.parts.pop_front() {
                (self.updates, self.at) = (part, 0);
                continue;
            }
            let Some(batch) = self.reader.as_mut().and_then(Iterator::next) else { return Ok(None) };
            self.parts = offline.updates_of(view, &up_to(&batch?, until)?)?.into();
        }
        Ok(Some(self.updates.hashes[self.at]))
    }
}

/// The walk.
pub struct ByHash<'a> {
    offline: &'a Offline,
    view: usize,
    until: Epoch,
    cursors: Vec<Cursor>,
    /// Where each cursor that is not at its end stands.
    next: BinaryHeap<Reverse<(u64, usize)>>,
}

impl<'a> ByHash<'a> {
    /// Over a view's updates with epoch <= `until`, of the asked groups at least.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn new(offline: &'a Offline, view: usize, asked: &Asked, until: Epoch) -> Result<ByHash<'a>, OfflineError> {
        let (catalogue, tail) = offline.log(offline.store.ids().log_of(view))?;
        let shape = &offline.plan.views[view].fold.shape;
        let mut gathered = Updates::of(offline.store.ids().view(view));
        offline.tail_updates(view, tail, until, &mut |updates| {
            for n in 0..updates.len() {
                let update = updates.get(n, shape);
                if asked.as_ref().is_none_or(|a| a.binary_search(&update.hash).is_ok()) {
                    gathered.push(&update, shape);
                }
            }
            Ok(())
        })?;
        let mut order: Vec<(u64, u32)> = gathered.hashes.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut updates = Updates::of(gathered.view);
        order.iter().for_each(|(_, n)| updates.push(&gathered.get(*n as usize, shape), shape));
        let mut cursors = vec![Cursor { reader: None, parts: VecDeque::new(), updates, at: 0 }];
        for entry in offline.updates_entries(&catalogue, view, until) {
            if let Some(reader) = offline.sealed_rows(view, entry, asked)? {
                let (parts, updates) = (VecDeque::new(), Updates::of(gathered.view));
                cursors.push(Cursor { reader: Some(reader), parts, updates, at: 0 });
            }
        }
        let next = BinaryHeap::with_capacity(cursors.len());
        let mut walk = ByHash { offline, view, until, cursors, next };
        (0..walk.cursors.len()).try_for_each(|n| walk.place(n))?;
        Ok(walk)
    }

    fn place(&mut self, cursor: usize) -> Result<(), OfflineError> {
        if let Some(hash) = self.cursors[cursor].hash(self.offline, self.view, self.until)? {
            self.next.push(Reverse((hash, cursor)));
        }
        Ok(())
    }

    /// The least hash not taken yet; `None` at the end.
    pub fn peek(&self) -> Option<u64> {
        self.next.peek().map(|Reverse((hash, _))| *hash)
    }

    /// Puts all updates of a hash into `into`, and passes by those of lesser hashes. Hashes are taken in rising order.
    ///
    /// # Errors
    /// A segment that cannot be read.
    pub fn take(&mut self, hash: u64, into: &mut Updates) -> Result<(), OfflineError> {
        *into = Updates::of(self.offline.store.ids().view(self.view));
        let fold = Arc::clone(&self.offline.plan.views[self.view].fold);
        while let Some(&Reverse((least, n))) = self.next.peek() {
            if least > hash {
                break;
            }
            self.next.pop();
            while let Some(at) = self.cursors[n].hash(self.offline, self.view, self.until)?.filter(|h| *h <= hash) {
                let cursor = &mut self.cursors[n];
                if at == hash {
                    into.push(&cursor.updates.get(cursor.at, &fold.shape), &fold.shape);
                }
                cursor.at += 1;
            }
            self.place(n)?;
        }
        Ok(())
    }
}
