//! Requests that wait for something to be visible: none of them holds a thread.
//!
//! One thread looks at what is published, for all of them: whatever a request waits for, it is woken when that is there,
//! when its time is up, or when the node stops. It wakes a few at a time, so that a commit for which a thousand wait does not
//! put a thousand answers before everybody else's.
//!
//! Invariants: as many wait as may, the next is refused at once; with nobody waiting the thread sleeps. Neighbours:
//! `state::cache` publishes; `request` says what is missing; `http` waits here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::problem::RequestError;
use super::request::MinOffset;
use crate::offset::Offsets;
use crate::online::Online;
use crate::state::cache::Published;
use crate::telemetry::Metrics;

/// How often is looked for what no commit announces: how fresh the state is, and whose time is up.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Woken at once, and how long they have before the next are woken.
const WOKEN: usize = 16;
const TURN: Duration = Duration::from_millis(1);

/// What a request waits for: all of it.
#[derive(Clone, Debug, Default)]
pub struct Need {
    /// An epoch, published.
    pub epoch: Option<u64>,
    /// An instant up to which answers are settled, in µs.
    pub through: Option<i64>,
    /// Records, reflected in what is published.
    pub offsets: Vec<MinOffset>,
    /// How old the state may be, in µs.
    pub staleness: Option<i64>,
}

/// What is published, as far as anybody waits for it.
struct Seen {
    published: Published,
    /// Everything appended up to here is reflected, in µs.
    complete: Option<i64>,
    now: i64,
    offsets: Arc<Offsets>,
}

impl Need {
    fn is_met(&self, seen: &Seen) -> bool {
        let fresh = seen.complete.map_or(seen.published.visible, |c| c.max(seen.published.visible));
        self.epoch.is_none_or(|epoch| epoch <= seen.published.epoch)
            && self.through.is_none_or(|through| through <= seen.published.through)
            && self.staleness.is_none_or(|most| seen.now.saturating_sub(fresh) <= most)
            && self.offsets.iter().all(|o| seen.offsets.get(&o.source, o.partition) > o.offset)
    }
}

struct Waiter {
    need: Need,
    deadline: Instant,
    wake: oneshot::Sender<()>,
}

/// Everybody who waits.
pub struct Waiting {
    shared: Arc<Shared>,
    most: usize,
}

struct Shared {
    online: Arc<Online>,
    metrics: Arc<Metrics>,
    waiters: Mutex<Vec<Waiter>>,
    /// Somebody waits now.
    came: Condvar,
    /// Nobody is to wait any more.
    stopped: AtomicBool,
    /// The thread is there.
    started: AtomicBool,
}

impl Waiting {
    /// For requests to this node, at most so many.
    pub fn new(online: &Arc<Online>, metrics: &Arc<Metrics>, most: usize) -> Waiting {
        let shared = Shared {
            online: Arc::clone(online),
            metrics: Arc::clone(metrics),
            waiters: Mutex::default(),
            came: Condvar::new(),
            stopped: AtomicBool::new(false),
            started: AtomicBool::new(false),
        };
        Waiting { shared: Arc::new(shared), most }
    }

    /// Waits until there is what is needed, the deadline has passed, or the node stops: look again then.
    ///
    /// # Errors
    /// [`RequestError::Busy`]: too many wait already.
    pub async fn until(&self, need: Need, deadline: Instant) -> Result<(), RequestError> {
        let (wake, woken) = oneshot::channel();
        {
            let mut waiters = self.shared.waiters.lock();
            // Who has gone makes room.
            if waiters.len() >= self.most {
                waiters.retain(|w| !w.wake.is_closed());
            }
            if waiters.len() >= self.most {
                return Err(RequestError::Busy(format!("{} requests wait already", self.most)));
            }
            waiters.push(Waiter { need, deadline, wake });
        }
        self.start()?;
        self.shared.came.notify_one();
        if self.is_stopped() {
            return Ok(());
        }
        // An error: the node has stopped.
        let _ = woken.await;
        Ok(())
    }

    /// Requests that wait now.
    pub fn count(&self) -> usize {
        self.shared.waiters.lock().len()
    }

    /// Wakes everybody: there will be nothing more to wait for.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.waiters.lock().clear();
        self.shared.came.notify_all();
    }

    /// Is there nothing more to wait for?
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    fn start(&self) -> Result<(), RequestError> {
        if self.shared.started.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("waiting".into()).spawn(move || shared.run());
        thread.map(drop).map_err(|e| {
            self.shared.started.store(false, Ordering::Release);
            RequestError::Failed(e.to_string())
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn run(&self) {
        let mut offsets: (Option<u64>, Arc<Offsets>) = (None, Arc::default());
        while !self.stopped.load(Ordering::Acquire) {
            {
                let mut waiters = self.waiters.lock();
                if waiters.is_empty() {
                    self.came.wait_for(&mut waiters, Duration::from_secs(1));
                    continue;
                }
            }
            let published = self.online.cache().published();
            self.read_offsets(&published, &mut offsets);
            let seen = Seen {
                published,
                complete: self.metrics.complete(),
                now: self.online.clock().now(),
                offsets: Arc::clone(&offsets.1),
            };
            match self.wake_some(&seen) {
                true => std::thread::sleep(TURN),
                false => drop(self.online.cache().wait(LOOK_EVERY, |p| p.epoch != published.epoch)),
            }
        }
    }

    /// The offsets of what is published, once per commit, if anybody asks for some.
    fn read_offsets(&self, published: &Published, known: &mut (Option<u64>, Arc<Offsets>)) {
        let asked = self.waiters.lock().iter().any(|w| !w.need.offsets.is_empty());
        if !asked || known.0 == Some(published.epoch) {
            return;
        }
        // They may be those of a commit that is durable and not yet visible: whoever is woken too early looks himself.
        if let Ok(offsets) = self.online.cache().store().offsets() {
            *known = (Some(published.epoch), Arc::new(offsets));
        }
    }

    /// Wakes those who have what they need, and those whose time is up; true if there may be more of them.
    fn wake_some(&self, seen: &Seen) -> bool {
        let (mut woken, now) = (vec![], Instant::now());
        let mut waiters = self.waiters.lock();
        waiters.retain_mut(|w| {
            if w.wake.is_closed() {
                return false;
            }
            if woken.len() >= WOKEN || !(w.deadline <= now || w.need.is_met(seen)) {
                return true;
            }
            let (closed, _) = oneshot::channel();
            woken.push(std::mem::replace(&mut w.wake, closed));
            false
        });
        drop(waiters);
        let more = woken.len() >= WOKEN;
        // Nobody listens when the request was given up.
        for wake in woken {
            let _ = wake.send(());
        }
        more
    }
}
