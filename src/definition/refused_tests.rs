//! One case for each clause that is not on the list: refused by name, at the word itself.

use datafusion::sql::sqlparser::tokenizer::Tokenizer;

use super::clauses;
use super::dialect::{dialect, parse_query};
use super::file::File;

/// The refusals of a query: where each stands, as the text there, and what it says.
fn refused(query: &str) -> Vec<(String, String)> {
    let tokens = Tokenizer::new(dialect(), query).tokenize_with_location().expect("the test's SQL has tokens");
    let tokens: Vec<_> = tokens
        .into_iter()
        .filter(|t| !matches!(t.token, datafusion::sql::sqlparser::tokenizer::Token::Whitespace(_)))
        .collect();
    let parsed = parse_query(query).unwrap_or_else(|e| panic!("{query}: {e}"));
    let file = File::new("q", query);
    let found = clauses::refused(&parsed, &tokens);
    found.into_iter().map(|r| (file.slice(r.at).to_string(), r.message)).collect()
}

/// `rest` goes after `SELECT u, count(*) FROM s`.
#[track_caller]
fn check(query: &str, at: &str, message: &str) {
    let got = refused(query);
    let want = vec![(at.to_string(), message.to_string())];
    assert_eq!(got, want, "{query}");
}

#[test]
fn clauses_of_a_select() {
    let after = |rest: &str, at: &str, message: &str| check(&format!("SELECT u, count(*) FROM s {rest}"), at, message);
    after("PREWHERE u > 1 GROUP BY u", "PREWHERE", "PREWHERE is not supported");
    after("GROUP BY u WITH ROLLUP", "WITH ROLLUP", "WITH ROLLUP is not supported");
    after("GROUP BY u WITH CUBE", "WITH CUBE", "WITH CUBE is not supported");
    after("GROUP BY u WITH TOTALS", "WITH TOTALS", "WITH TOTALS is not supported");
    after("GROUP BY u GROUPING SETS ((u), ())", "GROUPING SETS", "GROUPING SETS is not supported");
    after("GROUP BY ALL", "GROUP BY ALL", "GROUP BY ALL is not supported");
    after("GROUP BY ROLLUP (u)", "u", "ROLLUP, CUBE and GROUPING SETS are not supported");
    after("CONNECT BY PRIOR u = p GROUP BY u", "CONNECT", "CONNECT BY is not supported");
    let both = refused("SELECT u, count(*) FROM s START WITH u = 1 CONNECT BY PRIOR u = p GROUP BY u");
    assert_eq!(both[0], ("START".to_string(), "START WITH is not supported".to_string()));
    after("GROUP BY u CLUSTER BY u", "CLUSTER BY", "CLUSTER BY is not supported");
    after("GROUP BY u DISTRIBUTE BY u", "DISTRIBUTE BY", "DISTRIBUTE BY is not supported");
    after("GROUP BY u SORT BY u", "SORT BY", "SORT BY is not supported");
    after("GROUP BY u WINDOW w AS (PARTITION BY u)", "WINDOW", "WINDOW is not supported");
    after("GROUP BY u QUALIFY u > 1", "QUALIFY", "QUALIFY is not supported");
    after("LATERAL VIEW explode(l) t AS e GROUP BY u", "LATERAL VIEW", "LATERAL VIEW is not supported");
    check("SELECT DISTINCT u, count(*) FROM s GROUP BY u", "DISTINCT", "SELECT DISTINCT is not supported yet");
    check("SELECT DISTINCT ON (u) u, count(*) FROM s GROUP BY u", "DISTINCT ON", "DISTINCT ON is not supported");
    check("SELECT TOP 5 u, count(*) FROM s GROUP BY u", "TOP", "TOP is not supported");
    check("SELECT u, count(*) INTO t FROM s GROUP BY u", "INTO", "INTO is not supported");
    check("FROM s SELECT u, count(*) GROUP BY u", "SELECT", "FROM before SELECT is not supported");
}

#[test]
fn clauses_around_a_select() {
    let after = |rest: &str, at: &str, message: &str| {
        check(&format!("SELECT u, last_value(x ORDER BY ts) FROM s GROUP BY u {rest}"), at, message);
    };
    after("ORDER BY u", "ORDER BY", "ORDER BY is not supported");
    after("LIMIT 5", "LIMIT", "LIMIT is not supported");
    after("OFFSET 5", "OFFSET", "OFFSET is not supported");
    after("LIMIT 5 BY u", "LIMIT", "LIMIT is not supported");
    after("FETCH FIRST 5 ROWS ONLY", "FETCH", "FETCH is not supported");
    after("FOR UPDATE", "FOR", "FOR is not supported");
    after("SETTINGS a = 1", "SETTINGS", "SETTINGS is not supported");
    after("FORMAT JSON", "FORMAT", "FORMAT is not supported");
    after("|> WHERE u > 1", "|>", "|> is not supported");
    after("UNION SELECT 1, 2", "UNION", "UNION is not supported yet");
    after("EXCEPT SELECT 1, 2", "EXCEPT", "EXCEPT is not supported yet");
    after("INTERSECT SELECT 1, 2", "INTERSECT", "INTERSECT is not supported yet");
    let with = "WITH r AS (SELECT * FROM s) SELECT u, count(*) FROM r GROUP BY u";
    check(with, "WITH", "WITH r AS (…) is not supported yet");
    check("VALUES (1, 2)", "VALUES", "VALUES is not supported");
    check("TABLE s", "TABLE", "TABLE is not supported");
}

