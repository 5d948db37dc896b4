//! Labels in CSV: records as they stand, and what their cells say.
//!
//! Records are copied, quotes and all; only their cells are looked at. An empty cell is null, `""` an empty string.
//!
//! Invariants: every record comes out, in order. Neighbours: `label_file` reads either format; `cell` writes.

use std::borrow::Cow;
use std::io::BufRead;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::label_file::{CHUNK_BYTES, CHUNK_ROWS, Chunk};

/// A CSV file being read.
pub(super) struct CsvReader {
    input: Box<dyn BufRead>,
    /// The header line as it stands.
    pub(super) header: String,
    /// What ends its lines.
    pub(super) line_end: &'static str,
    /// Its columns, all of them text.
    pub(super) schema: SchemaRef,
    /// Lines read so far.
    line: usize,
}

/// One record as it stands.
struct Record {
    /// Without its line end.
    text: String,
    line_end: &'static str,
    /// The line that it begins in, from 1.
    line: usize,
}

impl CsvReader {
    /// Reads the header line.
    pub(super) fn new(input: Box<dyn BufRead>) -> anyhow::Result<CsvReader> {
        let empty = Arc::new(Schema::empty());
        let mut csv = CsvReader { input, header: String::new(), line_end: "\n", schema: empty, line: 0 };
        let Some(Record { text: header, line_end, .. }) = csv.record(&mut Cells::default())? else {
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

    /// The next record that is not an empty line; where its cells lie goes to `cells`.
    fn record(&mut self, cells: &mut Cells) -> anyhow::Result<Option<Record>> {
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
                return Ok(Some(Record { text, line_end, line: first }));
            } else if read == 0 {
                bail!("line {first}: a quote is not closed");
            }
        }
    }

    /// The next labels; `None` at the end.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Chunk>> {
        let width = self.schema.fields().len();
        let mut builders: Vec<StringBuilder> = (0..width).map(|_| StringBuilder::new()).collect();
        let (mut records, mut bytes, mut cells) = (vec![], 0, Cells::default());
        while records.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let Some(Record { text: record, line, .. }) = self.record(&mut cells)? else { break };
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};

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
        check("u,as_of\n1,2\n\n\n1\n", "line 5 has 1 cells, the header has 2");
        check("\n\na,b\n1,2\n\n\"1\n\n\",2,3\n", "line 6 has 3 cells");
        check("a,b\n1,\"2\n3,4\n", "line 2: a quote is not closed");
    }
}
