//! Encoded rows, alone and with the interval in which they are valid: what moves between the operators of a join.
//!
//! Invariants: equal rows are equal bytes, and rows are ordered and hashed as bytes. Neighbours: Arrow's row format makes
//! them; `table` and `join` say what is valid when, `multiset` and `overlap` keep them.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An epoch's number: the time of the dataflow.
pub type Time = u64;
/// How often a row is there more, or less.
pub type Diff = i64;

/// An encoded row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Row(pub Box<[u8]>);

impl Row {
    /// Copies the bytes.
    pub fn from_slice(bytes: &[u8]) -> Row {
        Row(bytes.into())
    }

    /// One after the other.
    pub fn cat(parts: &[&[u8]]) -> Row {
        Row(parts.concat().into())
    }
}

impl Deref for Row {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

// One hash of the whole row instead of one step per byte.
impl Hash for Row {
    fn hash<H: Hasher>(&self, h: &mut H) {
        h.write_u64(xxhash_rust::xxh3::xxh3_64(&self.0));
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Row, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Row;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Row, E> {
                Ok(Row::from_slice(bytes))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Row, E> {
                Ok(Row(bytes.into()))
            }
        }
        d.deserialize_byte_buf(Bytes)
    }
}

/// A row that is valid at the instants `valid_from <= now < valid_to`, in microseconds; `i64::MAX`: for ever.
///
/// Ordered by the row, so that what is known of one row at different times stands together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub struct Dated {
    /// The row.
    pub row: Row,
    /// The first instant.
    pub valid_from: i64,
    /// The first instant after it.
    pub valid_to: i64,
}

/// The instants that two intervals share, if there are any.
pub fn overlap(a: (i64, i64), b: (i64, i64)) -> Option<(i64, i64)> {
    let (from, to) = (a.0.max(b.0), a.1.min(b.1));
    (from < to).then_some((from, to))
}

/// Eight bytes that sort like the number.
pub fn sortable(n: i64) -> [u8; 8] {
    (n ^ i64::MIN).to_be_bytes()
}

/// The number behind [`sortable`] bytes; they are the first of `bytes`.
pub fn unsortable(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes[..8].try_into().expect("eight bytes")) ^ i64::MIN
}
