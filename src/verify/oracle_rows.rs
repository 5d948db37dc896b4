//! Rows for the oracle: what a query sees of a source at an instant, expressions over rows where some fail, and the
//! canonical order.
//!
//! Invariants: an expression's value on a row is its value on a batch of that row alone; where that is an error the row
//! is reported, and nothing else is touched (semantics, rule 22). Neighbours: `recompute` calls these in turn.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, StructArray};
use arrow::array::{TimestampMicrosecondArray, UInt32Array, UInt64Array, new_empty_array, new_null_array};
use arrow::compute::{SortOptions, cast, concat, concat_batches, filter_record_batch, kernels::cmp, take_record_batch};
use arrow::datatypes::{DataType, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use super::oracle_functions::canonical;
use crate::definition::{Source, SourceKind};

/// The columns a query can name: the row's, without `_deleted`.
pub(super) fn query_schema(source: &Source) -> SchemaRef {
    let schema = source.row_schema();
    let fields = schema.fields().iter().filter(|field| field.name() != "_deleted").cloned();
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Which versions of a table's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    /// The current one of each key.
    Current,
    /// All that have been, but for tombstones.
    All,
    /// None.
    None,
}

/// What a query sees of a source at `now`: a stream's events up to then, a table's current row of each key (or what
/// `versions` says).
pub(super) fn visible(
    source: &Source,
    batches: &[RecordBatch],
    now: i64,
    versions: Versions,
) -> Result<RecordBatch, ArrowError> {
    let schema = source.row_schema();
    let mut rows = Vec::with_capacity(batches.len());
    for batch in batches {
        let batch = conform(batch, &schema)?;
        if source.is_table() && source.event_time.is_none() {
            rows.push(batch);
            continue;
        }
        let times = batch.column(schema.index_of("_event_time")?);
        let past = cmp::lt_eq(times, &TimestampMicrosecondArray::new_scalar(now))?;
        rows.push(filter_record_batch(&batch, &past)?);
    }
    let all = concat_batches(&schema, &rows)?;
    let kept = match (&source.kind, versions) {
        (SourceKind::Stream, _) => all,
        (SourceKind::Table { key }, Versions::Current) => current_versions(&all, key)?,
        (SourceKind::Table { .. }, Versions::None) => all.slice(0, 0),
        (SourceKind::Table { .. }, Versions::All) => {
            let deleted = all.column_by_name("_deleted").expect("a table's row schema has it").as_boolean();
            filter_record_batch(&all, &deleted.iter().map(|d| Some(d != Some(true))).collect())?
        }
    };
    nameable(source, &kept)
}

/// Logged rows as a query can name their columns.
pub(super) fn queryable(source: &Source, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    nameable(source, &conform(batch, &source.row_schema())?)
}

fn nameable(source: &Source, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = source.row_schema();
    let columns = (0..schema.fields().len()).filter(|i| schema.field(*i).name() != "_deleted");
    RecordBatch::try_new(query_schema(source), columns.map(|i| Arc::clone(rows.column(i))).collect())
}

/// The columns of `schema`, found by name.
fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let column = |field: &Arc<arrow::datatypes::Field>| {
        let column = batch
            .column_by_name(field.name())
            .ok_or_else(|| ArrowError::SchemaError(format!("the logged rows have no column `{}`", field.name())))?;
        if column.data_type() == field.data_type() { Ok(Arc::clone(column)) } else { cast(column, field.data_type()) }
    };
    RecordBatch::try_new(Arc::clone(schema), schema.fields().iter().map(column).collect::<Result<_, _>>()?)
}

