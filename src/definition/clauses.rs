//! Which clauses a view's query may have: the list, and a refusal by name, at the word itself, of all that is not on it.
//!
//! DataFusion plans a query by the parts of the syntax tree that it knows and drops the others without a word: `PREWHERE`,
//! `WITH ROLLUP`, `CONNECT BY` and `FOR SYSTEM_TIME AS OF` would change nothing and say nothing. So every node is
//! destructured here without `..`: a field that a new version of sqlparser adds does not compile until somebody has put it on
//! one side or the other.
//!
//! Invariant: what passes is planned whole; no clause is accepted and ignored. What a clause means is not judged here.
//! Neighbours: `expressions` has the same for expressions; `view` asks for both; `plan` judges what is left.

use datafusion::sql::sqlparser::ast::{
    ConnectByKind, Cte, Distinct, GroupByExpr, GroupByWithModifier, Ident, Join, JoinConstraint, JoinOperator,
    LimitClause, Query, Select, SelectFlavor, SelectItem, SetExpr, SetOperator, Spanned, TableAlias, TableFactor,
    TableVersion, TableWithJoins, WildcardAdditionalOptions, With,
};
use datafusion::sql::sqlparser::tokenizer::{Location, Span as TokenSpan, Token, TokenWithSpan};

/// Something that is not on the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The word, or the expression, that asks for it.
    pub(super) at: TokenSpan,
    /// What it is, by name.
    pub(super) message: String,
    /// What to write instead.
    pub(super) help: String,
}

/// Everything in a query that is not on the list, in no particular order. `tokens`: those of the query.
pub(super) fn refused(query: &Query, tokens: &[TokenWithSpan]) -> Vec<Refused> {
    let mut walk = Walk { tokens, found: vec![] };
    walk.query(query);
    walk.found
}

/// A walk over a syntax tree, and what it found. The tree has no place for most words: they are looked up in the tokens.
pub(super) struct Walk<'a> {
    pub(super) tokens: &'a [TokenWithSpan],
    pub(super) found: Vec<Refused>,
}

const WINDOWS: &str =
    "a window is a condition on the event time: count(*) FILTER (WHERE ts > now() - INTERVAL '1 hour')";
const ONE_AFTER_ANOTHER: &str = "write FROM stream JOIN table ON stream.a = table.b";

