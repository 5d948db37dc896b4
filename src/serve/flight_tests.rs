//! Flight over a socket, against a small log.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::{FlightClient, FlightDescriptor, Ticket};
use futures::{StreamExt, TryStreamExt};

use super::accept::{Connections, House, Limits};
use super::flight::Share;
use crate::definition;
use crate::offline::Offline;
use crate::offset::Offsets;
use crate::state::Store;
use crate::state::commit::{ClockKind, Commit, LogKind, LogRecord};
use crate::state::log::encode_batch;
use crate::time::Epoch;

/// Up to when it is known what was visible.
const THROUGH: i64 = 1_000_000;

const SQL: &str = "
CREATE STREAM clicks (user_id BIGINT NOT NULL, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM FILE (path = 'clicks.csv', format = 'csv');
CREATE FEATURE VIEW users AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id;
CREATE FEATURE SERVICE all_users AS users;
";

/// User 1 clicks at 10, 20, …, 100; a click of user 3 at 5 is known from 95 on.
pub(super) fn log(dir: &std::path::Path) -> Arc<Offline> {
    std::fs::create_dir(dir.join("dataflows")).unwrap();
    std::fs::write(dir.join("dataflows/all.sql"), SQL).unwrap();
    let plan = Arc::new(crate::plan::plan(&definition::load(dir, &BTreeMap::new()).unwrap()).unwrap());
    let store = Arc::new(Store::open(&dir.join("data"), &plan).unwrap());
    let known: Vec<i64> = (1..=10).map(|n| n * 10).chain([95]).collect();
    let happened: Vec<i64> = (1..=10).map(|n| n * 10).chain([5]).collect();
    let time = |of: &[i64]| Arc::new(TimestampMicrosecondArray::from(of.to_vec())) as ArrayRef;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from([vec![1; 10], vec![3]].concat())),
        time(&happened),
        time(&happened),
        time(&known),
        time(&known),
        Arc::new(Int32Array::from(vec![0; 11])),
        Arc::new(Int64Array::from_iter_values(0..11)),
    ];
    let batch = RecordBatch::try_new(plan.sources[0].row_schema(), columns).unwrap();
    let record =
        LogRecord { kind: LogKind::Events(store.ids().source(0)), rows: 11, bytes: encode_batch(&batch).unwrap() };
    let commit = Commit {
        last: Epoch(100),
        clock: ClockKind::Event,
        visible: 100,
        records: vec![record],
        rejected: vec![],
        offsets: Offsets::default(),
        sorted: BTreeMap::new(),
        gaps: vec![],
        topic_ids: BTreeMap::new(),
    };
    store.commit(&commit, false).unwrap();
    Arc::new(Offline::new(plan, store).unwrap())
}

async fn client(offline: Arc<Offline>) -> FlightClient {
    FlightClient::new(channel(offline, Share::default()).await)
}

pub(super) async fn channel(offline: Arc<Offline>, share: Share) -> tonic::transport::Channel {
    serve(offline, share).await.connect().await.unwrap()
}

/// Served as a node does: by its own loop, behind its own limits.
pub(super) async fn serve(offline: Arc<Offline>, share: Share) -> tonic::transport::Endpoint {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    offline.store().board().advance(THROUGH);
    let service = super::flight::service(offline, share);
    let router = tonic::service::Routes::new(service).prepare().into_axum_router();
    tokio::spawn(Arc::new(Connections::new(Limits::of_process())).serve(listener, House::of_grpc(router)));
    tonic::transport::Endpoint::new(format!("http://{address}")).unwrap()
}

/// Labels of users 1 and 2 in turn, at every microsecond from `from`.
pub(super) fn labels(from: i64, rows: i64) -> RecordBatch {
    let users: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|n| 1 + n % 2)));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(from..from + rows));
    RecordBatch::try_from_iter(vec![("user_id", users), ("as_of", times)]).unwrap()
}

pub(super) fn up(
    command: &str,
    batches: Vec<RecordBatch>,
) -> impl futures::Stream<Item = Result<arrow_flight::FlightData, FlightError>> + Send + 'static {
    FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(FlightDescriptor::new_cmd(command.to_string())))
        .build(futures::stream::iter(batches.into_iter().map(Ok)))
}

