//! A small node without sources for the tests of the endpoints: definitions, commits made by hand, a server, a client.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use serde_json::Value;

use super::accept::{Connections, House, Limits};
use super::http::{HttpState, router};
use crate::event::EventBatch;
use crate::offline::Offline;
use crate::offset::Offsets;
use crate::online::Online;
use crate::plan::project::Projector;
use crate::state::Store;
use crate::state::cache::Cache;
use crate::state::commit::{ClockKind, Commit, LogKind, LogRecord};
use crate::state::log::encode_batch;
use crate::telemetry::Metrics;
use crate::time::{Clock, Epoch, parse_instant};

const DEFINITIONS: &str = "
CREATE STREAM clicks (user_id BIGINT NOT NULL, place TEXT, kind TEXT NOT NULL, price DECIMAL(12, 2), ts TIMESTAMP NOT NULL)
EVENT TIME ts FROM KAFKA (topic = 'shop.clicks', format = 'json');

CREATE FEATURE VIEW user_activity WITH (entity = 'user_id', freshness = '1 second') AS
SELECT user_id,
       count(*) FILTER (WHERE kind = 'view' AND ts > now() - INTERVAL '1 hour') AS views_1h,
       sum(price) AS spend,
       last_value(kind ORDER BY ts) AS last_kind
FROM clicks WHERE ts > now() - INTERVAL '30 days' GROUP BY user_id;

CREATE FEATURE VIEW by_place WITH (entity = 'place, user_id') AS
SELECT place, user_id, count(*) AS n, max(ts) AS newest FROM clicks GROUP BY place, user_id;

CREATE FEATURE VIEW places AS SELECT place, avg(price) AS price FROM clicks GROUP BY place;

CREATE FEATURE SERVICE home AS user_activity(spend), by_place;
";

/// The instant the tests' clock starts at, and of their events.
pub(super) const START: &str = "2026-11-20T21:00:00.000000Z";

/// (user, place, kind, price in cents, seconds after [`START`]).
pub(super) type Click = (i64, &'static str, &'static str, Option<i128>, i64);

pub(super) struct Fixture {
    pub(super) state: Arc<HttpState>,
    clock: Arc<AtomicI64>,
    store: Arc<Store>,
    next_offset: AtomicI64,
    pub(super) address: SocketAddr,
    pub(super) connections: Arc<Connections>,
    pub(super) server: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// [`START`] and so many seconds, in µs.
pub(super) fn at(seconds: i64) -> i64 {
    parse_instant(START).expect("a constant") + seconds * 1_000_000
}

impl Fixture {
    /// Ready, and nothing committed.
    pub(super) fn new() -> Fixture {
        Fixture::with(Limits::of_process(), 100)
    }

    /// The same, for so many connections, and so many requests that wait.
    pub(super) fn with(limits: Limits, waiting: usize) -> Fixture {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("dataflows")).expect("a directory");
        std::fs::write(dir.path().join("dataflows/a.sql"), DEFINITIONS).expect("a file");
        let definitions = crate::definition::load(dir.path(), &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}"));
        let plan = Arc::new(crate::plan::plan(&definitions).unwrap_or_else(|e| panic!("{e:?}")));
        let store = Arc::new(Store::open(&dir.path().join("data"), &plan).expect("a store"));
        let cache = Arc::new(Cache::new(Arc::clone(&store), &plan).expect("a cache"));
        let offline = Arc::new(Offline::new(Arc::clone(&plan), Arc::clone(&store)).expect("a log"));
        let clock = Arc::new(AtomicI64::new(at(0)));
        let online = Online::new(Arc::clone(&plan), cache, offline, Clock::Manual(Arc::clone(&clock))).expect("online");
        let metrics = Metrics::new(plan.views.iter().map(|v| (v.plan.name.clone(), v.version)));
        let state = Arc::new(HttpState::with_waiting(Arc::new(online), Arc::new(metrics), waiting));
        state.set_ready(true);
        let server =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let listener = server.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(Connections::new(limits));
        server.spawn(Arc::clone(&connections).serve(listener, House::of_http(router(Arc::clone(&state)))));
        Fixture { state, clock, store, next_offset: AtomicI64::new(0), address, connections, server, _dir: dir }
    }

