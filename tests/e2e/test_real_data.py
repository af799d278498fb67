"""Owns real telemetry from file to answer: rows, latest values, windows and intervals against independent computation."""

import numpy as np
import pytest

import dataset
import reference as ref
from node import HIGHEST, LOWEST, replay_everywhere
from reference import AGGREGATES, DAY, HOUR, MINUTE, SECOND, at, check


@pytest.fixture(scope="module")
def loaded(node):
    """Loads a data set into the node of this file, once."""
    done = {}

    def load(make):
        data = make()
        if data.table not in done:
            done[data.table] = [node.load(*arguments) for arguments in data.loads]
        return data, done[data.table]

    return load


def numbers(data, kinds="fi"):
    first = next(iter(data.frame.values()))
    return [name for name, column in first.columns.items() if column.values.dtype.kind in kinds]


@pytest.mark.parametrize("make", dataset.ALL)
def test_every_row_comes_back_as_the_file_has_it(node, loaded, make):
    data, summaries = loaded(make)
    assert sum(summary["acknowledged_rows"] for summary in summaries) == data.rows_written
    assert sum(summary["refused_rows"] for summary in summaries) == 0
    assert sum(summary["bad_lines"] for summary in summaries) == (1 if data.table == "controller" else 0)
    fields = list(next(iter(data.frame.values())).columns)
    answer = node.ask("range", table=data.table, start=LOWEST, end=HIGHEST, fields=fields)
    check(answer, ref.rows(data.frame, LOWEST, HIGHEST))
    schema = {field.name: str(field.type) for field in answer.schema}
    assert schema["device"] == "string" and schema["time"] == "timestamp[ns, tz=UTC]"


@pytest.mark.parametrize("make", dataset.ALL)
def test_latest(node, loaded, make):
    data, _ = loaded(make)
    check(node.ask("latest", table=data.table, fields=fields_of(data)), ref.latest(data.frame))
    times = np.concatenate([series.times for series in data.frame.values()])
    for moment in (int(np.median(times)), int(times.min()), int(times.min()) - 1, int(times.max())):
        answer = node.ask("latest", table=data.table, fields=fields_of(data), as_of=moment)
        check(answer, ref.latest(data.frame, as_of=moment))


def fields_of(data):
    return list(next(iter(data.frame.values())).columns)


@pytest.mark.parametrize(
    "make, condition, keep",
    [
        (dataset.air, '"PM2.5" > 300', lambda s: valid(s, "PM2.5", lambda v: v > 300)),
        (dataset.air, "wd = 'ENE' AND TEMP < -5", lambda s: valid(s, "wd", lambda v: v == "ENE") & valid(s, "TEMP", lambda v: v < -5)),
        (dataset.air, "wd IS NULL", lambda s: ~s.columns["wd"].valid),
        (dataset.air, "CO IS NULL AND O3 IS NOT NULL", lambda s: ~s.columns["CO"].valid & s.columns["O3"].valid),
        (dataset.air, "wd IN ('N', 'NNW') OR RAIN >= 20", lambda s: valid(s, "wd", lambda v: np.isin(v, ["N", "NNW"])) | valid(s, "RAIN", lambda v: v >= 20)),
        (dataset.air, "NOT (CO > 1000 OR CO <= 300)", lambda s: valid(s, "CO", lambda v: ~((v > 1000) | (v <= 300)))),
        (dataset.parking, "occupancy > 800", lambda s: valid(s, "occupancy", lambda v: v > 800)),
        (dataset.parking, "occupancy BETWEEN -8 AND -1", lambda s: valid(s, "occupancy", lambda v: (v >= -8) & (v <= -1))),
        (dataset.parking, "99.5 < capacity AND capacity < 387.5", lambda s: valid(s, "capacity", lambda v: (v > 99) & (v < 388))),
        (dataset.rooms, "humidity >= 40 AND temperature > 20", lambda s: valid(s, "humidity", lambda v: v >= 40) & valid(s, "temperature", lambda v: v > 20)),
        (dataset.bench, "anomaly = true", lambda s: valid(s, "anomaly", lambda v: v)),
        (dataset.trips, "speed > 120", lambda s: valid(s, "speed", lambda v: v > 120)),
    ],
)
def test_conditions(node, loaded, make, condition, keep):
    data, _ = loaded(make)
    expected = ref.rows(data.frame, LOWEST, HIGHEST, keep=keep)
    assert len(expected["time"]) > 0, "a condition that nothing matches tests nothing"
    request = {"table": data.table, "start": LOWEST, "end": HIGHEST, "where": condition, "fields": fields_of(data)}
    check(node.ask("range", **request), expected)
    some = ref.rows(data.frame, LOWEST, HIGHEST, keep=keep, limit=7)
    check(node.ask("range", **request, limit=7), some)
    found = node.ask("threshold", table=data.table, start=LOWEST, end=HIGHEST, where=condition, return_="rows")
    check(found.select(list(expected)), expected)


