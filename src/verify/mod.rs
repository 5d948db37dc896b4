//! The consistency proof: pages, the updates log and a batch engine over the events log give one answer.
//!
//! For every group (or a sample) and for stamps taken with a printed seed from the view's events and window edges, the
//! query is recomputed by DataFusion over the logged events and compared bit by bit with what the fold makes of the
//! updates log and, where the pages can say, with the pages.
//!
//! Invariants: `recompute` shares no code with `plan`, `fold` and `dataflow`; only the comparison is here. A difference is
//! never rounded away. Neighbours: `offline` reads both logs; `cli` prints the report.

pub mod offsets;
pub mod recompute;

mod oracle_functions;
mod oracle_meaning;
mod oracle_numbers;
mod oracle_plan;
mod oracle_rows;
mod oracle_scalars;
#[cfg(test)]
mod oracle_tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::common::ScalarValue;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use crate::definition::Definitions;
use crate::fold::columns::group_converter;
use crate::fold::entry::Updates;
use crate::fold::plan::Window;
use crate::fold::{Evaluation, Fold, Group, Status};
use crate::key::EntityCodec;
use crate::offline::{Offline, OfflineError, Timeline};
use crate::plan::Plan;
use crate::plan::output::Outputs;
use crate::state::StateError;
use crate::state::cache::{Cache, Read};
use crate::time::{Ask, Epoch, format_instant};
use recompute::{Recompute, RecomputeError};

/// Further instants per view, served and corrected.
const INSTANTS: usize = 20;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log cannot be read.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// The batch engine failed.
    #[error(transparent)]
    Recompute(#[from] RecomputeError),
    /// Arrow or DataFusion refused; a bug.
    #[error("the answers could not be compared: {0}")]
    Compute(String),
    /// The asked epoch is not committed.
    #[error("epoch {epoch} is not committed; the last is {last}")]
    NotCommitted {
        /// What was asked for.
        epoch: Epoch,
        /// What there is.
        last: Epoch,
    },
    /// The asked epoch is past, and no commit's.
    #[error("no commit ends with epoch {epoch}; name the epoch of an answer; the last is {last}")]
    Unknown {
        /// What was asked for.
        epoch: Epoch,
        /// What there is.
        last: Epoch,
    },
}

/// What to verify.
#[derive(Clone, Debug)]
pub struct Request {
    /// Indices of views.
    pub views: Vec<usize>,
    /// How many groups of each; all of them if `None`.
    pub sample: Option<usize>,
    /// As of which commit; the last if `None`.
    pub epoch: Option<Epoch>,
    /// For the choice of groups and instants.
    pub seed: u64,
}

/// Two answers that should be one.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The view.
    pub view: String,
    /// The entity.
    pub entity: String,
    /// Where in time, and from which side.
    pub stamp: String,
    /// The feature, or `status`.
    pub feature: String,
    /// Who disagrees with the batch engine: `pages` or `updates`.
    pub source: &'static str,
    /// Its value.
    pub got: String,
    /// The batch engine's.
    pub expected: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { view, entity, stamp, feature, source, got, expected } = self;
        write!(f, "{view} {entity} {stamp} {feature}: {source} say {got}, the events say {expected}")
    }
}

/// The verdict on one view.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The view.
    pub view: String,
    /// Groups compared.
    pub groups: usize,
    /// Stamps compared.
    pub stamps: usize,
    /// Values compared.
    pub checked: u64,
    /// Values that differ.
    pub differing: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// Differences kept in a report.
const SHOWN: usize = 20;

/// A stamp to compare at: which part of the log, and the instant.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    epoch: Epoch,
    at: i64,
    name: &'static str,
}

/// Compares the views of a store.
pub struct Verifier<'a> {
    /// The definitions: the batch engine reads the text.
    pub definitions: &'a Definitions,
    /// The plan: the fold reads this.
    pub plan: &'a Arc<Plan>,
    /// Pages, redone up to the last commit.
    pub cache: &'a Cache,
    /// Both logs.
    pub offline: &'a Offline,
}

/// The updates of one group: (when served, when corrected, batch, row).
type GroupUpdates = Vec<(i64, i64, usize, usize)>;

