//! Directories of definitions, good and bad: what they load as, and every problem with its place and what to write.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::DataType;

use super::{Connector, Definitions, Format, SourceKind, check, load, timestamp};

const CLICKS: &str =
    "CREATE STREAM clicks (user_id BIGINT NOT NULL, kind TEXT CHECK (kind IN ('view', 'cart')), price DOUBLE,
  ts TIMESTAMP NOT NULL) EVENT TIME ts FROM KAFKA (topic = 'clicks', format = 'json');\n";

const ITEMS_AVSC: &str = r#"{"type":"record","name":"Item","fields":[
  {"name":"item_id","type":"long"},
  {"name":"category","type":["null","string"]},
  {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
  {"name":"attributes","type":{"type":"map","values":"string"}}]}"#;

const EVENT_JSON: &str = r#"{"type":"object","required":["user_id","at"],"properties":{
  "user_id":{"type":"integer","minimum":1},
  "kind":{"enum":["view","cart"]},
  "at":{"type":"string","format":"date-time"}}}"#;

/// Loads a directory of these files; names without a folder are in `dataflows/`.
fn load_files(files: &[(&str, &str)], set: &[(&str, &str)]) -> Result<Definitions, Vec<String>> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(dir.path().join("dataflows")).expect("a directory");
    std::fs::create_dir_all(dir.path().join("schemas")).expect("a directory");
    for (name, text) in files {
        let path = if name.contains('/') { dir.path().join(name) } else { dir.path().join("dataflows").join(name) };
        std::fs::write(path, text).expect("a file");
    }
    let set: BTreeMap<String, String> = set.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    load(dir.path(), &set).map_err(|e| {
        let shown = |p: &crate::diagnostic::Diagnostic| {
            let help = p.help.as_deref().expect("each problem says what to write");
            let file = p.span.file.trim_start_matches("dataflows/").trim_end_matches(".sql");
            format!("{file}:{}:{} {} | {help}", p.span.line, p.span.column, p.message)
        };
        e.problems.iter().map(shown).collect()
    })
}

/// The problems of one file `a.sql`, each as `a:line:column message | help`; a help that ends in `…` may go on.
#[track_caller]
fn check_bad(files: &[(&str, &str)], want: &[&str]) {
    let got = load_files(files, &[]).expect_err("these files have problems");
    let same = |got: &String, want: &&str| match want.strip_suffix('…') {
        Some(start) => got.starts_with(start),
        None => got == want,
    };
    let equal = got.len() == want.len() && got.iter().zip(want).all(|(g, w)| same(g, w));
    assert!(equal, "got\n{}\nwanted\n{}", got.join("\n"), want.join("\n"));
}

#[track_caller]
fn check_stream(text: &str, want: &[&str]) {
    check_bad(&[("a.sql", text), ("schemas/items.avsc", ITEMS_AVSC), ("schemas/event.json", EVENT_JSON)], want);
}

#[track_caller]
fn load_good(files: &[(&str, &str)]) -> Definitions {
    load_files(files, &[]).unwrap_or_else(|problems| panic!("{}", problems.join("\n")))
}

fn columns(definitions: &Definitions, source: &str) -> Vec<String> {
    let shown = |c: &super::Column| {
        format!("{} {}{}", c.name, super::sql_name(&c.data_type), if c.nullable { "" } else { " NOT NULL" })
    };
    definitions.sources[source].columns.iter().map(shown).collect()
}

