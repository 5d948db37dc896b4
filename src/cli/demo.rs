//! `headwater demo`: everything at once with no Kafka at hand.
//!
//! A broker in this process, a made-up shop that fills it, and then the very path of `run`: the shop's last hours are
//! replayed by their records' own times, so that windows are full and history has something to say, and from then on
//! events come live. Neighbours: `shop` makes the records; `run` serves.

use std::io::{IsTerminal, Write};
use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;

use super::run::{Observer, Ready, Serving, serve_node};
use super::shop::{CLICK_PARTITIONS, CLICKS, ITEMS, Shop, USERS};
use super::signals::stop_on_signals;
use super::{Common, Failure, Outcome, note, say};
use crate::config::Config;
use crate::definition::{Connector, Format};
use crate::engine::Node;
use crate::housekeeping::Pace;
use crate::plan::Plan;
use crate::source::broker::{Broker, Sender};
use crate::source::kafka::KafkaSettings;
use crate::source::live::Live;
use crate::source::replay::ReplayClock;
use crate::time::{Clock, format_instant};

/// How long the shop has been open when the demo starts, in µs.
const HISTORY: i64 = 12 * HOUR;
const HOUR: i64 = 3_600_000_000;
/// What happened in that time: far below what the broker keeps, so that all of it is there to be replayed.
const HISTORY_EVENTS: i64 = 40_000;
/// The user of the printed commands: neither busy nor quiet.
const USER: i64 = 42;

#[derive(Args)]
pub(super) struct DemoArgs {
    /// Events per second.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Timely workers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// HOST:PORT, HOST:0 for a free port, or off; default 127.0.0.1:6566, or a free port if it is taken.
    #[arg(long)]
    http: Option<String>,
    /// HOST:PORT, HOST:0 for a free port, or off; default 127.0.0.1:8815, or a free port if it is taken.
    #[arg(long)]
    grpc: Option<String>,
    /// HOST:PORT, HOST:0 for a free port, or off; not built yet, so always off.
    #[arg(long)]
    resp: Option<String>,
    /// Stop after this many seconds; default at Ctrl-C.
    #[arg(long)]
    seconds: Option<u64>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &DemoArgs) -> Outcome {
    let (definitions, plan) = args.common.plan()?;
    let schema = shop_sources(&plan)?;
    let data_dir = fresh_data_dir(args.common.data_dir.as_deref())?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(&stop)?;
    note(format_args!("state and log go to {}", data_dir.display()));

    let broker = Broker::start(&[(CLICKS, CLICK_PARTITIONS), (USERS, 1), (ITEMS, 1)])?;
    let mut shop = Shop::new(Clock::Machine.now().unsigned_abs(), schema);
    let sender = broker.sender()?;
    let opened = Clock::Machine.now();
    send_history(&mut shop, &sender, opened)?;
    write_labels(&labels_path(&data_dir), opened)?;
    let selling = sell(shop, sender, args.rate, &stop).context("no thread for the shop")?;

    let (http, grpc) = (place(args.http.as_deref(), "127.0.0.1:6566"), place(args.grpc.as_deref(), "127.0.0.1:8815"));
    let serving = Serving {
        definitions: &definitions,
        plan: &plan,
        data_dir: &data_dir,
        workers: usize::from(args.workers),
        history: Some(ReplayClock::Record),
        kafka: KafkaSettings {
            brokers: Some(broker.address()),
            // Unlike a real broker the mock answers a waiting fetch only when its time is up.
            properties: [("fetch.wait.max.ms".to_string(), "10".to_string())].into(),
            ..KafkaSettings::default()
        },
        http: &http,
        grpc: &grpc,
        commit: Config::default().commit,
        pace: Pace::default(),
    };
    let mut guide = Guide::new(args, &data_dir, &stop);
    let outcome = serve_node(&serving, &stop, &mut guide);
    stop.store(true, Ordering::Release);
    let sold = selling.join().unwrap_or_else(|_| Err(anyhow!("the shop panicked")));
    outcome?;
    sold?;
    guide.end();
    note(format_args!(
        "stopped at a commit; the commands that name {0} still work, and rm -r {0} removes it",
        data_dir.display()
    ));
    Ok(())
}

/// The schema of the items' payloads, if the definitions read the three topics that the shop fills.
fn shop_sources(plan: &Plan) -> Result<Arc<apache_avro::Schema>, Failure> {
    let format = |name: &str| {
        let of_topic = plan.sources.iter().find_map(|s| match &s.from {
            Connector::Kafka { topic, format, .. } if topic == name => Some(format),
            Connector::Kafka { .. } | Connector::File { .. } => None,
        });
        let missing =
            || anyhow!("the demo plays the shop of the shipped dataflows: no definition reads topic '{name}'");
        of_topic.ok_or_else(|| Failure::Usage(missing()))
    };
    format(CLICKS)?;
    format(USERS)?;
    match format(ITEMS)? {
        Format::Avro(schema) => Ok(Arc::clone(schema)),
        Format::Json | Format::Csv => {
            Err(Failure::Usage(anyhow!("the demo's items are Avro; '{ITEMS}' is read as other")))
        }
    }
}

