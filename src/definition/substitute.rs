//! `${NAME}` in a definition, replaced before anything is parsed.
//!
//! Comments are left as they are, so that a line can be commented out without giving it a value. Inside a quoted text a
//! quote of the value is doubled, so that a value can never end the text it stands in.
//!
//! Neighbours: `load` says where values come from; `sql` parses the result.

use crate::diagnostic::{Diagnostic, Span};

/// A text with its names replaced.
pub(super) struct Substituted {
    /// The text. A name without a value stands in it unchanged.
    pub(super) text: String,
    /// A problem for each name without a value, with positions in the original.
    pub(super) problems: Vec<Diagnostic>,
    /// Can the text be parsed? Not when a name without a value stands outside quotes.
    pub(super) whole: bool,
}

/// Where the scanner stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Code,
    Quoted(char),
    LineComment,
    /// Block comments nest.
    BlockComment(u32),
}

/// Replaces each `${NAME}` by what `value` has for it.
pub(super) fn substitute(file: &str, text: &str, value: impl Fn(&str) -> Option<String>) -> Substituted {
    let mut done = Substituted { text: String::with_capacity(text.len()), problems: vec![], whole: true };
    let mut place = Place::Code;
    let (mut line, mut column) = (1u64, 1u64);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        if in_text(place) && rest.starts_with("${") {
            let width = rest.lines().next().and_then(|l| l.find('}'));
            taken = width.map_or(2, |w| w + 1);
            let name = width.map(|w| &rest[2..w]);
            let found = name.filter(|n| !n.is_empty()).and_then(&value);
            match (&found, place) {
                (Some(v), Place::Quoted(quote)) => {
                    done.text.push_str(&v.replace(quote, &format!("{quote}{quote}")));
                }
                (Some(v), _) => done.text.push_str(v),
                (None, _) => {
                    let end = column + rest[..taken].chars().count() as u64;
                    let span = Span { file: file.into(), line, column, end_line: line, end_column: end };
                    done.problems.push(missing(name, span, text));
                    done.whole &= place != Place::Code;
                    done.text.push_str(&rest[..taken]);
                }
            }
        } else {
            let before = place;
            place = next(place, rest);
            // The two characters that open or close a block comment are taken together: `/*/` does not close itself.
            if matches!((before, place), (Place::BlockComment(_), _) | (_, Place::BlockComment(_))) && before != place {
                taken = 2;
            }
            done.text.push_str(&rest[..taken]);
        }
        for c in rest[..taken].chars() {
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        rest = &rest[taken..];
    }
    done
}

fn in_text(place: Place) -> bool {
    matches!(place, Place::Code | Place::Quoted(_))
}

/// The place after the character (or the comment's two characters) at the start of `rest`.
fn next(place: Place, rest: &str) -> Place {
    let c = rest.chars().next().unwrap_or('\n');
    match place {
        Place::Code if rest.starts_with("--") => Place::LineComment,
        Place::Code if rest.starts_with("/*") => Place::BlockComment(1),
        Place::Code if matches!(c, '\'' | '"' | '`') => Place::Quoted(c),
        Place::Quoted(quote) if c == quote => Place::Code, // a doubled quote reopens it at once
        Place::LineComment if c == '\n' => Place::Code,
        Place::BlockComment(depth) if rest.starts_with("/*") => Place::BlockComment(depth + 1),
        Place::BlockComment(1) if rest.starts_with("*/") => Place::Code,
        Place::BlockComment(depth) if rest.starts_with("*/") => Place::BlockComment(depth - 1),
        place => place,
    }
}

fn missing(name: Option<&str>, span: Span, text: &str) -> Diagnostic {
    let (message, help) = match name {
        None => ("`${` has no `}` on its line".to_string(), "write ${NAME}".to_string()),
        Some("") => ("`${}` names nothing".to_string(), "write ${NAME}".to_string()),
        Some(name) => (
            format!("`${{{name}}}` has no value"),
            format!("give it one with --set {name}=VALUE, or set it in the environment"),
        ),
    };
    Diagnostic::new(message, span, text, Some(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Substituted {
        substitute("dataflows/a.sql", text, |name| match name {
            "A" => Some("x".into()),
            "QUOTE" => Some("it's".into()),
            "MY-NAME" => Some("y".into()),
            _ => None,
        })
    }

    #[test]
    fn replaces_in_text_and_not_in_comments() {
        let check = |text: &str, want: &str| {
            let got = run(text);
            assert_eq!((got.text.as_str(), got.problems.len()), (want, 0), "{text}");
        };
        check("a ${A} '${A}' \"${A}\"${A}", "a x 'x' \"x\"x");
        check("'${QUOTE}' ${QUOTE}", "'it''s' it's");
        check("-- ${NO} it's\n${A}", "-- ${NO} it's\nx");
        check("/* ${NO} /* ' */ ${NO} */ ${A}", "/* ${NO} /* ' */ ${NO} */ x");
        check("/*/ ${NO} */ ${A}", "/*/ ${NO} */ x");
        check("'a -- b' ${A} 'it''s ${A}'", "'a -- b' x 'it''s x'");
        check("${MY-NAME} $A {A} $", "y $A {A} $");
    }

    #[test]
    fn says_which_name_has_no_value_and_where() {
        let check = |text: &str, whole: bool, want: &[(&str, u64, u64, u64)]| {
            let got = run(text);
            let found: Vec<_> = got
                .problems
                .iter()
                .map(|p| (p.message.as_str(), p.span.line, p.span.column, p.span.end_column))
                .collect();
            assert_eq!((found.as_slice(), got.whole), (want, whole), "{text}");
        };
        check("é ${B}\n '${C}'", false, &[("`${B}` has no value", 1, 3, 7), ("`${C}` has no value", 2, 3, 7)]);
        check("'${C}'", true, &[("`${C}` has no value", 1, 2, 6)]);
        check("'${}'", true, &[("`${}` names nothing", 1, 2, 5)]);
        check("'${A\n}'", true, &[("`${` has no `}` on its line", 1, 2, 4)]);
    }
}
