//! A node with few descriptors and many clients who want nothing: it goes on consuming, and answers the others.
//!
//! The broker is the demo's: in this process, so that the test needs nothing running.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use headwater::source::broker::{Broker, Outgoing, Sender};

use super::support::{Deployment, Running, wait_for};

const SQL: &str = "
CREATE STREAM clicks (user_id BIGINT NOT NULL, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM KAFKA (topic = 'clicks', format = 'json', brokers = '${BROKERS}');
CREATE FEATURE VIEW users AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id;
";

/// More than the node has descriptors.
const HALF_OPEN: usize = 450;
const DESCRIPTORS: usize = 400;

/// A running node under a limit of descriptors, its broker, and somebody who sends to it.
struct Limited {
    node: Running,
    http: String,
    grpc: String,
    sender: Sender,
    sent: i64,
    _broker: Broker,
    _deployment: Deployment,
}

impl Limited {
    fn start() -> Limited {
        let broker = Broker::start(&[("clicks", 1)]).expect("a broker");
        let deployment = Deployment::new(&[("a.sql", &SQL.replace("${BROKERS}", &broker.address()))]);
        let program = deployment.command("run", "data", &["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]);
        let mut limited = Command::new("sh");
        limited.arg("-c").arg(format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\"")).arg(program.get_program());
        limited.args(program.get_args()).env_remove("HEADWATER_KAFKA_BROKERS");
        let (node, ready) = Running::ready(&mut limited);
        let (http, grpc) = (ready["http"].clone(), ready["grpc"].clone());
        let sender = broker.sender().expect("a producer");
        Limited { node, http, grpc, sender, sent: 0, _broker: broker, _deployment: deployment }
    }

    /// Sends events, and waits until the node counts them.
    fn consumes(&mut self, events: i64) {
        for _ in 0..events {
            let payload = br#"{"user_id":1,"ts":"2024-01-01T00:00:00Z"}"#.to_vec();
            let (topic, key) = ("clicks", "1".into());
            let record = Outgoing { topic, partition: 0, millis: 1_704_067_200_000, key, payload: Some(payload) };
            self.sender.send(&record).expect("it is taken");
        }
        self.sender.flush().expect("it is taken");
        self.sent += events;
        wait_for(&format!("{} events", self.sent), || (self.count() == self.sent).then_some(()));
    }

    /// Asks on a connection of its own.
    fn count(&self) -> i64 {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(20))).build().into();
        let mut response = agent.get(format!("http://{}/v1/views/users/1", self.http)).call().expect("an answer");
        let body: serde_json::Value = response.body_mut().read_json().expect("JSON");
        body["features"]["n"].as_i64().expect("a count")
    }
}

#[test]
fn half_open_connections_stop_neither_consuming_nor_answering() {
    let mut limited = Limited::start();
    limited.consumes(10);
    let connect = |address: &str| TcpStream::connect(address).expect("it listens");
    let half_open: Vec<TcpStream> =
        (0..HALF_OPEN).map(|n| connect(if n % 3 == 0 { &limited.grpc } else { &limited.http })).collect();
    // Far more than fits into the page of one file: the store has to open files of its own meanwhile.
    for _ in 0..5 {
        limited.consumes(1_000);
    }
    let mut took: Vec<Duration> = (0..500)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(limited.count(), limited.sent);
            begun.elapsed()
        })
        .collect();
    took.sort();
    eprintln!("p99 beside {HALF_OPEN} half-open connections: {:?}", took[494]);
    // An idle machine keeps 10 ms; the bound is for one that does other things, too.
    assert!(took[494] < Duration::from_millis(500), "{:?}", took[494]);
    drop(half_open);
    let stopped = Command::new("kill").arg(limited.node.0.id().to_string()).status().expect("kill is there");
    assert!(stopped.success());
    let status = limited.node.0.wait().expect("it is our child");
    assert_eq!(status.code(), Some(0), "it stops at a commit, and as it should");
}
