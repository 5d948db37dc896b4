//! What goes wrong with a request, as RFC 9457 says it: `application/problem+json` with a detail a person can act on.
//!
//! Invariants: one kind of problem has one status and one type, whatever the route. Neighbours: `request` and `online`
//! find the problems, `http` sends them.

use serde_json::{Map, Value, json};

use crate::online::LookupError;

/// Bytes of a text that are shown of its beginning and of its end.
const HEAD: usize = 1_600;
const TAIL: usize = 400;

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The read path refused it.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It is not a request.
    #[error("{0}")]
    Malformed(String),
    /// It names a feature service that there is not.
    #[error("there is no feature service `{name}`; {known}")]
    UnknownService {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Its contract cannot be met within its `wait`.
    #[error("{what}; wait longer, or ask for less")]
    NotMet {
        /// What is missing, and what there is.
        what: String,
        /// What was available, as members of the problem.
        available: Map<String, Value>,
    },
    /// There is nothing at that path.
    #[error("there is nothing at {0}; GET / lists what there is")]
    NoRoute(String),
    /// The path does not take the method.
    #[error("{path} does not take {method}; it takes {allowed}")]
    Method {
        /// The path.
        path: String,
        /// The method.
        method: String,
        /// What it takes.
        allowed: String,
    },
    /// The body is larger than taken.
    #[error("the body is larger than {limit} bytes; send fewer entities at once")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// More values are asked for than one answer may have.
    #[error(
        "{values} values are asked for, and {limit} is the most; send fewer entities at once, or name fewer features"
    )]
    TooMany {
        /// Rows times features, about.
        values: usize,
        /// The limit.
        limit: usize,
    },
    /// The answer is larger than may be sent.
    #[error("the answer has more than {limit} bytes; send fewer entities at once, or name fewer features")]
    LargeAnswer {
        /// The limit.
        limit: usize,
    },
    /// Too much is asked for at once, by all clients together.
    #[error("{0}; ask again in a moment")]
    Busy(String),
    /// The node is stopping.
    #[error("the node is stopping; ask another one, or this one in a moment")]
    Stopping,
    /// The node is not ready.
    #[error("the node is still reading what was committed before; ask again in a moment")]
    NotReady,
    /// A request was given up, a bug.
    #[error("the request could not be answered: {0}")]
    Failed(String),
}

