//! Owns the whole: opening, the way in, the way out, closing; the work is in shards and upkeep.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::sync::{Mutex, RwLock};
use crossbeam_channel::bounded;
use tidewell_codec::{Batch, shard_of};

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::EngineConfig;
use crate::damage::DamageReport;
use crate::erase::keeper::{Keeper, KeeperThread};
use crate::error::{Error, Refusal, RefusalCode, Result};
use crate::limits::{ATTRIBUTE_BYTES_MAX, DEVICE_ATTRIBUTES_MAX, DEVICE_ID_BYTES_MAX};
use crate::manifest::{Edit, Manifest};
use crate::quarantine;
use crate::recovery::{self, RecoveryReport};
use crate::registry::{Attributes, Registry};
use crate::scan::BlockCache;
use crate::shard::running::Shard;
use crate::shard::worker::Run;
use crate::shard::{Append, ShardFigures};
use crate::snapshot::Snapshot;
use crate::storage::{Storage, maps};
use crate::types::{ProducerId, SeqNo};
use crate::upkeep::Merges;

/// An open data directory.
pub struct Engine {
    config: Arc<EngineConfig>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) manifest: Arc<Mutex<Manifest>>,
    manifest_stopped: Arc<OnceLock<String>>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) attributes: RwLock<Registry>,
    pub(crate) shards: Vec<Shard>,
    /// Held for writing while tables change in more than one place, so that a snapshot has all of it or nothing.
    pub(crate) moment: RwLock<()>,
    /// Held by whoever makes all shards stand still.
    pub(crate) changing_tables: Mutex<()>,
    pub(crate) keeper: Arc<Keeper>,
    keeper_thread: Mutex<Option<KeeperThread>>,
    cache: Arc<BlockCache>,
    pub(crate) merges: Merges,
    pub(crate) run: Run,
    /// Held while quarantined rows are released.
    pub(crate) releasing: Mutex<()>,
    stopping: Arc<AtomicBool>,
    pub(crate) clock: Arc<dyn Clock>,
    /// What was wrong with the logs when they were replayed.
    log_damage: Vec<String>,
    /// Held until the engine goes.
    _lock: Box<dyn Send + Sync>,
}

/// Damaged places that a report names one by one.
const DAMAGE_SHOWN_MAX: usize = 100;

impl Engine {
    /// Opens the data directory behind `storage`, replays what segments do not cover, and starts the shards.
    ///
    /// # Errors
    /// Another process has the directory, a newer format, a damaged manifest, or a failing disk. Damage in logs is
    /// reported, not an error.
    pub fn open(
        storage: Arc<dyn Storage>,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RecoveryReport)> {
        Self::open_as(storage, config, clock, Run::Threads)
    }