    /// Moves the clock to so many seconds after [`START`].
    pub(super) fn now(&self, seconds: i64) {
        self.clock.store(at(seconds), Ordering::SeqCst);
        self.state.online.cache().advance(at(seconds));
    }

    /// Commits events in one epoch, which opens so many seconds after [`START`].
    pub(super) fn commit(&self, seconds: i64, clicks: &[Click]) {
        let (online, epoch) = (&self.state.online, at(seconds));
        let plan = online.plan();
        let source = plan.source_index("clicks").expect("it is defined");
        let from = self.next_offset.fetch_add(clicks.len() as i64, Ordering::SeqCst);
        let instants = |f: &dyn Fn(&Click) -> i64| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(clicks.iter().map(f).collect::<Vec<_>>()))
        };
        let prices = Decimal128Array::from(clicks.iter().map(|c| c.3).collect::<Vec<_>>());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(clicks.iter().map(|c| c.0).collect::<Vec<_>>())),
            Arc::new(StringArray::from(clicks.iter().map(|c| c.1).collect::<Vec<_>>())),
            Arc::new(StringArray::from(clicks.iter().map(|c| c.2).collect::<Vec<_>>())),
            Arc::new(prices.with_precision_and_scale(12, 2).expect("it fits")),
            instants(&|c| at(c.4)),
            instants(&|c| at(c.4)),
            instants(&|_| epoch),
            instants(&|_| epoch),
            Arc::new(Int32Array::from(vec![0; clicks.len()])),
            Arc::new(Int64Array::from((from..).take(clicks.len()).collect::<Vec<_>>())),
            Arc::new(BinaryArray::from(vec![None::<&[u8]>; clicks.len()])),
            instants(&|_| epoch),
        ];
        let batch = RecordBatch::try_new(plan.sources[source].row_schema(), columns).expect("the source's schema");
        for (n, view) in plan.views.iter().enumerate() {
            let projector = Projector::new(self.store.ids().view(n), view).expect("a projector");
            let projected =
                projector.project_events(&EventBatch::new(batch.clone()).expect("events"), 1).expect("rows");
            assert!(projected.refused.is_empty(), "{:?}", projected.refused);
            projected.updates.iter().for_each(|u| online.cache().push(u).expect("pages"));
        }
        let mut offsets = Offsets::default();
        offsets.advance("clicks", 0, from + clicks.len() as i64);
        let bytes = encode_batch(&batch).expect("Arrow");
        let commit = Commit {
            last: Epoch(epoch.cast_unsigned()),
            clock: ClockKind::Wall,
            visible: epoch,
            records: vec![LogRecord {
                kind: LogKind::Events(self.store.ids().source(source)),
                rows: clicks.len(),
                bytes,
            }],
            rejected: vec![],
            offsets,
            sorted: BTreeMap::new(),
            gaps: vec![],
            topic_ids: BTreeMap::new(),
        };
        self.store.commit(&commit, false).expect("a commit");
        online.cache().publish(epoch.cast_unsigned(), epoch);
    }

    pub(super) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, b"")
    }

    pub(super) fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, body.as_bytes())
    }

    pub(super) fn send(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let reply = self.raw(&[head.as_bytes(), body].concat());
        let text = String::from_utf8(reply).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let mut lines = head.lines();
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).expect("a status");
        let headers =
            lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_string())).collect();
        Reply { status, headers, body: body.to_string() }
    }

    /// Sends bytes and reads until the server hangs up, or is silent for a while.
    pub(super) fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        // A server that has seen enough may hang up before it has read all.
        let _ = stream.write_all(bytes);
        let (mut reply, mut part) = (vec![], [0; 4096]);
        loop {
            match stream.read(&mut part) {
                Ok(0) | Err(_) => return reply,
                Ok(n) => reply.extend(&part[..n]),
            }
            if bytes.starts_with(b"PRI") {
                return reply;
            }
        }
    }
}
