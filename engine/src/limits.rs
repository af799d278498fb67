//! Owns every maximum of the engine and the relations between them.

/// Tables of one node.
pub const TABLES_MAX: usize = 4_096;
/// Fields of one table.
pub const TABLE_FIELDS_MAX: usize = 2_048;
/// Bytes of a device id (contract).
pub const DEVICE_ID_BYTES_MAX: usize = 256;
/// Bytes of an attribute's name or value.
pub const ATTRIBUTE_BYTES_MAX: usize = 1_024;
/// Attributes of one device.
pub const DEVICE_ATTRIBUTES_MAX: usize = 64;
/// Shards of one node.
pub const SHARDS_MAX: u32 = 256;

/// Payload bytes that one group commit writes at the most; a single larger batch makes its own group.
pub const GROUP_BYTES_MAX: usize = 4 << 20;
/// Batches in one group commit at the most.
pub const GROUP_BATCHES_MAX: usize = 1_024;
/// Sealed memtables of a shard that may wait for the disk before the shard stops taking batches.
pub const FROZEN_MEMTABLES_MAX: usize = 2;

/// The least memory that a node can be told to live with.
pub const MEMORY_LIMIT_MIN: u64 = 128 << 20;
/// Bytes of one shard's memtables, however much memory there is: more would only make flushes and recovery longer.
pub const MEMTABLE_BYTES_MAX: usize = 384 << 20;

/// Rows of a block written at flush: 32 KiB a decoded column, so that a block stays in the L1/L2 caches.
pub const HOT_BLOCK_ROWS: usize = 4_096;
/// Rows of a block written at compaction: larger blocks compress better and are read less often.
pub const COLD_BLOCK_ROWS: usize = 16_384;

/// Segments of one level that are merged into one of the next.
pub const COMPACTION_FAN_IN: usize = 8;
/// Highest level: its segments are merged with each other only on demand.
pub const COMPACTION_LEVEL_MAX: u8 = 4;
/// Rows of a segment that compaction writes at the most; more are split at day edges.
pub const SEGMENT_ROWS_MAX: u64 = 64 << 20;

/// Room that is kept free so that flush, retention and deletes still work on a full disk.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// How long deleted rows may stay in files that no merge is due for: deletes are gathered, so that a file is rewritten once
/// for many of them.
pub const ERASE_DELAY_NS: i64 = 3_600_000_000_000;

/// Days for which a silent producer's last number is remembered.
pub const PRODUCER_MEMORY_DAYS: i64 = 30;

/// The newest producers of a shard that are remembered however long they were silent: so a clock that jumps does not make a node
/// forget those that send. 32 bytes each in a heads file.
pub const PRODUCERS_REMEMBERED: usize = 16_384;

/// How long a shard remembers what a silent producer has to send again. Much longer than a lane may be idle: one that is
/// forgotten has to resume before it can send.
pub const REFUSED_MEMORY_NS: i64 = DAY_NS / 24;

/// Nanoseconds of a day: the partition width.
pub const DAY_NS: i64 = 86_400_000_000_000;

const _: () = assert!(HOT_BLOCK_ROWS <= COLD_BLOCK_ROWS);
const _: () = assert!(COMPACTION_FAN_IN >= 2);
const _: () = assert!(FROZEN_MEMTABLES_MAX >= 1);