/// Where the updates of every group are.
type Groups = BTreeMap<Vec<u8>, GroupUpdates>;

impl Verifier<'_> {
    /// Verifies one view.
    ///
    /// # Errors
    /// [`VerifyError`]: something could not be read at all.
    pub fn view(&self, view: usize, request: &Request) -> Result<Report, VerifyError> {
        let timeline = self.offline.timeline()?;
        let last = timeline.last();
        let epoch = request.epoch.unwrap_or(last);
        let Some(visible) = timeline.stamped(epoch) else {
            return Err(match epoch > last {
                true => VerifyError::NotCommitted { epoch, last },
                false => VerifyError::Unknown { epoch, last },
            });
        };
        let mut rng = StdRng::seed_from_u64(request.seed);
        let planned = &self.plan.views[view];
        let mut report = Report { view: planned.plan.name.clone(), ..Report::default() };
        let (batches, groups) = self.updates(view, epoch, &timeline)?;
        let chosen = choose(&groups, request.sample, &mut rng);
        let events = self.events(view, epoch)?;
        let stamps = stamps(&planned.fold, &batches, epoch, visible, &timeline, &mut rng);
        (report.groups, report.stamps) = (chosen.len(), stamps.len());
        let definition = &self.definitions.views[&planned.plan.name];
        let recompute = Recompute::new(self.definitions, definition)?;
        let expected = stamps
            .iter()
            .map(|s| self.expected(view, &recompute, &events, s))
            .collect::<Result<Vec<_>, VerifyError>>()?;
        for rows in &expected {
            for group in rows.keys().filter(|g| !groups.contains_key(*g)) {
                let entity = entity_text(view, self.plan, group);
                note(&mut report, &entity, "any", "row", "updates", "nothing", "a row");
            }
        }
        let codec = EntityCodec::new(&planned.plan).map_err(compute)?;
        let outputs = Outputs::new(&planned.plan);
        for group in chosen {
            let values = codec.decode(group).map_err(compute)?;
            let answers = slide(&planned.fold, &batches, &groups[group], &stamps);
            for ((stamp, answer), rows) in stamps.iter().zip(&answers).zip(&expected) {
                let pages = match self.cache.read(view, group, epoch.0, stamp.at)? {
                    Read::Answer(answer) if stamp.epoch == epoch && self.cache.published().epoch == epoch.0 => {
                        Some(answer)
                    }
                    _ => None,
                };
                let sides = [Some(("updates", answer.clone())), pages.map(|p| ("pages", p))];
                for (source, got) in sides.into_iter().flatten() {
                    let context = Context { view, values: &values, outputs: &outputs, stamp, source };
                    self.compare(&mut report, &context, &got, rows.get(group))?;
                }
            }
        }
        Ok(report)
    }

    fn compare(
        &self,
        report: &mut Report,
        context: &Context<'_>,
        got: &Evaluation,
        expected: Option<&Vec<ScalarValue>>,
    ) -> Result<(), VerifyError> {
        let planned = &self.plan.views[context.view];
        let wanted: Vec<usize> = (0..planned.plan.features.len()).collect();
        let evaluate =
            |e: &Evaluation| context.outputs.one(&wanted, context.values, &e.values, context.stamp.at).map_err(compute);
        let ours = evaluate(got)?;
        let theirs = match expected {
            Some(row) => row.clone(),
            None => evaluate(&Evaluation::of_nothing(&planned.fold))?,
        };
        let entity = context.values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let at =
            format!("{} at {} epoch {}", context.stamp.name, format_instant(context.stamp.at), context.stamp.epoch);
        report.checked += 1;
        if (got.status == Status::Present) != expected.is_some() {
            let want = if expected.is_some() { "present" } else { "no row" };
            note(report, &entity, &at, "status", context.source, got.status.as_str(), want);
        }
        for ((feature, ours), theirs) in planned.plan.features.iter().zip(&ours).zip(&theirs) {
            report.checked += 1;
            if !same(ours, theirs) {
                note(report, &entity, &at, &feature.name, context.source, &ours.to_string(), &theirs.to_string());
            }
        }
        Ok(())
    }

    /// All updates up to an epoch, with where each group's are.
    fn updates(&self, view: usize, epoch: Epoch, timeline: &Timeline) -> Result<(Vec<Updates>, Groups), VerifyError> {
        let shape = &self.plan.views[view].fold.shape;
        let (mut batches, mut groups) = (vec![], Groups::new());
        self.offline.updates(view, None, epoch, &mut |updates| {
            for n in 0..updates.len() {
                let u = updates.get(n, shape);
                let visible = timeline.visible(Epoch(u.epoch)).unwrap_or(i64::MAX);
                let place = (visible.max(u.counts_from), u.counts_from, batches.len(), n);
                groups.entry(u.group.to_vec()).or_default().push(place);
            }
            batches.push(updates);
            Ok(())
        })?;
        Ok((batches, groups))
    }

    /// The logged events of every source of the view.
    fn events(&self, view: usize, epoch: Epoch) -> Result<HashMap<String, Vec<RecordBatch>>, VerifyError> {
        let plan = &self.plan.views[view].plan;
        let mut events = HashMap::new();
        for source in std::iter::once(&plan.stream).chain(plan.joins.iter().map(|j| &j.table)) {
            let Some(index) = self.plan.source_index(&source.name) else { continue };
            let mut batches = vec![];
            self.offline.events(index, epoch, &mut |batch| {
                batches.push(batch);
                Ok(())
            })?;
            events.insert(source.name.clone(), batches);
        }
        Ok(events)
    }

    /// The batch engine's rows at a stamp, by group.
    fn expected(
        &self,
        view: usize,
        recompute: &Recompute,
        events: &HashMap<String, Vec<RecordBatch>>,
        stamp: &Stamp,
    ) -> Result<HashMap<Vec<u8>, Vec<ScalarValue>>, VerifyError> {
        let plan = &self.plan.views[view].plan;
        let cut = |batches: &Vec<RecordBatch>| -> Result<Vec<RecordBatch>, VerifyError> {
            batches.iter().map(|b| up_to(b, stamp.epoch).map_err(compute)).collect()
        };
        let events: HashMap<String, Vec<RecordBatch>> =
            events.iter().map(|(name, b)| Ok((name.clone(), cut(b)?))).collect::<Result<_, VerifyError>>()?;
        let batch = recompute.at(&events, stamp.at)?;
        let groups = plan.groups.len();
        let keys = batch.columns()[..groups].iter().zip(&plan.fold.group_types);
        let keys = keys.map(|(a, t)| arrow::compute::cast(a, t)).collect::<Result<Vec<_>, _>>().map_err(compute)?;
        let rows = group_converter(&plan.fold).and_then(|c| c.convert_columns(&keys)).map_err(compute)?;
        let mut columns = vec![];
        for feature in &plan.features {
            let found = batch.schema().fields()[groups..].iter().position(|f| *f.name() == feature.name);
            let column = found.ok_or_else(|| compute(format!("the batch query has no column {}", feature.name)))?;
            columns.push(Arc::clone(batch.column(groups + column)));
        }
        let value = |n: usize| columns.iter().map(|c| ScalarValue::try_from_array(c, n)).collect::<Result<Vec<_>, _>>();
        (0..batch.num_rows()).map(|n| Ok((rows.row(n).as_ref().to_vec(), value(n).map_err(compute)?))).collect()
    }
}

