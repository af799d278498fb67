//! Owns the proof of a shard's rules: what is refused, in which order it comes again, what a failing disk changes.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test target, whose helpers may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Fields, Row, StoppedClock, Value, batch, scan};
use parking_lot::{Condvar, Mutex};
use tidewell_codec::{Batch, FieldType, Tier, encode_batch, shard_of};
use tidewell_engine::clock::Clock;
use tidewell_engine::limits::DISK_RESERVE_BYTES;
use tidewell_engine::storage::faulty::{Fault, Faulty, Operation};
use tidewell_engine::storage::{Memory, Storage};
use tidewell_engine::{
    Append, AppendSink, Delete, Durability, Engine, EngineConfig, ProducerId, Refusal, RefusalCode, SeqNo,
};

const TABLE: &str = "readings";
const NOW: i64 = 1_700_000_000_000_000_000;

fn config() -> EngineConfig {
    EngineConfig { shards: Some(1), compaction: false, log_file_bytes: 64 << 10, ..EngineConfig::default() }
}

fn open_with(storage: impl Storage, config: EngineConfig) -> Engine {
    Engine::open(Arc::new(storage), config, Arc::new(StoppedClock(NOW))).expect("the store opens").0
}

fn open(storage: impl Storage) -> Engine {
    open_with(storage, config())
}

/// One row of `device` whose time and value are `number`.
fn one(device: &str, number: i64) -> Batch {
    let types = BTreeMap::from([("speed".to_owned(), FieldType::F64)]);
    let fields = Fields::from([("speed".to_owned(), Value::F64((number as f64).to_bits()))]);
    batch(TABLE, &[Row { device: device.to_owned(), time: number, fields }], &types)
}

/// Times of a device's rows.
fn times(engine: &Engine, device: &str) -> Vec<i64> {
    scan(engine, TABLE, device, i64::MIN, i64::MAX).into_iter().map(|(time, _)| time).collect()
}

/// Every outcome in the order in which the shard told it, repetitions included.
#[derive(Default)]
struct Told {
    outcomes: Mutex<Vec<(u64, Result<(), Refusal>)>>,
    changed: Condvar,
}

impl AppendSink for Told {
    fn settled(&self, ticket: u64, outcome: Result<(), Refusal>) {
        self.outcomes.lock().push((ticket, outcome));
        self.changed.notify_all();
    }
}

impl Told {
    /// Waits for `count` outcomes.
    fn wait(&self, count: usize) {
        let mut outcomes = self.outcomes.lock();
        let until = Instant::now() + Duration::from_secs(20);
        while outcomes.len() < count {
            assert!(!self.changed.wait_until(&mut outcomes, until).timed_out(), "told {outcomes:?}, expected {count}");
        }
    }

    /// Waits for `count` outcomes and takes them, as codes.
    fn take(&self, count: usize) -> Vec<(u64, Option<RefusalCode>)> {
        self.wait(count);
        let mut outcomes = self.outcomes.lock();
        outcomes.drain(..).map(|(ticket, outcome)| (ticket, outcome.err().map(|refusal| refusal.code))).collect()
    }
}

/// Sends one batch and waits for what becomes of it.
fn send(engine: &Engine, producer: u128, seq: u64, batch: Batch) -> Result<(), Refusal> {
    let told = Arc::new(Told::default());
    try_hand_over(engine, producer, seq, batch, Durability::Durable, &told)?;
    told.wait(1);
    told.outcomes.lock().remove(0).1
}

fn hand_over(engine: &Engine, producer: u128, seq: u64, batch: Batch, durability: Durability, told: &Arc<Told>) {
    try_hand_over(engine, producer, seq, batch, durability, told).expect("the queue has room");
}

fn try_hand_over(
    engine: &Engine,
    producer: u128,
    seq: u64,
    batch: Batch,
    durability: Durability,
    told: &Arc<Told>,
) -> Result<(), Refusal> {
    engine.check(&batch, NOW)?;
    let mut payload = Vec::new();
    encode_batch(&batch, Tier::Plain, &mut payload);
    let sink: Arc<dyn AppendSink> = told.clone();
    let append = Append {
        producer: ProducerId(producer),
        seq: SeqNo(seq),
        payload: Bytes::from(payload),
        batch,
        received_ns: NOW,
        durability,
        ticket: seq,
        sink,
    };
    engine.append(append)
}

fn code(outcome: Result<(), Refusal>) -> Option<RefusalCode> {
    outcome.err().map(|refusal| refusal.code)
}

