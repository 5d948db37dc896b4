//! What each kind of value, record and key decodes to, or why it is refused.

use apache_avro::types::Value as Avro;
use num_bigint::BigInt;

use super::super::testing::{DAY, file, kafka, lines, source};
use super::*;

/// Decodes one JSON record of a column `x`: its text, or the reason without its class.
fn check_value(data_type: &str, json: &str, want: Result<&str, &str>) {
    let source = source("s", kafka("t")).with(&[&format!("x {data_type}")]).event(Some("_timestamp"));
    let mut decoder = Decoder::new(&Arc::new(source)).expect("a decoder");
    decoder.push(0, 7, Some(5), None, Some(format!("{{\"y\":[{{}}],\"x\":{json}}}").as_bytes()));
    let decoded = decoder.finish(Some(Epoch(9)), true);
    let got = match decoded.batch {
        Some(batch) => Ok(lines(&batch, &["x"]).remove(0)),
        None => Err(decoded.rejected[0].reason.clone()),
    };
    let want = want.map_err(|why| format!("decode: column 'x': {why}"));
    assert_eq!(got.as_deref().map_err(Clone::clone), want, "{data_type} from {json}");
}

#[test]
fn integers() {
    check_value("BIGINT", "10", Ok("10"));
    check_value("BIGINT", "10.0", Ok("10"));
    check_value("BIGINT", "1e3", Ok("1000"));
    check_value("BIGINT", "-9223372036854775808", Ok("-9223372036854775808"));
    check_value("BIGINT", "null", Ok("-"));
    check_value("BIGINT", "9223372036854775808", Err("9223372036854775808 is out of the range of BIGINT"));
    check_value("BIGINT", "10.5", Err("10.5 has digits that BIGINT cannot hold"));
    check_value("BIGINT", "\"10\"", Err("expected BIGINT, found the text \"10\""));
    check_value("BIGINT", "true", Err("expected BIGINT, found true"));
    check_value("BIGINT", "{\"a\":1}", Err("expected BIGINT, found an object"));
    check_value("BIGINT", "[1]", Err("expected BIGINT, found an array"));
    check_value("INT", "2147483647", Ok("2147483647"));
    check_value("INT", "2147483648", Err("2147483648 is out of the range of INT"));
}

#[test]
fn decimals_and_doubles() {
    check_value("DECIMAL", "12.50", Ok("12.50"));
    check_value("DECIMAL", "12.500", Ok("12.50"));
    check_value("DECIMAL", "\"12.5\"", Ok("12.50"));
    check_value("DECIMAL", "12.505", Err("12.505 has digits that DECIMAL(10, 2) cannot hold"));
    check_value("DECIMAL", "100000000", Err("100000000 is out of the range of DECIMAL(10, 2)"));
    check_value("DECIMAL", "\"x\"", Err("expected DECIMAL(10, 2), found \"x\""));
    check_value("DOUBLE", "0.1", Ok("0.1"));
    check_value("DOUBLE", "10", Ok("10.0"));
    check_value("DOUBLE", "\"NaN\"", Ok("NaN"));
    check_value("DOUBLE", "\"-Infinity\"", Ok("-inf"));
    check_value("DOUBLE", "1e400", Err("1e400 is out of the range of DOUBLE"));
    check_value("DOUBLE", "\"1.5\"", Err("expected DOUBLE, found the text \"1.5\""));
}

