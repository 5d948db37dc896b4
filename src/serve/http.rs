//! HTTP: the native JSON API, health and metrics, over HTTP/1.1 and HTTP/2.
//!
//! Invariants: whatever goes wrong is `application/problem+json`, a panic included; features are read only once the node is
//! ready, and until it has stopped. Neighbours: `request`, `answering` and `json` do the work, `accept` brings the
//! connections, `telemetry` counts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{MatchedPath, Path, Query, Request as HttpRequest, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::accept::{Arriving, Limits};
use super::answering::{Lane, Lanes, Question};
use super::inbox::{Room, Taken};
use super::json::{answer_json, entity_json, view_json};
use super::problem::RequestError;
use super::request::{Contract, Request, unknown_field};
use super::waiting::Waiting;
use crate::diagnostic::{self, spoken};
use crate::fold::Status;
use crate::online::{Answer, LookupError, Online, ViewRequest, find_features};
use crate::telemetry::Metrics;
use crate::telemetry::encode;
use crate::telemetry::serving::ValueOutcome;

/// The largest body taken.
pub const BODY_LIMIT: usize = 16 << 20;

/// Bodies from this size are worked on outside of the threads that serve.
const LARGE_BODY: usize = 64 << 10;
/// KiB of such bodies, of all requests together.
const LARGE_BODIES_KIB: u32 = 256 << 10;

/// The largest answer sent, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;
/// Answers from this size are counted until their clients have taken them.
const LARGE_ANSWER: usize = 64 << 10;
/// KiB of such answers, of all requests together.
const LARGE_ANSWERS_KIB: u32 = 512 << 10;

/// The longest wait for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What the routes need.
pub struct HttpState {
    /// The read path.
    pub online: Arc<Online>,
    /// What `/metrics` exports.
    pub metrics: Arc<Metrics>,
    /// Everything committed can be read, and the sources are being read.
    pub ready: AtomicBool,
    /// The node is about to stop: it answers still, and says that it is not ready.
    draining: AtomicBool,
    /// The largest body taken, in bytes.
    pub body_limit: usize,
    pub(super) lanes: Lanes,
    pub(super) waiting: Waiting,
    large_bodies: Room,
    large_answers: Room,
}

impl HttpState {
    /// Not ready yet.
    pub fn new(online: Arc<Online>, metrics: Arc<Metrics>) -> HttpState {
        HttpState::with_waiting(online, metrics, Limits::of_process().waiting())
    }

    /// The same, where so many requests may wait at once.
    pub(super) fn with_waiting(online: Arc<Online>, metrics: Arc<Metrics>, most: usize) -> HttpState {
        HttpState {
            waiting: Waiting::new(&online, &metrics, most),
            online,
            metrics,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            body_limit: BODY_LIMIT,
            lanes: Lanes::default(),
            large_bodies: Room::of_kib(LARGE_BODIES_KIB),
            large_answers: Room::of_kib(LARGE_ANSWERS_KIB),
        }
    }

    /// From now on features are served, or no longer.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
        self.metrics.engine().ready.store(u64::from(ready), Ordering::Relaxed);
    }

    /// The node is about to stop: `/ready` says so, what is asked is still answered, and nobody waits any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.metrics.engine().ready.store(0, Ordering::Relaxed);
        self.waiting.stop();
    }
}

impl HttpState {
    /// May features be read? Also while the node is about to stop: it does not send anybody away with his answer half made.
    fn check_reads(&self) -> Result<(), RequestError> {
        if self.ready.load(Ordering::Acquire) { Ok(()) } else { Err(RequestError::NotReady) }
    }

    /// A large answer, which takes its room until the last of it is sent: clients may leave it where it is.
    fn counted(&self, answer: Vec<u8>) -> Result<Bytes, RequestError> {
        let room = self.large_answers.try_take(answer.len());
        let busy = || RequestError::Busy("too many large answers are on their way".into());
        Ok(Bytes::from_owner(Counted { answer, _room: room.ok_or_else(busy)? }))
    }

    /// Are more clients to be sent here?
    fn check_ready(&self) -> Result<(), RequestError> {
        if self.draining.load(Ordering::Acquire) { Err(RequestError::Stopping) } else { self.check_reads() }
    }

