//! Sealing: the tail's older records become Parquet, and leave the tail in the batch that adds the files.
//!
//! Events are written sorted by (epoch, partition, offset), and again for each key that views group them by, by (hash,
//! event time, partition, offset): see `keyed`. The updates of views that log them are sorted by (hash, group, event time,
//! source, partition, offset, epoch). So a group's rows stand together.
//!
//! A file is written under another name, synced, renamed, and only then put into the catalogue. A crash before that leaves
//! files that nobody knows; the next sealing removes them.
//!
//! Invariants: segments and tail together are the log, at every moment; what is sealed is in written-back pages (asserted
//! in [`Store::seal`](crate::state::Store::seal)); in memory are at most about a million
//! updates, or 256 MB of them, and of events a gigabyte twice, while they are sorted.
//! Neighbours: `segment` reads the files, `catalogue` lists them, `state::log` takes the records out of the tail.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::blocks::{Blocks, Hashing};
use super::catalogue::{Catalogue, Content, Entry, events_dir, files, keyed_dir, updates_dir};
use super::{Offline, OfflineError, keyed, slice_bytes};
use crate::event::EventBatch;
use crate::fold::columns::{from_batch, to_batch, updates_schema};
use crate::fold::entry::{Update, Updates};
use crate::plan::PlannedView;
use crate::state::StateError;
use crate::state::commit::LogKind;
use crate::state::faults::Faults;
use crate::state::log::NewSegment;
use crate::time::Epoch;

/// Rows of a file.
const FILE_ROWS: usize = 1 << 20;
/// Rows of a row group: the grain at which groups are skipped.
const GROUP_ROWS: usize = 1 << 16;
/// Bytes gathered at which a file is written before it has all its rows.
const FILE_BYTES: usize = 256 << 20;
/// Bytes gathered at which a file is written even within a commit: a column of text holds less than two gigabytes.
const PART_BYTES: usize = 1 << 30;

/// Extension of a file that is being written.
const UNFINISHED: &str = "tmp";

/// What a sealing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealSummary {
    /// Files written.
    pub segments: u64,
    /// Events in them.
    pub events: u64,
    /// Updates in them.
    pub updates: u64,
    /// Events in them once more, sorted by keys.
    pub keyed: u64,
    /// Their size.
    pub bytes: u64,
}

impl Offline {
    /// Moves the records of all commits up to `until`, the last epoch of one, from the tail into segments: those of each
    /// log as far as pages hold it, see [`Store::sealable`](crate::state::Store::sealable). Only one sealing runs at a
    /// time; readers are not held up.
    ///
    /// # Errors
    /// A full disk, or a log that cannot be read; then the tail is as it was.
    pub fn seal(&self, until: Epoch) -> Result<SealSummary, OfflineError> {
        let _one = self.sealing.lock();
        let catalogue = Catalogue::read(&self.store)?;
        let ids = self.store.ids();
        let mut ends: Vec<(LogKind, u64)> = vec![];
        for log in ids.logs() {
            let end = self.store.sealable(log)?.min(until.0);
            if end > catalogue.sealed(log) {
                ends.push((log, end));
            }
        }
        if ends.is_empty() {
            return Ok(SealSummary::default());
        }
        self.remove_leftovers(&catalogue)?;
        let mut sealer = Sealer { offline: self, entries: vec![], blocks: vec![] };
        for &(log, end) in &ends {
            let range = (catalogue.sealed(log), end);
            match log {
                LogKind::Events(id) => {
                    let source = (0..self.plan.sources.len()).find(|n| ids.source(*n) == id);
                    sealer.source(source.expect("the plan has all logs that there are"), range)?;
                }
                LogKind::Updates(id) => {
                    let view = ids.view_index(id).expect("the plan has all logs that there are");
                    sealer.logged_updates(view, range)?;
                }
            }
        }
        let entries = sealer.entries;
        let new = |(entry, blocks): (&Entry, &Blocks)| NewSegment {
            key: entry.path.clone(),
            entry: serde_json::to_vec(entry).expect("plain fields always encode"),
            blocks: blocks.to_bytes(),
        };
        let rows: Vec<NewSegment> = entries.iter().zip(&sealer.blocks).map(new).collect();
        self.store.seal(&rows, &ends)?;
        let sum = |is: fn(&Content) -> bool| entries.iter().filter(|e| is(&e.of)).map(|e| e.rows).sum();
        Ok(SealSummary {
            segments: entries.len() as u64,
            events: sum(|of| matches!(of, Content::Events(_))),
            updates: sum(|of| matches!(of, Content::Updates(_))),
            keyed: sum(|of| matches!(of, Content::Keyed(_))),
            bytes: entries.iter().map(|e| e.bytes).sum(),
        })
    }

