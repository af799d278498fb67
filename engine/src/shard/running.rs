//! Owns what the engine keeps of a running shard: the way in, what readers see, its figures; does not start it.

use std::sync::Arc;

use crate::sync::{Mutex, RwLock};

use super::worker::{ShardHandle, ShardSender};
use super::{ProducerHeads, ShardStats, SharedView};
use crate::limits::COMPACTION_LEVEL_MAX;

/// What the engine keeps of a running shard.
pub(crate) struct Shard {
    pub(crate) handle: Mutex<ShardHandle>,
    pub(crate) sender: ShardSender,
    pub(crate) view: Arc<SharedView>,
    pub(crate) heads: Arc<RwLock<ProducerHeads>>,
    pub(crate) stats: Arc<ShardStats>,
}

/// One shard's figures at one moment.
#[derive(Clone, Debug, Default)]
pub struct ShardFigures {
    /// Batches applied since the node was opened.
    pub batches: u64,
    /// Batches acknowledged again, not applied again.
    pub duplicate_batches: u64,
    /// Batches refused.
    pub refused_batches: u64,
    /// Rows applied, replaced ones included.
    pub rows: u64,
    /// Rows older than what their table keeps: acknowledged, not stored.
    pub rows_expired: u64,
    /// Rows too far in the future, set aside since the node was opened.
    pub quarantined_rows: u64,
    /// Bytes written to the log.
    pub log_bytes: u64,
    /// Group commits.
    pub log_syncs: u64,
    /// Last group's write and sync, µs.
    pub log_sync_last_us: u64,
    /// Longest write and sync, µs.
    pub log_sync_max_us: u64,
    /// Bytes of the active memtable.
    pub memtable_bytes: u64,
    /// Sealed memtables that wait for the disk.
    pub memtables_sealed: u64,
    /// Memtables written as segments.
    pub flushes: u64,
    /// Segment bytes written by flushes.
    pub flush_bytes: u64,
    /// Merges done.
    pub compactions: u64,
    /// Segment bytes written by merges.
    pub compaction_bytes: u64,
    /// Rows written by merges.
    pub compaction_rows: u64,
    /// Segments that are left alone because a merge of them failed.
    pub merges_failing: u64,
    /// Live segments by level: flushed ones, then merged ones.
    pub segments_by_level: [u64; SEGMENT_LEVELS],
    /// Waits of the shard for a flush.
    pub stalls: u64,
    /// Batches in the queue.
    pub queued: u64,
    /// Producers remembered.
    pub producers: u64,
    /// Whether the disk has no room.
    pub disk_full: bool,
    /// Whether a write or sync has failed, of its log or of the manifest.
    pub poisoned: bool,
    /// Live segments.
    pub segments: u64,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Their rows.
    pub segment_rows: u64,
}

/// Levels that segments are counted by.
pub const SEGMENT_LEVELS: usize = COMPACTION_LEVEL_MAX as usize + 1;

impl ShardFigures {
    /// How many bytes flushes and merges wrote for each byte that a flush wrote; `None` before the first flush.
    pub fn write_amplification(&self) -> Option<f64> {
        (self.flush_bytes > 0).then(|| (self.flush_bytes + self.compaction_bytes) as f64 / self.flush_bytes as f64)
    }
}

impl Shard {
    /// What it counts, now.
    pub(crate) fn figures(&self) -> ShardFigures {
        let view = self.view.load();
        let segments = view.segments.values().flatten();
        let (mut count, mut bytes, mut rows) = (0, 0, 0);
        let mut by_level = [0; SEGMENT_LEVELS];
        for segment in segments {
            by_level[usize::from(segment.meta.level).min(SEGMENT_LEVELS - 1)] += 1;
            count += 1;
            bytes += segment.meta.bytes;
            rows += segment.meta.rows;
        }
        let stats = &self.stats;
        ShardFigures {
            batches: stats.batches.get(),
            duplicate_batches: stats.duplicate_batches.get(),
            refused_batches: stats.refused_batches.get(),
            rows: stats.rows.get(),
            rows_expired: stats.rows_expired.get(),
            quarantined_rows: stats.quarantined_rows.get(),
            log_bytes: stats.log_bytes.get(),
            log_syncs: stats.log_syncs.get(),
            log_sync_last_us: stats.log_sync_last_us.get(),
            log_sync_max_us: stats.log_sync_max_us.get(),
            memtable_bytes: stats.memtable_bytes.get(),
            memtables_sealed: view.sealed.len() as u64,
            flushes: stats.flushes.get(),
            flush_bytes: stats.flush_bytes.get(),
            compactions: stats.compactions.get(),
            compaction_bytes: stats.compaction_bytes.get(),
            compaction_rows: stats.compaction_rows.get(),
            merges_failing: stats.merges_failing.get(),
            segments_by_level: by_level,
            stalls: stats.stalls.get(),
            queued: self.sender.queued() as u64,
            producers: self.heads.read().len() as u64,
            disk_full: stats.disk_full.get() != 0,
            poisoned: stats.poisoned.get() != 0,
            segments: count,
            segment_bytes: bytes,
            segment_rows: rows,
        }
    }
}
