//! A simulation: a seed decides everything that happens to a node, and after everything the same must hold.
//!
//! One thread, a clock that is set by hand, topics by script, RocksDB and segments in a temporary directory. The steps are
//! those of a node's threads (poll, worker, commit, write back, seal, read) in any order, and what befalls it: failing
//! writes, crashes, power losses, a clock that is set back, retention. See `world` for the steps, `check` for what holds.
//!
//! `scripts/simulate` runs it for as long as one likes. A failing seed prints its steps and how to run it again; put it
//! into `REGRESSIONS` then.

mod check;
mod disk;
mod model;
mod node;
mod topic;
mod world;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use headwater::definition::{self, Definitions};
use headwater::plan::{self, Plan};
use headwater::time::Clock;

use model::{DEFINITIONS, VIEWS};
use world::{Counts, End, World};

/// Steps of one history, and of one in eight, which gets to more of them: sealing over sealed parts, many recoveries.
const STEPS: usize = 60;
const MANY_STEPS: usize = 300;
/// One history in so many is compared with the batch engine, too, which takes longer than the history.
const VERIFIED: u64 = 16;
/// Histories of a normal test run, and where their seeds begin.
const SEEDS: u64 = 64;
const FROM: u64 = 1;

/// Seeds that found something once, and what.
const REGRESSIONS: [(u64, &str); 7] = [
    (6, "a joined view without a lower time bound: what it lost is absent, not expired"),
    (58, "a start that fails after a power loss is still a start after a power loss"),
    (72, "a row that is taken back before it counts leaves its event time in the log, and did not in a page"),
    (80, "a row was written for a group of which nothing was committed, and counted again after a crash"),
    (1888, "the witness was made, its maker died, and nobody put its name on the disk"),
    (2192, "an epoch that was lost with the power was given to other events, the clock being behind"),
    (1136, "as 72, of a group that is present"),
];

/// The definitions and their plan.
fn planned() -> (Rc<Definitions>, Arc<Plan>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(dir.path().join("dataflows")).expect("a directory");
    std::fs::write(dir.path().join("dataflows/all.sql"), DEFINITIONS).expect("a file");
    let definitions = definition::load(dir.path(), &BTreeMap::new()).unwrap_or_else(|e| panic!("{:#?}", e.problems));
    let plan = plan::plan(&definitions).unwrap_or_else(|e| panic!("{e:#?}"));
    (Rc::new(definitions), Arc::new(plan))
}

/// Prints the history of a world in which something did not hold.
struct Story {
    seed: u64,
    world: Rc<World>,
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed;
            eprintln!("{}seed {seed} failed; again: scripts/simulate --from {seed} --seeds 1", self.world.story());
        }
    }
}

/// One history.
fn run(seed: u64, definitions: &Rc<Definitions>, plan: &Arc<Plan>) -> Counts {
    let world = World::new(seed, definitions, plan);
    let story = Story { seed, world: Rc::clone(&world) };
    world.start(End::Nothing);
    for _ in 0..if seed % 8 == 0 { MANY_STEPS } else { STEPS } {
        world.step();
    }
    // To an end without faults: everything is read and committed.
    while world.failed.get() || world.node().is_none() {
        world.end(End::Crash);
    }
    world.calm();
    let node = world.node().expect("it runs");
    world.read_to_the_end(&node);
    world.quietly(|| {
        node.check_log(&world);
        node.check_now(&world);
        node.replay_some(&world, 10);
        if seed % VERIFIED == 0 {
            node.verify(&world, world.chance(0.5), &[world.pick(0..VIEWS.len())]);
        }
    });
    drop(node);
    drop(story);
    let counts = *world.counts.borrow();
    counts
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

#[test]
fn whatever_happens_the_same_holds() {
    let (definitions, plan) = planned();
    let minutes = number("HEADWATER_SIMULATION_MINUTES");
    let from = number("HEADWATER_SIMULATION_FROM");
    let seeds = number("HEADWATER_SIMULATION_SEEDS").or(minutes.map(|_| u64::MAX)).unwrap_or(SEEDS);
    let fresh = Clock::Machine.now().unsigned_abs();
    // By hand: only what was asked for.
    let extra =
        if from.is_none() { REGRESSIONS.iter().map(|(seed, _)| *seed).chain([fresh]).collect() } else { vec![] };
    if from.is_none() {
        eprintln!("fresh seed {fresh}");
    }
    let begun = Clock::Machine.mark();
    let in_time = || minutes.is_none_or(|m| Clock::Machine.since(begun).as_secs() < m * 60);
    let from = from.unwrap_or(FROM);
    let (mut sum, mut run_) = (Counts::default(), 0_u64);
    for seed in extra.into_iter().chain(from..from.saturating_add(seeds)) {
        if !in_time() {
            break;
        }
        sum = sum.and(run(seed, &definitions, &plan));
        run_ += 1;
        if run_ % 500 == 0 {
            eprintln!("{run_} seeds in {:?}: {sum:?}", Clock::Machine.since(begun));
        }
    }
    eprintln!("{run_} seeds in {:?}: {sum:?}", Clock::Machine.since(begun));
    assert!(sum.commits > 0 && sum.crashes > 0 && sum.answers > 0, "nothing happened");
}
