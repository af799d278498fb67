//! Owns the engine as the query address sees it; does not compute answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidewell_codec::Batch;
use tidewell_engine::clock::{Clock, SystemClock};
use tidewell_engine::memory::MemoryBudget;
use tidewell_engine::quarantine::{Quarantined, Released};
use tidewell_engine::{
    Append, DamageReport, Delete, Engine, Error, Refusal, Retention, ShardFigures, Skipped, Snapshot, TableFigures,
    TableSchema,
};
use tonic::Status;

use super::answer::place_json;
use super::auth::DeviceScope;
use super::plan::plan;
use super::store::{Backups, DevicePages, Plan, Store};
use crate::query::{CancelFlag, QueryLimits};
use crate::request::{OnDamage, Request};

/// Memtables of a shard up to this size are gathered in well under a millisecond.
const LOOK_BYTES_MAX: u64 = 8 << 20;

/// Answers from an engine's newest snapshot.
pub struct EngineStore {
    engine: Arc<Engine>,
    limits: QueryLimits,
    backups: Option<Arc<dyn Backups>>,
}

impl EngineStore {
    /// A store over `engine`. The time limit in `limits` is wall time and includes that of a slow client, so it is
    /// lifted here: the service counts computing time and stalls apart (see `FlightLimits`).
    pub fn new(engine: Arc<Engine>, limits: QueryLimits) -> Self {
        let memory = Some(engine.config().memory.clone());
        Self {
            engine,
            limits: QueryLimits { time_max: Duration::from_secs(365 * 86_400), memory, ..limits },
            backups: None,
        }
    }

    /// The same, with backups.
    #[must_use]
    pub fn with_backups(self, backups: Option<Arc<dyn Backups>>) -> Self {
        Self { backups, ..self }
    }
}

impl EngineStore {
    /// What can be read of this moment. Damage is told by health, metrics and the answers that it hits.
    fn served(&self) -> Snapshot {
        self.engine.snapshot().going_without(Arc::default())
    }
}

impl Store for EngineStore {
    fn plan(&self, request: &Request, scope: &DeviceScope, cancel: CancelFlag) -> Result<Plan, Status> {
        // A scan gathers a device's rows in memory at once, so looking ahead is cheap only while memtables are small.
        let figures = self.engine.figures();
        let look = figures.iter().all(|shard| shard.memtables_sealed == 0 && shard.memtable_bytes <= LOOK_BYTES_MAX);
        let snapshot = self.engine.snapshot();
        let pins = snapshot.pins();
        if request.on_damage() == OnDamage::Refuse {
            let plan = plan(&snapshot, request, scope, self.limits.clone(), cancel, look)?;
            return Ok(Plan { pins, ..plan });
        }
        let skipped = Arc::new(Skipped::default());
        let snapshot = snapshot.going_without(Arc::clone(&skipped));
        let plan = plan(&snapshot, request, scope, self.limits.clone(), cancel, look)?;
        Ok(Plan { skipped: Some(skipped), pins, ..plan })
    }

    fn memory(&self) -> Option<Arc<MemoryBudget>> {
        self.limits.memory.clone()
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.engine.snapshot().tables()
    }

    fn has_devices(&self, table: &str, scope: &DeviceScope) -> Result<bool, Error> {
        match self.served().table(table) {
            Some(view) => Ok(view.devices()?.iter().any(|device| scope.contains(device))),
            None => Ok(false),
        }
    }

    fn devices(&self) -> DevicePages {
        Box::new(self.served().device_pages())
    }

