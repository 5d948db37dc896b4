//! Label files, CSV or Parquet, read in chunks and written again with features behind the labels.
//!
//! CSV records are copied as they stand, quotes and all; only their cells are looked at. An empty cell is null, `""` an
//! empty string, in what is read and in what is written.
//!
//! Invariants: every record and column of the labels comes out, in order. Neighbours: `history` is the command.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder};
use arrow::compute::concat_batches;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Fields, Float32Type, Float64Type, Schema, SchemaRef,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::util::display::array_value_to_string;
use base64::Engine as _;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::time::format_instant;

/// Labels joined at once: each chunk is one pass over the log.
const CHUNK_ROWS: usize = 1 << 20;
/// Bytes of CSV at which a chunk ends before it has all its rows.
const CHUNK_BYTES: usize = 512 << 20;

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
    records: Option<Vec<String>>,
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
                let reader = builder.with_batch_size(1 << 16).build()?;
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
                let (mut batches, mut rows) = (vec![], 0);
                while rows < CHUNK_ROWS
                    && let Some(batch) = unless_damaged(|| Ok(reader.next().transpose()?))?
                {
                    rows += batch.num_rows();
                    batches.push(batch);
                }
                if rows == 0 {
                    return Ok(None);
                }
                Ok(Some(Chunk { batch: concat_batches(schema, &batches)?, records: None }))
            }
        }
    }
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

/// A CSV file being read.
pub(super) struct CsvReader {
    input: Box<dyn BufRead>,
    header: String,
    line_end: &'static str,
    schema: SchemaRef,
    /// Lines read so far.
    line: usize,
}

impl CsvReader {
    fn new(input: Box<dyn BufRead>) -> anyhow::Result<CsvReader> {
        let empty = Arc::new(Schema::empty());
        let mut csv = CsvReader { input, header: String::new(), line_end: "\n", schema: empty, line: 0 };
        let Some((header, line_end)) = csv.record(&mut Cells::default())? else {
            bail!("the file is empty; it needs a header line")
        };
        let header = header.strip_prefix('\u{feff}').map_or(header.clone(), str::to_string);
        let mut cells = Cells::default();
        cells.read(header.as_bytes());
        let cells = cells.found;
        let name = |cell: &Range<usize>| unquote(&header[cell.clone()]).unwrap_or_default().trim().to_string();
        let fields: Vec<Field> = cells.iter().map(|c| Field::new(name(c), DataType::Utf8, true)).collect();
        csv.schema = Arc::new(Schema::new(fields));
        (csv.header, csv.line_end) = (header, line_end);
        Ok(csv)
    }

    /// The next record that is not an empty line, without its line end; where its cells lie goes to `cells`.
    fn record(&mut self, cells: &mut Cells) -> anyhow::Result<Option<(String, &'static str)>> {
        let mut bytes = vec![];
        let mut first = self.line + 1;
        *cells = Cells { found: std::mem::take(&mut cells.found), ..Cells::default() };
        cells.found.clear();
        loop {
            let before = bytes.len();
            let read = self.input.read_until(b'\n', &mut bytes)?;
            self.line += 1;
            if read == 0 && before == 0 {
                return Ok(None);
            }
            let line_end = if bytes.ends_with(b"\r\n") { "\r\n" } else { "\n" };
            let end = bytes.len() - if bytes.ends_with(b"\n") { line_end.len() } else { 0 };
            if end == 0 {
                bytes.clear();
                first = self.line + 1;
            } else if cells.read(&bytes[..end]) {
                bytes.truncate(end);
                let text = String::from_utf8(bytes).with_context(|| format!("line {first} is not UTF-8"))?;
                return Ok(Some((text, line_end)));
            } else if read == 0 {
                bail!("line {first}: a quote is not closed");
            }
        }
    }

    fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        let width = self.schema.fields().len();
        let mut builders: Vec<StringBuilder> = (0..width).map(|_| StringBuilder::new()).collect();
        let (mut records, mut bytes, mut cells) = (vec![], 0, Cells::default());
        while records.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let line = self.line + 1;
            let Some((record, _)) = self.record(&mut cells)? else { break };
            if cells.found.len() != width {
                bail!("line {line} has {} cells, the header has {width}", cells.found.len());
            }
            for (builder, cell) in builders.iter_mut().zip(&cells.found) {
                builder.append_option(unquote(&record[cell.clone()]));
            }
            bytes += record.len();
            records.push(record);
        }
        if records.is_empty() {
            return Ok(None);
        }
        let columns = builders.iter_mut().map(|b| Arc::new(b.finish()) as ArrayRef).collect();
        Ok(Some(Chunk { batch: RecordBatch::try_new(Arc::clone(&self.schema), columns)?, records: Some(records) }))
    }
}

