//! From definitions to plans: names bound, types checked, windows read, each view as joins and a fold. No I/O.
//!
//! Invariants: a plan that comes out can be kept incrementally and exactly; anything else is a diagnostic with a place in
//! the user's file. Neighbours: `definition` before it; `dataflow`, `fold`, `offline` and `online` run what it makes.

mod aggregate;
pub mod bind;
pub mod explain;
mod feature;
mod fingerprint;
pub mod functions;
pub mod keyed;
pub mod lower;
pub mod operator;
pub mod output;
pub mod project;
pub mod refusal;
mod row;
mod signatures;
pub mod temporal;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Spanned;

use crate::definition::{Definitions, Source};
use crate::diagnostic::Diagnostic;
use crate::fold::Fold;
use keyed::GroupKey;
use operator::ViewPlan;
use refusal::{About, LowerError};

/// All views of a deployment, planned, with the sources they need.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every stream and table, in name order: also those that no view reads are logged.
    pub sources: Vec<Arc<Source>>,
    /// What views straight from a stream group by, each once.
    pub keys: Vec<GroupKey>,
    /// The views, in name order, each with its fold.
    pub views: Vec<PlannedView>,
    /// Feature services: (view, feature or all).
    pub services: BTreeMap<String, Vec<(String, Option<String>)>>,
}

/// A view's plan and what its groups share.
#[derive(Clone, Debug)]
pub struct PlannedView {
    /// The plan.
    pub plan: Arc<ViewPlan>,
    /// The fold.
    pub fold: Arc<Fold>,
    /// Its version's number; 1 until definitions can change.
    pub version: u32,
    /// What it groups by: index into [`Plan::keys`]; `None` if it logs its own updates.
    pub key: Option<usize>,
}

impl PlannedView {
    /// Are its updates in the log? Those of a view over one stream alone are not: they follow from the stream's events.
    pub fn logs_updates(&self) -> bool {
        self.key.is_none()
    }
}

impl Plan {
    /// Index of a view.
    pub fn view_index(&self, name: &str) -> Option<usize> {
        self.views.iter().position(|v| v.plan.name == name)
    }

    /// Index of a source.
    pub fn source_index(&self, name: &str) -> Option<usize> {
        self.sources.iter().position(|s| s.name == name)
    }
}

/// Plans all views.
///
/// # Errors
/// Every problem of every view, with its place.
pub fn plan(definitions: &Definitions) -> Result<Plan, Vec<Diagnostic>> {
    let catalog = bind::Catalog::new(definitions);
    let (mut views, mut keys, mut problems) = (vec![], Vec::<GroupKey>::new(), vec![]);
    for view in definitions.views.values() {
        let text = definitions.texts.get(&view.span.file).map_or("", String::as_str);
        match lower::lower(view, definitions, &catalog) {
            Ok(plan) => {
                let fold = Arc::new(Fold::new(plan.fold.as_ref().clone()));
                let key = plan.key.clone().map(|key| {
                    let known = keys.iter().position(|k| k.identity == key.identity);
                    known.unwrap_or_else(|| {
                        keys.push(key);
                        keys.len() - 1
                    })
                });
                views.push(PlannedView { plan: Arc::new(plan), fold, version: 1, key });
            }
            Err(LowerError::Query(e)) => {
                problems.extend(bind::diagnose(&e, &catalog, &view.query, &view.span.file, text));
            }
            Err(LowerError::Refused { message, help, about }) => {
                let at = match about {
                    About::Query => None,
                    About::Expression(expr) => catalog.place_of(&view.query, &expr),
                    About::Output(n) => bind::output(&view.query, n),
                };
                let span = bind::place(&view.span.file, at.unwrap_or_else(|| view.query.span()));
                let span = if span.line == 0 { view.span.clone() } else { span };
                let message = format!("{message} (view `{}`)", view.name);
                problems.push(Diagnostic::new(message, span, text, Some(help)));
            }
        }
    }
    for (service, members) in &definitions.services {
        for (view, feature) in members {
            let Some(planned) = views.iter().find(|v| v.plan.name == *view) else { continue };
            let Some(feature) = feature else { continue };
            if !planned.plan.features.iter().any(|f| f.name == *feature) {
                let names: Vec<&str> = planned.plan.features.iter().map(|f| f.name.as_str()).collect();
                let span = definitions.views[view].span.clone();
                let message =
                    format!("service `{service}` names feature `{feature}`, which view `{view}` does not have");
                problems.push(Diagnostic::new(message, span, "", Some(format!("it has {}", names.join(", ")))));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let sources = definitions.sources.values().cloned().collect();
    Ok(Plan { sources, keys, views, services: definitions.services.clone() })
}
