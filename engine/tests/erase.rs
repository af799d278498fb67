//! Owns the proof that what was deleted is in no answer from then on, and in no file once segments were merged: like a naive
//! map, whatever was flushed, merged, reopened or lost in between.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test target")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{Fields, Model, Row, Value, batch, scan, send};
use proptest::prelude::*;
use std::sync::atomic::{AtomicI64, Ordering};
use tidewell_codec::FieldType;
use tidewell_engine::clock::Clock;
use tidewell_engine::manifest::Manifest;
use tidewell_engine::segment::Segment;
use tidewell_engine::storage::faulty::Faulty;
use tidewell_engine::storage::{Memory, Storage};
use tidewell_engine::{Delete, Engine, EngineConfig, Retention, TableFigures};

const TABLES: [&str; 3] = ["readings", "diagnostics", "more"];
const DEVICES: [&str; 4] = ["truck_1", "truck_2", "pump/7", "pump/8"];

const DAY_NS: i64 = 86_400_000_000_000;
const STEP_NS: i64 = 300_000_000_000;

/// A clock that is set.
struct SetClock(AtomicI64);

impl SetClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(6 * DAY_NS)))
    }
}

impl Clock for SetClock {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize, Vec<Row>),
    Delete(Vec<Delete>),
    /// Days for which a table keeps its rows; 0 is for ever.
    Retain(usize, u64),
    /// Days go by.
    Wait(i64),
    Drop(usize),
    Rename(usize, usize),
    Flush,
    Compact,
    /// Close in good order and open again.
    Reopen,
    /// Lose everything that was not synced, open again.
    Crash(u64),
}

fn types() -> BTreeMap<String, FieldType> {
    [("speed", FieldType::F64), ("count", FieldType::I64)].map(|(name, kind)| (name.to_owned(), kind)).into()
}

fn row() -> impl Strategy<Value = Row> {
    let fields = (proptest::option::of(0u64..5), proptest::option::weighted(0.9, 0i64..5));
    // A few days, two hours of each.
    let time = prop_oneof![8 => (0i64..6, 0i64..25).prop_map(|(day, step)| day * DAY_NS + step * STEP_NS), 1 => any::<i64>().prop_map(|t| t / 2)];
    (0..DEVICES.len(), time, fields).prop_map(|(device, time, (speed, count))| {
        let mut fields = Fields::new();
        fields.extend(speed.map(|v| ("speed".to_owned(), Value::F64((v as f64).to_bits()))));
        fields.extend(count.map(|v| ("count".to_owned(), Value::I64(v))));
        Row { device: DEVICES[device].to_owned(), time, fields }
    })
}