#[test]
fn loads_all_statements_whatever_their_order() {
    let d = load_good(&[
        ("a.sql", "CREATE FEATURE SERVICE home AS activity, totals(n, \"M\");"),
        (
            "b.sql",
            "CREATE FEATURE VIEW totals AS SELECT user_id, count(*) AS n FROM activity GROUP BY user_id;
             CREATE FEATURE VIEW activity WITH (entity = 'user_id', freshness = '1 second', resolution = '1 minute',
               retention = '30 days', owner = 'recs', tags = 'a, b') AS
               SELECT user_id, count(*) FILTER (WHERE ts > now() - INTERVAL '1 hour') AS n  -- kept
               FROM clicks JOIN \"Items\" AS i ON i.item_id = clicks.user_id
               GROUP BY user_id ; ",
        ),
        (
            "c.sql",
            "CREATE TABLE \"Items\" (item_id BIGINT PRIMARY KEY, tags TEXT[], CONSTRAINT positive CHECK (item_id > 0))
             FROM FILE (path = 'x.csv', format = 'csv');",
        ),
        ("d.sql", CLICKS),
    ]);
    assert_eq!(
        columns(&d, "clicks"),
        ["user_id BIGINT NOT NULL", "kind TEXT", "price DOUBLE", "ts TIMESTAMP NOT NULL"]
    );
    assert_eq!(columns(&d, "Items"), ["item_id BIGINT NOT NULL", "tags TEXT[]"]);
    assert_eq!(d.sources["Items"].kind, SourceKind::Table { key: vec![0] });
    assert_eq!(d.sources["clicks"].checks[0].text, "kind IN ('view', 'cart')");
    assert_eq!(d.sources["clicks"].future, 86_400_000_000);
    assert_eq!((d.sources["clicks"].span.line, d.sources["clicks"].span.end_line), (1, 2));
    let view = &d.views["activity"];
    assert!(
        view.text.starts_with("SELECT user_id, count(*)") && view.text.ends_with("GROUP BY user_id"),
        "{}",
        view.text
    );
    assert!(view.text.contains("-- kept"));
    assert_eq!(view.entity.as_deref(), Some(["user_id".to_string()].as_slice()));
    assert_eq!((view.freshness, view.resolution), (Some(1_000_000), Some(60_000_000)));
    assert_eq!(view.retention, Some(2_592_000_000_000));
    assert_eq!(view.labels.get("tags").map(String::as_str), Some("a, b"));
    let item = |view: &str, feature: Option<&str>| (view.to_string(), feature.map(str::to_string));
    assert_eq!(d.services["home"], [item("activity", None), item("totals", Some("n")), item("totals", Some("M"))]);
    assert_eq!(
        d.texts.keys().collect::<Vec<_>>(),
        ["dataflows/a.sql", "dataflows/b.sql", "dataflows/c.sql", "dataflows/d.sql"]
    );
}

#[test]
fn accepts_the_clauses_of_sources() {
    let good = |text: &str| {
        load_good(&[("a.sql", text), ("schemas/items.avsc", ITEMS_AVSC), ("schemas/event.json", EVENT_JSON)])
    };
    let d = good(
        "CREATE STREAM s (ms BIGINT, \"userId\" BIGINT, price DECIMAL(10, 2), CHECK (price >= 0 AND \"userId\" > 0))
         EVENT TIME to_timestamp_millis(ms) ARRIVAL TIME coalesce(_timestamp, to_timestamp_seconds(ms))
         FROM KAFKA (topic = 't', format = 'JSON', brokers = 'h:1') WITH (future = '1 hour')",
    );
    assert!(
        matches!(&d.sources["s"].from, Connector::Kafka { topic, brokers: Some(b), .. } if topic == "t" && b == "h:1")
    );
    assert_eq!(d.sources["s"].future, 3_600_000_000);
    assert_eq!(d.sources["s"].columns[1].name, "userId");
    good("CREATE STREAM s (a TEXT) EVENT TIME _timestamp FROM KAFKA (topic = 't', format = 'json')");
    good("CREATE STREAM s (a DATE) EVENT TIME CAST(a AS TIMESTAMP) FROM FILE (path = 'x', format = 'jsonl')");
    good(
        "CREATE STREAM s (row INT, format TEXT, time TIMESTAMP) EVENT TIME time FROM FILE (path = 'x', format = 'jsonl')",
    );

    let d = good("CREATE TABLE t (b TEXT, a INT, PRIMARY KEY (a, b)) FROM FILE (path = 'x', format = 'csv')");
    assert_eq!(d.sources["t"].kind, SourceKind::Table { key: vec![1, 0] });
    assert_eq!(columns(&d, "t"), ["b TEXT NOT NULL", "a INT NOT NULL"]);

    let d = good(
        "CREATE TABLE t (item_id BIGINT PRIMARY KEY, category TEXT, price DOUBLE)
         FROM KAFKA (topic = 't', format = 'avro', schema = 'items.avsc')",
    );
    assert!(matches!(&d.sources["t"].from, Connector::Kafka { format: Format::Avro(_), .. }));

    let d = good("CREATE STREAM s EVENT TIME at FROM KAFKA (topic = 't', format = 'json', schema = 'event.json')");
    assert_eq!(columns(&d, "s"), ["user_id BIGINT NOT NULL", "kind TEXT", "at TIMESTAMP NOT NULL"]);
    let checks: Vec<&str> = d.sources["s"].checks.iter().map(|c| c.text.as_str()).collect();
    assert_eq!(checks, ["\"user_id\" >= 1", "\"kind\" IN ('view', 'cart')"]);

    let d =
        good("CREATE TABLE t (PRIMARY KEY (user_id)) FROM FILE (path = 'x', format = 'jsonl', schema = 'event.json')");
    assert_eq!(d.sources["t"].kind, SourceKind::Table { key: vec![0] });
}

