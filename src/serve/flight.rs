//! Arrow Flight: labels up, training sets down. No logic: `offline::history` joins.
//!
//! A point-in-time join is a descriptor whose command is JSON, `{"point_in_time":{"features":[…]}}`. With DoExchange
//! labels stream up and results down; with DoPut an upload is kept, and its ticket gets the result with DoGet.
//!
//! Labels are taken off the wire whether or not results are read, so a client may send everything before it reads; what
//! has arrived meanwhile is joined together, since every join is a pass over the log.
//!
//! Invariants: rows keep their order, and a result is whole or ends with an error; streams, joins and the labels that wait
//! are bounded; a stream whose client has left ends its join; messages are small, so that no client needs to raise its
//! limits. Neighbours: `door` decodes what clients send, `inbox` and `uploads` keep it; `serve` starts the service.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use super::door::{Admitted, Door, MESSAGE};
use super::inbox::{Filler, Inbox, Lot, Pace, Room, Taken, Up, Watched};
use super::uploads::{Upload, Uploads};
use crate::diagnostic::{note, spoken};
use crate::offline::history::parse_features;
use crate::offline::{History, HistoryError, HistoryRequest, Mode, Offline, OfflineError};

/// Size of the messages sent; clients take 4 MiB without being told to.
const SENT_MESSAGE: usize = 2 << 20;
/// Labels joined at once, and their bytes: at most, where there are more.
const CHUNK_ROWS: usize = 1 << 20;
const CHUNK_BYTES: usize = 256 << 20;
/// Values joined at once: fewer labels where many features are asked for.
const CHUNK_VALUES: usize = 32 << 20;
/// KiB of labels that wait for being joined, of all streams together.
const WAITING_KIB: u32 = 512 << 10;
/// How long more labels are waited for before those that are there are joined.
const LINGER: Duration = Duration::from_millis(20);
/// How long a client may send nothing before it has sent all.
const SILENCE: Duration = Duration::from_secs(600);
/// Exchanges, uploads and downloads at once.
const STREAMS: usize = 16;
/// Joins at once: each keeps a processor busy.
const JOINS: usize = 2;
/// Bytes of a command.
const COMMAND: usize = 1 << 20;

/// How much of the node training sets may take.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Exchanges, uploads and downloads at once.
    pub streams: usize,
    /// KiB of labels that wait for being joined, of all streams together.
    pub waiting_kib: u32,
}

impl Default for Share {
    fn default() -> Share {
        Share { streams: STREAMS, waiting_kib: WAITING_KIB }
    }
}

/// The service, over a node's log.
pub fn service(offline: Arc<Offline>, share: Share) -> FlightServiceServer<Flight> {
    let flight = Flight {
        offline,
        uploads: Arc::default(),
        waiting: Room::of_kib(share.waiting_kib),
        streams: Arc::new(Semaphore::new(share.streams)),
        joins: Arc::new(Semaphore::new(JOINS)),
    };
    FlightServiceServer::new(flight).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE)
}

/// Arrow Flight over a log.
pub struct Flight {
    offline: Arc<Offline>,
    uploads: Arc<Uploads>,
    waiting: Room,
    streams: Arc<Semaphore>,
    joins: Arc<Semaphore>,
}

