"""Owns the comparison with DuckDB over the same rows and questions; leaves the Tidewell side to `questions.py`.

    .venv/bin/pip install duckdb
    .venv/bin/python benches/compare.py FILE.lp

FILE.lp is as for `questions.py`. DuckDB runs in this process and has the rows in a file sorted as they came; Tidewell is
asked over Arrow Flight with TLS. The program says so when duckdb is not installed and prints the Tidewell column alone.
"""

import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

OVER = "velocity > 95"
RUNS = (
    f"SELECT device, min(ts), max(ts), count(*) FROM (SELECT device, ts, hit, sum(CASE WHEN hit THEN 0 ELSE 1 END) "
    f"OVER (PARTITION BY device ORDER BY ts) AS run FROM (SELECT device, ts, {OVER} AS hit FROM fleet WHERE {{when}})) "
    "WHERE hit GROUP BY device, run"
)


def questions(start, end):
    day, hour = f"ts >= {start} AND ts < {end}", f"ts >= {end - 3_600_000} AND ts < {end}"
    one = f"device = 'truck_0042' AND {day}"
    return {
        "one truck, 1 min mean, min, max": f"SELECT ts // 60000, avg(velocity), min(velocity), max(velocity) FROM fleet WHERE {one} GROUP BY 1",
        "all trucks, 1 h mean": f"SELECT device, ts // 3600000, avg(velocity) FROM fleet WHERE {day} GROUP BY 1, 2",
        "rows over a threshold by truck, 1 h": f"SELECT device, count(*), min(ts), max(ts) FROM fleet WHERE {hour} AND {OVER} GROUP BY 1",
        "rows over a threshold by truck, 24 h": f"SELECT device, count(*), min(ts), max(ts) FROM fleet WHERE {day} AND {OVER} GROUP BY 1",
        "intervals over the threshold, 1 h": RUNS.format(when=hour),
        "intervals over the threshold, 24 h": RUNS.format(when=day),
        "newest row of all trucks": "SELECT DISTINCT ON (device) * FROM fleet ORDER BY device, ts DESC",
        "all rows of one truck": f"SELECT * FROM fleet WHERE {one} ORDER BY ts",
        "mean of one field by truck, 24 h": f"SELECT device, avg(current_load) FROM fleet WHERE {day} GROUP BY 1",
    }


def columns(lines):
    """The rows of line protocol as columns, in the order of the file."""
    table = {"device": [], "ts": []}
    with open(lines) as file:
        for line in file:
            head, fields, stamp = line.rsplit(" ", 2)
            table["device"].append(re.search(r"device=([^,]+)", head).group(1))
            table["ts"].append(int(stamp))
            for field in fields.split(","):
                name, value = field.split("=")
                table.setdefault(name, []).append(int(value[:-1]) if value.endswith("i") else float(value))
    return table


def duckdb_times(lines):
    try:
        import duckdb
        import pyarrow as pa
    except ImportError as error:
        print(f"DuckDB is left out: {error}", file=sys.stderr)
        return {}
    rows = pa.table(columns(lines))
    with tempfile.TemporaryDirectory() as folder:
        db = duckdb.connect(str(pathlib.Path(folder) / "fleet.duckdb"))
        db.execute("CREATE TABLE fleet AS SELECT * FROM rows")
        db.execute("CHECKPOINT")
        start = db.execute("SELECT min(ts) FROM fleet").fetchall()[0][0]
        times = {}
        for name, sql in questions(start, start + 86_400_000).items():
            taken = []
            for _ in range(12):
                began = time.perf_counter()
                answer = db.sql(sql).to_arrow_table()
                taken.append((time.perf_counter() - began) * 1e3)
            times[name] = (statistics.median(taken[2:]), answer.num_rows)
        db.close()
        return times


def main():
    lines = sys.argv[1]
    script = pathlib.Path(__file__).with_name("questions.py")
    said = subprocess.run([sys.executable, script, lines], check=True, capture_output=True, text=True).stdout
    print(next(line for line in said.splitlines() if "bytes a value" in line))
    theirs = duckdb_times(lines)
    print(f"{'question':38} {'Tidewell ms':>12} {'DuckDB ms':>12} {'times':>7} {'rows':>8}")
    for name, own, rows in re.findall(r"^(.+?) +([\d.]+) ms \(.*\), (\d+) rows$", said, re.MULTILINE):
        peer, found = theirs.get(name, (None, None))
        if found not in (None, int(rows)):
            sys.exit(f"{name}: {rows} rows from Tidewell, {found} from DuckDB")
        other = f"{peer:12.2f} {peer / float(own):7.1f}" if peer else f"{'-':>12} {'-':>7}"
        print(f"{name:38} {float(own):12.2f} {other} {rows:>8}")


if __name__ == "__main__":
    main()
