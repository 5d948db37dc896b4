//! HTTP: the native JSON API, health and metrics, over HTTP/1.1 and HTTP/2.
//!
//! Invariants: whatever goes wrong is `application/problem+json`; features are read only once the node is ready.
//! Neighbours: `request` and `json` do the work, `engine` starts it, `telemetry` counts.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{MatchedPath, Path, Query, Request as HttpRequest, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use serde_json::{Value, json};

use super::json::{answer_json, entity_json, view_json};
use super::problem::RequestError;
use super::request::{Contract, Request, answer, unknown_field};
use crate::fold::Status;
use crate::online::{Answer, LookupError, Online, ViewRequest, find_features};
use crate::telemetry::Metrics;
use crate::telemetry::encode;
use crate::telemetry::serving::ValueOutcome;

/// The largest body taken.
pub const BODY_LIMIT: usize = 16 << 20;

/// Bodies from this size, and requests from so many rows, are worked on outside of the threads that serve.
const LARGE_BODY: usize = 64 << 10;
const LARGE_ROWS: usize = 1_000;

/// How long requests under way may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(5);

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
    /// The largest body taken, in bytes.
    pub body_limit: usize,
}

impl HttpState {
    /// Not ready yet.
    pub fn new(online: Arc<Online>, metrics: Arc<Metrics>) -> HttpState {
        HttpState { online, metrics, ready: AtomicBool::new(false), body_limit: BODY_LIMIT }
    }

    /// From now on features are served, or no longer.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
        self.metrics.engine().ready.store(u64::from(ready), Ordering::Relaxed);
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

/// Serves until `shutdown` is done and requests under way are answered, or have had their time.
///
/// # Errors
/// The listener's.
pub async fn serve(
    listener: tokio::net::TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    // An answer is one small packet: it must not wait for another.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let signal = async move {
        shutdown.await;
        let _ = stopping.send(());
    };
    let late = async move {
        match stopped.await {
            Ok(()) => tokio::time::sleep(GRACE).await,
            // The server has ended by itself.
            Err(_) => std::future::pending().await,
        }
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(signal);
    tokio::select! {
        ended = server.into_future() => ended,
        () = late => Ok(()),
    }
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
    let response = next.run(request).await;
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
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = error.json(uri.path()).to_string();
    let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
    if let RequestError::NotReady = error {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
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
    match check_ready(&state) {
        Ok(()) => {
            let epoch = crate::time::Epoch(state.online.cache().published().epoch);
            ok(&json!({ "status": "ready", "epoch": epoch.to_string() }))
        }
        Err(e) => problem(&e, &uri),
    }
}

async fn metrics(State(state): Shared) -> Response {
    let text = state.metrics.render(state.online.clock().now());
    ([(CONTENT_TYPE, encode::CONTENT_TYPE)], text).into_response()
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

fn check_ready(state: &HttpState) -> Result<(), RequestError> {
    if state.ready.load(Ordering::Acquire) { Ok(()) } else { Err(RequestError::NotReady) }
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
        check_ready(&state)?;
        if read.contract.is_plain() {
            return read.respond(&state);
        }
        elsewhere(move || read.respond(&state)).await
    };
    answered(result.await, &uri)
}

/// One entity of one view, asked for.
struct EntityRead {
    request: ViewRequest,
    contract: Contract,
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
        Ok(EntityRead { request: ViewRequest { view, features, entities: vec![entity] }, contract })
    }

    fn respond(self, state: &HttpState) -> Result<Response, RequestError> {
        let start = Instant::now();
        let views = [self.request];
        let answer = answer(&state.online, &|| state.metrics.complete(), &views, &self.contract)?;
        let [request] = &views;
        let planned = &state.online.plan().views[request.view];
        let mut response =
            ok(&entity_json(planned, &request.entities[0], &request.features, &answer, &answer.rows[0][0]));
        response.extensions_mut().insert(Served(planned.plan.name.clone()));
        note(&mut response, &answer, &self.contract, start);
        Ok(response)
    }
}

fn note(response: &mut Response, answer: &Answer, contract: &Contract, start: Instant) {
    response.extensions_mut().insert(Values::of(answer));
    if contract.wait.is_some_and(|wait| !wait.is_zero()) {
        response.extensions_mut().insert(Waited(start.elapsed()));
    }
}

async fn features(State(state): Shared, uri: Uri, query: QueryResult, body: Body) -> Response {
    let result = async {
        let contract = Contract::from_query(state.online.plan(), &parameters(query)?)?;
        let body = read_body(body, state.body_limit).await?;
        let respond = |request: Request, state: &HttpState| -> Result<Response, RequestError> {
            check_ready(state)?;
            let start = Instant::now();
            let answer = answer(&state.online, &|| state.metrics.complete(), &request.views, &request.contract)?;
            let mut response = ok(&answer_json(state.online.plan(), &request, &answer));
            if let [only] = &*request.views {
                response.extensions_mut().insert(Served(state.online.plan().views[only.view].plan.name.clone()));
            }
            note(&mut response, &answer, &request.contract, start);
            Ok(response)
        };
        if body.len() >= LARGE_BODY {
            return elsewhere(move || respond(Request::from_body(&state.online, contract, &body)?, &state)).await;
        }
        let request = Request::from_body(&state.online, contract, &body)?;
        if request.contract.is_plain() && request.rows * request.views.len() <= LARGE_ROWS {
            return respond(request, &state);
        }
        elsewhere(move || respond(request, &state)).await
    };
    answered(result.await, &uri)
}

/// Work that takes its time, or waits.
async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
) -> Result<T, RequestError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(RequestError::Failed(e.to_string())))
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
