"""Arrow Flight with stock pyarrow against a running node: a training set over DoExchange, DoPut and DoGet."""

import json
import os
import queue
import signal
import subprocess
import threading

import pyarrow as pa
import pyarrow.flight as flight
import pytest

SQL = """
CREATE STREAM clicks (user_id BIGINT NOT NULL, kind TEXT, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM FILE (path = 'clicks.csv', format = 'csv');
CREATE FEATURE VIEW users AS
SELECT user_id, count(*) FILTER (WHERE ts > now() - INTERVAL '1 minute') AS n, last_value(kind ORDER BY ts) AS last
FROM clicks GROUP BY user_id;
CREATE FEATURE VIEW kinds AS SELECT kind, count(*) AS n FROM clicks GROUP BY kind;
CREATE FEATURE VIEW regulars AS
SELECT user_id, array_agg(kind ORDER BY ts DESC LIMIT 3) AS latest, top_k(DISTINCT kind, 5) AS kinds, count(*) AS n
FROM clicks GROUP BY user_id HAVING count(*) > 2;
CREATE FEATURE SERVICE ranker AS users;
CREATE STREAM orders (user_id BIGINT NOT NULL, ts TIMESTAMP NOT NULL, came TIMESTAMP NOT NULL)
EVENT TIME ts ARRIVAL TIME came FROM FILE (path = 'orders.csv', format = 'csv');
CREATE FEATURE VIEW ordering AS SELECT user_id, count(*) AS orders FROM orders GROUP BY user_id;
"""

#: User 1 clicks at every tenth second of the first ten minutes of 2024, by turns on "a" and "b"; user 2 once.
START = 1_704_067_200_000_000
CLICKS = [(1, "ab"[n % 2], START + n * 10_000_000) for n in range(60)] + [(2, "a", START + 5_000_000)]

#: User 1 orders at every minute, and every other order is heard of five minutes late.
ORDERS = [(1, START + n * 60_000_000, START + n * 60_000_000 + (n % 2) * 300_000_000) for n in range(10)]


def rfc3339(micros):
    return str(pa.scalar(micros, pa.timestamp("us")).as_py().isoformat(timespec="microseconds")) + "Z"


def ready(process):
    """The fields of the line that a node prints when it serves."""
    lines = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout] + [lines.put("")], daemon=True).start()
    while True:
        line = lines.get(timeout=60)
        assert line, f"the node ended with {process.wait(10)}"
        if line.startswith("ready "):
            return dict(field.split("=", 1) for field in line.split()[1:])


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    directory = tmp_path_factory.mktemp("flight")
    (directory / "dataflows").mkdir()
    (directory / "dataflows" / "all.sql").write_text(SQL)
    rows = sorted(CLICKS, key=lambda click: click[2])
    lines = ["user_id,kind,ts"] + [f"{user},{kind},{rfc3339(ts)}" for user, kind, ts in rows]
    (directory / "clicks.csv").write_text("\n".join(lines) + "\n")
    base = [os.environ["HEADWATER_BIN"]]
    common = ["--dir", str(directory)]
    rows = sorted(ORDERS, key=lambda order: order[2])
    lines = ["user_id,ts,came"] + [f"{user},{rfc3339(ts)},{rfc3339(came)}" for user, ts, came in rows]
    (directory / "orders.csv").write_text("\n".join(lines) + "\n")
    # Under the record clock, history was served as it was heard of: clicks at once, orders late.
    subprocess.run([*base, "replay", "--clock", "record", *common], check=True, timeout=120)
    command = [*base, "run", *common, "--http", "off", "--resp", "off", "--grpc", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        with flight.connect(f"grpc://{ready(process)['grpc']}") as connected:
            yield connected
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def expected(user, at):
    """What the definition says, worked out by hand: (n, last)."""
    mine = [(kind, ts) for who, kind, ts in CLICKS if who == user and ts <= at]
    recent = [ts for _, ts in mine if ts > at - 60_000_000]
    return len(recent), max(mine, key=lambda click: click[1])[0] if mine else None


def labels(rows, step=1_700_000):
    users = [[1, 2, 3, None][n % 4] for n in range(rows)]
    times = [START - 5_000_000 + (n * step) % 700_000_000 for n in range(rows)]
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int32()),
            "user_id": pa.array(users, pa.int64()),
            "as_of": pa.array(times, pa.timestamp("us", "UTC")),
            "note": pa.array([f"row {n}" if n % 3 else "" for n in range(rows)]),
        }
    )


