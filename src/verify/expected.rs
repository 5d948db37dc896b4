//! What the batch engine says at each stamp about the groups that are compared.
//!
//! Invariants: everything here comes from the oracle: rows, the query over no rows, and what can be said of status and event
//! time. Neighbours: `recompute` and `oracle_facts` compute it, `compare` compares answers with it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::row::RowConverter;
use datafusion::common::ScalarValue;

use super::oracle_facts::{Breadth, Facts};
use super::recompute::Recompute;
use super::sample::Stamp;
use super::{VerifyError, compute};
use crate::fold::columns::group_converter;
use crate::plan::operator::ViewPlan;
use crate::time::Epoch;

/// Events by source name.
pub(super) type Events = HashMap<String, Vec<RecordBatch>>;

/// What can be said of a group's status and event time.
pub(super) struct Beside {
    pub(super) present: bool,
    pub(super) may_be_expired: bool,
    pub(super) may_be_absent: bool,
    /// The least and the greatest event time there may be, `None` the least of all.
    pub(super) event_times: (Option<i64>, Option<i64>),
}

/// By group: its event time, and was it ever admitted?
type GroupFacts = HashMap<Vec<u8>, (Option<i64>, bool)>;

/// What the events say at one stamp.
#[derive(Default)]
pub(super) struct Told {
    /// Features of the groups that have a row.
    pub(super) rows: HashMap<Vec<u8>, Vec<ScalarValue>>,
    /// Groups that WHERE admits rows of, and HAVING does not hold on: the features that they would have.
    withheld: HashMap<Vec<u8>, Vec<ScalarValue>>,
    /// Features of compared groups that have none.
    nothing: HashMap<Vec<u8>, Vec<ScalarValue>>,
    /// Event time and "was it ever admitted": certainly, and possibly; `None`: not known.
    certain: Option<GroupFacts>,
    possible: Option<GroupFacts>,
}

impl Told {
    /// The features of a compared group.
    pub(super) fn values(&self, group: &[u8]) -> &[ScalarValue] {
        self.rows.get(group).or_else(|| self.nothing.get(group)).map_or(&[], Vec::as_slice)
    }

    /// The features that it would have if HAVING held, where WHERE admits rows of it and HAVING does not hold.
    pub(super) fn withheld(&self, group: &[u8]) -> Option<&[ScalarValue]> {
        self.withheld.get(group).map(Vec::as_slice)
    }

    /// What can be said beside them.
    pub(super) fn beside(&self, group: &[u8]) -> Beside {
        let none = (None, false);
        let of = |facts: &Option<GroupFacts>| facts.as_ref().map(|f| f.get(group).copied().unwrap_or(none));
        let (least, admitted) = of(&self.certain).unwrap_or(none);
        let (most, possibly) = of(&self.possible).unwrap_or((Some(i64::MAX), true));
        let withheld = self.withheld.contains_key(group);
        Beside {
            present: self.rows.contains_key(group),
            may_be_expired: possibly && !withheld,
            may_be_absent: !admitted || withheld,
            event_times: (least, most),
        }
    }
}

/// All stamps.
pub(super) struct Expected(BTreeMap<(Epoch, i64), Told>);

impl Expected {
    /// Asks the batch engine about every stamp. `events` must have all of the groups' events.
    pub(super) fn all(
        recompute: &Recompute,
        plan: &ViewPlan,
        events: &Events,
        groups: &[&Vec<u8>],
        stamps: &[Stamp],
    ) -> Result<Expected, VerifyError> {
        let converter = group_converter(&plan.fold).map_err(compute)?;
        let asking = Asking { recompute, plan, converter, groups };
        let mut all = BTreeMap::new();
        for stamp in stamps {
            if let Entry::Vacant(place) = all.entry((stamp.epoch, stamp.at)) {
                place.insert(asking.tell(&up_to(events, stamp.epoch)?, stamp.at)?);
            }
        }
        Ok(Expected(all))
    }

    /// What it said about one.
    pub(super) fn at(&self, stamp: &Stamp) -> &Told {
        &self.0[&(stamp.epoch, stamp.at)]
    }
}

struct Asking<'a> {
    recompute: &'a Recompute,
    plan: &'a ViewPlan,
    converter: RowConverter,
    groups: &'a [&'a Vec<u8>],
}

