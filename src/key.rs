//! Entities: the text or the values that name one, and the bytes of its group.
//!
//! Invariants: an entity is given in the view's declared order; its bytes are Arrow's row format of the group's columns in
//! the query's order. A null anywhere names no entity. Neighbours: every reader; `plan` says what a view's entity is.

use std::borrow::Cow;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::RowConverter;
use datafusion::common::ScalarValue;

use crate::definition::sql_name;
use crate::fold::columns::group_converter;
use crate::plan::operator::ViewPlan;
use crate::plan::project::normal;
use crate::source::number::fixed_point;
use crate::time::parse_instant;

/// A day, in µs.
const DAY: i64 = 86_400_000_000;

/// A key that does not name an entity of the view.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Another number of parts.
    #[error("view `{view}` has the key {expected}; `{given}` has {parts} parts")]
    Parts {
        /// The view.
        view: String,
        /// Its entity columns.
        expected: String,
        /// What was given.
        given: String,
        /// In how many parts.
        parts: usize,
    },
    /// A part's name is not an entity column.
    #[error("view `{view}` has no entity column `{name}`; its key is {expected}")]
    Name {
        /// The view.
        view: String,
        /// What was given.
        name: String,
        /// Its entity columns.
        expected: String,
    },
    /// A part begins with a double quote and does not end with one.
    #[error("`{given}` has a part in double quotes that does not end with one; write quotes inside it twice")]
    Quotes {
        /// What was given.
        given: String,
    },
    /// A part is not of its column's type.
    #[error("`{text}` is not a value of entity column `{column}`, which is {}", sql_name(.data_type))]
    Type {
        /// What was given.
        text: String,
        /// The column.
        column: String,
        /// Its type.
        data_type: DataType,
    },
}

/// One view's entities.
pub struct EntityCodec {
    view: String,
    /// (name, index of the group column, type), in declared order.
    columns: Vec<(String, usize, DataType)>,
    converter: RowConverter,
}

impl EntityCodec {
    /// For one view.
    ///
    /// # Errors
    /// Group types without a row format.
    pub fn new(plan: &ViewPlan) -> Result<EntityCodec, ArrowError> {
        let columns = plan.entity.iter().map(|(n, g)| (n.clone(), *g, plan.fold.group_types[*g].clone()));
        Ok(EntityCodec { view: plan.name.clone(), columns: columns.collect(), converter: group_converter(&plan.fold)? })
    }

