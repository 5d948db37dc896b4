//! One view in the graph: from the events of its stream to updates, and with these into its pages.
//!
//! A view over a stream alone is projected where its rows are. A joined one is projected once an epoch is closed, when
//! what a change gives and takes back has met and been netted.
//!
//! Invariants: a row on which an expression fails becomes a refusal of this view, in the epoch of the row; updates of
//! epochs up to the resumed one are derived again and dropped. Neighbours: `plan::project` evaluates, `join` and `table`
//! derive the rows of joined views, `commit` gets refusals and what is logged.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use datafusion::common::DataFusionError;
use differential_dataflow::consolidation::consolidate_updates;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Map;
use xxhash_rust::xxh3::xxh3_64;

use super::Shared;
use super::commit::ToCommitter;
use super::graph::watched;
use super::input::Event;
use super::join::{self, Point, Rows};
use super::rows::{Dated, Diff, Row, Time};
use super::table::{self, UpsertReader};
use crate::event::EventBatch;
use crate::fold::entry::{CLOSING, Updates};
use crate::plan::project::{Changes, Projector};
use crate::source::Rejected;
use crate::telemetry::lag::{Recorder, Side};

/// A view over its stream alone: projected where the rows are.
pub(super) fn direct<'s>(
    events: StreamVec<'s, Time, Event>,
    view: usize,
    shared: &Arc<Shared>,
    peers: usize,
) -> Result<StreamVec<'s, Time, Updates>, String> {
    let planned = &shared.plan.views[view];
    let projector = Projector::new(shared.cache.store().ids().view(view), planned).map_err(|e| e.to_string())?;
    let stream = shared.plan.source_index(&planned.plan.stream.name).ok_or("its stream is not planned")?;
    let shared = Arc::clone(shared);
    let name = format!("project {}", planned.plan.name);
    let rows = shared.metrics.operators().rows(&name);
    Ok(events.unary::<CapacityContainerBuilder<Vec<Updates>>, _, _, _>(Pipeline, &name, move |_cap, _info| {
        move |input, output| {
            input.for_each(|cap, data| {
                let mut out = output.session(&cap);
                for event in data.drain(..).filter(|e| e.source == stream && !e.again) {
                    match projector.project_events(&event.batch, peers) {
                        Ok(projected) => {
                            rows.took(event.batch.len());
                            rows.gave(projected.updates.iter().map(Updates::len).sum());
                            refuse_events(&shared, &projector, &event.batch, &projected.refused);
                            out.give_iterator(projected.updates.into_iter().filter(|u| !u.is_empty()));
                        }
                        Err(e) => shared.fail(&format!("view `{}`", projector.plan().name), e),
                    }
                }
            });
        }
    }))
}

/// Sends rows that a view could not take to the quarantine.
fn refuse_events(shared: &Shared, projector: &Projector, events: &EventBatch, refused: &[(usize, String)]) {
    if refused.is_empty() {
        return;
    }
    let plan = projector.plan();
    let rejected = refused.iter().map(|(row, reason)| {
        let place = (events.partitions()[*row], events.offsets()[*row]);
        Rejected::by_view(&plan.stream.name, &plan.name, place, events.epochs()[*row].cast_unsigned(), reason)
    });
    let _ = shared.committer.send(ToCommitter::Refused(rejected.collect()));
}

