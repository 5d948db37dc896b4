//! docs/sql.md: every example in it answers what it says there, and what it says is refused is refused with these words.

use serde_json::Value;

use super::support::{Deployment, How};
use headwater::source::replay::ReplayClock;

const PAGE: &str = include_str!("../../docs/sql.md");

/// The blocks of the page that begin with these words.
fn blocks<'a>(words: &'a str) -> impl Iterator<Item = &'static str> + 'a {
    let mut rest = PAGE;
    std::iter::from_fn(move || {
        let (_, block) = rest.split_once("\n```")?;
        let (block, after) = block.split_once("\n```").expect("a block ends");
        rest = after;
        Some(block)
    })
    .filter_map(move |block| block.strip_prefix(words)?.strip_prefix('\n'))
}

fn lines(words: &str) -> Vec<&'static str> {
    let lines: Vec<&str> = blocks(words).flat_map(str::lines).collect();
    assert!(!lines.is_empty(), "the page has no {words}");
    lines
}

fn deployment(views: &str) -> Deployment {
    let only = |words: &str| blocks(words).next().expect("the page has one").to_string();
    Deployment::new(&[("a.sql", &only("sql")), ("b.sql", views), ("./payments.jsonl", &(only("jsonl") + "\n"))])
}

/// One view of all examples, because that is also how they meet one another.
#[test]
fn every_example_answers_what_the_page_says() {
    let examples: Vec<(&str, Value)> = lines("text examples")
        .into_iter()
        .map(|line| {
            let (expression, answer) = line.rsplit_once(" = ").unwrap_or_else(|| panic!("{line} has no answer"));
            (expression, serde_json::from_str(answer).unwrap_or_else(|e| panic!("{line}: {e}")))
        })
        .collect();
    // A view has at most 64 inputs.
    let mut views = String::new();
    for (n, part) in examples.chunks(20).enumerate() {
        let list = part.iter().enumerate().map(|(n, (expression, _))| format!("{expression} AS e{n}"));
        let list = list.collect::<Vec<_>>().join(",\n  ");
        views += &format!("CREATE FEATURE VIEW v{n} AS SELECT user_id,\n  {list}\nFROM payments GROUP BY user_id;\n");
    }
    let deployment = deployment(&views);
    let loaded = deployment.load();
    let how = How { clock: ReplayClock::Record, workers: 2, cut: 1, kills: 0, seed: 1 };
    loaded.replay(&deployment.path("data"), &how);
    loaded.verify(&deployment.path("data"), 7, "docs/sql.md");
    for (n, part) in examples.chunks(20).enumerate() {
        let args = [&format!("v{n}"), "1", "--as-of", "2024-06-01T12:00:00Z"];
        let answer = deployment.run("get", "data", &args).expect(0, &[]).out;
        let answer: Value = serde_json::from_str(&answer).expect("an answer is JSON");
        for (n, (expression, want)) in part.iter().enumerate() {
            assert_eq!(&answer["features"][format!("e{n}")], want, "{expression}");
        }
    }
}

#[test]
fn what_the_page_says_is_refused_is_refused() {
    let refused = lines("text refused");
    let split = |line: &'static str| line.split_once(" -> ").unwrap_or_else(|| panic!("{line} has no message"));
    // A view on each line. Files of their own, because one that does not parse is reported alone.
    for line in refused {
        let (expression, words) = split(line);
        let view =
            format!("CREATE FEATURE VIEW v AS SELECT user_id, {expression} AS e FROM payments GROUP BY user_id;");
        let place = "dataflows/b.sql:1:";
        let said = deployment(&view).run("check", "data", &[]).expect(2, &[words, place]).err;
        let column = said.split(place).nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        let column = column.unwrap_or_else(|| panic!("{expression}: no column in\n{said}"));
        let from = view.find(expression).expect("it is there") + 1;
        assert!((from..from + expression.len()).contains(&column), "{expression}: refused at column {column}\n{said}");
    }
}

/// Lists are JSON in CSV, as they are in an answer.
#[test]
fn lists_come_out_of_a_history_as_json() {
    let view = "CREATE FEATURE VIEW v AS SELECT user_id, array_agg(shop ORDER BY ts DESC LIMIT 3) AS shops,
      top_k(price, 2) AS prices, array_agg(ts LIMIT 1) AS first_times FROM payments GROUP BY user_id;";
    let deployment = deployment(view);
    let how = How { clock: ReplayClock::Record, workers: 1, cut: 10, kills: 0, seed: 1 };
    deployment.load().replay(&deployment.path("data"), &how);
    deployment.write(
        "./labels.csv",
        "user_id,as_of\n1,2024-06-01T12:00:00Z\n1,2024-06-01T10:30:00Z\n2,2024-06-01T12:00:00Z\n",
    );
    let (labels, out) = (deployment.path("labels.csv"), deployment.path("out.csv"));
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let features = "v:shops,v:prices,v:first_times";
    let args = ["--labels", &path(&labels), "--out", &path(&out), "--features", features];
    deployment.run("history", "data", &args).expect(0, &[]);
    let got = std::fs::read_to_string(&out).expect("a history is written");
    let first = r#""[""2024-06-01T10:00:00.000000Z""]""#;
    let want = [
        "user_id,as_of,shops,prices,first_times".to_string(),
        format!(r#"1,2024-06-01T12:00:00Z,"[null,""a"",""b""]","[""4.50"",""3.00""]",{first}"#),
        format!(r#"1,2024-06-01T10:30:00Z,"[""a""]","[""1.50""]",{first}"#),
        "2,2024-06-01T12:00:00Z,,,".to_string(),
    ];
    assert_eq!(got.lines().collect::<Vec<_>>(), want);
}
