//! Owns the work that keeps a shard small: memtables into segments, small segments into large ones.

pub mod compact;
pub mod flush;