/// Finds a record's cells, line by line: no byte is looked at twice, however many lines a quote encloses.
#[derive(Default)]
struct Cells {
    found: Vec<Range<usize>>,
    /// Where the present cell begins, and how far it has been read.
    start: usize,
    at: usize,
    quoted: bool,
}

impl Cells {
    /// Reads on in a record of which there is more now; false if a quote is still open at its end.
    fn read(&mut self, record: &[u8]) -> bool {
        while let Some(byte) = record.get(self.at) {
            match byte {
                b'"' if self.at == self.start && !self.quoted => self.quoted = true,
                b'"' if self.quoted && record.get(self.at + 1) == Some(&b'"') => self.at += 1,
                b'"' if self.quoted => self.quoted = false,
                b',' if !self.quoted => {
                    self.found.push(self.start..self.at);
                    self.start = self.at + 1;
                }
                _ => {}
            }
            self.at += 1;
        }
        if !self.quoted {
            self.found.push(self.start..record.len());
        }
        !self.quoted
    }
}

/// What a cell says; `None`: nothing.
fn unquote(cell: &str) -> Option<Cow<'_, str>> {
    if cell.is_empty() {
        return None;
    }
    let Some(inner) = cell.strip_prefix('"') else { return Some(cell.into()) };
    match inner.strip_suffix('"') {
        Some(inner) if !inner.contains('"') => Some(inner.into()),
        Some(inner) => Some(inner.replace("\"\"", "\"").into()),
        None => Some(cell.into()),
    }
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

/// A value as CSV says it: null is nothing, an empty string `""`, numbers in the shortest text that reads back.
fn put_cell(column: &ArrayRef, row: usize, line: &mut String) -> anyhow::Result<()> {
    if column.is_null(row) {
        return Ok(());
    }
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    match column.data_type() {
        // Without a list of its nulls: all are.
        DataType::Null => {}
        DataType::Float32 => match column.as_primitive::<Float32Type>().value(row) {
            value if value.is_finite() => line.push_str(&format!("{value:?}")),
            value => line.push_str(&double(value.into())),
        },
        DataType::Float64 => line.push_str(&double(column.as_primitive::<Float64Type>().value(row))),
        DataType::Decimal128(_, _) => line.push_str(&column.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Timestamp(unit, _) => line.push_str(&instant(column, *unit, row)),
        DataType::Date32 => {
            let date = column.as_primitive::<Date32Type>().value_as_date(row);
            line.push_str(&date.map(|d| d.to_string()).unwrap_or_default());
        }
        DataType::Binary => line.push_str(&base64(column.as_binary::<i32>().value(row))),
        DataType::LargeBinary => line.push_str(&base64(column.as_binary::<i64>().value(row))),
        DataType::FixedSizeBinary(_) => line.push_str(&base64(column.as_fixed_size_binary().value(row))),
        DataType::Utf8 => put_text(column.as_string::<i32>().value(row), line),
        _ => put_text(&array_value_to_string(column, row)?, line),
    }
    Ok(())
}

/// A timestamp of any unit as instants are written everywhere: six digits, nine where there are more than six.
fn instant(column: &ArrayRef, unit: TimeUnit, row: usize) -> String {
    let micros = |value: i64, scale: i64| match value.checked_mul(scale) {
        Some(micros) => format_instant(micros),
        // No calendar has it: the number says what it is.
        None => value.to_string(),
    };
    match unit {
        TimeUnit::Second => micros(column.as_primitive::<TimestampSecondType>().value(row), 1_000_000),
        TimeUnit::Millisecond => micros(column.as_primitive::<TimestampMillisecondType>().value(row), 1_000),
        TimeUnit::Microsecond => micros(column.as_primitive::<TimestampMicrosecondType>().value(row), 1),
        TimeUnit::Nanosecond => {
            let nanos = column.as_primitive::<TimestampNanosecondType>().value(row);
            let text = format_instant(nanos.div_euclid(1_000));
            match (nanos.rem_euclid(1_000), text.strip_suffix('Z')) {
                (0, _) | (_, None) => text,
                (rest, Some(text)) => format!("{text}{rest:03}Z"),
            }
        }
    }
}

fn double(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        format!("{value:?}")
    }
}

