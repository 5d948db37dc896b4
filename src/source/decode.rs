//! Records to rows: bytes are parsed straight into Arrow columns; what fails becomes a [`Rejected`], never an error.
//!
//! A [`Decoder`] belongs to one source. Records are pushed in the order they are read and come out as one batch in
//! [`Source::row_schema`]. Invariants: each pushed record is in the batch or among the refused, exactly once; a refused
//! record leaves nothing behind in the columns. Neighbours: `json`, `csv`, `avro` find the fields; `column`, `number`
//! say what fits; `assemble` applies the declared conditions to a whole batch; `file`, `kafka` push.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use rustc_hash::FxHashMap;

use super::assemble::{Rows, Rules};
use super::column::{ColumnBuffer, Misfit};
use super::{Rejected, avro, csv, json};
use crate::definition::{Connector, Format, Source, SourceKind};
use crate::time::Epoch;

/// In [`Decoded::record_times`]: no record with a timestamp has come from the partition yet.
pub const NO_TIME: i64 = i64::MIN;

/// A record longer than this is refused.
pub(super) const RECORD_BYTES_MAX: usize = 256 << 20;
/// With so many bytes of records, of refused ones, or in one column, a batch is full.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// A source that cannot be decoded at all.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// A column of a type that no record carries.
    #[error("column '{column}' of '{source_name}' has a type that records cannot carry: {data_type}")]
    ColumnType {
        /// The source.
        source_name: String,
        /// Its column.
        column: String,
        /// Its type.
        data_type: String,
    },
    /// A `CHECK`, `EVENT TIME` or `ARRIVAL TIME` that does not compile.
    #[error("'{text}' of '{source_name}' cannot be evaluated")]
    Expression {
        /// The source.
        source_name: String,
        /// The expression.
        text: String,
        /// Why.
        source: DataFusionError,
    },
    /// A format that does not work there.
    #[error("'{source_name}': {reason}")]
    Format {
        /// The source.
        source_name: String,
        /// Why.
        reason: &'static str,
    },
}

/// What became of the records pushed since the last time.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// The rows, in the order they were pushed; `None` if there are none.
    pub batch: Option<RecordBatch>,
    /// The refused ones, by partition and offset.
    pub rejected: Vec<Rejected>,
    /// For each row the greatest record timestamp of its partition so far (the `record` clock), or [`NO_TIME`].
    pub record_times: Vec<i64>,
    /// The same for each refused record.
    pub rejected_times: Vec<i64>,
}

impl Decoded {
    /// How many records it is of.
    pub fn records(&self) -> u64 {
        (self.batch.as_ref().map_or(0, RecordBatch::num_rows) + self.rejected.len()) as u64
    }
}

/// Turns one source's records into rows.
#[derive(Debug)]
pub struct Decoder {
    source: Arc<Source>,
    names: Names,
    columns: Vec<ColumnBuffer>,
    wire: Wire,
    rows: Rows,
    rules: Rules,
    /// Refused while they were pushed, each with its record time.
    refused: Vec<(Rejected, i64)>,
    /// What those take, which the quarantine gets whole.
    refused_bytes: usize,
    /// The greatest record timestamp of each partition so far.
    greatest: Vec<(i32, i64)>,
}

#[derive(Debug)]
enum Wire {
    /// Where the declared fields of the record at hand stand.
    Json(Vec<Option<json::Value>>),
    Csv(csv::Header),
    Avro(avro::Reader),
}

impl Decoder {
    /// A decoder for a source.
    ///
    /// # Errors
    /// If the source's columns, conditions or format cannot be decoded at all: mistakes in the definition.
    pub fn new(source: &Arc<Source>) -> Result<Decoder, DecoderError> {
        let names = Names::new(source.columns.iter().map(|c| c.name.as_str()));
        let columns = source.columns.iter().map(|c| {
            ColumnBuffer::new(&c.data_type).ok_or_else(|| DecoderError::ColumnType {
                source_name: source.name.clone(),
                column: c.name.clone(),
                data_type: c.data_type.to_string(),
            })
        });
        let refuse = |reason| DecoderError::Format { source_name: source.name.clone(), reason };
        let (Connector::Kafka { format, .. } | Connector::File { format, .. }) = &source.from;
        let wire = match format {
            Format::Json => Wire::Json(vec![None; source.columns.len()]),
            Format::Csv if source.is_kafka() => {
                return Err(refuse("CSV is for files, where a header names the columns"));
            }
            Format::Csv => Wire::Csv(csv::Header::default()),
            Format::Avro(schema) => Wire::Avro(
                avro::Reader::new(schema, &names).ok_or_else(|| refuse("the Avro schema is not that of a record"))?,
            ),
        };
        Ok(Decoder {
            columns: columns.collect::<Result<_, _>>()?,
            names,
            wire,
            rows: Rows::default(),
            rules: Rules::new(source)?,
            refused: vec![],
            refused_bytes: 0,
            greatest: vec![],
            source: Arc::clone(source),
        })
    }

