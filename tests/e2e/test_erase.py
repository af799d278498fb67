"""Owns what an operator takes away, as seen from outside: deletes, retention, tables; over restarts and crashes."""

import json
import time

import pytest

from node import Node, wait_until

DAY = 86_400


@pytest.fixture()
def node(tmp_path):
    node = Node(tmp_path).start()
    yield node
    if node.process is not None:
        node.stop()


def fill(node: Node, table: str, devices, times) -> None:
    file = node.folder / "rows.csv"
    lines = [f"{device},{at},{index}" for device in devices for index, at in enumerate(times)]
    file.write_text("\n".join(["id,at,value", *lines]) + "\n")
    options = ("--device-column", "id", "--time-column", "at", "--time-format", "epoch", "--time-unit", "s")
    node.load(file, "--table", table, *options)


def rows(node: Node, table: str) -> dict[str, list[int]]:
    """Seconds of each device's rows."""
    found: dict[str, list[int]] = {}
    answer = node.ask("range", table=table, start=-(2**63), end=2**63 - 1)
    for device, at in zip(answer["device"].to_pylist(), answer["time"].cast("int64").to_pylist()):
        found.setdefault(device, []).append(at // 1_000_000_000)
    return found


def devices(node: Node) -> list[str]:
    return [device["id"] for device in node.action("devices")]


def inspect(node: Node, what: str, *arguments) -> list[str]:
    return node.run("inspect", what, node.data_dir, *arguments).stdout.decode().splitlines()


def test_a_deleted_device_is_gone_at_once_and_from_the_disk_after_compaction(node):
    fill(node, "readings", ["truck_1", "truck_2"], range(100))
    fill(node, "diagnostics", ["truck_1"], range(50))
    node.action("describe", {"device": "truck_1", "attributes": {"fleet": "north"}})
    node.run("delete", "--device", "truck_1", "--table", "readings", "--start", "1970-01-01T00:00:10Z", "--end", "1970-01-01T00:01:30Z")
    assert rows(node, "readings") == {"truck_1": [*range(10), *range(90, 100)], "truck_2": [*range(100)]}
    assert len(rows(node, "diagnostics")["truck_1"]) == 50

    assert node.action("delete", {"device": "truck_1"}) == [{"deleted": 1}]
    assert rows(node, "readings") == {"truck_2": [*range(100)]} and rows(node, "diagnostics") == {}
    assert devices(node) == ["truck_2"]
    fill(node, "readings", ["truck_1"], range(40, 45))
    for _ in range(2):
        assert rows(node, "readings") == {"truck_1": [*range(40, 45)], "truck_2": [*range(100)]}
        node.kill()
        pending = inspect(node, "erasures")
        assert any("device truck_1" in line and "seg/" in line for line in pending), pending
        node.start()

    node.action("compact")
    assert rows(node, "readings") == {"truck_1": [*range(40, 45)], "truck_2": [*range(100)]}
    assert node.stop() == 0
    assert inspect(node, "erasures") == ["no file has rows that were deleted"]
    assert inspect(node, "erasures", "--json") == []
    node.run("verify", node.data_dir)
    segments = [json.loads(line) for line in inspect(node, "segment", "--json")]
    assert sum(segment["rows"] for segment in segments) == 105
    node.start()
    assert rows(node, "readings") == {"truck_1": [*range(40, 45)], "truck_2": [*range(100)]}


def test_retention_takes_days_and_rows_that_come_later(node):
    today = int(time.time()) // DAY * DAY
    days = [today - n * DAY for n in range(5, -1, -1)]
    fill(node, "readings", ["truck_1"], days)
    node.action("flush")
    node.action("compact")
    assert node.run("retention", "set", "readings", "--raw", "2d", "--hour", "5y").returncode == 0
    kept = [at for at in days if at >= today - 2 * DAY]
    assert rows(node, "readings") == {"truck_1": kept}
    fill(node, "readings", ["truck_1", "truck_9"], [today - 4 * DAY])
    assert rows(node, "readings") == {"truck_1": kept} and devices(node) == ["truck_1"]
    assert node.figure("rows_expired") == 2
    [policy] = node.action("retention.get")
    assert (policy["raw"], policy["1m"], policy["1h"], policy["1d"]) == ("2d", None, "1825d", None)
    node.kill()
    node.start()
    assert rows(node, "readings") == {"truck_1": kept}
    text = node.run("retention", "get", "readings").stdout.decode()
    assert "rows 2d, minutes as rows, hours 1825d" in text and "are gone" in text

    node.action("compact")
    node.run("retention", "set", "readings", "--raw", "forever")
    # First the summaries go that told of the rows before the cut-off, then the cut-off.
    wait_until(lambda: node.action("retention.get")[0]["raw_before"] is None, 30)
    fill(node, "readings", ["truck_1"], [today - 4 * DAY])
    assert rows(node, "readings") == {"truck_1": [today - 4 * DAY, *kept]}


def test_tables_are_dropped_and_renamed(node):
    fill(node, "readings", ["truck_1"], range(10))
    fill(node, "diagnostics", ["truck_1"], range(5))
    node.run("table", "rename", "readings", "old")
    assert rows(node, "old") == {"truck_1": [*range(10)]}
    file = node.folder / "text.csv"
    file.write_text("id,at,value\ntruck_2,2024-05-01T00:00:00Z,words\n")
    # Under the old name a table of other types.
    node.load(file, "--table", "readings", "--device-column", "id", "--time-column", "at")
    for _ in range(2):
        names = [table["table"] for table in node.action("table.list")]
        assert names == ["diagnostics", "old", "readings"]
        assert list(rows(node, "readings")) == ["truck_2"] and len(rows(node, "old")["truck_1"]) == 10
        node.kill()
        node.start()
    node.run("table", "drop", "old")
    with pytest.raises(KeyError, match="unknown table `old`"):
        rows(node, "old")
    assert node.action("table.list")[0]["table"] == "diagnostics"
    assert node.stop() == 0
    node.run("verify", node.data_dir)
    node.start()
    assert [table["table"] for table in node.action("table.list")] == ["diagnostics", "readings"]


def test_mistakes_are_told_in_words(node):
    fill(node, "readings", ["truck_1"], range(3))
    for arguments, words in [
        (("table", "drop", "none"), "there is no table none; tables: readings"),
        (("table", "rename", "readings", "a b"), "table name"),
        (("retention", "set", "readings", "--raw", "30"), "not a duration"),
        (("retention", "set", "none", "--raw", "30d"), "no table 'none'"),
        (("delete", "--device", "truck_1", "--table", "none"), "there is no table none"),
        (("delete", "--device", "truck_1", "--start", "5", "--end", "5"), "5..5 is empty"),
    ]:
        done = node.run(*arguments, check=False)
        assert done.returncode != 0 and words in done.stderr.decode(), done.stderr.decode()
    assert rows(node, "readings") == {"truck_1": [0, 1, 2]}
