//! Owns what the admin address tells about a node: figures, health, summary; does not serve HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde_json::json;
use tidewell_engine::memory::{Class, ClassFigures, MemoryBudget};
use tidewell_engine::storage::maps;
use tidewell_engine::{DamagedPlace, Engine, ShardFigures};
use tidewell_ingest::server;

use crate::admin::{Facts, Health, Sample, Value};
use crate::units::{human_bytes, thousands};

/// Damaged places of each kind that health names.
const DAMAGE_SHOWN_MAX: usize = 20;

const STARTING: u8 = 0;
const READY: u8 = 1;
const STOPPING: u8 = 2;

/// What the admin address reports.
pub(super) struct State {
    started: Instant,
    phase: AtomicU8,
    parts: OnceLock<Parts>,
}

/// What exists once the node is ready.
pub(super) struct Parts {
    pub engine: Arc<Engine>,
    pub memory: Arc<MemoryBudget>,
    pub ingest: Arc<server::Metrics>,
    pub ingest_addr: SocketAddr,
    pub query_addr: SocketAddr,
    pub data_dir: PathBuf,
}

impl State {
    /// A node that begins to recover.
    pub fn starting() -> Self {
        Self { started: Instant::now(), phase: AtomicU8::new(STARTING), parts: OnceLock::new() }
    }

    /// Ready: called once.
    pub fn ready(&self, parts: Parts) {
        assert!(self.parts.set(parts).is_ok(), "a node gets ready once");
        self.phase.store(READY, Ordering::Release);
    }

    /// On its way out.
    pub fn stopping(&self) {
        self.phase.store(STOPPING, Ordering::Release);
    }

    fn phase(&self) -> &'static str {
        match self.phase.load(Ordering::Acquire) {
            STARTING => "recovering",
            READY => "serving",
            _ => "stopping",
        }
    }
}

impl Facts for State {
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![
            Sample {
                name: "build_info",
                help: "Version of the node",
                labels: vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
                value: Value::Gauge(1.0),
            },
            Sample {
                name: "uptime_seconds",
                help: "Seconds since the start",
                labels: Vec::new(),
                value: Value::Gauge(self.started.elapsed().as_secs_f64()),
            },
            Sample {
                name: "ready",
                help: "1 while the node accepts batches and answers queries",
                labels: Vec::new(),
                value: Value::Gauge(f64::from(self.phase.load(Ordering::Acquire) == READY)),
            },
        ];
        let Some(parts) = self.parts.get() else { return samples };
        samples.extend(memory_samples(&parts.memory));
        samples.extend(cache_samples(&parts.engine));
        samples.extend(map_samples());
        samples.extend(shard_samples(&parts.engine));
        samples.extend(damage_samples(&parts.engine));
        samples.extend(ingest_samples(&parts.ingest));
        samples
    }

    fn health(&self) -> Health {
        let mut detail = serde_json::Map::new();
        detail.insert("phase".into(), self.phase().into());
        detail.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        detail.insert("uptime_seconds".into(), json!(self.started.elapsed().as_secs()));
        let Some(parts) = self.parts.get() else {
            return Health { ready: false, healthy: true, degraded: false, detail };
        };
        let shards = parts.engine.figures();
        let numbers = |wanted: fn(&ShardFigures) -> bool| -> Vec<usize> {
            shards.iter().enumerate().filter(|(_, shard)| wanted(shard)).map(|(number, _)| number).collect()
        };
        let (poisoned, full) = (numbers(|s| s.poisoned), numbers(|s| s.disk_full));
        let healthy = poisoned.is_empty();
        // A full disk refuses batches but queries go on: not ready for devices, healthy all the same.
        let ready = self.phase.load(Ordering::Acquire) == READY && healthy && full.is_empty();
        detail.insert("shards".into(), json!(shards.len()));
        detail.insert("poisoned_shards".into(), json!(poisoned));
        detail.insert("disk_full_shards".into(), json!(full));
        let damage = parts.engine.damage();
        let degraded = !damage.is_empty();
        if degraded {
            let lines = |places: &[DamagedPlace]| -> Vec<String> {
                places.iter().take(DAMAGE_SHOWN_MAX).map(ToString::to_string).collect()
            };
            detail.insert(
                "damage".into(),
                json!({
                    "segments_set_aside": lines(&damage.set_aside),
                    "places": lines(&damage.places),
                    "place_count": damage.place_count,
                    "log": damage.log.iter().take(DAMAGE_SHOWN_MAX).collect::<Vec<_>>(),
                    "next_step": "stop the node and run `tidewell verify` and `tidewell repair --dry-run` on its data directory",
                }),
            );
        }
        Health { ready, healthy, degraded, detail }
    }

    fn summary(&self) -> Vec<(String, String)> {
        let mut lines = vec![
            ("Version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("State".to_owned(), self.phase().to_owned()),
        ];
        let Some(parts) = self.parts.get() else { return lines };
        let all = total(&parts.engine.figures());
        let mut line = |title: &str, value: String| lines.push((title.to_owned(), value));
        line("Ingest (QUIC)", parts.ingest_addr.to_string());
        line("Queries (Arrow Flight)", parts.query_addr.to_string());
        line("Data directory", parts.data_dir.display().to_string());
        line("Tables", parts.engine.snapshot().tables().len().to_string());
        line("Rows since start", thousands(all.rows));
        line("Rows in segments", thousands(all.segment_rows));
        line("Segments", format!("{}, {}", thousands(all.segments), human_bytes(all.segment_bytes)));
        line("Memory limit", human_bytes(parts.memory.limit()));
        line("Memtables", human_bytes(all.memtable_bytes));
        line("Connections", thousands(parts.ingest.connections.value()));
        lines
    }
}

