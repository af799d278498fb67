//! Owns what the engine's behaviour tests share: batches from rows, waiting for outcomes, a naive model.
#![allow(dead_code, missing_docs, reason = "each test target uses its own part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, FieldType, Text, Tier, Values, encode_batch};
use tidewell_engine::clock::Clock;
use tidewell_engine::{Append, AppendSink, Durability, Engine, ProducerId, Refusal, Rows, SeqNo};

/// A value of any type, compared bit by bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    F64(u64),
    I64(i64),
    Bool(bool),
    Utf8(String),
}

/// Fields that a row sets.
pub type Fields = BTreeMap<String, Value>;

/// One row to send.
#[derive(Clone, Debug)]
pub struct Row {
    pub device: String,
    pub time: i64,
    pub fields: Fields,
}

/// The contract, in the most naive form: (table, device, time) to fields, later writes win field by field.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub rows: BTreeMap<(String, String, i64), Fields>,
}

impl Model {
    pub fn apply(&mut self, table: &str, rows: &[Row]) {
        for row in rows {
            let slot = self.rows.entry((table.to_owned(), row.device.clone(), row.time)).or_default();
            slot.extend(row.fields.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }

    pub fn scan(&self, table: &str, device: &str, start: i64, end: i64) -> Vec<(i64, Fields)> {
        self.rows
            .iter()
            .filter(|((t, d, time), _)| t == table && d == device && *time >= start && *time < end)
            .map(|((_, _, time), fields)| (*time, fields.clone()))
            .collect()
    }
}

/// A batch of `rows`, grouped into runs of equal neighbours.
pub fn batch(table: &str, rows: &[Row], types: &BTreeMap<String, FieldType>) -> Batch {
    let mut devices = DeviceRuns::default();
    let mut at = 0;
    while at < rows.len() {
        let run = rows[at..].iter().take_while(|r| r.device == rows[at].device).count();
        devices.push(&rows[at].device, run as u32);
        at += run;
    }
    let mut names: Vec<&String> = rows.iter().flat_map(|r| r.fields.keys()).collect();
    names.sort();
    names.dedup();
    let fields = names
        .into_iter()
        .map(|name| {
            let mut column = Column::new(types[name]);
            for row in rows {
                match row.fields.get(name) {
                    Some(value) => column.extend_from(&one(value), 0..1),
                    None => column.extend_nulls(1),
                }
            }
            column.normalise();
            BatchField { name: name.clone(), column }
        })
        .collect();
    Batch { table: table.to_owned(), devices, times: rows.iter().map(|r| r.time).collect(), fields }
}

fn one(value: &Value) -> Column {
    let values = match value {
        Value::F64(bits) => Values::F64(vec![f64::from_bits(*bits)]),
        Value::I64(v) => Values::I64(vec![*v]),
        Value::Bool(v) => Values::Bool([*v].into_iter().collect()),
        Value::Utf8(v) => {
            let mut text = Text::default();
            text.push(v);
            Values::Utf8(text)
        }
    };
    Column { values, validity: None }
}

/// Rows of a scan in the model's form.
pub fn rows_to_model(rows: &Rows, names: &[String]) -> Vec<(i64, Fields)> {
    (0..rows.times.len())
        .map(|row| {
            let fields = names
                .iter()
                .zip(&rows.columns)
                .filter(|(_, column)| column.is_valid(row))
                .map(|(name, column)| {
                    let value = match &column.values {
                        Values::F64(v) => Value::F64(v[row].to_bits()),
                        Values::I64(v) => Value::I64(v[row]),
                        Values::Bool(v) => Value::Bool(v.get(row)),
                        Values::Utf8(v) => Value::Utf8(v.get(row).to_owned()),
                    };
                    (name.clone(), value)
                })
                .collect();
            (rows.times[row], fields)
        })
        .collect()
}

/// Everything that the engine answers for one device's range.
pub fn scan(engine: &Engine, table: &str, device: &str, start: i64, end: i64) -> Vec<(i64, Fields)> {
    let Some(view) = engine.snapshot().table(table) else { return Vec::new() };
    let names: Vec<String> = view.schema().fields.iter().map(|f| f.name.to_string()).collect();
    let fields: Vec<usize> = (0..names.len()).collect();
    let mut all = Vec::new();
    let mut rows = Rows::default();
    for part in view.scan(device, start, end, &fields).expect("an undamaged store scans") {
        part.load(&mut rows).expect("an undamaged block loads");
        all.extend(rows_to_model(&rows, &names));
    }
    // From the newest row back there are the same ones.
    let mut newest = view.scan_back(&device.into(), end, &fields.into());
    let mut back = Vec::new();
    while let Some(part) = newest.next_part().expect("an undamaged store scans") {
        part.load(&mut rows).expect("an undamaged block loads");
        back.extend(rows_to_model(&rows, &names).into_iter().rev());
    }
    back.reverse();
    back.retain(|(time, _)| *time >= start);
    assert_eq!(back, all, "{device} from the newest row before {end} back");
    all
}

/// Waits for the outcomes of batches.
#[derive(Default)]
pub struct Outcomes {
    settled: Mutex<BTreeMap<u64, Result<(), Refusal>>>,
    changed: Condvar,
}

impl AppendSink for Outcomes {
    fn settled(&self, ticket: u64, outcome: Result<(), Refusal>) {
        self.settled.lock().insert(ticket, outcome);
        self.changed.notify_all();
    }
}

impl Outcomes {
    pub fn wait(&self, ticket: u64) -> Result<(), Refusal> {
        let mut settled = self.settled.lock();
        loop {
            if let Some(outcome) = settled.remove(&ticket) {
                return outcome;
            }
            self.changed.wait(&mut settled);
        }
    }
}

/// Sends one batch and waits for its acknowledgement.
pub fn send(engine: &Engine, producer: u128, seq: u64, batch: Batch) -> Result<(), Refusal> {
    engine.check(&batch, i64::MAX / 2)?;
    let outcomes = Arc::new(Outcomes::default());
    let mut payload = Vec::new();
    encode_batch(&batch, Tier::Hot, &mut payload);
    engine.append(Append {
        producer: ProducerId(producer),
        seq: SeqNo(seq),
        payload: Bytes::from(payload),
        batch,
        received_ns: i64::MAX / 2,
        durability: Durability::Durable,
        ticket: 1,
        sink: Arc::clone(&outcomes) as Arc<dyn AppendSink>,
    })?;
    outcomes.wait(1)
}

/// A clock that stands still.
pub struct StoppedClock(pub i64);

impl Clock for StoppedClock {
    fn now_ns(&self) -> i64 {
        self.0
    }
}
