"""Owns what the rows of a set take in other stores, each with the settings that its users are told to use for little room.

Rows come as Arrow tables, as the node answered them: `device`, `time` (ns), fields; sorted by device, then time. Nothing here
is timed. A store that is not installed is left out, with its name.
"""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

READY_SECONDS_MAX = 30
CHUNK_ROWS = 50_000


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def parquet_bytes(folder: Path, tables: dict[str, pa.Table]) -> int:
    """One file a table, zstd 9, dictionaries where they pay."""
    for name, rows in tables.items():
        parquet.write_table(rows, folder / f"{name}.parquet", compression="zstd", compression_level=9)
    return folder_bytes(folder)


def duckdb_bytes(folder: Path, tables: dict[str, pa.Table]) -> int:
    """A database file after a checkpoint; it grows by 256 KiB blocks."""
    import duckdb

    connection = duckdb.connect(str(folder / "rows.db"))
    for name, rows in tables.items():
        connection.register("incoming", rows)
        connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM incoming ORDER BY device, time')
        connection.unregister("incoming")
    connection.execute("CHECKPOINT")
    connection.close()
    return folder_bytes(folder)


def clickhouse_bytes(folder: Path, tables: dict[str, pa.Table]) -> int:
    """MergeTree by device and time, merged into one part: DoubleDelta for times, ZSTD(9) for all."""
    from chdb import session

    def kind(field: pa.Field) -> str:
        if field.name == "time":
            return "Int64 CODEC(DoubleDelta, ZSTD(9))"
        if field.name == "device" or pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
            base = "LowCardinality(String)" if field.name == "device" else "LowCardinality(Nullable(String))"
        elif pa.types.is_floating(field.type):
            base = "Nullable(Float64)"
        elif pa.types.is_boolean(field.type):
            base = "Nullable(Bool)"
        else:
            base = "Nullable(Int64)"
        return f"{base} CODEC(ZSTD(9))"

    store = session.Session(str(folder / "store"))
    for name, rows in tables.items():
        columns = ", ".join(f"`{field.name}` {kind(field)}" for field in rows.schema)
        store.query(f"CREATE TABLE `{name}` ({columns}) ENGINE = MergeTree ORDER BY (device, time)")
        source = folder / "incoming.parquet"
        parquet.write_table(rows, source)
        store.query(f"INSERT INTO `{name}` SELECT * FROM file('{source}', 'Parquet')")
        store.query(f"OPTIMIZE TABLE `{name}` FINAL")
    parts = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()"
    found = int(str(store.query(parts, "TabSeparated")).strip())
    store.close()
    return found


def victoria_metrics_bytes(folder: Path, tables: dict[str, pa.Table]) -> int:
    """Numbers only, in milliseconds: text fields are left out. After a forced merge."""
    program = os.environ.get("VICTORIA_METRICS_BIN") or shutil.which("victoria-metrics")
    if not program:
        raise ImportError("victoria-metrics is not in PATH; VICTORIA_METRICS_BIN names it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [program, f"-storageDataPath={folder}", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=100y"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"{address}/health")
        for name, rows in tables.items():
            for lines in line_protocol(name, rows):
                post(f"{address}/write?precision=ms", lines)
        post(f"{address}/internal/force_flush", b"")
        post(f"{address}/internal/force_merge", b"")
        # The merge goes on behind the answer: it is done when the size stays.
        before, same = -1, 0
        while same < 5:
            time.sleep(0.5)
            now = folder_bytes(folder)
            before, same = now, same + 1 if now == before else 0
    finally:
        process.terminate()
        process.wait(READY_SECONDS_MAX)
    return folder_bytes(folder / "data") + folder_bytes(folder / "indexdb")


def line_protocol(name: str, rows: pa.Table):
    numbers = [f.name for f in rows.schema if f.name not in ("device", "time") and not is_text(f.type)]
    if not numbers:
        return

    def escaped(text: str) -> str:
        return text.replace(",", "\\,").replace(" ", "\\ ").replace("=", "\\=")

    head = f"{escaped(name)},device="
    for batch in rows.select(["device", "time", *numbers]).to_batches(CHUNK_ROWS):
        columns = [batch.column(at).to_pylist() for at in range(2, batch.num_columns)]
        devices = batch.column(0).to_pylist()
        times = pc.divide(batch.column(1).cast(pa.int64()), 1_000_000).to_pylist()
        lines = []
        for row, (device, at) in enumerate(zip(devices, times)):
            fields = ((field, column[row]) for field, column in zip(numbers, columns))
            text = ",".join(f"{escaped(field)}={float(value)!r}" for field, value in fields if value is not None)
            if text:
                lines.append(f"{head}{escaped(device)} {text} {at}")
        yield "\n".join(lines).encode()


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def post(address: str, body: bytes) -> None:
    urllib.request.urlopen(urllib.request.Request(address, data=body, method="POST"), timeout=60).read()


def wait_for(address: str) -> None:
    until = time.monotonic() + READY_SECONDS_MAX
    while True:
        try:
            urllib.request.urlopen(address, timeout=1).read()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


STORES = {
    "Parquet": parquet_bytes,
    "DuckDB": duckdb_bytes,
    "ClickHouse": clickhouse_bytes,
    "VictoriaMetrics": victoria_metrics_bytes,
}


def measure(store: str, folder: Path, tables: dict[str, pa.Table]) -> int | None:
    """Bytes of the rows in `store`; None when it is not installed."""
    folder.mkdir()
    try:
        return STORES[store](folder, tables)
    except ImportError as error:
        print(f"{store} is left out: {error}")
        return None
