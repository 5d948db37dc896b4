//! The projection above the fold: which outputs name the entity, and how each feature follows from the aggregates.
//!
//! Invariants: the entity is the whole GROUP BY; `now()` is a column here, and its value is the ask.
//! Neighbours: `aggregate` made what is below; `output` evaluates what comes out.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Aggregate as AggregateNode, Expr, ExprSchemable};

use super::bind::compile;
use super::operator::{Compiled, Feature, Output};
use super::refusal::{LowerError, refuse};
use crate::definition::{View, timestamp};

/// Name of the column that stands for `now()` in output expressions.
pub(super) const NOW: &str = "__now";

/// Output names and the group expressions that they show.
type Entity = Vec<(String, usize)>;

/// The two halves of a view's output: its entity and its features.
///
/// # Errors
/// An `entity` option that does not name the groups, or no feature.
pub(super) fn outputs(
    view: &View,
    groups: &[(String, Compiled)],
    aggregation: &AggregateNode,
    projection: &[Expr],
) -> Result<(Entity, Vec<Feature>), LowerError> {
    let mut fields: Vec<_> = aggregation.schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    fields.push((None, Arc::new(Field::new(NOW, timestamp(), false))));
    let schema = DFSchema::new_with_metadata(fields, Default::default())?;
    let mut outputs: Vec<Feature> = vec![];
    for expr in projection {
        let name = expr.schema_name().to_string();
        let name =
            name.rsplit_once('.').filter(|_| matches!(expr, Expr::Column(_))).map_or(name.clone(), |(_, n)| n.into());
        let inner = expr.clone().unalias_nested().data;
        let output = match &inner {
            Expr::Column(c) => match schema.index_of_column(c)? {
                n if n < groups.len() => Output::Group(n),
                n => Output::Aggregate(n - groups.len()),
            },
            _ => Output::Expression(compile(&replace_now(inner.clone())?, &schema)?),
        };
        outputs.push(Feature { name, data_type: inner.get_type(&schema)?, output });
    }
    let entity = entity(view, groups, &outputs)?;
    let names = |f: &Feature, g: usize| entity.iter().any(|(name, e)| *e == g && *name == f.name);
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
