#!/usr/bin/env python3
"""Sends rows for a long time with merges running, and checks what must hold: no acknowledgement late, no slowing down,
bounded write amplification, memory within memory_limit, nothing lost. Exit code 0 when all of it holds.

    tests/long/sustained.py [--seconds 1200] [--limit-mib 1024] [--program target/release/tidewell] [--quick]

--quick is for 20 seconds of a build that is not optimised, on a machine that does other things: the same checks, with
bounds on speed that only a stop of seconds breaks.
"""
import argparse
import json
import subprocess
import sys

ACK_P999_MS = 250
LAST_OF_FIRST = 0.85
WRITE_AMPLIFICATION = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1200)
    parser.add_argument("--limit-mib", type=int, default=1024)
    parser.add_argument("--program", default="target/release/tidewell")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    ack_p999_ms, last_of_first = (2_000, 0.4) if args.quick else (ACK_P999_MS, LAST_OF_FIRST)
    command = [
        args.program, "bench", "ingest", "--json", "--seconds", str(args.seconds), "--devices", "1000",
        "--connections", "4", "--in-flight", "4", "--batch-rows", "1000", "--batch-devices", "250",
        "--every", f"{max(args.seconds // (4 if args.quick else 20), 1)}s", "--no-compact", "--set", f"memory_limit={args.limit_mib}MiB",
    ]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        print(f"FAILED: bench ingest ended with {run.returncode}", file=sys.stderr)
        return 1
    report = json.loads(run.stdout)
    intervals = report["intervals"]
    for number, interval in enumerate(intervals, 1):
        print(f"interval {number}: {interval['rows_per_second']:,.0f} rows/s, p999 {interval['ack_ms']['p999']} ms")
    first, last = intervals[0]["rows_per_second"], intervals[-1]["rows_per_second"]
    checks = [
        ("ack p99.9, ms, at most", report["ack_ms"]["p999"], ack_p999_ms, report["ack_ms"]["p999"] <= ack_p999_ms),
        ("last interval of the first, at least", last / first, last_of_first, last >= last_of_first * first),
        (
            "write amplification, below",
            report["write_amplification"]["in_the_end"],
            WRITE_AMPLIFICATION,
            report["write_amplification"]["in_the_end"] < WRITE_AMPLIFICATION,
        ),
        (
            "anonymous memory, MiB, at most",
            report["node_bytes"]["anonymous"] / 2**20,
            args.limit_mib,
            report["node_bytes"]["anonymous"] <= args.limit_mib * 2**20,
        ),
    ]
    for name, found, bound, holds in checks:
        print(f"{'ok' if holds else 'FAILED'}: {name} {bound}: {found:.3f}")
    return 0 if all(holds for *_, holds in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
