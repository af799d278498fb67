//! Owns the proof that a store with as many files as years of data make opens at once.
#![allow(missing_docs, reason = "a test target")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidewell_codec::{Column, FieldType, Tier, Values};
use tidewell_engine::limits::{COLD_BLOCK_ROWS, DAY_NS};
use tidewell_engine::manifest::{Edit, Manifest, SegmentMeta};
use tidewell_engine::segment::{SegmentSpec, SegmentWriter, segment_name};
use tidewell_engine::storage::{Disk, Memory, Storage, maps};
use tidewell_engine::summary::{SummaryBuild, summary_name};
use tidewell_engine::upkeep::FileNumbers;
use tidewell_engine::{Engine, EngineConfig, FieldDef, Rows, Step, StepRows, Stretch, TableSchema, clock};

/// A thousand trucks that send ten fields every 10 s are 86.4 million values a day, half a byte each once they are merged:
/// 43 MB. 100 GiB are then 2,480 days, and a day is one segment and three summaries (minutes, hours, days) of each shard.
const DAYS: i64 = 2_480;
const SHARDS: u32 = 2;
const FIRST_DAY: i64 = 17_000;
const ROWS: i64 = 48;

/// Writes all but the bytes that do not matter here: small blocks, of one truck in each shard.
fn build(at: &Path, days: i64) -> u64 {
    let memory = Memory::new();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let fields = vec![FieldDef { name: "speed".into(), field_type: FieldType::F64 }];
    let schema = Arc::new(TableSchema { name: "readings".into(), fields });
    let numbers = FileNumbers::new(1, 1, 1);
    let mut edits = vec![
        Edit::Created { shards: SHARDS, created_ns: 0 },
        Edit::Field { table: "readings".into(), field: "speed".into(), field_type: FieldType::F64 },
    ];
    let trucks = (0..SHARDS).map(|shard| {
        (0..).map(|n| format!("truck_{n}")).find(|id| tidewell_codec::shard_of(id, SHARDS) == shard).unwrap()
    });
    let trucks: Vec<String> = trucks.collect();
    let mut files = 0;
    std::fs::create_dir_all(at.join("seg")).unwrap();
    std::fs::create_dir_all(at.join("manifest")).unwrap();
    // Synced files would make the test a test of the disk.
    let copy = |name: &str| std::fs::write(at.join(name), storage.read(name).unwrap()).unwrap();
    for day in 0..days {
        for (shard, truck) in (0..SHARDS).zip(&trucks) {
            let start = (FIRST_DAY + day) * DAY_NS;
            let times = (0..ROWS).map(|row| start + row * (DAY_NS / ROWS)).collect();
            let speed = (0..ROWS).map(|row| (day + row) as f64 / 10.0).collect();
            let rows = Rows { times, columns: vec![Column { values: Values::F64(speed), validity: None }] };
            let seq = 1 + day as u64;
            let spec = SegmentSpec {
                id: numbers.segment(),
                shard,
                schema: Arc::clone(&schema),
                tier: Tier::Cold,
                block_rows: COLD_BLOCK_ROWS,
                seq_min: seq,
                seq_max: seq,
                created_ns: start + DAY_NS,
            };
            let (id, created_ns) = (spec.id, spec.created_ns);
            let mut summaries = SummaryBuild::new(&storage, &spec, &Step::ALL, &numbers);
            let mut writer = SegmentWriter::create(Arc::clone(&storage), spec).unwrap();
            writer.push_device(truck, (created_ns, created_ns), &rows).unwrap();
            summaries.begin_device(truck, (created_ns, created_ns));
            summaries.push_rows(&rows);
            summaries.end_device().unwrap();
            let (written, metas) = (writer.finish().unwrap(), summaries.finish().unwrap());
            assert_eq!(metas.len(), Step::ALL.len());
            copy(&segment_name(id));
            metas.iter().for_each(|meta| copy(&summary_name(meta.id)));
            files += 1 + metas.len() as u64;
            edits.push(Edit::SegmentAdded(SegmentMeta {
                id,
                shard,
                table: "readings".into(),
                level: 2,
                seq_min: seq,
                seq_max: seq,
                rows: written.rows,
                bytes: written.bytes,
                time_min: written.time_min,
                time_max: written.time_max,
                clean: 0,
            }));
            edits.extend(metas.into_iter().map(Edit::SummaryAdded));
        }
    }
    edits.push(Edit::NextIds { segment: numbers.segment(), heads: 1 });
    let (mut manifest, _) = Manifest::open(Arc::clone(&storage)).unwrap();
    manifest.append(&edits).unwrap();
    for name in storage.list("manifest").unwrap() {
        copy(&format!("manifest/{name}"));
    }
    files
}