    /// Names and types of the entity columns, in declared order.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &DataType)> {
        self.columns.iter().map(|(n, _, t)| (n.as_str(), t))
    }

    fn expected(&self) -> String {
        self.columns.iter().map(|(n, _, _)| n.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Reads a key: the value; for a composite key `a=1,b=x` or `1,x` in declared order.
    ///
    /// In the named form a value reaches to the next `,NAME=` of an entity column, so it may hold commas; in the other a
    /// part may be written in double quotes.
    ///
    /// # Errors
    /// [`KeyError`], which says what the key is.
    pub fn parse(&self, text: &str) -> Result<Vec<ScalarValue>, KeyError> {
        let parts: Vec<Cow<'_, str>> = match self.named(text) {
            Some(mut named) => {
                named.sort_by_key(|(column, _)| *column);
                if !named.iter().map(|(column, _)| *column).eq(0..self.columns.len()) {
                    return Err(self.misnamed(text).unwrap_or_else(|| self.other_parts(text, named.len())));
                }
                named.into_iter().map(|(_, value)| value.into()).collect()
            }
            None if self.columns.len() == 1 => vec![text.into()],
            None => {
                let parts = quoted_parts(text).ok_or_else(|| KeyError::Quotes { given: text.to_string() })?;
                if let Some(misnamed) = self.misnamed(text) {
                    return Err(misnamed);
                }
                if parts.len() != self.columns.len() {
                    return Err(self.other_parts(text, parts.len()));
                }
                parts
            }
        };
        self.columns.iter().zip(&parts).map(|((n, _, t), text)| parse_value(text, n, t)).collect()
    }

    /// The columns and values of a key that begins with `NAME=` of an entity column.
    fn named<'a>(&self, text: &'a str) -> Option<Vec<(usize, &'a str)>> {
        let value = |text: &'a str, name: &str| text.trim_start().strip_prefix(name)?.trim_start().strip_prefix('=');
        let start = |text: &'a str| {
            self.columns.iter().enumerate().find_map(|(column, (name, _, _))| Some((column, value(text, name)?)))
        };
        let mut found = vec![];
        let mut next = Some(start(text)?);
        while let Some((column, rest)) = next {
            // A single column has all of the text.
            let ends = rest.match_indices(',').filter(|_| self.columns.len() > 1);
            let end = ends.map(|(at, _)| (at, start(&rest[at + 1..]))).find(|(_, start)| start.is_some());
            let (end, start) = end.unwrap_or((rest.len(), None));
            found.push((column, &rest[..end]));
            next = start;
        }
        Some(found)
    }

    /// Every part of a composite key has a name, and one is no entity column's.
    fn misnamed(&self, text: &str) -> Option<KeyError> {
        // What is in quotes may have commas and look like names.
        if self.columns.len() == 1 || text.contains('"') {
            return None;
        }
        let names = text.split(',').map(|part| part.split_once('=').map(|(name, _)| name.trim()));
        let names = names.collect::<Option<Vec<&str>>>()?;
        let known = |name: &str| self.columns.iter().any(|(n, _, _)| n == name);
        let name = names.into_iter().find(|name| !known(name))?.to_string();
        Some(KeyError::Name { view: self.view.clone(), name, expected: self.expected() })
    }

    fn other_parts(&self, text: &str, parts: usize) -> KeyError {
        KeyError::Parts { view: self.view.clone(), expected: self.expected(), given: text.to_string(), parts }
    }

    /// The bytes of an entity's group; `None` if a part is null.
    ///
    /// # Errors
    /// Values of other types than the entity's.
    pub fn group(&self, entity: &[ScalarValue]) -> Result<Option<Vec<u8>>, ArrowError> {
        if entity.iter().any(ScalarValue::is_null) {
            return Ok(None);
        }
        let columns = entity.iter().map(|v| v.to_array_of_size(1).map_err(|e| ArrowError::ComputeError(e.to_string())));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        Ok(self.groups(&columns)?.pop().flatten())
    }

    /// The groups of many entities, given as columns in declared order and of the declared types.
    ///
    /// # Errors
    /// Columns of other types.
    pub fn groups(&self, entities: &[ArrayRef]) -> Result<Vec<Option<Vec<u8>>>, ArrowError> {
        let mut ordered: Vec<Option<ArrayRef>> = vec![None; self.columns.len()];
        for ((_, group, _), array) in self.columns.iter().zip(entities) {
            ordered[*group] = Some(normal(std::sync::Arc::clone(array)));
        }
        let ordered: Vec<ArrayRef> = ordered.into_iter().flatten().collect();
        let rows = self.converter.convert_columns(&ordered)?;
        let null = |n: usize| ordered.iter().any(|a| a.is_null(n));
        Ok((0..rows.num_rows()).map(|n| (!null(n)).then(|| rows.row(n).as_ref().to_vec())).collect())
    }

    /// The group's columns (in the query's order) behind bytes.
    ///
    /// # Errors
    /// Bytes of another view.
    pub fn decode(&self, group: &[u8]) -> Result<Vec<ScalarValue>, ArrowError> {
        let parser = self.converter.parser();
        let columns = self.converter.convert_rows([parser.parse(group)])?;
        let value =
            |a: &ArrayRef| ScalarValue::try_from_array(a, 0).map_err(|e| ArrowError::ComputeError(e.to_string()));
        columns.iter().map(value).collect()
    }
}