    fn quarantined(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Quarantined>, Error> {
        self.engine.snapshot().quarantined(wanted)
    }

    fn release_quarantined(&self, table: &str, device: &str) -> Result<Released, Error> {
        self.engine.release_quarantined(table, device)
    }

    fn drop_quarantined(&self, table: &str, device: &str) -> Result<u64, Error> {
        self.engine.drop_quarantined(table, device)
    }

    fn set_attributes(&self, device: &str, attributes: BTreeMap<String, String>) -> Result<(), Error> {
        self.engine.set_attributes(device, attributes)
    }

    fn shard_count(&self) -> u32 {
        self.engine.shard_count()
    }

    fn now_ns(&self) -> i64 {
        SystemClock.now_ns()
    }

    fn check(&self, batch: &Batch) -> Result<(), Refusal> {
        self.engine.check(batch, self.now_ns())
    }

    fn append(&self, append: Append) -> Result<(), Refusal> {
        self.engine.append(append)
    }

    fn flush(&self) -> Result<(), Error> {
        self.engine.flush()
    }

    fn compact(&self) -> Result<(), Error> {
        self.engine.compact()
    }

    fn backups(&self) -> Option<Arc<dyn Backups>> {
        self.backups.clone()
    }

    fn delete(&self, deletes: &[Delete]) -> Result<(), Error> {
        self.engine.delete(deletes)
    }

    fn table_figures(&self) -> Vec<TableFigures> {
        self.engine.tables()
    }

    fn set_retention(&self, table: &str, retention: Retention) -> Result<(), Error> {
        self.engine.set_retention(table, retention)
    }

    fn drop_table(&self, table: &str) -> Result<(), Error> {
        self.engine.drop_table(table)
    }

    fn rename_table(&self, from: &str, to: &str) -> Result<(), Error> {
        self.engine.rename_table(from, to)
    }

    fn stats(&self) -> Value {
        let shards: Vec<Value> = self.engine.figures().iter().map(shard_json).collect();
        let tables: Vec<Value> = self.engine.snapshot().tables().iter().map(|table| table_json(table)).collect();
        let cache = self.engine.block_cache().figures();
        let cache = json!({
            "limit_bytes": cache.limit,
            "bytes": cache.bytes,
            "entries": cache.entries,
            "hits": cache.hits,
            "misses": cache.misses,
            "evictions": cache.evicted,
        });
        let damage = damage_json(&self.engine.damage());
        json!({"tables": tables, "shards": shards, "cache": cache, "damage": damage})
    }
}

/// All that is known to be damaged.
fn damage_json(damage: &DamageReport) -> Value {
    json!({
        "segments_set_aside": damage.set_aside.iter().map(place_json).collect::<Vec<_>>(),
        "places": damage.places.iter().map(place_json).collect::<Vec<_>>(),
        "place_count": damage.place_count,
        "log": damage.log,
    })
}

fn table_json(table: &TableSchema) -> Value {
    let fields: serde_json::Map<String, Value> =
        table.fields.iter().map(|f| (f.name.to_string(), f.field_type.name().into())).collect();
    json!({"name": table.name, "fields": fields})
}

fn shard_json(shard: &ShardFigures) -> Value {
    json!({
        "batches": shard.batches,
        "duplicate_batches": shard.duplicate_batches,
        "refused_batches": shard.refused_batches,
        "rows": shard.rows,
        "rows_expired": shard.rows_expired,
        "quarantined_rows": shard.quarantined_rows,
        "log_bytes": shard.log_bytes,
        "log_syncs": shard.log_syncs,
        "log_sync_last_us": shard.log_sync_last_us,
        "log_sync_max_us": shard.log_sync_max_us,
        "memtable_bytes": shard.memtable_bytes,
        "memtables_sealed": shard.memtables_sealed,
        "flushes": shard.flushes,
        "flush_bytes": shard.flush_bytes,
        "compactions": shard.compactions,
        "compaction_bytes": shard.compaction_bytes,
        "compaction_rows": shard.compaction_rows,
        "write_amplification": shard.write_amplification(),
        "merges_failing": shard.merges_failing,
        "segments_by_level": shard.segments_by_level,
        "stalls": shard.stalls,
        "queued": shard.queued,
        "producers": shard.producers,
        "disk_full": shard.disk_full,
        "poisoned": shard.poisoned,
        "segments": shard.segments,
        "segment_bytes": shard.segment_bytes,
        "segment_rows": shard.segment_rows,
    })
}
