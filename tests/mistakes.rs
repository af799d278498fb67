//! Owns the proof that what goes wrong is told: one line for each mistake, exit codes, damage by name, a full disk.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Node, RawPeer, Said, batch, payload, run, run_with};
use tidewell_ingest::client::{Client, ClientConfig};
use tidewell_ingest::wire::{Frame, RejectCode};

/// A failed command says one line on standard error, beginning with the program's name, and nothing on standard output.
fn one_line(said: &Said, code: i32, parts: &[&str]) {
    let mine: Vec<&str> = said.err.lines().filter(|line| line.starts_with("tidewell: ")).collect();
    assert_eq!((said.code, mine.len(), said.out.as_str()), (Some(code), 1, ""), "{said:?}");
    for part in parts {
        assert!(mine[0].contains(part), "expected {part:?} in {:?}", mine[0]);
    }
    assert!(!mine[0].contains("panicked") && !said.err.contains("RUST_BACKTRACE"), "{said:?}");
}

/// `serve` on free ports with more arguments; it must end by itself.
fn serve(data_dir: &Path, more: &[&str]) -> Said {
    let fixed = ["serve", "--forget", "--log", "error", "--data-dir", data_dir.to_str().unwrap()];
    let mut args = fixed.to_vec();
    for flag in ["--ingest-addr", "--query-addr", "--admin-addr"] {
        if !more.contains(&flag) {
            args.extend([flag, "127.0.0.1:0"]);
        }
    }
    args.extend(more);
    run(&args)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_command_has_help_with_exit_code_0() {
    let commands: &[&[&str]] = &[
        &[],
        &["demo"],
        &["serve"],
        &["cert"],
        &["cert", "init"],
        &["cert", "device"],
        &["cert", "gateway"],
        &["cert", "reader"],
        &["load"],
        &["query"],
        &["query", "range"],
        &["query", "latest"],
        &["query", "downsample"],
        &["query", "threshold"],
        &["watch"],
        &["inspect"],
        &["inspect", "log"],
        &["inspect", "segment"],
        &["inspect", "manifest"],
        &["verify"],
        &["bench"],
        &["bench", "ingest"],
        &["bench", "query"],
    ];
    for command in commands {
        let said = run(&[command, &["--help"][..]].concat());
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{command:?}: {said:?}");
        assert!(said.out.contains("Usage: tidewell") && said.out.len() > 120, "{command:?}: {said:?}");
    }
    let version = run(&["--version"]);
    assert!(version.code == Some(0) && version.out.starts_with("tidewell "), "{version:?}");
}

#[test]
fn wrong_flags_end_with_2_and_name_the_flag() {
    for (args, part) in [
        (&["serve", "--data-dirr", "x"][..], "--data-dir"),
        (&["srve"], "serve"),
        (&["query", "latest", "--format", "xml", "--table", "t"], "--format"),
        (&["cert", "gateway", "depot", "--tls-dir", "x"], "--devices"),
        (&["verify"], "<DATA_DIR>"),
    ] {
        let said = run(args);
        assert!(said.code == Some(2) && said.err.contains(part), "{args:?}: {said:?}");
    }
}

#[test]
fn wrong_settings_end_with_2_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    one_line(&run(&["serve"]), 2, &["--data-dir", "data_dir"]);
    for (pair, parts) in [
        ("engine.memtabel=1MiB", &["--set", "engine.memtabel", "memtable"][..]),
        ("engine.memtable=lots", &["--set", "engine.memtable", "lots"]),
        ("engine.memtable=1KiB", &["engine.memtable", "1MiB"]),
        ("engine.shards=1000", &["engine.shards", "256", "1000"]),
        ("engine.seal_age=0s", &["engine.seal_age", "1s"]),
        ("engine.compaction=perhaps", &["engine.compaction", "true or false"]),
        ("no-equals-sign", &["--set", "KEY=VALUE"]),
    ] {
        one_line(&serve(&data, &["--set", pair]), 2, parts);
    }
    one_line(&serve(&data, &["--ingest-addr", "4433"]), 2, &["--ingest-addr", "4433"]);
    one_line(&run_with(&["serve"], &[("TIDEWELL_INGEST_ADDR", "nowhere")]), 2, &["TIDEWELL_INGEST_ADDR", "nowhere"]);

    let file = folder.path().join("node.toml");
    std::fs::write(&file, "[engine]\nshards = 2\n\n[ingest]\nconections_max = 5\n").unwrap();
    one_line(&serve(&data, &["--config", text(&file)]), 2, &["node.toml:5", "conections_max", "--print-config"]);
    std::fs::write(&file, "[engine\n").unwrap();
    one_line(&serve(&data, &["--config", text(&file)]), 2, &["node.toml:1"]);
    let missing = folder.path().join("missing.toml");
    one_line(&serve(&data, &["--config", text(&missing)]), 2, &["missing.toml", "--config"]);
    assert!(!data.exists(), "nothing was made");
    // What is printed is read again.
    let printed = run(&["serve", "--print-config", "--set", "engine.shards=3"]);
    std::fs::write(&file, &printed.out).unwrap();
    assert_eq!(run(&["serve", "--print-config", "--config", text(&file)]).out, printed.out);
    assert!(printed.out.contains("shards = 3"), "{}", printed.out);
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp, udp) = (tcp.local_addr().map(|a| (a, tcp)).unwrap(), udp.local_addr().map(|a| (a, udp)).unwrap());
    for (flag, address) in [("--query-addr", tcp.0), ("--admin-addr", tcp.0), ("--ingest-addr", udp.0)] {
        let address = address.to_string();
        one_line(&serve(&data, &[flag, &address]), 1, &[&address, "in use", flag]);
    }
    one_line(&serve(&data, &["--query-addr", "192.0.2.1:4434"]), 1, &["192.0.2.1:4434", "--query-addr"]);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // Not a folder. (A folder without permission would not stop a root user; a read-only one is below.)
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    one_line(&serve(&file.join("data"), &[]), 1, &["data directory", text(&file), "--data-dir"]);
    one_line(&serve(Path::new("/proc/tidewell"), &[]), 1, &["data directory", "/proc/tidewell", "--data-dir"]);

    // In use by another node.
    let data = folder.path().join("data");
    let node = Node::start(&data, &["engine.shards=1"], None);
    one_line(&serve(&data, &[]), 1, &[text(&data), "in use by another node", "stop that one"]);
    let said = run(&["verify", text(&data)]);
    one_line(&said, 1, &["in use by another node"]);
    node.terminate();
}