def valid(series, name, test):
    """Rows in which the field is not null and the test holds."""
    column = series.columns[name]
    return column.valid & test(column.values).astype(bool)


def test_ranges_cut_to_the_nanosecond(node, loaded):
    data, _ = loaded(dataset.bikes)
    times = np.unique(np.concatenate([series.times for series in data.frame.values()]))
    for start, end in [(times[100], times[101]), (times[100] + 1, times[200]), (times[-1], times[-1] + 1), (times[-1] + 1, HIGHEST)]:
        answer = node.ask("range", table=data.table, start=int(start), end=int(end), fields=fields_of(data))
        check(answer, ref.rows(data.frame, int(start), int(end)))


def test_devices_are_chosen_by_list_and_pattern(node, loaded):
    data, _ = loaded(dataset.bikes)
    some = {name: series for name, series in data.frame.items() if name.startswith("bike_9")}
    assert 0 < len(some) < len(data.frame)
    for devices in ({"glob": "bike_9*"}, [*reversed(some), "unknown"]):
        check(node.ask("range", table=data.table, devices=devices, start=LOWEST, end=HIGHEST, fields=["lat", "lon", "route"]), ref.rows(some, LOWEST, HIGHEST))
        check(node.ask("latest", table=data.table, devices=devices, fields=["route", "lat"]), ref.latest(some, ["route", "lat"]))


WINDOWS = [
    # data, every, zone, start, end
    (dataset.machine, "1h", "UTC", "2013-12-02T21:37:00Z", "2014-02-20T00:00:00Z"),
    (dataset.machine, "7m", "UTC", "2014-01-06T23:59:59Z", "2014-01-08T00:00:01Z"),
    (dataset.traffic, "6h", "UTC", "2015-06-30T00:00:00Z", "2015-10-01T00:00:00Z"),
    (dataset.meters, "1d", "Europe/Berlin", "2013-03-29T05:00:00Z", "2013-11-02T00:00:00Z"),
    (dataset.meters, "1mo", "America/New_York", "2013-01-01T00:00:00Z", "2013-12-31T23:00:00Z"),
    (dataset.meters, "1w", "Europe/Berlin", "2013-02-01T00:00:00Z", "2013-12-01T00:00:00Z"),
    (dataset.air, "1d", "America/New_York", "2013-02-20T00:00:00Z", "2014-03-20T00:00:00Z"),
    (dataset.air, "2mo", "Europe/Berlin", "2013-02-20T00:00:00Z", "2017-04-01T00:00:00Z"),
    (dataset.air, "1y", "Asia/Shanghai", "2013-02-20T00:00:00Z", "2017-04-01T00:00:00Z"),
    (dataset.rooms, "1d", "Europe/Berlin", "2017-03-20T00:00:00Z", "2017-04-05T12:00:00Z"),
    (dataset.rooms, "15m", "UTC", "2017-03-20T00:00:00Z", "2017-03-23T00:00:00Z"),
    (dataset.solar, "3d", "Europe/Berlin", "2018-07-30T00:00:00Z", "2018-09-03T00:00:00Z"),
    (dataset.trips, "250ms", "UTC", "2018-02-14T06:06:00Z", "2018-02-14T06:20:00Z"),
    (dataset.bench, "1m", "UTC", "2020-02-08T13:00:00Z", "2020-02-08T16:30:00Z"),
    (dataset.parking, "1d", "America/New_York", "2016-10-30T00:00:00Z", "2016-11-10T00:00:00Z"),
]


