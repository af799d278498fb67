//! Owns a shard's decisions, as a state machine over a storage and a time passed in; has no thread, no queue, no clock.
//!
//! What must stay true:
//! - a batch is in the log and synced before it is published, and published before it is acknowledged;
//! - a producer's batches are applied in rising order, each once: what was refused and may come again must do so, in
//!   order, before any later number;
//! - after a failed write or sync nothing is taken any more: what the disk holds is unknown until the next open.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use crate::sync::RwLock;

use super::append::Append;
use super::heads::ProducerHeads;
use super::stats::ShardStats;
use super::view::SharedView;
use crate::catalog::Catalog;
use crate::config::EngineConfig;
use crate::device_log::{LogWriter, RecordHead};
use crate::error::{Error, Refusal, RefusalCode, Result};
use crate::limits::{DISK_RESERVE_BYTES, FROZEN_MEMTABLES_MAX, GROUP_BATCHES_MAX, GROUP_BYTES_MAX, REFUSED_MEMORY_NS};
use crate::memtable::Memtable;
use crate::quarantine;
use crate::storage::Storage;
use crate::types::{Durability, LogPosition, ProducerId, SeqNo, TableSchema};

/// Free bytes from which on a full disk is called full no more: the reserve and one group.
const ROOM_BYTES: u64 = DISK_RESERVE_BYTES + GROUP_BYTES_MAX as u64;

/// Most time that counts as passed between two looks at the clock.
const CLOCK_STEP_MAX_NS: i64 = 60_000_000_000;

/// A group has at most about this part of a memtable's share of the memory.
const GROUP_PART: usize = 8;

/// The writer of one shard.
pub struct ShardCore {
    shard: u32,
    storage: Arc<dyn Storage>,
    config: Arc<EngineConfig>,
    catalog: Arc<Catalog>,
    view: Arc<SharedView>,
    heads: Arc<RwLock<ProducerHeads>>,
    stats: Arc<ShardStats>,
    log: LogWriter,
    /// The group that the next commit writes.
    staged: Vec<Staged>,
    staged_bytes: usize,
    /// What the group's rows will take in the memtable.
    staged_memory: usize,
    /// Highest number in the group, by producer.
    staged_heads: HashMap<ProducerId, SeqNo>,
    /// Numbers that were refused and may come again, by producer: a later one waits for them all. In memory only: after a
    /// restart no head has passed them.
    refused: HashMap<ProducerId, Refused>,
    /// How long the shard has been at work, as far as its commits tell: a clock that is set forward does not make it older.
    at_work_ns: i64,
    /// The clock at the last commit or seal.
    looked_at_clock_ns: i64,
    /// When the active memtable got its first row.
    active_since_ns: Option<i64>,
    /// Bytes that the log had written at the last seal.
    log_bytes_at_seal: u64,
    /// The log before this is in segments, or in memtables that wait to become segments.
    sealed_until: LogPosition,
    poisoned: Option<String>,
    /// While one of these lives no log file is given up, nor written again.
    holds: Vec<Weak<LogHold>>,
}

/// Keeps a shard's log files as they are; they go on growing.
#[derive(Debug)]
pub struct LogHold;

/// What one producer has to send again.
#[derive(Default)]
struct Refused {
    numbers: BTreeSet<SeqNo>,
    /// When the last of them was refused, by the time that the shard has been at work.
    refused_ns: i64,
}

struct Staged {
    append: Append,
    /// The table as the batch was admitted to it.
    schema: Arc<TableSchema>,
    /// Already applied, or in this group: acknowledged with it, not written again.
    duplicate: bool,
    /// Acknowledged already, at level `received`.
    told: bool,
}

/// A memtable that takes no more rows and waits to become segments.
pub struct Sealed {
    /// The rows.
    pub memtable: Arc<Memtable>,
    /// The log before this is covered by the rows and by earlier segments.
    pub until: LogPosition,
    /// The producers' heads at that point.
    pub heads: ProducerHeads,
}

