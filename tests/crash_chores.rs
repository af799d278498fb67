//! Owns the proof that kills do no harm in the middle of an operator's work: deletes, merges on demand and backups go on
//! under load while a real node is killed again and again.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{BASE_NS, Chance, Node, Ready, batch, integers, run, texts};
use parking_lot::Mutex;
use tidewell_codec::Batch;
use tidewell_ingest::client::{Client, ClientConfig};
use tidewell_query::flight::{ClientOptions, QueryClient};

const ROWS: i64 = 40;
const DEVICES: i64 = 4;
const TABLE: &str = "doomed";

/// What became of a batch; only ever goes down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Handed to the client.
    Sent,
    /// Acknowledged, and nobody asked to delete it.
    Kept,
    /// A delete was asked for and not answered, perhaps because of a kill: it is there, or it is not.
    Asked,
    /// The delete was answered.
    Deleted,
}

#[derive(Default)]
struct World {
    batches: Mutex<Vec<Fate>>,
    merges: AtomicU64,
    backups: AtomicU64,
}

impl World {
    fn now(&self) -> Vec<Fate> {
        self.batches.lock().clone()
    }

    fn set(&self, number: usize, fate: Fate) {
        self.batches.lock()[number] = fate;
    }
}

fn device(number: usize) -> String {
    format!("truck_{}", number as i64 % DEVICES)
}

fn rows_of(number: usize) -> Batch {
    Batch { table: TABLE.into(), ..batch(&[&device(number)], ROWS as usize, number as i64 * ROWS) }
}

/// The node may be dead at this moment.
async fn query(home: &Ready) -> Option<QueryClient> {
    let options = ClientOptions::from_tls_dir(&home.query.to_string(), &home.tls_dir, "dev").ok()?;
    QueryClient::connect(options).await.ok()
}

async fn act(home: &Ready, action: &str, body: &serde_json::Value) -> bool {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    match query(home).await {
        // What a kill cuts is answered by nobody.
        Some(client) => {
            matches!(tokio::time::timeout(Duration::from_secs(20), client.action(action, body)).await, Ok(Ok(_)))
        }
        None => false,
    }
}