    /// Everything that is not as it should be, by name.
    fn not_ready(&self) -> Vec<Value> {
        let part = |what: &str, name: &str, why: &str| json!({ "what": what, "name": name, "why": why });
        let mut parts = vec![];
        if self.draining.load(Ordering::Acquire) {
            parts.push(part("node", "", "it is stopping"));
        } else if self.check_reads().is_err() {
            parts.push(part("node", "", "it is still reading what was committed before"));
        }
        for (name, why) in self.metrics.unready_sources(self.online.clock().now()) {
            parts.push(part("source", &name, &why));
        }
        parts
    }
}

/// A large answer, and its room.
struct Counted {
    answer: Vec<u8>,
    _room: Taken,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.answer
    }
}

type Shared = State<Arc<HttpState>>;

/// The routes.
pub fn router(state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/views", get(views))
        .route("/v1/views/{view}", get(view))
        // An entity may be an empty text, and a key may hold slashes.
        .route("/v1/views/{view}/", get(entity))
        .route("/v1/views/{view}/{*key}", get(entity))
        .route("/v1/features", post(features))
        .fallback(nowhere)
        .method_not_allowed_fallback(method)
        .layer(middleware::from_fn_with_state(Arc::clone(&state), count))
        .with_state(state)
}

/// A view that an answer is about, for the metrics.
#[derive(Clone)]
struct Served(String);

/// How long a request waited, for the metrics.
#[derive(Clone)]
struct Waited(Duration);

/// Values in an answer by what they were, for the metrics.
#[derive(Clone, Default)]
struct Values([u64; 4]);

impl Values {
    fn of(answer: &Answer) -> Values {
        let mut values = Values::default();
        for row in answer.rows.iter().flatten() {
            for value in &row.values {
                let outcome = match row.status {
                    Status::Absent => ValueOutcome::AbsentKey,
                    Status::Expired => ValueOutcome::Expired,
                    Status::Present if value.is_null() => ValueOutcome::Null,
                    Status::Present => ValueOutcome::Present,
                };
                values.0[outcome as usize] += 1;
            }
        }
        values
    }
}

async fn count(State(state): Shared, request: HttpRequest, next: Next) -> Response {
    let start = Instant::now();
    let endpoint = request.extensions().get::<MatchedPath>().cloned();
    let method = match *request.method() {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        _ => "other",
    };
    let uri = request.uri().clone();
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
        problem(&RequestError::Failed("a thread panicked; see the node's standard error".into()), &uri)
    });
    let endpoint = endpoint.as_ref().map_or("other", MatchedPath::as_str);
    let view = response.extensions().get::<Served>();
    let route = state.metrics.serving().route(endpoint, method, view.map_or("", |v| &v.0));
    route.request(response.status().as_u16(), start.elapsed());
    if let Some(Values(counts)) = response.extensions().get() {
        for (outcome, n) in ValueOutcome::ALL.into_iter().zip(counts) {
            route.values(outcome, *n);
        }
    }
    if let Some(Waited(time)) = response.extensions().get() {
        route.wait.record(*time);
    }
    response
}

fn problem(error: &RequestError, uri: &Uri) -> Response {
    problem_with(error, uri, &[])
}

