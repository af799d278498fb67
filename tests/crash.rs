//! Owns the proof of the durability promise: a real node is killed again and again under load, and every acknowledged
//! row is there once, with its values.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{BASE_NS, Chance, Node, Ready, integers, run, texts};
use parking_lot::Mutex;
use tidewell_ingest::client::rows::{RowBuilder, Value};
use tidewell_ingest::client::{Client, ClientConfig, Delivery, Observer};
use tokio::sync::RwLock;

/// Small enough that memtables are sealed, log files turn over and segments are merged while the load runs.
const SETTINGS: &[&str] = &[
    "engine.shards=2",
    "engine.memtable=1MiB",
    "engine.log_file=1MiB",
    "engine.seal_age=1s",
    "ingest.in_flight=16MiB",
];
const GROUPS: usize = 3;
const DEVICES_PER_GROUP: usize = 8;
/// Every batch also writes this row of each of its devices, with its own number: applied twice, an earlier batch would
/// put a lower number back.
const MARK_NS: i64 = BASE_NS - 1_000_000_000;

fn device(index: usize) -> String {
    format!("truck_{index:02}")
}

/// What a writer has sent: batch `n` has these rows of each of its devices.
#[derive(Default)]
struct Group {
    batches: Vec<(Range<i64>, Option<Delivery>)>,
}

/// Batches of one group that must be there, and that may be.
struct Bounds {
    acked: Vec<usize>,
    sent: usize,
}

impl Group {
    fn bounds(&self) -> Bounds {
        let is_acked = |at: &usize| self.batches[*at].1.as_ref().is_some_and(Delivery::is_done);
        Bounds { acked: (0..self.batches.len()).filter(is_acked).collect(), sent: self.batches.len() }
    }
}

/// Prints what a client goes through, for whoever reads a failure.
struct Teller(Instant, usize);

impl Observer for Teller {
    fn disconnected(&self, reason: &str, retry_in: Duration) {
        let Self(begin, group) = self;
        println!(
            "{:8.3} s: client {group} is not connected ({reason}), again in {retry_in:?}",
            begin.elapsed().as_secs_f64()
        );
    }

    fn connected(&self) {
        println!("{:8.3} s: client {} is connected", self.0.elapsed().as_secs_f64(), self.1);
    }
}

struct World {
    groups: Vec<Mutex<Group>>,
    /// Held for reading while a writer makes one batch; held for writing, nobody sends.
    gate: RwLock<()>,
    rows: AtomicU64,
}

/// A row's values tell the row.
fn values(device: usize, row: i64) -> (f64, String) {
    let mixed = (row as u64 ^ (device as u64) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 11) as f64 / 1024.0, format!("{device}/{row}/{mixed:016x}/{:048x}", mixed.rotate_left(17)))
}

async fn write(world: Arc<World>, client: Client, group: usize, mut chance: Chance) {
    loop {
        let _open = world.gate.read().await;
        let (number, rows) = {
            let mut ledger = world.groups[group].lock();
            let start = ledger.batches.last().map_or(0, |(rows, _)| rows.end);
            let rows = start..start + 1 + chance.below(120) as i64;
            // Before it is sent: a batch that may have reached the node is in the ledger.
            ledger.batches.push((rows.clone(), None));
            (ledger.batches.len() - 1, rows)
        };
        let mut builder = RowBuilder::new();
        for at in group * DEVICES_PER_GROUP..(group + 1) * DEVICES_PER_GROUP {
            let name = device(at);
            let mut push = |time, mark: Option<i64>, row| {
                let (speed, note) = values(at, row);
                let mut fields = vec![("speed", Value::F64(speed)), ("note", Value::Utf8(&note))];
                fields.extend(mark.map(|mark| ("mark", Value::I64(mark))));
                builder.push("readings", &name, time, &fields).unwrap();
            };
            push(MARK_NS, Some(number as i64), -1);
            // Late rows, as devices have them: half of the batches come backwards.
            let times: Vec<i64> = if number % 2 == 0 { rows.clone().collect() } else { rows.clone().rev().collect() };
            times.into_iter().for_each(|row| push(BASE_NS + row * 1_000_000, None, row));
        }
        world.rows.fetch_add((rows.end - rows.start) as u64 * DEVICES_PER_GROUP as u64, Ordering::Relaxed);
        for batch in builder.take() {
            let Ok(delivery) = client.send(batch).await else { return };
            world.groups[group].lock().batches[number].1 = Some(delivery);
        }
        drop(_open);
        tokio::time::sleep(Duration::from_millis(20 + chance.below(40))).await;
    }
}