/// What a core shares with readers and upkeep.
pub struct ShardParts {
    /// The data directory.
    pub storage: Arc<dyn Storage>,
    /// The engine's settings.
    pub config: Arc<EngineConfig>,
    /// All tables.
    pub catalog: Arc<Catalog>,
    /// What readers see of this shard.
    pub view: Arc<SharedView>,
    /// The producers' heads, as of the last commit.
    pub heads: Arc<RwLock<ProducerHeads>>,
    /// Counters.
    pub stats: Arc<ShardStats>,
}

impl ShardCore {
    /// A shard that goes on after what `log` holds; its memtable and heads have been replayed.
    pub fn new(shard: u32, parts: ShardParts, log: LogWriter, now_ns: i64) -> Self {
        let active_since_ns = (!parts.view.load().active.is_empty()).then_some(now_ns);
        let sealed_until = log.released();
        Self {
            shard,
            storage: parts.storage,
            config: parts.config,
            catalog: parts.catalog,
            view: parts.view,
            heads: parts.heads,
            stats: parts.stats,
            log,
            staged: Vec::new(),
            staged_bytes: 0,
            staged_memory: 0,
            staged_heads: HashMap::new(),
            refused: HashMap::new(),
            at_work_ns: 0,
            looked_at_clock_ns: now_ns,
            active_since_ns,
            log_bytes_at_seal: 0,
            sealed_until,
            poisoned: None,
            holds: Vec::new(),
        }
    }

    /// Takes a batch into the group of the next commit, or refuses it at once.
    pub fn stage(&mut self, append: Append) {
        let (producer, seq) = (append.producer, append.seq);
        if let Some(refusal) = self.standing_refusal(producer, seq) {
            self.refuse(&append, refusal);
            return;
        }
        self.skip(producer, seq);
        // Since the batch was checked its table may have been dropped, renamed, or made anew with other types.
        let last_ns = quarantine::last_allowed(append.received_ns, self.config.max_future);
        let admitted = self.catalog.admit(&append.batch).and_then(|schema| {
            if quarantine::is_ahead(&append.batch, last_ns) {
                self.catalog.admit_to(&quarantine::shadow_of(&append.batch.table), &append.batch)?;
            }
            Ok(schema)
        });
        let schema = match admitted {
            Ok(schema) => schema,
            Err(refusal) => {
                self.refuse(&append, refusal);
                return;
            }
        };
        let head = self.staged_heads.get(&producer).copied().unwrap_or_else(|| self.heads.read().last(producer));
        let duplicate = seq <= head;
        if !duplicate {
            let record = RecordHead { producer, seq, received_ns: append.received_ns };
            if let Err(error) = self.log.append(&record, &append.payload) {
                self.poison(&error);
                self.refuse(&append, poisoned(self.shard, &error.to_string()));
                return;
            }
            self.staged_bytes += append.payload.len();
            self.staged_memory += append.batch.memory_bytes();
            self.staged_heads.insert(producer, seq);
        }
        // While the disk is full, memory is no place to stay: such a batch waits for the commit like any other.
        let told = append.durability == Durability::Received && self.stats.disk_full.get() == 0;
        if told {
            append.settle(Ok(()));
        }
        self.staged.push(Staged { append, schema, duplicate, told });
    }

    /// Whether the group should be committed before more is staged.
    pub fn group_is_full(&self) -> bool {
        // A memtable is sealed between groups, so a group must be small beside its part of the budget.
        let memory_max = self.config.memtable_bytes / (FROZEN_MEMTABLES_MAX + 1) / GROUP_PART;
        self.staged_bytes >= GROUP_BYTES_MAX
            || self.staged.len() >= GROUP_BATCHES_MAX
            || self.staged_memory >= memory_max
    }

    /// Writes and syncs the group, makes it visible, tells the senders.
    pub fn commit(&mut self, now_ns: i64) {
        self.look_at_clock(now_ns);
        if self.staged.is_empty() {
            return;
        }
        let staged = std::mem::take(&mut self.staged);
        self.staged_heads.clear();
        self.staged_memory = 0;
        if self.staged_bytes > 0
            && let Err(error) = self.write_group()
        {
            self.staged_bytes = 0;
            self.fail_group(staged, &error);
            return;
        }
        if self.staged_bytes > 0 {
            // A group of repetitions has asked the disk for nothing.
            self.set_disk_full(None);
        }
        self.staged_bytes = 0;
        self.publish(staged, now_ns);
    }