#[test]
fn a_newer_manifest_is_refused_by_name_and_version_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    Node::start(&data, &["engine.shards=1"], None).terminate();
    let manifest = find(&data, |name| name.to_ascii_uppercase().contains("MANIFEST"));
    let whole = std::fs::read(&manifest).unwrap();
    let newer = with_format_version(&whole, 9);
    std::fs::write(&manifest, &newer).unwrap();
    let name = manifest.file_name().unwrap().to_str().unwrap();
    one_line(&serve(&data, &[]), 1, &[name, "version 9", "newer"]);
    one_line(&run(&["verify", text(&data)]), 1, &[name, "version 9"]);
    assert_eq!(std::fs::read(&manifest).unwrap(), newer);
    std::fs::write(&manifest, &whole).unwrap();
    Node::start(&data, &[], None).terminate();
}

/// The manifest with another version in its header, checksum included (`docs/format/manifest.md`).
fn with_format_version(bytes: &[u8], version: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c(&bytes[..MANIFEST_HEADER - 4]);
    bytes[MANIFEST_HEADER - 4..MANIFEST_HEADER].copy_from_slice(&crc.to_le_bytes());
    bytes
}

const MANIFEST_HEADER: usize = 32;

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// The newest file below `dir` whose name is wanted.
fn find(dir: &Path, wanted: impl Fn(&str) -> bool + Copy) -> PathBuf {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if wanted(path.file_name().unwrap().to_str().unwrap()) {
                found.push(path);
            }
        }
    }
    found.sort();
    found.pop().unwrap_or_else(|| panic!("no such file in {}", dir.display()))
}

