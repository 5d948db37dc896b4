//! The plan as a timely dataflow: events in, updates into pages and to the committer, one graph on every worker.
//!
//! A view over a stream alone is two operators: rows are projected where they are read, updates move to the worker that
//! owns their group. A view with joins goes through differential arrangements before it is projected.
//!
//! Invariants: all workers build the same operators in the same order; what is fed again at a restart enters at the
//! resumed epoch and leaves no trace. An empty frontier means "stop", never "all is closed".
//! Neighbours: `engine` feeds it and owns the committer; `state::cache` takes the updates.

pub mod commit;
pub mod join;
pub mod project;
pub mod recover;
pub mod rows;
pub mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use differential_dataflow::AsCollection;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::generic::operator::{Operator, source};
use timely::dataflow::operators::probe::Probe;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};
use timely::scheduling::SyncActivator;
use timely::worker::Worker;

use crate::fold::entry::Updates;
use crate::plan::Plan;
use crate::source::Rejected;
use crate::state::cache::Cache;
use crate::telemetry::Metrics;
use crate::telemetry::lag::{self, Recorder, RowCounters, Side};
use commit::ToCommitter;
use join::{PREFIX, Prefix, Rows};
use project::{Changes, Projector};
use rows::{Row, Time};
use table::UpsertReader;

/// What a worker is fed.
#[derive(Clone, Debug)]
pub enum Feed {
    /// Rows of a source (index in the plan), in its `row_schema`, of epochs at or above the last tick.
    Rows(usize, RecordBatch),
    /// Rows that were committed before a restart: they rebuild arrangements, at the resumed epoch.
    Again(usize, RecordBatch),
    /// No row below this epoch will come.
    Tick(Time),
}

/// What all workers share.
pub struct Shared {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Pages.
    pub cache: Arc<Cache>,
    /// The committer's inbox.
    pub committer: Sender<ToCommitter>,
    /// The last committed epoch when the graph was built.
    pub resumed: Time,
    /// What is exported.
    pub metrics: Arc<Metrics>,
    /// Set to end the workers.
    pub stop: AtomicBool,
    /// The first failure of a worker, which ends the process.
    pub failed: parking_lot::Mutex<Option<String>>,
}

impl Shared {
    /// Something cannot go on: the node stops, and says the first reason.
    pub(crate) fn fail(&self, what: &str, error: impl std::fmt::Display) {
        self.failed.lock().get_or_insert_with(|| format!("{what}: {error}"));
        self.stop.store(true, Ordering::Release);
        let _ = self.committer.send(ToCommitter::Stop);
    }
}

/// A worker's life: builds the graph, then steps until told to stop.
pub fn run_worker(
    worker: &mut Worker,
    shared: &Arc<Shared>,
    inbox: Receiver<Feed>,
    wake: &Sender<(usize, SyncActivator)>,
) {
    // Before anything is built: operators fetch their logger when they are made.
    let mut recorder = lag::install(worker, Arc::clone(shared.metrics.operators()));
    let built = build(worker, shared, inbox, wake, &mut recorder);
    if let Err(e) = built {
        shared.fail("the dataflow could not be built", e);
    }
    while !shared.stop.load(Ordering::Acquire) && worker.has_dataflows() {
        worker.step_or_park(Some(Duration::from_millis(500)));
        recorder.publish(worker);
    }
    // Closing inputs would say that time has ended. Dropping the graph says nothing.
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

#[derive(Clone, Debug)]
struct Event {
    source: usize,
    batch: RecordBatch,
    again: bool,
}

fn build(
    worker: &mut Worker,
    shared: &Arc<Shared>,
    inbox: Receiver<Feed>,
    wake: &Sender<(usize, SyncActivator)>,
    recorder: &mut Recorder,
) -> Result<(), String> {
    let (index, peers) = (worker.index(), worker.peers());
    let mut result = Ok(());
    let out = &mut result;
    worker.dataflow_named::<Time, _, _>("headwater", |scope| {
        let rows = shared.metrics.operators().rows("feed");
        let events = feed(scope, inbox, wake.clone(), index, shared.resumed, rows);
        let events = watched(events, "feed", Side::Output, recorder);
        let mut ends: Vec<StreamVec<'_, Time, ()>> = vec![];
        let mut tables: BTreeMap<usize, Rows<'_>> = BTreeMap::new();
        for (n, planned) in shared.plan.views.iter().enumerate() {
            let first = scope.worker().peek_identifier();
            let updates = if planned.plan.joins.is_empty() {
                let name = format!("project {}", planned.plan.name);
                direct(watched(events.clone(), &name, Side::Input, recorder), n, shared, peers)
            } else {
                joined(events.clone(), n, shared, peers, &mut tables, recorder)
            };
            match updates {
                Ok(updates) => {
                    let name = &planned.plan.name;
                    let updates = watched(updates, &format!("project {name}"), Side::Output, recorder);
                    let updates = watched(updates, &format!("fold {name}"), Side::Input, recorder);
                    ends.push(watched(fold(updates, n, shared), &format!("fold {name}"), Side::Output, recorder));
                }
                Err(e) => *out = Err(format!("view `{}`: {e}", planned.plan.name)),
            }
            recorder.attribute(first..scope.worker().peek_identifier(), &planned.plan.name);
        }
        // Events that no view reads pass here, so that their epochs close like the others.
        ends.push(events.flat_map(|_| None));
        let end = scope.concatenate(ends);
        close(watched(end, "close", Side::Input, recorder), shared);
    });
    result
}

/// A stream with a probe whose frontier is exported as that of an operator's input or output.
fn watched<'s, D: Clone + 'static>(
    stream: StreamVec<'s, Time, D>,
    name: &str,
    side: Side,
    recorder: &mut Recorder,
) -> StreamVec<'s, Time, D> {
    let probe = ProbeHandle::new();
    recorder.probe(name, side, &probe);
    stream.probe_with(&probe)
}

