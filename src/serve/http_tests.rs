//! Requests and answers over a socket: exact shapes, every problem, contracts.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::testing::{Fixture, at};
use crate::time::format_instant;

/// Two commits: at 1 s with three events, at 2 s with one; now is 3 s.
fn shop() -> Fixture {
    let shop = Fixture::new();
    shop.commit(
        1,
        &[(42, "be", "view", None, 0), (42, "be", "cart", Some(1250), 1), (7, "a/b, c", "view", Some(5), -10)],
    );
    shop.commit(2, &[(42, "be", "view", Some(50), 2)]);
    shop.now(3);
    shop
}

#[test]
fn one_entity_has_its_exact_shape() {
    let shop = shop();
    let check = |path: &str, want: &str| {
        let reply = shop.get(path);
        assert_eq!((reply.status, reply.body.as_str()), (200, want), "{path}");
        assert_eq!(reply.headers["content-type"], "application/json");
    };
    check(
        "/v1/views/user_activity/42",
        concat!(
            r#"{"view":"user_activity","version":1,"entity":{"user_id":42},"status":"present","#,
            r#""epoch":"2026-11-20T21:00:02.000000Z","as_of":"2026-11-20T21:00:03.000000Z","#,
            r#""event_time":"2026-11-20T21:00:02.000000Z","#,
            r#""features":{"views_1h":2,"spend":"13.00","last_kind":"view"}}"#,
        ),
    );
    check(
        "/v1/views/user_activity/42?features=last_kind,views_1h&features=last_kind",
        concat!(
            r#"{"view":"user_activity","version":1,"entity":{"user_id":42},"status":"present","#,
            r#""epoch":"2026-11-20T21:00:02.000000Z","as_of":"2026-11-20T21:00:03.000000Z","#,
            r#""event_time":"2026-11-20T21:00:02.000000Z","features":{"last_kind":"view","views_1h":2}}"#,
        ),
    );
    check(
        "/v1/views/user_activity/1?features=*",
        concat!(
            r#"{"view":"user_activity","version":1,"entity":{"user_id":1},"status":"absent","#,
            r#""epoch":"2026-11-20T21:00:02.000000Z","as_of":"2026-11-20T21:00:03.000000Z","#,
            r#""event_time":null,"features":{"views_1h":0,"spend":null,"last_kind":null}}"#,
        ),
    );
}

#[test]
fn keys_are_found_however_they_are_written() {
    let shop = shop();
    let check = |path: &str, entity: Value, n: i64| {
        let reply = shop.get(path).json();
        assert_eq!((&reply["entity"], &reply["features"]["n"]), (&entity, &json!(n)), "{path}: {reply}");
    };
    let home = json!({ "place": "be", "user_id": 42 });
    check("/v1/views/by_place/be,42", home.clone(), 3);
    check("/v1/views/by_place/be%2C42", home.clone(), 3);
    check("/v1/views/by_place/user_id=42,place=be", home, 3);
    let far = json!({ "place": "a/b, c", "user_id": 7 });
    check("/v1/views/by_place/user_id=7,place=a/b,%20c", far.clone(), 1);
    check("/v1/views/by_place/%22a/b,%20c%22,7", far, 1);
    check("/v1/views/by_place/xx,42", json!({ "place": "xx", "user_id": 42 }), 0);
    let place = |path: &str| shop.get(path).json()["features"]["price"].clone();
    assert_eq!(place("/v1/views/places/a%2Fb%2C%20c"), place("/v1/views/places/a/b,%20c"));
    assert!(!place("/v1/views/places/a/b,%20c").is_null());
    assert_eq!(shop.get("/v1/views/places/").json()["entity"], json!({ "place": "" }));
    assert_eq!(shop.get("/v1/views/places/%C3%A9").json()["entity"], json!({ "place": "\u{e9}" }));
}