#[test]
fn substitutes_from_the_command_line_then_the_environment() {
    let text =
        "CREATE TABLE t (a INT PRIMARY KEY) -- ${NOT_HERE}\nFROM FILE (path = '${DIR}/x', format = '${FORMAT}');";
    let d = load_files(&[("a.sql", text)], &[("DIR", "/data/it's"), ("FORMAT", "csv")]).expect("both have values");
    assert!(matches!(&d.sources["t"].from, Connector::File { path, .. } if path == "/data/it's/x"));
    let home = load_files(&[("a.sql", &text.replace("${DIR}", "${PATH}"))], &[("FORMAT", "csv")]).expect("PATH is set");
    assert!(!home.texts["dataflows/a.sql"].contains("${PATH}"));
    let missing = "${HEADWATER_NO_SUCH}";
    check_bad(
        &[("a.sql", &text.replace("${DIR}", missing).replace("${FORMAT}", "csv"))],
        &[
            "a:2:20 `${HEADWATER_NO_SUCH}` has no value | give it one with --set HEADWATER_NO_SUCH=VALUE, or set it in the environment",
        ],
    );
    // What hangs on the text with the missing value is not reported as well.
    let view = "CREATE FEATURE VIEW v AS SELECT a, count(*) AS n FROM t GROUP BY a;";
    let outside = format!("CREATE TABLE t (a {missing} PRIMARY KEY) FROM FILE (path = 'x', format = 'csv');");
    check_bad(&[("a.sql", &outside), ("b.sql", view)], &["a:1:19 `${HEADWATER_NO_SUCH}` has no value…"]);
}

#[test]
fn a_directory_without_definitions_is_a_problem() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let check = |want: &str| {
        let got = load(dir.path(), &BTreeMap::new()).expect_err("there are none").to_string();
        let want = want.replace("DIR", &dir.path().display().to_string());
        let help = "create it, and write definitions into dataflows/*.sql; --dir names another directory";
        assert_eq!(got, format!("error: {want}\n  --> dataflows\n  = {help}"));
    };
    check("there is no directory dataflows/ in `DIR`");
    std::fs::create_dir(dir.path().join("dataflows")).expect("a directory");
    std::fs::write(dir.path().join("dataflows/readme.txt"), "").expect("a file");
    check("dataflows/ in `DIR` holds no .sql file");
    std::fs::write(dir.path().join("dataflows/a.sql"), [0xff, 0xfe]).expect("a file");
    let got = load(dir.path(), &BTreeMap::new()).expect_err("no text").to_string();
    assert_eq!(got, "error: the file is not UTF-8 text\n  --> dataflows/a.sql\n  = save it as UTF-8");
}

#[test]
fn reports_all_problems_of_all_files() {
    check_bad(
        &[
            (
                "b.sql",
                "CREATE STREEM x (a INT);\nCREATE FEATURE VIEW v AS SELECT a FROM clikcs GROUP BY a;\nCREATE FEATURE SERVICE s AS w;",
            ),
            ("a.sql", &format!("{CLICKS}CREATE STREAM clicks2 (a JSON, a INT, b FLOAT) EVENT TIME ts FROM PUSH;")),
        ],
        &[
            "a:3:26 a column cannot be of type JSON | the types are BOOLEAN,…",
            "a:3:32 there are two columns `a` | give each its own name",
            "a:3:41 a column cannot be of type FLOAT | write DOUBLE; the types are…",
            "a:3:62 FROM PUSH is not supported yet | use FROM KAFKA…",
            "b:1:8 expected STREAM, TABLE or FEATURE after CREATE, found `STREEM` | did you mean STREAM?",
            "b:2:40 there is no stream, table or view `clikcs` | did you mean `clicks`?",
            "b:3:29 there is no view `w` | the views are `v`",
        ],
    );
}