struct Context<'a> {
    view: usize,
    values: &'a [ScalarValue],
    outputs: &'a Outputs,
    stamp: &'a Stamp,
    source: &'static str,
}

fn note(
    report: &mut Report,
    entity: &str,
    stamp: &str,
    feature: &str,
    source: &'static str,
    got: &str,
    expected: &str,
) {
    report.differing += 1;
    if report.differences.len() < SHOWN {
        report.differences.push(Difference {
            view: report.view.clone(),
            entity: entity.into(),
            stamp: stamp.into(),
            feature: feature.into(),
            source,
            got: got.into(),
            expected: expected.into(),
        });
    }
}

/// Bit for bit; all NaNs are one.
fn same(a: &ScalarValue, b: &ScalarValue) -> bool {
    match (a, b) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => {
            a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
        }
        _ => a == b || (a.is_null() && b.is_null()),
    }
}

fn entity_text(view: usize, plan: &Plan, group: &[u8]) -> String {
    let values = EntityCodec::new(&plan.views[view].plan).and_then(|c| c.decode(group));
    values.map_or_else(|_| format!("{group:?}"), |v| v.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

fn choose<'a>(groups: &'a Groups, sample: Option<usize>, rng: &mut StdRng) -> Vec<&'a Vec<u8>> {
    let mut all: Vec<&Vec<u8>> = groups.keys().collect();
    if let Some(n) = sample {
        all.shuffle(rng);
        all.truncate(n);
        all.sort();
    }
    all
}

