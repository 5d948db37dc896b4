//! The door for Arrow messages of clients: each is looked at before Arrow decodes it.
//!
//! Arrow's decoder believes what a message says of itself: it allocates the length that a compressed buffer names, copies a
//! buffer as often as it is named, and panics on lengths that cannot be. So lengths are compared with the bytes that came
//! first, and what the decoder still panics on is caught.
//!
//! Labels leave the door plain: dictionaries are replaced by their values, whose size is known before they are copied.
//!
//! Invariants: an admitted message costs memory in proportion to its bytes; whatever is wrong with one is an error of its
//! stream and never its end. Neighbours: `flight` brings the messages; `inbox` keeps what was admitted.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{AnyDictionaryArray, Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow::ipc::{self, MessageHeader, MetadataVersion};
use arrow_flight::FlightData;
use tonic::Status;

/// Largest message taken: a client sends batches of any size.
pub(super) const MESSAGE: usize = 128 << 20;
/// Largest description of a message: names, types, and where the buffers are.
const HEADER: usize = 4 << 20;
/// Columns of the labels, nested ones counted.
const FIELDS: usize = 1 << 14;
/// How deep columns may be nested.
const DEPTH: usize = 8;
/// Bytes of names and metadata. A flatbuffer may name one text any number of times.
const TEXT: usize = 16 << 20;
/// Rows of a message. Columns of nothing but nulls have no bytes to be compared with.
const ROWS: i64 = 1 << 28;
/// Bytes of the dictionaries kept for a stream, and of the columns they become.
const DICTIONARIES: usize = 256 << 20;

/// What a message brought.
#[derive(Debug)]
pub(super) enum Admitted {
    /// The labels' columns, without dictionaries.
    Schema(SchemaRef),
    /// Labels in these columns, and the bytes they take.
    Labels(RecordBatch, usize),
    /// Something that more labels need, or nothing.
    Nothing,
}

/// One stream's door.
#[derive(Default)]
pub(super) struct Door {
    /// As sent, and without dictionaries.
    schema: Option<(SchemaRef, SchemaRef)>,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Bytes of each dictionary as it came.
    dictionary_bytes: HashMap<i64, usize>,
}

impl Door {
    /// Decodes a message. After an error nothing more is to be admitted.
    ///
    /// # Errors
    /// `invalid_argument`, saying what is wrong with the message.
    pub(super) fn admit(&mut self, message: &FlightData) -> Result<Admitted, Status> {
        match catch_unwind(AssertUnwindSafe(|| self.decode(message))) {
            Ok(decoded) => decoded,
            // The decoder asserts what it should have refused; its words are on standard error.
            Err(_) => Err(wrong("they are not as Arrow describes them")),
        }
    }

    fn decode(&mut self, message: &FlightData) -> Result<Admitted, Status> {
        let (header, body) = (&message.data_header[..], &message.data_body[..]);
        // A client may send its descriptor alone, before the schema.
        if header.is_empty() {
            return if body.is_empty() {
                Ok(Admitted::Nothing)
            } else {
                Err(wrong("a message does not say what it is"))
            };
        }
        if header.len() > HEADER {
            return Err(wrong(format!("a message's description has {} bytes; {HEADER} is the most", header.len())));
        }
        let parsed = ipc::root_as_message(header).map_err(|e| wrong(format!("a message cannot be parsed: {e}")))?;
        match parsed.header_type() {
            MessageHeader::NONE if body.is_empty() => Ok(Admitted::Nothing),
            MessageHeader::Schema => self.schema(parsed.header_as_schema()),
            MessageHeader::DictionaryBatch => {
                self.dictionary(parsed.header_as_dictionary_batch(), body, parsed.version())
            }
            MessageHeader::RecordBatch => self.labels(parsed.header_as_record_batch(), body, parsed.version()),
            other => {
                Err(wrong(format!("a message is a {}", other.variant_name().unwrap_or("message of another kind"))))
            }
        }
    }

    fn schema(&mut self, sent: Option<ipc::Schema<'_>>) -> Result<Admitted, Status> {
        let sent = sent.ok_or_else(|| wrong("a schema is empty"))?;
        if self.schema.is_some() {
            return Err(wrong("they change their schema"));
        }
        let mut budget = Budget { fields: FIELDS, text: TEXT };
        budget.metadata(sent.custom_metadata().into_iter().flatten())?;
        budget.fields(sent.fields().into_iter().flatten(), 0)?;
        let sent = Arc::new(fb_to_schema(sent));
        let plain = sent.fields().iter().map(|f| plain_field(f)).collect::<Result<Vec<Field>, Status>>()?;
        let plain = Arc::new(Schema::new_with_metadata(plain, sent.metadata().clone()));
        self.schema = Some((sent, Arc::clone(&plain)));
        Ok(Admitted::Schema(plain))
    }