/// Leaves less room than the node keeps in reserve.
fn fill_disk(storage: &Memory) {
    let mut used = 0;
    for dir in ["", "log", "seg"] {
        for name in storage.list(dir).unwrap() {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            used += storage.read(&path).map_or(0, |bytes| bytes.len() as u64);
        }
    }
    storage.set_capacity(Some(used + DISK_RESERVE_BYTES - 1));
}

#[test]
fn full_disk_refuses_in_order_and_takes_again_by_itself() {
    let memory = Memory::new();
    let engine = open(memory.clone());
    assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
    fill_disk(&memory);
    let refusal = send(&engine, 1, 2, one("a", 2)).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::DiskFull);
    assert!(refusal.message.contains("bytes are free") && refusal.message.contains("sent again"), "{refusal}");
    assert!(refusal.code.retryable());
    assert_eq!(code(send(&engine, 1, 3, one("a", 3))), Some(RefusalCode::AfterRefused));
    assert_eq!(code(send(&engine, 1, 4, one("a", 4))), Some(RefusalCode::AfterRefused));
    // What was applied before is acknowledged again, and queries and flushes go on.
    assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
    assert!(engine.figures()[0].disk_full);
    assert_eq!(times(&engine, "a"), [1]);
    engine.flush().expect("the reserve is for this");
    assert_eq!(times(&engine, "a"), [1]);

    memory.set_capacity(None);
    // 2 was refused first, so nothing above it passes, whatever the disk says by now; another producer is not held up.
    assert_eq!(code(send(&engine, 1, 4, one("a", 4))), Some(RefusalCode::AfterRefused));
    assert_eq!(send(&engine, 9, 1, one("a", 90)), Ok(()));
    assert!(!engine.figures()[0].disk_full);
    assert_eq!(send(&engine, 1, 2, one("a", 2)), Ok(()));
    assert_eq!(code(send(&engine, 1, 4, one("a", 4))), Some(RefusalCode::AfterRefused), "3 waits still");
    assert_eq!(send(&engine, 1, 3, one("a", 3)), Ok(()));
    assert_eq!(send(&engine, 1, 4, one("a", 4)), Ok(()));
    assert_eq!(times(&engine, "a"), [1, 2, 3, 4, 90]);
    assert_eq!(engine.last_settled(ProducerId(1), "a"), SeqNo(4));
}

#[test]
fn batch_that_will_not_come_again_holds_nobody_up() {
    let memory = Memory::new();
    let engine = open(memory.clone());
    fill_disk(&memory);
    assert_eq!(code(send(&engine, 1, 1, one("a", 1))), Some(RefusalCode::DiskFull));
    memory.set_capacity(None);
    assert_eq!(code(send(&engine, 1, 2, one("a", 2))), Some(RefusalCode::AfterRefused));
    // It came again, and was refused for good before it reached the shard: a grant was taken away meanwhile.
    engine.skip(ProducerId(1), SeqNo(1));
    assert_eq!(send(&engine, 1, 2, one("a", 2)), Ok(()));
    assert_eq!(times(&engine, "a"), [2]);
}

struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A clock that was set forward by more than an hour made the shard forget what it had refused for now: later batches of the
/// same lane passed, and the refused one was then acknowledged as a repetition, and lost.
#[test]
fn clock_that_is_set_forward_lets_no_batch_pass_a_refused_one() {
    let storage = Memory::new();
    let clock = Arc::new(SetClock(AtomicI64::new(NOW)));
    let engine = Engine::open(Arc::new(storage.clone()), config(), Arc::clone(&clock) as _).unwrap().0;
    assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
    fill_disk(&storage);
    assert_eq!(code(send(&engine, 1, 2, one("a", 2))), Some(RefusalCode::DiskFull));
    storage.set_capacity(None);
    clock.0.fetch_add(86_400_000_000_000, Ordering::Relaxed);
    engine.flush().unwrap();
    assert_eq!(code(send(&engine, 1, 3, one("a", 3))), Some(RefusalCode::AfterRefused));
    assert_eq!(send(&engine, 1, 2, one("a", 2)), Ok(()));
    assert_eq!(send(&engine, 1, 3, one("a", 3)), Ok(()));
    assert_eq!(times(&engine, "a"), [1, 2, 3]);
}