#[test]
fn wrong_certificate_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, tls) = (folder.path().join("data"), folder.path().join("tls"));
    let with_tls = || serve(&data, &["--tls-dir", text(&tls)]);
    one_line(&with_tls(), 2, &[text(&tls), "ca.pem", "tidewell cert init"]);
    assert_eq!(run(&["cert", "init", "--tls-dir", text(&tls)]).code, Some(0));
    one_line(&run(&["cert", "init", "--tls-dir", text(&tls)]), 2, &[text(&tls), "already"]);
    for (args, parts) in [
        (&["device", "node"][..], &["node", "--file"][..]),
        (&["device", ""], &["1 to 256 bytes"]),
        (&["gateway", "depot", "--devices", "["], &["--devices", "["]),
    ] {
        one_line(&run(&[&["cert"], args, &["--tls-dir", text(&tls)]].concat()), 2, parts);
    }
    let elsewhere = folder.path().join("elsewhere");
    one_line(&run(&["cert", "device", "truck_1", "--tls-dir", text(&elsewhere)]), 2, &["elsewhere", "cert init"]);

    let key = tls.join("node-key.pem");
    let whole = std::fs::read(&key).unwrap();
    std::fs::write(&key, "not a key\n").unwrap();
    one_line(&with_tls(), 1, &["node-key.pem", "cert init"]);
    // A key that belongs to another certificate.
    std::fs::copy(tls.join("dev-key.pem"), &key).unwrap();
    one_line(&with_tls(), 1, &["node.pem", "node-key.pem", "cert init"]);
    std::fs::write(&key, whole).unwrap();
    std::fs::write(tls.join("grants.toml"), "[gateway]\nx = [\"*\"]\n").unwrap();
    one_line(&with_tls(), 2, &["grants.toml", "gateway"]);
}

/// A directory with rows in segments and, after a kill, in the log.
fn directory_with_rows(data: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let send = |node: &Node, first: i64| {
        runtime.block_on(async {
            let config = ClientConfig::new(node.ready.ingest);
            let client = Client::connect(config, &node.material("dev")).await.unwrap();
            for round in 0..4 {
                let batch = batch(&["truck_1", "truck_2"], 3_000, first + round * 3_000);
                client.send(batch).await.unwrap().wait().await.unwrap();
            }
            client.close(Duration::from_secs(10)).await
        })
    };
    let node = Node::start(data, &["engine.shards=1", "engine.compaction=false"], None);
    assert_eq!(send(&node, 0), 0);
    node.terminate();
    let node = Node::start(data, &["engine.compaction=false"], None);
    assert_eq!(send(&node, 12_000), 0);
    node.kill();
}

#[test]
fn inspect_and_verify_read_what_a_node_left() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    directory_with_rows(&data);
    let files = [
        ("log", find(&data.join("log"), |name| name.ends_with(".log"))),
        ("segment", find(&data.join("seg"), |_| true)),
        ("manifest", find(&data, |name| name.to_ascii_uppercase().contains("MANIFEST"))),
    ];
    for (kind, path) in &files {
        let said = run(&["inspect", kind, text(path)]);
        assert!(said.code == Some(0) && said.out.lines().count() >= 2, "{kind}: {said:?}");
        let said = run(&["inspect", kind, text(path), "--json"]);
        assert_eq!(said.code, Some(0), "{kind}: {said:?}");
        for line in said.out.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{kind}: {error}: {line}"));
        }
        let missing = path.with_extension("missing");
        one_line(&run(&["inspect", kind, text(&missing)]), 1, &[text(&missing)]);
    }
    let log = run(&["inspect", "log", text(&files[0].1)]).out;
    assert!(log.contains("readings") && log.contains("truck_"), "{log}");
    let said = run(&["verify", text(&data)]);
    assert!(said.code == Some(0) && said.out.contains("24,000"), "{said:?}");
    one_line(&run(&["verify", text(&data.join("nowhere"))]), 1, &["nowhere"]);

    // Damage is named, each with its file; the exit code is 1; nothing is repaired.
    let segment = &files[1].1;
    let mut bytes = std::fs::read(segment).unwrap();
    let dump = run(&["inspect", "segment", text(segment), "--device", "truck_1"]).out;
    let at = first_block(&dump);
    bytes[at] ^= 1;
    std::fs::write(segment, &bytes).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    let said = run(&["verify", text(&data)]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.lines().any(|line| line.contains(name) && line.contains("offset")), "{said:?}");
    let said = run(&["verify", text(&data), "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert!(said.code == Some(1) && answer["damage"].to_string().contains(name), "{said:?}");
    assert_eq!(std::fs::read(segment).unwrap(), bytes);
    // A node that serves the rest says which file it is, too, to whoever wants all or nothing.
    let node = Node::start(&data, &[], None);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let query = node.query().await;
        let question =
            r#"{"range": {"table": "readings", "start": 0, "end": "2100-01-01T00:00:00Z", "damage": "refuse"}}"#;
        let error = match query.query(question).await {
            Ok(answer) => answer.collect().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.to_string().contains(name), "{error}");
        let question =
            r#"{"range": {"table": "readings", "start": "2023-11-15T02:00:00Z", "end": "2100-01-01T00:00:00Z"}}"#;
        let rows = query.query(question).await.unwrap().collect().await.unwrap();
        assert!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>() > 10_000, "rows that are not damaged answer");
    });
    node.terminate();
}

