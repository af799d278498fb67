"""Owns that answers do not depend on where rows lie: memory, segments, compacted segments, or a log after a crash."""

import pyarrow as pa

import reference as ref
from node import HIGHEST, LOWEST, bits, wait_until
from reference import AGGREGATES, MINUTE, at, check, column, frame

BASE = at("2024-03-29T00:00:00")
DEVICES = [f"truck_{n}" for n in range(12)]
KINDS = {"speed": "f64", "status": "i64", "open": "bool", "note": "utf8"}


def written(round_: int) -> list[tuple]:
    """Rows of one round: mostly new, some late, some with keys of earlier rounds, fields missing here and there."""
    rows = []
    for number, device in enumerate(DEVICES[round_:] if round_ else DEVICES[:8]):
        for i in range(700):
            # Each round begins before the one before ended, so that keys repeat; devices have steps of their own.
            time = BASE + (round_ * 500 + i) * (5 + number) * MINUTE
            speed = None if (i + round_) % 5 == 0 else float((i * 7919 + round_ * 31) % 1009) / 8
            if i % 211 == 3:
                speed = float("nan")
            if i % 223 == 5:
                speed = -0.0
            note = None if i % 3 else f"{device}/{round_}/{i % 50}"
            rows.append((device, time, speed, None if i % 7 == round_ else i % 4, None if i % 11 else i % 2 == 0, note))
        # Late rows, in the middle of the round before.
        rows += [(device, BASE + (round_ * 250 + i) * (5 + number) * MINUTE + 1, 1.0 + i, None, None, None) for i in range(20)]
    return rows


def expected(rounds: int):
    rows = [row for round_ in range(rounds) for row in written(round_)]
    columns = {name: column([row[2 + at] for row in rows], kind) for at, (name, kind) in enumerate(KINDS.items())}
    return frame([row[0] for row in rows], [row[1] for row in rows], columns)


def write(node, folder, round_: int) -> None:
    cell = lambda value: "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    file = folder / f"round_{round_}.csv"
    file.write_text("\n".join(["device_id,t," + ",".join(KINDS)] + [",".join(map(cell, row)) for row in written(round_)]) + "\n")
    flags = ["--table", "trucks", "--device-column", "device_id", "--time-column", "t", "--time-unit", "ns"]
    types = ",".join(f"{name}={kind}" for name, kind in KINDS.items())
    assert node.load(file, *flags, "--types", types)["acknowledged_rows"] == len(written(round_))


WINDOW = {"start": "2024-03-28T13:00:00Z", "end": "2024-04-09T07:00:00Z"}
EVERYTHING = {"start": LOWEST, "end": HIGHEST}
QUESTIONS = [
    ("range", EVERYTHING),
    ("range", WINDOW | {"fields": ["note", "speed"], "where": "speed > 60 AND status != 2", "devices": {"glob": "truck_1*"}}),
    ("range", EVERYTHING | {"where": "note IS NULL AND open = true", "limit": 50}),
    ("latest", {}),
    ("latest", {"as_of": "2024-04-01T12:34:56.789Z", "fields": ["open", "speed"]}),
    ("downsample", WINDOW | {"every": "1h", "fields": ["speed"], "aggregates": AGGREGATES, "fill": "linear"}),
    ("downsample", WINDOW | {"every": "1d", "timezone": "Europe/Berlin", "fields": ["status"], "aggregates": AGGREGATES, "fill": "previous"}),
    ("downsample", WINDOW | {"every": "3h", "fields": ["speed", "status"], "aggregates": AGGREGATES, "group": "all", "fill": "null"}),
    ("downsample", WINDOW | {"every": "1mo", "fields": ["note", "open"], "aggregates": ["first", "last", "count"], "timezone": "America/New_York"}),
    ("threshold", EVERYTHING | {"where": "speed > 20", "for": "30m", "max_gap": "1h"}),
    ("threshold", EVERYTHING | {"where": "NOT (speed <= 20 OR status = 3)"}),
    ("threshold", EVERYTHING | {"where": "speed > 100", "return": "devices"}),
    ("threshold", WINDOW | {"where": "speed = 0", "return": "rows"}),
]


