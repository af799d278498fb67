//! Owns the engine's settings and their defaults.

use std::time::Duration;

/// How an engine works. [`EngineConfig::default`] suits a small machine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Shards of a new data directory; `None` takes one per two cores. An existing directory keeps its own number.
    pub shards: Option<u32>,
    /// Decoded bytes that all memtables of a shard may hold together, sealed ones included. A memtable is sealed when it
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
    /// Whether segments are merged in the background.
    pub compaction: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            shards: None,
            memtable_bytes: 384 << 20,
            seal_age: Duration::from_secs(300),
            log_file_bytes: 64 << 20,
            max_future: Duration::from_secs(600),
            queue_batches: 4_096,
            compaction: true,
        }
    }
}
