"""Owns values that files of real measurements lack: NaN, infinities, both zeros, extremes, empty texts, clock changes."""

import math

import pyarrow as pa
import pytest

import reference as ref
from node import HIGHEST, LOWEST, replay_everywhere
from reference import AGGREGATES, HOUR, MINUTE, SECOND, at, check, column, frame

INF, NAN = math.inf, math.nan
LEAST, MOST = -(2**63), 2**63 - 1


def csv_cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def load(node, folder, table, rows, kinds, null=()):
    """Loads rows (device, time, values…) as CSV; the frame of them."""
    file = folder / f"{table}.csv"
    lines = [",".join(["device_id", "t", *kinds])]
    lines += [",".join([device, str(time), *map(csv_cell, values)]) for device, time, *values in rows]
    file.write_text("\n".join(lines) + "\n")
    flags = ["--table", table, "--device-column", "device_id", "--time-column", "t", "--time-unit", "ns"]
    summary = node.load(file, *flags, "--types", ",".join(f"{n}={k}" for n, k in kinds.items()), *null)
    assert summary["acknowledged_rows"] == len(rows) and summary["bad_lines"] == 0, summary
    columns = {name: column([row[2 + at] for row in rows], kind) for at, (name, kind) in enumerate(kinds.items())}
    return frame([row[0] for row in rows], [row[1] for row in rows], columns)


BASE = at("2024-05-01T00:00:00")


@pytest.fixture(scope="module")
def odd(node, tmp_path_factory):
    doubles = [1.5, NAN, -0.0, 0.0, None, INF, -INF, 5e-324, 1.7976931348623157e308, -1.5, 0.1, NAN, None, -0.0, 2.0**53 + 2]
    whole = [0, -1, MOST, None, LEAST, 1, 2, 3, 2**53 + 1, None, -(2**53) - 1, 7, 8, 9, 10]
    flags = [True, False, None] * 5
    texts = ["a", "ä€😀", None, "comma, quoted", "tab\tinside", "x" * 3000, "NULL", "nan", None, "0", "a", "a", "b", "-", "."]
    rows = [("x", BASE + i * MINUTE, *values) for i, values in enumerate(zip(doubles, whole, flags, texts))]
    # A device whose doubles are all NaN in one window and all null in the next; and one with a single row.
    rows += [("nan", BASE + i * MINUTE, NAN if i < 5 else None, i, None, None) for i in range(10)]
    rows += [("single", BASE - 1, 3.25, 4, True, "only")]
    kinds = {"d": "f64", "i": "i64", "b": "bool", "s": "utf8"}
    return load(node, tmp_path_factory.mktemp("odd"), "odd", rows, kinds)


def test_every_bit_comes_back(node, odd):
    check(node.ask("range", table="odd", start=LOWEST, end=HIGHEST), ref.rows(odd, LOWEST, HIGHEST))
    check(node.ask("latest", table="odd"), ref.latest(odd))


@pytest.mark.parametrize("every", ["1m", "2m", "5m", "1h"])
@pytest.mark.parametrize("fill", ["none", "null", "previous"])
def test_windows_of_odd_values(node, odd, every, fill):
    start, end = BASE - 10 * MINUTE, BASE + 20 * MINUTE
    request = {"table": "odd", "start": start, "end": end, "every": every, "fill": fill}
    answer = node.ask("downsample", **request, fields=["d"], aggregates=AGGREGATES)
    check(answer, ref.downsample(odd, start, end, every, ["d"], fill=fill))
    some = ["min", "max", "mean", "count", "first", "last"]
    answer = node.ask("downsample", **request, fields=["i"], aggregates=some)
    check(answer, ref.downsample(odd, start, end, every, ["i"], some, fill=fill))
    answer = node.ask("downsample", **request, fields=["s", "b"], aggregates=["first", "last", "count"])
    check(answer, ref.downsample(odd, start, end, every, ["s", "b"], ["first", "last", "count"], fill=fill))
    answer = node.ask("downsample", **request, fields=["d"], aggregates=AGGREGATES, group="all")
    check(answer, ref.downsample(odd, start, end, every, ["d"], groups={"all": sorted(odd)}, fill=fill))


def outcome_of(name, holds):
    def outcome(series):
        c = series.columns[name]
        true = c.valid & [bool(holds(value)) for value in c.values.tolist()]
        return true, c.valid & ~true

    return outcome


