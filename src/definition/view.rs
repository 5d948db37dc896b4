//! `CREATE FEATURE VIEW` and `CREATE FEATURE SERVICE` as parsed to a [`View`] and a service, or every problem found.
//!
//! A query is not planned here: only the tables it reads are looked up.
//!
//! Neighbours: `load` knows all names; `plan` binds the queries.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, ObjectName, SetExpr, Spanned, TableFactor, Visit, Visitor};
use datafusion::sql::sqlparser::tokenizer::{Span as TokenSpan, TokenWithSpan};

use super::View;
use super::clauses;
use super::file::File;
use super::names::known_as;
use super::near::{listed, nearest};
use super::normal::normal;
use super::options::Options;
use super::statement::{ServiceStatement, ViewStatement};
use crate::diagnostic::Diagnostic;

const OPTIONS: [&str; 7] = ["entity", "freshness", "resolution", "retention", "owner", "description", "tags"];

/// The view, as far as its options are right.
pub(super) fn build(statement: &ViewStatement, span: TokenSpan, file: &File, problems: &mut Vec<Diagnostic>) -> View {
    let options = Options::new(file, &statement.with, ("a view", &OPTIONS, ""), problems);
    let labels = ["owner", "description", "tags"];
    let labels = labels.into_iter().filter_map(|l| Some((l.to_string(), options.text(l, problems)?.0))).collect();
    View {
        name: known_as(&statement.name),
        query: Box::new(normal(&statement.query)),
        text: file.slice(statement.query_span).to_string(),
        entity: options.text("entity", problems).map(|(text, at)| entity(&text, at, file, problems)),
        freshness: options.duration("freshness", 1, problems),
        resolution: options.duration("resolution", 1, problems),
        retention: options.duration("retention", 1, problems),
        labels,
        span: file.span(span),
    }
}

/// Is everything in the query on the list of what a view may have? Reports what is not, each at its word.
pub(super) fn accepts(
    statement: &ViewStatement,
    tokens: &[TokenWithSpan],
    file: &File,
    problems: &mut Vec<Diagnostic>,
) -> bool {
    let refused = clauses::refused(&statement.query, tokens);
    problems.extend(refused.iter().map(|r| file.problem(r.at, r.message.as_str(), r.help.as_str())));
    refused.is_empty()
}

/// The names in `'a, b'`, as written; quotes around one are taken off.
fn entity(text: &str, at: TokenSpan, file: &File, problems: &mut Vec<Diagnostic>) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for name in text.split(',').map(|n| n.trim().trim_matches('"').to_string()) {
        if name.is_empty() || names.contains(&name) {
            let message = if name.is_empty() {
                "`entity` has an empty name".into()
            } else {
                format!("`entity` names `{name}` twice")
            };
            problems.push(file.problem(
                at,
                message,
                "write the entity's columns once each, as in entity = 'user_id, item_id'",
            ));
        } else {
            names.push(name);
        }
    }
    names
}

/// A table that a query reads.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) name: String,
    pub(super) span: TokenSpan,
}

/// The tables that the query reads; names that its own WITH defines are not among them.
pub(super) fn reads(statement: &ViewStatement, file: &File, problems: &mut Vec<Diagnostic>) -> Vec<Read> {
    let mut tables = Tables::default();
    let _: ControlFlow<()> = Visit::visit(statement.query.as_ref(), &mut tables);
    for at in tables.hints {
        let help = "write CREATE FEATURE VIEW name WITH (…) AS SELECT …";
        problems.push(file.problem(at, "WITH (…) after a table means nothing here", help));
    }
    for at in tables.samples {
        let help = "leave it out, or say in WHERE which rows count";
        problems.push(file.problem(at, "TABLESAMPLE is not supported: a view has the same rows at every ask", help));
    }
    if let SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) = *statement.query.body {
        problems.push(file.problem(statement.query_span, "a view is a SELECT", "write AS SELECT … FROM … GROUP BY …"));
    }
    let mut reads = vec![];
    for (name, span) in tables.tables {
        let parts: Vec<_> = name.0.iter().filter_map(|p| p.as_ident()).map(known_as).collect();
        match parts.as_slice() {
            [one] if tables.ctes.contains(one) => {}
            [one] => reads.push(Read { name: one.clone(), span }),
            [.., last] => {
                let help = format!("streams, tables and views have no prefix: write {last}");
                problems.push(file.problem(span, format!("there is no `{}`", parts.join(".")), help));
            }
            [] => {}
        }
    }
    reads
}