/// For each key the row greatest by (event time, partition, offset), unless it is a tombstone.
fn current_versions(rows: &RecordBatch, key: &[usize]) -> Result<RecordBatch, ArrowError> {
    let by_name = |name: &str| rows.column_by_name(name).cloned().expect("a table's row schema has it");
    let keys: Vec<ArrayRef> = key.iter().map(|i| one_zero_one_nan(rows.column(*i))).collect();
    let keys = encode(&keys, SortOptions::default())?;
    // Null event times sort first, and are all alike in a table without one.
    let positions = ["_event_time", "_partition", "_offset"].map(by_name);
    let positions = encode(&positions, SortOptions::default())?;
    let mut last: HashMap<&[u8], usize> = HashMap::new();
    for row in 0..rows.num_rows() {
        let held = last.entry(keys.row(row).data()).or_insert(row);
        if positions.row(row) > positions.row(*held) {
            *held = row;
        }
    }
    let deleted = by_name("_deleted");
    let deleted = deleted.as_boolean();
    let mut kept: Vec<usize> = last.into_values().filter(|row| !deleted.value(*row)).collect();
    kept.sort_unstable();
    take_record_batch(rows, &UInt32Array::from_iter_values(kept.into_iter().map(row_number)))
}

fn row_number(row: usize) -> u32 {
    u32::try_from(row).expect("a batch has fewer than 2^32 rows")
}

fn encode(columns: &[ArrayRef], options: SortOptions) -> Result<Rows, ArrowError> {
    let field = |column: &ArrayRef| SortField::new_with_options(column.data_type().clone(), options);
    RowConverter::new(columns.iter().map(field).collect())?.convert_columns(columns)
}

/// An expression's value on every row, with null where it fails; and the rows where it fails.
///
/// # Errors
/// What is not about a row's values, as memory that is not there.
pub(super) fn evaluate(
    expr: &dyn PhysicalExpr,
    batch: &RecordBatch,
) -> Result<(ArrayRef, Vec<usize>), DataFusionError> {
    let data_type = expr.data_type(&batch.schema())?;
    let (mut pieces, mut failed) = (vec![], vec![]);
    evaluate_range(expr, batch, (0, batch.num_rows()), &data_type, &mut pieces, &mut failed)?;
    let value = match &pieces[..] {
        [] => new_empty_array(&data_type),
        [one] => Arc::clone(one),
        many => concat(&many.iter().map(AsRef::as_ref).collect::<Vec<_>>())?,
    };
    Ok((value, failed))
}

/// Halves a range that fails until the rows that fail alone are found: on larger batches guards do not guard.
fn evaluate_range(
    expr: &dyn PhysicalExpr,
    batch: &RecordBatch,
    (start, rows): (usize, usize),
    data_type: &DataType,
    pieces: &mut Vec<ArrayRef>,
    failed: &mut Vec<usize>,
) -> Result<(), DataFusionError> {
    if rows == 0 {
        return Ok(());
    }
    // An expression that panics on a row fails on it.
    let part = batch.slice(start, rows);
    // Alone means with its own lists: a slice's are those of the whole batch.
    let part = if rows == 1 { take_record_batch(&part, &UInt32Array::from(vec![0]))? } else { part };
    let value = catch_unwind(AssertUnwindSafe(|| expr.evaluate(&part)?.into_array(rows)));
    match value.unwrap_or_else(|_| Err(DataFusionError::Execution("it panicked".into()))) {
        Ok(array) => pieces.push(array),
        Err(error) if !is_about_values(&error) => return Err(error),
        Err(_) if rows == 1 => {
            failed.push(start);
            pieces.push(new_null_array(data_type, 1));
        }
        Err(_) => {
            let half = rows / 2;
            evaluate_range(expr, batch, (start, half), data_type, pieces, failed)?;
            evaluate_range(expr, batch, (start + half, rows - half), data_type, pieces, failed)?;
        }
    }
    Ok(())
}

/// Is it an overflow, a division by zero, a pattern that is none: an error of the values, not of the machine?
///
/// Functions report what they cannot do with a value in every way there is, also as an error of a crate that DataFusion
/// does not know. So whatever an expression fails with is about its row (rule 22), but for memory and files, which have
/// nothing to do with it.
pub(super) fn is_about_values(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::ArrowError(e, _) => !matches!(**e, ArrowError::MemoryError(_) | ArrowError::IoError(_, _)),
        DataFusionError::ResourcesExhausted(_) | DataFusionError::IoError(_) | DataFusionError::ExecutionJoin(_) => {
            false
        }
        _ => true,
    }
}

