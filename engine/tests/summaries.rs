//! Owns the proof that steps tell what rows say, whatever comes late, is overwritten, deleted, merged or reopened.
#![allow(missing_docs, reason = "a test target")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use std::sync::atomic::{AtomicI64, Ordering};

use common::{Model, Row, StoppedClock, Value, batch, scan, send};
use tidewell_engine::clock::Clock;
use tidewell_engine::manifest::Retention;
use tidewell_engine::storage::{Memory, Storage};
use tidewell_engine::verify::verify;
use tidewell_engine::{
    Column, Delete, Engine, EngineConfig, Error, FieldType, Rows, Step, StepRows, StepSums, Stretch, limits::DAY_NS,
};

const TABLE: &str = "readings";
const DEVICES: [&str; 2] = ["truck_1", "pump/7"];
/// Midnight of a day in 2023.
const START: i64 = 19_700 * DAY_NS;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn types() -> BTreeMap<String, FieldType> {
    [("speed", FieldType::F64), ("count", FieldType::I64), ("on", FieldType::Bool), ("route", FieldType::Utf8)]
        .into_iter()
        .map(|(name, field_type)| (name.to_owned(), field_type))
        .collect()
}

fn open(storage: &Memory) -> Engine {
    let config =
        EngineConfig { shards: Some(2), compaction: false, log_file_bytes: 1 << 20, ..EngineConfig::default() };
    let clock = Arc::new(StoppedClock(i64::MAX / 2));
    let (engine, report) = Engine::open(Arc::new(storage.clone()), config, clock).unwrap();
    assert!(report.findings().is_empty(), "{:?}", report.findings());
    engine
}

/// A run of rows at a steady rate with some values, now and then null or odd.
fn run(device: &str, start: i64, count: usize, every_ns: i64, chance: &mut Chance) -> Vec<Row> {
    (0..count as i64)
        .map(|at| {
            let mut fields = BTreeMap::new();
            if chance.below(20) > 0 {
                let speed = match chance.below(60) {
                    0 => f64::NAN,
                    1 => -0.0,
                    2 => chance.below(1 << 50) as f64 / 7.0,
                    _ => chance.below(5000) as f64 / 10.0,
                };
                fields.insert("speed".to_owned(), Value::F64(speed.to_bits()));
            }
            if chance.below(3) > 0 {
                fields.insert("count".to_owned(), Value::I64(chance.below(1000) as i64 - 500));
            }
            if chance.below(5) == 0 {
                fields.insert("on".to_owned(), Value::Bool(chance.below(2) == 0));
                fields.insert("route".to_owned(), Value::Utf8("north".to_owned()));
            }
            Row { device: device.to_owned(), time: start + at * every_ns, fields }
        })
        .collect()
}

/// Compares one answer by steps with the model; returns how many steps were used.
fn check(
    engine: &Engine,
    model: &Model,
    device: &str,
    (start, end): (i64, i64),
    usable: &dyn Fn(Step, i64) -> bool,
) -> usize {
    let Some(view) = engine.snapshot().table(TABLE) else { return 0 };
    let fields: Vec<usize> = (0..view.schema().fields.len()).collect();
    let names: Vec<String> = view.schema().fields.iter().map(|f| f.name.to_string()).collect();
    let expected = model.scan(TABLE, device, start, end);
    let (mut rows, mut steps, mut used, mut seen) = (Rows::default(), StepRows::default(), 0, 0);
    let offered = [Step::Day, Step::Hour, Step::Minute];
    for stretch in view.scan_steps(device, start, end, &fields, &offered, usable).unwrap() {
        let (first, last) = stretch.time_range();
        let here: Vec<_> = expected.iter().filter(|(time, _)| (first..=last).contains(time)).cloned().collect();
        seen += here.len();
        match stretch {
            Stretch::Rows(part) => {
                part.load(&mut rows).unwrap();
                assert_eq!(common::rows_to_model(&rows, &names), here);
            }
            Stretch::Steps(part) => {
                part.load(&mut steps).unwrap();
                used += steps.range.len();
                let width = part.step().width_ns();
                let of_rows: Vec<&[(i64, common::Fields)]> =
                    here.chunk_by(|a, b| a.0.div_euclid(width) == b.0.div_euclid(width)).collect();
                assert_eq!(
                    steps.starts[steps.range.clone()],
                    of_rows.iter().map(|r| r[0].0.div_euclid(width) * width).collect::<Vec<_>>()
                );
                for (at, here) in steps.range.clone().zip(of_rows) {
                    for (name, field) in names.iter().zip(&steps.fields) {
                        let values: Vec<(i64, &Value)> =
                            here.iter().filter_map(|(time, fields)| Some((*time, fields.get(name)?))).collect();
                        assert_eq!(field.count[at], values.len() as u64, "{name} of {device} at {}", steps.starts[at]);
                        let (Some(first), Some(last)) = (values.first(), values.last()) else { continue };
                        if name != "route" {
                            assert_eq!((field.first_at[at], field.last_at[at]), (first.0, last.0));
                            assert_eq!(
                                (value(&field.first, at), value(&field.last, at)),
                                (first.1.clone(), last.1.clone())
                            );
                        }
                        match &field.sum {
                            StepSums::F64(sums) => {
                                let sum = sum(&values, part.step());
                                assert!(sums[at].to_bits() == sum.to_bits(), "{name}: {} and {sum}", sums[at]);
                            }
                            StepSums::I64(sums) => {
                                let sum: i64 =
                                    values.iter().map(|(_, v)| if let Value::I64(v) = v { *v } else { 0 }).sum();
                                assert_eq!(sums[at], sum);
                            }
                            StepSums::None => {}
                        }
                    }
                }
            }
        }
    }
    assert_eq!(seen, expected.len(), "every row of {device} is told of once");
    used
}

