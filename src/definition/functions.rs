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

/// The aggregates and their arguments: `x` an expression, `*` also all columns; constants: `k` a whole number, `p` a fraction, `h` a half-life.
pub(super) const AGGREGATES: [(&str, &str); 34] = [
    ("approx_distinct", "x"),
    ("approx_percentile_cont", "xp"),
    ("array_agg", "x"),
    ("avg", "x"),
    ("bool_and", "x"),
    ("bool_or", "x"),
    ("bottom_k", "xk"),
    ("corr", "xx"),
    ("count", "*"),
    ("covar", "xx"),
    ("covar_pop", "xx"),
    ("covar_samp", "xx"),
    ("decayed_count", "h"),
    ("decayed_sum", "xh"),
    ("entropy", "x"),
    ("first_value", "x"),
    ("kurtosis", "x"),
    ("last_value", "x"),
    ("max", "x"),
    ("mean", "x"),
    ("median", "x"),
    ("min", "x"),
    ("mode", "x"),
    ("regr_slope", "xx"),
    ("skewness", "x"),
    ("stddev", "x"),
    ("stddev_pop", "x"),
    ("stddev_samp", "x"),
    ("sum", "x"),
    ("top_k", "xk"),
    ("var", "x"),
    ("var_pop", "x"),
    ("var_samp", "x"),
    ("var_sample", "x"),
];

const WINDOWS: &str =
    "a window is a condition on the event time: count(*) FILTER (WHERE ts > now() - INTERVAL '1 hour')";
const FILTERED: &str = "write count(*) FILTER (WHERE condition)";
const CLOCK: &str = "now() is the moment of the ask: CAST(now() AS DATE)";
const EACH_TIME: &str = "an answer must be the same when its stamp is given back; use columns and now()";
const ORDERED: &str = "use first_value or last_value(column ORDER BY ts), or FILTER in an aggregate";
const DECAYED: &str = "write decayed_sum(column, INTERVAL '1 day'): a row weighs half as much each day";
const PERCENTILE: &str = "write approx_percentile_cont(column, 0.95), or median(column)";
const LISTED: &str = "write array_agg(column ORDER BY ts DESC LIMIT 10): the last ten, as an array";

/// What to write for a function that other engines have, or that DataFusion has and is not on the list.
const INSTEAD: [(&str, &str); 97] = [
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
    ("var_population", "write var_pop(column)"),
    ("stddev_population", "write stddev_pop(column)"),
    ("variance_pop", "write var_pop(column)"),
    ("covariance", "write covar(y, x)"),
    ("correlation", "write corr(y, x)"),
    ("slope", "write regr_slope(y, x)"),
    ("regr_r2", "write power(corr(y, x), 2)"),
    ("regr_intercept", "write avg(y) - regr_slope(y, x) * avg(x), over the rows where neither is null"),
    ("kurtosis_pop", "write kurtosis(column): that of a sample"),
    ("skew", "write skewness(column)"),
    ("kurt", "write kurtosis(column)"),
    ("quantile", PERCENTILE),
    ("quantile_cont", PERCENTILE),
    ("approx_quantile", PERCENTILE),
    ("approx_percentile", PERCENTILE),
    ("percentile", PERCENTILE),
    ("percentile_disc", PERCENTILE),
    ("approx_percentile_cont_with_weight", PERCENTILE),
    ("decay_sum", DECAYED),
    ("time_decay", DECAYED),
    ("exp_decay", DECAYED),
    ("ewma", DECAYED),
    ("ema", DECAYED),
    ("decayed_avg", "write decayed_sum(column, INTERVAL '1 day') / decayed_count(INTERVAL '1 day')"),
    ("topk", "write top_k(column, 3)"),
    ("approx_top_k", "write top_k(column, 3), or mode(column) for the most frequent value"),
    ("bottomk", "write bottom_k(column, 3)"),
    ("max_n", "write top_k(column, 3)"),
    ("min_n", "write bottom_k(column, 3)"),
    ("most_frequent", "write mode(column)"),
    ("histogram", "write count(*) FILTER (WHERE x >= 10 AND x < 20) for each range"),
    ("approx_count_distinct", "write approx_distinct(column), or count(DISTINCT column): it is exact"),
    ("hll", "write approx_distinct(column)"),
    ("count_distinct", "write count(DISTINCT column)"),
    ("approx_median", "write median(column): it is exact"),
    ("percentile_cont", PERCENTILE),
    ("string_agg", LISTED),
    ("listagg", LISTED),
    ("group_concat", LISTED),
    ("list", LISTED),
    ("collect_list", LISTED),
    ("collect_set", "write array_agg(DISTINCT column ORDER BY ts DESC LIMIT 10)"),
    ("array_concat_agg", LISTED),
    ("last_k", LISTED),
    ("first_k", "write array_agg(column ORDER BY ts LIMIT 10)"),
    ("last_n", LISTED),
    ("nth_value", "write array_agg(column ORDER BY ts LIMIT 3)[3]"),
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

/// The arguments of an aggregate that is on the list.
pub(super) fn aggregated(name: &str) -> Option<&'static str> {
    AGGREGATES.iter().find(|(n, _)| *n == name).map(|(_, arguments)| *arguments)
}

/// Is it an aggregate that is on the list?
pub(super) fn is_aggregate(name: &str) -> bool {
    aggregated(name).is_some()
}

/// For a function that is not on the list: what is wrong, and what to write. `exists`: does DataFusion have it?
pub(super) fn unlisted(name: &str, exists: bool) -> (String, String) {
    let exact = INSTEAD.iter().find(|(n, _)| *n == name);
    if let Some((_, help)) = exact {
        let why = if *help == EACH_TIME { ": it has another value each time" } else { "" };
        return (format!("{name}() is not supported{why}"), (*help).to_string());
    }
    let known = || SCALARS.iter().map(|(n, _)| *n).chain(AGGREGATES.iter().map(|(n, _)| *n));
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
        check("kurtosys", false, "there is no function `kurtosys`", "did you mean `kurtosis`?");
        check("correlation", false, "correlation() is not supported", "write corr(y, x)");
        for (name, _) in INSTEAD {
            assert!(calls(name).is_none() && !is_aggregate(name), "{name} is on the list, and refused");
        }
    }
    /// Each aggregate is in a table of the page, and so in one of its examples, which `tests/engine/docs.rs` runs.
    #[test]
    fn every_aggregate_is_documented() {
        let page = include_str!("../../docs/sql.md");
        let (tables, others): (Vec<&str>, Vec<&str>) = page.lines().partition(|line| line.starts_with("| `"));
        for (name, _) in AGGREGATES {
            assert!(tables.iter().any(|line| line.contains(&format!("`{name}("))), "no table has {name}");
            let call = format!("{name}(");
            assert!(
                others.iter().any(|line| line.starts_with(&call) && line.contains(" = ")),
                "no example calls {name}"
            );
        }
    }
}
