"""Owns the answers computed independently of the program, with numpy and the standard library; does not talk to a node.

A frame maps a device to its series: times that rise strictly, and per field values with a mask of those that are not
null. NaN is a value here, never a null.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

SECOND = 1_000_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND


@dataclass
class Column:
    values: np.ndarray
    valid: np.ndarray

    def cut(self, rows) -> "Column":
        return Column(self.values[rows], self.valid[rows])

    @property
    def numbers(self) -> np.ndarray:
        """Which values take part in min, max, mean and sum."""
        return self.valid & ~np.isnan(self.values) if self.values.dtype.kind == "f" else self.valid


@dataclass
class Series:
    times: np.ndarray
    columns: dict[str, Column]

    def cut(self, rows) -> "Series":
        return Series(self.times[rows], {name: column.cut(rows) for name, column in self.columns.items()})

    def between(self, start: int, end: int) -> "Series":
        return self.cut(slice(*np.searchsorted(self.times, [start, end])))


Frame = dict[str, Series]


def column(values, kind: str) -> Column:
    """A column out of values where None is null; kind is f64, i64, bool or utf8."""
    empty, dtype = {"f64": (0.0, np.float64), "i64": (0, np.int64), "bool": (False, np.bool_), "utf8": ("", object)}[kind]
    valid = np.array([value is not None for value in values], dtype=bool)
    return Column(np.array([empty if value is None else value for value in values], dtype=dtype), valid)


def series(times, columns: dict[str, Column]) -> Series:
    """Merges rows in the order of writing: for each time and field the last value that is not null stays."""
    times = np.asarray(times, dtype=np.int64)
    order = np.argsort(times, kind="stable")
    distinct, starts = np.unique(times[order], return_index=True)
    merged = {}
    for name, written in columns.items():
        written = written.cut(order)
        last = np.maximum.reduceat(np.where(written.valid, np.arange(len(order)), -1), starts) if len(order) else starts
        merged[name] = Column(written.values[last], last >= 0)
    return Series(distinct, merged)


def frame(devices, times, columns: dict[str, Column]) -> Frame:
    """Merges rows of many devices, in the order of writing."""
    devices = np.asarray(devices, dtype=object)
    times = np.asarray(times, dtype=np.int64)
    result = {}
    for device in sorted(set(devices), key=lambda name: name.encode()):
        rows = np.flatnonzero(devices == device)
        result[device] = series(times[rows], {name: c.cut(rows) for name, c in columns.items()})
    return result


# Answers. Each is a list of columns: name, then a list of values where None is null.

Answer = dict[str, list]


def cells(column: Column) -> list:
    return [value if valid else None for value, valid in zip(column.values.tolist(), column.valid.tolist())]


def rows(data: Frame, start: int, end: int, fields=None, keep=None, limit=None) -> Answer:
    """`range`; `keep` maps a series to a mask of the rows that match."""
    fields = list(fields or next(iter(data.values())).columns)
    answer = {name: [] for name in ["device", "time", *fields]}
    for device, all_rows in data.items():
        found = all_rows.between(start, end)
        if keep is not None:
            found = found.cut(np.flatnonzero(keep(found)))
        answer["device"] += [device] * len(found.times)
        answer["time"] += found.times.tolist()
        for name in fields:
            answer[name] += cells(found.columns[name])
    return answer if limit is None else {name: values[:limit] for name, values in answer.items()}


def latest(data: Frame, fields=None, as_of=None) -> Answer:
    fields = list(fields or next(iter(data.values())).columns)
    answer = {name: [] for name in ["device", "time", *fields]}
    for device, all_rows in data.items():
        found = all_rows if as_of is None else all_rows.cut(all_rows.times <= as_of)
        if not len(found.times):
            continue
        answer["device"].append(device)
        answer["time"].append(int(found.times[-1]))
        for name in fields:
            values = [value for value in cells(found.columns[name]) if value is not None]
            answer[name].append(values[-1] if values else None)
    return answer


UTC_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def nanoseconds(moment: datetime) -> int:
    distance = moment - UTC_EPOCH
    return ((distance.days * 86_400 + distance.seconds) * 1_000_000 + distance.microseconds) * 1_000


def at(text: str) -> int:
    """Nanoseconds of an ISO time; UTC when it names no zone."""
    moment = datetime.fromisoformat(text)
    return nanoseconds(moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc))


def edges(start: int, end: int, every: str, zone: str = "UTC", origin: int | None = None) -> list[int]:
    """Window edges from the last at or before `start` to the first at or after `end`."""
    digits = len(every) - len(every.lstrip("0123456789"))
    count, unit = int(every[:digits]), every[digits:]
    exact = {"ms": SECOND // 1000, "s": SECOND, "m": MINUTE, "h": HOUR}.get(unit)
    if exact:
        step, base = count * exact, origin or 0
        first = base + (start - base) // step * step
        return list(range(first, end + step, step))
    zone_info = ZoneInfo(zone)
    if origin is None:
        base = datetime(1969, 12, 29) if unit == "w" else datetime(1970, 1, 1)
    else:
        base = (UTC_EPOCH + timedelta(microseconds=origin // 1000)).astimezone(zone_info).replace(tzinfo=None)

    def edge(k: int) -> int:
        if unit in ("d", "w"):
            wall = base + timedelta(days=k * count * (7 if unit == "w" else 1))
        else:
            month = base.month - 1 + k * count * (12 if unit == "y" else 1)
            wall = base.replace(year=base.year + month // 12, month=month % 12 + 1)
        # fold=0: the first of two, and behind a gap as far as the clock jumped.
        return nanoseconds(wall.replace(tzinfo=zone_info, fold=0).astimezone(timezone.utc))

    days = {"d": 1, "w": 7, "mo": 31, "y": 366}[unit] * count
    first = (start // DAY - (base - datetime(1970, 1, 1)).days) // days - 3
    found = []
    k = first
    while not found or found[-1] < end:
        moment = edge(k)
        found = [moment] if moment <= start else [*found, moment]
        k += 1
    return found


AGGREGATES = ["mean", "min", "max", "count", "sum", "first", "last"]


def aggregate(name: str, found: Column):
    """One aggregate over values in order of time."""
    if name == "count":
        return int(found.valid.sum())
    if name in ("first", "last"):
        values = found.values[found.valid]
        return values.tolist()[0 if name == "first" else -1] if len(values) else None
    values = found.values[found.numbers].tolist()
    if not values:
        return None
    if name in ("min", "max"):
        # -0 counts as less than +0.
        key = lambda value: (value, math.copysign(1.0, value))
        return min(values, key=key) if name == "min" else max(values, key=key)
    if isinstance(values[0], int):
        return sum(values) if name == "sum" else sum(values) / len(values)
    try:
        total = math.fsum(values)
    except (OverflowError, ValueError):
        total = sum(values)
    return total if name == "sum" else total / len(values)


def downsample(
    data: Frame, start: int, end: int, every: str, fields, aggregates=AGGREGATES, zone="UTC", origin=None, groups=None, fill="none"
) -> Answer:
    """`groups` maps a name to its devices, in order; by default each device is a group."""
    bounds = edges(start, end, every, zone, origin)
    groups = {device: [device] for device in data} if groups is None else groups
    names = [(field, name) for field in fields for name in aggregates]
    answer = {"device": [], "time": []} | {f"{field}_{name}": [] for field, name in names}
    for group, devices in groups.items():
        together = gathered([data[device].between(start, end) for device in devices], fields)
        if not len(together.times):
            continue
        cuts = np.searchsorted(together.times, bounds)
        windows = [slice(*cut) for cut in zip(cuts, cuts[1:])]
        filled = [True] * len(windows) if fill != "none" else [cut.start < cut.stop for cut in windows]
        answer["device"] += [group] * sum(filled)
        answer["time"] += [bound for bound, shown in zip(bounds, filled) if shown]
        for field, name in names:
            values = [aggregate(name, together.columns[field].cut(cut)) for cut in windows]
            values = filling(fill, name, values, bounds)
            answer[f"{field}_{name}"] += [value for value, shown in zip(values, filled) if shown]
    return answer


def gathered(parts: list[Series], fields) -> Series:
    """Rows of several devices by time; of equal times in order of the devices."""
    times = np.concatenate([part.times for part in parts])
    order = np.argsort(times, kind="stable")
    columns = {}
    for field in fields:
        values = np.concatenate([part.columns[field].values for part in parts])
        valid = np.concatenate([part.columns[field].valid for part in parts])
        columns[field] = Column(values[order], valid[order])
    return Series(times[order], columns)


def filling(fill: str, name: str, values: list, bounds: list[int]) -> list:
    if name == "count" or fill in ("none", "null"):
        return values
    if fill == "previous":
        last, filled = None, []
        for value in values:
            last = last if value is None else value
            filled.append(last)
        return filled
    assert fill == "linear"
    known = [index for index, value in enumerate(values) if value is not None]
    filled = list(values)
    for index, value in enumerate(values):
        right = bisect_right(known, index)
        if value is None and 0 < right < len(known):
            before, after = known[right - 1], known[right]
            share = (bounds[index] - bounds[before]) / (bounds[after] - bounds[before])
            way = (values[after] - values[before]) * share
            filled[index] = values[before] + (nearest(way) if isinstance(values[before], int) else way)
    return filled


def nearest(way: float) -> int:
    """The nearest integer, halves away from zero. From 2^52 on a double has no fraction, and adding a half would give it one."""
    size = abs(way)
    return int(math.copysign(size if size >= 2**52 else math.floor(size + 0.5), way))


@dataclass
class Interval:
    device: str
    rows: list[int]
    found: Series


def intervals(data: Frame, start: int, end: int, outcome, at_least: int = 0, max_gap: int | None = None) -> list[Interval]:
    """Maximal runs; `outcome` maps a series to two masks: rows that match, and rows that fail."""
    result = []
    for device, all_rows in data.items():
        found = all_rows.between(start, end)
        matches, fails = outcome(found)
        run: list[int] = []
        runs = []
        for row in np.flatnonzero(matches | fails).tolist():
            apart = run and max_gap is not None and found.times[row] - found.times[run[-1]] > max_gap
            if run and (fails[row] or apart):
                runs.append(run)
                run = []
            if matches[row]:
                run.append(row)
        runs += [run] if run else []
        result += [Interval(device, run, found) for run in runs if found.times[run[-1]] - found.times[run[0]] >= at_least]
    return result


def interval_answer(found: list[Interval], measured=()) -> Answer:
    answer = {
        "device": [i.device for i in found],
        "start": [int(i.found.times[i.rows[0]]) for i in found],
        "end": [int(i.found.times[i.rows[-1]]) for i in found],
        "duration": [int(i.found.times[i.rows[-1]] - i.found.times[i.rows[0]]) for i in found],
        "samples": [len(i.rows) for i in found],
    }
    for field in measured:
        for name in ("min", "max", "mean"):
            answer[f"{field}_{name}"] = [aggregate(name, i.found.columns[field].cut(i.rows)) for i in found]
    return answer


def device_answer(found: list[Interval]) -> Answer:
    devices = list(dict.fromkeys(i.device for i in found))
    of = {device: [i for i in found if i.device == device] for device in devices}
    return {
        "device": devices,
        "matches": [sum(len(i.rows) for i in of[d]) for d in devices],
        "first": [int(of[d][0].found.times[of[d][0].rows[0]]) for d in devices],
        "last": [int(of[d][-1].found.times[of[d][-1].rows[-1]]) for d in devices],
    }


# Comparison.


def plain(values: pa.ChunkedArray) -> list:
    """Arrow values as plain Python values; times and durations as nanoseconds."""
    if pa.types.is_timestamp(values.type) or pa.types.is_duration(values.type):
        values = values.cast(pa.int64())
    return values.to_pylist()


def same_bits(a: float, b: float) -> bool:
    return a == b and math.copysign(1.0, a) == math.copysign(1.0, b) or (math.isnan(a) and math.isnan(b))


def check(answer: pa.Table, expected: Answer, rounded=("_mean", "_sum"), filled: bool = False) -> None:
    """Fails unless the answer is the expected one. Only sums of doubles, and interpolated values, may differ by rounding."""
    assert answer.column_names == list(expected)
    for name, values in expected.items():
        found = plain(answer.column(name))
        assert len(found) == len(values), f"{name}: {len(found)} rows, expected {len(values)}"
        loose = filled or name.endswith(tuple(rounded))
        for row, (a, b) in enumerate(zip(found, values)):
            if isinstance(a, float) and isinstance(b, float):
                good = same_bits(a, b) or (loose and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9))
            else:
                good = type(a) is type(b) and a == b
            assert good, f"{name}, row {row} ({answer.slice(row, 1).to_pylist()}): {a!r}, expected {b!r}"
