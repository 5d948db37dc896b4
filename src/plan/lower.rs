//! From DataFusion's logical plan to ours: the row, the fold, the final projection; what cannot be kept is refused by name.
//!
//! The plan as written gives the aggregates' inputs (the analyzer would cast `avg(bigint)`'s input to a double before we
//! see it) and the projection above them; the analyzed plan gives the types of results.
//!
//! Invariant: only the shape joins, WHERE, GROUP BY, HAVING, SELECT gets through. Neighbours: `bind` planned the query; `row`,
//! `aggregate` and `feature` take its parts; `operator` is what comes out.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{Fields, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Aggregate as AggregateNode, Expr, LogicalPlan, Volatility};
use datafusion::sql::sqlparser::ast::{self, Query, SelectItem, SetExpr, visit_relations};

use super::aggregate::{Inputs, kept};
use super::bind::Catalog;
use super::feature::{above, holding, outputs};
use super::fingerprint::fingerprint;
use super::keyed::GroupKey;
use super::operator::ViewPlan;
use super::refusal::{LowerError, SHAPE, name_of, refuse, refuse_expr, refuse_output};
use super::row::Row;
use crate::definition::{Definitions, View};

/// Plans a view.
///
/// # Errors
/// [`LowerError`], without a place: the caller has the syntax tree.
pub fn lower(view: &View, definitions: &Definitions, catalog: &Catalog) -> Result<ViewPlan, LowerError> {
    refuse_views(view, definitions)?;
    refuse_twins(&view.query)?;
    let written = catalog.plan(&view.query)?;
    refuse_expressions(&written)?;
    catalog.judge(&written)?;
    let analyzed = catalog.analyze(written.clone())?;
    let Top { projection, having, aggregation } = top(&written)?;
    let typed = top(&analyzed)?.aggregation;

    // Step 1. FROM and WHERE: the row, and which rows are admitted.
    let (row, conditions) = Row::below(aggregation, definitions)?;
    let schema = row.schema()?;
    let mut inputs = Inputs::new(&row, &schema);
    let (window, rest) = inputs.split(&conditions)?;
    let window = kept(window);

    // Step 2. GROUP BY and the aggregates: the fold.
    let groups = inputs.groups(aggregation, typed)?;
    let aggregates = inputs.aggregates(aggregation, typed, groups.len(), window)?;
    let admit = conjunction(rest).map(|e| inputs.condition(&e)).transpose()?;
    let fold = inputs.fold(&groups, aggregates, window, view.resolution)?;
    let Inputs { values, filters, orders, .. } = inputs;

    // Step 3. HAVING and SELECT: which groups have a row, the entity, the features.
    refuse_nameless(&view.query)?;
    let joins = row.joins(&schema)?;
    let above = above(&groups, &fold, typed)?;
    let having = having.map(|condition| holding(condition, &above)).transpose()?;
    let (entity, features) = outputs(view, &groups, &fold, &above, projection)?;
    let fields: Fields = schema.fields().iter().map(|f| f.as_ref().clone()).collect::<Vec<_>>().into();
    let mut plan = ViewPlan {
        name: view.name.clone(),
        stream: Arc::clone(row.stream()),
        stream_columns: row.stream_columns(),
        joins,
        row: Arc::new(Schema::new(fields)),
        admit,
        key: None,
        groups,
        values,
        filters,
        orders,
        fold: Arc::new(fold),
        having,
        entity,
        features,
        freshness: view.freshness,
        fingerprint: String::new(),
    };
    plan.key = GroupKey::of(&plan)?;
    plan.fingerprint = fingerprint(&plan);
    Ok(plan)
}

