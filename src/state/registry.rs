//! The registry: which id each source, each version of a view and each group key has in this store, and by which
//! definitions it was made.
//!
//! Ids are looked up once, when a store is opened with a plan; from then on everything that is stored says them. Indices
//! into the plan's lists are for whoever holds the plan.
//!
//! Invariants: an id is never given twice, also not when what had it is gone; definitions other than those that the store
//! was made by are refused by name. Neighbours: `open` registers, [`crate::id`] are the ids.

use std::collections::BTreeMap;

use rocksdb::{IteratorMode, WriteBatch};
use serde::{Deserialize, Serialize};

use super::commit::LogKind;
use super::{StateError, Store, damaged, number};
use crate::id::{KeyId, SourceId, ViewId};
use crate::plan::Plan;
use crate::plan::keyed::GroupKey;

/// Word of `meta`: the next id to be given.
const NEXT: &str = "ids";

/// An entry of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Registered {
    id: u32,
    fingerprint: String,
}

/// The ids of a plan's sources and views, by their index there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    sources: Vec<SourceId>,
    views: Vec<ViewId>,
    keys: Vec<KeyId>,
    /// By view: the log that its pages follow from.
    logs: Vec<LogKind>,
}

impl Ids {
    /// Of a source.
    pub fn source(&self, index: usize) -> SourceId {
        self.sources[index]
    }

    /// Of a view, in the version that the plan has.
    pub fn view(&self, index: usize) -> ViewId {
        self.views[index]
    }

    /// Of a group key.
    pub fn key(&self, index: usize) -> KeyId {
        self.keys[index]
    }

    /// The index in the plan of what has this id; `None` if the plan has it not.
    pub fn view_index(&self, id: ViewId) -> Option<usize> {
        self.views.iter().position(|v| *v == id)
    }

    /// All views.
    pub fn views(&self) -> impl Iterator<Item = ViewId> + '_ {
        self.views.iter().copied()
    }

    /// The log that a view's pages follow from: its own updates, or its stream's events.
    pub fn log_of(&self, index: usize) -> LogKind {
        self.logs[index]
    }

    /// All logs that there may be: every source's events, and the updates of the views that log some.
    pub fn logs(&self) -> impl Iterator<Item = LogKind> + '_ {
        let own = self.logs.iter().filter(|log| matches!(log, LogKind::Updates(_))).copied();
        self.sources.iter().map(|s| LogKind::Events(*s)).chain(own)
    }

    /// The views whose pages follow from a log.
    pub fn readers(&self, log: LogKind) -> impl Iterator<Item = ViewId> + '_ {
        self.views.iter().zip(&self.logs).filter(move |(_, l)| **l == log).map(|(view, _)| *view)
    }

    fn of(plan: &Plan, known: &BTreeMap<String, Registered>) -> Ids {
        let id = |key: &str| known[key].id;
        let sources: Vec<SourceId> = plan.sources.iter().map(|s| SourceId::new(id(&source_key(&s.name)))).collect();
        let views: Vec<ViewId> =
            plan.views.iter().map(|v| ViewId::new(id(&view_key(&v.plan.name, v.version)))).collect();
        let logs = plan.views.iter().zip(&views).map(|(planned, view)| match planned.logs_updates() {
            true => LogKind::Updates(*view),
            false => {
                let stream = plan.source_index(&planned.plan.stream.name);
                LogKind::Events(sources[stream.expect("a view's stream is one of the plan's sources")])
            }
        });
        let logs = logs.collect();
        let keys = plan.keys.iter().map(|k| KeyId::new(id(&key_key(k)))).collect();
        Ids { sources, views, keys, logs }
    }
}

fn source_key(name: &str) -> String {
    format!("source:{name}")
}

fn view_key(name: &str, version: u32) -> String {
    format!("view:{name}@{version}")
}