    fn dictionary(
        &mut self,
        sent: Option<ipc::DictionaryBatch<'_>>,
        body: &[u8],
        version: MetadataVersion,
    ) -> Result<Admitted, Status> {
        let (schema, _) = self.schema.as_ref().ok_or_else(|| wrong("a dictionary comes before the schema"))?;
        let sent = sent.ok_or_else(|| wrong("a dictionary is empty"))?;
        let values = sent.data().ok_or_else(|| wrong("a dictionary is empty"))?;
        // Each would copy the whole dictionary anew.
        if sent.isDelta() {
            return Err(wrong("a dictionary is sent in parts; send it whole"));
        }
        check_batch(values, body)?;
        self.dictionary_bytes.insert(sent.id(), body.len());
        if self.dictionary_bytes.values().sum::<usize>() > DICTIONARIES {
            return Err(wrong(format!("their dictionaries have more than {DICTIONARIES} bytes")));
        }
        read_dictionary(&Buffer::from(body), sent, schema, &mut self.dictionaries, &version).map_err(wrong)?;
        Ok(Admitted::Nothing)
    }

    fn labels(
        &mut self,
        sent: Option<ipc::RecordBatch<'_>>,
        body: &[u8],
        version: MetadataVersion,
    ) -> Result<Admitted, Status> {
        let (schema, plain) = self.schema.as_ref().ok_or_else(|| wrong("they come before their schema"))?;
        let sent = sent.ok_or_else(|| wrong("a batch is empty"))?;
        check_batch(sent, body)?;
        // Arrow validates what it builds: offsets, UTF-8, null counts, dictionary keys. The copy is aligned.
        let buffer = Buffer::from(body);
        let batch = RecordBatchDecoder::try_new(&buffer, sent, Arc::clone(schema), &self.dictionaries, &version);
        let batch = batch.and_then(RecordBatchDecoder::read_record_batch).map_err(wrong)?;
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().iter().zip(plain.fields()).map(|(c, f)| plain_column(c, f));
        let columns = columns.collect::<Result<Vec<_>, Status>>()?;
        let labels = RecordBatch::try_new_with_options(Arc::clone(plain), columns, &rows).map_err(wrong)?;
        let bytes = body.len().max(labels.columns().iter().map(column_bytes).sum());
        Ok(Admitted::Labels(labels, bytes))
    }
}

fn wrong(why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("the labels cannot be read: {why}"))
}

/// What a schema may still take: a flatbuffer of some bytes can describe any number of columns.
struct Budget {
    fields: usize,
    text: usize,
}

impl Budget {
    fn text(&mut self, bytes: Option<usize>) -> Result<(), Status> {
        let left = self.text.checked_sub(bytes.unwrap_or(0));
        self.text = left.ok_or_else(|| wrong(format!("names and metadata have more than {TEXT} bytes")))?;
        Ok(())
    }

    fn metadata<'a>(&mut self, mut sent: impl Iterator<Item = ipc::KeyValue<'a>>) -> Result<(), Status> {
        sent.try_for_each(|kv| {
            self.text(kv.key().map(str::len))?;
            self.text(kv.value().map(str::len))
        })
    }

    fn fields<'a>(&mut self, sent: impl Iterator<Item = ipc::Field<'a>>, depth: usize) -> Result<(), Status> {
        if depth > DEPTH {
            return Err(wrong(format!("a column is nested more than {DEPTH} deep")));
        }
        for field in sent {
            let left = self.fields.checked_sub(1);
            self.fields = left.ok_or_else(|| wrong(format!("there are more than {FIELDS} columns")))?;
            self.text(field.name().map(str::len))?;
            self.text(field.type_as_timestamp().and_then(|t| t.timezone()).map(str::len))?;
            self.metadata(field.custom_metadata().into_iter().flatten())?;
            self.fields(field.children().into_iter().flatten(), depth + 1)?;
        }
        Ok(())
    }
}

/// Compares what a batch says of its buffers with the bytes that came.
fn check_batch(batch: ipc::RecordBatch<'_>, body: &[u8]) -> Result<(), Status> {
    // A compressed buffer names the length it will have; only decompressing shows whether that is true.
    if batch.compression().is_some() {
        return Err(wrong("they are compressed; send them uncompressed"));
    }
    let rows = 0..=ROWS;
    if !rows.contains(&batch.length()) {
        return Err(wrong(format!("a batch says that it has {} rows; {ROWS} is the most", batch.length())));
    }
    for node in batch.nodes().into_iter().flatten() {
        if !rows.contains(&node.length()) || !(0..=node.length()).contains(&node.null_count()) {
            return Err(wrong(format!(
                "a column says that it has {} values, {} of them null",
                node.length(),
                node.null_count()
            )));
        }
    }
    // Their sum, too: many buffers over the same bytes would be copied one by one.
    let mut left = i64::try_from(body.len()).map_err(wrong)?;
    let mut buffers = 0i64;
    for buffer in batch.buffers().into_iter().flatten() {
        let (from, length) = (buffer.offset(), buffer.length());
        let end = from.checked_add(length).filter(|_| from >= 0 && length >= 0);
        left = left.saturating_sub(length.max(0));
        if end.and_then(|e| usize::try_from(e).ok()).is_none_or(|end| end > body.len()) || left < 0 {
            let has = body.len();
            return Err(wrong(format!("a buffer is said to have {length} bytes from {from}, of a message of {has}")));
        }
        buffers += 1;
    }
    let mut variadic = batch.variadicBufferCounts().into_iter().flatten();
    if variadic.any(|n| !(0..=buffers).contains(&n)) {
        return Err(wrong("a column of views says that it has more buffers than came"));
    }
    Ok(())
}

