"""Owns the timing of nine questions over a fleet's rows with a foreign client, answers decoded; does not load other databases.

    .venv/bin/python benches/questions.py FILE.lp

FILE.lp is line protocol with times in ms: table `fleet`, tag `device` (truck_0000 ...), fields velocity and current_load
among others, one day of rows. The program is TIDEWELL_BIN (default target/release/tidewell). Prints the size after
compaction, then medians of ten askings after two warm ones.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import pyarrow.compute as pc
import pyarrow.flight as flight

PROGRAM = os.environ.get("TIDEWELL_BIN", "target/release/tidewell")
TABLE = "fleet"


def questions(start, end):
    day = {"table": TABLE, "start": start, "end": end}
    hour = day | {"start": end - 3_600 * 10**9}
    one = {"devices": ["truck_0042"]}
    over = {"where": "velocity > 95"}
    window = {"fields": ["velocity"], "aggregates": ["mean"]}
    return {
        "one truck, 1 min mean, min, max": {
            "downsample": day | one | window | {"every": "1m", "aggregates": ["mean", "min", "max"]}
        },
        "all trucks, 1 h mean": {"downsample": day | window | {"every": "1h"}},
        "rows over a threshold by truck, 1 h": {"threshold": hour | over | {"return": "devices"}},
        "rows over a threshold by truck, 24 h": {"threshold": day | over | {"return": "devices"}},
        "intervals over the threshold, 1 h": {"threshold": hour | over | {"return": "intervals"}},
        "intervals over the threshold, 24 h": {"threshold": day | over | {"return": "intervals"}},
        "newest row of all trucks": {"latest": {"table": TABLE}},
        "all rows of one truck": {"range": day | one},
        "mean of one field by truck, 24 h": {"downsample": day | window | {"every": "1d", "fields": ["current_load"]}},
    }


def main():
    lines = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        addresses = [f"--{name}-addr=127.0.0.1:0" for name in ("ingest", "query", "admin")]
        node = subprocess.Popen(
            [PROGRAM, "serve", "--forget", "--log", "warn", "--data-dir", folder, *addresses], stdout=subprocess.PIPE
        )
        try:
            ready = json.loads(node.stdout.readline())
            tls = pathlib.Path(ready["tls_dir"])
            load = ["load", lines, "--precision", "ms", "--device-tag", "device"]
            began = time.perf_counter()
            subprocess.run([PROGRAM, *load, "--node", ready["ingest_addr"], "--tls-dir", tls], check=True)
            seconds = time.perf_counter() - began
            client = flight.FlightClient(
                "grpc+tls://" + ready["query_addr"],
                tls_root_certs=(tls / "ca.pem").read_bytes(),
                cert_chain=(tls / "dev.pem").read_bytes(),
                private_key=(tls / "dev-key.pem").read_bytes(),
            )
            ask(client, seconds)
        finally:
            node.send_signal(signal.SIGTERM)
            node.wait()


def ask(client, seconds):
    def get(question):
        return client.do_get(flight.Ticket(json.dumps(question))).read_all()

    for action in ("flush", "compact"):
        list(client.do_action(flight.Action(action, b"")))
    stats = json.loads(next(iter(client.do_action(flight.Action("stats", b"")))).body.to_pybytes())
    stored = sum(shard["segment_bytes"] for shard in stats["shards"])
    rows = sum(shard["segment_rows"] for shard in stats["shards"])
    fields = len(stats["tables"][0]["fields"])
    print(f"{rows} rows in {seconds:.2f} s ({rows / seconds:.0f} rows/s), {stored / rows / fields:.4f} bytes a value")
    times = get({"range": {"table": TABLE, "start": 0, "end": 2**62, "fields": ["velocity"]}})["time"]
    bounds = pc.min_max(times.cast("int64"))
    start = bounds["min"].as_py()
    for name, question in questions(start, start + 86_400 * 10**9).items():
        taken = []
        for _ in range(12):
            began = time.perf_counter()
            answer = get(question)
            taken.append((time.perf_counter() - began) * 1e3)
        taken = taken[2:]
        print(f"{name:38} {statistics.median(taken):8.2f} ms ({min(taken):.2f} to {max(taken):.2f}), {answer.num_rows} rows")


if __name__ == "__main__":
    main()