#[test]
fn a_group_on_a_full_disk_is_refused_whole_and_survives_no_crash() {
    let memory = Memory::new();
    let engine = open(memory.clone());
    let told = Arc::new(Told::default());
    fill_disk(&memory);
    for seq in 1..=50 {
        hand_over(&engine, 1, seq, one("a", seq as i64), Durability::Durable, &told);
    }
    let codes = told.take(50);
    assert_eq!(codes.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>());
    let retryable = |code: Option<RefusalCode>| matches!(code, Some(RefusalCode::DiskFull | RefusalCode::AfterRefused));
    assert!(codes.iter().all(|(_, code)| retryable(*code)), "{codes:?}");
    assert_eq!(codes[0].1, Some(RefusalCode::DiskFull));
    memory.set_capacity(None);
    drop(engine);
    let engine = open(memory.crash(u64::MAX));
    assert_eq!((times(&engine, "a"), engine.last_settled(ProducerId(1), "a")), (vec![], SeqNo(0)));
    for seq in 1..=50 {
        hand_over(&engine, 1, seq, one("a", seq as i64), Durability::Durable, &told);
    }
    assert!(told.take(50).iter().all(|(_, code)| code.is_none()));
    assert_eq!(times(&engine, "a"), (1..=50).collect::<Vec<_>>());
}

#[test]
fn failed_sync_poisons_the_shard_and_is_never_tried_again() {
    for (operation, seed) in [(Operation::Sync, 0), (Operation::Sync, u64::MAX), (Operation::Write, 7)] {
        let faulty = Faulty::new();
        let engine = open(faulty.clone());
        assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
        faulty.fail_named(operation, "log", Fault::Eio);
        let refusal = send(&engine, 1, 2, one("a", 2)).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::ShardPoisoned);
        assert!(refusal.message.contains("injected") && refusal.message.contains("restarted"), "{refusal}");
        faulty.heal();
        let operations = faulty.operations();
        for (producer, seq) in [(1, 2), (1, 3), (1, 1), (2, 1)] {
            let outcome = code(send(&engine, producer, seq, one("a", 5)));
            assert_eq!(outcome, Some(RefusalCode::ShardPoisoned), "producer {producer}, batch {seq}");
        }
        assert_eq!(faulty.operations(), operations, "nothing is written or synced any more");
        assert!(engine.figures()[0].poisoned);
        assert_eq!(times(&engine, "a"), [1], "queries go on");
        // The next open finds out what is there: what was acknowledged, and the rest whole or not at all.
        drop(engine);
        let engine = open(faulty.crash(seed));
        assert!(!engine.figures()[0].poisoned);
        let before = times(&engine, "a");
        assert!(before == [1] || before == [1, 2], "{before:?}");
        assert_eq!(send(&engine, 1, 2, one("a", 2)), Ok(()));
        assert_eq!(times(&engine, "a"), [1, 2]);
    }
}

#[test]
fn failed_flush_poisons_but_keeps_every_acknowledged_row() {
    let faulty = Faulty::new();
    let engine = open(faulty.clone());
    for seq in 1..=5 {
        assert_eq!(send(&engine, 1, seq, one("a", seq as i64)), Ok(()));
    }
    faulty.fail_named(Operation::Sync, "seg", Fault::Eio);
    let error = engine.flush().unwrap_err().to_string();
    assert!(error.contains("injected") && error.contains("restart"), "{error}");
    assert_eq!(times(&engine, "a"), [1, 2, 3, 4, 5]);
    drop(engine);
    faulty.heal();
    let engine = open(faulty.crash(0));
    assert_eq!(times(&engine, "a"), [1, 2, 3, 4, 5]);
    engine.flush().expect("a healthy disk flushes");
    assert_eq!(times(&engine, "a"), [1, 2, 3, 4, 5]);
}

#[test]
fn a_flush_that_waits_for_room_in_the_manifest_leaves_nothing_behind() {
    let faulty = Faulty::new();
    let engine = open(faulty.clone());
    assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
    faulty.fail_named(Operation::Write, "manifest", Fault::Enospc);
    faulty.fail_named(Operation::Create, "manifest", Fault::Enospc);
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| engine.flush());
        // Two tries at the least: they come half a second apart.
        std::thread::sleep(Duration::from_millis(1_300));
        assert_eq!(times(&engine, "a"), [1], "questions are answered meanwhile");
        faulty.heal();
        flush.join().unwrap().unwrap();
    });
    let files = |dir: &str| faulty.memory().list(dir).unwrap();
    assert_eq!((files("seg").len(), files("heads").len()), (1, 1), "{:?} {:?}", files("seg"), files("heads"));
    assert_eq!(times(&engine, "a"), [1]);
}

