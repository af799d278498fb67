//! Owns opening a data directory: manifest, segments, then the logs that segments do not cover.

use crate::sync::atomic::AtomicBool;
use std::sync::Arc;

use crate::sync::{Mutex, RwLock};
use tidewell_codec::{Batch, BatchLimits, decode_batch, peek_batch};

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::EngineConfig;
use crate::damage::SetAside;
use crate::device_log::{Damage, LogConfig, LogWriter, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, ReplayReport, replay};
use crate::erase::Masks;
use crate::error::{Error, Refusal, Result};
use crate::limits::{FROZEN_MEMTABLES_MAX, SHARDS_MAX};
use crate::manifest::{Edit, Manifest, ManifestState, orphans, read_heads};
use crate::quarantine;
use crate::registry::Registry;
use crate::shard::core::{Sealed, ShardCore, ShardParts};
use crate::shard::running::Shard;
use crate::shard::worker::{Run, ShardHandle};
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
    /// Segments that the manifest names and that cannot be opened.
    pub set_aside: Vec<SetAside>,
    /// Files that no manifest lists, removed.
    pub orphans_removed: Vec<String>,
    /// Each shard's replay, in order of shard.
    pub logs: Vec<ReplayReport>,
    /// Heads files that cannot be read, and log records whose checksum holds but whose payload this program cannot
    /// read: place and reason.
    pub unreadable: Vec<String>,
}

impl RecoveryReport {
    /// Records replayed in all.
    pub fn records(&self) -> u64 {
        self.logs.iter().map(|l| l.records).sum()
    }

    /// What was wrong with the logs, a line each; without torn tails, which are no damage.
    pub fn log_damage(&self) -> Vec<String> {
        let damaged = self.logs.iter().flat_map(|log| &log.damaged).map(ToString::to_string);
        damaged.chain(self.unreadable.iter().cloned()).collect()
    }

