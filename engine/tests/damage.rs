//! Owns the proof that damage costs only what it hits: whatever byte of whatever file is flipped, the rest is served.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test target, whose helpers may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::{Fields, Row, StoppedClock, Value, batch, rows_to_model, send};
use tidewell_codec::{Batch, FieldType};
use tidewell_engine::repair::repair;
use tidewell_engine::storage::{Memory, Storage};
use tidewell_engine::verify::verify;
use tidewell_engine::{Engine, EngineConfig, Error, RecoveryReport, Rows, Skipped, Snapshot};

const TABLE: &str = "readings";
const NOW: i64 = 1_700_000_000_000_000_000;
const DEVICES: i64 = 4;
/// Rows of a device in one batch.
const ROWS: i64 = 40;

fn config() -> EngineConfig {
    EngineConfig {
        shards: Some(1),
        compaction: false,
        seal_age: Duration::from_secs(1 << 30),
        log_file_bytes: 64 << 10,
        ..EngineConfig::default()
    }
}

fn open(storage: &Arc<dyn Storage>) -> Result<(Engine, RecoveryReport), Error> {
    Engine::open(Arc::clone(storage), config(), Arc::new(StoppedClock(NOW)))
}

fn device(number: i64) -> String {
    format!("truck_{number}")
}

/// Rows `ROWS * round..` of all devices; `name` has text, so that more than one codec is hit.
fn round_of_rows(round: i64) -> Batch {
    let types = BTreeMap::from([("speed".to_owned(), FieldType::F64), ("name".to_owned(), FieldType::Utf8)]);
    let mut rows = Vec::new();
    for number in 0..DEVICES {
        for time in round * ROWS..(round + 1) * ROWS {
            let mixed = (time as u64 * 31 + number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let speed = f64::from_bits(0x3ff0_0000_0000_0000 | mixed >> 12);
            let fields = Fields::from([
                ("speed".to_owned(), Value::F64(speed.to_bits())),
                ("name".to_owned(), Value::Utf8(format!("n{}", mixed % 7))),
            ]);
            rows.push(Row { device: device(number), time, fields });
        }
    }
    batch(TABLE, &rows, &types)
}

type All = BTreeMap<(String, i64), Fields>;

/// Rounds 0 and 1 in a merged segment, 2 and 3 in flushed ones, 4 and 5 in the log. Gives all rows.
fn fill(storage: &Arc<dyn Storage>) -> All {
    let (engine, _) = open(storage).unwrap();
    for round in 0..6 {
        send(&engine, 7, round as u64 + 1, round_of_rows(round)).unwrap();
        if round < 4 {
            engine.flush().unwrap();
        }
        if round == 1 {
            engine.compact().unwrap();
        }
    }
    let all = read(&engine.snapshot()).unwrap();
    assert_eq!(all.len() as i64, 6 * ROWS * DEVICES);
    all
}

/// All rows, read twice as a question with a condition does: first one field, then the other.
fn read(snapshot: &Snapshot) -> Result<All, Error> {
    let mut all = All::new();
    let Some(view) = snapshot.table(TABLE) else { return Ok(all) };
    let names: Vec<String> = view.schema().fields.iter().map(|f| f.name.to_string()).collect();
    let fields: Vec<usize> = (0..names.len()).collect();
    let mut rows = Rows::default();
    for id in view.devices()? {
        for part in view.scan(&id, i64::MIN, i64::MAX, &fields)? {
            part.load(&mut rows)?;
            all.extend(rows_to_model(&rows, &names).into_iter().map(|(time, fields)| ((id.to_string(), time), fields)));
        }
    }
    Ok(all)
}

/// The files of a store.
fn files(storage: &dyn Storage) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for dir in ["manifest", "heads", "seg", "log"] {
        for name in storage.list(dir).unwrap() {
            let path = format!("{dir}/{name}");
            let bytes = storage.read(&path).unwrap();
            files.push((path, bytes));
        }
    }
    files
}

fn copy(files: &[(String, Vec<u8>)]) -> Arc<dyn Storage> {
    let storage = Memory::new();
    for (path, bytes) in files {
        let mut file = storage.create(path).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync_data().unwrap();
        storage.sync_dir(path.rsplit_once('/').unwrap().0).unwrap();
    }
    Arc::new(storage)
}