impl Walk<'_> {
    pub(super) fn refuse(&mut self, at: TokenSpan, message: impl Into<String>, help: impl Into<String>) {
        self.found.push(Refused { at, message: message.into(), help: help.into() });
    }

    /// Refuses what begins with these words at or after `from`.
    fn refuse_words(&mut self, from: TokenSpan, words: &str, help: &str) {
        let at = self.place(from.start, words);
        self.refuse(at, format!("{words} is not supported"), help);
    }

    /// Where these words stand in a row, at or after `from`; `from` itself if they cannot be found.
    pub(super) fn place(&self, from: Location, words: &str) -> TokenSpan {
        let words: Vec<&str> = words.split(' ').collect();
        let is = |token: &TokenWithSpan, word: &str| match &token.token {
            Token::Word(w) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word),
            other => other.to_string().eq_ignore_ascii_case(word),
        };
        let mut rows = self.tokens.windows(words.len()).filter(|row| row[0].span.start >= from);
        match rows.find(|row| row.iter().zip(&words).all(|(token, word)| is(token, word))) {
            Some(row) => TokenSpan::new(row[0].span.start, row[row.len() - 1].span.end),
            None => TokenSpan::new(from, Location::new(from.line, from.column + 1)),
        }
    }

    /// A query: its SELECT alone, without anything around it.
    pub(super) fn query(&mut self, query: &Query) {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        if let Some(With { with_token, recursive: _, cte_tables }) = with {
            let names: Vec<String> = cte_tables.iter().map(|Cte { alias, .. }| alias.name.to_string()).collect();
            let help = "name streams and tables directly in FROM, and put the conditions into WHERE and FILTER";
            self.refuse(with_token.0.span, format!("WITH {} AS (…) is not supported yet", names.join(", ")), help);
            // What stands in it is refused with it; the tables it names are unknown to the rest.
            return;
        }
        let after = TokenSpan::new(body.span().end, body.span().end);
        if order_by.is_some() {
            self.refuse_words(after, "ORDER BY", "leave it out: a view has no order");
        }
        match limit_clause {
            None => {}
            Some(LimitClause::LimitOffset { limit: None, offset: Some(_), limit_by: _ }) => {
                self.refuse_words(after, "OFFSET", "leave it out: a view has a row for every entity");
            }
            Some(LimitClause::LimitOffset { limit: _, offset: _, limit_by: _ })
            | Some(LimitClause::OffsetCommaLimit { offset: _, limit: _ }) => {
                self.refuse_words(after, "LIMIT", "leave it out: a view has a row for every entity");
            }
        }
        if fetch.is_some() {
            self.refuse_words(after, "FETCH", "leave it out: a view has a row for every entity");
        }
        if !locks.is_empty() {
            self.refuse_words(after, "FOR", "leave it out: a view locks nothing");
        }
        if for_clause.is_some() {
            self.refuse_words(after, "FOR", "leave it out: answers are JSON and Arrow");
        }
        if settings.is_some() {
            self.refuse_words(after, "SETTINGS", "leave it out: settings are in headwater.toml");
        }
        if format_clause.is_some() {
            self.refuse_words(after, "FORMAT", "leave it out: answers are JSON and Arrow");
        }
        if !pipe_operators.is_empty() {
            self.refuse_words(after, "|>", "write SELECT … FROM … WHERE … GROUP BY …");
        }
        self.body(body);
    }

    fn body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { left, op, set_quantifier: _, right: _ } => {
                let word = match op {
                    SetOperator::Union => "UNION",
                    SetOperator::Except => "EXCEPT",
                    SetOperator::Intersect => "INTERSECT",
                    SetOperator::Minus => "MINUS",
                };
                let at = self.place(left.span().end, word);
                self.refuse(at, format!("{word} is not supported yet"), "define one view for each SELECT");
            }
            SetExpr::Values(_) => {
                self.refuse_words(TokenSpan::empty(), "VALUES", "write SELECT … FROM a stream");
            }
            // `view` says that a view is a SELECT.
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {}
            SetExpr::Table(_) => self.refuse_words(TokenSpan::empty(), "TABLE", "write SELECT … FROM a stream"),
        }
    }

    fn select(&mut self, select: &Select) {
        let Select {
            select_token,
            optimizer_hints: _, // a comment, and no part of the query's meaning
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _, // where TOP stands
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _, // where WINDOW stands
            value_table_mode,
            flavor,
        } = select;
        let start = select_token.0.span;
        self.before_from(
            start,
            (distinct.as_ref(), select_modifiers.is_some(), top.is_some(), value_table_mode.is_some()),
        );
        projection.iter().for_each(|item| self.item(item));
        if exclude.is_some() {
            self.refuse_words(start, "EXCLUDE", "name the columns that are wanted");
        }
        if into.is_some() {
            self.refuse_words(start, "INTO", "the view's name stands in CREATE FEATURE VIEW");
        }
        match flavor {
            SelectFlavor::Standard => {}
            SelectFlavor::FromFirst | SelectFlavor::FromFirstNoSelect => {
                self.refuse(start, "FROM before SELECT is not supported", "write SELECT … FROM …");
            }
        }
        self.from(from);
        if !lateral_views.is_empty() {
            self.refuse_words(start, "LATERAL VIEW", "aggregate the list with list_sum, or take an element: tags[1]");
        }
        if let Some(condition) = prewhere {
            self.refuse_words(start, "PREWHERE", "write WHERE");
            self.expr(condition);
        }
        selection.iter().for_each(|condition| self.expr(condition));
        connect_by.iter().for_each(|part| self.connect_by(part));
        self.group_by(start, group_by);
        for (there, words, help) in [
            (!cluster_by.is_empty(), "CLUSTER BY", "leave it out: a view has no order"),
            (!distribute_by.is_empty(), "DISTRIBUTE BY", "leave it out: rows go to workers by their group"),
            (!sort_by.is_empty(), "SORT BY", "leave it out: a view has no order"),
            (!named_window.is_empty(), "WINDOW", WINDOWS),
            (qualify.is_some(), "QUALIFY", "use last_value(… ORDER BY ts), or FILTER in the aggregates"),
        ] {
            if there {
                self.refuse_words(start, words, help);
            }
        }
        having.iter().for_each(|condition| self.expr(condition));
    }

    fn connect_by(&mut self, part: &ConnectByKind) {
        let help = "join a table that has the parents";
        match part {
            ConnectByKind::ConnectBy { connect_token, nocycle: _, relationships: _ } => {
                self.refuse(connect_token.0.span, "CONNECT BY is not supported", help);
            }
            ConnectByKind::StartWith { start_token, condition: _ } => {
                self.refuse(start_token.0.span, "START WITH is not supported", help);
            }
        }
    }

    /// What stands between SELECT and its list.
    fn before_from(
        &mut self,
        start: TokenSpan,
        (distinct, modifiers, top, value_table): (Option<&Distinct>, bool, bool, bool),
    ) {
        match distinct {
            None | Some(Distinct::All) => {}
            Some(Distinct::Distinct) => {
                let at = self.place(start.start, "DISTINCT");
                self.refuse(at, "SELECT DISTINCT is not supported yet", "GROUP BY the columns");
            }
            Some(Distinct::On(_)) => {
                self.refuse_words(start, "DISTINCT ON", "use first_value or last_value(… ORDER BY ts)");
            }
        }
        if modifiers {
            let next = self.tokens.iter().find(|t| t.span.start >= start.end).map_or(start, |t| t.span);
            self.refuse(next, "a modifier after SELECT is not supported", "leave it out");
        }
        if top {
            self.refuse_words(start, "TOP", "leave it out: a view has a row for every entity");
        }
        if value_table {
            self.refuse_words(start, "AS", "name the columns, without AS STRUCT or AS VALUE");
        }
    }

    fn item(&mut self, item: &SelectItem) {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, alias: _ } => self.expr(expr),
            SelectItem::ExprWithAliases { expr, aliases } => {
                let at = aliases.first().map_or(expr.span(), |a| a.span);
                self.refuse(at, "several names for one column are not supported", "write one name after AS");
            }
            // `plan` says that a column is not grouped by.
            SelectItem::QualifiedWildcard(_, options) | SelectItem::Wildcard(options) => self.wildcard(options),
        }
    }

    pub(super) fn wildcard(&mut self, options: &WildcardAdditionalOptions) {
        let WildcardAdditionalOptions {
            wildcard_token,
            opt_ilike,
            opt_exclude,
            opt_except,
            opt_replace,
            opt_rename,
            opt_alias,
        } = options;
        let more = opt_ilike.is_some() || opt_exclude.is_some() || opt_except.is_some();
        if more || opt_replace.is_some() || opt_rename.is_some() || opt_alias.is_some() {
            let at = wildcard_token.0.span;
            self.refuse(at, "* with a clause after it is not supported", "name the columns that are wanted");
        }
    }

    fn group_by(&mut self, start: TokenSpan, group_by: &GroupByExpr) {
        let modifiers = match group_by {
            GroupByExpr::All(modifiers) => {
                self.refuse_words(start, "GROUP BY ALL", "name the columns that name the entity");
                modifiers
            }
            GroupByExpr::Expressions(exprs, modifiers) => {
                exprs.iter().for_each(|e| self.expr(e));
                modifiers
            }
        };
        for modifier in modifiers {
            let (words, what) = match modifier {
                GroupByWithModifier::Rollup => ("WITH ROLLUP", "define one view for each level"),
                GroupByWithModifier::Cube => ("WITH CUBE", "define one view for each combination"),
                GroupByWithModifier::Totals => ("WITH TOTALS", "define a second view for the totals"),
                GroupByWithModifier::GroupingSets(_) => ("GROUPING SETS", "define one view for each"),
            };
            self.refuse_words(start, words, what);
        }
    }

    fn from(&mut self, from: &[TableWithJoins]) {
        for (n, TableWithJoins { relation, joins }) in from.iter().enumerate() {
            if n > 0 {
                let at = relation.span();
                self.refuse(at, "a second table after a comma is not supported", ONE_AFTER_ANOTHER);
            }
            self.table(relation);
            joins.iter().for_each(|join| self.join(join));
        }
    }

    fn join(&mut self, join: &Join) {
        let Join { relation, global, join_operator } = join;
        let at = relation.span();
        if *global {
            self.refuse(at, "GLOBAL JOIN is not supported", "write JOIN");
        }
        self.table(relation);
        match join_operator {
            JoinOperator::Join(on) | JoinOperator::Inner(on) => self.constraint(at, on, true),
            JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => self.constraint(at, on, true),
            // A column that USING merges would be the left one's, which is null where there is no left row.
            JoinOperator::Right(on) | JoinOperator::RightOuter(on) => self.constraint(at, on, false),
            JoinOperator::FullOuter(_) => self.refuse(at, "FULL JOIN is not supported yet", "use JOIN or LEFT JOIN"),
            JoinOperator::CrossJoin(_) => self.refuse(at, "CROSS JOIN is not supported", ONE_AFTER_ANOTHER),
            JoinOperator::Semi(_) | JoinOperator::LeftSemi(_) | JoinOperator::RightSemi(_) => {
                self.refuse(at, "SEMI JOIN is not supported", "use JOIN: a table has one row of a key");
            }
            JoinOperator::Anti(_) | JoinOperator::LeftAnti(_) | JoinOperator::RightAnti(_) => {
                self.refuse(at, "ANTI JOIN is not supported", "use LEFT JOIN … WHERE table.key IS NULL");
            }
            JoinOperator::CrossApply | JoinOperator::OuterApply => {
                self.refuse(at, "APPLY is not supported", ONE_AFTER_ANOTHER);
            }
            JoinOperator::AsOf { match_condition: _, constraint: _ } => {
                let help = "use JOIN: a table with EVENT TIME gives each event the version that is valid then";
                self.refuse(at, "ASOF JOIN is not supported", help);
            }
            JoinOperator::StraightJoin(_) => self.refuse(at, "STRAIGHT_JOIN is not supported", "write JOIN"),
            JoinOperator::ArrayJoin | JoinOperator::LeftArrayJoin | JoinOperator::InnerArrayJoin => {
                self.refuse(at, "ARRAY JOIN is not supported", "take an element of the list: tags[1]");
            }
        }
    }

    fn constraint(&mut self, at: TokenSpan, constraint: &JoinConstraint, using: bool) {
        match constraint {
            JoinConstraint::On(condition) => self.expr(condition),
            JoinConstraint::Using(_) if using => {}
            JoinConstraint::Using(_) => {
                self.refuse(at, "USING in a RIGHT JOIN is not supported", "write ON stream.a = table.a");
            }
            JoinConstraint::Natural => {
                let help = "name the columns: ON stream.a = table.a; a new column would change a natural join";
                self.refuse(at, "NATURAL JOIN is not supported", help);
            }
            JoinConstraint::None => self.refuse(at, "a join without ON is not supported", ONE_AFTER_ANOTHER),
        }
    }

    fn table(&mut self, factor: &TableFactor) {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints: _, // `view` refuses them, as it does samples
                version,
                with_ordinality,
                partitions,
                json_path,
                sample: _,
                index_hints,
            } => {
                let at = name.span();
                self.alias(alias.as_ref());
                if args.is_some() {
                    self.table_function(at, &name.to_string());
                }
                if let Some(version) = version {
                    self.version(at, version);
                }
                if *with_ordinality {
                    self.refuse_words(at, "WITH ORDINALITY", "use the system columns _partition and _offset");
                }
                for Ident { span, .. } in partitions {
                    self.refuse(*span, "PARTITION is not supported", "write a condition on _partition in WHERE");
                }
                if json_path.is_some() {
                    self.refuse(at, "a path into JSON is not supported", "declare the field as a column");
                }
                if !index_hints.is_empty() {
                    self.refuse(at, "an index hint is not supported", "leave it out");
                }
            }
            TableFactor::Derived { lateral: _, subquery, alias: _, sample: _ } => {
                let help = "name streams and tables directly";
                self.refuse(subquery.span(), "a subquery in FROM is not supported yet", help);
            }
            TableFactor::TableFunction { expr, alias: _ } => {
                let name = expr.to_string();
                let name = name.split('(').next().unwrap_or_default().to_string();
                self.table_function(expr.span(), &name);
            }
            TableFactor::Function { lateral: _, name, args: _, with_ordinality: _, alias: _ } => {
                self.table_function(name.span(), &name.to_string());
            }
            TableFactor::UNNEST { .. } => {
                self.refuse(factor.span(), "UNNEST is not supported", "take an element of the list: tags[1]");
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                self.alias(alias.as_ref());
                let at = table_with_joins.span();
                self.refuse(at, "a join in parentheses is not supported yet", "join one table after another");
            }
            TableFactor::JsonTable { .. }
            | TableFactor::OpenJsonTable { .. }
            | TableFactor::Pivot { .. }
            | TableFactor::Unpivot { .. }
            | TableFactor::MatchRecognize { .. }
            | TableFactor::XmlTable { .. }
            | TableFactor::SemanticView { .. } => {
                let text = factor.to_string();
                let at = factor.span();
                let what =
                    ["PIVOT", "UNPIVOT", "MATCH_RECOGNIZE", "JSON_TABLE", "OPENJSON", "XMLTABLE", "SEMANTIC_VIEW"];
                let what = what.into_iter().find(|w| text.to_uppercase().contains(w)).unwrap_or("this table");
                self.refuse(at, format!("{what} in FROM is not supported"), "name streams and tables directly");
            }
        }
    }

    fn alias(&mut self, alias: Option<&TableAlias>) {
        let Some(TableAlias { explicit: _, name, columns, at }) = alias else { return };
        if !columns.is_empty() || at.is_some() {
            let message = format!("names for the columns of `{}` are not supported", name.value);
            self.refuse(name.span, message, "leave them out, and rename in SELECT with AS");
        }
    }

    /// `TUMBLE(…)` and its kin: other engines write windows so.
    fn table_function(&mut self, at: TokenSpan, name: &str) {
        let help = match name.to_uppercase().as_str() {
            "TUMBLE" | "HOP" | "SESSION" | "CUMULATE" | "SLIDE" => WINDOWS,
            _ => "name streams and tables directly",
        };
        self.refuse(at, format!("the table function {name}(…) is not supported"), help);
    }

    fn version(&mut self, from: TokenSpan, version: &TableVersion) {
        match version {
            TableVersion::ForSystemTimeAsOf(_) => {
                let at = self.place(from.start, "FOR SYSTEM_TIME AS OF");
                let help = "leave it out: a table with EVENT TIME joins the version that is valid at the event's time; a \
                            table without it joins what it says now";
                self.refuse(at, "FOR SYSTEM_TIME AS OF is not supported yet", help);
            }
            TableVersion::TimestampAsOf(_)
            | TableVersion::VersionAsOf(_)
            | TableVersion::Function(_)
            | TableVersion::Changes { changes: _, at: _, end: _ } => {
                self.refuse(from, "a version of a table is not supported", "name the table alone");
            }
        }
    }
}