/// The sum of doubles by its definition.
fn sum(values: &[(i64, &Value)], step: Step) -> f64 {
    let parts = values.chunk_by(|a, b| step != Step::Day || Step::Hour.number(a.0) == Step::Hour.number(b.0));
    let parts = parts.map(|part| {
        let mut l = [0.0; 8];
        for (at, (_, value)) in part.iter().enumerate() {
            if let Value::F64(bits) = value
                && !f64::from_bits(*bits).is_nan()
            {
                l[at % 8] += f64::from_bits(*bits);
            }
        }
        ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
    });
    parts.fold(0.0, |sum, part| sum + part)
}

fn value(column: &Column, at: usize) -> Value {
    let mut one = Column::new(column.field_type());
    one.extend_from(column, at..at + 1);
    let rows = Rows { times: vec![0], columns: vec![one] };
    common::rows_to_model(&rows, &["v".to_owned()])[0].1["v"].clone()
}

#[test]
fn steps_tell_what_rows_say() {
    let types = types();
    let mut used = 0;
    for seed in 1..6u64 {
        let chance = &mut Chance(seed * 7_777_777);
        let mut storage = Memory::new();
        let mut engine = open(&storage);
        let mut model = Model::default();
        let mut seq = [0u64; DEVICES.len()];
        for _ in 0..25 {
            match chance.below(12) {
                0..6 => {
                    let at = chance.below(2) as usize;
                    let start = START + chance.below(3 * DAY_NS as u64) as i64;
                    let every = [1, 7, 60, 3600][chance.below(4) as usize] * 1_000_000_000;
                    let rows = run(DEVICES[at], start, 1 + chance.below(2500) as usize, every, chance);
                    if rows.iter().all(|r| r.fields.is_empty()) {
                        continue;
                    }
                    seq[at] += 1;
                    send(&engine, at as u128 + 1, seq[at], batch(TABLE, &rows, &types)).unwrap();
                    model.apply(TABLE, &rows);
                }
                6 => engine.flush().unwrap(),
                7 | 8 => {
                    engine.flush().unwrap();
                    engine.compact().unwrap();
                }
                9 => {
                    let device = DEVICES[chance.below(2) as usize];
                    let start = START + chance.below(3 * DAY_NS as u64) as i64;
                    let range = (start, start + chance.below(DAY_NS as u64 / 6) as i64 + 1);
                    engine.delete(&[Delete { table: None, device: device.into(), range: Some(range) }]).unwrap();
                    model.rows.retain(|(_, d, time), _| d != device || *time < range.0 || *time >= range.1);
                }
                10 => {
                    engine.close().unwrap();
                    drop(engine);
                    engine = open(&storage);
                }
                _ => {
                    drop(engine);
                    storage = storage.crash(chance.below(1 << 40));
                    engine = open(&storage);
                }
            }
            for device in DEVICES {
                let start = START - DAY_NS / 2 + chance.below(2 * DAY_NS as u64) as i64;
                used += check(&engine, &model, device, (i64::MIN, i64::MAX), &|_, _| true);
                used += check(&engine, &model, device, (start, start + 2 * DAY_NS), &|step, at| {
                    step != Step::Day && at % 7 < 6
                });
            }
        }
        engine.flush().unwrap();
        engine.compact().unwrap();
        for device in DEVICES {
            used += check(&engine, &model, device, (i64::MIN, i64::MAX), &|_, _| true);
            assert_eq!(scan(&engine, TABLE, device, i64::MIN, i64::MAX), model.scan(TABLE, device, i64::MIN, i64::MAX));
        }
        engine.close().unwrap();
        drop(engine);
        let report = verify(&(Arc::new(storage.clone()) as Arc<dyn Storage>)).unwrap();
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        assert!(report.notes.is_empty(), "no file is left over: {:?}", report.notes);
    }
    assert!(used > 1_000, "{used} steps were used");
}