    /// As [`Self::open`]; `run` says who moves the shards, and whether anything is done in the background.
    pub(crate) fn open_as(
        storage: Arc<dyn Storage>,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
        run: Run,
    ) -> Result<(Self, RecoveryReport)> {
        let lock = storage.lock().map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Error::Locked,
            _ => Error::io("lock", "LOCK")(error),
        })?;
        let config = Arc::new(config);
        let stopping = Arc::new(AtomicBool::new(false));
        let (poke, poked) = bounded(1);
        let opened = recovery::open(&storage, &config, &clock, &stopping, &poke, &run)?;
        let (mapped, mapped_max) = (maps::mapped(), maps::mapped_max());
        if mapped > mapped_max / 2 {
            tracing::warn!(
                mapped,
                mapped_max,
                "half of the memory maps are taken by files; raise vm.max_map_count (sysctl)"
            );
        }
        let merges = Merges::new(opened.compactors, Arc::clone(&stopping));
        let in_background = config.compaction && matches!(run, Run::Threads);
        if in_background {
            merges.start(poked, &clock);
        }
        let views = opened.shards.iter().map(|shard| Arc::clone(&shard.view)).collect();
        let keeper = Arc::new(Keeper::new(Arc::clone(&opened.manifest), views, Arc::clone(&clock)));
        let keeper_thread = in_background.then(|| KeeperThread::start(Arc::clone(&keeper)));
        let cache = Arc::new(BlockCache::within(&config.memory, config.block_cache_bytes));
        let manifest_stopped = opened.manifest.lock().stop_cause();
        let engine = Self {
            config: opened.config,
            catalog: opened.catalog,
            manifest_stopped,
            manifest: opened.manifest,
            storage,
            attributes: RwLock::new(opened.attributes),
            shards: opened.shards,
            moment: RwLock::new(()),
            changing_tables: Mutex::new(()),
            keeper,
            keeper_thread: Mutex::new(keeper_thread),
            cache,
            merges,
            run,
            releasing: Mutex::new(()),
            stopping,
            clock,
            log_damage: opened.report.log_damage(),
            _lock: lock,
        };
        Ok((engine, opened.report))
    }

    /// Number of shards, fixed when the directory was made.
    pub fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    /// Now, by the engine's clock.
    pub(crate) fn now_ns(&self) -> i64 {
        self.clock.now_ns()
    }

    /// The engine's settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Checks a batch against the contract: one shard, types as the tables have them. New tables and fields are taken note
    /// of, also those that rows too far in the future will need.
    ///
    /// # Errors
    /// A refusal that names what was expected and what was found.
    pub fn check(&self, batch: &Batch, now_ns: i64) -> Result<(), Refusal> {
        self.check_shard(batch)?;
        self.catalog.admit(batch)?;
        if quarantine::is_ahead(batch, quarantine::last_allowed(now_ns, self.config.max_future)) {
            self.catalog.admit_to(&quarantine::shadow_of(&batch.table), batch)?;
        }
        Ok(())
    }

    fn check_shard(&self, batch: &Batch) -> Result<(), Refusal> {
        let count = self.shard_count();
        if count == 1 {
            return Ok(());
        }
        let mut devices = batch.devices.iter();
        let Some((first, _)) = devices.next() else { return Ok(()) };
        let shard = shard_of(first, count);
        match devices.find(|(device, _)| shard_of(device, count) != shard) {
            None => Ok(()),
            Some((other, _)) => Err(Refusal::new(
                RefusalCode::MixedShards,
                format!(
                    "a batch belongs to one of {count} shards: {first} is of shard {shard}, {other} of shard {}; send them apart",
                    shard_of(other, count)
                ),
            )),
        }
    }

    /// Hands a checked batch to its shard. Never blocks; the sink hears of its fate.
    ///
    /// # Errors
    /// `Overloaded` or `ShuttingDown`: the sink is not told then.
    pub fn append(&self, append: Append) -> Result<(), Refusal> {
        let Some((device, _)) = append.batch.devices.iter().next() else {
            return Err(Refusal::new(RefusalCode::Malformed, "the batch has no device"));
        };
        self.shards[shard_of(device, self.shard_count()) as usize].sender.append(append)
    }

    /// Batch `seq` was refused for good and will not come: shards that refused it for now stop waiting for it.
    pub fn skip(&self, producer: ProducerId, seq: SeqNo) {
        // The refusal that a shard waits for was counted before its producer heard of it, so 0 means that none waits.
        let waiting = self.shards.iter().filter(|shard| shard.stats.waiting_producers.get() > 0);
        waiting.for_each(|shard| shard.sender.skip(producer, seq));
    }

    /// The last settled number of `producer` in the log of `device`; 0 when there is none.
    pub fn last_settled(&self, producer: ProducerId, device: &str) -> SeqNo {
        self.shards[shard_of(device, self.shard_count()) as usize].heads.read().last(producer)
    }

    /// This moment, for readers: every row acknowledged before the call is in it.
    pub fn snapshot(&self) -> Snapshot {
        let _moment = self.moment.read();
        Snapshot {
            shards: Arc::new(self.shards.iter().map(|s| s.view.load()).collect()),
            tables: self.catalog.load(),
            memory: Arc::clone(&self.config.memory),
            attributes: self.attributes.read().clone(),
            skipped: None,
            cache: Arc::clone(&self.cache),
        }
    }

    /// Puts all acknowledged rows into segments.
    ///
    /// # Errors
    /// The first shard's failure.
    pub fn flush(&self) -> Result<()> {
        let waits: Vec<_> = self.shards.iter().map(|s| s.sender.flush()).collect::<Result<_>>()?;
        waits.into_iter().try_for_each(|wait| wait.wait())
    }

    /// Merges all segments of each table into cold blocks. Long, and in the way of background merges only.
    ///
    /// # Errors
    /// The first failed read or write.
    pub fn compact(&self) -> Result<()> {
        self.merges.run_all(self.clock.now_ns())?;
        self.keeper.keep()
    }

    /// Does all merges that are due now, as the background does when it gets to them.
    ///
    /// # Errors
    /// The first failed read or write.
    pub fn merge_due(&self) -> Result<()> {
        self.merges.run_due(self.clock.now_ns())
    }

    /// Gives `device` these attributes in place of all that it had; none removes them.
    ///
    /// # Errors
    /// Names or values out of bounds, or a failed write.
    pub fn set_attributes(&self, device: &str, pairs: Attributes) -> Result<()> {
        let size = 1..=ATTRIBUTE_BYTES_MAX;
        if !(1..=DEVICE_ID_BYTES_MAX).contains(&device.len()) {
            return Err(Error::Invalid(format!(
                "a device id has 1 to {DEVICE_ID_BYTES_MAX} bytes, this one {}",
                device.len()
            )));
        }
        if pairs.len() > DEVICE_ATTRIBUTES_MAX {
            return Err(Error::Invalid(format!(
                "a device has at most {DEVICE_ATTRIBUTES_MAX} attributes, found {}",
                pairs.len()
            )));
        }
        if let Some((name, _)) = pairs.iter().find(|(k, v)| !size.contains(&k.len()) || v.len() > ATTRIBUTE_BYTES_MAX) {
            return Err(Error::Invalid(format!(
                "attribute {name:?}: name and value have at most {ATTRIBUTE_BYTES_MAX} bytes"
            )));
        }
        let pairs = Arc::new(pairs);
        let edit = Edit::Attributes { device: device.into(), pairs: Arc::clone(&pairs) };
        let mut manifest = self.manifest.lock();
        manifest.append(&[edit])?;
        // Under the manifest's lock, so that two changes cannot overtake each other.
        *self.attributes.write() = manifest.state().attributes.clone();
        Ok(())
    }

    /// What is known to be damaged, as far as anybody has looked.
    pub fn damage(&self) -> DamageReport {
        let mut report = DamageReport { log: self.log_damage.clone(), ..DamageReport::default() };
        for shard in &self.shards {
            let view = shard.view.load();
            report.set_aside.extend(view.set_aside.iter().map(|aside| aside.place.clone()));
            for live in view.segments.values().flatten() {
                let known = live.segment.known_damage();
                report.place_count += known.count();
                if report.places.len() < DAMAGE_SHOWN_MAX {
                    report.places.extend(known.places());
                    report.places.truncate(DAMAGE_SHOWN_MAX);
                }
            }
        }
        report
    }

    /// Blocks that stay decoded between queries.
    pub fn block_cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// Each shard's figures.
    pub fn figures(&self) -> Vec<ShardFigures> {
        let mut figures: Vec<_> = self.shards.iter().map(Shard::figures).collect();
        // Without the manifest no shard can flush, whether or not one has come to that yet.
        figures.iter_mut().for_each(|shard| shard.poisoned |= self.manifest_stopped.get().is_some());
        figures
    }

    /// Commits what is queued, seals, syncs, ends the threads. Later appends are refused.
    ///
    /// # Errors
    /// The first failed flush: the rows are in the log then, and the next open replays them.
    pub fn close(&self) -> Result<()> {
        // First, so that a flush that meets a full disk ends instead of waiting for room.
        self.stopping.store(true, Ordering::Relaxed);
        let flushed = self.flush();
        drop(self.keeper_thread.lock().take());
        for shard in &self.shards {
            shard.handle.lock().stop();
        }
        self.merges.join();
        flushed
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Without threads there is nothing to end: a simulation drops what died.
        if !matches!(self.run, Run::Threads) {
            return;
        }
        // A dropped engine ends its threads but does not flush: the log has everything.
        self.stopping.store(true, Ordering::Relaxed);
        for shard in &self.shards {
            shard.handle.lock().stop();
        }
        self.merges.join();
    }
}
