//! Owns the engine's settings and their defaults.

use std::sync::Arc;
use std::time::Duration;

use crate::limits::{MEMTABLE_BYTES_MAX, SEGMENT_ROWS_MAX};
use crate::memory::MemoryBudget;

/// How an engine works. [`EngineConfig::default`] suits a small machine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Shards of a new data directory; `None` takes one per two cores. An existing directory keeps its own number.
    pub shards: Option<u32>,
    /// The node's memory, of which memtables, merges and scans have their shares.
    pub memory: Arc<MemoryBudget>,
    /// Decoded bytes that all memtables of a shard may hold together, sealed ones included; less where the shard's share
    /// of `memory` is less. A memtable is sealed when it
    /// has its part of this; when all parts are taken the shard stops taking batches until one is on disk.
    pub memtable_bytes: usize,
    /// A memtable older than this is sealed even when it is small.
    pub seal_age: Duration,
    /// Size of one log file.
    pub log_file_bytes: u64,
    /// Rows further in the future than this go to quarantine.
    pub max_future: Duration,
    /// Batches that may wait in a shard's queue.
    pub queue_batches: usize,
    /// Bytes of decoded blocks that are kept for the next query, or the share of `memory` if that is less; 0 keeps none.
    pub block_cache_bytes: usize,
    /// Whether segments are merged in the background.
    pub compaction: bool,
    /// Bytes that background merges may write in a second, all shards together; 0 does not limit them. A shard that has
    /// fallen behind is not held up.
    pub compaction_bytes_per_second: u64,
    /// Rows from which on a merge goes on in another file, at the next device.
    pub segment_rows_max: u64,
    /// Flushed segments of a table that a shard may have before it takes batches more slowly, so that merges catch up.
    pub flushed_segments_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            shards: None,
            memory: MemoryBudget::new(2 << 30),
            memtable_bytes: MEMTABLE_BYTES_MAX,
            seal_age: Duration::from_secs(300),
            log_file_bytes: 64 << 20,
            max_future: Duration::from_secs(600),
            queue_batches: 4_096,
            block_cache_bytes: usize::MAX,
            compaction: true,
            compaction_bytes_per_second: 0,
            segment_rows_max: SEGMENT_ROWS_MAX,
            flushed_segments_max: 64,
        }
    }
}