#[test]
fn explains_syntax_errors() {
    let check = check_stream;
    check("SELECT 1;", &["a:1:1 expected `CREATE`, found `SELECT` | definitions are CREATE STREAM…"]);
    check(
        "CREATE VIEW v AS SELECT 1;",
        &["a:1:8 expected STREAM, TABLE or FEATURE after CREATE, found `VIEW` | write CREATE FEATURE VIEW …"],
    );
    check(
        "CREATE STREAM s (a INT b INT) EVENT TIME a FROM PUSH",
        &["a:1:24 `b` is not supported on a column | a column can be…"],
    );
    check(
        "CREATE STREAM s (a INT DEFAULT 1)",
        &["a:1:24 `DEFAULT` is not supported on a column | a column can be NOT NULL,…"],
    );
    check("CREATE STREAM s (a INT, UNIQUE (a))", &["a:1:25 UNIQUE is not supported here | a column can be…"]);
    check(
        "CREATE STREAM s (a INT",
        &[
            "a:1:23 expected NOT NULL, CHECK (…), PRIMARY KEY, `,` or `)` in the column list, found the end of the statement | write CREATE STREAM name…",
        ],
    );
    check(
        "CREATE STREAM s (a INT) EVENT TIME FROM KAFKA (topic = 't')",
        &["a:1:36 EVENT TIME needs a column or an expression, found `FROM` | write EVENT TIME ts,…"],
    );
    check(
        "CREATE STREAM s (a INT) EVNT TIME a",
        &[
            "a:1:25 expected EVENT TIME, ARRIVAL TIME, FROM, WITH or end of statement, found `EVNT` | did you mean EVENT instead of `EVNT`?",
        ],
    );
    check("CREATE STREAM s.t (a INT)", &["a:1:16 a name has one part here | write `s` without a prefix"]);
    check(
        "CREATE STREAM s (a TIMESTAMP) EVENT TIME a EVENT TIME a",
        &["a:1:44 this clause is given twice | leave one of them"],
    );
    check(
        "CREATE FEATURE VIEW v AS SELECT a FORM clicks GROUP BY a;",
        &["a:1:40 expected end of statement, found `clicks` | did you mean FROM instead of `FORM`?"],
    );
    check("CREATE STREAM s (a INT NOT NULL NULL)", &["a:1:33 a column is NULL or NOT NULL, not both | leave…"]);
    check("CREATE FEATURE VIEW v AS SELECT count(*) FILTER (WHRE x) FROM c", &["a:1:55 expected…"]);
    check(
        &format!("{}CREATE FEATURE VIEW v AS SELECT count(*) AS n FROM clicks\nCREATE FEATURE SERVICE s AS v;", CLICKS),
        &["a:4:1 expected `;` before `CREATE` | end the statement before it with `;`"],
    );
    check(
        "CREATE FEATURE VIEW v AS SELECT 'abc FROM x;\n",
        &["a:1:33 unterminated string literal | close it with the quote…"],
    );
    check("CREATE FEATURE VIEW AS SELECT 1", &["a:1:24 expected AS, found `SELECT` | write CREATE FEATURE VIEW name…"]);
    check(
        "CREATE FEATURE VIEW v AS SELECT a FROM c GROUP a;",
        &["a:1:42 expected end of statement, found `GROUP` | write GROUP BY"],
    );
    check(
        "CREATE FEATURE VIEW v AS SELECT count(* FROM c;",
        &["a:1:41 expected `)`, found `FROM` | write CREATE FEATURE…"],
    );
    check(
        "CREATE FEATURE VIEW v AS /* SELECT 1;\n\n",
        &["a:1:26 unexpected EOF while in a multi-line comment | close it with */"],
    );
    check("CREATE TABLE IF NOT EXISTS t (a INT)", &["a:1:14 IF NOT EXISTS is not supported | a directory holds…"]);
    check(
        "CREATE FEATURE SERVICE s AS (a)",
        &["a:1:29 expected identifier, found `(` | write CREATE FEATURE SERVICE name…"],
    );
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let check = |at: &str, message: &str, statement: &str| {
        check_bad(&[("a.sql", &format!("{CLICKS}{statement}"))], &[&format!("a:{at} {message} | …")]);
    };
    let request = "FROM REQUEST is not supported yet";
    check(
        "3:67",
        request,
        "CREATE FEATURE VIEW v AS SELECT user_id, price * amount AS p FROM REQUEST (amount DOUBLE);",
    );
    check(
        "3:69",
        request,
        "CREATE FEATURE VIEW v AS SELECT user_id, count(*) AS n FROM clicks, request (amount DOUBLE);",
    );
    check(
        "3:90",
        request,
        "CREATE FEATURE VIEW v AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id FROM REQUEST (amount DOUBLE);",
    );
    check(
        "3:28",
        request,
        "CREATE FEATURE VIEW v FROM REQUEST (amount DOUBLE) AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id;",
    );
    let default = "DEFAULT of a feature is not supported yet";
    let from = "FROM clicks GROUP BY user_id;";
    check("3:56", default, &format!("CREATE FEATURE VIEW v AS SELECT user_id, count(*) AS n DEFAULT 0 {from}"));
    check("3:51", default, &format!("CREATE FEATURE VIEW v AS SELECT user_id, count(*) DEFAULT 0 AS n {from}"));
    check("3:53", default, &format!("CREATE FEATURE VIEW v AS SELECT user_id, max(price) DEFAULT NULL, 1 {from}"));
    // A stream may be called so, and so may a feature.
    let stream = CLICKS.replace("CREATE STREAM clicks", "CREATE STREAM request");
    let view = "CREATE FEATURE VIEW v AS SELECT user_id, count(*) AS \"default\" FROM request GROUP BY user_id;";
    load_good(&[("a.sql", &format!("{stream}{view}"))]);
    check_bad(
        &[(
            "a.sql",
            &format!("{CLICKS}CREATE FEATURE VIEW v AS SELECT user_id, last_value(price IGNORE NULS) AS p {from}"),
        )],
        &["a:3:66 expected NULLS, found `NULS` | did you mean NULLS instead of `NULS`?"],
    );
}