    /// The source it decodes.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Takes a CSV file's header line, before its records.
    ///
    /// # Errors
    /// A text for a person, if the line cannot be split.
    pub fn set_header(&mut self, line: &[u8]) -> Result<(), String> {
        self.wire = Wire::Csv(csv::Header::new(line, &self.names)?);
        Ok(())
    }

    /// Records pushed since the last [`Decoder::finish`], rows and refused.
    pub fn pending(&self) -> usize {
        self.rows.len() + self.refused.len()
    }

    /// Should the batch be finished before more is pushed?
    pub fn is_full(&self) -> bool {
        self.rows.bytes() + self.refused_bytes >= BATCH_BYTES_MAX
            || self.columns.iter().any(|c| c.bytes() >= BATCH_BYTES_MAX)
    }

    /// Takes one record. `timestamp`: the record's own, in microseconds since 1970-01-01 UTC. A null payload deletes
    /// from a table. At most until [`Decoder::is_full`].
    pub fn push(
        &mut self,
        partition: i32,
        offset: i64,
        timestamp: Option<i64>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
    ) {
        let time = self.record_time(partition, timestamp);
        let before = self.rows.len();
        let outcome = match payload {
            Some(bytes) => self.record(bytes),
            None if self.source.is_table() => self.tombstone(key).map_err(|why| format!("key: {why}")),
            None => Err("null_payload: only a table's record may be without a payload".into()),
        };
        match outcome {
            Ok(()) => self.rows.push(partition, offset, timestamp, time, key, payload),
            Err(reason) => {
                for column in &mut self.columns {
                    column.truncate(before);
                }
                let rejected = Rejected {
                    source: self.source.name.clone(),
                    view: None,
                    partition,
                    offset,
                    reason,
                    epoch: 0,
                    key: key.map(<[u8]>::to_vec),
                    bytes: payload.unwrap_or_default().to_vec(),
                };
                self.refused_bytes += rejected.bytes.len() + rejected.key.as_ref().map_or(0, Vec::len);
                self.refused.push((rejected, time));
            }
        }
    }

    /// Hands over what was pushed. With an `epoch` the rows are complete; without, [`with_epochs`] completes them.
    /// `bounded_future`: refuse rows dated too far ahead of their arrival (all clocks but `event`).
    pub fn finish(&mut self, epoch: Option<Epoch>, bounded_future: bool) -> Decoded {
        let mut refused = std::mem::take(&mut self.refused);
        self.refused_bytes = 0;
        let mut decoded = Decoded::default();
        if self.rows.len() > 0 {
            let declared = self.columns.iter_mut().map(ColumnBuffer::finish).collect();
            let rows = self.rows.take();
            (decoded.batch, decoded.record_times) =
                self.rules.apply(&self.source, declared, rows, epoch, bounded_future, &mut refused);
        }
        refused.sort_by_key(|(r, _)| (r.partition, r.offset));
        for (mut rejected, time) in refused {
            rejected.epoch = epoch.map_or(0, |e| e.0);
            decoded.rejected.push(rejected);
            decoded.rejected_times.push(time);
        }
        decoded
    }

    fn record_time(&mut self, partition: i32, timestamp: Option<i64>) -> i64 {
        let timestamp = timestamp.unwrap_or(NO_TIME);
        match self.greatest.iter_mut().find(|(p, _)| *p == partition) {
            Some((_, greatest)) => {
                *greatest = timestamp.max(*greatest);
                *greatest
            }
            None => {
                self.greatest.push((partition, timestamp));
                timestamp
            }
        }
    }