#[test]
fn many_entities_have_their_exact_shape() {
    let shop = shop();
    let check = |body: Value, want: &str| {
        let reply = shop.post("/v1/features", &body.to_string());
        let stamp = r#"{"epoch":"2026-11-20T21:00:02.000000Z","as_of":"2026-11-20T21:00:03.000000Z","#;
        assert_eq!((reply.status, reply.body), (200, format!("{stamp}{want}")), "{body}");
    };
    let entities = json!({ "user_id": [42, "7", null], "place": ["be", "be", "be"], "other": [1, 2, 3] });
    check(
        json!({ "features": ["user_activity:spend", "by_place:n", "user_activity:views_1h"], "entities": entities }),
        concat!(
            r#""versions":{"user_activity":1,"by_place":1},"#,
            r#""names":["user_activity:spend","by_place:n","user_activity:views_1h"],"#,
            r#""rows":[{"status":{"user_activity":"present","by_place":"present"},"values":["13.00",3,2]},"#,
            r#"{"status":{"user_activity":"present","by_place":"absent"},"values":["0.05",0,1]},"#,
            r#"{"status":{"user_activity":"absent","by_place":"absent"},"values":[null,0,0]}]}"#,
        ),
    );
    check(
        json!({ "service": "home", "entities": { "user_id": [42], "place": ["be"] } }),
        concat!(
            r#""versions":{"user_activity":1,"by_place":1},"names":["user_activity:spend","by_place:n","by_place:newest"],"#,
            r#""rows":[{"status":{"user_activity":"present","by_place":"present"},"#,
            r#""values":["13.00",3,"2026-11-20T21:00:02.000000Z"]}]}"#,
        ),
    );
    check(
        json!({ "features": ["user_activity:*"], "entities": { "user_id": [] } }),
        concat!(
            r#""versions":{"user_activity":1},"#,
            r#""names":["user_activity:views_1h","user_activity:spend","user_activity:last_kind"],"rows":[]}"#,
        ),
    );
}