/// Reads everything back and compares: each batch whole or not at all, those that were acknowledged there, nothing else.
/// With `exact`, everything that was sent is there.
async fn check(node: &Node, bounds: &[Bounds], world: &World, exact: bool, context: &str) {
    let query = node.query().await;
    for (group, bounds) in bounds.iter().enumerate() {
        let names: Vec<String> = (0..DEVICES_PER_GROUP).map(|at| device(group * DEVICES_PER_GROUP + at)).collect();
        let question = serde_json::json!({"range": {"table": "readings", "devices": names, "start": 0, "end": "2100-01-01T00:00:00Z"}});
        let mut found: Vec<Vec<i64>> = vec![Vec::new(); DEVICES_PER_GROUP];
        let mut marks: Vec<Option<i64>> = vec![None; DEVICES_PER_GROUP];
        let answer = match query.query(&question.to_string()).await {
            Ok(answer) => answer.collect().await.unwrap_or_else(|error| panic!("{context}: {error}")),
            // Nothing was ever stored.
            Err(error) if bounds.acked.is_empty() && error.to_string().contains("readings") => continue,
            Err(error) => panic!("{context}: {error}"),
        };
        for batch in &answer {
            let speeds = arrow::array::AsArray::as_primitive::<arrow::datatypes::Float64Type>(
                batch.column_by_name("speed").unwrap(),
            )
            .clone();
            let (devices, times, notes) = (texts(batch, "device"), integers(batch, "time"), texts(batch, "note"));
            let mark = integers(batch, "mark");
            for at in 0..batch.num_rows() {
                let place: usize = devices[at].strip_prefix("truck_").unwrap().parse().unwrap();
                let time = times[at].unwrap();
                let row = if time == MARK_NS { -1 } else { (time - BASE_NS) / 1_000_000 };
                let (speed, note) = values(place, row);
                assert_eq!((speeds.value(at), &notes[at]), (speed, &note), "{context}: {} row {row}", devices[at]);
                let place = place - group * DEVICES_PER_GROUP;
                if row == -1 {
                    assert!(marks[place].replace(mark[at].unwrap()).is_none(), "{context}: two marks");
                } else {
                    assert_eq!(BASE_NS + row * 1_000_000, time, "{context}: a time that was never sent");
                    found[place].push(row);
                }
            }
        }
        let sent: Vec<Range<i64>> =
            world.groups[group].lock().batches[..bounds.sent].iter().map(|(rows, _)| rows.clone()).collect();
        for (place, rows) in found.iter().enumerate() {
            let context = format!("{context}: {}", names[place]);
            assert!(rows.windows(2).all(|pair| pair[0] < pair[1]), "{context}: rows come once and in order");
            let mut rest = &rows[..];
            let mut there = Vec::new();
            for (number, range) in sent.iter().enumerate() {
                let (mine, later) = rest.split_at(rest.partition_point(|row| *row < range.end));
                let whole = mine.len() as i64 == range.end - range.start;
                assert!(mine.is_empty() || whole, "{context}: batch {number} has {} of rows {range:?}", mine.len());
                there.push(whole);
                rest = later;
            }
            assert!(rest.is_empty(), "{context}: rows that were never sent: {rest:?}");
            let lost: Vec<_> = bounds.acked.iter().filter(|number| !there[**number]).collect();
            assert!(lost.is_empty(), "{context}: acknowledged batches {lost:?} of {} are lost", sent.len());
            assert!(!exact || there.iter().all(|there| *there), "{context}: {there:?}");
            let newest = there.iter().rposition(|there| *there).map(|number| number as i64);
            assert_eq!(marks[place], newest, "{context}: the newest batch wins");
        }
    }
}