@pytest.mark.parametrize("make, every, zone, start, end", WINDOWS)
def test_windows(node, loaded, make, every, zone, start, end):
    data, _ = loaded(make)
    fields = numbers(data)[:3]
    request = {"table": data.table, "start": start, "end": end, "every": every, "timezone": zone, "fields": fields}
    answer = node.ask("downsample", **request, aggregates=AGGREGATES)
    check(answer, ref.downsample(data.frame, at(start), at(end), every, fields, zone=zone))
    assert answer.num_rows > 1


@pytest.mark.parametrize("fill", ["null", "previous", "linear"])
@pytest.mark.parametrize("make, every, zone, start, end", [WINDOWS[0], WINDOWS[2], WINDOWS[3], WINDOWS[9], WINDOWS[10]])
def test_fills(node, loaded, make, every, zone, start, end, fill):
    data, _ = loaded(make)
    fields = numbers(data)[:4]
    request = {"table": data.table, "start": start, "end": end, "every": every, "timezone": zone, "fields": fields}
    answer = node.ask("downsample", **request, aggregates=AGGREGATES, fill=fill)
    check(answer, ref.downsample(data.frame, at(start), at(end), every, fields, zone=zone, fill=fill), filled=fill == "linear")


@pytest.mark.parametrize("fill", ["none", "null", "previous", "linear"])
def test_groups(node, loaded, fill):
    data, _ = loaded(dataset.parking)
    devices = sorted(data.frame)
    regions = {"north": devices[:11], "south": devices[11:25]}
    for region, members in regions.items():
        for device in members:
            assert node.action("describe", {"device": device, "attributes": {"region": region}}) == [{"described": device}]
    start, end = "2016-10-10T09:00:00Z", "2016-10-15T00:00:00Z"
    request = {"table": "parking", "start": start, "end": end, "every": "90m", "fill": fill, "fields": ["occupancy", "capacity"], "aggregates": AGGREGATES}
    fields = ["occupancy", "capacity"]
    for group, groups in [("all", {"all": devices}), ("attribute:region", {"": devices[25:], **regions}), ("device", None)]:
        expected = ref.downsample(data.frame, at(start), at(end), "90m", fields, groups=groups, fill=fill)
        check(node.ask("downsample", **request, group=group), expected, filled=fill == "linear")
    # Devices by attribute, for every kind of question.
    south = {name: data.frame[name] for name in regions["south"]}
    chosen = {"table": "parking", "devices": {"attributes": {"region": "south"}}}
    check(node.ask("latest", **chosen), ref.latest(south))
    check(node.ask("range", **chosen, start=LOWEST, end=HIGHEST), ref.rows(south, LOWEST, HIGHEST))


def test_windows_count_from_an_origin(node, loaded):
    data, _ = loaded(dataset.meters)
    start, end = "2013-01-03T00:00:00Z", "2013-04-10T00:00:00Z"
    for every, origin, zone in [("7h", "2013-01-01T00:25:00Z", "UTC"), ("1d", "2012-12-31T05:00:00Z", "Europe/Berlin"), ("1mo", "2013-01-15T11:00:00Z", "America/New_York")]:
        request = {"table": "meter", "start": start, "end": end, "every": every, "origin": origin, "timezone": zone}
        answer = node.ask("downsample", **request, aggregates=["sum", "count"])
        expected = ref.downsample(data.frame, at(start), at(end), every, ["kwh"], ["sum", "count"], zone, at(origin))
        check(answer, expected)


def test_texts_and_booleans_have_ends_and_counts(node, loaded):
    for make, field in [(dataset.air, "wd"), (dataset.bench, "anomaly"), (dataset.bikes, "route")]:
        data, _ = loaded(make)
        first = min(int(series.times[0]) for series in data.frame.values())
        request = {"table": data.table, "start": first, "end": first + 30 * DAY, "every": "5h", "fields": [field]}
        for fill in ("none", "previous"):
            answer = node.ask("downsample", **request, aggregates=["first", "last", "count"], fill=fill)
            check(answer, ref.downsample(data.frame, first, first + 30 * DAY, "5h", [field], ["first", "last", "count"], fill=fill))


def above(name, bound):
    """Outcomes of `name > bound`: a null is neither."""

    def outcome(series):
        column = series.columns[name]
        return column.valid & (column.values > bound), column.valid & ~(column.values > bound)

    return outcome


