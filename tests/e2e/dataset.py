"""Owns where the real data sets lie and how they are read independently of the program; does not load them into a node."""

import gzip
import io
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zstandard

from node import ROOT
from reference import SECOND, Column, Frame, frame

FOLDER = Path(os.environ.get("TIDEWELL_DATA") or ROOT / ".." / "shared" / "data").resolve()


def path(relative: str) -> Path:
    """A stored file; its test is skipped where the data are not."""
    file = FOLDER / relative
    if not file.exists():
        pytest.skip(f"no real data: {file} is missing; name the folder with TIDEWELL_DATA")
    return file


def read(file: Path) -> bytes:
    """The uncompressed bytes."""
    stored = file.read_bytes()
    if file.suffix == ".gz":
        return gzip.decompress(stored)
    if file.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stored)) as reader:
            return reader.read()
    return stored


def text(file: Path, encoding: str = "utf-8") -> io.StringIO:
    return io.StringIO(read(file).decode(encoding))


@dataclass
class DataSet:
    """How a data set is loaded, and the rows that a node must then hold."""

    table: str
    loads: list[list]
    frame: Frame
    rows_written: int

    @property
    def keys(self) -> int:
        return sum(len(series.times) for series in self.frame.values())


def cells(values: pd.Series, kind: str) -> Column:
    """A column of a file; what the reader took for missing is null."""
    valid = values.notna().to_numpy()
    if kind == "utf8":
        return Column(values.where(valid, "").to_numpy(dtype=object), valid)
    if kind == "bool":
        return Column(values.where(valid, 0).to_numpy(dtype=float) != 0, valid)
    return Column(values.where(valid, 0).to_numpy(dtype=np.float64 if kind == "f64" else np.int64), valid)


def times(values: pd.Series, zone: str = "UTC") -> np.ndarray:
    moments = pd.to_datetime(values)
    if moments.dt.tz is None:
        moments = moments.dt.tz_localize(zone)
    return moments.dt.as_unit("ns").astype("int64").to_numpy()


def data_set(table: str, loads: list[list], parts: list[tuple], kinds: dict[str, str]) -> DataSet:
    """`parts`: devices (or one), times, and a pandas table whose columns are named as the fields."""
    devices = np.concatenate([np.broadcast_to(np.asarray(d, dtype=object), len(t)) for d, t, _ in parts])
    moments = np.concatenate([t for _, t, _ in parts])
    together = pd.concat([p.reindex(columns=list(kinds)) for _, _, p in parts], ignore_index=True)
    columns = {name: cells(together[name], kind) for name, kind in kinds.items()}
    return DataSet(table, loads, frame(devices, moments, columns), len(moments))


