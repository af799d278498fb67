//! Owns opening a data directory: manifest, segments, then the logs that segments do not cover.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};
use tidewell_codec::{Batch, BatchLimits, decode_batch};

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::EngineConfig;
use crate::device_log::{LogConfig, LogWriter, ReplayReport, replay};
use crate::engine::Shard;
use crate::erase::Masks;
use crate::error::{Error, Refusal, Result};
use crate::limits::{FROZEN_MEMTABLES_MAX, SHARDS_MAX};
use crate::manifest::{Edit, Manifest, orphans, read_heads};
use crate::quarantine;
use crate::registry::Registry;
use crate::shard::core::{Sealed, ShardCore, ShardParts};
use crate::shard::worker::ShardHandle;
use crate::shard::{LiveSegment, ProducerHeads, ShardStats, SharedView};
use crate::storage::Storage;
use crate::summary::SummaryMeta;
use crate::summary::live::open_listed;
use crate::types::LogPosition;
use crate::upkeep::compact::{Compactor, Running};
use crate::upkeep::flush::{Flusher, open_live};
use crate::upkeep::{FileNumbers, Poke, Throttle};

/// What opening found.
#[derive(Debug, Default)]
pub struct RecoveryReport {
    /// Live segments.
    pub segments: usize,
    /// Files that no manifest lists, removed.
    pub orphans_removed: Vec<String>,
    /// Each shard's replay, in order of shard.
    pub logs: Vec<ReplayReport>,
    /// Log records whose checksum holds but whose payload this program cannot read: path-like place and reason.
    pub unreadable: Vec<String>,
}

impl RecoveryReport {
    /// Records replayed in all.
    pub fn records(&self) -> u64 {
        self.logs.iter().map(|l| l.records).sum()
    }

    /// One line for each thing that an operator should know.
    pub fn findings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for log in &self.logs {
            lines.extend(log.cut.iter().map(ToString::to_string));
            lines.extend(log.damaged.iter().map(ToString::to_string));
        }
        lines.extend(self.unreadable.iter().cloned());
        lines
    }
}

/// The parts of a running engine.
pub(crate) struct Opened {
    /// The settings, with what could be known only here.
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) manifest: Arc<Mutex<Manifest>>,
    pub(crate) attributes: Registry,
    pub(crate) shards: Vec<Shard>,
    pub(crate) compactors: Vec<Compactor>,
    pub(crate) report: RecoveryReport,
}

/// Opens everything and starts the shards.
pub(crate) fn open(
    storage: &Arc<dyn Storage>,
    config: &Arc<EngineConfig>,
    clock: &Arc<dyn Clock>,
    stopping: &Arc<AtomicBool>,
    poke: &Poke,
) -> Result<Opened> {
    let (mut manifest, state) = Manifest::open(Arc::clone(storage))?;
    if state.shard_count == 0 {
        let shards = config.shards.unwrap_or_else(default_shards).clamp(1, SHARDS_MAX);
        manifest.append(&[Edit::Created { shards, created_ns: clock.now_ns() }])?;
    }
    let mut report = RecoveryReport::default();
    for name in orphans(&**storage, manifest.state())? {
        storage.remove(&name).map_err(Error::io("remove", name.clone()))?;
        report.orphans_removed.push(name);
    }
    let state = manifest.state().clone();
    // How many shards share the memtables' part of the memory is known only now.
    let memtable_bytes = config.memtable_bytes.min(config.memory.memtable_bytes(state.shard_count));
    let config = Arc::new(EngineConfig { memtable_bytes, ..EngineConfig::clone(config) });
    let catalog = Arc::new(Catalog::new(state.tables.clone()));
    let attributes = state.attributes.clone();
    let numbers = Arc::new(FileNumbers::new(state.next_segment_id, state.next_heads_id, state.next_erasure()));
    let manifest = Arc::new(Mutex::new(manifest));
    let mut live: Vec<Vec<Arc<LiveSegment>>> = (0..state.shard_count).map(|_| Vec::new()).collect();
    for meta in state.segments.values() {
        let Some(list) = live.get_mut(meta.shard as usize) else {
            return Err(Error::corruption(
                format!("segment {}", meta.id),
                0,
                format!("a shard below {}", state.shard_count),
                format!("shard {}", meta.shard),
            ));
        };
        let summaries = open_listed(storage, state.summaries_of(meta.id), &mut report.unreadable);
        list.push(open_live(storage, meta.clone())?.with_summaries(summaries));
        report.segments += 1;
    }
    let mut shards = Vec::new();
    let mut compactors = Vec::new();
    let throttle = Arc::new(Throttle::new(config.compaction_bytes_per_second));
    for (shard, segments) in (0..state.shard_count).zip(live) {
        // Rows to come are younger than every erasure, also when the segments that those were about are gone.
        let erased = state.erasures.values().filter(|erasure| erasure.shard == shard).map(|erasure| erasure.before_seq);
        let kept: Vec<&SummaryMeta> = state
            .summaries
            .values()
            .filter(|meta| meta.shard == shard && !state.segments.contains_key(&meta.segment))
            .collect();
        // So must they be than what summaries tell of whose segments are gone.
        let erased = erased.chain(kept.iter().map(|meta| meta.seq_max + 1));
        let next_seq = segments.iter().map(|s| s.meta.seq_max + 1).chain(erased).max().unwrap_or(1);
        let kept = open_listed(storage, kept.into_iter(), &mut report.unreadable);
        let heads = match state.heads_files[shard as usize] {
            Some(number) => read_heads(&**storage, shard, number)?.into_iter().collect(),
            None => ProducerHeads::default(),
        };
        let parts = ShardParts {
            storage: Arc::clone(storage),
            config: Arc::clone(&config),
            catalog: Arc::clone(&catalog),
            view: Arc::new(SharedView::new(segments, Masks::new(&state, shard), Arc::clone(&config.memory))),
            heads: Arc::new(RwLock::new(heads)),
            stats: Arc::new(ShardStats::default()),
        };
        let mut flusher = Flusher {
            shard,
            storage: Arc::clone(storage),
            catalog: Arc::clone(&catalog),
            manifest: Arc::clone(&manifest),
            numbers: Arc::clone(&numbers),
            view: Arc::clone(&parts.view),
            stats: Arc::clone(&parts.stats),
            next_seq,
            stopping: Arc::clone(stopping),
            compactor: poke.clone(),
        };
        parts.view.replace_kept(&[], kept);
        let from = released(&manifest, shard);
        let replayed = replay_shard(shard, from, &parts, &mut flusher, &**clock, &mut report.unreadable)?;
        let mut log = LogWriter::resume(
            Arc::clone(storage),
            shard,
            replayed.end,
            LogConfig { file_bytes: config.log_file_bytes, ..LogConfig::default() },
        )?;
        log.release_before(released(&manifest, shard))?;
        report.logs.push(replayed);
        compactors.push(Compactor {
            shard,
            storage: Arc::clone(storage),
            catalog: Arc::clone(&catalog),
            manifest: Arc::clone(&manifest),
            numbers: Arc::clone(&numbers),
            view: Arc::clone(&parts.view),
            stats: Arc::clone(&parts.stats),
            stopping: Arc::clone(stopping),
            throttle: Arc::clone(&throttle),
            rows_max: config.segment_rows_max,
            running: Running::default(),
        });
        let (view, heads, stats) = (Arc::clone(&parts.view), Arc::clone(&parts.heads), Arc::clone(&parts.stats));
        let core = ShardCore::new(shard, parts, log, clock.now_ns());
        let handle = ShardHandle::start(shard, core, flusher, Arc::clone(clock), config.queue_batches);
        shards.push(Shard { sender: handle.sender(), handle: Mutex::new(handle), view, heads, stats });
    }
    Ok(Opened { config, catalog, manifest, attributes, shards, compactors, report })
}