fn open(at: &Path) -> (tidewell_engine::Result<(Engine, tidewell_engine::RecoveryReport)>, Duration) {
    let begin = Instant::now();
    let storage = Arc::new(Disk::open(at).unwrap());
    let config = EngineConfig { compaction: false, ..EngineConfig::default() };
    let opened = Engine::open(storage, config, Arc::new(clock::SystemClock));
    (opened, begin.elapsed())
}

/// Maps are counted for the whole process.
static ALONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

#[test]
fn a_store_in_the_shape_of_a_hundred_gibibytes_opens_at_once() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let files = build(folder.path(), DAYS);
    let (opened, took) = open(folder.path());
    let (engine, report) = opened.unwrap();
    assert_eq!(report.segments as i64, DAYS * i64::from(SHARDS));
    assert!(report.findings().is_empty(), "{:?}", report.findings().first());
    println!("{files} files: open in {} ms", took.as_millis());
    // A release build on a quiet machine is far below; tests share theirs with others.
    assert!(took < Duration::from_secs(4), "opening took {took:?}");

    // All of it is really there, rows and steps.
    let view = engine.snapshot().table("readings").unwrap();
    let (start, end) = (FIRST_DAY * DAY_NS, (FIRST_DAY + DAYS) * DAY_NS);
    let (mut rows, mut count) = (Rows::default(), 0);
    let (mut steps, mut days) = (StepRows::default(), 0);
    for device in view.devices().unwrap() {
        for part in view.scan(&device, start, end, &[0]).unwrap() {
            part.load(&mut rows).unwrap();
            count += rows.times.len();
        }
        for stretch in view.scan_steps(&device, start, end, &[0], &[Step::Day], &|_, _| true).unwrap() {
            let Stretch::Steps(part) = stretch else { panic!("a day that has to be added up row by row") };
            part.load(&mut steps).unwrap();
            days += steps.starts.len();
        }
    }
    assert_eq!(count as i64, DAYS * i64::from(SHARDS) * ROWS);
    assert_eq!(days as i64, DAYS * i64::from(SHARDS));
    engine.close().unwrap();
}

#[test]
fn more_files_than_may_be_mapped_are_refused_by_the_name_of_the_setting() {
    if std::env::var("TIDEWELL_LONG_TESTS").as_deref() != Ok("1") {
        println!("SKIPPED: 62,000 files are for the long form");
        return;
    }
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let max = maps::mapped_max();
    if max > 70_000 {
        println!("SKIPPED: this kernel allows {max} files to be mapped");
        return;
    }
    let days = max as i64 / (4 * i64::from(SHARDS)) + 2;
    build(folder.path(), days);
    let Err(error) = open(folder.path()).0 else { panic!("more files than {max} are open") };
    assert!(error.is_shortage() && error.to_string().contains("vm.max_map_count"), "{error}");
    // The process lives, has threads and memory, and lets go of what it mapped.
    std::thread::spawn(|| vec![1u8; 64 << 20]).join().unwrap();
    assert_eq!(maps::mapped(), 0);
}
