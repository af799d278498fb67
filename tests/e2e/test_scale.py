"""Owns the fast forms of what takes long: merges under a load that does not end, and what very many devices cost."""

import json
import os
import subprocess
import sys

from node import ROOT, binary

LONG = os.environ.get("TIDEWELL_LONG_TESTS") == "1"
SECONDS = 20
# Bytes that a device may cost in memory: while it has rows there, and after a restart.
ACTIVE_BYTES, IDLE_BYTES = 2_000, 150


def test_a_load_of_seconds_keeps_its_pace_and_its_memory():
    program = [sys.executable, ROOT / "tests/long/sustained.py", "--quick"]
    limits = ["--seconds", str(SECONDS), "--limit-mib", "256", "--program", binary()]
    done = subprocess.run([*map(str, program + limits)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "write amplification" in done.stdout


def test_devices_cost_little_and_no_more_the_more_there_are():
    numbers = [1_000, 10_000, *([1_000_000] if LONG else [])]
    command = [binary(), "bench", "devices", "--json", "--devices", ",".join(map(str, numbers))]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=1_800)
    assert done.returncode == 0, done.stderr
    for result in json.loads(done.stdout)["results"]:
        each, ms = result["bytes_per_device"], result["ms"]
        print(result["devices"], each, ms)
        if result["devices"] >= 10_000:
            assert each["active"] <= ACTIVE_BYTES and each["idle"] <= IDLE_BYTES, result
        # A million devices are read in seconds; ten thousand at once.
        assert ms["open"] < 1_000 + result["devices"] / 200, result
        assert ms["latest_compacted"] < 1_000 + result["devices"] / 20, result
