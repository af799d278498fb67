//! Owns the proof that a view for a backup, taken at any moment, makes a data directory with every row acknowledged before.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test target")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use common::{Row, StoppedClock, Value, batch, scan, send};
use tidewell_codec::FieldType;
use tidewell_engine::storage::{Faulty, Memory, Storage};
use tidewell_engine::verify::verify;
use tidewell_engine::{BackupView, Engine, EngineConfig};

const TABLE: &str = "readings";

fn open(storage: &Memory) -> Engine {
    let config = EngineConfig { shards: Some(1), log_file_bytes: 8 << 10, ..EngineConfig::default() };
    Engine::open(Arc::new(storage.clone()), config, Arc::new(StoppedClock(1_000))).unwrap().0
}

fn append(engine: &Engine, seq: u64, time: i64) {
    let types: BTreeMap<String, FieldType> = [("speed".to_owned(), FieldType::I64)].into();
    let fields = [("speed".to_owned(), Value::I64(time * 3))].into();
    let rows = [Row { device: "truck_1".into(), time, fields }];
    send(engine, 1, seq, batch(TABLE, &rows, &types)).unwrap();
}

fn times(engine: &Engine) -> Vec<i64> {
    scan(engine, TABLE, "truck_1", i64::MIN, i64::MAX).into_iter().map(|(time, _)| time).collect()
}

/// What a restore does.
fn restored(mut view: BackupView) -> Memory {
    let memory = Memory::default();
    let write = |name: &str, bytes: &[u8]| tidewell_engine::storage::write_new_file(&memory, name, bytes).unwrap();
    for name in std::mem::take(&mut view.files) {
        let file = view.open(&name).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
        assert_eq!(view.damage(&name), Vec::<String>::new());
        write(&name, &bytes);
    }
    view.small.iter().for_each(|file| write(&file.name, &file.bytes));
    let logs = view.take_logs(|file| {
        write(&file.name, &file.bytes);
        Ok::<(), tidewell_engine::Error>(())
    });
    logs.unwrap();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let report = verify(&storage).unwrap();
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    memory
}

#[test]
fn a_view_has_the_rows_of_segments_and_of_the_log_and_stays_while_files_are_replaced() {
    let memory = Memory::default();
    let engine = open(&memory);
    (0..20).for_each(|time| append(&engine, time as u64 + 1, time));
    engine.flush().unwrap();
    (20..30).for_each(|time| append(&engine, time as u64 + 1, time));
    engine.flush().unwrap();
    (30..40).for_each(|time| append(&engine, time as u64 + 1, time));
    let view = engine.backup_view().unwrap();
    // Everything that the view names is replaced before it is copied.
    (40..60).for_each(|time| append(&engine, time as u64 + 1, time));
    engine.flush().unwrap();
    engine.compact().unwrap();
    let again = open(&restored(view));
    assert_eq!(times(&again), (0..40).collect::<Vec<_>>());
    // The producer goes on where the backup left it: numbers that were in it are known, later ones are new.
    append(&again, 40, 1_000);
    append(&again, 41, 40);
    assert_eq!(times(&again), (0..=40).collect::<Vec<_>>());
}

#[test]
fn a_view_of_a_new_node_is_an_empty_node() {
    let engine = open(&Memory::default());
    let again = open(&restored(engine.backup_view().unwrap()));
    append(&again, 1, 1);
    assert_eq!(times(&again), [1]);
}

#[test]
fn views_under_load_miss_no_row_that_was_acknowledged_before() {
    let memory = Memory::default();
    let engine = Arc::new(open(&memory));
    let (acknowledged, done) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (engine, acknowledged, done) = (Arc::clone(&engine), Arc::clone(&acknowledged), Arc::clone(&done));
        std::thread::spawn(move || {
            for time in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                append(&engine, time as u64 + 1, time);
                acknowledged.store(time + 1, Ordering::SeqCst);
                if time % 37 == 36 {
                    engine.flush().unwrap();
                }
                if time % 500 == 499 {
                    engine.compact().unwrap();
                }
            }
        })
    };
    for round in 0..20 {
        let before = acknowledged.load(Ordering::SeqCst);
        let view = engine.backup_view().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5 * (round % 4)));
        let rows = times(&open(&restored(view)));
        assert!(rows.len() as i64 >= before, "{} rows of {before}", rows.len());
        assert_eq!(rows, (0..rows.len() as i64).collect::<Vec<_>>(), "a prefix of what was sent");
    }
    done.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

/// A backup copies files by name while it holds what readers see. After a rename the summaries that it held did not keep their
/// files any more, so the backup failed once the renamed table was merged or dropped.
#[test]
fn a_view_keeps_its_files_when_their_table_is_renamed_and_dropped() {
    let memory = Memory::default();
    let engine = open(&memory);
    (0..100).for_each(|time| append(&engine, time as u64 + 1, time));
    engine.flush().unwrap();
    engine.compact().unwrap();
    let view = engine.backup_view().unwrap();
    assert!(view.files.iter().any(|name| name.ends_with(".sum")), "{:?}", view.files);
    engine.rename_table(TABLE, "other").unwrap();
    engine.drop_table("other").unwrap();
    assert_eq!(times(&open(&restored(view))), (0..100).collect::<Vec<_>>());
    assert!(memory.list("seg").unwrap().is_empty(), "files go with the view");
}

/// Of the page of a log file's header a crash may leave the first sectors only. The log then seemed to end behind bytes that were
/// not there, and a backup failed.
#[test]
fn a_backup_of_whatever_a_crash_left_can_be_restored() {
    for (halt, seed) in (0..10).flat_map(|halt| (0..24).map(move |seed| (halt, seed))) {
        let faulty = Faulty::new();
        let config = || EngineConfig { shards: Some(1), log_file_bytes: 8 << 10, ..EngineConfig::default() };
        let (engine, _) = Engine::open(Arc::new(faulty.clone()), config(), Arc::new(StoppedClock(1_000))).unwrap();
        faulty.halt_after(faulty.operations() + halt);
        let types: BTreeMap<String, FieldType> = [("speed".to_owned(), FieldType::I64)].into();
        let rows = [Row { device: "truck_1".into(), time: 1, fields: [("speed".to_owned(), Value::I64(3))].into() }];
        let sent = send(&engine, 1, 1, batch(TABLE, &rows, &types));
        drop(engine);
        let engine = open(&faulty.crash(seed));
        engine.flush().unwrap();
        let found = times(&engine);
        assert!(found == [1] || found.is_empty() && sent.is_err(), "halt {halt}, seed {seed}: {found:?}");
        assert_eq!(times(&open(&restored(engine.backup_view().unwrap()))), found, "halt {halt}, seed {seed}");
    }
}