    /// Reads every segment and compares its digest, and the numbers of events with what the commits say. Returns how
    /// many segments there are.
    ///
    /// # Errors
    /// The first that is missing or differs.
    pub fn check_segments(&self) -> Result<u64, OfflineError> {
        let catalogue = Catalogue::read(&self.store)?;
        for entry in &catalogue.entries {
            self.segment(entry)?.check()?;
        }
        let mut expected: BTreeMap<LogKind, u64> = BTreeMap::new();
        for commit in self.store.commits() {
            let commit = commit?;
            for record in &commit.records {
                if commit.last <= catalogue.sealed(record.log) {
                    *expected.entry(record.log).or_default() += record.rows;
                }
            }
        }
        for log in self.store.ids().logs() {
            let content = match log {
                LogKind::Events(source) => Content::Events(source),
                LogKind::Updates(view) => Content::Updates(view),
            };
            let found: u64 = catalogue.of_content(content).map(|e| e.rows).sum();
            let want = expected.get(&log).copied().unwrap_or(0);
            if found != want {
                let why = format!("its segments hold {found} rows, the commits say {want}");
                return Err(StateError::Damaged { what: self.name_of(log), why }.into());
            }
        }
        // How many events are in no group at all nobody has written down; but no copy has more than there are.
        for (n, key) in self.plan.keys.iter().enumerate() {
            let stream = self.plan.source_index(&key.stream.name).expect("a key's stream is one of the plan's sources");
            let most = expected.get(&LogKind::Events(self.store.ids().source(stream))).copied().unwrap_or(0);
            let found: u64 = catalogue.of_content(Content::Keyed(self.store.ids().key(n))).map(|e| e.rows).sum();
            if found > most {
                let what = format!("the events of `{}` by {}", key.stream.name, key.name());
                let why = format!("its segments hold {found} rows, there are {most} events");
                return Err(StateError::Damaged { what, why }.into());
            }
        }
        Ok(catalogue.entries.len() as u64)
    }

    /// A log for people.
    fn name_of(&self, log: LogKind) -> String {
        let ids = self.store.ids();
        let source = self.plan.sources.iter().enumerate().find(|(n, _)| LogKind::Events(ids.source(*n)) == log);
        let view = self.plan.views.iter().enumerate().find(|(n, _)| LogKind::Updates(ids.view(*n)) == log);
        match (source, view) {
            (Some((_, source)), _) => format!("the events log of `{}`", source.name),
            (_, Some((_, view))) => format!("the updates log of `{}`", view.plan.name),
            (None, None) => format!("the log {log}"),
        }
    }

    /// Removes what an interrupted sealing left: files of what is not sealed yet, and unfinished ones.
    fn remove_leftovers(&self, catalogue: &Catalogue) -> Result<(), OfflineError> {
        let listed = catalogue.paths();
        for file in files(self.store.dir())?.into_iter().filter(|f| !listed.contains(f.name.as_str())) {
            let is_unfinished = file.path.extension().is_some_and(|e| e == UNFINISHED);
            if is_unfinished || catalogue.is_unsealed(&file, &self.folders) {
                std::fs::remove_file(&file.path).map_err(|source| OfflineError::Io { path: file.path, source })?;
            }
        }
        Ok(())
    }
}

/// A sealing under way.
struct Sealer<'a> {
    offline: &'a Offline,
    entries: Vec<Entry>,
    /// The digests of their blocks.
    blocks: Vec<Blocks>,
}

/// What a file is of, and how it is written.
struct Target {
    of: Content,
    log: LogKind,
    dir: PathBuf,
    schema: SchemaRef,
}

