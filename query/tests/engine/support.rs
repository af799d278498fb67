//! Owns a node in memory for tests: rows in, snapshots out.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, FieldType, Tier, Values, encode_batch, shard_of};
use tidewell_engine::clock::SystemClock;
use tidewell_engine::storage::memory::Memory;
use tidewell_engine::{Append, AppendSink, Durability, Engine, EngineConfig, ProducerId, Refusal, SeqNo, Snapshot};
use tidewell_query::AnswerColumn;

pub const SECOND: i64 = 1_000_000_000;

/// One row to write.
#[derive(Clone)]
pub struct Row {
    pub device: String,
    pub time: i64,
    pub v: Option<f64>,
    pub n: Option<i64>,
    pub s: Option<String>,
}

pub struct Node {
    storage: Memory,
    engine: Option<Engine>,
    config: EngineConfig,
    seq: u64,
}

#[derive(Default)]
struct Waiter {
    settled: Mutex<Vec<Result<(), Refusal>>>,
    changed: Condvar,
}

impl AppendSink for Waiter {
    fn settled(&self, _: u64, outcome: Result<(), Refusal>) {
        self.settled.lock().push(outcome);
        self.changed.notify_all();
    }
}

impl Node {
    pub fn new(shards: u32) -> Self {
        let config = EngineConfig { shards: Some(shards), compaction: false, ..EngineConfig::default() };
        let mut node = Self { storage: Memory::new(), engine: None, config, seq: 0 };
        node.restart();
        node
    }

    pub fn restart(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.close().expect("closes");
        }
        let opened = Engine::open(Arc::new(self.storage.clone()), self.config.clone(), Arc::new(SystemClock));
        self.engine = Some(opened.expect("opens").0);
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("open")
    }

    pub fn snapshot(&self) -> Snapshot {
        self.engine().snapshot()
    }

    pub fn flush(&self) {
        self.engine().flush().expect("flushes");
    }

    pub fn compact(&self) {
        self.engine().compact().expect("compacts");
    }

    /// Writes rows that are grouped by device, and waits until they are acknowledged.
    pub fn write(&mut self, rows: &[Row]) {
        for run in rows.chunk_by(|a, b| a.device == b.device) {
            for part in run.chunks(8_192) {
                self.append(batch(part));
            }
        }
    }

    pub fn append(&mut self, batch: Batch) {
        let mut payload = Vec::new();
        encode_batch(&batch, Tier::Hot, &mut payload);
        self.seq += 1;
        let waiter = Arc::new(Waiter::default());
        self.engine().check(&batch, i64::MAX / 2).expect("fits");
        let device = batch.devices.get(0).0;
        let append = Append {
            producer: ProducerId(u128::from(shard_of(device, self.engine().shard_count()))),
            seq: SeqNo(self.seq),
            payload: Bytes::from(payload),
            batch,
            received_ns: i64::MAX / 2,
            durability: Durability::Durable,
            ticket: 0,
            sink: Arc::clone(&waiter) as Arc<dyn AppendSink>,
        };
        self.engine().append(append).expect("is taken");
        let mut settled = waiter.settled.lock();
        while settled.is_empty() {
            waiter.changed.wait(&mut settled);
        }
        settled[0].clone().expect("is acknowledged");
    }
}

fn batch(rows: &[Row]) -> Batch {
    let column = |field_type, each: &dyn Fn(&Row, &mut Column) -> bool| {
        let mut column = Column::new(field_type);
        for row in rows {
            if !each(row, &mut column) {
                column.extend_nulls(1);
            } else if let Some(validity) = &mut column.validity {
                validity.push(true);
            }
        }
        column
    };
    let v = column(FieldType::F64, &|row, c| match (&mut c.values, row.v) {
        (Values::F64(values), Some(v)) => {
            values.push(v);
            true
        }
        _ => false,
    });
    let n = column(FieldType::I64, &|row, c| match (&mut c.values, row.n) {
        (Values::I64(values), Some(n)) => {
            values.push(n);
            true
        }
        _ => false,
    });
    let s = column(FieldType::Utf8, &|row, c| match (&mut c.values, &row.s) {
        (Values::Utf8(values), Some(s)) => {
            values.push(s);
            true
        }
        _ => false,
    });
    let fields = [("v", v), ("n", n), ("s", s)];
    Batch {
        table: "t".to_owned(),
        devices: DeviceRuns::single(&rows[0].device, rows.len() as u32),
        times: rows.iter().map(|r| r.time).collect(),
        fields: fields.into_iter().map(|(name, column)| BatchField { name: name.to_owned(), column }).collect(),
    }
}

/// One value as text; doubles to the bit, all NaN alike.
pub fn cell(column: &AnswerColumn, row: usize) -> String {
    let column = match column {
        AnswerColumn::Names(names) => return names.get(row).expect("a name a row").to_string(),
        AnswerColumn::Values(column) => column,
    };
    if !column.is_valid(row) {
        return "null".to_owned();
    }
    match &column.values {
        Values::F64(v) if v[row].is_nan() => "NaN".to_owned(),
        Values::F64(v) => format!("{}#{:x}", v[row], v[row].to_bits()),
        Values::I64(v) => v[row].to_string(),
        Values::Bool(v) => v.get(row).to_string(),
        Values::Utf8(v) => v.get(row).to_owned(),
    }
}
