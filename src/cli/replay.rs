//! `headwater replay`: reads the sources to their end as fast as it can, commits, prints a summary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::bail;
use clap::{Args, ValueEnum};
use parking_lot::Mutex;

use super::progress::Progress;
use super::run::{kafka_settings, settings};
use super::{Common, Outcome, note, say};
use crate::engine::{Node, Settings};
use crate::event::EventBatch;
use crate::housekeeping::{Housekeeping, Pace};
use crate::source::kafka::KafkaSettings;
use crate::source::replay::{Replay, ReplayClock, ReplayError, Resume, Told};
use crate::state::commit::ClockKind;
use crate::telemetry::Metrics;
use crate::time::{Clock, Epoch};

/// Rows of a slice: one commit covers it.
pub(crate) const SLICE: usize = 50_000;

#[derive(Args)]
pub(super) struct ReplayArgs {
    /// What orders the history.
    #[arg(long, value_enum, default_value = "event")]
    clock: ClockArg,
    /// Timely workers; default 1.
    #[arg(long)]
    workers: Option<String>,
    /// Kafka brokers, where the definitions do not name them.
    #[arg(long)]
    brokers: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum ClockArg {
    /// Event times, as of a finished history: nothing is late.
    Event,
    /// The records' own times: as it would have been served.
    Record,
}

pub(super) fn run(args: &ReplayArgs) -> Outcome {
    let (definitions, plan) = args.common.plan()?;
    let clock = match args.clock {
        ClockArg::Event => ReplayClock::Event,
        ClockArg::Record => ReplayClock::Record,
    };
    let flags = [("workers.count", &args.workers), ("kafka.brokers", &args.brokers)];
    let config = settings(&args.common, &flags)?;
    let started = Instant::now();
    let workers = Settings { workers: config.workers.unwrap_or(1), sync_always: false };
    let mut node = Node::start(Arc::clone(&plan), &args.common.data_dir(), workers, &Clock::Machine)?;
    let stop = Arc::new(AtomicBool::new(false));
    let housekeeping = Housekeeping::start(&node, Pace::of_replay(&config), &stop);
    let kafka = kafka_settings(&config);
    let never = Arc::new(AtomicBool::new(false));
    let epochs = replay_into(&mut node, &definitions.dir, clock, &kafka, &never);
    stop.store(true, Ordering::Release);
    housekeeping.join();
    let epochs = epochs?;
    let progress = node.stop()?;
    let seconds = started.elapsed().as_secs_f64();
    say(format!(
        "events={} quarantined={} epochs={epochs} commits={} seconds={seconds:.3} events_per_second={:.0}",
        progress.events,
        progress.rejected,
        progress.commits,
        progress.events as f64 / seconds,
    ))?;
    Ok(())
}

/// Replays all sources into a node, or up to where `stop` is set; returns the number of epochs. Where it fails it may be
/// tried again.
pub(crate) fn replay_into(
    node: &mut Node,
    dir: &std::path::Path,
    clock: ReplayClock,
    kafka: &KafkaSettings,
    stop: &Arc<AtomicBool>,
) -> Result<u64, anyhow::Error> {
    let kind = match clock {
        ReplayClock::Event => ClockKind::Event,
        ReplayClock::Record => ClockKind::Record,
    };
    if node.store().has_been_live()? {
        bail!(
            "{} has been live (`headwater run`): what was answered about the past would change with a replay; \
             use another --data-dir",
            node.store().dir().display()
        );
    }
    // What an earlier try has fed must be in the store before that is asked where to go on.
    node.drain()?;
    let last = node.store().last_commit()?;
    let resume = Resume {
        offsets: node.store().offsets()?,
        sorted: node.store().sorted_positions()?,
        last: last.map(|c| Epoch(c.last)),
        states: node.store().source_states()?,
    };
    let sources = node.plan().sources.clone();
    let progress = Arc::new(Mutex::new(Progress::new()));
    let told = telling(&progress, node.metrics(), stop);
    let mut replay = match Replay::telling(&sources, dir, clock, kafka, &resume, told) {
        Err(ReplayError::Stopped) => return Ok(0),
        replay => replay?,
    };
    let mut epochs = 0;
    while !stop.load(Ordering::Acquire) {
        let slice = match replay.next_slice(SLICE) {
            Ok(Some(slice)) => slice,
            Ok(None) | Err(ReplayError::Stopped) => break,
            Err(e) => return Err(e.into()),
        };
        epochs += epochs_of(&slice);
        let taken: Vec<_> = slice.batches.iter().map(|(s, b)| (Arc::clone(s), b.num_rows())).collect();
        slice.gaps.iter().for_each(|gap| note(format_args!("warning: {gap}")));
        node.feed(slice, kind)?;
        taken.iter().for_each(|(source, rows)| progress.lock().take(&source.name, *rows as u64));
    }
    node.drain()?;
    progress.lock().finish();
    Ok(epochs)
}

/// Says how far the reading is, and ends it where `stop` is set: it may take long before there is a first slice.
fn telling(progress: &Arc<Mutex<Progress>>, metrics: &Arc<Metrics>, stop: &Arc<AtomicBool>) -> Told {
    let (progress, metrics, stop) = (Arc::clone(progress), Arc::clone(metrics), Arc::clone(stop));
    Box::new(move |source, records| {
        if records > 0 {
            progress.lock().read(source, records);
            // One that could not be reached before.
            let reachable = &metrics.source(source).reachable;
            if reachable.get() == Some(0) {
                reachable.set(1);
            }
        }
        !stop.load(Ordering::Acquire)
    })
}

/// Distinct epochs of a slice.
fn epochs_of(slice: &crate::source::Slice) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    for (_, batch) in &slice.batches {
        let events = EventBatch::new(batch.clone()).expect("sources give rows in their row schema");
        // In order within a source: only changes need a look-up.
        let mut previous = None;
        for epoch in events.epochs() {
            if previous != Some(*epoch) {
                previous = Some(*epoch);
                seen.insert(*epoch);
            }
        }
    }
    seen.len() as u64
}