    fn write_group(&mut self) -> Result<()> {
        // Refusing before the disk says no keeps room for flush, retention and deletes.
        let free = self.storage.free_bytes().map_err(Error::io("ask free space of", ""))?;
        if free < DISK_RESERVE_BYTES + self.staged_bytes as u64 {
            return Err(Error::Io {
                operation: "write",
                path: format!("log of shard {}", self.shard),
                source: std::io::Error::new(
                    std::io::ErrorKind::StorageFull,
                    format!("{free} bytes are free, {DISK_RESERVE_BYTES} are kept in reserve"),
                ),
            });
        }
        self.log.commit().map(|_| ())
    }

    fn publish(&mut self, staged: Vec<Staged>, now_ns: i64) {
        let view = self.view.load();
        let mut told = Vec::with_capacity(staged.len());
        let mut fresh = Vec::with_capacity(staged.len());
        {
            let mut heads = self.heads.write();
            for Staged { append, schema, duplicate, told: told_before } in staged {
                let Append { producer, seq, batch, received_ns, ticket, sink, .. } = append;
                if duplicate {
                    self.stats.duplicate_batches.add(1);
                } else {
                    heads.advance(producer, seq, received_ns);
                    self.stats.batches.add(1);
                    self.stats.rows.add(batch.times.len() as u64);
                    let (batch, expired) = view.masks.without_expired(batch);
                    self.stats.rows_expired.add(expired as u64);
                    let last_ns = quarantine::last_allowed(received_ns, self.config.max_future);
                    let (rows, ahead) = quarantine::split(batch, last_ns);
                    self.stats.quarantined_rows.add(ahead.as_ref().map_or(0, |batch| batch.times.len() as u64));
                    fresh
                        .extend(rows.filter(|batch| !batch.times.is_empty()).map(|batch| (batch, schema, received_ns)));
                    if let Some(batch) = ahead
                        && let Some(schema) = self.catalog.table(&batch.table)
                    {
                        fresh.push((batch, schema, received_ns));
                    }
                }
                if !told_before {
                    told.push((sink, ticket));
                }
            }
        }
        if !fresh.is_empty() {
            view.active.publish(fresh.into_iter());
            self.active_since_ns.get_or_insert(now_ns);
            self.stats.memtable_bytes.set(view.active.bytes() as u64);
        }
        for (sink, ticket) in told {
            sink.settled(ticket, Ok(()));
        }
    }

    fn fail_group(&mut self, staged: Vec<Staged>, error: &Error) {
        let abandoned = if error.passes() { self.log.abandon_group() } else { Ok(()) };
        let refusal = match abandoned {
            Ok(()) if error.is_shortage() => {
                tracing::warn!(shard = self.shard, %error, "batches are refused for the moment");
                Refusal::new(RefusalCode::Overloaded, format!("not now: {error}; the batch can be sent again"))
            }
            Ok(()) if error.is_disk_full() => {
                self.set_disk_full(Some(error));
                Refusal::new(RefusalCode::DiskFull, format!("no room for the batch: {error}; it can be sent again"))
            }
            Ok(()) => {
                self.poison(error);
                poisoned(self.shard, &error.to_string())
            }
            Err(error) => {
                self.poison(&error);
                poisoned(self.shard, &error.to_string())
            }
        };
        for Staged { append, duplicate, told, .. } in staged {
            // Lost, as `received` allows; its sender will not send it again, so nothing may wait for it.
            if told {
                self.stats.refused_batches.add(1);
                continue;
            }
            // A duplicate may repeat a batch of this very group, so only what was applied before is acknowledged.
            if duplicate && append.seq <= self.heads.read().last(append.producer) {
                append.settle(Ok(()));
            } else {
                self.refuse(&append, refusal.clone());
            }
        }
    }