/// The column without a dictionary; errors name columns that cannot be labels.
fn plain_field(field: &Field) -> Result<Field, Status> {
    let data_type = match field.data_type() {
        DataType::Dictionary(_, value) if !value.is_nested() => (**value).clone(),
        other => other.clone(),
    };
    if !is_taken(&data_type) {
        let (name, found) = (field.name(), field.data_type());
        return Err(wrong(format!("the column `{name}` is {found}, which is not taken; cast it or leave it out")));
    }
    Ok(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone()))
}

/// Types whose values say all they need, in bounds that Arrow's kernels rely on.
fn is_taken(data_type: &DataType) -> bool {
    let decimal = |precision: u8, scale: i8, most: u8| {
        (1..=most).contains(&precision) && scale.unsigned_abs() <= most && i16::from(scale) <= i16::from(precision)
    };
    match data_type {
        DataType::Decimal32(p, s) => decimal(*p, *s, 9),
        DataType::Decimal64(p, s) => decimal(*p, *s, 18),
        DataType::Decimal128(p, s) => decimal(*p, *s, 38),
        DataType::Decimal256(p, s) => decimal(*p, *s, 76),
        DataType::FixedSizeBinary(width) => (0..1 << 20).contains(width),
        DataType::FixedSizeList(item, length) => (0..1 << 20).contains(length) && is_taken(item.data_type()),
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => is_taken(item.data_type()),
        DataType::Struct(fields) => fields.iter().all(|f| is_taken(f.data_type())),
        DataType::Dictionary(_, _)
        | DataType::Union(_, _)
        | DataType::RunEndEncoded(_, _)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => false,
        _ => true,
    }
}

/// A column without its dictionary, if it has one: each row gets a copy of its value.
fn plain_column(column: &ArrayRef, field: &Field) -> Result<ArrayRef, Status> {
    let bounded = |bytes: usize| match bytes {
        0..=DICTIONARIES => Ok(()),
        _ => {
            let name = field.name();
            Err(wrong(format!("the column `{name}` has {bytes} bytes once it is written out; send fewer rows at once")))
        }
    };
    bounded(column.as_any_dictionary_opt().map_or(0, written_out))?;
    let plain = match column.data_type() == field.data_type() {
        true => Arc::clone(column),
        false => cast(column, field.data_type()).map_err(wrong)?,
    };
    bounded(column_bytes(&plain))?;
    Ok(plain)
}

/// Bytes of a dictionary's column once every row has its value.
fn written_out(dictionary: &dyn AnyDictionaryArray) -> usize {
    let values = dictionary.values();
    let length: Box<dyn Fn(usize) -> usize> = match values.data_type() {
        DataType::Utf8 => Box::new(|n| values.as_string::<i32>().value_length(n).unsigned_abs() as usize),
        DataType::LargeUtf8 => {
            Box::new(|n| usize::try_from(values.as_string::<i64>().value_length(n)).unwrap_or(usize::MAX))
        }
        DataType::Binary => Box::new(|n| values.as_binary::<i32>().value_length(n).unsigned_abs() as usize),
        DataType::LargeBinary => {
            Box::new(|n| usize::try_from(values.as_binary::<i64>().value_length(n)).unwrap_or(usize::MAX))
        }
        DataType::FixedSizeBinary(width) => {
            let width = width.unsigned_abs() as usize;
            Box::new(move |_| width)
        }
        // Views share their bytes when they are taken, and everything else has at most 32.
        _ => Box::new(|_| 32),
    };
    if values.is_empty() {
        return 0;
    }
    dictionary.normalized_keys().into_iter().map(|n| length(n).saturating_add(4)).fold(0, usize::saturating_add)
}

/// Bytes of a column. Of a column of views as if every row had text of its own: they may share it, and a cast would not.
fn column_bytes(column: &ArrayRef) -> usize {
    let views = match column.data_type() {
        DataType::Utf8View => column.as_string_view().views(),
        DataType::BinaryView => column.as_binary_view().views(),
        _ => return column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
    };
    // The low half of a view's first word is its length.
    views.iter().map(|view| (view & 0xffff_ffff) as usize).fold(0, usize::saturating_add)
}
