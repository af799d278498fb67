//! Owns the figures of the write path's stages: batch bytes, log group, memtable, flush, and all of them through an engine.
#![allow(missing_docs, reason = "a bench target")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidewell_benches::{Truck, fleet_batch};
use tidewell_codec::{Batch, BatchLimits, Tier, decode_batch, encode_batch};
use tidewell_engine::clock::SystemClock;
use tidewell_engine::device_log::{LogConfig, LogWriter, RecordHead};
use tidewell_engine::memtable::Memtable;
use tidewell_engine::storage::Disk;
use tidewell_engine::*;

const VALUES: u64 = 10_000;

fn batches(devices: usize, count: usize) -> Vec<(Batch, Bytes)> {
    let mut trucks: Vec<Truck> = (0..devices as u64).map(Truck::new).collect();
    let steps = 1_000 / devices;
    (0..count)
        .map(|index| {
            let batch = fleet_batch(&mut trucks, 0, index * steps, steps);
            let mut payload = Vec::new();
            encode_batch(&batch, Tier::Hot, &mut payload);
            (batch, Bytes::from(payload))
        })
        .collect()
}

fn batch_bytes(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    group.throughput(Throughput::Elements(VALUES));
    for devices in [1, 1_000] {
        let (batch, payload) = batches(devices, 1).remove(0);
        eprintln!("batch of {devices} devices: {:.3} bytes a value", payload.len() as f64 / VALUES as f64);
        for (name, tier) in [("encode_hot", Tier::Hot), ("encode_plain", Tier::Plain)] {
            group.bench_function(BenchmarkId::new(name, devices), |b| {
                let mut out = Vec::new();
                b.iter(|| {
                    out.clear();
                    encode_batch(black_box(&batch), tier, &mut out);
                    out.len()
                });
            });
        }
        group.bench_function(BenchmarkId::new("decode_hot", devices), |b| {
            let limits = BatchLimits::default();
            b.iter(|| decode_batch(black_box(&payload), &limits).expect("a good batch"));
        });
    }
    group.finish();
}

fn log_group(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let storage: Arc<dyn storage::Storage> = Arc::new(Disk::open(dir.path()).expect("a writable directory"));
    let mut log = LogWriter::resume(storage, 0, LogPosition::default(), LogConfig::default()).expect("a new log");
    let (_, payload) = batches(1_000, 1).remove(0);
    let mut seq = 0;
    let mut group = c.benchmark_group("log");
    for records in [1usize, 8, 64] {
        group.throughput(Throughput::Bytes((records * payload.len()) as u64));
        group.bench_function(BenchmarkId::new("append_and_sync", records), |b| {
            b.iter(|| {
                for _ in 0..records {
                    seq += 1;
                    let head = RecordHead { producer: ProducerId(1), seq: SeqNo(seq), received_ns: 0 };
                    log.append(&head, &payload).expect("a healthy disk");
                }
                let end = log.commit().expect("a healthy disk");
                log.release_before(end).expect("a healthy disk");
            });
        });
    }
    group.finish();
}

fn memtable(c: &mut Criterion) {
    let mut group = c.benchmark_group("memtable");
    group.throughput(Throughput::Elements(VALUES * 100));
    group.sample_size(20);
    for devices in [1, 1_000] {
        let batches = batches(devices, 100);
        let schema = catalog::Catalog::default().admit(&batches[0].0).expect("a new table");
        group.bench_function(BenchmarkId::new("publish_100_batches", devices), |b| {
            b.iter_batched(
                || batches.iter().map(|(batch, _)| batch.clone()).collect::<Vec<_>>(),
                |batches| {
                    let memtable = Memtable::default();
                    for batch in batches {
                        memtable.publish(std::iter::once((batch, Arc::clone(&schema), 0)));
                    }
                    memtable
                },
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("gather_100_batches", devices), |b| {
            let memtable = Memtable::default();
            memtable.publish(batches.iter().map(|(batch, _)| (batch.clone(), Arc::clone(&schema), 0)));
            b.iter(|| {
                let mut rows = 0;
                memtable
                    .drain_table(&schema, |_, gathered| {
                        rows += gathered.times.len();
                        Ok::<_, ()>(())
                    })
                    .expect("nothing fails");
                assert_eq!(rows, 100_000);
            });
        });
    }
    group.finish();
}

struct Ignore;

impl AppendSink for Ignore {
    fn settled(&self, _: u64, outcome: Result<(), Refusal>) {
        outcome.expect("a healthy disk");
    }
}

/// The engine alone: decode, log, publish, seal, flush, as fast as one caller hands batches over.
fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.sample_size(10);
    for devices in [1, 1_000] {
        let batches = batches(devices, 1_000);
        group.throughput(Throughput::Elements(VALUES * 1_000));
        group.bench_function(BenchmarkId::new("ingest_1000_batches_and_flush", devices), |b| {
            b.iter_batched(
                || {
                    let dir = tempfile::tempdir().expect("a temporary directory");
                    let storage = Arc::new(Disk::open(dir.path()).expect("a writable directory"));
                    let config = EngineConfig { compaction: false, ..EngineConfig::default() };
                    (Engine::open(storage, config, Arc::new(SystemClock)).expect("a new store").0, dir)
                },
                |(engine, dir)| {
                    let limits = BatchLimits::default();
                    let sink: Arc<dyn AppendSink> = Arc::new(Ignore);
                    for (index, (_, payload)) in batches.iter().enumerate() {
                        let batch = decode_batch(payload, &limits).expect("a good batch");
                        engine.check(&batch, i64::MAX / 2).expect("a good batch");
                        engine
                            .append(Append {
                                producer: ProducerId(1),
                                seq: SeqNo(index as u64 + 1),
                                payload: payload.clone(),
                                batch,
                                received_ns: i64::MAX / 2,
                                durability: Durability::Durable,
                                ticket: 0,
                                sink: Arc::clone(&sink),
                            })
                            .expect("the queue has room for all");
                    }
                    engine.flush().expect("a healthy disk");
                    (engine, dir)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, batch_bytes, log_group, memtable, engine);
criterion_main!(benches);
