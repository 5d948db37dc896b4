//! The node's settings: `headwater.toml`, overridden by environment variables, overridden by flags; checked at start.
//!
//! Every setting is a section and a key; the variable is `HEADWATER_SECTION_KEY`. A value is read from its text whatever
//! brought it, so all three say the same and fail the same.
//!
//! Invariants: what is not a setting is an error that names the nearest one. Neighbours: `cli` gathers the flags,
//! `engine` acts on what comes out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::definition::{listed, nearest};

/// The file's name in a deployment directory.
pub const FILE: &str = "headwater.toml";

/// Where a setting came from, as messages say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `headwater.toml`.
    File,
    /// An environment variable.
    Variable(String),
    /// A flag, by the setting it sets (`http.listen`).
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File => f.write_str(FILE),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "the flag for {name}"),
        }
    }
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: {problem}")]
    Toml {
        /// Which file.
        path: PathBuf,
        /// With line and column, and the line itself.
        problem: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting `{name}`; {help}")]
    Unknown {
        /// Who says so.
        origin: Origin,
        /// What was written.
        name: String,
        /// What to write.
        help: String,
    },
    /// The value does not fit.
    #[error("{origin}: `{value}` is not a value of {name}: {expected}")]
    Invalid {
        /// Who says so.
        origin: Origin,
        /// The setting.
        name: String,
        /// What was written.
        value: String,
        /// What fits.
        expected: String,
    },
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `HOST:PORT`; port 0 takes a free one.
    At(String),
    /// Not at all.
    Off,
}

/// When commits reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Each before it is visible.
    Always,
    /// All of an interval at once.
    Interval,
}

/// How Kafka is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kafka {
    /// Where definitions do not name any.
    pub brokers: Option<String>,
    /// The consumer group that lag is reported under.
    pub group_id: Option<String>,
    /// librdkafka's own properties.
    pub properties: BTreeMap<String, String>,
}

/// When epochs close and commits are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Milliseconds of a tick while there is input.
    pub tick_ms: u64,
    /// Milliseconds of a tick while there is none.
    pub idle_tick_ms: u64,
    /// When commits reach the disk.
    pub sync: Sync,
    /// Milliseconds between syncs, under `interval`.
    pub sync_interval_ms: u64,
}