/// The source: rows as they come, ticks as capabilities.
fn feed<'s>(
    scope: Scope<'s, Time>,
    inbox: Receiver<Feed>,
    wake: Sender<(usize, SyncActivator)>,
    index: usize,
    resumed: Time,
    rows: Arc<RowCounters>,
) -> StreamVec<'s, Time, Event> {
    source::<_, CapacityContainerBuilder<Vec<Event>>, _, _>(scope, "feed", move |mut cap, info| {
        // Whoever fills the inbox wakes us with this.
        let _ = wake.send((index, scope.worker().sync_activator_for(info.address.to_vec())));
        let again = scope.activator_for(info.address);
        cap.downgrade(&resumed);
        let mut cap = Some(cap);
        move |output| {
            let Some(held) = cap.as_mut() else { return };
            for _ in 0..16 {
                match inbox.try_recv() {
                    Ok(Feed::Rows(source, batch)) => {
                        rows.gave(batch.num_rows());
                        output.session(&*held).give(Event { source, batch, again: false });
                    }
                    Ok(Feed::Again(source, batch)) => {
                        output.session(&*held).give(Event { source, batch, again: true });
                    }
                    Ok(Feed::Tick(epoch)) if epoch > *held.time() => held.downgrade(&epoch),
                    Ok(Feed::Tick(_)) => {}
                    Err(TryRecvError::Empty) => return,
                    Err(TryRecvError::Disconnected) => {
                        cap = None;
                        return;
                    }
                }
            }
            again.activate();
        }
    })
}

/// A view over its stream alone: projected where the rows are.
fn direct<'s>(
    events: StreamVec<'s, Time, Event>,
    view: usize,
    shared: &Arc<Shared>,
    peers: usize,
) -> Result<StreamVec<'s, Time, Updates>, String> {
    let planned = &shared.plan.views[view];
    let projector = Projector::new(view, planned).map_err(|e| e.to_string())?;
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
                            rows.took(event.batch.num_rows());
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
fn refuse_events(shared: &Shared, projector: &Projector, batch: &RecordBatch, refused: &[(usize, String)]) {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
    if refused.is_empty() {
        return;
    }
    let column = |name: &str| batch.column_by_name(name).expect("events have their system columns");
    let rejected = refused.iter().map(|(row, reason)| Rejected {
        source: projector.plan().stream.name.clone(),
        view: Some(projector.plan().name.clone()),
        partition: column("_partition").as_primitive::<Int32Type>().value(*row),
        offset: column("_offset").as_primitive::<Int64Type>().value(*row),
        reason: format!("expression: {reason}"),
        epoch: column("_epoch").as_primitive::<TimestampMicrosecondType>().value(*row).cast_unsigned(),
        key: None,
        bytes: vec![],
    });
    let _ = shared.committer.send(ToCommitter::Refused(rejected.collect()));
}

/// A view over a stream joined with tables.
fn joined<'s>(
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
        if let std::collections::btree_map::Entry::Vacant(slot) = tables.entry(source) {
            let rows = table_rows(events.clone(), source, shared)?;
            let name = format!("table {}", join.table.name);
            slot.insert(watched(rows.inner, &name, Side::Output, recorder).as_collection());
        }
        sides.push(tables[&source].clone());
    }
    let stream = shared.plan.source_index(&plan.stream.name).ok_or("its stream is not planned")?;
    let codec = join::stream_codec(plan).map_err(|e| e.to_string())?;
    let (resumed, encoding, failing) = (shared.resumed, Arc::clone(plan), Arc::clone(shared));
    let rows = events
        .flat_map(move |event| {
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
        })
        .as_collection();
    let rows = join::joined(plan, rows, sides).map_err(|e| e.to_string())?;
    let rows = watched(rows.inner, &format!("project {}", plan.name), Side::Input, recorder).as_collection();
    project_joined(rows, view, shared, peers)
}

