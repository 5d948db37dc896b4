//! Rows into updates: a view's `WHERE`, group, values and filters evaluated over a batch, packed for the fold.
//!
//! Invariants: a row on which an expression fails is refused for this view and harms no other row; the outcome does not
//! depend on how rows are batched. Neighbours: `operator` has the expressions, `fold::entry` the packed form;
//! `dataflow` projects what comes in, `offline` what is logged.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use datafusion::common::DataFusionError;

use super::PlannedView;
use super::operator::{Compiled, ViewPlan};
use crate::definition::bounded::evaluate;
use crate::definition::meaning::canonical;
use crate::event::EventBatch;
use crate::fold::columns::Encoder;
use crate::fold::entry::{BYTES_MAX, Origin, Updates, hash_group, place};
use crate::id::ViewId;

/// Evaluates one view's rows.
pub struct Projector {
    view: ViewId,
    plan: Arc<ViewPlan>,
    groups: RowConverter,
    orders: Vec<RowConverter>,
    /// Positions of `_event_time`, `_partition` and `_offset` in the row.
    place: [usize; 3],
    /// Of its stream: see [`FoldPlan::streams`](crate::fold::plan::FoldPlan::streams).
    rank: u8,
}

/// What a batch of rows became.
#[derive(Default)]
pub struct Projected {
    /// One batch per worker, by the group's hash; then more of them, where one would be too large.
    pub updates: Vec<Updates>,
    /// Rows on which an expression failed: (row, why).
    pub refused: Vec<(usize, String)>,
    workers: u64,
}

/// Bytes of values that are evaluated together, and after which another [`Updates`] begins: their places are `u32`.
const PART_BYTES: usize = 512 << 20;

/// What the rows of a joined view carry beside their columns.
pub struct Changes<'a> {
    /// From when each counts.
    pub counts_from: &'a [i64],
    /// See [`crate::fold::entry::CLOSING`].
    pub flags: &'a [u8],
    /// Differential's diff.
    pub diffs: &'a [i32],
}

/// Rows of a batch that are evaluated together, from `at` on.
struct Part {
    rows: RecordBatch,
    at: usize,
}

#[derive(Default)]
struct Evaluated {
    admit: Option<BooleanArray>,
    groups: Vec<ArrayRef>,
    values: Vec<ArrayRef>,
    filters: Vec<BooleanArray>,
}

impl Projector {
    /// Prepares a view.
    ///
    /// # Errors
    /// Group or sort types that have no row format.
    pub fn new(view: ViewId, planned: &PlannedView) -> Result<Projector, DataFusionError> {
        let plan = Arc::clone(&planned.plan);
        let groups = RowConverter::new(plan.fold.group_types.iter().cloned().map(SortField::new).collect())?;
        let orders = plan.orders.iter().map(|keys| {
            let field = |(c, descending, nulls_first): &(Compiled, bool, bool)| {
                let options = SortOptions { descending: *descending, nulls_first: *nulls_first };
                SortField::new_with_options(c.data_type.clone(), options)
            };
            RowConverter::new(keys.iter().map(field).collect())
        });
        let orders = orders.collect::<Result<_, _>>()?;
        let schema = plan.stream.row_schema();
        let at = |name: &str| -> Result<usize, DataFusionError> {
            let column = schema.index_of(name)?;
            let found = plan.stream_columns.iter().position(|c| *c == column);
            found.ok_or_else(|| DataFusionError::Internal(format!("the row lacks {name}")))
        };
        let place = [at("_event_time")?, at("_partition")?, at("_offset")?];
        let rank = plan.fold.streams.iter().position(|s| *s == plan.stream.name).and_then(|n| u8::try_from(n).ok());
        let rank = rank.ok_or_else(|| DataFusionError::Internal(format!("no rank for {}", plan.stream.name)))?;
        Ok(Projector { view, plan, groups, orders, place, rank })
    }

    /// The plan.
    pub fn plan(&self) -> &ViewPlan {
        &self.plan
    }

    /// A stream's batch (in its `row_schema`), for a view without joins.
    ///
    /// # Errors
    /// A batch of another schema: a bug or a damaged log, not a bad row.
    pub fn project_events(&self, batch: &EventBatch, workers: usize) -> Result<Projected, DataFusionError> {
        let rows = batch.rows().project(&self.plan.stream_columns)?;
        self.project(&rows, batch.epochs(), None, workers)
    }

