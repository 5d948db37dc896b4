//! What a view's query becomes: the row it reads, the joins that make it, and the fold that ends it.
//!
//! A plan is data: compiled expressions beside the types and texts that identify it. [`FoldPlan`] is the part that needs
//! no SQL: what `fold` and everything behind it knows of a view.
//!
//! Invariants: a row's age is `now() - event time` in microseconds; a window admits the ages `from <= age < until`, so
//! every comparison of the SQL is exact on integers. Neighbours: `plan::lower` builds these, `fold`, `dataflow` and
//! `offline` run them.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

use crate::definition::Source;

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

/// The fold that ends a view: what is kept per group and how it is evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldPlan {
    /// Types of the group's columns.
    pub group_types: Vec<DataType>,
    /// How each value is kept: the plan's values first, then one `Bytes` per order.
    pub values: Vec<ValueType>,
    /// The values' Arrow types; `Binary` for orders.
    pub value_types: Vec<DataType>,
    /// How many filters each row carries a bit for.
    pub filters: usize,
    /// The temporal predicates of `WHERE`.
    pub admit: Window,
    /// The aggregates.
    pub aggregates: Vec<Aggregate>,
    /// Event time is rounded down to this grid (µs) inside temporal predicates.
    pub resolution: Option<i64>,
    /// The input can retract: a table is joined.
    pub retracts: bool,
}

/// How a value is kept in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// BOOLEAN, INT, BIGINT, DATE, TIMESTAMP: one word.
    Int,
    /// DOUBLE: one word.
    Float,
    /// DECIMAL: two words.
    Decimal,
    /// TEXT as its bytes; anything else in Arrow's row format.
    Bytes,
}

impl ValueType {
    /// Words of an entry.
    pub fn words(self) -> usize {
        match self {
            ValueType::Int | ValueType::Float | ValueType::Bytes => 1,
            ValueType::Decimal => 2,
        }
    }
}

/// Ages a row is counted at: `from <= now() - event time < until`, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// Least age; never negative, since no row is seen before its event time.
    pub from: i64,
    /// Age at which it leaves; `None`: never.
    pub until: Option<i64>,
}

impl Window {
    /// As `until`: rows never leave, and are kept one by one since they enter late.
    pub const FOREVER: i64 = i64::MAX;

    /// Everything up to now.
    pub const ALL: Window = Window { from: 0, until: None };

    /// Both.
    pub fn and(self, other: Window) -> Window {
        let until = match (self.until, other.until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Window { from: self.from.max(other.from), until }
    }

    /// No row is ever counted.
    pub fn is_empty(self) -> bool {
        self.until.is_some_and(|u| u <= self.from)
    }
}

/// One aggregate.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// What it computes.
    pub function: Function,
    /// Which value it reads; `None` for `count(*)`.
    pub value: Option<usize>,
    /// Which value holds its sort key (`first_value`, `last_value`); `None`: event time.
    pub order: Option<usize>,
    /// Which filter bit must be set.
    pub filter: Option<usize>,
    /// Its window, `WHERE`'s included.
    pub window: Window,
    /// `IGNORE NULLS`.
    pub ignore_nulls: bool,
    /// The type of its result.
    pub result: DataType,
}

/// The aggregate functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are SQL's own names")]
pub enum Function {
    Count,
    CountDistinct,
    Sum,
    Avg,
    Min,
    Max,
    First,
    Last,
    Var,
    Stddev,
    BoolAnd,
    BoolOr,
}

impl FoldPlan {
    /// The age at which no bounded window wants an entry any more; `None` if no window has a lower bound (then no
    /// entries are kept).
    pub fn horizon(&self) -> Option<i64> {
        let windows = self.aggregates.iter().map(|a| a.window).chain([self.admit]);
        windows.filter_map(|w| w.until).max()
    }

    /// Event time as temporal predicates see it.
    pub fn tile(&self, event_time: i64) -> i64 {
        match self.resolution {
            Some(grid) => event_time.saturating_sub(event_time.rem_euclid(grid)),
            None => event_time,
        }
    }

    /// Words of the values of one entry.
    pub fn value_words(&self) -> usize {
        self.values.iter().map(|v| v.words()).sum()
    }
}