/// A descriptor's command.
#[derive(Deserialize)]
struct Command {
    point_in_time: PointInTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PointInTime {
    #[serde(default)]
    features: Vec<String>,
    service: Option<String>,
    #[serde(default)]
    mode: Mode,
    time_column: Option<String>,
    #[serde(default)]
    full_names: bool,
}

/// A prepared join, for one stream.
#[derive(Clone)]
struct Asked {
    history: Arc<History>,
    time_column: Option<String>,
    joins: Arc<Semaphore>,
    /// Held until the last join of the stream has ended, whoever still listens.
    _slot: Arc<OwnedSemaphorePermit>,
}

type Results = BoxStream<'static, Result<FlightData, Status>>;

/// Nobody listens to the results any more: the join ends.
struct StopOnDrop(Arc<History>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Flight {
    /// A stream's place among those that are served at once.
    fn slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        let slot = Arc::clone(&self.streams).try_acquire_owned();
        slot.map_err(|_| Status::resource_exhausted("as many training sets as may be are under way; try again later"))
    }

    async fn asked(&self, descriptor: Option<&FlightDescriptor>, slot: OwnedSemaphorePermit) -> Result<Asked, Status> {
        let help =
            r#"send {"point_in_time":{"features":["view:feature"],"time_column":"as_of"}} as the descriptor's command"#;
        let descriptor =
            descriptor.ok_or_else(|| Status::invalid_argument(format!("there is no descriptor; {help}")))?;
        if descriptor.cmd.len() > COMMAND {
            return Err(Status::invalid_argument(format!("the command has more than {COMMAND} bytes; {help}")));
        }
        let command: Command = serde_json::from_slice(&descriptor.cmd)
            .map_err(|e| Status::invalid_argument(format!("the command is not understood ({e}); {help}")))?;
        let asked = command.point_in_time;
        let names = match (asked.service, asked.features) {
            (Some(service), features) if features.is_empty() => vec![service],
            (None, features) => features,
            (Some(_), _) => return Err(Status::invalid_argument("name either features or a service, not both")),
        };
        let offline = Arc::clone(&self.offline);
        let (mode, full_names) = (asked.mode, asked.full_names);
        let history = blocking(move || {
            let features = parse_features(offline.plan(), &names)?;
            History::new(&offline, &HistoryRequest { features, mode, full_names })
        });
        let history = Arc::new(history.await?);
        Ok(Asked { history, time_column: asked.time_column, joins: Arc::clone(&self.joins), _slot: Arc::new(slot) })
    }
}

impl Asked {
    /// Labels, as they arrive, joined and encoded.
    fn results(self, schema: SchemaRef, labels: Labels) -> Result<Results, Status> {
        let joined = self.history.joined_schema(&schema, self.time_column.as_deref()).map_err(status)?;
        let sent = Arc::clone(&joined);
        let stop = StopOnDrop(Arc::clone(&self.history));
        let rows = stream::try_unfold((labels, 0, stop), move |(mut labels, first_row, stop)| {
            let (asked, joined) = (self.clone(), Arc::clone(&joined));
            async move {
                let chunk = labels.chunk(asked.chunk_rows()).await?;
                let Some((chunk, room)) = chunk else { return Ok::<_, Status>(None) };
                let rows = chunk.num_rows();
                Ok(Some((asked.join(chunk, room, joined, first_row).await?, (labels, first_row + rows, stop))))
            }
        });
        Ok(encode(sent, rows.boxed()))
    }

    fn chunk_rows(&self) -> usize {
        (CHUNK_VALUES / self.history.schema().fields().len().max(1)).clamp(1, CHUNK_ROWS)
    }

    async fn join(
        self,
        labels: RecordBatch,
        room: Vec<Taken>,
        joined: SchemaRef,
        first_row: usize,
    ) -> Result<RecordBatch, Status> {
        let turn = Arc::clone(&self.joins).acquire_owned().await.map_err(|e| Status::internal(e.to_string()))?;
        blocking(move || {
            // Both go with the work and not with whoever waits for it: a join that nobody wants any more takes a while to end.
            let (_turn, _room) = (turn, room);
            let features = self.history.join(&labels, self.time_column.as_deref(), first_row)?;
            let columns = labels.columns().iter().chain(features.columns()).cloned().collect();
            Ok(RecordBatch::try_new(joined, columns)?)
        })
        .await
    }
}

fn encode(schema: SchemaRef, rows: BoxStream<'static, Result<RecordBatch, Status>>) -> Results {
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(SENT_MESSAGE)
        .build(rows.map_err(|status| FlightError::Tonic(Box::new(status))))
        .map_err(Status::from)
        .boxed()
}

/// Labels as they are taken from the queue.
struct Labels {
    inbox: Arc<Inbox>,
    /// What did not fit into the last chunk.
    left: Option<Lot>,
    ended: bool,
}

impl Labels {
    fn new(inbox: Arc<Inbox>) -> Labels {
        Labels { inbox, left: None, ended: false }
    }