fn with_times(rows: Vec<Row>, event: &Event, resumed: Time) -> Vec<(Row, Time, i64)> {
    use arrow::array::AsArray;
    use arrow::datatypes::TimestampMicrosecondType;
    let epochs = event.batch.column_by_name("_epoch").expect("events have their system columns");
    let epochs = epochs.as_primitive::<TimestampMicrosecondType>();
    let time = |n: usize| if event.again { resumed } else { epochs.value(n).cast_unsigned() };
    rows.into_iter().enumerate().map(|(n, row)| (row, time(n), 1)).collect()
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
    let projector = Projector::new(view, planned).map_err(|e| e.to_string())?;
    let codec = join::Codec::new(Arc::clone(&planned.plan.row)).map_err(|e| e.to_string())?;
    let shared = Arc::clone(shared);
    let name = format!("project {}", planned.plan.name);
    // Equal rows meet, so that what a change takes and gives back is netted before it is logged.
    let by_row = Exchange::new(|(row, _, _): &(Row, Time, i64)| xxhash_rust::xxh3::xxh3_64(row));
    type Out = CapacityContainerBuilder<Vec<Updates>>;
    let counted = shared.metrics.operators().rows(&name);
    Ok(rows.inner.unary_frontier::<Out, _, _, _>(by_row, &name, move |cap, _info| {
        let mut cap = Some(cap);
        let mut pending: Vec<(Row, Time, i64)> = vec![];
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
            differential_dataflow::consolidation::consolidate_updates(&mut due);
            let mut out = output.session(&*held);
            counted.took(due.len());
            for part in due.chunks(8192) {
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

type ProjectedRows = (Vec<Updates>, Vec<Rejected>);

fn project_rows(
    projector: &Projector,
    codec: &join::Codec,
    rows: &[(Row, Time, i64)],
    workers: usize,
) -> Result<ProjectedRows, datafusion::common::DataFusionError> {
    let batch = codec.decode(rows.iter().map(|(r, _, _)| &r[PREFIX..]))?;
    let prefixes: Vec<Prefix> = rows.iter().map(|(r, _, _)| Prefix::decode(r)).collect();
    let counts_from: Vec<i64> = prefixes.iter().map(|p| p.counts_from).collect();
    let flags: Vec<u8> = prefixes.iter().map(|p| p.flags).collect();
    let diffs: Vec<i32> = rows.iter().map(|(_, _, d)| i32::try_from(*d).unwrap_or(i32::MAX)).collect();
    let epochs: Vec<i64> = rows.iter().map(|(_, t, _)| t.cast_signed()).collect();
    let changes = Changes { counts_from: &counts_from, flags: &flags, diffs: &diffs };
    let projected = projector.project(&batch, &epochs, Some(&changes), workers)?;
    // A row that is taken back was refused when it came.
    let refused = projected.refused.iter().filter(|(n, _)| diffs[*n] > 0).map(|(n, reason)| Rejected {
        source: projector.plan().stream.name.clone(),
        view: Some(projector.plan().name.clone()),
        partition: prefixes[*n].partition,
        offset: prefixes[*n].offset,
        reason: format!("expression: {reason}"),
        epoch: rows[*n].1,
        key: None,
        bytes: vec![],
    });
    let refused = refused.collect();
    Ok((projected.updates, refused))
}

/// The fold: updates into the pages of the worker that owns their groups; a joined view's also to the log.
fn fold<'s>(updates: StreamVec<'s, Time, Updates>, view: usize, shared: &Arc<Shared>) -> StreamVec<'s, Time, ()> {
    let planned = &shared.plan.views[view];
    let logged = !planned.plan.joins.is_empty();
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

/// Tells the committer which epochs are closed: any worker's word is enough, since the frontier is everyone's.
fn close(end: StreamVec<'_, Time, ()>, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    end.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "close", move |_cap, _info| {
        let mut told = 0;
        move |(input, frontier), _output| {
            input.for_each(|_cap, data| data.clear());
            let Some(&closed) = frontier.frontier().first() else { return };
            if closed > told {
                told = closed;
                let _ = shared.committer.send(ToCommitter::Closed(closed));
            }
        }
    });
}
