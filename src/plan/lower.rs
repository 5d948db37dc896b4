//! From DataFusion's logical plan to ours: the row, the fold, the final projection; what cannot be kept is refused by name.
//!
//! The plan as written gives the aggregates' inputs (the analyzer would cast `avg(bigint)`'s input to a double before we
//! see it); the analyzed plan gives the types of results and the projection above them.
//!
//! Invariant: only the shape joins, WHERE, GROUP BY, SELECT gets through. Neighbours: `bind` planned the query; `row`,
//! `aggregate` and `feature` take its parts; `operator` is what comes out.

use std::sync::Arc;

use arrow::datatypes::{Fields, Schema};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Aggregate as AggregateNode, Expr, LogicalPlan};

use super::aggregate::{Inputs, with_lower_bound};
use super::bind::Catalog;
use super::feature::outputs;
use super::fingerprint::fingerprint;
use super::operator::ViewPlan;
use super::refusal::{LowerError, SHAPE, name_of, refuse};
use super::row::Row;
use crate::definition::{Definitions, View};

/// Plans a view.
///
/// # Errors
/// [`LowerError`], without a place: the caller has the syntax tree.
pub fn lower(view: &View, definitions: &Definitions, catalog: &Catalog) -> Result<ViewPlan, LowerError> {
    let written = catalog.plan(&view.query)?;
    let analyzed = catalog.analyze(written.clone())?;
    let (_, aggregation) = top(&written)?;
    let (projection, typed) = top(&analyzed)?;

    // Step 1. FROM and WHERE: the row, and which rows are admitted.
    let (row, conditions) = Row::below(aggregation, definitions)?;
    let schema = row.schema()?;
    let mut inputs = Inputs::new(&row, &schema);
    let (window, rest) = inputs.split(&conditions)?;
    let window = with_lower_bound(window)?;

    // Step 2. GROUP BY and the aggregates: the fold.
    let groups = inputs.groups(aggregation, typed)?;
    let aggregates = inputs.aggregates(aggregation, typed, window)?;
    let admit = conjunction(rest).map(|e| inputs.condition(&e)).transpose()?;
    let fold = inputs.fold(&groups, aggregates, window, view.resolution)?;
    let Inputs { values, filters, orders, .. } = inputs;

    // Step 3. SELECT: the entity and the features.
    let joins = row.joins(&schema)?;
    let (entity, features) = outputs(view, &groups, typed, projection)?;
    let fields: Fields = schema.fields().iter().map(|f| f.as_ref().clone()).collect::<Vec<_>>().into();
    let mut plan = ViewPlan {
        name: view.name.clone(),
        stream: Arc::clone(row.stream()),
        stream_columns: row.stream_columns(),
        joins,
        row: Arc::new(Schema::new(fields)),
        admit,
        groups,
        values,
        filters,
        orders,
        fold: Arc::new(fold),
        entity,
        features,
        freshness: view.freshness,
        fingerprint: String::new(),
    };
    plan.fingerprint = fingerprint(&plan);
    Ok(plan)
}

/// The projection and the aggregation that a feature query ends in.
fn top(plan: &LogicalPlan) -> Result<(&[Expr], &AggregateNode), LowerError> {
    let LogicalPlan::Projection(projection) = plan else {
        return match plan {
            LogicalPlan::Sort(_) => {
                refuse("ORDER BY of the whole query is not supported", "leave it out: a view has no order")
            }
            LogicalPlan::Limit(_) => refuse("LIMIT is not supported", "leave it out"),
            LogicalPlan::Distinct(_) => refuse("SELECT DISTINCT is not supported yet", "GROUP BY the columns"),
            LogicalPlan::Union(_) => refuse("UNION is not supported yet", "define one view for each stream"),
            other => refuse(format!("{} is not supported yet", name_of(other)), SHAPE),
        };
    };
    match projection.input.as_ref() {
        LogicalPlan::Aggregate(aggregate) => Ok((&projection.expr, aggregate)),
        LogicalPlan::Filter(f) if matches!(*f.input, LogicalPlan::Aggregate(_)) => {
            refuse("HAVING is not supported yet", "leave it out, or use FILTER in the aggregates")
        }
        LogicalPlan::Window(_) => {
            refuse("window functions (OVER) are not supported", "use FILTER with now() in an aggregate")
        }
        LogicalPlan::Join(_) => refuse("a join after the grouping is not supported yet", SHAPE),
        _ => refuse("a view without GROUP BY is not supported yet", "GROUP BY the columns that name the entity"),
    }
}
