//! Wrong command lines, definitions, directories and brokers: each is said, by name, with its exit code.

use std::fs::File;
use std::process::{Command, Stdio};

use headwater::source::kafka::KafkaSettings;
use headwater::source::replay::{Replay, ReplayClock, Resume};
use headwater::state::commit::ClockKind;

use super::support::{Deployment, Done, Running, at, headwater, wait_for};

const EVENTS: &str = "CREATE STREAM events (u BIGINT, x BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM FILE (path = 'events.jsonl', format = 'jsonl');\n";
const VIEW: &str = "CREATE FEATURE VIEW sums AS SELECT u, sum(x) AS x FROM events GROUP BY u;\n";
const ROWS: &str =
    "{\"u\":1,\"x\":2,\"ts\":\"2024-01-01T00:00:00Z\"}\n{\"u\":1,\"x\":3,\"ts\":\"2024-01-01T01:00:00Z\"}\n";

fn good() -> Deployment {
    Deployment::new(&[("a.sql", EVENTS), ("b.sql", VIEW), ("./events.jsonl", ROWS)])
}

/// A command on a fresh deployment of these definitions, without data.
#[track_caller]
fn check(definitions: &[(&str, &str)], command: &str, args: &[&str], code: i32, words: &[&str]) {
    Deployment::new(definitions).run(command, "data", args).expect(code, words);
}

#[test]
fn wrong_definitions_exit_with_2() {
    for command in ["check", "replay", "verify", "run"] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Done::of(headwater(command).arg("--dir").arg(dir.path())).expect(2, &["dataflows"]);
    }
    let sum_of_text = "CREATE FEATURE VIEW sums AS\nSELECT u, sum(nope) AS x FROM events GROUP BY u;\n";
    check(&[("a.sql", EVENTS), ("b.sql", sum_of_text)], "check", &[], 2, &["dataflows/b.sql:2:", "nope"]);
    check(
        &[("a.sql", "CREATE STREAM s (a BIGINT,\n  b WHATEVER\n) FROM PUSH;")],
        "replay",
        &[],
        2,
        &["dataflows/a.sql:2:"],
    );
    check(&[("a.sql", EVENTS), ("b.sql", VIEW), ("c.sql", VIEW)], "check", &[], 2, &["dataflows/c.sql:1:", "sums"]);
    // A text that cannot be parsed does not hide what is wrong with another.
    let broken = "CREATE FEATURE VIEW broken AS SELEC 1;";
    let both = &["dataflows/b.sql:2:", "nope", "dataflows/c.sql:1:", "2 problems"];
    check(&[("a.sql", EVENTS), ("b.sql", sum_of_text), ("c.sql", broken)], "check", &[], 2, both);
    for (query, words) in [
        ("SELECT u, count(*) FROM events WHERE random() < 0.5 GROUP BY u", "random()"),
        ("SELECT u, last_value(x ORDER BY now()) FROM events GROUP BY u", "ORDER BY"),
        ("SELECT u, count(*), current_date AS d FROM events GROUP BY u", "current_date()"),
        ("SELECT u, count(*) FROM sums GROUP BY u", "a view over a view is not supported yet"),
        ("SELECT u, count(*) FROM events TABLESAMPLE (1) GROUP BY u", "TABLESAMPLE"),
        ("SELECT u, count(*) FROM events WHERE x IN (SELECT x FROM events) GROUP BY u", "subquery"),
    ] {
        let view = format!("CREATE FEATURE VIEW v AS {query};");
        check(&[("a.sql", EVENTS), ("b.sql", VIEW), ("c.sql", &view)], "check", &[], 2, &["dataflows/c.sql:1:", words]);
    }
    let set = EVENTS.replace("events.jsonl", "${NOWHERE}");
    check(&[("a.sql", &set)], "check", &[], 2, &["NOWHERE", "dataflows/a.sql:2:"]);
}

