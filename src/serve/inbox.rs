//! Labels that have arrived and wait to be joined: a queue per stream, bounded in bytes over all streams.
//!
//! A client may send everything before it reads anything. What does not fit then cannot wait for it: it would wait for us.
//! So a client that does not take its results is given a while; then its labels are dropped, the rest of them is taken off
//! the wire, and its stream ends with an error that says what to do.
//!
//! Invariants: a stream ends where its client ended it, or with an error: a task that dies leaves an error behind; labels
//! that wait hold their part of the [`Room`]. Neighbours: `door` decodes; `flight` fills and empties.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::Stream;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Status;

/// How long a client may leave its results where they are while there is no room for more of its labels.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Bytes that may be kept, shared by whoever keeps some.
#[derive(Clone)]
pub(super) struct Room {
    kib: Arc<Semaphore>,
    all: u32,
}

/// A part of the [`Room`], given back when it is dropped.
pub(super) type Taken = OwnedSemaphorePermit;

impl Room {
    /// Of so many KiB.
    pub(super) fn of_kib(all: u32) -> Room {
        Room { kib: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// A part of the room at once, if it is free.
    pub(super) fn try_take(&self, bytes: usize) -> Option<Taken> {
        Arc::clone(&self.kib).try_acquire_many_owned(self.part(bytes)).ok()
    }

    /// A part of the room, once it is free.
    async fn take(&self, bytes: usize) -> Option<Taken> {
        Arc::clone(&self.kib).acquire_many_owned(self.part(bytes)).await.ok()
    }

    /// What is too large alone takes all there is. Small things have their costs, too.
    fn part(&self, bytes: usize) -> u32 {
        u32::try_from(bytes / 1024).unwrap_or(u32::MAX).saturating_add(4).min(self.all)
    }
}

/// Some labels.
#[derive(Debug)]
pub(super) struct Lot {
    pub(super) labels: RecordBatch,
    /// As the door counts them.
    pub(super) bytes: usize,
    /// The room that they take; none where somebody else keeps it for them.
    pub(super) room: Option<Taken>,
}

/// What comes up.
#[derive(Debug)]
pub(super) enum Up {
    Schema(SchemaRef),
    Labels(Lot),
    /// The client has sent all.
    End,
}

/// Is the client taking its results? See [`Watched`].
pub(super) struct Pace {
    /// Since when a result has been there and nobody has asked for the next.
    left_since: Mutex<Option<Instant>>,
    patience: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { left_since: Mutex::default(), patience: PATIENCE }
    }
}

impl Pace {
    fn is_left(&self) -> bool {
        self.left_since.lock().is_some_and(|since| since.elapsed() >= self.patience)
    }
}

/// Results on their way to a client, watched: nothing asks for the next while the client does not take the last.
pub(super) struct Watched<T> {
    results: BoxStream<'static, T>,
    pace: Arc<Pace>,
}

impl<T> Watched<T> {
    pub(super) fn new(results: BoxStream<'static, T>, pace: Arc<Pace>) -> Watched<T> {
        Watched { results, pace }
    }
}

impl<T> Stream for Watched<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let next = self.results.as_mut().poll_next(cx);
        *self.pace.left_since.lock() = next.is_ready().then(Instant::now);
        next
    }
}

/// A stream's queue.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<VecDeque<Result<Up, Status>>>,
    arrived: Notify,
}

impl Inbox {
    /// One that has everything already, in room of somebody else's.
    pub(super) fn of(lots: &[Lot]) -> Inbox {
        let lot = |lot: &Lot| Lot { labels: lot.labels.clone(), bytes: lot.bytes, room: None };
        let labels = lots.iter().map(|l| Ok(Up::Labels(lot(l))));
        Inbox { waiting: Mutex::new(labels.chain([Ok(Up::End)]).collect()), arrived: Notify::new() }
    }

    /// What comes next; waits for it.
    ///
    /// # Errors
    /// What is wrong with the labels; nothing is to be asked for after it.
    pub(super) async fn next(&self) -> Result<Up, Status> {
        loop {
            if let Some(up) = self.waiting.lock().pop_front() {
                return up;
            }
            self.arrived.notified().await;
        }
    }

    fn put(&self, up: Result<Up, Status>) {
        self.waiting.lock().push_back(up);
        self.arrived.notify_one();
    }
}

