//! Which expressions a definition may have: the list, and a refusal by name, at the word itself, of all that is not on it.
//!
//! As in `clauses`, every node is destructured without `..`: what a new version of sqlparser adds does not compile until
//! somebody has said whether it is accepted.
//!
//! Invariant: what passes is planned whole. Types are not known here: `meaning` judges them.
//! Neighbours: `clauses` has the same for queries; `source` asks for CHECK, EVENT TIME and ARRIVAL TIME; `arguments` has
//! function calls, `interval` lengths of time.

use datafusion::sql::sqlparser::ast::{
    self, AccessExpr, Array, BinaryOperator, CaseWhen, CastKind, CeilFloorKind, DateTimeField, Expr, Interval, Spanned,
    Subscript, TypedString, UnaryOperator, Value, ValueWithSpan,
};
use datafusion::sql::sqlparser::tokenizer::{Span as TokenSpan, TokenWithSpan};

use super::clauses::{Refused, Walk};
use super::interval::length;
use super::types::column_type;

/// Everything in an expression that is not on the list. `tokens`: those of the statement.
pub(super) fn refused(expr: &Expr, tokens: &[TokenWithSpan]) -> Vec<Refused> {
    let mut walk = Walk { tokens, found: vec![] };
    walk.expr(expr);
    walk.found
}

/// The fields of a time that `date_part` and `extract` may name.
pub(super) const FIELDS: [&str; 13] = [
    "year",
    "quarter",
    "month",
    "week",
    "day",
    "dow",
    "doy",
    "hour",
    "minute",
    "second",
    "millisecond",
    "microsecond",
    "epoch",
];

/// What is said of a subquery.
pub(super) const SUBQUERY: &str = "a subquery in an expression is not supported yet";

