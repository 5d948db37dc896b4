//! Requests, without protocol: which features of which entities, at which stamp, under which contract.
//!
//! A contract says what an answer must at least reflect: an epoch, the record at an offset, a greatest staleness. What is
//! not there yet is waited for, up to `wait`.
//!
//! Invariants: views, features and services are found before entities are read; a request of more values than an answer may
//! have is refused before anything is made of it. Neighbours: `http` reads its texts into this; `answering` answers.

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::ScalarValue;
use serde_json::{Map, Value, json};

use super::json::from_json;
use super::problem::RequestError;
use super::waiting::Need;
use crate::definition::{Connector, listed, nearest};
use crate::key::EntityCodec;
use crate::online::{Answer, LookupError, Online, StampRequest, ViewRequest, find_features, find_view};
use crate::plan::Plan;
use crate::state::cache::Published;
use crate::time::{Ask, Epoch, format_instant, parse_duration, parse_instant};

/// The longest `wait`.
const LONGEST_WAIT: i64 = 60_000_000;

/// Between a commit's being durable and its being visible there are microseconds.
const PUBLISHING: Duration = Duration::from_millis(500);

/// Values that one request may ask for: rows times features.
pub const MOST_VALUES: usize = 1_000_000;

/// Names of a contract's fields, the same in queries and bodies.
pub const CONTRACT_FIELDS: [&str; 5] = ["epoch", "as_of", "max_staleness", "min_offset", "wait"];

/// The record at `offset` must be reflected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinOffset {
    /// The source.
    pub source: String,
    /// Its partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
}

/// What an answer must at least reflect.
#[derive(Clone, Debug, Default)]
pub struct Contract {
    /// Which stamp.
    pub stamp: StampRequest,
    /// How old the state may be at the ask, in µs.
    pub max_staleness: Option<i64>,
    /// Which records must be reflected.
    pub min_offsets: Vec<MinOffset>,
    /// How long to wait for it; not at all if it does not say.
    pub wait: Option<Duration>,
}

