//! Immutable Parquet files, read: all of one, or the row groups and rows in which asked groups are.
//!
//! Updates, and events sorted by a key, are in the order of the groups' hashes, so the row groups' statistics say where a
//! group may be. A file is opened anew for every read of a page: a join may walk through thousands of segments side by
//! side without holding them open.
//!
//! Invariants: a filter leaves out only rows that were not asked for; no byte is read that was not written so.
//! Neighbours: `seal` writes what is read here, `catalogue` says which files there are, `blocks` compares their bytes.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowFilter,
};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;

use super::OfflineError;
use super::blocks::{Blocks, CheckedFile, CheckedReader};
use super::catalogue::Entry;
use crate::state::Store;

/// Rows decoded at once.
const BATCH: usize = 4096;

impl Length for CheckedFile {
    fn len(&self) -> u64 {
        self.length()
    }
}

impl ChunkReader for CheckedFile {
    type T = CheckedReader;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.reader(start)?)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        Ok(self.bytes(start, length)?)
    }
}

/// Hashes of the groups that are asked for, sorted and each once; `None`: all groups.
pub type Asked = Option<Arc<[u64]>>;

/// A segment, its footer read.
#[derive(Clone, Debug)]
pub struct Segment {
    file: CheckedFile,
    metadata: ArrowReaderMetadata,
    /// Least and greatest `_hash` of each row group, if it is sorted by that.
    hashes: Vec<(u64, u64)>,
}

impl Segment {
    /// Reads the footer.
    ///
    /// # Errors
    /// A file that is missing, or is not the entry's.
    pub fn open(store: &Store, entry: &Entry) -> Result<Segment, OfflineError> {
        let path = store.dir().join(&entry.path);
        let failed =
            |e: parquet::errors::ParquetError| OfflineError::Segment { path: path.clone(), why: e.to_string() };
        let stored = store.segment_blocks(&entry.path)?;
        let blocks = stored.and_then(|b| Blocks::of(entry.bytes, &b)).filter(|b| b.digest() == entry.digest);
        let Some(blocks) = blocks else {
            let why = "the digests of its blocks are not the catalogue's".into();
            return Err(OfflineError::Segment { path, why });
        };
        let found = std::fs::metadata(&path).map_err(|source| OfflineError::Io { path: path.clone(), source })?.len();
        if found != entry.bytes {
            let why = format!("it has {found} bytes, the catalogue says {}", entry.bytes);
            return Err(OfflineError::Segment { path, why });
        }
        let file = CheckedFile::new(&path, blocks);
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(failed)?;
        let rows = u64::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
        if rows != entry.rows {
            let why = format!("it has {rows} rows, the catalogue says {}", entry.rows);
            return Err(OfflineError::Segment { path, why });
        }
        let hashes = metadata.metadata().row_groups().iter().map(|group| match group.column(0).statistics() {
            Some(Statistics::Int64(s)) => {
                (s.min_opt().map_or(0, |v| v.cast_unsigned()), s.max_opt().map_or(u64::MAX, |v| v.cast_unsigned()))
            }
            Some(_) | None => (0, u64::MAX),
        });
        let hashes = hashes.collect();
        Ok(Segment { file, metadata, hashes })
    }

    /// Compares all bytes with what was written.
    ///
    /// # Errors
    /// The first block that differs.
    pub fn check(&self) -> Result<(), OfflineError> {
        let path = &self.file.path;
        self.file.check().map_err(|e| OfflineError::Segment { path: path.clone(), why: e.to_string() })
    }

    /// All rows, in the file's order.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn rows(&self) -> Result<SegmentRows, OfflineError> {
        self.read(self.builder())
    }

    fn read(&self, builder: ParquetRecordBatchReaderBuilder<CheckedFile>) -> Result<SegmentRows, OfflineError> {
        let reader = builder.build().map_err(|e| self.failed(&e))?;
        Ok(SegmentRows { reader, path: self.file.path.clone() })
    }

    /// The row groups that may hold an asked hash.
    pub fn row_groups(&self, asked: &[u64]) -> Vec<usize> {
        let holds = |n: &usize| {
            let (least, greatest) = self.hashes[*n];
            asked.get(asked.partition_point(|h| *h < least)).is_some_and(|h| *h <= greatest)
        };
        (0..self.hashes.len()).filter(holds).collect()
    }

    /// The rows of the asked groups (others may come along), in the order of hashes; `None` if there are none. `columns`:
    /// only these, by their places in the file, in its order.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn by_hash(&self, asked: &Asked, columns: Option<&[usize]>) -> Result<Option<SegmentRows>, OfflineError> {
        let mut builder = self.builder();
        if let Some(columns) = columns {
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
            builder = builder.with_projection(mask);
        }
        let Some(asked) = asked else { return self.read(builder).map(Some) };
        let groups = self.row_groups(asked);
        let (Some(first), Some(last)) = (groups.first(), groups.last()) else { return Ok(None) };
        let range = (self.hashes[*first].0, self.hashes[*last].1);
        let wanted = asked.partition_point(|h| *h <= range.1) - asked.partition_point(|h| *h < range.0);
        let rows: i64 = groups.iter().map(|g| self.metadata.metadata().row_group(*g).num_rows()).sum();
        builder = builder.with_row_groups(groups);
        // Where most rows are wanted, picking them costs more than reading them all.
        if wanted.saturating_mul(8) < usize::try_from(rows).unwrap_or(usize::MAX) {
            let mask = ProjectionMask::roots(builder.parquet_schema(), [0]);
            let asked = Arc::clone(asked);
            let pick =
                move |batch: RecordBatch| Ok(contained(batch.column(0).as_primitive::<UInt64Type>().values(), &asked));
            builder = builder.with_row_filter(RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, pick))]));
        }
        self.read(builder).map(Some)
    }

    fn builder(&self) -> ParquetRecordBatchReaderBuilder<CheckedFile> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
            .with_batch_size(BATCH)
    }

    fn failed(&self, error: &parquet::errors::ParquetError) -> OfflineError {
        OfflineError::Segment { path: self.file.path.clone(), why: error.to_string() }
    }
}

/// A segment's rows, batch by batch; an error names the file.
pub struct SegmentRows {
    reader: ParquetRecordBatchReader,
    path: PathBuf,
}

impl Iterator for SegmentRows {
    type Item = Result<RecordBatch, OfflineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let failed = |e: ArrowError| OfflineError::Segment { path: self.path.clone(), why: e.to_string() };
        Some(self.reader.next()?.map_err(failed))
    }
}

/// Which of the hashes are asked for; equal ones stand together.
fn contained(hashes: &[u64], asked: &[u64]) -> BooleanArray {
    let mut last: Option<(u64, bool)> = None;
    let found = hashes.iter().map(|hash| match last {
        Some((h, found)) if h == *hash => Some(found),
        _ => {
            let found = asked.binary_search(hash).is_ok();
            last = Some((*hash, found));
            Some(found)
        }
    });
    BooleanArray::from_iter(found)
}