impl Walk<'_> {
    /// An expression and all below it.
    #[expect(clippy::too_many_lines, reason = "an arm for each kind of expression, and no wildcard that hides one")]
    pub(super) fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {}
            Expr::Nested(inner)
            | Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner) => self.expr(inner),
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => self.all([left, right]),
            Expr::InList { expr, list, negated: _ } => {
                self.expr(expr);
                list.iter().for_each(|e| self.expr(e));
            }
            Expr::Between { expr, negated: _, low, high } => self.all([expr, low, high]),
            Expr::BinaryOp { left, op, right } => {
                self.all([left, right]);
                self.operator(left.span(), op);
            }
            Expr::UnaryOp { op, expr } => {
                self.expr(expr);
                if !matches!(op, UnaryOperator::Not | UnaryOperator::Plus | UnaryOperator::Minus) {
                    self.refuse(expr.span(), format!("the operator {op} is not supported"), "use a function");
                }
            }
            Expr::Like { negated: _, any, expr, pattern, escape_char }
            | Expr::ILike { negated: _, any, expr, pattern, escape_char } => {
                self.all([expr, pattern]);
                if *any {
                    let at = self.place(expr.span().end, "ANY");
                    self.refuse(at, "LIKE ANY is not supported", "write the patterns one by one, with OR between them");
                }
                if escape_char.is_some() {
                    let at = self.place(pattern.span().end, "ESCAPE");
                    self.refuse(at, "ESCAPE is not supported", "write \\% and \\_ for the characters themselves");
                }
            }
            Expr::Cast { kind, expr, data_type, array, format } => {
                self.expr(expr);
                match kind {
                    CastKind::Cast | CastKind::DoubleColon | CastKind::TryCast => {}
                    CastKind::SafeCast => self.refuse(expr.span(), "SAFE_CAST is not supported", "write TRY_CAST"),
                }
                if *array || format.is_some() {
                    let help = "leave it out; for parts of a time, use date_part";
                    self.refuse(expr.span(), "a cast with FORMAT or ARRAY is not supported", help);
                }
                self.type_of_cast(expr.span(), data_type);
            }
            Expr::Extract { field, syntax: _, expr } => {
                self.expr(expr);
                self.field(expr.span(), field);
            }
            Expr::Ceil { expr, field } | Expr::Floor { expr, field } => {
                self.expr(expr);
                match field {
                    CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) => {}
                    CeilFloorKind::DateTimeField(_) => {
                        self.refuse(expr.span(), "the ceiling or floor of a time is not supported", "use date_trunc");
                    }
                    CeilFloorKind::Scale(_) => {
                        self.refuse(expr.span(), "a scale in ceil or floor is not supported", "use round(x, scale)");
                    }
                }
            }
            Expr::Position { expr, r#in } => self.all([expr, r#in]),
            Expr::Substring { expr, substring_from, substring_for, special: _, shorthand: _ } => {
                self.expr(expr);
                substring_from.iter().chain(substring_for).for_each(|e| self.expr(e));
                if substring_from.is_none() {
                    self.refuse(
                        expr.span(),
                        "substring without FROM is not supported",
                        "write substr(text, 1, length)",
                    );
                }
            }
            Expr::Trim { expr, trim_where: _, trim_what, trim_characters } => {
                self.expr(expr);
                trim_what.iter().for_each(|e| self.expr(e));
                let characters = trim_characters.iter().flatten();
                characters.clone().for_each(|e| self.expr(e));
                if let Some(second) = characters.clone().nth(1) {
                    self.refuse(second.span(), "trim takes one text of characters", "write all of them in one text");
                }
            }
            Expr::Value(value) => self.value(value),
            Expr::TypedString(TypedString { data_type, value, uses_odbc_syntax: _ }) => match data_type {
                ast::DataType::Date | ast::DataType::Timestamp(None, _) => {
                    self.type_of_cast(value.span, data_type);
                }
                other => {
                    let message = format!("a literal of type {other} is not supported");
                    self.refuse(value.span, message, "write CAST('…' AS type)");
                }
            },
            Expr::Function(function) => self.function(function),
            Expr::Case { case_token: _, end_token: _, operand, conditions, else_result } => {
                operand.iter().for_each(|e| self.expr(e));
                for CaseWhen { condition, result } in conditions {
                    self.expr(condition);
                    self.expr(result);
                }
                else_result.iter().for_each(|e| self.expr(e));
            }
            Expr::Interval(interval) => self.interval(interval),
            Expr::Array(Array { elem, named: _ }) => elem.iter().for_each(|e| self.expr(e)),
            Expr::Struct { values, fields } => {
                values.iter().for_each(|e| self.expr(e));
                if !fields.is_empty() {
                    let at = values.first().map_or(expr.span(), Spanned::span);
                    self.refuse(at, "a struct with typed fields is not supported", "write struct(a, b)");
                }
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.expr(root);
                access_chain.iter().for_each(|access| self.access(root.span(), access));
            }
            other => self.unlisted(other),
        }
    }

    fn all<const N: usize>(&mut self, exprs: [&Expr; N]) {
        exprs.into_iter().for_each(|e| self.expr(e));
    }

    /// What is refused whole; here too there is no wildcard.
    #[expect(clippy::too_many_lines, reason = "an arm for each kind of expression, and no wildcard that hides one")]
    fn unlisted(&mut self, expr: &Expr) {
        let at = expr.span();
        let (at, message, help) = match expr {
            Expr::SimilarTo { negated: _, expr, pattern: _, escape_char: _ } => {
                let at = self.place(expr.span().end, "SIMILAR TO");
                (at, "SIMILAR TO is not supported".into(), "write LIKE, or regexp_like(text, '^(pattern)$')")
            }
            Expr::RLike { negated: _, expr, pattern: _, regexp } => {
                let word = if *regexp { "REGEXP" } else { "RLIKE" };
                (
                    self.place(expr.span().end, word),
                    format!("{word} is not supported"),
                    "write regexp_like(text, pattern)",
                )
            }
            Expr::AtTimeZone { timestamp, time_zone: _ } => {
                let help = "times are UTC: add the zone's offset, as in ts + INTERVAL '2 hours'";
                (self.place(timestamp.span().end, "AT TIME ZONE"), "AT TIME ZONE is not supported".into(), help)
            }
            Expr::InSubquery { expr: _, subquery, negated: _ } | Expr::Exists { subquery, negated: _ } => {
                (subquery.span(), SUBQUERY.into(), "join the table instead")
            }
            Expr::Subquery(subquery) => (subquery.span(), SUBQUERY.into(), "join the table instead"),
            Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => {
                (at, "ROLLUP, CUBE and GROUPING SETS are not supported".into(), "define one view for each")
            }
            Expr::AnyOp { left, compare_op: _, right: _, is_some: _ }
            | Expr::AllOp { left, compare_op: _, right: _ } => {
                (left.span(), "ANY and ALL are not supported".into(), "write array_has(list, value), or IN (…)")
            }
            Expr::InUnnest { expr, array_expr: _, negated: _ } => {
                (expr.span(), "IN UNNEST is not supported".into(), "write array_has(list, value)")
            }
            Expr::Overlay { expr, overlay_what: _, overlay_from: _, overlay_for: _ } => {
                (expr.span(), "OVERLAY is not supported".into(), "put it together with substr and ||")
            }
            Expr::Collate { expr, collation: _ } => {
                let help = "texts are compared by their characters' codes: compare lower(a) with lower(b)";
                (self.place(expr.span().end, "COLLATE"), "COLLATE is not supported".into(), help)
            }
            Expr::Tuple(values) => {
                let at = values.first().map_or(at, Spanned::span);
                (at, "a tuple is not supported".into(), "compare the columns one by one, with AND between them")
            }
            Expr::Convert { expr, .. } => (expr.span(), "CONVERT is not supported".into(), "write CAST(x AS type)"),
            Expr::JsonAccess { value, path: _ } => {
                (value.span(), "a path into JSON is not supported".into(), "declare the field as a column")
            }
            Expr::Prefixed { prefix, value: _ } => {
                (prefix.span, format!("`{prefix}` before a literal is not supported"), "leave it out")
            }
            Expr::Wildcard(_) | Expr::QualifiedWildcard(_, _) => {
                (at, "* is not supported here".into(), "name the columns that are wanted")
            }
            Expr::IsNormalized { expr, .. } => (expr.span(), "IS NORMALIZED is not supported".into(), "leave it out"),
            Expr::MatchAgainst { .. } => (at, "MATCH is not supported".into(), "write LIKE or regexp_like"),
            Expr::Dictionary(_) | Expr::Map(_) => (at, "a map is not supported".into(), "write struct(a, b)"),
            Expr::Named { expr, name: _ } => {
                (expr.span(), "AS inside an expression is not supported".into(), "leave it out")
            }
            Expr::OuterJoin(_) => (at, "(+) is not supported".into(), "write LEFT JOIN"),
            Expr::Prior(_) => (at, "PRIOR is not supported".into(), "join a table that has the parents"),
            Expr::Lambda(_) => {
                (at, "a lambda is not supported".into(), "use list_sum, array_has or an element: tags[1]")
            }
            Expr::MemberOf(_) => (at, "MEMBER OF is not supported".into(), "write array_has(list, value)"),
            Expr::Identifier(_)
            | Expr::CompoundIdentifier(_)
            | Expr::CompoundFieldAccess { .. }
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::IsDistinctFrom(_, _)
            | Expr::IsNotDistinctFrom(_, _)
            | Expr::InList { .. }
            | Expr::Between { .. }
            | Expr::BinaryOp { .. }
            | Expr::Like { .. }
            | Expr::ILike { .. }
            | Expr::UnaryOp { .. }
            | Expr::Cast { .. }
            | Expr::Extract { .. }
            | Expr::Ceil { .. }
            | Expr::Floor { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Trim { .. }
            | Expr::Nested(_)
            | Expr::Value(_)
            | Expr::TypedString(_)
            | Expr::Function(_)
            | Expr::Case { .. }
            | Expr::Struct { .. }
            | Expr::Array(_)
            | Expr::Interval(_) => return,
        };
        self.refuse(at, message, help);
    }

    fn operator(&mut self, left: TokenSpan, op: &BinaryOperator) {
        use BinaryOperator as Op;
        let help = match op {
            Op::Plus | Op::Minus | Op::Multiply | Op::Divide | Op::Modulo | Op::StringConcat => return,
            Op::Gt | Op::Lt | Op::GtEq | Op::LtEq | Op::Eq | Op::NotEq | Op::And | Op::Or => return,
            Op::Spaceship => "write IS NOT DISTINCT FROM",
            Op::Xor => "write (a AND NOT b) OR (b AND NOT a)",
            Op::DuckIntegerDivide | Op::MyIntegerDivide => "write /: it divides whole numbers as such",
            Op::PGRegexMatch | Op::Regexp | Op::Match => "write regexp_like(text, pattern)",
            Op::PGRegexIMatch => "write regexp_like(text, pattern, 'i')",
            Op::PGRegexNotMatch => "write NOT regexp_like(text, pattern)",
            Op::PGRegexNotIMatch => "write NOT regexp_like(text, pattern, 'i')",
            Op::PGLikeMatch => "write LIKE",
            Op::PGILikeMatch => "write ILIKE",
            Op::PGNotLikeMatch => "write NOT LIKE",
            Op::PGNotILikeMatch => "write NOT ILIKE",
            Op::PGStartsWith => "write starts_with(text, beginning)",
            Op::PGExp => "write power(a, b)",
            Op::PGOverlap | Op::AtArrow | Op::ArrowAt => "write array_has(list, value)",
            Op::Overlaps => "compare the times one by one",
            Op::Arrow | Op::LongArrow | Op::HashArrow | Op::HashLongArrow => "declare the field as a column",
            Op::BitwiseOr | Op::BitwiseAnd | Op::BitwiseXor => "declare the bits as BOOLEAN columns, or use / and %",
            Op::PGBitwiseXor | Op::PGBitwiseShiftLeft | Op::PGBitwiseShiftRight => "use * and / by a power of two",
            Op::Custom(_)
            | Op::AtAt
            | Op::HashMinus
            | Op::AtQuestion
            | Op::Question
            | Op::QuestionAnd
            | Op::QuestionPipe
            | Op::PGCustomBinaryOperator(_)
            | Op::DoubleHash
            | Op::LtDashGt
            | Op::AndLt
            | Op::AndGt
            | Op::LtLtPipe
            | Op::PipeGtGt
            | Op::AndLtPipe
            | Op::PipeAndGt
            | Op::LtCaret
            | Op::GtCaret
            | Op::QuestionHash
            | Op::QuestionDash
            | Op::QuestionDashPipe
            | Op::QuestionDoublePipe
            | Op::At
            | Op::TildeEq
            | Op::Assignment => "use comparisons, arithmetic and functions",
        };
        let at = self.place(left.end, &op.to_string());
        self.refuse(at, format!("the operator {op} is not supported"), help);
    }

    fn value(&mut self, ValueWithSpan { value, span }: &ValueWithSpan) {
        match value {
            Value::Number(_, false) | Value::SingleQuotedString(_) | Value::Boolean(_) | Value::Null => {}
            Value::Placeholder(_) => {
                let help = "write the value itself, or ${NAME} for one given with --set";
                self.refuse(*span, "`?` cannot be used here", help);
            }
            Value::Number(_, true)
            | Value::DollarQuotedString(_)
            | Value::TripleSingleQuotedString(_)
            | Value::TripleDoubleQuotedString(_)
            | Value::EscapedStringLiteral(_)
            | Value::UnicodeStringLiteral(_)
            | Value::SingleQuotedByteStringLiteral(_)
            | Value::DoubleQuotedByteStringLiteral(_)
            | Value::TripleSingleQuotedByteStringLiteral(_)
            | Value::TripleDoubleQuotedByteStringLiteral(_)
            | Value::SingleQuotedRawStringLiteral(_)
            | Value::DoubleQuotedRawStringLiteral(_)
            | Value::TripleSingleQuotedRawStringLiteral(_)
            | Value::TripleDoubleQuotedRawStringLiteral(_)
            | Value::NationalStringLiteral(_)
            | Value::QuoteDelimitedStringLiteral(_)
            | Value::NationalQuoteDelimitedStringLiteral(_)
            | Value::HexStringLiteral(_)
            | Value::DoubleQuotedString(_) => {
                let help = "write a number, or a text in single quotes";
                self.refuse(*span, format!("the literal {value} is not supported"), help);
            }
        }
    }

    fn type_of_cast(&mut self, at: TokenSpan, data_type: &ast::DataType) {
        use ast::DataType as Sql;
        // DataFusion's names for types that are ours.
        if matches!(data_type, Sql::Float8 | Sql::Int4(None) | Sql::Int8(None) | Sql::Bool) {
            return;
        }
        if let Err(help) = column_type(data_type) {
            let at = self.place(at.end, &data_type.to_string());
            self.refuse(at, format!("a cast to {data_type} is not supported"), help);
        }
    }

    fn field(&mut self, at: TokenSpan, field: &DateTimeField) {
        if !FIELDS.contains(&field.to_string().to_lowercase().as_str()) {
            let help = format!("the fields are {}", FIELDS.join(", "));
            self.refuse(at, format!("the field {field} of a time is not supported"), help);
        }
    }

    fn interval(&mut self, interval: &Interval) {
        let Interval { value, leading_field, leading_precision, last_field, fractional_seconds_precision } = interval;
        let at = value.span();
        if leading_precision.is_some() || last_field.is_some() || fractional_seconds_precision.is_some() {
            return self.refuse(
                at,
                "an interval from one field to another is not supported",
                "write INTERVAL '90 minutes'",
            );
        }
        let text = match value.as_ref() {
            Expr::Value(ValueWithSpan {
                value: Value::SingleQuotedString(text) | Value::Number(text, false),
                span: _,
            }) => text.clone(),
            _ => return self.refuse(at, "an interval is a literal", "write INTERVAL '90 minutes'"),
        };
        let unit = leading_field.as_ref().map(ToString::to_string);
        if let Err((message, help)) = length(&text, unit.as_deref()) {
            self.refuse(at, message, help);
        }
    }

    fn access(&mut self, at: TokenSpan, access: &AccessExpr) {
        match access {
            AccessExpr::Subscript(Subscript::Index { index }) => self.expr(index),
            AccessExpr::Subscript(Subscript::Slice { lower_bound: _, upper_bound: _, stride: _ }) => {
                self.refuse(at, "a slice of a list is not supported", "take an element: tags[1]");
            }
            AccessExpr::Dot(_) => self.refuse(at, "a field of a struct is not supported", "name the column itself"),
        }
    }
}