impl Sealer<'_> {
    /// One source's events, and a copy of them per key.
    fn source(&mut self, source: usize, (after, until): (u64, u64)) -> Result<(), OfflineError> {
        let log = LogKind::Events(self.offline.store.ids().source(source));
        let (mut batches, mut rows, mut bytes, mut last) = (vec![], 0, 0, 0);
        for record in self.offline.store.tail(log, after, until)? {
            let record = record?;
            // Files end where commits end, so that their epochs do not overlap; but a commit may be larger than what can
            // be in memory at once: a whole table is one.
            let ends = (rows >= FILE_ROWS || bytes >= FILE_BYTES) && record.last != last;
            let more: usize = record.batches.iter().map(slice_bytes).sum();
            if ends || bytes > 0 && bytes + more >= PART_BYTES {
                self.events(source, std::mem::take(&mut batches))?;
                (rows, bytes) = (0, 0);
            }
            last = record.last;
            bytes += more;
            rows += record.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
            batches.extend(record.batches);
        }
        self.events(source, batches)
    }

    fn events(&mut self, source: usize, batches: Vec<RecordBatch>) -> Result<(), OfflineError> {
        let Some(first) = batches.first() else { return Ok(()) };
        let schema = first.schema();
        let rows = concat_batches(&schema, &batches)?;
        drop(batches);
        let rows = in_order(rows)?;
        let id = self.offline.store.ids().source(source);
        let dir = events_dir(&self.offline.plan.sources[source].name);
        let target = Target { of: Content::Events(id), log: LogKind::Events(id), dir, schema };
        for from in (0..rows.num_rows()).step_by(FILE_ROWS) {
            let file = rows.slice(from, FILE_ROWS.min(rows.num_rows() - from));
            let Some(range) = range(epochs(&file)?.iter().copied()) else { continue };
            self.write(&target, range, &mut std::iter::once(Ok(file.clone())))?;
        }
        let name = &self.offline.plan.sources[source].name;
        let keys = self.offline.plan.keys.iter().enumerate().filter(|(_, key)| key.stream.name == *name);
        let keys: Vec<usize> = keys.map(|(n, _)| n).collect();
        keys.into_iter().try_for_each(|key| self.keyed(source, key, &rows))
    }

    /// Events once more, in the order of a key's groups.
    fn keyed(&mut self, source: usize, key: usize, rows: &RecordBatch) -> Result<(), OfflineError> {
        let (ids, key_id) = (self.offline.store.ids(), self.offline.store.ids().key(key));
        let key = &self.offline.plan.keys[key];
        let (dir, schema) = (keyed_dir(&key.stream.name, &key.name(), key_id), keyed::schema(&key.stream));
        let target = Target { of: Content::Keyed(key_id), log: LogKind::Events(ids.source(source)), dir, schema };
        let order = keyed::order(key, &EventBatch::new(rows.clone())?)?;
        let epochs = epochs(rows)?;
        for file in order.chunks(FILE_ROWS) {
            let Some(range) = range(file.iter().map(|(_, row)| epochs[*row as usize])) else { continue };
            let mut parts = file.chunks(GROUP_ROWS).map(|part| keyed::rows(rows, part, &target.schema));
            self.write(&target, range, &mut parts)?;
        }
        Ok(())
    }

    /// The updates that a joined view's commits logged.
    fn logged_updates(&mut self, view: usize, (after, until): (u64, u64)) -> Result<(), OfflineError> {
        let fold = &self.offline.plan.views[view].fold;
        let id = self.offline.store.ids().view(view);
        let mut pending = Updates::of(id);
        for record in self.offline.store.tail(LogKind::Updates(id), after, until)? {
            for batch in record?.batches {
                let updates = from_batch(id, &batch, &fold.plan)?;
                (0..updates.len()).for_each(|n| pending.push(&updates.get(n, &fold.shape), &fold.shape));
                if pending.len() >= FILE_ROWS || long_bytes(&pending) >= FILE_BYTES {
                    self.write_updates(view, &std::mem::replace(&mut pending, Updates::of(id)))?;
                }
            }
        }
        self.write_updates(view, &pending)
    }

    fn write_updates(&mut self, view: usize, updates: &Updates) -> Result<(), OfflineError> {
        let Some(range) = range(updates.epochs.iter().copied()) else { return Ok(()) };
        let (id, log) = (updates.view, self.offline.store.ids().log_of(view));
        let planned = &self.offline.plan.views[view];
        let fold = &planned.fold;
        let names: Vec<String> = planned.plan.groups.iter().map(|(name, _)| name.clone()).collect();
        let (dir, schema) = (updates_dir(&planned.plan.name, planned.version), updates_schema(&fold.plan, &names));
        let target = Target { of: Content::Updates(id), log, dir, schema };
        let order = by_group(updates, planned);
        let mut parts =
            order.chunks(GROUP_ROWS).map(|part| to_batch(updates, part, &fold.plan, &fold.shape, &target.schema));
        self.write(&target, range, &mut parts)
    }

    /// Writes one file; it is not in the catalogue yet.
    fn write(
        &mut self,
        target: &Target,
        (first, last): (u64, u64),
        batches: &mut dyn Iterator<Item = Result<RecordBatch, ArrowError>>,
    ) -> Result<(), OfflineError> {
        let data_dir = self.offline.store.dir();
        let taken = |path: &str| self.entries.iter().any(|e| e.path == path);
        let path_of = |n: usize| {
            let number = if n == 0 { String::new() } else { format!("-{n}") };
            target.dir.join(format!("{first}-{last}{number}.parquet")).to_string_lossy().into_owned()
        };
        let path = (0..).map(path_of).find(|p| !taken(p)).expect("numbers do not run out");
        let whole = data_dir.join(&path);
        let unfinished = whole.with_extension(UNFINISHED);
        let faults = self.offline.store.faults();
        make_dir(faults, data_dir, &target.dir)?;
        let io = |source| OfflineError::Io { path: unfinished.clone(), source };
        let failed =
            |e: parquet::errors::ParquetError| OfflineError::Segment { path: whole.clone(), why: e.to_string() };
        let file = File::create(&unfinished).map_err(io)?;
        let file = Hashing::new(file);
        let mut writer = ArrowWriter::try_new(file, SchemaRef::clone(&target.schema), Some(properties(target.of)))
            .map_err(failed)?;
        let mut rows = 0;
        for batch in batches {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            writer.write(&batch).map_err(failed)?;
        }
        let (file, blocks) = writer.into_inner().map_err(failed)?.end();
        // Bytes, then the name, then the name on the disk: the catalogue may name only what a power loss leaves whole.
        faults.sync_file(&file, &unfinished).map_err(io)?;
        faults.rename(&unfinished, &whole).map_err(io)?;
        sync_dir(faults, &data_dir.join(&target.dir))?;
        let (digest, bytes) = (blocks.digest(), blocks.bytes());
        self.entries.push(Entry { path, of: target.of, log: target.log, first, last, rows, bytes, digest });
        self.blocks.push(blocks);
        Ok(())
    }
}

