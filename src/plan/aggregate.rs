//! Aggregates, their filters and windows: from the aggregation of a query to the fold that keeps it.
//!
//! The aggregation as written gives the inputs, the analyzed one the types of the results.
//!
//! Invariants: equal expressions are one value, equal filters one bit; values, orders and filters together are at most
//! 64, the bits of a word. Neighbours: `row` says what is aggregated, `temporal` reads the windows, `feature` goes on above.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment, Sort};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Aggregate as AggregateNode, BinaryExpr, Expr, Operator};

use super::bind::compile;
use super::operator::Compiled;
use super::refusal::{LowerError, refuse, refuse_expr};
use super::row::Row;
use super::signatures::{function_of, result_type, values_of};
use super::temporal::{mentions_now, window_of};
use crate::definition::timestamp;
use crate::fold::columns::value_type;
use crate::fold::decay::LIVES;
use crate::fold::plan::{Aggregate, FoldPlan, Function, ValueType, Window};

/// Sort keys: expressions with (descending, nulls first).
type Order = Vec<(Compiled, bool, bool)>;

/// The distinct inputs of aggregates, as they are met.
pub(super) struct Inputs<'a> {
    row: &'a Row<'a>,
    schema: &'a DFSchema,
    /// What aggregates read.
    pub(super) values: Vec<Compiled>,
    /// Conditions of single aggregates.
    pub(super) filters: Vec<Compiled>,
    /// Orders other than event time.
    pub(super) orders: Vec<Order>,
}