#[test]
fn explains_problems_of_sources() {
    let check = check_stream;
    let kafka = "FROM KAFKA (topic = 't', format = 'json')";
    let stream = |columns: &str, rest: &str| format!("CREATE STREAM s ({columns}) {rest}");
    check(&stream("a INT", kafka), &["a:1:15 the stream `s` has no EVENT TIME | add EVENT TIME…"]);
    check(&stream("a TIMESTAMP", "EVENT TIME a"), &["a:1:15 the stream `s` has no FROM | add FROM KAFKA…"]);
    check(&format!("CREATE STREAM s EVENT TIME a {kafka}"), &["a:1:15 `s` has no columns | list them…"]);
    check(
        &format!("CREATE TABLE s (a INT) {kafka}"),
        &["a:1:14 the table `s` has no primary key | write PRIMARY KEY…"],
    );
    check(
        &format!("CREATE TABLE s (abc INT, PRIMARY KEY (abd)) {kafka}"),
        &["a:1:39 the primary key names `abd`, which is no column | did you mean `abc`?"],
    );
    check(
        &format!("CREATE TABLE s (a INT PRIMARY KEY, b INT PRIMARY KEY) {kafka}"),
        &["a:1:42 there is a second primary key | name all…"],
    );
    check(
        &format!("CREATE TABLE s (a INT[] PRIMARY KEY) {kafka}"),
        &["a:1:17 `a` is an array, and cannot be in a primary key | choose…"],
    );
    check(
        &stream("a TIMESTAMP PRIMARY KEY", &format!("EVENT TIME a {kafka}")),
        &["a:1:30 `s` is a stream, and a stream has no primary key | leave it out,…"],
    );
    check(
        &stream("_a TIMESTAMP, select INT", &format!("EVENT TIME _a {kafka}")),
        &[
            "a:1:18 `_a` cannot be a name | names with `_` first are the system's, as `_event_time` is: write `a`",
            "a:1:32 `select` is a word of SQL | choose another name…",
        ],
    );
    check(
        &format!("CREATE STREAM join (a TIMESTAMP) EVENT TIME a {kafka}"),
        &["a:1:15 `join` is a word of SQL | choose another…"],
    );
    check(
        &format!("{CLICKS}CREATE TABLE \"clicks\" (a INT PRIMARY KEY) {kafka}"),
        &["a:3:14 `clicks` is defined already, at dataflows/a.sql:1 | choose another name,…"],
    );
    check(
        &stream("a DECIMAL(40, 2), t TIMESTAMP", &format!("EVENT TIME t {kafka}")),
        &["a:1:20 a column cannot be of type DECIMAL(40, 2) | write DECIMAL(p, s)…"],
    );
}

