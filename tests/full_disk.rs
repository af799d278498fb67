//! Owns the proof that a full disk is a state that passes: a real node on a small file system refuses by name, goes on
//! answering, and takes batches again by itself once retention, a delete or an operator made room.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{BASE_NS, Chance, Node, RawPeer, integers, payload, run};
use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, Text, Values};
use tidewell_ingest::client::{Client, ClientConfig, Delivery};
use tidewell_ingest::wire::{Frame, RejectCode};

/// 64 MiB of it are the node's reserve.
const DISK_MIB: u64 = 160;
const SETTINGS: &[&str] = &["engine.shards=1", "engine.memtable=6MiB", "engine.log_file=2MiB", "engine.seal_age=1s"];
const ROWS: usize = 256;
const NOTE_BYTES: usize = 2_048;
const DAY_NS: i64 = 86_400_000_000_000;

/// A file system of its own, gone with the test.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where mounting is not allowed.
    fn new(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={DISK_MIB}m");
        let said = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tidewell-test"]).arg(at).output();
        match said {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            Ok(output) => {
                println!("SKIPPED: cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("SKIPPED: cannot run mount: {error}");
                None
            }
        }
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all but `leave` bytes, as somebody else's files would.
    fn fill(&self, leave: u64) -> PathBuf {
        let path = self.0.join("somebody-else");
        let file = std::fs::File::create(&path).unwrap();
        let bytes = self.free().saturating_sub(leave);
        if bytes > 0 {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        }
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazy: whoever still has a file open keeps it until the end.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// Rows that no codec makes much smaller: half a mebibyte a batch.
fn rows(table: &str, device: &str, first: i64, start_ns: i64, chance: &mut Chance) -> Batch {
    let mut runs = DeviceRuns::default();
    runs.push(device, ROWS as u32);
    let mut text = Text::default();
    for _ in 0..ROWS {
        let note: String = (0..NOTE_BYTES).map(|_| char::from(33 + chance.below(94) as u8)).collect();
        text.push(&note);
    }
    let column = Column { values: Values::Utf8(text), validity: None };
    let times = (first..first + ROWS as i64).map(|row| start_ns + row * 1_000_000).collect();
    Batch { table: table.into(), devices: runs, times, fields: vec![BatchField { name: "note".into(), column }] }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Rows of `readings` from the one device, as the node answers.
async fn times(node: &Node, table: &str) -> Vec<i64> {
    let question =
        serde_json::json!({"range": {"table": table, "start": 0, "end": "2100-01-01T00:00:00Z", "fields": []}});
    let answer = node.query().await.query(&question.to_string()).await.unwrap().collect().await.unwrap();
    answer.iter().flat_map(|batch| integers(batch, "time")).map(|time| time.unwrap()).collect()
}

struct Sender {
    client: Client,
    chance: Chance,
    start_ns: i64,
    /// Batches handed over, with what became of them.
    sent: Vec<Delivery>,
}

impl Sender {
    /// Sends until the node says that its disk is full.
    async fn fill(&mut self, node: &Node) {
        let end = Instant::now() + Duration::from_secs(60);
        while node.admin("/readyz").0 == 200 {
            assert!(Instant::now() < end, "the disk is not full after {} batches", self.sent.len());
            let batch = rows("readings", "truck_1", (self.sent.len() * ROWS) as i64, self.start_ns, &mut self.chance);
            // The window of what may wait is full soon after the disk.
            match tokio::time::timeout(Duration::from_secs(1), self.client.send(batch)).await {
                Ok(delivery) => self.sent.push(delivery.unwrap()),
                Err(_) => break,
            }
        }
        until("the node says that it is full", || {
            let (status, body) = node.admin("/readyz");
            status == 503 && body.contains("\"disk_full_shards\":[0]")
        })
        .await;
    }

    fn acked(&self) -> usize {
        self.sent.iter().filter(|delivery| delivery.is_done()).count()
    }

    /// Everything that was sent is taken, with nobody's help.
    async fn all_taken(&self, context: &str) {
        let flushed = tokio::time::timeout(Duration::from_secs(30), self.client.flush()).await;
        flushed
            .unwrap_or_else(|_| panic!("{context}: {} of {} batches are taken", self.acked(), self.sent.len()))
            .unwrap();
        for delivery in &self.sent {
            delivery.wait().await.unwrap_or_else(|refused| panic!("{context}: refused for good: {refused}"));
        }
    }

    /// What was acknowledged is there once, and nothing that was not sent.
    async fn check(&self, node: &Node, context: &str) {
        let acked: Vec<usize> = (0..self.sent.len()).filter(|at| self.sent[*at].is_done()).collect();
        let found = times(node, "readings").await;
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{context}: rows come once and in order");
        assert!(found.len() <= self.sent.len() * ROWS, "{context}: {} rows", found.len());
        for batch in acked {
            for row in batch * ROWS..(batch + 1) * ROWS {
                let time = self.start_ns + row as i64 * 1_000_000;
                assert!(found.binary_search(&time).is_ok(), "{context}: row {row} was acknowledged and is gone");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_answers_and_recovers_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(&folder.path().join("disk")) else { return };
    let data_dir = disk.0.join("data");
    // The log of the process must not take the room of its data.
    let log = folder.path().join("node.log");
    std::os::unix::fs::symlink(&log, data_dir.with_extension("log")).unwrap();
    std::fs::write(&log, "").unwrap();
    let mut node = Node::start(&data_dir, SETTINGS, None);
    let home = node.ready.clone();
    let now_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let config = ClientConfig {
        backoff_max: Duration::from_millis(200),
        handshake_timeout: Duration::from_secs(2),
        ..ClientConfig::new(home.ingest)
    };
    let client = Client::connect(config, &node.material("dev")).await.unwrap();
    let mut sender =
        Sender { client, chance: Chance::printed(), start_ns: now_ns / DAY_NS * DAY_NS - DAY_NS, sent: Vec::new() };
    // Two tables that can be given up: one by its age, one by a delete.
    for (table, start_ns) in [("ancient", BASE_NS), ("unloved", sender.start_ns)] {
        for batch in 0..40 {
            let batch = rows(table, "archive", batch * ROWS as i64, start_ns, &mut sender.chance);
            sender.client.send(batch).await.unwrap();
        }
    }
    sender.client.flush().await.unwrap();
    node.query().await.action("flush", Vec::new()).await.unwrap();

    // Full: refused by name and for the moment, and what is there is read as ever.
    sender.fill(&node).await;
    assert_eq!(node.admin("/healthz").0, 200, "a full disk is no illness");
    let peer = RawPeer::connect(home.ingest, node.material("dev").client_config().unwrap()).await.unwrap();
    let mut lane = peer.lane().await;
    lane.open(77).await;
    // A flush or merge that was under way may have made room since: then this lane fills it.
    let mut refused = None;
    for seq in 1..=50 {
        lane.batch(77, seq, payload(&rows("others", "other", 0, 0, &mut sender.chance))).await;
        match lane.hear().await {
            Some(Frame::Nack(nack)) => {
                refused = Some((seq, nack));
                break;
            }
            Some(Frame::Ack { .. }) => {}
            other => panic!("expected an answer to batch {seq}, heard {other:?}"),
        }
    }
    let (seq, nack) = refused.expect("a node that is full refuses");
    assert_eq!((nack.seq, nack.code, nack.retryable), (seq, RejectCode::DiskFull, true), "{}", nack.message);
    assert!(nack.message.contains("free"), "{}", nack.message);
    drop(lane);
    sender.check(&node, "on a full disk").await;
    assert_eq!(times(&node, "ancient").await.len(), 40 * ROWS);

    // Retention makes room: nobody restarts anything.
    let flags = ["--node", &home.query.to_string(), "--tls-dir", home.tls_dir.to_str().unwrap()];
    let said = run(&[&["retention", "set", "ancient", "--raw", "30d"], &flags[..]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    sender.all_taken("after retention").await;
    until("ready after retention", || node.admin("/readyz").0 == 200).await;
    sender.check(&node, "after retention").await;

    // So does a delete, once a merge carried it out.
    sender.fill(&node).await;
    let said = run(&[&["delete", "--device", "archive", "--table", "unloved"], &flags[..]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(times(&node, "unloved").await.is_empty());
    // The merge of the large table may find no room; that of the rows which are gone needs none.
    let _ = node.query().await.action("compact", Vec::new()).await;
    sender.all_taken("after a delete").await;
    sender.check(&node, "after a delete").await;

    // Somebody else takes the very last byte, and the node is killed: it starts, answers, and refuses by name.
    let theirs = disk.fill(0);
    assert_eq!(disk.free(), 0);
    sender.fill(&node).await;
    node.kill();
    node = Node::start(&data_dir, SETTINGS, Some(&home));
    sender.check(&node, "started on a disk without a byte").await;
    until("full again", || node.admin("/readyz").0 == 503).await;
    std::fs::remove_file(theirs).unwrap();
    sender.all_taken("after somebody made room").await;
    until("ready again", || node.admin("/readyz").0 == 200).await;
    sender.check(&node, "after somebody made room").await;
    assert_eq!(times(&node, "readings").await.len(), sender.sent.len() * ROWS);
    node.terminate();
    let said = run(&["verify", data_dir.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{said:?}");
}
