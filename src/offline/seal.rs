//! Sealing: the tail's older records become Parquet, and leave the tail in the batch that adds the files.
//!
//! Events are written sorted by (epoch, partition, offset); every view's updates, those made again from the events among
//! them, by (hash, group, event time, partition, offset, epoch), so that a group's rows stand together.
//!
//! A file is written under another name, synced, renamed, and only then put into the catalogue. A crash before that leaves
//! files that nobody knows; the next sealing removes them.
//!
//! Invariants: segments and tail together are the log, at every moment; what is sealed is in written-back pages (asserted
//! in [`Offline::seal`]); in memory are at most about two million updates, or a gigabyte of them, and of events a gigabyte
//! twice, while they are sorted.
//! Neighbours: `segment` reads the files, `catalogue` lists them, `state::log` takes the records out of the tail.

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
use super::catalogue::{Catalogue, Entry, SegmentKind, events_dir, files, updates_dir};
use super::{Offline, OfflineError, slice_bytes};
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
/// Rows of a row group of updates: the grain at which groups are skipped.
const GROUP_ROWS: usize = 1 << 16;
/// Bytes gathered at which a file is written before it has all its rows.
const FILE_BYTES: usize = 256 << 20;
/// Bytes gathered at which a file is written even within a commit: a column of text holds less than two gigabytes.
const PART_BYTES: usize = 1 << 30;
/// Updates in memory, over all views, at which the largest part is written.
const PENDING_ROWS: usize = 2 << 20;
/// Rows evaluated at once.
const SLICE: usize = 8192;

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
    /// Their size.
    pub bytes: u64,
}