    /// Rows of the plan's row schema, each with its epoch.
    ///
    /// # Errors
    /// As for [`Projector::project_events`].
    pub fn project(
        &self,
        rows: &RecordBatch,
        epochs: &[i64],
        changes: Option<&Changes<'_>>,
        workers: usize,
    ) -> Result<Projected, DataFusionError> {
        let mut out = Projected { workers: workers as u64, ..Projected::default() };
        out.updates.extend((0..out.workers).map(|worker| self.no_updates(worker)));
        let whole = Part { rows: rows.clone(), at: 0 };
        self.project_part(&whole, epochs, changes, &mut out)?;
        Ok(out)
    }

    fn no_updates(&self, worker: u64) -> Updates {
        Updates { worker, ..Updates::of(self.view) }
    }

    /// The batch that a group's updates go to.
    fn batch_of<'o>(&self, hash: u64, out: &'o mut Projected) -> &'o mut Updates {
        let worker = hash % out.workers;
        let n = usize::try_from(worker).unwrap_or(0);
        if out.updates[n].heap.len() + out.updates[n].group_bytes.len() > PART_BYTES {
            out.updates.push(self.no_updates(worker));
            let last = out.updates.len() - 1;
            out.updates.swap(n, last);
        }
        &mut out.updates[n]
    }

    /// The value of an expression on a row is its value on a batch of that row alone; on larger batches guards do not
    /// guard, and values may be too much together. So what fails is halved until the rows that fail are alone.
    fn project_part(
        &self,
        part: &Part,
        epochs: &[i64],
        changes: Option<&Changes<'_>>,
        out: &mut Projected,
    ) -> Result<(), DataFusionError> {
        let count = part.rows.num_rows();
        match self.evaluate(&part.rows, count == 1) {
            _ if count == 0 => {}
            Ok(evaluated) => self.pack(part, &evaluated, epochs, changes, out)?,
            Err(e) if count == 1 => out.refused.push((part.at, e.strip_backtrace())),
            Err(_) => {
                for (at, len) in [(0, count / 2), (count / 2, count - count / 2)] {
                    let half = Part { rows: part.rows.slice(at, len), at: part.at + at };
                    self.project_part(&half, epochs, changes, out)?;
                }
            }
        }
        Ok(())
    }

    /// `alone`: nothing but the condition is evaluated on a row that it does not admit.
    fn evaluate(&self, rows: &RecordBatch, alone: bool) -> Result<Evaluated, DataFusionError> {
        let array = |c: &Compiled| value(c, rows);
        let condition = |c: &Compiled| Ok::<_, DataFusionError>(array(c)?.as_boolean().clone());
        let plan = &self.plan;
        let admit = plan.admit.as_ref().map(condition).transpose()?;
        if alone && admit.as_ref().is_some_and(|a| !holds(a, 0)) {
            return Ok(Evaluated { admit, ..Evaluated::default() });
        }
        let groups: Vec<_> =
            plan.groups.iter().map(|(_, c)| Ok(normal(array(c)?))).collect::<Result<_, DataFusionError>>()?;
        let mut values = plan.values.iter().map(array).collect::<Result<Vec<_>, _>>()?;
        for (keys, converter) in plan.orders.iter().zip(&self.orders) {
            let columns = keys.iter().map(|(c, _, _)| array(c)).collect::<Result<Vec<_>, _>>()?;
            values.push(Arc::new(converter.convert_columns(&columns)?.try_into_binary()?));
        }
        values.iter().try_for_each(refuse_long)?;
        let bytes: usize = groups.iter().chain(&values).map(|a| bytes_of(a.as_ref())).sum();
        if !alone && bytes > PART_BYTES {
            return Err(DataFusionError::ResourcesExhausted(format!("{bytes} bytes of values at once")));
        }
        let filters = plan.filters.iter().map(condition).collect::<Result<_, _>>()?;
        Ok(Evaluated { admit, groups, values, filters })
    }

    fn pack(
        &self,
        part: &Part,
        evaluated: &Evaluated,
        epochs: &[i64],
        changes: Option<&Changes<'_>>,
        out: &mut Projected,
    ) -> Result<(), DataFusionError> {
        let Part { rows, at } = part;
        if evaluated.admit.as_ref().is_some_and(|a| a.true_count() == 0) {
            return Ok(());
        }
        let event_time = rows.column(self.place[0]).as_primitive::<TimestampMicrosecondType>();
        let partition = rows.column(self.place[1]).as_primitive::<Int32Type>();
        let offset = rows.column(self.place[2]).as_primitive::<Int64Type>();
        let groups = self.groups.convert_columns(&evaluated.groups)?;
        let encoders = evaluated.values.iter().map(Encoder::new).collect::<Result<Vec<_>, _>>()?;
        for n in 0..rows.num_rows() {
            if evaluated.admit.as_ref().is_some_and(|a| !holds(a, n)) {
                continue;
            }
            let group = groups.row(n);
            let hash = hash_group(group.as_ref());
            let updates = self.batch_of(hash, out);
            updates.hashes.push(hash);
            updates.group_bytes.extend_from_slice(group.as_ref());
            updates.group_ends.push(u32::try_from(updates.group_bytes.len()).expect("batches are far below 4 GiB"));
            updates.epochs.push(epochs[at + n].cast_unsigned());
            let mut diff = 1;
            if let Some(changes) = changes {
                updates.counts_from.push(changes.counts_from[at + n]);
                updates.flags.push(changes.flags[at + n]);
                diff = changes.diffs[at + n];
            }
            let mut bits = 0;
            for (v, encoder) in encoders.iter().enumerate() {
                bits |= u64::from(encoder.is_null(n)) << v;
            }
            for (f, filter) in evaluated.filters.iter().enumerate() {
                bits |= u64::from(holds(filter, n)) << (encoders.len() + f);
            }
            let place = place(Origin::new(self.rank, partition.value(n)), diff);
            let words = [event_time.value(n).cast_unsigned(), offset.value(n).cast_unsigned(), place, bits];
            updates.words.extend(words);
            for encoder in &encoders {
                encoder.append(n, &mut updates.words, &mut updates.heap);
            }
        }
        Ok(())
    }
}