#[test]
fn explains_problems_of_expressions() {
    let kafka = "FROM KAFKA (topic = 't', format = 'json')";
    let event = |expr: &str, want: &[&str]| {
        check_stream(
            &format!("CREATE STREAM s (ts TIMESTAMP, ms BIGINT, name TEXT, \"Case\" INT)\nEVENT TIME {expr} {kafka}"),
            want,
        );
    };
    event(
        "ms",
        &["a:2:12 EVENT TIME is BIGINT, not TIMESTAMP | say what the number counts: to_timestamp_millis(ms),…"],
    );
    event("name", &["a:2:12 EVENT TIME is TEXT, not TIMESTAMP | declare the column as TIMESTAMP,…"]);
    event("tss", &["a:2:12 column `tss` not found | did you mean `ts`?"]);
    event("case", &["a:2:12 column `case` not found | write \"Case\" in quotes, to keep its case"]);
    event(
        "coalesce(ts, nowhere)",
        &["a:2:25 column `nowhere` not found | the columns are `ts`, `ms`, `name`, `Case`, `_key` and `_timestamp`"],
    );
    event("now()", &["a:2:12 `now` cannot be used here | answers would depend on when it is asked:…"]);
    event("coalesce(ts, current_timestamp)", &["a:2:25 `now` cannot be used here | answers…"]);
    event(
        "to_timestamp_milis(ms)",
        &["a:2:12 there is no function `to_timestamp_milis` | did you mean `to_timestamp_millis`?"],
    );
    event("max(ts)", &["a:2:12 `max` cannot be used here | it needs many rows…"]);
    event("(SELECT ts FROM s)", &["a:2:13 a subquery in an expression is not supported yet | only the columns…"]);
    let column = |check: &str, want: &[&str]| {
        check_stream(
            &format!(
                "CREATE STREAM s (ts TIMESTAMP,\n price DOUBLE CHECK ({check}), name TEXT, CHECK (nme <> ''))\nEVENT TIME ts {kafka}"
            ),
            want,
        );
    };
    let second = "a:2:POS column `nme` not found | did you mean `name`?";
    let second = |width: usize| second.replace("POS", &(43 + width).to_string());
    column("prize >= 0", &["a:2:22 column `prize` not found | did you mean `price`?", &second(10)]);
    column("price + 1", &["a:2:22 this CHECK is DOUBLE, not a condition | write a comparison,…", &second(9)]);
    column("price > abs(name, 1)", &["a:2:30 abs does not take (TEXT, BIGINT) | write abs(number)", &second(20)]);
    column("price > 'abc'", &["a:2:22 …", &second(13)]);
    column("ts > 'nonsense'", &["a:2:22 …", &second(15)]);
    column("price > ?", &["a:2:30 `?` cannot be used here | write the value itself,…", &second(9)]);
    column("NOT price", &["a:2:26 NOT cannot be used with DOUBLE | NOT can only be used with boolean…", &second(9)]);
    column(
        "_timestamp > ts",
        &["a:2:22 column `_timestamp` not found | the columns are `ts`, `price` and `name`", &second(15)],
    );
    check_stream(
        "CREATE STREAM s (a INT) EVENT TIME _timestamp FROM FILE (path = 'x', format = 'csv')",
        &["a:1:36 column `_timestamp` not found | the columns are `a`"],
    );
}

