//! Which names may be given to streams, tables, views, services and columns.
//!
//! Invariant: unquoted names are lower-cased as DataFusion does, quoted ones keep their case.
//! Neighbours: `source`, `view` and `load` take every name of a definition through here.

use datafusion::sql::sqlparser::ast::Ident;

/// Words that would end a clause, or start one, where a column is meant.
const RESERVED: [&str; 46] = [
    "all",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "between",
    "by",
    "case",
    "cast",
    "check",
    "constraint",
    "create",
    "cross",
    "desc",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "false",
    "for",
    "from",
    "group",
    "having",
    "in",
    "intersect",
    "interval",
    "is",
    "join",
    "like",
    "limit",
    "not",
    "null",
    "on",
    "or",
    "order",
    "primary",
    "select",
    "then",
    "true",
    "union",
    "using",
    "when",
    "where",
    "with",
];

/// Further words that cannot follow FROM.
const RESERVED_IN_FROM: [&str; 20] = [
    "anti",
    "fetch",
    "full",
    "inner",
    "lateral",
    "left",
    "natural",
    "offset",
    "outer",
    "partition",
    "qualify",
    "right",
    "semi",
    "set",
    "table",
    "tablesample",
    "unnest",
    "values",
    "view",
    "window",
];

/// A name as it is known: lower-cased unless quoted.
pub(super) fn known_as(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// What is wrong with a column's name, and what to write.
pub(super) fn column_fault(ident: &Ident) -> Option<(String, String)> {
    fault(ident, &[&RESERVED])
}

/// What is wrong with the name of a stream, a table, a view or a service, and what to write. These names stand in
/// addresses, keys and paths.
pub(super) fn object_fault(ident: &Ident) -> Option<(String, String)> {
    let name = &ident.value;
    if !name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-')) && !name.is_empty() {
        let help = "use letters, digits, `_` and `-`: the name is part of addresses and paths";
        return Some((format!("`{name}` cannot be a name here"), help.into()));
    }
    fault(ident, &[&RESERVED, &RESERVED_IN_FROM])
}

fn fault(ident: &Ident, reserved: &[&[&str]]) -> Option<(String, String)> {
    let name = known_as(ident);
    if name.is_empty() {
        return Some(("a name cannot be empty".into(), "write a name between the quotes".into()));
    }
    if name.starts_with('_') {
        let help =
            format!("names with `_` first are the system's, as `_event_time` is: write `{}`", name.trim_matches('_'));
        return Some((format!("`{name}` cannot be a name"), help));
    }
    if ident.quote_style.is_none() && reserved.iter().any(|words| words.contains(&name.as_str())) {
        let help = format!("choose another name, or write \"{name}\" in quotes, here and in every query");
        return Some((format!("`{name}` is a word of SQL"), help));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_names() {
        let check = |ident: Ident, column: Option<&str>, object: Option<&str>| {
            assert_eq!(column_fault(&ident).map(|f| f.0).as_deref(), column, "{ident} as a column");
            assert_eq!(object_fault(&ident).map(|f| f.0).as_deref(), object, "{ident} as a view");
        };
        check(Ident::new("Clicks"), None, None);
        check(Ident::new("position"), None, None);
        check(Ident::new("FROM"), Some("`from` is a word of SQL"), Some("`from` is a word of SQL"));
        check(Ident::with_quote('"', "from"), None, None);
        check(Ident::new("left"), None, Some("`left` is a word of SQL"));
        check(Ident::new("_key"), Some("`_key` cannot be a name"), Some("`_key` cannot be a name"));
        check(Ident::with_quote('"', "a:b"), None, Some("`a:b` cannot be a name here"));
        check(Ident::with_quote('"', ""), Some("a name cannot be empty"), Some("a name cannot be empty"));
    }
}
