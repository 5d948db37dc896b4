//! Clients that mean harm, or are broken: the node lives, every answer is right or an error, and others are answered.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightClient, FlightData, FlightDescriptor};
use futures::{StreamExt, TryStreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::flight::Share;
use super::flight_tests::{channel, labels, log, serve, up};

const COMMAND: &str = r#"{"point_in_time":{"features":["users:n"]}}"#;

/// Labels as they go over the wire.
async fn encoded(batches: Vec<RecordBatch>, options: IpcWriteOptions) -> Vec<FlightData> {
    let encoder = FlightDataEncoderBuilder::new()
        .with_options(options)
        .with_flight_descriptor(Some(FlightDescriptor::new_cmd(COMMAND)))
        .build(futures::stream::iter(batches.into_iter().map(Ok)));
    encoder.try_collect().await.expect("it can be encoded")
}

async fn plain(batches: Vec<RecordBatch>) -> Vec<FlightData> {
    encoded(batches, IpcWriteOptions::default()).await
}

/// Sends messages as they are, and reads what comes, with a deadline.
async fn exchange(channel: &Channel, messages: Vec<FlightData>) -> Result<Vec<RecordBatch>, Status> {
    let mut client = FlightServiceClient::new(channel.clone());
    let answer = async {
        let down = client.do_exchange(futures::stream::iter(messages)).await?.into_inner();
        let down = arrow_flight::decode::FlightRecordBatchStream::new_from_flight_data(down.map_err(Into::into));
        down.try_collect().await.map_err(Status::from)
    };
    tokio::time::timeout(Duration::from_secs(60), answer).await.expect("an answer or an error, in time")
}

async fn served() -> (tempfile::TempDir, Channel) {
    let dir = tempfile::tempdir().unwrap();
    let channel = channel(log(dir.path()), Share::default()).await;
    (dir, channel)
}

async fn refused(channel: &Channel, messages: Vec<FlightData>, want: &str) {
    let status = exchange(channel, messages).await.expect_err(want);
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(want), "{status}");
    alive(channel).await;
}

/// The node answers somebody else, and rightly.
async fn alive(channel: &Channel) {
    let answers = exchange(channel, plain(vec![labels(0, 120)]).await).await.expect("others are answered");
    assert_eq!(rows(&answers), 120);
    check(&answers);
}

fn rows(answers: &[RecordBatch]) -> usize {
    answers.iter().map(RecordBatch::num_rows).sum()
}

