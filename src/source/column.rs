//! One column under construction: values are appended as they are decoded and can be taken back.
//!
//! Invariants: after a refused append the column may hold a part of the value; the caller truncates to the length
//! before the record. A value larger than [`VALUE_BYTES_MAX`] is refused, so that a column of which the caller stops at
//! a batch's size stays addressable, and whether a value fits does not depend on what stands before it. Neighbours:
//! `number` says what fits; `decode` owns a record's columns and undoes them together.

use std::sync::Arc;

use arrow::array::builder::NullBufferBuilder;
use arrow::array::{
    ArrayRef, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    ListArray, StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, TimeUnit};

use super::number::{self, NumberMisfit};
use crate::definition::meaning::canonical;
use crate::time::is_of_calendar;

/// Why a value does not fit its column, for a person.
pub(super) type Misfit = String;

/// The bytes that one value may take. What is short on the wire may be long here: an Avro enum, a number of one digit.
pub(super) const VALUE_BYTES_MAX: usize = 512 << 20;

/// A growing column.
#[derive(Debug)]
pub(super) struct ColumnBuffer {
    data_type: DataType,
    values: Values,
    valid: NullBufferBuilder,
}

#[derive(Debug)]
enum Values {
    Boolean(BooleanBufferBuilder),
    Int(Vec<i32>),
    BigInt(Vec<i64>),
    Double(Vec<f64>),
    Decimal(Vec<i128>, usize, i32),
    Text(Vec<i32>, Vec<u8>),
    Timestamp(Vec<i64>),
    Date(Vec<i32>),
    List(Vec<i32>, Box<ColumnBuffer>),
}

impl ColumnBuffer {
    /// An empty column; `None` if records cannot carry the type.
    pub(super) fn new(data_type: &DataType) -> Option<ColumnBuffer> {
        let values = match data_type {
            DataType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            DataType::Int32 => Values::Int(vec![]),
            DataType::Int64 => Values::BigInt(vec![]),
            DataType::Float64 => Values::Double(vec![]),
            DataType::Decimal128(precision, scale) => {
                Values::Decimal(vec![], usize::from(*precision), i32::from(*scale))
            }
            DataType::Utf8 => Values::Text(vec![0], vec![]),
            DataType::Timestamp(TimeUnit::Microsecond, None) => Values::Timestamp(vec![]),
            DataType::Date32 => Values::Date(vec![]),
            DataType::List(item) => Values::List(vec![0], Box::new(ColumnBuffer::new(item.data_type())?)),
            _ => return None,
        };
        Some(ColumnBuffer { data_type: data_type.clone(), values, valid: NullBufferBuilder::new(0) })
    }

    /// The type's name as it is written in a definition.
    pub(super) fn type_name(&self) -> String {
        type_name(&self.data_type)
    }

    pub(super) fn len(&self) -> usize {
        self.valid.len()
    }

    /// What its values take, in bytes, or somewhat less.
    pub(super) fn bytes(&self) -> usize {
        match &self.values {
            Values::Boolean(v) => v.len(),
            Values::Int(v) | Values::Date(v) => size_of_val(&v[..]),
            Values::BigInt(v) | Values::Timestamp(v) => size_of_val(&v[..]),
            Values::Double(v) => size_of_val(&v[..]),
            Values::Decimal(v, ..) => size_of_val(&v[..]),
            Values::Text(ends, bytes) => size_of_val(&ends[..]) + bytes.len(),
            Values::List(ends, items) => size_of_val(&ends[..]) + items.bytes(),
        }
    }

    /// Is its last value null?
    pub(super) fn ends_with_null(&self) -> bool {
        self.len().checked_sub(1).is_some_and(|last| !self.valid.is_valid(last))
    }

