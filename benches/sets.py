#!/usr/bin/env python3
"""Owns the stored size of real telemetry: loads each data set into a fresh node and prints what it takes on disk.

    cargo build --release
    .venv/bin/python benches/sets.py [SET ...] [--beside]

With --beside the rows that the node answers are stored in Parquet, DuckDB, ClickHouse (chdb) and VictoriaMetrics, too, as far as
those are installed.

The data folder is TIDEWELL_DATA (default ../shared/data next to the repository), the program TIDEWELL_BIN (default
target/release/tidewell). Needs Python 3.10 and pyarrow; tests/run makes such an environment in .venv. Rows are counted by
reading all of them back after flush and compaction, so a row that was acknowledged and lost ends the run.
"""

import argparse
import csv
import json
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight

import peers

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TIDEWELL_DATA") or ROOT / ".." / "shared" / "data").resolve()
BINARY = Path(os.environ.get("TIDEWELL_BIN") or ROOT / "target" / "release" / "tidewell").resolve()

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
CALL_SECONDS_MAX = 600
LOWEST, HIGHEST = -(2**63), 2**63 - 1
# 2025-01-01T00:00:00Z, where the time of values without one starts.
MADE_UP_START_S = 1_735_689_600


@dataclass
class DataSet:
    """What is loaded, as arguments of `tidewell load`, one list per call."""

    title: str
    loads: list[list]
    notes: list[str] = field(default_factory=list)


def files(pattern: str) -> list[Path]:
    found = sorted(DATA.glob(pattern))
    if not found:
        sys.exit(f"{DATA / pattern}: no such file; name the data folder with TIDEWELL_DATA")
    return found


def stem(file: Path) -> str:
    return file.name.split(".")[0]


# --- the sets; each takes a folder for files that it has to make


def bikes(_: Path) -> DataSet:
    """The bike is text with a thousands comma; the pseudonym of the rider stays out."""
    flags = ["--table", "positions", "--device-column", "Bike", "--device-prefix", "bike_", "--device-strip", ","]
    flags += ["--time-column", "Date", "--skip-lines", "2", "--exclude", "User ID"]
    flags += ["--rename", "Route ID=route", "--rename", "Latitude=lat", "--rename", "Longitude=lon"]
    return DataSet("fleet-valleybike: e-bike GPS", [[*files("fleet-valleybike/*.csv.gz"), *flags]])


def car(_: Path) -> DataSet:
    """The date is in the file's name only, and the headers of two years differ by a broken degree sign."""
    names = ["coolant", "pressure", "rpm", "speed", "intake", "flow", "throttle", "ambient", "pedal_d", "pedal_e"]
    types = ",".join(f"{name}=f64" for name in names[1:]) + ",coolant=i64"
    loads = []
    for file in files("vehicle-obd-kit/*.csv.zst"):
        with pa.input_stream(str(file), compression="zstd") as stream:
            header = stream.read(4_096).split(b"\n")[0].decode().strip().split(",")
        flags = ["--table", "obd", "--device", "seat_leon", "--time-column", "Time", "--time-zone", "Europe/Berlin"]
        flags += ["--time-prefix", f"{file.name[:10]} ", "--types", types]
        for title, name in zip(header[1:], names, strict=True):
            flags += ["--rename", f"{title}={name}"]
        loads.append([file, *flags])
    return DataSet("vehicle-obd-kit: car, 90 ms", loads)


def pump(_: Path) -> DataSet:
    """Runs of the same number in several folders are different runs."""
    loads = []
    for folder in ("anomaly-free", "other", "valve1", "valve2"):
        flags = ["--table", "pump", "--device", f"bench/{folder}/{{file}}", "--time-column", "datetime"]
        if folder != "anomaly-free":
            flags += ["--types", "anomaly=bool,changepoint=bool"]
        loads.append([*files(f"machine-skab/{folder}/*.csv.zst"), *flags])
    return DataSet("machine-skab: pump, 1 s, from f32", loads)


def meters(_: Path) -> DataSet:
    flags = ["--table", "meter", "--device-column", "LCLid", "--time-column", "tstp", "--rename", "energy(kWh/hh)=kwh"]
    return DataSet("energy-london-meters 2013: 30 min", [[*files("energy-london-meters/2013/*.csv.zst"), *flags]])


def air(_: Path) -> DataSet:
    """The time is in four columns; missing values are `NA`."""
    flags = ["--table", "air", "--device-column", "station", "--time-column", "year,month,day,hour"]
    flags += ["--time-format", "%Y %m %d %H", "--null", "NA", "--exclude", "No", "--types", "*=f64"]
    return DataSet("environment-beijing-air: 1 h", [[*files("environment-beijing-air/*.csv.zst"), *flags]])


