"""Owns the Flight contract as a foreign client meets it: calls, schemas, actions, errors, certificates."""

import json
import re
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from node import HIGHEST, LOWEST, ROOT, Node, bits, question
from reference import plain

START, END = "2024-05-01T00:00:00Z", "2024-05-02T00:00:00Z"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node with two small tables."""
    folder = tmp_path_factory.mktemp("flight")
    node = Node(folder).start()
    rows = [f"truck_{n},2024-05-01T{h:02}:00:00Z,{n * 10 + h / 2},{h % 3},{'true' if h % 2 else 'false'},n{h}" for n in range(1, 4) for h in range(24)]
    file = folder / "readings.csv"
    file.write_text("\n".join(["id,at,velocity,status,open,note", *rows]) + "\n")
    node.load(file, "--table", "readings", "--device-column", "id", "--time-column", "at", "--types", "velocity=f64")
    file.write_text("id,at,load\npump,2024-05-01T00:00:00Z,7\n")
    node.load(file, "--table", "diagnostics", "--device-column", "id", "--time-column", "at")
    node.action("describe", {"device": "truck_1", "attributes": {"fleet": "north"}})
    yield node
    node.stop()


RANGE = {"table": "readings", "start": START, "end": END}
QUESTIONS = {
    "range": ("range", RANGE),
    "range of one field": ("range", RANGE | {"fields": ["velocity"], "where": "status = 1", "limit": 3}),
    "no rows": ("range", RANGE | {"where": "velocity > 1e9"}),
    "no devices": ("range", RANGE | {"devices": ["unknown"]}),
    "latest": ("latest", {"table": "readings"}),
    "downsample": ("downsample", RANGE | {"every": "6h", "fields": ["velocity", "status"], "aggregates": ["mean", "min", "max", "count", "sum", "first", "last"]}),
    "downsample of texts": ("downsample", RANGE | {"every": "6h", "fields": ["note", "open"], "aggregates": ["first", "last", "count"]}),
    "groups": ("downsample", RANGE | {"every": "6h", "group": "attribute:fleet", "fill": "linear"}),
    "intervals": ("threshold", RANGE | {"where": "velocity > 15 AND status != 2 AND note IS NOT NULL"}),
    "rows": ("threshold", RANGE | {"where": "velocity > 15", "return": "rows", "for": "1h"}),
    "devices": ("threshold", RANGE | {"where": "velocity > 15", "return": "devices"}),
}

ROWS = pa.schema(
    [
        pa.field("device", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ns", "UTC"), nullable=False),
        pa.field("velocity", pa.float64()),
        pa.field("status", pa.int64()),
        pa.field("open", pa.bool_()),
        pa.field("note", pa.string()),
    ]
)


@pytest.mark.parametrize("name", QUESTIONS)
def test_info_schema_and_answer_agree(node, name):
    kind, request = QUESTIONS[name]
    descriptor = flight.FlightDescriptor.for_command(question(kind, **request))
    info = node.client.get_flight_info(descriptor)
    assert len(info.endpoints) == 1 and info.endpoints[0].locations == []
    assert info.descriptor == descriptor
    answer = node.client.do_get(info.endpoints[0].ticket).read_all()
    assert info.schema.equals(answer.schema) and node.client.get_schema(descriptor).schema.equals(answer.schema)
    assert node.ask(kind, **request).equals(answer)
    answer.validate(full=True)
    assert (answer.num_rows == 0) == name.startswith("no ")


def test_schemas_of_answers(node):
    schema = lambda name: node.ask(QUESTIONS[name][0], **QUESTIONS[name][1]).schema
    kinds = lambda name: [(field.name, str(field.type)) for field in schema(name)]
    assert schema("range").equals(ROWS) and schema("latest").equals(ROWS) and schema("rows").equals(ROWS)
    name, moment = ("device", "string"), "timestamp[ns, tz=UTC]"
    statistics = [("velocity_min", "double"), ("velocity_max", "double"), ("velocity_mean", "double"), ("status_min", "int64"), ("status_max", "int64"), ("status_mean", "double")]
    assert kinds("intervals") == [name, ("start", moment), ("end", moment), ("duration", "duration[ns]"), ("samples", "int64"), *statistics]
    assert kinds("devices") == [name, ("matches", "int64"), ("first", moment), ("last", moment)]
    assert kinds("downsample") == [
        name, ("time", moment), ("velocity_mean", "double"), ("velocity_min", "double"), ("velocity_max", "double"), ("velocity_count", "int64"),
        ("velocity_sum", "double"), ("velocity_first", "double"), ("velocity_last", "double"), ("status_mean", "double"), ("status_min", "int64"),
        ("status_max", "int64"), ("status_count", "int64"), ("status_sum", "int64"), ("status_first", "int64"), ("status_last", "int64"),
    ]  # fmt: skip


def test_tables_are_listed_and_can_be_read_by_path(node):
    flights = {info.descriptor.path[0].decode(): info for info in node.client.list_flights()}
    assert list(flights) == ["diagnostics", "readings"]
    assert flights["readings"].schema.equals(ROWS)
    for name, rows in [("diagnostics", 1), ("readings", 72)]:
        assert len(flights[name].endpoints) == 1
        assert node.client.do_get(flights[name].endpoints[0].ticket).read_all().num_rows == rows
        info = node.client.get_flight_info(flight.FlightDescriptor.for_path(name))
        assert node.client.do_get(info.endpoints[0].ticket).read_all().num_rows == rows


def test_actions(node):
    assert {action.type for action in node.client.list_actions()} >= {"flush", "compact", "stats", "devices", "describe"}
    assert node.action("flush") == [{"flushed": True}]
    stats = node.action("stats")[0]
    assert [table["name"] for table in stats["tables"]] == ["diagnostics", "readings"]
    assert node.figure("rows") == 73
    devices = node.action("devices")
    assert [device["id"] for device in devices] == ["pump", "truck_1", "truck_2", "truck_3"]
    assert devices[1]["attributes"] == {"fleet": "north"} and all(d["first_seen"] <= d["last_seen"] for d in devices)
    assert [device["id"] for device in node.action("devices", {"glob": "truck_*"})] == ["truck_1", "truck_2", "truck_3"]
    for name, body, error, message in [
        ("devices", {"globs": "x"}, pa.ArrowInvalid, "globs"),
        ("devices", {"glob": "[x"}, pa.ArrowInvalid, r"\[x"),
        ("flush", {"x": 1}, pa.ArrowInvalid, "no body"),
        ("delete_everything", None, pa.ArrowNotImplementedError, "this version has flush"),
        ("describe", {"device": "", "attributes": {}}, pa.ArrowInvalid, "1 to 256"),
    ]:
        with pytest.raises(error, match=message):
            node.action(name, body)


WRONG = [
    # request, error, part of the message
    (b"", pa.ArrowInvalid, "empty ticket"),
    (b"{", pa.ArrowInvalid, "column"),
    (b"[]", pa.ArrowInvalid, "exactly one of the keys"),
    (b"{}", pa.ArrowInvalid, "expected one of"),
    (b"\xff\xfe", pa.ArrowInvalid, "line 1"),
    (question("ranges", table="readings"), pa.ArrowInvalid, "unknown field `ranges`, expected one of `range`"),
    (b'{"latest": {"table": "readings"}, "range": {}}', pa.ArrowInvalid, "exactly one key"),
    (question("latest", table="readings", feilds=["velocity"]), pa.ArrowInvalid, "unknown field `feilds`"),
    (question("latest", table="readings", devices={"globs": "x"}), pa.ArrowInvalid, "unknown field `globs`"),
    (question("range", table="readings", start=START), pa.ArrowInvalid, "missing field `end`"),
    (question("range", **(RANGE | {"start": "yesterday"})), pa.ArrowInvalid, "`yesterday` is not a time"),
    (question("range", **(RANGE | {"limit": -1})), pa.ArrowInvalid, "-1"),
    (question("latest", table="reading"), pa.ArrowKeyError, "unknown table `reading`; known tables: diagnostics, readings"),
    (question("latest", table="readings", fields=["speed"]), pa.ArrowKeyError, "no field `speed`; known fields: velocity, status, open, note"),
    (question("latest", table="readings", fields=["note", "note"]), pa.ArrowInvalid, "`note` twice"),
    (question("range", table="readings", start=END, end=START), pa.ArrowInvalid, "`end`: expected a time after `start`"),
    (question("range", table="readings", start=START, end=START), pa.ArrowInvalid, "`end`: expected a time after `start`"),
    (question("downsample", **RANGE, every="0s"), pa.ArrowInvalid, "`0s`: a window must be longer than nothing"),
    (question("downsample", **RANGE, every="-1m"), pa.ArrowInvalid, "`-1m` is not a duration"),
    (question("downsample", **RANGE, every="1.5h"), pa.ArrowInvalid, "1.5h"),
    (question("downsample", **RANGE, every="1fortnight"), pa.ArrowInvalid, "unknown unit `fortnight`"),
    (question("downsample", **RANGE, every="99999999999999999999h"), pa.ArrowInvalid, "64-bit"),
    (question("downsample", **RANGE, every="1h", timezone="Europe/Bärlin"), pa.ArrowInvalid, "`timezone`: expected an IANA time zone"),
    (question("downsample", **RANGE, every="1h", aggregates=["median"]), pa.ArrowInvalid, "unknown variant `median`"),
    (question("downsample", **RANGE, every="1h", aggregates=[]), pa.ArrowInvalid, "at least one aggregate"),
    (question("downsample", **RANGE, every="1h", fields=["note"]), pa.ArrowInvalid, "numeric fields for `mean`, found `note`, which is utf8"),
    (question("downsample", **RANGE, every="1h", group="fleet"), pa.ArrowInvalid, "attribute:<name>"),
    (question("downsample", **RANGE, every="1h", fill="next"), pa.ArrowInvalid, "unknown variant `next`"),
    (question("threshold", **RANGE), pa.ArrowInvalid, "missing field `where`"),
    (question("threshold", **RANGE, where="velocity > 1", for_="1mo"), pa.ArrowInvalid, "months and years differ in length"),
    (question("threshold", **RANGE, where="velocity > 1", max_gap="-5s"), pa.ArrowInvalid, "`-5s`"),
    (question("range", **RANGE, where="velocity >"), pa.ArrowInvalid, "`where`, column 11: "),
    (question("range", **RANGE, where="velocity > 5 AND speed < 3"), pa.ArrowInvalid, "`where`, column 18: .*`speed`"),
    (question("range", **RANGE, where="velocity > 'fast'"), pa.ArrowInvalid, "`where`, column 12: "),
    (question("range", **RANGE, where="note = 'ä' AND (velocity > 5"), pa.ArrowInvalid, "`where`, column 29: expected AND, OR or `\\)`"),
    (question("range", **RANGE, where="velocity = NULL"), pa.ArrowInvalid, "`where`, column 12: .*IS NULL"),
    (question("range", **RANGE, where=""), pa.ArrowInvalid, "`where`, column 1: "),
    (question("range", **RANGE, where="(" * 1000 + "velocity > 1"), pa.ArrowInvalid, "nest deeper than"),
    (question("watch", rules=["overheat"]), pa.ArrowNotImplementedError, "`watch` is not available"),
]


@pytest.mark.parametrize("ticket, error, message", WRONG, ids=[ticket[:60].decode(errors="replace") for ticket, _, _ in WRONG])
def test_wrong_questions_say_what_was_expected(node, ticket, error, message):
    with pytest.raises(error, match=message):
        node.ask_ticket(ticket)
    if ticket:
        with pytest.raises(error, match=message):
            node.client.get_flight_info(flight.FlightDescriptor.for_command(ticket))
        with pytest.raises(error, match=message):
            node.client.get_schema(flight.FlightDescriptor.for_command(ticket))


def test_windows_without_end_are_refused_at_once(node):
    for request in [
        {"start": LOWEST, "end": HIGHEST, "every": "1ns"},
        {"start": "1970-01-01T00:00:00Z", "end": "2030-01-01T00:00:00Z", "every": "1s", "fill": "null"},
        {"start": "2000-01-01T00:00:00Z", "end": "2030-01-01T00:00:00Z", "every": "1s", "group": "all"},
    ]:
        began = time.monotonic()
        # RESOURCE_EXHAUSTED has no class of its own in this client.
        with pytest.raises((flight.FlightError, pa.ArrowException), match="windows .*at most"):
            node.ask("downsample", table="readings", **request)
        assert time.monotonic() - began < 1
    began = time.monotonic()
    far = node.ask("downsample", table="readings", start="1700-01-01T00:00:00Z", end="2250-01-01T00:00:00Z", every="1y", aggregates=["count"])
    assert far.num_rows == 3 and time.monotonic() - began < 1


def test_an_answer_can_be_left_half_way(node):
    whole = node.client.do_get(flight.Ticket(question("downsample", table="readings", start="2024-01-01T00:00:00Z", end="2024-12-01T00:00:00Z", every="1s", fill="previous")))
    assert whole.read_chunk().data.num_rows > 0
    whole.cancel()
    assert node.ask("latest", table="readings").num_rows == 3


def test_sql_says_that_it_is_not_there(node):
    # A Flight SQL command: protobuf, not JSON.
    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    command = b"\x0a" + bytes([len(name)]) + name + b"\x12\x0a\x0a\x08SELECT 1"
    with pytest.raises(pa.ArrowNotImplementedError, match="SQL is not available"):
        node.client.get_flight_info(flight.FlightDescriptor.for_command(command))


def put(node, table, batches, client=None):
    """DoPut; the rows acknowledged as durable."""
    writer, reader = (client or node.client).do_put(flight.FlightDescriptor.for_path(table), batches[0].schema)
    acknowledged = 0
    for batch in batches:
        writer.write_batch(batch)
    writer.done_writing()
    while (message := reader.read()) is not None:
        acknowledged = json.loads(message.to_pybytes())["rows"]
    writer.close()
    return acknowledged


def test_rows_that_were_put_are_there_after_a_crash(new_node):
    new_node.flags = ("--set", "engine.shards=3")
    node = new_node.start()
    devices = [f"d{n % 17:02}" for n in range(3000)]
    times = [1_700_000_000_000_000_000 + n * 7 for n in range(3000)]
    columns = {
        "v": pa.array([None if n % 5 == 0 else float("nan") if n % 7 == 0 else n / 8 - 3 for n in range(3000)], pa.float64()),
        "n": pa.array([None if n % 3 else n for n in range(3000)], pa.int64()),
        "b": pa.array([None if n % 4 == 1 else n % 2 == 0 for n in range(3000)], pa.bool_()),
        "s": pa.array([None if n % 6 == 2 else f"text {n % 40}" for n in range(3000)], pa.string()),
    }
    rows = pa.table({"device": devices, "time": pa.array(times, pa.timestamp("ns", "UTC")), **columns})
    assert put(node, "sent", rows.to_batches(max_chunksize=700)) == 3000
    node.kill()
    node.start()
    expected = rows.sort_by([("device", "ascending"), ("time", "ascending")])
    everything = {"table": "sent", "start": LOWEST, "end": HIGHEST}
    assert bits(node.ask("range", **everything)).equals(bits(expected))
    # The same rows again, and an answer sent back as rows of another table.
    assert put(node, "sent", rows.to_batches()) == 3000
    assert put(node, "copy", node.ask("range", **everything).to_batches()) == 3000
    assert bits(node.ask("range", **(everything | {"table": "copy"}))).equals(bits(expected))
    assert node.rows("sent") == 3000


def test_rows_that_do_not_fit_are_refused_whole(node):
    time = pa.array([0, 1], pa.timestamp("ns", "UTC"))
    good = {"device": ["x", "y"], "time": time, "v": [1.0, 2.0]}
    for columns, message in [
        ({"device": ["x", "y"], "v": [1.0, 2.0]}, "`device` and `time`"),
        ({"device": ["x", "y"], "time": time}, "no field"),
        (good | {"device": ["x", None]}, "`device` is null"),
        (good | {"device": ["x", ""]}, "device"),
        (good | {"v": [[1], [2]]}, "expected Float64, Int64, Boolean or Utf8"),
        (good | {"a b": [1, 2]}, "a b"),
    ]:
        with pytest.raises(pa.ArrowInvalid, match=message):
            put(node, "refused", pa.table(columns).to_batches())
    with pytest.raises((pa.ArrowInvalid, flight.FlightError), match="velocity"):
        put(node, "readings", pa.table({"device": ["x"], "time": time[:1], "velocity": ["fast"]}).to_batches())
    assert node.ask("latest", table="readings").num_rows == 3
    listed = [info.descriptor.path[0] for info in node.client.list_flights()]
    assert b"refused" not in listed or node.rows("refused") == 0


def test_every_question_in_the_documents_is_one(node):
    asked = 0
    for page in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"```json\n(.*?)```", page.read_text(), re.S):
            for text in re.split(r"\n(?=\{)", block.strip()):
                if next(iter(json.loads(text)), None) in ("range", "latest", "downsample", "threshold"):
                    node.ask_ticket(text.encode())
                    asked += 1
    assert asked >= 4


def cert(node, *arguments):
    done = node.run("cert", *arguments, "--tls-dir", node.ready["tls_dir"])
    return done.stdout.decode()


def test_nobody_is_answered_without_a_certificate_of_this_authority(node, tmp_path):
    ask = lambda client: client.do_get(flight.Ticket(question("latest", table="readings")), flight.FlightCallOptions(timeout=20)).read_all()
    refused = (flight.FlightUnauthenticatedError, flight.FlightUnavailableError)
    with pytest.raises(refused):
        ask(node.connect(certificate=None))
    # Another authority's certificate, which has the same names.
    node.run("cert", "init", "--tls-dir", tmp_path)
    other = lambda file: (tmp_path / file).read_bytes()
    with pytest.raises(refused):
        ask(node.connect(None, cert_chain=other("dev.pem"), private_key=other("dev-key.pem")))
    # A client that does not trust this node's authority does not talk to it.
    with pytest.raises(flight.FlightUnavailableError):
        ask(node.connect(tls_root_certs=other("ca.pem")))
    assert ask(node.connect()).num_rows == 3


def test_grants_bound_what_a_reader_sees(new_node):
    node = new_node.start()
    rows = "".join(f"{device},2024-05-01T00:00:00Z,1\n" for device in ("a_1", "a_2", "b_1"))
    flags = ["--format", "csv", "--device-column", "id", "--time-column", "at"]
    node.load("-", *flags, "--table", "t", stdin=("id,at,v\n" + rows).encode())
    node.load("-", *flags, "--table", "hidden", stdin=b"id,at,v\nb_1,2024-05-01T00:00:00Z,1\n")
    cert(node, "reader", "dashboard", "--devices", "a_*")
    cert(node, "reader", "operator", "--role", "admin")
    cert(node, "device", "b_1")
    node.stop()
    node.start()
    reader = node.connect("dashboard")
    answer = reader.do_get(flight.Ticket(question("latest", table="t"))).read_all()
    assert answer.column("device").to_pylist() == ["a_1", "a_2"]
    assert reader.do_get(flight.Ticket(question("latest", table="t", devices=["b_1"]))).read_all().num_rows == 0
    assert [info.descriptor.path for info in reader.list_flights()] == [[b"t"]]
    seen = [json.loads(r.body.to_pybytes())["id"] for r in reader.do_action(flight.Action("devices", b""))]
    assert seen == ["a_1", "a_2"]
    for name, body in [("flush", b""), ("describe", b'{"device": "a_1", "attributes": {}}')]:
        with pytest.raises(flight.FlightUnauthorizedError, match="needs the role"):
            list(reader.do_action(flight.Action(name, body)))
    list(node.connect("operator").do_action(flight.Action("flush", b"")))
    # A device may write its own rows, and read nothing else's.
    own = node.connect("b_1")
    with pytest.raises(flight.FlightUnauthenticatedError):
        own.do_get(flight.Ticket(question("latest", table="t"))).read_all()
    done = node.run("load", "-", *flags, "--table", "t", "--cert", "b_1", "--json", check=False, stdin=b"id,at,v\na_1,2024-05-01T01:00:00Z,2\n")
    assert done.returncode == 1 and b"a_1" in done.stderr, (done.stdout, done.stderr)
    node.run("load", "-", *flags, "--table", "t", "--cert", "b_1", stdin=b"id,at,v\nb_1,2024-05-01T01:00:00Z,2\n")
    assert node.rows("t") == 4


def test_the_command_line_gives_the_same_answers(node):
    for name in ("range", "latest", "downsample", "intervals"):
        kind, request = QUESTIONS[name]
        answer = node.ask(kind, **request)
        done = node.run("query", kind, "--json-request", json.dumps({kind: request}), "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(rows) == answer.num_rows and list(rows[0]) == answer.column_names
        for column in answer.column_names:
            found = [row[column] for row in rows]
            if pa.types.is_timestamp(answer.schema.field(column).type):
                found = [pa.scalar(text.removesuffix("Z")).cast(pa.timestamp("ns")).value for text in found]
            elif pa.types.is_duration(answer.schema.field(column).type):
                found = [round(seconds * 1_000_000_000) for seconds in found]
            assert found == plain(answer.column(column)), column
    flags = ["--table", "readings", "--start", START, "--end", END, "--every", "6h", "--aggregates", "mean,max", "--fields", "velocity", "--devices", "truck_2"]
    done = node.run("query", "downsample", *flags, "--format", "arrow")
    table = pa.ipc.open_stream(done.stdout).read_all()
    assert table.equals(node.ask("downsample", **RANGE, every="6h", aggregates=["mean", "max"], fields=["velocity"], devices=["truck_2"]))
    wrong = node.run("query", "latest", "--table", "reading", check=False)
    assert wrong.returncode == 1 and b"unknown table `reading`" in wrong.stderr and wrong.stdout == b""
