//! What the compiler and clippy do not see of the architecture: headers, the order of modules, who may use which crate,
//! and which test stands for which rule.
//!
//! The order of `src/lib.rs` is the architecture: a module uses only modules declared above it. Code for tests is free.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crates that only some files may use: (crate, files or folders, why).
const OWNERS: [(&str, &[&str], &str); 7] = [
    ("rocksdb", &["state/"], "keys and formats are known in one place"),
    (
        "rdkafka",
        &["source/kafka.rs", "source/client.rs", "source/watch.rs", "source/broker.rs"],
        "one client of Kafka; the demo makes a broker of its own",
    ),
    ("timely", &["dataflow/", "telemetry/lag.rs", "engine.rs"], "engine.rs starts and wakes the workers"),
    ("differential_dataflow", &["dataflow/"], "only the dataflow computes incrementally"),
    ("axum", &["serve/"], "a protocol is an edge: what is answered is decided before it"),
    ("tonic", &["serve/"], "a protocol is an edge: what is answered is decided before it"),
    ("anyhow", &["cli/"], "below the commands an error is a type"),
];

/// The exact rules that the design numbers.
const RULES: usize = 37;

/// A source file without its comments and its tests.
struct File {
    /// Below `src/`, with `/`.
    path: String,
    text: String,
    code: String,
}

impl File {
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().expect("a path has a start")
    }

    fn is_for_tests(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.ends_with("tests.rs") || name == "testing.rs" || self.path.contains("/tests/")
    }

    /// The names that follow this path in the code: `state` and `time` after `crate::`, in braces too.
    fn after(&self, start: &str) -> BTreeSet<String> {
        let word = |t: &str| t.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let mut found = BTreeSet::new();
        for (at, _) in self.code.match_indices(start) {
            // `headwater_crate::` is another word, and `super::super::` starts at its first step.
            if self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                || self.code[..at].ends_with("super::")
            {
                continue;
            }
            let rest = &self.code[at + start.len()..];
            match rest.strip_prefix('{') {
                Some(list) => {
                    let mut depth = 0;
                    let mut fresh = true;
                    for (n, c) in list.char_indices() {
                        match c {
                            '{' => depth += 1,
                            '}' if depth == 0 => break,
                            '}' => depth -= 1,
                            ',' if depth == 0 => fresh = true,
                            c if fresh && depth == 0 && c.is_alphabetic() => {
                                found.insert(word(&list[n..]));
                                fresh = false;
                            }
                            _ => {}
                        }
                    }
                }
                None => drop(found.insert(word(rest))),
            }
        }
        found
    }

    /// The modules of `lib.rs` that the code names: after `crate::`, and after as many `super::` as lead out of its own.
    fn uses(&self) -> BTreeSet<String> {
        let mut found = self.after("crate::");
        // `a.rs` and `a/mod.rs` are one step below the root, `a/b.rs` two. From there on `super::` is `crate::`.
        let steps = self.path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
        found.extend(self.after(&"super::".repeat(steps)));
        found
    }

    /// Does the code name this crate at the start of a path?
    fn names(&self, name: &str) -> bool {
        !self.after(&format!("{name}::")).is_empty() || self.code.contains(&format!("use {name};"))
    }
}

fn files() -> Vec<File> {
    fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            match path.is_dir() {
                true => walk(&path, into),
                false if path.extension().is_some_and(|e| e == "rs") => into.push(path),
                false => {}
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = vec![];
    walk(&src, &mut paths);
    paths.sort();
    let file = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("src is readable");
        let path = path.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
        let uncommented: Vec<&str> = text.lines().map(|l| l.find("//").map_or(l, |at| &l[..at])).collect();
        // Tests within a file are its last part.
        let tests = uncommented.windows(2).position(|w| w[0] == "#[cfg(test)]" && w[1].starts_with("mod tests {"));
        let code = uncommented[..tests.unwrap_or(uncommented.len())].join("\n");
        File { path, text, code }
    };
    let files: Vec<File> = paths.into_iter().map(file).collect();
    assert!(files.len() > 50, "these are not all files");
    files
}

#[track_caller]
fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let files = files();
    let starts = |f: &&File| f.text.starts_with("//! ") || f.path == "lib.rs";
    let problems: Vec<String> =
        files.iter().filter(|f| !starts(f)).map(|f| format!("src/{} does not start with `//!`", f.path)).collect();
    none(&problems);
}

#[test]
fn modules_use_only_those_above_them() {
    let files = files();
    let lib = files.iter().find(|f| f.path == "lib.rs").expect("there is one");
    let order: Vec<&str> = lib.code.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(order.len() > 10, "{order:?}");
    let place = |module: &str| order.iter().position(|m| *m == module);
    let mut problems = vec![];
    for file in files.iter().filter(|f| !f.is_for_tests()) {
        let Some(own) = place(file.module()) else { continue };
        let below = |m: &&String| place(m).is_some_and(|o| o > own);
        let uses = file.uses();
        let path = &file.path;
        problems.extend(
            uses.iter().filter(below).map(|m| format!("src/{path} uses `{m}`, which lib.rs declares below it")),
        );
        // A name for the whole crate would hide what is used of it.
        if file.code.contains("crate::*")
            || file.code.contains("use crate as")
            || file.code.contains("use crate::{self")
        {
            problems.push(format!("src/{path} names the whole crate"));
        }
    }
    none(&problems);
}