THRESHOLDS = [
    (dataset.air, "PM2.5", 300, 6 * HOUR, HOUR),
    (dataset.air, "PM2.5", 150, 0, None),
    (dataset.air, "CO", 2000, 24 * HOUR, 5 * HOUR),
    (dataset.machine, "value", 100, 30 * MINUTE, 10 * MINUTE),
    (dataset.machine, "value", 95, HOUR, None),
    (dataset.rooms, "temperature", 21, HOUR, 15 * MINUTE),
    (dataset.rooms, "humidity", 35, 12 * HOUR, None),
    (dataset.solar, "s1", 80, 5 * MINUTE, MINUTE),
    (dataset.trips, "speed", 120, 10 * SECOND, SECOND),
    (dataset.parking, "occupancy", 800, 2 * HOUR, HOUR),
    (dataset.meters, "kwh", 1.5, HOUR, 30 * MINUTE),
]


@pytest.mark.parametrize("make, field, bound, at_least, max_gap", THRESHOLDS)
def test_intervals(node, loaded, make, field, bound, at_least, max_gap):
    data, _ = loaded(make)
    found = ref.intervals(data.frame, LOWEST, HIGHEST, above(field, bound), at_least, max_gap)
    assert found, "a threshold that nothing passes tests nothing"
    request = {"table": data.table, "start": LOWEST, "end": HIGHEST, "where": f'"{field}" > {bound}', "for": f"{at_least // SECOND}s"}
    request |= {} if max_gap is None else {"max_gap": f"{max_gap // SECOND}s"}
    check(node.ask("threshold", **request), ref.interval_answer(found, [field]))
    check(node.ask("threshold", **request, return_="devices"), ref.device_answer(found))
    matching = node.ask("threshold", **request, return_="rows").select(["device", "time"])
    expected = {"device": [i.device for i in found for _ in i.rows], "time": [int(i.found.times[row]) for i in found for row in i.rows]}
    check(matching, expected)


def test_intervals_of_two_fields(node, loaded):
    data, _ = loaded(dataset.air)

    def outcome(series):
        dust, rain = series.columns["PM10"], series.columns["WSPM"]
        one_fails = dust.valid & ~(dust.values > 200) | rain.valid & ~(rain.values < 1)
        return valid(series, "PM10", lambda v: v > 200) & valid(series, "WSPM", lambda v: v < 1), one_fails

    start, end = "2014-01-01T00:00:00Z", "2016-01-01T00:00:00Z"
    found = ref.intervals(data.frame, at(start), at(end), outcome, 3 * HOUR, 2 * HOUR)
    assert found
    answer = node.ask("threshold", table="air", start=start, end=end, where="PM10 > 200 AND WSPM < 1", for_="3h", max_gap="2h")
    check(answer, ref.interval_answer(found, ["PM10", "WSPM"]))


# Figures that were counted from the files before this program existed.


def count(node, table, condition, devices=None):
    answer = node.ask("threshold", table=table, start=LOWEST, end=HIGHEST, where=condition, return_="devices", **({"devices": devices} if devices else {}))
    return sum(answer.column("matches").to_pylist())


def test_reference_figures_of_the_air(node, loaded):
    loaded(dataset.air)
    dongsi = {"table": "air", "devices": ["Dongsi"], "start": LOWEST, "end": HIGHEST}
    assert count(node, "air", '"PM2.5" IS NOT NULL', ["Dongsi"]) == 34_314
    assert count(node, "air", '"PM2.5" > 300', ["Dongsi"]) == 1_004
    assert {wd: count(node, "air", f"wd = '{wd}'", ["Dongsi"]) for wd in ("ENE", "E", "NE")} == {"ENE": 3_861, "E": 3_564, "NE": 3_540}
    found = node.ask("threshold", **dongsi, where='"PM2.5" > 300', max_gap="1h")
    assert found.num_rows == 155 and max(ref.plain(found.column("duration"))) == 39 * HOUR
    assert max(found.column("PM2.5_max").to_pylist()) == 737
    assert node.ask("threshold", **dongsi, where='"PM2.5" > 300', max_gap="1h", for_="6h").num_rows == 51