/// The sum of all shards; what is a maximum or a last value is the greatest.
fn total(shards: &[ShardFigures]) -> ShardFigures {
    let mut all = ShardFigures::default();
    for shard in shards {
        all.batches += shard.batches;
        all.duplicate_batches += shard.duplicate_batches;
        all.refused_batches += shard.refused_batches;
        all.rows += shard.rows;
        all.quarantined_rows += shard.quarantined_rows;
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
        all.compaction_rows += shard.compaction_rows;
        all.merges_failing += shard.merges_failing;
        all.segments_by_level.iter_mut().zip(shard.segments_by_level).for_each(|(all, own)| *all += own);
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

fn memory_samples(memory: &MemoryBudget) -> Vec<Sample> {
    type Read = fn(&ClassFigures) -> Value;
    const FAMILIES: [(&str, &str, Read); 4] = [
        ("memory_share_bytes", "Memory that a class may hold", |f| Value::Gauge(f.share as f64)),
        ("memory_used_bytes", "Memory that a class holds", |f| Value::Gauge(f.used as f64)),
        ("memory_peak_bytes", "The most memory that a class has held", |f| Value::Gauge(f.peak as f64)),
        ("memory_refusals", "Requests for memory that did not fit", |f| Value::Counter(f.refused)),
    ];
    let limit = Value::Gauge(memory.limit() as f64);
    let mut samples = vec![Sample {
        name: "memory_limit_bytes",
        help: "The setting memory_limit, or what it stands for",
        labels: Vec::new(),
        value: limit,
    }];
    for (name, help, read) in FAMILIES {
        samples.extend(Class::ALL.map(|class| Sample {
            name,
            help,
            labels: vec![("class", class.name().to_owned())],
            value: read(&memory.figures(class)),
        }));
    }
    samples
}

fn map_samples() -> [Sample; 2] {
    let sample =
        |name, help, value: usize| Sample { name, help, labels: Vec::new(), value: Value::Gauge(value as f64) };
    [
        sample("mapped_files", "Files of the data directory that are mapped", maps::mapped()),
        sample("mapped_files_max", "Files that may be mapped as the kernel is set", maps::mapped_max()),
    ]
}

fn cache_samples(engine: &Engine) -> [Sample; 4] {
    let cache = engine.block_cache().figures();
    let sample = |name, help, value| Sample { name, help, labels: Vec::new(), value };
    [
        sample("cache_hits", "Columns of blocks that were found decoded", Value::Counter(cache.hits)),
        sample("cache_misses", "Columns of blocks that had to be decoded", Value::Counter(cache.misses)),
        sample("cache_evictions", "Decoded columns that made room for others", Value::Counter(cache.evicted)),
        sample("cache_entries", "Decoded columns that are kept", Value::Gauge(cache.entries as f64)),
    ]
}

fn shard_samples(engine: &Engine) -> Vec<Sample> {
    type Read = fn(&ShardFigures) -> u64;
    const COUNTERS: [(&str, &str, Read); 14] = [
        ("batches", "Batches applied", |s| s.batches),
        ("duplicate_batches", "Batches acknowledged again and not applied again", |s| s.duplicate_batches),
        ("refused_batches", "Batches refused", |s| s.refused_batches),
        ("rows", "Rows applied, replaced ones included", |s| s.rows),
        ("rows_expired", "Rows older than what their table keeps: acknowledged, not stored", |s| s.rows_expired),
        ("quarantined_rows", "Rows too far in the future, set aside", |s| s.quarantined_rows),
        ("log_bytes", "Bytes written to device logs", |s| s.log_bytes),
        ("log_syncs", "Group commits of device logs", |s| s.log_syncs),
        ("flushes", "Memtables written as segments", |s| s.flushes),
        ("flush_bytes", "Segment bytes written by flushes", |s| s.flush_bytes),
        ("compactions", "Merges of segments", |s| s.compactions),
        ("compaction_bytes", "Segment bytes written by merges", |s| s.compaction_bytes),
        ("compaction_rows", "Rows written by merges", |s| s.compaction_rows),
        ("stalls", "Times that a shard waited for a flush or for merges", |s| s.stalls),
    ];
    const GAUGES: [(&str, &str, Read); 13] = [
        ("log_sync_last_microseconds", "Write and sync of the last group", |s| s.log_sync_last_us),
        ("log_sync_max_microseconds", "Longest write and sync of a group", |s| s.log_sync_max_us),
        ("memtable_bytes", "Bytes of the active memtable", |s| s.memtable_bytes),
        ("memtables_sealed", "Sealed memtables that wait for the disk", |s| s.memtables_sealed),
        ("queued_batches", "Batches that wait for the shard", |s| s.queued),
        ("producers", "Producers remembered", |s| s.producers),
        ("disk_full", "1 while batches are refused for want of room", |s| u64::from(s.disk_full)),
        ("poisoned", "1 after a failed write or sync", |s| u64::from(s.poisoned)),
        ("flushed_segments", "Flushed segments that wait to be merged into days", |s| s.segments_by_level[0]),
        ("merges_failing", "Segments left alone because a merge of them failed", |s| s.merges_failing),
        ("segments", "Live segments", |s| s.segments),
        ("segment_bytes", "Bytes of live segments", |s| s.segment_bytes),
        ("segment_rows", "Rows of live segments", |s| s.segment_rows),
    ];
    let shards = engine.figures();
    let mut samples = Vec::new();
    let label = |number: usize| vec![("shard", number.to_string())];
    for (name, help, read) in COUNTERS {
        samples.extend(shards.iter().enumerate().map(|(n, s)| Sample {
            name,
            help,
            labels: label(n),
            value: Value::Counter(read(s)),
        }));
    }
    for (name, help, read) in GAUGES {
        samples.extend(shards.iter().enumerate().map(|(n, s)| Sample {
            name,
            help,
            labels: label(n),
            value: Value::Gauge(read(s) as f64),
        }));
    }
    samples.extend(shards.iter().enumerate().filter_map(|(n, shard)| {
        Some(Sample {
            name: "write_amplification",
            help: "Bytes written by flushes and merges for each byte of a flush",
            labels: label(n),
            value: Value::Gauge(shard.write_amplification()?),
        })
    }));
    samples
}

fn damage_samples(engine: &Engine) -> [Sample; 3] {
    let damage = engine.damage();
    [
        ("segments_set_aside", "Segments that cannot be opened", damage.set_aside.len() as u64),
        ("damaged_places", "Places in segments that readers found damaged since the start", damage.place_count),
        ("log_damage", "Damaged places that were found in the logs at the start", damage.log.len() as u64),
    ]
    .map(|(name, help, count)| Sample { name, help, labels: Vec::new(), value: Value::Gauge(count as f64) })
}

fn ingest_samples(ingest: &server::Metrics) -> Vec<Sample> {
    let gauges = [
        ("ingest_connections", "Connections with a verified certificate", &ingest.connections),
        ("ingest_handshakes", "Handshakes in flight", &ingest.handshakes),
        ("ingest_lanes", "Open lanes", &ingest.lanes),
        ("ingest_in_flight_bytes", "Bytes of batches between arrival and settlement", &ingest.in_flight_bytes),
    ];
    let counters = [
        (
            "ingest_accepted_connections",
            "Connections with a verified certificate since the start",
            &ingest.connections_total,
        ),
        ("ingest_failed_handshakes", "Handshakes that failed", &ingest.handshakes_failed),
        ("ingest_refused_connections", "Connection attempts over a bound", &ingest.refused),
        ("ingest_retried_connections", "Connection attempts that had to prove their address", &ingest.retried),
        ("ingest_revoked_connections", "Connections closed because of a revocation", &ingest.revoked),
        ("ingest_batches", "Batches acknowledged", &ingest.batches),
        ("ingest_rows", "Rows acknowledged", &ingest.rows),
        ("ingest_values", "Values acknowledged, nulls included", &ingest.values),
        ("ingest_payload_bytes", "Payload bytes acknowledged", &ingest.bytes),
        ("ingest_memory_waits", "Times that a lane waited for memory", &ingest.memory_waits),
        ("ingest_queue_waits", "Times that a lane waited for a shard's queue", &ingest.queue_waits),
    ];
    let mut samples = Vec::new();
    samples.extend(gauges.map(|(name, help, c)| Sample {
        name,
        help,
        labels: Vec::new(),
        value: Value::Gauge(c.value() as f64),
    }));
    samples.extend(counters.map(|(name, help, c)| Sample {
        name,
        help,
        labels: Vec::new(),
        value: Value::Counter(c.value()),
    }));
    for (name, help, label, counts) in [
        ("ingest_nacks", "Batches refused, by reason", "code", ingest.nacks()),
        ("ingest_lane_ends", "Lanes ended by the node, by reason", "code", ingest.lane_ends()),
    ] {
        samples.extend(counts.into_iter().map(|(code, count)| Sample {
            name,
            help,
            labels: vec![(label, code.to_owned())],
            value: Value::Counter(count),
        }));
    }
    samples
}