@pytest.mark.parametrize(
    "condition, name, holds",
    [
        ("d > 0", "d", lambda v: v > 0),
        ("d = 0", "d", lambda v: v == 0),
        ("d != 0", "d", lambda v: v < 0 or v > 0),
        ("d <= 0", "d", lambda v: v <= 0),
        ("NOT d > 0", "d", lambda v: not v > 0),
        ("d BETWEEN -2 AND 2", "d", lambda v: -2 <= v <= 2),
        ("d NOT BETWEEN -2 AND 2", "d", lambda v: not -2 <= v <= 2),
        ("d IN (0, 1.5)", "d", lambda v: v in (0, 1.5)),
        ("d > 1e308", "d", lambda v: v > 1e308),
        ("i > 9007199254740992", "i", lambda v: v > 2**53),
        ("i = 9007199254740993", "i", lambda v: v == 2**53 + 1),
        ("i >= 1.5", "i", lambda v: v >= 2),
        ("i = 1.5", "i", lambda v: False),
        ("i != 1.5", "i", lambda v: True),
        ("i > 9223372036854775806", "i", lambda v: v > MOST - 1),
        ("i <= -9223372036854775808", "i", lambda v: v <= LEAST),
        ("i < 1e300", "i", lambda v: True),
        ("b = false", "b", lambda v: not v),
        ("b != false", "b", lambda v: v),
        ("s = 'a'", "s", lambda v: v == "a"),
        ("s > 'a'", "s", lambda v: v.encode() > b"a"),
        ("s IN ('NULL', 'ä€😀')", "s", lambda v: v in ("NULL", "ä€😀")),
        ("'b' >= s", "s", lambda v: v.encode() <= b"b"),
    ],
)
def test_conditions_on_odd_values(node, odd, condition, name, holds):
    outcome = outcome_of(name, holds)
    request = {"table": "odd", "start": LOWEST, "end": HIGHEST, "where": condition}
    check(node.ask("range", **request), ref.rows(odd, LOWEST, HIGHEST, keep=lambda s: outcome(s)[0]))
    measured = [name] if name in "di" else []
    check(node.ask("threshold", **request), ref.interval_answer(ref.intervals(odd, LOWEST, HIGHEST, outcome), measured))
    gap = ref.intervals(odd, LOWEST, HIGHEST, outcome, MINUTE, MINUTE)
    check(node.ask("threshold", **request, max_gap="1m", for_="1m"), ref.interval_answer(gap, measured))


def test_integers_sum_exactly_or_refuse(node, odd, tmp_path):
    times = {"start": BASE + 8 * MINUTE, "end": BASE + 11 * MINUTE}
    exact = node.ask("downsample", table="odd", devices=["x"], **times, every="1h", fields=["i"], aggregates=["sum"])
    assert exact.column("i_sum").to_pylist() == [0]
    load(node, tmp_path, "big", [("x", BASE, MOST), ("x", BASE + 1, 1)], {"n": "i64"})
    with pytest.raises(pa.ArrowInvalid, match="sum of `n` of `x`.* exceeds 64 bits"):
        node.ask("downsample", table="big", start=BASE, end=BASE + 2, every="1h", aggregates=["sum"])


def test_extreme_times(node, tmp_path):
    times = [LOWEST, LOWEST + 1, -1, 0, 1, at("2024-02-29T23:59:59") + SECOND - 1]
    data = load(node, tmp_path, "times", [("x", t, float(i)) for i, t in enumerate(times)], {"v": "f64"})
    check(node.ask("range", table="times", start=LOWEST, end=HIGHEST), ref.rows(data, LOWEST, HIGHEST))
    check(node.ask("range", table="times", start=-1, end=1), ref.rows(data, -1, 1))
    check(node.ask("latest", table="times", as_of=-1), ref.latest(data, as_of=-1))
    windows = node.ask("downsample", table="times", start=-HOUR, end=HOUR, every="1h", aggregates=["count"])
    check(windows, {"device": ["x", "x"], "time": [-HOUR, 0], "v_count": [1, 2]})


def test_later_rows_replace_only_the_fields_that_they_set(node, tmp_path):
    rows = [("x", BASE, 1.0, 10, "first"), ("x", BASE + 1, 2.0, 20, "kept"), ("x", BASE, None, 11, None), ("x", BASE + 1, NAN, None, "new"), ("x", BASE, 3.0, None, None)]
    data = load(node, tmp_path, "replaced", rows, {"d": "f64", "i": "i64", "s": "utf8"})
    expected = {"device": ["x", "x"], "time": [BASE, BASE + 1], "d": [3.0, NAN], "i": [11, 20], "s": ["first", "new"]}
    check(node.ask("range", table="replaced", start=LOWEST, end=HIGHEST), expected)
    assert ref.rows(data, LOWEST, HIGHEST)["i"] == [11, 20]


