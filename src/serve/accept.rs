//! Connections of both servers: taken in, counted, watched, and let go.
//!
//! Every connection costs a descriptor, and descriptors are what the store and the sources need to go on. So only part of
//! them is for clients. When all of that part is taken, a newcomer gets the place of whoever uses his least: first those that
//! never sent a request, then those between two requests, then those whose request has not arrived whole.
//!
//! Invariants: at most [`Limits::connections`] at once; a connection on which a request is being answered is not let go
//! before [`Connections::close`] runs out of patience. Neighbours: `http` and `flight` are the routers; `serve` stops us.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

/// The longest wait for the head of a connection's first request.
const HEAD: Duration = Duration::from_secs(10);
/// How long whoever was asked to leave may take before the next is asked.
const LEAVE: Duration = Duration::from_millis(20);
/// How often a connection is looked at whose answer takes longer than it may be silent.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After an error of `accept` that is not one connection's: the system has to recover.
const RECOVER: Duration = Duration::from_millis(50);
/// How long a connection that was told that we close may take to close.
const GOODBYE: Duration = Duration::from_secs(5);
/// Descriptors where the system does not say how many there are.
const DESCRIPTORS: usize = 1024;
/// More connections than this are not for one node.
const MOST: usize = 4096;
/// Requests at once on one HTTP/2 connection.
const REQUESTS: u32 = 128;
/// HTTP/2 asks a silent client whether it is still there.
const PING: Duration = Duration::from_secs(20);

/// How many clients, and how long they may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once, both servers together.
    pub connections: usize,
    /// The longest wait for the head of a connection's first request.
    pub head: Duration,
}

impl Limits {
    /// Half of the descriptors that the process may open are for clients; the rest is the store's and the sources'.
    pub fn of_process() -> Limits {
        let limits = std::fs::read_to_string("/proc/self/limits").ok();
        let descriptors = limits.as_deref().and_then(open_files).unwrap_or(DESCRIPTORS);
        Limits { connections: (descriptors / 2).clamp(1, MOST), head: HEAD }
    }

    /// Requests that may wait at once: whoever waits keeps his connection, and others need some, too.
    pub fn waiting(&self) -> usize {
        (self.connections / 4 * 3).max(1)
    }
}

/// The soft limit, from `Max open files            1024                 524288               files`.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        soft => soft.parse().ok(),
    }
}

/// One connection.
struct Peer {
    /// Requests being answered.
    requests: AtomicUsize,
    /// Requests that have not arrived whole.
    arriving: AtomicUsize,
    /// Has a request been answered?
    served: AtomicBool,
    /// Since when it has been as it is.
    since: Mutex<Instant>,
    leave: Notify,
}

impl Peer {
    fn new() -> Peer {
        Peer {
            requests: AtomicUsize::new(0),
            arriving: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            since: Mutex::new(Instant::now()),
            leave: Notify::new(),
        }
    }

    fn changed(&self) {
        *self.since.lock() = Instant::now();
    }

    /// How little its place is used: the least first. `None`: it is being answered.
    fn rank(&self) -> Option<(u8, Instant)> {
        let (requests, arriving) = (self.requests.load(Ordering::Acquire), self.arriving.load(Ordering::Acquire));
        let use_of_place = match (requests, self.served.load(Ordering::Relaxed)) {
            (0, false) => 0,
            (0, true) => 1,
            (n, _) if n == arriving => 2,
            _ => return None,
        };
        Some((use_of_place, *self.since.lock()))
    }

    fn silent_for(&self) -> Option<Duration> {
        (self.requests.load(Ordering::Acquire) == 0).then(|| self.since.lock().elapsed())
    }
}

/// A request that is being answered, until the last of its answer has been sent.
struct Answering(Arc<Peer>);

