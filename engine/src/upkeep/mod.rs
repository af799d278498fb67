//! Owns the work that keeps a shard small: memtables into segments, small segments into large ones.

pub mod compact;
mod days;
pub mod flush;
mod merge;
mod output;
mod pick;

pub use output::{Beside, MergeSink};

use std::sync::atomic::{AtomicU64, Ordering};

/// Hands out numbers of new files; a number that a crash left unused is never missed.
#[derive(Debug)]
pub struct FileNumbers {
    segment: AtomicU64,
    heads: AtomicU64,
}

impl FileNumbers {
    /// Numbers from here on.
    pub fn new(segment: u64, heads: u64) -> Self {
        Self { segment: AtomicU64::new(segment.max(1)), heads: AtomicU64::new(heads.max(1)) }
    }

    /// A new segment's number.
    pub fn segment(&self) -> u64 {
        self.segment.fetch_add(1, Ordering::Relaxed)
    }

    /// A new heads file's number.
    pub fn heads(&self) -> u64 {
        self.heads.fetch_add(1, Ordering::Relaxed)
    }
}
