//! Owns the proof that the engine answers like a naive map, whatever was flushed, merged or reopened in between.
#![allow(missing_docs, reason = "a test target")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use common::{Fields, Model, Row, Value, batch, scan, send};
use proptest::prelude::*;
use tidewell_codec::FieldType;
use tidewell_engine::clock::Clock;
use tidewell_engine::storage::{Memory, Storage};
use tidewell_engine::verify::verify;
use tidewell_engine::{Engine, EngineConfig};

const TABLE: &str = "readings";
/// Later than all rows but those of a wrong clock.
const NOW: i64 = 1_000_000_000_000_000;
const DEVICES: [&str; 3] = ["truck_1", "truck_2", "pump/7"];

/// A clock that steps move.
struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Row>),
    /// The same at times after all before.
    AppendInOrder(Vec<Row>),
    /// The same batch again, as a device does that did not see the acknowledgement.
    Resend,
    Flush,
    Compact,
    /// Merge what is due now.
    Merge,
    /// Time passes: what came becomes quiet, days become closed.
    Wait(i64),
    /// Close in good order and open again.
    Reopen,
    /// Lose everything that was not synced, open again.
    Crash(u64),
}

fn types() -> BTreeMap<String, FieldType> {
    [("speed", FieldType::F64), ("count", FieldType::I64), ("on", FieldType::Bool), ("route", FieldType::Utf8)]
        .into_iter()
        .map(|(name, field_type)| (name.to_owned(), field_type))
        .collect()
}

fn value(name: &'static str) -> BoxedStrategy<Value> {
    match name {
        "speed" => prop_oneof![
            (-1000i64..1000).prop_map(|n| Value::F64((n as f64 / 10.0).to_bits())),
            Just(Value::F64(f64::NAN.to_bits())),
            Just(Value::F64((-0.0f64).to_bits())),
            any::<u64>().prop_map(Value::F64),
        ]
        .boxed(),
        "count" => any::<i64>().prop_map(Value::I64).boxed(),
        "on" => any::<bool>().prop_map(Value::Bool).boxed(),
        _ => "[a-zü]{0,6}".prop_map(Value::Utf8).boxed(),
    }
}

fn row() -> impl Strategy<Value = Row> {
    let fields = (
        proptest::option::of(value("speed")),
        proptest::option::of(value("count")),
        proptest::option::of(value("on")),
        proptest::option::of(value("route")),
    );
    let time = prop_oneof![8 => 0i64..200, 1 => any::<i64>().prop_map(|t| t % 1_000_000_000_000_000)];
    (0..DEVICES.len(), time, fields).prop_map(|(device, time, (speed, count, on, route))| {
        let fields: Fields = [("speed", speed), ("count", count), ("on", on), ("route", route)]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect();
        Row { device: DEVICES[device].to_owned(), time, fields }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => proptest::collection::vec(row(), 1..40).prop_map(Step::Append),
        1 => Just(Step::Resend),
        4 => proptest::collection::vec(row(), 1..40).prop_map(Step::AppendInOrder),
        2 => Just(Step::Flush),
        1 => Just(Step::Compact),
        3 => Just(Step::Merge),
        1 => (0i64..200_000).prop_map(Step::Wait),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

fn open(storage: &Memory, clock: &Arc<HandClock>) -> Engine {
    let config = EngineConfig {
        shards: Some(2),
        compaction: false,
        segment_rows_max: 20,
        log_file_bytes: 16 << 10,
        ..EngineConfig::default()
    };
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let (engine, report) = Engine::open(Arc::new(storage.clone()), config, clock).expect("an undamaged store opens");
    // A torn tail is what a crash leaves; damage would be a lost record.
    assert!(
        report.unreadable.is_empty() && report.logs.iter().all(|log| log.damaged.is_empty()),
        "{:?}",
        report.findings()
    );
    engine
}

fn check(engine: &Engine, model: &Model) {
    for device in DEVICES {
        for (start, end) in [(i64::MIN, i64::MAX), (50, 120), (0, 1), (1_200, 1_600)] {
            assert_eq!(
                scan(engine, TABLE, device, start, end),
                model.scan(TABLE, device, start, end),
                "{device} {start}..{end}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var("TIDEWELL_LONG_TESTS").as_deref() == Ok("1") { 2_000 } else { 96 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engine_answers_like_a_naive_map(steps in proptest::collection::vec(step(), 1..30)) {
        let mut storage = Memory::new();
        let clock = Arc::new(HandClock(AtomicI64::new(NOW)));
        let mut engine = Some(open(&storage, &clock));
        let mut model = Model::default();
        let types = types();
        // Batches of one shard each: a client groups its devices, so each device is its own producer here.
        let mut seqs = [0u64; DEVICES.len()];
        let mut last: Option<(usize, Vec<Row>)> = None;
        let mut next_time = 1_000;
        for step in steps {
            let step = match step {
                Step::AppendInOrder(mut rows) => {
                    for row in &mut rows {
                        row.time = next_time;
                        next_time += 10;
                    }
                    Step::Append(rows)
                }
                step => step,
            };
            let running = engine.as_ref().expect("an engine is open between steps");
            match step {
                Step::Append(rows) => {
                    for (index, device) in DEVICES.iter().enumerate() {
                        let rows: Vec<Row> = rows.iter().filter(|r| r.device == **device).cloned().collect();
                        // A batch has at least one field; a row of it may have none.
                        if rows.iter().all(|r| r.fields.is_empty()) {
                            continue;
                        }
                        seqs[index] += 1;
                        send_rows(running, index, seqs[index], &rows, &types);
                        model.apply(TABLE, &rows);
                        last = Some((index, rows));
                    }
                }
                Step::AppendInOrder(_) => unreachable!("it became an append"),
                Step::Resend => {
                    if let Some((index, rows)) = &last {
                        send_rows(running, *index, seqs[*index], rows, &types);
                    }
                }
                Step::Flush => running.flush().expect("memory has room"),
                Step::Compact => {
                    running.flush().expect("memory has room");
                    running.compact().expect("memory has room");
                }
                Step::Merge => running.merge_due().expect("memory has room"),
                Step::Wait(seconds) => {
                    clock.0.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
                }
                Step::Reopen => {
                    running.close().expect("memory has room");
                    engine = None;
                    engine.replace(open(&storage, &clock));
                }
                Step::Crash(seed) => {
                    engine = None;
                    storage = storage.crash(seed);
                    engine.replace(open(&storage, &clock));
                }
            }
            check(engine.as_ref().expect("an engine is open between steps"), &model);
        }
        drop(engine);
        let report = verify(&(Arc::new(storage) as Arc<dyn Storage>)).expect("the manifest is whole");
        prop_assert!(report.damage.is_empty(), "{:?}", report.damage);
    }
}

fn send_rows(engine: &Engine, index: usize, seq: u64, rows: &[Row], types: &BTreeMap<String, FieldType>) {
    send(engine, index as u128 + 1, seq, batch(TABLE, rows, types)).expect("an open store takes a good batch");
}
