//! Owns the promises about questions: any bytes are a question or a named mistake, and an answer stays within its bounds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tidewell_codec::{Batch, BatchField, Bitmap, Column, DeviceRuns, FieldType, Tier, Values, encode_batch};
use tidewell_engine::clock::Clock;
use tidewell_engine::storage::Memory;
use tidewell_engine::{Append, AppendSink, Durability, Engine, EngineConfig, ProducerId, Refusal, SeqNo, Snapshot};
use tidewell_query::request::{DeviceSelection, OnDamage, RangeRequest, Time};
use tidewell_query::{Query, QueryLimits, QueryOptions, Request};

/// The table that is asked.
pub const TABLE: &str = "readings";
const DEVICES: usize = 3;
const ROWS: usize = 200;
const LIMITS: u64 = 5_000;

/// Rows of all types, half of them in a segment and half in memory, opened once a process.
static DATA: LazyLock<(Engine, Snapshot)> = LazyLock::new(data);

struct Stopped;

impl Clock for Stopped {
    fn now_ns(&self) -> i64 {
        2_000_000_000_000
    }
}

#[derive(Default)]
struct Counted(AtomicUsize);

impl AppendSink for Counted {
    fn settled(&self, _: u64, outcome: Result<(), Refusal>) {
        outcome.expect("the rows of the questions are taken");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn data() -> (Engine, Snapshot) {
    let config = EngineConfig { shards: Some(1), compaction: false, ..EngineConfig::default() };
    let (engine, _) = Engine::open(Arc::new(Memory::new()), config, Arc::new(Stopped)).expect("memory opens");
    for part in 0..2 {
        let counted = Arc::new(Counted::default());
        let batch = rows(part);
        let mut payload = Vec::new();
        encode_batch(&batch, Tier::Hot, &mut payload);
        let append = Append {
            producer: ProducerId(1),
            seq: SeqNo(part as u64 + 1),
            payload: payload.into(),
            batch,
            received_ns: 1,
            durability: Durability::Durable,
            ticket: 0,
            sink: counted.clone(),
        };
        engine.append(append).expect("the rows of the questions are taken");
        while counted.0.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        if part == 0 {
            engine.flush().expect("memory takes a segment");
        }
    }
    let snapshot = engine.snapshot();
    (engine, snapshot)
}

/// Half of the rows: a second from one to the next, from 1970 on.
fn rows(part: usize) -> Batch {
    let (half, mut devices) = (ROWS / 2, DeviceRuns::default());
    (0..DEVICES).for_each(|device| devices.push(&format!("truck_{device}"), half as u32));
    let total = half * DEVICES;
    let field = |name: &str, field_type: FieldType| {
        let mut column = Column::new(field_type);
        for row in 0..total {
            match &mut column.values {
                Values::F64(values) => values.push(if row % 17 == 3 { f64::NAN } else { (row % 130) as f64 / 2.0 }),
                Values::I64(values) => values.push((row % 5) as i64 - 1),
                Values::Bool(values) => values.push(row % 3 == 0),
                Values::Utf8(values) => values.push(["anna", "o'neill", ""][row % 3]),
            }
        }
        let mut valid = Bitmap::with_capacity(total);
        (0..total).for_each(|row| valid.push(row % 7 != 4));
        column.validity = Some(valid);
        column.normalise();
        BatchField { name: name.to_owned(), column }
    };
    Batch {
        table: TABLE.to_owned(),
        devices,
        times: (0..total).map(|row| ((part * half + row % half) as i64) * 1_000_000_000).collect(),
        fields: vec![
            field("velocity", FieldType::F64),
            field("status", FieldType::I64),
            field("open", FieldType::Bool),
            field("driver", FieldType::Utf8),
        ],
    }
}

/// JSON of a ticket.
///
/// # Panics
/// When a question does not come back from its own JSON, or an answer breaks its bounds.
pub fn question(data: &[u8]) {
    let Ok(request) = Request::parse(data) else { return };
    let json = serde_json::to_vec(&request).expect("a question becomes JSON");
    assert_eq!(Request::parse(&json).expect("a question's own JSON"), request);
    let _ = answer(&request);
}

/// The text of a condition.
///
/// # Panics
/// When parentheses around it change what it finds.
pub fn condition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let found = |condition: String| {
        answer(&Request::Range(RangeRequest {
            table: TABLE.to_owned(),
            devices: DeviceSelection::All,
            start: Time(i64::MIN),
            end: Time(i64::MAX),
            fields: None,
            condition: Some(condition),
            limit: None,
            damage: OnDamage::default(),
        }))
    };
    let plain = found(text.to_owned());
    if plain.is_some() {
        // Parentheses may only be refused for their depth.
        let inside = found(format!("({text}\n)"));
        assert!(inside.is_none() || inside == plain, "parentheses change {plain:?} rows into {inside:?}");
        let negated = found(format!("NOT ({text}\n)")).unwrap_or_default();
        assert!(
            plain.unwrap_or_default() + negated <= (ROWS * DEVICES) as u64,
            "a row matches a condition and its contrary"
        );
    }
}

/// The rows of the answer; `None` when the question was refused.
fn answer(request: &Request) -> Option<u64> {
    let limits = QueryLimits {
        rows_max: LIMITS,
        windows_max: LIMITS,
        time_max: Duration::from_secs(10),
        batch_rows: 64,
        threads: 1,
        memory: None,
    };
    let query = Query::prepare(&DATA.1, request, QueryOptions { limits, ..QueryOptions::default() }).ok()?;
    let columns = query.schema().len();
    let mut rows = 0;
    for batch in query.run().ok()? {
        let batch = batch.ok()?;
        assert_eq!(batch.columns.len(), columns, "an answer has the columns that its schema lists");
        rows += batch.rows as u64;
        assert!(rows <= LIMITS, "{rows} rows of at most {LIMITS}");
    }
    Some(rows)
}
