//! Arrow Flight: labels up, training sets down. No logic: `offline::history` joins.
//!
//! A point-in-time join is a descriptor whose command is JSON, `{"point_in_time":{"features":[…]}}`. With DoExchange
//! labels stream up and results down; with DoPut an upload is kept, and its ticket gets the result with DoGet.
//!
//! Labels are taken off the wire whether or not results are read, so a client may send everything before it reads; what
//! has arrived meanwhile is joined together, since every join is a pass over the log.
//!
//! Invariants: rows keep their order; uploads are bounded in number, size and age; messages are small, so that no client
//! needs to raise its limits. Neighbours: `engine` adds the service to its gRPC server.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::uploads::{Upload, Uploads};
use crate::offline::history::parse_features;
use crate::offline::{History, HistoryError, HistoryRequest, Mode, Offline};

/// Largest message taken: a client sends batches of any size.
const MAX_MESSAGE: usize = 256 << 20;
/// Size of the messages sent; clients take 4 MiB without being told to.
const SENT_MESSAGE: usize = 2 << 20;
/// Labels joined at once.
const CHUNK_ROWS: usize = 1 << 20;
/// Batches that wait for being joined before the client is held up.
const WAITING: usize = 4096;
/// How long more labels are waited for before those that are there are joined.
const LINGER: Duration = Duration::from_millis(20);

