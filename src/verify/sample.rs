//! Which groups are compared, at which stamps, and all that is needed of the log for them.
//!
//! Both logs are read once, batch by batch; kept is what the sample needs, and a count of rows per group.
//!
//! Invariants: a sample costs what the sample costs, but for these passes; instants come from the sampled groups, half of
//! them from their events as the oracle reads them. Neighbours: `verify` asks, `offline` reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};

use super::expected::{Events, keys};
use super::oracle_facts::Sieve;
use super::recompute::Recompute;
use super::{Verifier, VerifyError, compute};
use crate::fold::columns::group_converter;
use crate::fold::entry::{Updates, hash_group};
use crate::fold::plan::Window;
use crate::fold::{Evaluation, Fold, Group};
use crate::offline::by_hash::ByHash;
use crate::offline::{OfflineError, Timeline};
use crate::plan::operator::ViewPlan;
use crate::time::{Ask, Epoch};

/// Further instants per view, served and corrected.
const INSTANTS: usize = 20;

/// A stamp to compare at: which part of the log, and the instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) epoch: Epoch,
    pub(super) at: i64,
    pub(super) name: &'static str,
}

/// Rows of one group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// In the updates log, less those taken back.
    pub(super) updates: i64,
    /// In the events, as the oracle reads them, where it can tell a group from an event.
    pub(super) events: Option<i64>,
    chosen: bool,
}

/// An update: (when served, when corrected, batch, row).
type Place = (i64, i64, usize, usize);

/// What is compared, and what is needed for it.
pub(super) struct Sample {
    groups: HashMap<Vec<u8>, Tally>,
    /// The chosen ones, in order, and where their updates are.
    chosen: BTreeMap<Vec<u8>, Vec<Place>>,
    batches: Vec<Updates>,
    /// The stream's name, and the events of all sources: at least those of the chosen groups.
    stream: String,
    pub(super) events: Events,
    /// (partition, offset) of the events on which an expression fails, if the oracle can tell.
    pub(super) refused: Option<BTreeSet<(i32, i64)>>,
}

impl Sample {
    /// Reads both logs up to an epoch.
    pub(super) fn take(
        verifier: &Verifier<'_>,
        view: usize,
        epoch: Epoch,
        recompute: &Recompute,
        sample: Option<usize>,
        rng: &mut StdRng,
    ) -> Result<Sample, VerifyError> {
        let planned = &verifier.plan.views[view];
        let mut taken = Sample {
            groups: HashMap::new(),
            chosen: BTreeMap::new(),
            batches: vec![],
            stream: planned.plan.stream.name.clone(),
            events: Events::new(),
            refused: None,
        };
        taken.count_updates(verifier, view, epoch)?;
        taken.choose(sample, rng);
        taken.keep_updates(verifier, view, epoch, sample.is_none())?;
        taken.keep_events(verifier, &planned.plan, epoch, recompute, sample.is_none())?;
        Ok(taken)
    }