def descriptor(**asked):
    return flight.FlightDescriptor.for_command(json.dumps({"point_in_time": asked}))


def exchange(client, asked, *tables):
    writer, reader = client.do_exchange(descriptor(**asked))
    with writer:
        writer.begin(tables[0].schema)
        for table in tables:
            writer.write_table(table)
        writer.done_writing()
        return reader.read_all()


def check(result, sent):
    assert result.column_names == [*sent.column_names, "n", "last"]
    assert result.select(sent.column_names).equals(sent), "label rows come back as they were, in order"
    assert result.schema.field("n").type == pa.int64()
    assert result.schema.field("last").type == pa.string()
    rows = zip(sent["user_id"].to_pylist(), sent["as_of"].cast(pa.int64()).to_pylist(), strict=True)
    want = [expected(user, at) for user, at in rows]
    assert list(zip(result["n"].to_pylist(), result["last"].to_pylist(), strict=True)) == want


def test_exchange(client):
    sent = labels(1000)
    check(exchange(client, {"features": ["users:n", "users:last"]}, sent), sent)


def test_exchange_of_a_service_as_corrected(client):
    sent = labels(200)
    check(exchange(client, {"service": "ranker", "mode": "corrected", "time_column": "as_of"}, sent), sent)


def test_what_came_late_was_not_served(client):
    times = [START + n * 30_000_000 for n in range(40)]
    sent = pa.table({"user_id": [1] * 40, "as_of": pa.array(times, pa.timestamp("us", "UTC"))})
    served = [sum(ts <= at and came <= at for _, ts, came in ORDERS) for at in times]
    corrected = [sum(ts <= at for _, ts, _ in ORDERS) for at in times]
    assert served != corrected
    for mode, want in [("served", served), ("corrected", corrected)]:
        assert exchange(client, {"features": ["ordering:*"], "mode": mode}, sent)["orders"].to_pylist() == want, mode


def test_lists_are_lists_and_having_decides_who_has_a_row(client):
    sent = labels(400)
    result = exchange(client, {"features": ["regulars:*"]}, sent)
    assert result.schema.field("latest").type == pa.list_(pa.string()), "not a text of JSON"
    want = []
    for user, at in zip(sent["user_id"].to_pylist(), sent["as_of"].cast(pa.int64()).to_pylist(), strict=True):
        kinds = [kind for who, kind, ts in sorted(CLICKS, key=lambda click: click[2]) if who == user and ts <= at]
        is_row = len(kinds) > 2
        want.append((kinds[:-4:-1], sorted(set(kinds), reverse=True), len(kinds)) if is_row else (None, None, 0))
    assert list(zip(*(result[name].to_pylist() for name in ("latest", "kinds", "n")), strict=True)) == want
    assert (None, None, 0) in want and (["b", "a", "b"], ["b", "a"], 60) in want


def test_labels_of_the_future_are_refused(client):
    times = pa.array([START, 4_000_000_000_000_000], pa.timestamp("us", "UTC"))
    sent = pa.table({"user_id": [1, 1], "as_of": times})
    with pytest.raises(pa.ArrowInvalid, match="row 2, column `as_of`"):
        exchange(client, {"features": ["users:n"]}, sent)


def test_labels_come_in_many_types(client):
    sent = labels(12)
    plain = exchange(client, {"features": ["users:*"]}, sent)
    for name, column in {
        "as_of": sent["as_of"].cast(pa.timestamp("ns", "UTC")),
        "note": sent["note"].dictionary_encode(),
        "user_id": sent["user_id"].cast(pa.float32()),
    }.items():
        changed = sent.set_column(sent.column_names.index(name), name, column)
        result = exchange(client, {"features": ["users:*"]}, changed)
        assert result.select(["n", "last"]).equals(plain.select(["n", "last"])), name
        assert result[name].to_pylist() == changed[name].to_pylist(), name