#[test]
fn large_batches_answer_like_small_ones() {
    let shop = shop();
    let users: Vec<i64> = (0..20_000).map(|n| if n % 2 == 0 { 42 } else { n }).collect();
    let body = json!({ "features": ["user_activity:views_1h"], "entities": { "user_id": users } });
    let reply = shop.post("/v1/features", &body.to_string()).json();
    let rows = reply["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 20_000);
    assert_eq!(
        (&rows[0]["values"][0], &rows[19_998]["values"][0], &rows[1]["values"][0]),
        (&json!(2), &json!(2), &json!(0))
    );
}

#[test]
fn a_stamp_given_back_gets_the_same_bytes() {
    let shop = shop();
    let first = shop.get("/v1/views/user_activity/42");
    let stamp = first.json();
    let stamp =
        format!("epoch={}&as_of={}", stamp["epoch"].as_str().expect("text"), stamp["as_of"].as_str().expect("text"));
    shop.commit(4, &[(42, "be", "view", Some(100), 3)]);
    shop.now(5);
    assert_ne!(shop.get("/v1/views/user_activity/42").body, first.body);
    assert_eq!(shop.get(&format!("/v1/views/user_activity/42?{stamp}")).body, first.body);
    assert_eq!(shop.get(&format!("/v1/views/user_activity/42?{}", stamp.replace('Z', "+00:00"))).body, first.body);
    let check = |query: &str, epoch: i64, as_of: i64, spend: &str| {
        let got = shop.get(&format!("/v1/views/user_activity/42?{query}")).json();
        assert_eq!(
            (&got["epoch"], &got["as_of"]),
            (&json!(format_instant(epoch)), &json!(format_instant(as_of))),
            "{query}"
        );
        assert_eq!(got["features"]["spend"], json!(spend), "{query}");
    };
    check("epoch=2026-11-20T21:00:01Z", at(1), at(1), "12.50");
    check("as_of=2026-11-20T21:00:03Z", at(2), at(3), "13.00");
    check("epoch=2026-11-20T21:00:01Z&as_of=2026-11-20T21:00:05Z", at(1), at(5), "12.50");
    check("epoch=2026-11-20T21:00:02Z&as_of=2026-11-20T21:00:01Z", at(2), at(1), "12.50");
    check("epoch=2026-11-20T21:00:02Z&as_of=2026-11-20T21:01:00Z", at(2), at(60), "13.00");
    let body =
        json!({ "features": ["user_activity:spend"], "entities": { "user_id": [42] }, "epoch": format_instant(at(1)) });
    assert_eq!(shop.post("/v1/features", &body.to_string()).json()["rows"][0]["values"], json!(["12.50"]));
    // An event of half a minute from now: who asks about then sees it, and who asks about now still does not.
    shop.commit(6, &[(42, "be", "cart", Some(1000), 36)]);
    shop.now(7);
    for _ in 0..2 {
        check("epoch=2026-11-20T21:00:06Z&as_of=2026-11-20T21:01:00Z", at(6), at(60), "24.00");
        check("", at(6), at(7), "14.00");
    }
}

#[test]
fn a_batch_takes_its_contract_from_query_and_body() {
    let shop = shop();
    let check = |query: &str, more: Value, status: u16, want: &str| {
        let mut body = json!({ "features": ["user_activity:spend"], "entities": { "user_id": [42] } });
        more.as_object().expect("an object").iter().for_each(|(name, value)| body[name] = value.clone());
        let reply = shop.post(&format!("/v1/features?{query}"), &body.to_string());
        assert_eq!(reply.status, status, "{query} {body}: {}", reply.body);
        assert!(reply.body.contains(want), "{query} {body}: {}", reply.body);
    };
    let first = json!({ "epoch": "2026-11-20T21:00:01.000000Z" });
    check("", json!({}), 200, r#"["13.00"]"#);
    check("epoch=2026-11-20T21:00:01Z", json!({}), 200, r#"["12.50"]"#);
    check("as_of=2026-11-20T21:00:01.5Z", json!({}), 200, r#"["12.50"]"#);
    // The same instant, however it is written.
    check("epoch=2026-11-20T22:00:01%2B01:00", first.clone(), 200, r#"["12.50"]"#);
    check("as_of=2026-11-20T21:00:02Z", first.clone(), 200, r#""as_of":"2026-11-20T21:00:02.000000Z""#);
    check("epoch=2026-11-20T21:00:02Z", first, 400, "epoch is one thing in the query and another in the body");
    check("min_offset=clicks/0/4", json!({}), 409, r#""next_offset":4"#);
    check("min_offset=clicks/0/3", json!({ "min_offset": ["clicks/0/3"] }), 200, r#"["13.00"]"#);
    check("min_offset=clicks/0/3", json!({ "min_offset": "clicks/0/2" }), 400, "min_offset is one thing");
    check("max_staleness=999%20ms", json!({}), 409, "1.000000 s old");
    check("max_staleness=1%20s", json!({ "max_staleness": "1000 ms", "wait": "1 ms" }), 200, r#"["13.00"]"#);
    check("wait=0%20s", json!({ "wait": "1 ms" }), 400, "wait is one thing");
    check("wait=soon", json!({}), 400, "`soon` is not a value of wait");
    check("min_offset=shop.clicks/-1/4", json!({}), 400, "`-1` is not a partition");
    check("min_offset=shop.clicks/0/-4", json!({}), 400, "`-4` is not an offset");
    check("wait=0&max_staleness=1%20s", json!({}), 200, r#"["13.00"]"#);
    check("wait=1%20s&wait=2%20s", json!({}), 400, "`2 s` is not a value of wait: there is another one before it");
    check("asof=2026-11-20T21:00:01Z", json!({}), 400, "did you mean `as_of`?");
    check("features=user_activity:spend", json!({}), 400, "there is no `features`");
}

#[test]
fn every_problem_says_what_to_do() {
    let shop = shop();
    let check = |method: &str, path: &str, body: &str, status: u16, detail: &str| {
        let reply = shop.send(method, path, body.as_bytes());
        assert_eq!(reply.status, status, "{method} {path} {body}: {}", reply.body);
        assert_eq!(reply.headers["content-type"], "application/problem+json", "{path}");
        let json = reply.json();
        assert!(json["detail"].as_str().expect("a detail").contains(detail), "{path} {body}: {json}");
        assert_eq!((&json["status"], json["instance"].as_str()), (&json!(status), path.split('?').next()), "{json}");
    };
    let get = |path: &str, status: u16, detail: &str| check("GET", path, "", status, detail);
    get("/v1/view", 404, "nothing at /v1/view");
    get("/v1/views/nope", 404, "there is no view `nope`");
    get("/v1/views/nope/42", 404, "there is no view `nope`");
    get("/v1/views/user_activity/42?features=view_1h", 404, "has no feature `view_1h`");
    get("/v1/views/user_activity/42?features=", 400, "leave it out");
    get("/v1/views/user_activity/x", 400, "`x` is not a value of entity column `user_id`, which is BIGINT");
    get("/v1/views/by_place/be", 400, "has 1 parts");
    get("/v1/views/by_place/%22be,42", 400, "does not end with one");
    get("/v1/views/user_activity/%FF", 400, "UTF-8");
    get("/v1/views/%FF", 400, "UTF-8");
    get("/v1/views/user_activity/42?asof=2026-11-20", 400, "did you mean `as_of`?");
    get("/v1/views/user_activity/42?as_of=yesterday", 400, "write RFC 3339");
    get("/v1/views/user_activity/42?as_of=2026-11-20T21:00:03.000001Z", 400, "later than now");
    get("/v1/views/user_activity/42?epoch=2026-11-20T21:00:02.000001Z", 409, "is not committed yet");
    get("/v1/views/user_activity/42?max_staleness=soon", 400, "write a duration");
    get("/v1/views/user_activity/42?wait=2%20minutes", 400, "at most 1 minute");
    get("/v1/views/user_activity/42?min_offset=shop.clicks", 400, "topic/partition/offset");
    get("/v1/views/user_activity/42?min_offset=clix/0/1", 400, "there are `shop.clicks`");
    check("POST", "/v1/views", "", 405, "takes GET");
    check("DELETE", "/v1/features", "", 405, "takes POST");
    let post = |body: &str, status: u16, detail: &str| check("POST", "/v1/features", body, status, detail);
    post("", 400, "not JSON");
    post("{\"features\": [", 400, "line 1");
    post("[]", 400, "write an object");
    post("{}", 400, "write features");
    post(r#"{"features": "a:b", "entities": {}}"#, 400, "write an array");
    post(r#"{"features": ["spend"], "entities": {}}"#, 400, "features is \"spend\"; write an array of");
    post(r#"{"features": [1], "entities": {}}"#, 400, "features is 1;");
    post(r#"{"features": [], "entities": {}}"#, 400, "features is [];");
    post(r#"{"features": ["a:b"], "service": "home", "entities": {}}"#, 400, "exclude each other");
    post(r#"{"features": ["nope:b"], "entities": {}}"#, 404, "there is no view `nope`");
    post(r#"{"features": ["places:b"], "entities": {}}"#, 404, "has no feature `b`");
    post(r#"{"service": "hom", "entities": {}}"#, 404, "there are `home`");
    post(r#"{"feature": ["places:*"], "entities": {}}"#, 400, "did you mean `features`?");
    post(r#"{"features": ["places:*"]}"#, 400, "entities is missing");
    post(r#"{"features": ["places:*"], "entities": [1]}"#, 400, "entities is [1]; write an object");
    post(r#"{"features": ["places:*"], "entities": {"place": "be"}}"#, 400, "entities.place is \"be\"; write an array");
    post(r#"{"features": ["places:*"], "entities": {"plac": ["be"]}}"#, 400, "is it `plac`?");
    post(r#"{"features": ["by_place:*"], "entities": {"place": ["be"], "user_id": []}}"#, 400, "has 1 values and");
    post(
        r#"{"features": ["user_activity:*"], "entities": {"user_id": ["x"]}}"#,
        400,
        "`x` is not a value of entity column `user_id`, which is BIGINT",
    );
    post(
        r#"{"features": ["user_activity:*"], "entities": {"user_id": [[1]]}}"#,
        400,
        "`[1]` is not a value of entity column `user_id`, which is BIGINT",
    );
    post(
        r#"{"features": ["user_activity:*"], "entities": {"user_id": [1]}, "wait": 5}"#,
        400,
        "wait is 5; write a string",
    );
    let epoch = r#"{"features": ["user_activity:*"], "entities": {"user_id": [1]}, "epoch": "2027-01-01"}"#;
    post(epoch, 409, "is not committed yet");
    let method = shop.send("PUT", "/v1/features", b"");
    assert_eq!(method.headers["allow"], "POST");
}

#[test]
fn an_epoch_that_never_was_is_gone() {
    let shop = shop();
    let reply = shop.get("/v1/views/user_activity/42?epoch=1969-12-31T23:59:59Z");
    assert_eq!(
        (reply.status, reply.json()["detail"].as_str().map(|d| d.contains("not before 1970"))),
        (400, Some(true))
    );
    let get = |query: &str| shop.get(&format!("/v1/views/user_activity/42?{query}"));
    for between in ["epoch=2026-11-20T21:00:01.5Z", "epoch=2026-11-20T21:00:00Z&as_of=2026-11-20T21:00:03Z"] {
        let reply = get(between);
        assert_eq!(
            (reply.status, reply.json()["type"].as_str()),
            (410, Some("urn:headwater:problem:gone")),
            "{between}"
        );
        assert_eq!(get(&format!("{between}&min_offset=clicks/0/99")).status, 410, "{between}");
    }
    let before = get("epoch=1970-01-01T00:00:00Z").json();
    assert_eq!((before["status"].as_str(), &before["epoch"]), (Some("absent"), &json!(format_instant(0))));
}

#[test]
fn too_large_a_body_is_refused() {
    let shop = shop();
    let limit = shop.state.body_limit;
    let reply = shop.send("POST", "/v1/features", &vec![b' '; limit + 1]);
    assert_eq!((reply.status, reply.json()["status"].as_u64()), (413, Some(413)));
    let reply = shop.send("POST", "/v1/features", &vec![b' '; limit]);
    assert_eq!(reply.status, 400);
}

#[test]
fn nothing_is_served_before_it_is_ready() {
    let shop = shop();
    shop.state.set_ready(false);
    for path in ["/ready", "/v1/views/user_activity/42"] {
        let reply = shop.get(path);
        assert_eq!((reply.status, reply.headers["retry-after"].as_str()), (503, "1"), "{path}");
        assert_eq!(reply.headers["content-type"], "application/problem+json");
    }
    let body = json!({ "features": ["user_activity:*"], "entities": { "user_id": [42] } }).to_string();
    assert_eq!(shop.post("/v1/features", &body).status, 503);
    assert_eq!((shop.get("/health").status, shop.get("/v1/views").status), (200, 200));
    assert!(shop.get("/metrics").body.contains("\nheadwater_ready 0\n"));
    shop.state.set_ready(true);
    assert_eq!((shop.get("/ready").status, shop.post("/v1/features", &body).status), (200, 200));
}

#[test]
fn a_contract_is_met_waited_for_or_refused() {
    let shop = shop();
    let path = |query: &str| format!("/v1/views/user_activity/42?features=spend&{query}");
    let check = |query: &str, status: u16, detail: &str| {
        let reply = shop.get(&path(query));
        assert_eq!(reply.status, status, "{query}: {}", reply.body);
        assert!(reply.body.contains(detail), "{query}: {}", reply.body);
    };
    check("min_offset=shop.clicks/0/3", 200, "13.00");
    check("min_offset=clicks/0/3", 200, "13.00");
    check("min_offset=shop.clicks/0/4", 409, r#""available":{"epoch":"2026-11-20T21:00:02.000000Z","next_offset":4}"#);
    check("min_offset=shop.clicks/0/3&epoch=2026-11-20T21:00:01Z", 409, r#""next_offset":3"#);
    check("min_offset=shop.clicks/0/2&as_of=2026-11-20T21:00:01.5Z", 200, "12.50");
    check("min_offset=shop.clicks/1/0", 409, r#""next_offset":0"#);
    check("max_staleness=1%20second", 200, "13.00");
    check("max_staleness=999+ms", 409, "1.000000 s old");
    // Nothing came in, and all that came is reflected: an idle node is not a stale one.
    shop.state.metrics.set_complete(at(3));
    check("max_staleness=999%20ms", 200, "13.00");
    let start = Instant::now();
    check("min_offset=shop.clicks/0/4&wait=50%20ms", 409, "is not committed");
    assert!(start.elapsed() >= Duration::from_millis(50));
    let waits = |query: &str, seconds: i64| {
        std::thread::scope(|s| {
            let reply = s.spawn(|| shop.get(&path(query)));
            // It is in line: what it asks for is not there, and nobody has been told that it does not come.
            while shop.state.waiting.count() == 0 {
                assert!(!reply.is_finished(), "{query}: {:?}", reply.join());
                std::thread::sleep(Duration::from_millis(1));
            }
            shop.commit(seconds, &[(42, "be", "cart", Some(100), 2)]);
            shop.now(seconds);
            reply.join().expect("an answer")
        })
    };
    let reply = waits("min_offset=shop.clicks/0/4&wait=10%20seconds", 4);
    assert_eq!((reply.status, &reply.json()["features"]["spend"]), (200, &json!("14.00")));
    let reply = waits("epoch=2026-11-20T21:00:05Z&wait=10%20seconds", 5);
    assert_eq!((reply.status, &reply.json()["features"]["spend"]), (200, &json!("15.00")));
    assert!(shop.get("/metrics").body.contains("headwater_serve_wait_seconds_count{"));
}

#[test]
fn what_is_named_twice_comes_once() {
    let shop = shop();
    let features = ["user_activity:spend", "user_activity:*", "user_activity:spend", "user_activity:*"];
    let body = json!({ "features": features, "entities": { "user_id": [42] } }).to_string();
    let reply = shop.post("/v1/features", &body).json();
    let names = ["user_activity:spend", "user_activity:views_1h", "user_activity:last_kind"];
    assert_eq!(reply["names"], json!(names));
    assert_eq!(reply["rows"][0]["values"], json!(["13.00", 2, "view"]));
}

#[test]
fn a_request_of_too_many_values_is_refused_before_it_is_worked_on() {
    let shop = shop();
    let ask = |rows: usize| {
        let body = json!({ "features": ["user_activity:*"], "entities": { "user_id": vec![42; rows] } });
        shop.post("/v1/features", &body.to_string())
    };
    let reply = ask(super::request::MOST_VALUES / 3 + 1);
    assert_eq!(reply.status, 413, "{}", reply.body);
    assert!(reply.body.contains("1000002 values are asked for, and 1000000 is the most"), "{}", reply.body);
    // So many that they are not even parsed.
    let reply = ask(2 * super::request::MOST_VALUES + 2);
    assert_eq!((reply.status, reply.body.contains("1000000 is the most")), (413, true), "{}", reply.body);
    let reply = ask(10_000);
    assert_eq!(reply.json()["rows"].as_array().map(Vec::len), Some(10_000));
    assert_eq!(
        reply.json()["rows"][9_999],
        json!({ "status": { "user_activity": "present" }, "values": [2, "13.00", "view"] })
    );
}

#[test]
fn a_node_that_is_about_to_stop_says_so_and_answers() {
    let shop = shop();
    let ready = |path: &str| shop.get(path);
    assert_eq!(ready("/ready?verbose").json()["not_ready"], json!([]));
    let source = shop.state.metrics.source("clicks");
    source.reachable.set(0);
    let verbose = ready("/ready?verbose").json();
    assert_eq!(verbose["status"], "ready", "it serves what it has");
    assert_eq!(verbose["not_ready"], json!([{ "what": "source", "name": "clicks", "why": "it cannot be reached" }]));
    shop.state.set_ready(false);
    let reply = ready("/ready?verbose");
    assert_eq!((reply.status, reply.json()["not_ready"][0]["what"].as_str()), (503, Some("node")));
    assert_eq!(reply.json()["not_ready"][1]["name"], "clicks");
    shop.state.set_ready(true);
    let waiting = std::thread::scope(|s| {
        let waits = s.spawn(|| shop.get("/v1/views/user_activity/42?min_offset=shop.clicks/0/99&wait=1%20minute"));
        while shop.state.waiting.count() == 0 {
            assert!(!waits.is_finished());
            std::thread::sleep(Duration::from_millis(1));
        }
        shop.state.drain();
        waits.join().expect("an answer")
    });
    assert_eq!((waiting.status, waiting.body.contains("next_offset")), (409, true), "{}", waiting.body);
    let reply = ready("/ready");
    assert_eq!((reply.status, reply.headers["retry-after"].as_str()), (503, "1"));
    assert!(reply.body.contains("urn:headwater:problem:stopping"), "{}", reply.body);
    assert_eq!(shop.get("/v1/views/user_activity/42").status, 200);
    assert!(shop.get("/metrics").body.contains("\nheadwater_ready 0\n"));
}

#[test]
fn views_are_described() {
    let shop = shop();
    let views = shop.get("/v1/views").json();
    let names: Vec<&str> =
        views["views"].as_array().expect("views").iter().filter_map(|v| v["name"].as_str()).collect();
    assert_eq!(names, ["by_place", "places", "user_activity"]);
    let want = concat!(
        r#"{"name":"user_activity","version":1,"entity":[{"name":"user_id","type":"BIGINT"}],"#,
        r#""features":[{"name":"views_1h","type":"BIGINT"},{"name":"spend","type":"DECIMAL(22, 2)"},"#,
        r#"{"name":"last_kind","type":"TEXT"}],"freshness":"1 second","stream":"clicks","tables":[]}"#,
    );
    assert_eq!(shop.get("/v1/views/user_activity").body, want);
    let index = shop.get("/");
    assert!(index.status == 200 && index.body.contains("/v1/features"));
}

#[test]
fn requests_are_counted_by_route_view_and_code() {
    let shop = shop();
    shop.get("/v1/views/user_activity/42");
    shop.get("/v1/views/user_activity/1");
    shop.get("/v1/views/user_activity/x");
    shop.get("/nowhere");
    let text = shop.get("/metrics").body;
    let check = |line: &str| assert!(text.contains(&format!("\nheadwater_{line}\n")), "{line}\n{text}");
    let route = r#"endpoint="/v1/views/{view}/{*key}""#;
    check(&format!(r#"serve_requests_total{{{route},view="user_activity",method="GET",code="200"}} 2"#));
    check(&format!(r#"serve_requests_total{{{route},method="GET",code="400"}} 1"#));
    check(r#"serve_requests_total{endpoint="other",method="GET",code="404"} 1"#);
    check(&format!(r#"serve_values_total{{{route},view="user_activity",method="GET",outcome="present"}} 3"#));
    check(&format!(r#"serve_values_total{{{route},view="user_activity",method="GET",outcome="absent_key"}} 3"#));
    check(&format!(r#"serve_request_seconds_count{{{route},view="user_activity",method="GET"}} 2"#));
}

#[test]
fn http2_is_spoken_without_an_upgrade() {
    let shop = shop();
    // The client's preface and an empty SETTINGS frame; the server's first frame is its SETTINGS (type 4, stream 0).
    let reply = shop.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00");
    assert!(reply.len() >= 9 && reply[3] == 4 && reply[5..9] == [0; 4], "{reply:?}");
}
