//! `headwater run`: consumes the sources and serves, until SIGTERM or SIGINT.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::replay::replay_into;
use super::signals::stop_on_signals;
use super::{Common, Failure, Outcome, note, say};
use crate::config::{self, Config, Listen};
use crate::definition::{Definitions, Source};
use crate::diagnostic::spoken;
use crate::engine::{EngineError, Node, Settings};
use crate::housekeeping::{Housekeeping, Pace};
use crate::online::Online;
use crate::plan::Plan;
use crate::serve::Servers;
use crate::serve::http::HttpState;
use crate::source::kafka::KafkaSettings;
use crate::source::live::{Live, Ticks};
use crate::source::replay::{ReplayClock, ReplayError};
use crate::state::commit::ClockKind;
use crate::telemetry::Metrics;
use crate::time::{Clock, Epoch};

/// Between two tries to read a history.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct RunArgs {
    /// Timely workers; default 1.
    #[arg(long)]
    workers: Option<String>,
    /// What gives events their epochs. Under record and event, nothing is read before every topic can be.
    #[arg(long, value_enum, default_value = "wall")]
    clock: ClockArg,
    /// Kafka brokers, where the definitions do not name them.
    #[arg(long)]
    brokers: Option<String>,
    /// HOST:PORT, HOST:0 for a free port, or off; default 127.0.0.1:6566.
    #[arg(long)]
    http: Option<String>,
    /// HOST:PORT, HOST:0 for a free port, or off; default 127.0.0.1:8815.
    #[arg(long)]
    grpc: Option<String>,
    /// HOST:PORT, HOST:0 for a free port, or off; not built yet, so always off.
    #[arg(long)]
    resp: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum ClockArg {
    /// The machine's clock.
    Wall,
    /// What is there at the start is replayed first, by the records' own times.
    Record,
    /// What is there at the start is replayed first, by event times.
    Event,
}

impl ClockArg {
    /// What is replayed under, before events come live.
    fn history(self) -> Option<ReplayClock> {
        match self {
            ClockArg::Wall => None,
            ClockArg::Record => Some(ReplayClock::Record),
            ClockArg::Event => Some(ReplayClock::Event),
        }
    }
}

pub(super) fn run(args: &RunArgs) -> Outcome {
    let (definitions, plan) = args.common.plan()?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(&stop)?;
    let data_dir = args.common.data_dir();
    let flags = [
        ("workers.count", &args.workers),
        ("kafka.brokers", &args.brokers),
        ("http.listen", &args.http),
        ("grpc.listen", &args.grpc),
        ("resp.listen", &args.resp),
    ];
    let config = settings(&args.common, &flags)?;
    let listen = |l: &Listen| match l {
        Listen::At(address) => address.clone(),
        Listen::Off => "off".to_string(),
    };
    let serving = Serving {
        definitions: &definitions,
        plan: &plan,
        data_dir: &data_dir,
        workers: config.workers.unwrap_or(1),
        history: args.clock.history(),
        kafka: kafka_settings(&config),
        http: &listen(&config.http),
        grpc: &listen(&config.grpc),
        commit: config.commit,
        pace: Pace::of(&config),
    };
    serve_node(&serving, &stop, &mut SayReady)
}

/// What a serving node is made of; the same for `run` and `demo`.
pub(super) struct Serving<'a> {
    pub(super) definitions: &'a Definitions,
    pub(super) plan: &'a Arc<Plan>,
    pub(super) data_dir: &'a Path,
    pub(super) workers: usize,
    /// Under which clock to replay what is there at the start, if that comes first.
    pub(super) history: Option<ReplayClock>,
    pub(super) kafka: KafkaSettings,
    /// `HOST:PORT`, `HOST:0` or `off`, as the two below.
    pub(super) http: &'a str,
    pub(super) grpc: &'a str,
    /// Ticks and syncs.
    pub(super) commit: config::Commit,
    /// Writing back and sealing.
    pub(super) pace: Pace,
}

/// The settings of a deployment: file, then environment, then flags.
pub(super) fn settings(common: &Common, flags: &[(&str, &Option<String>)]) -> Result<Config, Failure> {
    let flags: Vec<(&str, &str)> = flags.iter().filter_map(|(n, v)| Some((*n, v.as_deref()?))).collect();
    Config::load(&common.dir, std::env::vars(), &flags).map_err(|e| Failure::Usage(e.into()))
}

/// How to reach Kafka.
pub(super) fn kafka_settings(config: &Config) -> KafkaSettings {
    KafkaSettings {
        brokers: config.kafka.brokers.clone(),
        group: config.kafka.group_id.clone(),
        properties: config.kafka.properties.clone(),
    }
}