    /// Takes back what was said about a full disk once there is room, also when nobody sends any more: whoever looks at
    /// the node's readiness before sending would wait for ever.
    pub fn look_for_room(&self) {
        if self.stats.disk_full.get() != 0 && self.storage.free_bytes().is_ok_and(|free| free >= ROOM_BYTES) {
            self.set_disk_full(None);
        }
    }

    fn set_disk_full(&self, cause: Option<&Error>) {
        match (cause, self.stats.disk_full.get() != 0) {
            (Some(error), false) => tracing::warn!(shard = self.shard, %error, "batches are refused for want of room"),
            (None, true) => tracing::info!(shard = self.shard, "there is room again"),
            _ => {}
        }
        self.stats.disk_full.set(u64::from(cause.is_some()));
    }

    /// Why nothing of this producer, or of anybody, can be taken now.
    fn standing_refusal(&self, producer: ProducerId, seq: SeqNo) -> Option<Refusal> {
        if let Some(cause) = &self.poisoned {
            return Some(poisoned(self.shard, cause));
        }
        let first = *self.refused.get(&producer)?.numbers.first()?;
        (seq > first).then(|| {
            Refusal::new(
                RefusalCode::AfterRefused,
                format!("batch {first} of this producer was refused and must be sent again before batch {seq}"),
            )
        })
    }

    fn refuse(&mut self, append: &Append, refusal: Refusal) {
        if refusal.code.retryable() {
            let refused = self.refused.entry(append.producer).or_default();
            refused.numbers.insert(append.seq);
            refused.refused_ns = self.at_work_ns;
            self.stats.waiting_producers.set(self.refused.len() as u64);
        }
        self.stats.refused_batches.add(1);
        append.settle(Err(refusal));
    }

    /// Batch `seq` will not come again: it was refused for good before it reached this shard.
    pub fn skip(&mut self, producer: ProducerId, seq: SeqNo) {
        if let Some(refused) = self.refused.get_mut(&producer) {
            refused.numbers.remove(&seq);
            if refused.numbers.is_empty() {
                self.refused.remove(&producer);
                self.stats.waiting_producers.set(self.refused.len() as u64);
            }
        }
    }

    fn look_at_clock(&mut self, now_ns: i64) {
        let passed = now_ns.saturating_sub(self.looked_at_clock_ns).clamp(0, CLOCK_STEP_MAX_NS);
        self.at_work_ns = self.at_work_ns.saturating_add(passed);
        self.looked_at_clock_ns = now_ns;
    }

    /// Producers that have been silent for so long that no lane of theirs is left begin anew: whoever resumes is told the
    /// last settled number, and sends what comes after it in order. Not by the clock alone: were it set forward, batches
    /// that are on their way would pass the refused one, which would look like a repetition when it comes again.
    fn forget_refused(&mut self) {
        let oldest = self.at_work_ns.saturating_sub(REFUSED_MEMORY_NS);
        self.refused.retain(|_, refused| refused.refused_ns >= oldest);
        self.stats.waiting_producers.set(self.refused.len() as u64);
    }

    /// Stops the shard for good: what the disk holds is unknown.
    pub fn poison(&mut self, error: &Error) {
        if self.poisoned.is_none() {
            tracing::error!(shard = self.shard, %error, "the shard stops taking batches");
            self.poisoned = Some(error.to_string());
            self.stats.poisoned.set(1);
        }
    }

    /// Why nothing is written any more, once that is so. What is in memory then stays there until the next open.
    pub fn stopped(&self) -> Option<Error> {
        let cause = self.poisoned.as_ref()?;
        Some(Error::Poisoned { shard: self.shard, cause: cause.clone() })
    }

    /// Whether the active memtable has its part of the budget or is old enough.
    pub fn wants_seal(&self, now_ns: i64) -> bool {
        let view = self.view.load();
        let part = self.config.memtable_bytes / (FROZEN_MEMTABLES_MAX + 1);
        // From the future is a memtable whose clock was set back since: nobody knows how old it is.
        let old = self.active_since_ns.is_some_and(|since| {
            now_ns < since
                || now_ns.saturating_sub(since) >= i64::try_from(self.config.seal_age.as_nanos()).unwrap_or(i64::MAX)
        });
        // Groups are padded to sectors, so many tiny ones may fill the disk long before the memory.
        let log_bytes = self.log.stats().bytes_written - self.log_bytes_at_seal;
        let much_log = log_bytes >= 2 * self.config.memtable_bytes as u64;
        self.poisoned.is_none() && (much_log || !view.active.is_empty() && (view.active.bytes() >= part || old))
    }

