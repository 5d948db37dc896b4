//! A definition file to its statements, and every syntax error on the way.
//!
//! The file is tokenized once, so that all positions are the file's own, and cut at `;` and before each `CREATE`: an
//! error in one statement hides nothing in the next.
//!
//! Neighbours: `statement` has the grammar; `load` judges what the statements mean.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span as TokenSpan, Token, TokenWithSpan, Tokenizer};

use super::dialect::dialect;
use super::file::File;
use super::near::nearest;
use super::statement::{Fault, Statement, found, parse};
use crate::diagnostic::Diagnostic;

/// The statements that parse; a problem for each that does not.
pub(super) fn statements(file: &File, problems: &mut Vec<Diagnostic>) -> Vec<Statement> {
    let mut tokens = vec![];
    let failed = Tokenizer::new(dialect(), &file.text).tokenize_with_location_into_buf(&mut tokens).err();
    // A comment without an end is reported at the end of the file: it starts where the tokens end.
    let last = tokens.last().map_or(Location::new(1, 1), |t| t.span.end);
    let mut groups = cut(tokens);
    if let Some(error) = failed {
        let start = if error.message.contains("comment") { last } else { error.location };
        let at = TokenSpan::new(start, Location::new(start.line, start.column + 1));
        // The message ends in the position, which is shown anyway.
        problems.push(file.problem(at, lower_first(&error.message), unterminated(&error.message)));
        // What stands before the error belongs to the statement that has it.
        groups.pop_if(|g| !g.closed);
    }
    let mut found = vec![];
    for group in groups {
        if let Some(next) = group.runs_into {
            let help = "end the statement before it with `;`";
            problems.push(file.problem(next, "expected `;` before `CREATE`", help));
        }
        match parse(group.tokens.clone()) {
            Ok(statement) => found.push(statement),
            // The same slip twice helps nobody.
            Err(Fault::Syntax(_)) if group.runs_into.is_some() => {}
            Err(fault) => problems.push(explain(fault, &group.tokens, file)),
        }
    }
    found
}

/// The names that a text seems to define, whether or not it parses: they are not reported as unknown elsewhere.
pub(super) fn defined_names(text: &str) -> Vec<String> {
    let words: Vec<String> = text
        .split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ';' | ','))
        .filter(|w| !w.is_empty())
        .map(|w| w.trim_matches(['"', '`']).to_lowercase())
        .collect();
    let mut names = vec![];
    for (i, word) in words.iter().enumerate() {
        let rest: Vec<&str> = words[i + 1..].iter().take(3).map(String::as_str).collect();
        match (word.as_str(), rest.as_slice()) {
            ("create", ["feature", "view", name, ..]) => names.push((*name).to_string()),
            ("create", ["stream" | "table", name, ..]) => names.push((*name).to_string()),
            _ => {}
        }
    }
    names
}

/// The tokens of one statement, without white space, comments and its `;`.
struct Group {
    tokens: Vec<TokenWithSpan>,
    /// Was there a `;`, or another statement after it?
    closed: bool,
    /// The `CREATE` that follows where a `;` should.
    runs_into: Option<TokenSpan>,
}

fn cut(tokens: Vec<TokenWithSpan>) -> Vec<Group> {
    let mut groups = vec![];
    let mut current: Vec<TokenWithSpan> = vec![];
    let mut close = |tokens: &mut Vec<TokenWithSpan>, closed: bool, runs_into: Option<TokenSpan>| {
        let tokens = std::mem::take(tokens);
        if !tokens.is_empty() {
            groups.push(Group { tokens, closed, runs_into });
        }
    };
    let tokens: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF)).collect();
    for (i, token) in tokens.iter().enumerate() {
        let kind = |n: usize| tokens.get(i + n).map(|t| word(&t.token)).unwrap_or_default();
        let starts =
            keyword(&token.token) == Keyword::CREATE && matches!(kind(1).as_str(), "STREAM" | "TABLE" | "FEATURE");
        if token.token == Token::SemiColon {
            close(&mut current, true, None);
            continue;
        }
        if starts && !current.is_empty() {
            close(&mut current, true, Some(token.span));
        }
        current.push(token.clone());
    }
    close(&mut current, false, None);
    groups
}

fn keyword(token: &Token) -> Keyword {
    match token {
        Token::Word(w) => w.keyword,
        _ => Keyword::NoKeyword,
    }
}

/// An unquoted word in upper case; nothing for any other token.
fn word(token: &Token) -> String {
    match token {
        Token::Word(w) if w.quote_style.is_none() => w.value.to_uppercase(),
        _ => String::new(),
    }
}

fn explain(fault: Fault, tokens: &[TokenWithSpan], file: &File) -> Diagnostic {
    let error = match fault {
        Fault::Refused { span, message, help } => {
            let span = if span.start.line == 0 { end_of(tokens) } else { span };
            return file.problem(span, message, help);
        }
        Fault::Syntax(error) => error,
    };
    let text = match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
        ParserError::RecursionLimitExceeded => {
            let whole = TokenSpan::new(tokens[0].span.start, end_of(tokens).end);
            return file.problem(whole, "the statement is nested too deeply", "split it into several views");
        }
    };
    let (message, location) = locate(&text);
    let at = location.and_then(|l| tokens.iter().position(|t| t.span.start == l));
    if let Some((n, message, help)) = not_yet(tokens, at.unwrap_or(tokens.len())) {
        return file.problem(tokens[n].span, message, help);
    }
    let span = at.map_or_else(|| end_of(tokens), |i| tokens[i].span);
    let message = match message.strip_prefix("Expected: ").and_then(|m| m.rsplit_once(", found: ")) {
        Some((sign, token)) if !sign.contains(char::is_alphanumeric) => {
            format!("expected `{sign}`, found {}", found(token))
        }
        Some((expected, token)) => format!("expected {expected}, found {}", found(token)),
        None => lower_first(message),
    };
    let help = help(&message, tokens, at.unwrap_or(tokens.len()));
    file.problem(span, message, help)
}