def test_reference_figures_of_the_machine(node, loaded):
    loaded(dataset.machine)
    machine = {"table": "known_cause", "devices": ["machine_temperature_system_failure"]}
    everything = machine | {"start": LOWEST, "end": HIGHEST}
    assert node.ask("range", **everything).num_rows == 22_683
    assert count(node, "known_cause", "value > 100", machine["devices"]) == 1_586
    assert node.ask("threshold", **everything, where="value > 100", max_gap="10m").num_rows == 239
    assert node.ask("threshold", **everything, where="value > 100", max_gap="10m", for_="30m").num_rows == 27
    years = node.ask("downsample", **machine, start="2013-01-01T00:00:00Z", end="2015-01-01T00:00:00Z", every="2y", aggregates=["min", "max"])
    assert min(years.column("value_min").to_pylist()) == 2.0847212059999998
    assert max(years.column("value_max").to_pylist()) == 108.51054280000001
    hour = node.ask("downsample", **machine, start="2014-01-07T02:00:00Z", end="2014-01-07T03:00:00Z", every="1h", aggregates=["count", "mean"])
    assert hour.column("value_count").to_pylist() == [12]
    assert hour.column("value_mean").to_pylist() == [pytest.approx(93.74993600416666, rel=1e-12)]


def test_reference_figures_of_meters_bikes_cars_and_the_plant(node, loaded):
    loaded(dataset.meters), loaded(dataset.bikes), loaded(dataset.trips), loaded(dataset.solar), loaded(dataset.bench)
    meter = {"table": "meter", "devices": ["MAC000010"]}
    year = node.ask("downsample", **meter, start="2013-01-01T00:00:00Z", end="2014-01-01T00:00:00Z", every="1y", aggregates=["count", "sum", "max"])
    assert year.column("kwh_count").to_pylist() == [17_520] and year.column("kwh_max").to_pylist() == [4.1890001]
    assert year.column("kwh_sum").to_pylist() == [pytest.approx(9308.915997100044, rel=1e-12)]
    assert ref.plain(node.ask("range", **meter, start=LOWEST, end=HIGHEST, where="kwh >= 4.1890001").column("time")) == [at("2013-12-25T13:30:00")]

    assert node.ask("latest", table="positions").num_rows == 162
    bike = node.ask("latest", table="positions", devices=["bike_1072"], fields=["lat", "lon"])
    check(bike, {"device": ["bike_1072"], "time": [at("2019-09-11T00:43:04")], "lat": [42.11522166666666], "lon": [-72.59428833333334]})
    assert node.ask("range", table="positions", devices=["bike_982"], start=LOWEST, end=HIGHEST).num_rows == 6_509

    trip = {"table": "obd", "start": "2018-02-14T06:00:00Z", "end": "2018-02-14T07:00:00Z"}
    assert node.ask("range", **trip, where="speed > 120").num_rows == 3_720
    hour = node.ask("downsample", **trip, every="1h", aggregates=["max", "count"], fields=["speed", "rpm", "coolant"])
    assert hour.column("speed_max").to_pylist() == [131] and hour.column("rpm_max").to_pylist() == [2_792]
    assert hour.column("coolant_count").to_pylist() == [30_973]

    assert count(node, "controller", "s1 > 80") == 4_599
    plant = {"table": "controller", "start": LOWEST, "end": HIGHEST, "max_gap": "1m"}
    assert node.ask("threshold", **plant, where="s1 > 80").num_rows == 112
    assert node.ask("threshold", **plant, where="s1 > 80", for_="5m").num_rows == 43
    relay = node.ask("threshold", **plant, where="relay1 = 100")
    assert relay.num_rows == 303 and max(ref.plain(relay.column("duration"))) == 644 * MINUTE
    assert sum(relay.column("samples").to_pylist()) == 17_922

    run = node.ask("downsample", table="pump", start="2020-02-08T14:00:00Z", end="2020-02-08T14:01:00Z", every="1m", fields=["Current"], aggregates=["count", "mean", "min", "max"])
    check(run, {"device": ["bench"], "time": [at("2020-02-08T14:00:00")], "Current_count": [56], "Current_mean": [2.327990535714286], "Current_min": [1.35076], "Current_max": [3.02436]})


def test_the_same_answers_from_segments_and_after_a_crash(node):
    # Last in this file: asks again what the tests before have asked.
    replay_everywhere(node)
