//! The real binary, as a user meets it: commands, exit codes, the ready line, the JSON that programs read.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A command that sees nothing of the user's own settings, and remembers nodes in `state`.
fn tidewell(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewell"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEWELL_")) {
        command.env_remove(name);
    }
    command.env("XDG_STATE_HOME", state).stdin(Stdio::null());
    command
}

fn run(state: &Path, args: &[&str]) -> Output {
    tidewell(state).args(args).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// Standard output of a command that must succeed.
fn good(state: &Path, args: &[&str]) -> String {
    let output = run(state, args);
    assert!(output.status.success(), "{args:?}: {}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Exit code and standard error of a command that must fail with one line.
fn bad(state: &Path, args: &[&str]) -> (i32, String) {
    let output = run(state, args);
    let message = text(&output.stderr);
    assert!(!output.status.success(), "{args:?} succeeded: {}", text(&output.stdout));
    (output.status.code().expect("it was not killed"), message)
}

fn rows(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

struct Node {
    child: Child,
    ready: Value,
}

impl Node {
    fn start(state: &Path, data: &Path, more: &[&str]) -> Self {
        let mut child = tidewell(state)
            .args([
                "serve",
                "--ingest-addr",
                "127.0.0.1:0",
                "--query-addr",
                "127.0.0.1:0",
                "--admin-addr",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("the ready line");
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("ready line {line:?}: {e}"));
        Self { child, ready }
    }

    fn address(&self, key: &str) -> String {
        self.ready[key].as_str().expect("an address").to_owned()
    }

    /// SIGTERM; gives the exit code.
    fn stop(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        self.child.wait().expect("it ends").code().expect("it was not killed")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the admin address answers");
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).expect("write a file");
        self.path(name).display().to_string()
    }
}

#[test]
fn rows_go_in_come_back_and_survive_a_restart() {
    let folder = Folder::new();
    let (state, data) = (folder.path("state"), folder.path("data"));
    let node = Node::start(&state, &data, &[]);
    assert_eq!(node.ready["ready"], true);
    assert!(Path::new(node.ready["tls_dir"].as_str().unwrap()).join("dev.pem").exists());

    let csv = folder.file(
        "trips.csv",
        "at,truck,speed,gear,note\n2026-01-01T00:00:00Z,t1,10.5,1,\"a, b\"\n2026-01-01T00:00:10Z,t1,20,2,\n2026-01-01T00:00:20Z,t2,99.25,,x\n",
    );
    let load = ["load", &csv, "--table", "trips", "--device-column", "truck", "--time-column", "at", "--json"];
    for _ in 0..2 {
        // The second time changes nothing: the keys are the same.
        let summary: Value = serde_json::from_str(&good(&state, &load)).unwrap();
        assert_eq!(
            (&summary["rows"], &summary["acknowledged_rows"], &summary["bad_lines"]),
            (&3.into(), &3.into(), &0.into())
        );
    }
    let range = ["query", "range", "--table", "trips", "--json"];
    let before = good(&state, &range);
    let lines = rows(&before);
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[0].to_string(),
        r#"{"device":"t1","time":"2026-01-01T00:00:00.000000000Z","speed":10.5,"gear":1,"note":"a, b"}"#
    );
    assert_eq!(lines[1]["note"], Value::Null);
    assert!(lines[2]["gear"].is_null() && lines[2]["speed"] == 99.25);

    let latest = rows(&good(&state, &["query", "latest", "--table", "trips", "--devices", "t1", "--json"]));
    assert_eq!((&latest[0]["speed"], &latest[0]["note"]), (&20.0.into(), &"a, b".into()));
    let windows = good(
        &state,
        &[
            "query",
            "downsample",
            "--table",
            "trips",
            "--every",
            "1m",
            "--group",
            "all",
            "--fields",
            "speed",
            "--aggregates",
            "count,max",
            "--json",
        ],
    );
    let windows = rows(&windows);
    assert_eq!((&windows[0]["speed_count"], &windows[0]["speed_max"]), (&3.into(), &99.25.into()));
    let intervals =
        rows(&good(&state, &["query", "threshold", "--table", "trips", "--where", "speed >= 10.5", "--json"]));
    assert_eq!(intervals.len(), 2);
    assert_eq!((&intervals[0]["samples"], &intervals[0]["duration"]), (&2.into(), &10.into()));

    let admin = node.address("admin_addr");
    assert!(http(&admin, "GET /readyz").starts_with("HTTP/1.1 200"));
    let metrics = http(&admin, "GET /metrics");
    assert!(metrics.contains("tidewell_rows_total{shard=\"0\"}"), "{metrics}");
    assert!(http(&admin, "GET /nothing").starts_with("HTTP/1.1 404"));
    assert!(http(&admin, "DELETE /metrics").starts_with("HTTP/1.1 405"));

    // The directory is taken; a second node says so and ends.
    let second = [
        "serve",
        "--ingest-addr",
        "127.0.0.1:0",
        "--query-addr",
        "127.0.0.1:0",
        "--admin-addr",
        "127.0.0.1:0",
        "--data-dir",
    ];
    let (code, message) = bad(&state, &[&second[..], &[data.to_str().unwrap()]].concat());
    assert!(code == 1 && message.contains("in use by another node"), "{message}");

    assert_eq!(node.stop(), 0);
    let verified: Value = serde_json::from_str(&good(&state, &["verify", data.to_str().unwrap(), "--json"])).unwrap();
    assert_eq!((&verified["ok"], &verified["segment_rows"]), (&true.into(), &3.into()));
    assert!(
        good(&state, &["inspect", "manifest", data.to_str().unwrap()])
            .contains("table trips: speed f64, gear i64, note utf8")
    );

    let node = Node::start(&state, &data, &[]);
    assert_eq!(good(&state, &range), before);
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_killed_node_has_what_it_acknowledged() {
    let folder = Folder::new();
    let (state, data) = (folder.path("state"), folder.path("data"));
    let mut node = Node::start(&state, &data, &[]);
    let mut lines = String::new();
    for row in 0..5_000 {
        lines +=
            &format!("m,device=d{} v={row}i,w=0.5 {}\n", row % 7, 1_700_000_000_000_000_000i64 + row * 1_000_000_000);
    }
    let file = folder.file("rows.lp", &lines);
    good(&state, &["load", &file]);
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    drop(node);
    let node = Node::start(&state, &data, &[]);
    let count = good(
        &state,
        &[
            "query",
            "downsample",
            "--table",
            "m",
            "--every",
            "10000d",
            "--group",
            "all",
            "--fields",
            "v",
            "--aggregates",
            "count,sum",
            "--json",
        ],
    );
    let count = &rows(&count)[0];
    assert_eq!((&count["v_count"], &count["v_sum"]), (&5_000.into(), &12_497_500.into()));
    assert_eq!(node.stop(), 0);
}

#[test]
fn bad_lines_are_named_and_stop_or_are_skipped() {
    let folder = Folder::new();
    let (state, data) = (folder.path("state"), folder.path("data"));
    let node = Node::start(&state, &data, &[]);
    let csv = folder.file("a.csv", "time,device,v\n2026-01-01,a,1\nnever,a,2\n2026-01-03,a,3\n");
    let load = ["load", &csv, "--table", "t", "--device-column", "device", "--time-column", "time"];
    let (code, message) = bad(&state, &load);
    assert!(code == 1 && message.contains("a.csv:3: time `never`"), "{message}");
    let output = good(&state, &[&load[..], &["--on-error", "skip"]].concat());
    assert!(output.contains("2 rows read, 2 acknowledged, 1 bad lines skipped"), "{output}");
    let (code, message) = bad(&state, &["load", &csv, "--table", "t"]);
    assert!(code == 2 && message.contains("--device-column") && message.contains("--time-column"), "{message}");
    assert_eq!(node.stop(), 0);
}

#[test]
fn certificates_decide_who_writes_and_reads() {
    let folder = Folder::new();
    let (state, data, tls) = (folder.path("state"), folder.path("data"), folder.path("tls"));
    let tls = tls.to_str().unwrap();
    good(&state, &["cert", "init", "--tls-dir", tls]);
    good(&state, &["cert", "gateway", "depot", "--devices", "truck_*", "--tls-dir", tls]);
    good(&state, &["cert", "reader", "dash", "--devices", "truck_1", "--tls-dir", tls]);
    let node = Node::start(&state, &data, &["--tls-dir", tls]);
    let csv = folder.file("a.csv", "time,device,v\n2026-01-01,truck_1,1\n2026-01-01,truck_2,2\n");
    let other = folder.file("b.csv", "time,device,v\n2026-01-01,van_1,1\n");
    let (ingest, query) = (node.address("ingest_addr"), node.address("query_addr"));
    let load = |file: &str, cert: &str| {
        run(
            &state,
            &[
                "load",
                file,
                "--table",
                "t",
                "--device-column",
                "device",
                "--time-column",
                "time",
                "--node",
                &ingest,
                "--tls-dir",
                tls,
                "--cert",
                cert,
            ],
        )
    };
    assert!(load(&csv, "depot").status.success());
    let refused = load(&other, "depot");
    assert!(!refused.status.success() && text(&refused.stderr).contains("truck_*"), "{}", text(&refused.stderr));
    let seen = good(
        &state,
        &["query", "latest", "--table", "t", "--json", "--node", &query, "--tls-dir", tls, "--cert", "dash"],
    );
    assert_eq!(rows(&seen).iter().map(|r| r["device"].clone()).collect::<Vec<_>>(), ["truck_1"]);
    let (code, message) =
        bad(&state, &["query", "latest", "--table", "t", "--node", &query, "--tls-dir", tls, "--cert", "depot"]);
    assert!(code == 1 && message.contains("gateway/depot has no grant to read"), "{message}");
    assert_eq!(node.stop(), 0);
}

#[test]
fn mistakes_end_with_two_and_one_line_that_helps() {
    let folder = Folder::new();
    let state = folder.path("state");
    for (args, hint) in [
        (&["serve"][..], "--data-dir"),
        (&["serve", "--data-dir", "x", "--ingest-addr", "nowhere"], "--ingest-addr"),
        (&["serve", "--data-dir", "x", "--set", "engine.memory=1MiB"], "memory"),
        (&["query", "latest", "--table", "t"], "tidewell serve"),
        (&["query", "sql", "select 1"], "not in this release"),
        (&["watch", "overheat"], "not in this release"),
        (&["load", "nothing.csv", "--table", "a b"], "a_b"),
        (&["cert", "device", "x", "--tls-dir", "nowhere"], "cert init"),
    ] {
        let (code, message) = bad(&state, args);
        assert!(
            code == 2 && message.contains(hint) && message.trim_end().lines().count() == 1,
            "{args:?}: {code}: {message}"
        );
    }
    let (code, message) = bad(&state, &["verify", folder.path("none").to_str().unwrap()]);
    assert!(code == 1 && message.contains("data directory"), "{message}");
}

#[test]
fn the_printed_configuration_shows_where_a_value_came_from_last() {
    let folder = Folder::new();
    let config = folder.file("t.toml", "data_dir = \"/a\"\n[engine]\nmemtable = \"8MiB\"\nshards = 2\n");
    let output = tidewell(&folder.path("state"))
        .args(["serve", "--config", &config, "--data-dir", "/b", "--print-config"])
        .env("TIDEWELL_ENGINE_MEMTABLE", "16MiB")
        .output()
        .unwrap();
    let printed: toml::Table = text(&output.stdout).parse().unwrap();
    assert_eq!(printed["data_dir"].as_str(), Some("/b"));
    assert_eq!(printed["engine"]["memtable"].as_str(), Some("16MiB"));
    assert_eq!(printed["engine"]["shards"].as_integer(), Some(2));
}

#[test]
fn the_benchmark_reads_back_what_was_acknowledged() {
    let folder = Folder::new();
    let output = good(
        &folder.path("state"),
        &["bench", "ingest", "--seconds", "0.5", "--devices", "50", "--batch-rows", "100", "--json"],
    );
    let report: Value = serde_json::from_str(&output).unwrap();
    assert!(report["acknowledged_rows"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["acknowledged_rows"], report["read_back_rows"]);
    assert_eq!(report["duplicates"], 0);
    for path in [
        "/rows_per_second",
        "/values_per_second",
        "/ack_ms/p50",
        "/ack_ms/p99",
        "/ack_ms/p999",
        "/ack_ms/max",
        "/bytes_per_value/wire",
        "/bytes_per_value/log",
        "/bytes_per_value/stored",
        "/cpu_seconds_per_million_values/node",
        "/cpu_seconds_per_million_values/client",
    ] {
        assert!(report.pointer(path).is_some_and(Value::is_number), "{path} in {report}");
    }
}

#[test]
fn the_demo_holds_what_it_shows() {
    let folder = Folder::new();
    let output = good(&folder.path("state"), &["demo", "--seconds", "3"]);
    for sentence in ["kill -9", "nothing lost, nothing twice", "exactly truck_13", "All checks held"] {
        assert!(output.contains(sentence), "{sentence} in {output}");
    }
}
