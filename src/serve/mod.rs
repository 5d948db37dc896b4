//! The outside: requests in their protocols, answered by the one read path.
//!
//! Invariants: every protocol gives one answer: requests become [`request::Request`], answers become JSON, in one place.
//! Neighbours: `online` and `offline` answer, `telemetry` counts; `cli` starts [`Servers`] and prints what they serve.

pub mod flight;
pub mod http;
pub mod json;
pub mod problem;
pub mod request;

mod uploads;

#[cfg(test)]
mod flight_tests;
#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod testing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::offline::Offline;
use http::HttpState;

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

/// The servers that are up, on a runtime of their own.
pub struct Servers {
    runtime: Option<tokio::runtime::Runtime>,
    stop: watch::Sender<bool>,
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
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("serve")
            .enable_all()
            .build()
            .map_err(ServeError::Runtime)?;
        let (stop, stopped) = watch::channel(false);
        let bind = |protocol: &'static str, address: &str| -> Result<Option<TcpListener>, ServeError> {
            if address == "off" {
                return Ok(None);
            }
            let wrong = |source| ServeError::Listen { protocol, address: address.to_string(), source };
            runtime.block_on(TcpListener::bind(address)).map(Some).map_err(wrong)
        };
        let (http, grpc) = (bind("http", http)?, bind("grpc", grpc)?);
        let place = |l: &Option<TcpListener>| l.as_ref().and_then(|l| l.local_addr().ok());
        let places = (place(&http), place(&grpc));
        let told = |mut stopped: watch::Receiver<bool>| async move {
            // An error means that the sender is gone: stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Some(listener) = http {
            runtime.spawn(http::serve(listener, http::router(Arc::clone(state)), told(stopped.clone())));
        }
        if let Some(listener) = grpc {
            let service = flight::service(Arc::clone(offline));
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            runtime.spawn(server.serve_with_incoming_shutdown(incoming, told(stopped)));
        }
        Ok(Servers { runtime: Some(runtime), stop, http: places.0, grpc: places.1 })
    }

    /// Lets requests under way finish, for a while.
    pub fn stop(mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}