#[derive(Default)]
struct Tables {
    tables: Vec<(ObjectName, TokenSpan)>,
    ctes: Vec<String>,
    hints: Vec<TokenSpan>,
    samples: Vec<TokenSpan>,
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
        let ctes = query.with.iter().flat_map(|w| &w.cte_tables);
        self.ctes.extend(ctes.map(|c| known_as(&c.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        // With arguments it is a function, which `plan` judges.
        if let TableFactor::Table { name, args: None, with_hints, sample, .. } = factor {
            self.samples.extend(sample.is_some().then(|| name.span()));
            self.tables.push((name.clone(), name.span()));
            if let (Some(first), Some(last)) = (with_hints.first(), with_hints.last()) {
                self.hints.push(first.span().union(&last.span()));
            }
        }
        ControlFlow::Continue(())
    }
}

/// Reports views that read themselves, directly or through others. `reads` has each view's file and what it reads.
pub(super) fn circles(reads: &BTreeMap<String, (&File, Vec<Read>)>, problems: &mut Vec<Diagnostic>) {
    for (name, (file, first)) in reads {
        for step in first {
            let Some(mut path) = path(&step.name, name, reads, &mut vec![]) else { continue };
            path.insert(0, name.clone());
            // Each circle once: at its first name.
            if path.iter().min() == Some(name) {
                let message = format!("`{name}` reads itself: {}", path.join(" → "));
                problems.push(file.problem(step.span, message, "read the stream that both are made of"));
            }
        }
    }
}

/// The views from `from` to `to`, both included, each reading the next.
fn path(
    from: &str,
    to: &str,
    reads: &BTreeMap<String, (&File, Vec<Read>)>,
    seen: &mut Vec<String>,
) -> Option<Vec<String>> {
    if from == to {
        return Some(vec![to.to_string()]);
    }
    if seen.iter().any(|s| s == from) {
        return None;
    }
    seen.push(from.to_string());
    reads.get(from)?.1.iter().find_map(|step| {
        let mut rest = path(&step.name, to, reads, seen)?;
        rest.insert(0, from.to_string());
        Some(rest)
    })
}

/// The items of a service, each view of `views` once.
pub(super) fn service(
    statement: &ServiceStatement,
    views: &[&str],
    file: &File,
    problems: &mut Vec<Diagnostic>,
) -> Vec<(String, Option<String>)> {
    let mut items: Vec<(String, Option<String>)> = vec![];
    for (view, features) in &statement.items {
        let name = known_as(view);
        if !views.contains(&name.as_str()) {
            problems.push(file.problem(
                view.span,
                format!("there is no view `{name}`"),
                instead(&name, views, "views"),
            ));
            continue;
        }
        let chosen: Vec<Option<String>> = match features {
            None => vec![None],
            Some(features) => features.iter().map(|f| Some(known_as(f))).collect(),
        };
        let places: Vec<TokenSpan> = match features {
            None => vec![view.span],
            Some(features) => features.iter().map(|f| f.span).collect(),
        };
        for (feature, at) in chosen.into_iter().zip(places) {
            if items.iter().any(|(v, f)| *v == name && (*f == feature || f.is_none() || feature.is_none())) {
                let what = feature.as_ref().map_or(name.clone(), |f| format!("{name}({f})"));
                problems.push(file.problem(at, format!("`{what}` is in the service twice"), "leave one of them"));
            }
            items.push((name.clone(), feature));
        }
    }
    items
}

/// What to write for an unknown name.
pub(super) fn instead(name: &str, known: &[&str], what: &str) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("no {what} are defined"),
        None => format!("the {what} are {}", listed(known.iter().copied())),
    }
}