/// An identity may be long.
fn key_key(key: &GroupKey) -> String {
    format!("key:{}:{:016x}", key.stream.name, xxhash_rust::xxh3::xxh3_64(key.identity.as_bytes()))
}

/// What the plan wants registered: key and fingerprint.
fn wanted(plan: &Plan) -> Vec<(String, String)> {
    let views = plan.views.iter().map(|v| (view_key(&v.plan.name, v.version), v.plan.fingerprint.clone()));
    let sources = plan.sources.iter().map(|s| (source_key(&s.name), format!("{:?} {:?}", s.kind, s.columns)));
    let keys = plan.keys.iter().map(|k| (key_key(k), k.identity.clone()));
    views.chain(sources).chain(keys).collect()
}

impl Store {
    /// The ids of the plan that it was opened with.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Looks up every view's and source's id, and refuses definitions that the store was not made by. A store in which
    /// nothing is registered yet has no ids: see [`Store::register`].
    pub(super) fn look_up(&mut self, plan: &Plan) -> Result<(), StateError> {
        let mut known: BTreeMap<String, Registered> = BTreeMap::new();
        for row in self.db.iterator_cf(&self.family("registry"), IteratorMode::Start) {
            let (key, value) = row?;
            let key = String::from_utf8_lossy(&key).into_owned();
            if ["view:", "source:", "key:"].iter().any(|kind| key.starts_with(kind)) {
                let registered = serde_json::from_slice(&value)
                    .map_err(|e| damaged(&format!("registry entry {key}"), &e.to_string()))?;
                known.insert(key, registered);
            }
        }
        if known.is_empty() {
            if self.last_commit()?.is_some() {
                return Err(damaged("the registry", "it names no view and no source, and there are commits"));
            }
            return if self.is_writer() { Ok(()) } else { Err(StateError::Missing(self.dir.clone())) };
        }
        let wanted = wanted(plan);
        let mut differences = vec![];
        for (key, fingerprint) in &wanted {
            match known.get(key) {
                Some(r) if r.fingerprint == *fingerprint => {}
                Some(_) => differences.push(format!("{} has changed", spoken(key))),
                None => differences.push(format!("{} is new", spoken(key))),
            }
        }
        let gone = known.keys().filter(|k| !wanted.iter().any(|(w, _)| w == *k));
        differences.extend(gone.map(|k| format!("{} is missing", spoken(k))));
        if !differences.is_empty() {
            return Err(StateError::OtherDefinitions(differences));
        }
        self.ids = Ids::of(plan, &known);
        Ok(())
    }

    /// Gives every view and source its id, if none has one yet.
    pub(super) fn register(&mut self, plan: &Plan) -> Result<(), StateError> {
        if self.ids != Ids::default() {
            return Ok(());
        }
        let wanted = wanted(plan);
        let next = u32::try_from(number(NEXT, self.meta(NEXT)?)?.max(1));
        let next = next.map_err(|_| damaged("the next id", "it is beyond all that there can be"))?;
        let (mut batch, mut known) = (WriteBatch::default(), BTreeMap::new());
        for (id, (key, fingerprint)) in (next..).zip(wanted) {
            let registered = Registered { id, fingerprint };
            let value = serde_json::to_vec(&registered).expect("plain fields always encode");
            batch.put_cf(&self.family("registry"), &key, value);
            known.insert(key, registered);
        }
        let next = u64::from(next) + known.len() as u64;
        batch.put_cf(&self.family("meta"), NEXT, next.to_be_bytes());
        self.write(batch, true)?;
        self.ids = Ids::of(plan, &known);
        Ok(())
    }
}

fn spoken(key: &str) -> String {
    match key.split_once(':') {
        Some(("view", name)) => format!("view `{}`", name.rsplit_once('@').map_or(name, |(name, _)| name)),
        Some(("key", name)) => format!("a key by which views group `{}`", name.rsplit_once(':').map_or(name, |n| n.0)),
        Some((_, name)) => format!("stream or table `{name}`"),
        None => key.to_string(),
    }
}