fn delete() -> impl Strategy<Value = Delete> {
    let range = proptest::option::of((0i64..120, 1i64..40, 0u8..10)).prop_map(|range| {
        range.map(|(start, len, ends)| (start / 20 * DAY_NS + start % 20 * STEP_NS, len * STEP_NS, ends)).map(
            |(start, len, ends)| match ends {
                0 => (i64::MIN, start),
                1 => (start, i64::MAX),
                _ => (start, start + len),
            },
        )
    });
    (proptest::option::of(0..TABLES.len()), 0..DEVICES.len(), range).prop_map(|(table, device, range)| Delete {
        table: table.map(|at| TABLES[at].into()),
        device: DEVICES[device].into(),
        range,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..TABLES.len(), proptest::collection::vec(row(), 1..40)).prop_map(|(table, rows)| Step::Append(table, rows)),
        4 => proptest::collection::vec(delete(), 1..4).prop_map(Step::Delete),
        1 => (0..TABLES.len(), 0u64..5).prop_map(|(table, days)| Step::Retain(table, days)),
        1 => (0i64..3).prop_map(Step::Wait),
        1 => (0..TABLES.len()).prop_map(Step::Drop),
        1 => (0..TABLES.len(), 0..TABLES.len()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

fn open(storage: Arc<dyn Storage>, clock: &Arc<SetClock>) -> Engine {
    let config = EngineConfig {
        shards: Some(2),
        compaction: false,
        log_file_bytes: 16 << 10,
        max_future: std::time::Duration::MAX,
        ..EngineConfig::default()
    };
    Engine::open(storage, config, Arc::clone(clock) as Arc<dyn Clock>).expect("an undamaged store opens").0
}

/// What was sent, and what must be there.
#[derive(Default)]
struct World {
    model: Model,
    seqs: [u64; DEVICES.len()],
    retention: BTreeMap<String, u64>,
    cut_offs: BTreeMap<String, i64>,
}

impl World {
    fn append(&mut self, engine: &Engine, table: &str, rows: &[Row]) {
        for (index, device) in DEVICES.iter().enumerate() {
            let rows: Vec<Row> = rows.iter().filter(|r| r.device == **device).cloned().collect();
            if rows.iter().all(|r| r.fields.is_empty()) {
                continue;
            }
            self.seqs[index] += 1;
            send(engine, index as u128 + 1, self.seqs[index], batch(table, &rows, &types()))
                .expect("an open store takes a good batch");
            self.model.apply(table, &rows);
            self.cut(table);
        }
    }

    /// Rows before the table's cut-off are acknowledged and not kept.
    fn cut(&mut self, table: &str) {
        if let Some(&cut_off) = self.cut_offs.get(table) {
            self.model.rows.retain(|(t, _, time), _| t != table || *time >= cut_off);
        }
    }

    /// Moves the cut-offs. One goes back when nothing is stored before it, which files may not be rewritten for yet: so
    /// what the engine says is taken, and checked for what it may be.
    fn keep(&mut self, engine: &Engine, now_ns: i64) {
        for TableFigures { schema, retention, cut_off, .. } in engine.tables() {
            let table = schema.name.to_string();
            let days = self.retention.get(&table).copied().unwrap_or(0);
            assert_eq!(retention.raw_ns, (days > 0).then_some(days * DAY_NS as u64), "{table}");
            let wanted = if days == 0 { i64::MIN } else { (now_ns - days as i64 * DAY_NS).div_euclid(DAY_NS) * DAY_NS };
            let before = self.cut_offs.get(&table).copied().unwrap_or(i64::MIN);
            let found = cut_off.unwrap_or(i64::MIN);
            assert!(
                found == wanted || (found == before && wanted < before),
                "{table}: {before} to {found}, not {wanted}"
            );
            self.cut_offs.insert(table.clone(), found);
            self.cut(&table);
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let rows = std::mem::take(&mut self.model.rows);
        let renamed = |table: String| if table == from { to.to_owned() } else { table };
        self.model.rows = rows.into_iter().map(|((table, d, t), fields)| ((renamed(table), d, t), fields)).collect();
        if let Some(days) = self.retention.remove(from) {
            self.retention.insert(to.to_owned(), days);
        }
        if let Some(cut_off) = self.cut_offs.remove(from) {
            self.cut_offs.insert(to.to_owned(), cut_off);
        }
    }

    fn drop_table(&mut self, table: &str) {
        self.model.rows.retain(|(t, _, _), _| t != table);
        self.retention.remove(table);
        self.cut_offs.remove(table);
    }

    fn delete(&mut self, delete: &Delete) {
        let (start, end) = delete.range.unwrap_or((i64::MIN, i64::MAX));
        self.model.rows.retain(|(table, device, time), _| {
            let hit = *device == *delete.device
                && delete.table.as_deref().is_none_or(|only| only == table)
                && *time >= start
                && (*time < end || end == i64::MAX);
            !hit
        });
    }

    /// All answers of the engine are the model's.
    fn check(&self, engine: &Engine) {
        let snapshot = engine.snapshot();
        let mut seen = BTreeSet::new();
        for table in TABLES {
            for device in DEVICES {
                for (start, end) in [(i64::MIN, i64::MAX), (20 * STEP_NS, 2 * DAY_NS + 7)] {
                    let expected = self.model.scan(table, device, start, end);
                    assert_eq!(scan(engine, table, device, start, end), expected, "{table} {device} {start}..{end}");
                }
            }
            let of_table = self.model.rows.keys().filter(|(t, _, _)| t == table).map(|(_, device, _)| device.clone());
            let expected: BTreeSet<String> = of_table.collect();
            let view = snapshot.table(table);
            let found = view.map_or(Vec::new(), |view| view.devices().expect("an undamaged index"));
            assert_eq!(
                found.iter().map(|d| d.to_string()).collect::<Vec<_>>(),
                expected.iter().cloned().collect::<Vec<_>>()
            );
            seen.extend(expected);
        }
        let all: Vec<String> =
            snapshot.devices().expect("an undamaged index").iter().map(|d| d.id.to_string()).collect();
        assert_eq!(all, seen.into_iter().collect::<Vec<_>>());
    }

    /// No file has a row that the model does not have, and the manifest remembers no erasure.
    fn check_files(&self, storage: &dyn Storage) {
        let (state, _) = Manifest::inspect(storage).expect("an undamaged manifest");
        assert!(state.erasures.is_empty(), "{:?}", state.erasures);
        // A file keeps the name that its table had when it was written.
        let table_of = |segment: &Segment| state.segments[&segment.id()].table.to_string();
        let mut found: BTreeMap<(String, String), u64> = BTreeMap::new();
        let names = storage.list("seg").expect("memory lists");
        for name in names.into_iter().filter(|name| name.ends_with(".seg")) {
            let segment = Segment::open(storage, &format!("seg/{name}")).expect("an undamaged segment");
            for entry in segment.devices() {
                let entry = entry.expect("an undamaged index");
                let rows = entry.blocks().expect("an undamaged directory").rows();
                *found.entry((table_of(&segment), entry.id().to_owned())).or_default() += rows;
            }
        }
        let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
        for (table, device, _) in self.model.rows.keys() {
            *expected.entry((table.clone(), device.clone())).or_default() += 1;
        }
        assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var("TIDEWELL_LONG_TESTS").as_deref() == Ok("1") { 2_000 } else { 96 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_deleted_is_gone_and_what_came_later_is_there(steps in proptest::collection::vec(step(), 1..30)) {
        let mut storage = Memory::new();
        let clock = SetClock::new();
        let mut engine = Some(open(Arc::new(storage.clone()), &clock));
        let mut world = World::default();
        for table in TABLES {
            // A delete names tables that are there.
            let fields = Fields::from([("count".to_owned(), Value::I64(1))]);
            world.append(engine.as_ref().unwrap(), table, &[Row { device: DEVICES[0].to_owned(), time: 5 * DAY_NS, fields }]);
        }
        for step in steps {
            let running = engine.as_ref().expect("an engine is open between steps");
            match step {
                Step::Append(table, rows) => world.append(running, TABLES[table], &rows),
                Step::Delete(deletes) => {
                    let there = |table: &str| running.snapshot().table(table).is_some();
                    if deletes.iter().all(|delete| delete.table.as_deref().is_none_or(there)) {
                        running.delete(&deletes).expect("memory has room");
                        deletes.iter().for_each(|delete| world.delete(delete));
                    } else {
                        running.delete(&deletes).expect_err("a table is not there");
                    }
                }
                Step::Retain(table, days) => {
                    let raw_ns = (days > 0).then_some(days * DAY_NS as u64);
                    let retention = Retention { raw_ns, ..Retention::default() };
                    if running.set_retention(TABLES[table], retention).is_ok() {
                        world.retention.insert(TABLES[table].to_owned(), days);
                    }
                    world.keep(running, clock.now_ns());
                }
                Step::Wait(days) => {
                    clock.0.fetch_add(days * DAY_NS, Ordering::Relaxed);
                    running.keep().expect("memory has room");
                    world.keep(running, clock.now_ns());
                }
                Step::Drop(table) => {
                    let there = running.snapshot().table(TABLES[table]).is_some();
                    assert_eq!(running.drop_table(TABLES[table]).is_ok(), there);
                    world.drop_table(TABLES[table]);
                }
                Step::Rename(from, to) => {
                    let there = |table: usize| running.snapshot().table(TABLES[table]).is_some();
                    let allowed = there(from) && !there(to);
                    assert_eq!(running.rename_table(TABLES[from], TABLES[to]).is_ok(), allowed);
                    if allowed {
                        world.rename(TABLES[from], TABLES[to]);
                    }
                }
                Step::Flush => running.flush().expect("memory has room"),
                Step::Compact => {
                    running.flush().expect("memory has room");
                    running.compact().expect("memory has room");
                    world.keep(running, clock.now_ns());
                    world.check_files(&storage);
                }
                Step::Reopen => {
                    running.close().expect("memory has room");
                    engine = None;
                    engine.replace(open(Arc::new(storage.clone()), &clock));
                }
                Step::Crash(seed) => {
                    engine = None;
                    storage = storage.crash(seed);
                    engine.replace(open(Arc::new(storage.clone()), &clock));
                }
            }
            world.check(engine.as_ref().expect("an engine is open between steps"));
        }
    }
}

fn rows(device: &str, times: std::ops::Range<i64>) -> Vec<Row> {
    let fields = |time: i64| Fields::from([("count".to_owned(), Value::I64(time))]);
    times.map(|time| Row { device: device.to_owned(), time, fields: fields(time) }).collect()
}

fn delete_of(device: &str, range: Option<(i64, i64)>) -> Delete {
    Delete { table: None, device: device.into(), range }
}

#[test]
fn a_crash_within_a_delete_leaves_all_of_the_rows_or_none() {
    let run = |storage: &Faulty, halt: Option<u64>| {
        let engine = open(Arc::new(storage.clone()), &SetClock::new());
        let mut world = World::default();
        world.append(&engine, TABLES[0], &rows("truck_1", 0..100));
        world.append(&engine, TABLES[1], &rows("truck_1", 0..50));
        let before = storage.operations();
        if let Some(n) = halt {
            storage.halt_after(before + n);
        }
        let done = engine.delete(&[delete_of("truck_1", Some((10, 90)))]).is_ok();
        (before, storage.operations(), done)
    };
    let (first, last, done) = run(&Faulty::new(), None);
    assert!(done && last > first);
    let mut outcomes = BTreeSet::new();
    for n in 0..=last - first {
        let storage = Faulty::new();
        let (.., done) = run(&storage, Some(n));
        for seed in [0, u64::MAX, n + 1] {
            let engine = open(Arc::new(storage.crash(seed)), &SetClock::new());
            let left = [TABLES[0], TABLES[1]].map(|table| scan(&engine, table, "truck_1", i64::MIN, i64::MAX).len());
            assert!(left == [20, 10] || (left == [100, 50] && !done), "operation {n} seed {seed}: {left:?}");
            outcomes.insert(left);
        }
    }
    assert_eq!(outcomes.len(), 2);
}

#[test]
fn deletes_hold_while_files_are_flushed_and_merged_in_the_background() {
    let storage = Memory::new();
    let config = EngineConfig { shards: Some(1), compaction: true, ..EngineConfig::default() };
    let clock = SetClock::new() as Arc<dyn Clock>;
    let (engine, _) = Engine::open(Arc::new(storage.clone()), config, clock).unwrap();
    let mut world = World::default();
    for round in 0..120 {
        world.append(&engine, TABLES[0], &rows("truck_1", round * 10..round * 10 + 30));
        world.append(&engine, TABLES[0], &rows("truck_2", round * 10..round * 10 + 30));
        if round % 3 == 0 {
            let delete = delete_of("truck_1", Some((round * 10 - 200, round * 10 + 15)));
            engine.delete(std::slice::from_ref(&delete)).unwrap();
            world.delete(&delete);
        }
        if round % 40 == 39 {
            let (from, to) = (0, 1);
            engine.rename_table(TABLES[from], TABLES[to]).unwrap();
            world.rename(TABLES[from], TABLES[to]);
            engine.rename_table(TABLES[to], TABLES[from]).unwrap();
            world.rename(TABLES[to], TABLES[from]);
        }
        engine.flush().unwrap();
        world.check(&engine);
    }
    let merges: u64 = engine.figures().iter().map(|shard| shard.compactions).sum();
    assert!(merges > 0, "nothing was merged in the background");
    engine.compact().unwrap();
    world.check(&engine);
    engine.close().unwrap();
    world.check_files(&storage);
}

#[test]
fn a_delete_hides_nothing_later_when_the_newest_files_of_its_time_are_gone() {
    let storage = Memory::new();
    let engine = open(Arc::new(storage.clone()), &SetClock::new());
    let mut world = World::default();
    world.append(&engine, TABLES[0], &rows("truck_1", 0..10));
    engine.flush().unwrap();
    for round in 0..3 {
        world.append(&engine, TABLES[1], &rows("truck_1", round..round + 10));
        engine.flush().unwrap();
    }
    let delete = delete_of("truck_1", Some((0, 5)));
    engine.delete(std::slice::from_ref(&delete)).unwrap();
    world.delete(&delete);
    // Flush numbers go on where the delete saw them, although no file has the last of them any more.
    engine.drop_table(TABLES[1]).unwrap();
    world.drop_table(TABLES[1]);
    engine.close().unwrap();
    drop(engine);
    let engine = open(Arc::new(storage), &SetClock::new());
    world.append(&engine, TABLES[0], &rows("truck_1", 3..6));
    engine.flush().unwrap();
    world.check(&engine);
}

#[test]
fn attributes_go_with_the_whole_device_only() {
    let engine = open(Arc::new(Memory::new()), &SetClock::new());
    let mut world = World::default();
    world.append(&engine, TABLES[0], &rows("truck_1", 0..10));
    let attributes = BTreeMap::from([("fleet".to_owned(), "north".to_owned())]);
    engine.set_attributes("truck_1", attributes).unwrap();
    engine.delete(&[delete_of("truck_1", Some((0, 100)))]).unwrap();
    let left = engine.snapshot().devices().unwrap();
    assert_eq!((left.len(), left[0].first_seen_ns), (1, None));
    engine.delete(&[delete_of("truck_1", None)]).unwrap();
    assert!(engine.snapshot().devices().unwrap().is_empty());
}

#[test]
fn deletes_that_make_no_sense_are_refused_in_words() {
    let engine = open(Arc::new(Memory::new()), &SetClock::new());
    for (delete, words) in [
        (Delete { table: Some("none".into()), device: "d".into(), range: None }, "there is no table none"),
        (delete_of("", None), "1 to 256 bytes"),
        (delete_of("d", Some((5, 5))), "5..5 is empty"),
    ] {
        let error = engine.delete(&[delete]).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// Such rows are in the log and nowhere else: forgetting the cut-off with the table must not bring them back.
#[test]
fn rows_that_came_too_late_for_retention_stay_away_when_their_table_is_dropped() {
    let (storage, clock) = (Memory::new(), SetClock::new());
    let mut world = World::default();
    let engine = open(Arc::new(storage.clone()), &clock);
    world.append(&engine, TABLES[0], &rows(DEVICES[0], 5 * DAY_NS..5 * DAY_NS + 2));
    engine.set_retention(TABLES[0], Retention { raw_ns: Some(2 * DAY_NS as u64), ..Retention::default() }).unwrap();
    engine.flush().unwrap();
    world.append(&engine, TABLES[0], &rows(DEVICES[0], DAY_NS..DAY_NS + 3));
    engine.drop_table(TABLES[0]).unwrap();
    drop(engine);
    let engine = open(Arc::new(storage.crash(1)), &clock);
    assert!(scan(&engine, TABLES[0], DEVICES[0], i64::MIN, i64::MAX).is_empty());
    assert_eq!(engine.figures().iter().map(|shard| shard.memtable_bytes).sum::<u64>(), 0);
}
