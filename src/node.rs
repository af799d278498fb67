//! Owns the joints between engine, ingest and query: each side's view of the other; no logic of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde_json::{Value as Json, json};
use tidewell_codec::Batch;
use tidewell_engine::{Engine, Error, ProducerId, Refusal, SeqNo, ShardFigures, TableSchema};
use tidewell_ingest::grants::{Role, SharedGrants};
use tidewell_ingest::identity::Peer;
use tidewell_ingest::server::{self, store};
use tidewell_ingest::tls::Revoked;
use tidewell_query::QueryLimits;
use tidewell_query::flight::{Authenticator, Credentials, DeviceScope, DeviceSummary, Plan, Principal, Roles, Store, plan};
use tonic::Status;

/// The engine as the ingest address sees it.
pub struct IngestStore(pub Arc<Engine>);

struct Sink(Arc<dyn store::AppendSink>);

impl tidewell_engine::AppendSink for Sink {
    fn settled(&self, ticket: u64, outcome: Result<(), Refusal>) {
        self.0.settled(ticket, outcome);
    }
}

impl store::Store for IngestStore {
    fn shard_count(&self) -> u32 {
        self.0.shard_count()
    }

    fn check(&self, batch: &Batch, now_ns: i64) -> Result<(), Refusal> {
        self.0.check(batch, now_ns)
    }

    fn append(&self, request: store::Append) -> Result<(), Refusal> {
        self.0.append(tidewell_engine::Append {
            producer: request.producer,
            seq: request.seq,
            payload: request.payload,
            batch: request.batch,
            received_ns: request.received_ns,
            durability: request.durability,
            ticket: request.ticket,
            sink: Arc::new(Sink(request.sink)),
        })
    }

    fn skip(&self, producer: ProducerId, seq: SeqNo) {
        let _ = (producer, seq);
    }

    fn last_settled(&self, producer: ProducerId, device: &str) -> u64 {
        let SeqNo(last) = self.0.last_settled(producer, device);
        last
    }
}

/// The engine as the query address sees it.
pub struct QueryStore {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Counters of the ingest address.
    pub ingest: Arc<server::Metrics>,
    /// Bounds of one query.
    pub limits: QueryLimits,
}

impl Store for QueryStore {
    fn plan(&self, request: &tidewell_query::Request, scope: &DeviceScope, cancel: tidewell_query::CancelFlag) -> Result<Plan, Status> {
        plan(&self.engine.snapshot(), request, scope, self.limits.clone(), cancel)
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.engine.snapshot().tables()
    }

    fn has_devices(&self, table: &str, scope: &DeviceScope) -> Result<bool, Error> {
        let Some(table) = self.engine.snapshot().table(table) else { return Ok(false) };
        Ok(table.devices()?.iter().any(|device| scope.contains(device)))
    }

    fn devices(&self) -> Vec<DeviceSummary> {
        let devices = self.engine.snapshot().devices().unwrap_or_else(|error| {
            tracing::error!(%error, "the devices cannot be listed");
            Vec::new()
        });
        let summary = |device: tidewell_engine::DeviceInfo| DeviceSummary {
            id: device.id,
            attributes: device.attributes,
            first_seen_ns: device.first_seen_ns.unwrap_or(0),
            last_seen_ns: device.last_seen_ns.unwrap_or(0),
        };
        devices.into_iter().map(summary).collect()
    }

    fn set_attributes(&self, device: &str, attributes: BTreeMap<String, String>) -> Result<(), Error> {
        self.engine.set_attributes(device, attributes)
    }

    fn flush(&self) -> Result<(), Error> {
        self.engine.flush()
    }

    fn compact(&self) -> Result<(), Error> {
        self.engine.compact()
    }

    fn stats(&self) -> Json {
        stats(&self.engine, &self.ingest)
    }
}