/// How a file is written. Rising numbers are kept as differences; hashes get a statistic by page, too.
fn properties(of: Content) -> WriterProperties {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).expect("1 is a level"));
    let rising = |builder: WriterPropertiesBuilder, name: &str| {
        let column = ColumnPath::from(name);
        builder
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED)
    };
    let builder = WriterProperties::builder()
        .set_compression(zstd)
        .set_created_by(concat!("headwater ", env!("CARGO_PKG_VERSION")).to_string())
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(GROUP_ROWS));
    let builder = ["_event_time", "_epoch", "_offset"].into_iter().fold(builder, rising);
    match of {
        Content::Events(_) => rising(builder, "_arrival_time").build(),
        Content::Updates(_) => rising(builder, "_hash").build(),
        Content::Keyed(_) => rising(rising(builder, "_arrival_time"), "_hash").build(),
    }
}

/// Bytes of groups and long values.
fn long_bytes(updates: &Updates) -> usize {
    updates.heap.len() + updates.group_bytes.len()
}

/// Sorted by epoch, partition and offset.
fn in_order(rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let column = |name: &str| {
        let values = Arc::clone(rows.column(rows.schema().index_of(name)?));
        Ok::<_, ArrowError>(SortColumn { values, options: None })
    };
    let order = lexsort_to_indices(&[column("_epoch")?, column("_partition")?, column("_offset")?], None)?;
    if order.values().iter().zip(0..).all(|(n, place)| *n == place) {
        return Ok(rows);
    }
    take_record_batch(&rows, &order)
}

/// Positions of updates in a segment's order.
fn by_group(updates: &Updates, planned: &PlannedView) -> Vec<u32> {
    let shape = &planned.fold.shape;
    let key = |u: &Update<'_>| (u.entry.place(), u.epoch);
    let mut order: Vec<(u64, u32)> = updates.hashes.iter().copied().zip(0..).collect();
    order.sort_unstable();
    let mut from = 0;
    while from < order.len() {
        let same = order[from..].iter().take_while(|(hash, _)| *hash == order[from].0).count();
        order[from..from + same].sort_by(|(_, a), (_, b)| {
            let (a, b) = (updates.get(*a as usize, shape), updates.get(*b as usize, shape));
            a.group.cmp(b.group).then_with(|| key(&a).cmp(&key(&b)))
        });
        from += same;
    }
    order.into_iter().map(|(_, n)| n).collect()
}

fn epochs(batch: &RecordBatch) -> Result<Vec<u64>, ArrowError> {
    let column = batch.column(batch.schema().index_of("_epoch")?);
    Ok(column.as_primitive::<TimestampMicrosecondType>().values().iter().map(|e| e.cast_unsigned()).collect())
}

/// The least and the greatest epoch; `None` without any.
fn range(epochs: impl Iterator<Item = u64>) -> Option<(u64, u64)> {
    epochs.fold(None, |range, epoch| match range {
        None => Some((epoch, epoch)),
        Some((first, last)) => Some((epoch.min(first), epoch.max(last))),
    })
}

/// Makes a directory under the data directory, durably: one that is there may be of a process that died before it could
/// sync its name.
fn make_dir(faults: &Faults, data_dir: &Path, dir: &Path) -> Result<(), OfflineError> {
    let whole = data_dir.join(dir);
    std::fs::create_dir_all(&whole).map_err(|source| OfflineError::Io { path: whole.clone(), source })?;
    dir.ancestors().try_for_each(|d| sync_dir(faults, &data_dir.join(d)))
}

fn sync_dir(faults: &Faults, dir: &Path) -> Result<(), OfflineError> {
    faults.sync_dir(dir).map_err(|source| OfflineError::Io { path: dir.to_path_buf(), source })
}