#[test]
fn what_stands_in_from() {
    let from = |from: &str, at: &str, message: &str| {
        check(&format!("SELECT u, count(*) FROM {from} GROUP BY u"), at, message);
    };
    let versions = "FOR SYSTEM_TIME AS OF is not supported yet";
    from("s AS e JOIN t FOR SYSTEM_TIME AS OF e.ts AS v ON e.a = v.a", "FOR SYSTEM_TIME AS OF", versions);
    from("s, t", "t", "a second table after a comma is not supported");
    from("s JOIN t ON s.a = t.a, r", "r", "a second table after a comma is not supported");
    from("s FULL JOIN t ON s.a = t.a", "t", "FULL JOIN is not supported yet");
    from("s CROSS JOIN t", "t", "CROSS JOIN is not supported");
    from("s SEMI JOIN t ON s.a = t.a", "t", "SEMI JOIN is not supported");
    from("s LEFT ANTI JOIN t ON s.a = t.a", "t", "ANTI JOIN is not supported");
    from("s CROSS APPLY t", "t", "APPLY is not supported");
    from("s ASOF JOIN t MATCH_CONDITION (s.ts >= t.ts) ON s.a = t.a", "t", "ASOF JOIN is not supported");
    from("s NATURAL JOIN t", "t", "NATURAL JOIN is not supported");
    from("s JOIN t", "t", "a join without ON is not supported");
    from("s RIGHT JOIN t USING (a)", "t", "USING in a RIGHT JOIN is not supported");
    from("s ARRAY JOIN t", "t", "ARRAY JOIN is not supported");
    from("(SELECT * FROM s) AS r", "SELECT * FROM s", "a subquery in FROM is not supported yet");
    from("(s JOIN t ON s.a = t.a)", "s JOIN t ON s.a = t.a", "a join in parentheses is not supported yet");
    from("s AS r (a, b)", "r", "names for the columns of `r` are not supported");
    from("s PARTITION (p)", "p", "PARTITION is not supported");
    from("UNNEST(l)", "l", "UNNEST is not supported");
    from("TUMBLE(s, ts, 5)", "TUMBLE", "the table function TUMBLE(…) is not supported");
    from("TABLE(HOP(s, 5))", "HOP(s, 5", "the table function HOP(…) is not supported");
    from("LATERAL FLATTEN(l) AS f", "FLATTEN", "the table function FLATTEN(…) is not supported");
}

