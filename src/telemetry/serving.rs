//! What the endpoints answered, how fast, and with what.
//!
//! Invariants: labels are bounded: endpoints are route patterns, views are the plan's. Neighbours: `serve` records,
//! `telemetry` renders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::histogram::{Histogram, LATENCY};

/// What a served value was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueOutcome {
    /// A value.
    Present,
    /// Null, of an entity that is there.
    Null,
    /// Of an entity that never had a row.
    AbsentKey,
    /// Of an entity whose rows have all left.
    Expired,
}

impl ValueOutcome {
    /// All of them, in the order of their counters.
    pub const ALL: [ValueOutcome; 4] =
        [ValueOutcome::Present, ValueOutcome::Null, ValueOutcome::AbsentKey, ValueOutcome::Expired];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            ValueOutcome::Present => "present",
            ValueOutcome::Null => "null",
            ValueOutcome::AbsentKey => "absent_key",
            ValueOutcome::Expired => "expired",
        }
    }
}

/// One endpoint, method and view.
pub struct RouteMetrics {
    /// The route's pattern, or the protocol's command.
    pub endpoint: String,
    /// The view; empty where a request has none or several.
    pub view: String,
    /// The method.
    pub method: String,
    /// Requests by status code.
    codes: Mutex<BTreeMap<u16, u64>>,
    /// How long they took.
    pub seconds: Histogram,
    /// How long they waited for a commit, those that asked to.
    pub wait: Histogram,
    values: [AtomicU64; 4],
}

impl RouteMetrics {
    /// One request.
    pub fn request(&self, code: u16, took: Duration) {
        *self.codes.lock().entry(code).or_insert(0) += 1;
        self.seconds.record(took);
    }

    /// Values in an answer.
    pub fn values(&self, outcome: ValueOutcome, count: u64) {
        self.values[outcome as usize].fetch_add(count, Relaxed);
    }

    /// Requests by status code.
    pub fn codes(&self) -> BTreeMap<u16, u64> {
        self.codes.lock().clone()
    }

    /// Values served with this outcome.
    pub fn served(&self, outcome: ValueOutcome) -> u64 {
        self.values[outcome as usize].load(Relaxed)
    }
}

/// All endpoints.
#[derive(Default)]
pub struct Serving {
    // A few dozen: found by looking at each.
    routes: RwLock<Vec<Arc<RouteMetrics>>>,
}

impl Serving {
    /// An endpoint, made at its first mention.
    pub fn route(&self, endpoint: &str, method: &str, view: &str) -> Arc<RouteMetrics> {
        let same = |r: &&Arc<RouteMetrics>| r.endpoint == endpoint && r.view == view && r.method == method;
        if let Some(found) = self.routes.read().iter().find(same) {
            return Arc::clone(found);
        }
        let mut routes = self.routes.write();
        if let Some(found) = routes.iter().find(same) {
            return Arc::clone(found);
        }
        let route = Arc::new(RouteMetrics {
            endpoint: endpoint.to_string(),
            view: view.to_string(),
            method: method.to_string(),
            codes: Mutex::default(),
            seconds: Histogram::new(LATENCY),
            wait: Histogram::new(LATENCY),
            values: Default::default(),
        });
        routes.push(Arc::clone(&route));
        route
    }

    /// All endpoints seen so far.
    pub fn routes(&self) -> Vec<Arc<RouteMetrics>> {
        let mut routes = self.routes.read().clone();
        routes.sort_by(|a, b| (&a.endpoint, &a.view, &a.method).cmp(&(&b.endpoint, &b.view, &b.method)));
        routes
    }
}