@cache
def air() -> DataSet:
    """Beijing: nulls field by field, a text with 16 values, a time in four columns."""
    files = [path(f"environment-beijing-air/PRSA_Data_{name}_20130301-20170228.csv.zst") for name in ("Dongsi", "Huairou", "Tiantan")]
    parts = []
    for file in files:
        rows = pd.read_csv(text(file), na_values=["NA"], keep_default_na=False)
        parts.append((rows["station"], times(pd.to_datetime(rows[["year", "month", "day", "hour"]])), rows))
    numbers = ["PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "WSPM"]
    flags = ["--table", "air", "--device-column", "station", "--time-column", "year,month,day,hour"]
    flags += ["--time-format", "%Y %m %d %H", "--null", "NA", "--exclude", "No", "--types", "*=f64"]
    return data_set("air", [[*files, *flags]], parts, {name: "f64" for name in numbers} | {"wd": "utf8"})


@cache
def rooms() -> DataSet:
    """Smart home: one field per file, so rows of a room are sparse and meet only in the node."""
    kinds = {"brightness": "f64", "temperature": "f64", "thermostat": "f64", "setpoint": "f64", "humidity": "i64"}
    names = ["Brightness", "Temperature", "ThermostatTemperature", "SetpointHistory", "Humidity"]
    loads, parts = [], []
    for room in ("Kitchen", "Room1"):
        for field, name in zip(kinds, names):
            file = path(f"environment-smart-home/{room}_{name}.csv.zst")
            rows = pd.read_csv(text(file), sep="\t", names=["time", field])
            parts.append((room, rows["time"].to_numpy(dtype=np.int64) * SECOND, rows))
            flags = ["--table", "room", "--device", room, "--columns", f"time,{field}", "--time-column", "time"]
            loads.append([file, *flags, "--delimiter", "tab", "--types", f"{field}={kinds[field]}"])
    return data_set("room", loads, parts, kinds)


@cache
def machine() -> DataSet:
    """NAB: an hour that comes twice with other values, and twelve rows on one time."""
    names = ["machine_temperature_system_failure", "ec2_request_latency_system_failure"]
    files = [path(f"server-nab/realKnownCause/{name}.csv.zst") for name in names]
    tables = [pd.read_csv(text(file)) for file in files]
    parts = [(name, times(rows["timestamp"]), rows) for name, rows in zip(names, tables)]
    flags = ["--table", "known_cause", "--device", "{file}", "--time-column", "timestamp", "--types", "value=f64"]
    return data_set("known_cause", [[*files, *flags]], parts, {"value": "f64"})


@cache
def traffic() -> DataSet:
    """NAB: integers at irregular times, days without rows."""
    names = ["speed_7578", "speed_t4013", "TravelTime_387"]
    files = [path(f"server-nab/realTraffic/{name}.csv.zst") for name in names]
    tables = [pd.read_csv(text(file)) for file in files]
    parts = [(name, times(rows["timestamp"]), rows) for name, rows in zip(names, tables)]
    flags = ["--table", "traffic", "--device", "{file}", "--time-column", "timestamp"]
    return data_set("traffic", [[*files, *flags]], parts, {"value": "i64"})


@cache
def meters() -> DataSet:
    """London: steady half hours, values padded with blanks."""
    names = ["MAC000010", "MAC000002", "MAC000016", "MAC000037"]
    files = [path(f"energy-london-meters/2013/{name}.csv.zst") for name in names]
    parts = []
    for file in files:
        rows = pd.read_csv(text(file), skipinitialspace=True).rename(columns={"energy(kWh/hh)": "kwh"})
        parts.append((rows["LCLid"], times(rows["tstp"]), rows))
    flags = ["--table", "meter", "--device-column", "LCLid", "--time-column", "tstp", "--rename", "energy(kWh/hh)=kwh"]
    return data_set("meter", [[*files, *flags]], parts, {"kwh": "f64"})


@cache
def raw_meter() -> DataSet:
    """London as published: duplicate rows, seven digits of a second, one reading `Null`."""
    file = path("energy-london-meters/raw/MAC000002.csv.zst")
    rows = pd.read_csv(text(file), skipinitialspace=True, na_values=["Null", "Null "])
    rows = rows.rename(columns={rows.columns[2]: "kwh"})
    parts = [(rows["LCLid"], times(rows["DateTime"].str.strip()), rows)]
    flags = ["--table", "raw_meter", "--device-column", "LCLid", "--time-column", "DateTime", "--null", "Null"]
    return data_set("raw_meter", [[file, *flags, "--rename", "KWH/hh (per half hour)=kwh"]], parts, {"kwh": "f64"})


@cache
def bikes() -> DataSet:
    """ValleyBike: 162 devices in order of trips, long doubles, texts of many values, `"1,072"` as id."""
    file = path("fleet-valleybike/VB_Routes_Data_2019_09_10.csv.gz")
    rows = pd.read_csv(text(file), skiprows=2, dtype={"Bike": str})
    rows = rows.rename(columns={"Route ID": "route", "Latitude": "lat", "Longitude": "lon"})
    moments = times(pd.to_datetime(rows["Date"], format="ISO8601", utc=True))
    parts = [("bike_" + rows["Bike"].str.replace(",", ""), moments, rows)]
    flags = ["--table", "positions", "--device-column", "Bike", "--device-prefix", "bike_", "--device-strip", ",", "--time-column", "Date"]
    flags += ["--skip-lines", "2", "--exclude", "User ID", "--rename", "Route ID=route", "--rename", "Latitude=lat", "--rename", "Longitude=lon"]
    return data_set("positions", [[file, *flags]], parts, {"lat": "f64", "lon": "f64", "route": "utf8"})


@cache
def parking() -> DataSet:
    """Birmingham: integers, 216 exact duplicates, irregular steps."""
    file = path("messy-parking/dataset.csv.zst")
    rows = pd.read_csv(text(file)).rename(columns={"Capacity": "capacity", "Occupancy": "occupancy"})
    parts = [(rows["SystemCodeNumber"], times(rows["LastUpdated"]), rows)]
    flags = ["--table", "parking", "--device-column", "SystemCodeNumber", "--time-column", "LastUpdated"]
    flags += ["--rename", "Capacity=capacity", "--rename", "Occupancy=occupancy"]
    return data_set("parking", [[file, *flags]], parts, {"capacity": "i64", "occupancy": "i64"})


@cache
def weather() -> DataSet:
    """NOAA: line protocol with an escaped blank in a tag."""
    file = path("line-protocol-noaa/bay-area-weather.lp.zst")
    fields = ["wind_avg", "precip", "temp_avg", "temp_max", "temp_min"]
    devices, moments, rows = [], [], []
    for line in text(file):
        if line.strip():
            # The escaped blank is the only blank that is not between two parts.
            key, pairs, moment = line.strip().replace("\\ ", "\0").split(" ")
            devices.append(key.removeprefix("weather,location=").replace("\0", " "))
            rows.append({name: float(value) for name, value in (pair.split("=") for pair in pairs.split(","))})
            moments.append(int(moment))
    parts = [(devices, np.array(moments, dtype=np.int64), pd.DataFrame(rows))]
    return data_set("weather", [[file, "--device-tag", "location"]], parts, {name: "f64" for name in fields})


@cache
def trips() -> DataSet:
    """OBD: ten signals every 90 ms, times of day in local time, clock steps backwards."""
    kinds = ["i64"] + ["f64"] * 9
    names = ["coolant", "pressure", "rpm", "speed", "intake", "flow", "throttle", "ambient", "pedal_d", "pedal_e"]
    loads, parts = [], []
    for day in ("2018-02-14", "2018-02-22"):
        file = path(f"vehicle-obd-kit/{day}_Seat_Leon_RT_S_Normal.csv.zst")
        rows = pd.read_csv(text(file))
        titles = list(rows.columns[1:])
        moments = times(pd.to_datetime(day + " " + rows["Time"]), "Europe/Berlin")
        parts.append(("seat_leon", moments, rows.set_axis(["Time", *names], axis=1)))
        flags = ["--table", "obd", "--device", "seat_leon", "--time-column", "Time", "--time-prefix", f"{day} ", "--time-zone", "Europe/Berlin"]
        for title, name in zip(titles, names):
            flags += ["--rename", f"{title}={name}"]
        loads.append([file, *flags, "--types", ",".join(f"{t}={k}" for t, k in zip(names, kinds))])
    return data_set("obd", loads, parts, dict(zip(names, kinds)))


@cache
def solar() -> DataSet:
    """A month of the solar plant: Latin-1, decimal comma, sentinels, TAB at the end of each row, two records run together."""
    files = [path(f"messy-solar-plant/2018/08/201808{day:02}.csv.zst") for day in range(1, 32)]
    parts = []
    kinds = {"s1": "f64", "s5": "f64", "relay1": "i64", "counter1": "i64"}
    titles = {}
    for file in files:
        rows = pd.read_csv(text(file, "latin-1"), sep="\t", decimal=",", index_col=False, on_bad_lines="skip")
        titles = dict(zip(kinds, [rows.columns[1], rows.columns[5], rows.columns[14], rows.columns[18]]))
        moments = times(pd.to_datetime(rows["Datum & Uhrzeit"], format="%d.%m.%Y %H:%M").dt.tz_localize("+01:00"))
        named = rows.rename(columns={title: name for name, title in titles.items()})
        parts.append(("solar_controller", moments, named))
    flags = ["--table", "controller", "--device", "solar_controller", "--time-column", "Datum & Uhrzeit", "--encoding", "latin-1"]
    flags += ["--time-format", "%d.%m.%Y %H:%M", "--time-zone", "+01:00", "--decimal-comma", "--on-error", "skip", "--fields", ",".join(titles.values())]
    for name, title in titles.items():
        flags += ["--rename", f"{title}={name}"]
    flags += ["--types", ",".join(f"{name}={kind}" for name, kind in kinds.items())]
    return data_set("controller", [[*files, *flags]], parts, kinds)


@cache
def bench() -> DataSet:
    """SKAB: two runs that overlap, doubles out of single precision, booleans."""
    files = [path("machine-skab/anomaly-free/anomaly-free.csv.zst"), path("machine-skab/other/5.csv.zst")]
    tables = [pd.read_csv(text(file), sep=";") for file in files]
    names = {title: title.replace(" ", "_") for title in tables[0].columns[1:]}
    parts = [("bench", times(rows["datetime"]), rows.rename(columns=names)) for rows in tables]
    kinds = {name: "f64" for name in names.values()} | {"anomaly": "bool", "changepoint": "bool"}
    flags = ["--table", "pump", "--device", "bench", "--time-column", "datetime"]
    loads = [[files[0], *flags], [files[1], *flags, "--types", "anomaly=bool,changepoint=bool"]]
    return data_set("pump", loads, parts, kinds)


ALL = [air, rooms, machine, traffic, meters, raw_meter, bikes, parking, weather, trips, solar, bench]