impl Answering {
    fn begin(peer: &Arc<Peer>) -> Answering {
        peer.requests.fetch_add(1, Ordering::AcqRel);
        peer.changed();
        Answering(Arc::clone(peer))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.served.store(true, Ordering::Relaxed);
        self.0.changed();
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request whose body is still to come. Whoever reads the body drops this when he has it.
pub(super) struct Arriving(Arc<Peer>);

impl Arriving {
    fn begin(peer: &Arc<Peer>) -> Arriving {
        peer.arriving.fetch_add(1, Ordering::AcqRel);
        Arriving(Arc::clone(peer))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.arriving.fetch_sub(1, Ordering::AcqRel);
        self.0.changed();
    }
}

/// All connections of a node's servers.
pub(super) struct Connections {
    limits: Limits,
    places: Arc<Semaphore>,
    peers: Mutex<HashMap<u64, Arc<Peer>>>,
    next: AtomicU64,
    left: Notify,
    closing: watch::Sender<bool>,
}

/// What a server does with its connections.
#[derive(Clone)]
pub(super) struct House {
    router: Router,
    /// How long a connection may be silent between two requests.
    idle: Duration,
    /// May a request whose body has not arrived be given up for a newcomer? Labels stream for as long as they do.
    bodies_are_short: bool,
}

impl House {
    pub(super) fn of_http(router: Router) -> House {
        House { router, idle: super::IDLE_HTTP, bodies_are_short: true }
    }

    pub(super) fn of_grpc(router: Router) -> House {
        House { router, idle: super::IDLE_GRPC, bodies_are_short: false }
    }
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Connections {
        Connections {
            limits,
            places: Arc::new(Semaphore::new(limits.connections)),
            peers: Mutex::default(),
            next: AtomicU64::new(0),
            left: Notify::new(),
            closing: watch::Sender::new(false),
        }
    }

    /// Takes connections in until the servers close.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener, house: House) {
        let mut closing = self.closing.subscribe();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(house.idle);
        let http2 = &mut builder.http2();
        http2.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
        http2.max_concurrent_streams(REQUESTS);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = closing.wait_for(|c| *c) => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                // The client has gone again.
                Err(e) if is_its_own(&e) => continue,
                Err(_) => {
                    self.ask_one_to_leave();
                    tokio::time::sleep(RECOVER).await;
                    continue;
                }
            };
            let place = tokio::select! {
                place = self.place() => place,
                _ = closing.wait_for(|c| *c) => return,
            };
            let (all, builder, house) = (Arc::clone(&self), builder.clone(), house.clone());
            tokio::spawn(async move { all.connection(stream, place, &builder, house).await });
        }
    }

    /// A place for a newcomer, somebody else's if need be.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                return Some(place);
            }
            self.ask_one_to_leave();
            if let Ok(place) = tokio::time::timeout(LEAVE, Arc::clone(&self.places).acquire_owned()).await {
                return place.ok();
            }
        }
    }

    fn ask_one_to_leave(&self) {
        let peers = self.peers.lock();
        let ranked = peers.iter().filter_map(|(id, peer)| Some((peer.rank()?, id)));
        if let Some((_, id)) = ranked.min() {
            peers[id].leave.notify_one();
        }
    }

    async fn connection(
        &self,
        stream: TcpStream,
        _place: Option<OwnedSemaphorePermit>,
        builder: &auto::Builder<TokioExecutor>,
        house: House,
    ) {
        // An answer is one small packet: it must not wait for another.
        let _ = stream.set_nodelay(true);
        let (id, peer) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Peer::new()));
        self.peers.lock().insert(id, Arc::clone(&peer));
        let _entry = Entry { all: self, id };
        let idle = house.idle;
        let service = TowerToHyperService::new(Watched { house, peer: Arc::clone(&peer) });
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let (mut closing, mut goodbye) = (self.closing.subscribe(), None);
        loop {
            let patience = if peer.served.load(Ordering::Relaxed) { idle } else { self.limits.head.min(idle) };
            let look = goodbye.unwrap_or_else(|| *peer.since.lock() + patience);
            tokio::select! {
                // What was wrong with it, its client knows.
                _ = connection.as_mut() => return,
                () = peer.leave.notified() => return,
                _ = closing.wait_for(|c| *c), if goodbye.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    // Requests under way may take their time; `close` has an eye on it.
                    goodbye = Some(Instant::now() + 2 * GOODBYE);
                }
                () = tokio::time::sleep_until(look.max(Instant::now() + LOOK_EVERY.min(patience))) => match peer.silent_for() {
                    Some(_) if goodbye.is_some() || !peer.served.load(Ordering::Relaxed) => return,
                    Some(silent) if silent >= patience => {
                        connection.as_mut().graceful_shutdown();
                        goodbye = Some(Instant::now() + GOODBYE);
                    }
                    Some(_) | None => {}
                },
            }
        }
    }

    /// Lets nobody in any more, and waits until all have been answered and have left, at most so long. How many are left.
    pub(super) async fn close(&self, grace: Duration) -> usize {
        self.closing.send_replace(true);
        let gone = async {
            loop {
                let left = self.left.notified();
                if self.peers.lock().is_empty() {
                    return;
                }
                left.await;
            }
        };
        let _ = tokio::time::timeout(grace, gone).await;
        self.peers.lock().len()
    }

    /// Connections there are.
    pub(super) fn count(&self) -> usize {
        self.peers.lock().len()
    }
}

/// A connection's entry among all.
struct Entry<'a> {
    all: &'a Connections,
    id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.all.peers.lock().remove(&self.id);
        self.all.left.notify_waiters();
    }
}

/// The router, with an eye on which requests are under way.
#[derive(Clone)]
struct Watched {
    house: House,
    peer: Arc<Peer>,
}

impl<B> tower_service::Service<Request<B>> for Watched
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router always is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let answering = Answering::begin(&self.peer);
        if self.house.bodies_are_short && !request.body().is_end_stream() {
            request.extensions_mut().insert(Arc::new(Arriving::begin(&self.peer)));
        }
        let answer = tower_service::Service::call(&mut self.house.router, request);
        Box::pin(async move {
            let answer = answer.await?;
            // It is under way until its body is dropped: then all of it was sent, or nobody wants it any more.
            Ok(answer.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &answering;
                    frame
                }))
            }))
        })
    }
}

/// Is an error of `accept` about one connection, and not about us?
fn is_its_own(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             1                    2                    processes \n\
                      Max open files            400                  20000                files     \n";
        assert_eq!(open_files(limits), Some(400));
        assert_eq!(open_files("Max open files  unlimited unlimited files"), Some(usize::MAX));
        assert_eq!(open_files("nothing"), None);
        assert!(Limits::of_process().connections >= 1);
    }

    #[test]
    fn the_place_that_is_used_least_is_given_up_first() {
        let peer = |served: bool, requests: usize, arriving: usize| {
            let peer = Peer::new();
            peer.served.store(served, Ordering::Relaxed);
            peer.requests.store(requests, Ordering::Relaxed);
            peer.arriving.store(arriving, Ordering::Relaxed);
            peer
        };
        let ranks = [peer(false, 0, 0), peer(false, 0, 0), peer(true, 0, 0), peer(true, 1, 1)].map(|p| p.rank());
        assert!(ranks.iter().all(Option::is_some) && ranks.is_sorted(), "{ranks:?}");
        assert_eq!([peer(false, 1, 0), peer(true, 2, 1)].map(|p| p.rank()), [None, None]);
    }
}
