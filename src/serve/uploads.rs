//! Labels that were uploaded and wait to be asked for, each under a ticket.
//!
//! Invariants: bounded in number, bytes and age; an upload that was promised is kept until it is too old, so when there is
//! no room a new one is refused; one that is too old is gone whether or not anybody comes. Neighbours: `flight` fills and
//! reads it; `inbox` counts the bytes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parking_lot::Mutex;
use tonic::Status;

use super::inbox::{Lot, Room, Taken};

/// How long a ticket is good for.
const AGE: Duration = Duration::from_secs(600);
/// Uploads at once.
const COUNT: usize = 64;
/// KiB of their labels, together, those included that are being sent.
const KIB: u32 = 1 << 20;

/// Labels with what is asked about them.
pub(super) struct Upload {
    /// The descriptor's command.
    pub(super) command: Bytes,
    /// The labels' columns.
    pub(super) schema: SchemaRef,
    /// The labels, and the room that they take.
    pub(super) lots: Vec<Lot>,
}

type Kept = Mutex<HashMap<Vec<u8>, Arc<Upload>>>;

/// All uploads.
pub(super) struct Uploads {
    kept: Arc<Kept>,
    room: Room,
    age: Duration,
}

impl Default for Uploads {
    fn default() -> Uploads {
        Uploads { kept: Arc::default(), room: Room::of_kib(KIB), age: AGE }
    }
}

impl Uploads {
    /// Room for labels that are being uploaded.
    ///
    /// # Errors
    /// There is none left.
    pub(super) fn room(&self, bytes: usize) -> Result<Taken, Status> {
        self.room.try_take(bytes).ok_or_else(|| self.full())
    }

    /// Keeps an upload; returns its ticket. Call inside of the runtime whose timer is to remove it.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn keep(&self, upload: Upload) -> Result<Vec<u8>, Status> {
        let ticket = uuid::Uuid::new_v4().to_string().into_bytes();
        let mut kept = self.kept.lock();
        if kept.len() >= COUNT {
            drop(kept);
            return Err(self.full());
        }
        kept.insert(ticket.clone(), Arc::new(upload));
        drop(kept);
        tokio::spawn(forget(Arc::downgrade(&self.kept), ticket.clone(), self.age));
        Ok(ticket)
    }

    /// The upload behind a ticket. It may be asked for more than once.
    ///
    /// # Errors
    /// There is none, or none any more.
    pub(super) fn get(&self, ticket: &[u8]) -> Result<Arc<Upload>, Status> {
        self.kept.lock().get(ticket).map(Arc::clone).ok_or_else(|| {
            Status::not_found("no upload has this ticket; a ticket is the answer to DoPut, and good for 10 minutes")
        })
    }

    fn full(&self) -> Status {
        Status::resource_exhausted(format!(
            "{} uploads wait for their DoGet, and there is no room for more; try again later, or use DoExchange, which \
             keeps nothing",
            self.kept.lock().len()
        ))
    }
}

async fn forget(kept: Weak<Kept>, ticket: Vec<u8>, age: Duration) {
    tokio::time::sleep(age).await;
    if let Some(kept) = kept.upgrade() {
        kept.lock().remove(&ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(room: Option<Taken>) -> Upload {
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let labels = arrow::array::RecordBatch::new_empty(Arc::clone(&schema));
        Upload { command: Bytes::new(), schema, lots: vec![Lot { labels, bytes: 0, room }] }
    }

    #[tokio::test]
    async fn an_upload_goes_by_itself_and_its_room_comes_back() {
        let uploads = Uploads { room: Room::of_kib(100), age: Duration::from_millis(50), ..Uploads::default() };
        let room = uploads.room(90 << 10).expect("there is room");
        let ticket = uploads.keep(upload(Some(room))).expect("it is kept");
        assert!(uploads.get(&ticket).is_ok());
        let full = uploads.room(90 << 10).expect_err("there is no more room");
        assert_eq!(full.code(), tonic::Code::ResourceExhausted);
        // Nobody calls: the timer alone removes it.
        let back = tokio::time::timeout(Duration::from_secs(30), async {
            while uploads.room(90 << 10).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(back.await.is_ok());
        assert_eq!(uploads.get(&ticket).err().map(|e| e.code()), Some(tonic::Code::NotFound));
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let uploads = Uploads::default();
        for _ in 0..COUNT {
            uploads.keep(upload(None)).expect("it is kept");
        }
        let full = uploads.keep(upload(None)).expect_err("one too many");
        assert_eq!(full.code(), tonic::Code::ResourceExhausted);
    }
}
