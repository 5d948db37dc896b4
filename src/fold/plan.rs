//! What the fold knows of a view: the types that it keeps, the windows and the aggregates. No SQL, no expressions.
//!
//! Invariants: a row's age is `now() - event time` in microseconds; a window admits the ages `from <= age < until`, so
//! every comparison of the SQL is exact on integers. Neighbours: `plan::lower` builds these; the rest of `fold` and
//! whoever reads its groups run them.

use arrow::datatypes::DataType;

/// The fold that ends a view: what is kept per group and how it is evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldPlan {
    /// Names of the streams whose rows it takes, sorted: the place of one here is its *rank*, which stands in every entry.
    pub streams: Vec<String>,
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
    /// Which value it reads beside it, if its function is one of pairs: the x of `regr_slope(y, x)`.
    pub second: Option<usize>,
    /// Which value holds its sort key (`first_value`, `last_value`, `array_agg`); `None`: event time.
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

impl Aggregate {
    /// Does it need the rows of its window themselves, one after the other? What decays does, and a list by event time,
    /// in whose order rows are.
    pub fn walks(&self) -> bool {
        let list = matches!(self.function, Function::ArrayAgg { .. }) && self.order.is_none();
        list || self.function.half_life().is_some()
    }
}

/// The aggregate functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are SQL's own names; what follows a name are the call's constants")]
pub enum Function {
    Count,
    CountDistinct,
    ApproxDistinct,
    Sum,
    Avg,
    Min,
    Max,
    First,
    Last,
    Var,
    Stddev,
    VarPop,
    StddevPop,
    CovarSamp,
    CovarPop,
    Corr,
    RegrSlope,
    Skewness,
    Kurtosis,
    BoolAnd,
    BoolOr,
    Median,
    Mode,
    Entropy,
    Percentile { millionths: u32 },
    TopK { k: u32, distinct: bool },
    BottomK { k: u32, distinct: bool },
    ArrayAgg { limit: u32, distinct: bool, latest_first: bool },
    DecayedSum { half_life: i64 },
    DecayedCount { half_life: i64 },
}

impl Function {
    /// Does it read how often each value is there?
    pub fn is_of_all_values(self) -> bool {
        matches!(self, Function::Median | Function::Mode | Function::Entropy | Function::Percentile { .. })
    }

    /// The half-life of what decays, in microseconds.
    pub fn half_life(self) -> Option<i64> {
        match self {
            Function::DecayedSum { half_life } | Function::DecayedCount { half_life } => Some(half_life),
            _ => None,
        }
    }

    /// Is it `top_k` or `bottom_k`?
    pub fn is_of_best_values(self) -> bool {
        matches!(self, Function::TopK { .. } | Function::BottomK { .. })
    }
}

impl FoldPlan {
    /// The age at which no bounded window wants an entry any more; `None` if no window has a lower bound (then no
    /// entries are kept).
    pub fn horizon(&self) -> Option<i64> {
        let windows = self.aggregates.iter().map(|a| a.window).chain([self.admit]);
        windows.filter_map(|w| w.until).max()
    }

    /// The instant from which `WHERE` admits a row of that event time no more; `i64::MAX`: it always will.
    pub fn admitted_until(&self, event_time: i64) -> i64 {
        self.admit.until.map_or(i64::MAX, |until| self.tile(event_time).saturating_add(until))
    }

    /// Event time as temporal predicates see it.
    pub fn tile(&self, event_time: i64) -> i64 {
        match self.resolution {
            Some(grid) => event_time.saturating_sub(event_time.rem_euclid(grid)),
            None => event_time,
        }
    }
}