/// What a slice holds, not what it shares.
fn bytes_of(array: &dyn Array) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or(usize::MAX)
}

/// A value that no entry can hold is an error of its row.
fn refuse_long(values: &ArrayRef) -> Result<(), DataFusionError> {
    // Most columns are far too small to have one.
    if values.get_array_memory_size() <= BYTES_MAX {
        return Ok(());
    }
    let encoder = Encoder::new(values)?;
    match (0..values.len()).map(|n| encoder.bytes(n)).max() {
        Some(bytes) if bytes > BYTES_MAX => Err(DataFusionError::Execution(format!(
            "a value of {bytes} bytes is longer than {BYTES_MAX}: shorten it, as left(…, 1000) does"
        ))),
        _ => Ok(()),
    }
}

/// An expression's value on each row; a row may end itself, but not the worker.
///
/// # Errors
/// As for [`evaluate`].
pub(crate) fn value(c: &Compiled, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    evaluate(c.expr.as_ref(), &c.text, rows)
}

/// Null does not hold.
pub(crate) fn holds(condition: &BooleanArray, n: usize) -> bool {
    condition.is_valid(n) && condition.value(n)
}

/// Grouping takes −0 as 0 and one NaN.
pub(crate) fn normal(array: ArrayRef) -> ArrayRef {
    if array.data_type() != &DataType::Float64 {
        return array;
    }
    Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(canonical))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array};
    use datafusion::common::config::ConfigOptions;
    use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
    use datafusion::physical_expr::ScalarFunctionExpr;

    use super::*;

    /// A view over one stream of numbers and texts.
    fn planned(select: &str) -> PlannedView {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("dataflows")).expect("a directory");
        let sql = format!(
            "CREATE STREAM s (n BIGINT, t TEXT, ts TIMESTAMP NOT NULL) EVENT TIME ts
               FROM FILE (path = 's.jsonl', format = 'jsonl');
             CREATE FEATURE VIEW v AS {select} FROM s GROUP BY n % 2;"
        );
        std::fs::write(dir.path().join("dataflows/a.sql"), sql).expect("a file");
        let definitions = crate::definition::load(dir.path(), &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}"));
        crate::plan::plan(&definitions).unwrap_or_else(|e| panic!("{e:#?}")).views.remove(0)
    }

    fn events(planned: &PlannedView, rows: &[(i64, &str)]) -> EventBatch {
        let schema = planned.plan.stream.row_schema();
        let count = i64::try_from(rows.len()).expect("few");
        let column = |field: &Arc<arrow::datatypes::Field>| -> ArrayRef {
            match field.name().as_str() {
                "n" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0))),
                "t" => Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1))),
                "_partition" => Arc::new(Int32Array::from_iter_values(rows.iter().map(|_| 0))),
                "_offset" => Arc::new(Int64Array::from_iter_values(0..count)),
                _ if matches!(field.data_type(), DataType::Timestamp(_, _)) => {
                    Arc::new(TimestampMicrosecondArray::from_iter_values(1..=count))
                }
                _ => new_null_array(field.data_type(), rows.len()),
            }
        };
        let columns = schema.fields().iter().map(column).collect();
        let rows = RecordBatch::try_new(schema, columns).expect("columns of the schema");
        EventBatch::new(rows).expect("system columns")
    }

    /// A function with a bug: it ends the thread on 13.
    fn trap(argument: &Compiled, planned: &PlannedView) -> Compiled {
        let function = |arguments: &[ColumnarValue]| {
            for value in ColumnarValue::values_to_arrays(arguments)?[0].as_primitive::<Int64Type>().values() {
                assert_ne!(*value, 13, "this one I cannot do");
            }
            Ok(arguments[0].clone())
        };
        let types = vec![DataType::Int64];
        let udf = create_udf("trap", types, DataType::Int64, Volatility::Immutable, Arc::new(function));
        let arguments = vec![Arc::clone(&argument.expr)];
        let call =
            ScalarFunctionExpr::try_new(Arc::new(udf), arguments, &planned.plan.row, Arc::new(ConfigOptions::new()));
        Compiled { expr: Arc::new(call.expect("its argument is an integer")), ..argument.clone() }
    }

    #[test]
    fn a_row_on_which_an_expression_panics_is_refused_alone() {
        let mut planned = planned("SELECT n % 2 AS odd, sum(n) AS sum");
        let mut plan = planned.plan.as_ref().clone();
        plan.values[0] = trap(&plan.values[0], &planned);
        planned.plan = Arc::new(plan);
        let projector = Projector::new(ViewId::new(7), &planned).expect("plain types");
        let batch = events(&planned, &[(1, "a"), (13, "b"), (15, "c")]);
        let projected = projector.project_events(&batch, 1).expect("a panic is no end");
        assert_eq!(projected.updates[0].len(), 2);
        let [(1, reason)] = &projected.refused[..] else { panic!("{:?}", projected.refused) };
        assert!(reason.contains("panicked") && reason.contains("this one I cannot do"), "{reason}");
    }

    /// What the values of all rows would take together is no reason to refuse any of them.
    #[test]
    fn rows_that_are_too_much_together_are_taken_in_parts() {
        let planned = planned("SELECT n % 2 AS odd, max(repeat(t, 1000)) AS most");
        let projector = Projector::new(ViewId::new(7), &planned).expect("plain types");
        let text = "x".repeat(12_000);
        let rows: Vec<(i64, &str)> = (0..100).map(|n| (n, text.as_str())).collect();
        let projected = projector.project_events(&events(&planned, &rows), 1).expect("parts");
        assert_eq!(projected.refused, []);
        let counts: Vec<usize> = projected.updates.iter().map(Updates::len).collect();
        assert!(counts.len() > 1 && counts.iter().sum::<usize>() == 100, "{counts:?}");
    }

    #[test]
    fn a_value_too_long_to_be_kept_refuses_its_row() {
        let planned = planned("SELECT n % 2 AS odd, max(t) AS longest");
        let projector = Projector::new(ViewId::new(7), &planned).expect("plain types");
        let (fits, long) = ("x".repeat(BYTES_MAX), "x".repeat(BYTES_MAX + 1));
        let batch = events(&planned, &[(1, "a"), (2, &long), (3, &fits)]);
        let projected = projector.project_events(&batch, 1).expect("a bad row is no error");
        let shape = &planned.fold.shape;
        let lengths: Vec<usize> = (0..projected.updates[0].len())
            .map(|n| projected.updates[0].get(n, shape).entry.bytes(shape.slots[0].0).as_slice().len())
            .collect();
        assert_eq!(lengths, [1, BYTES_MAX], "nothing is cut");
        let [(1, reason)] = &projected.refused[..] else { panic!("{:?}", projected.refused) };
        assert!(reason.contains(&format!("{} bytes", BYTES_MAX + 1)), "{reason}");
    }
}
