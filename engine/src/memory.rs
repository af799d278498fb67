//! Owns how much memory the node may hold and who holds how much of it; allocates nothing itself.
//!
//! One limit is cut into shares, one for each kind of holder, so that none can starve another: queries cannot take what
//! acknowledgements need, nor a burst of batches what queries need. Holders count what they hold here, at the size of
//! batches, memtables and blocks, never row by row. What a holder does at its bound is its own affair: lanes stop reading,
//! memtables are sealed, queries are refused.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::limits::{FROZEN_MEMTABLES_MAX, MEMORY_LIMIT_MIN};

/// Who holds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Class {
    /// Batches between arrival and settlement.
    Queue,
    /// Rows that are not in segments yet, and what a flush copies of them.
    Memtable,
    /// Inputs and outputs of running merges.
    Merge,
    /// Decoded blocks that are kept for the next scan.
    Cache,
    /// What running queries hold, flushed memtables that they still read included.
    Query,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 5] = [Self::Queue, Self::Memtable, Self::Merge, Self::Cache, Self::Query];

    /// Its name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Memtable => "memtable",
            Self::Merge => "merge",
            Self::Cache => "cache",
            Self::Query => "query",
        }
    }

    /// Its sixteenths of the limit. Two are nobody's: threads, connections, the device registry, segment directories, and
    /// what the allocator keeps between two uses.
    const fn sixteenths(self) -> u64 {
        match self {
            Self::Queue => 3,
            Self::Memtable => 6,
            Self::Merge => 1,
            Self::Cache | Self::Query => 2,
        }
    }
}

const _: () = {
    let (mut sum, mut at) = (0, 0);
    while at < Class::ALL.len() {
        sum += Class::ALL[at].sixteenths();
        at += 1;
    }
    assert!(sum == 14, "two sixteenths of the limit belong to what nobody counts");
};

/// A request that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{asked} bytes of memory for a {} were asked, {free} of its share of {share} are free (memory_limit {limit})",
    class.name()
)]
pub struct MemoryFull {
    /// Who asked.
    pub class: Class,
    /// For how much.
    pub asked: u64,
    /// What was free of the share.
    pub free: u64,
    /// The share.
    pub share: u64,
    /// The limit that the share is part of.
    pub limit: u64,
}

/// What one class holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassFigures {
    /// Bytes that it may hold.
    pub share: u64,
    /// Bytes that it holds.
    pub used: u64,
    /// The most that it held since the start.
    pub peak: u64,
    /// Requests that did not fit.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Account {
    used: AtomicU64,
    peak: AtomicU64,
    refused: AtomicU64,
}

/// The node's memory.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: u64,
    accounts: [Account; Class::ALL.len()],
}

impl MemoryBudget {
    /// A budget of `limit` bytes, at least [`MEMORY_LIMIT_MIN`].
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(MEMORY_LIMIT_MIN), accounts: Default::default() })
    }

    /// The limit of all together.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What `class` may hold.
    pub fn share(&self, class: Class) -> u64 {
        self.limit / 16 * class.sixteenths()
    }

    /// What `class` holds.
    pub fn used(&self, class: Class) -> u64 {
        self.account(class).used.load(Ordering::Relaxed)
    }

    /// Whether all classes together hold more than all shares: one has gone over its own, and no other has room to spare.
    pub fn is_exceeded(&self) -> bool {
        let sum = |of: fn(&Self, Class) -> u64| Class::ALL.iter().map(|class| of(self, *class)).sum::<u64>();
        sum(Self::used) > sum(Self::share)
    }

    /// What `class` may still take.
    pub fn free(&self, class: Class) -> u64 {
        self.share(class).saturating_sub(self.used(class))
    }

    /// The share of one shard's memtables of `shards`: a quarter is left for what a flush copies of the one it writes.
    pub fn memtable_bytes(&self, shards: u32) -> usize {
        let parts = FROZEN_MEMTABLES_MAX as u64 + 2;
        let bytes = self.share(Class::Memtable) / u64::from(shards.max(1)) / parts * (parts - 1);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Counts `bytes` more for `class`, whatever is free: for what is there already.
    pub fn add(&self, class: Class, bytes: u64) {
        let account = self.account(class);
        let used = account.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        account.peak.fetch_max(used, Ordering::Relaxed);
    }

    /// Counts `bytes` less for `class`.
    pub fn sub(&self, class: Class, bytes: u64) {
        let before = self.account(class).used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{} gave back more than it took", class.name());
    }

    /// Counts `bytes` more for `class` if they are free.
    ///
    /// # Errors
    /// When they are not; nothing is counted then.
    pub fn try_add(&self, class: Class, bytes: u64) -> Result<(), MemoryFull> {
        let (account, share) = (self.account(class), self.share(class));
        let fits = |used: u64| used.checked_add(bytes).filter(|after| *after <= share);
        match account.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(before) => {
                account.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(used) => {
                account.refused.fetch_add(1, Ordering::Relaxed);
                let free = share.saturating_sub(used);
                Err(MemoryFull { class, asked: bytes, free, share, limit: self.limit })
            }
        }
    }

    /// A holding of `class` that begins with `bytes`.
    ///
    /// # Errors
    /// When they are not free.
    pub fn hold(self: &Arc<Self>, class: Class, bytes: u64) -> Result<Held, MemoryFull> {
        self.try_add(class, bytes)?;
        Ok(Held { budget: Arc::clone(self), class, bytes })
    }

    /// What `class` holds and held.
    pub fn figures(&self, class: Class) -> ClassFigures {
        let account = self.account(class);
        ClassFigures {
            share: self.share(class),
            used: account.used.load(Ordering::Relaxed),
            peak: account.peak.load(Ordering::Relaxed),
            refused: account.refused.load(Ordering::Relaxed),
        }
    }

    fn account(&self, class: Class) -> &Account {
        &self.accounts[class as usize]
    }
}