/// The sum of all shards; what is a maximum or a last value is the greatest.
pub fn total(shards: &[ShardFigures]) -> ShardFigures {
    let mut all = ShardFigures::default();
    for shard in shards {
        all.batches += shard.batches;
        all.duplicate_batches += shard.duplicate_batches;
        all.refused_batches += shard.refused_batches;
        all.rows += shard.rows;
        all.log_bytes += shard.log_bytes;
        all.log_syncs += shard.log_syncs;
        all.log_sync_last_us = all.log_sync_last_us.max(shard.log_sync_last_us);
        all.log_sync_max_us = all.log_sync_max_us.max(shard.log_sync_max_us);
        all.memtable_bytes += shard.memtable_bytes;
        all.memtables_sealed += shard.memtables_sealed;
        all.flushes += shard.flushes;
        all.flush_bytes += shard.flush_bytes;
        all.compactions += shard.compactions;
        all.compaction_bytes += shard.compaction_bytes;
        all.stalls += shard.stalls;
        all.queued += shard.queued;
        all.producers += shard.producers;
        all.disk_full |= shard.disk_full;
        all.poisoned |= shard.poisoned;
        all.segments += shard.segments;
        all.segment_bytes += shard.segment_bytes;
        all.segment_rows += shard.segment_rows;
    }
    all
}

/// The answer of the `stats` action.
fn stats(engine: &Engine, ingest: &server::Metrics) -> Json {
    let shards = engine.figures();
    let all = total(&shards);
    json!({
        "shards": shards.len(),
        "tables": engine.snapshot().tables().len(),
        "batches": all.batches,
        "duplicate_batches": all.duplicate_batches,
        "refused_batches": all.refused_batches,
        "rows": all.rows,
        "log": {"bytes": all.log_bytes, "syncs": all.log_syncs, "sync_max_us": all.log_sync_max_us},
        "memtables": {"bytes": all.memtable_bytes, "sealed": all.memtables_sealed, "queued_batches": all.queued},
        "segments": {"count": all.segments, "bytes": all.segment_bytes, "rows": all.segment_rows},
        "flushes": {"count": all.flushes, "bytes": all.flush_bytes},
        "compactions": {"count": all.compactions, "bytes": all.compaction_bytes},
        "stalls": all.stalls,
        "disk_full": all.disk_full,
        "poisoned": all.poisoned,
        "ingest": {
            "connections": ingest.connections.value(),
            "lanes": ingest.lanes.value(),
            "batches": ingest.batches.value(),
            "rows": ingest.rows.value(),
            "values": ingest.values.value(),
            "payload_bytes": ingest.bytes.value(),
            "in_flight_bytes": ingest.in_flight_bytes.value(),
            "nacks": ingest.nacks(),
        },
    })
}

/// Tells callers of the query address by their certificate.
pub struct Callers {
    grants: SharedGrants,
    revoked: RwLock<Revoked>,
    generation: AtomicU64,
}

impl Callers {
    /// Callers with `grants`, except those that are revoked.
    pub fn new(grants: SharedGrants, revoked: Revoked) -> Self {
        Self { grants, revoked: RwLock::new(revoked), generation: AtomicU64::new(1) }
    }

    /// Uses new revocations; grants are shared and may have changed too.
    pub fn reload(&self, revoked: Revoked) {
        *self.revoked.write() = revoked;
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Authenticator for Callers {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Arc<Principal>, String> {
        let Some(certificate) = credentials.certificate else {
            return Err("no client certificate; show one that this node's authority signed (tidewell cert reader)".into());
        };
        let peer = Peer::from_der(certificate).map_err(|error| format!("client certificate: {error}"))?;
        if self.revoked.read().contains(&peer) {
            return Err(format!("the certificate of {peer} is revoked"));
        }
        let Some((role, patterns)) = self.grants.load().read_rights(&peer) else {
            return Err(format!("{peer} has no grant to read; add one with `tidewell cert reader` or in grants.toml"));
        };
        let devices = DeviceScope::from_patterns(patterns.texts().iter().map(String::as_str)).map_err(|e| e.to_string())?;
        let roles = match role {
            Role::Reader => Roles::READER,
            Role::Writer => Roles { reader: true, ..Roles::WRITER },
            Role::Admin => Roles::ADMIN,
        };
        Ok(Arc::new(Principal { name: peer.to_string(), roles, devices }))
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
