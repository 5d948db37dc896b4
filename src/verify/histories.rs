//! Histories against the batch engine: the path of training sets, from label columns to feature columns.
//!
//! Labels are the compared groups at the stamps, in no order at all, so that row groups are skipped, hashes are walked and
//! rows are put back where their labels were. Invariants: no label is later than the last commit's visible instant.
//! Neighbours: `offline::history` is what is looked at; `compare` counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use datafusion::common::ScalarValue;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::compare::Comparison;
use super::expected::Expected;
use super::sample::Stamp;
use super::{Verifier, VerifyError, compute};
use crate::definition::timestamp;
use crate::key::EntityCodec;
use crate::offline::{History, HistoryRequest, Mode};

/// Labels of one request: a request reads the log once.
const LABELS: usize = 1 << 18;
/// Asks for a history of the groups at the stamps, and compares it row by row. `until`: the last commit's visible instant.
#[expect(clippy::too_many_arguments, reason = "all that a comparison has found out so far")]
pub(super) fn compare(
    verifier: &Verifier<'_>,
    view: usize,
    groups: &[&Vec<u8>],
    stamps: &[Stamp],
    until: i64,
    expected: &Expected,
    compared: &mut Comparison<'_>,
    rng: &mut StdRng,
) -> Result<(), VerifyError> {
    let planned = &verifier.plan.views[view].plan;
    // Told from the entity's columns by its name.
    let mut time = "as_of".to_string();
    while planned.entity.iter().any(|(name, _)| *name == time) {
        time.push('_');
    }
    let codec = EntityCodec::new(planned).map_err(compute)?;
    let mut by_mode: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    let mut entities: Vec<Option<Vec<ScalarValue>>> = vec![];
    for (g, group) in groups.iter().enumerate() {
        let values = codec.decode(group).map_err(compute)?;
        // A null is a group, and no entity: labels cannot name it (rule 18).
        let named = values.iter().all(|v| !v.is_null());
        for (s, stamp) in stamps.iter().enumerate().filter(|(_, s)| named && s.at <= until) {
            by_mode.entry(stamp.name).or_default().push((g, s));
        }
        entities.push(named.then_some(values));
    }
    for (name, mut labels) in by_mode {
        let mode = if name == "served" { Mode::Served } else { Mode::Corrected };
        let request =
            HistoryRequest { features: vec![(view, (0..planned.features.len()).collect())], mode, full_names: true };
        let history = History::new(verifier.offline, &request)?;
        labels.shuffle(rng);
        for part in labels.chunks(LABELS) {
            let batch = batch(verifier, view, &time, &entities, stamps, part)?;
            let answers = history.join(&batch, Some(&time), 0)?;
            for (row, (g, s)) in part.iter().enumerate() {
                let (stamp, group) = (&stamps[*s], groups[*g]);
                compared.entity(entities[*g].as_deref().unwrap_or_default());
                let values = answers.columns().iter().map(|c| ScalarValue::try_from_array(c, row));
                let values = values.collect::<Result<Vec<_>, _>>().map_err(compute)?;
                compared.report.histories_compared += 1;
                compared.values("history", stamp, &values, expected.at(stamp), group);
            }
        }
    }
    Ok(())
}

/// Label columns: the entity in declared order, and the instant.
fn batch(
    verifier: &Verifier<'_>,
    view: usize,
    time: &str,
    entities: &[Option<Vec<ScalarValue>>],
    stamps: &[Stamp],
    labels: &[(usize, usize)],
) -> Result<RecordBatch, VerifyError> {
    let planned = &verifier.plan.views[view].plan;
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (vec![], vec![]);
    for (name, group) in &planned.entity {
        let values = labels.iter().filter_map(|(g, _)| entities[*g].as_ref().map(|v| v[*group].clone()));
        let column = ScalarValue::iter_to_array(values).map_err(compute)?;
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    }
    fields.push(Field::new(time, timestamp(), false));
    columns.push(Arc::new(TimestampMicrosecondArray::from_iter_values(labels.iter().map(|(_, s)| stamps[*s].at))));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(compute)
}
