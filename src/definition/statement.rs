//! The grammar of our four statements, around DataFusion's SQL for types, expressions and queries.
//!
//! Parsing says nothing about meaning: unknown options, types and names are for `source` and `view` to judge.
//!
//! Invariant: the tokens of a parser hold no white space and no comments, so the current token is the last one taken.
//! Neighbours: `sql` cuts a file into the tokens of single statements and turns a [`Fault`] into a diagnostic.

use datafusion::sql::sqlparser::ast::{self, Ident};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span as TokenSpan, Token, TokenWithSpan};

use super::dialect::dialect;
use super::near::nearest;

/// A statement of a definition file.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) span: TokenSpan,
    /// Its tokens: the syntax tree has no place for most words.
    pub(super) tokens: Vec<TokenWithSpan>,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Source(Box<SourceStatement>),
    View(ViewStatement),
    Service(ServiceStatement),
}

/// `CREATE STREAM` or `CREATE TABLE`.
#[derive(Debug)]
pub(super) struct SourceStatement {
    pub(super) table: bool,
    pub(super) name: Ident,
    pub(super) columns: Vec<ColumnClause>,
    /// Of columns and of the whole, in the order of the text.
    pub(super) checks: Vec<Clause>,
    /// `PRIMARY KEY (…)`, and each column's own.
    pub(super) keys: Vec<KeyClause>,
    pub(super) event_time: Option<Clause>,
    pub(super) arrival_time: Option<Clause>,
    pub(super) from: Option<FromClause>,
    /// Where `BACKFILL FROM FILE (…)` stands.
    pub(super) backfill: Option<TokenSpan>,
    pub(super) with: Vec<OptionClause>,
}

#[derive(Debug)]
pub(super) struct ColumnClause {
    pub(super) name: Ident,
    pub(super) data_type: ast::DataType,
    pub(super) type_span: TokenSpan,
    pub(super) not_null: bool,
}

#[derive(Debug)]
pub(super) struct KeyClause {
    pub(super) columns: Vec<Ident>,
    pub(super) span: TokenSpan,
}

/// An expression and its place.
#[derive(Debug)]
pub(super) struct Clause {
    pub(super) expr: ast::Expr,
    pub(super) span: TokenSpan,
}

/// `FROM KAFKA (…)`.
#[derive(Debug)]
pub(super) struct FromClause {
    /// The word after FROM.
    pub(super) connector: Ident,
    pub(super) options: Vec<OptionClause>,
    pub(super) span: TokenSpan,
}

/// `name = 'value'`.
#[derive(Debug)]
pub(super) struct OptionClause {
    /// In lower case; of several parts with dots.
    pub(super) name: String,
    pub(super) name_span: TokenSpan,
    pub(super) value: ast::Expr,
    pub(super) value_span: TokenSpan,
}

/// `CREATE FEATURE VIEW`.
#[derive(Debug)]
pub(super) struct ViewStatement {
    pub(super) name: Ident,
    pub(super) with: Vec<OptionClause>,
    pub(super) query: Box<ast::Query>,
    pub(super) query_span: TokenSpan,
}

/// `CREATE FEATURE SERVICE`: views, each with the features chosen, or all.
#[derive(Debug)]
pub(super) struct ServiceStatement {
    pub(super) name: Ident,
    pub(super) items: Vec<(Ident, Option<Vec<Ident>>)>,
}

/// Why a statement does not parse.
#[derive(Debug)]
pub(super) enum Fault {
    /// sqlparser's word for it, with the position in the text.
    Syntax(ParserError),
    /// Ours, with what to write.
    Refused { span: TokenSpan, message: String, help: String },
}

impl From<ParserError> for Fault {
    fn from(error: ParserError) -> Fault {
        Fault::Syntax(error)
    }
}

/// Parses the tokens of exactly one statement, its `;` not among them.
pub(super) fn parse(tokens: Vec<TokenWithSpan>) -> Result<Statement, Fault> {
    let mut cursor = Cursor { parser: Parser::new(dialect()).with_tokens_with_locations(tokens.clone()) };
    let start = cursor.here().start;
    let body = cursor.statement()?;
    match cursor.parser.peek_token_ref() {
        t if t.token == Token::EOF => Ok(Statement { span: cursor.since(start), tokens, body }),
        t => Ok(cursor.parser.expected_ref("end of statement", t)?),
    }
}

