//! Owns the proof that opening after a crash stays within its budget, and that damage costs only what it hits.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test target, whose helpers may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Fields, Outcomes, Row, StoppedClock, Value, batch, scan, send};
use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, FieldType, Tier, Values, encode_batch};
use tidewell_engine::device_log::{RECORD_HEADER_BYTES, dump};
use tidewell_engine::storage::{Disk, Memory, Storage};
use tidewell_engine::verify::verify;
use tidewell_engine::{
    Append, AppendSink, Durability, Engine, EngineConfig, LogPosition, ProducerId, RecoveryReport, Rows, SeqNo,
};

const TABLE: &str = "readings";
const NOW: i64 = 1_700_000_000_000_000_000;

fn config() -> EngineConfig {
    EngineConfig {
        shards: Some(1),
        compaction: false,
        seal_age: Duration::from_secs(1 << 30),
        ..EngineConfig::default()
    }
}

fn open(storage: &Arc<dyn Storage>, config: EngineConfig) -> (Engine, RecoveryReport) {
    Engine::open(Arc::clone(storage), config, Arc::new(StoppedClock(NOW))).expect("the store opens")
}

/// `rows` rows of each of `devices` at times from `first` on. Values look random, so that no codec makes them small.
fn wide_batch(devices: std::ops::Range<u32>, rows: usize, first: i64) -> Batch {
    let mut runs = DeviceRuns::default();
    let (mut times, mut values) = (Vec::new(), Vec::new());
    for device in devices {
        runs.push(&format!("truck_{device:04}"), rows as u32);
        for row in 0..rows as i64 {
            times.push(first + row);
            values.push(value_of(device, first + row));
        }
    }
    let column = Column { values: Values::F64(values), validity: None };
    Batch { table: TABLE.into(), devices: runs, times, fields: vec![BatchField { name: "speed".into(), column }] }
}

