//! One definition file: its text, and from a place in it to what a person is shown.
//!
//! Invariants: positions count characters from 1 as sqlparser does, so that ours, the syntax tree's and DataFusion's
//! are the same; they refer to the text after substitution.
//! Neighbours: `substitute` makes the text; everything that reports a problem of a file does it here.

use datafusion::sql::sqlparser::tokenizer::{Location, Span as TokenSpan};

use crate::diagnostic::{Diagnostic, Span};

/// A file after substitution.
#[derive(Debug)]
pub(super) struct File {
    /// The name diagnostics use: `dataflows/x.sql`.
    pub(super) name: String,
    /// The whole text.
    pub(super) text: String,
    /// The byte at which each line starts.
    starts: Vec<usize>,
}

impl File {
    pub(super) fn new(name: impl Into<String>, text: impl Into<String>) -> File {
        let text = text.into();
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        File { name: name.into(), text, starts }
    }

    /// The place as diagnostics name it.
    pub(super) fn span(&self, at: TokenSpan) -> Span {
        Span {
            file: self.name.clone(),
            line: at.start.line,
            column: at.start.column,
            end_line: at.end.line,
            end_column: at.end.column,
        }
    }

    /// The text of a place, exactly as it stands.
    pub(super) fn slice(&self, at: TokenSpan) -> &str {
        self.text.get(self.byte(at.start)..self.byte(at.end)).unwrap_or("")
    }

    /// A problem at a place, and what to write there.
    pub(super) fn problem(&self, at: TokenSpan, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        Diagnostic::new(message, self.span(at), &self.text, Some(help.into()).filter(|h| !h.is_empty()))
    }

    fn byte(&self, at: Location) -> usize {
        let line = usize::try_from(at.line).unwrap_or(0).saturating_sub(1);
        let column = usize::try_from(at.column).unwrap_or(0).saturating_sub(1);
        let Some(start) = self.starts.get(line).copied() else { return self.text.len() };
        self.text[start..].char_indices().nth(column).map_or(self.text.len(), |(i, _)| start + i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_by_characters() {
        let file = File::new("dataflows/a.sql", "añb\ncdé\n");
        let check = |from: (u64, u64), to: (u64, u64), want: &str| {
            let at = TokenSpan::new(Location::new(from.0, from.1), Location::new(to.0, to.1));
            assert_eq!(file.slice(at), want);
        };
        check((1, 2), (1, 3), "ñ");
        check((1, 3), (2, 3), "b\ncd");
        check((2, 3), (2, 4), "é");
        check((2, 1), (9, 9), "cdé\n");
    }
}