struct Cursor {
    parser: Parser<'static>,
}

impl Cursor {
    fn statement(&mut self) -> Result<Body, Fault> {
        if !self.parser.parse_keyword(Keyword::CREATE) {
            let help = "definitions are CREATE STREAM, CREATE TABLE, CREATE FEATURE VIEW and CREATE FEATURE SERVICE";
            return self.refuse(format!("expected `CREATE`, found {}", self.found()), help);
        }
        if self.word("STREAM") {
            return self.source(false);
        }
        if self.word("TABLE") {
            return self.source(true);
        }
        if self.word("FEATURE") {
            if self.word("VIEW") {
                return self.view();
            }
            if self.word("SERVICE") {
                return self.service();
            }
            return Ok(self
                .parser
                .expected_ref("VIEW or SERVICE after CREATE FEATURE", self.parser.peek_token_ref())?);
        }
        let help = match self.upper().as_str() {
            "VIEW" | "SERVICE" => format!("write CREATE FEATURE {} …", self.upper()),
            "OR" => "a directory holds the definitions as they should be: leave OR REPLACE out".to_string(),
            "EXTERNAL" => "write CREATE STREAM or CREATE TABLE … FROM FILE (path = '…', format = 'csv')".to_string(),
            other => match nearest(other, ["STREAM", "TABLE", "FEATURE"]) {
                Some(near) => format!("did you mean {near}?"),
                None => "write CREATE STREAM, CREATE TABLE, CREATE FEATURE VIEW or CREATE FEATURE SERVICE".to_string(),
            },
        };
        let message = format!("expected STREAM, TABLE or FEATURE after CREATE, found {}", self.found());
        self.refuse(message, help)
    }

    fn source(&mut self, table: bool) -> Result<Body, Fault> {
        let mut source = SourceStatement {
            table,
            name: self.name()?,
            columns: vec![],
            checks: vec![],
            keys: vec![],
            event_time: None,
            arrival_time: None,
            from: None,
            backfill: None,
            with: vec![],
        };
        if self.parser.consume_token(&Token::LParen) {
            self.columns(&mut source)?;
        }
        loop {
            let start = self.here();
            let twice = if self.word("EVENT") {
                let time = self.time("EVENT TIME")?;
                source.event_time.replace(time).is_some()
            } else if self.word("ARRIVAL") {
                let time = self.time("ARRIVAL TIME")?;
                source.arrival_time.replace(time).is_some()
            } else if self.parser.parse_keyword(Keyword::FROM) {
                let from = self.connector(start.start)?;
                source.from.replace(from).is_some()
            } else if self.word("BACKFILL") {
                self.parser.expect_keyword_is(Keyword::FROM)?;
                self.connector(start.start)?;
                source.backfill.replace(self.since(start.start)).is_some()
            } else if self.parser.parse_keyword(Keyword::WITH) {
                let before = std::mem::replace(&mut source.with, self.options()?);
                !before.is_empty()
            } else if self.parser.peek_token_ref().token == Token::EOF {
                return Ok(Body::Source(Box::new(source)));
            } else {
                let expected = "EVENT TIME, ARRIVAL TIME, FROM, WITH or end of statement";
                return Ok(self.parser.expected_ref(expected, self.parser.peek_token_ref())?);
            };
            if twice {
                return Err(Fault::Refused {
                    span: self.since(start.start),
                    message: "this clause is given twice".into(),
                    help: "leave one of them".into(),
                });
            }
        }
    }