    /// Takes back everything from row `len` on, also what a refused append left.
    pub(super) fn truncate(&mut self, len: usize) {
        match &mut self.values {
            Values::Boolean(v) => v.truncate(len),
            Values::Int(v) | Values::Date(v) => v.truncate(len),
            Values::BigInt(v) | Values::Timestamp(v) => v.truncate(len),
            Values::Double(v) => v.truncate(len),
            Values::Decimal(v, ..) => v.truncate(len),
            Values::Text(ends, bytes) => {
                ends.truncate(len + 1);
                bytes.truncate(at(ends, len));
            }
            Values::List(ends, items) => {
                ends.truncate(len + 1);
                items.truncate(at(ends, len));
            }
        }
        self.valid.truncate(len);
    }

    pub(super) fn null(&mut self) {
        match &mut self.values {
            Values::Boolean(v) => v.append(false),
            Values::Int(v) | Values::Date(v) => v.push(0),
            Values::BigInt(v) | Values::Timestamp(v) => v.push(0),
            Values::Double(v) => v.push(0.0),
            Values::Decimal(v, ..) => v.push(0),
            Values::Text(ends, _) | Values::List(ends, _) => {
                ends.push(*ends.last().expect("it begins with an end of 0"))
            }
        }
        self.valid.append_null();
    }