/// What of our own grammar is not built, where sqlparser stopped at it: the word, what it is, and what to write.
fn not_yet(tokens: &[TokenWithSpan], at: usize) -> Option<(usize, &'static str, &'static str)> {
    let is = |n: usize, what: &str| tokens.get(n).is_some_and(|t| word(&t.token) == what);
    if !is(1, "FEATURE") {
        return None;
    }
    // `FROM REQUEST (amount DOUBLE)`: a call, until the type; before AS or behind the query a clause.
    let opened = |n: usize| tokens.get(n + 1).is_some_and(|t| t.token == Token::LParen);
    let closed = |n: usize| (n..tokens.len()).find(|i| tokens[*i].token == Token::RParen).unwrap_or(tokens.len());
    let brought_in = |n: usize| is(n - 1, "FROM") || is(n - 1, "JOIN") || tokens[n - 1].token == Token::Comma;
    let request = |n: &usize| is(*n, "REQUEST") && opened(*n) && brought_in(*n) && (n - 1..=closed(*n)).contains(&at);
    if let Some(n) = (2..tokens.len()).find(request) {
        let help = "leave it out: a view reads streams and tables, and whoever asks can compute with what it answers";
        return Some((n, "FROM REQUEST is not supported yet", help));
    }
    // `count(*) AS n DEFAULT 0`; without AS it was taken for the name.
    let default = [Some(at), at.checked_sub(1)].into_iter().flatten().find(|n| is(*n, "DEFAULT"))?;
    Some((default, "DEFAULT of a feature is not supported yet", "write coalesce(expression, value) AS name"))
}

/// sqlparser keeps the position of an error only as the tail of its text, and has none at the end of the input.
fn locate(text: &str) -> (&str, Option<Location>) {
    if let Some((message, tail)) = text.rsplit_once(" at Line: ")
        && let Some((line, column)) = tail.split_once(", Column: ")
        && let (Ok(line), Ok(column)) = (line.parse(), column.parse())
    {
        return (message, Some(Location::new(line, column)));
    }
    (text, None)
}

/// Just after the last token.
fn end_of(tokens: &[TokenWithSpan]) -> TokenSpan {
    let end = tokens.last().map_or(Location::new(1, 1), |t| t.span.end);
    TokenSpan::new(end, Location::new(end.line, end.column + 1))
}

/// The words that clauses are made of; a slip in one ends a query early, and shows a token late.
const CLAUSES: [&str; 39] = [
    "CREATE",
    "STREAM",
    "TABLE",
    "FEATURE",
    "VIEW",
    "SERVICE",
    "EVENT",
    "TIME",
    "ARRIVAL",
    "KAFKA",
    "FILE",
    "WITH",
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "FILTER",
    "JOIN",
    "LEFT",
    "RIGHT",
    "FULL",
    "INNER",
    "UNION",
    "LIMIT",
    "DISTINCT",
    "BETWEEN",
    "INTERVAL",
    "PRIMARY",
    "CHECK",
    "NULL",
    "CONSTRAINT",
    "CASE",
    "WHEN",
    "BACKFILL",
    "IGNORE",
    "RESPECT",
    "NULLS",
];

fn help(message: &str, tokens: &[TokenWithSpan], at: usize) -> String {
    for i in [Some(at), at.checked_sub(1), at.checked_sub(2)].into_iter().flatten() {
        let here = tokens.get(i).map(|t| word(&t.token)).unwrap_or_default();
        if here.len() > 3
            && !CLAUSES.contains(&here.as_str())
            && let Some(meant) = nearest(&here, CLAUSES)
        {
            return format!("did you mean {meant} instead of `{}`?", tokens[i].token);
        }
    }
    let here = tokens.get(at).map(|t| word(&t.token)).unwrap_or_default();
    if matches!(here.as_str(), "GROUP" | "ORDER") {
        return format!("write {here} BY");
    }
    let kind: Vec<String> = tokens.iter().skip(1).take(2).map(|t| word(&t.token)).collect();
    match (kind.first().map_or("", String::as_str), kind.get(1).map_or("", String::as_str)) {
        ("STREAM", _) => "write CREATE STREAM name (column TYPE [NOT NULL] [CHECK (expr)], …) EVENT TIME expr \
                          FROM KAFKA (topic = '…', format = 'json') | FILE (path = '…', format = 'jsonl')"
            .into(),
        ("TABLE", _) => "write CREATE TABLE name (column TYPE PRIMARY KEY, …) [EVENT TIME expr] \
                         FROM KAFKA (topic = '…', format = 'json') | FILE (path = '…', format = 'csv')"
            .into(),
        ("FEATURE", "SERVICE") => "write CREATE FEATURE SERVICE name AS view, other_view(feature, feature)".into(),
        _ if message.starts_with("expected end of statement") => {
            "the query ends before this: check the words before it, or end the statement with `;`".into()
        }
        _ => "write CREATE FEATURE VIEW name [WITH (entity = '…', …)] AS SELECT … FROM … GROUP BY …".into(),
    }
}

fn unterminated(message: &str) -> &'static str {
    if message.contains("comment") {
        "close it with */"
    } else if message.contains("nterminated") || message.contains("closing") || message.contains("close") {
        "close it with the quote it began with; a quote inside is written twice"
    } else {
        "this character means nothing here"
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