/// The parts between commas; one in double quotes may hold commas, and quotes doubled. `None` if a quoted part does not
/// end with its quote.
fn quoted_parts(text: &str) -> Option<Vec<Cow<'_, str>>> {
    let (mut parts, mut rest) = (vec![], text);
    loop {
        let end = match rest.strip_prefix('"') {
            Some(inner) => {
                let end = closing_quote(inner)?;
                parts.push(inner[..end].replace("\"\"", "\"").into());
                end + 2
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                parts.push(rest[..end].into());
                end
            }
        };
        match rest[end..].strip_prefix(',') {
            Some(next) => rest = next,
            None => return (end == rest.len()).then_some(parts),
        }
    }
}

/// The first quote that is not doubled.
fn closing_quote(text: &str) -> Option<usize> {
    let mut at = text.find('"')?;
    while text[at + 1..].starts_with('"') {
        at += 2 + text[at + 2..].find('"')?;
    }
    Some(at)
}

/// A value of a type from its text, as it is written in keys, label files and answers. Nothing is rounded: a text that
/// says more than the type can hold is no value of it.
///
/// # Errors
/// [`KeyError::Type`].
pub fn parse_value(text: &str, column: &str, data_type: &DataType) -> Result<ScalarValue, KeyError> {
    let wrong = || KeyError::Type { text: text.into(), column: column.into(), data_type: data_type.clone() };
    let trimmed = text.trim();
    Ok(match data_type {
        DataType::Utf8 => ScalarValue::Utf8(Some(text.to_string())),
        DataType::Int32 => ScalarValue::Int32(Some(integer(trimmed).ok_or_else(wrong)?)),
        DataType::Int64 => ScalarValue::Int64(Some(integer(trimmed).ok_or_else(wrong)?)),
        DataType::Decimal128(precision, scale) => {
            let unscaled = fixed_point(trimmed.as_bytes(), usize::from(*precision), i32::from(*scale));
            ScalarValue::Decimal128(Some(unscaled.map_err(|_| wrong())?), *precision, *scale)
        }
        DataType::Float64 => ScalarValue::Float64(Some(trimmed.parse().map_err(|_| wrong())?)),
        DataType::Boolean => ScalarValue::Boolean(Some(trimmed.parse().map_err(|_| wrong())?)),
        DataType::Timestamp(_, zone) => {
            ScalarValue::TimestampMicrosecond(Some(parse_instant(trimmed).ok_or_else(wrong)?), zone.clone())
        }
        DataType::Date32 => {
            let midnight = parse_instant(trimmed).filter(|t| t.rem_euclid(DAY) == 0).ok_or_else(wrong)?;
            ScalarValue::Date32(Some(i32::try_from(midnight / DAY).map_err(|_| wrong())?))
        }
        other => {
            let text = match other.is_integer() {
                true => integer::<i128>(trimmed).ok_or_else(wrong)?.to_string(),
                false => trimmed.to_string(),
            };
            let value = ScalarValue::Utf8(Some(text)).cast_to(other).map_err(|_| wrong())?;
            if value.is_null() {
                return Err(wrong());
            }
            value
        }
    })
}

