//! The functions that a definition may call, with the arguments they take; and what to write for those it may not.
//!
//! DataFusion has several hundred functions, and both engines would take its word for what they mean. On the list are those
//! whose answers `function_tests` compares with values worked out by hand or by plain Rust.
//!
//! Invariant: a function that is on the list has rows in `function_tests`. Neighbours: `expressions` asks for names,
//! `meaning` for arguments.

use super::near::{listed, nearest};

/// Scalar functions by name: the kinds of arguments of each way to call it. `n` a number, `i` an integer, `t` TEXT,
/// `T` TIMESTAMP, `D` DATE, `b` BOOLEAN, `d` an interval, `B` BINARY, `l` an array, `r` a struct, `a` anything, `f` the name of a field of a
/// time; then `+` for one or more of one family, `*` for one or more of the kind before it.
pub(super) const SCALARS: [(&str, &[&str]); 90] = [
    // Numbers.
    ("abs", &["n"]),
    ("acos", &["n"]),
    ("asin", &["n"]),
    ("atan", &["n"]),
    ("atan2", &["nn"]),
    ("cbrt", &["n"]),
    ("ceil", &["n"]),
    ("cos", &["n"]),
    ("degrees", &["n"]),
    ("exp", &["n"]),
    ("floor", &["n"]),
    ("isnan", &["n"]),
    ("ln", &["n"]),
    ("log", &["nn"]),
    ("log10", &["n"]),
    ("log2", &["n"]),
    ("pi", &[""]),
    ("pow", &["nn"]),
    ("power", &["nn"]),
    ("radians", &["n"]),
    ("round", &["n", "ni"]),
    ("signum", &["n"]),
    ("sin", &["n"]),
    ("sqrt", &["n"]),
    ("tan", &["n"]),
    ("trunc", &["n", "ni"]),
    // Any type.
    ("coalesce", &["+"]),
    ("greatest", &["+"]),
    ("ifnull", &["+"]),
    ("least", &["+"]),
    ("nullif", &["+"]),
    ("nvl", &["+"]),
    // Texts.
    ("ascii", &["t"]),
    ("btrim", &["t", "tt"]),
    ("char_length", &["t"]),
    ("character_length", &["t"]),
    ("concat", &["t*"]),
    ("concat_ws", &["t*"]),
    ("contains", &["tt"]),
    ("ends_with", &["tt"]),
    ("initcap", &["t"]),
    ("instr", &["tt"]),
    ("left", &["ti"]),
    ("length", &["t"]),
    ("levenshtein", &["tt"]),
    ("lower", &["t"]),
    ("lpad", &["ti", "tit"]),
    ("ltrim", &["t", "tt"]),
    ("octet_length", &["t"]),
    ("regexp_count", &["tt"]),
    ("regexp_like", &["tt", "ttt"]),
    ("regexp_replace", &["ttt", "tttt"]),
    ("repeat", &["ti"]),
    ("replace", &["ttt"]),
    ("reverse", &["t"]),
    ("right", &["ti"]),
    ("rpad", &["ti", "tit"]),
    ("rtrim", &["t", "tt"]),
    ("split_part", &["tti"]),
    ("starts_with", &["tt"]),
    ("strpos", &["tt"]),
    ("substr", &["ti", "tii"]),
    ("substring", &["ti", "tii"]),
    ("translate", &["ttt"]),
    ("trim", &["t", "tt"]),
    ("upper", &["t"]),
    // Times.
    ("current_timestamp", &[""]),
    ("date_bin", &["dT", "dTT"]),
    ("date_part", &["fT", "fD", "fd"]),
    ("date_trunc", &["fT"]),
    ("datepart", &["fT", "fD", "fd"]),
    ("datetrunc", &["fT"]),
    ("make_date", &["iii"]),
    ("now", &[""]),
    ("to_timestamp_micros", &["i"]),
    ("to_timestamp_millis", &["i"]),
    ("to_timestamp_seconds", &["i"]),
    // Arrays and structs.
    ("array_contains", &["la"]),
    ("array_element", &["li"]),
    ("array_has", &["la"]),
    ("array_length", &["l"]),
    ("array_sum", &["l"]),
    ("cardinality", &["l"]),
    ("get_field", &["rt"]),
    ("list_contains", &["la"]),
    ("list_has", &["la"]),
    ("list_sum", &["l"]),
    ("make_array", &["+"]),
    ("named_struct", &["a*"]),
    ("struct", &["a*"]),
];

/// The aggregates.
pub(super) const AGGREGATES: [&str; 15] = [
    "avg",
    "bool_and",
    "bool_or",
    "count",
    "first_value",
    "last_value",
    "max",
    "mean",
    "min",
    "stddev",
    "stddev_samp",
    "sum",
    "var",
    "var_samp",
    "var_sample",
];

const WINDOWS: &str =
    "a window is a condition on the event time: count(*) FILTER (WHERE ts > now() - INTERVAL '1 hour')";
const FILTERED: &str = "write count(*) FILTER (WHERE condition)";
const CLOCK: &str = "now() is the moment of the ask: CAST(now() AS DATE)";
const EACH_TIME: &str = "an answer must be the same when its stamp is given back; use columns and now()";
const ORDERED: &str = "use first_value or last_value(column ORDER BY ts), or FILTER in an aggregate";
const MAYBE_LATER: &str = "supported: count, count(DISTINCT), sum, avg, min, max, first_value, last_value, stddev, var, bool_and, \
                           bool_or";