/// Odd, so never NaN by accident: the exponent stays that of numbers from 1 to 2.
fn value_of(device: u32, time: i64) -> f64 {
    let mixed = (u64::from(device) << 40 ^ time as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    f64::from_bits(0x3ff0_0000_0000_0000 | mixed >> 12)
}

/// Writes `batches` of 4 devices with `rows` rows each into the log and leaves the engine as a crash does.
fn crash_with_a_long_log(dir: &std::path::Path, batches: i64, rows: usize, log_file_bytes: u64) {
    let storage: Arc<dyn Storage> = Arc::new(Disk::open(dir).unwrap());
    // Room for everything: no memtable is sealed, so every row is in the log only.
    let (engine, _) = open(&storage, EngineConfig { memtable_bytes: 64 << 30, log_file_bytes, ..config() });
    let outcomes = Arc::new(Outcomes::default());
    for number in 0..batches {
        let batch = wide_batch((number as u32 % 8) * 4..(number as u32 % 8) * 4 + 4, rows, number * rows as i64);
        let mut payload = Vec::new();
        encode_batch(&batch, Tier::Plain, &mut payload);
        let sink: Arc<dyn AppendSink> = outcomes.clone();
        let append = Append {
            producer: ProducerId(1),
            seq: SeqNo(number as u64 + 1),
            payload: Bytes::from(payload),
            batch,
            received_ns: NOW,
            durability: Durability::Durable,
            ticket: number as u64,
            sink,
        };
        engine.check(&append.batch, NOW).unwrap();
        engine.append(append).unwrap();
        if number >= 16 {
            outcomes.wait(number as u64 - 16).unwrap();
        }
    }
    (batches.saturating_sub(16).max(0)..batches).for_each(|number| outcomes.wait(number as u64).unwrap());
    assert_eq!(engine.figures()[0].flushes, 0);
}

/// Peak of the process's memory since the last call, in bytes.
fn peak_memory_since_last_call() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    // "5" makes the kernel forget the peak.
    std::fs::write("/proc/self/clear_refs", "5").ok();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Says to the process that writes where to do so.
const WRITE_TO: &str = "TIDEWELL_TEST_WRITE_TO";

/// Opens what a crash left with `memtable_bytes` and checks every row. `test` is the caller's name.
fn replay_within(test: &str, memtable_bytes: usize, batches: i64, rows: usize, log_file_bytes: u64) {
    if let Some(dir) = std::env::var_os(WRITE_TO) {
        crash_with_a_long_log(dir.as_ref(), batches, rows, log_file_bytes);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // In a process of its own: memory that a writer has freed would count as this one's.
    let program = std::env::current_exe().unwrap();
    let written =
        std::process::Command::new(program).args([test, "--exact"]).env(WRITE_TO, dir.path()).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let bytes = batches as u64 * (4 * rows as u64) * 16;
    assert!(bytes > 4 * memtable_bytes as u64, "{bytes} bytes in the log are no test for a budget of {memtable_bytes}");
    let storage: Arc<dyn Storage> = Arc::new(Disk::open(dir.path()).unwrap());
    peak_memory_since_last_call();
    let start = Instant::now();
    let (engine, report) = open(&storage, EngineConfig { memtable_bytes, log_file_bytes, ..config() });
    let (took, peak) = (start.elapsed(), peak_memory_since_last_call());
    println!(
        "replayed {} MiB of log in {:.2} s ({:.0} MiB/s) with {} MiB of memtables, process peak {} MiB",
        bytes >> 20,
        took.as_secs_f64(),
        (bytes >> 20) as f64 / took.as_secs_f64(),
        memtable_bytes >> 20,
        peak >> 20
    );
    assert_eq!((report.records(), report.findings()), (batches as u64, vec![]));
    let figures = &engine.figures()[0];
    assert!(figures.flushes >= 4, "beyond the budget rows go to segments at once: {figures:?}");
    assert!(figures.memtable_bytes as usize <= memtable_bytes, "{figures:?}");
    assert!(peak < (memtable_bytes as u64) * 3 + (256 << 20), "peak {peak} with a budget of {memtable_bytes}");
    assert_eq!(engine.last_settled(ProducerId(1), "truck_0000"), SeqNo(batches as u64));
    let view = engine.snapshot().table(TABLE).unwrap();
    let mut loaded = Rows::default();
    for device in 0..32 {
        let mut next = i64::from(device / 4);
        let mut count = 0usize;
        for part in view.scan(&format!("truck_{device:04}"), i64::MIN, i64::MAX, &[0]).unwrap() {
            part.load(&mut loaded).unwrap();
            let Values::F64(values) = &loaded.columns[0].values else { panic!("speed is f64") };
            for (time, value) in loaded.times.iter().zip(values) {
                assert_eq!(*time, next * rows as i64 + count as i64 % rows as i64, "truck_{device}");
                assert_eq!(value.to_bits(), value_of(device, *time).to_bits(), "truck_{device} at {time}");
                count += 1;
                next += if count.is_multiple_of(rows) { 8 } else { 0 };
            }
        }
        let expected = (0..batches).filter(|number| number % 8 == i64::from(device / 4)).count() * rows;
        assert_eq!(count, expected, "rows of truck_{device}");
    }
    // A second crash right after: the segments cover what they hold, and nothing comes twice.
    drop((view, engine));
    let (engine, report) = open(&storage, EngineConfig { memtable_bytes, log_file_bytes, ..config() });
    assert!(report.records() < batches as u64, "{} records replayed again", report.records());
    engine.close().unwrap();
    drop(engine);
    let report = verify(&storage).unwrap();
    assert_eq!((report.damage, report.segment_rows), (vec![], batches as u64 * 4 * rows as u64));
}

#[test]
fn long_log_is_replayed_within_the_memory_budget() {
    // 24 MiB of log, 3 MiB of memtables.
    replay_within("long_log_is_replayed_within_the_memory_budget", 3 << 20, 192, 2_000, 2 << 20);
}

/// The full size: 1 GiB of log against 64 MiB of memtables. Run alone for meaningful figures.
#[test]
fn log_of_one_gib_is_replayed_within_the_memory_budget() {
    if std::env::var("TIDEWELL_LONG_TESTS").as_deref() != Ok("1") {
        println!("skipped: TIDEWELL_LONG_TESTS=1 runs it");
        return;
    }
    replay_within("log_of_one_gib_is_replayed_within_the_memory_budget", 64 << 20, 1_024, 16_384, 64 << 20);
}

fn small(device: &str, number: i64) -> Batch {
    let types = BTreeMap::from([("speed".to_owned(), FieldType::F64)]);
    let fields = Fields::from([("speed".to_owned(), Value::F64((number as f64).to_bits()))]);
    batch(TABLE, &[Row { device: device.to_owned(), time: number, fields }], &types)
}

fn times(engine: &Engine, device: &str) -> Vec<i64> {
    scan(engine, TABLE, device, i64::MIN, i64::MAX).into_iter().map(|(time, _)| time).collect()
}

#[test]
fn damage_in_the_middle_of_a_log_is_named_and_the_rest_serves() {
    let memory = Memory::new();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let (engine, _) = open(&storage, config());
    for seq in 1..=9 {
        assert_eq!(send(&engine, 7, seq, small(&format!("truck_{}", seq % 3), seq as i64)), Ok(()));
    }
    drop(engine);
    let mut fifth = None;
    dump(&memory, 0, LogPosition::default(), &mut |record| {
        if record.seq == SeqNo(5) {
            fifth = Some(record.position);
        }
        Ok(())
    })
    .unwrap();
    let fifth = fifth.expect("five batches were logged");
    let name = format!("log/{}", memory.list("log").unwrap()[0]);
    memory.damage(&name, |bytes| bytes[fifth.offset as usize + RECORD_HEADER_BYTES + 3] ^= 0x40);

    let offline = verify(&storage).unwrap();
    let named =
        |line: &String| line.contains(&name) && line.contains(&fifth.offset.to_string()) && line.contains("batch 5");
    assert!(offline.damage.len() == 1 && named(&offline.damage[0]), "{:?}", offline.damage);
    let (engine, report) = open(&storage, config());
    assert!(report.findings().len() == 1 && named(&report.findings()[0]), "{:?}", report.findings());
    assert_eq!(report.records(), 8);
    assert_eq!([times(&engine, "truck_0"), times(&engine, "truck_1")], [vec![3, 6, 9], vec![1, 4, 7]]);
    assert_eq!(times(&engine, "truck_2"), [2, 8], "batch 5 is lost, and only it");
    // The device goes on; and so do a flush and the next open, which has nothing to complain of any more.
    assert_eq!(send(&engine, 7, 10, small("truck_2", 10)), Ok(()));
    engine.close().unwrap();
    drop(engine);
    let (engine, report) = open(&storage, config());
    assert_eq!(report.findings(), Vec::<String>::new());
    assert_eq!(times(&engine, "truck_2"), [2, 8, 10]);
}

#[test]
fn torn_tail_is_cut_and_told_and_no_damage() {
    let memory = Memory::new();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let (engine, _) = open(&storage, config());
    for seq in 1..=3 {
        assert_eq!(send(&engine, 7, seq, small("truck_1", seq as i64)), Ok(()));
    }
    drop(engine);
    let name = format!("log/{}", memory.list("log").unwrap()[0]);
    let mut last = 0;
    dump(&memory, 0, LogPosition::default(), &mut |record| {
        last = record.position.offset;
        Ok(())
    })
    .unwrap();
    memory.damage(&name, |bytes| bytes.truncate(last as usize + 70));
    let offline = verify(&storage).unwrap();
    assert_eq!(offline.damage, Vec::<String>::new());
    assert!(offline.notes.iter().any(|note| note.contains(&name)), "{:?}", offline.notes);
    let (engine, report) = open(&storage, config());
    let [finding] = &report.findings()[..] else { panic!("{:?}", report.findings()) };
    assert!(finding.contains(&name) && finding.contains(&last.to_string()) && finding.contains("cut"), "{finding}");
    assert_eq!(times(&engine, "truck_1"), [1, 2]);
    assert_eq!(send(&engine, 7, 3, small("truck_1", 3)), Ok(()), "what was never acknowledged comes again");
    assert_eq!(times(&engine, "truck_1"), [1, 2, 3]);
}

#[test]
fn damaged_block_is_named_and_the_others_answer() {
    let memory = Memory::new();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let (engine, _) = open(&storage, config());
    // Three blocks of one device, one of another.
    for (seq, batch) in (1..).zip([wide_batch(0..1, 10_000, 0), wide_batch(1..2, 3_000, 0)]) {
        assert_eq!(send(&engine, 7, seq, batch), Ok(()));
    }
    engine.close().unwrap();
    drop(engine);
    let [file] = &memory.list("seg").unwrap()[..] else { panic!("one segment") };
    let name = format!("seg/{file}");
    let whole = memory.read(&name).unwrap();
    // Random values of 8 bytes fill the file: its fifth tenth is inside a block, whatever the header's size.
    let at = whole.len() / 10 * 4;
    memory.damage(&name, |bytes| bytes[at] ^= 1);

    let (engine, _) = open(&storage, config());
    let view = engine.snapshot().table(TABLE).unwrap();
    let mut rows = Rows::default();
    let (mut read, mut failed) = (0, Vec::new());
    for device in ["truck_0000", "truck_0001"] {
        for part in view.scan(device, i64::MIN, i64::MAX, &[0]).expect("the index is whole") {
            match part.load(&mut rows) {
                Ok(()) => {
                    let Values::F64(values) = &rows.columns[0].values else { panic!("speed is f64") };
                    let number = u32::from(device.ends_with('1'));
                    let right = |(time, value): (&i64, &f64)| value.to_bits() == value_of(number, *time).to_bits();
                    assert!(rows.times.iter().zip(values).all(right), "no wrong answer");
                    read += rows.times.len();
                }
                Err(error) => failed.push((device, error.to_string())),
            }
        }
    }
    let [(device, error)] = &failed[..] else { panic!("one block is damaged: {failed:?}") };
    assert_eq!(*device, "truck_0000");
    let offset = |text: &str| {
        let (_, rest) = text.split_once("offset ")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
    };
    assert!(error.contains(&name) && offset(error).is_some_and(|o| o <= at && at < o + 4_096 * 9), "{at}: {error}");
    assert_eq!(read, 13_000 - 4_096);
    drop((view, engine));
    let report = verify(&storage).unwrap();
    assert!(report.damage.len() == 1 && report.damage[0].contains(&name), "{:?}", report.damage);
}

#[test]
fn missing_segment_is_set_aside_by_name_and_nothing_changes() {
    let memory = Memory::new();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let (engine, _) = open(&storage, config());
    assert_eq!(send(&engine, 7, 1, small("truck_1", 1)), Ok(()));
    engine.close().unwrap();
    drop(engine);
    let name = format!("seg/{}", memory.list("seg").unwrap()[0]);
    let bytes = memory.read(&name).unwrap();
    memory.remove(&name).unwrap();
    let (engine, report) = open(&storage, config());
    assert!(report.findings()[0].contains(&name), "{:?}", report.findings());
    let view = engine.snapshot().table(TABLE).unwrap();
    let error = view.scan("truck_1", i64::MIN, i64::MAX, &[0]).err().unwrap();
    assert!(error.to_string().contains(&name), "{error}");
    drop((view, engine));
    // Put back, everything is there: nothing was thrown away.
    memory.create(&name).unwrap().write_at(0, &bytes).unwrap();
    assert_eq!(times(&open(&storage, config()).0, "truck_1"), [1]);
}
