//! Which epoch was visible when: the commits, and what *as served* means.
//!
//! Invariants: `epoch <= served(t)` exactly if `visible(epoch) <= t`, for every epoch that was committed; so "all of the
//! log that was visible at t" can be said either way. Neighbours: `state::commit` writes the commits; `online` resolves
//! stamps with this, `point_in_time` decides with it from when an update counts.

use crate::state::commit::ClockKind;
use crate::state::{StateError, Store};
use crate::time::{Ask, Epoch};

/// A commit, as far as visibility goes.
#[derive(Clone, Copy, Debug)]
struct Moment {
    last: u64,
    /// When the whole of it is visible.
    visible: i64,
    /// Each of its epochs is visible at its own time (a replay).
    own: bool,
}

/// Which epoch was visible when: all commits, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    commits: Vec<Moment>,
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
        let before = self.commits.len();
        for commit in store.commits_after(self.last().0) {
            let commit = commit?;
            let visible = self.commits.last().map_or(commit.visible, |m| m.visible.max(commit.visible));
            self.commits.push(Moment { last: commit.last, visible, own: commit.clock != ClockKind::Wall });
        }
        Ok(self.commits.len() > before)
    }

    /// The greatest epoch that was visible at an instant; zero before the first.
    pub fn served(&self, at: Ask) -> Epoch {
        // Visible instants rise with the commits; a replay's epochs are visible one by one.
        let n = self.commits.partition_point(|m| m.visible <= at.0);
        let whole = n.checked_sub(1).map_or(0, |n| self.commits[n].last);
        match self.commits.get(n) {
            Some(Moment { last, own: true, .. }) => {
                let own = u64::try_from(at.0).unwrap_or(0).min(*last);
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
        let n = self.commits.partition_point(|m| m.last < epoch.0);
        let moment = self.commits.get(n)?;
        if !moment.own {
            return Some(moment.visible);
        }
        let before = n.checked_sub(1).map_or(i64::MIN, |n| self.commits[n].visible);
        Some(epoch.micros().max(before))
    }

    /// From when an epoch that a stamp names was visible; `None` if no answer has named it: live, only the ends of commits
    /// are handed out, of a replay every epoch.
    pub fn stamped(&self, epoch: Epoch) -> Option<i64> {
        let n = self.commits.partition_point(|m| m.last < epoch.0);
        let named = epoch == Epoch::ZERO || self.commits.get(n).is_some_and(|m| m.own || m.last == epoch.0);
        if named { self.visible(epoch) } else { None }
    }

    /// The last commit's epoch.
    pub fn last(&self) -> Epoch {
        Epoch(self.commits.last().map_or(0, |m| m.last))
    }

    /// Number of commits.
    pub fn len(&self) -> usize {
        self.commits.len()
    }

    /// No commit yet?
    pub fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(commits: &[(u64, i64, bool)]) -> Timeline {
        Timeline { commits: commits.iter().map(|&(last, visible, own)| Moment { last, visible, own }).collect() }
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