impl<'a> Inputs<'a> {
    /// None yet, over a row and its schema.
    pub(super) fn new(row: &'a Row<'a>, schema: &'a DFSchema) -> Inputs<'a> {
        Inputs { row, schema, values: vec![], filters: vec![], orders: vec![] }
    }

    /// Splits conditions into the window they say and the rest.
    pub(super) fn split(&self, conditions: &[Expr]) -> Result<(Window, Vec<Expr>), LowerError> {
        let (mut window, mut rest) = (Window::ALL, vec![]);
        for condition in conditions {
            if !mentions_now(condition) {
                if !always_holds(condition) {
                    rest.push(condition.clone());
                }
                continue;
            }
            match window_of(condition, &|e| self.row.is_event_time(e)) {
                Ok(w) => window = window.and(w),
                Err(message) => return refuse_expr(condition, message, "for instance: ts > now() - INTERVAL '1 hour'"),
            }
        }
        Ok((window, rest))
    }

    /// What groups, each with its name. An expression that is repeated groups once, as in the aggregation's schema.
    pub(super) fn groups(
        &self,
        written: &AggregateNode,
        analyzed: &AggregateNode,
    ) -> Result<Vec<(String, Compiled)>, LowerError> {
        let mut groups = vec![];
        for (n, expr) in written.group_expr.iter().enumerate() {
            if written.group_expr[..n].contains(expr) {
                continue;
            }
            if mentions_now(expr) {
                let help = "compare it with the event time in WHERE or FILTER";
                return refuse_expr(expr, "now() may not stand in GROUP BY", help);
            }
            if expr.exists(|e| Ok(matches!(e, Expr::AggregateFunction(_)))).unwrap_or(false) {
                return refuse_expr(expr, "an aggregate may not stand in GROUP BY", "group by columns of the stream");
            }
            let name = analyzed.schema.field(groups.len()).name().clone();
            let group = compile(expr, self.schema)?;
            if matches!(group.data_type, DataType::Null | DataType::Duration(_) | DataType::Interval(_)) {
                let help = "group by a column, or by date_part('epoch', a - b)";
                return refuse_expr(expr, "NULL or an interval in GROUP BY is not supported", help);
            }
            if group.data_type.is_nested() {
                let what = if matches!(group.data_type, DataType::List(_)) { "a list" } else { "a struct" };
                let help = "group by what it is made of, each by itself: tags[1]";
                return refuse_expr(expr, format!("{what} in GROUP BY is not supported: no key can name it"), help);
            }
            groups.push((name, group));
        }
        if groups.is_empty() {
            return refuse("a view without GROUP BY is not supported yet", "GROUP BY the columns that name the entity");
        }
        Ok(groups)
    }

    /// The aggregates, each within the window of `WHERE`; `groups`: how many columns stand before them.
    pub(super) fn aggregates(
        &mut self,
        written: &AggregateNode,
        analyzed: &AggregateNode,
        groups: usize,
        admit: Window,
    ) -> Result<Vec<Aggregate>, LowerError> {
        let mut aggregates = vec![];
        for expr in &written.aggr_expr {
            aggregates.push(self.aggregate(expr, admit).map_err(|e| e.about(expr))?);
        }
        for (n, a) in aggregates.iter().enumerate() {
            let typed = analyzed.schema.field(groups + n);
            if ours(typed.data_type()) != a.result {
                let message = format!("`{}` has the type {}", typed.name(), typed.data_type());
                return refuse(message, format!("cast its argument so that the result is {}", a.result));
            }
        }
        Ok(aggregates)
    }

    /// The fold, when all inputs are known.
    pub(super) fn fold(
        &self,
        groups: &[(String, Compiled)],
        mut aggregates: Vec<Aggregate>,
        admit: Window,
        resolution: Option<i64>,
    ) -> Result<FoldPlan, LowerError> {
        let mut values: Vec<ValueType> = self.values.iter().map(|v| value_type(&v.data_type)).collect();
        let mut value_types: Vec<DataType> = self.values.iter().map(|v| v.data_type.clone()).collect();
        // Orders come after the values that aggregates read.
        for a in &mut aggregates {
            if let Some(half_life) = a.function.half_life() {
                // Rows that weigh nothing are not kept; a grid makes ages greater than they are.
                let until = half_life.saturating_mul(LIVES).saturating_add(resolution.unwrap_or(0));
                a.window = a.window.and(Window { from: 0, until: Some(until) });
            }
            a.order = a.order.map(|o| self.values.len() + o);
        }
        for _ in &self.orders {
            values.push(ValueType::Bytes);
            value_types.push(DataType::Binary);
        }
        if values.len() + self.filters.len() > 64 {
            let message = "a view has at most 64 distinct aggregated expressions and filters together";
            return refuse(message, "split it into two views");
        }
        Ok(FoldPlan {
            streams: vec![self.row.stream().name.clone()],
            group_types: groups.iter().map(|(_, c)| c.data_type.clone()).collect(),
            values,
            value_types,
            filters: self.filters.len(),
            admit,
            aggregates,
            resolution,
            retracts: self.row.is_joined(),
        })
    }

    fn aggregate(&mut self, expr: &Expr, admit: Window) -> Result<Aggregate, LowerError> {
        let inner = expr.clone().unalias_nested().data;
        let Expr::AggregateFunction(AggregateFunction { func, params }) = &inner else {
            return refuse(format!("`{expr}` is not supported"), "use an aggregate function");
        };
        let args: Vec<Expr> = params.args.iter().map(|e| e.clone().unalias_nested().data).collect();
        let mut function = function_of(func.name(), params.distinct, &args)?;
        if args.iter().any(mentions_now) {
            return refuse(
                "now() may not stand in an aggregate's argument",
                "compare it with the event time in FILTER",
            );
        }
        let everything = function == Function::Count && matches!(&args[0], Expr::Literal(v, _) if !v.is_null());
        let read = if everything { 0 } else { values_of(function) };
        let values = args[..read].iter().map(|e| self.value(e)).collect::<Result<Vec<_>, _>>()?;
        let (value, second) = (values.first().copied(), values.get(1).copied());
        if values.iter().any(|v| self.values[*v].data_type.is_null()) {
            let message = format!("the argument of {} is NULL in every row", func.name());
            return refuse_expr(expr, message, "name a column, or write count(*)");
        }
        let filter: Vec<Expr> =
            params.filter.as_ref().map_or_else(Vec::new, |f| split_conjunction(f).into_iter().cloned().collect());
        let (window, rest) = self.split(&filter)?;
        let filter = conjunction(rest).map(|e| self.filter(&e)).transpose()?;
        let mut order = None;
        if matches!(function, Function::First | Function::Last | Function::ArrayAgg { .. }) {
            order = self.ordered(&params.order_by, &mut function)?;
        }
        let inputs: Vec<&DataType> = values.iter().map(|v| &self.values[*v].data_type).collect();
        Ok(Aggregate {
            function,
            value,
            second,
            order,
            filter,
            window: kept(admit.and(window)),
            ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
            result: result_type(function, &inputs, func.name())?,
        })
    }

    /// What orders rows, if it is not event time alone. Of a list by event time, its function says which end is first.
    fn ordered(&mut self, order_by: &[Sort], function: &mut Function) -> Result<Option<usize>, LowerError> {
        if order_by.iter().any(|sort| mentions_now(&sort.expr)) {
            return refuse("now() may not stand in an aggregate's ORDER BY", "order by the event time");
        }
        if let [sort] = order_by
            && self.row.is_event_time(&sort.expr)
        {
            match function {
                _ if sort.asc => return Ok(None),
                Function::ArrayAgg { latest_first, .. } => {
                    *latest_first = true;
                    return Ok(None);
                }
                _ => {}
            }
        }
        let key = |sort: &Sort| Ok::<_, LowerError>((compile(&sort.expr, self.schema)?, !sort.asc, sort.nulls_first));
        let keys = order_by.iter().map(key).collect::<Result<Order, _>>()?;
        Ok(if keys.is_empty() { None } else { Some(self.order(keys)) })
    }

    /// A condition on rows.
    pub(super) fn condition(&self, expr: &Expr) -> Result<Compiled, LowerError> {
        let c = compile(expr, self.schema)?;
        if c.data_type != DataType::Boolean {
            return refuse_expr(expr, format!("`{}` is not a condition", c.text), "compare it with something");
        }
        Ok(c)
    }

    fn value(&mut self, expr: &Expr) -> Result<usize, LowerError> {
        let c = compile(expr, self.schema)?;
        if let Some(n) = self.values.iter().position(|v| v.identity == c.identity) {
            return Ok(n);
        }
        self.values.push(c);
        Ok(self.values.len() - 1)
    }

    fn filter(&mut self, expr: &Expr) -> Result<usize, LowerError> {
        let c = self.condition(expr)?;
        if let Some(n) = self.filters.iter().position(|v| v.identity == c.identity) {
            return Ok(n);
        }
        self.filters.push(c);
        Ok(self.filters.len() - 1)
    }

    fn order(&mut self, keys: Order) -> usize {
        let identity = |k: &[(Compiled, bool, bool)]| -> Vec<(String, bool, bool)> {
            k.iter().map(|(c, d, n)| (c.identity.clone(), *d, *n)).collect()
        };
        if let Some(n) = self.orders.iter().position(|o| identity(o) == identity(&keys)) {
            return n;
        }
        self.orders.push(keys);
        self.orders.len() - 1
    }
}

/// The type in which we keep what DataFusion has in another.
fn ours(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(_, _) => timestamp(),
        DataType::UInt64 | DataType::UInt32 => DataType::Int64,
        DataType::List(item) => DataType::List(Arc::new(item.as_ref().clone().with_data_type(ours(item.data_type())))),
        other => other.clone(),
    }
}

/// What `definition` tells aggregates apart by: `1 = 1`.
fn always_holds(condition: &Expr) -> bool {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Literal(a, _), Expr::Literal(b, _)) => a == b && !a.is_null(),
            _ => false,
        },
        _ => false,
    }
}

/// A window that ends before now and never begins: its rows enter when they are old enough, so all are kept.
pub(super) fn kept(window: Window) -> Window {
    match window {
        Window { from: 1.., until: None } => Window { until: Some(Window::FOREVER), ..window },
        other => other,
    }
}