impl Offline {
    /// Moves the records of all commits up to `until` from the tail into segments. `until` is the last epoch of a
    /// commit and not above the redo point. Only one sealing runs at a time; readers are not held up.
    ///
    /// # Errors
    /// A full disk, or a log that cannot be read; then the tail is as it was.
    ///
    /// # Panics
    /// If `until` is above the redo point: a restart redoes the tail, and would not find what it lacks.
    pub fn seal(&self, until: Epoch) -> Result<SealSummary, OfflineError> {
        let _one = self.sealing.lock();
        let redo = self.store.redo_point()?;
        assert!(until.0 <= redo, "sealing up to {until}, pages hold the log up to {}", Epoch(redo));
        let catalogue = Catalogue::read(&self.store)?;
        if until.0 <= catalogue.sealed {
            return Ok(SealSummary::default());
        }
        remove_leftovers(self.store.dir(), &catalogue)?;
        let pending = self.plan.views.iter().map(|_| Updates::default()).collect();
        let mut sealer = Sealer { offline: self, entries: vec![], blocks: vec![], pending };
        for source in 0..self.plan.sources.len() {
            sealer.source(source, catalogue.sealed, until)?;
        }
        for view in (0..self.plan.views.len()).filter(|v| self.plan.views[*v].logs_updates()) {
            sealer.logged_updates(view, catalogue.sealed, until)?;
        }
        let entries = sealer.entries;
        let new = |(entry, blocks): (&Entry, &Blocks)| NewSegment {
            key: entry.path.clone(),
            entry: serde_json::to_vec(entry).expect("plain fields always encode"),
            blocks: blocks.to_bytes(),
        };
        let rows: Vec<NewSegment> = entries.iter().zip(&sealer.blocks).map(new).collect();
        self.store.seal(&rows, until.0, self.plan.sources.len(), self.plan.views.len())?;
        let sum = |kind| entries.iter().filter(|e| e.kind == kind).map(|e| e.rows).sum();
        Ok(SealSummary {
            segments: entries.len() as u64,
            events: sum(SegmentKind::Events),
            updates: sum(SegmentKind::Updates),
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
        let mut expected = vec![0; self.plan.sources.len()];
        for commit in self.store.commits() {
            let commit = commit?;
            if commit.last > catalogue.sealed {
                break;
            }
            for (source, rows) in expected.iter_mut().enumerate() {
                *rows += self.store.rows_of(&commit, LogKind::Events(source));
            }
        }
        for (source, want) in self.plan.sources.iter().zip(expected) {
            let found: u64 = catalogue.events(&source.name).map(|e| e.rows).sum();
            if found != want {
                let what = format!("the events log of `{}`", source.name);
                let why = format!("its segments hold {found} events, the commits say {want}");
                return Err(StateError::Damaged { what, why }.into());
            }
        }
        Ok(catalogue.entries.len() as u64)
    }
}

/// A sealing under way.
struct Sealer<'a> {
    offline: &'a Offline,
    entries: Vec<Entry>,
    /// The digests of their blocks.
    blocks: Vec<Blocks>,
    /// Updates that wait to fill a file, by view.
    pending: Vec<Updates>,
}

/// What a file is of, and how it is written.
struct Target {
    kind: SegmentKind,
    name: String,
    version: u32,
    dir: PathBuf,
    schema: SchemaRef,
}

impl Sealer<'_> {
    /// One source's events, and the updates of the views that are fed straight from it.
    fn source(&mut self, source: usize, after: u64, until: Epoch) -> Result<(), OfflineError> {
        let name = &self.offline.plan.sources[source].name;
        let fed = |v: &PlannedView| !v.logs_updates() && v.plan.stream.name == *name;
        let views: Vec<usize> = (0..).zip(&self.offline.plan.views).filter(|(_, v)| fed(v)).map(|(n, _)| n).collect();
        let (mut batches, mut rows, mut bytes, mut last) = (vec![], 0, 0, 0);
        for record in self.offline.store.tail(LogKind::Events(source), after, until.0)? {
            let record = record?;
            // Files end where commits end, so that their epochs do not overlap; but a commit may be larger than what can
            // be in memory at once: a whole table is one.
            let ends = (rows >= FILE_ROWS || bytes >= FILE_BYTES) && record.last != last;
            let more: usize = record.batches.iter().map(slice_bytes).sum();
            if ends || bytes > 0 && bytes + more >= PART_BYTES {
                self.events(source, &views, std::mem::take(&mut batches))?;
                (rows, bytes) = (0, 0);
            }
            last = record.last;
            bytes += more;
            rows += record.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
            batches.extend(record.batches);
        }
        self.events(source, &views, batches)?;
        views.iter().try_for_each(|view| self.write_updates(*view))
    }

    fn events(&mut self, source: usize, views: &[usize], batches: Vec<RecordBatch>) -> Result<(), OfflineError> {
        let Some(first) = batches.first() else { return Ok(()) };
        let schema = first.schema();
        let rows = concat_batches(&schema, &batches)?;
        drop(batches);
        let rows = in_order(rows)?;
        let name = self.offline.plan.sources[source].name.clone();
        let dir = events_dir(&name);
        let target = Target { kind: SegmentKind::Events, name, version: 0, dir, schema };
        for from in (0..rows.num_rows()).step_by(FILE_ROWS) {
            let file = rows.slice(from, FILE_ROWS.min(rows.num_rows() - from));
            let epochs = epochs(&file)?;
            let (Some(first), Some(last)) = (epochs.iter().min(), epochs.iter().max()) else { continue };
            let range = (first.cast_unsigned(), last.cast_unsigned());
            self.write(&target, range, &mut std::iter::once(Ok(file.clone())))?;
        }
        for from in (0..rows.num_rows()).step_by(SLICE) {
            let slice = rows.slice(from, SLICE.min(rows.num_rows() - from));
            for &view in views {
                let updates = self.offline.project_events(view, &slice)?;
                updates.iter().try_for_each(|updates| self.gather(view, updates))?;
            }
        }
        Ok(())
    }

