//! The consistency proof: pages, the updates log, histories and a batch engine over the events log give one answer.
//!
//! For every group (or a sample) and for stamps taken with a printed seed from the groups' events and the view's window
//! edges, the query is recomputed by DataFusion over the logged events and compared bit by bit with what the fold makes
//! of the updates log, with the pages, and with a history: values, status and event time, and the answer over no rows
//! too. What views refuse is compared for all events.
//!
//! Invariants: `recompute` shares no code with `plan`, `fold` and `dataflow`; only the comparison is here. A difference is
//! never rounded away, and what could not be compared is not counted as compared. Neighbours: `sample` chooses, `compare`
//! compares; `offline` reads both logs; `cli` prints the report.

pub mod offsets;
pub mod recompute;

mod compare;
mod expected;
mod histories;
mod oracle_decay;
mod oracle_distinct;
mod oracle_exact;
mod oracle_facts;
mod oracle_functions;
mod oracle_groups;
mod oracle_join;
mod oracle_lists;
mod oracle_meaning;
mod oracle_numbers;
mod oracle_plan;
mod oracle_rows;
mod oracle_scalars;
mod oracle_statistics;
#[cfg(test)]
mod oracle_tests;
mod oracle_values;
mod sample;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::definition::Definitions;
use crate::key::EntityCodec;
use crate::offline::{HistoryError, Offline, OfflineError};
use crate::plan::Plan;
use crate::plan::output::Outputs;
use crate::state::StateError;
use crate::state::cache::{Cache, Read};
use crate::time::Epoch;
use compare::Comparison;
use expected::Expected;
use recompute::{Recompute, RecomputeError};
use sample::{Sample, Stamp, answers};

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
    /// A history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
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
    /// The present, in µs: every page must have an answer about it.
    pub present: i64,
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
    /// The feature, `status`, `event_time`, `row`, `rows` or `refusal`.
    pub feature: String,
    /// Who disagrees with the batch engine: `pages`, `updates`, `history` or `quarantine`.
    pub source: &'static str,
    /// Its value.
    pub got: String,
    /// The batch engine's.
    pub expected: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { view, entity, stamp, feature, source, got, expected } = self;
        let say = if matches!(*source, "pages" | "updates") { "say" } else { "says" };
        write!(f, "{view} {entity} {stamp} {feature}: {source} {say} {got}, the events say {expected}")
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
    /// Values of answers compared, status and event time among them.
    pub checked: u64,
    /// Answers of pages among what was compared.
    pub pages_compared: u64,
    /// Rows of histories among what was compared.
    pub histories_compared: u64,
    /// Events that the view refuses, and rightly.
    pub refused: u64,
    /// Values that differ.
    pub differing: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
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
    pub offline: &'a Arc<Offline>,
}

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
        let planned = &self.plan.views[view];
        let recompute = Recompute::new(self.definitions, &self.definitions.views[&planned.plan.name])?;
        let codec = EntityCodec::new(&planned.plan).map_err(compute)?;
        let outputs = Outputs::new(&planned.plan);
        let mut compared = Comparison::new(&planned.plan, &outputs);
        let mut rng = StdRng::seed_from_u64(request.seed);

        // Step 1. All updates and all events pass once: which groups there are, what is refused, what the sample needs.
        let sample = Sample::take(self, view, epoch, &recompute, request.sample, &mut rng)?;
        compared.rows(&sample, &codec);
        self.refusals(view, epoch, &sample, &mut compared)?;

        // Step 2. The instants. The present is one of them: only about it must every page have an answer.
        let present = Stamp { epoch, at: request.present.max(visible), name: "present" };
        let now = Stamp { epoch, at: visible, name: "now" };
        let mut stamps = vec![now, present];
        stamps.extend(sample.stamps(&planned.fold, &recompute.lengths(), epoch, &timeline, &mut rng));

        // Step 3. What the batch engine says about each, once where stamps are about the same.
        let groups: Vec<&Vec<u8>> = sample.chosen().collect();
        let expected = Expected::all(&recompute, &planned.plan, &sample.events, &groups, &stamps)?;
        for stamp in &stamps {
            compared.strangers(stamp, expected.at(stamp), &sample, &codec);
        }

        // Step 4. The three readings of every group against it.
        let pages_are_of = self.cache.published().epoch == epoch.0;
        for group in &groups {
            let values = codec.decode(group).map_err(compute)?;
            compared.entity(&values);
            for (stamp, answer) in stamps.iter().zip(answers(&planned.fold, &sample, group, &stamps)) {
                compared.answer("updates", stamp, &answer, expected.at(stamp), group)?;
                if stamp.epoch != epoch || !pages_are_of {
                    continue;
                }
                match self.cache.read(view, group, epoch.0, stamp.at)? {
                    Read::Answer(answer) => {
                        compared.report.pages_compared += 1;
                        compared.answer("pages", stamp, &answer, expected.at(stamp), group)?;
                    }
                    Read::Nothing | Read::NeedsLog if stamp.name == "present" => compared.no_page(stamp),
                    Read::Nothing | Read::NeedsLog => {}
                }
            }
        }
        if epoch == last {
            histories::compare(self, view, &groups, &stamps[2..], visible, &expected, &mut compared, &mut rng)?;
        }
        let mut report = compared.report;
        (report.groups, report.stamps) = (groups.len(), stamps.len());
        Ok(report)
    }

    /// What the view refused against the events on which one of its expressions fails.
    fn refusals(
        &self,
        view: usize,
        epoch: Epoch,
        sample: &Sample,
        compared: &mut Comparison<'_>,
    ) -> Result<(), VerifyError> {
        let Some(fails) = &sample.refused else { return Ok(()) };
        let plan = &self.plan.views[view].plan;
        let mut kept: BTreeSet<(i32, i64)> = BTreeSet::new();
        for rejected in self.offline.store().quarantine() {
            let rejected = rejected?;
            let is_its = rejected.view.as_ref() == Some(&plan.name) && rejected.source == plan.stream.name;
            if is_its && rejected.epoch <= epoch.0 {
                kept.insert((rejected.partition, rejected.offset));
            }
        }
        compared.refusals(&kept, fails);
        Ok(())
    }
}

fn compute(error: impl fmt::Display) -> VerifyError {
    VerifyError::Compute(error.to_string())
}