/// Where a node serves: `HOST:PORT` each, or nothing where it is off.
#[derive(Clone, Debug, Default)]
pub(super) struct Ready {
    pub(super) http: Option<String>,
    pub(super) grpc: Option<String>,
    pub(super) resp: Option<String>,
    pub(super) epoch: u64,
}

impl std::fmt::Display for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = |at: &Option<String>| at.clone().unwrap_or_else(|| "off".into());
        let (http, grpc, resp) = (place(&self.http), place(&self.grpc), place(&self.resp));
        write!(f, "ready http={http} grpc={grpc} resp={resp} epoch={}", Epoch(self.epoch))
    }
}

/// Who is told how a serving node does.
pub(super) trait Observer {
    /// It serves from now on.
    ///
    /// # Errors
    /// It cannot be said.
    fn ready(&mut self, ready: &Ready) -> anyhow::Result<()>;
    /// Called between slices, at least every tenth of a second.
    fn turn(&mut self, node: &Node, live: &Live);
}

/// Prints the `ready` line, and is quiet from then on.
struct SayReady;

impl Observer for SayReady {
    fn ready(&mut self, ready: &Ready) -> anyhow::Result<()> {
        say(ready)
    }

    fn turn(&mut self, _: &Node, _: &Live) {}
}

/// Starts a node, reads the sources and serves, until `stop` is set; then stops at a commit.
pub(super) fn serve_node(serving: &Serving<'_>, stop: &Arc<AtomicBool>, observer: &mut dyn Observer) -> Outcome {
    let clock = Clock::Machine;
    let (dir, kafka) = (&serving.definitions.dir, &serving.kafka);
    let sync_always = serving.commit.sync == config::Sync::Always;
    let settings = Settings { workers: serving.workers, sync_always };
    let mut node = Node::open(Arc::clone(serving.plan), serving.data_dir, settings, &clock)?;
    if serving.history.is_none() {
        // Before anything is answered about the present.
        node.check_finished()?;
    }
    let online =
        Online::new(Arc::clone(serving.plan), Arc::clone(node.cache()), Arc::clone(node.offline()), clock.clone())?;
    let http = Arc::new(HttpState::new(Arc::new(online), Arc::clone(node.metrics())));
    let servers = Servers::start(serving.http, serving.grpc, &http, node.offline())?;
    let housekeeping = Housekeeping::start(&node, serving.pace, stop);
    let place = |at: Option<std::net::SocketAddr>| at.map(|at| at.to_string());
    let mut is_ready = false;
    let mut get_ready = |node: &Node| {
        // Once, and not for whoever has asked for the end already.
        if std::mem::replace(&mut is_ready, true) || stop.load(Ordering::Acquire) {
            return Ok(());
        }
        http.set_ready(true);
        let (http, grpc) = (place(servers.http), place(servers.grpc));
        observer.ready(&Ready { http, grpc, resp: None, epoch: node.cache().published().epoch })
    };
    // What was committed before is served while the dataflow recovers.
    if node.cache().published().epoch > 0 {
        get_ready(&node)?;
    }
    node.rebuild(stop)?;
    replay_first(serving, &mut node, stop, &mut get_ready)?;
    if !stop.load(Ordering::Acquire) {
        node.go_live()?;
    }
    let ticks = Ticks {
        busy: Duration::from_millis(serving.commit.tick_ms),
        idle: Duration::from_millis(serving.commit.idle_tick_ms),
    };
    let offsets = node.store().offsets()?;
    let mut live = Live::new(&serving.plan.sources, dir, kafka, offsets, &clock, ticks)?;
    live.remember(node.store().source_states()?);
    get_ready(&node)?;
    let outcome = follow(&mut node, &mut live, &clock, stop, observer);
    stop.store(true, Ordering::Release);
    // Clients first: they are told, and whoever is being answered still is.
    servers.stop();
    housekeeping.join();
    outcome?;
    node.stop()?;
    Ok(())
}

