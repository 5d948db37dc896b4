//! Label files, CSV or Parquet, read in chunks and written again with features behind the labels.
//!
//! Invariants: every record and column of the labels comes out, in order. Neighbours: `history` is the command; `label_csv`
//! reads records, `cell` writes values.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::cell::{put_cell, put_text};
use super::label_csv::CsvReader;

/// Labels joined at once: each chunk is one pass over the log.
pub(super) const CHUNK_ROWS: usize = 1 << 20;
/// Bytes at which a chunk ends before it has all its rows: the offsets into a column of text end at 2 GiB.
pub(super) const CHUNK_BYTES: usize = 512 << 20;

/// Rows that are read of Parquet at once: few enough that rows of 256 kB are within the same bound.
const READ_ROWS: usize = 1 << 12;

/// The two formats, told by a file's extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    Csv,
    Parquet,
}

impl FileFormat {
    /// `None` for any other extension.
    pub(super) fn of(path: &Path) -> Option<FileFormat> {
        match path.extension()?.to_str()?.to_lowercase().as_str() {
            "csv" => Some(FileFormat::Csv),
            "parquet" | "pq" => Some(FileFormat::Parquet),
            _ => None,
        }
    }
}

/// Some labels.
pub(super) struct Chunk {
    /// Their columns; from CSV all are text.
    pub(super) batch: RecordBatch,
    /// The records as they stand in a CSV file.
    pub(super) records: Option<Vec<String>>,
}

/// A label file being read.
pub(super) enum LabelReader {
    Csv(CsvReader),
    Parquet(ParquetRecordBatchReader, SchemaRef),
}

impl LabelReader {
    /// Opens a file and reads its columns' names.
    pub(super) fn open(path: &Path, format: FileFormat) -> anyhow::Result<LabelReader> {
        let shown = path.display().to_string();
        let file = File::open(path).with_context(|| shown.clone())?;
        match format {
            FileFormat::Csv => CsvReader::new(Box::new(BufReader::with_capacity(1 << 18, file)))
                .map(LabelReader::Csv)
                .with_context(|| shown),
            FileFormat::Parquet => unless_damaged(|| {
                let mut builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
                // A column's dictionaries differ from part to part, and together they may be too many for its indices.
                if let Some(plain) = without_dictionaries(builder.schema()) {
                    let options = ArrowReaderOptions::new().with_schema(plain);
                    builder = ParquetRecordBatchReaderBuilder::try_new_with_options(File::open(path)?, options)?;
                }
                let groups = builder.metadata().row_groups().iter();
                let codecs = groups.flat_map(|g| g.columns().iter().map(|c| c.compression()));
                if let Some(codec) = codecs.into_iter().find(|c| matches!(c, Compression::BROTLI(_) | Compression::LZO))
                {
                    bail!("it is compressed with {codec}: write it with zstd, snappy, gzip or lz4");
                }
                let schema = Arc::clone(builder.schema());
                let reader = builder.with_batch_size(READ_ROWS).build()?;
                Ok(LabelReader::Parquet(reader, schema))
            })
            .with_context(|| shown),
        }
    }

    /// The label columns.
    pub(super) fn schema(&self) -> &SchemaRef {
        match self {
            LabelReader::Csv(csv) => &csv.schema,
            LabelReader::Parquet(_, schema) => schema,
        }
    }

    /// The header line as it stands in a CSV file, and what ends its lines.
    fn header(&self) -> Option<(&str, &'static str)> {
        match self {
            LabelReader::Csv(csv) => Some((&csv.header, csv.line_end)),
            LabelReader::Parquet(_, _) => None,
        }
    }

    /// The next labels; `None` at the end.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        match self {
            LabelReader::Csv(csv) => csv.next(),
            LabelReader::Parquet(reader, schema) => {
                let batches = some(CHUNK_BYTES, || unless_damaged(|| Ok(reader.next().transpose()?)))?;
                if batches.is_empty() {
                    return Ok(None);
                }
                Ok(Some(Chunk { batch: concat_batches(schema, &batches)?, records: None }))
            }
        }
    }
}