    /// Whether another memtable may be sealed: no more than the budget's parts wait for the disk.
    ///
    /// A poisoned shard never waits: no flush will come.
    pub fn may_seal(&self) -> bool {
        self.poisoned.is_some() || self.view.load().sealed.len() < FROZEN_MEMTABLES_MAX
    }

    /// Flushed segments beyond the bound from which on the shard takes batches more slowly. None while no merge could
    /// catch up.
    pub fn flushed_segments_excess(&self) -> usize {
        let merging = self.config.compaction && self.stats.merges_failing.get() == 0;
        let flushed = usize::try_from(self.stats.flushed_segments.get()).unwrap_or(usize::MAX);
        if merging { flushed.saturating_sub(self.config.flushed_segments_max) } else { 0 }
    }

    /// Seals the active memtable; `None` when the log has nothing new. Call between commits.
    ///
    /// A memtable may be empty although batches came: rows beyond retention are logged and not kept. Their part of the log is
    /// given up all the same, or it would grow without bound and bring them back once the cut-off is forgotten.
    pub fn seal(&mut self, now_ns: i64) -> Option<Sealed> {
        assert!(self.staged.is_empty(), "a seal between stage and commit would cut a group");
        let nothing_new = self.view.load().active.is_empty() && self.log.end() <= self.sealed_until;
        if self.poisoned.is_some() || nothing_new {
            return None;
        }
        let heads = {
            let mut heads = self.heads.write();
            heads.prune(now_ns);
            heads.clone()
        };
        self.look_at_clock(now_ns);
        self.forget_refused();
        self.active_since_ns = None;
        self.log_bytes_at_seal = self.log.stats().bytes_written;
        self.stats.memtable_bytes.set(0);
        self.sealed_until = self.log.end();
        Some(Sealed { memtable: self.view.rotate(), until: self.sealed_until, heads })
    }

    /// The log before `until` is in segments: its files can be used again.
    pub fn release(&mut self, until: LogPosition) {
        self.holds.retain(|hold| hold.strong_count() > 0);
        if !self.holds.is_empty() {
            // The next flush gives them up.
            return;
        }
        if let Err(error) = self.log.release_before(until) {
            // The files stay until the next open; nothing is lost.
            tracing::warn!(shard = self.shard, %error, "cannot release log files");
        }
    }

    /// Where the durable log ends, and a hold on its files.
    pub fn hold_log(&mut self) -> (LogPosition, Arc<LogHold>) {
        let hold = Arc::new(LogHold);
        self.holds.push(Arc::downgrade(&hold));
        (self.log.end(), hold)
    }

    /// Marks the log as ended in good order. Call after the last commit.
    pub fn close(self) {
        if self.poisoned.is_none()
            && let Err(error) = self.log.close()
        {
            // Everything acknowledged is on disk; only the mark is missing.
            tracing::warn!(shard = self.shard, %error, "cannot mark the end of the log");
        }
    }

    /// Notes how long the last commit took, and what the log has written.
    pub fn record_commit(&self, took: std::time::Duration) {
        let log = self.log.stats();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.stats.log_sync_last_us.set(micros);
        self.stats.log_sync_max_us.set(micros.max(self.stats.log_sync_max_us.get()));
        self.stats.log_bytes.set(log.bytes_written);
        self.stats.log_syncs.set(log.groups);
    }

    /// Counts a wait for the disk.
    pub fn count_stall(&self) {
        self.stats.stalls.add(1);
    }
}

fn poisoned(shard: u32, cause: &str) -> Refusal {
    Refusal::new(
        RefusalCode::ShardPoisoned,
        format!("shard {shard} stopped after a failed write or sync ({cause}); the node must be restarted"),
    )
}