#[test]
fn explains_problems_of_options() {
    let from = |from: &str, want: &[&str]| {
        check_stream(&format!("CREATE STREAM s (t TIMESTAMP) EVENT TIME t\nFROM {from}"), want)
    };
    from("KAFKA (topic = 't')", &["a:2:6 FROM KAFKA needs `format` | add format = 'json' or 'avro'"]);
    from(
        "KAFKA (topc = 't', format = 'json')",
        &[
            "a:2:6 FROM KAFKA needs `topic` | add topic = 'clicks'",
            "a:2:13 FROM KAFKA has no option `topc` | did you mean `topic`?",
        ],
    );
    from(
        "KAFKA (topic = 't', format = 'json', group.id = 'x')",
        &[
            "a:2:43 FROM KAFKA has no option `group.id` | properties of librdkafka go under [kafka.properties] in headwater.toml",
        ],
    );
    from("KAFKA (topic = t, format = 'json')", &["a:2:21 `topic` is a text in single quotes | write topic = 't'"]);
    from("KAFKA (topic = '', format = 'json')", &["a:2:21 `topic` is empty | write its value,…"]);
    from("KAFKA (topic = 't', topic = 'u', format = 'json')", &["a:2:26 `topic` is given twice | leave one of them"]);
    from(
        "KAFKA (topic = 't', format = 'protobuf')",
        &["a:2:35 format 'protobuf' is not supported yet | write 'json' or 'avro'"],
    );
    from("KAFKA (topic = 't', format = 'jsn')", &["a:2:35 KAFKA has no format 'jsn' | did you mean 'json'?"]);
    from(
        "KAFKA (topic = 't', format = 'avro')",
        &["a:2:35 format 'avro' needs an Avro schema | name the writer's schema…"],
    );
    from(
        "KAFKA (topic = 't', format = 'avro', schema = 'event.json')",
        &[
            "a:1:18 schemas/event.json has no field `t` | did you mean `at`?",
            "a:2:35 format 'avro' needs an Avro schema | name…",
        ],
    );
    from(
        "FILE (path = 'x', format = 'parquet')",
        &["a:2:33 format 'parquet' is not supported yet | convert the file,…"],
    );
    from(
        "FILE (path = 'x', format = 'json')",
        &["a:2:33 FILE has no format 'json' | write 'jsonl': one JSON object a line"],
    );
    from(
        "FILE (path = 'x', format = 'csv') BACKFILL FROM FILE (path = 'y', format = 'csv')",
        &["a:2:40 BACKFILL FROM FILE is not supported yet | read the file…"],
    );
    from("KAFAK (topic = 't')", &["a:2:6 there is no source `KAFAK` | did you mean KAFKA?"]);
    from("PUSH", &["a:2:1 FROM PUSH is not supported yet | use FROM KAFKA…"]);
    from(
        "FILE (path = 'x', format = 'csv') WITH (future = '1 fortnight', futur = '1 hour')",
        &[
            "a:2:55 '1 fortnight' is not a length of time | write future = '1 second',…",
            "a:2:70 a stream or table has no option `futur` | did you mean `future`?",
        ],
    );
    let view = |with: &str, want: &[&str]| {
        check_stream(&format!("{CLICKS}CREATE FEATURE VIEW v WITH ({with}) AS SELECT user_id FROM clicks"), want);
    };
    view("freshnes = '1 s'", &["a:3:29 a view has no option `freshnes` | did you mean `freshness`?"]);
    view("color = 'red'", &["a:3:29 a view has no option `color` | a view has `entity`, `freshness`,…"]);
    view("freshness = 1", &["a:3:41 `freshness` is a text in single quotes | write freshness = '1'"]);
    view("resolution = '0 s'", &["a:3:42 `resolution` must be longer than nothing | write resolution = …"]);
    view("entity = 'a, a'", &["a:3:38 `entity` names `a` twice | write the entity's columns once each,…"]);
}

#[test]
fn explains_problems_of_schemas() {
    let from = |columns: &str, schema: &str, want: &[&str]| {
        let options = format!("(topic = 't', format = 'avro', schema = '{schema}')");
        check_stream(&format!("CREATE TABLE t {columns}\nFROM KAFKA {options}"), want);
    };
    from(
        "(PRIMARY KEY (item_id))",
        "item.avsc",
        &["a:2:52 there is no file schemas/item.avsc | did you mean 'items.avsc'?"],
    );
    from("(PRIMARY KEY (item_id))", "../items.avsc", &["a:2:52 `../items.avsc` is not a file under schemas/ | write…"]);
    from(
        "(PRIMARY KEY (item_id))",
        "items.avsc",
        &["a:2:52 field `attributes` of schemas/items.avsc: a map cannot be a column | list the columns you need…"],
    );
    from(
        "(item_id BIGINT PRIMARY KEY, prise DOUBLE)",
        "items.avsc",
        &["a:1:45 schemas/items.avsc has no field `prise` | did you mean `price`?"],
    );
    from(
        "(item_id BIGINT PRIMARY KEY, price BOOLEAN)",
        "items.avsc",
        &["a:1:51 `price` cannot be read as BOOLEAN: schemas/items.avsc says DECIMAL(10, 2) | write DECIMAL(10, 2)"],
    );
    from(
        "(item_id BIGINT PRIMARY KEY, attributes TEXT)",
        "items.avsc",
        &[
            "a:1:56 `attributes` cannot be read as TEXT: in schemas/items.avsc: a map cannot be a column | leave the column out",
        ],
    );
    from(
        "(item_id BIGINT PRIMARY KEY)",
        "items.proto",
        &["a:2:52 Protobuf schemas are not supported yet | list the columns…"],
    );
}