impl RequestError {
    /// Status, name of the type, title.
    fn kind(&self) -> (u16, &'static str, &'static str) {
        match self {
            RequestError::Malformed(_) => (400, "bad-request", "The request is not valid"),
            RequestError::UnknownService { .. } => (404, "unknown-service", "There is no such feature service"),
            RequestError::NotMet { .. } => (409, "not-met", "What was asked for is not available yet"),
            RequestError::NoRoute(_) => (404, "no-route", "There is nothing at this path"),
            RequestError::Method { .. } => (405, "method", "The path does not take this method"),
            RequestError::TooLarge { .. } => (413, "too-large", "The body is too large"),
            RequestError::TooMany { .. } | RequestError::LargeAnswer { .. } => {
                (413, "too-many-values", "Too much is asked for at once")
            }
            RequestError::Busy(_) => (429, "busy", "The node answers too many requests"),
            RequestError::Stopping => (503, "stopping", "The node is stopping"),
            RequestError::NotReady => (503, "not-ready", "The node is not ready"),
            RequestError::Failed(_) => (500, "failed", "The request could not be answered"),
            RequestError::Lookup(e) => match e {
                LookupError::UnknownView { .. } => (404, "unknown-view", "There is no such view"),
                LookupError::UnknownFeature { .. } => (404, "unknown-feature", "There is no such feature"),
                LookupError::Key(_) => (400, "bad-key", "The key does not name an entity"),
                LookupError::Future { .. } => (400, "future", "The instant is later than now"),
                LookupError::NotYet { .. } => (409, "not-yet", "The epoch is not committed yet"),
                LookupError::Unsettled { .. } => (409, "unsettled", "What is served then is not settled yet"),
                LookupError::Gone { .. } => (410, "gone", "The stamp is no longer available"),
                LookupError::State(_) | LookupError::Offline(_) | LookupError::Compute(_) => {
                    (500, "failed", "The request could not be answered")
                }
            },
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.kind().0
    }

    /// In how many seconds the same request may be answered, if that is a matter of time.
    pub fn retry_after(&self) -> Option<u32> {
        match self.kind().0 {
            429 | 503 => Some(1),
            _ => None,
        }
    }

    /// The problem's JSON. `instance` is the path of the request. Both may hold what a client sent, and are cut: whoever
    /// does not read an answer must not be able to fill the memory with it.
    pub fn json(&self, instance: &str) -> Value {
        let (status, name, title) = self.kind();
        let mut out = json!({
            "type": format!("urn:headwater:problem:{name}"),
            "title": title,
            "status": status,
            "detail": cut(&self.to_string()),
            "instance": cut(instance),
        });
        let available = match self {
            RequestError::NotMet { available, .. } => available.clone(),
            RequestError::Lookup(LookupError::NotYet { last, .. } | LookupError::Gone { last, .. }) => {
                Map::from_iter([("epoch".to_string(), Value::from(last.to_string()))])
            }
            RequestError::Lookup(LookupError::Unsettled { through, last, .. }) => Map::from_iter([
                ("epoch".to_string(), Value::from(last.to_string())),
                ("as_of".to_string(), Value::from(through.to_string())),
            ]),
            _ => Map::new(),
        };
        if !available.is_empty() {
            out["available"] = Value::Object(available);
        }
        out
    }
}

/// The beginning and the end of a long text.
fn cut(text: &str) -> String {
    if text.len() <= HEAD + TAIL {
        return text.to_string();
    }
    let head = (0..=HEAD).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0);
    let tail = (text.len() - TAIL..=text.len()).find(|n| text.is_char_boundary(*n)).unwrap_or(text.len());
    format!("{}…{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyError;
    use crate::state::StateError;
    use crate::time::{Ask, Epoch};

    #[test]
    fn a_long_text_is_cut_in_its_middle() {
        let name = "é".repeat(9_000_000);
        let error = RequestError::from(LookupError::UnknownView { name, known: "a, b".into() });
        let json = error.json(&"/".repeat(70_000));
        let detail = json["detail"].as_str().expect("text");
        assert!(detail.len() < 2_100 && detail.contains("é…é") && detail.ends_with("a, b"), "{detail}");
        assert!(json.to_string().len() < 5_000);
        assert_eq!(cut(&"x".repeat(HEAD + TAIL)), "x".repeat(HEAD + TAIL));
    }

    #[test]
    fn every_problem_has_its_status() {
        let check = |error: RequestError, status: u16, name: &str| {
            let json = error.json("/v1/features");
            assert_eq!(json["status"], status, "{error}");
            assert_eq!(error.status(), status, "{error}");
            assert_eq!(json["type"], format!("urn:headwater:problem:{name}"), "{error}");
            assert_eq!(json["instance"], "/v1/features");
            assert_eq!(json["detail"], error.to_string());
            let fields: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
            assert_eq!(fields[..5], ["type", "title", "status", "detail", "instance"], "{error}");
            let available = matches!(name, "not-met" | "not-yet" | "unsettled" | "gone");
            assert_eq!(json.get("available").is_some(), available, "{error}");
        };
        let unknown = |n: &str| (n.to_string(), "a, b".to_string());
        let (name, known) = unknown("x");
        check(LookupError::UnknownView { name, known }.into(), 404, "unknown-view");
        let (name, known) = unknown("x");
        check(LookupError::UnknownFeature { view: "v".into(), name, known }.into(), 404, "unknown-feature");
        let (view, name, expected) = ("v".into(), "x".into(), "a".into());
        check(LookupError::Key(KeyError::Name { view, name, expected }).into(), 400, "bad-key");
        check(LookupError::Future { as_of: Ask(2), now: Ask(1) }.into(), 400, "future");
        check(LookupError::NotYet { epoch: Epoch(2), last: Epoch(1) }.into(), 409, "not-yet");
        let (as_of, through, last) = (Ask(3), Ask(2), Epoch(1));
        check(LookupError::Unsettled { as_of, through, last }.into(), 409, "unsettled");
        check(LookupError::Gone { epoch: Epoch(1), last: Epoch(2) }.into(), 410, "gone");
        check(LookupError::State(StateError::Missing("x".into())).into(), 500, "failed");
        check(LookupError::Compute("x".into()).into(), 500, "failed");
        check(RequestError::Malformed("x".into()), 400, "bad-request");
        let (name, known) = unknown("x");
        check(RequestError::UnknownService { name, known }, 404, "unknown-service");
        let available = Map::from_iter([("epoch".to_string(), Value::Null)]);
        check(RequestError::NotMet { what: "x".into(), available }, 409, "not-met");
        check(RequestError::NoRoute("/x".into()), 404, "no-route");
        let (path, method, allowed) = ("/x".into(), "PUT".into(), "GET".into());
        check(RequestError::Method { path, method, allowed }, 405, "method");
        check(RequestError::TooLarge { limit: 1 }, 413, "too-large");
        check(RequestError::TooMany { values: 2, limit: 1 }, 413, "too-many-values");
        check(RequestError::LargeAnswer { limit: 1 }, 413, "too-many-values");
        check(RequestError::Busy("x".into()), 429, "busy");
        check(RequestError::Stopping, 503, "stopping");
        check(RequestError::NotReady, 503, "not-ready");
        check(RequestError::Failed("x".into()), 500, "failed");
    }
}