    /// One line for each thing that an operator should know.
    pub fn findings(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.set_aside.iter().map(|aside| aside.place.to_string()).collect();
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
    run: &Run,
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
    if let Some(meta) = state.segments.values().find(|meta| meta.shard >= state.shard_count) {
        let expected = format!("a shard below {}", state.shard_count);
        return Err(Error::corruption(format!("segment {}", meta.id), 0, expected, format!("shard {}", meta.shard)));
    }
    let opening = Opening { storage, config: &config, catalog: &catalog, manifest: &manifest, state: &state, numbers };
    // Shards share nothing but the manifest, so each has a thread of its own; their budgets of memory add up to one.
    let in_threads = || {
        std::thread::scope(|scope| {
            let opening = &opening;
            let open = |shard| scope.spawn(move || opening.shard(shard, &**clock, stopping, poke));
            let threads: Vec<_> = (0..state.shard_count).map(open).collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.map(|opened| opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    };
    let opened: Vec<Result<OpenedShard>> = match run {
        Run::Threads => in_threads(),
        #[cfg(feature = "simulation")]
        Run::Steps(_) => (0..state.shard_count).map(|shard| opening.shard(shard, &**clock, stopping, poke)).collect(),
    };
    let mut shards = Vec::new();
    let mut compactors = Vec::new();
    let throttle = Arc::new(Throttle::new(config.compaction_bytes_per_second));
    for (shard, opened) in (0..).zip(opened) {
        let OpenedShard { parts, log, flusher, replayed, findings } = opened?;
        let view = parts.view.load();
        report.segments += view.segments.values().map(Vec::len).sum::<usize>();
        report.set_aside.extend(view.set_aside.iter().cloned());
        report.logs.push(replayed);
        report.unreadable.extend(findings);
        compactors.push(Compactor {
            shard,
            storage: Arc::clone(storage),
            catalog: Arc::clone(&catalog),
            manifest: Arc::clone(&manifest),
            numbers: Arc::clone(&flusher.numbers),
            view: Arc::clone(&parts.view),
            stats: Arc::clone(&parts.stats),
            stopping: Arc::clone(stopping),
            throttle: Arc::clone(&throttle),
            rows_max: config.segment_rows_max,
            running: Running::default(),
        });
        let (view, heads, stats) = (Arc::clone(&parts.view), Arc::clone(&parts.heads), Arc::clone(&parts.stats));
        let core = ShardCore::new(shard, parts, log, clock.now_ns());
        let handle = ShardHandle::start(shard, core, flusher, Arc::clone(clock), config.queue_batches, run);
        shards.push(Shard { sender: handle.sender(), handle: Mutex::new(handle), view, heads, stats });
    }
    Ok(Opened { config, catalog, manifest, attributes, shards, compactors, report })
}

/// What the shards have in common while they are opened.
struct Opening<'a> {
    storage: &'a Arc<dyn Storage>,
    config: &'a Arc<EngineConfig>,
    catalog: &'a Arc<Catalog>,
    manifest: &'a Arc<Mutex<Manifest>>,
    state: &'a ManifestState,
    numbers: Arc<FileNumbers>,
}

/// A shard whose log was replayed and that does not run yet.
struct OpenedShard {
    parts: ShardParts,
    log: LogWriter,
    flusher: Flusher,
    replayed: ReplayReport,
    /// What could not be read of the heads file, and of records that are whole.
    findings: Vec<String>,
}

impl Opening<'_> {
    /// Opens the shard's segments, then replays what they do not cover.
    fn shard(&self, shard: u32, clock: &dyn Clock, stopping: &Arc<AtomicBool>, poke: &Poke) -> Result<OpenedShard> {
        let Self { storage, state, .. } = *self;
        let mut findings = Vec::new();
        let (segments, set_aside) = self.segments(shard, &mut findings)?;
        // Rows to come are younger than all segments, also those that cannot be read, and than every erasure, also when
        // the segments that it was about are gone.
        let erased = state.erasures.values().filter(|erasure| erasure.shard == shard).map(|erasure| erasure.before_seq);
        // So must they be than what summaries tell of whose segments are gone.
        let without_rows = |meta: &&SummaryMeta| meta.shard == shard && !state.segments.contains_key(&meta.segment);
        let kept: Vec<&SummaryMeta> = state.summaries.values().filter(without_rows).collect();
        let erased = erased.chain(kept.iter().map(|meta| meta.seq_max + 1));
        let kept = open_listed(storage, kept.iter().copied(), &mut findings)?;
        let metas = state.segments.values().filter(|meta| meta.shard == shard);
        let next_seq = metas.map(|meta| meta.seq_max + 1).chain(erased).max().unwrap_or(1);
        let heads = self.heads(shard, &mut findings)?;
        let view = SharedView::new(segments, set_aside, Masks::new(state, shard), Arc::clone(&self.config.memory));
        let parts = ShardParts {
            storage: Arc::clone(storage),
            config: Arc::clone(self.config),
            catalog: Arc::clone(self.catalog),
            view: Arc::new(view),
            heads: Arc::new(RwLock::new(heads)),
            stats: Arc::new(ShardStats::default()),
        };
        let mut flusher = Flusher {
            shard,
            storage: Arc::clone(storage),
            catalog: Arc::clone(self.catalog),
            manifest: Arc::clone(self.manifest),
            numbers: Arc::clone(&self.numbers),
            view: Arc::clone(&parts.view),
            stats: Arc::clone(&parts.stats),
            next_seq,
            stopping: Arc::clone(stopping),
            compactor: poke.clone(),
        };
        parts.view.replace_kept(&[], kept);
        let from = released(self.manifest, shard);
        let mut replayed = replay_shard(shard, from, &parts, &mut flusher, clock, &mut findings)?;
        for damage in &mut replayed.damaged {
            damage.devices = devices_in(&**storage, damage);
        }
        let log_config = LogConfig { file_bytes: self.config.log_file_bytes, ..LogConfig::default() };
        let mut log = LogWriter::resume(Arc::clone(storage), shard, replayed.end, log_config)?;
        log.release_before(released(self.manifest, shard))?;
        Ok(OpenedShard { parts, log, flusher, replayed, findings })
    }

    /// The shard's segments, and what is damaged at a place without which a segment cannot be opened.
    fn segments(&self, shard: u32, findings: &mut Vec<String>) -> Result<(Vec<Arc<LiveSegment>>, Vec<SetAside>)> {
        let (mut segments, mut set_aside) = (Vec::new(), Vec::new());
        for meta in self.state.segments.values().filter(|meta| meta.shard == shard) {
            match open_live(self.storage, meta.clone()) {
                Ok(segment) => {
                    let summaries = open_listed(self.storage, self.state.summaries_of(meta.id), findings)?;
                    segments.push(segment.with_summaries(summaries));
                }
                Err(error) => {
                    let aside = SetAside::new(meta.clone(), error)?;
                    tracing::error!(damage = %aside.place, "a segment cannot be opened; the rest is served without it");
                    set_aside.push(aside);
                }
            }
        }
        Ok((segments, set_aside))
    }

    fn heads(&self, shard: u32, findings: &mut Vec<String>) -> Result<ProducerHeads> {
        let Some(number) = self.state.heads_files[shard as usize] else { return Ok(ProducerHeads::default()) };
        match read_heads(&**self.storage, shard, number) {
            Ok(heads) => Ok(heads.into_iter().collect()),
            Err(error) if is_damage(&error) => {
                findings.push(format!("{error}; what producers of shard {shard} send again may be applied again"));
                Ok(ProducerHeads::default())
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether a file is damaged or gone, which does not keep the rest from being served.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::Corruption { .. } => true,
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The devices of a lost batch, as far as its damaged bytes still tell them.
pub(crate) fn devices_in(storage: &dyn Storage, damage: &Damage) -> Vec<String> {
    let header = RECORD_HEADER_BYTES as u64;
    if damage.batch.is_none() || damage.len <= header || damage.len > PAYLOAD_BYTES_MAX as u64 {
        return Vec::new();
    }
    let mut payload = vec![0; (damage.len - header) as usize];
    let read = storage.open(&damage.path).and_then(|file| file.read_at(damage.offset + header, &mut payload));
    match read.map(|read| peek_batch(&payload[..read], &BatchLimits::default())) {
        Ok(Ok(head)) => head.devices.iter().map(|(id, _)| id.to_owned()).collect(),
        _ => Vec::new(),
    }
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