    /// All groups that updates or events have.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&Vec<u8>, &Tally)> {
        self.groups.iter().collect::<BTreeMap<_, _>>().into_iter()
    }

    /// The groups that are compared.
    pub(super) fn chosen(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.chosen.keys()
    }

    /// Has the group updates?
    pub(super) fn has(&self, group: &[u8]) -> bool {
        self.groups.contains_key(group)
    }

    fn count_updates(&mut self, verifier: &Verifier<'_>, view: usize, epoch: Epoch) -> Result<(), VerifyError> {
        let shape = &verifier.plan.views[view].fold.shape;
        verifier.offline.updates(view, &None, epoch, &mut |updates| {
            for n in 0..updates.len() {
                let update = updates.get(n, shape);
                let diff = i64::from(update.entry.multiplicity());
                match self.groups.get_mut(update.group) {
                    Some(tally) => tally.updates += diff,
                    None => {
                        self.groups.insert(update.group.to_vec(), Tally { updates: diff, ..Tally::default() });
                    }
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    fn choose(&mut self, sample: Option<usize>, rng: &mut StdRng) {
        let mut all: Vec<&Vec<u8>> = self.groups.keys().collect();
        // A hash map has no order of its own: the seed alone decides.
        all.sort_unstable();
        if let Some(n) = sample {
            all.shuffle(rng);
            all.truncate(n);
        }
        self.chosen = all.into_iter().map(|group| (group.clone(), vec![])).collect();
        for group in self.chosen.keys() {
            self.groups.get_mut(group).expect("it was chosen from these").chosen = true;
        }
    }

    /// The chosen groups' updates, each with when it counts.
    fn keep_updates(
        &mut self,
        verifier: &Verifier<'_>,
        view: usize,
        epoch: Epoch,
        all: bool,
    ) -> Result<(), VerifyError> {
        let timeline = verifier.offline.timeline()?;
        let shape = &verifier.plan.views[view].fold.shape;
        let mut hashes: Vec<u64> = self.chosen.keys().map(|group| hash_group(group)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let mut keep = |updates: Updates| {
            for n in 0..updates.len() {
                let u = updates.get(n, shape);
                let Some(places) = self.chosen.get_mut(u.group) else { continue };
                // One that no commit covers was never visible.
                let visible = timeline.visible(Epoch(u.epoch)).unwrap_or(i64::MAX);
                places.push((visible.max(u.counts_from), u.counts_from, self.batches.len(), n));
            }
            self.batches.push(updates);
        };
        if all {
            verifier.offline.updates(view, &None, epoch, &mut |updates| {
                keep(updates);
                Ok(())
            })?;
            return Ok(());
        }
        let mut walk = ByHash::new(verifier.offline, view, &Some(hashes.clone().into()), epoch)?;
        for hash in hashes {
            let mut updates = Updates::of(verifier.offline.store().ids().view(view));
            walk.take(hash, &mut updates)?;
            keep(updates);
        }
        Ok(())
    }

    /// The logged events of every source of the view; of a stream that a sieve can look at, those of the chosen groups.
    fn keep_events(
        &mut self,
        verifier: &Verifier<'_>,
        plan: &ViewPlan,
        epoch: Epoch,
        recompute: &Recompute,
        all: bool,
    ) -> Result<(), VerifyError> {
        let sieve = recompute.sieve()?;
        if sieve.as_ref().is_some_and(|s| s.alone) {
            self.refused = Some(BTreeSet::new());
            self.groups.values_mut().for_each(|tally| tally.events = Some(0));
        }
        let converter = group_converter(&plan.fold).map_err(compute)?;
        for source in std::iter::once(&plan.stream).chain(plan.joins.iter().map(|j| &j.table)) {
            let Some(index) = verifier.plan.source_index(&source.name) else { continue };
            let (mut kept, mut failed) = (vec![], None);
            let read = verifier.offline.events(index, epoch, &mut |batch| {
                let sifted = match &sieve {
                    Some(sieve) if source.name == self.stream => self.sift(sieve, &converter, plan, batch, all),
                    _ => Ok(Some(batch)),
                };
                sifted.map(|batch| kept.extend(batch)).map_err(|e| {
                    failed = Some(e);
                    OfflineError::Stopped
                })
            });
            match failed {
                Some(e) => return Err(e),
                None => read?,
            }
            self.events.insert(source.name.clone(), kept);
        }
        Ok(())
    }

    /// Counts a batch's events by group; returns those that are needed.
    fn sift(
        &mut self,
        sieve: &Sieve,
        converter: &arrow::row::RowConverter,
        plan: &ViewPlan,
        batch: RecordBatch,
        all: bool,
    ) -> Result<Option<RecordBatch>, VerifyError> {
        let sifted = sieve.sift(&batch).map_err(compute)?;
        if let Some(refused) = &mut self.refused {
            refused.extend(sifted.refused);
        }
        let mut needed = vec![];
        for (key, place) in keys(converter, plan, &sifted.groups, sifted.rows.len())?.into_iter().zip(sifted.rows) {
            let tally = match self.groups.get_mut(&key) {
                Some(tally) => tally,
                // With joins an event may come to nothing; alone it has an update.
                None if !sieve.alone => continue,
                None => self.groups.entry(key).or_default(),
            };
            if sieve.alone {
                tally.events = Some(tally.events.unwrap_or(0) + 1);
            }
            if tally.chosen {
                needed.push(place);
            }
        }
        if all {
            return Ok(Some(batch));
        }
        if needed.is_empty() {
            return Ok(None);
        }
        take_record_batch(&batch, &UInt32Array::from(needed)).map(Some).map_err(compute)
    }

    /// Instants at and around events and window edges, in both modes. `lengths`: those in the query's text.
    pub(super) fn stamps(
        &self,
        fold: &Fold,
        lengths: &[i64],
        epoch: Epoch,
        timeline: &Timeline,
        rng: &mut StdRng,
    ) -> Vec<Stamp> {
        let windows = fold.plan.aggregates.iter().map(|a| a.window).chain([fold.plan.admit]);
        let edges = windows.flat_map(|w| [Some(w.from), w.until]).flatten().chain(lengths.iter().copied());
        let edges: Vec<i64> = edges.filter(|edge| *edge > 0 && *edge != Window::FOREVER).collect();
        let updates: Vec<&Place> = self.chosen.values().flatten().collect();
        let mut stamps = vec![];
        for n in 0..INSTANTS {
            // Half of them know nothing of how the fold reads an event.
            let read = if n % 2 == 0 { self.event(rng) } else { None };
            let Some((event_time, seen)) = read.or_else(|| {
                let &&(_, _, batch, row) = updates.choose(rng)?;
                let update = self.batches[batch].get(row, &fold.shape);
                Some((update.entry.event_time(), update.counts_from.max(update.epoch.cast_signed())))
            }) else {
                break;
            };
            let edge = edges.choose(rng).copied().unwrap_or(0);
            let at = match n / 2 % 5 {
                0 => event_time,
                1 => event_time.saturating_add(edge),
                2 => event_time.saturating_add(edge).saturating_sub(1),
                3 => seen,
                _ => event_time.saturating_add(rng.random_range(0..=edge.max(1))),
            };
            stamps.push(Stamp { epoch: timeline.served(Ask(at)).min(epoch), at, name: "served" });
            stamps.push(Stamp { epoch, at, name: "corrected" });
        }
        stamps
    }

    /// Event time and epoch of some event of the stream.
    fn event(&self, rng: &mut impl Rng) -> Option<(i64, i64)> {
        let batches: Vec<&RecordBatch> = self.events.get(&self.stream)?.iter().filter(|b| b.num_rows() > 0).collect();
        let rows: usize = batches.iter().map(|b| b.num_rows()).sum();
        let mut row = (rows > 0).then(|| rng.random_range(0..rows))?;
        for batch in batches {
            if row < batch.num_rows() {
                let time = |name| Some(batch.column_by_name(name)?.as_primitive::<TimestampMicrosecondType>());
                let (event, epoch) = (time("_event_time")?, time("_epoch")?);
                return event.is_valid(row).then(|| (event.value(row), epoch.value(row)));
            }
            row -= batch.num_rows();
        }
        None
    }
}

/// A group's answers at the stamps, from its updates alone.
pub(super) fn answers(fold: &Fold, sample: &Sample, group: &[u8], stamps: &[Stamp]) -> Vec<Evaluation> {
    let updates = &sample.chosen[group];
    let mut answers: Vec<Option<Evaluation>> = vec![None; stamps.len()];
    for served in [true, false] {
        let mut order: Vec<usize> = (0..stamps.len()).filter(|s| (stamps[*s].name == "served") == served).collect();
        order.sort_by_key(|s| stamps[*s].at);
        let available = |u: &Place| if served { u.0 } else { u.1 };
        let mut sorted = updates.clone();
        sorted.sort_by_key(available);
        let (mut state, mut next) = (Group::new(fold), 0);
        for s in order {
            let at = stamps[s].at;
            while let Some(place) = sorted.get(next).filter(|u| available(u) <= at) {
                state.apply(&sample.batches[place.2].get(place.3, &fold.shape), at, fold);
                next += 1;
            }
            state.advance(at, fold);
            answers[s] = Some(state.evaluate(at, fold));
        }
    }
    answers.into_iter().map(|a| a.expect("every stamp is served or not")).collect()
}