/// Whatever the labels became on their way, each has the count of its user at its instant.
fn check(answers: &[RecordBatch]) {
    for batch in answers {
        let [Some(users), Some(times), Some(counts)] = ["user_id", "as_of", "n"].map(|n| batch.column_by_name(n))
        else {
            continue;
        };
        let (Some(users), Some(times)) =
            (users.as_primitive_opt::<Int64Type>(), times.as_primitive_opt::<TimestampMicrosecondType>())
        else {
            continue;
        };
        for (n, count) in counts.as_primitive::<Int64Type>().iter().enumerate() {
            let user = users.is_valid(n).then(|| users.value(n));
            let want = match (user, times.value(n)) {
                (Some(1), at) => (at.div_euclid(10)).clamp(0, 10),
                (Some(3), at) => i64::from(at >= 95),
                _ => 0,
            };
            assert_eq!(count, Some(want), "user {user:?} at {}", times.value(n));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_cut_off_is_not_a_short_training_set() {
    let (_dir, channel) = served().await;
    let mut messages = plain(vec![labels(0, 10), labels(10, 150_001)]).await;
    // Arrow slices by the lengths in the header, and panics.
    let cut = messages.last_mut().expect("a batch");
    cut.data_body = cut.data_body.slice(..cut.data_body.len() / 2);
    refused(&channel, messages, "a buffer is said to have").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_do_not_say_what_they_are_are_not_left_out() {
    let (_dir, channel) = served().await;
    let mut messages = plain(vec![labels(0, 10), labels(10, 20)]).await;
    messages.last_mut().expect("a batch").data_header = bytes::Bytes::new();
    refused(&channel, messages, "does not say what it is").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_labels_are_refused_before_their_lengths_are_believed() {
    let (_dir, channel) = served().await;
    for codec in [arrow::ipc::CompressionType::LZ4_FRAME, arrow::ipc::CompressionType::ZSTD] {
        let options = IpcWriteOptions::default().try_with_compression(Some(codec)).expect("it is built in");
        let mut messages = encoded(vec![labels(0, 10_000)], options).await;
        let batch = messages.last_mut().expect("a batch");
        let mut body = batch.data_body.to_vec();
        // Every buffer that may start here says that it becomes 2^50 bytes.
        (0..body.len() / 64).for_each(|n| body[n * 64..n * 64 + 8].copy_from_slice(&(1u64 << 50).to_le_bytes()));
        batch.data_body = body.into();
        refused(&channel, messages, "compressed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn few_bytes_do_not_become_many() {
    let (_dir, channel) = served().await;
    let long = "x".repeat(1 << 20);
    let rows = 10_000usize;
    let users: ArrayRef = Arc::new(StringArray::from(vec!["1"; rows]));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![50; rows]));
    let keys = arrow::array::Int8Array::from(vec![0; rows]);
    let values: ArrayRef = Arc::new(StringArray::from(vec![long.as_str()]));
    let dictionary: ArrayRef = Arc::new(arrow::array::DictionaryArray::new(keys, values));
    let block = arrow::buffer::Buffer::from(long.as_bytes());
    let mut views = arrow::array::StringViewBuilder::new();
    let block = views.append_block(block);
    (0..rows).for_each(|_| views.try_append_view(block, 0, 1 << 20).expect("it is in the block"));
    let views: ArrayRef = Arc::new(views.finish() as StringViewArray);
    for bomb in [dictionary, views] {
        let columns = vec![("user_id", Arc::clone(&users)), ("as_of", Arc::clone(&times)), ("bomb", bomb)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let encoder = FlightDataEncoderBuilder::new()
            .with_dictionary_handling(arrow_flight::encode::DictionaryHandling::Resend)
            .with_max_flight_data_size(usize::MAX)
            .with_flight_descriptor(Some(FlightDescriptor::new_cmd(COMMAND)))
            .build(futures::stream::iter([Ok(batch)]));
        let messages: Vec<FlightData> = encoder.try_collect().await.unwrap();
        refused(&channel, messages, "once it is written out").await;
    }
}

/// One message changed somehow.
fn mutate(messages: &mut Vec<FlightData>, rng: &mut StdRng) -> &'static str {
    let at = rng.random_range(0..messages.len());
    let flip = |bytes: &bytes::Bytes, rng: &mut StdRng| {
        let mut bytes = bytes.to_vec();
        for _ in 0..rng.random_range(1..4) {
            if !bytes.is_empty() {
                let place = rng.random_range(0..bytes.len());
                bytes[place] = match rng.random_range(0..4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bytes[place] ^ (1 << rng.random_range(0..8)),
                    _ => rng.random_range(0..=255),
                };
            }
        }
        bytes::Bytes::from(bytes)
    };
    match rng.random_range(0..8) {
        0..=2 => {
            messages[at].data_header = flip(&messages[at].data_header, rng);
            "header"
        }
        3 => {
            messages[at].data_body = flip(&messages[at].data_body, rng);
            "body"
        }
        4 => {
            let keep = rng.random_range(0..=messages[at].data_body.len());
            messages[at].data_body = messages[at].data_body.slice(..keep);
            "cut body"
        }
        5 => {
            let keep = rng.random_range(0..=messages[at].data_header.len());
            messages[at].data_header = messages[at].data_header.slice(..keep);
            "cut header"
        }
        6 => {
            let again = messages[at].clone();
            messages.insert(rng.random_range(0..=messages.len()), again);
            "twice"
        }
        _ => {
            let other = rng.random_range(0..messages.len());
            let body = messages[other].data_body.clone();
            messages[at].data_body = body;
            "another's body"
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_sent_the_answer_is_right_or_an_error() {
    let fresh = || uuid::Uuid::new_v4().as_u64_pair().0;
    let seed = std::env::var("HEADWATER_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh);
    eprintln!("HEADWATER_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_dir, channel) = served().await;
    let note = |batch: RecordBatch| {
        let notes: arrow::array::DictionaryArray<arrow::datatypes::Int8Type> =
            (0..batch.num_rows()).map(|n| ["a", "bb", "c"][n % 3]).collect();
        let lists = arrow::array::ListArray::from_iter_primitive::<Int64Type, _, _>(
            (0..batch.num_rows()).map(|n| (n % 4 > 0).then(|| vec![Some(n as i64); n % 3])),
        );
        let more: [ArrayRef; 2] = [Arc::new(notes), Arc::new(lists)];
        let columns = ["user_id", "as_of", "note", "list"].into_iter().zip(batch.columns().iter().cloned().chain(more));
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let encoder = FlightDataEncoderBuilder::new()
        .with_dictionary_handling(arrow_flight::encode::DictionaryHandling::Resend)
        .with_flight_descriptor(Some(FlightDescriptor::new_cmd(COMMAND)))
        .build(futures::stream::iter([Ok(note(labels(0, 40))), Ok(note(labels(40, 60)))]));
    let sound: Vec<FlightData> = encoder.try_collect().await.unwrap();
    let (mut right, mut wrong) = (0, 0);
    for case in 0..200 {
        let mut messages = sound.clone();
        let mut done = vec![];
        for _ in 0..rng.random_range(1..3) {
            done.push(mutate(&mut messages, &mut rng));
        }
        // What the command says does not change; a first message without it is another test's.
        messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(COMMAND));
        let sent: i64 = messages.iter().map(rows_said).sum();
        match exchange(&channel, messages).await {
            Ok(answers) => {
                right += 1;
                check(&answers);
                assert_eq!(rows(&answers) as i64, sent, "HEADWATER_TEST_SEED={seed} case {case} {done:?}");
            }
            Err(status) => {
                wrong += 1;
                let expected = [Code::InvalidArgument, Code::ResourceExhausted];
                assert!(expected.contains(&status.code()), "HEADWATER_TEST_SEED={seed} case {case} {done:?}: {status}");
            }
        }
    }
    assert!(right > 10 && wrong > 50, "{right} were right and {wrong} wrong: the mutations are too weak or too strong");
    alive(&channel).await;
}

/// The rows that a message says it has.
fn rows_said(message: &FlightData) -> i64 {
    let parsed = arrow::ipc::root_as_message(&message.data_header).ok();
    parsed.and_then(|m| m.header_as_record_batch()).map_or(0, |b| b.length())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_told_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let share = Share { waiting_kib: 8 << 10, ..Share::default() };
    let channel = channel(log(dir.path()), share).await;
    let mut client = FlightClient::new(channel.clone());
    // Far more than there is room for, all of it before anything is read: 60 × 1.6 MB.
    let (all_sent, sent) = tokio::sync::oneshot::channel();
    let batches =
        futures::stream::iter((0..60).map(|_| Ok(labels(0, 100_000)))).chain(futures::stream::once(async move {
            let _ = all_sent.send(());
            Ok(labels(0, 1))
        }));
    let messages =
        FlightDataEncoderBuilder::new().with_flight_descriptor(Some(FlightDescriptor::new_cmd(COMMAND))).build(batches);
    let down = client.do_exchange(messages).await.unwrap();
    tokio::time::timeout(Duration::from_secs(120), sent).await.expect("writing does not hang").expect("all was sent");
    alive(&channel).await;
    match down.try_collect::<Vec<_>>().await {
        Err(arrow_flight::error::FlightError::Tonic(status)) => {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(status.message().contains("read results while you send"), "{status}");
        }
        other => panic!("{:?}", other.map(|b| rows(&b))),
    }
}

/// A client that has sent labels, has an answer, and may send more.
async fn begun(endpoint: Endpoint) -> impl Sized {
    let mut client = FlightClient::new(endpoint.connect().await.unwrap());
    let first = up(COMMAND, vec![labels(0, 10)]).chain(futures::stream::pending());
    let mut down = client.do_exchange(first).await.unwrap();
    assert_eq!(down.next().await.expect("an answer").unwrap().num_rows(), 10);
    (client, down)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_few_and_end_with_their_clients() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = serve(log(dir.path()), Share { streams: 2, ..Share::default() }).await;
    let channel = endpoint.connect().await.unwrap();
    let _stays = begun(endpoint.clone()).await;
    // One whose process dies, connections and all.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (answered, answer) = tokio::sync::oneshot::channel();
    process.spawn(async move {
        let _begun = begun(endpoint).await;
        let _ = answered.send(());
        std::future::pending::<()>().await;
    });
    answer.await.expect("it is answered");
    let refused = exchange(&channel, plain(vec![labels(0, 1)]).await).await.expect_err("one too many");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    process.shutdown_background();
    let again = async {
        while exchange(&channel, plain(vec![labels(0, 1)]).await).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("the place is free again");
}