/// Sends batches and deletes half of them again.
async fn write(world: Arc<World>, client: Client, home: Ready, mut chance: Chance) {
    loop {
        let number = {
            let mut batches = world.batches.lock();
            batches.push(Fate::Sent);
            batches.len() - 1
        };
        client.send(rows_of(number)).await.unwrap().wait().await.expect("nothing is wrong with the batch");
        world.set(number, Fate::Kept);
        if chance.below(2) == 0 {
            // Now this one, now one that was merged long ago.
            let number = if chance.below(2) == 0 { number } else { chance.below(number as u64 + 1) as usize };
            if world.now()[number] == Fate::Kept {
                world.set(number, Fate::Asked);
                let start = BASE_NS + number as i64 * ROWS * 1_000_000_000;
                let body = serde_json::json!({
                    "device": device(number), "table": TABLE, "start": start, "end": start + ROWS * 1_000_000_000,
                });
                if act(&home, "delete", &body).await {
                    world.set(number, Fate::Deleted);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(chance.below(20))).await;
    }
}

async fn repeat(home: Ready, action: &'static str, done: impl Fn() + Send, mut chance: Chance) {
    loop {
        tokio::time::sleep(Duration::from_millis(50 + chance.below(250))).await;
        if act(&home, action, &serde_json::Value::Null).await {
            done();
        }
    }
}

/// Reads everything and compares it with what must be there, before and after the question was asked.
async fn check(node: &Node, world: &World, context: &str) {
    let before = world.now();
    let question = serde_json::json!({"range": {"table": TABLE, "start": 0, "end": "2100-01-01T00:00:00Z"}});
    let answer = match node.query().await.query(&question.to_string()).await {
        Ok(answer) => answer.collect().await.unwrap_or_else(|error| panic!("{context}: {error}")),
        Err(error) => {
            assert!(before.iter().all(|fate| *fate != Fate::Kept), "{context}: {error}");
            return;
        }
    };
    let after = world.now();
    let mut found = vec![0; after.len()];
    let mut last = (String::new(), 0);
    for batch in &answer {
        for (device_of, time) in texts(batch, "device").into_iter().zip(integers(batch, "time")) {
            let time = time.unwrap();
            let number = ((time - BASE_NS) / 1_000_000_000 / ROWS) as usize;
            assert!(
                number < after.len() && device_of == device(number),
                "{context}: {device_of} at {time} was never sent"
            );
            let here = (device_of, time);
            assert!(last < here, "{context}: {here:?} comes twice");
            last = here;
            found[number] += 1;
        }
    }
    for (number, count) in found.into_iter().enumerate() {
        let (was, is) = (before.get(number).copied().unwrap_or(Fate::Sent), after[number]);
        let whole = count == ROWS;
        assert!(whole || count == 0, "{context}: batch {number} ({was:?}, {is:?}) has {count} of {ROWS} rows");
        assert!(whole || !(was == Fate::Kept && is == Fate::Kept), "{context}: batch {number} is lost");
        assert!(!whole || was != Fate::Deleted, "{context}: batch {number} is back");
    }
}

fn start(data_dir: &Path, backups: &Path, again: Option<&Ready>) -> Node {
    let backups = format!("backup.destinations={}", backups.display());
    let settings =
        ["engine.shards=2", "engine.memtable=1MiB", "engine.log_file=1MiB", "engine.seal_age=1s", backups.as_str()];
    Node::start(data_dir, &settings, again)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_the_middle_of_deletes_merges_and_backups_do_no_harm() {
    let rounds = if std::env::var("TIDEWELL_LONG_TESTS").as_deref() == Ok("1") { 200 } else { 8 };
    let mut chance = Chance::printed();
    let folder = tempfile::tempdir().unwrap();
    let (data_dir, backups) = (folder.path().join("data"), folder.path().join("backups"));
    let world = Arc::new(World::default());
    let mut node = start(&data_dir, &backups, None);
    let home = node.ready.clone();
    let begin = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let mut config = ClientConfig::new(home.ingest);
        config.backoff_max = Duration::from_millis(200);
        config.handshake_timeout = Duration::from_secs(2);
        config.quic.keep_alive = Some(Duration::from_millis(500));
        let client = Client::connect(config, &node.material("dev")).await.unwrap();
        let chance = Chance::of(chance.below(u64::MAX));
        tasks.push(tokio::spawn(write(world.clone(), client, home.clone(), chance)));
    }
    for (action, of) in [("compact", 0), ("backup", 1)] {
        let world = world.clone();
        let done = move || {
            let counter = if of == 0 { &world.merges } else { &world.backups };
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let chance = Chance::of(chance.below(u64::MAX));
        tasks.push(tokio::spawn(repeat(home.clone(), action, done, chance)));
    }
    for round in 0..rounds {
        let wait = 100 + chance.below(900);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        node.kill();
        node = start(&data_dir, &backups, Some(&home));
        check(&node, &world, &format!("round {round}, killed after {wait} ms")).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    check(&node, &world, "at the end").await;
    node.terminate();
    let fates = world.now();
    let count = |fate| fates.iter().filter(|now| **now == fate).count();
    println!(
        "{rounds} rounds in {:.1} s: {} batches, {} deleted, {} deletes that a kill cut, {} merges and {} backups on demand",
        begin.elapsed().as_secs_f64(),
        fates.len(),
        count(Fate::Deleted),
        count(Fate::Asked),
        world.merges.load(Ordering::Relaxed),
        world.backups.load(Ordering::Relaxed)
    );
    assert!(count(Fate::Kept) > rounds && count(Fate::Deleted) > rounds, "the load is too small to be a test");
    assert!(
        world.merges.load(Ordering::Relaxed) > 0 && world.backups.load(Ordering::Relaxed) > 0,
        "nothing was in the way"
    );
    let said = run(&["verify", data_dir.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    // The newest backup is whole, whatever was cut in between.
    let restored = folder.path().join("restored");
    let said = run(&["restore", "--from", backups.to_str().unwrap(), "--to", restored.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = run(&["verify", restored.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{said:?}");
}
