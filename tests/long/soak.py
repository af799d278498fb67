#!/usr/bin/env python3
"""Runs one node for a long time under all that it can do at once: load, questions, slow readers, merges, deletes, retention,
backups, ends in order and ends by kill -9. What a node holds must be flat in the end: memory, descriptors, threads, files.

    tests/long/soak.py [--seconds 3600] [--limit-mib 256] [--program target/release/tidewell]

Needs the Python packages of tests/requirements.txt. Prints a line for each round; exit code 0 when all of it holds.
"""
import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

DAY_NS = 86_400 * 10**9
DEVICES = 500
# A node ends after so many rounds, in turn by SIGTERM and by kill -9.
ROUNDS_PER_START = 4


class Asker(threading.Thread):
    """Asks one kind of question again and again until it is told to stop; counts answers and refusals."""

    def __init__(self, node, kind, pause, stop):
        super().__init__(daemon=True)
        self.node, self.kind, self.pause, self.stop = node, kind, pause, stop
        self.answers, self.refusals, self.wrong = 0, 0, []

    def request(self, chance):
        from node import HIGHEST, LOWEST, question

        truck = f"truck_{chance.randrange(DEVICES):06}"
        start = 1_704_067_200 * 10**9
        span = {"table": "readings", "start": start, "end": start + 30 * DAY_NS}
        return {
            "wide": lambda: question("range", table="readings", start=LOWEST, end=HIGHEST),
            "range": lambda: question("range", devices=[truck], **span),
            "latest": lambda: question("latest", table="readings", fields=["velocity"]),
            "downsample": lambda: question("downsample", every="1h", fields=["velocity"], aggregates=["mean", "max"], **span),
            "threshold": lambda: question("threshold", where="velocity > 80", return_="intervals", **span),
        }[self.kind]()

    def run(self):
        import pyarrow as pa
        import pyarrow.flight as flight

        chance, client = random.Random(self.kind), self.node.connect()
        while not self.stop.is_set():
            try:
                rows = 0
                for piece in client.do_get(flight.Ticket(self.request(chance)), flight.FlightCallOptions(timeout=60)):
                    rows += piece.data.num_rows
                    if self.stop.wait(self.pause):
                        break
                self.answers += 1
            except (flight.FlightUnavailableError, flight.FlightTimedOutError, flight.FlightInternalError, pa.ArrowException) as error:
                # Memory that is not free is told by name; anything else is a failure of the test.
                if "memory" in str(error) or "queries" in str(error):
                    self.refusals += 1
                elif not self.stop.is_set():
                    self.wrong.append(str(error))
                self.stop.wait(0.2)
        client.close()