/// A view over a stream joined with tables.
pub(super) fn joined<'s>(
    events: StreamVec<'s, Time, Event>,
    view: usize,
    shared: &Arc<Shared>,
    peers: usize,
    tables: &mut BTreeMap<usize, Rows<'s>>,
    recorder: &mut Recorder,
) -> Result<StreamVec<'s, Time, Updates>, String> {
    let planned = &shared.plan.views[view];
    let plan = &planned.plan;
    let mut sides = vec![];
    for join in &plan.joins {
        let source = shared.plan.source_index(&join.table.name).ok_or("a table is not planned")?;
        if let Entry::Vacant(slot) = tables.entry(source) {
            let rows = table_rows(events.clone(), source, shared)?;
            slot.insert(watched(rows, &format!("table {}", join.table.name), Side::Output, recorder));
        }
        sides.push(tables[&source].clone());
    }
    let stream = shared.plan.source_index(&plan.stream.name).ok_or("its stream is not planned")?;
    let codec = join::stream_codec(plan).map_err(|e| e.to_string())?;
    let (resumed, encoding, failing) = (shared.resumed, Arc::clone(plan), Arc::clone(shared));
    let rows = events.flat_map(move |event| {
        if event.source != stream {
            return vec![];
        }
        match join::encode_stream(&encoding, &codec, &event.batch) {
            Ok(rows) => with_times(rows, &event, resumed),
            Err(e) => {
                failing.fail(&format!("view `{}`", encoding.name), e);
                vec![]
            }
        }
    });
    let rows = join::joined(plan, rows, sides, shared).map_err(|e| e.to_string())?;
    let rows = watched(rows, &format!("project {}", plan.name), Side::Input, recorder);
    project_joined(rows, view, shared, peers)
}

fn with_times(rows: Vec<(usize, Dated)>, event: &Event, resumed: Time) -> Vec<(Dated, Time, Diff)> {
    let time = |n: usize| if event.again { resumed } else { event.batch.epochs()[n].cast_unsigned() };
    rows.into_iter().map(|(n, row)| (row, time(n), 1)).collect()
}

/// A table's rows and the intervals in which they are current.
fn table_rows<'s>(events: StreamVec<'s, Time, Event>, source: usize, shared: &Arc<Shared>) -> Result<Rows<'s>, String> {
    let table = Arc::clone(&shared.plan.sources[source]);
    let reader = UpsertReader::new(&table).map_err(|e| e.to_string())?;
    let (resumed, failing, name) = (shared.resumed, Arc::clone(shared), table.name.clone());
    let upserts = events.flat_map(move |event| {
        if event.source != source {
            return vec![];
        }
        reader.read(&event.batch, event.again.then_some(resumed)).unwrap_or_else(|e| {
            failing.fail(&format!("table `{name}`"), e);
            vec![]
        })
    });
    Ok(table::versions(upserts, &table.name, table.event_time.is_some()))
}

/// Evaluates joined rows once their epochs are closed, and drops what a restart derives again.
fn project_joined<'s>(
    rows: Rows<'s>,
    view: usize,
    shared: &Arc<Shared>,
    peers: usize,
) -> Result<StreamVec<'s, Time, Updates>, String> {
    let planned = &shared.plan.views[view];
    let projector = Projector::new(shared.cache.store().ids().view(view), planned).map_err(|e| e.to_string())?;
    let codec = join::Codec::new(Arc::clone(&planned.plan.row)).map_err(|e| e.to_string())?;
    let (shared, plan) = (Arc::clone(shared), Arc::clone(&planned.plan));
    let name = format!("project {}", plan.name);
    let updates = rows.flat_map(move |change| {
        let end = join::end_of(&plan, &change.0.row);
        Point::updates(change, end)
    });
    // Equal rows meet, so that what a change takes and gives back is netted before it is logged.
    let by_row = Exchange::new(|(row, _, _): &(Row, Time, Diff)| xxh3_64(row));
    type Out = CapacityContainerBuilder<Vec<Updates>>;
    let counted = shared.metrics.operators().rows(&name);
    Ok(updates.unary_frontier::<Out, _, _, _>(by_row, &name, move |cap, _info| {
        let mut cap = Some(cap);
        let mut pending: Vec<(Row, Time, Diff)> = vec![];
        move |(input, frontier), output| {
            input.for_each(|_cap, data| pending.extend(data.drain(..).filter(|(_, t, _)| *t > shared.resumed)));
            let Some(held) = cap.as_mut() else { return };
            let Some(&closed) = frontier.frontier().first() else {
                cap = None;
                return;
            };
            if closed <= *held.time() {
                return;
            }
            let (mut due, rest): (Vec<_>, Vec<_>) =
                std::mem::take(&mut pending).into_iter().partition(|(_, t, _)| *t < closed);
            pending = rest;
            consolidate_updates(&mut due);
            let mut out = output.session(&*held);
            counted.took(due.len());
            let mut rest = &due[..];
            while !rest.is_empty() {
                let (part, more) = rest.split_at(fitting(rest));
                rest = more;
                match project_rows(&projector, &codec, part, peers) {
                    Ok((updates, refused)) => {
                        if !refused.is_empty() {
                            let _ = shared.committer.send(ToCommitter::Refused(refused));
                        }
                        counted.gave(updates.iter().map(Updates::len).sum());
                        out.give_iterator(updates.into_iter().filter(|u| !u.is_empty()));
                    }
                    Err(e) => shared.fail(&format!("view `{}`", projector.plan().name), e),
                }
            }
            drop(out);
            held.downgrade(&closed);
        }
    }))
}

