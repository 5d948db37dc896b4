//! `headwater verify`: recomputes from the event log with the batch engine and compares bit by bit.

use clap::Args;

use super::{Common, Failure, Outcome, note, say};
use crate::online::find_view;
use crate::source::Gap;
use crate::time::{Clock, Epoch, parse_instant};
use crate::verify::{Request, Verifier, offsets};

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Views; all if none is named.
    views: Vec<String>,
    /// Compare this many groups of each view.
    #[arg(long, conflicts_with = "all", default_value_t = 100)]
    sample: usize,
    /// Compare every group; check segments, commits, offsets and blocks first.
    #[arg(long)]
    all: bool,
    /// As of this commit; default the last.
    #[arg(long)]
    epoch: Option<String>,
    /// For the choice of groups and instants; default a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &VerifyArgs) -> Outcome {
    let (definitions, plan) = args.common.plan()?;
    let views = match args.views[..] {
        [] => (0..plan.views.len()).collect(),
        _ => args.views.iter().map(|v| find_view(&plan, v)).collect::<Result<Vec<_>, _>>()?,
    };
    let epoch = match &args.epoch {
        None => None,
        Some(text) => {
            let parsed = parse_instant(text).and_then(|e| u64::try_from(e).ok());
            let wrong =
                || anyhow::anyhow!("--epoch takes an instant such as 2026-11-20T21:00:00.123456Z, not `{text}`");
            Some(Epoch(parsed.ok_or_else(|| Failure::Usage(wrong()))?))
        }
    };
    let seed = args.seed.unwrap_or_else(|| Clock::Machine.now().unsigned_abs());
    note(format_args!("seed {seed}"));
    let reader = args.common.reader(&plan)?;
    let (store, offline) = (&reader.store, &reader.offline);
    let mut failed = false;
    if args.all {
        let stored = store.check_all()?;
        let segments = offline.check_segments()?;
        let offsets::Found { records, gaps, problems } = offsets::check(&plan, store, offline)?;
        for problem in &problems {
            say(format!("log: {problem}"))?;
        }
        // A loss that is recorded is no inconsistency; but nobody should read past it.
        for gap in &gaps {
            say(format!("log: {gap}"))?;
        }
        failed |= !problems.is_empty();
        let lost: u64 = gaps.iter().map(Gap::records).sum();
        say(format!(
            "log: commits={} segments={segments} tail_records={} pages={} records={records} gaps={} lost={lost} problems={}",
            stored.commits,
            stored.records,
            stored.pages,
            gaps.len(),
            problems.len()
        ))?;
    }
    let cache = reader.pages(None)?;
    let verifier = Verifier { definitions: &definitions, plan: &plan, cache: &cache, offline };
    let sample = (!args.all).then_some(args.sample);
    let request = Request { views, sample, epoch, seed, present: Clock::Machine.now() };
    let (mut checked, mut differing) = (0, 0);
    for &view in &request.views {
        let report = verifier.view(view, &request)?;
        for difference in &report.differences {
            say(format!("DIFFERS {difference}"))?;
        }
        say(format!(
            "{}: groups={} stamps={} checked={} pages_compared={} histories_compared={} refused={} differing={}",
            report.view,
            report.groups,
            report.stamps,
            report.checked,
            report.pages_compared,
            report.histories_compared,
            report.refused,
            report.differing
        ))?;
        checked += report.checked;
        differing += report.differing;
    }
    say(format!("checked={checked} differing={differing}"))?;
    failed |= differing > 0;
    if checked == 0 && offline.timeline()?.last() > Epoch::ZERO {
        say("nothing was compared, although there are commits: this proves nothing")?;
        failed = true;
    }
    if failed { Err(Failure::Check) } else { Ok(()) }
}
