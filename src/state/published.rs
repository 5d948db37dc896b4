//! What readers may see: the last commit, and the instant up to which nothing else will ever have been visible.
//!
//! A node publishes pairs `(E, through)`. A live answer takes the pair in one step: it is `E`'s, at `through`. The
//! committer alone publishes; it decides at which instant a commit becomes visible, always above `through`, and lets
//! `through` follow the clock only while no commit is being written. So no answer that was given can be overtaken.
//!
//! Invariants: epoch and `through` never fall; `visible` is the first `through` that was published with its epoch, so
//! `visible(E) <= through < visible(next)`. A reader that holds an epoch was registered before anything later was
//! published. Neighbours: `dataflow::commit` publishes, `cache` merges no further than [`Board::limit`], `online` and
//! `offline::history` answer up to `through`.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rocksdb::WriteBatch;
use tokio::sync::watch;

use super::commit::ClockKind;
use super::{StateError, Store};
use crate::time::Epoch;

/// The word of `meta` that says how far a node that went live has gone and may go.
const PROMISE: &str = "through";

/// What is published: taken in one step, so that its parts belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The last commit's last epoch; 0 before the first.
    pub epoch: u64,
    /// From when that commit is visible: the first `through` published with it, in µs.
    pub visible: i64,
    /// The instant of live answers: no other commit will ever have been visible up to here, in µs.
    pub through: i64,
}

/// Where it is published.
pub struct Board {
    inner: Mutex<Inner>,
    changed: Condvar,
    told: watch::Sender<Published>,
}

struct Inner {
    published: Published,
    /// Readers by the epoch they hold.
    readers: BTreeMap<u64, usize>,
}

/// Holds an epoch: no page moves past it while this lives. Not to be kept over anything slow, since pages cannot merge
/// updates or be written back meanwhile.
pub struct Hold<'a> {
    board: &'a Board,
    epoch: u64,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut inner = self.board.inner.lock();
        let held = inner.readers.get_mut(&self.epoch).expect("a hold is registered while it lives");
        *held -= 1;
        if *held == 0 {
            inner.readers.remove(&self.epoch);
        }
    }
}

impl Board {
    /// Showing this.
    pub fn new(published: Published) -> Board {
        let inner = Mutex::new(Inner { published, readers: BTreeMap::new() });
        Board { inner, changed: Condvar::new(), told: watch::Sender::new(published) }
    }

    /// What is published.
    pub fn published(&self) -> Published {
        self.inner.lock().published
    }

    /// Makes a commit readable, from `visible` on.
    ///
    /// # Panics
    /// If it does not rise: an answer that was given already would become another.
    pub fn publish(&self, epoch: u64, visible: i64) {
        self.put(|before| {
            assert!(epoch > before.epoch, "epoch {epoch} is published after {}", before.epoch);
            assert!(visible > before.through, "a commit is visible from {visible}, and {} is answered", before.through);
            Published { epoch, visible, through: visible }
        });
    }

    /// Lets `through` rise without a commit. An earlier instant changes nothing.
    pub fn advance(&self, through: i64) {
        self.put(|before| Published { through: through.max(before.through), ..*before });
    }

    fn put(&self, next: impl FnOnce(&Published) -> Published) {
        let mut inner = self.inner.lock();
        let published = next(&inner.published);
        if published != inner.published {
            inner.published = published;
            // Under the lock: whoever watches sees pairs in the order in which they were published.
            self.told.send_replace(published);
            self.changed.notify_all();
        }
    }

    /// Tells of every pair published from now on, for whoever waits without a thread: `borrow_and_update` the pair, and
    /// if it is not enough await `changed`. Pairs may be passed over, never out of order; the last one is never missed.
    ///
    /// ```text
    /// let mut watch = cache.watch();
    /// let published = *watch.wait_for(|p| p.epoch >= wanted || p.through >= as_of).await?;   // under a timeout
    /// ```
    pub fn watch(&self) -> watch::Receiver<Published> {
        self.told.subscribe()
    }

    /// Waits until something is published that `enough` accepts, at most so long. The last state either way. It blocks:
    /// in a runtime's threads [`Board::watch`] is for that.
    pub fn wait(&self, timeout: Duration, enough: impl Fn(&Published) -> bool) -> Published {
        let deadline = Instant::now() + timeout;
        let mut inner = self.inner.lock();
        while !enough(&inner.published) && !self.changed.wait_until(&mut inner, deadline).timed_out() {}
        inner.published
    }

    /// Takes what is published, and holds its epoch.
    pub fn hold(&self) -> (Published, Hold<'_>) {
        // Registered under the lock that publishing takes: no page can merge the next commit in between.
        let mut inner = self.inner.lock();
        let published = inner.published;
        *inner.readers.entry(published.epoch).or_insert(0) += 1;
        (published, Hold { board: self, epoch: published.epoch })
    }

    /// Up to which epoch pages may be merged now: published, and not above what a reader holds.
    pub fn limit(&self) -> u64 {
        let inner = self.inner.lock();
        let published = inner.published.epoch;
        inner.readers.first_key_value().map_or(published, |(held, _)| published.min(*held))
    }
}

/// How far a live node has gone, and how far it may go before it writes the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Every commit visible up to here was in the store before this was written; later ones are visible later.
    pub through: i64,
    /// Answers may be about instants up to here. Whatever becomes visible after a restart is visible later.
    pub bound: i64,
}