#[test]
fn expressions_and_functions() {
    let select = |expr: &str, at: &str, message: &str| {
        check(&format!("SELECT u, {expr} FROM s GROUP BY u"), at, message);
    };
    select("count_if(x > 1)", "count_if", "count_if() is not supported");
    select("averge(x)", "averge", "there is no function `averge`");
    select("string_agg(x)", "string_agg", "string_agg() is not supported");
    select("random()", "random", "random() is not supported: it has another value each time");
    select("current_date", "current_date", "current_date() is not supported");
    select("sum(x) OVER (PARTITION BY u)", "OVER", "window functions (OVER) are not supported");
    select("max(x) WITHIN GROUP (ORDER BY ts)", "WITHIN GROUP", "WITHIN GROUP is not supported");
    select("sum(x ORDER BY ts)", "ORDER BY", "ORDER BY in sum is not supported");
    select("sum(x) IGNORE NULLS", "NULLS", "IGNORE NULLS and RESPECT NULLS in sum are not supported");
    select("sum(x IGNORE NULLS)", "NULLS", "IGNORE NULLS and RESPECT NULLS in sum are not supported");
    select("abs(x) FILTER (WHERE x > 1)", "FILTER", "FILTER after abs is not supported");
    select("abs(DISTINCT x)", "DISTINCT", "DISTINCT in abs is not supported");
    select("last_value(x ORDER BY ts LIMIT 1)", "LIMIT", "LIMIT in last_value is not supported");
    let many = "takes how many it gives, a whole number from 1 to 1000";
    select("top_k(x, 0)", "0", &format!("top_k {many}"));
    select("top_k(x, -3)", "3", &format!("top_k {many}"));
    select("bottom_k(x, 1001)", "1001", &format!("bottom_k {many}"));
    select("bottom_k(x, 2.5)", "2.5", &format!("bottom_k {many}"));
    select("top_k(x, u)", "u", &format!("top_k {many}"));
    select("array_agg(x)", "array_agg", "array_agg without LIMIT is not supported: the list would grow for ever");
    select("array_agg(x ORDER BY ts LIMIT 0)", "0", "LIMIT takes a whole number from 1 to 1000");
    select("array_agg(x ORDER BY ts LIMIT u)", "u", "LIMIT takes a whole number from 1 to 1000");
    select("array_agg(x, 3 LIMIT 3)", "array_agg", "array_agg takes one argument");
    let fraction = "approx_percentile_cont takes a fraction from 0 to 1 of at most six places";
    select("approx_percentile_cont(x, 95)", "95", fraction);
    select("approx_percentile_cont(x, 1e-3)", "1e-3", fraction);
    select("approx_percentile_cont(x, 0.1234567)", "0.1234567", fraction);
    select("sum(*)", "sum", "sum(*) is not supported");
    select("count(DISTINCT *)", "DISTINCT", "count(DISTINCT *) is not supported");
    select("count(s.*)", "count", "count(table.*) is not supported");
    select("count(* EXCLUDE x)", "*", "* with a clause after it is not supported");
    select("round(x => 1)", "x", "a named argument is not supported");
    select("max(x) SIMILAR TO 'z%'", "SIMILAR TO", "SIMILAR TO is not supported");
    select("max(x) RLIKE 'z%'", "RLIKE", "RLIKE is not supported");
    select("max(x) LIKE 'z' ESCAPE '!'", "ESCAPE", "ESCAPE is not supported");
    select("max(ts) AT TIME ZONE 'Europe/Berlin'", "AT TIME ZONE", "AT TIME ZONE is not supported");
    select("max(x) COLLATE de", "COLLATE", "COLLATE is not supported");
    select("max(x) ~ 'a'", "~", "the operator ~ is not supported");
    select("max(x) & 1", "&", "the operator & is not supported");
    select("(u, 1) = x", "u", "a tuple is not supported");
    select("u IN (SELECT a FROM t)", "SELECT a FROM t", "a subquery in an expression is not supported yet");
    select("EXISTS (SELECT a FROM t)", "SELECT a FROM t", "a subquery in an expression is not supported yet");
    select("(SELECT max(a) FROM t)", "SELECT max(a) FROM t", "a subquery in an expression is not supported yet");
    select("u = ANY (l)", "u", "ANY and ALL are not supported");
    select("CAST(u AS UUID)", "UUID", "a cast to UUID is not supported");
    select("max(ts) > now() - INTERVAL '1 huor'", "'1 huor'", "`huor` is not a unit of time");
    select(
        "max(ts) > now() - INTERVAL '1' DAY TO SECOND",
        "'1'",
        "an interval from one field to another is not supported",
    );
    select("extract(century FROM ts)", "ts", "the field CENTURY of a time is not supported");
    select("N'abc'", "N'abc'", "the literal N'abc' is not supported");
    select("X'ab'", "X'ab'", "the literal X'ab' is not supported");
    select("TIME '10:00:00'", "'10:00:00'", "a literal of type TIME is not supported");
    select("overlay(u PLACING 'x' FROM 1)", "u", "OVERLAY is not supported");
    select("tags[1:2]", "tags", "a slice of a list is not supported");
    select("x -> 'a'", "->", "the operator -> is not supported");
}

/// What is on the list passes.
#[test]
fn what_views_need_is_accepted() {
    for query in [
        "SELECT u, count(*) FILTER (WHERE ts > now() - INTERVAL '1 hour') AS n FROM s GROUP BY u",
        "SELECT e.u, last_value(e.x ORDER BY e.ts DESC NULLS FIRST, e.seq) IGNORE NULLS AS x FROM s AS e
         LEFT JOIN t AS r ON r.a = e.a AND r.b = 'x' WHERE e.ts > now() - INTERVAL 7 DAYS GROUP BY e.u, r.c",
        "SELECT u, sum(x) / nullif(count(DISTINCT struct(a, b)), 0)::double FROM s JOIN t USING (u) GROUP BY 1",
        "SELECT u, CASE WHEN count(*) > 3 THEN 'many' ELSE 'few' END, max(tags[1]), list_sum([max(x), 1]) FROM s GROUP BY u",
        "SELECT u, max(extract(hour FROM ts)), min(trim(BOTH 'x' FROM n)), max(substring(n FROM 1 FOR 2)) FROM s GROUP BY u",
    ] {
        assert_eq!(refused(query), vec![], "{query}");
    }
}