/// True but for the rows in `failed`.
pub(super) fn all_but(failed: &[usize], rows: usize) -> BooleanArray {
    let mut kept = vec![true; rows];
    failed.iter().for_each(|row| kept[*row] = false);
    BooleanArray::from(kept)
}

/// Where a condition holds: null, as where it fails, is not.
pub(super) fn truth(condition: &ArrayRef) -> BooleanArray {
    condition.as_boolean().iter().map(|holds| Some(holds == Some(true))).collect()
}

/// The array with every −0 as 0 and every NaN as the greatest one, inside structs and lists too.
pub(super) fn one_zero_one_nan(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => {
            Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(canonical)) as ArrayRef
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let array = array.as_struct();
            let columns = array.columns().iter().map(one_zero_one_nan).collect();
            Arc::new(StructArray::new(fields.clone(), columns, array.nulls().cloned()))
        }
        DataType::List(field) => {
            let array = array.as_list::<i32>();
            let values = one_zero_one_nan(array.values());
            Arc::new(ListArray::new(Arc::clone(field), array.offsets().clone(), values, array.nulls().cloned()))
        }
        _ => Arc::clone(array),
    }
}

/// A column to order by.
#[derive(Clone)]
pub(super) struct OrderColumn {
    /// Its values.
    pub(super) values: ArrayRef,
    /// Direction and place of nulls.
    pub(super) options: SortOptions,
}

/// Each row's place, from 0, when rows are ordered by `order`, then the tie breakers `tail`, then, where even those
/// are equal, `value`: one stream row joined with several table rows.
pub(super) fn ranks(order: &[OrderColumn], tail: &[ArrayRef], value: &ArrayRef) -> Result<UInt64Array, ArrowError> {
    let ascending = |values: &ArrayRef| OrderColumn { values: Arc::clone(values), options: SortOptions::default() };
    let columns: Vec<_> = order.iter().cloned().chain(tail.iter().map(ascending)).chain([ascending(value)]).collect();
    let field = |c: &OrderColumn| SortField::new_with_options(c.values.data_type().clone(), c.options);
    let converter = RowConverter::new(columns.iter().map(field).collect())?;
    let rows = converter.convert_columns(&columns.iter().map(|c| Arc::clone(&c.values)).collect::<Vec<_>>())?;
    let mut sorted: Vec<usize> = (0..rows.num_rows()).collect();
    sorted.sort_unstable_by(|a, b| rows.row(*a).cmp(&rows.row(*b)));
    let mut ranks = vec![0; sorted.len()];
    for (rank, row) in (0u64..).zip(sorted) {
        ranks[row] = rank;
    }
    Ok(UInt64Array::from(ranks))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array};

    use super::*;

    #[test]
    fn zeros_and_nans_become_one_inside_structs() {
        let doubles: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.0), Some(-f64::NAN), None, Some(1.5)]));
        let field = arrow::datatypes::Field::new("x", DataType::Float64, true);
        let nested: ArrayRef = Arc::new(StructArray::from(vec![(Arc::new(field), Arc::clone(&doubles))]));
        let nested = one_zero_one_nan(&nested);
        for array in [one_zero_one_nan(&doubles), Arc::clone(nested.as_struct().column(0))] {
            let array = array.as_primitive::<Float64Type>();
            assert_eq!(array.value(0).to_bits(), 0);
            assert_eq!(array.value(1).to_bits(), f64::NAN.to_bits());
            assert!(array.is_null(2));
            assert_eq!(array.value(3), 1.5);
        }
    }

    #[test]
    fn ranks_fall_back_to_the_tail() {
        let ints = |values: &[i64]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
        let descending =
            OrderColumn { values: ints(&[5, 7, 5, 5]), options: SortOptions { descending: true, nulls_first: true } };
        let got = ranks(&[descending], &[ints(&[2, 9, 1, 2])], &ints(&[1, 0, 0, 0])).expect("sortable");
        assert_eq!(got.values().to_vec(), [3, 0, 1, 2]);
    }
}
