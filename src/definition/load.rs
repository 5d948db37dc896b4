//! A directory to [`Definitions`]: reads, substitutes, parses, checks, and reports every problem of every file at once.
//!
//! Look, then judge: all files are parsed before any name is looked up, so their order does not matter.
//!
//! Neighbours: `sql` parses a file; `source` and `view` judge statements; `cli` prints the problems.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, visit_relations};
use datafusion::sql::sqlparser::tokenizer::Span as TokenSpan;

use super::Definitions;
use super::file::File;
use super::names::{known_as, object_fault};
use super::source::Builder;
use super::sql::{defined_names, statements};
use super::statement::{Body, Statement};
use super::substitute::substitute;
use super::view::{self, Read};
use crate::diagnostic::{Diagnostic, Span};

/// Definitions that cannot be used, and all that is wrong with them, in the order of files and lines. Never empty.
#[derive(Debug, thiserror::Error)]
pub struct LoadError {
    /// Each with its file, and its line and column where there is one.
    pub problems: Vec<Diagnostic>,
    /// The sources without a problem, and the views that read nothing else: for whoever looks for further problems.
    pub sound: Box<Definitions>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n\n" })?;
        }
        Ok(())
    }
}

/// Loads `dataflows/*.sql` of a deployment directory, in name order, with `${NAME}` from `set`, else the environment.
///
/// # Errors
/// [`LoadError`] with every problem found, among them a directory without definitions and schema files that cannot be
/// used. Data files are not looked at.
pub fn load(dir: &Path, set: &BTreeMap<String, String>) -> Result<Definitions, LoadError> {
    let mut problems = vec![];
    let mut files = vec![];
    let mut uncertain = BTreeSet::new();
    for (name, text) in read(dir, &mut problems) {
        let substituted = substitute(&name, &text, |n| set.get(n).cloned().or_else(|| std::env::var(n).ok()));
        let file = File::new(name, substituted.text);
        let before = problems.len();
        problems.extend(substituted.problems);
        let parsed = if substituted.whole { statements(&file, &mut problems) } else { vec![] };
        if problems.len() > before {
            uncertain.extend(defined_names(&file.text));
        }
        files.push((file, parsed));
    }
    let mut loader =
        Loader { definitions: Definitions { dir: dir.to_path_buf(), ..Definitions::default() }, uncertain, problems };
    loader.judge(&files);
    let Loader { mut definitions, mut problems, .. } = loader;
    definitions.texts = files.into_iter().map(|(file, _)| (file.name, file.text)).collect();
    if problems.is_empty() {
        return Ok(definitions);
    }
    problems.sort_by(|a, b| a.span.cmp(&b.span));
    problems.dedup();
    let sources = &definitions.sources;
    let known = |name: &ObjectName| match name.0.last().and_then(|part| part.as_ident()) {
        Some(ident) if sources.contains_key(&known_as(ident)) => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    definitions.views.retain(|_, view| visit_relations(view.query.as_ref(), known).is_continue());
    definitions.services.clear();
    Err(LoadError { problems, sound: Box::new(definitions) })
}

/// Names and texts of the definition files.
fn read(dir: &Path, problems: &mut Vec<Diagnostic>) -> Vec<(String, String)> {
    let nowhere = |file: &str, message: String, help: &str| {
        let span = Span { file: file.to_string(), ..Span::default() };
        Diagnostic::new(message, span, "", Some(help.to_string()))
    };
    let help = "create it, and write definitions into dataflows/*.sql; --dir names another directory";
    let entries = match std::fs::read_dir(dir.join("dataflows")) {
        Ok(entries) => entries,
        Err(e) => {
            let shown = dir.display();
            let message = match e.kind() {
                std::io::ErrorKind::NotFound => format!("there is no directory dataflows/ in `{shown}`"),
                _ => format!("dataflows/ in `{shown}` cannot be read: {e}"),
            };
            problems.push(nowhere("dataflows", message, help));
            return vec![];
        }
    };
    let mut names: Vec<String> = vec![];
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && name.to_lowercase().ends_with(".sql") {
            names.push(name);
        }
    }
    names.sort();
    if names.is_empty() {
        problems.push(nowhere("dataflows", format!("dataflows/ in `{}` holds no .sql file", dir.display()), help));
    }
    let mut texts = vec![];
    for name in names {
        let shown = format!("dataflows/{name}");
        match std::fs::read(dir.join("dataflows").join(&name)).map(String::from_utf8) {
            Ok(Ok(text)) => texts.push((shown, text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))),
            Ok(Err(_)) => problems.push(nowhere(&shown, "the file is not UTF-8 text".into(), "save it as UTF-8")),
            Err(e) => {
                problems.push(nowhere(&shown, format!("the file cannot be read: {e}"), "make it a readable file"))
            }
        }
    }
    texts
}