def answers(node) -> list[pa.Table]:
    return [node.ask(kind, table="trucks", **request) for kind, request in QUESTIONS]


def check_same(node, before: list[pa.Table], what: str) -> None:
    for (kind, request), old, new in zip(QUESTIONS, before, answers(node)):
        assert bits(new).equals(bits(old)), f"after {what}: another answer to {kind} {request}"


def test_answers_survive_flush_compaction_restart_and_crash(new_node, tmp_path):
    new_node.flags = ("--set", "engine.shards=3")
    node = new_node.start()
    for rounds in (1, 2, 3):
        write(node, tmp_path, rounds - 1)
        before = answers(node)
        # The answers are right, not only the same.
        data = expected(rounds)
        check(before[0], ref.rows(data, LOWEST, HIGHEST))
        check(before[3], ref.latest(data))
        hours = ref.downsample(data, at("2024-03-28T13:00:00"), at("2024-04-09T07:00:00"), "1h", ["speed"], fill="linear")
        check(before[5], hours, filled=True)
        if rounds == 1:
            node.kill()
            node.start()
            check_same(node, before, "a crash with all rows in the log")
            assert node.action("flush") == [{"flushed": True}]
            check_same(node, before, "a flush")
            assert 0 < node.figure("segment_rows") <= len(written(0)) and node.figure("memtable_bytes") == 0
        elif rounds == 2:
            node.kill()
            node.start()
            check_same(node, before, "a crash with rows in a segment and in the log")
            assert node.stop() == 0
            node.start()
            check_same(node, before, "a restart")
        else:
            node.action("flush")
            check_same(node, before, "a flush over older segments")
            assert node.action("compact") == [{"compacted": True}]
            check_same(node, before, "a compaction")
            node.action("compact")
            node.kill()
            node.start()
            check_same(node, before, "a crash after a compaction")
            assert node.stop() == 0
            node.start()
            check_same(node, before, "the last restart")
    assert node.stop() == 0
    node.run("verify", node.data_dir)


def test_a_load_after_a_crash_changes_nothing(new_node, tmp_path):
    node = new_node.start()
    write(node, tmp_path, 0)
    before = answers(node)
    node.kill()
    node.start()
    write(node, tmp_path, 0)
    check_same(node, before, "loading the same rows again after a crash")
    node.action("flush")
    write(node, tmp_path, 0)
    node.action("compact")
    check_same(node, before, "loading the same rows over a segment")


def test_attributes_survive_a_crash(new_node, tmp_path):
    node = new_node.start()
    write(node, tmp_path, 0)
    node.action("describe", {"device": "truck_3", "attributes": {"fleet": "nörth", "model": "x"}})
    node.action("describe", {"device": "truck_4", "attributes": {"fleet": "south"}})
    node.action("describe", {"device": "truck_4", "attributes": {"fleet": "nörth"}})
    seen = node.action("devices")
    for end in (node.kill, node.stop):
        end()
        node.start()
        devices = node.action("devices")
        assert [(d["id"], d["attributes"]) for d in devices] == [(d["id"], d["attributes"]) for d in seen]
        chosen = node.ask("latest", table="trucks", devices={"attributes": {"fleet": "nörth"}})
        assert chosen.column("device").to_pylist() == ["truck_3", "truck_4"]


def test_only_one_node_serves_a_directory(new_node):
    node = new_node.start()
    done = node.run("serve", "--data-dir", node.data_dir, "--ingest-addr", "127.0.0.1:0", "--query-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", check=False, stdin=b"")
    assert done.returncode != 0 and str(node.data_dir) in done.stderr.decode(), done.stderr
    assert list(node.client.list_flights()) == []


def test_sealing_by_itself_gives_the_same_answers(new_node, tmp_path):
    new_node.flags = ("--set", "engine.memtable=1MiB", "--set", "engine.seal_age=1s")
    node = new_node.start()
    for round_ in range(3):
        write(node, tmp_path, round_)
    before = answers(node)
    check(before[0], ref.rows(expected(3), LOWEST, HIGHEST))
    wait_until(lambda: node.figure("flushes") > 0, 20)
    check_same(node, before, "sealing by age")
    node.kill()
    node.start()
    check_same(node, before, "a crash after sealing by age")
