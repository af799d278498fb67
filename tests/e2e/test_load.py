"""Owns `tidewell load`: bad lines, types, repetition, formats; what rows look like afterwards is tested elsewhere."""

import gzip

import pytest
import zstandard

import dataset
import reference as ref
from node import HIGHEST, LOWEST
from reference import SECOND, at, check

FLAGS = ["--device-column", "id", "--time-column", "at"]
GOOD = "id,at,v\na,2024-05-01T00:00:00Z,1.5\na,2024-05-01T00:00:01Z,2.5\n"


def table(node, name, fields=None):
    request = {"fields": fields} if fields else {}
    return node.ask("range", table=name, start=LOWEST, end=HIGHEST, **request)


BAD = """id,at,v,n
a,2024-05-01T00:00:00Z,1.5,1
a,2024-05-01T00:00:01Z,1.5
a,yesterday,1.5,1
,2024-05-01T00:00:02Z,1.5,1

a,2024-05-01T00:00:03Z,fast,1
a,2024-05-01T00:00:04Z,2.5,1.5
a,2024-05-01T00:00:05Z,2.5,1,extra
a,2024-02-30T00:00:05Z,2.5,1
a,2024-05-01T00:00:06Z,3.5,
"""


def test_bad_lines_are_told_counted_and_skipped(node, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text(BAD)
    summary = node.load(file, *FLAGS, "--table", "skipped", "--types", "v=f64,n=i64", "--on-error", "skip")
    told = summary["stderr"].splitlines()
    assert summary["exit_code"] == 0 and summary["bad_lines"] == 7, summary
    for line, part in [(3, "expected 4 columns, found 3"), (4, "yesterday"), (5, "device"), (7, "`v`: expected f64, found `fast`"), (8, "`n`: expected i64, found `1.5`"), (9, "expected 4 columns, found 5"), (10, "no such day")]:
        assert [text for text in told if f"{file}:{line}: " in text and part in text], f"line {line} is not told: {told}"
    base = at("2024-05-01T00:00:00")
    check(table(node, "skipped"), {"device": ["a"] * 2, "time": [base, base + 6 * SECOND], "v": [1.5, 3.5], "n": [1, None]})


def test_a_bad_line_stops_and_what_came_before_stays(node, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text(BAD)
    summary = node.load(file, *FLAGS, "--table", "stopped", "--types", "v=f64,n=i64", check=False)
    assert summary["exit_code"] == 1 and summary["stopped"] and summary["bad_lines"] == 1
    assert summary["acknowledged_rows"] == 1 and f"{file}:3: " in summary["stderr"]
    assert table(node, "stopped").num_rows == 1


def test_damage_of_a_serial_line_is_told_by_file_and_line(node):
    data = dataset.solar()
    summary = node.load(*data.loads[0])
    assert summary["bad_lines"] == 1 and summary["acknowledged_rows"] == 44_634
    assert summary["stderr"].count("csv.zst:") == 1 and "expected 29 columns, found 55" in summary["stderr"] or "expected 28 columns" in summary["stderr"]


def test_bad_lines_of_line_protocol(node, tmp_path):
    file = tmp_path / "bad.lp"
    file.write_text('m,device=a v=1 1\nm,device=a v= 2\nm v=1 3\nm,device=a v="open 4\nm,device=a v=2i 5\n')
    summary = node.load(file, "--on-error", "skip", check=False)
    assert summary["acknowledged_rows"] == 1, summary
    for line in (2, 3, 4):
        assert f"{file}:{line}: " in summary["stderr"], summary["stderr"]


def test_the_same_files_again_change_nothing(node):
    data = dataset.parking()
    counts = []
    for _ in range(2):
        assert [s["acknowledged_rows"] for s in map(lambda a: node.load(*a), data.loads)] == [data.rows_written]
        counts.append(node.rows("parking"))
        node.action("flush")
    assert counts == [data.keys, data.keys] == [35_501, 35_501]
    check(table(node, "parking"), ref.rows(data.frame, LOWEST, HIGHEST))
    whole = node.ask("downsample", table="parking", start="2016-01-01T00:00:00Z", end="2017-01-01T00:00:00Z", every="1y", aggregates=["count"], group="all")
    assert whole.column("occupancy_count").to_pylist() == [35_501]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress, lambda b: gzip.compress(b[:20]) + gzip.compress(b[20:])])
def test_compression_is_found_by_content(node, tmp_path, pack):
    file = tmp_path / "packed"
    file.write_bytes(pack(GOOD.encode()))
    assert node.load(file, *FLAGS, "--table", "packed")["acknowledged_rows"] == 2
    assert node.load("-", *FLAGS, "--table", "packed", stdin=pack(GOOD.encode()))["acknowledged_rows"] == 2
    assert table(node, "packed").column("v").to_pylist() == [1.5, 2.5]


def test_a_cut_file_is_an_error_and_not_a_shorter_file(node, tmp_path):
    for name, packed in [("cut.csv.gz", gzip.compress(GOOD.encode() * 50)), ("cut.csv.zst", zstandard.compress(GOOD.encode() * 50))]:
        file = tmp_path / name
        file.write_bytes(packed[:-6])
        summary = node.load(file, *FLAGS, "--table", "cut", check=False)
        assert summary["exit_code"] == 1 and name in summary["stderr"], summary


