//! `FROM` and `WHERE`: the stream and the tables that a view reads, how they are joined, and the row that comes of it.
//!
//! Invariants: the row starts at the one stream and goes on with each table in the order of the joins; it has the columns
//! that something above reads, and the event's place in the log. Neighbours: `lower` asks for the row; `aggregate` compiles
//! over it and asks which column is the event time; `dataflow` makes it.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, JoinType, TableReference};
use datafusion::logical_expr::binary::comparison_coercion;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Aggregate as AggregateNode, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::sql::sqlparser::ast;

use super::bind::compile;
use super::operator::JoinPlan;
use super::refusal::{LowerError, SHAPE, name_of, refuse, refuse_expr};
use super::temporal::mentions_now;
use crate::definition::{Definitions, Source, sql_name, timestamp};

/// A stream or table in `FROM`, under the name that columns are qualified with.
struct Relation {
    qualifier: TableReference,
    source: Arc<Source>,
}

/// One join as written: its right relation, and its condition.
struct Step {
    relation: usize,
    left: bool,
    keys: Vec<(Expr, Expr)>,
    rest: Vec<Expr>,
}

/// What a view reads, joined.
pub(super) struct Row<'a> {
    definitions: &'a Definitions,
    relations: Vec<Relation>,
    steps: Vec<Step>,
    stream: usize,
    /// Columns that the row has: (relation, index in its row schema), relations in the order of the joins.
    columns: Vec<(usize, usize)>,
}

impl<'a> Row<'a> {
    /// The row that an aggregation reads, and the conditions on it.
    ///
    /// # Errors
    /// Joins that cannot be kept.
    pub(super) fn below(
        aggregation: &AggregateNode,
        definitions: &'a Definitions,
    ) -> Result<(Row<'a>, Vec<Expr>), LowerError> {
        let mut row = Row { definitions, relations: vec![], steps: vec![], stream: 0, columns: vec![] };
        let conditions = row.inputs(&aggregation.input)?;
        row.find_stream()?;
        row.order_joins()?;
        row.collect_columns(aggregation, &conditions)?;
        Ok((row, conditions))
    }

    /// The stream.
    pub(super) fn stream(&self) -> &Arc<Source> {
        &self.relations[self.stream].source
    }

    /// Indices into the stream's row schema of the columns that the row starts with.
    pub(super) fn stream_columns(&self) -> Vec<usize> {
        self.columns_of(self.stream)
    }

