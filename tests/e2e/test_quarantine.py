"""Owns what becomes of rows from a device whose clock is wrong, as its operator meets it."""

import json
import time

import pytest

from node import HIGHEST, LOWEST

HOUR = 3_600_000_000_000


@pytest.fixture
def sent(new_node):
    """A node that got four rows of two trucks; two of truck_1 lie an hour and a year ahead, and one of truck_2."""
    node = new_node.start()
    now = time.time_ns()
    rows = [("truck_1", now - HOUR, 1), ("truck_1", now + HOUR, 2), ("truck_1", now + 8760 * HOUR, 3), ("truck_2", now + HOUR, 4)]
    text = "\n".join(["id,at,velocity", *(f"{device},{at},{value}" for device, at, value in rows)])
    summary = node.load("-", "--table", "readings", "--device-column", "id", "--time-column", "at", stdin=text.encode())
    assert summary["exit_code"] == 0
    return node, now


def velocities(node, table="readings"):
    return node.ask("range", table=table, start=LOWEST, end=HIGHEST)["velocity"].to_pylist()


def waiting(node, *arguments):
    done = node.run("quarantine", "list", "--json", *arguments)
    return {(row["device"], row["rows"]) for row in map(json.loads, done.stdout.splitlines())}


def test_a_wrong_clock_loses_nothing_and_poisons_no_answer(sent):
    node, _ = sent
    for step in ["flush", "compact", "restart", "crash"]:
        assert (velocities(node), velocities(node, "~readings")) == ([1], [2, 3, 4])
        assert node.ask("latest", table="readings")["velocity"].to_pylist() == [1]
        assert [table["name"] for table in node.action("stats")[0]["tables"]] == ["readings"]
        assert waiting(node) == {("truck_1", 2), ("truck_2", 1)}
        assert waiting(node, "--device", "*_2") == {("truck_2", 1)}
        if step in ("flush", "compact"):
            node.action(step)
        else:
            node.stop() if step == "restart" else node.kill()
            node.start()


def test_an_operator_releases_what_has_come_true_and_drops_the_rest(sent):
    node, _ = sent
    released = json.loads(node.run("quarantine", "release", "--table", "readings", "--device", "truck_1", "--json").stdout)
    assert released == {"released": 0, "waiting": 2}
    # The node whose clock was behind, and is no more.
    assert node.stop() == 0
    node.flags += ("--set", "engine.max_future=2h")
    node.start()
    assert node.action("quarantine.release", {"table": "readings", "device": "truck_1"}) == [{"released": 1, "waiting": 1}]
    assert velocities(node) == [1, 2]
    assert b"1 rows dropped" in node.run("quarantine", "drop", "--table", "readings", "--device", "truck_1").stdout
    assert waiting(node) == {("truck_2", 1)}
    node.kill()
    node.start()
    assert (velocities(node), waiting(node)) == ([1, 2], {("truck_2", 1)})
    node.action("compact")
    assert (velocities(node), waiting(node)) == ([1, 2], {("truck_2", 1)})
    refused = node.run("quarantine", "drop", "--table", "readings", "--device", "truck_9", check=False)
    assert refused.returncode == 1 and b"truck_9" in refused.stderr and b"readings" in refused.stderr