/// Bytes that one holder has; given back when it goes.
#[derive(Debug)]
pub struct Held {
    budget: Arc<MemoryBudget>,
    class: Class,
    bytes: u64,
}

impl Held {
    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// For whom they count.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Holds `bytes` from now on instead of what it held.
    ///
    /// # Errors
    /// When the difference is not free; it then holds what it held.
    pub fn resize(&mut self, bytes: u64) -> Result<(), MemoryFull> {
        if bytes > self.bytes {
            self.budget.try_add(self.class, bytes - self.bytes)?;
        } else {
            self.budget.sub(self.class, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Holds `more` bytes that are there already, whatever is free.
    pub fn grow(&mut self, more: u64) {
        self.budget.add(self.class, more);
        self.bytes += more;
    }

    /// Counts for `class` from now on, whatever is free there.
    pub fn move_to(&mut self, class: Class) {
        self.budget.add(class, self.bytes);
        self.budget.sub(self.class, self.bytes);
        self.class = class;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.sub(self.class, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_exceeded_and_comes_back() {
        let budget = MemoryBudget::new(MEMORY_LIMIT_MIN);
        let share = budget.share(Class::Query);
        let mut held = budget.hold(Class::Query, share - 10).unwrap();
        let refused = budget.hold(Class::Query, 11).unwrap_err();
        assert_eq!((refused.asked, refused.free, refused.limit), (11, 10, MEMORY_LIMIT_MIN));
        assert!(refused.to_string().contains("memory_limit"), "{refused}");
        held.resize(share).unwrap();
        assert!(held.resize(share + 1).is_err());
        assert_eq!(budget.free(Class::Query), 0);
        held.resize(5).unwrap();
        drop(held);
        let figures = budget.figures(Class::Query);
        assert_eq!(figures, ClassFigures { share, used: 0, peak: share, refused: 2 });
        assert_eq!(budget.used(Class::Cache), 0, "another class is not touched");
    }

    #[test]
    fn what_is_there_already_is_counted_and_keeps_others_out() {
        let budget = MemoryBudget::new(MEMORY_LIMIT_MIN);
        let mut held = budget.hold(Class::Memtable, 0).unwrap();
        held.grow(2 * budget.share(Class::Query));
        held.move_to(Class::Query);
        assert_eq!(budget.used(Class::Memtable), 0);
        assert!(budget.hold(Class::Query, 1).is_err());
        drop(held);
        assert!(budget.hold(Class::Query, 1).is_ok());
    }

    #[test]
    fn threads_do_not_take_more_than_there_is() {
        let budget = MemoryBudget::new(MEMORY_LIMIT_MIN);
        let share = budget.share(Class::Merge);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let held = budget.hold(Class::Merge, share / 3);
                        assert!(budget.used(Class::Merge) <= share);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(budget.used(Class::Merge), 0);
    }
}