/// Where the first block that a dump tells has its middle: `block 0: … rows, …, LEN bytes at OFFSET, …`.
fn first_block(dump: &str) -> usize {
    let line = dump.lines().find(|line| line.contains("block 0:")).unwrap_or_else(|| panic!("no block in {dump}"));
    let (before, after) = line.split_once(" bytes at ").unwrap();
    let number = |text: &str| text.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap();
    let len = number(before.rsplit(' ').next().unwrap());
    number(after.split(',').next().unwrap()) + len / 2
}

/// A file system of its own that fills up; gone with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tidewell-test", text(at)]).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").args(["--lazy", text(&self.0)]).output().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_state_and_passes_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), 200) else {
        println!("skipped: this user may not mount a tmpfs");
        return;
    };
    let data = disk.0.join("data");
    let node = Node::start(&data, &["engine.shards=1", "engine.memtable=1MiB", "engine.log_file=1MiB"], None);
    let peer = RawPeer::connect(node.ready.ingest, node.material("dev").client_config().unwrap()).await.unwrap();
    let mut lane = peer.lane().await;
    lane.open(1).await;
    let bytes = |first| payload(&batch(&["truck_1"], 100, first));
    lane.batch(1, 1, bytes(0)).await;
    assert!(matches!(lane.hear().await, Some(Frame::Ack { seq: 1, .. })));
    assert_eq!(node.admin("/readyz").0, 200);

    // All but half of the reserve.
    let ballast = disk.0.join("ballast");
    let free = rustix::fs::statvfs(&disk.0).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
    std::fs::write(&ballast, vec![1; (free - (32 << 20)) as usize]).unwrap();
    lane.batch(1, 2, bytes(100)).await;
    match lane.hear().await {
        Some(Frame::Nack(nack)) => {
            assert_eq!((nack.seq, nack.code, nack.retryable), (2, RejectCode::DiskFull, true));
            assert!(nack.retry_after_ms > 0 && nack.message.contains("free"), "{}", nack.message);
        }
        other => panic!("expected a nack, heard {other:?}"),
    }
    assert_eq!((node.admin("/readyz").0, node.admin("/healthz").0), (503, 200), "full, and healthy all the same");
    assert_eq!(node.metric("tidewell_disk_full"), 1);
    let count = async || {
        let question = r#"{"range": {"table": "readings", "start": 0, "end": "2100-01-01T00:00:00Z"}}"#;
        let answer = node.query().await.query(question).await.unwrap().collect().await.unwrap();
        answer.iter().map(|batch| batch.num_rows()).sum::<usize>()
    };
    assert_eq!(count().await, 100, "queries go on");
    // What is there can be sealed: the reserve is for that.
    node.query().await.action("flush", "").await.unwrap();

    // A client that just goes on trying is acknowledged once there is room, without anybody doing anything else.
    let client = Client::connect(ClientConfig::new(node.ready.ingest), &node.material("dev")).await.unwrap();
    let delivery = client.send(batch(&["truck_2"], 50, 0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!delivery.is_done());
    std::fs::remove_file(&ballast).unwrap();
    let freed = Instant::now();
    tokio::time::timeout(Duration::from_secs(20), delivery.wait()).await.expect("taken again by itself").unwrap();
    println!("taken again {} ms after there was room", freed.elapsed().as_millis());
    lane.send_again(1, 2, 1, bytes(100)).await;
    assert!(matches!(lane.hear().await, Some(Frame::Ack { seq: 2, .. })));
    assert_eq!(count().await, 250);
    assert_eq!((node.admin("/readyz").0, node.metric("tidewell_disk_full")), (200, 0));

    lane.send_again(1, 3, 1, bytes(200)).await;
    assert!(matches!(lane.hear().await, Some(Frame::Ack { seq: 3, .. })));
    node.terminate();
    let node = Node::start(&data, &[], None);
    let question = r#"{"range": {"table": "readings", "start": 0, "end": "2100-01-01T00:00:00Z"}}"#;
    let answer = node.query().await.query(question).await.unwrap().collect().await.unwrap();
    assert_eq!(answer.iter().map(|batch| batch.num_rows()).sum::<usize>(), 350);
    node.terminate();
}
