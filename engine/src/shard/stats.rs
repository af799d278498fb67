//! Owns a shard's counters; does not name metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a shard has done since it was opened.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Batches applied.
    pub batches: Counter,
    /// Batches acknowledged again, not applied again.
    pub duplicate_batches: Counter,
    /// Batches refused.
    pub refused_batches: Counter,
    /// Producers of whom a refused batch must come again before any later one.
    pub waiting_producers: Counter,
    /// Rows applied, replaced ones included.
    pub rows: Counter,
    /// Rows older than what their table keeps: acknowledged, not stored.
    pub rows_expired: Counter,
    /// Rows too far in the future, set aside.
    pub quarantined_rows: Counter,
    /// Bytes written to the log, headers and padding included.
    pub log_bytes: Counter,
    /// Group commits: one sync each.
    pub log_syncs: Counter,
    /// Duration of the last group's write and sync, in microseconds.
    pub log_sync_last_us: Counter,
    /// Longest write and sync, in microseconds.
    pub log_sync_max_us: Counter,
    /// Bytes of the active memtable.
    pub memtable_bytes: Counter,
    /// Memtables written as segments.
    pub flushes: Counter,
    /// Segment bytes written by flushes.
    pub flush_bytes: Counter,
    /// Merges of segments.
    pub compactions: Counter,
    /// Segment bytes written by merges.
    pub compaction_bytes: Counter,
    /// Rows written by merges.
    pub compaction_rows: Counter,
    /// Segments that are left alone because a merge of them failed.
    pub merges_failing: Counter,
    /// Flushed segments that wait to be merged into days, of the table that has most.
    pub flushed_segments: Counter,
    /// Times that a full memtable budget, or flushed segments that pile up, held up the shard.
    pub stalls: Counter,
    /// 1 while the disk has no room.
    pub disk_full: Counter,
    /// 1 once a write or sync has failed.
    pub poisoned: Counter,
}
