//! Immutable Parquet files, read: all of one, or the row groups and rows in which asked groups are.
//!
//! Updates are sorted by the group's hash, so the row groups' statistics say where a group may be. A file is opened anew
//! for every read of a page: a join may walk through thousands of segments side by side without holding them open.
//!
//! Invariants: a filter leaves out only rows that were not asked for. Neighbours: `seal` writes what is read here,
//! `catalogue` says which files there are.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::UInt64Type;
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
use super::catalogue::Entry;

/// Rows decoded at once.
const BATCH: usize = 4096;

/// A file that is opened for each read.
#[derive(Clone, Debug)]
struct Reopened {
    path: PathBuf,
    len: u64,
}

impl Length for Reopened {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Reopened {
    type T = std::io::BufReader<File>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(std::io::BufReader::new(file))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut buffer = vec![0; length];
        file.read_exact(&mut buffer)?;
        Ok(buffer.into())
    }
}

/// Hashes of the groups that are asked for, sorted and each once; `None`: all groups.
pub type Asked = Option<Arc<[u64]>>;

/// A segment, its footer read.
#[derive(Clone, Debug)]
pub struct Segment {
    file: Reopened,
    metadata: ArrowReaderMetadata,
    /// Least and greatest `_hash` of each row group, if this is a segment of updates.
    hashes: Vec<(u64, u64)>,
}

impl Segment {
    /// Reads the footer.
    ///
    /// # Errors
    /// A file that is missing, or is not the entry's.
    pub fn open(dir: &Path, entry: &Entry) -> Result<Segment, OfflineError> {
        let path = dir.join(&entry.path);
        let failed =
            |e: parquet::errors::ParquetError| OfflineError::Segment { path: path.clone(), why: e.to_string() };
        let len = std::fs::metadata(&path).map_err(|source| OfflineError::Io { path: path.clone(), source })?.len();
        let file = Reopened { path: path.clone(), len };
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

    /// All rows, in the file's order.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn rows(&self) -> Result<ParquetRecordBatchReader, OfflineError> {
        self.builder().build().map_err(|e| self.failed(&e))
    }

    /// The row groups that may hold an asked hash.
    pub fn row_groups(&self, asked: &[u64]) -> Vec<usize> {
        let holds = |n: &usize| {
            let (least, greatest) = self.hashes[*n];
            asked.get(asked.partition_point(|h| *h < least)).is_some_and(|h| *h <= greatest)
        };
        (0..self.hashes.len()).filter(holds).collect()
    }

    /// The updates of the asked groups (others may come along), in the order of hashes; `None` if there are none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn updates(&self, asked: &Asked) -> Result<Option<ParquetRecordBatchReader>, OfflineError> {
        let Some(asked) = asked else { return self.rows().map(Some) };
        let groups = self.row_groups(asked);
        let (Some(first), Some(last)) = (groups.first(), groups.last()) else { return Ok(None) };
        let range = (self.hashes[*first].0, self.hashes[*last].1);
        let wanted = asked.partition_point(|h| *h <= range.1) - asked.partition_point(|h| *h < range.0);
        let rows: i64 = groups.iter().map(|g| self.metadata.metadata().row_group(*g).num_rows()).sum();
        let mut builder = self.builder().with_row_groups(groups);
        // Where most rows are wanted, picking them costs more than reading them all.
        if wanted.saturating_mul(8) < usize::try_from(rows).unwrap_or(usize::MAX) {
            let mask = ProjectionMask::roots(builder.parquet_schema(), [0]);
            let asked = Arc::clone(asked);
            let pick =
                move |batch: RecordBatch| Ok(contained(batch.column(0).as_primitive::<UInt64Type>().values(), &asked));
            builder = builder.with_row_filter(RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, pick))]));
        }
        builder.build().map(Some).map_err(|e| self.failed(&e))
    }

    fn builder(&self) -> ParquetRecordBatchReaderBuilder<Reopened> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
            .with_batch_size(BATCH)
    }

    fn failed(&self, error: &parquet::errors::ParquetError) -> OfflineError {
        OfflineError::Segment { path: self.file.path.clone(), why: error.to_string() }
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
