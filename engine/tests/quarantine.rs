//! Owns the proof of what becomes of rows too far in the future: acknowledged, apart from all others, listed.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test target, whose helpers may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Fields, Outcomes, Row, StoppedClock, Value, batch, scan};
use tidewell_codec::{FieldType, Tier, encode_batch};
use tidewell_engine::quarantine::Quarantined;
use tidewell_engine::storage::Memory;
use tidewell_engine::{Append, AppendSink, Durability, Engine, EngineConfig, ProducerId, Refusal, SeqNo};

const TABLE: &str = "readings";
const NOW: i64 = 1_700_000_000_000_000_000;
const MINUTE: i64 = 60_000_000_000;
/// The last time that is not set aside.
const LIMIT: i64 = NOW + MINUTE;

fn open(memory: &Memory) -> Engine {
    open_at(memory, NOW)
}

fn open_at(memory: &Memory, now_ns: i64) -> Engine {
    let max_future = Duration::from_secs(60);
    let config = EngineConfig { shards: Some(2), compaction: false, max_future, ..EngineConfig::default() };
    Engine::open(Arc::new(memory.clone()), config, Arc::new(StoppedClock(now_ns))).expect("the store opens").0
}

/// Sends rows of one device at `times`; each row's value is its place in the batch.
fn send(engine: &Engine, device: &str, seq: u64, times: &[i64]) -> Result<(), Refusal> {
    let types = BTreeMap::from([("speed".to_owned(), FieldType::I64)]);
    let row = |(place, &time): (usize, &i64)| {
        let fields = Fields::from([("speed".to_owned(), Value::I64(place as i64))]);
        Row { device: device.to_owned(), time, fields }
    };
    let rows: Vec<Row> = times.iter().enumerate().map(row).collect();
    let batch = batch(TABLE, &rows, &types);
    engine.check(&batch, NOW)?;
    let outcomes = Arc::new(Outcomes::default());
    let mut payload = Vec::new();
    encode_batch(&batch, Tier::Hot, &mut payload);
    engine.append(Append {
        producer: ProducerId(u128::from(device.as_bytes()[0])),
        seq: SeqNo(seq),
        payload: Bytes::from(payload),
        batch,
        received_ns: NOW,
        durability: Durability::Durable,
        ticket: 1,
        sink: Arc::clone(&outcomes) as Arc<dyn AppendSink>,
    })?;
    outcomes.wait(1)
}

fn times(engine: &Engine, device: &str) -> Vec<i64> {
    scan(engine, TABLE, device, i64::MIN, i64::MAX).into_iter().map(|(time, _)| time).collect()
}

fn waiting(engine: &Engine) -> Vec<(String, u64, i64, i64)> {
    let listed = engine.snapshot().quarantined(|_| true).unwrap();
    listed
        .into_iter()
        .map(|Quarantined { table, device, rows, first_ns, last_ns, received_ns }| {
            assert_eq!((&*table, received_ns), (TABLE, (NOW, NOW)));
            (device.to_string(), rows, first_ns, last_ns)
        })
        .collect()
}

#[test]
fn rows_ahead_are_acknowledged_and_listed_and_in_no_answer() {
    let memory = Memory::new();
    let engine = open(&memory);
    send(&engine, "a", 1, &[NOW, LIMIT + 1, LIMIT, i64::MAX]).unwrap();
    send(&engine, "b", 1, &[LIMIT + 5]).unwrap();
    // A wrong clock blocks nothing that follows.
    send(&engine, "a", 2, &[NOW + 1]).unwrap();
    let expected = [("a".to_owned(), 2, LIMIT + 1, i64::MAX), ("b".to_owned(), 1, LIMIT + 5, LIMIT + 5)];
    let check = |engine: &Engine| {
        assert_eq!(times(engine, "a"), [NOW, NOW + 1, LIMIT]);
        assert!(times(engine, "b").is_empty());
        assert_eq!(waiting(engine), expected);
        let tables: Vec<String> = engine.snapshot().tables().iter().map(|table| table.name.to_string()).collect();
        assert_eq!(tables, [TABLE]);
    };
    check(&engine);
    assert_eq!(engine.figures().iter().map(|shard| shard.quarantined_rows).sum::<u64>(), 3);
    // From the log alone, from segments, and from merged ones.
    drop(engine);
    let engine = open(&memory);
    check(&engine);
    engine.flush().unwrap();
    check(&engine);
    engine.compact().unwrap();
    check(&engine);
    drop(engine);
    check(&open(&memory));
}

#[test]
fn released_rows_are_rows_like_any_other() {
    let memory = Memory::new();
    let engine = open(&memory);
    send(&engine, "a", 1, &[NOW, LIMIT + 1, LIMIT + 2, LIMIT + 2 * MINUTE]).unwrap();
    send(&engine, "b", 1, &[LIMIT + 1]).unwrap();
    let too_early = engine.release_quarantined(TABLE, "a").unwrap();
    assert_eq!((too_early.released, too_early.waiting), (0, 3));
    drop(engine);
    // The node's clock goes on; the device was a minute ahead, not wrong for ever.
    let engine = open_at(&memory, NOW + MINUTE);
    let released = engine.release_quarantined(TABLE, "a").unwrap();
    assert_eq!((released.released, released.waiting), (2, 1));
    let check = |engine: &Engine| {
        let expected = [(NOW, 0), (LIMIT + 1, 1), (LIMIT + 2, 2)];
        let expected = expected.map(|(time, value)| (time, Fields::from([("speed".to_owned(), Value::I64(value))])));
        assert_eq!(scan(engine, TABLE, "a", i64::MIN, i64::MAX), expected);
        assert_eq!(
            waiting(engine).iter().map(|(device, rows, ..)| (&**device, *rows)).collect::<Vec<_>>(),
            [("a", 1), ("b", 1)]
        );
    };
    check(&engine);
    drop(engine);
    check(&open_at(&memory, NOW + MINUTE));
}

#[test]
fn dropped_rows_are_gone_and_only_they() {
    let memory = Memory::new();
    let engine = open(&memory);
    send(&engine, "a", 1, &[NOW, LIMIT + 1, LIMIT + 2]).unwrap();
    send(&engine, "b", 1, &[LIMIT + 1]).unwrap();
    assert_eq!(engine.drop_quarantined(TABLE, "a").unwrap(), 2);
    drop(engine);
    let engine = open(&memory);
    assert_eq!(times(&engine, "a"), [NOW]);
    assert_eq!(waiting(&engine), [("b".to_owned(), 1, LIMIT + 1, LIMIT + 1)]);
    for (table, device) in [(TABLE, "a"), (TABLE, "c"), ("none", "b")] {
        let error = engine.drop_quarantined(table, device).unwrap_err().to_string();
        assert!(error.contains(table) && error.contains(device), "{error}");
        assert_eq!(engine.release_quarantined(table, device).unwrap_err().to_string(), error);
    }
}