#[test]
fn wrong_settings_exit_with_2() {
    let deployment = good();
    deployment.run("check", "data", &[]).expect(0, &["ok: 1 streams"]);
    for command in ["replay", "run"] {
        let workers = "`65` is not a value of workers.count: write a whole number from 1 to 64";
        deployment.run(command, "data", &["--workers", "65"]).expect(2, &[workers]);
    }
    deployment.write("./headwater.toml", "[comit]\ntick_ms = 1\n");
    for command in ["check", "replay", "run"] {
        deployment.run(command, "data", &[]).expect(2, &["headwater.toml", "did you mean `commit.tick_ms`?"]);
    }
}

#[test]
fn wrong_command_lines_exit_with_2() {
    for args in [&["replay", "--nope"][..], &["replay", "--clock", "wall"], &["nope"], &["get"], &[]] {
        let done = Done::of(Command::new(env!("CARGO_BIN_EXE_headwater")).args(args));
        assert_eq!(done.code, Some(2), "{args:?}: {}", done.err);
        assert!(done.out.is_empty() && !done.err.is_empty(), "{args:?}: {}", done.out);
    }
    good().run("get", "data", &["sums", "1", "--as-of", "yesterday"]).expect(2, &["yesterday"]);
    good().run("get", "data", &["sums", "1", "--epoch", "1969-01-01T00:00:00Z"]).expect(2, &["before 1970"]);
    good().run("get", "data", &["sums", "1", "--as-of", "+12020-01-01T00:00:00Z"]).expect(2, &["+12020"]);
    good().run("verify", "data", &["--epoch", "7 o'clock"]).expect(2, &["7 o'clock"]);
}

