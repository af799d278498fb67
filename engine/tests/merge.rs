//! Owns the proof that merges keep every answer, whatever happens in the middle of one, and leave files of one day.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test target, whose helpers may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use common::{Fields, Model, Row, Value, batch, scan, send};
use tidewell_codec::FieldType;
use tidewell_engine::clock::Clock;
use tidewell_engine::limits::DAY_NS;
use tidewell_engine::manifest::Manifest;
use tidewell_engine::storage::faulty::{Fault, Operation};
use tidewell_engine::storage::{Faulty, Memory, Storage};
use tidewell_engine::verify::verify;
use tidewell_engine::{Delete, Engine, EngineConfig};

const TABLE: &str = "readings";
/// In the middle of a group of days.
const TODAY: i64 = 20_010;
const DEVICES: [&str; 2] = ["truck_1", "truck_2"];

struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn clock() -> Arc<HandClock> {
    Arc::new(HandClock(AtomicI64::new(TODAY * DAY_NS)))
}

fn open(storage: Arc<dyn Storage>, clock: &Arc<HandClock>) -> tidewell_engine::Result<Engine> {
    let config =
        EngineConfig { shards: Some(1), compaction: false, log_file_bytes: 16 << 10, ..EngineConfig::default() };
    Engine::open(storage, config, Arc::clone(clock) as Arc<dyn Clock>).map(|(engine, _)| engine)
}

/// Sends rows of each device at `times` with the value `value`; writes them down in `model`, too.
fn send_rows(engine: &Engine, model: &mut Model, seq: &mut u64, times: &[i64], value: i64) {
    *seq += 1;
    let types = BTreeMap::from([("count".to_owned(), FieldType::I64), ("route".to_owned(), FieldType::Utf8)]);
    for (at, device) in DEVICES.iter().enumerate() {
        let rows: Vec<Row> = times
            .iter()
            .map(|&time| {
                let mut fields = Fields::from([("count".to_owned(), Value::I64(value))]);
                if value % 3 == 0 {
                    fields.insert("route".to_owned(), Value::Utf8(format!("r{value}")));
                }
                Row { device: (*device).to_owned(), time, fields }
            })
            .collect();
        send(engine, at as u128 + 1, *seq, batch(TABLE, &rows, &types)).unwrap();
        model.apply(TABLE, &rows);
    }
}

/// Flushes of three days, each with rows of the day before once more, and some of a month ago.
fn fill(engine: &Engine, model: &mut Model, flushes: i64) {
    let mut seq = 0;
    for flush in 0..flushes {
        let day = TODAY - 3 + flush * 3 / flushes;
        let at = |day: i64, row: i64| day * DAY_NS + row * 1_000_000_000;
        let mut times: Vec<i64> = (0..20).map(|row| at(day, flush * 10 + row)).collect();
        times.extend((0..5).map(|row| at(day - 1, flush * 10 + row * 3)));
        times.extend((0..2).map(|row| at(TODAY - 40, flush % 3 + row)));
        send_rows(engine, model, &mut seq, &times, flush);
        engine.flush().unwrap();
    }
}

fn check(engine: &Engine, model: &Model, place: &str) {
    for device in DEVICES {
        for (start, end) in [(i64::MIN, i64::MAX), ((TODAY - 2) * DAY_NS, (TODAY - 1) * DAY_NS)] {
            let (found, expected) = (scan(engine, TABLE, device, start, end), model.scan(TABLE, device, start, end));
            assert_eq!(found, expected, "{place}: {device} {start}..{end}");
        }
    }
}

/// Days and levels of the live segments.
fn days(storage: &dyn Storage) -> Vec<(u8, i64, i64)> {
    let (state, _) = Manifest::inspect(storage).unwrap();
    let day = |time: i64| time.div_euclid(DAY_NS);
    let mut days: Vec<_> =
        state.segments.values().map(|s| (s.level.min(1), day(s.time_min), day(s.time_max))).collect();
    days.sort_unstable();
    days
}

fn assert_in_order(storage: &Memory, place: &str) {
    let report = verify(&(Arc::new(storage.clone()) as Arc<dyn Storage>)).unwrap();
    assert!(report.damage.is_empty(), "{place}: {:?}", report.damage);
}

