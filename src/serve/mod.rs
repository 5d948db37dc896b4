//! The outside: requests in their protocols, answered by the one read path.
//!
//! Invariants: every protocol gives one answer: requests become [`request::Request`], answers become JSON, in one place.
//! What a client sends costs a bounded part of the node: connections, requests in line, bytes that wait. Training sets have
//! threads of their own, so that no online read waits for them. Neighbours: `online` and `offline` answer, `telemetry`
//! counts; `cli` starts [`Servers`] and prints what they serve.

pub mod accept;
pub mod flight;
pub mod http;
pub mod json;
pub mod problem;
pub mod request;
pub mod waiting;

mod answering;
mod door;
mod inbox;
mod uploads;

#[cfg(test)]
mod crowd_tests;
#[cfg(test)]
mod flight_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod testing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::offline::Offline;
use accept::{Connections, House, Limits};
use answering::Lanes;
use http::HttpState;

/// Threads that serve, of each server.
const THREADS: usize = 2;
/// Threads for work that a server does elsewhere: what the lanes use, and whoever scrapes.
const ELSEWHERE: usize = Lanes::THREADS + 2;
/// How long a connection may be silent between two requests.
const IDLE_HTTP: Duration = Duration::from_secs(60);
const IDLE_GRPC: Duration = Duration::from_secs(600);
/// How long clients have to notice that the node is not ready any more, before nobody new is let in.
const LAME_DUCK: Duration = Duration::from_millis(250);
/// How long requests under way may take once the node is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, or cannot be.
    #[error("--{protocol} {address} cannot be listened on: {source}; choose another address, HOST:0, or off")]
    Listen {
        /// Which flag.
        protocol: &'static str,
        /// What it says.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// No threads.
    #[error("the servers could not be started")]
    Runtime(#[source] std::io::Error),
}

/// The servers that are up, each on a runtime of its own.
pub struct Servers {
    /// HTTP's, then gRPC's.
    runtimes: [Option<Runtime>; 2],
    connections: Arc<Connections>,
    state: Arc<HttpState>,
    /// Where HTTP is served; nothing if it is off.
    pub http: Option<SocketAddr>,
    /// Where gRPC is served; nothing if it is off.
    pub grpc: Option<SocketAddr>,
}

impl Servers {
    /// Binds and starts what is not `off`. Addresses are `HOST:PORT`, `HOST:0` for a free port.
    ///
    /// # Errors
    /// [`ServeError`], naming the flag.
    pub fn start(
        http: &str,
        grpc: &str,
        state: &Arc<HttpState>,
        offline: &Arc<Offline>,
    ) -> Result<Servers, ServeError> {
        let (online, training) = (runtime("serve")?, runtime("training")?);
        let bind = |runtime: &Runtime, protocol: &'static str, address: &str| {
            if address == "off" {
                return Ok(None);
            }
            let wrong = |source| ServeError::Listen { protocol, address: address.to_string(), source };
            runtime.block_on(TcpListener::bind(address)).map(Some).map_err(wrong)
        };
        let listeners = (bind(&online, "http", http)?, bind(&training, "grpc", grpc)?);
        let place = |l: &Option<TcpListener>| l.as_ref().and_then(|l| l.local_addr().ok());
        let places = (place(&listeners.0), place(&listeners.1));

        let connections = Arc::new(Connections::new(Limits::of_process()));
        if let Some(listener) = listeners.0 {
            let router = http::router(Arc::clone(state));
            online.spawn(Arc::clone(&connections).serve(listener, House::of_http(router)));
        }
        if let Some(listener) = listeners.1 {
            let service = flight::service(Arc::clone(offline), flight::Share::default());
            let router = tonic::service::Routes::new(service).prepare().into_axum_router();
            training.spawn(Arc::clone(&connections).serve(listener, House::of_grpc(router)));
        }
        let (state, runtimes) = (Arc::clone(state), [Some(online), Some(training)]);
        Ok(Servers { runtimes, connections, state, http: places.0, grpc: places.1 })
    }

    /// Says that the node is not ready any more, lets requests under way finish, and closes.
    pub fn stop(mut self) {
        self.state.drain();
        if self.connections.count() > 0 {
            // Whoever balances over several nodes looks at `/ready`.
            std::thread::sleep(LAME_DUCK);
        }
        if let Some(runtime) = &self.runtimes[0] {
            runtime.block_on(self.connections.close(GRACE));
        }
        for runtime in self.runtimes.iter_mut().filter_map(Option::take) {
            // Work that nobody waits for any more may be in the middle of the log.
            runtime.shutdown_timeout(Duration::from_millis(500));
        }
    }
}

fn runtime(name: &str) -> Result<Runtime, ServeError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(THREADS).max_blocking_threads(ELSEWHERE).thread_name(name).enable_all();
    builder.build().map_err(ServeError::Runtime)
}