def test_compressed_labels_are_refused_and_the_node_lives(client):
    sent = labels(1000)
    for codec in ("lz4", "zstd"):
        writer, reader = client.do_exchange(descriptor(features=["users:*"]))
        with pytest.raises(pa.ArrowInvalid, match="compressed"):
            with writer:
                writer.begin(sent.schema, options=pa.ipc.IpcWriteOptions(compression=codec))
                writer.write_table(sent)
                writer.done_writing()
                reader.read_all()
    check(exchange(client, {"features": ["users:*"]}, sent), sent)


def test_a_column_twice_is_refused(client):
    sent = labels(4)
    twice = pa.Table.from_arrays([*sent.columns, sent["user_id"]], [*sent.column_names, "user_id"])
    with pytest.raises(pa.ArrowInvalid, match="two columns `user_id`"):
        exchange(client, {"features": ["users:*"]}, twice)


def test_many_labels_are_sent_before_any_result_is_read(client):
    # Far more than fits the connection's windows.
    sent = labels(300_000, step=7_919)
    parts = [sent.slice(at, 10_000) for at in range(0, sent.num_rows, 10_000)]
    check(exchange(client, {"features": ["users:*"]}, *parts), sent)


def test_a_batch_is_answered_before_the_next_is_sent(client):
    sent = labels(40)
    writer, reader = client.do_exchange(descriptor(features=["users:*"]))
    with writer:
        writer.begin(sent.schema)
        for at in (0, 20):
            writer.write_table(sent.slice(at, 20))
            check(pa.Table.from_batches([reader.read_chunk().data]), sent.slice(at, 20))
        writer.done_writing()


def test_no_labels(client):
    sent = labels(0)
    result = exchange(client, {"features": ["users:*"]}, sent)
    assert result.num_rows == 0
    assert result.column_names == ["id", "user_id", "as_of", "note", "n", "last"]


def test_put_then_get(client):
    sent = labels(500)
    writer, reader = client.do_put(descriptor(features=["users:*"]), sent.schema)
    with writer:
        writer.write_table(sent)
        writer.done_writing()
        ticket = flight.Ticket(reader.read().to_pybytes())
        assert reader.read() is None
    check(client.do_get(ticket).read_all(), sent)
    check(client.do_get(ticket).read_all(), sent)


def test_full_names(client):
    sent = labels(8).append_column("kind", pa.array(["a", "b"] * 4))
    asked = {"features": ["users:n", "kinds:n"]}
    with pytest.raises(pa.ArrowInvalid, match="full_names"):
        exchange(client, asked, sent)
    result = exchange(client, {**asked, "full_names": True}, sent)
    assert result.column_names[-2:] == ["users__n", "kinds__n"]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"features": ["user:n"]}, KeyError, "did you mean `users`"),
        ({"features": ["users:m"]}, KeyError, "no feature `m`"),
        ({"service": "rankers"}, KeyError, "no service `rankers`"),
        ({"features": ["users:n"], "mode": "late"}, pa.ArrowInvalid, "late"),
        ({"features": ["users:n"], "time_column": "t"}, pa.ArrowInvalid, "no column `t`"),
        ({"features": ["kinds:n"]}, pa.ArrowInvalid, "no column `kind`"),
        ({}, pa.ArrowInvalid, "no feature is asked for"),
    ],
)
def test_what_is_wrong_is_said(client, asked, error, message):
    with pytest.raises(error, match=message):
        exchange(client, asked, labels(4))


def test_a_bad_cell_is_named(client):
    sent = pa.table({"user_id": ["1", "x"], "as_of": ["2024-01-01T00:00:00Z"] * 2})
    with pytest.raises(pa.ArrowInvalid, match="row 2, column `user_id`"):
        exchange(client, {"features": ["users:n"]}, sent)


def test_an_unknown_ticket(client):
    with pytest.raises(KeyError, match="no upload has this ticket"):
        client.do_get(flight.Ticket(b"nothing")).read_all()