/// What is there now, where a history comes first and this directory has not gone live already.
///
/// While a topic cannot be read the node is ready with what it has, and tries again. It does not go live meanwhile: live
/// epochs are later than all of a history, so that it could never be replayed.
fn replay_first(
    serving: &Serving<'_>,
    node: &mut Node,
    stop: &Arc<AtomicBool>,
    get_ready: &mut dyn FnMut(&Node) -> anyhow::Result<()>,
) -> Outcome {
    let Some(clock) = serving.history else { return Ok(()) };
    if node.store().has_been_live()? {
        return Ok(());
    }
    let (dir, kafka) = (&serving.definitions.dir, &serving.kafka);
    let mut said = String::new();
    while !stop.load(Ordering::Acquire)
        && let Err(e) = replay_into(node, dir, clock, kafka, stop)
    {
        let out_of_reach =
            |source: &Source| e.downcast_ref::<ReplayError>().is_some_and(|e| e.is_out_of_reach(source, kafka));
        let missing: Vec<&Arc<Source>> = serving.plan.sources.iter().filter(|s| out_of_reach(s)).collect();
        if missing.is_empty() {
            return Err(e.into());
        }
        for source in missing {
            node.metrics().source(&source.name).reachable.set(0);
        }
        let why = spoken(e.as_ref());
        if why != said {
            note(format_args!("warning: {why}; trying again"));
            said = why;
        }
        get_ready(node)?;
        rest(node, stop)?;
    }
    Ok(())
}

/// Between two tries; it ends early where there is no reason for another.
fn rest(node: &mut Node, stop: &AtomicBool) -> Result<(), EngineError> {
    let begun = Instant::now();
    while begun.elapsed() < AGAIN && !stop.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(20));
        node.check()?;
    }
    Ok(())
}

/// Says how every partition stands, at most ten times a second.
fn report_partitions(live: &Live, metrics: &Metrics, passed: &mut Instant) {
    let elapsed = passed.elapsed();
    if elapsed < Duration::from_millis(100) {
        return;
    }
    *passed = Instant::now();
    for state in live.partitions() {
        let partition = metrics.source(&state.source).partition(state.partition);
        partition.next.raise(state.read);
        partition.bytes.raise(i64::try_from(state.taken.bytes).unwrap_or(i64::MAX));
        partition.set_assigned(true);
        match state.high {
            Some(high) => partition.high.set(high),
            None => partition.high.clear(),
        }
        // The oldest unread record was appended no earlier than the last one that was read.
        match state.taken.appended.filter(|_| partition.lag().is_some_and(|lag| lag > 0)) {
            Some(appended) => partition.oldest_unread.set(appended),
            None => partition.oldest_unread.clear(),
        }
    }
    for (source, trouble) in live.reachable() {
        let exported = metrics.source(source);
        exported.reachable.set(i64::from(trouble.is_none()));
        if trouble.is_some() {
            exported.partitions().iter().for_each(|(_, p)| p.set_assigned(false));
        }
    }
    metrics.pass(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
}

/// Feeds slices until told to stop.
fn follow(node: &mut Node, live: &mut Live, clock: &Clock, stop: &AtomicBool, observer: &mut dyn Observer) -> Outcome {
    let mut last = node.store().begins_after().max(Epoch(node.cache().published().epoch));
    let mut said = std::collections::BTreeMap::new();
    let (mut acknowledged, mut passed) = (Instant::now(), Instant::now());
    while !stop.load(Ordering::Acquire) {
        let begun = clock.now();
        let slice = live.next_slice(last)?;
        let nothing_came = slice.is_none();
        if let Some(slice) = slice {
            slice.gaps.iter().for_each(|gap| note(format_args!("warning: {gap}")));
            last = slice.last.unwrap_or(last);
            node.feed(slice, ClockKind::Wall)?;
        }
        node.check()?;
        // Nothing came in a whole tick: all that is known to have been appended before it is committed.
        if nothing_came
            && node.is_drained()
            && let Some(complete) = live.complete(begun)
        {
            node.metrics().set_complete(complete);
        }
        observer.turn(node, live);
        let troubles = live.troubles();
        let refused: BTreeSet<String> = live.refused().map(|(source, _)| source.to_string()).collect();
        for (source, why) in troubles.iter().filter(|(s, why)| said.get(*s) != Some(*why)) {
            if refused.contains(source) {
                // Kept, so that a restart does not go on as if nothing had been.
                node.store().refuse_source(source, why)?;
                note(format_args!("warning: `{source}` is not read any more: {why}"));
            } else {
                note(format_args!("warning: `{source}` cannot be read now: {why}; trying again"));
            }
        }
        for source in said.keys().filter(|s| !troubles.contains_key(*s)) {
            note(format_args!("`{source}` is read again"));
        }
        said = troubles;
        report_partitions(live, node.metrics(), &mut passed);
        if acknowledged.elapsed() > Duration::from_secs(1) {
            live.acknowledge(&node.store().offsets()?);
            acknowledged = Instant::now();
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