/// After a failed sync the system still shows what it could not write, until the machine goes down. A node that was only
/// started again took that for durable: it acknowledged the batch when it came again, and the next loss of power took it.
#[test]
fn what_a_failed_sync_left_in_the_page_cache_is_made_durable_by_the_next_start() {
    let faulty = Faulty::new();
    let engine = open(faulty.clone());
    assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
    faulty.fail_named(Operation::Sync, "log", Fault::Eio);
    assert_eq!(code(send(&engine, 1, 2, one("a", 2))), Some(RefusalCode::ShardPoisoned));
    drop(engine);
    let again = Faulty::over(faulty.memory().kill());
    let engine = open(again.clone());
    assert_eq!(send(&engine, 1, 2, one("a", 2)), Ok(()));
    assert_eq!(times(&engine, "a"), [1, 2]);
    drop(engine);
    assert_eq!(times(&open(again.crash(0)), "a"), [1, 2]);
}

/// A flush, and whatever comes behind one, was reported as done by a shard that had stopped: rows that were acknowledged
/// stayed in memory, and a delete or a drop did not reach them.
#[test]
fn a_poisoned_shard_flushes_nothing_and_says_so() {
    let faulty = Faulty::new();
    let engine = open(faulty.clone());
    assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
    faulty.fail_named(Operation::Sync, "log", Fault::Eio);
    assert_eq!(code(send(&engine, 1, 2, one("a", 2))), Some(RefusalCode::ShardPoisoned));
    faulty.heal();
    let table = engine.tables()[0].schema.name.to_string();
    let everything = Delete { table: None, device: "a".into(), range: None };
    let outcomes = [
        engine.flush(),
        engine.delete(&[everything]),
        engine.drop_table(&table),
        engine.rename_table(&table, "other"),
        engine.close(),
    ];
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let error = outcome.expect_err("nothing was done").to_string();
        assert!(error.contains("injected"), "{at}: {error}");
    }
    assert_eq!(times(&engine, "a"), [1]);
    drop(engine);
    assert!(times(&open(faulty.crash(0)), "a").contains(&1));
}

/// Whether an edit of the manifest whose sync failed is there is known at the next open only. A merge, and a flush that met a
/// full disk in that very sync, took their new files away: when the edit turned out to be there, their rows were gone.
#[test]
fn files_of_an_edit_whose_sync_failed_stay_until_it_is_known_whether_it_is_there() {
    for (fault, merge) in [(Fault::Eio, false), (Fault::Enospc, false), (Fault::Eio, true), (Fault::Enospc, true)] {
        let faulty = Faulty::new();
        let engine = open(faulty.clone());
        assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
        if merge {
            engine.flush().unwrap();
        }
        faulty.fail_named(Operation::Sync, "manifest", fault);
        if merge { engine.compact() } else { engine.flush() }.expect_err("the manifest cannot be synced");
        drop(engine);
        for left in [faulty.memory().kill(), faulty.crash(0)] {
            let (engine, report) = Engine::open(Arc::new(left), config(), Arc::new(StoppedClock(NOW))).unwrap();
            assert!(report.set_aside.is_empty(), "{fault:?}, merge {merge}: {:?}", report.set_aside);
            assert_eq!(times(&engine, "a"), [1], "{fault:?}, merge {merge}");
        }
    }
}

#[test]
fn a_poisoned_shard_still_answers() {
    let faulty = Faulty::new();
    let engine = open(faulty.clone());
    assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
    engine.flush().unwrap();
    assert_eq!(send(&engine, 1, 2, one("a", 2)), Ok(()));
    faulty.fail_named(Operation::Sync, "log", Fault::Eio);
    assert_eq!(code(send(&engine, 1, 3, one("a", 3))), Some(RefusalCode::ShardPoisoned));
    faulty.heal();
    assert_eq!(code(send(&engine, 1, 3, one("a", 3))), Some(RefusalCode::ShardPoisoned));
    assert_eq!(times(&engine, "a"), [1, 2]);
    assert!(engine.figures()[0].poisoned);
}

