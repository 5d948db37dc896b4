//! Answers side by side: what is counted as compared, and what is noted as a difference.
//!
//! Invariants: values are compared bit by bit, and all NaNs are one; an answer is never compared with one of the same
//! engine. Neighbours: `expected` has what the batch engine says, `verify` brings the readings.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef};
use datafusion::common::ScalarValue;

use super::expected::{Beside, Told};
use super::sample::{Sample, Stamp};
use super::{Difference, Report, VerifyError, compute};
use crate::fold::{Evaluation, Status};
use crate::key::EntityCodec;
use crate::plan::operator::ViewPlan;
use crate::plan::output::Outputs;
use crate::time::format_instant;

/// Differences kept in a report.
const SHOWN: usize = 20;

/// A comparison under way.
pub(super) struct Comparison<'a> {
    plan: &'a ViewPlan,
    outputs: &'a Outputs,
    /// The entity that answers are about, and as text.
    values: Vec<ScalarValue>,
    text: String,
    /// What has been found so far.
    pub(super) report: Report,
}

impl<'a> Comparison<'a> {
    /// Nothing is compared yet.
    pub(super) fn new(plan: &'a ViewPlan, outputs: &'a Outputs) -> Comparison<'a> {
        let report = Report { view: plan.name.clone(), ..Report::default() };
        Comparison { plan, outputs, values: vec![], text: String::new(), report }
    }

    /// What follows is about this entity (in the query's order).
    pub(super) fn entity(&mut self, values: &[ScalarValue]) {
        self.values = values.to_vec();
        self.text = shown(values);
    }

    /// One answer of the fold's, against what the events say.
    pub(super) fn answer(
        &mut self,
        source: &'static str,
        stamp: &Stamp,
        got: &Evaluation,
        told: &Told,
        group: &[u8],
    ) -> Result<(), VerifyError> {
        let wanted: Vec<usize> = (0..self.plan.features.len()).collect();
        if let Some(theirs) = told.withheld(group) {
            // Nobody is told these; what is kept of the group must be right all the same.
            let ours = self.outputs.one(&wanted, &self.values, &got.values, stamp.at).map_err(compute)?;
            self.features(source, stamp, &ours, theirs);
        }
        let got = self.outputs.judge(&self.values, got.clone(), stamp.at).map_err(compute)?;
        let ours = self.outputs.one(&wanted, &self.values, &got.values, stamp.at).map_err(compute)?;
        self.values(source, stamp, &ours, told, group);
        let (was, beside) = (got.status, told.beside(group));
        self.report.checked += 2;
        if !beside.allows_status(was) {
            self.note(source, stamp, "status", was.as_str(), &beside.statuses());
        }
        if !beside.allows_event_time(got.event_time) {
            let instant = |at: Option<i64>| at.map_or("null".to_string(), format_instant);
            let (least, most) = beside.event_times;
            let want = if least == most { instant(least) } else { format!("{} to {}", instant(least), instant(most)) };
            self.note(source, stamp, "event_time", &instant(got.event_time), &want);
        }
        Ok(())
    }

    /// The features of an answer, against the events' row, or against the query over no rows.
    pub(super) fn values(
        &mut self,
        source: &'static str,
        stamp: &Stamp,
        ours: &[ScalarValue],
        told: &Told,
        group: &[u8],
    ) {
        self.features(source, stamp, ours, told.values(group));
    }

    fn features(&mut self, source: &'static str, stamp: &Stamp, ours: &[ScalarValue], theirs: &[ScalarValue]) {
        assert_eq!(theirs.len(), ours.len(), "a group that is compared is one that the events have, or none has");
        for ((feature, ours), theirs) in self.plan.features.iter().zip(ours).zip(theirs) {
            self.report.checked += 1;
            if !same(ours, theirs) {
                self.note(source, stamp, &feature.name, &ours.to_string(), &theirs.to_string());
            }
        }
    }

    /// A group that the events have and the updates do not, or with another number of rows: all groups, sampled or not.
    pub(super) fn rows(&mut self, sample: &Sample, codec: &EntityCodec) {
        for (group, tally) in sample.groups() {
            let Some(events) = tally.events else { continue };
            if events != tally.updates {
                self.text = codec.decode(group).map_or_else(|_| format!("{group:?}"), |values| shown(&values));
                let (got, want) = (tally.updates.to_string(), events.to_string());
                self.note_at("updates", "any".into(), "rows", &got, &want);
            }
        }
    }

    /// Rows of groups that have no updates at all.
    pub(super) fn strangers(&mut self, stamp: &Stamp, told: &Told, sample: &Sample, codec: &EntityCodec) {
        for group in told.rows.keys().filter(|g| !sample.has(g)) {
            self.text = codec.decode(group).map_or_else(|_| format!("{group:?}"), |values| shown(&values));
            self.note("updates", stamp, "row", "nothing", "a row");
        }
    }

    /// A page that has no answer where every page must have one.
    pub(super) fn no_page(&mut self, stamp: &Stamp) {
        self.report.checked += 1;
        self.note("pages", stamp, "row", "nothing", "an answer");
    }

    /// (partition, offset) of what was refused and of what fails.
    pub(super) fn refusals(&mut self, kept: &BTreeSet<(i32, i64)>, fails: &BTreeSet<(i32, i64)>) {
        self.report.refused = kept.intersection(fails).count() as u64;
        for (partition, offset) in fails.symmetric_difference(kept) {
            self.text = format!("record {partition}/{offset}");
            let refused = |is: bool| if is { "refused" } else { "taken" };
            let is_kept = kept.contains(&(*partition, *offset));
            self.note_at("quarantine", "any".into(), "refusal", refused(is_kept), refused(!is_kept));
        }
    }

    fn note(&mut self, source: &'static str, stamp: &Stamp, feature: &str, got: &str, expected: &str) {
        let at = format!("{} at {} epoch {}", stamp.name, format_instant(stamp.at), stamp.epoch);
        self.note_at(source, at, feature, got, expected);
    }

    fn note_at(&mut self, source: &'static str, stamp: String, feature: &str, got: &str, expected: &str) {
        self.report.differing += 1;
        if self.report.differences.len() < SHOWN {
            self.report.differences.push(Difference {
                view: self.report.view.clone(),
                entity: self.text.clone(),
                stamp,
                feature: feature.into(),
                source,
                got: got.into(),
                expected: expected.into(),
            });
        }
    }
}