/// The stamps to compare at: the commit's own, then instants at and around events and window edges, in both modes.
fn stamps(
    fold: &Fold,
    batches: &[Updates],
    epoch: Epoch,
    visible: i64,
    timeline: &Timeline,
    rng: &mut StdRng,
) -> Vec<Stamp> {
    let mut stamps = vec![Stamp { epoch, at: visible, name: "now" }];
    let windows = fold.plan.aggregates.iter().map(|a| a.window).chain([fold.plan.admit]);
    let edges: Vec<i64> = windows
        .flat_map(|w| [Some(w.from), w.until])
        .flatten()
        .filter(|edge| *edge > 0 && *edge != Window::FOREVER)
        .collect();
    let rows: Vec<(usize, usize)> =
        batches.iter().enumerate().flat_map(|(b, u)| (0..u.len()).map(move |n| (b, n))).collect();
    for n in 0..INSTANTS {
        let Some(&(b, row)) = rows.choose(rng) else { break };
        let update = batches[b].get(row, &fold.shape);
        let edge = edges.choose(rng).copied().unwrap_or(0);
        let event_time = update.entry.event_time();
        let at = match n % 5 {
            0 => event_time,
            1 => event_time.saturating_add(edge),
            2 => event_time.saturating_add(edge).saturating_sub(1),
            3 => update.counts_from.max(update.epoch.cast_signed()),
            _ => event_time.saturating_add(rng.random_range(0..=edge.max(1))),
        };
        stamps.push(Stamp { epoch: timeline.served(Ask(at)).min(epoch), at, name: "served" });
        stamps.push(Stamp { epoch, at, name: "corrected" });
    }
    stamps
}

/// A group's answers at the stamps, from its updates alone: the same evaluator that histories use.
fn slide(fold: &Fold, batches: &[Updates], updates: &GroupUpdates, stamps: &[Stamp]) -> Vec<Evaluation> {
    let mut answers: Vec<Option<Evaluation>> = vec![None; stamps.len()];
    for served in [true, false] {
        let mut order: Vec<usize> = (0..stamps.len()).filter(|s| (stamps[*s].name == "served") == served).collect();
        order.sort_by_key(|s| stamps[*s].at);
        let available = |u: &(i64, i64, usize, usize)| if served { u.0 } else { u.1 };
        let mut sorted = updates.clone();
        sorted.sort_by_key(available);
        let (mut group, mut next) = (Group::new(fold), 0);
        for s in order {
            let at = stamps[s].at;
            while let Some(place) = sorted.get(next).filter(|u| available(u) <= at) {
                group.apply(&batches[place.2].get(place.3, &fold.shape), at, fold);
                next += 1;
            }
            group.advance(at, fold);
            answers[s] = Some(group.evaluate(at, fold));
        }
    }
    answers.into_iter().flatten().collect()
}

fn up_to(batch: &RecordBatch, epoch: Epoch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let epochs = batch.column(batch.schema().index_of("_epoch")?).as_primitive::<TimestampMicrosecondType>();
    if epochs.values().iter().all(|e| *e <= epoch.micros()) {
        return Ok(batch.clone());
    }
    filter_record_batch(batch, &epochs.values().iter().map(|e| Some(*e <= epoch.micros())).collect())
}

fn compute(error: impl fmt::Display) -> VerifyError {
    VerifyError::Compute(error.to_string())
}
