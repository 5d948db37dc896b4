//! Training sets: labels in, the features of several views as they were at each label's instant out.
//!
//! Every view is asked about the same commits. Rows keep their order; a feature is one column.
//!
//! Invariants: a value is the one the online path gave (or, as corrected, would give) for the same stamp: the fold and the
//! projection above it are the same code. Neighbours: `labels` reads the label columns, `point_in_time` answers; `cli` and
//! `serve::flight` bring labels and take results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, ScalarValue};

use super::point_in_time::{Labels, Mode, join};
use super::{Offline, OfflineError, Timeline, labels};
use crate::definition::{listed, nearest};
use crate::fold::Evaluation;
use crate::key::EntityCodec;
use crate::plan::Plan;
use crate::plan::output::Outputs;
use crate::time::Ask;

/// Answers that become columns at once.
const BLOCK: usize = 8192;

/// Why there is no training set.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A view, feature or service that does not exist.
    #[error("{0}")]
    Unknown(String),
    /// The request contradicts itself.
    #[error("{0}")]
    Request(String),
    /// The labels cannot be used.
    #[error("{0}")]
    Labels(String),
    /// The log has no answer.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// Columns do not fit together.
    #[error("the labels could not be joined: {0}")]
    Arrow(#[from] ArrowError),
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct HistoryRequest {
    /// Index of a view and indices of its features, in the order of the columns; a view may come more than once.
    pub features: Vec<(usize, Vec<usize>)>,
    /// Which past.
    pub mode: Mode,
    /// Columns are named `view__feature`.
    pub full_names: bool,
}

/// Reads a list of features: each `view:feature`, `view:*` or the name of a service. What is named twice comes once.
///
/// # Errors
/// [`HistoryError::Unknown`], with what there is.
pub fn parse_features<S: AsRef<str>>(plan: &Plan, names: &[S]) -> Result<Vec<(usize, Vec<usize>)>, HistoryError> {
    let mut wanted: Vec<(usize, usize)> = vec![];
    for name in names {
        let name = name.as_ref().trim();
        match name.split_once(':') {
            Some((view, "*")) => add(plan, view, None, &mut wanted)?,
            Some((view, feature)) => add(plan, view, Some(feature), &mut wanted)?,
            None => service(plan, name, &mut wanted)?,
        }
    }
    if wanted.is_empty() {
        return Err(HistoryError::Request(
            "no feature is asked for; name some as view:feature, or all as view:*".into(),
        ));
    }
    let runs = wanted.chunk_by(|a, b| a.0 == b.0);
    Ok(runs.map(|run| (run[0].0, run.iter().map(|(_, feature)| *feature).collect())).collect())
}

fn add(plan: &Plan, view: &str, feature: Option<&str>, wanted: &mut Vec<(usize, usize)>) -> Result<(), HistoryError> {
    let Some(index) = plan.view_index(view) else {
        return Err(unknown(&format!("view `{view}`"), view, plan.views.iter().map(|v| v.plan.name.as_str())));
    };
    let features = &plan.views[index].plan.features;
    if let Some(name) = feature
        && !features.iter().any(|f| f.name == name)
    {
        let what = format!("feature `{name}` in view `{view}`");
        return Err(unknown(&what, name, features.iter().map(|f| f.name.as_str())));
    }
    for (n, _) in features.iter().enumerate().filter(|(_, f)| feature.is_none_or(|name| f.name == name)) {
        if !wanted.contains(&(index, n)) {
            wanted.push((index, n));
        }
    }
    Ok(())
}

fn service(plan: &Plan, name: &str, wanted: &mut Vec<(usize, usize)>) -> Result<(), HistoryError> {
    let Some(members) = plan.services.get(name) else {
        if plan.view_index(name).is_some() {
            return Err(HistoryError::Unknown(format!(
                "there is no service `{name}`; to ask for all features of the view, write {name}:*"
            )));
        }
        return Err(unknown(&format!("service `{name}`"), name, plan.services.keys().map(String::as_str)));
    };
    members.iter().try_for_each(|(view, feature)| add(plan, view, feature.as_deref(), wanted))
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> HistoryError {
    let help = match (nearest(name, known.clone()), known.clone().next()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, Some(_)) => format!("there are {}", listed(known)),
        (None, None) => "there are none".into(),
    };
    HistoryError::Unknown(format!("there is no {what}; {help}"))
}

/// One view's share of a request.
struct Part {
    view: usize,
    codec: EntityCodec,
    outputs: Outputs,
    features: Vec<usize>,
}

/// A request, checked, at the commits there were when it was made.
pub struct History {
    offline: Arc<Offline>,
    timeline: Arc<Timeline>,
    /// Labels may be about instants up to here: what becomes visible later changes no answer.
    through: Ask,
    mode: Mode,
    parts: Vec<Part>,
    /// For each column: (part, place among its features).
    columns: Vec<(usize, usize)>,
    schema: SchemaRef,
    stopped: AtomicBool,
}

impl History {
    /// Prepares a request.
    ///
    /// # Errors
    /// Two columns of one name; a log whose commits cannot be read.
    pub fn new(offline: &Arc<Offline>, request: &HistoryRequest) -> Result<History, HistoryError> {
        let plan = offline.plan();
        let mut parts: Vec<Part> = vec![];
        let (mut columns, mut fields): (Vec<(usize, usize)>, Vec<Field>) = (vec![], vec![]);
        for (view, features) in &request.features {
            let planned = &plan.views[*view].plan;
            let known = parts.iter().position(|p| p.view == *view);
            let part = known.unwrap_or(parts.len());
            if known.is_none() {
                let (codec, outputs) = (EntityCodec::new(planned)?, Outputs::new(planned));
                parts.push(Part { view: *view, codec, outputs, features: vec![] });
            }
            for feature in features {
                let named = &planned.features[*feature];
                let name = match request.full_names {
                    true => format!("{}__{}", planned.name, named.name),
                    false => named.name.clone(),
                };
                if fields.iter().any(|f| *f.name() == name) {
                    return Err(HistoryError::Request(format!(
                        "two features would be named `{name}`; use --full-names (full_names) to name them view__feature"
                    )));
                }
                fields.push(Field::new(name, named.data_type.clone(), true));
                columns.push((part, parts[part].features.len()));
                parts[part].features.push(*feature);
            }
        }
        // Before the commits are read: those that were visible by then are among them.
        let through = Ask(offline.store().board().published().through);
        let (timeline, schema) = (offline.timeline()?, Arc::new(Schema::new(fields)));
        let (mode, stopped) = (request.mode, AtomicBool::new(false));
        Ok(History { offline: Arc::clone(offline), timeline, through, mode, parts, columns, schema, stopped })
    }

    /// Nobody wants the result any more: a join that is under way ends soon, with an error.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// The feature columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The label columns, then the features; finds out early whether labels of this schema can be joined.
    ///
    /// # Errors
    /// A time or entity column that is missing, two columns of one name, a feature named like a label column.
    pub fn joined_schema(&self, labels: &Schema, time_column: Option<&str>) -> Result<SchemaRef, HistoryError> {
        labels::distinct_names(labels)?;
        labels::time_column(labels, time_column)?;
        let none = RecordBatch::new_empty(Arc::new(labels.clone()));
        for part in &self.parts {
            self.entities(part, &none, 0)?;
        }
        if let Some(field) = self.schema.fields().iter().find(|f| labels.fields().find(f.name()).is_some()) {
            return Err(HistoryError::Request(format!(
                "the labels have a column `{0}`, and so would the result; use --full-names (full_names) or rename it",
                field.name()
            )));
        }
        let fields = labels.fields().iter().chain(self.schema.fields()).cloned();
        Ok(Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), labels.metadata().clone())))
    }

    /// The feature columns for a chunk of labels, row by row. `first_row` counts the labels before it, for messages.
    /// A call reads the log once for each view: chunks should be large.
    ///
    /// # Errors
    /// Labels that cannot be used, those among them that are about a later instant than what was settled when the request
    /// was made; a log that cannot be read.
    pub fn join(
        &self,
        labels: &RecordBatch,
        time_column: Option<&str>,
        first_row: usize,
    ) -> Result<RecordBatch, HistoryError> {
        let time = labels::time_column(&labels.schema(), time_column)?;
        let instants = labels::instants(labels, time, first_row)?;
        // What such a label would get now, it would not get later.
        labels::none_after(self.through, &instants, labels.schema().field(time).name(), first_row)?;
        let parts = self.parts.iter().map(|part| self.part(part, labels, &instants, first_row));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let columns = self.columns.iter().map(|(part, n)| Arc::clone(&parts[*part][*n])).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(labels.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// A part's entities, in declared order.
    fn entities(&self, part: &Part, labels: &RecordBatch, first_row: usize) -> Result<Vec<ArrayRef>, HistoryError> {
        let view = &self.offline.plan().views[part.view].plan.name;
        part.codec.columns().map(|(name, t)| labels::entity(labels, view, name, t, first_row)).collect()
    }

    fn part(
        &self,
        part: &Part,
        labels: &RecordBatch,
        instants: &[i64],
        first_row: usize,
    ) -> Result<Vec<ArrayRef>, HistoryError> {
        let planned = &self.offline.plan().views[part.view].plan;
        let entities = self.entities(part, labels, first_row)?;
        let groups = part.codec.groups(&entities)?;
        // The projection wants them in the query's order.
        let mut by_group: Vec<(usize, ArrayRef)> = planned.entity.iter().map(|(_, g)| *g).zip(entities).collect();
        by_group.sort_by_key(|(group, _)| *group);
        let group_columns: Vec<ArrayRef> = by_group.into_iter().map(|(_, column)| column).collect();
        let mut block = Block {
            part,
            group_columns: &group_columns,
            instants,
            rows: vec![],
            aggregates: vec![vec![]; planned.fold.aggregates.len()],
            done: vec![vec![]; part.features.len()],
            places: vec![0; labels.num_rows()],
            finished: 0,
        };
        let asked = part.outputs.asked(&part.features);
        let asked = Labels { groups: &groups, instants, asked: &asked };
        join(&self.offline, part.view, asked, self.mode, &self.timeline, &mut |row, answer| match self
            .stopped
            .load(Ordering::Acquire)
        {
            true => Err(OfflineError::Stopped),
            false => block.push(row, answer),
        })?;
        block.flush()?;
        Ok(block.in_order(&self.schema_of(part))?)
    }

    fn schema_of(&self, part: &Part) -> Vec<Field> {
        let features = &self.offline.plan().views[part.view].plan.features;
        part.features.iter().map(|f| Field::new(&features[*f].name, features[*f].data_type.clone(), true)).collect()
    }
}

/// Answers on their way into columns, in the order in which they come.
struct Block<'a> {
    part: &'a Part,
    group_columns: &'a [ArrayRef],
    instants: &'a [i64],
    /// Labels' rows of the answers gathered.
    rows: Vec<u32>,
    /// Their values, by aggregate.
    aggregates: Vec<Vec<ScalarValue>>,
    /// Columns of the answers before them, by feature.
    done: Vec<Vec<ArrayRef>>,
    /// Where each label's answer is among all of them.
    places: Vec<u32>,
    finished: u32,
}