#[test]
fn received_means_in_memory_and_is_told_once() {
    let faulty = Faulty::new();
    let engine = open(faulty.clone());
    let told = Arc::new(Told::default());
    hand_over(&engine, 1, 1, one("a", 1), Durability::Received, &told);
    assert_eq!(told.take(1), [(1, None)]);
    // Seen by a flush, which comes behind it.
    engine.flush().unwrap();
    assert_eq!(times(&engine, "a"), [1]);
    // Acknowledged though the disk fails, as promised; and nothing else is said of it afterwards.
    faulty.fail_named(Operation::Sync, "log", Fault::Eio);
    hand_over(&engine, 1, 2, one("a", 2), Durability::Received, &told);
    assert_eq!(told.take(1), [(2, None)]);
    assert_eq!(code(send(&engine, 2, 1, one("b", 1))), Some(RefusalCode::ShardPoisoned));
    assert_eq!(told.outcomes.lock().len(), 0, "{:?}", told.outcomes.lock());
}

/// A batch at level `received` on a full disk was acknowledged and then counted as refused: its producer, which will
/// never send it again, was told `after_refused` for ever.
#[test]
fn received_batch_lost_to_a_full_disk_does_not_block_its_producer() {
    let memory = Memory::new();
    let engine = open(memory.clone());
    let told = Arc::new(Told::default());
    fill_disk(&memory);
    for seq in 1..=3 {
        hand_over(&engine, 1, seq, one("a", seq as i64), Durability::Received, &told);
        let [(ticket, code)] = told.take(1)[..] else { panic!("each batch is told once") };
        assert_eq!(ticket, seq);
        // The first one met the full disk when it was acknowledged already; later ones may be refused for now.
        assert!(matches!(code, None | Some(RefusalCode::DiskFull | RefusalCode::AfterRefused)), "{code:?}");
    }
    memory.set_capacity(None);
    for seq in 2..=4 {
        hand_over(&engine, 1, seq, one("a", seq as i64), Durability::Received, &told);
        assert_eq!(told.take(1), [(seq, None)]);
    }
    engine.flush().unwrap();
    assert!(times(&engine, "a").ends_with(&[2, 3, 4]), "{:?}", times(&engine, "a"));
    assert_eq!(told.outcomes.lock().len(), 0);
}

#[test]
fn repetition_is_acknowledged_and_not_applied_across_reopen_flush_and_crash() {
    let mut memory = Memory::new();
    for round in 0..4u32 {
        let engine = open(memory.clone());
        for seq in 1..=3 {
            // The same numbers with other rows: applied twice, they would be seen.
            assert_eq!(send(&engine, 1, seq, one("a", seq as i64 + 100 * i64::from(round))), Ok(()));
        }
        assert_eq!(times(&engine, "a"), [1, 2, 3], "round {round}");
        assert_eq!(engine.last_settled(ProducerId(1), "a"), SeqNo(3));
        assert_eq!(engine.figures()[0].duplicate_batches, if round == 0 { 0 } else { 3 });
        match round {
            0 => drop(engine),
            1 => engine.close().unwrap(),
            _ => {
                drop(engine);
                memory = memory.crash(0);
            }
        }
    }
    // Numbers may have gaps, and a repetition inside one group counts once too.
    let engine = open(memory);
    let told = Arc::new(Told::default());
    for seq in [10, 10, 20, 10] {
        hand_over(&engine, 1, seq, one("a", seq as i64), Durability::Durable, &told);
    }
    assert!(told.take(4).iter().all(|(_, code)| code.is_none()));
    assert_eq!((engine.figures()[0].batches, engine.figures()[0].duplicate_batches), (2, 2));
    assert_eq!(times(&engine, "a"), [1, 2, 3, 10, 20]);
}

#[test]
fn type_that_contradicts_the_table_is_refused_by_name_before_and_after_a_restart() {
    let memory = Memory::new();
    let types = BTreeMap::from([("speed".to_owned(), FieldType::Utf8), ("note".to_owned(), FieldType::Utf8)]);
    let text = |name: &str| Fields::from([(name.to_owned(), Value::Utf8("fast".to_owned()))]);
    let wrong = |fields| batch(TABLE, &[Row { device: "a".to_owned(), time: 5, fields }], &types);
    for round in 0..3 {
        let engine = open(memory.clone());
        assert_eq!(send(&engine, 1, round + 1, one("a", round as i64 + 1)), Ok(()));
        let both = Fields::from_iter(text("speed").into_iter().chain(text("note")));
        for fields in [text("speed"), both] {
            let refusal = send(&engine, 2, 1, wrong(fields)).unwrap_err();
            assert_eq!((refusal.code, refusal.code.retryable()), (RefusalCode::TypeConflict, false));
            for part in [TABLE, "speed", "f64", "utf8"] {
                assert!(refusal.message.contains(part), "{part}: {refusal}");
            }
        }
        // A batch that is refused adds no field either.
        let schema = engine.snapshot().table(TABLE).unwrap().schema().clone();
        assert_eq!(schema.fields.len(), 1, "{schema:?}");
        if round == 0 { drop(engine) } else { engine.close().unwrap() }
    }
    let engine = open(memory);
    assert_eq!(send(&engine, 2, 1, wrong(text("note"))), Ok(()));
    assert_eq!(times(&engine, "a"), [1, 2, 3, 5]);
}

