//! A bounded file as a source: JSON lines or CSV, plain, `.gz` or `.zst`; partition 0, offsets are record numbers.
//!
//! Invariants: a file read again gives the same records under the same numbers; blank lines have none. Of a record that is
//! too long to be one, no more than its beginning is ever held. Neighbours: `decode` takes the records; `replay` and
//! `engine` read.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::csv::Splitter;
use super::decode::{Decoded, Decoder, DecoderError, RECORD_BYTES_MAX};
use crate::definition::{Connector, Format, Source};
use crate::time::Epoch;

/// How every gzip file begins.
const GZIP: [u8; 2] = [0x1F, 0x8B];

/// The longest record, with its line end.
const LINES_BYTES_MAX: usize = RECORD_BYTES_MAX + 2;

/// A file that cannot be read. Bad records are no error: they are refused one by one.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is missing, or not ours to read.
    #[error("cannot open '{}'", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It broke off in the middle; for a compressed file, also what cannot be unpacked.
    #[error("cannot read '{}' beyond record {record}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The first record that could not be read.
        record: i64,
        /// Why.
        source: std::io::Error,
    },
    /// Its header line is no CSV.
    #[error("the header of '{}' cannot be read: {reason}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The source cannot be read from a file.
    #[error("'{source_name}' cannot be read from a file: {reason}")]
    NotAFile {
        /// The source.
        source_name: String,
        /// Why.
        reason: &'static str,
    },
    /// The source cannot be decoded.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
}

/// Reads one file source in order.
pub struct FileReader {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    decoder: Decoder,
    csv: bool,
    splitter: Splitter,
    line: Vec<u8>,
    next: i64,
    ended: bool,
}

impl FileReader {
    /// Opens a source's file; a relative path is relative to `dir`. Records before number `from` are passed over.
    ///
    /// # Errors
    /// [`FileError`], with the path: the file, its compression or its header cannot be read.
    pub fn open(dir: &Path, source: &Arc<Source>, from: i64) -> Result<FileReader, FileError> {
        let refuse = |reason| FileError::NotAFile { source_name: source.name.clone(), reason };
        let Connector::File { path, format } = &source.from else { return Err(refuse("its rows come from elsewhere")) };
        let csv = match format {
            Format::Json => false,
            Format::Csv => true,
            Format::Avro(_) => return Err(refuse("Avro records have no line ends")),
        };
        let path = dir.join(path);
        let input = unpacked(&path).map_err(|source| FileError::Open { path: path.clone(), source })?;
        let decoder = Decoder::new(source)?;
        let (splitter, line) = (Splitter::default(), vec![]);
        let mut reader = FileReader { path, input, decoder, csv, splitter, line, next: 0, ended: false };
        if csv {
            reader.header()?;
        }
        while reader.next < from && reader.advance()? {
            reader.next += 1;
        }
        Ok(reader)
    }

    /// The number of the next record.
    pub fn position(&self) -> i64 {
        self.next
    }

    /// Reads up to `records_max` records; `None` at the end. The rest is as in [`Decoder::finish`].
    ///
    /// # Errors
    /// [`FileError::Read`]; what was read before it is lost with the reader, and comes again when it is read again.
    pub fn read(
        &mut self,
        records_max: usize,
        epoch: Option<Epoch>,
        bounded_future: bool,
    ) -> Result<Option<Decoded>, FileError> {
        let mut taken = 0;
        while taken < records_max && !self.decoder.is_full() && self.advance()? {
            self.decoder.push(0, self.next, None, None, Some(&self.line));
            self.next += 1;
            taken += 1;
        }
        Ok((taken > 0).then(|| self.decoder.finish(epoch, bounded_future)))
    }

    fn header(&mut self) -> Result<(), FileError> {
        if !self.advance()? {
            return Ok(()); // an empty file has no records either
        }
        let refuse = |reason| FileError::Header { path: self.path.clone(), reason };
        if self.line.len() > RECORD_BYTES_MAX {
            return Err(refuse(format!("it has more than {RECORD_BYTES_MAX} bytes")));
        }
        let line = self.line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&self.line);
        self.decoder.set_header(line).map_err(refuse)
    }

    /// Brings the next record into `line`, without its line end, or the beginning of one that is too long: the decoder
    /// refuses it. False at the end of the file.
    fn advance(&mut self) -> Result<bool, FileError> {
        loop {
            self.line.clear();
            if !self.more()? {
                return Ok(false);
            }
            if self.line.len() > LINES_BYTES_MAX {
                self.skip_rest()?;
                return Ok(true);
            }
            if self.next == 0 && !self.csv && self.line.starts_with(b"\xEF\xBB\xBF") {
                self.line.drain(..3);
            }
            if self.line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if self.csv && self.line.contains(&b'"') {
                self.splitter.clear();
                let mut from = 0;
                while self.line.len() <= LINES_BYTES_MAX && !self.splitter.line(&self.line[from..]) {
                    from = self.line.len();
                    if !self.more()? {
                        break; // the quote is never closed: the decoder says so
                    }
                }
            }
            if self.line.len() > LINES_BYTES_MAX {
                self.skip_rest()?;
                return Ok(true);
            }
            while matches!(self.line.last(), Some(b'\n' | b'\r')) {
                self.line.pop();
            }
            return Ok(true);
        }
    }

    /// Appends the next line with its line end to `line`, or as much of it as shows that the record is too long; false at
    /// the end of the file.
    fn more(&mut self) -> Result<bool, FileError> {
        if self.ended {
            return Ok(false);
        }
        let room = LINES_BYTES_MAX + 1 - self.line.len();
        match self.input.by_ref().take(room as u64).read_until(b'\n', &mut self.line) {
            Ok(0) => {
                self.ended = true;
                Ok(false)
            }
            Ok(_) => Ok(true),
            Err(source) => Err(self.broken_off(source)),
        }
    }

    /// Passes over what is left of the record whose beginning is in `line`.
    fn skip_rest(&mut self) -> Result<(), FileError> {
        let (csv, splitter) = (self.csv, &mut self.splitter);
        splitter.clear();
        let mut end_in = |part: &[u8]| match csv {
            true => splitter.skip(part),
            false => part.iter().position(|b| *b == b'\n').map(|at| at + 1),
        };
        let mut end = end_in(&self.line);
        while end.is_none() {
            let part = match self.input.fill_buf() {
                Ok([]) => break,
                Ok(part) => part,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(source) => return Err(self.broken_off(source)),
            };
            end = end_in(part);
            let passed = end.unwrap_or(part.len());
            self.input.consume(passed);
        }
        Ok(())
    }

    fn broken_off(&self, source: std::io::Error) -> FileError {
        FileError::Read { path: self.path.clone(), record: self.next, source }
    }
}

/// The file's bytes, unpacked by its name's ending.
fn unpacked(path: &Path) -> std::io::Result<Box<dyn BufRead + Send>> {
    const BUFFER: usize = 256 * 1024;
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a directory"));
    }
    let raw: Box<dyn Read + Send> = match path.extension().and_then(|e| e.to_str()) {
        Some("gz") => {
            let mut packed = BufReader::with_capacity(BUFFER, file);
            if !packed.fill_buf()?.starts_with(&GZIP) {
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not gzip"));
            }
            // Files that were appended to have several members.
            Box::new(MultiGzDecoder::new(packed))
        }
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(file)?),
        _ => Box::new(file),
    };
    Ok(Box::new(BufReader::with_capacity(BUFFER, raw)))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
