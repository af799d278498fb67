//! Owns the work that keeps a shard small: memtables into segments, small segments into large ones.

mod background;
pub mod compact;
mod days;
pub mod flush;
mod merge;
mod order;
mod output;
mod pick;
mod steps;
mod stretch;
mod throttle;

pub(crate) use background::{Merges, Poke};
pub use order::order_violations;
pub use output::{Beside, MergeSink};
pub use throttle::Throttle;

use crate::sync::atomic::{AtomicU64, Ordering};

/// Hands out numbers of new files and of erasures; a number that a crash left unused is never missed.
#[derive(Debug)]
pub struct FileNumbers {
    segment: AtomicU64,
    heads: AtomicU64,
    erasure: AtomicU64,
}

impl FileNumbers {
    /// Numbers from here on.
    pub fn new(segment: u64, heads: u64, erasure: u64) -> Self {
        let from = |number: u64| AtomicU64::new(number.max(1));
        Self { segment: from(segment), heads: from(heads), erasure: from(erasure) }
    }

    /// A new segment's number.
    pub fn segment(&self) -> u64 {
        self.segment.fetch_add(1, Ordering::Relaxed)
    }

    /// A new heads file's number.
    pub fn heads(&self) -> u64 {
        self.heads.fetch_add(1, Ordering::Relaxed)
    }

    /// A new erasure's number. It does not come again while the process lives: a merge under way may carry it as `clean`.
    pub fn erasure(&self) -> u64 {
        self.erasure.fetch_add(1, Ordering::Relaxed)
    }
}
