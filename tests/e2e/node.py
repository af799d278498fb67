"""Owns a node as a process and the foreign client that talks to it; does not know what is asked."""

import json
import os
import select
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
CALL_SECONDS_MAX = 120

LOWEST, HIGHEST = -(2**63), 2**63 - 1


def binary() -> Path:
    """The program under test: TIDEWELL_BIN, or what `cargo build` made."""
    named = os.environ.get("TIDEWELL_BIN")
    if named:
        return Path(named).resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return (ROOT / target / "debug" / "tidewell").resolve()


class Node:
    """One data directory and the process that serves it; `start` after `stop` or `kill` serves the same rows again."""

    def __init__(self, folder: Path, flags: tuple[str, ...] = ()):
        self.folder = folder
        self.data_dir = folder / "data"
        self.flags = flags
        self.log = folder / "node.log"
        self.process = None
        self.ready = None
        self._client = None
        self.asked: dict[bytes, pa.Table] | None = None
        # The note about the last node belongs to this node alone, so that commands find it without flags.
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("TIDEWELL_")}
        self.env["XDG_STATE_HOME"] = str(folder / "state")
        # What the node alone gets: variables, and what its process does before it becomes the node.
        self.node_env: dict[str, str] = {}
        self.before_exec = None

    def start(self, again: bool = False) -> "Node":
        """With `again`, at the addresses it had before: clients find it there."""
        assert self.process is None, "the node runs already"
        command = [binary(), "serve", "--data-dir", self.data_dir, "--until-stdin-closes"]
        for name in ("ingest", "query", "admin"):
            command += [f"--{name}-addr", self.ready[f"{name}_addr"] if again else "127.0.0.1:0"]
        with self.log.open("ab") as log:
            # The pipe to standard input closes with this process, so that no node outlives the tests.
            self.process = subprocess.Popen(
                [*command, *self.flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.env | self.node_env,
                preexec_fn=self.before_exec,
            )
        readable, _, _ = select.select([self.process.stdout], [], [], START_SECONDS_MAX)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            self.process.kill()
            self.process.wait()
            self.process = None
            raise AssertionError(f"the node did not become ready; its log:\n{self.log_text()}")
        self.ready = json.loads(line)
        assert self.ready["ready"] is True
        return self

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what was not on disk is gone."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        self.close_client()
        self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS_MAX)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None
        return code

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]

    def tls(self, name: str) -> bytes:
        return (Path(self.ready["tls_dir"]) / name).read_bytes()

    def connect(self, certificate: str | None = "dev", **options) -> flight.FlightClient:
        """A client with the named certificate of the TLS folder, or with none."""
        arguments = {"tls_root_certs": self.tls("ca.pem")}
        if certificate is not None:
            arguments["cert_chain"] = self.tls(f"{certificate}.pem")
            arguments["private_key"] = self.tls(f"{certificate}-key.pem")
        return flight.FlightClient(f"grpc+tls://{self.ready['query_addr']}", **(arguments | options))

    @property
    def client(self) -> flight.FlightClient:
        if self._client is None:
            self._client = self.connect()
        return self._client

    def close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def ask(self, kind: str, /, **request) -> pa.Table:
        """The answer to one question; `for_` and `return_` stand for the words that Python keeps to itself."""
        return self.ask_ticket(question(kind, **request))

    def ask_ticket(self, ticket: bytes) -> pa.Table:
        options = flight.FlightCallOptions(timeout=CALL_SECONDS_MAX)
        answer = self.client.do_get(flight.Ticket(ticket), options).read_all()
        if self.asked is not None:
            self.asked.setdefault(ticket, answer)
        return answer

    def action(self, name: str, body: dict | None = None) -> list[dict]:
        options = flight.FlightCallOptions(timeout=CALL_SECONDS_MAX)
        action = flight.Action(name, b"" if body is None else json.dumps(body).encode())
        return [json.loads(result.body.to_pybytes()) for result in self.client.do_action(action, options)]

    def figure(self, name: str) -> int:
        """A figure of the stats action, added over the shards."""
        return sum(shard[name] for shard in self.action("stats")[0]["shards"])

    def run(self, *arguments, check: bool = True, stdin: bytes | None = None) -> subprocess.CompletedProcess:
        """A command of the program, which finds this node by its note."""
        command = [str(binary()), *map(str, arguments)]
        done = subprocess.run(command, env=self.env, input=stdin, capture_output=True, timeout=CALL_SECONDS_MAX)
        if check:
            assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr.decode()}"
        return done

    def load(self, *arguments, check: bool = True, stdin: bytes | None = None) -> dict:
        """`tidewell load`; its summary, with `exit_code` and `stderr` added."""
        done = self.run("load", "--json", *arguments, check=check, stdin=stdin)
        summary = json.loads(done.stdout) if done.stdout else {}
        return summary | {"exit_code": done.returncode, "stderr": done.stderr.decode()}

    def bench(self, *arguments) -> subprocess.Popen:
        """`tidewell bench ingest` against this node; `report` waits for what it says."""
        command = [binary(), "bench", "ingest", "--json", "--no-compact", "--node", self.ready["ingest_addr"], *arguments]
        return subprocess.Popen([*map(str, command)], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def admin(self, path: str) -> tuple[int, str]:
        """The answer of the admin address: status and body."""
        try:
            with urllib.request.urlopen(f"http://{self.ready['admin_addr']}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels) -> float:
        """A metric, added over its series that have `labels`."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self.admin("/metrics")[1].splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))

    def anonymous_bytes(self) -> int:
        """Memory of the process that is not pages of files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))

    def rows(self, table: str) -> int:
        """Rows of a table, counted by reading them."""
        return self.ask("range", table=table, start=LOWEST, end=HIGHEST).num_rows


def report(bench: subprocess.Popen, check: bool = True) -> dict:
    """What a load said in the end; with `check`, that everything acknowledged was read back."""
    out, err = bench.communicate(timeout=CALL_SECONDS_MAX)
    assert not check or bench.returncode == 0, f"the load ended with {bench.returncode}: {err.decode()}"
    return json.loads(out) if out else {"error": err.decode()}


def question(kind: str, /, **request) -> bytes:
    """A request as JSON; a trailing `_` of a key is dropped."""
    return json.dumps({kind: {key.rstrip("_"): value for key, value in request.items()}}).encode()


def bits(table: pa.Table) -> pa.Table:
    """Doubles as integers, so that NaN equals NaN and -0 is not +0."""
    columns = [pa.concat_arrays(c.chunks) if c.num_chunks else pa.array([], c.type) for c in table.columns]
    view = [c.view(pa.int64()) if pa.types.is_float64(c.type) else c for c in columns]
    return pa.table(view, names=table.column_names)


def replay(node: Node, what: str) -> None:
    """Asks everything again that was asked since `asked` was set; every answer must be the same to the bit."""
    asked, node.asked = node.asked, None
    for ticket, answer in asked.items():
        assert bits(node.ask_ticket(ticket)).equals(bits(answer)), f"after {what}: another answer to {ticket.decode()}"
    node.asked = asked


def replay_everywhere(node: Node) -> None:
    """The same questions to rows in segments, in compacted segments, after a restart and after a crash."""
    if not node.asked:
        pytest.skip("no test of this file asked anything before")
    node.action("flush")
    replay(node, "a flush")
    node.action("compact")
    replay(node, "a compaction")
    assert node.stop() == 0
    node.run("verify", node.data_dir)
    node.start()
    replay(node, "a restart")
    node.kill()
    node.start()
    replay(node, "a crash")


def wait_until(condition, seconds: float = 10.0) -> None:
    """Waits for what happens soon, but not at once."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