    fn columns(&mut self, source: &mut SourceStatement) -> Result<(), Fault> {
        while !self.parser.consume_token(&Token::RParen) {
            let start = self.here().start;
            if self.ahead("CONSTRAINT") && !matches!(self.after(), Token::Comma | Token::RParen) {
                self.parser.advance_token();
                if !matches!(self.upper().as_str(), "CHECK" | "PRIMARY" | "UNIQUE" | "FOREIGN") {
                    self.name()?; // constraints are named by their text
                }
            }
            let parenthesis = self.after() == Token::LParen;
            if self.ahead("PRIMARY") && !parenthesis && self.word("PRIMARY") {
                self.expect("KEY")?;
                self.parser.expect_token(&Token::LParen)?;
                let columns = self.parser.parse_comma_separated(|p| p.parse_identifier())?;
                self.parser.expect_token(&Token::RParen)?;
                source.keys.push(KeyClause { columns, span: self.since(start) });
            } else if parenthesis && self.word("CHECK") {
                source.checks.push(self.check()?);
            } else if (parenthesis && self.ahead("UNIQUE")) || self.ahead("FOREIGN") {
                return self.refuse(format!("{} is not supported here", self.upper()), CONSTRAINTS);
            } else {
                self.column(source)?;
            }
            let comma = self.parser.consume_token(&Token::Comma);
            if !comma && self.parser.peek_token_ref().token != Token::RParen {
                let expected = "NOT NULL, CHECK (…), PRIMARY KEY, `,` or `)` in the column list";
                return Ok(self.parser.expected_ref(expected, self.parser.peek_token_ref())?);
            }
        }
        Ok(())
    }