/// A clock that is set by hand.
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn steps_outlive_rows_and_go_in_their_own_time() {
    let types = types();
    let storage = Memory::new();
    let clock = Arc::new(SetClock(AtomicI64::new(START + 5 * DAY_NS)));
    let open = || {
        let config = EngineConfig { shards: Some(1), compaction: false, ..EngineConfig::default() };
        Engine::open(Arc::new(storage.clone()), config, clock.clone()).unwrap().0
    };
    let chance = &mut Chance(4_242);
    let mut model = Model::default();
    let mut engine = open();
    for (at, device) in DEVICES.iter().enumerate() {
        // Every six minutes: too few rows to an hour to keep hours unless the table asks for them.
        let rows = run(device, START, 5 * 240, 360_000_000_000, chance);
        send(&engine, at as u128 + 1, 1, batch(TABLE, &rows, &types)).unwrap();
        model.apply(TABLE, &rows);
    }
    engine.flush().unwrap();
    engine.compact().unwrap();
    let day = DAY_NS as u64;
    let files = |suffix: &str| storage.list("seg").unwrap().iter().filter(|name| name.ends_with(suffix)).count();
    assert_eq!((files(".seg"), files(".sum")), (5, 5), "a file for each day, with its day");
    let whole = (START, START + 5 * DAY_NS);
    let retention = Retention { raw_ns: Some(2 * day), hour_ns: Some(100 * day), ..Retention::default() };
    engine.set_retention(TABLE, retention).unwrap();
    // Rows are hidden at once, and their files stay until something tells of them.
    assert_eq!(scan(&engine, TABLE, DEVICES[0], whole.0, whole.1).len(), 2 * 240);
    assert_eq!(files(".seg"), 5);
    engine.compact().unwrap();
    assert_eq!((files(".seg"), files(".sum")), (2, 5 + 2), "hours of five days, days of two");

    let hours = |step: Step, _: i64| step == Step::Hour;
    for reopened in [false, true] {
        if reopened {
            engine.close().unwrap();
            drop(engine);
            engine = open();
        }
        let view = engine.snapshot().table(TABLE).unwrap();
        assert_eq!(view.devices().unwrap().len(), 2);
        for device in DEVICES {
            // Everything there was, hour by hour, though the rows of three days are gone.
            assert_eq!(check(&engine, &model, device, whole, &hours), 5 * 24);
            let late = (START + 3 * DAY_NS, START + 5 * DAY_NS);
            check(&engine, &model, device, late, &|_, _| false);
            let refused =
                view.scan_steps(device, START, whole.1, &[0], &[Step::Hour], &|_, at| at > START).unwrap_err();
            assert!(matches!(&refused, Error::RowsGone { step: Step::Hour, .. }), "{refused}");
        }
    }

    // A delete takes the hours that it touches, at once for readers, and from the disk by the next merge.
    let range = (START + 7 * DAY_NS / 24 + 5, START + 9 * DAY_NS / 24);
    engine.delete(&[Delete { table: None, device: DEVICES[0].into(), range: Some(range) }]).unwrap();
    engine.delete(&[Delete { table: None, device: DEVICES[1].into(), range: None }]).unwrap();
    let gone = (START + 7 * DAY_NS / 24, START + 9 * DAY_NS / 24);
    model.rows.retain(|(_, d, time), _| d != DEVICES[1] && !(*time >= gone.0 && *time < gone.1));
    for merged in [false, true] {
        if merged {
            engine.compact().unwrap();
        }
        let view = engine.snapshot().table(TABLE).unwrap();
        assert_eq!(view.devices().unwrap(), [Arc::from(DEVICES[0])]);
        assert_eq!(check(&engine, &model, DEVICES[0], whole, &hours), 5 * 24 - 2);
        assert_eq!(check(&engine, &model, DEVICES[1], whole, &hours), 0);
    }
    engine.rename_table(TABLE, "driven").unwrap();
    engine.rename_table("driven", TABLE).unwrap();
    engine.close().unwrap();
    drop(engine);
    let as_storage = || Arc::new(storage.clone()) as Arc<dyn Storage>;
    let report = verify(&as_storage()).unwrap();
    assert!(report.damage.is_empty() && report.notes.is_empty(), "{:?} {:?}", report.damage, report.notes);
    let (state, _) = tidewell_engine::manifest::Manifest::inspect(&storage).unwrap();
    assert!(state.erasures.is_empty(), "nothing is left to erase: {:?}", state.erasures);
    assert_eq!(state.summaries.len(), files(".sum"));

    engine = open();
    assert_eq!(check(&engine, &model, DEVICES[0], whole, &hours), 5 * 24 - 2);
    clock.0.store(START + 103 * DAY_NS, Ordering::Relaxed);
    engine.keep().unwrap();
    let left = (START + 3 * DAY_NS, START + 5 * DAY_NS);
    model.rows.retain(|(_, _, time), _| *time >= left.0);
    assert_eq!(
        check(&engine, &model, DEVICES[0], whole, &hours),
        2 * 24,
        "hours of the first three days went in their time"
    );
    assert_eq!(files(".seg"), 0);
    clock.0.store(START + 200 * DAY_NS, Ordering::Relaxed);
    engine.keep().unwrap();
    assert_eq!((files(".seg"), files(".sum")), (0, 0));
    assert!(engine.snapshot().table(TABLE).unwrap().devices().unwrap().is_empty());
}