#[test]
fn explains_problems_of_views_and_services() {
    let check = |text: &str, want: &[&str]| check_stream(&format!("{CLICKS}{text}"), want);
    check(
        "CREATE FEATURE VIEW v AS SELECT * FROM w;\nCREATE FEATURE VIEW w AS SELECT * FROM v",
        &["a:3:40 `v` reads itself: v → w → v | read the stream…"],
    );
    check("CREATE FEATURE VIEW v AS SELECT * FROM v", &["a:3:40 `v` reads itself: v → v | read the stream…"]);
    check("CREATE FEATURE VIEW v AS INSERT INTO clicks SELECT 1", &["a:3:26 a view is a SELECT | write AS SELECT…"]);
    check(
        "CREATE FEATURE VIEW v AS SELECT * FROM events.clicks",
        &["a:3:40 there is no `events.clicks` | streams, tables and views have no prefix: write clicks"],
    );
    check(
        "CREATE FEATURE VIEW v AS SELECT * FROM clicks c JOIN itmes i ON true WHERE a IN (SELECT b FROM clics)",
        &[
            "a:3:54 there is no stream, table or view `itmes` | the streams, tables and views are `clicks` and `v`",
            "a:3:82 a subquery in an expression is not supported yet | join the table instead",
            "a:3:96 there is no stream, table or view `clics` | did you mean `clicks`?",
        ],
    );
    check(
        "CREATE FEATURE VIEW v AS SELECT user_id FROM clicks;\nCREATE FEATURE SERVICE s AS v, v(a);\nCREATE FEATURE SERVICE s AS v",
        &[
            "a:4:34 `v(a)` is in the service twice | leave one of them",
            "a:5:24 `s` is defined already, at dataflows/a.sql:4 | choose…",
        ],
    );
    // A name whose definition does not parse is not unknown too.
    check_bad(
        &[("a.sql", "CREATE STREAM x (a INT"), ("b.sql", "CREATE FEATURE VIEW v AS SELECT a FROM x")],
        &["a:1:23 expected…"],
    );
    check_bad(
        &[("a.sql", "CREATE STREAM x ('a INT)"), ("b.sql", "CREATE FEATURE VIEW v AS SELECT a FROM x")],
        &["a:1:18 unterminated…"],
    );
}

#[test]
fn shows_the_line_and_underlines_the_place() {
    let text = CLICKS.replace("EVENT TIME ts", "EVENT TIME tss");
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(dir.path().join("dataflows")).expect("a directory");
    std::fs::write(dir.path().join("dataflows/clicks.sql"), text).expect("a file");
    let got = load(dir.path(), &BTreeMap::new()).expect_err("a wrong name").to_string();
    let want = "error: column `tss` not found
  --> dataflows/clicks.sql:2:37
 2 |   ts TIMESTAMP NOT NULL) EVENT TIME tss FROM KAFKA (topic = 'clicks', format = 'json');
   |                                     ^^^ did you mean `ts`?";
    assert_eq!(got, want);
}

#[test]
fn compiled_checks_run_on_batches() {
    let d = load_good(&[(
        "a.sql",
        "CREATE TABLE t (x DOUBLE CHECK (coalesce(x, 0) < 2), k INT PRIMARY KEY) FROM FILE (path = 'x', format = 'csv')",
    )]);
    let source = &d.sources["t"];
    let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(vec![source.declared_schema().field(0).clone()]));
    let compiled = check::compile(&source.checks[0].expr, &schema).expect("it was checked");
    let column = std::sync::Arc::new(Float64Array::from(vec![Some(1.0), Some(3.0), None]));
    let batch = RecordBatch::try_new(schema, vec![column]).expect("one column");
    let value = compiled.evaluate(&batch).and_then(|v| v.into_array(3)).expect("it runs");
    assert_eq!(value.data_type(), &DataType::Boolean);
    let passed: Vec<Option<bool>> = value.as_boolean().iter().collect();
    assert_eq!(passed, [Some(true), Some(false), Some(true)]);
    assert_eq!(timestamp().to_string(), "Timestamp(µs)");
}