/// What segments cover of a shard's log.
fn released(manifest: &Mutex<Manifest>, shard: u32) -> LogPosition {
    manifest.lock().state().released.get(shard as usize).copied().unwrap_or_default()
}

/// One shard per two cores: the other core decodes and encrypts.
fn default_shards() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).max(1) as u32)
}

/// Brings the rows that no segment covers back into the memtable; beyond the memory budget they are flushed at once.
fn replay_shard(
    shard: u32,
    from: LogPosition,
    parts: &ShardParts,
    flusher: &mut Flusher,
    clock: &dyn Clock,
    unreadable: &mut Vec<String>,
) -> Result<ReplayReport> {
    let part_bytes = parts.config.memtable_bytes / (FROZEN_MEMTABLES_MAX + 1);
    let limits = BatchLimits::default();
    replay(&*parts.storage, shard, from, &mut |record| {
        // A record at or below the head was logged twice across a lost acknowledgement; it counts once.
        if record.seq <= parts.heads.read().last(record.producer) {
            return Ok(());
        }
        let batch = match decode_batch(record.payload, &limits) {
            Ok(batch) => batch,
            Err(error) => {
                unreadable.push(format!(
                    "log of shard {shard}, generation {}, offset {}: batch {} of producer {} cannot be read: {error}",
                    record.position.generation, record.position.offset, record.seq, record.producer
                ));
                return Ok(());
            }
        };
        let last_ns = quarantine::last_allowed(record.received_ns, parts.config.max_future);
        let admitted = parts.catalog.admit(&batch).and_then(|_| {
            let (rows, ahead) = quarantine::split(batch, last_ns);
            let with_schema = |batch: Batch| parts.catalog.admit(&batch).map(|schema| (batch, schema));
            rows.into_iter().chain(ahead).map(with_schema).collect::<Result<Vec<_>, Refusal>>()
        });
        let batches = match admitted {
            Ok(batches) => batches,
            Err(refusal) => {
                unreadable.push(format!(
                    "log of shard {shard}, generation {}, offset {}: batch {} of producer {} contradicts the tables: {refusal}",
                    record.position.generation, record.position.offset, record.seq, record.producer
                ));
                return Ok(());
            }
        };
        let view = parts.view.load();
        let kept = batches.into_iter().map(|(batch, schema)| (view.masks.without_expired(batch).0, schema));
        let kept = kept.filter(|(batch, _)| !batch.times.is_empty());
        view.active.publish(kept.map(|(batch, schema)| (batch, schema, record.received_ns)));
        parts.heads.write().advance(record.producer, record.seq, record.received_ns);
        if view.active.bytes() >= part_bytes {
            let heads = parts.heads.read().clone();
            let sealed = Sealed { memtable: parts.view.rotate(), until: record.end, heads };
            flusher.flush(&sealed, clock.now_ns())?;
        }
        Ok(())
    })
}