    /// Appends a record's declared fields to the columns, or says why not; then the columns are uneven.
    fn record(&mut self, payload: &[u8]) -> Result<(), String> {
        if payload.len() > RECORD_BYTES_MAX {
            return Err(format!("decode: the record has more than {RECORD_BYTES_MAX} bytes"));
        }
        let (columns, declared, before) = (&mut self.columns, &self.source.columns, self.rows.len());
        let fault = |i: usize, why: Misfit| format!("column '{}': {why}", declared[i].name);
        match &mut self.wire {
            Wire::Json(places) => json_fields(&self.names, places, payload).and_then(|text| {
                let mut fields = columns.iter_mut().zip(places.iter()).enumerate();
                fields.try_for_each(|(i, (column, place))| match place {
                    Some(value) => json::append(column, text, *value).map_err(|why| fault(i, why)),
                    None => {
                        column.null();
                        Ok(())
                    }
                })
            }),
            Wire::Csv(header) => header.record(payload, |i, text| match text {
                Some(text) => columns[i].plain(text).map_err(|why| fault(i, why)),
                None => {
                    columns[i].null();
                    Ok(())
                }
            }),
            Wire::Avro(reader) => reader.record(payload, |i, scale, value| {
                avro::append(&mut columns[i], scale, value).map_err(|why| fault(i, why))
            }),
        }
        .map_err(|why| format!("decode: {why}"))?;
        for (column, declared) in columns.iter_mut().zip(declared) {
            if column.len() == before {
                column.null(); // no field of the header or of the schema is this column
            }
            if !declared.nullable && column.ends_with_null() {
                return Err(format!("not_null: column '{}' is null", declared.name));
            }
        }
        Ok(())
    }

    /// Appends the primary key that a Kafka key stands for, and nulls: the value's text, a JSON scalar, or an object.
    fn tombstone(&mut self, key: Option<&[u8]>) -> Result<(), Misfit> {
        let key = key.ok_or("the record has neither a payload nor a key")?;
        let text = std::str::from_utf8(key).map_err(|_| "the key is not text")?;
        let SourceKind::Table { key: primary } = &self.source.kind else { return Err("not a table".into()) };
        let mut places = vec![None; self.columns.len()];
        // What is no object, or one of other fields, is a plain value.
        let object = json_fields(&self.names, &mut places, key).is_ok() && primary.iter().all(|&i| places[i].is_some());
        for (i, column) in self.columns.iter_mut().enumerate() {
            if !primary.contains(&i) {
                column.null();
                continue;
            }
            let appended = match places[i] {
                Some(value) if object => json::append(column, text, value),
                _ if primary.len() > 1 => Err(format!("a composite key must be a JSON object, found {text:?}")),
                _ => match json::value(text) {
                    Ok(value) if value.is_string() => json::append(column, text, value),
                    _ => column.plain(text),
                },
            };
            appended.map_err(|why| format!("column '{}': {why}", self.source.columns[i].name))?;
            if column.ends_with_null() {
                return Err(format!("column '{}' is null", self.source.columns[i].name));
            }
        }
        Ok(())
    }
}

/// Finds the declared fields of a JSON object; of a repeated name the last.
fn json_fields<'a>(names: &Names, places: &mut [Option<json::Value>], payload: &'a [u8]) -> Result<&'a str, Misfit> {
    let text = std::str::from_utf8(payload).map_err(|e| format!("not UTF-8: {e}"))?;
    places.fill(None);
    let mut next = 0;
    json::object(text, |name, value| {
        if let Some(i) = names.find_next(name, next) {
            places[i] = Some(value);
            next = i + 1;
        }
    })?;
    Ok(text)
}

/// Column names by their bytes.
#[derive(Debug)]
pub(super) struct Names {
    ordered: Vec<Box<[u8]>>,
    index: FxHashMap<Box<[u8]>, usize>,
}

impl Names {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Names {
        let ordered: Vec<Box<[u8]>> = names.map(|n| n.as_bytes().into()).collect();
        let index = ordered.iter().cloned().enumerate().map(|(i, n)| (n, i)).collect();
        Names { ordered, index }
    }

    /// The column of that name.
    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The same, tried first at `next`: producers write fields in the declared order more often than not.
    fn find_next(&self, name: &[u8], next: usize) -> Option<usize> {
        if self.ordered.get(next).is_some_and(|n| **n == *name) { Some(next) } else { self.find(name) }
    }
}

pub use super::assemble::with_epochs;

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