#[test]
fn paths_over_super_are_seen() {
    let file = |path: &str, code: &str| File { path: path.into(), text: String::new(), code: code.into() };
    let uses = |path: &str, code: &str| file(path, code).uses().into_iter().collect::<Vec<_>>();
    assert_eq!(uses("key.rs", "use super::plan::operator::ViewPlan;"), ["plan"]);
    assert_eq!(uses("state/mod.rs", "use super::{plan::Plan, time};"), ["plan", "time"]);
    assert_eq!(uses("state/redo.rs", "use super::cache::Cache; let x = super::super::plan::plan();"), ["plan"]);
    assert_eq!(uses("state/redo.rs", "use super::{cache, commit}; use crate::fold;"), ["fold"]);
    assert_eq!(uses("verify/a/b.rs", "use super::super::c; use super::super::super::engine::Node;"), ["engine"]);
}

#[test]
fn state_knows_no_expressions() {
    let mut problems = vec![];
    for file in files().iter().filter(|f| f.path.starts_with("state/") && !f.is_for_tests()) {
        for name in ["plan::operator", "plan::project", "plan::output", "datafusion::"] {
            if file.code.contains(name) {
                problems.push(format!("src/{} uses {name}: state keeps what it is given", file.path));
            }
        }
    }
    none(&problems);
}

#[test]
fn crates_have_owners() {
    let mut problems = vec![];
    for file in files().iter().filter(|f| !f.is_for_tests()) {
        for (name, owners, why) in OWNERS {
            if file.names(name) && !owners.iter().any(|o| file.path.starts_with(o)) {
                problems.push(format!("src/{} uses {name}, which only {owners:?} may: {why}", file.path));
            }
        }
    }
    none(&problems);
}

#[test]
fn the_batch_engine_shares_no_code_with_the_fold() {
    let files = files();
    let is_oracle = |f: &&File| f.path == "verify/recompute.rs" || f.path.starts_with("verify/oracle_");
    let oracle: Vec<&File> = files.iter().filter(is_oracle).collect();
    assert!(oracle.len() > 4, "they have moved");
    let mut problems = vec![];
    for file in oracle {
        for shared in ["plan", "fold", "dataflow", "exact_sum", "state", "offline"] {
            if file.uses().contains(shared) {
                problems.push(format!("src/{} uses `{shared}`, which it is there to check", file.path));
            }
        }
    }
    none(&problems);
}

/// Test functions by name: in `src/`, here and in Python.
fn test_names() -> BTreeSet<String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![top.join("src"), top.join("tests")];
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the checkout is readable") {
            let path = entry.expect("the checkout is readable").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if !path.extension().is_some_and(|e| e == "rs" || e == "py") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("code is text");
            let mut is_test = false;
            for line in text.lines().map(str::trim_start) {
                is_test |= line.starts_with("#[test]") || line.starts_with("def test_");
                let name = line.strip_prefix("fn ").or_else(|| line.strip_prefix("def "));
                let Some(name) = name.filter(|_| is_test) else { continue };
                names.insert(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn the_table_of_rules_names_tests_that_exist() {
    let names = test_names();
    assert!(names.len() > 150, "these are not all tests");
    let text = include_str!("README.md");
    let (mut problems, mut next) = (vec![], 1);
    for line in text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| rule")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [rule, _, tests, open] = cells[..] else { panic!("four cells: {line}") };
        if rule != next.to_string() {
            problems.push(format!("tests/README.md: after rule {} comes {rule}", next - 1));
        }
        next += 1;
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        let lost = named.iter().filter(|n| !names.contains(**n));
        problems.extend(lost.map(|n| format!("tests/README.md: rule {rule} names `{n}`, which is no test")));
        if named.is_empty() && (!tests.contains("no test") || open.is_empty()) {
            problems.push(format!("tests/README.md: rule {rule} names no test and does not say so"));
        }
    }
    assert_eq!(next - 1, RULES, "rules in tests/README.md");
    none(&problems);
}

/// Only where all tests run: `cargo test --release` by hand may do without.
#[test]
fn assertions_and_overflow_checks_run() {
    if std::env::var_os("HEADWATER_TEST_SKIPS").is_none() {
        return;
    }
    assert!(cfg!(debug_assertions), "scripts/test compiles with tests/profile.toml");
    let most = std::hint::black_box(u8::MAX);
    assert!(std::panic::catch_unwind(|| most + 1).is_err(), "overflow is not noticed");
}