#[test]
fn text_times_and_arrays() {
    check_value("TEXT", "\"é\"", Ok("é"));
    check_value("TEXT", r#""a\"\u00e9\ud83d\ude00""#, Ok("a\"é😀"));
    check_value("TEXT", r#""\ud83d""#, Err(r#""\ud83d" is not Unicode"#));
    check_value("TEXT", "1", Err("expected TEXT, found the number 1"));
    check_value("BOOLEAN", "true", Ok("true"));
    check_value("BOOLEAN", "1", Err("expected BOOLEAN, found the number 1"));
    check_value("TIMESTAMP", "\"2024-05-01T12:00:00.5+02:00\"", Ok("2024-05-01T10:00:00.500"));
    let zone = "say its zone, as in 2026-11-20T21:00:00Z or 2026-11-20 22:00:00+01:00";
    let format = "write RFC 3339 with a zone, as in 2026-11-20T21:00:00.123456Z";
    for (text, help) in [
        ("2024-05-01", format),
        ("2024-05-01T12:00:00", zone),
        ("2026-11-22 06:00:00", zone),
        ("2024-05-01T12:00:00Z ", format),
        ("yesterday", format),
    ] {
        let why = format!("expected TIMESTAMP, found the text {text:?}; {help}");
        check_value("TIMESTAMP", &format!("{text:?}"), Err(&why));
    }
    for (number, unit, function) in [
        ("1714564800", "seconds", "to_timestamp_seconds"),
        ("1714564800123", "milliseconds", "to_timestamp_millis"),
        ("1714564800123456", "microseconds", "to_timestamp_micros"),
    ] {
        let why = format!(
            "{number} is a number, and TIMESTAMP takes RFC 3339 text; if it counts {unit}, declare the column BIGINT and write \
             EVENT TIME {function}(column)"
        );
        check_value("TIMESTAMP", number, Err(&why));
    }
    // There is one zero.
    check_value("DOUBLE", "-0.0", Ok("0.0"));
    check_value("DOUBLE[]", "[-0, -1e-400]", Ok("[0.0, 0.0]"));
    check_value("DATE", "\"2024-02-29\"", Ok("2024-02-29"));
    check_value("DATE", "\"2023-02-29\"", Err("expected DATE, found the text \"2023-02-29\"; write YYYY-MM-DD"));
    check_value("BIGINT[]", "[1, null, 3e0]", Ok("[1, -, 3]"));
    check_value("BIGINT[]", "[]", Ok("[]"));
    check_value("TEXT[]", r#"["a","b\n"]"#, Ok("[a, b\n]"));
    check_value("BIGINT[]", "[1, 2.5]", Err("2.5 has digits that BIGINT cannot hold"));
    check_value("BIGINT[]", "1", Err("expected BIGINT[], found the number 1"));
}

/// Rows and refusals of several records, under epoch 1000 seconds.
fn check(source: Source, records: &[(Option<i64>, Option<&str>, Option<&str>)], columns: &[&str], want: &[&str]) {
    let mut decoder = Decoder::new(&Arc::new(source)).expect("a decoder");
    for (offset, (timestamp, key, payload)) in (0..).zip(records) {
        decoder.push(3, offset, *timestamp, key.map(str::as_bytes), payload.map(str::as_bytes));
    }
    let decoded = decoder.finish(Some(Epoch(1_000_000_000)), true);
    let mut got = decoded.batch.as_ref().map_or(vec![], |batch| lines(batch, columns));
    assert_eq!(got.len(), decoded.record_times.len());
    assert_eq!(decoded.rejected.len(), decoded.rejected_times.len());
    for r in &decoded.rejected {
        assert_eq!((r.epoch, r.partition, r.source.as_str()), (1_000_000_000, 3, "s"));
        let record = records[usize::try_from(r.offset).expect("an index")];
        assert_eq!(r.bytes, record.2.unwrap_or_default().as_bytes(), "the bytes as they came");
        assert_eq!(r.key.as_deref(), record.1.map(str::as_bytes), "the key as it came");
        got.push(format!("{}: {}", r.offset, r.reason));
    }
    assert_eq!(got, want);
    assert!(decoder.finish(None, true).batch.is_none(), "nothing is handed over twice");
}

#[test]
fn records_stand_or_are_refused_whole() {
    let clicks = source("s", kafka("t")).with(&["id BIGINT !", "tags TEXT[]", "kind TEXT", "ts TIMESTAMP"]);
    let clicks = clicks.check("kind IN ('a', 'b')");
    let t = "1970-01-01T00:00:01Z";
    let record = |rest: &str| format!("{{\"ts\":\"{t}\",{rest}}}");
    let (good, twice) = (record("\"id\":1,\"kind\":\"a\""), record("\"id\":\"x\",\"id\":2,\"kind\":null,\"more\":{}"));
    let (misfit, no_id) = (record("\"id\":3,\"tags\":[\"a\",1]"), record("\"kind\":\"a\""));
    let (odd, last) = (record("\"id\":5,\"kind\":\"c\""), record("\"id\":6,\"tags\":[\"z\"]"));
    let late = "{\"id\":7,\"ts\":\"1970-01-02T00:16:40.000001Z\"}";
    let records: Vec<_> = [&good, &twice, &misfit, &no_id, &odd, "{\"id\":8}", "[1]", &last, "\u{7f}", late]
        .iter()
        .map(|r| (None, Some("k"), Some(*r)))
        .chain([(Some(5), None, None)])
        .collect();
    check(
        clicks,
        &records,
        &["_offset", "id", "tags", "kind", "_event_time", "_arrival_time"],
        &[
            "0 1 - a 1970-01-01T00:00:01 1970-01-01T00:16:40",
            "1 2 - - 1970-01-01T00:00:01 1970-01-01T00:16:40",
            "7 6 [z] - 1970-01-01T00:00:01 1970-01-01T00:16:40",
            "2: decode: column 'tags': expected TEXT, found the number 1",
            "3: not_null: column 'id' is null",
            "4: check: kind IN ('a', 'b')",
            "5: event_time: there is none",
            "6: decode: not a JSON object",
            "8: decode: not a JSON object",
            "9: future: event time 1970-01-02T00:16:40.000001Z is more than 86400 seconds after its arrival, \
         1970-01-01T00:16:40.000000Z",
            "10: null_payload: only a table's record may be without a payload",
        ],
    );
}

/// Most often it is a number of nanoseconds that was taken for one of microseconds.
#[test]
fn what_no_calendar_says_is_no_event_time() {
    let s = source("s", kafka("t")).with(&["us BIGINT"]).event(Some("to_timestamp_micros(us)"));
    let records = ["{\"us\":9223372036854775807}", "{\"us\":-9223372036854775808}", "{\"us\":-62000000000000000}"];
    check(
        s,
        &records.map(|r| (Some(5), None, Some(r))),
        &["_offset", "_event_time"],
        &[
            "2 0005-04-19T09:46:40",
            "0: event_time: 9223372036854775807 microseconds since 1970 are beyond the calendar: it is perhaps of \
         another unit",
            "1: event_time: -9223372036854775808 microseconds since 1970 are beyond the calendar: it is perhaps of \
         another unit",
        ],
    );
}

#[test]
fn what_no_calendar_says_is_no_arrival_time() {
    let s = source("s", kafka("t")).with(&["us BIGINT"]).event(Some("_timestamp"));
    check(
        s.arrival("to_timestamp_micros(us)"),
        &[(Some(5), None, Some("{\"us\":9223372036854775807}"))],
        &["_offset"],
        &["0: arrival_time: 9223372036854775807 microseconds since 1970 are beyond the calendar: it is perhaps of \
         another unit"],
    );
}

#[test]
fn only_rows_that_fail_an_expression_are_refused() {
    let s = source("s", kafka("t")).with(&["a BIGINT", "b BIGINT"]).event(Some("to_timestamp_millis(a)"));
    let s = s.check("10 / b > 1");
    let records = ["{\"a\":1,\"b\":1}", "{\"a\":2,\"b\":0}", "{\"a\":3,\"b\":10}", "{\"a\":4}"];
    check(
        s,
        &records.map(|r| (Some(5), None, Some(r))),
        &["a", "_event_time", "_arrival_time", "_timestamp"],
        &[
            "1 1970-01-01T00:00:00.001 1970-01-01T00:00:00.000005 1970-01-01T00:00:00.000005",
            "4 1970-01-01T00:00:00.004 1970-01-01T00:00:00.000005 1970-01-01T00:00:00.000005",
            "1: check: 10 / b > 1: Arrow error: Divide by zero error",
            "2: check: 10 / b > 1",
        ],
    );
}

#[test]
fn tombstones() {
    let items = || source("s", kafka("t")).with(&["id BIGINT !", "name TEXT !"]).event(Some("_timestamp")).key(&[0]);
    let t = Some(1_000_000);
    check(
        items().check("id > 0"),
        &[
            (t, Some("-5"), None),
            (t, Some("{\"id\":6}"), None),
            (t, Some("6.5"), None),
            (t, Some("null"), None),
            (t, None, None),
            (None, Some("7"), None),
            (t, Some("7"), Some("{\"id\":7,\"name\":\"x\"}")),
        ],
        &["id", "name", "_event_time", "_deleted"],
        &[
            "-5 - 1970-01-01T00:00:01 true",
            "6 - 1970-01-01T00:00:01 true",
            "7 x 1970-01-01T00:00:01 false",
            "2: key: column 'id': 6.5 has digits that BIGINT cannot hold",
            "3: key: column 'id': expected BIGINT, found \"null\"",
            "4: key: the record has neither a payload nor a key",
            "5: event_time: a record without a payload needs a timestamp",
        ],
    );
    let text = source("s", kafka("t")).with(&["id TEXT !"]).event(None).key(&[0]);
    let keys = ["a b", "\"a b\"", "12", "{\"id\":\"c\"}", "{}"];
    check(
        text,
        &keys.map(|k| (t, Some(k), None)),
        &["id", "_event_time", "_arrival_time"],
        &[
            "a b - 1970-01-01T00:00:01",
            "a b - 1970-01-01T00:00:01",
            "12 - 1970-01-01T00:00:01",
            "c - 1970-01-01T00:00:01",
            "{} - 1970-01-01T00:00:01",
        ],
    );
    let both = source("s", kafka("t")).with(&["x TEXT", "a INT !", "b TEXT !"]).event(None).key(&[1, 2]);
    let keys = ["{\"b\":\"u\",\"a\":1}", "{\"a\":1}", "1,u"];
    check(
        both,
        &keys.map(|k| (t, Some(k), None)),
        &["x", "a", "b"],
        &[
            "- 1 u",
            "1: key: column 'a': a composite key must be a JSON object, found \"{\\\"a\\\":1}\"",
            "2: key: column 'a': a composite key must be a JSON object, found \"1,u\"",
        ],
    );
}

#[test]
fn epochs_can_come_later() {
    let s = source("s", file("f", Format::Json)).with(&["ts TIMESTAMP", "at TIMESTAMP"]).arrival("at");
    let mut decoder = Decoder::new(&Arc::new(s)).expect("a decoder");
    decoder.push(0, 0, None, None, Some(br#"{"ts":"1970-01-01T00:00:01Z"}"#));
    decoder.push(0, 1, None, None, Some(br#"{"ts":"1970-01-01T00:00:01Z","at":"1970-01-01T00:00:03Z"}"#));
    decoder.push(0, 2, None, None, Some(br#"{"ts":"1970-01-09T00:00:01Z","at":"1970-01-01T00:00:03Z"}"#));
    let decoded = decoder.finish(None, true);
    let batch = with_epochs(&decoded.batch.expect("rows"), vec![7_000_000, 8_000_000]);
    assert_eq!(
        lines(&batch, &["_arrival_time", "_epoch"]),
        ["1970-01-01T00:00:07 1970-01-01T00:00:07", "1970-01-01T00:00:03 1970-01-01T00:00:08"]
    );
    assert!(decoded.rejected[0].reason.starts_with("future: "), "{}", decoded.rejected[0].reason);
}

#[test]
fn csv_tells_null_from_empty() {
    let s = source("s", file("f", Format::Csv)).event(None).key(&[0]);
    let s = s.with(&["a TEXT !", "b BIGINT", "c BOOLEAN", "d TEXT", "e BIGINT[]", "z DECIMAL"]);
    let mut decoder = Decoder::new(&Arc::new(s)).expect("a decoder");
    decoder.set_header(b"d,c,unknown,b,a,e").expect("a header");
    for (i, record) in
        (0..).zip(["\"\",TRUE,?,10.0,x,\"[1,2]\"", ",,,,\"\",", ",,,,,", "x,,,,x", ",,,1.5,x,", ",maybe,,,x,"])
    {
        decoder.push(0, i, None, None, Some(record.as_bytes()));
    }
    let decoded = decoder.finish(Some(Epoch(1)), true);
    assert_eq!(
        lines(&decoded.batch.expect("rows"), &["a", "b", "c", "d", "e", "z"]),
        ["x 10 true  [1, 2] -", " - - - - -"]
    );
    let reasons: Vec<_> = decoded.rejected.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "not_null: column 'a' is null",
            "decode: 5 fields where the header has 6",
            "decode: column 'b': 1.5 has digits that BIGINT cannot hold",
            "decode: column 'c': expected BOOLEAN, found \"maybe\""
        ]
    );
}

#[test]
fn avro_with_and_without_headers() {
    let schema = apache_avro::Schema::parse_str(
        r#"{"type":"record","name":"r","fields":[
            {"name":"id","type":"long"},
            {"name":"price","type":["null",{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}]},
            {"name":"ts","type":{"type":"long","logicalType":"timestamp-millis"}},
            {"name":"tags","type":{"type":"array","items":"string"}}]}"#,
    );
    let schema = Arc::new(schema.expect("a schema"));
    let connector = Connector::Kafka { topic: "t".into(), format: Format::Avro(Arc::clone(&schema)), brokers: None };
    let s = source("s", connector).with(&["price DECIMAL", "id INT !", "ts TIMESTAMP", "tags TEXT[]", "more TEXT"]);
    let mut decoder = Decoder::new(&Arc::new(s)).expect("a decoder");
    let datum = |id: i64, price: Option<i64>| {
        let price = match price {
            Some(p) => Avro::Union(1, Box::new(Avro::Decimal(BigInt::from(p).to_signed_bytes_be().into()))),
            None => Avro::Union(0, Box::new(Avro::Null)),
        };
        let fields = [
            ("id", Avro::Long(id)),
            ("price", price),
            ("ts", Avro::TimestampMillis(1_500)),
            ("tags", Avro::Array(vec![Avro::String("a".into())])),
        ];
        let record = Avro::Record(fields.map(|(n, v)| (n.to_string(), v)).to_vec());
        apache_avro::to_avro_datum(&schema, record).expect("a datum")
    };
    let behind = |header: &[u8], datum: Vec<u8>| [header, &datum].concat();
    let records = [
        datum(1, Some(-12_500)),
        behind(&[0, 0, 0, 0, 9], datum(2, None)),
        behind(&[0xC3, 1, 1, 2, 3, 4, 5, 6, 7, 8], datum(3, None)),
        datum(0, None),
        datum(4, Some(12_505)),
        datum(i64::MAX, None),
        behind(&datum(5, None), vec![0]),
        vec![2],
    ];
    for (offset, record) in (0..).zip(&records) {
        decoder.push(0, offset, Some(DAY), None, Some(record));
    }
    let decoded = decoder.finish(Some(Epoch(1)), true);
    let columns = ["id", "price", "ts", "tags", "more"];
    assert_eq!(
        lines(&decoded.batch.expect("rows"), &columns),
        [
            "1 -12.50 1970-01-01T00:00:01.500 [a] -",
            "2 - 1970-01-01T00:00:01.500 [a] -",
            "3 - 1970-01-01T00:00:01.500 [a] -",
            "0 - 1970-01-01T00:00:01.500 [a] -",
        ]
    );
    let reasons: Vec<_> = decoded.rejected.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(
        reasons[..3],
        [
            "decode: column 'price': 12505e-3 has digits that DECIMAL(10, 2) cannot hold",
            "decode: column 'id': 9223372036854775807 is out of the range of INT",
            "decode: 1 bytes are left after the Avro datum",
        ]
    );
    assert!(reasons[3].starts_with("decode: not Avro: "), "{}", reasons[3]);
    assert_eq!(reasons.len(), 4);
}

/// A decoder of Avro records, and what turns fields into a datum.
fn avro(fields: &str, columns: &[&str]) -> (Decoder, impl Fn(&[(&str, Avro)]) -> Vec<u8> + use<>) {
    let schema = format!(r#"{{"type":"record","name":"r","fields":[{fields}]}}"#);
    let schema = Arc::new(apache_avro::Schema::parse_str(&schema).expect("a schema"));
    let connector = Connector::Kafka { topic: "t".into(), format: Format::Avro(Arc::clone(&schema)), brokers: None };
    let s = source("s", connector).with(columns).event(Some("_timestamp"));
    let datum = move |fields: &[(&str, Avro)]| {
        let record = Avro::Record(fields.iter().map(|(n, v)| ((*n).to_string(), v.clone())).collect());
        apache_avro::to_avro_datum(&schema, record).expect("a datum")
    };
    (Decoder::new(&Arc::new(s)).expect("a decoder"), datum)
}

#[test]
fn avro_that_is_cut_off_is_refused() {
    let check = |last: &str, column: &str, value: Avro| {
        let fields = format!(r#"{{"name":"id","type":"long"}},{{"name":"last","type":{last}}}"#);
        let (mut decoder, datum) = avro(&fields, &["id BIGINT", column]);
        let whole = datum(&[("id", Avro::Long(300)), ("last", value)]);
        for header in [&[][..], &[0, 0, 0, 0, 9], &[0xC3, 1, 1, 2, 3, 4, 5, 6, 7, 8]] {
            let record = [header, &whole].concat();
            // Less than the header may be a whole datum without one: [0, 0] is an id of 0 and an empty text.
            for cut in header.len()..record.len() {
                decoder.push(0, 0, Some(5), None, Some(&record[..cut]));
                let decoded = decoder.finish(Some(Epoch(1)), true);
                let row = decoded.batch.map(|batch| lines(&batch, &["id", "last"]));
                assert_eq!(row, None, "{last} behind {header:?}, cut at {cut} of {}", record.len());
            }
            decoder.push(0, 0, Some(5), None, Some(&record));
            assert!(decoder.finish(Some(Epoch(1)), true).batch.is_some(), "{last}: it is read whole");
        }
    };
    let text = || Avro::String("abc".into());
    check(r#""string""#, "last TEXT", text());
    check(r#""boolean""#, "last BOOLEAN", Avro::Boolean(true));
    check(r#"["null","string"]"#, "last TEXT", Avro::Union(1, Box::new(text())));
    check(r#"["null","string"]"#, "last TEXT", Avro::Union(0, Box::new(Avro::Null)));
    check(r#"["null","boolean"]"#, "last BOOLEAN", Avro::Union(1, Box::new(Avro::Boolean(false))));
    check(r#"{"type":"array","items":"string"}"#, "last TEXT[]", Avro::Array(vec![text(), text()]));
}

/// With `id` 0 it begins like Confluent's header, behind which a record that is cut off would stand.
#[test]
fn a_bare_avro_datum_is_not_taken_for_one_behind_a_header() {
    let fields = r#"{"name":"id","type":"long"},{"name":"note","type":["null","string"]}"#;
    let (mut decoder, datum) = avro(fields, &["id BIGINT", "note TEXT"]);
    let note = Avro::Union(1, Box::new(Avro::String("abc".into())));
    decoder.push(0, 0, Some(5), None, Some(&datum(&[("id", Avro::Long(0)), ("note", note)])));
    let decoded = decoder.finish(Some(Epoch(1)), true);
    assert_eq!(lines(&decoded.batch.expect("a row"), &["id", "note"]), ["0 abc"]);
}

/// In time that does not grow with the square of their digits.
#[test]
fn avro_decimals_of_any_length_are_judged_by_their_size() {
    let fields = r#"{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}}"#;
    let check = |column: &str, bytes: Vec<u8>, want: Result<&str, &str>| {
        let (mut decoder, datum) = avro(fields, &[&format!("d {column}")]);
        decoder.push(0, 0, Some(5), None, Some(&datum(&[("d", Avro::Decimal(bytes.into()))])));
        let decoded = decoder.finish(Some(Epoch(1)), true);
        let got = match &decoded.batch {
            Some(batch) => Ok(lines(batch, &["d"]).remove(0)),
            None => Err(decoded.rejected[0].reason.clone()),
        };
        assert_eq!(got.as_deref().map_err(String::as_str), want);
    };
    let (ones, huge) = (vec![0xFF; 1 << 20], [vec![1], vec![0; 1 << 20]].concat());
    check("DECIMAL", ones, Ok("-0.01"));
    let why = |name| format!("decode: column 'd': a decimal of 8388609 bits is out of the range of {name}");
    check("DECIMAL", huge.clone(), Err(&why("DECIMAL(10, 2)")));
    check("DOUBLE", huge.clone(), Err(&why("DOUBLE")));
    check("BIGINT", huge, Err(&why("BIGINT")));
    let digits = |text: &str| text.parse::<BigInt>().expect("digits").to_signed_bytes_be();
    let hundred = digits(&format!("1{}", "0".repeat(100)));
    check("DOUBLE", hundred.clone(), Ok("1e98"));
    check(
        "DECIMAL",
        hundred.clone(),
        Err(&format!("decode: column 'd': 1{}… is out of the range of DECIMAL(10, 2)", "0".repeat(59))),
    );
}

/// Six bytes must not ask for gigabytes.
#[test]
fn an_avro_list_is_as_long_as_its_bytes_and_no_longer() {
    let fields = r#"{"name":"l","type":{"type":"array","items":"long"}}"#;
    for (said, why) in [(1_u64 << 28, "268435456"), (1 << 24, "cut off")] {
        let (mut decoder, _) = avro(fields, &["l BIGINT[]"]);
        // The count as Avro writes it, and no item.
        let mut payload = vec![];
        let mut zigzag = said * 2;
        while zigzag >= 128 {
            payload.push(u8::try_from(zigzag % 128 + 128).expect("a byte"));
            zigzag /= 128;
        }
        payload.push(u8::try_from(zigzag).expect("a byte"));
        decoder.push(0, 0, Some(5), None, Some(&payload));
        let decoded = decoder.finish(Some(Epoch(1)), true);
        assert!(decoded.rejected[0].reason.contains(why), "{}", decoded.rejected[0].reason);
    }
}

/// The quarantine gets records whole, so what is refused counts as what is taken does.
#[test]
fn refused_records_fill_a_batch_too() {
    let mut decoder = Decoder::new(&Arc::new(source("s", kafka("t")).with(&["x BIGINT"]).event(Some("_timestamp"))))
        .expect("a decoder");
    let malformed = vec![b'?'; 500_000];
    for round in 0..2 {
        let taken = (0..200).take_while(|_| {
            let room = !decoder.is_full();
            if room {
                decoder.push(0, 0, Some(5), None, Some(&malformed));
            }
            room
        });
        assert_eq!(taken.count(), 135, "64 MiB of them, in round {round}");
        assert_eq!(decoder.finish(Some(Epoch(1)), true).rejected.len(), 135);
    }
}

/// An item of it is one byte in the record, and its symbol's whole text in the column.
#[test]
fn a_column_that_outgrows_its_records_fills_a_batch() {
    let symbol = "x".repeat(1_000);
    let items = format!(r#"{{"type":"enum","name":"e","symbols":["{symbol}"]}}"#);
    let fields = format!(r#"{{"name":"a","type":{{"type":"array","items":{items}}}}}"#);
    let (mut decoder, datum) = avro(&fields, &["a TEXT[]"]);
    let record = datum(&[("a", Avro::Array(vec![Avro::Enum(0, symbol); 35_000]))]);
    let mut taken = 0;
    while !decoder.is_full() && taken < 10 {
        decoder.push(0, taken, Some(5), None, Some(&record));
        taken += 1;
    }
    assert_eq!((taken, record.len() < 40_000), (2, true));
    assert_eq!(decoder.finish(Some(Epoch(1)), true).batch.map(|b| b.num_rows()), Some(2));
    assert!(!decoder.is_full(), "the next batch begins empty");
}

#[test]
fn record_times_are_the_greatest_so_far() {
    let s = Arc::new(source("s", kafka("t")).with(&["x BIGINT"]).event(Some("_timestamp")));
    let mut decoder = Decoder::new(&s).expect("a decoder");
    for (partition, offset, timestamp, payload) in
        [(0, 0, 5, "{}"), (1, 0, 3, "{}"), (0, 1, 9, "?"), (0, 2, 4, "{}"), (1, 1, 2, "?")]
    {
        decoder.push(partition, offset, Some(timestamp), None, Some(payload.as_bytes()));
    }
    let decoded = decoder.finish(None, true);
    assert_eq!((decoded.record_times, decoded.rejected_times), (vec![5, 3, 9], vec![9, 3]));
}

/// `cargo test --release decode_speed -- --ignored --nocapture` for the figure; the sum keeps it honest.
#[test]
#[ignore = "a measurement"]
fn decode_speed() {
    let columns =
        ["user_id BIGINT !", "item_id BIGINT !", "kind TEXT !", "price DOUBLE", "ok BOOLEAN", "ts TIMESTAMP !"];
    let s = source("s", kafka("t")).with(&columns).check("kind IN ('view', 'cart', 'purchase')").check("price >= 0");
    let mut decoder = Decoder::new(&Arc::new(s)).expect("a decoder");
    let record = |i: i64| {
        format!(
            "{{\"user_id\":{},\"item_id\":{},\"kind\":\"view\",\"price\":{}.{:02},\"ok\":true,\
             \"ts\":\"2024-05-01T12:{:02}:{:02}.123456Z\"}}",
            i * 7919 % 100_000,
            i % 1_000,
            i % 300,
            i % 100,
            i / 60 % 60,
            i % 60
        )
    };
    let records: Vec<String> = (0..32_768).map(record).collect();
    let (mut rows, rounds) = (0, 40);
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        for (offset, record) in (0..).zip(&records) {
            decoder.push(0, offset, Some(1_714_564_800_000_000), None, Some(record.as_bytes()));
        }
        rows += decoder.finish(Some(Epoch(1)), true).batch.map_or(0, |b| b.num_rows());
    }
    let each = start.elapsed() / (32_768 * rounds);
    println!("{} bytes, {each:?} a record", records[0].len());
    assert_eq!(rows, 32_768 * 40);
}
