"""Owns the proof that `memory_limit` holds: a load three times as large, wide questions and readers that do not read."""

import os
import threading
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from node import HIGHEST, LOWEST, Node, question, report

LONG = os.environ.get("TIDEWELL_LONG_TESTS") == "1"
LIMIT = (512 if LONG else 128) << 20
SECONDS = 180 if LONG else 6
FIELDS = 10
EVERYTHING = question("range", table="readings", start=LOWEST, end=HIGHEST)


class Watch(threading.Thread):
    """Looks at the node's memory until it is told to stop."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.most, self.done = node, 0, threading.Event()

    def run(self):
        while not self.done.wait(0.05):
            self.most = max(self.most, self.node.anonymous_bytes())


class Reader(threading.Thread):
    """Asks for everything, again and again; rests `pause` seconds behind each piece of an answer."""

    def __init__(self, node, pause, stop):
        super().__init__(daemon=True)
        self.client, self.pause, self.stop = node.connect(), pause, stop
        self.rows, self.refusals, self.failure = 0, [], None

    def run(self):
        while not self.stop.is_set():
            try:
                for piece in self.client.do_get(flight.Ticket(EVERYTHING)):
                    self.rows += piece.data.num_rows
                    if self.pause and self.stop.wait(self.pause):
                        return
            except Exception as error:  # what it must be is asserted by the test
                self.refusals.append(str(error))
                self.stop.wait(0.05)


@pytest.fixture
def small_node(tmp_path):
    # One shard: the memtables' part is not cut up, so that the limit and not the number of shards is what counts.
    node = Node(tmp_path, ("--memory-limit", f"{LIMIT >> 20}MiB", "--set", "engine.shards=1")).start()
    yield node
    if node.process is not None:
        node.kill()


def test_memory_stays_within_its_limit_whatever_is_sent_and_asked(small_node):
    node, stop, sent = small_node, threading.Event(), 0
    node.load("-", "--table", "readings", "--device-column", "id", "--time-column", "at", stdin=b"id,at,velocity\na,2024-05-01T00:00:00Z,1.5\n")
    watch = Watch(node)
    watch.start()
    readers = [Reader(node, pause, stop) for pause in [0] * 6 + [0.5] * 6]
    for reader in readers:
        reader.start()
    begin = time.monotonic()
    loads = 0
    # Each load sends the same keys with other values, as fast as the node takes them.
    while sent < 3 * LIMIT or time.monotonic() < begin + SECONDS:
        loads += 1
        assert time.monotonic() < begin + SECONDS + 60, f"{sent} bytes were sent in time, wanted {3 * LIMIT}"
        load = node.bench("--devices", 200, "--connections", 4, "--fields", FIELDS, "--seconds", 4, "--seed", loads)
        # Each row is a time and its values, eight bytes each, before anything was compressed. What the load itself reads
        # back may be refused: it asks for everything, too.
        out, err = load.communicate(timeout=120)
        refused = load.returncode != 0
        assert not refused or b"memory" in err or b"queries" in err, err.decode()
        sent = node.figure("rows") * (FIELDS + 1) * 8
    stop.set()
    for reader in readers:
        reader.join(60)
    watch.done.set()
    watch.join()
    refusals = [refusal for reader in readers for refusal in reader.refusals]
    print(
        f"{sent / LIMIT:.1f} times the limit was sent; {watch.most / LIMIT:.2f} of it were used; "
        f"{sum(reader.rows for reader in readers)} rows read, {len(refusals)} refusals"
    )
    assert watch.most <= LIMIT, f"{watch.most >> 20} MiB of {LIMIT >> 20}"
    assert sum(reader.rows for reader in readers) > 0, "nobody got an answer"
    assert refusals, "twelve wide questions fit into an eighth of so small a limit"
    for refusal in refusals:
        assert "memory" in refusal or "queries" in refusal, refusal
    # The bounds were met and told, and nothing is held for ever.
    assert node.metric("tidewell_memory_refusals_total", **{"class": "query"}) > 0
    assert node.metric("tidewell_memory_peak_bytes", **{"class": "memtable"}) <= LIMIT * 6 / 16
    deadline = time.monotonic() + 20
    while node.metric("tidewell_memory_used_bytes", **{"class": "query"}) > 0:
        assert time.monotonic() < deadline, "memory of questions that ended is not given back"
        time.sleep(0.1)
    assert node.admin("/readyz")[0] == 200


def test_readers_that_hardly_read_cost_neither_memory_nor_the_answers_of_others(small_node):
    """Each holds the rows that were in memory when it asked; those are flushed under it, and their memory is needed."""
    node, stop = small_node, threading.Event()
    load = node.bench("--devices", 200, "--connections", 4, "--fields", FIELDS, "--seconds", 8)
    deadline = time.monotonic() + 20
    while node.metric("tidewell_ingest_rows_total") == 0:
        assert time.monotonic() < deadline, "the load does not begin"
        time.sleep(0.02)
    share = node.metric("tidewell_memory_share_bytes", **{"class": "query"})
    slow, most, quick = [], 0, 0
    while load.poll() is None and len(slow) < 16:
        # One piece of the answer, and no more until the end.
        try:
            reader = node.connect().do_get(flight.Ticket(EVERYTHING))
            reader.read_chunk()
            slow.append(reader)
        except pa.ArrowException as error:
            assert "memory" in str(error) or "queries" in str(error), error
        time.sleep(0.3)
        most = max(most, node.metric("tidewell_memory_used_bytes", **{"class": "query"}))
        try:
            assert node.ask("latest", table="readings", fields=["velocity"]).num_rows > 0
            quick += 1
        except pa.ArrowException as error:
            assert "memory" in str(error) or "queries" in str(error), error
    load.kill()
    load.wait()
    ends = []
    for reader in slow:
        try:
            for _ in reader:
                pass
            ends.append("whole")
        except Exception as error:  # what it must be is asserted below
            ends.append(str(error))
    told = [end for end in ends if "written to disk" in end]
    print(f"{len(slow)} slow readers, {len(told)} ended by name; {quick} quick answers; at most {most / share:.1f} of the share")
    assert told, "somebody's rows were flushed long ago"
    assert all(end == "whole" or "memory" in end for end in ends), ends
    assert quick >= len(slow) / 2, "others wait for readers that do not read"
    assert most <= 3 * share, "one memtable more than the share, and what is ended at the moment"