def rooms(_: Path) -> DataSet:
    """A file for each series: rows of a room are sparse and meet in the node."""
    fields = {
        "Brightness": "brightness=f64",
        "Humidity": "humidity=i64",
        "Temperature": "temperature=f64",
        "SetpointHistory": "setpoint=f64",
        "ThermostatTemperature": "thermostat=f64",
        "OutdoorTemperature": "outdoor=f64",
        "Virtual_OutdoorTemperature": "virtual_outdoor=f64",
        "left_ThermostatTemperature": "thermostat_left=f64",
        "right_ThermostatTemperature": "thermostat_right=f64",
    }
    loads = []
    for file in files("environment-smart-home/*.csv.zst"):
        room, quantity = stem(file).split("_", 1)
        name = fields[quantity].split("=")[0]
        flags = ["--table", "room", "--device", room, "--columns", f"time,{name}", "--time-column", "time"]
        loads.append([file, *flags, "--delimiter", "tab", "--types", fields[quantity]])
    return DataSet("environment-smart-home: sparse, 10 min", loads)


def servers(_: Path) -> DataSet:
    loads = []
    for folder in ("realAWSCloudwatch", "realAdExchange", "realKnownCause", "realTraffic", "realTweets"):
        flags = ["--table", folder, "--device", "{file}", "--time-column", "timestamp"]
        loads.append([*files(f"server-nab/{folder}/*.csv.zst"), *flags])
    return DataSet("server-nab: 47 series, 5 min", loads)


def solar(_: Path) -> DataSet:
    """Latin-1, decimal comma, damaged lines. The second clock of each row tells nothing that the time does not."""
    flags = ["--table", "controller", "--device", "solar_controller", "--time-column", "Datum & Uhrzeit"]
    flags += ["--encoding", "latin-1", "--time-format", "%d.%m.%Y %H:%M", "--time-zone", "+01:00", "--decimal-comma"]
    flags += ["--delimiter", "tab", "--exclude", "Systemzeit,Systemdatum", "--on-error", "skip"]
    return DataSet("messy-solar-plant: controller, 1 min", [[*files("messy-solar-plant/*/*/*.csv.zst"), *flags]])


def parking(_: Path) -> DataSet:
    flags = ["--table", "parking", "--device-column", "SystemCodeNumber", "--time-column", "LastUpdated"]
    return DataSet("messy-parking: integers, 30 min", [[*files("messy-parking/*.csv.zst"), *flags]])


def weather(_: Path) -> DataSet:
    return DataSet("line-protocol-noaa: 1 d", [[*files("line-protocol-noaa/*.lp.zst"), "--device-tag", "location"]])