#[test]
fn devices_of_two_shards_do_not_mix() {
    let engine = open_with(Memory::new(), EngineConfig { shards: Some(4), ..config() });
    let ids: Vec<String> = (0..64).map(|n| format!("truck_{n}")).collect();
    let shard = |id: &str| shard_of(id, 4);
    let same = ids.iter().skip(1).find(|id| shard(id) == shard(&ids[0])).unwrap();
    let other = ids.iter().find(|id| shard(id) != shard(&ids[0])).unwrap();
    let types = BTreeMap::from([("speed".to_owned(), FieldType::F64)]);
    let pair = |second: &str| {
        let fields = Fields::from([("speed".to_owned(), Value::F64(1f64.to_bits()))]);
        let row = |device: &str| Row { device: device.to_owned(), time: 1, fields: fields.clone() };
        batch(TABLE, &[row(&ids[0]), row(second)], &types)
    };
    assert_eq!(send(&engine, 1, 1, pair(same)), Ok(()));
    let refusal = send(&engine, 1, 2, pair(other)).unwrap_err();
    assert_eq!((refusal.code, refusal.code.retryable()), (RefusalCode::MixedShards, false));
    assert!(refusal.message.contains(&ids[0]) && refusal.message.contains(other.as_str()), "{refusal}");
    assert!(times(&engine, other).is_empty());
    // The number of shards belongs to the directory, not to the configuration.
    let memory = Memory::new();
    drop(open_with(memory.clone(), EngineConfig { shards: Some(3), ..config() }));
    assert_eq!(open_with(memory, EngineConfig { shards: Some(5), ..config() }).shard_count(), 3);
}

#[test]
fn full_queue_refuses_and_the_batch_comes_again() {
    let memory = Memory::new();
    let engine = open_with(memory, EngineConfig { queue_batches: 1, ..config() });
    let told = Arc::new(Told::default());
    let mut overloaded = 0;
    for seq in 1..=2_000u64 {
        // What the server does: the same batch again, before any later one.
        while let Err(refusal) = try_hand_over(&engine, 1, seq, one("a", 1), Durability::Durable, &told) {
            assert_eq!(refusal.code, RefusalCode::Overloaded);
            overloaded += 1;
            std::thread::yield_now();
        }
    }
    assert!(told.take(2_000).iter().all(|(_, code)| code.is_none()));
    assert!(overloaded > 0, "a queue of one is full now and then");
    assert_eq!(engine.last_settled(ProducerId(1), "a"), SeqNo(2_000));
}

/// A node on a full disk must stop when it is told to: the rows are in the log.
#[test]
fn close_on_a_full_disk_ends_and_loses_nothing() {
    let memory = Memory::new();
    let engine = open(memory.clone());
    assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
    memory.set_capacity(Some(0));
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let closed = engine.close();
        drop(engine);
        done.send(closed.map_err(|error| error.to_string())).unwrap();
    });
    let closed = ended.recv_timeout(Duration::from_secs(10)).expect("close ends though the disk is full");
    assert!(closed.is_err(), "what could not be sealed is told");
    memory.set_capacity(None);
    assert_eq!(times(&open(memory), "a"), [1]);
}

#[test]
fn closed_engine_refuses() {
    let engine = open(Memory::new());
    assert_eq!(send(&engine, 1, 1, one("a", 1)), Ok(()));
    engine.close().unwrap();
    let refusal = send(&engine, 1, 2, one("a", 2)).unwrap_err();
    assert_eq!((refusal.code, refusal.code.retryable()), (RefusalCode::ShuttingDown, true));
    assert_eq!(times(&engine, "a"), [1], "what is there can still be read");
}

#[test]
fn one_engine_per_directory() {
    let memory = Memory::new();
    let first = open(memory.clone());
    let second = Engine::open(Arc::new(memory.clone()), config(), Arc::new(StoppedClock(NOW)));
    assert!(second.is_err_and(|error| error.to_string().contains("in use by another node")));
    drop(first);
    drop(open(memory));
}
