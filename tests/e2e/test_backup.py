"""Owns backups as an operator makes them: while rows come in, to a folder and to a bucket, and back after the worst."""

import json
import socket
import subprocess
import sys
import threading

import pytest

from node import HIGHEST, LOWEST, Node, bits, wait_until

BUCKET = "vault"


@pytest.fixture(scope="module")
def bucket():
    """An S3-compatible server with an empty bucket; the environment that finds it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 60)
        environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
        }
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT"],
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket=BUCKET)
        yield environment, client
    finally:
        server.kill()
        server.wait()


def node_with(tmp_path, *destinations, env=None):
    tmp_path.mkdir(parents=True, exist_ok=True)
    node = Node(tmp_path, ("--set", f"backup.destinations={','.join(map(str, destinations))}"))
    node.env |= env or {}
    return node.start()


def send(node, first, count):
    text = "\n".join(["id,at,velocity", *(f"truck_{n % 7},{n},{n / 10}" for n in range(first, first + count))])
    arguments = ("--table", "readings", "--device-column", "id", "--time-column", "at", "--time-unit", "ns")
    summary = node.load("-", *arguments, stdin=text.encode())
    assert summary["exit_code"] == 0, summary


def rows(node):
    return node.ask("range", table="readings", start=LOWEST, end=HIGHEST)


def restore(node, source, folder, *arguments, check=True):
    return node.run("restore", "--json", "--from", source, "--to", folder / "data", *arguments, check=check)


def serve(folder):
    return Node(folder).start()


def check_round(tmp_path, destination, env=None):
    """Rows in segments, rows in the log, a second backup, kill -9, restore: the same answers to the bit."""
    node = node_with(tmp_path / "node", destination, env=env)
    again = None
    try:
        send(node, 0, 2000)
        node.action("flush")
        send(node, 2000, 500)
        (first,) = node.action("backup")
        assert first["new_files"] == first["files"] and first["damage"] == []
        at_first = rows(node)
        assert at_first.num_rows == 2500

        send(node, 2500, 500)
        node.action("flush")
        (second,) = node.action("backup")
        # The segments of the first backup are not sent again.
        assert 0 < second["new_files"] < second["files"]
        assert second["new_bytes"] < second["bytes"]
        (third,) = node.action("backup")
        assert third["new_files"] == 0, third
        at_second = rows(node)
        node.kill()

        restore(node, destination, tmp_path / "newest")
        again = serve(tmp_path / "newest")
        assert bits(rows(again)).equals(bits(at_second))
        assert again.stop() == 0
        restore(node, destination, tmp_path / "older", "--at", first["name"])
        again = serve(tmp_path / "older")
        assert bits(rows(again)).equals(bits(at_first))
        listed = node.run("backup", "list", "--from", destination, "--json")
        assert [json.loads(line)["name"] for line in listed.stdout.splitlines()] == [
            backup["name"] for backup in (first, second, third)
        ]
    finally:
        for running in (node, again):
            if running is not None and running.process is not None:
                running.kill()
    return node


def test_a_folder_takes_backups_and_gives_them_back(tmp_path):
    check_round(tmp_path, tmp_path / "backups")


def test_a_bucket_takes_backups_and_gives_them_back(tmp_path, bucket):
    environment, client = bucket
    check_round(tmp_path, f"s3://{BUCKET}/fleet/one", env=environment)
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert all(key.startswith(("fleet/one/backups/", "fleet/one/data/")) for key in keys), keys


def test_backups_under_load_have_every_row_acknowledged_before(tmp_path):
    node = node_with(tmp_path / "node", tmp_path / "backups")
    acknowledged, stop = [0], threading.Event()

    def keep_sending():
        while not stop.is_set():
            send(node, acknowledged[0], 200)
            acknowledged[0] += 200

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        made = []
        for round in range(4):
            wait_until(lambda: acknowledged[0] >= 400 * (round + 1), 60)
            before = acknowledged[0]
            made.append((node.action("backup")[0]["name"], before))
            node.action("flush" if round % 2 else "compact")
    finally:
        stop.set()
        sender.join()
        node.kill()
    for name, before in made:
        folder = tmp_path / name
        restore(node, tmp_path / "backups", folder, "--at", name)
        again = serve(folder)
        times = sorted(rows(again)["time"].cast("int64").to_pylist())
        again.kill()
        assert len(times) >= before
        assert times == list(range(len(times)))


def test_prune_keeps_what_the_newest_need(tmp_path):
    node = node_with(tmp_path / "node", tmp_path / "backups")
    try:
        names = []
        for round in range(3):
            send(node, 1000 * round, 1000)
            node.action("flush")
            node.action("compact")
            names.append(node.action("backup")[0]["name"])
        done = json.loads(node.run("backup", "prune", "--keep", "1", "--json").stdout)
        assert (done["removed"], done["kept"]) == (2, 1) and done["removed_files"] > 0
        assert [backup["name"] for backup in node.action("backup.list")] == names[2:]
        restore(node, tmp_path / "backups", tmp_path / "again")
        again = serve(tmp_path / "again")
        assert again.rows("readings") == 3000
        again.kill()
    finally:
        node.kill()


def test_a_damaged_backup_is_refused_by_name(tmp_path):
    node = node_with(tmp_path / "node", tmp_path / "backups")
    try:
        send(node, 0, 2000)
        node.action("flush")
        name = node.action("backup")[0]["name"]
    finally:
        node.kill()
    (segment,) = (tmp_path / "backups" / "data" / "seg").glob("*.seg.*")
    bytes_ = bytearray(segment.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    # The copy may be a link: the node's own file must stay as it is.
    segment.unlink()
    segment.write_bytes(bytes_)
    done = restore(node, tmp_path / "backups", tmp_path / "again", check=False)
    assert done.returncode == 1
    assert name in done.stderr.decode() and segment.name in done.stderr.decode(), done.stderr
    assert not (tmp_path / "again" / "data").exists() and not list(tmp_path.glob("again/*restoring"))

    (listing,) = (tmp_path / "backups" / "backups").glob("*.json")
    listing.write_text(listing.read_text().replace('"crc32c": ', '"crc32c": 1', 1))
    done = restore(node, tmp_path / "backups", tmp_path / "again", check=False)
    assert done.returncode == 1 and f"{listing.name} is damaged" in done.stderr.decode()


def test_restore_leaves_folders_with_something_in_them_alone(tmp_path):
    node = node_with(tmp_path / "node", tmp_path / "backups")
    try:
        send(node, 0, 10)
        node.action("backup")
        (tmp_path / "again" / "data").mkdir(parents=True)
        (tmp_path / "again" / "data" / "note").write_text("mine")
        done = restore(node, tmp_path / "backups", tmp_path / "again", check=False)
        assert done.returncode == 2 and "not empty" in done.stderr.decode()
    finally:
        node.kill()


def test_a_node_writes_only_where_its_configuration_allows(tmp_path):
    node = node_with(tmp_path / "node", tmp_path / "backups")
    try:
        for place in [tmp_path / "backups-2", tmp_path, tmp_path / "backups" / ".." / "x", "s3://elsewhere/x", "relative"]:
            with pytest.raises(Exception) as refused:
                node.action("backup", {"to": str(place)})
            assert str(place) in str(refused.value), refused.value
        assert not (tmp_path / "backups-2").exists()
        assert node.action("backup", {"to": str(tmp_path / "backups" / "below")})[0]["files"] > 0
    finally:
        node.kill()


def test_one_place_holds_backups_of_one_node(tmp_path):
    for name in ("one", "two"):
        node = node_with(tmp_path / name, tmp_path / "backups")
        try:
            if name == "one":
                node.action("backup")
            else:
                with pytest.raises(Exception, match="another data directory"):
                    node.action("backup")
        finally:
            node.kill()