/// The next batches, until they are a chunk or there are no more.
fn some(
    bytes_max: usize,
    mut next: impl FnMut() -> anyhow::Result<Option<RecordBatch>>,
) -> anyhow::Result<Vec<RecordBatch>> {
    let (mut batches, mut rows, mut bytes) = (vec![], 0, 0);
    while rows < CHUNK_ROWS
        && bytes < bytes_max
        && let Some(batch) = next()?
    {
        rows += batch.num_rows();
        bytes += batch.get_array_memory_size();
        batches.push(batch);
    }
    Ok(batches)
}

/// Reads of a Parquet file, whose reader takes some damage for a bug of its own.
fn unless_damaged<T>(read: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| bail!("the file is damaged: it cannot be read as Parquet"))
}

/// The same columns, with values in place of dictionaries of them; `None` if there are no dictionaries.
fn without_dictionaries(schema: &SchemaRef) -> Option<SchemaRef> {
    let plain = |field: &FieldRef| match field.data_type() {
        DataType::Dictionary(_, values) => Arc::new(field.as_ref().clone().with_data_type((**values).clone())),
        _ => Arc::clone(field),
    };
    let fields: Fields = schema.fields().iter().map(plain).collect();
    let has_some = fields != *schema.fields();
    has_some.then(|| Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

/// The joined file being written.
pub(super) enum JoinedWriter {
    Csv(BufWriter<File>, &'static str),
    Parquet(Box<ArrowWriter<File>>, SchemaRef),
}

impl JoinedWriter {
    /// Begins a file of the label columns and the features.
    pub(super) fn new(
        file: File,
        format: FileFormat,
        labels: &LabelReader,
        joined: &SchemaRef,
    ) -> anyhow::Result<JoinedWriter> {
        if format == FileFormat::Parquet {
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?));
            let writer = ArrowWriter::try_new(file, Arc::clone(joined), Some(properties.build()))?;
            return Ok(JoinedWriter::Parquet(Box::new(writer), Arc::clone(joined)));
        }
        let known = labels.schema().fields().len();
        let (mut line, line_end) = match labels.header() {
            Some((header, line_end)) => (header.to_string(), line_end),
            None => (String::new(), "\n"),
        };
        let from = if line.is_empty() { 0 } else { known };
        for field in joined.fields().iter().skip(from) {
            if !line.is_empty() {
                line.push(',');
            }
            put_text(field.name(), &mut line);
        }
        let mut out = BufWriter::with_capacity(1 << 18, file);
        out.write_all(line.as_bytes())?;
        out.write_all(line_end.as_bytes())?;
        Ok(JoinedWriter::Csv(out, line_end))
    }

    /// Writes labels and their features.
    pub(super) fn write(&mut self, chunk: &Chunk, features: &RecordBatch) -> anyhow::Result<()> {
        match self {
            JoinedWriter::Parquet(writer, schema) => {
                let columns = chunk.batch.columns().iter().chain(features.columns()).cloned().collect();
                writer.write(&RecordBatch::try_new(Arc::clone(schema), columns)?)?;
            }
            JoinedWriter::Csv(out, line_end) => {
                let mut line = String::new();
                for row in 0..features.num_rows() {
                    line.clear();
                    match &chunk.records {
                        Some(records) => line.push_str(&records[row]),
                        None => {
                            for (n, column) in chunk.batch.columns().iter().enumerate() {
                                if n > 0 {
                                    line.push(',');
                                }
                                put_cell(column, row, &mut line)?;
                            }
                        }
                    }
                    for column in features.columns() {
                        line.push(',');
                        put_cell(column, row, &mut line)?;
                    }
                    line.push_str(line_end);
                    out.write_all(line.as_bytes())?;
                }
            }
        }
        Ok(())
    }

    /// Ends the file, and makes sure that it is on disk.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let file = match self {
            JoinedWriter::Csv(out, _) => out.into_inner().map_err(std::io::IntoInnerError::into_error)?,
            JoinedWriter::Parquet(writer, _) => writer.into_inner()?,
        };
        // A pipe or a terminal cannot be synced, and need not be.
        if file.metadata()?.is_file() {
            file.sync_all()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, DictionaryArray, StringArray};
    use arrow::datatypes::Int8Type;

    #[test]
    fn parquet_is_read_however_it_is_compressed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("labels.parquet");
        let ids: Vec<String> = (0..3_000).map(|n| format!("user {}", n % 70)).collect();
        let ids = Arc::new(StringArray::from(ids)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("id", ids)]).expect("one column");
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let gzip = Compression::GZIP(parquet::basic::GzipLevel::default());
        for codec in
            [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, Compression::LZ4, Compression::LZ4_RAW, zstd]
        {
            let properties = WriterProperties::builder().set_compression(codec).build();
            let file = File::create(&path).expect("made");
            let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
            writer.write(&batch).expect("written");
            writer.close().expect("whole");
            let mut reader = LabelReader::open(&path, FileFormat::Parquet).expect("it can be read");
            assert_eq!(reader.next().expect("readable").expect("rows").batch, batch, "{codec}");
        }
    }

    /// A million rows of 2 kB are more than a column of text can address.
    #[test]
    fn a_chunk_ends_at_so_many_bytes_or_rows() {
        let of = |bytes: usize, rows: usize| {
            let texts = StringArray::from(vec!["x".repeat(bytes); rows]);
            RecordBatch::try_from_iter([("id", Arc::new(texts) as ArrayRef)]).expect("one column")
        };
        let check = |batch: &RecordBatch, bytes_max: usize, want: usize| {
            let batches = some(bytes_max, || Ok(Some(batch.clone()))).expect("readable");
            assert_eq!(batches.len(), want);
        };
        let batch = of(1_000, 100);
        check(&batch, 4 * batch.get_array_memory_size() + 1, 5);
        check(&of(0, CHUNK_ROWS / 4), usize::MAX, 4);
        let mut left = vec![of(1, 1); 3];
        assert_eq!(some(usize::MAX, || Ok(left.pop())).expect("readable").len(), 3, "the file ends before");
    }

    #[test]
    fn dictionaries_of_parts_may_differ() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("labels.parquet");
        let part = |from: usize| {
            let values: Vec<String> = (from..from + 100).map(|n| format!("user {n}")).collect();
            let values: DictionaryArray<Int8Type> = values.iter().map(String::as_str).collect();
            RecordBatch::try_from_iter([("id", Arc::new(values) as ArrayRef)]).expect("one column")
        };
        let mut writer =
            ArrowWriter::try_new(File::create(&path).expect("made"), part(0).schema(), None).expect("a writer");
        for from in [0, 100, 200] {
            writer.write(&part(from)).expect("written");
            writer.flush().expect("a part of its own");
        }
        writer.close().expect("whole");
        let mut reader = LabelReader::open(&path, FileFormat::Parquet).expect("it can be read");
        let batch = reader.next().expect("readable").expect("rows").batch;
        assert_eq!((batch.num_rows(), batch.column(0).data_type()), (300, &DataType::Utf8));
        assert_eq!(batch.column(0).as_string::<i32>().value(299), "user 299");

        // Whatever is wrong with a file is said, and ends nothing.
        let whole = std::fs::read(&path).expect("readable");
        let mut refused = 0;
        for at in whole.len().saturating_sub(700)..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&path, damaged).expect("written");
            let read = LabelReader::open(&path, FileFormat::Parquet).and_then(|mut reader| {
                while reader.next()?.is_some() {}
                Ok(())
            });
            refused += usize::from(read.is_err());
        }
        assert!(refused > 100, "{refused}");
    }
}
