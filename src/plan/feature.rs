//! What stands above the fold: which groups have a row, which outputs name the entity, and how each feature follows from
//! the aggregates.
//!
//! Invariants: the entity is the whole GROUP BY; `now()` is a column here, and its value is the ask.
//! Neighbours: `aggregate` made what is below; `output` evaluates what comes out.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Aggregate as AggregateNode, Expr};

use super::bind::compile;
use super::operator::{Compiled, Feature, Output};
use super::refusal::{LowerError, refuse, refuse_expr, refuse_output};
use crate::definition::{View, timestamp};
use crate::fold::plan::FoldPlan;

/// Name of the column that stands for `now()` in output expressions.
pub(super) const NOW: &str = "__now";

/// Output names and the group expressions that they show.
type Entity = Vec<(String, usize)>;

/// What HAVING and SELECT read: groups, aggregates, `now()`; with DataFusion's names and our types: TIMESTAMP is
/// microseconds.
pub(super) fn above(
    groups: &[(String, Compiled)],
    fold: &FoldPlan,
    aggregation: &AggregateNode,
) -> Result<DFSchema, LowerError> {
    let types = groups.iter().map(|(_, c)| &c.data_type).chain(fold.aggregates.iter().map(|a| &a.result));
    let named = aggregation.schema.iter().zip(types);
    let typed = |f: &Field, t: &DataType| Arc::new(f.clone().with_data_type(t.clone()));
    let mut fields: Vec<_> = named.map(|((q, f), t)| (q.cloned(), typed(f, t))).collect();
    fields.push((None, Arc::new(Field::new(NOW, timestamp(), false))));
    Ok(DFSchema::new_with_metadata(fields, Default::default())?)
}

/// HAVING, over one row of what is [`above`].
///
/// # Errors
/// It is no condition.
pub(super) fn holding(condition: &Expr, above: &DFSchema) -> Result<Compiled, LowerError> {
    let compiled = compile(&replace_now(condition.clone())?, above)?;
    if compiled.data_type != DataType::Boolean {
        return refuse_expr(condition, format!("`{condition}` is not a condition"), "compare it with something");
    }
    Ok(compiled)
}

/// The two halves of a view's output: its entity and its features.
///
/// # Errors
/// An `entity` option that does not name the groups, or no feature.
pub(super) fn outputs(
    view: &View,
    groups: &[(String, Compiled)],
    fold: &FoldPlan,
    schema: &DFSchema,
    projection: &[Expr],
) -> Result<(Entity, Vec<Feature>), LowerError> {
    let mut outputs: Vec<Feature> = vec![];
    for (n, expr) in projection.iter().enumerate() {
        // A column keeps its own name, whatever characters it has; `lower` has refused what has none.
        let name = match expr {
            Expr::Column(column) => column.name.clone(),
            other => other.schema_name().to_string(),
        };
        let inner = expr.clone().unalias_nested().data;
        let (output, data_type) = match &inner {
            Expr::Column(c) => match schema.index_of_column(c)? {
                n if n < groups.len() => (Output::Group(n), groups[n].1.data_type.clone()),
                n => (Output::Aggregate(n - groups.len()), fold.aggregates[n - groups.len()].result.clone()),
            },
            _ => {
                let c = compile(&replace_now(inner.clone())?, schema)?;
                let data_type = c.data_type.clone();
                (Output::Expression(c), data_type)
            }
        };
        if outputs.iter().any(|o| o.name == name) {
            let message = format!("two columns are named `{name}`");
            return refuse_output(n, message, "give each its own name with AS");
        }
        if matches!(data_type, DataType::Null | DataType::Duration(_) | DataType::Interval(_)) {
            let message = format!("`{name}` is {}", if data_type.is_null() { "always NULL" } else { "an interval" });
            return refuse_output(n, message, "write date_part('epoch', a - b): the seconds of an interval");
        }
        outputs.push(Feature { name, data_type, output });
    }
    let entity = entity(view, groups, &outputs)?;
    for (n, (name, _)) in entity.iter().enumerate() {
        if entity[..n].iter().any(|(other, _)| other == name) {
            let help = "SELECT them, each with its own name after AS";
            return refuse(format!("two columns of the entity are named `{name}`"), help);
        }
    }
    let names = |f: &Feature, g: usize| entity.iter().any(|(name, e)| *e == g && *name == f.name);
    let clash = |f: &Feature| {
        entity.iter().any(|(name, e)| *name == f.name && !matches!(f.output, Output::Group(g) if g == *e))
    };
    if let Some(n) = outputs.iter().position(clash) {
        let message = format!("the feature `{}` has the name of a column of the entity", outputs[n].name);
        return refuse_output(n, message, "give it another name with AS");
    }
    outputs.retain(|f| !matches!(f.output, Output::Group(g) if names(f, g)));
    if outputs.is_empty() {
        return refuse("the view has no feature beside its entity", "SELECT at least one aggregate");
    }
    Ok((entity, outputs))
}

fn entity(view: &View, groups: &[(String, Compiled)], outputs: &[Feature]) -> Result<Entity, LowerError> {
    let shown = |g: usize| outputs.iter().find(|f| matches!(f.output, Output::Group(n) if n == g));
    let named: Entity = (0..groups.len()).map(|g| (shown(g).map_or(&groups[g].0, |f| &f.name).clone(), g)).collect();
    let Some(wanted) = &view.entity else { return Ok(named) };
    let mut entity = vec![];
    for name in wanted {
        let shown = named.iter().find(|(n, _)| n == name);
        match shown.or_else(|| named.iter().find(|(_, g)| groups[*g].0 == *name)) {
            Some((_, g)) => entity.push((name.clone(), *g)),
            None => {
                let names: Vec<&str> = named.iter().map(|(n, _)| n.as_str()).collect();
                let help = format!("the view is grouped by {}", names.join(", "));
                return refuse(format!("entity column `{name}` is not grouped by"), help);
            }
        }
    }
    if entity.len() != groups.len() {
        return refuse("entity must name every GROUP BY column", "name them all, or leave the option out");
    }
    Ok(entity)
}

/// `now()` as the column that carries the ask.
fn replace_now(expr: Expr) -> Result<Expr, LowerError> {
    let replaced = expr.transform_up(|e| {
        Ok(match &e {
            Expr::ScalarFunction(f) if f.func.name() == "now" => {
                Transformed::yes(Expr::Column(Column::new_unqualified(NOW)))
            }
            _ => Transformed::no(e),
        })
    })?;
    Ok(replaced.data)
}