impl Asking<'_> {
    fn tell(&self, events: &Events, at: i64) -> Result<Told, VerifyError> {
        let rows = self.features(&self.recompute.at(events, at)?)?;
        let mut withheld = HashMap::new();
        if self.recompute.withholds() {
            withheld = self.features(&self.recompute.at_without_having(events, at)?)?;
            withheld.retain(|group, _| !rows.contains_key(group));
        }
        let missing: Vec<&Vec<u8>> = self.groups.iter().filter(|g| !rows.contains_key(**g)).copied().collect();
        let mut nothing = HashMap::new();
        if !missing.is_empty() {
            let parser = self.converter.parser();
            let columns = self.converter.convert_rows(missing.iter().map(|g| parser.parse(g))).map_err(compute)?;
            nothing = self.features(&self.recompute.over_nothing(&columns, at)?)?;
        }
        let certain = self.facts(events, at, Breadth::Certain)?;
        let possible = match self.recompute.is_decided() {
            true => certain.clone(),
            false => self.facts(events, at, Breadth::Possible)?,
        };
        let certain = certain.map(|mut facts| {
            if self.recompute.reads_versions() {
                // A version that starts when WHERE admits the row no more never brought it to this group.
                facts.values_mut().for_each(|fact| *fact = (None, false));
            }
            facts
        });
        Ok(Told { rows, withheld, nothing, certain, possible })
    }

    fn facts(&self, events: &Events, at: i64, breadth: Breadth) -> Result<Option<GroupFacts>, VerifyError> {
        let Some(facts) = self.recompute.facts(events, at, breadth)? else { return Ok(None) };
        let asked: HashSet<&Vec<u8>> = self.groups.iter().copied().collect();
        let mut found = GroupFacts::new();
        for Facts { groups, event_times, admitted } in facts {
            let keys = self.keys(&groups, event_times.len())?;
            for ((key, event_time), admitted) in keys.into_iter().zip(event_times).zip(admitted) {
                if asked.contains(&key) {
                    let (newest, ever) = found.entry(key).or_default();
                    (*newest, *ever) = (event_time.max(*newest), admitted || *ever);
                }
            }
        }
        Ok(Some(found))
    }

    /// The features of the batch engine's rows, by group.
    fn features(&self, batch: &RecordBatch) -> Result<HashMap<Vec<u8>, Vec<ScalarValue>>, VerifyError> {
        let groups = self.plan.groups.len();
        let keys = self.keys(&batch.columns()[..groups], batch.num_rows())?;
        let mut columns = vec![];
        for feature in &self.plan.features {
            let found = batch.schema().fields()[groups..].iter().position(|f| *f.name() == feature.name);
            let column = found.ok_or_else(|| compute(format!("the batch query has no column {}", feature.name)))?;
            columns.push(Arc::clone(batch.column(groups + column)));
        }
        let value = |n: usize| columns.iter().map(|c| ScalarValue::try_from_array(c, n)).collect::<Result<Vec<_>, _>>();
        keys.into_iter().enumerate().map(|(n, key)| Ok((key, value(n).map_err(compute)?))).collect()
    }

    fn keys(&self, groups: &[ArrayRef], rows: usize) -> Result<Vec<Vec<u8>>, VerifyError> {
        keys(&self.converter, self.plan, groups, rows)
    }
}

/// Groups' bytes, as the fold knows them.
pub(super) fn keys(
    converter: &RowConverter,
    plan: &ViewPlan,
    groups: &[ArrayRef],
    rows: usize,
) -> Result<Vec<Vec<u8>>, VerifyError> {
    if groups.is_empty() {
        return Ok(vec![vec![]; rows]);
    }
    let keys = groups.iter().zip(&plan.fold.group_types).map(|(a, t)| cast(a, t));
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(compute)?;
    let rows = converter.convert_columns(&keys).map_err(compute)?;
    Ok(rows.iter().map(|row| row.as_ref().to_vec()).collect())
}

/// The events with epoch <= `epoch`.
fn up_to(events: &Events, epoch: Epoch) -> Result<Events, VerifyError> {
    let cut = |batch: &RecordBatch| -> Result<RecordBatch, arrow::error::ArrowError> {
        use arrow::array::AsArray;
        let epochs = batch.column(batch.schema().index_of("_epoch")?).as_primitive::<TimestampMicrosecondType>();
        if epochs.values().iter().all(|e| *e <= epoch.micros()) {
            return Ok(batch.clone());
        }
        filter_record_batch(batch, &epochs.values().iter().map(|e| Some(*e <= epoch.micros())).collect())
    };
    let cut = |batches: &Vec<RecordBatch>| batches.iter().map(cut).collect::<Result<Vec<_>, _>>().map_err(compute);
    events.iter().map(|(name, batches)| Ok((name.clone(), cut(batches)?))).collect()
}
