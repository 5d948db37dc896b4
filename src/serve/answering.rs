//! A question answered under its contract, where it holds up nobody else.
//!
//! What is in memory and small is answered on the thread that serves. More rows, and what asks the log, go to other
//! threads, a few at a time: a thousand such requests wait their turn and do not take a thousand threads. What is not there
//! yet is waited for by no thread at all.
//!
//! Invariants: as many requests are in line as may be, the next is refused at once; a turn ends with its work and not
//! with the client's patience. Neighbours: `http` asks; `request` looks; `waiting` wakes.

use std::sync::Arc;

use axum::response::Response;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::http::HttpState;
use super::problem::RequestError;
use super::request::{Contract, Unmet, attempt};
use super::waiting::Need;
use crate::online::{Answer, LookupError, ViewRequest};

/// Rows that are answered on a thread that serves.
const FEW_ROWS: usize = 32;
/// How often a small one is tried there, if another reader is in the way, before it goes to a thread that may wait.
const TRIES: usize = 8;
/// Small requests that wait for another reader at once.
const FEW: usize = 2;
/// Requests of many rows answered at once.
const MANY: usize = 4;
/// Requests that may ask the log answered at once: each may read all of its tail.
const PAST: usize = 2;
/// Requests in line for the two lanes of large ones, and for that of small ones.
const IN_LINE: usize = 1024;

/// Where requests that take their time are answered, a few at once.
pub(super) struct Lanes {
    few: Arc<Semaphore>,
    many: Arc<Semaphore>,
    past: Arc<Semaphore>,
    /// Places in line, of their own: a crowd of large requests keeps no small one out.
    small_in_line: Arc<Semaphore>,
    large_in_line: Arc<Semaphore>,
}

/// Which lane a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// It is small, and another reader was in the way.
    Few,
    /// It is large.
    Many,
    /// It may be about what only the log has.
    Past,
}

impl Default for Lanes {
    fn default() -> Lanes {
        let [few, many, past, small_in_line, large_in_line] =
            [FEW, MANY, PAST, IN_LINE, IN_LINE].map(|n| Arc::new(Semaphore::new(n)));
        Lanes { few, many, past, small_in_line, large_in_line }
    }
}

impl Lanes {
    /// Threads that the lanes use at most.
    pub(super) const THREADS: usize = FEW + MANY + PAST;

    /// Works where nobody is held up, once it is its turn.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let (line, of, lane) = match lane {
            Lane::Few => (&self.small_in_line, "small", &self.few),
            Lane::Many => (&self.large_in_line, "large", &self.many),
            Lane::Past => (&self.large_in_line, "large", &self.past),
        };
        let Ok(place) = Arc::clone(line).try_acquire_owned() else {
            return Err(RequestError::Busy(format!("{IN_LINE} {of} requests are in line already")));
        };
        let turn = Arc::clone(lane).acquire_owned().await.map_err(|e| RequestError::Failed(e.to_string()))?;
        // Both go with the work: it ends no sooner when the client that asked has gone.
        let work = move || {
            let _held = (place, turn);
            work()
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(RequestError::Failed(e.to_string())))
    }
}

/// What is asked, and what becomes of the answer.
pub(super) trait Question: Send + Sync + 'static {
    /// Entities and features by view.
    fn views(&self) -> &[ViewRequest];
    /// What the answer must reflect.
    fn contract(&self) -> &Contract;
    /// The answer as it is sent.
    fn respond(&self, state: &HttpState, answer: &Answer) -> Result<Response, RequestError>;
}