/// The service, over a node's log.
pub fn service(offline: Arc<Offline>) -> FlightServiceServer<Flight> {
    FlightServiceServer::new(Flight { offline, uploads: Arc::default() })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// Arrow Flight over a log.
pub struct Flight {
    offline: Arc<Offline>,
    uploads: Arc<Uploads>,
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

/// A prepared join.
#[derive(Clone)]
struct Asked {
    history: Arc<History>,
    time_column: Option<String>,
}

/// What comes up.
enum Up {
    Schema(SchemaRef),
    /// Labels, and their size on the wire.
    Labels(RecordBatch, usize),
}

type Results = BoxStream<'static, Result<FlightData, Status>>;

impl Flight {
    async fn asked(&self, descriptor: Option<&FlightDescriptor>) -> Result<Asked, Status> {
        let help =
            r#"send {"point_in_time":{"features":["view:feature"],"time_column":"as_of"}} as the descriptor's command"#;
        let descriptor =
            descriptor.ok_or_else(|| Status::invalid_argument(format!("there is no descriptor; {help}")))?;
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
        Ok(Asked { history: Arc::new(history.await?), time_column: asked.time_column })
    }
}

impl Asked {
    /// Labels, as they arrive, joined and encoded.
    fn results(self, schema: SchemaRef, labels: mpsc::Receiver<Result<Up, Status>>) -> Result<Results, Status> {
        let joined = self.history.joined_schema(&schema, self.time_column.as_deref()).map_err(status)?;
        let sent = Arc::clone(&joined);
        let rows = stream::try_unfold((labels, 0), move |(mut labels, first_row)| {
            let (asked, joined) = (self.clone(), Arc::clone(&joined));
            async move {
                let Some(chunk) = gather(&mut labels).await? else { return Ok::<_, Status>(None) };
                let rows = chunk.num_rows();
                Ok(Some((asked.join(chunk, joined, first_row).await?, (labels, first_row + rows))))
            }
        });
        Ok(encode(sent, rows.boxed()))
    }

    async fn join(&self, labels: RecordBatch, joined: SchemaRef, first_row: usize) -> Result<RecordBatch, Status> {
        let asked = self.clone();
        blocking(move || {
            let features = asked.history.join(&labels, asked.time_column.as_deref(), first_row)?;
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

/// The labels that are there, or come soon, as one batch; `None` at the end.
async fn gather(labels: &mut mpsc::Receiver<Result<Up, Status>>) -> Result<Option<RecordBatch>, Status> {
    let (mut batches, mut rows) = (vec![], 0);
    while rows < CHUNK_ROWS {
        let next = match batches.is_empty() {
            true => labels.recv().await,
            // Late is the same as over, for now.
            false => tokio::time::timeout(LINGER, labels.recv()).await.unwrap_or(None),
        };
        match next.transpose()? {
            None => break,
            Some(Up::Schema(_)) => return Err(Status::invalid_argument("the labels change their schema")),
            Some(Up::Labels(batch, _)) => {
                rows += batch.num_rows();
                batches.push(batch);
            }
        }
    }
    let Some(first) = batches.first() else { return Ok(None) };
    concat_batches(&first.schema(), &batches).map(Some).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// Takes labels off the wire.
fn receive(first: FlightData, rest: Streaming<FlightData>) -> mpsc::Receiver<Result<Up, Status>> {
    let (up, labels) = mpsc::channel(WAITING);
    let messages = stream::once(async { Ok(first) }).chain(rest);
    // A client may send its descriptor alone, before the schema.
    let messages = messages.try_filter(|m| futures::future::ready(!m.data_header.is_empty()));
    let mut decoder = FlightDataDecoder::new(messages.map_err(|status| FlightError::Tonic(Box::new(status))));
    tokio::spawn(async move {
        while let Some(message) = decoder.next().await {
            let message = match message {
                Ok(message) => match message.payload {
                    DecodedPayload::Schema(schema) => Ok(Up::Schema(schema)),
                    DecodedPayload::RecordBatch(batch) => Ok(Up::Labels(batch, message.inner.data_body.len())),
                    DecodedPayload::None => continue,
                },
                Err(FlightError::Tonic(status)) => Err(*status),
                Err(error) => Err(Status::invalid_argument(format!("the labels cannot be read: {error}"))),
            };
            let last = message.is_err();
            // Nobody listens when the client has left.
            if up.send(message).await.is_err() || last {
                return;
            }
        }
    });
    labels
}

/// The schema that the labels begin with.
async fn schema(labels: &mut mpsc::Receiver<Result<Up, Status>>) -> Result<SchemaRef, Status> {
    match labels.recv().await.transpose()? {
        Some(Up::Schema(schema)) => Ok(schema),
        Some(Up::Labels(_, _)) => Err(Status::invalid_argument("labels come before their schema")),
        None => Err(Status::invalid_argument("no labels were sent")),
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
        HistoryError::Offline(_) | HistoryError::Arrow(_) => Status::internal(error.to_string()),
    }
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
        let mut messages = request.into_inner();
        let Some(first) = messages.message().await? else { return Err(Status::invalid_argument("nothing was sent")) };
        let asked = self.asked(first.flight_descriptor.as_ref()).await?;
        let mut labels = receive(first, messages);
        // The call is answered at once; the schema may come later.
        let results = async move {
            let schema = schema(&mut labels).await?;
            asked.results(schema, labels)
        };
        Ok(Response::new(stream::once(results).try_flatten().boxed()))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let mut messages = request.into_inner();
        let Some(first) = messages.message().await? else { return Err(Status::invalid_argument("nothing was sent")) };
        let descriptor = first.flight_descriptor.clone();
        let asked = self.asked(descriptor.as_ref()).await?;
        let mut labels = receive(first, messages);
        let schema = schema(&mut labels).await?;
        asked.history.joined_schema(&schema, asked.time_column.as_deref()).map_err(status)?;
        let (mut batches, mut bytes) = (vec![], 0);
        while let Some(up) = labels.recv().await.transpose()? {
            let Up::Labels(batch, size) = up else {
                return Err(Status::invalid_argument("the labels change their schema"));
            };
            bytes += size;
            self.uploads.check(bytes)?;
            batches.push(batch);
        }
        let command = descriptor.map(|d| d.cmd).unwrap_or_default();
        let ticket = self.uploads.keep(Upload { command, schema, batches, bytes })?;
        let result = PutResult { app_metadata: ticket.into() };
        Ok(Response::new(stream::once(async { Ok(result) }).boxed()))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let upload = self.uploads.get(&request.into_inner().ticket)?;
        let asked = self.asked(Some(&FlightDescriptor::new_cmd(upload.command.clone()))).await?;
        let (up, labels) = mpsc::channel(WAITING);
        let schema = Arc::clone(&upload.schema);
        tokio::spawn(async move {
            for batch in &upload.batches {
                if up.send(Ok(Up::Labels(batch.clone(), 0))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(asked.results(schema, labels)?))
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