fn start(data_dir: &Path, again: Option<&Ready>) -> Node {
    Node::start(data_dir, SETTINGS, again)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_rows_survive_kill_9_under_load() {
    // All rows are read back in each round, so a store that grew for ever would spend its rounds on that.
    let (stores, rounds) = if std::env::var("TIDEWELL_LONG_TESTS").as_deref() == Ok("1") { (10, 20) } else { (1, 8) };
    let mut chance = Chance::printed();
    for _ in 0..stores {
        kill_again_and_again(rounds, &mut chance).await;
    }
}

/// A new store under load that is killed so many times.
async fn kill_again_and_again(rounds: u64, chance: &mut Chance) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let world = Arc::new(World {
        groups: (0..GROUPS).map(|_| Mutex::default()).collect(),
        gate: RwLock::new(()),
        rows: AtomicU64::new(0),
    });
    let mut node = start(&data_dir, None);
    let home = node.ready.clone();
    let begin = Instant::now();
    let connect = async |node: &Node, group| {
        let mut config = ClientConfig::new(home.ingest);
        config.backoff_max = Duration::from_millis(200);
        config.lanes = 2;
        // A kill between the two halves of a handshake is told only by silence.
        config.handshake_timeout = Duration::from_secs(2);
        // A client whose bytes were all received, but not acknowledged, hears of the kill only when it next says something.
        config.quic.keep_alive = Some(Duration::from_millis(500));
        let teller = Arc::new(Teller(begin, group));
        Client::connect_observed(config, &node.material("dev"), teller).await.unwrap()
    };
    let mut clients = Vec::new();
    for group in 0..GROUPS {
        let client = connect(&node, group).await;
        let chance = Chance::of(chance.below(u64::MAX));
        tokio::spawn(write(world.clone(), client.clone(), group, chance));
        clients.push(client);
    }
    let (mut flushes, mut merges) = (0, 0);
    for round in 0..rounds {
        let wait = 100 + chance.below(900);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        flushes += node.metric("tidewell_flushes");
        merges += node.metric("tidewell_compactions");
        node.kill();
        let context = format!("round {round}, killed after {wait} ms");
        if chance.below(2) == 0 {
            // Where the clients do not find it: what was acknowledged must be there before anything is sent again.
            let node = start(&data_dir, None);
            let bounds: Vec<Bounds> = world.groups.iter().map(|group| group.lock().bounds()).collect();
            check(&node, &bounds, &world, false, &context).await;
            if chance.below(3) == 0 { node.terminate() } else { node.kill() }
        }
        node = start(&data_dir, Some(&home));
        let mut back = Instant::now();
        let mut twice = "";
        if chance.below(3) == 0 {
            // Killed again while the clients come back.
            tokio::time::sleep(Duration::from_millis(chance.below(150))).await;
            node.kill();
            node = start(&data_dir, Some(&home));
            (back, twice) = (Instant::now(), ", twice");
        }
        let closed = tokio::time::timeout(Duration::from_secs(60), world.gate.write()).await;
        let closed = closed.unwrap_or_else(|_| panic!("{context}: the clients do not come back"));
        for client in &clients {
            let flushed = tokio::time::timeout(Duration::from_secs(60), client.flush()).await;
            flushed.unwrap_or_else(|_| panic!("{context}: the clients do not get rid of their rows")).unwrap();
        }
        let took = back.elapsed();
        println!(
            "{:8.3} s: {context}{twice}: everything is acknowledged {} ms after the start",
            begin.elapsed().as_secs_f64(),
            took.as_millis()
        );
        // Well below the idle timeout of QUIC, 30 s: whoever only waits for that has not noticed the restart.
        assert!(took < Duration::from_secs(20), "{context}{twice}: the clients were away for {took:?}");
        let bounds: Vec<Bounds> = world.groups.iter().map(|group| group.lock().bounds()).collect();
        check(&node, &bounds, &world, true, &context).await;
        drop(closed);
    }
    let _closed = world.gate.write().await;
    for client in clients {
        assert_eq!(client.stats().rejected.load(Ordering::Relaxed), 0);
        assert_eq!(client.close(Duration::from_secs(30)).await, 0, "nothing was given up");
    }
    let batches: usize = world.groups.iter().map(|group| group.lock().batches.len()).sum();
    let log = node.log();
    node.terminate();
    let segments = std::fs::read_dir(data_dir.join("seg")).unwrap().count();
    println!(
        "{rounds} rounds in {:.1} s: {} rows in {batches} batches, {flushes} flushes and {merges} merges before the kills, {segments} segments at the end",
        begin.elapsed().as_secs_f64(),
        world.rows.load(Ordering::Relaxed)
    );
    assert!(flushes > rounds && merges > 0, "the load is too small to be a test");
    let said = run(&["verify", data_dir.to_str().unwrap(), "--json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!log.contains("is damaged"), "a crash leaves torn tails, not damage: {log}");
}
