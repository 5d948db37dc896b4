//! The offline log: all events and all updates, segments and tail together, and the answers they give.
//!
//! A view over a stream alone has no updates of its own: they are a projection of the events, made again whenever they are
//! read. Sealed events are there twice: in the order of epochs, and once per key that views group them by (`keyed`).
//!
//! Invariants: what is read as of an epoch is exactly the log up to it, however much of it has been sealed meanwhile.
//! Neighbours: `state::log` holds the tail, `segment` reads and `seal` writes the rest; `point_in_time` joins labels with
//! updates, `history` makes training sets of that.

pub mod blocks;
pub mod by_hash;
pub mod catalogue;
pub mod history;
mod keyed;
pub mod labels;
pub mod point_in_time;
pub mod seal;
pub mod segment;
#[cfg(test)]
mod tests;
pub mod timeline;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use parking_lot::Mutex;

use crate::event::{EventBatch, up_to};
use crate::fold::columns::from_batch;
use crate::fold::entry::{Updates, hash_group};
use crate::fold::{Evaluation, Group, Wanted};
use crate::plan::Plan;
use crate::plan::project::Projector;
use crate::state::commit::LogKind;
use crate::state::log::Tail;
use crate::state::{StateError, Store};
use crate::time::{Ask, Epoch};
use catalogue::{Catalogue, Content, Entry, Folders, events_dir, keyed_dir, updates_dir};
use keyed::Reading;
use segment::{Asked, Segment, SegmentRows};

pub use history::{History, HistoryError, HistoryRequest};
pub use point_in_time::Mode;
pub use seal::SealSummary;
pub use timeline::Timeline;

/// Rows to which the tail's small batches are put together.
const BATCH_ROWS: usize = 8192;
/// Bytes at which no more are put together: a column of text holds less than two gigabytes.
const BATCH_BYTES: usize = 256 << 20;
/// Footers of segments kept in memory.
const OPEN_SEGMENTS: usize = 4096;