    /// The schema that the labels begin with.
    async fn schema(&mut self) -> Result<SchemaRef, Status> {
        match self.inbox.next().await? {
            Up::Schema(schema) => Ok(schema),
            Up::Labels(_) | Up::End => Err(Status::invalid_argument("no labels were sent")),
        }
    }

    /// The labels that are there, or come soon, as one batch of so many rows at most; `None` at the end.
    async fn chunk(&mut self, most: usize) -> Result<Option<(RecordBatch, Vec<Taken>)>, Status> {
        let (mut batches, mut rows, mut bytes, mut room) = (vec![], 0, 0, vec![]);
        while rows < most && bytes < CHUNK_BYTES {
            let Some(lot) = self.some(batches.is_empty()).await? else { break };
            let (all, fits) = (lot.labels.num_rows(), lot.labels.num_rows().min(most - rows));
            if fits < all {
                // What stays behind is about as long as it has rows; its room goes with what is joined first.
                let bytes = lot.bytes / all * (all - fits);
                self.left = Some(Lot { labels: lot.labels.slice(fits, all - fits), bytes, room: None });
            }
            rows += fits;
            bytes += lot.bytes;
            batches.push(lot.labels.slice(0, fits));
            room.extend(lot.room);
        }
        let Some(first) = batches.first() else { return Ok(None) };
        let chunk = concat_batches(&first.schema(), &batches).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Some((chunk, room)))
    }

    /// The next labels; `None` at the end, or where more would have to be waited for and there are some.
    async fn some(&mut self, wait: bool) -> Result<Option<Lot>, Status> {
        if let Some(left) = self.left.take() {
            return Ok(Some(left));
        }
        if self.ended {
            return Ok(None);
        }
        let next = match wait {
            true => self.inbox.next().await,
            // Late is the same as over, for now.
            false => match tokio::time::timeout(LINGER, self.inbox.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(None),
            },
        };
        match next? {
            Up::Labels(lot) => Ok(Some(lot)),
            Up::Schema(_) => Err(Status::invalid_argument("the labels change their schema")),
            Up::End => {
                self.ended = true;
                Ok(None)
            }
        }
    }
}

/// Labels on their way up, decoded.
struct Received {
    door: Door,
    first: Option<FlightData>,
    rest: Streaming<FlightData>,
}

impl Received {
    /// The next message that brings something; `None` when the client has sent all.
    async fn next(&mut self) -> Result<Option<Admitted>, Status> {
        loop {
            let message = match self.first.take() {
                Some(first) => Some(first),
                None => tokio::time::timeout(SILENCE, self.rest.message())
                    .await
                    .map_err(|_| Status::deadline_exceeded("no labels came for 10 minutes; send them again"))??,
            };
            let Some(message) = message else { return Ok(None) };
            match self.door.admit(&message)? {
                Admitted::Nothing => {}
                admitted => return Ok(Some(admitted)),
            }
        }
    }

    /// Puts everything into a queue. Ends when the client does, something is wrong, or nobody wants it any more.
    async fn queue(mut self, mut queue: Filler) {
        loop {
            match self.next().await {
                Ok(Some(Admitted::Schema(schema))) => queue.schema(schema),
                Ok(Some(Admitted::Labels(labels, bytes))) => {
                    if !queue.labels(labels, bytes).await {
                        break;
                    }
                }
                Ok(Some(Admitted::Nothing)) => {}
                Ok(None) => return queue.end(),
                Err(status) => {
                    queue.fail(status);
                    break;
                }
            }
        }
        // A client that sends everything before it reads would wait for us for ever: it is to come to its error.
        while let Ok(Ok(Some(_))) = tokio::time::timeout(SILENCE, self.rest.message()).await {}
    }
}