impl Store {
    /// Writes down how far a live node has gone and may go.
    ///
    /// # Errors
    /// The store's.
    pub fn promise(&self, promise: Promise, sync: bool) -> Result<(), StateError> {
        assert!(promise.through <= promise.bound, "{promise:?}");
        let value = [promise.through.to_be_bytes(), promise.bound.to_be_bytes()].concat();
        let mut batch = WriteBatch::default();
        batch.put_cf(&self.family("meta"), PROMISE, value);
        self.write(batch, sync)?;
        self.promised.store(promise.bound, Ordering::Release);
        if sync {
            self.promised_durably.fetch_max(promise.bound, Ordering::AcqRel);
        }
        Ok(())
    }

    /// How far a node may go by what a power loss would leave of what it wrote down.
    pub fn promised_durably(&self) -> i64 {
        self.promised_durably.load(Ordering::Acquire)
    }

    /// The epoch behind which those of this process begin: the last one. If the node before did not stop by itself, all
    /// that it may have shown: its last commits may be lost, and the clock may have been set back since.
    pub fn begins_after(&self) -> Epoch {
        self.begins_after
    }

    pub(super) fn find_beginning(&self, promise: Option<Promise>) -> Result<Epoch, StateError> {
        let last = self.last_commit()?.map_or(0, |c| c.last);
        let shown = promise.filter(|p| p.through < p.bound).map_or(0, |p| p.bound);
        Ok(Epoch(last.max(u64::try_from(shown).unwrap_or(0))))
    }

    /// What the last live node wrote down; `None` if none ever went live here.
    ///
    /// # Errors
    /// A damaged word.
    pub fn promised(&self) -> Result<Option<Promise>, StateError> {
        let Some(value) = self.meta(PROMISE)? else { return Ok(None) };
        let number = |bytes: Option<&[u8]>| bytes.and_then(|b| b.try_into().ok()).map(i64::from_be_bytes);
        match (number(value.get(..8)), number(value.get(8..))) {
            (Some(through), Some(bound)) => Ok(Some(Promise { through, bound })),
            _ => Err(StateError::Damaged { what: format!("`{PROMISE}` in meta"), why: format!("it is {value:?}") }),
        }
    }

    /// Has a node gone live on this directory? Then answers were given about the present, and the past is settled.
    ///
    /// # Errors
    /// A damaged commit or promise.
    pub fn has_been_live(&self) -> Result<bool, StateError> {
        Ok(self.promised()?.is_some() || self.last_commit()?.is_some_and(|c| c.clock == ClockKind::Wall))
    }

    /// What may be shown of what is stored. A writer starts where the node before it may have gone; a reader beside a node
    /// sees every commit visible up to where that node says it was, and knows no more.
    pub(super) fn settled(&self) -> Result<Published, StateError> {
        let (last, promise) = (self.last_commit()?, self.promised()?);
        let (epoch, visible) = last.map_or((0, 0), |c| (c.last, c.visible));
        let gone = promise.map_or(visible, |p| if self.is_writer() { p.bound } else { p.through });
        Ok(Published { epoch, visible, through: gone.max(visible) })
    }

    /// A reader's board shows the present, if nobody writes: `opened` is the clock's reading from before the store was
    /// opened, so that whoever writes later is visible later. Beside a node it shows what that node wrote down.
    pub fn rest_at(&self, opened: i64) {
        if self.is_alone() {
            self.board().advance(opened);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new(Published { epoch: 10, visible: 12, through: 15 })
    }

    #[test]
    fn pairs_rise_and_visible_is_the_first_through() {
        let board = board();
        board.advance(20);
        assert_eq!(board.published(), Published { epoch: 10, visible: 12, through: 20 });
        board.advance(19);
        assert_eq!(board.published().through, 20, "it does not fall");
        board.publish(11, 21);
        assert_eq!(board.published(), Published { epoch: 11, visible: 21, through: 21 });
        board.advance(30);
        assert_eq!(board.published(), Published { epoch: 11, visible: 21, through: 30 });
    }

    #[test]
    #[should_panic(expected = "and 15 is answered")]
    fn a_commit_is_not_visible_at_an_instant_that_is_answered() {
        board().publish(11, 15);
    }

    #[test]
    #[should_panic(expected = "is published after 10")]
    fn an_epoch_is_published_once() {
        board().publish(10, 16);
    }

    #[test]
    fn a_hold_limits_until_it_is_dropped() {
        let board = board();
        let (held, hold) = board.hold();
        assert_eq!(held, board.published());
        board.publish(11, 21);
        let (_, newer) = board.hold();
        assert_eq!(board.limit(), 10);
        drop(newer);
        assert_eq!(board.limit(), 10);
        drop(hold);
        assert_eq!(board.limit(), 11);
    }

    #[tokio::test]
    async fn whoever_watches_is_told() {
        let board = std::sync::Arc::new(board());
        let mut watch = board.watch();
        let waiting = tokio::spawn(async move { *watch.wait_for(|p| p.through >= 18).await.expect("it lives") });
        board.advance(17);
        board.publish(16, 18);
        assert_eq!(waiting.await.expect("it ends"), Published { epoch: 16, visible: 18, through: 18 });
    }
}
