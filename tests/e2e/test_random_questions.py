"""Owns random questions to random rows, from a seed: what nobody thought of; the tests with names come first."""

import os
import random

import numpy as np
import pytest

import reference as ref
from node import HIGHEST, LOWEST
from reference import AGGREGATES, DAY, HOUR, MINUTE, SECOND, at, check, column, frame

SEEDS = range(400 if os.environ.get("TIDEWELL_LONG_TESTS") == "1" else 40)
BASE = at("2024-03-29T17:11:00")
KINDS = {"d": "f64", "i": "i64", "b": "bool", "s": "utf8"}
TEXTS = ["", "a", "b", "ä", "it's", "zz"]


@pytest.fixture(scope="module")
def world(node, tmp_path_factory):
    """Rows in three layers: compacted, flushed, in memory; keys repeat across them."""
    chance = random.Random(20240329)
    folder, written = tmp_path_factory.mktemp("random"), []
    for layer in range(3):
        rows = []
        for number in range(6):
            time = BASE + layer * chance.randrange(3 * DAY)
            for _ in range(chance.choice([3, 700, 9000])):
                time += chance.choice([1, SECOND, MINUTE, 10 * MINUTE, 10 * MINUTE, 10 * MINUTE, 2 * HOUR])
                d = chance.choice([None, float("nan"), -0.0, 0.0, chance.gauss(0, 10), float(chance.randrange(-5, 5))])
                i = chance.choice([None, chance.randrange(-5, 6), chance.randrange(-(2**60), 2**60)])
                rows.append((f"dev{number}", time // 10 * 10, d, i, chance.choice([None, True, False]), chance.choice([None, *TEXTS[1:]])))
        chance.shuffle(rows)
        lines = [f"{device},{time}," + ",".join("" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for v in values) for device, time, *values in rows]
        file = folder / f"{layer}.csv"
        file.write_text("\n".join(["device_id,t,d,i,b,s", *lines]) + "\n")
        types = ",".join(f"{name}={kind}" for name, kind in KINDS.items())
        node.load(file, "--table", "random", "--device-column", "device_id", "--time-column", "t", "--time-unit", "ns", "--types", types)
        if layer < 2:
            node.action("flush")
        if layer == 0:
            node.action("compact")
        # Rows of one time in one load keep their order in the file.
        written += rows
    columns = {name: column([row[2 + at] for row in written], kind) for at, (name, kind) in enumerate(KINDS.items())}
    return frame([row[0] for row in written], [row[1] for row in written], columns)


def comparison(chance):
    """A random comparison: its text, its fields, and its two masks, true and false."""
    name = chance.choice(list(KINDS))
    operators = {"=": np.equal, "!=": None, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
    form = chance.choice(["compare"] * 5 + ["null", "between", "in"])
    quoted = lambda value: "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()
    literal = lambda: {"d": chance.choice([0, -1.5, 3, 0.0]), "i": chance.choice([0, -2, 3, 2**59]), "b": chance.choice([True, False]), "s": chance.choice(TEXTS)}[name]
    if form == "null":
        return f"{name} IS NULL", lambda s: (~s.columns[name].valid, s.columns[name].valid)
    if form == "between" and name in "di":
        low, high = literal(), literal()
        return f"{name} BETWEEN {low} AND {high}", masks_of(name, lambda v: (v >= low) & (v <= high))
    if form == "in":
        values = [literal(), literal()]
        return f"{name} IN ({', '.join(map(quoted, values))})", masks_of(name, lambda v: (v == values[0]) | (v == values[1]))
    operator = chance.choice(["=", "!="] if name == "b" else list(operators))
    value = literal()
    if operator == "!=":
        return f"{name} != {quoted(value)}", masks_of(name, lambda v: (v != value) & (v == v))
    return f"{name} {operator} {quoted(value)}", masks_of(name, lambda v: operators[operator](v, value))


def masks_of(name, test):
    def masks(series):
        found = series.columns[name]
        with np.errstate(invalid="ignore"):
            holds = np.asarray(test(found.values)).astype(bool)
        return found.valid & holds, found.valid & ~holds

    return masks


def condition(chance, depth=2):
    if depth == 0 or chance.random() < 0.3:
        return comparison(chance)
    kind = chance.choice(["AND", "OR", "NOT"])
    left, left_masks = condition(chance, depth - 1)
    if kind == "NOT":
        return f"NOT ({left})", lambda s: left_masks(s)[::-1]
    right, right_masks = condition(chance, depth - 1)

    def masks(series):
        (a, not_a), (b, not_b) = left_masks(series), right_masks(series)
        return (a & b, not_a | not_b) if kind == "AND" else (a | b, not_a & not_b)

    return f"({left}) {kind} ({right})", masks


def span(chance, data):
    if chance.random() < 0.2:
        return LOWEST, HIGHEST
    times = np.unique(np.concatenate([series.times for series in data.values()]))
    start, end = sorted(chance.choice([int(chance.choice(times)), BASE + chance.randrange(30 * DAY)]) for _ in range(2))
    return start, max(end, start + 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_questions(node, world, seed):
    chance = random.Random(seed)
    names = sorted(chance.sample(list(world), chance.randrange(1, 7)))
    data = {name: world[name] for name in names}
    devices = {} if len(names) == len(world) else {"devices": names}
    start, end = span(chance, data)
    text, masks = condition(chance)
    times = {"start": start, "end": end}
    fields = chance.sample(list(KINDS), chance.randrange(1, 5))

    limit = chance.choice([None, 1, 10, 5000])
    request = {"table": "random", **devices, **times, "fields": fields, "where": text}
    answer = node.ask("range", **request, **({"limit": limit} if limit else {}))
    check(answer, ref.rows(data, start, end, fields, lambda s: masks(s)[0], limit))

    as_of = chance.choice([None, start, end])
    answer = node.ask("latest", table="random", fields=fields, **devices, **({"as_of": as_of} if as_of not in (None, HIGHEST) else {}))
    check(answer, ref.latest(data, fields, None if as_of == HIGHEST else as_of))

    at_least, gap = chance.choice([0, 0, 10 * MINUTE, HOUR]), chance.choice([None, 0, 10 * MINUTE, HOUR])
    rule = {"for": f"{at_least // SECOND}s"} | ({} if gap is None else {"max_gap": f"{gap // SECOND}s"})
    found = ref.intervals(data, start, end, masks, at_least, gap)
    measured = [name for name in dict.fromkeys(word for word in text.replace("(", " ").split() if word in KINDS) if name in "di"]
    request = {"table": "random", **devices, **times, "where": text, **rule}
    check(node.ask("threshold", **request), ref.interval_answer(found, measured))
    check(node.ask("threshold", **request, return_="devices"), ref.device_answer(found))

    if start > LOWEST:
        zone = chance.choice(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
        every = chance.choice(["17m", "1h", "6h", "1d", "3d", "1w", "1mo", "1y"])
        fill = chance.choice(["none", "null", "previous", "linear"])
        group = chance.choice(["device", "all"])
        field = chance.choice(["d", "i"])
        # Sums of large integers may exceed 64 bits, which is an error by contract.
        aggregates = [a for a in AGGREGATES if field == "d" or a != "sum"]
        request = {"table": "random", **devices, **times, "every": every, "timezone": zone, "fill": fill, "group": group}
        answer = node.ask("downsample", **request, fields=[field], aggregates=aggregates)
        groups = {"all": names} if group == "all" else None
        check(answer, ref.downsample(data, start, end, every, [field], aggregates, zone, None, groups, fill), filled=fill == "linear")