impl Contract {
    /// Takes a field from its text; false if the name is none of [`CONTRACT_FIELDS`].
    ///
    /// # Errors
    /// A text that does not say what the field means.
    pub fn set(&mut self, plan: &Plan, name: &str, text: &str) -> Result<bool, RequestError> {
        let malformed =
            |expected: &str| RequestError::Malformed(format!("`{text}` is not a value of {name}: {expected}"));
        let instant =
            || parse_spaced(text).ok_or_else(|| malformed("write RFC 3339, as in 2026-11-20T21:00:00.123456Z"));
        let length = || match text.trim() {
            // Of nothing the unit does not matter.
            "0" => Ok(0),
            text => parse_duration(text).ok_or_else(|| malformed("write a duration, as in '500 ms' or '2 seconds'")),
        };
        let is_there = match name {
            "epoch" => self.stamp.epoch.is_some(),
            "as_of" => self.stamp.as_of.is_some(),
            "max_staleness" => self.max_staleness.is_some(),
            "wait" => self.wait.is_some(),
            _ => false,
        };
        if is_there {
            return Err(malformed("there is another one before it"));
        }
        match name {
            "epoch" => {
                let micros = instant()?;
                let epoch = u64::try_from(micros).map_err(|_| malformed("an epoch is not before 1970"))?;
                self.stamp.epoch = Some(Epoch(epoch));
            }
            "as_of" => self.stamp.as_of = Some(Ask(instant()?)),
            "max_staleness" => self.max_staleness = Some(length()?),
            "wait" => {
                let micros = length()?;
                if micros > LONGEST_WAIT {
                    return Err(malformed("it is at most 1 minute"));
                }
                self.wait = Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)));
            }
            "min_offset" => {
                for part in text.split(',') {
                    self.min_offsets.extend(min_offset(plan, part)?);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads a query of nothing but a contract.
    ///
    /// # Errors
    /// As of [`Contract::set`]; a name that is none of [`CONTRACT_FIELDS`].
    pub fn from_query(plan: &Plan, query: &[(String, String)]) -> Result<Contract, RequestError> {
        let mut contract = Contract::default();
        for (name, text) in query {
            if !contract.set(plan, name, text)? {
                return Err(unknown_field(name, &[]));
            }
        }
        Ok(contract)
    }

    /// Adds what another contract says.
    ///
    /// # Errors
    /// Both say something of a field, and not the same.
    fn merge(&mut self, other: Contract) -> Result<(), RequestError> {
        fn one<T: PartialEq>(name: &str, own: &mut Option<T>, other: Option<T>) -> Result<(), RequestError> {
            if own.is_some() && other.is_some() && *own != other {
                let message = format!("{name} is one thing in the query and another in the body: write it once");
                return Err(RequestError::Malformed(message));
            }
            *own = own.take().or(other);
            Ok(())
        }
        one("epoch", &mut self.stamp.epoch, other.stamp.epoch)?;
        one("as_of", &mut self.stamp.as_of, other.stamp.as_of)?;
        one("max_staleness", &mut self.max_staleness, other.max_staleness)?;
        one("wait", &mut self.wait, other.wait)?;
        let some = |offsets: Vec<MinOffset>| (!offsets.is_empty()).then_some(offsets);
        let mut offsets = some(std::mem::take(&mut self.min_offsets));
        one("min_offset", &mut offsets, some(other.min_offsets))?;
        self.min_offsets = offsets.unwrap_or_default();
        Ok(())
    }

    /// Is it about whatever is visible now, and not about a stamp?
    pub fn is_live(&self) -> bool {
        self.stamp.epoch.is_none() && self.stamp.as_of.is_none()
    }

    /// Nothing but the present is asked for: the answer is in memory, and nobody waits.
    pub fn is_plain(&self) -> bool {
        self.is_live() && self.max_staleness.is_none() && self.min_offsets.is_empty()
    }
}

/// An instant; in a query a `+` may have become a space.
fn parse_spaced(text: &str) -> Option<i64> {
    let zone = || text.trim().rsplit_once(' ').map(|(t, zone)| format!("{t}+{zone}"));
    let year = || text.strip_prefix(' ').map(|far| format!("+{far}"));
    let read = |text: Option<String>| parse_instant(&text?);
    parse_instant(text).or_else(|| read(zone())).or_else(|| read(year()))
}

/// One of the texts of `min_offset`: a topic may feed several sources.
fn min_offset(plan: &Plan, text: &str) -> Result<Vec<MinOffset>, RequestError> {
    let malformed = |why: String| RequestError::Malformed(format!("`{text}` is not a value of min_offset: {why}"));
    let parts: Vec<&str> = text.trim().rsplitn(3, '/').collect();
    let [offset, partition, topic] = parts[..] else {
        return Err(malformed("write topic/partition/offset, as in clicks/0/1041".into()));
    };
    let topic_of = |source: &crate::definition::Source| match &source.from {
        Connector::Kafka { topic, .. } => topic.clone(),
        Connector::File { .. } => source.name.clone(),
    };
    let found: Vec<_> = plan.sources.iter().filter(|s| topic_of(s) == topic || s.name == topic).collect();
    if found.is_empty() {
        let topics: Vec<String> = plan.sources.iter().map(|s| topic_of(s)).collect();
        let known = listed(topics.iter().map(String::as_str));
        return Err(malformed(format!("there is no topic `{topic}`; there are {known}")));
    }
    let number = |text: &str| text.parse::<i64>().ok().filter(|n| *n >= 0);
    let at = number(partition).and_then(|n| i32::try_from(n).ok());
    let partition = at.ok_or_else(|| malformed(format!("`{partition}` is not a partition")))?;
    let offset = number(offset).ok_or_else(|| malformed(format!("`{offset}` is not an offset")))?;
    Ok(found.into_iter().map(|s| MinOffset { source: s.name.clone(), partition, offset }).collect())
}

/// Features of entities.
pub struct Request {
    /// One per view, in the order of their first mention; all have the same number of entities.
    pub views: Vec<ViewRequest>,
    /// The columns of the answer, in the order asked: (index in `views`, index in its features).
    pub columns: Vec<(usize, usize)>,
    /// Entities of each view.
    pub rows: usize,
    /// What the answer must reflect.
    pub contract: Contract,
}

impl Request {
    /// Reads the body of `POST /v1/features`; `query`: what the query says already.
    ///
    /// # Errors
    /// A body of another shape, with what was expected; unknown names; a contract other than the query's.
    pub fn from_body(online: &Online, query: Contract, body: &[u8]) -> Result<Request, RequestError> {
        // A value of two bytes takes some seventy once it is parsed; more values than an answer may have are not wanted.
        let values = body.iter().filter(|byte| **byte == b',').count();
        if values > 2 * MOST_VALUES {
            return Err(RequestError::TooMany { values, limit: MOST_VALUES });
        }
        let body: Value =
            serde_json::from_slice(body).map_err(|e| RequestError::Malformed(format!("the body is not JSON: {e}")))?;
        let Value::Object(body) = body else { return Err(expected("the body", "an object", &body)) };
        let plan = online.plan();
        let mut contract = Contract::default();
        for (name, value) in &body {
            if ["features", "service", "entities"].contains(&name.as_str()) {
                continue;
            }
            let texts = match value {
                Value::String(text) => vec![text.as_str()],
                Value::Array(items) if name == "min_offset" && items.iter().all(Value::is_string) => {
                    items.iter().filter_map(Value::as_str).collect()
                }
                Value::Null => continue,
                _ if CONTRACT_FIELDS.contains(&name.as_str()) => return Err(expected(name, "a string", value)),
                _ => vec![""],
            };
            for text in texts {
                if !contract.set(plan, name, text)? {
                    return Err(unknown_field(name, &["features", "service", "entities"]));
                }
            }
        }
        contract.merge(query)?;
        let wanted = wanted(plan, &body)?;
        let mut request = Request { views: vec![], columns: vec![], rows: 0, contract };
        for (view, feature) in wanted {
            request.want(plan, &view, feature.as_deref())?;
        }
        request.read_entities(online, body.get("entities"))?;
        Ok(request)
    }

    /// Refuses more values than an answer may have: counted before any of them is read.
    fn bound(&self, rows: usize) -> Result<(), RequestError> {
        let values = rows.saturating_mul(self.columns.len());
        match values > MOST_VALUES {
            true => Err(RequestError::TooMany { values, limit: MOST_VALUES }),
            false => Ok(()),
        }
    }

    /// Adds a view's feature, or all of them.
    fn want(&mut self, plan: &Plan, view: &str, feature: Option<&str>) -> Result<(), LookupError> {
        let view = find_view(plan, view)?;
        let found = find_features(plan, view, feature.map(|f| [f]).as_ref().map(<[&str; 1]>::as_slice))?;
        let at = self.views.iter().position(|v| v.view == view).unwrap_or_else(|| {
            self.views.push(ViewRequest { view, features: vec![], entities: vec![] });
            self.views.len() - 1
        });
        let features = &mut self.views[at].features;
        for feature in found {
            let place = features.iter().position(|f| *f == feature).unwrap_or_else(|| {
                features.push(feature);
                features.len() - 1
            });
            // What is named twice comes once.
            if !self.columns.contains(&(at, place)) {
                self.columns.push((at, place));
            }
        }
        Ok(())
    }

    fn read_entities(&mut self, online: &Online, entities: Option<&Value>) -> Result<(), RequestError> {
        let shape = "an object with an array per entity column, as in {\"user_id\": [42, 43]}";
        let columns = match entities {
            Some(Value::Object(columns)) => columns,
            Some(other) => return Err(expected("entities", shape, other)),
            None => return Err(RequestError::Malformed(format!("entities is missing: write {shape}"))),
        };
        let mut length: Option<(&str, usize)> = None;
        for (name, values) in columns {
            let Value::Array(values) = values else {
                return Err(expected(&format!("entities.{name}"), "an array of values", values));
            };
            match length {
                Some((first, n)) if n != values.len() => {
                    let (m, what) = (values.len(), "one value per row in each");
                    let message = format!("entities.{first} has {n} values and entities.{name} has {m}: write {what}");
                    return Err(RequestError::Malformed(message));
                }
                _ => length = Some((name, values.len())),
            }
        }
        self.rows = length.map_or(0, |(_, n)| n);
        self.bound(self.rows)?;
        for request in &mut self.views {
            let codec = online.entities(request.view);
            let name = &online.plan().views[request.view].plan.name;
            request.entities = view_entities(codec, name, columns, self.rows)?;
        }
        Ok(())
    }
}

/// (view, feature or all) from `features` or `service`.
fn wanted(plan: &Plan, body: &Map<String, Value>) -> Result<Vec<(String, Option<String>)>, RequestError> {
    let shape = "an array of \"view:feature\" and \"view:*\"";
    match (body.get("features"), body.get("service")) {
        (Some(_), Some(_)) => Err(RequestError::Malformed("features and service exclude each other: write one".into())),
        (None, None) => {
            Err(RequestError::Malformed(format!("what is asked for is missing: write features, {shape}, or service")))
        }
        (Some(Value::Array(items)), None) if !items.is_empty() => items
            .iter()
            .map(|item| item.as_str().and_then(reference).ok_or_else(|| expected("features", shape, item)))
            .collect(),
        (Some(other), None) => Err(expected("features", shape, other)),
        (None, Some(Value::String(name))) => plan.services.get(name).cloned().ok_or_else(|| {
            let names = plan.services.keys().map(String::as_str);
            let known =
                if plan.services.is_empty() { "there are none".into() } else { format!("there are {}", listed(names)) };
            RequestError::UnknownService { name: name.clone(), known }
        }),
        (None, Some(other)) => Err(expected("service", "the name of a feature service", other)),
    }
}

fn reference(text: &str) -> Option<(String, Option<String>)> {
    let (view, feature) = text.split_once(':')?;
    Some((view.to_string(), (feature != "*").then(|| feature.to_string())))
}

/// A view's entities, row by row, from columns by name. Columns of other views' entities are theirs.
fn view_entities(
    codec: &EntityCodec,
    view: &str,
    columns: &Map<String, Value>,
    rows: usize,
) -> Result<Vec<Vec<ScalarValue>>, RequestError> {
    let mut entities: Vec<Vec<ScalarValue>> = vec![vec![]; rows];
    for (name, data_type) in codec.columns() {
        let Some(Value::Array(values)) = columns.get(name) else {
            let given = match nearest(name, columns.keys().map(String::as_str)) {
                Some(near) => format!("; is it `{near}`?"),
                None => String::new(),
            };
            return Err(RequestError::Malformed(format!("view `{view}` needs the entity column `{name}`{given}")));
        };
        for (row, value) in entities.iter_mut().zip(values) {
            row.push(from_json(value, name, data_type).map_err(LookupError::from)?);
        }
    }
    Ok(entities)
}

fn expected(what: &str, shape: &str, found: &Value) -> RequestError {
    let mut found = found.to_string();
    if found.len() > 60 {
        let cut = (0..=60).rev().find(|n| found.is_char_boundary(*n)).unwrap_or(0);
        found.truncate(cut);
        found.push('…');
    }
    RequestError::Malformed(format!("{what} is {found}; write {shape}"))
}

/// A field or parameter that there is not.
pub fn unknown_field(name: &str, own: &[&str]) -> RequestError {
    let known: Vec<&str> = own.iter().chain(&CONTRACT_FIELDS).copied().collect();
    RequestError::Malformed(match nearest(name, known.iter().copied()) {
        Some(near) => format!("there is no `{name}`; did you mean `{near}`?"),
        None => format!("there is no `{name}`; there are {}", listed(known)),
    })
}

/// What was missing at one look.
pub struct Unmet {
    what: String,
    available: Map<String, Value>,
    /// What to wait for; nothing if no wait brings it.
    pub need: Option<Need>,
}

impl From<Unmet> for RequestError {
    fn from(unmet: Unmet) -> RequestError {
        RequestError::NotMet { what: unmet.what, available: unmet.available }
    }
}

/// Answers under a contract, or says what is missing. Not for an async thread unless [`Contract::is_plain`].
///
/// `complete`: up to when everything appended is reflected in what is published, in µs; between commits it is what tells
/// an idle node from a slow one.
///
/// # Errors
/// Whatever the read path says.
pub fn attempt(
    online: &Arc<Online>,
    complete: Option<i64>,
    views: &[ViewRequest],
    contract: &Contract,
) -> Result<Result<Answer, Unmet>, RequestError> {
    let published = online.cache().published();
    if let Some(unmet) = behind(online, contract, &published)? {
        return Ok(Err(unmet));
    }
    let answer = online.lookup(views, contract.stamp)?;
    let Some(most) = contract.max_staleness else { return Ok(Ok(answer)) };
    let live = contract.is_live();
    let visible = if live && answer.epoch.0 == published.epoch {
        published.visible
    } else {
        online.offline().timeline().map_err(LookupError::from)?.visible(answer.epoch).unwrap_or(0)
    };
    // Asked before the lookup: what was complete by then is in the answer.
    let fresh = if live { complete.map_or(visible, |c| c.max(visible)) } else { visible };
    let staleness = answer.as_of.0.saturating_sub(fresh);
    if staleness <= most {
        return Ok(Ok(answer));
    }
    let spoken = |micros: i64| format!("{}.{:06} s", micros / 1_000_000, micros % 1_000_000);
    let what = format!("the state is {} old at the ask, more than {}", spoken(staleness), spoken(most));
    let available = json!({ "epoch": answer.epoch.to_string(), "fresh_as_of": format_instant(fresh) });
    // What a stamp was about does not become fresher.
    let need = live.then(|| Need { staleness: Some(most), ..Need::default() });
    Ok(Err(Unmet { what, available: members(available), need }))
}

/// The first record that is to be reflected and is not.
fn behind(online: &Arc<Online>, contract: &Contract, published: &Published) -> Result<Option<Unmet>, RequestError> {
    if contract.min_offsets.is_empty() {
        return Ok(None);
    }
    let store = online.cache().store();
    let (offsets, last) = match contract.stamp {
        StampRequest { epoch: None, as_of: None } => {
            let offsets = store.offsets().map_err(LookupError::from)?;
            let last = Epoch(store.last_commit().map_err(LookupError::from)?.map_or(0, |c| c.last));
            // Durable is not yet visible.
            let published = online.cache().wait(PUBLISHING, |p| p.epoch >= last.0);
            let shown = Epoch(published.epoch);
            if shown < last { (store.offsets_at(shown).map_err(LookupError::from)?, shown) } else { (offsets, last) }
        }
        stamp => {
            let (epoch, _) = online.stamp(stamp, published)?;
            (store.offsets_at(epoch).map_err(LookupError::from)?, epoch)
        }
    };
    for MinOffset { source, partition, offset } in &contract.min_offsets {
        let end = offsets.get(source, *partition);
        if end <= *offset {
            let what =
                format!("offset {offset} of partition {partition} of `{source}` is not committed; {end} is next");
            let available = json!({ "epoch": last.to_string(), "next_offset": end });
            // What a stamp includes does not change.
            let need = contract.is_live().then(|| Need { offsets: contract.min_offsets.clone(), ..Need::default() });
            return Ok(Some(Unmet { what, available: members(available), need }));
        }
    }
    Ok(None)
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