#[test]
fn an_instant_later_than_now_needs_an_epoch() {
    let deployment = good();
    deployment.run("replay", "data", &[]).expect(0, &["events=2"]);
    let get = |args: &[&str]| deployment.run("get", "data", &[&["sums", "1"], args].concat());
    let later = ["--as-of", "2999-01-01T00:00:00Z"];
    get(&later).expect(1, &["later than now", "name an epoch"]);
    let stamped = [&["--epoch", "2024-01-01T01:00:00Z"], &later[..]].concat();
    get(&stamped).expect(0, &[r#""as_of":"2999-01-01T00:00:00.000000Z""#, r#""x":5"#]);
}

#[test]
fn what_is_not_there_is_named() {
    let deployment = good();
    // Names come before the data: there is none yet.
    deployment.run("get", "data", &["nope", "1"]).expect(1, &["nope", "sums"]);
    deployment.run("get", "data", &["sums", "1", "--features", "y"]).expect(1, &["`y`", "sums"]);
    deployment.run("verify", "data", &["nope"]).expect(1, &["nope", "sums"]);
    deployment.run("explain", "data", &["nope"]).expect(1, &["nope"]);
    let data = deployment.path("data").display().to_string();
    deployment.run("get", "data", &["sums", "1"]).expect(1, &[&data]);
    deployment.run("verify", "data", &[]).expect(1, &[&data]);
    Done::of(headwater("quarantine").args(["list", "--dir"]).arg(deployment.path("")).arg("--data-dir").arg(&data))
        .expect(1, &[&data]);
    assert!(!deployment.path("data").exists(), "a command that reads has made the data directory");
    std::fs::remove_file(deployment.path("events.jsonl")).expect("it is there");
    deployment.run("replay", "data", &[]).expect(1, &["events.jsonl"]);
}

#[test]
fn a_key_that_does_not_fit_is_said() {
    let deployment = good();
    deployment.run("replay", "data", &[]).expect(0, &["events=2"]);
    deployment.run("get", "data", &["sums", "one"]).expect(1, &["one"]);
    deployment.run("get", "data", &["sums", "1"]).expect(0, &["5"]);
}

#[test]
fn other_definitions_are_refused_by_name() {
    let deployment = good();
    deployment.run("replay", "data", &[]).expect(0, &["events=2 quarantined=0"]);
    deployment.run("replay", "data", &[]).expect(0, &["events=0"]);
    deployment.write("b.sql", &VIEW.replace("sum(x)", "sum(x + 1)"));
    for (command, args) in [("replay", &[][..]), ("run", &[]), ("get", &["sums", "1"]), ("verify", &[])] {
        deployment.run(command, "data", args).expect(2, &["other definitions", "`sums`"]);
    }
    deployment.write("b.sql", VIEW);
    deployment.run("verify", "data", &["--all"]).expect(0, &["differing=0"]);
}

#[test]
fn a_directory_in_use_is_refused_with_the_process() {
    let deployment = good();
    let node = deployment.load().node(&deployment.path("data"), 1);
    let pid = format!("process {}", std::process::id());
    for command in ["replay", "run"] {
        deployment.run(command, "data", &[]).expect(1, &["in use", &pid]);
    }
    drop(node);
    deployment.run("replay", "data", &[]).expect(0, &["events=2"]);
}

#[test]
fn a_replay_needs_its_broker() {
    let kafka = "FROM KAFKA (topic = 'events', format = 'json', brokers = '127.0.0.1:1')";
    let events = EVENTS.replace("FROM FILE (path = 'events.jsonl', format = 'jsonl')", kafka);
    check(&[("a.sql", &events), ("b.sql", VIEW)], "replay", &[], 1, &["127.0.0.1:1"]);
}

#[test]
fn a_replay_does_not_follow_live_commits() {
    let deployment = good();
    let loaded = deployment.load();
    let mut node = loaded.node(&deployment.path("data"), 1);
    let (kafka, resume) = (KafkaSettings::default(), Resume::default());
    let replay = Replay::new(&loaded.plan.sources, &loaded.dir, ReplayClock::Event, &kafka, &resume);
    let slice = replay.and_then(|mut r| r.next_slice(10)).expect("readable").expect("there are rows");
    node.feed(slice, ClockKind::Wall).expect("the node takes it");
    node.stop().expect("the node stops");
    deployment.run("replay", "data", &[]).expect(1, &["has been live", "--data-dir"]);
    // Both rows are one commit, made live: an epoch in between was never handed out.
    let between = ["--epoch", "2024-01-01T00:30:00Z"];
    let get = |args: &[&str]| deployment.run("get", "data", &[&["sums", "1"], args].concat());
    get(&between).expect(1, &["no commit ends with epoch 2024-01-01T00:30:00.000000Z"]);
    deployment.run("verify", "data", &between).expect(1, &["no commit ends with epoch"]);
    let last = ["--epoch", "2024-01-01T01:00:00Z"];
    get(&last).expect(0, &[r#""x":5"#]);
    deployment.run("verify", "data", &last).expect(0, &["differing=0"]);
    deployment.run("verify", "data", &["--epoch", "2025-01-01T00:00:00Z"]).expect(1, &["is not committed"]);
}

#[test]
fn every_epoch_of_a_replay_can_be_named() {
    let deployment = good();
    deployment.run("replay", "data", &[]).expect(0, &["events=2"]);
    let get = |epoch: &str| deployment.run("get", "data", &["sums", "1", "--epoch", epoch]);
    get("2024-01-01T00:00:00Z").expect(0, &[r#""x":2"#]);
    get("2024-01-01T00:30:00Z").expect(0, &[r#""x":2"#]);
    get("2024-01-01T01:00:00Z").expect(0, &[r#""x":5"#]);
    get("2024-01-01T01:00:01Z").expect(1, &["is not committed yet"]);
    deployment.run("verify", "data", &["--epoch", "2024-01-01T00:30:00Z"]).expect(0, &["differing=0"]);
}

#[test]
fn an_idle_node_is_not_a_stale_one() {
    let deployment = good();
    let mut run = deployment.command("run", "data", &["--http", "127.0.0.1:0", "--grpc", "off", "--resp", "off"]);
    let (_node, address) = Running::serving(&mut run);
    let get = |query: &str| ureq::get(format!("http://{address}/v1/views/sums/1{query}")).call();
    let field = |name: &str| {
        let mut reply = get("").expect("an answer");
        let body: serde_json::Value = reply.body_mut().read_json().expect("JSON");
        body[name].as_str().map(at).unwrap_or_else(|| panic!("no {name} in {body}"))
    };
    // The file is read to its end, and then nothing comes any more.
    wait_for("a commit", || (field("epoch") > 0).then_some(()));
    wait_for("the commit to be two seconds old", || (field("as_of") > field("epoch") + 2_000_000).then_some(()));
    get("?max_staleness=1%20second&wait=1%20minute").expect("it knows that it has everything");
}

#[test]
fn a_refused_record_is_shown_with_every_refusal() {
    let views = "CREATE FEATURE VIEW tenths AS SELECT u, sum(10 / x) AS t FROM events GROUP BY u;
CREATE FEATURE VIEW hundredths AS SELECT u, sum(100 / x) AS h FROM events GROUP BY u;\n";
    let rows = format!("{ROWS}{{\"u\":7,\"x\":0,\"ts\":\"2024-01-01T02:00:00Z\"}}\n{{\"u\":\"x\"}}\n");
    let deployment = Deployment::new(&[("a.sql", EVENTS), ("b.sql", views), ("./events.jsonl", &rows)]);
    deployment.run("replay", "data", &[]).expect(0, &["events=3 quarantined=3"]);
    let quarantine = |args: &[&str]| {
        let (dir, data) = (deployment.path(""), deployment.path("data"));
        Done::of(headwater("quarantine").args(args).arg("--dir").arg(dir).arg("--data-dir").arg(data))
    };
    let list =
        ["events 0/2 view=tenths expression: ", "events 0/2 view=hundredths expression: ", "events 0/3 decode: "];
    quarantine(&["list"]).expect(0, &list);
    let record =
        r#"record: {"u":7,"x":0,"ts":"2024-01-01T02:00:00.000000Z","_event_time":"2024-01-01T02:00:00.000000Z""#;
    let shown = quarantine(&["show", "events", "0/2"]).expect(0, &["view: tenths", "view: hundredths", record]);
    assert_eq!(shown.out.matches("record: ").count(), 1, "{}", shown.out);
    assert_eq!(shown.out.matches("reason: expression: ").count(), 2, "{}", shown.out);
    quarantine(&["show", "events", "0/3"]).expect(0, &["reason: decode: ", r#"record: {"u":"x"}"#]);
    quarantine(&["show", "events", "0/0"]).expect(1, &["no refused record of `events` at 0/0"]);
}

#[test]
fn a_proof_of_nothing_is_no_proof() {
    let deployment = good();
    deployment.run("replay", "data", &["--clock", "event"]).expect(0, &["events=2"]);
    deployment.run("verify", "data", &["--seed", "1"]).expect(0, &["differing=0"]);
    deployment.run("verify", "data", &["--sample", "0"]).expect(3, &["checked=0", "nothing was compared"]);
}

/// A pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn what_is_printed_does_not_decide_what_is_done() {
    let deployment = good();
    deployment.run("replay", "data", &[]).expect(0, &["events=2"]);
    let verify = |out: Stdio, sample: &str| {
        let args = ["--sample", sample, "--seed", "1"];
        // Nobody reads what is said of it either.
        let mut command = deployment.command("verify", "data", &args);
        command.stdout(out).stderr(closed_pipe()).status().expect("the program starts").code()
    };
    assert_eq!(verify(closed_pipe(), "100"), Some(0));
    assert_eq!(verify(closed_pipe(), "0"), Some(3), "it compares all the same");
    let full = || File::options().write(true).open("/dev/full").expect("there is one");
    assert_eq!(verify(full().into(), "100"), Some(1), "the result is lost");
    let mut check = deployment.command("check", "data", &[]);
    let done = check.stdout(full()).stderr(Stdio::piped()).output().expect("the program starts");
    let said = String::from_utf8(done.stderr).expect("text");
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output: No space left on device"), "{said}");
}

#[test]
fn a_node_serves_though_nobody_hears_that_it_is_ready() {
    let deployment = good();
    let mut run = deployment.command("run", "data", &["--http", "off", "--grpc", "off", "--resp", "off"]);
    let child = run.stdout(closed_pipe()).stderr(closed_pipe()).spawn().expect("the program starts");
    let mut node = Running(child);
    wait_for("the file to be read", || {
        let ended = node.0.try_wait().expect("it is our child");
        assert_eq!(ended, None, "it ends when it is told to");
        deployment.run("get", "data", &["sums", "1"]).out.contains(r#""x":5"#).then_some(())
    });
    assert!(node.interrupt().success());
}