/// Every row is either there and right, or one that the engine said it may have lost.
fn check(context: &str, engine: &Engine, report: &RecoveryReport, all: &All) -> usize {
    let skipped = Arc::new(Skipped::default());
    let snapshot = engine.snapshot().going_without(Arc::clone(&skipped));
    let found = read(&snapshot).unwrap_or_else(|error| panic!("{context}: {error}"));
    for (key, fields) in &found {
        assert_eq!(all.get(key), Some(fields), "{context}: {key:?}");
    }
    let (places, _) = skipped.places();
    let missing: Vec<_> = all.keys().filter(|key| !found.contains_key(*key)).collect();
    let log_is_damaged = !report.log_damage().is_empty() || report.logs.iter().any(|log| log.cut.is_some());
    for (id, time) in &missing {
        let named = places.iter().any(|place| {
            place.device.as_deref().is_none_or(|device| device == id) && (place.first_ns..=place.last_ns).contains(time)
        });
        assert!(named || (*time >= 4 * ROWS && log_is_damaged), "{context}: {id} {time} is missing and nobody says so");
    }
    if !places.is_empty() {
        assert!(!engine.damage().is_empty(), "{context}: {places:?}");
        assert!(read(&engine.snapshot()).is_err(), "{context}: readers who do not go without get an error");
        let again = Arc::new(Skipped::default());
        assert_eq!(read(&engine.snapshot().going_without(again)).unwrap(), found, "{context}: the same answer again");
    }
    missing.len()
}

/// After a repair nothing is damaged, nothing is lost that could be read before, and what is lost was named.
fn check_repair(context: &str, storage: &Arc<dyn Storage>, all: &All, missing_before: usize) {
    let before = files(&**storage);
    let planned = repair(storage, true).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(files(&**storage), before, "{context}: a dry run changes nothing");
    let damaged = !verify(storage).unwrap().damage.is_empty();
    let done = repair(storage, false).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(planned.lost, done.lost, "{context}");
    assert_eq!(
        damaged,
        !done.steps.iter().all(|step| step.contains("next start takes them out")),
        "{context}: {done:?}"
    );
    let verified = verify(storage).unwrap();
    assert!(!done.left.is_empty() || verified.damage.is_empty(), "{context}: {:?} after {done:?}", verified.damage);
    let (engine, report) = open(storage).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(!done.left.is_empty() || report.log_damage().is_empty(), "{context}: {report:?}");
    let found = read(&engine.snapshot()).unwrap_or_else(|error| panic!("{context}: {error}"));
    for (key, fields) in &found {
        // A field that is lost alone leaves the others of its rows.
        let right = all.get(key).is_some_and(|right| fields.iter().all(|(name, value)| right.get(name) == Some(value)));
        assert!(right && !fields.is_empty(), "{context}: {key:?} {fields:?}");
    }
    let missing = all.keys().filter(|key| found.get(*key) != all.get(*key));
    for (id, time) in missing {
        let named = done.lost.iter().any(|lost| {
            lost.device.as_deref().is_none_or(|device| device == id) && (lost.first_ns..=lost.last_ns).contains(time)
        });
        assert!(
            named || report.logs.iter().any(|log| log.cut.is_some()) || missing_before > 0 && *time >= 4 * ROWS,
            "{context}: {id} {time} is missing after {done:?}"
        );
    }
    assert!(all.len() - found.len() <= missing_before, "{context}: a repair loses nothing that was served before");
}