#[test]
fn flushed_segments_become_one_file_for_each_day_and_answers_stay() {
    let (memory, clock, mut model) = (Memory::new(), clock(), Model::default());
    let engine = open(Arc::new(memory.clone()), &clock).unwrap();
    fill(&engine, &mut model, 24);
    check(&engine, &model, "flushed");
    assert_eq!(days(&memory).iter().filter(|(level, ..)| *level == 0).count(), 24);
    engine.merge_due().unwrap();
    check(&engine, &model, "merged");
    assert!(days(&memory).iter().all(|(level, first, last)| *level == 1 && first == last), "{:?}", days(&memory));
    // What comes later is later, whatever day it is of.
    let mut seq = 100;
    send_rows(&engine, &mut model, &mut seq, &[(TODAY - 2) * DAY_NS + 50_000_000_000], 1_000);
    engine.flush().unwrap();
    check(&engine, &model, "late row");
    engine.compact().unwrap();
    check(&engine, &model, "compacted");
    let expected: Vec<_> = [TODAY - 40, TODAY - 4, TODAY - 3, TODAY - 2, TODAY - 1].map(|day| (1, day, day)).into();
    assert_eq!(days(&memory), expected);
    drop(engine);
    assert_in_order(&memory, "compacted");
}

#[test]
fn closed_and_quiet_days_end_as_one_cold_file_each_by_themselves() {
    let (memory, clock, mut model) = (Memory::new(), clock(), Model::default());
    let engine = open(Arc::new(memory.clone()), &clock).unwrap();
    fill(&engine, &mut model, 19);
    for _ in 0..4 {
        clock.0.fetch_add(DAY_NS, Ordering::Relaxed);
        engine.merge_due().unwrap();
        check(&engine, &model, "a day later");
    }
    assert_eq!(days(&memory).len(), 5);
    let figures = engine.figures();
    assert_eq!(figures[0].segments_by_level[0], 0);
    assert!(figures[0].write_amplification().unwrap() > 1.0);
    // When the group of days is over, slow devices' days become one file.
    clock.0.fetch_add(40 * DAY_NS, Ordering::Relaxed);
    engine.merge_due().unwrap();
    check(&engine, &model, "a month later");
    assert_eq!(days(&memory).len(), 2);
    drop(engine);
    assert_in_order(&memory, "a month later");
}

#[test]
fn crash_at_any_operation_of_a_merge_leaves_inputs_or_outputs() {
    // How many operations the merges take.
    let (memory, ticks, mut model) = (Memory::new(), clock(), Model::default());
    let engine = open(Arc::new(memory.clone()), &ticks).unwrap();
    fill(&engine, &mut model, 9);
    drop(engine);
    let run = |storage: &Faulty, clock: &Arc<HandClock>| -> tidewell_engine::Result<()> {
        let engine = open(Arc::new(storage.clone()), clock)?;
        engine.merge_due()?;
        // Days become closed and quiet, then their group does.
        for days in [2, 40, 1] {
            clock.0.fetch_add(days * DAY_NS, Ordering::Relaxed);
            engine.merge_due()?;
        }
        engine.compact()
    };
    let whole = Faulty::over(memory.kill());
    run(&whole, &clock()).unwrap();
    let operations = whole.operations();
    assert!(operations > 50, "{operations}");
    for n in 0..=operations {
        let storage = Faulty::over(memory.kill());
        storage.halt_after(n);
        // It may end well or not: what counts is what is found afterwards.
        let _ = run(&storage, &clock());
        for seed in [0, u64::MAX, n + 1] {
            let after = storage.crash(seed);
            let place = format!("operation {n} seed {seed}");
            let engine = open(Arc::new(after.clone()), &clock()).unwrap();
            check(&engine, &model, &place);
            engine.compact().unwrap();
            check(&engine, &model, &place);
            drop(engine);
            assert_in_order(&after, &place);
        }
    }
}