impl Beside {
    fn allows_status(&self, status: Status) -> bool {
        match status {
            Status::Present => self.present,
            Status::Expired => !self.present && self.may_be_expired,
            Status::Absent => !self.present && self.may_be_absent,
        }
    }

    fn statuses(&self) -> String {
        let all = [Status::Present, Status::Expired, Status::Absent];
        let allowed: Vec<&str> = all.into_iter().filter(|s| self.allows_status(*s)).map(Status::as_str).collect();
        allowed.join(" or ")
    }

    fn allows_event_time(&self, got: Option<i64>) -> bool {
        // None is the least.
        let (least, most) = self.event_times;
        least <= got && got <= most
    }
}

/// Bit for bit; all NaNs are one.
pub(super) fn same(a: &ScalarValue, b: &ScalarValue) -> bool {
    match (a, b) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => {
            a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
        }
        (ScalarValue::List(a), ScalarValue::List(b)) if !a.is_null(0) && !b.is_null(0) => {
            let (a, b) = (a.value(0), b.value(0));
            let item = |list: &ArrayRef, n: usize| ScalarValue::try_from_array(list, n).ok();
            let equal = |n: usize| item(&a, n).zip(item(&b, n)).is_some_and(|(a, b)| same(&a, &b));
            a.len() == b.len() && (0..a.len()).all(equal)
        }
        _ => a == b || (a.is_null() && b.is_null()),
    }
}

fn shown(values: &[ScalarValue]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
