//! Which epoch was visible when: the commits, and what *as served* means.
//!
//! Invariants: `epoch <= served(t)` exactly if `visible(epoch) <= t`, for every epoch that was committed; so "all of the
//! log that was visible at t" can be said either way. Neighbours: `state::commit` writes the commits; `online` resolves
//! stamps with this, `point_in_time` decides with it from when an update counts.

use std::sync::Arc;

use crate::state::commit::ClockKind;
use crate::state::{StateError, Store};
use crate::time::{Ask, Epoch};

/// Commits in a block, and between two places in it where reading can begin.
const BLOCK: usize = 1024;
const STRIDE: usize = 64;

/// A commit, as far as visibility goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    last: u64,
    /// When the whole of it is visible: never before `last`.
    visible: i64,
    /// Each of its epochs is visible at its own time (a replay).
    own: bool,
}

/// A full block of commits, about five bytes each: how far each is from the one before, and its delay, as varints.
#[derive(Debug)]
struct Block {
    /// The last commit in it.
    end: Moment,
    /// Every [`STRIDE`]th commit, and where the one after it begins.
    index: Vec<(Moment, usize)>,
    bytes: Box<[u8]>,
}

impl Block {
    fn new(moments: &[Moment]) -> Block {
        let (mut index, mut bytes) = (vec![], vec![]);
        for (n, moment) in moments.iter().enumerate() {
            if n % STRIDE == 0 {
                index.push((*moment, bytes.len()));
                continue;
            }
            let step = moment.last - moments[n - 1].last;
            let delay = u64::try_from(moment.visible - moment.last.cast_signed());
            put(&mut bytes, step << 1 | u64::from(moment.own));
            put(&mut bytes, delay.expect("no commit is visible before its last epoch"));
        }
        let end = *moments.last().expect("a block is full");
        Block { end, index, bytes: bytes.into() }
    }

    /// The commits from the last indexed one on of which `before` holds, in order.
    fn from(&self, before: impl Fn(&Moment) -> bool) -> impl Iterator<Item = Moment> {
        let slot = self.index.partition_point(|(m, _)| before(m)).saturating_sub(1);
        let (first, mut at) = self.index[slot];
        let until = self.index.get(slot + 1).map_or(self.bytes.len(), |(_, at)| *at);
        let next = self.index.get(slot + 1).map(|(m, _)| *m);
        let mut last = first.last;
        let rest = std::iter::from_fn(move || {
            if at == until {
                return None;
            }
            let (step, delay) = (get(&self.bytes, &mut at), get(&self.bytes, &mut at));
            last += step >> 1;
            let visible = (last + delay).cast_signed();
            Some(Moment { last, visible, own: step & 1 == 1 })
        });
        std::iter::once(first).chain(rest).chain(next)
    }
}

/// Seven bits a byte, the least first; a byte with the eighth is not the last.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    let low = |value: u64| u8::try_from(value & 0x7f).expect("seven bits");
    while value > 0x7f {
        bytes.push(low(value) | 0x80);
        value >>= 7;
    }
    bytes.push(low(value));
}

fn get(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

/// Which epoch was visible when: all commits, oldest first. A copy shares all but the newest.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    blocks: Vec<Arc<Block>>,
    /// The newest, fewer than a block.
    newest: Vec<Moment>,
}

impl Timeline {
    /// Reads the commits.
    ///
    /// # Errors
    /// A damaged commit.
    pub fn read(store: &Store) -> Result<Timeline, StateError> {
        let mut timeline = Timeline::default();
        timeline.extend(store)?;
        Ok(timeline)
    }

    /// Reads the commits since; says whether there were any.
    ///
    /// # Errors
    /// A damaged commit.
    pub fn extend(&mut self, store: &Store) -> Result<bool, StateError> {
        let before = self.len();
        for commit in store.commits_after(self.last().0) {
            let commit = commit?;
            let visible = self.end().map_or(commit.visible, |m| m.visible.max(commit.visible));
            self.push(Moment { last: commit.last, visible, own: commit.clock != ClockKind::Wall });
        }
        Ok(self.len() > before)
    }

    fn push(&mut self, moment: Moment) {
        self.newest.push(moment);
        if self.newest.len() == BLOCK {
            self.blocks.push(Arc::new(Block::new(&self.newest)));
            self.newest.clear();
        }
    }

    fn end(&self) -> Option<Moment> {
        self.newest.last().copied().or_else(|| self.blocks.last().map(|b| b.end))
    }

    /// The last commit of which `before` holds, and the first of which it does not; it holds of all before some commit.
    fn around(&self, before: impl Fn(&Moment) -> bool) -> (Option<Moment>, Option<Moment>) {
        let n = self.blocks.partition_point(|b| before(&b.end));
        let ended = n.checked_sub(1).map(|n| self.blocks[n].end);
        if let Some(block) = self.blocks.get(n) {
            let mut found = (ended, None);
            for moment in block.from(&before) {
                if !before(&moment) {
                    found.1 = Some(moment);
                    break;
                }
                found.0 = Some(moment);
            }
            return found;
        }
        let n = self.newest.partition_point(before);
        (n.checked_sub(1).map(|n| self.newest[n]).or(ended), self.newest.get(n).copied())
    }

    /// The greatest epoch that was visible at an instant; zero before the first.
    pub fn served(&self, at: Ask) -> Epoch {
        // Visible instants rise with the commits; a replay's epochs are visible one by one.
        let (whole, next) = self.around(|m| m.visible <= at.0);
        let whole = whole.map_or(0, |m| m.last);
        match next {
            Some(Moment { last, own: true, .. }) => {
                let own = u64::try_from(at.0).unwrap_or(0).min(last);
                Epoch(own.max(whole))
            }
            Some(_) | None => Epoch(whole),
        }
    }