/// A directory for this demo alone: the broker starts empty, so offsets of an earlier one would mean nothing.
fn fresh_data_dir(wanted: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dir = match wanted {
        Some(dir) => dir.to_path_buf(),
        None => std::env::temp_dir().join(format!("headwater-demo-{}-{}", std::process::id(), Clock::Machine.now())),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    if entries.next().is_some() {
        return Err(anyhow!("{} is not empty, and every demo starts anew; use another --data-dir", dir.display()));
    }
    Ok(dir)
}

/// What was asked for; or the usual place, and a free port beside it if another program has taken that.
fn place(asked: Option<&str>, usual: &str) -> String {
    if let Some(asked) = asked {
        return asked.to_string();
    }
    let free = usual.to_socket_addrs().is_ok_and(|mut at| at.all(|at| TcpListener::bind(at).is_ok()));
    if free { usual.to_string() } else { "127.0.0.1:0".into() }
}

/// The shop's last hours, with the times of then, ever busier towards now.
fn send_history(shop: &mut Shop, sender: &Sender, now: i64) -> anyhow::Result<()> {
    let from = now - HISTORY;
    for record in shop.opening(from)? {
        sender.send(&record)?;
    }
    for n in 0..HISTORY_EVENTS {
        let passed = (n as f64 / HISTORY_EVENTS as f64).sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "a share of twelve hours")]
        let at = from + 1_000 + (HISTORY as f64 * passed) as i64;
        sender.send(&shop.click(at))?;
        if n % 1_000 == 0 {
            for record in shop.catalogue(at)? {
                sender.send(&record)?;
            }
            sender.poll();
        }
    }
    sender.flush()?;
    Ok(())
}