impl Block<'_> {
    fn push(&mut self, row: usize, answer: &Evaluation) -> Result<(), OfflineError> {
        self.rows.push(u32::try_from(row).expect("labels come in bounded chunks"));
        self.aggregates.iter_mut().zip(&answer.values).for_each(|(column, value)| column.push(value.clone()));
        if self.rows.len() == BLOCK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), OfflineError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = UInt32Array::from(std::mem::take(&mut self.rows));
        let groups = self.group_columns.iter().map(|c| take(c, &rows, None)).collect::<Result<Vec<_>, _>>()?;
        let aggregates = self.aggregates.iter_mut().map(|values| ScalarValue::iter_to_array(values.drain(..)));
        let aggregates = aggregates.collect::<Result<Vec<_>, DataFusionError>>()?;
        let now: Vec<i64> = rows.values().iter().map(|n| self.instants[*n as usize]).collect();
        let columns = self.part.outputs.many(&self.part.features, &groups, &aggregates, &now)?;
        self.done.iter_mut().zip(columns).for_each(|(done, column)| done.push(column));
        for row in rows.values() {
            self.places[*row as usize] = self.finished;
            self.finished += 1;
        }
        Ok(())
    }

    /// The columns, in the order of the labels.
    fn in_order(self, fields: &[Field]) -> Result<Vec<ArrayRef>, ArrowError> {
        let places = UInt32Array::from(self.places);
        let column = |(done, field): (Vec<ArrayRef>, &Field)| {
            if done.is_empty() {
                return Ok(arrow::array::new_empty_array(field.data_type()));
            }
            let whole = concat(&done.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
            take(&whole, &places, None)
        };
        self.done.into_iter().zip(fields).map(column).collect()
    }
}