CLOCKS = [
    ("Europe/Berlin", "2024-03-29T22:00:00Z", "2024-04-02T10:00:00Z"),
    ("Europe/Berlin", "2024-10-25T22:00:00Z", "2024-10-29T10:00:00Z"),
    ("America/New_York", "2024-03-08T22:00:00Z", "2024-03-12T10:00:00Z"),
    ("America/New_York", "2024-11-01T22:00:00Z", "2024-11-05T10:00:00Z"),
    # Clocks that change at midnight, by half an hour, and a zone of 45 minutes.
    ("America/Sao_Paulo", "2018-11-02T12:00:00Z", "2018-11-06T12:00:00Z"),
    ("America/Havana", "2024-11-01T12:00:00Z", "2024-11-05T12:00:00Z"),
    ("Australia/Lord_Howe", "2024-04-05T12:00:00Z", "2024-04-09T12:00:00Z"),
    ("Asia/Kathmandu", "2024-04-05T12:00:00Z", "2024-04-09T12:00:00Z"),
]


@pytest.fixture(scope="module")
def clock(node, tmp_path_factory):
    """A row every 10 min around each change of clocks, with holes of more than a day and of a few hours."""
    rows = []
    for number, (zone, start, end) in enumerate(CLOCKS):
        for i, time in enumerate(range(at(start), at(end), 10 * MINUTE)):
            if not (150 < i < 320 or i % 97 < 30):
                rows.append((f"d{number}", time, float(i * i % 101), i))
    return load(node, tmp_path_factory.mktemp("clock"), "clock", rows, {"v": "f64", "n": "i64"})


@pytest.mark.parametrize("number, zone, start, end", [(n, *c) for n, c in enumerate(CLOCKS)])
@pytest.mark.parametrize("every", ["1d", "2d", "1w", "1mo", "1h", "6h"])
def test_windows_over_changes_of_clocks(node, clock, number, zone, start, end, every):
    device = f"d{number}"
    data = {device: clock[device]}
    for fill in ("none", "null", "previous", "linear"):
        request = {"table": "clock", "devices": [device], "start": start, "end": end, "every": every, "timezone": zone}
        answer = node.ask("downsample", **request, aggregates=AGGREGATES, fill=fill, fields=["v", "n"])
        expected = ref.downsample(data, at(start), at(end), every, ["v", "n"], zone=zone, fill=fill)
        check(answer, expected, filled=fill == "linear")


def test_a_day_has_23_and_25_hours(node, tmp_path):
    start, end = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"
    rows = [("x", time, 1.0) for time in range(at(start), at(end), HOUR)]
    load(node, tmp_path, "hours", rows, {"v": "f64"})
    for zone, spring, autumn in [("Europe/Berlin", "2024-03-30T23:00:00", "2024-10-26T22:00:00"), ("America/New_York", "2024-03-10T05:00:00", "2024-11-03T04:00:00")]:
        days = node.ask("downsample", table="hours", start=start, end=end, every="1d", timezone=zone, aggregates=["count"])
        counts = dict(zip(ref.plain(days.column("time")), days.column("v_count").to_pylist()))
        assert len(counts) == 367 and counts[at(spring)] == 23 and counts[at(autumn)] == 25
        assert sorted(counts.values())[2:4] == [23, 24] and max(counts.values()) == 25
        months = node.ask("downsample", table="hours", start=start, end=end, every="1mo", timezone=zone, aggregates=["count"])
        assert sum(months.column("v_count").to_pylist()) == len(rows)


def test_line_protocol_types_escapes_and_multi_line_texts(node, tmp_path):
    file = tmp_path / "odd.lp"
    file.write_text(
        "# a comment\n\n"
        'm\\ x,device=a\\,b\\=c\\ d,site=north f=1,i=2i,u=3u,t=t,s="say \\"hi\\"\nsecond line" 10\n'
        'm\\ x,device=a\\,b\\=c\\ d,site=south f=-0.0,b=false 11\n'
    )
    summary = node.load(file)
    assert summary["acknowledged_rows"] == 2 and summary["tables"] == ["m_x"], summary
    answer = node.ask("range", table="m_x", start=LOWEST, end=HIGHEST, fields=["f", "i", "u", "t", "b", "s", "site"])
    expected = {"device": ["a,b=c d"] * 2, "time": [10, 11], "f": [1.0, -0.0], "i": [2, None], "u": [3, None], "t": [True, None], "b": [None, False]}
    check(answer, expected | {"s": ['say "hi"\nsecond line', None], "site": ["north", "south"]})


def test_the_same_answers_from_segments_and_after_a_crash(node):
    # Last in this file: asks again what the tests before have asked.
    replay_everywhere(node)
