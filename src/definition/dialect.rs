//! The SQL we read: DataFusion's generic dialect, with `FOR SYSTEM_TIME AS OF` after a table's name.
//!
//! One dialect for definitions, for `plan` and for `verify`, so that one text has one meaning.
//!
//! Invariant: every flag that sqlparser's `GenericDialect` sets is set here (a new version of sqlparser may add some).
//! Neighbours: `sql` parses statements with it; `clauses` says which of what it parses is accepted.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// See [`dialect`].
#[derive(Clone, Copy, Debug)]
pub struct HeadwaterDialect;

/// The dialect of definitions and queries.
pub fn dialect() -> &'static HeadwaterDialect {
    &HeadwaterDialect
}

/// Parses one query, as it stands after `AS` in a view.
///
/// # Errors
/// Text that is not exactly one query; sqlparser's message ends in ` at Line: l, Column: c`.
pub fn parse_query(text: &str) -> Result<Box<ast::Query>, ParserError> {
    let mut parser = Parser::new(dialect()).try_with_sql(text)?;
    let query = parser.parse_query()?;
    let _ = parser.consume_token(&Token::SemiColon); // may stand there or not
    match parser.peek_token_ref() {
        t if t.token == Token::EOF => Ok(query),
        t => parser.expected_ref("end of the query", t),
    }
}

macro_rules! as_generic {
    ($($flag:ident),* $(,)?) => { $(fn $flag(&self) -> bool { GenericDialect {}.$flag() })* };
}

impl Dialect for HeadwaterDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>() // the parser asks for the type in places that have no flag
    }

    fn is_delimited_identifier_start(&self, c: char) -> bool {
        GenericDialect {}.is_delimited_identifier_start(c)
    }

    fn is_identifier_start(&self, c: char) -> bool {
        GenericDialect {}.is_identifier_start(c)
    }

    fn is_identifier_part(&self, c: char) -> bool {
        GenericDialect {}.is_identifier_part(c)
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    as_generic!(
        supports_unicode_string_literal,
        supports_partition_by_after_order_by,
        supports_array_join_syntax,
        supports_group_by_expr,
        supports_group_by_with_modifier,
        supports_left_associative_joins_without_parens,
        supports_connect_by,
        supports_match_recognize,
        supports_pipe_operator,
        supports_start_transaction_modifier,
        supports_window_function_null_treatment_arg,
        supports_dictionary_syntax,
        supports_window_clause_named_window_reference,
        supports_parenthesized_set_variables,
        supports_select_wildcard_except,
        support_map_literal_syntax,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_extract_comma_syntax,
        supports_create_view_comment_syntax,
        supports_parens_around_table_factor,
        supports_values_as_table_factor,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_limit_comma,
        supports_update_order_by,
        supports_from_first_select,
        supports_projection_trailing_commas,
        supports_asc_desc_in_column_definition,
        supports_try_convert,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_load_extension,
        supports_named_fn_args_with_assignment_operator,
        supports_struct_literal,
        supports_empty_projections,
        supports_nested_comments,
        supports_multiline_comment_hints,
        supports_user_host_grantee,
        supports_string_escape_constant,
        supports_array_typedef_with_brackets,
        supports_match_against,
        supports_set_names,
        supports_comma_separated_set_assignments,
        supports_filter_during_aggregation,
        supports_select_wildcard_exclude,
        supports_data_type_signed_suffix,
        supports_interval_options,
        supports_quote_delimited_string,
        supports_select_wildcard_replace,
        supports_select_wildcard_ilike,
        supports_select_wildcard_rename,
        supports_optimize_table,
        supports_install,
        supports_detach,
        supports_prewhere,
        supports_with_fill,
        supports_limit_by,
        supports_interpolate,
        supports_settings,
        supports_select_format,
        supports_comment_optimizer_hint,
        supports_constraint_keyword_without_name,
        supports_key_column_option,
        supports_comma_separated_trim,
        supports_cte_without_as,
        supports_select_item_multi_column_alias,
        supports_xml_expressions
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_views_need() {
        let check = |text: &str, want: Result<(), &str>| {
            let got = parse_query(text).map(|_| ()).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(|e| format!("sql parser error: {e}")), "{text}");
        };
        check("SELECT count(*) FILTER (WHERE a > now() - INTERVAL '1 hour') AS n FROM s GROUP BY b;", Ok(()));
        check("SELECT * FROM s AS e JOIN t FOR SYSTEM_TIME AS OF e._epoch AS t ON e.a = t.a", Ok(()));
        check("SELECT last_value(a ORDER BY ts) FROM s", Ok(()));
        check("SELECT a FROM s; SELECT", Err("Expected: end of the query, found: SELECT at Line: 1, Column: 18"));
    }
}