/// The end of the queue that is filled. One that is dropped before [`Filler::end`] leaves an error behind.
pub(super) struct Filler {
    inbox: Arc<Inbox>,
    room: Room,
    pace: Arc<Pace>,
    ended: bool,
}

impl Filler {
    pub(super) fn new(inbox: &Arc<Inbox>, room: &Room, pace: &Arc<Pace>) -> Filler {
        Filler { inbox: Arc::clone(inbox), room: room.clone(), pace: Arc::clone(pace), ended: false }
    }

    /// The labels' columns.
    pub(super) fn schema(&self, schema: SchemaRef) {
        self.inbox.put(Ok(Up::Schema(schema)));
    }

    /// Labels of so many bytes; waits for room. False: the client does not take its results, and nothing more is wanted.
    pub(super) async fn labels(&mut self, labels: RecordBatch, bytes: usize) -> bool {
        let room = self.room.clone();
        let mut taking = pin!(room.take(bytes));
        let taken = loop {
            match tokio::time::timeout(LOOK_EVERY, taking.as_mut()).await {
                Ok(taken) => break taken,
                Err(_) if self.pace.is_left() => break None,
                Err(_) => {}
            }
        };
        match taken {
            Some(room) => self.inbox.put(Ok(Up::Labels(Lot { labels, bytes, room: Some(room) }))),
            None => self.fail(Status::resource_exhausted(
                "more labels wait than there is room for, and their results are not read; read results while you send \
                 labels, or send them in parts",
            )),
        }
        !self.ended
    }

    /// All labels are there.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.inbox.put(Ok(Up::End));
    }

    /// Something is wrong: labels that wait are dropped, since whatever came of them would be part of a failure.
    pub(super) fn fail(&mut self, why: Status) {
        self.ended = true;
        let mut waiting = self.inbox.waiting.lock();
        waiting.retain(|up| matches!(up, Ok(Up::Schema(_))));
        waiting.push_back(Err(why));
        drop(waiting);
        self.inbox.arrived.notify_one();
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if !self.ended {
            self.fail(Status::internal("the labels are not read any more; send them again"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    fn queue(kib: u32) -> (Arc<Inbox>, Filler, Arc<Pace>, Room) {
        let pace = Arc::new(Pace { patience: Duration::from_millis(20), ..Pace::default() });
        let (inbox, room) = (Arc::<Inbox>::default(), Room::of_kib(kib));
        let filler = Filler::new(&inbox, &room, &pace);
        (inbox, filler, pace, room)
    }

    fn batch() -> RecordBatch {
        RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()))
    }

    #[tokio::test]
    async fn a_filler_that_dies_is_an_error_and_not_an_end() {
        let (inbox, mut filler, _, _) = queue(100);
        assert!(filler.labels(batch(), 1).await);
        let dies = tokio::spawn(async move {
            let _filler = filler;
            panic!("as a decoder might");
        });
        assert!(dies.await.is_err());
        assert_eq!(inbox.next().await.expect_err("no end").code(), tonic::Code::Internal);
    }

    #[tokio::test]
    async fn who_does_not_read_gets_an_error_and_gives_the_room_back() {
        let (inbox, mut filler, pace, room) = queue(20);
        let mut results = Watched::new(futures::stream::iter([1, 2]).boxed(), Arc::clone(&pace));
        assert_eq!(results.next().await, Some(1));
        assert!(filler.labels(batch(), 10 << 10).await);
        let begun = Instant::now();
        assert!(!filler.labels(batch(), 10 << 10).await, "nobody takes the second result");
        assert!(begun.elapsed() >= pace.patience);
        assert!(room.try_take(16 << 10).is_some(), "the labels that waited are gone");
        let error = inbox.next().await.expect_err("what waited is dropped");
        assert_eq!(error.code(), tonic::Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn who_reads_is_waited_for() {
        let (inbox, mut filler, pace, _) = queue(20);
        let mut results = Watched::new(futures::stream::pending::<()>().boxed(), pace);
        assert!(futures::poll!(results.next()).is_pending(), "the client waits for us");
        assert!(filler.labels(batch(), 10 << 10).await);
        let mut more = pin!(filler.labels(batch(), 10 << 10));
        let patient = tokio::time::timeout(LOOK_EVERY * 3, more.as_mut()).await;
        assert!(patient.is_err(), "neither refused nor let in");
        drop(inbox.next().await);
        assert!(more.await);
        assert!(matches!(inbox.next().await, Ok(Up::Labels(_))));
    }
}