    pub(super) fn boolean(&mut self, value: bool) -> Result<(), Misfit> {
        match &mut self.values {
            Values::Boolean(v) => v.append(value),
            _ => return Err(self.expected(&value.to_string())),
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// A number by its digits, in JSON's notation or a looser one.
    pub(super) fn number(&mut self, text: &str) -> Result<(), Misfit> {
        let fits = match &mut self.values {
            Values::BigInt(v) => integer(text).map(|n: i64| v.push(n)),
            Values::Int(v) => integer(text).map(|n: i32| v.push(n)),
            Values::Double(v) => number::double(text).map(|n| v.push(canonical(n))),
            Values::Decimal(v, precision, scale) => {
                number::fixed_point(text.as_bytes(), *precision, *scale).map(|n| v.push(n))
            }
            Values::Timestamp(_) => {
                return Err(counted(text));
            }
            Values::Boolean(_) | Values::Text(..) | Values::Date(_) | Values::List(..) => {
                return Err(self.expected(&format!("the number {}", excerpt(text))));
            }
        };
        fits.map_err(|why| self.misfit(why, text))?;
        self.valid.append_non_null();
        Ok(())
    }

    /// A string of a format that tells strings from numbers.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Misfit> {
        let fits = match &mut self.values {
            Values::Text(ends, bytes) => {
                ends.push(end(bytes.len() + text.len())?);
                bytes.extend_from_slice(text.as_bytes());
                true
            }
            Values::Timestamp(v) => number::instant(text).map(|t| v.push(t)).is_some(),
            Values::Date(v) => number::date(text).map(|d| v.push(d)).is_some(),
            Values::Decimal(..) => return self.number(text),
            Values::Double(v) => special(text).map(|d| v.push(d)).is_some(),
            Values::Boolean(_) | Values::Int(_) | Values::BigInt(_) | Values::List(..) => false,
        };
        if !fits {
            let help = match self.values {
                Values::Timestamp(_) if number::instant(&format!("{text}Z")).is_some() => {
                    "; say its zone, as in 2026-11-20T21:00:00Z or 2026-11-20 22:00:00+01:00"
                }
                Values::Timestamp(_) => "; write RFC 3339 with a zone, as in 2026-11-20T21:00:00.123456Z",
                Values::Date(_) => "; write YYYY-MM-DD",
                _ => "",
            };
            return Err(self.expected(&format!("the text {:?}{help}", excerpt(text))));
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// A value of a format that has only text (CSV, a Kafka key).
    pub(super) fn plain(&mut self, text: &str) -> Result<(), Misfit> {
        let bare = text.trim_ascii();
        match &mut self.values {
            Values::Text(..) | Values::Timestamp(_) => self.text(text),
            Values::Date(_) => self.text(bare),
            Values::Int(_) | Values::BigInt(_) | Values::Decimal(..) => self.number(bare),
            Values::Double(_) if special(bare).is_some() => self.text(bare),
            Values::Double(_) => self.number(bare),
            Values::Boolean(_) if bare.eq_ignore_ascii_case("true") => self.boolean(true),
            Values::Boolean(_) if bare.eq_ignore_ascii_case("false") => self.boolean(false),
            Values::Boolean(_) => Err(self.expected(&format!("{:?}", excerpt(text)))),
            Values::List(..) => super::json::append_text(self, bare),
        }
    }

    /// A whole number.
    pub(super) fn whole(&mut self, value: i64) -> Result<(), Misfit> {
        match &mut self.values {
            Values::BigInt(v) => v.push(value),
            _ => return self.number(&value.to_string()),
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// A double.
    pub(super) fn double(&mut self, value: f64) -> Result<(), Misfit> {
        match &mut self.values {
            Values::Double(v) => v.push(canonical(value)),
            _ => return Err(self.expected(&format!("the double {value}"))),
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// An instant, in microseconds since 1970-01-01 UTC.
    pub(super) fn instant(&mut self, micros: i64) -> Result<(), Misfit> {
        match &mut self.values {
            Values::Timestamp(v) if is_of_calendar(micros) => v.push(micros),
            Values::Timestamp(_) => {
                return Err(format!(
                    "{micros} microseconds since 1970 are beyond the calendar: perhaps of another unit"
                ));
            }
            _ => return Err(self.expected(&format!("the instant {}", crate::time::format_instant(micros)))),
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// A date, in days since 1970-01-01.
    pub(super) fn date(&mut self, days: i32) -> Result<(), Misfit> {
        match &mut self.values {
            Values::Date(v) => v.push(days),
            _ => return Err(self.expected("a date")),
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// An array, whose items `fill` appends to the column it is given.
    pub(super) fn list(&mut self, fill: impl FnOnce(&mut ColumnBuffer) -> Result<(), Misfit>) -> Result<(), Misfit> {
        match &mut self.values {
            Values::List(ends, items) => {
                let before = items.bytes();
                fill(items)?;
                if items.bytes() - before > VALUE_BYTES_MAX {
                    return Err(too_large());
                }
                ends.push(end(items.len())?);
            }
            _ => return Err(self.expected("an array")),
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// The column so far; it is empty afterwards.
    pub(super) fn finish(&mut self) -> ArrayRef {
        let valid = self.valid.finish();
        match &mut self.values {
            Values::Boolean(v) => Arc::new(BooleanArray::new(v.finish(), valid)),
            Values::Int(v) => Arc::new(Int32Array::new(take(v), valid)),
            Values::BigInt(v) => Arc::new(Int64Array::new(take(v), valid)),
            Values::Double(v) => Arc::new(Float64Array::new(take(v), valid)),
            Values::Decimal(v, ..) => {
                Arc::new(Decimal128Array::new(take(v), valid).with_data_type(self.data_type.clone()))
            }
            Values::Text(ends, bytes) => {
                let offsets = OffsetBuffer::new(std::mem::replace(ends, vec![0]).into());
                let bytes = Buffer::from_vec(std::mem::take(bytes));
                Arc::new(StringArray::new(offsets, bytes, valid))
            }
            Values::Timestamp(v) => Arc::new(TimestampMicrosecondArray::new(take(v), valid)),
            Values::Date(v) => Arc::new(Date32Array::new(take(v), valid)),
            Values::List(ends, items) => {
                let DataType::List(field) = &self.data_type else { unreachable!("made in new from a list type") };
                let offsets = OffsetBuffer::new(std::mem::replace(ends, vec![0]).into());
                Arc::new(ListArray::new(Arc::clone(field), offsets, items.finish(), valid))
            }
        }
    }

    fn expected(&self, found: &str) -> Misfit {
        format!("expected {}, found {found}", self.type_name())
    }

    fn misfit(&self, why: NumberMisfit, text: &str) -> Misfit {
        let name = self.type_name();
        match why {
            NumberMisfit::NotANumber => format!("expected {name}, found {:?}", excerpt(text)),
            NumberMisfit::Fraction => format!("{} has digits that {name} cannot hold", excerpt(text)),
            NumberMisfit::TooLarge => format!("{} is out of the range of {name}", excerpt(text)),
        }
    }
}

/// A number where a TIMESTAMP should be: what to write if it counts what numbers of its size usually count.
fn counted(text: &str) -> Misfit {
    let number = number::double(text).map_or(0.0, f64::abs);
    let (unit, function) = match number {
        n if n < 1e11 => ("seconds", "to_timestamp_seconds"),
        n if n < 1e14 => ("milliseconds", "to_timestamp_millis"),
        _ => ("microseconds", "to_timestamp_micros"),
    };
    format!(
        "{} is a number, and TIMESTAMP takes RFC 3339 text; if it counts {unit}, declare the column BIGINT and write EVENT \
         TIME {function}(column)",
        excerpt(text)
    )
}

/// The type's name as it is written in a definition.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Utf8 => "TEXT".into(),
        DataType::Timestamp(..) => "TIMESTAMP".into(),
        DataType::Date32 => "DATE".into(),
        DataType::List(item) => format!("{}[]", type_name(item.data_type())),
        other => other.to_string().to_uppercase(),
    }
}

/// Enough of a value to recognise it by.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_string(),
    }
}

fn integer<T: TryFrom<i128>>(text: &str) -> Result<T, NumberMisfit> {
    T::try_from(number::fixed_point(text.as_bytes(), 19, 0)?).map_err(|_| NumberMisfit::TooLarge)
}

/// The doubles that JSON has no number for.
fn special(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn take<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    let next = Vec::with_capacity(values.len());
    ScalarBuffer::from(std::mem::replace(values, next))
}

/// An offset into a column's values. Where there is none, the value at hand alone is beyond its limit: all that stands
/// before it is less than a full batch and one more value.
fn end(len: usize) -> Result<i32, Misfit> {
    i32::try_from(len).map_err(|_| too_large())
}

fn too_large() -> Misfit {
    format!("the value takes more than {VALUE_BYTES_MAX} bytes")
}

fn at(ends: &[i32], len: usize) -> usize {
    usize::try_from(ends[len]).expect("ends are lengths")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;

    /// Avro has instants of any number; all that is said of a TIMESTAMP holds for the calendar.
    #[test]
    fn an_instant_is_of_the_calendar() {
        let mut column = ColumnBuffer::new(&crate::definition::timestamp()).expect("records carry it");
        for beyond in [i64::MAX, 8_210_266_876_800_000_000, i64::MIN] {
            let why = column.instant(beyond).expect_err("no calendar has it");
            assert_eq!(
                why,
                format!("{beyond} microseconds since 1970 are beyond the calendar: perhaps of another unit")
            );
        }
        assert_eq!((column.instant(8_210_266_876_799_999_999), column.len()), (Ok(()), 1));
    }

    /// An item may be a byte in its record and its enum's whole symbol here.
    #[test]
    fn a_value_may_take_so_much_and_no_more() {
        let symbol = "x".repeat(1 << 20);
        let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let mut column = ColumnBuffer::new(&list).expect("records carry it");
        let mut of = |symbols: usize| {
            let before = column.len();
            let outcome = column.list(|items| (0..symbols).try_for_each(|_| items.text(&symbol)));
            if outcome.is_err() {
                column.truncate(before);
            }
            (outcome, column.len(), column.bytes() >> 20)
        };
        assert_eq!(of(300), (Ok(()), 1, 300));
        assert_eq!(of(513), (Err(too_large()), 1, 300));
        assert_eq!(of(300), (Ok(()), 2, 600), "what was refused leaves nothing behind");
        assert_eq!(too_large(), "the value takes more than 536870912 bytes");
        assert_eq!(end(1 << 31), Err(too_large()), "also where no offset leads");
    }
}