    /// From when an epoch was visible; `None` if it is above the last commit.
    pub fn visible(&self, epoch: Epoch) -> Option<i64> {
        if epoch == Epoch::ZERO {
            return Some(0);
        }
        let (before, moment) = self.around(|m| m.last < epoch.0);
        let moment = moment?;
        if !moment.own {
            return Some(moment.visible);
        }
        Some(epoch.micros().max(before.map_or(i64::MIN, |m| m.visible)))
    }

    /// From when an epoch that a stamp names was visible; `None` if no answer has named it: live, only the ends of commits
    /// are handed out, of a replay every epoch.
    pub fn stamped(&self, epoch: Epoch) -> Option<i64> {
        let (_, moment) = self.around(|m| m.last < epoch.0);
        let named = epoch == Epoch::ZERO || moment.is_some_and(|m| m.own || m.last == epoch.0);
        if named { self.visible(epoch) } else { None }
    }

    /// The last commit's epoch.
    pub fn last(&self) -> Epoch {
        Epoch(self.end().map_or(0, |m| m.last))
    }

    /// Number of commits.
    pub fn len(&self) -> usize {
        self.blocks.len() * BLOCK + self.newest.len()
    }

    /// No commit yet?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn timeline(commits: &[(u64, i64, bool)]) -> Timeline {
        let mut timeline = Timeline::default();
        commits.iter().for_each(|&(last, visible, own)| timeline.push(Moment { last, visible, own }));
        timeline
    }

    #[test]
    fn what_is_served_is_what_is_visible() {
        // A replay of two commits, then two live ones; then one whose instants do not rise.
        let epochs = [1, 5, 10, 11, 20, 100, 130, 210, 220];
        let check = |commits: &[(u64, i64, bool)]| {
            let timeline = timeline(commits);
            for at in -5..300 {
                let served = timeline.served(Ask(at));
                for epoch in epochs.into_iter().filter(|e| *e <= timeline.last().0) {
                    let visible = timeline.visible(Epoch(epoch)).expect("it is committed");
                    assert_eq!(epoch <= served.0, visible <= at, "{commits:?}: epoch {epoch} at {at}");
                }
            }
        };
        check(&[]);
        check(&[(10, 10, true), (20, 20, true), (100, 110, false), (210, 250, false)]);
        check(&[(1, 1, true), (220, 220, true)]);
        check(&[(5, 50, false), (20, 50, true), (130, 130, true), (220, 240, false)]);
    }

    /// Block by block it answers as commit by commit, and a commit made live takes few bytes.
    #[test]
    fn blocks_answer_as_single_commits_do() {
        let mut rng = StdRng::seed_from_u64(7);
        let (mut last, mut visible) = (0u64, 0i64);
        let mut moments = vec![];
        for n in 0..5 * BLOCK + 17 {
            // A replay first, then live, with a gap of days now and then.
            let own = n < 2 * BLOCK + 5;
            last += rng.random_range(1..4_000) + if rng.random_bool(0.01) { 1 << 40 } else { 0 };
            let delay = if own { 0 } else { rng.random_range(0..3_000) };
            visible = (visible + 1).max(last.cast_signed() + delay);
            last = if own { visible.cast_unsigned() } else { last };
            moments.push(Moment { last, visible, own });
        }
        let mut timeline = Timeline::default();
        moments.iter().for_each(|m| timeline.push(*m));
        assert_eq!((timeline.len(), timeline.last()), (moments.len(), Epoch(last)));
        let asked = moments.iter().flat_map(|m| [m.visible - 1, m.visible, m.visible + 1, m.last.cast_signed()]);
        for at in asked.chain([0, -1, i64::MAX]) {
            let n = moments.partition_point(|m| m.visible <= at);
            let want = (n.checked_sub(1).map(|n| moments[n]), moments.get(n).copied());
            assert_eq!(timeline.around(|m| m.visible <= at), want, "visible at {at}");
            let n = moments.partition_point(|m| m.last.cast_signed() < at);
            let want = (n.checked_sub(1).map(|n| moments[n]), moments.get(n).copied());
            assert_eq!(timeline.around(|m| m.last.cast_signed() < at), want, "below {at}");
        }
        let bytes: usize = timeline.blocks[2..].iter().map(|b| b.bytes.len() + b.index.len() * 40).sum();
        let commits = (timeline.blocks.len() - 2) * BLOCK;
        assert!(bytes < 6 * commits, "{bytes} bytes for {commits} commits");
    }

    #[test]
    fn instants_between_commits_belong_to_the_earlier() {
        let t = timeline(&[(10, 10, true), (20, 20, true), (100, 110, false), (210, 250, false)]);
        let check = |at: i64, want: u64| assert_eq!(t.served(Ask(at)), Epoch(want), "{at}");
        check(-1, 0);
        check(0, 0);
        check(7, 7);
        check(10, 10);
        check(15, 15);
        check(20, 20);
        check(109, 20);
        check(110, 100);
        check(249, 100);
        check(250, 210);
        check(i64::MAX, 210);
        assert_eq!(t.visible(Epoch(0)), Some(0));
        assert_eq!(t.visible(Epoch(15)), Some(15));
        assert_eq!(t.visible(Epoch(21)), Some(110));
        assert_eq!(t.visible(Epoch(211)), None);
        let named = |epoch: u64| t.stamped(Epoch(epoch));
        assert_eq!([0, 7, 10, 20].map(named), [Some(0), Some(7), Some(10), Some(20)]);
        assert_eq!([100, 210].map(named), [Some(110), Some(250)]);
        assert_eq!([21, 99, 101, 209, 211].map(named), [None; 5]);
    }
}