struct Loader {
    definitions: Definitions,
    /// Names that texts with errors seem to define: not reported as unknown.
    uncertain: BTreeSet<String>,
    problems: Vec<Diagnostic>,
}

impl Loader {
    fn judge(&mut self, files: &[(File, Vec<Statement>)]) {
        let all = || files.iter().flat_map(|(file, statements)| statements.iter().map(move |s| (file, s)));
        let names = self.claim(all());
        let mut reads: BTreeMap<String, (&File, Vec<Read>)> = BTreeMap::new();
        for (file, statement) in all() {
            match &statement.body {
                Body::Source(s) => {
                    let (dir, tokens) = (&self.definitions.dir.clone(), statement.tokens.as_slice());
                    let builder = Builder { file, dir, tokens, problems: &mut self.problems };
                    if let Some(source) = builder.build(s, statement.span) {
                        self.definitions.sources.insert(source.name.clone(), Arc::new(source));
                    }
                }
                Body::View(v) => {
                    let view = view::build(v, statement.span, file, &mut self.problems);
                    reads.insert(view.name.clone(), (file, view::reads(v, file, &mut self.problems)));
                    if view::accepts(v, &statement.tokens, file, &mut self.problems) {
                        self.definitions.views.insert(view.name.clone(), Arc::new(view));
                    } else {
                        // Nothing that follows from its query says more about it.
                        self.uncertain.insert(view.name);
                    }
                }
                Body::Service(_) => {}
            }
        }
        let known: Vec<&str> = names.keys().map(String::as_str).collect();
        for (file, read) in reads.values().flat_map(|(file, reads)| reads.iter().map(move |r| (*file, r))) {
            if !names.contains_key(&read.name) && !self.uncertain.contains(&read.name) {
                let message = format!("there is no stream, table or view `{}`", read.name);
                let help = view::instead(&read.name, &known, "streams, tables and views");
                self.problems.push(file.problem(read.span, message, help));
            }
        }
        view::circles(&reads, &mut self.problems);
        self.services(all());
    }

    /// Takes the names of streams, tables and views: each may be given once.
    fn claim<'a>(&mut self, all: impl Iterator<Item = (&'a File, &'a Statement)>) -> BTreeMap<String, Span> {
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        for (file, statement) in all {
            let ident = match &statement.body {
                Body::Source(s) => &s.name,
                Body::View(v) => &v.name,
                Body::Service(_) => continue,
            };
            self.claim_one(ident, file, &mut names);
        }
        names
    }

    fn claim_one(&mut self, ident: &Ident, file: &File, names: &mut BTreeMap<String, Span>) {
        if let Some((message, help)) = object_fault(ident) {
            self.problems.push(file.problem(ident.span, message, help));
        }
        let name = known_as(ident);
        let at: TokenSpan = ident.span;
        match names.get(&name) {
            Some(first) => {
                let message = format!("`{name}` is defined already, at {}:{}", first.file, first.line);
                self.problems.push(file.problem(at, message, "choose another name, or remove one of the two"));
            }
            None => {
                names.insert(name, file.span(at));
            }
        }
    }

    fn services<'a>(&mut self, all: impl Iterator<Item = (&'a File, &'a Statement)>) {
        let mut names = BTreeMap::new();
        let views: BTreeSet<String> = self.definitions.views.keys().chain(&self.uncertain).cloned().collect();
        let views: Vec<&str> = views.iter().map(String::as_str).collect();
        for (file, statement) in all {
            let Body::Service(service) = &statement.body else { continue };
            self.claim_one(&service.name, file, &mut names);
            let items = view::service(service, &views, file, &mut self.problems);
            self.definitions.services.insert(known_as(&service.name), items);
        }
    }
}