/// Runs what waits for a disk where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(status),
        Err(panic) => Err(Status::internal(format!("the join stopped: {panic}"))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn status(error: HistoryError) -> Status {
    match &error {
        HistoryError::Unknown(message) => Status::not_found(message),
        HistoryError::Request(message) | HistoryError::Labels(message) => Status::invalid_argument(message),
        HistoryError::Offline(OfflineError::Stopped) => Status::cancelled("the client has left"),
        HistoryError::Offline(_) | HistoryError::Arrow(_) => {
            complain(&error);
            Status::internal(error.to_string())
        }
    }
}

fn complain(error: &HistoryError) {
    note(format_args!("error: a training set could not be made: {}", spoken(error)));
}

fn later<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "{what} is not supported; send a point_in_time command with DoExchange or DoPut"
    )))
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = Results;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = Results;

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        let slot = self.slot()?;
        let (first, rest) = begun(request).await?;
        let asked = self.asked(first.flight_descriptor.as_ref(), slot).await?;
        let (inbox, pace) = (Arc::<Inbox>::default(), Arc::<Pace>::default());
        let filler = Filler::new(&inbox, &self.waiting, &pace);
        let receiving = tokio::spawn(Received { door: Door::default(), first: Some(first), rest }.queue(filler));
        let receiving = AbortOnDrop(receiving);
        // The call is answered at once; the schema may come later.
        let results = async move {
            let mut labels = Labels::new(inbox);
            let schema = labels.schema().await?;
            Ok::<_, Status>(keeping(receiving, asked.results(schema, labels)?))
        };
        let results = stream::once(results).try_flatten().boxed();
        Ok(Response::new(Watched::new(results, pace).boxed()))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let slot = self.slot()?;
        let (first, rest) = begun(request).await?;
        let descriptor = first.flight_descriptor.clone();
        let asked = self.asked(descriptor.as_ref(), slot).await?;
        let mut received = Received { door: Door::default(), first: Some(first), rest };
        let Some(Admitted::Schema(schema)) = received.next().await? else {
            return Err(Status::invalid_argument("no labels were sent"));
        };
        asked.history.joined_schema(&schema, asked.time_column.as_deref()).map_err(status)?;
        let mut lots = vec![];
        while let Some(admitted) = received.next().await? {
            let Admitted::Labels(labels, bytes) = admitted else { continue };
            lots.push(Lot { labels, bytes, room: Some(self.uploads.room(bytes)?) });
        }
        let command = descriptor.map(|d| d.cmd).unwrap_or_default();
        let ticket = self.uploads.keep(Upload { command, schema, lots })?;
        let result = PutResult { app_metadata: ticket.into() };
        Ok(Response::new(stream::once(async { Ok(result) }).boxed()))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let slot = self.slot()?;
        let upload = self.uploads.get(&request.into_inner().ticket)?;
        let asked = self.asked(Some(&FlightDescriptor::new_cmd(upload.command.clone())), slot).await?;
        let schema = Arc::clone(&upload.schema);
        let labels = Labels::new(Arc::new(Inbox::of(&upload.lots)));
        let results = asked.results(schema, labels)?;
        // The upload keeps its room while somebody reads from it, even if it grows too old meanwhile.
        Ok(Response::new(keeping(upload, results)))
    }

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        // Whoever can connect may read; there are no tokens to hand out.
        Ok(Response::new(stream::once(async { Ok(HandshakeResponse::default()) }).boxed()))
    }

    async fn list_actions(&self, _request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Ok(Response::new(stream::empty().boxed()))
    }

    async fn list_flights(&self, _request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        later("ListFlights")
    }

    async fn get_flight_info(&self, _request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        later("GetFlightInfo")
    }

    async fn poll_flight_info(&self, _request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        later("PollFlightInfo")
    }

    async fn get_schema(&self, _request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        later("GetSchema")
    }

    async fn do_action(&self, _request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        later("DoAction")
    }
}

/// The first message of a stream, which says what is asked, and the rest.
async fn begun(request: Request<Streaming<FlightData>>) -> Result<(FlightData, Streaming<FlightData>), Status> {
    let mut messages = request.into_inner();
    let first = tokio::time::timeout(SILENCE, messages.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("nothing was sent for 10 minutes"))?? {
        Some(first) => Ok((first, messages)),
        None => Err(Status::invalid_argument("nothing was sent")),
    }
}

/// Results, and something that lives as long as they do.
fn keeping(kept: impl Send + 'static, results: Results) -> Results {
    let keep = move |result| {
        let _ = &kept;
        result
    };
    results.map(keep).boxed()
}

/// A task that ends with whoever it works for.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