/// Goes on selling, `rate` events a second, until told to stop.
fn sell(
    mut shop: Shop,
    sender: Sender,
    rate: u32,
    stop: &Arc<AtomicBool>,
) -> std::io::Result<JoinHandle<anyhow::Result<()>>> {
    let stop = Arc::clone(stop);
    let work = move || {
        let started = Instant::now();
        let (mut sent, mut seconds) = (0u64, 0u64);
        while !stop.load(Ordering::Acquire) {
            let passed = started.elapsed();
            let now = Clock::Machine.now();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let due = (passed.as_secs_f64() * f64::from(rate)) as u64;
            for _ in sent..due {
                sender.send(&shop.click(now))?;
            }
            sent = due;
            if passed.as_secs() > seconds {
                seconds = passed.as_secs();
                for record in shop.catalogue(now)? {
                    sender.send(&record)?;
                }
            }
            sender.poll();
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    };
    std::thread::Builder::new().name("shop".into()).spawn(work)
}

fn labels_path(data_dir: &Path) -> PathBuf {
    data_dir.join("demo-labels.csv")
}

/// Labels for a training set: a few users at instants of the last hours.
fn write_labels(path: &Path, now: i64) -> anyhow::Result<()> {
    let mut text = String::from("user_id,as_of,bought\n");
    for (n, hours) in [10, 6, 3, 1].into_iter().enumerate() {
        for user in [USER, 7, 1] {
            let as_of = format_instant(now - hours * HOUR);
            text.push_str(&format!("{user},{as_of},{}\n", n % 2));
        }
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Says what to try, then how it goes.
struct Guide<'a> {
    args: &'a DemoArgs,
    data_dir: &'a Path,
    stop: &'a AtomicBool,
    started: Instant,
    shown: Instant,
    every: Duration,
    events: u64,
    terminal: bool,
}

impl<'a> Guide<'a> {
    fn new(args: &'a DemoArgs, data_dir: &'a Path, stop: &'a AtomicBool) -> Guide<'a> {
        let terminal = std::io::stderr().is_terminal();
        let every = Duration::from_millis(if terminal { 500 } else { 5_000 });
        let now = Instant::now();
        Guide { args, data_dir, stop, started: now, shown: now, every, events: 0, terminal }
    }

    /// Commands as they can be pasted, with a word before each.
    fn commands(&self, ready: &Ready) -> Vec<(&'static str, String)> {
        let program = std::env::current_exe().map_or_else(|_| "headwater".into(), |p| quoted(&p));
        let mut place = format!("--data-dir {}", quoted(self.data_dir));
        if self.args.common.dir != Path::new(".") {
            place = format!("--dir {} {place}", quoted(&self.args.common.dir));
        }
        for (name, value) in &self.args.common.set {
            place.push_str(&format!(" --set {}", quoted(Path::new(&format!("{name}={value}")))));
        }
        let mut commands = vec![];
        if let Some(at) = &ready.http {
            let ask = r#"{"service":"home_ranker","entities":{"user_id":[42,43],"item_id":[7,8]}}"#;
            commands.extend([
                ("the features of a user", format!("curl -s http://{at}/v1/views/user_activity/{USER}")),
                ("of pairs, under one stamp", format!("curl -s http://{at}/v1/features -d '{ask}'")),
                ("every view and feature", format!("curl -s http://{at}/v1/views")),
                ("lag, freshness and the rest", format!("curl -s http://{at}/metrics | grep ^headwater_")),
            ]);
        }
        if let Some((host, port)) = ready.resp.as_deref().and_then(|at| at.rsplit_once(':')) {
            commands
                .push(("in Redis' protocol", format!("redis-cli -h {host} -p {port} HGETALL user_activity:{USER}")));
        }
        let labels = quoted(&labels_path(self.data_dir));
        let out = quoted(&self.data_dir.join("demo-training.csv"));
        let features = "user_activity:views_24h,user_activity:spend_7d,user_activity:last_item";
        commands.extend([
            ("the same, read beside the node", format!("{program} get user_activity {USER} {place}")),
            ("a view over a join", format!("{program} get category_sales books {place}")),
            ("recomputed by a second engine", format!("{program} verify --sample 50 {place}")),
            (
                "a training set: what the features were at past instants",
                format!("{program} history --labels {labels} --features {features} --out {out} {place} && cat {out}"),
            ),
            ("what was refused, and why", format!("{program} quarantine list {place} | tail -n 5")),
        ]);
        if let Some(at) = &ready.grpc {
            let ask = format!(
                "import sys, pyarrow.csv as c, pyarrow.flight as f; t = c.read_csv(sys.argv[1]); \
                 d = f.FlightDescriptor.for_command(b'{{\"point_in_time\":{{\"features\":[\"user_activity:*\"]}}}}'); \
                 w, r = f.connect(\"grpc://{at}\").do_exchange(d); w.begin(t.schema); w.write_table(t); \
                 w.done_writing(); [print(x) for x in r.read_all().to_pylist()]"
            );
            let command = format!("python3 -c '{}' {labels}", ask.replace('\'', r"'\''"));
            // What is printed can be pasted, and works on this machine.
            commands.push(match has_pyarrow() {
                true => ("the same over Arrow Flight", command),
                false => ("the same over Arrow Flight, after pip install pyarrow", format!("# {command}")),
            });
        }
        commands
    }

    /// Ends the live line.
    fn end(&self) {
        if self.terminal {
            note("");
        }
    }
}

impl Observer for Guide<'_> {
    fn ready(&mut self, ready: &Ready) -> anyhow::Result<()> {
        say(ready)?;
        for (why, command) in self.commands(ready) {
            say(format!("# {why}\n{command}"))?;
        }
        say("# Ctrl-C ends the demo")?;
        (self.started, self.shown) = (Instant::now(), Instant::now());
        Ok(())
    }

    fn turn(&mut self, node: &Node, live: &Live) {
        if self.args.seconds.is_some_and(|s| self.started.elapsed() >= Duration::from_secs(s)) {
            self.stop.store(true, Ordering::Release);
        }
        if self.events == 0 {
            self.events = node.progress().events; // those of the replay count as nobody's rate
        }
        let passed = self.shown.elapsed();
        if passed < self.every {
            return;
        }
        self.shown = Instant::now();
        let progress = node.progress();
        let rate = progress.events.saturating_sub(self.events) as f64 / passed.as_secs_f64();
        self.events = progress.events;
        let lag: i64 = live.partitions().iter().filter_map(|p| Some((p.high? - p.read).max(0))).sum();
        // The age of what a reader sees: a commit just now says nothing about the records that are still unread.
        let now = Clock::Machine.now();
        let age = node.metrics().complete().map(|complete| (now - complete).max(0) / 1_000);
        let age = age.map_or("unknown".to_string(), |ms| format!("{ms} ms"));
        let line = format!(
            "events {}  {rate:.0}/s  lag {lag} records  freshness {age}  quarantined {}",
            progress.events, progress.rejected
        );
        let mut out = std::io::stderr().lock();
        // Nobody is there to be told if standard error is closed.
        let _ = if self.terminal { write!(out, "\r{line}   ") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }
}

/// Does the Python that a shell would find read CSV files and speak Arrow Flight?
fn has_pyarrow() -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", "import pyarrow.csv, pyarrow.flight"]).stdin(Stdio::null());
    python.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_alphanumeric() || "/._-+=,:@".contains(c));
    if plain && !text.is_empty() { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
