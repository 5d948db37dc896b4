//! Labels that were uploaded and wait to be asked for, each under a ticket.
//!
//! Invariants: bounded in number, size and age; an upload that was promised is kept until it is too old, so when there is
//! no room a new one is refused. Neighbours: `flight` fills and reads it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

/// How long a ticket is good for.
const AGE: Duration = Duration::from_secs(600);
/// Uploads at once.
const COUNT: usize = 64;
/// Their bytes on the wire, together.
const BYTES: usize = 2 << 30;

/// Labels with what is asked about them.
pub(super) struct Upload {
    /// The descriptor's command.
    pub(super) command: Bytes,
    /// The labels' columns.
    pub(super) schema: SchemaRef,
    /// The labels.
    pub(super) batches: Vec<RecordBatch>,
    /// Their size on the wire.
    pub(super) bytes: usize,
}

/// By ticket: since when, and what.
type Kept = HashMap<Vec<u8>, (Instant, Arc<Upload>)>;

/// All uploads.
#[derive(Default)]
pub(super) struct Uploads(Mutex<Kept>);

impl Uploads {
    /// Is there room for an upload of this size?
    pub(super) fn check(&self, bytes: usize) -> Result<(), Status> {
        let mut kept = self.0.lock();
        kept.retain(|_, (since, _)| since.elapsed() < AGE);
        let used: usize = kept.values().map(|(_, upload)| upload.bytes).sum();
        if kept.len() >= COUNT || used.saturating_add(bytes) > BYTES {
            return Err(Status::resource_exhausted(format!(
                "{} uploads of {used} bytes wait for their DoGet already; try again later, or use DoExchange, \
                 which keeps nothing",
                kept.len()
            )));
        }
        Ok(())
    }

    /// Keeps an upload; returns its ticket.
    pub(super) fn keep(&self, upload: Upload) -> Result<Vec<u8>, Status> {
        self.check(upload.bytes)?;
        let ticket = uuid::Uuid::new_v4().to_string().into_bytes();
        self.0.lock().insert(ticket.clone(), (Instant::now(), Arc::new(upload)));
        Ok(ticket)
    }

    /// The upload behind a ticket. It may be asked for more than once.
    pub(super) fn get(&self, ticket: &[u8]) -> Result<Arc<Upload>, Status> {
        let kept = self.0.lock();
        let found = kept.get(ticket).filter(|(since, _)| since.elapsed() < AGE);
        found.map(|(_, upload)| Arc::clone(upload)).ok_or_else(|| {
            Status::not_found("no upload has this ticket; a ticket is the answer to DoPut, and good for 10 minutes")
        })
    }
}