/// How many rows are projected together: what they hold has to fit into columns, whose places are `i32`.
fn fitting(rows: &[(Row, Time, Diff)]) -> usize {
    const BYTES: usize = 256 << 20;
    let mut bytes = 0;
    let fits = rows.iter().take(8192).take_while(|(row, _, _)| {
        bytes += row.len();
        bytes <= BYTES
    });
    fits.count().max(1)
}

type ProjectedRows = (Vec<Updates>, Vec<Rejected>);

fn project_rows(
    projector: &Projector,
    codec: &join::Codec,
    rows: &[(Row, Time, Diff)],
    workers: usize,
) -> Result<ProjectedRows, DataFusionError> {
    let batch = codec.decode(rows.iter().map(|(r, _, _)| &r[Point::BYTES..]))?;
    let points: Vec<Point> = rows.iter().map(|(r, _, _)| Point::decode(r)).collect();
    let counts_from: Vec<i64> = points.iter().map(|p| p.counts_from).collect();
    let flags: Vec<u8> = points.iter().map(|p| p.flags).collect();
    let too_often = |_| DataFusionError::Execution("a joined row is there more than 2^31 times".into());
    let diffs = rows.iter().map(|(_, _, d)| i32::try_from(*d).map_err(too_often)).collect::<Result<Vec<i32>, _>>()?;
    let epochs: Vec<i64> = rows.iter().map(|(_, t, _)| t.cast_signed()).collect();
    let changes = Changes { counts_from: &counts_from, flags: &flags, diffs: &diffs };
    let projected = projector.project(&batch, &epochs, Some(&changes), workers)?;
    // A row that is taken back, or ends, was refused when it came.
    let came = |n: usize| diffs[n] > 0 && flags[n] & CLOSING == 0;
    let plan = projector.plan();
    let refused = projected.refused.iter().filter(|(n, _)| came(*n)).map(|(n, reason)| {
        let place = &points[*n].place;
        Rejected::by_view(&plan.stream.name, &plan.name, (place.partition, place.offset), rows[*n].1, reason)
    });
    let refused = refused.collect();
    Ok((projected.updates, refused))
}

/// The fold: updates into the pages of the worker that owns their groups; a joined view's also to the log.
pub(super) fn fold<'s>(
    updates: StreamVec<'s, Time, Updates>,
    view: usize,
    shared: &Arc<Shared>,
) -> StreamVec<'s, Time, ()> {
    let planned = &shared.plan.views[view];
    let logged = planned.logs_updates();
    let (shared, name) = (Arc::clone(shared), format!("fold {}", planned.plan.name));
    let by_group = Exchange::new(|u: &Updates| u.worker);
    let rows = shared.metrics.operators().rows(&name);
    updates.unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(by_group, &name, move |_cap, _info| {
        move |input, _output| {
            input.for_each(|_cap, data| {
                for updates in data.drain(..) {
                    rows.took(updates.len());
                    if let Err(e) = shared.cache.push(&updates) {
                        shared.fail("pages", e);
                    }
                    if logged {
                        let _ = shared.committer.send(ToCommitter::Updates(updates));
                    }
                }
            });
        }
    })
}