/// A problem with more members than all have.
fn problem_with(error: &RequestError, uri: &Uri, members: &[(&str, Value)]) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_server_error() && error.retry_after().is_none() {
        diagnostic::note(format_args!("error: {uri}: {}", spoken(error)));
    }
    let mut body = error.json(uri.path());
    members.iter().for_each(|(name, value)| body[*name] = value.clone());
    let body = body.to_string();
    let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let RequestError::Method { allowed, .. } = error
        && let Ok(allowed) = HeaderValue::from_str(allowed)
    {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

fn ok(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn answered(result: Result<Response, RequestError>, uri: &Uri) -> Response {
    result.unwrap_or_else(|e| problem(&e, uri))
}

async fn index() -> Html<&'static str> {
    Html(include_str!("index.html"))
}

async fn health() -> Response {
    ok(&json!({ "status": "ok" }))
}

async fn ready(State(state): Shared, uri: Uri) -> Response {
    let verbose = uri.query().is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
    let problems = if verbose { state.not_ready() } else { vec![] };
    match state.check_ready() {
        Ok(()) => {
            let epoch = crate::time::Epoch(state.online.cache().published().epoch);
            let mut body = json!({ "status": "ready", "epoch": epoch.to_string() });
            if verbose {
                body["not_ready"] = Value::from(problems);
            }
            ok(&body)
        }
        Err(e) if verbose => problem_with(&e, &uri, &[("not_ready", Value::from(problems))]),
        Err(e) => problem(&e, &uri),
    }
}

async fn metrics(State(state): Shared, uri: Uri) -> Response {
    // Some numbers are counted when they are asked for, which takes its time.
    let text = tokio::task::spawn_blocking(move || state.metrics.render(state.online.clock().now())).await;
    match text {
        Ok(text) => ([(CONTENT_TYPE, encode::CONTENT_TYPE)], text).into_response(),
        Err(e) => problem(&RequestError::Failed(e.to_string()), &uri),
    }
}

async fn views(State(state): Shared) -> Response {
    ok(&json!({ "views": state.online.plan().views.iter().map(view_json).collect::<Vec<_>>() }))
}

async fn view(State(state): Shared, uri: Uri, path: Result<Path<String>, PathRejection>) -> Response {
    let found = readable(path).and_then(|name| Ok(state.online.view(&name)?));
    answered(found.map(|n| ok(&view_json(&state.online.plan().views[n]))), &uri)
}

async fn nowhere(uri: Uri) -> Response {
    problem(&RequestError::NoRoute(uri.path().to_string()), &uri)
}

async fn method(method: Method, uri: Uri, endpoint: Option<MatchedPath>) -> Response {
    let allowed = if endpoint.is_some_and(|e| e.as_str() == "/v1/features") { "POST" } else { "GET, HEAD" };
    let (path, method) = (uri.path().to_string(), method.to_string());
    problem(&RequestError::Method { path, method, allowed: allowed.into() }, &uri)
}

/// A path that is text.
fn readable<T>(path: Result<Path<T>, PathRejection>) -> Result<T, RequestError> {
    match path {
        Ok(Path(parts)) => Ok(parts),
        Err(e) => Err(RequestError::Malformed(format!(
            "the path cannot be read: {}; write UTF-8, percent-encoded",
            e.body_text()
        ))),
    }
}

/// The path of an entity: the view, and the key unless it is empty.
#[derive(serde::Deserialize)]
struct EntityPath {
    view: String,
    #[serde(default)]
    key: String,
}

type Parameters = Vec<(String, String)>;

type QueryResult = Result<Query<Parameters>, QueryRejection>;

/// A query's parameters, in order.
fn parameters(query: QueryResult) -> Result<Parameters, RequestError> {
    query.map(|Query(query)| query).map_err(|e| RequestError::Malformed(e.body_text()))
}

async fn entity(
    State(state): Shared,
    uri: Uri,
    path: Result<Path<EntityPath>, PathRejection>,
    query: QueryResult,
) -> Response {
    let result = async {
        let path = readable(path)?;
        let read = EntityRead::new(&state.online, &path, &parameters(query)?)?;
        state.check_reads()?;
        state.answer(read).await
    };
    answered(result.await, &uri)
}

/// One entity of one view, asked for.
struct EntityRead {
    request: [ViewRequest; 1],
    contract: Contract,
    asked: Instant,
}

impl EntityRead {
    fn new(online: &Online, path: &EntityPath, query: &Parameters) -> Result<EntityRead, RequestError> {
        let view = online.view(&path.view)?;
        let (mut contract, mut features) = (Contract::default(), None::<Vec<&str>>);
        for (name, text) in query {
            match name.as_str() {
                "features" if text.is_empty() => {
                    let message = "features is empty; leave it out to get all of them";
                    return Err(RequestError::Malformed(message.into()));
                }
                "features" => features.get_or_insert_default().extend(text.split(',').map(str::trim)),
                _ if contract.set(online.plan(), name, text)? => {}
                _ => return Err(unknown_field(name, &["features"])),
            }
        }
        let features = features.filter(|names| names != &["*"]);
        let mut features = find_features(online.plan(), view, features.as_deref())?;
        let mut seen = std::collections::BTreeSet::new();
        features.retain(|n| seen.insert(*n));
        let entity = online.entities(view).parse(&path.key).map_err(LookupError::from)?;
        let request = [ViewRequest { view, features, entities: vec![entity] }];
        Ok(EntityRead { request, contract, asked: Instant::now() })
    }
}

impl Question for EntityRead {
    fn views(&self) -> &[ViewRequest] {
        &self.request
    }

    fn contract(&self) -> &Contract {
        &self.contract
    }

    fn respond(&self, state: &HttpState, answer: &Answer) -> Result<Response, RequestError> {
        let [request] = &self.request;
        let planned = &state.online.plan().views[request.view];
        let body = entity_json(planned, &request.entities[0], &request.features, answer, &answer.rows[0][0]);
        let mut response = ok(&body);
        response.extensions_mut().insert(Served(planned.plan.name.clone()));
        note(&mut response, answer, &self.contract, self.asked);
        Ok(response)
    }
}

fn note(response: &mut Response, answer: &Answer, contract: &Contract, start: Instant) {
    response.extensions_mut().insert(Values::of(answer));
    if contract.wait.is_some_and(|wait| !wait.is_zero()) {
        response.extensions_mut().insert(Waited(start.elapsed()));
    }
}

/// Features of many entities, asked for.
struct FeaturesRead {
    request: Request,
    asked: Instant,
}

impl Question for FeaturesRead {
    fn views(&self) -> &[ViewRequest] {
        &self.request.views
    }

    fn contract(&self) -> &Contract {
        &self.request.contract
    }

    fn respond(&self, state: &HttpState, answer: &Answer) -> Result<Response, RequestError> {
        let body = answer_json(state.online.plan(), &self.request, answer, ANSWER_LIMIT)
            .ok_or(RequestError::LargeAnswer { limit: ANSWER_LIMIT })?;
        let body = if body.len() < LARGE_ANSWER { Bytes::from(body) } else { state.counted(body)? };
        let mut response = ([(CONTENT_TYPE, "application/json")], body).into_response();
        if let [only] = &*self.request.views {
            response.extensions_mut().insert(Served(state.online.plan().views[only.view].plan.name.clone()));
        }
        note(&mut response, answer, &self.request.contract, self.asked);
        Ok(response)
    }
}

async fn features(
    State(state): Shared,
    uri: Uri,
    query: QueryResult,
    arriving: Option<Extension<Arc<Arriving>>>,
    body: Body,
) -> Response {
    let asked = Instant::now();
    let result = async {
        let contract = Contract::from_query(state.online.plan(), &parameters(query)?)?;
        let large = body.size_hint().upper().is_none_or(|bytes| bytes > LARGE_BODY as u64);
        // Small ones are bounded by how many connections there are.
        let room =
            large.then(|| state.large_bodies.try_take(state.body_limit).ok_or_else(too_many_bodies)).transpose()?;
        let body = read_body(body, state.body_limit).await?;
        drop(arriving);
        let request = if large {
            let online = Arc::clone(&state.online);
            let parse = move || {
                let _room = room;
                Request::from_body(&online, contract, &body)
            };
            state.lanes.run(Lane::Many, parse).await?
        } else {
            Request::from_body(&state.online, contract, &body)?
        };
        state.check_reads()?;
        state.answer(FeaturesRead { request, asked }).await
    };
    answered(result.await, &uri)
}

fn too_many_bodies() -> RequestError {
    RequestError::Busy("too many large bodies are under way".into())
}

async fn read_body(body: Body, limit: usize) -> Result<Bytes, RequestError> {
    let read = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, limit)).await;
    let read = read.map_err(|_| RequestError::Malformed("the body did not arrive in time".into()))?;
    read.map_err(|e| {
        // What the body says is wrong with it is wrapped; that it was too long is not named otherwise.
        if e.to_string().contains("length limit") {
            RequestError::TooLarge { limit }
        } else {
            RequestError::Malformed(format!("the body could not be read: {e}"))
        }
    })
}
