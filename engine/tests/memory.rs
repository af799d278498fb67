//! Owns the proof that memory is counted where it is held: by memtables, then by whoever still reads them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test target, whose helpers may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use common::{Fields, Row, StoppedClock, Value, batch, scan};
use tidewell_codec::{Batch, FieldType, Tier, encode_batch};
use tidewell_engine::memory::{Class, MemoryBudget};
use tidewell_engine::storage::Memory;
use tidewell_engine::{Append, AppendSink, Durability, Engine, EngineConfig, ProducerId, Refusal, SeqNo};

const NOW: i64 = 1_700_000_000_000_000_000;

struct Tell(mpsc::Sender<()>);

impl AppendSink for Tell {
    fn settled(&self, _: u64, outcome: Result<(), Refusal>) {
        outcome.unwrap();
        self.0.send(()).unwrap();
    }
}

/// Rows `first..first + count` of one device, acknowledged.
fn send(engine: &Engine, seq: u64, first: i64, count: i64) {
    let types = BTreeMap::from([("speed".to_owned(), FieldType::F64)]);
    let rows: Vec<Row> = (first..first + count)
        .map(|time| Row {
            device: "a".to_owned(),
            time,
            fields: Fields::from([("speed".to_owned(), Value::F64((time as f64).to_bits()))]),
        })
        .collect();
    let batch = batch("readings", &rows, &types);
    append(engine, seq, batch);
}

fn append(engine: &Engine, seq: u64, batch: Batch) {
    engine.check(&batch, NOW).unwrap();
    let mut payload = Vec::new();
    encode_batch(&batch, Tier::Plain, &mut payload);
    let (tell, told) = mpsc::channel();
    let append = Append {
        producer: ProducerId(1),
        seq: SeqNo(seq),
        payload: Bytes::from(payload),
        batch,
        received_ns: NOW,
        durability: Durability::Durable,
        ticket: seq,
        sink: Arc::new(Tell(tell)),
    };
    engine.append(append).unwrap();
    told.recv().unwrap();
}

fn open(storage: &Memory, memory: &Arc<MemoryBudget>) -> Engine {
    let config = EngineConfig { shards: Some(1), compaction: false, memory: memory.clone(), ..EngineConfig::default() };
    Engine::open(Arc::new(storage.clone()), config, Arc::new(StoppedClock(NOW))).unwrap().0
}

#[test]
fn a_flushed_memtable_counts_for_the_query_that_reads_it_until_that_ends() {
    let (storage, memory) = (Memory::new(), MemoryBudget::new(1 << 30));
    let engine = open(&storage, &memory);
    send(&engine, 1, 0, 1_000);
    let held = memory.used(Class::Memtable);
    assert!(held >= 16_000, "{held}");
    let reader = engine.snapshot();
    let pins = reader.pins();
    assert_eq!(pins.bytes(), 0, "the memtable is there anyway");
    engine.flush().unwrap();
    assert_eq!((memory.used(Class::Memtable), memory.used(Class::Query)), (0, held));
    assert_eq!((pins.bytes(), engine.snapshot().pins().bytes()), (held, 0));
    drop(reader);
    assert_eq!((memory.used(Class::Query), pins.bytes()), (0, 0));
    send(&engine, 2, 1_000, 10);
    assert!(memory.used(Class::Memtable) > 0);
    drop(engine);
    assert_eq!(memory.used(Class::Memtable), 0);
    // What replay brings back is counted, too.
    let engine = open(&storage, &memory);
    assert!(memory.used(Class::Memtable) > 0);
    assert_eq!(scan(&engine, "readings", "a", i64::MIN, i64::MAX).len(), 1_010);
}

#[test]
fn shards_share_the_memtables_part_of_the_limit() {
    let memory = MemoryBudget::new(256 << 20);
    let engine = open(&Memory::new(), &memory);
    assert_eq!(engine.config().memtable_bytes, 72 << 20, "three of four parts of 6/16 of 256 MiB");
}

/// One row of each of `devices`.
fn send_devices(engine: &Engine, seq: u64, time: i64, devices: impl Iterator<Item = usize>) {
    let types = BTreeMap::from([("speed".to_owned(), FieldType::F64)]);
    let fields = Fields::from([("speed".to_owned(), Value::F64(1f64.to_bits()))]);
    let rows: Vec<Row> = devices.map(|d| Row { device: format!("d{d:05}"), time, fields: fields.clone() }).collect();
    append(engine, seq, batch("readings", &rows, &types));
}

#[test]
fn devices_come_in_pages_in_order_from_all_sources() {
    let engine = open(&Memory::new(), &MemoryBudget::new(1 << 30));
    // More than a page in a segment, other ones in memory, others only described; some in several places.
    send_devices(&engine, 1, 10, (0..5_000).step_by(2));
    engine.flush().unwrap();
    send_devices(&engine, 2, 20, (0..5_000).step_by(3));
    for device in (0..5_000).step_by(500) {
        let pairs = BTreeMap::from([("number".to_owned(), device.to_string())]);
        engine.set_attributes(&format!("d{:05}", device + 1), pairs).unwrap();
    }
    let mut expected = std::collections::BTreeSet::new();
    expected.extend((0..5_000).step_by(2).chain((0..5_000).step_by(3)).map(|d| format!("d{d:05}")));
    expected.extend((0..5_000).step_by(500).map(|d| format!("d{:05}", d + 1)));
    let pages: Vec<_> = engine.snapshot().device_pages().map(Result::unwrap).collect();
    assert!(pages.len() > 2, "{} pages", pages.len());
    let found: Vec<_> = pages.iter().flatten().collect();
    assert_eq!(found.iter().map(|d| d.id.to_string()).collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
    for device in found {
        let number: usize = device.id[1..].parse().unwrap();
        let described = number % 500 == 1;
        assert_eq!(device.attributes.get("number").map(|n| n.parse().unwrap()), described.then(|| number - 1));
        assert_eq!(device.first_seen_ns.is_some(), number.is_multiple_of(2) || number.is_multiple_of(3), "{number}");
    }
}