/// Why the log has no answer.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Whoever took the rows wants no more.
    #[error("stopped")]
    Stopped,
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// What was read does not fit the plan.
    #[error("the log could not be read: {0}")]
    Arrow(#[from] ArrowError),
    /// An expression could not be evaluated at all.
    #[error("the log could not be evaluated: {0}")]
    Compute(#[from] datafusion::common::DataFusionError),
    /// A segment is not what the catalogue says, or cannot be read.
    #[error("segment {path}: {why}")]
    Segment {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file system's.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The log of one store.
pub struct Offline {
    plan: Arc<Plan>,
    store: Arc<Store>,
    projectors: Vec<Projector>,
    /// By view: how it reads its copy of the events; `None` if it has updates.
    readings: Vec<Option<Reading>>,
    /// The commits read so far.
    commits: Mutex<Arc<Timeline>>,
    /// Where segments lie.
    folders: Folders,
    /// Footers, by path.
    open: Mutex<HashMap<String, Arc<Segment>>>,
    /// Held by whoever seals.
    sealing: Mutex<()>,
}

impl Offline {
    /// Over a store, beside whoever writes it.
    ///
    /// # Errors
    /// Segments that are not as the catalogue says; types without a row format.
    pub fn new(plan: Arc<Plan>, store: Arc<Store>) -> Result<Offline, OfflineError> {
        let folders = folders(&plan, &store);
        Catalogue::read(&store)?.check_files(store.dir(), &folders)?;
        let projectors = plan.views.iter().enumerate().map(|(n, v)| Projector::new(store.ids().view(n), v));
        let projectors = projectors.collect::<Result<_, _>>()?;
        let readings = plan.views.iter().map(|v| v.key.map(|_| Reading::of(&v.plan)).transpose());
        let readings = readings.collect::<Result<_, _>>()?;
        let (commits, open, sealing) = Default::default();
        Ok(Offline { plan, store, projectors, readings, commits, folders, open, sealing })
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The updates of a view that follow from a batch of its stream's events: what its log would hold if it were kept.
    ///
    /// # Errors
    /// A batch of another schema.
    pub fn project_events(&self, view: usize, events: &RecordBatch) -> Result<Vec<Updates>, OfflineError> {
        Ok(self.projectors[view].project_events(&EventBatch::new(events.clone())?, 1)?.updates)
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The commits. Only those that are new since the last call are read.
    ///
    /// # Errors
    /// A damaged commit.
    pub fn timeline(&self) -> Result<Arc<Timeline>, OfflineError> {
        let mut commits = self.commits.lock();
        // Whoever still reads the old one keeps it.
        Arc::make_mut(&mut commits).extend(&self.store)?;
        Ok(Arc::clone(&commits))
    }

    /// A source's events with epoch <= `until`, batch by batch, oldest first.
    ///
    /// # Errors
    /// The first record that cannot be read, or what `take` says.
    pub fn events(
        &self,
        source: usize,
        until: Epoch,
        take: &mut dyn FnMut(RecordBatch) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        let id = self.store.ids().source(source);
        let (catalogue, tail) = self.log(LogKind::Events(id))?;
        for entry in catalogue.of_content(Content::Events(id)).filter(|e| e.first <= until.0) {
            for batch in self.segment(entry)?.rows()? {
                let batch = if entry.last <= until.0 { batch? } else { up_to(&batch?, until)? };
                if batch.num_rows() > 0 {
                    take(batch)?;
                }
            }
        }
        tail_batches(tail, until, take)
    }

    /// A view's updates with epoch <= `until`; `asked`: of groups with these hashes, sorted (others may come along).
    ///
    /// # Errors
    /// The first record that cannot be read, or what `take` says.
    pub fn updates(
        &self,
        view: usize,
        asked: &Asked,
        until: Epoch,
        take: &mut dyn FnMut(Updates) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        let (catalogue, tail) = self.log(self.store.ids().log_of(view))?;
        for entry in self.updates_entries(&catalogue, view, until) {
            let Some(batches) = self.sealed_rows(view, entry, asked)? else { continue };
            for batch in batches {
                self.updates_of(view, &up_to(&batch?, until)?)?.into_iter().try_for_each(&mut *take)?;
            }
        }
        self.tail_updates(view, tail, until, take)
    }

    /// One group at a stamp, from the log alone.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn evaluate(&self, view: usize, group: &[u8], epoch: Epoch, as_of: Ask) -> Result<Evaluation, OfflineError> {
        let answers = self.evaluate_groups(view, &[group], epoch, as_of, &Wanted::ALL)?;
        Ok(answers.into_iter().next().expect("every group that was asked for is answered"))
    }

    /// Groups of a view at a stamp, in the order given, from one scan of the log; none without a group. Aggregates that are
    /// not asked for are null.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn evaluate_groups(
        &self,
        view: usize,
        groups: &[&[u8]],
        epoch: Epoch,
        as_of: Ask,
        asked: &Wanted,
    ) -> Result<Vec<Evaluation>, OfflineError> {
        if groups.is_empty() {
            return Ok(vec![]);
        }
        let fold = &self.plan.views[view].fold;
        let mut states: BTreeMap<&[u8], Option<Group>> = groups.iter().map(|group| (*group, None)).collect();
        let mut hashes: Vec<u64> = states.keys().map(|group| hash_group(group)).collect();
        hashes.sort_unstable();
        self.updates(view, &Some(Arc::from(hashes)), epoch, &mut |updates| {
            for n in 0..updates.len() {
                let update = updates.get(n, &fold.shape);
                if let Some(state) = states.get_mut(update.group) {
                    state.get_or_insert_with(|| Group::new(fold)).apply(&update, as_of.0, fold);
                }
            }
            Ok(())
        })?;
        states.values_mut().flatten().for_each(|state| state.advance(as_of.0, fold));
        // A group may be asked for twice.
        let answer = |group: &&[u8]| match &states[*group] {
            Some(state) => state.evaluate_some(as_of.0, asked, fold),
            None => Evaluation::of_nothing(fold),
        };
        Ok(groups.iter().map(answer).collect())
    }

    /// The catalogue, and the tail that goes with it: together the log of one moment.
    fn log(&self, log: LogKind) -> Result<(Catalogue, Tail<'_>), OfflineError> {
        let (segments, tail) = self.store.whole_log(log)?;
        Ok((Catalogue::of(segments)?, tail))
    }

    /// The segments that a view's updates are read from.
    fn updates_entries<'a>(
        &'a self,
        catalogue: &'a Catalogue,
        view: usize,
        until: Epoch,
    ) -> impl Iterator<Item = &'a Entry> {
        let ids = self.store.ids();
        let content = match self.plan.views[view].key {
            Some(key) => Content::Keyed(ids.key(key)),
            None => Content::Updates(ids.view(view)),
        };
        catalogue.of_content(content).filter(move |e| e.first <= until.0)
    }

    /// The rows of such a segment of the asked groups, in the order of hashes; `None` if there are none.
    fn sealed_rows(&self, view: usize, entry: &Entry, asked: &Asked) -> Result<Option<SegmentRows>, OfflineError> {
        let columns = self.readings[view].as_ref().map(|reading| reading.columns.as_slice());
        self.segment(entry)?.by_hash(asked, columns)
    }

    /// The updates that such rows are, in the order of hashes.
    fn updates_of(&self, view: usize, batch: &RecordBatch) -> Result<Vec<Updates>, OfflineError> {
        match &self.readings[view] {
            _ if batch.num_rows() == 0 => Ok(vec![]),
            Some(reading) => reading.updates(&self.projectors[view], batch),
            None => Ok(vec![from_batch(self.store.ids().view(view), batch, &self.plan.views[view].fold.plan)?]),
        }
    }

    fn tail_updates(
        &self,
        view: usize,
        tail: Tail<'_>,
        until: Epoch,
        take: &mut dyn FnMut(Updates) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        let logged = self.plan.views[view].logs_updates();
        tail_batches(tail, until, &mut |batch| {
            let updates = if logged { self.updates_of(view, &batch)? } else { self.project_events(view, &batch)? };
            updates.into_iter().filter(|u| !u.is_empty()).try_for_each(&mut *take)
        })
    }

    /// An open segment; its footer is read once.
    fn segment(&self, entry: &Entry) -> Result<Arc<Segment>, OfflineError> {
        if let Some(segment) = self.open.lock().get(&entry.path) {
            return Ok(Arc::clone(segment));
        }
        let segment = Arc::new(Segment::open(&self.store, entry)?);
        let mut open = self.open.lock();
        if open.len() >= OPEN_SEGMENTS {
            open.clear();
        }
        open.insert(entry.path.clone(), Arc::clone(&segment));
        Ok(segment)
    }
}

/// Where segments lie, and the log that each folder is sealed with.
fn folders(plan: &Plan, store: &Store) -> Folders {
    let (ids, dir) = (store.ids(), store.dir());
    let events =
        plan.sources.iter().enumerate().map(|(n, s)| (dir.join(events_dir(&s.name)), LogKind::Events(ids.source(n))));
    let updates = plan.views.iter().enumerate().filter(|(_, v)| v.logs_updates());
    let updates = updates.map(|(n, v)| (dir.join(updates_dir(&v.plan.name, v.version)), ids.log_of(n)));
    let keyed = plan.keys.iter().enumerate().map(|(n, k)| {
        let stream = plan.source_index(&k.stream.name).expect("a key's stream is one of the plan's sources");
        (dir.join(keyed_dir(&k.stream.name, &k.name(), ids.key(n))), LogKind::Events(ids.source(stream)))
    });
    events.chain(updates).chain(keyed).collect()
}

/// The tail's rows with epoch <= `until`, in batches of some size.
fn tail_batches(
    tail: Tail<'_>,
    until: Epoch,
    take: &mut dyn FnMut(RecordBatch) -> Result<(), OfflineError>,
) -> Result<(), OfflineError> {
    let (mut gathered, mut rows, mut bytes): (Vec<RecordBatch>, usize, usize) = (vec![], 0, 0);
    let mut commit = 0;
    for record in tail {
        let record = record?;
        // Epochs rise from commit to commit: behind the one that reaches `until` there is nothing to find.
        if record.last > commit && commit >= until.0 {
            break;
        }
        commit = record.last;
        for batch in record.batches {
            let batch = if record.last <= until.0 { batch } else { up_to(&batch, until)? };
            rows += batch.num_rows();
            bytes += slice_bytes(&batch);
            gathered.push(batch);
            if rows >= BATCH_ROWS || bytes >= BATCH_BYTES {
                flush(&mut gathered, take)?;
                (rows, bytes) = (0, 0);
            }
        }
    }
    flush(&mut gathered, take)
}

/// Bytes of a batch's rows; buffers that batches share are not counted whole.
fn slice_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or_default()).sum()
}

fn flush(
    gathered: &mut Vec<RecordBatch>,
    take: &mut dyn FnMut(RecordBatch) -> Result<(), OfflineError>,
) -> Result<(), OfflineError> {
    let batches = std::mem::take(gathered);
    let Some(first) = batches.first() else { return Ok(()) };
    let batch = concat_batches(&first.schema(), &batches)?;
    if batch.num_rows() == 0 { Ok(()) } else { take(batch) }
}
