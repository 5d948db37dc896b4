//! What a view's query becomes: the row it reads, the joins that make it, and the fold that ends it.
//!
//! A plan is data: compiled expressions beside the types and texts that identify it. [`FoldPlan`] is the part that needs
//! no SQL: what `fold` and everything behind it knows of a view.
//!
//! Invariants: indices point into what stands beside them: a join's into the table's `row_schema`, an output's into
//! groups and aggregates. Neighbours: `plan::lower` builds these, `plan::project` and `dataflow` run them.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

use super::keyed::GroupKey;
use crate::definition::Source;
use crate::fold::plan::FoldPlan;

/// A compiled scalar expression with the texts that show and identify it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Evaluates over batches of the row schema.
    pub expr: Arc<dyn PhysicalExpr>,
    /// Its type.
    pub data_type: DataType,
    /// For people: parentheses and quotes may be missing.
    pub text: String,
    /// Equal for equal expressions only.
    pub identity: String,
}

/// A feature view, planned.
#[derive(Clone, Debug)]
pub struct ViewPlan {
    /// Its name.
    pub name: String,
    /// The stream whose events it folds.
    pub stream: Arc<Source>,
    /// Indices into the stream's `row_schema` of the columns that the row starts with.
    pub stream_columns: Vec<usize>,
    /// Tables joined to it, in order. Empty: the row is the stream's.
    pub joins: Vec<JoinPlan>,
    /// The row that is folded: the stream's columns, then each join's.
    pub row: SchemaRef,
    /// `WHERE` without its temporal predicates; null and false keep a row out.
    pub admit: Option<Compiled>,
    /// Of a view without joins, what it groups by, for the stream's events as they are logged.
    pub key: Option<GroupKey>,
    /// What groups: the name of each expression's column and the expression.
    pub groups: Vec<(String, Compiled)>,
    /// The distinct inputs of aggregates.
    pub values: Vec<Compiled>,
    /// The distinct `FILTER`s, without their temporal predicates.
    pub filters: Vec<Compiled>,
    /// Sort keys of `first_value` and `last_value` beyond event time: expressions with (descending, nulls first).
    pub orders: Vec<Vec<(Compiled, bool, bool)>>,
    /// The rest of it.
    pub fold: Arc<FoldPlan>,
    /// `HAVING`: a group on which it does not hold has no row. Over one row as [`Output::Expression`]'s.
    pub having: Option<Compiled>,
    /// The entity: output name and index of the group expression.
    pub entity: Vec<(String, usize)>,
    /// The features, in the query's order.
    pub features: Vec<Feature>,
    /// Declared objective from append to readable, in microseconds.
    pub freshness: Option<i64>,
    /// Identifies what the plan means and what its inputs look like.
    pub fingerprint: String,
}

/// One output column of the query that is not part of the entity.
#[derive(Clone, Debug)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// How it follows from groups and aggregates.
    pub output: Output,
}

/// Where an output column comes from.
#[derive(Clone, Debug)]
pub enum Output {
    /// The n-th group expression.
    Group(usize),
    /// The n-th aggregate.
    Aggregate(usize),
    /// An expression over one row of `[groups…, aggregates…, now()]` (as [`Outputs`](super::output::Outputs) lays them out).
    Expression(Compiled),
}

/// One equality join with a table.
#[derive(Clone, Debug)]
pub struct JoinPlan {
    /// The table.
    pub table: Arc<Source>,
    /// Keep rows without a match, with nulls.
    pub left: bool,
    /// The key, over the row so far (stream columns, then those of earlier joins).
    pub row_key: Vec<Compiled>,
    /// The key, over the table's `row_schema`.
    pub table_key: Vec<Compiled>,
    /// A condition on the table alone, from `ON`; over the table's `row_schema`.
    pub table_filter: Option<Compiled>,
    /// Indices into the table's `row_schema` of the columns that the row gains.
    pub table_columns: Vec<usize>,
}
