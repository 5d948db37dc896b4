//! Rows into updates: a view's `WHERE`, group, values and filters evaluated over a batch, packed for the fold.
//!
//! Invariants: a row on which an expression fails is refused for this view and harms no other row; the outcome does not
//! depend on how rows are batched. Neighbours: `operator` has the expressions, `fold::entry` the packed form;
//! `dataflow` projects what comes in, `offline` what is logged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::compute::concat;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use datafusion::common::DataFusionError;

use super::PlannedView;
use super::operator::{Compiled, ViewPlan};
use crate::fold::columns::Encoder;
use crate::fold::entry::{BYTES_MAX, Updates, hash_group, place};

/// Evaluates one view's rows.
pub struct Projector {
    view: usize,
    plan: Arc<ViewPlan>,
    groups: RowConverter,
    orders: Vec<RowConverter>,
    /// Positions of `_event_time`, `_partition` and `_offset` in the row.
    place: [usize; 3],
}

/// What a batch of rows became.
#[derive(Default)]
pub struct Projected {
    /// One batch per worker, by the group's hash.
    pub updates: Vec<Updates>,
    /// Rows on which an expression failed: (row, why).
    pub refused: Vec<(usize, String)>,
}

/// What the rows of a joined view carry beside their columns.
pub struct Changes<'a> {
    /// From when each counts.
    pub counts_from: &'a [i64],
    /// See [`crate::fold::entry::CLOSING`].
    pub flags: &'a [u8],
    /// Differential's diff.
    pub diffs: &'a [i32],
}

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
    pub fn new(view: usize, planned: &PlannedView) -> Result<Projector, DataFusionError> {
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
        Ok(Projector { view, plan, groups, orders, place })
    }

    /// The view's index in the plan.
    pub fn view(&self) -> usize {
        self.view
    }

    /// The plan.
    pub fn plan(&self) -> &ViewPlan {
        &self.plan
    }

    /// A stream's batch (in its `row_schema`), for a view without joins.
    ///
    /// # Errors
    /// A batch of another schema: a bug or a damaged log, not a bad row.
    pub fn project_events(&self, batch: &RecordBatch, workers: usize) -> Result<Projected, DataFusionError> {
        let rows = batch.project(&self.plan.stream_columns)?;
        let epoch = batch.schema().index_of("_epoch")?;
        let epochs = batch.column(epoch).as_primitive::<TimestampMicrosecondType>().values().to_vec();
        self.project(&rows, &epochs, None, workers)
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
        let mut out = Projected::default();
        out.updates.resize_with(workers, Updates::default);
        for (n, updates) in out.updates.iter_mut().enumerate() {
            (updates.view, updates.worker) = (self.view, n as u64);
        }
        if rows.num_rows() == 0 {
            return Ok(out);
        }
        match self.evaluate(rows) {
            Ok(evaluated) => self.pack(rows, &evaluated, epochs, changes, &mut out)?,
            Err(_) => self.one_by_one(rows, epochs, changes, &mut out)?,
        }
        Ok(out)
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<Evaluated, DataFusionError> {
        let array = |c: &Compiled| value(c, rows);
        let condition = |c: &Compiled| Ok::<_, DataFusionError>(array(c)?.as_boolean().clone());
        let plan = &self.plan;
        let admit = plan.admit.as_ref().map(condition).transpose()?;
        let groups = plan.groups.iter().map(|(_, c)| Ok(normal(array(c)?))).collect::<Result<_, DataFusionError>>()?;
        let mut values = plan.values.iter().map(array).collect::<Result<Vec<_>, _>>()?;
        for (keys, converter) in plan.orders.iter().zip(&self.orders) {
            let columns = keys.iter().map(|(c, _, _)| array(c)).collect::<Result<Vec<_>, _>>()?;
            values.push(Arc::new(converter.convert_columns(&columns)?.try_into_binary()?));
        }
        values.iter().try_for_each(refuse_long)?;
        let filters = plan.filters.iter().map(condition).collect::<Result<_, _>>()?;
        Ok(Evaluated { admit, groups, values, filters })
    }

    /// The value of an expression on a row is its value on a batch of that row alone; on larger batches guards do not
    /// guard. So after a failure every row is asked alone.
    fn one_by_one(
        &self,
        rows: &RecordBatch,
        epochs: &[i64],
        changes: Option<&Changes<'_>>,
        out: &mut Projected,
    ) -> Result<(), DataFusionError> {
        let (mut kept, mut parts) = (vec![], vec![]);
        for n in 0..rows.num_rows() {
            let row = rows.slice(n, 1);
            let admitted = match &self.plan.admit {
                None => Ok(true),
                Some(c) => value(c, &row).map(|a| holds(a.as_boolean(), 0)),
            };
            match admitted {
                Ok(false) => {}
                Err(e) => out.refused.push((n, e.strip_backtrace())),
                Ok(true) => match self.evaluate(&row) {
                    Ok(evaluated) => {
                        kept.push(n);
                        parts.push(evaluated);
                    }
                    Err(e) => out.refused.push((n, e.strip_backtrace())),
                },
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        let join = |pick: &dyn Fn(&Evaluated) -> ArrayRef| {
            let arrays: Vec<ArrayRef> = parts.iter().map(pick).collect();
            concat(&arrays.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())
        };
        let evaluated = Evaluated {
            admit: None,
            groups: (0..parts[0].groups.len())
                .map(|g| join(&|p| Arc::clone(&p.groups[g])))
                .collect::<Result<_, _>>()?,
            values: (0..parts[0].values.len())
                .map(|v| join(&|p| Arc::clone(&p.values[v])))
                .collect::<Result<_, _>>()?,
            filters: (0..parts[0].filters.len())
                .map(|f| Ok(join(&|p| Arc::new(p.filters[f].clone()))?.as_boolean().clone()))
                .collect::<Result<_, DataFusionError>>()?,
        };
        let indices = arrow::array::UInt32Array::from_iter_values(
            kept.iter().map(|n| u32::try_from(*n).expect("batches are bounded")),
        );
        let columns = rows.columns().iter().map(|c| arrow::compute::take(c, &indices, None));
        let rows = RecordBatch::try_new(rows.schema(), columns.collect::<Result<_, _>>()?)?;
        let epochs: Vec<i64> = kept.iter().map(|n| epochs[*n]).collect();
        let Some(changes) = changes else { return self.pack(&rows, &evaluated, &epochs, None, out) };
        let counts_from: Vec<i64> = kept.iter().map(|n| changes.counts_from[*n]).collect();
        let flags: Vec<u8> = kept.iter().map(|n| changes.flags[*n]).collect();
        let diffs: Vec<i32> = kept.iter().map(|n| changes.diffs[*n]).collect();
        let changes = Changes { counts_from: &counts_from, flags: &flags, diffs: &diffs };
        self.pack(&rows, &evaluated, &epochs, Some(&changes), out)
    }

    fn pack(
        &self,
        rows: &RecordBatch,
        evaluated: &Evaluated,
        epochs: &[i64],
        changes: Option<&Changes<'_>>,
        out: &mut Projected,
    ) -> Result<(), DataFusionError> {
        let event_time = rows.column(self.place[0]).as_primitive::<TimestampMicrosecondType>();
        let partition = rows.column(self.place[1]).as_primitive::<Int32Type>();
        let offset = rows.column(self.place[2]).as_primitive::<Int64Type>();
        let groups = self.groups.convert_columns(&evaluated.groups)?;
        let encoders = evaluated.values.iter().map(Encoder::new).collect::<Result<Vec<_>, _>>()?;
        let workers = out.updates.len() as u64;
        #[expect(clippy::needless_range_loop, reason = "a row's number picks from every column, not from epochs alone")]
        for n in 0..rows.num_rows() {
            if evaluated.admit.as_ref().is_some_and(|a| !holds(a, n)) {
                continue;
            }
            let group = groups.row(n);
            let hash = hash_group(group.as_ref());
            let updates = &mut out.updates[usize::try_from(hash % workers).unwrap_or(0)];
            updates.hashes.push(hash);
            updates.group_bytes.extend_from_slice(group.as_ref());
            updates.group_ends.push(u32::try_from(updates.group_bytes.len()).expect("batches are far below 4 GiB"));
            updates.epochs.push(epochs[n].cast_unsigned());
            let mut diff = 1;
            if let Some(changes) = changes {
                updates.counts_from.push(changes.counts_from[n]);
                updates.flags.push(changes.flags[n]);
                diff = changes.diffs[n];
            }
            let mut bits = 0;
            for (v, encoder) in encoders.iter().enumerate() {
                bits |= u64::from(encoder.is_null(n)) << v;
            }
            for (f, filter) in evaluated.filters.iter().enumerate() {
                bits |= u64::from(holds(filter, n)) << (encoders.len() + f);
            }
            let place = place(partition.value(n), diff);
            let words = [event_time.value(n).cast_unsigned(), offset.value(n).cast_unsigned(), place, bits];
            updates.words.extend(words);
            for encoder in &encoders {
                encoder.append(n, &mut updates.words, &mut updates.heap);
            }
        }
        Ok(())
    }
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

/// An expression's value on each row. One that panics is one that fails: a row may end itself, but not the worker.
///
/// # Errors
/// DataFusion's; on a batch also where a guard does not guard, so rows are to be asked alone then.
pub(crate) fn value(c: &Compiled, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    let evaluated = catch_unwind(AssertUnwindSafe(|| c.expr.evaluate(rows)?.into_array(rows.num_rows())));
    evaluated.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(DataFusionError::Execution(format!("`{}` panicked: {}", c.text, text.unwrap_or("it does not say why"))))
    })
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
    let values = array.as_primitive::<arrow::datatypes::Float64Type>();
    let one = |x: f64| {
        if x.is_nan() {
            f64::NAN
        } else if x == 0.0 {
            0.0
        } else {
            x
        }
    };
    Arc::new(values.unary::<_, arrow::datatypes::Float64Type>(one) as Float64Array)
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

    fn events(planned: &PlannedView, rows: &[(i64, &str)]) -> RecordBatch {
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
        RecordBatch::try_new(schema, columns).expect("columns of the schema")
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
        let projector = Projector::new(0, &planned).expect("plain types");
        let batch = events(&planned, &[(1, "a"), (13, "b"), (15, "c")]);
        let projected = projector.project_events(&batch, 1).expect("a panic is no end");
        assert_eq!(projected.updates[0].len(), 2);
        let [(1, reason)] = &projected.refused[..] else { panic!("{:?}", projected.refused) };
        assert!(reason.contains("panicked") && reason.contains("this one I cannot do"), "{reason}");
    }

    #[test]
    fn a_value_too_long_to_be_kept_refuses_its_row() {
        let planned = planned("SELECT n % 2 AS odd, max(t) AS longest");
        let projector = Projector::new(0, &planned).expect("plain types");
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