#[test]
fn any_flipped_byte_costs_only_what_it_hits() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let all = fill(&storage);
    let files = files(&*storage);
    let mut hit = BTreeSet::new();
    for (at, (path, bytes)) in files.iter().enumerate() {
        let dir = path.split('/').next().unwrap();
        // A prime step meets every kind of byte; the log is mostly filling.
        let step = if dir == "log" { 89 } else { 13 };
        for offset in (0..bytes.len()).step_by(step) {
            let mut damaged = files.clone();
            damaged[at].1[offset] ^= 1 << (offset % 8);
            let context = format!("{path} at {offset}");
            let storage = copy(&damaged);
            let verified = verify(&storage);
            match open(&storage) {
                Ok((engine, report)) => {
                    let missing = check(&context, &engine, &report, &all);
                    drop(engine);
                    check_repair(&context, &storage, &all, missing);
                    let found = verified.unwrap_or_else(|error| panic!("{context}: {error}"));
                    let known = !found.damage.is_empty() || !found.notes.is_empty();
                    assert!(missing == 0 || known, "{context}: verify found nothing");
                    let limit = match dir {
                        "log" => 2 * ROWS * DEVICES,
                        // A flushed segment, or one that holds two rounds.
                        "seg" => 2 * ROWS * DEVICES,
                        _ => 0,
                    };
                    assert!(missing as i64 <= limit, "{context}: {missing} rows are missing");
                    if missing > 0 {
                        hit.insert(dir);
                    }
                }
                Err(error) => {
                    assert_eq!(dir, "manifest", "{context}: {error}");
                    assert!(verified.is_err(), "{context}: {error}");
                }
            }
        }
    }
    assert_eq!(hit, BTreeSet::from(["log", "seg"]), "the flips hit something");
}

#[test]
fn a_damaged_block_is_left_out_and_its_neighbours_are_not() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let all = fill(&storage);
    let mut files = files(&*storage);
    let (path, bytes) = files.iter_mut().find(|(path, _)| path.starts_with("seg/")).unwrap();
    // Behind the header: data of the first device's first block.
    bytes[200] ^= 0x40;
    let path = path.clone();
    let (engine, report) = open(&copy(&files)).unwrap();
    let missing = check(&path, &engine, &report, &all);
    assert!(missing > 0 && missing as i64 <= 2 * ROWS, "{missing} rows are missing");
    let damage = engine.damage();
    assert_eq!((damage.place_count, &damage.places[0].path), (1, &path), "{damage:?}");
    assert!(damage.places[0].device.as_deref().is_some_and(|device| device.starts_with("truck_")), "{damage:?}");
}

#[test]
fn a_segment_that_was_set_aside_goes_and_is_renamed_with_its_table() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    fill(&storage);
    let mut files = files(&*storage);
    let (_, bytes) = files.iter_mut().rev().find(|(path, _)| path.ends_with(".seg")).unwrap();
    let end = bytes.len();
    bytes[end - 40] ^= 1;
    let (engine, _) = open(&copy(&files)).unwrap();
    assert_eq!(engine.damage().set_aside.len(), 1);
    engine.rename_table(TABLE, "other").unwrap();
    let skipped = Arc::new(Skipped::default());
    let view = engine.snapshot().going_without(Arc::clone(&skipped)).table("other").unwrap();
    view.scan("truck_1", i64::MIN, i64::MAX, &[0]).unwrap();
    assert_eq!(skipped.places().0.len(), 1, "the table's answers say what is missing under its new name, too");
    drop(view);
    engine.drop_table("other").unwrap();
    assert!(engine.damage().set_aside.is_empty());
}

#[test]
fn merges_go_on_around_a_damaged_segment() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let all = fill(&storage);
    let mut files = files(&*storage);
    // The third segment holds round 3 alone, which was flushed last.
    let damaged = files.iter().rposition(|(path, _)| path.starts_with("seg/")).unwrap() - 1;
    files[damaged].1[200] ^= 0x40;
    let path = files[damaged].0.clone();
    let (engine, report) = open(&copy(&files)).unwrap();
    let before = check(&path, &engine, &report, &all);
    assert!(before > 0);
    for round in 6..9 {
        send(&engine, 7, round as u64 + 1, round_of_rows(round)).unwrap();
        engine.flush().unwrap();
    }
    engine.compact().unwrap();
    let skipped = Arc::new(Skipped::default());
    let found = read(&engine.snapshot().going_without(skipped)).unwrap();
    assert_eq!(found.len(), all.len() - before + (3 * ROWS * DEVICES) as usize);
    let damage = engine.damage();
    assert_eq!((damage.place_count, &damage.places[0].path), (1, &path), "the damaged segment stays: {damage:?}");
    assert!(engine.figures()[0].segments <= 4, "{:?}", engine.figures()[0]);
}