def test_types_fit_every_row_and_what_the_table_has(node, tmp_path):
    file = tmp_path / "types.csv"
    # The first fraction comes late, a column of texts looks like numbers for long.
    rows = [f"a,{i},{i if i < 4990 else i + 0.5},{i if i < 4000 else 'x'},{'true' if i % 2 else 'FALSE'},{i}" for i in range(5000)]
    file.write_text("\n".join(["id,at,v,code,open,n", *rows]) + "\n")
    node.load(file, *FLAGS, "--table", "types", "--time-unit", "s")
    found = table(node, "types")
    assert [str(t) for t in found.schema.types[2:]] == ["double", "string", "bool", "int64"]
    assert found.column("v").to_pylist()[-1] == 4999.5 and found.column("code").to_pylist()[7] == "7"
    # Whole numbers fit the doubles of the table, fractions do not fit its integers.
    file.write_text("id,at,v,n\na,6000,7,8\n")
    node.load(file, *FLAGS, "--table", "types", "--time-unit", "s")
    assert table(node, "types", ["v", "n"]).slice(5000).to_pylist()[0]["v"] == 7.0
    file.write_text("id,at,n\na,6001,8.5\n")
    refused = node.load(file, *FLAGS, "--table", "types", "--time-unit", "s", check=False)
    assert refused["exit_code"] != 0 and "`n`" in refused["stderr"] and "i64" in refused["stderr"], refused
    forced = node.load(file, *FLAGS, "--table", "types", "--time-unit", "s", "--types", "n=f64", check=False)
    assert forced["exit_code"] == 1 and forced["refused_rows"] == 1 and "n" in forced["stderr"], forced
    assert node.rows("types") == 5001


def test_times_in_many_forms(node, tmp_path):
    file = tmp_path / "times.csv"
    base = at("2024-03-31T00:30:00")
    forms = ["2024-03-31T00:30:00Z", "2024-03-31 00:30:01", "2024-03-31T02:30:02+02:00", "2024-03-31 00:30:03.5", "2024-03-31T00:30:04.123456789Z"]
    file.write_text("id,at,v\n" + "".join(f"a,{text},1\n" for text in forms))
    node.load(file, *FLAGS, "--table", "forms")
    assert ref.plain(table(node, "forms").column("time")) == [base, base + SECOND, base + 2 * SECOND, base + 3 * SECOND + SECOND // 2, base + 4 * SECOND + 123_456_789]
    # Local times over a change of clocks: the hour that comes twice is its first, the one that is left out is moved on.
    local = ["2024-03-31 01:59:59", "2024-03-31 02:30:00", "2024-03-31 03:00:00", "2024-10-27 02:30:00", "2024-10-27 03:00:00"]
    file.write_text("id,at,v\n" + "".join(f"a,{text},{i}\n" for i, text in enumerate(local)))
    node.load(file, *FLAGS, "--table", "local", "--time-zone", "Europe/Berlin")
    times = [at("2024-03-31T00:59:59"), at("2024-03-31T01:30:00"), at("2024-03-31T01:00:00"), at("2024-10-27T00:30:00"), at("2024-10-27T02:00:00")]
    assert ref.plain(table(node, "local").column("time")) == sorted(times)
    for unit, factor in [("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1)]:
        file.write_text(f"id,at,v\na,{base // factor},1\n")
        for flags in (["--time-unit", unit], []):
            node.load(file, *FLAGS, "--table", f"unit_{unit}", *flags)
            assert ref.plain(table(node, f"unit_{unit}").column("time")) == [base]


def test_rows_of_the_future_wait_apart(node, tmp_path):
    file = tmp_path / "future.csv"
    file.write_text("id,at,v\na,2200-01-01T00:00:00Z,1\n")
    summary = node.load(file, *FLAGS, "--table", "future")
    assert summary["refused_rows"] == 0 and summary["acknowledged_rows"] == 1
    assert node.rows("future") == 0
    assert [(row["table"], row["device"], row["rows"]) for row in node.action("quarantine.list")] == [("future", "a", 1)]


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--table", "t"], "--device-column"),
        (["--table", "t", "--device", "a"], "--time-column"),
        (["--table", "t", "--device", "a", "--time-column", "when"], "expected a column `when`"),
        (["--table", "a b", "--device", "a", "--time-column", "at"], "a_b"),
        (["--table", "t", "--device", "a", "--time-column", "at", "--types", "v=f32"], "expected f64, i64, bool or utf8"),
        (["--table", "t", "--device", "a", "--time-column", "at", "--time-zone", "Mars/Olympus"], "Mars/Olympus"),
    ],
)
def test_wrong_flags_are_told_before_anything_is_sent(node, tmp_path, arguments, part):
    file = tmp_path / "good.csv"
    file.write_text(GOOD)
    done = node.run("load", file, *arguments, check=False)
    assert done.returncode == 2 and part in done.stderr.decode(), done.stderr.decode()


def test_a_missing_node_or_file_is_one_clear_line(node, tmp_path):
    done = node.run("load", tmp_path / "none.csv", *FLAGS, "--table", "t", check=False)
    assert done.returncode == 1 and b"none.csv" in done.stderr and len(done.stderr.splitlines()) == 1
    done = node.run("query", "latest", "--table", "t", "--node", "127.0.0.1:9", check=False)
    assert done.returncode == 1 and b"127.0.0.1:9" in done.stderr and len(done.stderr.splitlines()) == 1


def test_dry_run_shows_types_and_sends_nothing(node, tmp_path):
    file = tmp_path / "good.csv"
    file.write_text(GOOD)
    done = node.run("load", file, *FLAGS, "--table", "dry", "--dry-run")
    assert "v  f64" in done.stdout.decode() and "2 rows" in done.stdout.decode()
    assert "dry" not in [info.descriptor.path[0].decode() for info in node.client.list_flights()]
