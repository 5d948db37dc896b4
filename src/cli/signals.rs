//! SIGINT and SIGTERM as a flag that the loops look at.
//!
//! The first one asks for a clean stop; a second one ends the process where it stands, which is safe: what is not
//! committed is read again. Neighbours: `run` and `demo` stop by the flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell reports of a program ended by SIGINT.
const INTERRUPTED: i32 = 130;

/// From the return of this function on, a signal sets `stop` and does not end the process.
///
/// # Errors
/// The system gives no thread, or does not let signals be caught.
pub(super) fn stop_on_signals(stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    let (caught, catching) = crossbeam_channel::bounded(1);
    let stop = Arc::clone(stop);
    let work = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => return drop(caught.send(Err(e))),
        };
        runtime.block_on(async {
            let both = signal(SignalKind::interrupt()).and_then(|i| Ok((i, signal(SignalKind::terminate())?)));
            match both {
                Ok((interrupt, terminate)) => {
                    let _ = caught.send(Ok(()));
                    watch(&stop, interrupt, terminate).await;
                }
                Err(e) => drop(caught.send(Err(e))),
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(work).context("no thread for signals")?;
    catching.recv().context("the thread for signals ended")?.context("signals cannot be caught")
}

async fn watch(stop: &AtomicBool, mut interrupt: Signal, mut terminate: Signal) {
    let mut next = async || {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    };
    next().await;
    stop.store(true, Ordering::Release);
    next().await;
    std::process::exit(INTERRUPTED);
}