def floats(folder: Path) -> DataSet:
    """Columns without times: one second between values is made up."""
    made = []
    for file in files("float-columns/elf/*.csv.zst") + files("float-columns/alp/*.bin.zst"):
        with pa.input_stream(str(file), compression="zstd") as stream:
            stored = stream.read()
        if file.name.endswith(".bin.zst"):
            values = map(repr, memoryview(stored).cast("d"))
        else:
            values = (v for v in map(str.strip, stored.decode().splitlines()) if v not in ("", '""'))
        out = folder / f"{stem(file)}.csv"
        with out.open("w", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(["time", "value"])
            writer.writerows((MADE_UP_START_S + at, value) for at, value in enumerate(values))
        made.append(out)
    flags = ["--table", "column", "--device", "{file}", "--time-column", "time", "--time-unit", "s", "--types", "value=f64"]
    return DataSet("float-columns: elf, alp", [[*made, *flags]], ["float-columns has no times; steps of 1 s are made up"])


SETS = {
    "bikes": bikes,
    "car": car,
    "pump": pump,
    "meters": meters,
    "air": air,
    "rooms": rooms,
    "servers": servers,
    "solar": solar,
    "parking": parking,
    "weather": weather,
    "floats": floats,
}


# --- the node


class Node:
    """A process with a data directory of its own; SIGTERM at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("TIDEWELL_")}
        # Nobody else's note about the last node, neither read nor written.
        self.env["XDG_STATE_HOME"] = str(folder / "state")

    def __enter__(self) -> "Node":
        command = [BINARY, "serve", "--data-dir", self.folder / "data"]
        for name in ("ingest", "query", "admin"):
            command += [f"--{name}-addr", "127.0.0.1:0"]
        log_path = self.folder / "node.log"
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=self.env)
        readable, _, _ = select.select([self.process.stdout], [], [], START_SECONDS_MAX)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            self.process.kill()
            sys.exit(f"the node did not become ready:\n{log_path.read_text(errors='replace')}")
        ready = json.loads(line)
        tls = {name: (Path(ready["tls_dir"]) / f"{name}.pem").read_bytes() for name in ("ca", "dev", "dev-key")}
        self.client = flight.FlightClient(
            f"grpc+tls://{ready['query_addr']}",
            tls_root_certs=tls["ca"],
            cert_chain=tls["dev"],
            private_key=tls["dev-key"],
        )
        return self

    def __exit__(self, *_) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_SECONDS_MAX)
        self.process.stdout.close()

    def load(self, arguments: list) -> dict:
        command = [str(BINARY), "load", "--json", "--quiet", *map(str, arguments)]
        done = subprocess.run(command, env=self.env, capture_output=True, timeout=CALL_SECONDS_MAX)
        if not done.stdout:
            sys.exit(f"load failed: {done.stderr.decode()[-4_000:]}")
        summary = json.loads(done.stdout)
        # Bad lines end with code 1 as well; the sets have some, and they are counted.
        if summary["stopped"] or summary["refused_rows"] or summary["acknowledged_rows"] != summary["rows"]:
            sys.exit(f"load did not send everything: {summary} {done.stderr.decode()[-4_000:]}")
        return summary

    def action(self, name: str) -> dict:
        options = flight.FlightCallOptions(timeout=CALL_SECONDS_MAX)
        (result,) = self.client.do_action(flight.Action(name, b""), options)
        return json.loads(result.body.to_pybytes())

    def segments(self) -> dict:
        """Bytes and rows of all live segments."""
        shards = self.action("stats")["shards"]
        return {name: sum(shard[f"segment_{name}"] for shard in shards) for name in ("bytes", "rows")}

    def read(self, table: str) -> pa.Table:
        question = {"range": {"table": table, "start": LOWEST, "end": HIGHEST}}
        options = flight.FlightCallOptions(timeout=CALL_SECONDS_MAX)
        return self.client.do_get(flight.Ticket(json.dumps(question).encode()), options).read_all()


@dataclass
class Outcome:
    """One line of the table."""

    title: str
    rows: int
    values: int
    # Values of fields that are not the same in all rows.
    varying: int
    hot: int
    stored: int
    sent: int
    seconds: float
    bad_lines: int
    notes: list[str]
    # Bytes of the same rows in other stores, by name.
    beside: dict[str, int | None]

    @property
    def cells(self) -> list[str]:
        others = ["" if taken is None else f"{taken:,}" for taken in self.beside.values()]
        return [
            self.title,
            f"{self.rows:,}",
            f"{self.values:,}",
            f"{self.stored:,}",
            f"{self.stored / self.values:.2f}",
            f"{self.hot / self.values:.2f}",
            f"{self.sent / self.seconds:,.0f}",
            *others,
        ]


HEADER = ["set", "rows", "values", "bytes stored", "bytes/value", "after flush", "load rows/s"]


def measure(data_set: DataSet, folder: Path, stores: list[str]) -> Outcome:
    with Node(folder) as node:
        summaries = [node.load(arguments) for arguments in data_set.loads]
        node.action("flush")
        hot = node.segments()
        node.action("compact")
        cold = node.segments()
        rows = values = varying = 0
        answers = {}
        for table in sorted({name for summary in summaries for name in summary["tables"]}):
            answer = node.read(table)
            if stores:
                answers[table] = answer
            rows += answer.num_rows
            for column in answer.columns[2:]:
                present = len(column) - column.null_count
                values += present
                varying += present if pc.count_distinct(column).as_py() > 1 else 0
        if rows != cold["rows"]:
            sys.exit(f"{data_set.title}: {rows} rows are read back, {cold['rows']} are stored")
    beside = {store: peers.measure(store, folder / store, answers) for store in stores}
    return Outcome(
        data_set.title,
        rows,
        values,
        varying,
        hot["bytes"],
        cold["bytes"],
        sum(summary["acknowledged_rows"] for summary in summaries),
        sum(summary["seconds"] for summary in summaries),
        sum(summary["bad_lines"] for summary in summaries),
        data_set.notes,
        beside,
    )


def remarks(outcome: Outcome) -> list[str]:
    found = list(outcome.notes)
    name = outcome.title.split(":")[0]
    if outcome.varying != outcome.values:
        each = outcome.stored / outcome.varying
        found.append(f"{name}: {each:.2f} bytes a value when fields that never change are not counted ({outcome.varying:,} values)")
    if outcome.sent != outcome.rows:
        found.append(f"{name}: {outcome.sent:,} rows were sent; those of one device and time are one row")
    if outcome.bad_lines:
        found.append(f"{name}: {outcome.bad_lines:,} damaged lines were skipped")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Stored size of real telemetry")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"which of {', '.join(SETS)}; default: all")
    parser.add_argument("--beside", action="store_true", help="store the same rows in other stores, too")
    arguments = parser.parse_args()
    names = arguments.sets or list(SETS)
    stores = list(peers.STORES) if arguments.beside else []
    unknown = [name for name in names if name not in SETS]
    if unknown:
        parser.error(f"no set called {', '.join(unknown)}; there are {', '.join(SETS)}")
    if not BINARY.exists():
        sys.exit(f"{BINARY} is missing: run `cargo build --release`, or name the program with TIDEWELL_BIN")
    version = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{version}, {os.cpu_count()} processors, {platform.system()} {platform.machine()}\n")
    header = [*HEADER, *stores]
    print("| " + " | ".join(header) + " |")
    print("|---" + "|---:" * (len(header) - 1) + "|", flush=True)
    outcomes = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="tidewell-sets-") as folder:
            made = Path(folder) / "made"
            made.mkdir()
            outcomes.append(measure(SETS[name](made), Path(folder), stores))
        print("| " + " | ".join(outcomes[-1].cells) + " |", flush=True)
    print()
    for remark in [remark for outcome in outcomes for remark in remarks(outcome)]:
        print(f"- {remark}.")


if __name__ == "__main__":
    main()
