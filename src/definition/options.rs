//! The `(name = 'value', …)` lists: which names there are, and values as text or as lengths of time.
//!
//! Neighbours: `statement` parses the lists; `source` and `view` ask for what they need.

use datafusion::sql::sqlparser::ast::{self, Value};
use datafusion::sql::sqlparser::tokenizer::Span as TokenSpan;

use super::file::File;
use super::near::{listed, nearest};
use super::statement::OptionClause;
use crate::diagnostic::Diagnostic;
use crate::time::parse_duration;

/// A list of options whose names are known.
pub(super) struct Options<'a> {
    file: &'a File,
    clauses: &'a [OptionClause],
}

impl<'a> Options<'a> {
    /// Reports names that are not `known` and names given twice. `of` says whose options they are; `unknown` what to do
    /// about a name that is near to none.
    pub(super) fn new(
        file: &'a File,
        clauses: &'a [OptionClause],
        (of, known, unknown): (&str, &[&str], &str),
        problems: &mut Vec<Diagnostic>,
    ) -> Options<'a> {
        for (i, clause) in clauses.iter().enumerate() {
            let name = &clause.name;
            if clauses[..i].iter().any(|c| c.name == *name) {
                problems.push(file.problem(clause.name_span, format!("`{name}` is given twice"), "leave one of them"));
            }
            if !known.contains(&name.as_str()) {
                let help = match nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if unknown.is_empty() => format!("{of} has {}", listed(known.iter().copied())),
                    None => unknown.to_string(),
                };
                problems.push(file.problem(clause.name_span, format!("{of} has no option `{name}`"), help));
            }
        }
        Options { file, clauses }
    }

    /// An option's text and place; a problem if it is not a text, or empty.
    pub(super) fn text(&self, name: &str, problems: &mut Vec<Diagnostic>) -> Option<(String, TokenSpan)> {
        let clause = self.clauses.iter().find(|c| c.name == name)?;
        let written = match &clause.value {
            ast::Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) if text.trim().is_empty() => {
                    let message = format!("`{name}` is empty");
                    problems.push(self.file.problem(clause.value_span, message, "write its value, or leave it out"));
                    return None;
                }
                Value::SingleQuotedString(text) => return Some((text.clone(), clause.value_span)),
                Value::Number(text, _) => text.clone(),
                other => other.to_string(),
            },
            ast::Expr::Identifier(ident) => ident.value.clone(),
            _ => "…".to_string(),
        };
        let help = format!("write {name} = '{written}'");
        problems.push(self.file.problem(clause.value_span, format!("`{name}` is a text in single quotes"), help));
        None
    }

    /// Was it given at all, rightly or wrongly?
    pub(super) fn has(&self, name: &str) -> bool {
        self.clauses.iter().any(|c| c.name == name)
    }

    /// A length of time in microseconds, at least `least`.
    pub(super) fn duration(&self, name: &str, least: i64, problems: &mut Vec<Diagnostic>) -> Option<i64> {
        let (text, span) = self.text(name, problems)?;
        if text.contains("${") {
            return None; // has no value, which is reported already
        }
        let help = format!("write {name} = '1 second', '500 ms', '24 hours' or '30 days'");
        match parse_duration(&text) {
            Some(micros) if micros >= least => Some(micros),
            Some(_) => {
                problems.push(self.file.problem(span, format!("`{name}` must be longer than nothing"), help));
                None
            }
            None => {
                problems.push(self.file.problem(span, format!("'{text}' is not a length of time"), help));
                None
            }
        }
    }
}
