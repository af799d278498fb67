//! Owns an engine in a temporary folder that holds a fleet's rows; does not measure.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use tempfile::TempDir;
use tidewell_codec::{Tier, encode_batch};
use tidewell_engine::clock::SystemClock;
use tidewell_engine::storage::Disk;
use tidewell_engine::{
    Append, AppendSink, Durability, Engine, EngineConfig, ProducerId, Refusal, SeqNo, Snapshot, TableView,
};

use crate::{STEP_NS, Truck, fleet_batch};

/// Rows of a batch, about.
const BATCH_ROWS: usize = 16_000;
/// Room for every fleet of the benches, so that nothing is flushed unasked.
const FLEET_MEMTABLE_BYTES: usize = 1 << 30;

/// Where a store's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a memtable.
    Memory,
    /// In one segment as a flush writes it.
    Hot,
    /// In one segment as a compaction writes it.
    Cold,
    /// A fifth in a memtable, the others in segments as flushes write them.
    Mixed,
}

impl Place {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Hot => "hot",
            Self::Cold => "cold",
            Self::Mixed => "mixed",
        }
    }
}

/// An engine of one shard that merges only when it is told to. The folder goes with it.
pub struct Store {
    // Fields drop in this order: the engine ends before its folder goes.
    engine: Arc<Engine>,
    _dir: TempDir,
}

/// Passes outcomes on to whoever filled the store.
struct Outcomes(mpsc::Sender<Result<(), Refusal>>);

impl AppendSink for Outcomes {
    fn settled(&self, _: u64, outcome: Result<(), Refusal>) {
        // Nobody listens any more only after a panic that is already on its way.
        let _ = self.0.send(outcome);
    }
}

impl Store {
    /// An empty store in `TMPDIR`, with the memory that a node has by default.
    pub fn open() -> Self {
        Self::with_memtable(EngineConfig::default().memtable_bytes)
    }

    fn with_memtable(memtable_bytes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let storage = Arc::new(Disk::open(dir.path()).expect("a writable directory"));
        let config = EngineConfig { shards: Some(1), memtable_bytes, compaction: false, ..EngineConfig::default() };
        let (engine, _) = Engine::open(storage, config, Arc::new(SystemClock)).expect("a new store");
        Self { engine: Arc::new(engine), _dir: dir }
    }

    /// `steps` rows of each of `devices` trucks, all in `place`. Row `i` of a truck is at `START_NS + i * STEP_NS`.
    pub fn fleet(devices: usize, steps: usize, place: Place) -> Self {
        let store = Self::with_memtable(FLEET_MEMTABLE_BYTES);
        let mut trucks: Vec<Truck> = (0..devices as u64).map(Truck::new).collect();
        let (sender, outcomes) = mpsc::channel();
        let sink: Arc<dyn AppendSink> = Arc::new(Outcomes(sender));
        let steps_per_batch = (BATCH_ROWS / devices).max(1);
        for (index, from) in (0..steps).step_by(steps_per_batch).enumerate() {
            let batch = fleet_batch(&mut trucks, 0, from, steps_per_batch.min(steps - from));
            let mut payload = Vec::new();
            encode_batch(&batch, Tier::Hot, &mut payload);
            store.engine.check(&batch, i64::MAX / 2).expect("a good batch");
            let append = Append {
                producer: ProducerId(1),
                seq: SeqNo(index as u64 + 1),
                payload: Bytes::from(payload),
                batch,
                received_ns: i64::MAX / 2,
                durability: Durability::Durable,
                ticket: 0,
                sink: Arc::clone(&sink),
            };
            store.engine.append(append).expect("the queue has room for one");
            outcomes.recv().expect("an outcome for each batch").expect("a healthy disk");
            let fifth = |step: usize| step * 5 / steps;
            if place == Place::Mixed && fifth(from) < fifth(from + steps_per_batch) && fifth(from) < 4 {
                store.engine.flush().expect("a healthy disk");
            }
        }
        if matches!(place, Place::Hot | Place::Cold) {
            store.engine.flush().expect("a healthy disk");
        }
        if place == Place::Cold {
            store.engine.compact().expect("a healthy disk");
        }
        assert_eq!(store.table().devices().expect("a good index").len(), devices);
        store
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The rows at this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.engine.snapshot()
    }

    /// The fleet's table at this moment.
    pub fn table(&self) -> TableView {
        self.snapshot().table("readings").expect("a store that was filled")
    }
}

/// The time just after row `steps - 1`.
pub fn end_ns(steps: usize) -> i64 {
    crate::START_NS + steps as i64 * STEP_NS
}