/// What to write for a function that other engines have, or that DataFusion has and is not on the list.
const INSTEAD: [(&str, &str); 62] = [
    ("tumble", WINDOWS),
    ("hop", WINDOWS),
    ("session", WINDOWS),
    ("session_window", WINDOWS),
    ("tumble_start", WINDOWS),
    ("window", WINDOWS),
    ("count_if", FILTERED),
    ("countif", FILTERED),
    ("sum_if", "write sum(column) FILTER (WHERE condition)"),
    ("sumif", "write sum(column) FILTER (WHERE condition)"),
    ("average", "write avg(column)"),
    ("variance", "write var(column)"),
    ("std", "write stddev(column)"),
    ("first", "write first_value(column ORDER BY ts)"),
    ("last", "write last_value(column ORDER BY ts)"),
    ("any_value", "write last_value(column ORDER BY ts)"),
    ("arg_max", "write last_value(column ORDER BY other)"),
    ("arg_min", "write first_value(column ORDER BY other)"),
    ("max_by", "write last_value(column ORDER BY other)"),
    ("min_by", "write first_value(column ORDER BY other)"),
    ("every", "write bool_and(condition)"),
    ("var_pop", "write var(column)"),
    ("stddev_pop", "write stddev(column)"),
    ("median", MAYBE_LATER),
    ("approx_distinct", "write count(DISTINCT column): it is exact"),
    ("count_distinct", "write count(DISTINCT column)"),
    ("approx_median", MAYBE_LATER),
    ("approx_percentile_cont", MAYBE_LATER),
    ("percentile_cont", MAYBE_LATER),
    ("array_agg", MAYBE_LATER),
    ("string_agg", MAYBE_LATER),
    ("corr", MAYBE_LATER),
    ("nth_value", MAYBE_LATER),
    ("lag", ORDERED),
    ("lead", ORDERED),
    ("row_number", ORDERED),
    ("rank", ORDERED),
    ("random", EACH_TIME),
    ("rand", EACH_TIME),
    ("uuid", EACH_TIME),
    ("current_date", CLOCK),
    ("today", CLOCK),
    ("current_time", CLOCK),
    ("localtimestamp", CLOCK),
    ("getdate", "write now()"),
    ("if", "write CASE WHEN condition THEN a ELSE b END"),
    ("iif", "write CASE WHEN condition THEN a ELSE b END"),
    ("nvl2", "write CASE WHEN a IS NULL THEN c ELSE b END"),
    ("nanvl", "write CASE WHEN isnan(x) THEN y ELSE x END"),
    ("datediff", "write date_part('epoch', a - b): the seconds between two TIMESTAMPs"),
    ("date_diff", "write date_part('epoch', a - b): the seconds between two TIMESTAMPs"),
    ("date_add", "write ts + INTERVAL '1 day'"),
    ("date_sub", "write ts - INTERVAL '1 day'"),
    ("dateadd", "write ts + INTERVAL '1 day'"),
    ("to_date", "write CAST(text AS DATE)"),
    (
        "to_timestamp",
        "write CAST(text AS TIMESTAMP), or say what a number counts: to_timestamp_millis(n), to_timestamp_seconds(n)",
    ),
    ("to_timestamp_nanos", "write to_timestamp_micros(n / 1000)"),
    ("from_unixtime", "write to_timestamp_seconds(n)"),
    ("to_unixtime", "write date_part('epoch', ts)"),
    ("arrow_cast", "write CAST(x AS DOUBLE), or another column type"),
    ("regexp_match", "write regexp_like(text, pattern), or regexp_replace"),
    ("substring_index", "write split_part(text, delimiter, n)"),
];

/// The ways to call a function that is on the list.
pub(super) fn calls(name: &str) -> Option<&'static [&'static str]> {
    SCALARS.iter().find(|(n, _)| *n == name).map(|(_, calls)| *calls)
}

/// Is it an aggregate that is on the list?
pub(super) fn is_aggregate(name: &str) -> bool {
    AGGREGATES.contains(&name)
}

/// For a function that is not on the list: what is wrong, and what to write. `exists`: does DataFusion have it?
pub(super) fn unlisted(name: &str, exists: bool) -> (String, String) {
    let exact = INSTEAD.iter().find(|(n, _)| *n == name);
    if let Some((_, help)) = exact {
        let why = if *help == EACH_TIME { ": it has another value each time" } else { "" };
        return (format!("{name}() is not supported{why}"), (*help).to_string());
    }
    let known = || SCALARS.iter().map(|(n, _)| *n).chain(AGGREGATES);
    if exists {
        let help = match nearest(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the functions are {}", listed(known())),
        };
        return (format!("the function `{name}` is not on the list of those whose meaning is checked"), help);
    }
    let message = format!("there is no function `{name}`");
    let others = INSTEAD.iter().map(|(n, _)| *n);
    let help = match nearest(name, known().chain(others)) {
        Some(near) => match INSTEAD.iter().find(|(n, _)| *n == near) {
            Some((_, help)) => (*help).to_string(),
            None => format!("did you mean `{near}`?"),
        },
        None => format!("the functions are {}", listed(known())),
    };
    (message, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_write_instead() {
        let check = |name: &str, exists: bool, message: &str, help: &str| {
            let (got, instead) = unlisted(name, exists);
            assert_eq!(got, message);
            assert!(instead.starts_with(help), "{name}: {instead}");
        };
        check("averge", false, "there is no function `averge`", "write avg(column)");
        check("summ", false, "there is no function `summ`", "did you mean `sum`?");
        check("count_if", false, "count_if() is not supported", "write count(*) FILTER (WHERE condition)");
        check("random", true, "random() is not supported: it has another value each time", "an answer must");
        check(
            "gcd",
            true,
            "the function `gcd` is not on the list of those whose meaning is checked",
            "the functions are",
        );
        for (name, _) in INSTEAD {
            assert!(calls(name).is_none() && !is_aggregate(name), "{name} is on the list, and refused");
        }
    }
}