def figures(node):
    """What the node holds: bytes, descriptors, threads, files and their bytes."""
    process = Path(f"/proc/{node.process.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    files = [path.stat().st_size for path in node.data_dir.rglob("*") if path.is_file()]
    return {
        "anonymous": int(status["RssAnon"].split()[0]) / 1024,
        "descriptors": len(os.listdir(process / "fd")),
        "threads": int(status["Threads"]),
        "files": len(files),
        "stored": sum(files) / 2**20,
    }


def put(node, table, days_ago, rows, chance):
    """Bulk rows of a table, of a day in the past."""
    start = time.time_ns() - days_ago * DAY_NS
    lines = [f"d{chance.randrange(50)},{start + n * 10**9},{chance.random()}" for n in range(rows)]
    text = "\n".join(["id,at,v", *lines]) + "\n"
    node.load("-", "--table", table, "--device-column", "id", "--time-column", "at", "--time-unit", "ns", stdin=text.encode())


def one_round(node, seconds, number, chance):
    """A load with everything beside it; rows acknowledged, answers, refusals."""
    from node import report

    stop = threading.Event()
    kinds = [("wide", 0), ("wide", 0.5), ("range", 0.01), ("latest", 0.05), ("downsample", 0.1), ("threshold", 0.1)]
    load = node.bench(
        "--devices", DEVICES, "--connections", 4, "--batch-rows", 500, "--batch-devices", 50, "--rate", 60_000,
        "--seconds", seconds, "--late", 5, "--duplicates", 1, "--seed", number % 7,
    )
    # The first question of the run has no table yet.
    deadline = time.monotonic() + 20
    while node.metric("tidewell_ingest_rows_total") == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    askers = [Asker(node, kind, pause, stop) for kind, pause in kinds]
    for asker in askers:
        asker.start()
    # Something to give up: by age, and by name.
    node.action("retention.set", {"table": "fleeting", "raw": "forever"}) if number else None
    put(node, "fleeting", 10, 20_000, chance)
    node.action("flush")
    node.action("retention.set", {"table": "fleeting", "raw": "2d"})
    put(node, "unloved", 1, 20_000, chance)
    node.action("delete", {"devices": [f"d{n}" for n in range(50)], "table": "unloved"})
    if number % 3 == 0:
        node.action("backup")
        node.action("backup.prune", {"keep": 1})
    out, err = load.communicate(timeout=seconds + 180)
    stop.set()
    for asker in askers:
        asker.join(90)
    if load.returncode != 0 and not (b"memory" in err or b"queries" in err):
        raise AssertionError(f"the load failed: {err.decode()}")
    wrong = [text for asker in askers for text in asker.wrong]
    assert not wrong, wrong[:3]
    return sum(asker.answers for asker in askers), sum(asker.refusals for asker in askers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--limit-mib", type=int, default=256)
    parser.add_argument("--program", default="target/release/tidewell")
    args = parser.parse_args()
    os.environ["TIDEWELL_BIN"] = str(Path(args.program).resolve())
    from node import Node

    chance, rounds = random.Random(1), []
    load_seconds = 8 if args.seconds < 300 else 20
    with tempfile.TemporaryDirectory(prefix="tidewell-soak-") as folder:
        backups = Path(folder) / "backups"
        flags = ("--memory-limit", f"{args.limit_mib}MiB", "--set", "engine.shards=2", "--set", "engine.seal_age=10s")
        node = Node(Path(folder), (*flags, "--set", f"backup.destinations={backups}")).start()
        begin = time.monotonic()
        most = {"anonymous": 0.0}
        done = threading.Event()

        def watch():
            while not done.wait(0.1):
                try:
                    most["anonymous"] = max(most["anonymous"], node.anonymous_bytes() / 2**20)
                except (OSError, AttributeError, StopIteration):
                    pass  # between two starts there is no process to look at

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        print("round  minutes  rows/s  answers  refused  MiB  descriptors  threads  files  stored MiB  end", flush=True)
        while time.monotonic() < begin + args.seconds or len(rounds) < ROUNDS_PER_START:
            number, started = len(rounds), time.monotonic()
            before = node.metric("tidewell_ingest_rows_total")
            answers, refused = one_round(node, load_seconds, number, chance)
            rate = (node.metric("tidewell_ingest_rows_total") - before) / (time.monotonic() - started)
            # Merged to the end, so that rounds can be compared.
            node.action("flush")
            node.action("compact")
            held = figures(node)
            rounds.append(held)
            last = number % ROUNDS_PER_START == ROUNDS_PER_START - 1
            how = ("kill -9" if number // ROUNDS_PER_START % 2 else "SIGTERM") if last else ""
            print(
                f"{number:5}  {(time.monotonic() - begin) / 60:7.1f}  {rate:6.0f}  {answers:7}  {refused:7}  {held['anonymous']:3.0f}"
                f"  {held['descriptors']:11}  {held['threads']:7}  {held['files']:5}  {held['stored']:10.1f}  {how}",
                flush=True,
            )
            if last:
                if how == "SIGTERM":
                    assert node.stop() == 0, node.log_text()
                else:
                    node.kill()
                node.start()
        assert node.stop() == 0, node.log_text()
        done.set()
        watcher.join()
        node.run("verify", node.data_dir)
        if "panicked" in node.log.read_text(errors="replace"):
            print("FAILED: a panic is in the log", file=sys.stderr)
            return 1
    return judge(rounds, most["anonymous"], args.limit_mib)


def judge(rounds, most_mib, limit_mib) -> int:
    """Compares the last third of the rounds with the first; the very first fills what is empty in the beginning."""
    warm = rounds[1:] if len(rounds) < 12 else rounds[ROUNDS_PER_START:]
    third = max(len(warm) // 3, 1)
    failed = most_mib > limit_mib
    print(f"{'FAILED' if failed else 'ok'}: anonymous memory at most {limit_mib} MiB: {most_mib:.1f}")
    # What may be added on top is what one more of its kind is: a block of threads, files of a merge under way.
    for name, slack in [("anonymous", 16), ("descriptors", 8), ("threads", 8), ("files", 24), ("stored", 32)]:
        first = statistics.median(held[name] for held in warm[:third])
        last = statistics.median(held[name] for held in warm[-third:])
        grown = last > 1.15 * first + slack
        failed |= grown
        print(f"{'FAILED' if grown else 'ok'}: {name}: median {first:.1f} in the first third, {last:.1f} in the last")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