fn put_text(text: &str, line: &mut String) {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        line.push_str(text);
        return;
    }
    line.push('"');
    line.push_str(&text.replace('"', "\"\""));
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float32Array, Float64Array,
        LargeBinaryArray, NullArray, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray,
    };
    use arrow::datatypes::Int8Type;

    /// The columns' names, the cells row by row, and the records as they stand.
    type Read = (Vec<String>, Vec<Vec<Option<String>>>, Vec<String>);

    fn read(text: &str) -> anyhow::Result<Read> {
        let mut reader = CsvReader::new(Box::new(std::io::Cursor::new(text.as_bytes().to_vec())))?;
        let names = reader.schema.fields().iter().map(|f| f.name().clone()).collect();
        let (mut cells, mut records) = (vec![], vec![]);
        while let Some(chunk) = reader.next()? {
            for row in 0..chunk.batch.num_rows() {
                let cell = |c: &ArrayRef| c.is_valid(row).then(|| c.as_string::<i32>().value(row).to_string());
                cells.push(chunk.batch.columns().iter().map(cell).collect());
            }
            records.extend(chunk.records.unwrap_or_default());
        }
        Ok((names, cells, records))
    }

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

    #[test]
    fn a_cell_may_be_of_many_lines() {
        let cell = "\"\"quoted\"\", and not\r\n".repeat(20_000);
        let (names, cells, records) = read(&format!("a,b\n1,\"{cell}\"\n2,x\n")).expect("it is CSV");
        assert_eq!((names.len(), cells.len(), records.len()), (2, 2, 2));
        assert_eq!(cells[0][1].as_deref(), Some(cell.replace("\"\"", "\"").as_str()));
        let open = read(&format!("a,b\n1,\"{cell}\n2,x\n")).expect_err("the quote is open");
        assert_eq!(open.to_string(), "line 2: a quote is not closed");
    }

    #[test]
    fn csv_is_read_as_it_stands() {
        let text = "\u{feff}id, \"a \"\"b\"\"\" ,c\r\n1,\"x,y\",\r\n\r\n\"\",\"two\nlines\",\"say \"\"so\"\"\"\r\n3,5\" disk,é";
        let (names, cells, records) = read(text).unwrap();
        assert_eq!(names[0], "id");
        let cell = |text: &str| Some(text.to_string());
        assert_eq!(cells[0], [cell("1"), cell("x,y"), None]);
        assert_eq!(cells[1], [cell(""), cell("two\nlines"), cell("say \"so\"")]);
        assert_eq!(cells[2], [cell("3"), cell("5\" disk"), cell("é")]);
        assert_eq!(records, ["1,\"x,y\",", "\"\",\"two\nlines\",\"say \"\"so\"\"\"", "3,5\" disk,é"]);
    }

    #[test]
    fn csv_that_is_none_says_where() {
        let check = |text: &str, want: &str| {
            let error = read(text).expect_err("it is refused").to_string();
            assert!(error.contains(want), "{error}");
        };
        check("", "the file is empty");
        check("a,b\n1,2\n3\n", "line 3 has 1 cells, the header has 2");
        check("a,b\n1,2,3\n", "line 2 has 3 cells");
        check("a,b\n1,\"2\n3,4\n", "line 2: a quote is not closed");
    }

    #[test]
    fn values_are_written_so_that_they_read_back() {
        let check = |array: ArrayRef, want: &str| {
            let mut line = String::new();
            put_cell(&array, 0, &mut line).unwrap();
            assert_eq!(line, want);
        };
        let double = |v: f64| Arc::new(Float64Array::from(vec![v])) as ArrayRef;
        let text = |v: &str| Arc::new(StringArray::from(vec![v])) as ArrayRef;
        check(double(0.1), "0.1");
        check(double(-2.0), "-2.0");
        check(double(1e300), "1e300");
        check(double(f64::NAN), "NaN");
        check(double(f64::NEG_INFINITY), "-Infinity");
        check(Arc::new(Decimal128Array::from(vec![1250]).with_precision_and_scale(10, 2).unwrap()), "12.50");
        check(Arc::new(TimestampMicrosecondArray::from(vec![-1])), "1969-12-31T23:59:59.999999Z");
        // One form whatever the file's unit, and no digit lost.
        let (seconds, millis) = (TimestampSecondArray::from(vec![1]), TimestampMillisecondArray::from(vec![-1]));
        check(Arc::new(seconds.with_timezone("+02:00")), "1970-01-01T00:00:01.000000Z");
        check(Arc::new(millis), "1969-12-31T23:59:59.999000Z");
        check(Arc::new(TimestampNanosecondArray::from(vec![1_500])), "1970-01-01T00:00:00.000001500Z");
        check(Arc::new(TimestampNanosecondArray::from(vec![-1])), "1969-12-31T23:59:59.999999999Z");
        check(Arc::new(TimestampNanosecondArray::from(vec![2_000])), "1970-01-01T00:00:00.000002Z");
        check(Arc::new(BooleanArray::from(vec![true])), "true");
        check(text(""), "\"\"");
        check(text("a b"), "a b");
        check(text("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        check(Arc::new(StringArray::from(vec![None::<&str>])), "");
        check(Arc::new(NullArray::new(1)), "");
        check(Arc::new(Float32Array::from(vec![0.1])), "0.1");
        check(Arc::new(Float32Array::from(vec![f32::INFINITY])), "Infinity");
        check(Arc::new(LargeBinaryArray::from_vec(vec![b"ab"])), "YWI=");
        check(Arc::new(FixedSizeBinaryArray::try_from_iter([b"ab"].into_iter()).unwrap()), "YWI=");
    }
}