/// A view that reads a view.
fn refuse_views(view: &View, definitions: &Definitions) -> Result<(), LowerError> {
    let found = visit_relations(view.query.as_ref(), |name| {
        let last = name.0.last().and_then(|part| part.as_ident());
        let name = last
            .map(|ident| if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() });
        match name.filter(|name| definitions.views.contains_key(name) && !definitions.sources.contains_key(name)) {
            Some(name) => ControlFlow::Break(name),
            None => ControlFlow::Continue(()),
        }
    });
    match found {
        ControlFlow::Break(name) => refuse(
            format!("`{name}` is a view, and a view over a view is not supported yet"),
            "read its stream and tables",
        ),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Two columns of one name: an answer has one value of each name.
fn refuse_twins(query: &Query) -> Result<(), LowerError> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Ok(()) };
    let mut seen: Vec<String> = vec![];
    for (n, item) in select.projection.iter().enumerate() {
        let name = match item {
            SelectItem::ExprWithAlias { alias, .. } if alias.quote_style.is_some() => alias.value.clone(),
            SelectItem::ExprWithAlias { alias, .. } => alias.value.to_lowercase(),
            other => other.to_string(),
        };
        if seen.contains(&name) {
            return refuse_output(n, format!("two columns are named `{name}`"), "give each its own name with AS");
        }
        seen.push(name);
    }
    Ok(())
}

/// A column that is neither named nor a column of a source: a feature is asked for by its name, and DataFusion's own name for
/// an expression changes with its versions.
fn refuse_nameless(query: &Query) -> Result<(), LowerError> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Ok(()) };
    for (n, item) in select.projection.iter().enumerate() {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let mut inner = expr;
        while let ast::Expr::Nested(nested) = inner {
            inner = nested;
        }
        if !matches!(inner, ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_)) {
            return refuse_output(n, format!("`{expr}` has no name"), "give it one with AS");
        }
    }
    Ok(())
}

/// What no answer can be kept of, wherever it stands.
fn refuse_expressions(plan: &LogicalPlan) -> Result<(), LowerError> {
    let mut refused = None;
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                refused = refusal(e).map(|(message, help)| (e.clone(), message, help));
                Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    match refused {
        Some((expr, message, help)) => refuse_expr(&expr, message, help),
        None => Ok(()),
    }
}

fn refusal(expr: &Expr) -> Option<(String, &'static str)> {
    match expr {
        Expr::ScalarFunction(f) if f.func.name() == "now" => None,
        Expr::ScalarFunction(f) => match f.func.signature().volatility {
            Volatility::Immutable => None,
            Volatility::Stable => Some((
                format!("{}() is not supported", f.func.name()),
                "now() is the moment of the ask: CAST(now() AS DATE)",
            )),
            Volatility::Volatile => {
                let message = format!("{}() is not supported: it has another value each time", f.func.name());
                Some((message, "an answer must be the same when its stamp is given back; use columns and now()"))
            }
        },
        Expr::InSubquery(_) | Expr::Exists(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => {
            Some(("a subquery in an expression is not supported yet".into(), "join the table instead"))
        }
        Expr::GroupingSet(_) => {
            Some(("ROLLUP, CUBE and GROUPING SETS are not supported".into(), "define one view for each"))
        }
        _ => None,
    }
}

/// What a feature query ends in.
struct Top<'a> {
    projection: &'a [Expr],
    having: Option<&'a Expr>,
    aggregation: &'a AggregateNode,
}

fn top(plan: &LogicalPlan) -> Result<Top<'_>, LowerError> {
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
    let (having, below) = match projection.input.as_ref() {
        LogicalPlan::Filter(f) if matches!(*f.input, LogicalPlan::Aggregate(_)) => (Some(&f.predicate), &f.input),
        _ => (None, &projection.input),
    };
    match below.as_ref() {
        LogicalPlan::Aggregate(aggregation) => Ok(Top { projection: &projection.expr, having, aggregation }),
        LogicalPlan::Window(_) => {
            refuse("window functions (OVER) are not supported", "use FILTER with now() in an aggregate")
        }
        LogicalPlan::Join(_) => refuse("a join after the grouping is not supported yet", SHAPE),
        _ => refuse("a view without GROUP BY is not supported yet", "GROUP BY the columns that name the entity"),
    }
}