fn check_counts(batches: &[RecordBatch], rows: i64) {
    let mut at = 0;
    for batch in batches {
        assert_eq!(
            batch.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
            ["user_id", "as_of", "n"]
        );
        for n in batch.column(2).as_primitive::<Int64Type>().iter() {
            let want = if at % 2 == 0 { (at / 10).min(10) } else { 0 };
            assert_eq!(n, Some(want), "row {at}");
            at += 1;
        }
    }
    assert_eq!(at, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_go_up_and_features_come_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = client(log(dir.path())).await;
    let command = r#"{"point_in_time":{"features":["users:n"],"time_column":"as_of"}}"#;
    let batches = vec![labels(0, 70), labels(70, 30), labels(100, 200_000)];
    let down = client.do_exchange(up(command, batches)).await.unwrap();
    check_counts(&down.try_collect::<Vec<_>>().await.unwrap(), 200_100);

    let command = r#"{"point_in_time":{"service":"all_users"}}"#;
    let mut put = client.do_put(up(command, vec![labels(0, 50)])).await.unwrap();
    let ticket = put.next().await.expect("an answer").unwrap().app_metadata;
    assert!(put.next().await.is_none(), "one answer");
    for _ in 0..2 {
        let down = client.do_get(Ticket { ticket: ticket.clone() }).await.unwrap();
        check_counts(&down.try_collect::<Vec<_>>().await.unwrap(), 50);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = client(log(dir.path())).await;
    let refused = async |client: &mut FlightClient, command: &str, batch: RecordBatch| {
        let down = match client.do_exchange(up(command, vec![batch])).await {
            Ok(down) => down.try_collect::<Vec<_>>().await,
            Err(e) => Err(e),
        };
        match down.expect_err("it is refused") {
            FlightError::Tonic(status) => (status.code(), status.message().to_string()),
            other => panic!("{other:?}"),
        }
    };
    let cases = [
        ("select 1", tonic::Code::InvalidArgument, "the command is not understood"),
        (r#"{"point_in_time":{"features":["user:n"]}}"#, tonic::Code::NotFound, "did you mean `users`?"),
        (
            r#"{"point_in_time":{"features":["users:n"],"time_column":"t"}}"#,
            tonic::Code::InvalidArgument,
            "no column `t`",
        ),
        (
            r#"{"point_in_time":{"features":["users:n"],"mode":"late"}}"#,
            tonic::Code::InvalidArgument,
            "unknown variant",
        ),
    ];
    for (command, code, message) in cases {
        let (got, said) = refused(&mut client, command, labels(0, 1)).await;
        assert_eq!(got, code, "{command}: {said}");
        assert!(said.contains(message), "{command}: {said}");
    }
    let lost = client.do_get(Ticket { ticket: "none".into() }).await.expect_err("it is refused");
    assert!(matches!(lost, FlightError::Tonic(s) if s.code() == tonic::Code::NotFound));
}

/// What is asked of one user at these instants, in a mode.
async fn counts(client: &mut FlightClient, user: i64, mode: &str, instants: Vec<i64>) -> Result<Vec<i64>, FlightError> {
    let users: ArrayRef = Arc::new(Int64Array::from(vec![user; instants.len()]));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(instants));
    let batch = RecordBatch::try_from_iter(vec![("user_id", users), ("as_of", times)]).unwrap();
    let command = format!(r#"{{"point_in_time":{{"features":["users:n"],"mode":"{mode}"}}}}"#);
    let down = client.do_exchange(up(&command, vec![batch])).await?.try_collect::<Vec<_>>().await?;
    Ok(down.iter().flat_map(|b| b.column(2).as_primitive::<Int64Type>().values().to_vec()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_late_is_corrected_and_was_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = client(log(dir.path())).await;
    let instants = vec![4, 5, 94, 95];
    assert_eq!(counts(&mut client, 3, "served", instants.clone()).await.unwrap(), [0, 0, 0, 1]);
    assert_eq!(counts(&mut client, 3, "corrected", instants).await.unwrap(), [0, 1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_after_what_is_decided_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = client(log(dir.path())).await;
    assert_eq!(counts(&mut client, 1, "served", vec![THROUGH]).await.unwrap(), [10]);
    for mode in ["served", "corrected"] {
        match counts(&mut client, 1, mode, vec![1, 2, THROUGH + 1]).await {
            Err(FlightError::Tonic(status)) => {
                assert_eq!(status.code(), tonic::Code::InvalidArgument);
                assert!(
                    status.message().contains("row 3, column `as_of`: 1970-01-01T00:00:01.000001Z is later"),
                    "{status}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_come_back_as_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = client(log(dir.path())).await;
    let notes: arrow::array::DictionaryArray<arrow::datatypes::Int8Type> = ["a", "b", "a"].into_iter().collect();
    let users: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 1]));
    let times: arrow::array::DictionaryArray<arrow::datatypes::Int8Type> =
        ["1970-01-01T00:00:00.000025Z", "1970-01-01T00:00:00.000025Z", "1970-01-01T00:00:00.000035Z"]
            .into_iter()
            .collect();
    let columns: Vec<(&str, ArrayRef)> =
        vec![("user_id", users), ("as_of", Arc::new(times)), ("note", Arc::new(notes))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let encoder = FlightDataEncoderBuilder::new()
        .with_dictionary_handling(arrow_flight::encode::DictionaryHandling::Resend)
        .with_flight_descriptor(Some(FlightDescriptor::new_cmd(r#"{"point_in_time":{"features":["users:n"]}}"#)))
        .build(futures::stream::iter([Ok(batch.clone()), Ok(batch)]));
    let down = client.do_exchange(encoder).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    let down = arrow::compute::concat_batches(&down[0].schema(), &down).unwrap();
    assert_eq!(down.column(2).as_string::<i32>().iter().flatten().collect::<String>(), "abaaba");
    assert_eq!(down.column(3).as_primitive::<Int64Type>().values(), &[2, 0, 3, 2, 0, 3]);
}
