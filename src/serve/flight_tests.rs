//! Flight over a socket, against a small log.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::{FlightClient, FlightDescriptor, Ticket};
use futures::{StreamExt, TryStreamExt};

use crate::definition;
use crate::offline::Offline;
use crate::offset::Offsets;
use crate::state::Store;
use crate::state::commit::{ClockKind, Commit, LogKind, LogRecord};
use crate::state::log::encode_batch;
use crate::time::Epoch;

const SQL: &str = "
CREATE STREAM clicks (user_id BIGINT NOT NULL, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM FILE (path = 'clicks.csv', format = 'csv');
CREATE FEATURE VIEW users AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id;
CREATE FEATURE SERVICE all_users AS users;
";

/// User 1 clicks at 10, 20, …, 100.
fn log(dir: &std::path::Path) -> Arc<Offline> {
    std::fs::create_dir(dir.join("dataflows")).unwrap();
    std::fs::write(dir.join("dataflows/all.sql"), SQL).unwrap();
    let plan = Arc::new(crate::plan::plan(&definition::load(dir, &BTreeMap::new()).unwrap()).unwrap());
    let store = Arc::new(Store::open(&dir.join("data"), &plan).unwrap());
    let times: Vec<i64> = (1..=10).map(|n| n * 10).collect();
    let time = || Arc::new(TimestampMicrosecondArray::from(times.clone())) as ArrayRef;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1; 10])),
        time(),
        time(),
        time(),
        time(),
        Arc::new(Int32Array::from(vec![0; 10])),
        Arc::new(Int64Array::from_iter_values(0..10)),
    ];
    let batch = RecordBatch::try_new(plan.sources[0].row_schema(), columns).unwrap();
    let record = LogRecord { kind: LogKind::Events(0), rows: 10, bytes: encode_batch(&batch).unwrap() };
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
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(super::flight::service(offline));
    tokio::spawn(server.serve_with_incoming(incoming));
    let endpoint = tonic::transport::Endpoint::new(format!("http://{address}")).unwrap();
    FlightClient::new(endpoint.connect().await.unwrap())
}

/// Labels of users 1 and 2 in turn, at every microsecond from `from`.
fn labels(from: i64, rows: i64) -> RecordBatch {
    let users: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|n| 1 + n % 2)));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(from..from + rows));
    RecordBatch::try_from_iter(vec![("user_id", users), ("as_of", times)]).unwrap()
}

fn up(
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
