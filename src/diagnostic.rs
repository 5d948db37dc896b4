//! What is wrong with a definition, and where: file, line, column, the excerpt, what to write. And errors as one line, and
//! the one way in which the library tells whoever watches.
//!
//! ```text
//! error: column `amout` not found
//!   --> dataflows/spend.sql:7:14
//!  7 |   SUM(amout) AS spend_1h
//!    |       ^^^^^ `payments` has a column `amount`
//! ```
//! Neighbours: `definition` and `plan` make them, `cli` prints them; `serve` tells its errors.

use std::fmt;
use std::io::Write;

/// A line on standard error, for whoever watches. Where that is gone there is nobody to be told, and the work goes on.
pub fn note(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A place in a definition file. Lines and columns count from 1, columns in characters; the end is exclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The file as the user knows it, relative to the deployment directory.
    pub file: String,
    /// Line of the first character; 0 when only the file is known.
    pub line: u64,
    /// Column of the first character.
    pub column: u64,
    /// Line of the end.
    pub end_line: u64,
    /// Column after the last character.
    pub end_column: u64,
}

/// One problem in a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, in lower case, without a full stop.
    pub message: String,
    /// Where.
    pub span: Span,
    /// The line as it stands in the file (after substitution), if known.
    pub excerpt: Option<String>,
    /// What to write instead, if known.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A problem at a place, its excerpt cut from the file's text.
    pub fn new(message: impl Into<String>, span: Span, text: &str, help: Option<String>) -> Diagnostic {
        let index = usize::try_from(span.line).unwrap_or(0).checked_sub(1);
        let excerpt = index.and_then(|i| text.lines().nth(i)).map(str::to_string);
        Diagnostic { message: message.into(), span, excerpt, help }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        if self.span.line == 0 {
            write!(f, "  --> {}", self.span.file)?;
        } else {
            write!(f, "  --> {}:{}:{}", self.span.file, self.span.line, self.span.column)?;
        }
        let help = self.help.as_deref().unwrap_or("");
        let Some(line) = &self.excerpt else {
            return if help.is_empty() { Ok(()) } else { write!(f, "\n  = {help}") };
        };
        let number = self.span.line.to_string();
        let before = usize::try_from(self.span.column.saturating_sub(1)).unwrap_or(0);
        let pad: String = line.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let width = if self.span.end_line == self.span.line {
            usize::try_from(self.span.end_column.saturating_sub(self.span.column)).unwrap_or(1).max(1)
        } else {
            line.chars().count().saturating_sub(before).max(1)
        };
        writeln!(f, "\n {number} | {line}")?;
        write!(f, " {} | {pad}{} {help}", " ".repeat(number.len()), "^".repeat(width))
    }
}
/// An error with its causes, on one line; a cause that is quoted already is not said again.
pub fn spoken(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        let said = c.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = c.source();
    }
    text
}