/// When pages are written back and the log is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Seconds between write-backs, at most.
    pub write_back_seconds: u64,
    /// Events between write-backs, at most.
    pub write_back_events: u64,
    /// Events of a segment.
    pub seal_events: u64,
    /// Megabytes of pages kept in memory, about; `None`: all that were touched.
    pub memory_mb: Option<u64>,
}

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[kafka]`.
    pub kafka: Kafka,
    /// `[http] listen`.
    pub http: Listen,
    /// `[grpc] listen`.
    pub grpc: Listen,
    /// `[resp] listen`.
    pub resp: Listen,
    /// `[commit]`.
    pub commit: Commit,
    /// `[state]`.
    pub state: State,
    /// `[workers] count`; `None`: one.
    pub workers: Option<usize>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            kafka: Kafka::default(),
            http: Listen::At("127.0.0.1:6566".into()),
            grpc: Listen::At("127.0.0.1:8815".into()),
            resp: Listen::At("127.0.0.1:6380".into()),
            commit: Commit { tick_ms: 2, idle_tick_ms: 100, sync: Sync::Interval, sync_interval_ms: 100 },
            state: State {
                write_back_seconds: 30,
                write_back_events: 200_000,
                seal_events: 1_000_000,
                memory_mb: None,
            },
            workers: None,
        }
    }
}

/// A setting: section, key, and how its text is taken. An error says what fits.
struct Setting {
    section: &'static str,
    key: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

const SETTINGS: &[Setting] = &[
    Setting { section: "kafka", key: "brokers", set: |c, t| put(&mut c.kafka.brokers, some_text(t)) },
    Setting { section: "kafka", key: "group_id", set: |c, t| put(&mut c.kafka.group_id, some_text(t)) },
    Setting { section: "http", key: "listen", set: |c, t| put(&mut c.http, listen(t)) },
    Setting { section: "grpc", key: "listen", set: |c, t| put(&mut c.grpc, listen(t)) },
    Setting { section: "resp", key: "listen", set: |c, t| put(&mut c.resp, listen(t)) },
    Setting { section: "commit", key: "tick_ms", set: |c, t| put(&mut c.commit.tick_ms, positive(t)) },
    Setting { section: "commit", key: "idle_tick_ms", set: |c, t| put(&mut c.commit.idle_tick_ms, positive(t)) },
    Setting { section: "commit", key: "sync", set: |c, t| put(&mut c.commit.sync, sync(t)) },
    Setting {
        section: "commit",
        key: "sync_interval_ms",
        set: |c, t| put(&mut c.commit.sync_interval_ms, positive(t)),
    },
    Setting {
        section: "state",
        key: "write_back_seconds",
        set: |c, t| put(&mut c.state.write_back_seconds, positive(t)),
    },
    Setting {
        section: "state",
        key: "write_back_events",
        set: |c, t| put(&mut c.state.write_back_events, positive(t)),
    },
    Setting { section: "state", key: "seal_events", set: |c, t| put(&mut c.state.seal_events, positive(t)) },
    Setting { section: "state", key: "memory_mb", set: |c, t| put(&mut c.state.memory_mb, positive(t).map(Some)) },
    Setting { section: "workers", key: "count", set: |c, t| put(&mut c.workers, workers(t)) },
];

/// The section that takes any key.
const PROPERTIES: &str = "kafka.properties";

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn some_text(text: &str) -> Result<Option<String>, String> {
    if text.trim().is_empty() { Err("it is empty".into()) } else { Ok(Some(text.trim().to_string())) }
}

fn listen(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen::Off);
    }
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if fits { Ok(Listen::At(text.to_string())) } else { Err("write HOST:PORT (port 0 takes a free one) or off".into()) }
}

fn positive(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "write a whole number, at least 1".into())
}

fn sync(text: &str) -> Result<Sync, String> {
    match text {
        "always" => Ok(Sync::Always),
        "interval" => Ok(Sync::Interval),
        _ => Err("write always or interval".into()),
    }
}

fn workers(text: &str) -> Result<Option<usize>, String> {
    let fits = text.parse().ok().filter(|n| (1..=64).contains(n));
    fits.map(Some).ok_or_else(|| "write a whole number from 1 to 64".into())
}

impl Config {
    /// Reads the settings of a deployment directory. `flags` are settings by name (`http.listen`) with their values.
    ///
    /// # Errors
    /// [`ConfigError`]: the first problem, the file's before the environment's before the flags'. No file is no problem.
    pub fn load(
        dir: &Path,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Io { path, source }),
        };
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| ConfigError::Toml { path, problem: e.to_string() })?;
        let mut config = Config::default();
        config.take_table(&table, "")?;
        let mut env: Vec<(String, String)> = env.into_iter().collect();
        env.sort();
        for (name, value) in env {
            config.take_variable(&name, &value)?;
        }
        for (name, value) in flags {
            let (section, key) = name.split_once('.').unwrap_or(("", name));
            config.take(section, key, value, &Origin::Flag((*name).to_string()))?;
        }
        Ok(config)
    }

    fn take_table(&mut self, table: &toml::Table, section: &str) -> Result<(), ConfigError> {
        for (key, value) in table {
            let name = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
            match value {
                // A property may be written with its dots bare: `sasl.username` is then a table in a table.
                toml::Value::Table(inner) => self.take_table(inner, &name)?,
                toml::Value::String(text) => self.take_named(section, key, text)?,
                toml::Value::Array(_) => {
                    let expected = "write one value, not a list".into();
                    return Err(ConfigError::Invalid {
                        origin: Origin::File,
                        name,
                        value: value.to_string(),
                        expected,
                    });
                }
                other => self.take_named(section, key, &other.to_string())?,
            }
        }
        Ok(())
    }

    fn take_named(&mut self, section: &str, key: &str, text: &str) -> Result<(), ConfigError> {
        match section.strip_prefix(PROPERTIES).and_then(|s| s.strip_prefix('.')) {
            Some(start) => self.take(PROPERTIES, &format!("{start}.{key}"), text, &Origin::File),
            None => self.take(section, key, text, &Origin::File),
        }
    }

    fn take(&mut self, section: &str, key: &str, text: &str, origin: &Origin) -> Result<(), ConfigError> {
        if section == PROPERTIES {
            self.kafka.properties.insert(key.to_string(), text.to_string());
            return Ok(());
        }
        let name = if section.is_empty() { key.to_string() } else { format!("{section}.{key}") };
        let Some(setting) = SETTINGS.iter().find(|s| s.section == section && s.key == key) else {
            return Err(ConfigError::Unknown { origin: origin.clone(), help: help(section, key), name });
        };
        (setting.set)(self, text).map_err(|expected| ConfigError::Invalid {
            origin: origin.clone(),
            name,
            value: text.to_string(),
            expected,
        })
    }

    fn take_variable(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let Some(rest) = name.strip_prefix("HEADWATER_") else { return Ok(()) };
        let rest = rest.to_lowercase();
        let origin = Origin::Variable(name.to_string());
        if let Some(property) = rest.strip_prefix("kafka_properties_") {
            return self.take(PROPERTIES, &property.replace('_', "."), value, &origin);
        }
        // Definitions may use other variables of ours, and a cluster adds some named after its services.
        let sections = SETTINGS.iter().map(|s| s.section);
        let split = sections.filter_map(|s| Some((s, rest.strip_prefix(s)?.strip_prefix('_')?))).next();
        let Some((section, key)) = split.filter(|(_, key)| !of_a_service(key)) else { return Ok(()) };
        // An empty variable is one that was taken back.
        if value.is_empty() { Ok(()) } else { self.take(section, key, value, &origin) }
    }
}

/// Kubernetes gives every pod `NAME_SERVICE_HOST`, `NAME_PORT` and more for each service `NAME`.
fn of_a_service(key: &str) -> bool {
    key == "port" || key.starts_with("port_") || key.starts_with("service_")
}

/// What to write in place of an unknown setting.
fn help(section: &str, key: &str) -> String {
    let keys: Vec<&str> = SETTINGS.iter().filter(|s| s.section == section).map(|s| s.key).collect();
    if !keys.is_empty() {
        // A key cut short is too far off for a slip of the hand.
        let longer = || keys.iter().copied().find(|k| key.len() > 2 && k.starts_with(key));
        return match nearest(key, keys.iter().copied()).or_else(longer) {
            Some(near) => format!("did you mean `{section}.{near}`?"),
            None => format!("[{section}] has {}", listed(keys)),
        };
    }
    let names: Vec<String> = SETTINGS.iter().map(|s| format!("{}.{}", s.section, s.key)).collect();
    let written = if section.is_empty() { key.to_string() } else { format!("{section}.{key}") };
    if let Some(near) = nearest(&written, names.iter().map(String::as_str)) {
        return format!("did you mean `{near}`?");
    }
    let mut sections: Vec<&str> = SETTINGS.iter().map(|s| s.section).chain([PROPERTIES]).collect();
    sections.dedup();
    let first = written.split('.').next().unwrap_or_default();
    match nearest(first, sections.iter().copied()) {
        Some(near) => format!("did you mean the section [{near}]?"),
        None => format!("the sections are {}", listed(sections)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: Option<&str>, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if let Some(text) = file {
            std::fs::write(dir.path().join(FILE), text).expect("a file");
        }
        let env = env.iter().map(|(n, v)| (n.to_string(), v.to_string()));
        Config::load(dir.path(), env, flags).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        let config = load(None, &[("PATH", "/bin"), ("HEADWATER_TOPIC", "x")], &[]).expect("defaults");
        assert_eq!(config, Config::default());
        assert_eq!(load(Some(""), &[], &[]), Ok(Config::default()));
        assert_eq!(config.http, Listen::At("127.0.0.1:6566".into()));
        assert_eq!((config.commit.tick_ms, config.commit.idle_tick_ms, config.commit.sync), (2, 100, Sync::Interval));
    }

    #[test]
    fn flags_win_over_variables_and_those_over_the_file() {
        let check = |file: &str, env: &[(&str, &str)], flags: &[(&str, &str)], want: &str| {
            let got = load(Some(file), env, flags).expect("settings").http;
            assert_eq!(got, Listen::At(want.into()), "{file} {env:?} {flags:?}");
        };
        let file = "[http]\nlisten = '0.0.0.0:1'\n";
        let env = [("HEADWATER_HTTP_LISTEN", "0.0.0.0:2")];
        check(file, &[], &[], "0.0.0.0:1");
        check(file, &env, &[], "0.0.0.0:2");
        check(file, &env, &[("http.listen", "[::1]:0")], "[::1]:0");
        check(file, &[("HEADWATER_HTTP_LISTEN", "")], &[], "0.0.0.0:1");
        check(file, &[("HEADWATER_HTTP_SERVICE_HOST", "x"), ("HEADWATER_HTTP_PORT", "tcp://x:1")], &[], "0.0.0.0:1");
    }

    #[test]
    fn every_setting_is_read() {
        let file = "
            [kafka]
            brokers = 'a:9092,b:9092'
            group_id = 'features'
            [kafka.properties]
            sasl.username = 'me'
            'security.protocol' = 'ssl'
            'fetch.min.bytes' = 10
            [http]
            listen = 'off'
            [grpc]
            listen = 'localhost:0'
            [resp]
            listen = '0.0.0.0:6379'
            [commit]
            tick_ms = 5
            idle_tick_ms = 50
            sync = 'always'
            sync_interval_ms = 10
            [state]
            write_back_seconds = 1
            write_back_events = 2
            seal_events = 3
            memory_mb = 4
            [workers]
            count = 4";
        let got = load(Some(file), &[("HEADWATER_KAFKA_PROPERTIES_SASL_PASSWORD", "secret")], &[]).expect("settings");
        let properties = [
            ("sasl.username", "me"),
            ("security.protocol", "ssl"),
            ("fetch.min.bytes", "10"),
            ("sasl.password", "secret"),
        ];
        let want = Config {
            kafka: Kafka {
                brokers: Some("a:9092,b:9092".into()),
                group_id: Some("features".into()),
                properties: properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            },
            http: Listen::Off,
            grpc: Listen::At("localhost:0".into()),
            resp: Listen::At("0.0.0.0:6379".into()),
            commit: Commit { tick_ms: 5, idle_tick_ms: 50, sync: Sync::Always, sync_interval_ms: 10 },
            state: State { write_back_seconds: 1, write_back_events: 2, seal_events: 3, memory_mb: Some(4) },
            workers: Some(4),
        };
        assert_eq!(got, want);
        assert_ne!(got.commit, Config::default().commit);
    }

    #[test]
    fn problems_say_what_to_write() {
        let check = |file: &str, env: &[(&str, &str)], flags: &[(&str, &str)], want: &str| {
            let got = load(Some(file), env, flags).expect_err(file);
            assert!(got.contains(want), "{file}: {got}");
        };
        check(
            "[http]\nlisen = 'off'",
            &[],
            &[],
            "headwater.toml: there is no setting `http.lisen`; did you mean `http.listen`?",
        );
        check("[comit]\ntick_ms = 1", &[], &[], "did you mean `commit.tick_ms`?");
        check(
            "[commit]\ncolour = 1",
            &[],
            &[],
            "[commit] has `tick_ms`, `idle_tick_ms`, `sync` and `sync_interval_ms`",
        );
        check("[statte.deep]\nx = 1", &[], &[], "did you mean the section [state]?");
        check("[logging]\nx = 1", &[], &[], "the sections are `kafka`, `http`");
        check("workers = 2", &[], &[], "there is no setting `workers`; did you mean the section [workers]?");
        check("[http]\nlisten = '6566'", &[], &[], "`6566` is not a value of http.listen: write HOST:PORT");
        check("[http]\nlisten = ['a:1']", &[], &[], "write one value");
        check("[commit]\nsync = true", &[], &[], "`true` is not a value of commit.sync: write always or interval");
        check("[commit]\ntick_ms = 0", &[], &[], "at least 1");
        check("[commit]\ntick_ms = 1.5", &[], &[], "`1.5` is not a value");
        check("[kafka]\nbrokers = ' '", &[], &[], "it is empty");
        check("[http\nlisten = 'off'", &[], &[], "headwater.toml: TOML parse error at line 1");
        check("", &[("HEADWATER_WORKERS_COUNT", "0")], &[], "environment variable HEADWATER_WORKERS_COUNT: `0`");
        check(
            "",
            &[],
            &[("workers.count", "65")],
            "`65` is not a value of workers.count: write a whole number from 1 to 64",
        );
        check("", &[("HEADWATER_COMMIT_TICK", "5")], &[], "no setting `commit.tick`; did you mean `commit.tick_ms`?");
        check("", &[], &[("resp.listen", "x:99999")], "the flag for resp.listen: `x:99999`");
    }
}
