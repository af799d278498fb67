"""Owns what happens to a whole node from outside: no descriptors, no writable folder, a stopped process, a clock that jumps."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from node import report, wait_until

LONG = os.environ.get("TIDEWELL_LONG_TESTS") == "1"
DESCRIPTORS = 128
SMALL = ("--set", "engine.shards=1", "--set", "engine.memtable=2MiB", "--set", "engine.log_file=1MiB", "--set", "engine.seal_age=1s")
MOMENT = 10 if LONG else 3


def healthy(node):
    return node.admin("/healthz")[0] == 200 and node.admin("/readyz")[0] == 200


def poisoned(node):
    return node.metric("tidewell_poisoned") > 0


# --- descriptors


def test_peers_that_only_connect_take_no_descriptor_from_the_data(new_node):
    """Anybody who reaches the query address can connect without a certificate: files must not suffer for it."""
    node = new_node
    node.flags = SMALL
    node.before_exec = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    node.start()
    host, port = node.ready["query_addr"].rsplit(":", 1)
    stop, peers = threading.Event(), []

    def connect():
        while not stop.is_set():
            peer = socket.socket()
            peer.settimeout(0.2)
            try:
                peer.connect((host, int(port)))
                peers.append(peer)
            except OSError:
                peer.close()
                stop.wait(0.02)
            while len(peers) > 4 * DESCRIPTORS:
                peers.pop(0).close()

    # Flushes, merges and new log files all need descriptors while this runs.
    load = node.bench("--devices", 20, "--connections", 2, "--rate", 40_000, "--seconds", MOMENT + 2)
    wait_until(lambda: node.metric("tidewell_flushes_total") > 0, 20)
    crowd = threading.Thread(target=connect)
    crowd.start()
    try:
        wait_until(lambda: len(peers) > DESCRIPTORS)
        flushes, rows = node.metric("tidewell_flushes_total"), node.metric("tidewell_ingest_rows_total")
        wait_until(lambda: node.metric("tidewell_flushes_total") > flushes + 2, 20)
        assert len(os.listdir(f"/proc/{node.process.pid}/fd")) > DESCRIPTORS / 2, "the peers took their part"
        assert healthy(node) and not poisoned(node)
        assert node.metric("tidewell_ingest_rows_total") > rows
    finally:
        stop.set()
        crowd.join()
        for peer in peers:
            peer.close()
    said = report(load)
    assert said["acknowledged_rows"] == said["read_back_rows"] > 0
    assert node.stop() == 0


def test_a_node_without_descriptors_waits_for_them(new_node):
    """Even the last descriptor may go: nothing is lost, nobody has to restart anything."""
    node = new_node
    node.flags = SMALL
    node.start()
    load = node.bench("--devices", 20, "--connections", 2, "--rate", 40_000, "--seconds", 2 * MOMENT)
    wait_until(lambda: node.metric("tidewell_ingest_rows_total") > 0, 20)
    # A bound below what is open already: every open from here on fails, whatever it is for.
    flushes = node.metric("tidewell_flushes_total")
    before = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (8, 20_000))
    time.sleep(MOMENT)
    resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, before)
    assert "Too many open files" in node.log_text(), "the bound was met"
    said = report(load)
    assert said["acknowledged_rows"] == said["read_back_rows"] > 0
    assert healthy(node) and not poisoned(node)
    assert node.metric("tidewell_flushes_total") > flushes
    assert node.stop() == 0
    node.run("verify", node.data_dir)


# --- a folder that cannot be written


def mount(*arguments) -> bool:
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0


def test_a_folder_that_turns_read_only_stops_ingest_by_name_and_is_read_on(new_node):
    node = new_node
    node.flags = SMALL
    node.start()
    load = node.bench("--devices", 20, "--connections", 2, "--rate", 40_000, "--seconds", 300)
    wait_until(lambda: node.metric("tidewell_flushes_total") > 0, 20)
    # A mount over the folder: what the node has open is written on, whatever it opens from here on cannot be.
    if not (mount("--bind", node.data_dir, node.data_dir) and mount("-o", "remount,bind,ro", node.data_dir)):
        load.kill()
        pytest.skip("mounting is not allowed here")
    try:
        wait_until(lambda: poisoned(node), 20)
        health, ready = node.admin("/healthz"), node.admin("/readyz")
        assert health[0] == 503 and '"poisoned_shards":[0]' in health[1], health
        assert ready[0] == 503
        assert "Read-only file system" in node.log_text()
        assert node.metric("tidewell_ingest_nacks_total", code="shard_poisoned") > 0
        acked = node.metric("tidewell_ingest_rows_total")
        assert node.rows("readings") >= acked > 0
    finally:
        load.kill()
        load.wait()
        # Lazily: whatever the node opened to read through it stays readable.
        subprocess.run(["umount", "-l", node.data_dir], check=True)
    # Writable again does not heal a shard: nobody knows what the disk has. A restart does.
    assert poisoned(node)
    node.kill()
    node.start()
    assert healthy(node)
    assert node.rows("readings") >= acked
    said = report(node.bench("--devices", 20, "--connections", 2, "--seconds", 1, "--seed", 2))
    assert said["refused_rows"] == 0
    assert node.stop() == 0
    node.run("verify", node.data_dir)


# --- a process that stands still


def test_a_stopped_process_goes_on_where_it_was(new_node):
    node = new_node
    node.flags = SMALL
    node.start()
    load = node.bench("--devices", 20, "--connections", 2, "--rate", 40_000, "--seconds", 2 * MOMENT + 2)
    wait_until(lambda: node.metric("tidewell_ingest_rows_total") > 0, 20)
    for pause in (MOMENT, 0.3, 0.3):
        node.process.send_signal(signal.SIGSTOP)
        time.sleep(pause)
        node.process.send_signal(signal.SIGCONT)
        assert healthy(node)
    said = report(load)
    assert said["acknowledged_rows"] == said["read_back_rows"] > 0
    assert said["duplicates"] == 0
    assert said["ack_ms"]["max"] >= MOMENT * 900, "the pause was met"
    assert node.stop() == 0


# --- a clock that jumps

CLOCK = r"""
/* Adds the nanoseconds that the file TIDEWELL_TEST_CLOCK begins with to the time of day, and to nothing else. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static const volatile int64_t *offset;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int file = open(getenv("TIDEWELL_TEST_CLOCK"), O_RDONLY);
    offset = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t id, struct timespec *time) {
    int result = real(id, time);
    if (result == 0 && id == CLOCK_REALTIME && offset != MAP_FAILED) {
        int64_t all = time->tv_sec * 1000000000LL + time->tv_nsec + *offset;
        time->tv_sec = all / 1000000000LL;
        time->tv_nsec = all % 1000000000LL;
    }
    return result;
}
"""


@pytest.fixture
def clock(tmp_path, new_node):
    """Sets the node's time of day: `clock(seconds)` away from the machine's."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the clock with")
    source, library, offset = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "offset"
    source.write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)

    def set_clock(seconds: float):
        data = int(seconds * 1e9).to_bytes(8, "little", signed=True)
        if offset.exists():
            with offset.open("r+b") as file:
                file.write(data)
        else:
            offset.write_bytes(data)

    set_clock(0)
    new_node.node_env |= {"LD_PRELOAD": str(library), "TIDEWELL_TEST_CLOCK": str(offset)}
    return set_clock


def test_a_clock_that_jumps_loses_nothing_and_stops_nothing(new_node, clock):
    node = new_node
    node.flags = SMALL
    node.start()
    # Few rows: only its age seals a memtable.
    load = node.bench("--devices", 20, "--connections", 2, "--rate", 400, "--batch-rows", 20, "--seconds", 2 * MOMENT + 6)
    wait_until(lambda: node.metric("tidewell_ingest_rows_total") > 0, 20)
    hour = 3600
    for step in (hour, -hour, 40 * 24 * hour, -2 * hour, 0):
        # The memtable has rows of before the jump.
        time.sleep(0.3)
        clock(step)
        flushes = node.metric("tidewell_flushes_total")
        # Memtables are sealed by their age, whatever the clock says of it.
        wait_until(lambda: node.metric("tidewell_flushes_total") > flushes, 8)
        assert healthy(node)
    said = report(load)
    assert said["acknowledged_rows"] == said["read_back_rows"] > 0
    assert said["duplicates"] == 0
    # A start with a clock that is behind its own files.
    assert node.stop() == 0
    clock(-hour)
    node.start()
    assert node.rows("readings") == said["read_back_rows"]
    node.action("compact")
    assert node.rows("readings") == said["read_back_rows"]
    assert node.stop() == 0
    node.run("verify", node.data_dir)


def test_rows_are_set_aside_by_the_clock_of_the_moment(new_node, clock):
    """The node's clock, an hour behind, hides good rows; set right, it gives them back."""
    node = new_node
    node.start()
    clock(-3600)
    now = time.time_ns()
    lines = f"id,at,v\na,{now},1.5\na,{now - 7200 * 10**9},2.5\n".encode()
    node.load("-", "--table", "t", "--device-column", "id", "--time-column", "at", "--time-unit", "ns", stdin=lines)
    assert node.rows("t") == 1
    clock(0)
    node.run("quarantine", "release", "--table", "t", "--device", "a")
    assert node.rows("t") == 2
    assert node.stop() == 0
