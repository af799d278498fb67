//! Owns the search for orders of threads in which a reader misses rows or sees them twice: the engine's own code, with
//! locks and atomics that let `shuttle` choose who goes on at each of them.
//!
//! `cargo test -p tidewell-engine --features shuttle --test orders`; `TIDEWELL_ORDERS` is the number of orders of each test.
#![cfg(feature = "shuttle")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test target")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Fields, Row, Value, batch};
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread;
use tidewell_codec::{FieldType, Tier, encode_batch};
use tidewell_engine::clock::Clock;
use tidewell_engine::stepped::Step;
use tidewell_engine::storage::Memory;
use tidewell_engine::{Append, AppendSink, Delete, Durability, Engine, EngineConfig, ProducerId, Refusal, Rows, SeqNo};

const DEVICE: &str = "truck_1";
const BATCHES: usize = 4;

struct Still;

impl Clock for Still {
    fn now_ns(&self) -> i64 {
        1_000_000
    }
}

/// Counts the batches that were acknowledged, which come in order.
#[derive(Default)]
struct Acked(AtomicUsize);

impl AppendSink for Acked {
    fn settled(&self, ticket: u64, outcome: Result<(), Refusal>) {
        outcome.unwrap();
        let before = self.0.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before as u64, ticket, "acknowledgements come in order");
    }
}

struct World {
    engine: Engine,
    acked: Arc<Acked>,
    done: AtomicBool,
}

impl World {
    fn open() -> Arc<Self> {
        let config = EngineConfig { shards: Some(1), ..EngineConfig::default() };
        let (engine, _) = Engine::open_stepped(Arc::new(Memory::new()), config, Arc::new(Still)).unwrap();
        Arc::new(Self { engine, acked: Arc::default(), done: AtomicBool::new(false) })
    }

    fn acked(&self) -> usize {
        self.acked.0.load(Ordering::SeqCst)
    }

    /// Two rows, one nanosecond after the other, behind those of all batches before.
    fn append(&self, number: usize) {
        let row = |time| Row {
            device: DEVICE.to_owned(),
            time,
            fields: Fields::from([("v".to_owned(), Value::I64(number as i64))]),
        };
        let types = BTreeMap::from([("v".to_owned(), FieldType::I64)]);
        let batch = batch("t", &[row(2 * number as i64), row(2 * number as i64 + 1)], &types);
        let mut payload = Vec::new();
        encode_batch(&batch, Tier::Hot, &mut payload);
        self.engine.check(&batch, 0).unwrap();
        let append = Append {
            producer: ProducerId(1),
            seq: SeqNo(number as u64 + 1),
            payload: payload.into(),
            batch,
            received_ns: 1,
            durability: Durability::Durable,
            ticket: number as u64,
            sink: Arc::clone(&self.acked) as Arc<dyn AppendSink>,
        };
        self.engine.append(append).unwrap();
    }

    fn times(&self) -> Vec<i64> {
        let snapshot = self.engine.snapshot();
        let Some(table) = snapshot.table("t") else { return Vec::new() };
        let (mut all, mut rows) = (Vec::new(), Rows::default());
        for part in table.scan(DEVICE, i64::MIN, i64::MAX, &[0]).unwrap() {
            part.load(&mut rows).unwrap();
            all.extend_from_slice(&rows.times);
        }
        all
    }
}

fn spawn(world: &Arc<World>, body: impl FnOnce(&World) + Send + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || body(&world))
}

/// Threads that do what the node's threads do: groups, flushes, merges; until the end.
fn movers(world: &Arc<World>) -> Vec<thread::JoinHandle<()>> {
    let mover = |steps: &'static [Step]| {
        spawn(world, move |world| {
            while !world.done.load(Ordering::SeqCst) {
                for step in steps {
                    world.engine.step(*step).unwrap();
                }
                thread::yield_now();
            }
        })
    };
    vec![mover(&[Step::Group(0)]), mover(&[Step::Flush(0)]), mover(&[Step::MergeFlushed(0), Step::MergePartition(0)])]
}

fn try_orders(body: impl Fn() + Send + Sync + 'static) {
    let orders = std::env::var("TIDEWELL_ORDERS").ok().and_then(|count| count.parse().ok()).unwrap_or(200);
    shuttle::check_random(body, orders);
}

fn finish(world: &Arc<World>, movers: Vec<thread::JoinHandle<()>>) {
    while world.acked() < BATCHES {
        thread::yield_now();
    }
    world.done.store(true, Ordering::SeqCst);
    movers.into_iter().for_each(|mover| mover.join().unwrap());
}

#[test]
fn readers_see_every_acknowledged_row_once_while_memtables_become_segments() {
    try_orders(|| {
        let world = World::open();
        let movers = movers(&world);
        let sender = spawn(&world, |world| (0..BATCHES).for_each(|number| world.append(number)));
        // A flush of nothing would be over before the first row comes.
        let flusher = spawn(&world, |world| {
            for batches in [1, BATCHES - 1] {
                while world.acked() < batches {
                    thread::yield_now();
                }
                world.engine.flush().unwrap();
            }
        });
        let reader = spawn(&world, |world| {
            let (mut before, mut acked) = (0, 0);
            // To the end, and some more for what flushes do behind the last batch.
            for _ in 0..12 {
                while acked < BATCHES && world.acked() == acked {
                    thread::yield_now();
                }
                acked = world.acked();
                let times = world.times();
                assert!(times.iter().copied().eq(0..times.len() as i64), "each row once, in order: {times:?}");
                assert!(times.len().is_multiple_of(2), "a batch is seen whole: {times:?}");
                assert!(times.len() >= 2 * acked, "{acked} batches were acknowledged: {times:?}");
                assert!(times.len() >= before, "rows went away: {before}, then {times:?}");
                before = times.len();
            }
        });
        for thread in [sender, flusher, reader] {
            thread.join().unwrap();
        }
        finish(&world, movers);
        assert_eq!(world.times().len(), 2 * BATCHES);
    });
}

#[test]
fn what_was_deleted_is_in_no_later_answer_and_what_came_after_it_stays() {
    try_orders(|| {
        let world = World::open();
        let movers = movers(&world);
        world.append(0);
        while world.acked() == 0 {
            thread::yield_now();
        }
        let sender = spawn(&world, |world| (1..BATCHES).for_each(|number| world.append(number)));
        let flusher = spawn(&world, |world| world.engine.flush().unwrap());
        let deleter = spawn(&world, |world| {
            let delete = Delete { table: None, device: DEVICE.into(), range: Some((0, 2)) };
            world.engine.delete(&[delete]).unwrap();
            for _ in 0..2 {
                let acked = world.acked();
                let times = world.times();
                assert!(times.iter().copied().eq(2..2 + times.len() as i64), "the first batch is gone: {times:?}");
                assert!(times.len() + 2 >= 2 * acked, "{acked} batches were acknowledged: {times:?}");
            }
        });
        for thread in [sender, flusher, deleter] {
            thread.join().unwrap();
        }
        finish(&world, movers);
        assert_eq!(world.times(), (2..2 * BATCHES as i64).collect::<Vec<_>>());
    });
}