    /// Is a table joined to the stream?
    pub(super) fn is_joined(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Names and types of the row.
    pub(super) fn schema(&self) -> Result<DFSchema, LowerError> {
        let left = |r: usize| self.steps.iter().any(|s| s.relation == r && s.left);
        let fields = self.columns.iter().map(|&(r, c)| {
            let relation = &self.relations[r];
            let field = relation.source.row_schema().field(c).clone();
            let nullable = field.is_nullable() || left(r);
            (Some(relation.qualifier.clone()), Arc::new(field.with_nullable(nullable)))
        });
        Ok(DFSchema::new_with_metadata(fields.collect(), Default::default())?)
    }

    /// The joins, their keys compiled over the row's schema and the table's.
    pub(super) fn joins(&self, row: &DFSchema) -> Result<Vec<JoinPlan>, LowerError> {
        let mut joins = vec![];
        for step in &self.steps {
            let relation = &self.relations[step.relation];
            let table = DFSchema::try_from_qualified_schema(relation.qualifier.clone(), &relation.source.row_schema())?;
            let (mut row_key, mut table_key) = (vec![], vec![]);
            for (ours, theirs) in &step.keys {
                let (l, r) = common_type((ours, row), (theirs, &table))?;
                row_key.push(compile(&l, row)?);
                table_key.push(compile(&r, &table)?);
            }
            joins.push(JoinPlan {
                table: Arc::clone(&relation.source),
                left: step.left,
                row_key,
                table_key,
                table_filter: conjunction(step.rest.clone()).map(|e| compile(&e, &table)).transpose()?,
                table_columns: self.columns_of(step.relation),
            });
        }
        Ok(joins)
    }

    /// Is the expression the stream's event time?
    pub(super) fn is_event_time(&self, expr: &Expr) -> bool {
        let stream = &self.relations[self.stream];
        let Expr::Column(column) = expr else { return false };
        if self.relation_of(column) != Some(self.stream) {
            return false;
        }
        column.name == "_event_time"
            || self.event_time_column().is_some_and(|name| {
                name == column.name
                    && stream.source.columns.iter().any(|c| c.name == name && c.data_type == timestamp())
            })
    }

    /// The declared column that is the event time, if `EVENT TIME` is just a column.
    fn event_time_column(&self) -> Option<String> {
        match &self.relations[self.stream].source.event_time {
            Some(ast::Expr::Identifier(i)) if i.quote_style.is_some() => Some(i.value.clone()),
            Some(ast::Expr::Identifier(i)) => Some(i.value.to_lowercase()),
            _ => None,
        }
    }

    /// Takes `FROM` and `WHERE` apart; returns the conditions on rows.
    fn inputs(&mut self, plan: &LogicalPlan) -> Result<Vec<Expr>, LowerError> {
        match plan {
            LogicalPlan::Filter(filter) => {
                let mut conditions: Vec<Expr> = split_conjunction(&filter.predicate).into_iter().cloned().collect();
                conditions.extend(self.inputs(&filter.input)?);
                Ok(conditions)
            }
            other => {
                self.relation_tree(other)?;
                // An inner join's other conditions are conditions on its result.
                Ok(self.steps.iter_mut().filter(|s| !s.left).flat_map(|s| std::mem::take(&mut s.rest)).collect())
            }
        }
    }

    fn relation_tree(&mut self, plan: &LogicalPlan) -> Result<(), LowerError> {
        match plan {
            LogicalPlan::TableScan(scan) => self.add_relation(scan.table_name.clone(), scan.table_name.table()),
            LogicalPlan::SubqueryAlias(alias) => match alias.input.as_ref() {
                LogicalPlan::TableScan(scan) => self.add_relation(alias.alias.clone(), scan.table_name.table()),
                _ => refuse("a subquery in FROM is not supported yet", "name streams and tables directly"),
            },
            LogicalPlan::Join(join) => {
                let (first, second, left) = match join.join_type {
                    JoinType::Inner => (&join.left, &join.right, false),
                    JoinType::Left => (&join.left, &join.right, true),
                    JoinType::Right => (&join.right, &join.left, true),
                    JoinType::Full => return refuse("FULL JOIN is not supported yet", "use JOIN or LEFT JOIN"),
                    other => return refuse(format!("{other} join is not supported"), "use JOIN or LEFT JOIN"),
                };
                self.relation_tree(first)?;
                let before = self.relations.len();
                self.relation_tree(second)?;
                if self.relations.len() != before + 1 {
                    return refuse("a join in parentheses is not supported yet", "join one table after another");
                }
                for (l, r) in &join.on {
                    let (a, b) = (l.get_type(join.left.schema())?, r.get_type(join.right.schema())?);
                    let numbers = a.is_numeric() && b.is_numeric() && !a.is_decimal() && !b.is_decimal();
                    if a != b && !numbers {
                        let message = format!("USING compares {} with {}", sql_name(&a), sql_name(&b));
                        return refuse(
                            message,
                            format!("write ON, with a CAST: ON {l} = CAST({r} AS {})", sql_name(&a)),
                        );
                    }
                }
                let mut conditions: Vec<Expr> = join.on.iter().map(|(l, r)| l.clone().eq(r.clone())).collect();
                if let Some(filter) = &join.filter {
                    conditions.extend(split_conjunction(filter).into_iter().cloned());
                }
                if let Some(condition) = conditions.iter().find(|c| left && mentions_now(c)) {
                    let help = "compare it with the event time in WHERE or FILTER";
                    return refuse_expr(condition, "now() may not stand in the condition of a LEFT JOIN", help);
                }
                self.add_step(before, left, conditions)
            }
            LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => {
                refuse("a subquery in FROM is not supported yet", "name streams and tables directly")
            }
            other => refuse(format!("{} in FROM is not supported yet", name_of(other)), SHAPE),
        }
    }

    fn add_relation(&mut self, qualifier: TableReference, name: &str) -> Result<(), LowerError> {
        let Some(source) = self.definitions.sources.get(name) else {
            return refuse(format!("no stream or table is called `{name}`"), "define it, or mend the name");
        };
        self.relations.push(Relation { qualifier, source: Arc::clone(source) });
        Ok(())
    }

    fn add_step(&mut self, relation: usize, left: bool, conditions: Vec<Expr>) -> Result<(), LowerError> {
        let (mut keys, mut rest) = (vec![], vec![]);
        for condition in conditions {
            let pair = match &condition {
                Expr::BinaryExpr(BinaryExpr { left: l, op: Operator::Eq, right: r }) => {
                    match (self.only(l, relation), self.only(r, relation)) {
                        (Some(true), Some(false)) => Some((r.as_ref().clone(), l.as_ref().clone())),
                        (Some(false), Some(true)) => Some((l.as_ref().clone(), r.as_ref().clone())),
                        _ => None,
                    }
                }
                _ => None,
            };
            match pair {
                Some(pair) => keys.push(pair),
                None => rest.push(condition),
            }
        }
        // Also where it keeps a side from being of one relation: that is what is wrong with the equality then.
        let equality =
            |e: &&Expr| matches!(e, Expr::BinaryExpr(BinaryExpr { op: Operator::Eq, .. })) && mentions_now(e);
        let key = keys.iter().find(|(a, b)| mentions_now(a) || mentions_now(b)).map(|(key, _)| key);
        let alone = if keys.is_empty() { rest.iter().find(equality) } else { None };
        if let Some(key) = key.or(alone) {
            let help = "join on columns; compare now() with the event time in WHERE or FILTER";
            return refuse_expr(key, "now() may not stand in the equality of a join", help);
        }
        if keys.is_empty() {
            const HELP: &str = "write JOIN table ON stream.a = table.b";
            return match rest.first() {
                Some(condition) => refuse_expr(condition, "a join needs an equality", HELP),
                None => refuse("a join needs an equality", HELP),
            };
        }
        if let Some(condition) = rest.iter().find(|c| left && self.only(c, relation) != Some(true)) {
            let help =
                "keep equalities, and conditions on the joined table alone, in ON; put others into WHERE or FILTER";
            return refuse_expr(condition, "this condition of a LEFT JOIN is not supported yet", help);
        }
        self.steps.push(Step { relation, left, keys, rest });
        Ok(())
    }

    /// Does the expression read only this relation (`Some(true)`), only others (`Some(false)`), or both or none?
    fn only(&self, expr: &Expr, relation: usize) -> Option<bool> {
        let mut sides = expr.column_refs().into_iter().map(|c| self.relation_of(c) == Some(relation));
        let first = sides.next()?;
        sides.all(|s| s == first).then_some(first)
    }

    fn relation_of(&self, column: &Column) -> Option<usize> {
        let has = |r: &Relation| r.source.row_schema().index_of(&column.name).is_ok();
        match &column.relation {
            Some(q) => self.relations.iter().position(|r| r.qualifier == *q),
            None => self.relations.iter().position(has),
        }
    }

    fn find_stream(&mut self) -> Result<(), LowerError> {
        let streams: Vec<usize> = (0..self.relations.len()).filter(|r| !self.relations[*r].source.is_table()).collect();
        match streams[..] {
            [one] => {
                self.stream = one;
                Ok(())
            }
            [] => refuse("a view over tables alone is not supported yet", "start FROM a stream"),
            _ => refuse("a view over several streams is not supported yet", "define one view for each stream"),
        }
    }

    /// Inner joins may be written with the stream on either side; ours start at the stream.
    fn order_joins(&mut self) -> Result<(), LowerError> {
        if self.stream == 0 {
            return Ok(());
        }
        if self.steps.iter().any(|s| s.left) {
            return refuse("the stream must be what a LEFT JOIN keeps", "write FROM stream LEFT JOIN table ON …");
        }
        if self.steps.len() > 1 {
            return refuse(
                "several joins must start at the stream",
                "write FROM stream JOIN table ON … JOIN table ON …",
            );
        }
        let step = &mut self.steps[0];
        step.relation = 0;
        for pair in &mut step.keys {
            std::mem::swap(&mut pair.0, &mut pair.1);
        }
        Ok(())
    }

    /// The columns that anything above the sources reads.
    fn collect_columns(&mut self, aggregate: &AggregateNode, conditions: &[Expr]) -> Result<(), LowerError> {
        let mut used: Vec<Column> = vec![];
        let exprs = conditions.iter().chain(&aggregate.group_expr).chain(&aggregate.aggr_expr);
        for expr in exprs.chain(self.steps.iter().flat_map(|s| s.keys.iter().map(|(row, _)| row))) {
            expr.apply(|e| {
                if let Expr::Column(c) = e {
                    used.push(c.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        let mut wanted: Vec<(usize, usize)> = vec![];
        for column in used {
            let Some(r) = self.relation_of(&column) else {
                return refuse(format!("column `{}` was not found", column.flat_name()), "qualify it with its table");
            };
            wanted.push((
                r,
                self.relations[r].source.row_schema().index_of(&column.name).map_err(DataFusionError::from)?,
            ));
        }
        let schema = self.relations[self.stream].source.row_schema();
        for system in ["_event_time", "_partition", "_offset"] {
            wanted.push((self.stream, schema.index_of(system).map_err(DataFusionError::from)?));
        }
        let order: Vec<usize> = std::iter::once(self.stream).chain(self.steps.iter().map(|s| s.relation)).collect();
        wanted.sort_by_key(|(r, c)| (order.iter().position(|o| o == r), *c));
        wanted.dedup();
        self.columns = wanted;
        Ok(())
    }

    fn columns_of(&self, relation: usize) -> Vec<usize> {
        self.columns.iter().filter(|(r, _)| *r == relation).map(|(_, c)| *c).collect()
    }
}

/// Both sides of an equality, cast to the type in which they are compared.
fn common_type((l, left): (&Expr, &DFSchema), (r, right): (&Expr, &DFSchema)) -> Result<(Expr, Expr), LowerError> {
    let (a, b) = (l.get_type(left)?, r.get_type(right)?);
    // USING has no equality whose sides could be judged.
    if (a == DataType::Utf8) != (b == DataType::Utf8) {
        let message = format!("{} and {} cannot be compared", sql_name(&a), sql_name(&b));
        return refuse(message, "cast one side of the ON equality");
    }
    let common = match (&a, &b) {
        // Not DataFusion's nanoseconds, which end in 2262.
        (DataType::Timestamp(_, _), DataType::Date32) | (DataType::Date32, DataType::Timestamp(_, _)) => timestamp(),
        _ => match comparison_coercion(&a, &b) {
            Some(common) => common,
            None => return refuse(format!("{a} and {b} cannot be compared"), "cast one side of the ON equality"),
        },
    };
    Ok((l.clone().cast_to(&common, left)?, r.clone().cast_to(&common, right)?))
}