#[test]
fn failing_merge_of_one_table_does_not_hold_up_another() {
    let (memory, clock) = (Memory::new(), clock());
    let engine = open(Arc::new(memory.clone()), &clock).unwrap();
    let types = BTreeMap::from([("count".to_owned(), FieldType::I64)]);
    for flush in 0..9u64 {
        for (producer, table) in [(1, "a"), (2, "b")] {
            let row = |row: i64| Row {
                device: "truck".to_owned(),
                time: TODAY * DAY_NS + flush as i64 * 1_000 + row,
                fields: Fields::from([("count".to_owned(), Value::I64(row * row % 97))]),
            };
            let rows: Vec<Row> = (0..500).map(row).collect();
            send(&engine, producer, flush + 1, batch(table, &rows, &types)).unwrap();
        }
        engine.flush().unwrap();
    }
    drop(engine);
    // The middle of the first file of table `a`: the rows of a block.
    let (state, _) = Manifest::inspect(&memory).unwrap();
    let hit = state.segments.values().find(|s| &*s.table == "a").unwrap();
    memory.damage(&format!("seg/{:016x}.seg", hit.id), |bytes| {
        let at = bytes.len() / 2;
        bytes[at..at + 8].iter_mut().for_each(|byte| *byte ^= 0xff);
    });
    let engine = open(Arc::new(memory.clone()), &clock).unwrap();
    assert!(engine.merge_due().is_err());
    assert_eq!(engine.figures()[0].merges_failing, 9);
    engine.merge_due().unwrap();
    let (state, _) = Manifest::inspect(&memory).unwrap();
    let levels =
        |table: &str| -> Vec<u8> { state.segments.values().filter(|s| &*s.table == table).map(|s| s.level).collect() };
    assert_eq!((levels("a"), levels("b")), (vec![0; 9], vec![1]));
    // Nothing is left of the merge that failed.
    let files = memory.list("seg").unwrap();
    assert_eq!(files.iter().filter(|name| name.ends_with(".seg")).count(), 10);
    assert!(files.iter().all(|name| !name.ends_with(".tmp")), "{files:?}");
}

#[test]
fn a_manifest_that_a_merge_stops_shows_before_the_next_flush() {
    let (memory, clock, mut model) = (Memory::new(), clock(), Model::default());
    let storage = Faulty::over(memory);
    let engine = open(Arc::new(storage.clone()), &clock).unwrap();
    fill(&engine, &mut model, 9);
    assert!(!engine.figures()[0].poisoned);
    storage.fail_named(Operation::Sync, "manifest", Fault::Eio);
    assert!(engine.merge_due().is_err());
    assert!(engine.figures()[0].poisoned);
    check(&engine, &model, "questions go on");
}

#[test]
fn a_merge_without_room_does_not_keep_deletes_from_making_some() {
    let (storage, clock) = (Memory::new(), clock());
    let engine = open(Arc::new(storage.clone()), &clock).unwrap();
    let types = BTreeMap::from([("value".to_owned(), FieldType::F64)]);
    let mut seq = 0;
    // The table whose merge finds no room comes first.
    for (flush, table) in ["large", "large", "large", "unloved"].into_iter().enumerate() {
        let row = |at: i64| {
            // Nothing that a codec makes smaller.
            let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bits = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 2;
            let fields = Fields::from([("value".to_owned(), Value::F64(bits))]);
            Row { device: DEVICES[0].to_owned(), time: (TODAY - 9) * DAY_NS + at, fields }
        };
        let rows: Vec<Row> = (flush as i64 * 2_000..(flush as i64 + 1) * 2_000).map(row).collect();
        seq += 1;
        send(&engine, 1, seq, batch(table, &rows, &types)).unwrap();
        engine.flush().unwrap();
    }
    engine.delete(&[Delete { table: Some("unloved".into()), device: DEVICES[0].into(), range: None }]).unwrap();
    let bytes = |dir: &str| -> u64 {
        storage.list(dir).unwrap().iter().map(|name| storage.read(&format!("{dir}/{name}")).unwrap().len() as u64).sum()
    };
    let all: u64 = ["seg", "log", "heads", "manifest"].into_iter().map(bytes).sum();
    storage.set_capacity(Some(all + 8_192));
    assert!(engine.compact().unwrap_err().is_disk_full());
    let segments = |table: &str| {
        let state = Manifest::inspect(&storage).unwrap().0;
        state.segments.values().filter(|meta| &*meta.table == table).count()
    };
    assert_eq!((segments("unloved"), segments("large")), (0, 3));
    storage.set_capacity(None);
    engine.compact().unwrap();
    assert_eq!(segments("large"), 1);
    assert_eq!(scan(&engine, "large", DEVICES[0], i64::MIN, i64::MAX).len(), 6_000);
}