impl HttpState {
    /// Answers a question, waiting for what its contract asks for.
    pub(super) async fn answer(self: &Arc<Self>, question: impl Question) -> Result<Response, RequestError> {
        let rows: usize = question.views().iter().map(|v| v.entities.len()).sum();
        let small = question.contract().is_plain() && rows <= FEW_ROWS;
        if small {
            for _ in 0..TRIES {
                if let Some(answer) = self.online.try_lookup(question.views())? {
                    return question.respond(self, &answer);
                }
                tokio::task::yield_now().await;
            }
        }
        let deadline = Instant::now() + question.contract().wait.unwrap_or_default();
        let lane = match question.contract().is_live() {
            _ if small => Lane::Few,
            true => Lane::Many,
            false => Lane::Past,
        };
        let question = Arc::new(question);
        loop {
            let (state, asked) = (Arc::clone(self), Arc::clone(&question));
            let look = move || {
                let found = attempt(&state.online, state.metrics.complete(), asked.views(), asked.contract())?;
                Ok(match found {
                    Ok(answer) => Ok(asked.respond(&state, &answer)?),
                    Err(unmet) => Err(unmet),
                })
            };
            let missing = match self.lanes.run(lane, look).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(unmet)) => Missing::from(unmet),
                Err(RequestError::Lookup(early @ (LookupError::NotYet { .. } | LookupError::Unsettled { .. }))) => {
                    Missing::from(early)
                }
                Err(error) => return Err(error),
            };
            match missing.need {
                Some(need) if Instant::now() < deadline && !self.waiting.is_stopped() => {
                    self.waiting.until(need, deadline).await?;
                }
                Some(_) | None => return Err(missing.error),
            }
        }
    }
}

/// Why there is no answer now, and what to wait for.
struct Missing {
    error: RequestError,
    need: Option<Need>,
}

impl From<Unmet> for Missing {
    fn from(mut unmet: Unmet) -> Missing {
        let need = unmet.need.take();
        Missing { error: unmet.into(), need }
    }
}

impl From<LookupError> for Missing {
    fn from(error: LookupError) -> Missing {
        let need = match &error {
            LookupError::NotYet { epoch, .. } => Some(Need { epoch: Some(epoch.0), ..Need::default() }),
            LookupError::Unsettled { as_of, .. } => Some(Need { through: Some(as_of.0), ..Need::default() }),
            _ => None,
        };
        Missing { error: error.into(), need }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A client that does not wait for its answer must not let the next one in beside the work that goes on.
    #[test]
    fn a_turn_ends_with_its_work() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let lanes = Lanes::default();
        let (began, has_begun) = mpsc::channel();
        let (go, gone_on) = mpsc::channel::<()>();
        let work = move || {
            began.send(()).expect("the test waits");
            gone_on.recv().ok();
            Ok(())
        };
        runtime.block_on(async {
            let asked = lanes.run(Lane::Past, work);
            let mut asked = Box::pin(asked);
            // Polled until its work has begun, then dropped, as by a connection that closes.
            while has_begun.try_recv().is_err() {
                assert!(futures::poll!(&mut asked).is_pending());
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(lanes.past.available_permits(), PAST - 1);
        assert_eq!(lanes.large_in_line.available_permits(), IN_LINE - 1);
        drop(go);
        runtime.block_on(async {
            let all = u32::try_from(PAST).expect("few");
            let _all = lanes.past.acquire_many(all).await.expect("never closed");
        });
        assert_eq!(lanes.large_in_line.available_permits(), IN_LINE);
    }

    /// Small reads that lost their tries to another reader are told nothing about large ones.
    #[test]
    fn the_lines_of_small_and_large_requests_are_apart() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let lanes = Lanes::default();
        let refused = |lane| match runtime.block_on(lanes.run(lane, || Ok(()))) {
            Ok(()) => String::new(),
            Err(RequestError::Busy(why)) => why,
            Err(e) => panic!("{e}"),
        };
        let all = u32::try_from(IN_LINE).expect("few");
        let large = lanes.large_in_line.try_acquire_many(all).expect("nobody is in line");
        assert_eq!(refused(Lane::Few), "");
        assert_eq!(refused(Lane::Past), "1024 large requests are in line already");
        drop(large);
        let _small = lanes.small_in_line.try_acquire_many(all).expect("nobody is in line");
        assert_eq!(refused(Lane::Few), "1024 small requests are in line already");
        assert_eq!(refused(Lane::Many), "");
    }
}
