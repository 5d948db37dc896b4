//! `headwater run`: consumes the sources and serves, until SIGTERM or SIGINT.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use super::replay::replay_into;
use super::{Common, Failure, Outcome, say};
use crate::engine::{Housekeeping, Node, Settings};
use crate::source::kafka::KafkaSettings;
use crate::source::live::{Live, Ticks};
use crate::source::replay::ReplayClock;
use crate::state::commit::ClockKind;
use crate::time::{Clock, Epoch};

#[derive(Args)]
pub(super) struct RunArgs {
    /// Timely workers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// wall; or record or event: what is there at the start is replayed first.
    #[arg(long, default_value = "wall", value_parser = ["wall", "record", "event"])]
    clock: String,
    /// Kafka brokers, where the definitions do not name them.
    #[arg(long, env = "HEADWATER_KAFKA_BROKERS")]
    brokers: Option<String>,
    /// HOST:PORT, HOST:0 for a free port, or off.
    #[arg(long, default_value = "127.0.0.1:6566")]
    http: String,
    /// HOST:PORT, HOST:0 for a free port, or off.
    #[arg(long, default_value = "127.0.0.1:8815")]
    grpc: String,
    /// HOST:PORT, HOST:0 for a free port, or off.
    #[arg(long, default_value = "127.0.0.1:6380")]
    resp: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &RunArgs) -> Outcome {
    let (definitions, plan) = args.common.plan()?;
    let stop = Arc::new(AtomicBool::new(false));
    let clock = Clock::Machine;
    let kafka = KafkaSettings { brokers: args.brokers.clone(), ..KafkaSettings::default() };
    let settings = Settings { workers: usize::from(args.workers), sync_always: false };
    let mut node = Node::start(Arc::clone(&plan), &args.common.data_dir(), settings, &clock)?;
    let housekeeping = Housekeeping::start(&node, &stop);
    replay_first(args, &mut node, &definitions.dir, &kafka)?;
    let ticks = Ticks { busy: Duration::from_millis(2), idle: Duration::from_millis(100) };
    let offsets = node.store().offsets()?;
    let mut live = Live::new(&plan.sources, &definitions.dir, &kafka, offsets, &clock, ticks)?;
    say(format!("ready http=off grpc=off resp=off epoch={}", Epoch(node.cache().published().epoch)));
    let outcome = follow(&mut node, &mut live, &stop);
    stop.store(true, Ordering::Release);
    housekeeping.join();
    outcome?;
    node.stop()?;
    Ok(())
}

/// Under `record` or `event`: what is there now, unless this directory has gone live already.
#[expect(clippy::print_stderr, reason = "an operator reads this")]
fn replay_first(
    args: &RunArgs,
    node: &mut Node,
    dir: &std::path::Path,
    kafka: &KafkaSettings,
) -> Result<(), Failure> {
    let (clock, kind) = match args.clock.as_str() {
        "event" => (ReplayClock::Event, ClockKind::Event),
        "record" => (ReplayClock::Record, ClockKind::Record),
        _ => return Ok(()),
    };
    if node.store().last_commit()?.is_some_and(|c| c.clock == ClockKind::Wall) {
        return Ok(());
    }
    if let Err(e) = replay_into(node, dir, clock, kind, kafka) {
        let unreachable = e.downcast_ref::<crate::source::replay::ReplayError>().is_some_and(|e| {
            use crate::source::kafka::KafkaError;
            use crate::source::replay::ReplayError;
            matches!(e, ReplayError::Kafka(KafkaError::Unreachable { .. } | KafkaError::UnknownTopic { .. }))
        });
        if !unreachable {
            return Err(e.into());
        }
        eprintln!("warning: {e:#}; going on live");
    }
    Ok(())
}

/// Feeds slices until told to stop.
#[expect(clippy::print_stderr, reason = "an operator reads this")]
fn follow(node: &mut Node, live: &mut Live, stop: &AtomicBool) -> Outcome {
    let mut last = Epoch(node.cache().published().epoch);
    let mut said = std::collections::BTreeMap::new();
    let mut acknowledged = Instant::now();
    while !stop.load(Ordering::Acquire) {
        if let Some(slice) = live.next_slice(last)? {
            last = slice.last.unwrap_or(last);
            node.feed(slice, ClockKind::Wall)?;
        }
        node.check()?;
        let troubles = live.troubles();
        for (source, why) in troubles.iter().filter(|(s, why)| said.get(*s) != Some(*why)) {
            eprintln!("warning: `{source}` cannot be read now: {why}; trying again");
        }
        said = troubles;
        for (source, gap) in live.take_gaps() {
            eprintln!(
                "warning: `{source}` partition {}: offsets {} to {} were gone before they were read",
                gap.partition, gap.from, gap.to
            );
        }
        if acknowledged.elapsed() > Duration::from_secs(1) {
            live.acknowledge(&node.store().offsets()?);
            acknowledged = Instant::now();
        }
    }
    Ok(())
}