/// `10`, `10.0` and `1e1` are the same, as they are in events.
fn integer<T: TryFrom<i128>>(text: &str) -> Option<T> {
    T::try_from(fixed_point(text.as_bytes(), 20, 0).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(columns: &[(&str, DataType)]) -> EntityCodec {
        let fields = columns.iter().map(|(_, t)| arrow::row::SortField::new(t.clone())).collect();
        EntityCodec {
            view: "v".into(),
            columns: columns.iter().enumerate().map(|(n, (name, t))| (name.to_string(), n, t.clone())).collect(),
            converter: RowConverter::new(fields).expect("plain types"),
        }
    }

    #[test]
    fn a_composite_key_may_hold_commas_quotes_and_names() {
        let both = codec(&[("h", DataType::Int64), ("g", DataType::Utf8)]);
        let check = |text: &str, want: Result<&str, &str>| match (both.parse(text), want) {
            (Ok(got), Ok(g)) => {
                assert_eq!(got, [ScalarValue::Int64(Some(1)), ScalarValue::Utf8(Some(g.into()))], "{text}");
            }
            (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{text}: {got}"),
            (got, want) => panic!("{text}: {got:?}, expected {want:?}"),
        };
        check("1,x", Ok("x"));
        check("1,", Ok(""));
        check("1,a=b", Ok("a=b"));
        check("1,5\" disk", Ok("5\" disk"));
        check("1,\"x,y\"", Ok("x,y"));
        check("\"1\",\"say \"\"so\"\"\"", Ok("say \"so\""));
        check("1,\"\"", Ok(""));
        check("1,\"\"\"\"", Ok("\""));
        check("1,\"a=b,c=d\"", Ok("a=b,c=d"));
        check("h=1,g=x", Ok("x"));
        check("g=x, h=1", Ok("x"));
        check("h=1,g=x,y", Ok("x,y"));
        check("g=x,y,z=2,h = 1", Ok("x,y,z=2"));
        check("h=1,g=,", Ok(","));
        check("h=1,g=\"x\"", Ok("\"x\""));
        check("1", Err("`v` has the key h,g; `1` has 1 parts"));
        check("1,x,y", Err("has 3 parts"));
        check("h=1", Err("has 1 parts"));
        check("g=x,y", Err("has 1 parts"));
        check("h=1,g=x,g=y", Err("has 3 parts"));
        check("g=x,g=y", Err("has 2 parts"));
        check("h=1,f=x", Err("no entity column `f`"));
        check("f=1,g=x", Err("no entity column `f`"));
        check("x,1", Err("`x` is not a value of entity column `h`, which is BIGINT"));
        check("1,\"x", Err("does not end with one"));
        check("1,\"x\"y", Err("does not end with one"));
        let one = codec(&[("g", DataType::Utf8)]);
        for (text, want) in
            [("x", "x"), ("x,y", "x,y"), ("g=x,g=y", "x,g=y"), ("a=b", "a=b"), ("\"x\"", "\"x\""), ("", "")]
        {
            assert_eq!(one.parse(text), Ok(vec![ScalarValue::Utf8(Some(want.into()))]), "{text}");
        }
    }

    #[test]
    fn a_text_is_one_value_or_none() {
        let check = |text: &str, data_type: DataType, want: Option<ScalarValue>| {
            assert_eq!(parse_value(text, "c", &data_type).ok(), want, "{text} as {data_type}");
        };
        let bigint =
            |text: &str, want: Option<i64>| check(text, DataType::Int64, want.map(|n| ScalarValue::Int64(Some(n))));
        bigint("42", Some(42));
        bigint(" 42 ", Some(42));
        bigint("42.0", Some(42));
        bigint("1e3", Some(1_000));
        bigint("-9223372036854775808", Some(i64::MIN));
        bigint("9007199254740993.0", Some(9_007_199_254_740_993));
        for wrong in ["1.5", "1e-1", "9223372036854775808", "", "x", "0x10", "1 2", "NaN"] {
            bigint(wrong, None);
        }
        check("1.0", DataType::UInt64, Some(ScalarValue::UInt64(Some(1))));
        check("-1", DataType::UInt64, None);
        check("1.0", DataType::Int32, Some(ScalarValue::Int32(Some(1))));
        check("2147483648", DataType::Int32, None);
        let decimal = |text: &str, want: Option<i128>| {
            check(text, DataType::Decimal128(10, 2), want.map(|n| ScalarValue::Decimal128(Some(n), 10, 2)));
        };
        decimal("1.5", Some(150));
        decimal("1.500", Some(150));
        decimal("15e-1", Some(150));
        decimal("-0.05", Some(-5));
        for wrong in ["1.501", "1.495", "100000000", "", "x"] {
            decimal(wrong, None);
        }
        let date =
            |text: &str, want: Option<i32>| check(text, DataType::Date32, want.map(|n| ScalarValue::Date32(Some(n))));
        date("2024-10-04", Some(20_000));
        date("1969-12-31", Some(-1));
        date("2024-10-04T00:00:00Z", Some(20_000));
        for wrong in ["2024-10-04T00:00:01Z", "2024-10-04T12:00:00", "2024-10-04T00:00:00+02:00", "2023-02-29", "x"] {
            date(wrong, None);
        }
    }
}