    /// The updates that a joined view's commits logged.
    fn logged_updates(&mut self, view: usize, after: u64, until: Epoch) -> Result<(), OfflineError> {
        let fold = &self.offline.plan.views[view].fold;
        for record in self.offline.store.tail(LogKind::Updates(view), after, until.0)? {
            for batch in record?.batches {
                self.gather(view, &from_batch(&batch, &fold.plan)?)?;
            }
        }
        self.write_updates(view)
    }

    fn gather(&mut self, view: usize, updates: &Updates) -> Result<(), OfflineError> {
        let shape = &self.offline.plan.views[view].fold.shape;
        let pending = &mut self.pending[view];
        (0..updates.len()).for_each(|n| pending.push(&updates.get(n, shape), shape));
        if pending.len() >= FILE_ROWS || long_bytes(pending) >= FILE_BYTES {
            return self.write_updates(view);
        }
        let largest = |size: fn(&Updates) -> usize, most: usize| {
            let sizes = || self.pending.iter().map(size);
            (sizes().sum::<usize>() >= most).then(|| sizes().enumerate().max_by_key(|(_, size)| *size)).flatten()
        };
        if let Some((view, _)) = largest(Updates::len, PENDING_ROWS).or_else(|| largest(long_bytes, PART_BYTES)) {
            return self.write_updates(view);
        }
        Ok(())
    }

    fn write_updates(&mut self, view: usize) -> Result<(), OfflineError> {
        let updates = std::mem::take(&mut self.pending[view]);
        let (Some(first), Some(last)) = (updates.epochs.iter().min(), updates.epochs.iter().max()) else {
            return Ok(());
        };
        let planned = &self.offline.plan.views[view];
        let fold = &planned.fold;
        let names: Vec<String> = planned.plan.groups.iter().map(|(name, _)| name.clone()).collect();
        let (name, version) = (planned.plan.name.clone(), planned.version);
        let (dir, schema) = (updates_dir(&name, version), updates_schema(&fold.plan, &names));
        let target = Target { kind: SegmentKind::Updates, name, version, dir, schema };
        let order = by_group(&updates, planned);
        let mut parts =
            order.chunks(GROUP_ROWS).map(|part| to_batch(&updates, part, &fold.plan, &fold.shape, &target.schema));
        self.write(&target, (*first, *last), &mut parts)
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
        let mut writer = ArrowWriter::try_new(file, SchemaRef::clone(&target.schema), Some(properties(target.kind)))
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
        let (kind, name, version) = (target.kind, target.name.clone(), target.version);
        let (digest, bytes) = (blocks.digest(), blocks.bytes());
        self.entries.push(Entry { path, kind, name, version, first, last, rows, bytes, digest });
        self.blocks.push(blocks);
        Ok(())
    }
}

/// How a file is written. Rising numbers are kept as differences; hashes get a statistic by page, too.
fn properties(kind: SegmentKind) -> WriterProperties {
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
    match kind {
        SegmentKind::Events => rising(builder, "_arrival_time").build(),
        SegmentKind::Updates => rising(builder, "_hash").build(),
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
    let key = |u: &Update<'_>| (u.entry.event_time(), u.entry.partition(), u.entry.offset(), u.epoch);
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

fn epochs(batch: &RecordBatch) -> Result<Vec<i64>, ArrowError> {
    let column = batch.column(batch.schema().index_of("_epoch")?);
    Ok(column.as_primitive::<TimestampMicrosecondType>().values().to_vec())
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

/// Removes what an interrupted sealing left: files of epochs that are not sealed yet, and unfinished ones.
fn remove_leftovers(data_dir: &Path, catalogue: &Catalogue) -> Result<(), OfflineError> {
    let listed = catalogue.paths();
    for file in files(data_dir)?.into_iter().filter(|f| !listed.contains(f.name.as_str())) {
        let unsealed = file.range.is_some_and(|(first, _)| first > catalogue.sealed);
        if unsealed || file.path.extension().is_some_and(|e| e == UNFINISHED) {
            std::fs::remove_file(&file.path).map_err(|source| OfflineError::Io { path: file.path, source })?;
        }
    }
    Ok(())
}
