//! Real files: plain, packed, broken, with line ends of all kinds.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::super::testing::{Dir, file, lines, source};
use super::*;

fn jsonl(path: &str) -> Arc<Source> {
    Arc::new(source("s", file(path, Format::Json)).with(&["x BIGINT"]).event(None).key(&[0]))
}

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(text.as_bytes()).expect("packed");
    encoder.finish().expect("packed")
}

/// Reads all, two records at a time: rows as `offset x`, refused as `offset!`.
fn read(dir: &Dir, source: &Arc<Source>, from: i64) -> Result<Vec<String>, FileError> {
    let mut reader = FileReader::open(&dir.path(), source, from)?;
    let mut got = vec![];
    while let Some(decoded) = reader.read(2, Some(Epoch(1)), false)? {
        got.extend(decoded.batch.map_or(vec![], |b| lines(&b, &["_offset", "x"])));
        got.extend(decoded.rejected.iter().map(|r| format!("{}!", r.offset)));
    }
    Ok(got)
}

#[test]
fn records_have_the_same_numbers_however_packed() {
    let dir = Dir::new();
    let text = "\u{feff}{\"x\":1}\n\n  \n{\"x\":2}\r\nnonsense\n{\"x\":4}";
    dir.write("a.jsonl", text);
    let (first, second) = text.split_at(14);
    dir.write("a.jsonl.gz", [gz(first), gz(second)].concat());
    dir.write("a.jsonl.zst", zstd::encode_all(text.as_bytes(), 1).expect("packed"));
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
        let check = |from: i64, want: &[&str]| {
            assert_eq!(read(&dir, &jsonl(name), from).expect("readable"), want, "{name} from {from}");
        };
        check(0, &["0 1", "1 2", "3 4", "2!"]);
        check(1, &["1 2", "2!", "3 4"]);
        check(3, &["3 4"]);
        check(9, &[]);
    }
    let mut reader = FileReader::open(&dir.path(), &jsonl("a.jsonl"), 9).expect("opened");
    assert!(reader.read(1, None, false).expect("readable").is_none());
    assert_eq!(reader.position(), 4);
}

#[test]
fn csv_records_may_span_lines() {
    let dir = Dir::new();
    dir.write("a.csv", "\u{feff}x,y\r\n1,\"a\r\nb\"\r\n\r\n2,5\" pipe\r\n3,\"\"\r\nx,\n4,\"open\n5,\n");
    let csv = source("s", file("a.csv", Format::Csv)).with(&["x BIGINT", "y TEXT"]).event(None).key(&[0]);
    let mut reader = FileReader::open(&dir.path(), &Arc::new(csv), 0).expect("opened");
    let decoded = reader.read(100, Some(Epoch(1)), false).expect("readable").expect("records");
    let rows = lines(&decoded.batch.expect("rows"), &["_offset", "x", "y"]);
    assert_eq!(rows, ["0 1 a\r\nb", "1 2 5\" pipe", "2 3 "]);
    let reasons: Vec<_> = decoded.rejected.iter().map(|r| (r.offset, r.reason.as_str())).collect();
    assert_eq!(
        reasons,
        [(3, "decode: column 'x': expected BIGINT, found \"x\""), (4, "decode: a quoted field is not closed"),]
    );
}

/// Its beginning is what the quarantine gets, and the next record has the next number.
#[test]
fn of_a_record_that_is_too_long_only_the_beginning_is_held() {
    let dir = Dir::new();
    let long = vec![b'x'; RECORD_BYTES_MAX + (40 << 20)];
    let packed = |parts: [&[u8]; 3]| zstd::encode_all(&*parts.concat(), 1).expect("packed");
    dir.write("a.jsonl.zst", packed([b"{\"x\":1}\n", &long, b"\n{\"x\":2}\n"]));
    let mut reader = FileReader::open(&dir.path(), &jsonl("a.jsonl.zst"), 0).expect("opened");
    let decoded = reader.read(2, Some(Epoch(1)), false).expect("readable").expect("records");
    let refused = &decoded.rejected[0];
    assert_eq!((refused.offset, refused.bytes.len()), (1, LINES_BYTES_MAX + 1));
    assert_eq!(refused.reason, "decode: the record has more than 268435456 bytes");
    assert!(reader.line.capacity() < 2 * RECORD_BYTES_MAX + 100, "{}", reader.line.capacity());
    let decoded = reader.read(2, Some(Epoch(1)), false).expect("readable").expect("a record");
    assert_eq!(lines(&decoded.batch.expect("a row"), &["_offset", "x"]), ["2 2"]);
    assert!(reader.read(2, Some(Epoch(1)), false).expect("readable").is_none());
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
    let dir = Dir::new();
    let check = |name: &str, want: &str| {
        let error = read(&dir, &jsonl(name), 0).expect_err("not readable").to_string();
        assert!(error.starts_with(want) && error.contains(name), "{error}");
    };
    check("missing.jsonl", "cannot open '");
    check(".", "cannot open '");
    let numbers = (0..50_000).map(|i| format!("{{\"x\":{i}}}\n")).collect::<String>();
    let packed = gz(&numbers);
    dir.write("cut.jsonl.gz", &packed[..packed.len() / 2]);
    check("cut.jsonl.gz", "cannot read '");
    dir.write("nonsense.jsonl.gz", "this is not gzip");
    check("nonsense.jsonl.gz", "cannot open '");
    dir.write("nothing.jsonl.gz", "");
    for name in ["nonsense.jsonl.gz", "nothing.jsonl.gz"] {
        let error = read(&dir, &jsonl(name), 0).expect_err("not readable");
        assert!(crate::diagnostic::spoken(&error).ends_with("it is not gzip"), "{error}");
    }
    let mut damaged = zstd::encode_all(numbers.as_bytes(), 1).expect("packed");
    let middle = damaged.len() / 2;
    damaged.truncate(middle);
    dir.write("cut.jsonl.zst", &damaged);
    check("cut.jsonl.zst", "cannot read '");
    dir.write("empty.jsonl", "");
    assert_eq!(read(&dir, &jsonl("empty.jsonl"), 0).expect("readable"), Vec::<String>::new());
}
