//! `headwater demo` as a new user meets it: it starts on nothing, and every command that it prints does what it says.
//!
//! Commands are run as they are printed, by the shell. Lines that begin with `#` are no commands. Neighbours: `cli::demo`
//! prints them; `scripts/test` puts a Python with pyarrow first on the path, so that the one over Arrow Flight is there.

use std::path::Path;
use std::process::{Command, Stdio};

use super::support::{Done, Running, headwater};

/// The line after the last command.
const END: &str = "# Ctrl-C ends the demo";

/// What a shell makes of a line.
fn shell(line: &str) -> Done {
    Done::of(Command::new("sh").args(["-c", line]).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()))
}

#[track_caller]
fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Is the answer of this command what its word promises?
fn check(why: &str, command: &str) {
    let done = shell(command);
    let said = format!("# {why}\n{command}\nout: {}\nerr: {}", done.out, done.err);
    assert_eq!(done.code, Some(0), "{said}");
    let lines = done.out.lines().count();
    match why {
        "the features of a user" => assert_eq!(json(&done.out)["status"], "present", "{said}"),
        "of pairs, under one stamp" => {
            let answer = json(&done.out);
            assert!(answer["epoch"].is_string() && answer["as_of"].is_string(), "{said}");
        }
        "every view and feature" => assert!(done.out.contains("user_activity"), "{said}"),
        "lag, freshness and the rest" => assert!(done.out.contains("headwater_source_records_total"), "{said}"),
        "the same, read beside the node" => assert_eq!(json(&done.out)["view"], "user_activity", "{said}"),
        "a view over a join" => assert_eq!(json(&done.out)["status"], "present", "{said}"),
        "recomputed by a second engine" => {
            assert!(done.out.contains("differing=0") && !done.out.contains("checked=0"), "{said}");
        }
        // Four instants of three users, below the names of the columns.
        "a training set: what the features were at past instants" => assert_eq!(lines, 13, "{said}"),
        "what was refused, and why" => assert!(lines == 5 && done.out.contains(" clicks "), "{said}"),
        "the same over Arrow Flight" => {
            assert!(lines == 12 && done.out.contains("'views_24h'"), "{said}");
        }
        other => panic!("nobody said what `{other}` should answer"),
    }
}

/// Is there what the command over Arrow Flight needs?
fn has_pyarrow() -> bool {
    shell("python3 -c 'import pyarrow.csv, pyarrow.flight'").code == Some(0)
}

#[test]
fn every_command_that_the_demo_prints_works() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut command = headwater("demo");
    command.arg("--dir").arg(env!("CARGO_MANIFEST_DIR")).arg("--data-dir").arg(data.path());
    command.args(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--rate", "200"]);
    let (mut demo, lines) = Running::until(&mut command, |line| line.starts_with(END));
    assert!(lines[0].starts_with("ready http=127.0.0.1:"), "{lines:#?}");

    let mut commands: Vec<(&str, &str)> = vec![];
    for pair in lines[1..lines.len() - 1].chunks(2) {
        let [why, command] = pair else { panic!("a word without a command: {lines:#?}") };
        let why = why.strip_prefix("# ").unwrap_or_else(|| panic!("not a word for a command: {why}"));
        if !command.starts_with('#') {
            commands.push((why, command));
        }
    }
    for (why, command) in &commands {
        check(why, command);
    }
    assert_eq!(commands.iter().any(|(_, c)| c.contains("pyarrow")), has_pyarrow(), "{commands:#?}");
    assert!(commands.len() >= 9, "{commands:#?}");

    let ended = demo.interrupt();
    assert_eq!(ended.code(), Some(0), "Ctrl-C is a clean end");
    // The node is gone, its directory stays: what only reads that still works.
    let kept = data.path().display().to_string();
    for (why, command) in commands.iter().filter(|(_, c)| c.contains("--data-dir") && !c.contains(" verify ")) {
        check(why, command);
    }
    assert!(Path::new(&kept).join("segments").is_dir(), "a clean stop seals the log");
}
