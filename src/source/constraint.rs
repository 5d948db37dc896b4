//! The declared conditions of a source, over a batch at a time: `CHECK`, `EVENT TIME`, `ARRIVAL TIME`.
//!
//! An expression's value on a row is its value on a batch of that row alone: where a batch fails, its rows are taken
//! one by one, so that only the rows that fail are refused. Neighbours: `decode` refuses and fills by what this finds.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Schema};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::ast;

use crate::definition::bounded::evaluate;
use crate::definition::check::compile;
use crate::definition::timestamp;

/// An expression and what each row of a batch made of it.
#[derive(Debug)]
pub(super) struct Condition {
    expr: Arc<dyn PhysicalExpr>,
    text: String,
}

/// One value per row, null where it failed, and the failures by row.
pub(super) struct Evaluated<A> {
    pub(super) values: A,
    pub(super) failed: Vec<(usize, String)>,
}

impl Condition {
    /// A `CHECK`, which must be boolean.
    pub(super) fn check(expr: &ast::Expr, schema: &Schema) -> Result<Condition, DataFusionError> {
        let (text, expr) = (expr.to_string(), compile(expr, schema)?);
        match expr.data_type(schema)? {
            DataType::Boolean | DataType::Null => Ok(Condition { expr, text }),
            other => Err(DataFusionError::Plan(format!("a CHECK must be BOOLEAN, this is {other}"))),
        }
    }

    /// An `EVENT TIME` or `ARRIVAL TIME`, which must be an instant or a date.
    pub(super) fn instant(expr: &ast::Expr, schema: &Schema) -> Result<Condition, DataFusionError> {
        let (text, expr) = (expr.to_string(), compile(expr, schema)?);
        match expr.data_type(schema)? {
            DataType::Timestamp(..) | DataType::Date32 | DataType::Null => Ok(Condition { expr, text }),
            other => Err(DataFusionError::Plan(format!("a time must be TIMESTAMP, this is {other}"))),
        }
    }

    /// Does it hold? Null where it cannot be said.
    pub(super) fn holds(&self, batch: &RecordBatch) -> Evaluated<BooleanArray> {
        let Evaluated { values, failed } = self.evaluate(batch, &DataType::Boolean);
        let values = values.as_any().downcast_ref::<BooleanArray>().expect("cast to it").clone();
        Evaluated { values, failed }
    }

    /// The instants, in microseconds.
    pub(super) fn instants(&self, batch: &RecordBatch) -> Evaluated<TimestampMicrosecondArray> {
        let Evaluated { values, failed } = self.evaluate(batch, &timestamp());
        let values = values.as_any().downcast_ref::<TimestampMicrosecondArray>().expect("cast to it").clone();
        Evaluated { values, failed }
    }

    fn evaluate(&self, batch: &RecordBatch, to: &DataType) -> Evaluated<ArrayRef> {
        if let Ok(values) = self.all_at_once(batch, to) {
            return Evaluated { values, failed: vec![] };
        }
        let mut failed = vec![];
        let rows: Vec<ArrayRef> = (0..batch.num_rows())
            .map(|row| {
                self.all_at_once(&batch.slice(row, 1), to).unwrap_or_else(|e| {
                    failed.push((row, e.strip_backtrace()));
                    new_null_array(to, 1)
                })
            })
            .collect();
        let rows: Vec<&dyn Array> = rows.iter().map(AsRef::as_ref).collect();
        Evaluated { values: concat(&rows).expect("all were cast to one type"), failed }
    }

    fn all_at_once(&self, batch: &RecordBatch, to: &DataType) -> Result<ArrayRef, DataFusionError> {
        let values = evaluate(self.expr.as_ref(), &self.text, batch)?;
        if values.data_type() == to {
            return Ok(values);
        }
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        Ok(cast_with_options(&values, to, &strict)?)
    }
}