    fn column(&mut self, source: &mut SourceStatement) -> Result<(), Fault> {
        let name = self.name()?;
        let start = self.here().start;
        let data_type = self.parser.parse_data_type()?;
        let mut column = ColumnClause { name, data_type, type_span: self.since(start), not_null: false };
        let mut said = None;
        loop {
            let start = self.here().start;
            let not_null = self.parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]);
            // Columns may be null unless they say otherwise.
            if not_null || self.parser.parse_keyword(Keyword::NULL) {
                if said.replace(not_null).is_some_and(|before| before != not_null) {
                    return Err(Fault::Refused {
                        span: self.since(start),
                        message: "a column is NULL or NOT NULL, not both".into(),
                        help: "leave one of them".into(),
                    });
                }
                column.not_null = not_null;
            } else if self.after() == Token::LParen && self.word("CHECK") {
                source.checks.push(self.check()?);
            } else if self.word("PRIMARY") {
                self.expect("KEY")?;
                source.keys.push(KeyClause { columns: vec![column.name.clone()], span: self.since(start) });
            } else if self.word("CONSTRAINT") {
                if !matches!(self.upper().as_str(), "CHECK" | "PRIMARY" | "NOT" | "NULL") {
                    self.name()?;
                }
            } else if let Token::Word(_) = self.parser.peek_token_ref().token {
                return self.refuse(format!("{} is not supported on a column", self.found()), CONSTRAINTS);
            } else {
                source.columns.push(column);
                return Ok(());
            }
        }
    }

    fn check(&mut self) -> Result<Clause, Fault> {
        self.parser.expect_token(&Token::LParen)?;
        let check = self.clause()?;
        self.parser.expect_token(&Token::RParen)?;
        Ok(check)
    }

    fn time(&mut self, clause: &str) -> Result<Clause, Fault> {
        self.expect("TIME")?;
        // sqlparser would take these words for a column.
        let ends = self.parser.peek_token_ref().token == Token::EOF;
        if ends || matches!(self.upper().as_str(), "FROM" | "WITH" | "ARRIVAL" | "BACKFILL") {
            let message = format!("{clause} needs a column or an expression, found {}", self.found());
            return self.refuse(message, format!("write {clause} ts, or {clause} to_timestamp_millis(ts)"));
        }
        self.clause()
    }

    fn clause(&mut self) -> Result<Clause, Fault> {
        let start = self.here().start;
        let expr = self.parser.parse_expr()?;
        Ok(Clause { expr, span: self.since(start) })
    }

    fn connector(&mut self, start: Location) -> Result<FromClause, Fault> {
        let connector = self.parser.parse_identifier()?;
        let bare = self.parser.peek_token_ref().token != Token::LParen;
        let options = if bare && connector.value.eq_ignore_ascii_case("PUSH") { vec![] } else { self.options()? };
        Ok(FromClause { connector, options, span: self.since(start) })
    }

    fn options(&mut self) -> Result<Vec<OptionClause>, Fault> {
        self.parser.expect_token(&Token::LParen)?;
        let mut options = vec![];
        while !self.parser.consume_token(&Token::RParen) {
            let start = self.here().start;
            let name = self.parser.parse_object_name(false)?;
            let name_span = self.since(start);
            self.parser.expect_token(&Token::Eq)?;
            let Clause { expr, span } = self.clause()?;
            let parts: Vec<String> =
                name.0.iter().filter_map(|p| p.as_ident()).map(|i| i.value.to_lowercase()).collect();
            options.push(OptionClause { name: parts.join("."), name_span, value: expr, value_span: span });
            if !self.parser.consume_token(&Token::Comma) && self.parser.peek_token_ref().token != Token::RParen {
                return Ok(self.parser.expected_ref("`,` or `)` after an option", self.parser.peek_token_ref())?);
            }
        }
        Ok(options)
    }

    fn view(&mut self) -> Result<Body, Fault> {
        let name = self.name()?;
        let with = if self.parser.parse_keyword(Keyword::WITH) { self.options()? } else { vec![] };
        self.parser.expect_keyword_is(Keyword::AS)?;
        let start = self.here().start;
        let query = self.parser.parse_query()?;
        Ok(Body::View(ViewStatement { name, with, query, query_span: self.since(start) }))
    }

    fn service(&mut self) -> Result<Body, Fault> {
        let name = self.name()?;
        self.parser.expect_keyword_is(Keyword::AS)?;
        let items = self.parser.parse_comma_separated(|p| {
            let view = p.parse_identifier()?;
            if !p.consume_token(&Token::LParen) {
                return Ok((view, None));
            }
            let features = p.parse_comma_separated(|p| p.parse_identifier())?;
            p.expect_token(&Token::RParen)?;
            Ok((view, Some(features)))
        })?;
        Ok(Body::Service(ServiceStatement { name, items }))
    }

    /// One name, not qualified.
    fn name(&mut self) -> Result<Ident, Fault> {
        if self.ahead("IF") && matches!(self.after(), Token::Word(w) if w.keyword == Keyword::NOT) {
            let help = "a directory holds the definitions as they should be: leave IF NOT EXISTS out";
            return self.refuse("IF NOT EXISTS is not supported", help);
        }
        let name = self.parser.parse_identifier()?;
        if self.parser.peek_token_ref().token == Token::Period {
            return self.refuse("a name has one part here", format!("write `{}` without a prefix", name.value));
        }
        Ok(name)
    }

    /// Takes an unquoted word, which need not be one of sqlparser's keywords.
    fn word(&mut self, expected: &str) -> bool {
        let here = self.ahead(expected);
        if here {
            self.parser.advance_token();
        }
        here
    }

    fn expect(&mut self, expected: &str) -> Result<(), Fault> {
        if self.word(expected) {
            Ok(())
        } else {
            Ok(self.parser.expected_ref(expected, self.parser.peek_token_ref())?)
        }
    }

    fn ahead(&self, expected: &str) -> bool {
        self.upper() == expected
    }

    /// The next token, if it is an unquoted word, in upper case; else nothing.
    fn upper(&self) -> String {
        match &self.parser.peek_token_ref().token {
            Token::Word(w) if w.quote_style.is_none() => w.value.to_uppercase(),
            _ => String::new(),
        }
    }

    /// The token after the next.
    fn after(&self) -> Token {
        self.parser.peek_nth_token_ref(1).token.clone()
    }

    fn found(&self) -> String {
        found(&self.parser.peek_token_ref().token.to_string())
    }

    fn here(&self) -> TokenSpan {
        self.parser.peek_token_ref().span
    }

    /// From `start` to the end of the last token taken.
    fn since(&self, start: Location) -> TokenSpan {
        TokenSpan::new(start, self.parser.get_current_token().span.end)
    }

    fn refuse<T>(&self, message: impl Into<String>, help: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::Refused { span: self.here(), message: message.into(), help: help.into() })
    }
}

const CONSTRAINTS: &str = "a column can be NOT NULL, CHECK (…) and, in a table, PRIMARY KEY";

/// A token as messages show it.
pub(super) fn found(token: &str) -> String {
    if token == "EOF" { "the end of the statement".into() } else { format!("`{token}`") }
}
