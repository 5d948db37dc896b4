//! `headwater quarantine list | show`: refused records, with reason, source and offset.

use arrow::array::RecordBatch;
use clap::{Args, Subcommand};
use datafusion::common::ScalarValue;
use serde_json::Value;

use super::{Common, Outcome, say};
use crate::event::EventBatch;
use crate::offline::{Offline, OfflineError};
use crate::reader::Reader;
use crate::serve::json::to_json;
use crate::source::Rejected;
use crate::time::Epoch;

#[derive(Args)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// One line each.
    List(Common),
    /// One of them whole: every refusal of it, and the record.
    Show {
        /// The source.
        source: String,
        /// PARTITION/OFFSET, as list shows it.
        place: String,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) fn run(args: &QuarantineArgs) -> Outcome {
    match &args.action {
        Action::List(common) => {
            let (_, plan) = common.plan()?;
            let reader = Reader::open(&common.data_dir(), &plan)?;
            for rejected in reader.store.quarantine() {
                let r = rejected?;
                let view = r.view.map_or(String::new(), |v| format!(" view={v}"));
                say(format!("{} {} {}/{}{view} {}", Epoch(r.epoch), r.source, r.partition, r.offset, r.reason))?;
            }
        }
        Action::Show { source, place, common } => {
            let (_, plan) = common.plan()?;
            let reader = Reader::open(&common.data_dir(), &plan)?;
            let of_record = |r: &Rejected| r.source == *source && format!("{}/{}", r.partition, r.offset) == *place;
            let mut refusals: Vec<Rejected> = vec![];
            for rejected in reader.store.quarantine() {
                refusals.extend(Some(rejected?).filter(of_record));
            }
            for r in &refusals {
                say(format!("epoch: {}", Epoch(r.epoch)))?;
                if let Some(view) = &r.view {
                    say(format!("view: {view}"))?;
                }
                say(format!("reason: {}", r.reason))?;
            }
            let Some(first) = refusals.first() else {
                return Err(anyhow::anyhow!("no refused record of `{source}` at {place}; see `quarantine list`").into());
            };
            match refusals.iter().find(|r| r.view.is_none()) {
                Some(r) => {
                    if let Some(key) = &r.key {
                        say(format!("key: {}", String::from_utf8_lossy(key)))?;
                    }
                    say(format!("record: {}", String::from_utf8_lossy(&r.bytes)))?;
                }
                // What only views refuse is a good row of its source, and in the log.
                None => {
                    if let Some(row) = logged(&reader.offline, source, first.partition, first.offset)? {
                        say(format!("record: {row}"))?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// A row of the events log as JSON: the source's columns, then the system's.
fn logged(offline: &Offline, source: &str, partition: i32, offset: i64) -> Result<Option<Value>, OfflineError> {
    let Some(source) = offline.plan().source_index(source) else { return Ok(None) };
    let mut found = None;
    offline.events(source, offline.timeline()?.last(), &mut |batch| {
        let events = EventBatch::new(batch)?;
        let place = events.partitions().iter().zip(events.offsets()).position(|at| at == (&partition, &offset));
        found = found.take().or_else(|| place.map(|n| row_json(events.rows(), n)));
        Ok(())
    })?;
    Ok(found)
}

fn row_json(batch: &RecordBatch, n: usize) -> Value {
    let schema = batch.schema();
    let value = |column| ScalarValue::try_from_array(column, n).map_or(Value::Null, |value| to_json(&value));
    let cells = schema.fields().iter().zip(batch.columns());
    cells.map(|(field, column)| (field.name().clone(), value(column))).collect()
}
