//! Owns decoded columns of blocks and of summaries that are read again and again, within a bound of bytes; does not decode.
//!
//! Keys name immutable bytes: segment ids never repeat, so nothing is ever stale, and columns of segments that are gone
//! are the first to go when room is needed. While there is room everything that is read is kept; then a column is kept
//! when it was read twice within a while, so that one long scan does not push out what is asked every second.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::sync::Mutex;
use tidewell_codec::{NarrowColumn, NarrowTimes};

use crate::memory::{Class, MemoryBudget};
use crate::summary::Entry;

/// Parts with a lock each.
const SHARDS: usize = 16;
/// Memory that an entry takes beside its column, about.
const ENTRY_BYTES: usize = 128;
/// Keys of each part that were refused last and are kept when they come again.
const REFUSED: usize = 4_096;

/// What is kept: the times or one field of one block of a segment, or of one device's entry in a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheKey {
    /// Id of the segment or the summary, which share their numbers.
    pub segment: u64,
    /// Where the block's data or the entry begins.
    pub block: u64,
    /// Index into the schema of the file, or one of the constants.
    pub field: u32,
}

impl CacheKey {
    /// The times of a block.
    pub(crate) const TIMES: u32 = u32::MAX;
    /// What an entry says of all fields.
    pub(crate) const ENTRY: u32 = u32::MAX;

    fn mixed(self) -> u64 {
        let mixed = (self.segment.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.block)
            .wrapping_add(u64::from(self.field) << 48)
            .wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }
}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.mixed());
    }
}

/// Keys are mixed already, and nobody chooses them.
#[derive(Default)]
pub(crate) struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys write one word");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// A decoded column or the times of a block, or the steps of a summary.
#[derive(Clone, Debug)]
pub(crate) enum Cached {
    Column(Arc<NarrowColumn>),
    Times(Arc<NarrowTimes>),
    Entry(Arc<Entry>),
}

impl Cached {
    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Self::Column(column) => column.bytes(),
                Self::Times(times) => times.bytes(),
                Self::Entry(entry) => entry.bytes(),
            }
    }
}

/// Figures of a cache at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Bytes that it may hold.
    pub limit: u64,
    /// Bytes that it holds, about.
    pub bytes: u64,
    /// Columns, times and steps that it holds.
    pub entries: u64,
    /// Reads that were answered.
    pub hits: u64,
    /// Reads that had to decode.
    pub misses: u64,
    /// Entries that had to make room.
    pub evicted: u64,
}

/// Decoded columns of blocks and summaries, shared by all queries.
pub struct BlockCache {
    shards: [Mutex<Shard>; SHARDS],
    limit: AtomicUsize,
    bytes: AtomicUsize,
    evicted: AtomicU64,
    /// Where its bytes count, if anywhere.
    memory: Option<Arc<MemoryBudget>>,
}

#[derive(Default)]
struct Shard {
    slots: HashMap<CacheKey, usize, BuildHasherDefault<Mixed>>,
    /// The ring that the hand goes round.
    ring: Vec<Slot>,
    hand: usize,
    bytes: usize,
    /// Keys that had no room when they came, by their hash.
    refused: Vec<u32>,
    hits: u64,
    misses: u64,
}

struct Slot {
    key: CacheKey,
    value: Cached,
    bytes: usize,
    /// Read since the hand passed.
    read: bool,
}

impl BlockCache {
    /// An empty cache of at most `limit` bytes; of 0 bytes it keeps nothing.
    pub fn new(limit: usize) -> Self {
        Self::with(limit, None)
    }

    fn with(limit: usize, memory: Option<Arc<MemoryBudget>>) -> Self {
        Self { shards: Default::default(), limit: limit.into(), bytes: 0.into(), evicted: 0.into(), memory }
    }

    /// An empty cache that holds at most its share of `memory`, and at most `limit` bytes.
    pub fn within(memory: &Arc<MemoryBudget>, limit: usize) -> Self {
        let share = usize::try_from(memory.share(Class::Cache)).unwrap_or(usize::MAX);
        Self::with(limit.min(share), Some(Arc::clone(memory)))
    }

    /// Changes the bound; what does not fit goes now.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
        for shard in &self.shards {
            self.make_room(&mut shard.lock(), 0);
        }
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Its figures.
    pub fn figures(&self) -> CacheFigures {
        let mut figures = CacheFigures {
            limit: self.limit.load(Relaxed) as u64,
            bytes: self.bytes() as u64,
            evicted: self.evicted.load(Relaxed),
            ..CacheFigures::default()
        };
        for shard in &self.shards {
            let shard = shard.lock();
            figures.entries += shard.ring.len() as u64;
            figures.hits += shard.hits;
            figures.misses += shard.misses;
        }
        figures
    }

    /// What is kept under `key`.
    pub(crate) fn get(&self, key: CacheKey) -> Option<Cached> {
        let mut shard = self.shard(key).lock();
        let Some(&at) = shard.slots.get(&key) else {
            shard.misses += 1;
            return None;
        };
        shard.hits += 1;
        let slot = &mut shard.ring[at];
        slot.read = true;
        Some(slot.value.clone())
    }

    /// Whether something of about `bytes` that was just missed would be kept; the second time it is.
    pub(crate) fn wants(&self, key: CacheKey, bytes: usize) -> bool {
        let share = self.share();
        if !self.fits(bytes) {
            return false;
        }
        let mut shard = self.shard(key).lock();
        if shard.bytes + bytes <= share {
            return true;
        }
        let mixed = key.mixed();
        if shard.refused.is_empty() {
            shard.refused = vec![0; REFUSED];
        }
        let slot = &mut shard.refused[(mixed >> 8) as usize % REFUSED];
        let print = (mixed >> 32) as u32 | 1;
        std::mem::replace(slot, print) == print
    }

    /// Keeps `value` under `key`, in the place of others when there is no room.
    pub(crate) fn insert(&self, key: CacheKey, value: Cached) {
        let bytes = value.bytes();
        if bytes > self.share() {
            return;
        }
        let mut shard = self.shard(key).lock();
        self.make_room(&mut shard, bytes);
        let shard = &mut *shard;
        // Two readers may have decoded it at a time.
        if let Place::Vacant(entry) = shard.slots.entry(key) {
            entry.insert(shard.ring.len());
            shard.ring.push(Slot { key, value, bytes, read: false });
            shard.bytes += bytes;
            self.bytes.fetch_add(bytes, Relaxed);
            if let Some(memory) = &self.memory {
                memory.add(Class::Cache, bytes as u64);
            }
        }
    }

    /// Whether a part of about `bytes` is small enough to be kept at all.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.share() / 4
    }

    /// Counts `bytes` more for what is kept under `key`, in the place of others when there is no room. What has gone in the
    /// meantime is its readers' alone.
    pub(crate) fn grow(&self, key: CacheKey, bytes: usize) {
        let mut shard = self.shard(key).lock();
        let shard = &mut *shard;
        let Some(&at) = shard.slots.get(&key) else { return };
        let slot = &mut shard.ring[at];
        (slot.bytes, slot.read) = (slot.bytes + bytes, true);
        shard.bytes += bytes;
        self.bytes.fetch_add(bytes, Relaxed);
        if let Some(memory) = &self.memory {
            memory.add(Class::Cache, bytes as u64);
        }
        self.make_room(shard, 0);
    }

    /// Lets go of what was not read since the hand came by, until `bytes` more fit.
    fn make_room(&self, shard: &mut Shard, bytes: usize) {
        let share = self.share();
        while shard.bytes + bytes > share && !shard.ring.is_empty() {
            if shard.hand >= shard.ring.len() {
                shard.hand = 0;
            }
            let slot = &mut shard.ring[shard.hand];
            if std::mem::take(&mut slot.read) {
                shard.hand += 1;
                continue;
            }
            let gone = shard.ring.swap_remove(shard.hand);
            shard.slots.remove(&gone.key);
            // The last one took the free place; the hand passes it by this time.
            if let Some(moved) = shard.ring.get(shard.hand) {
                shard.slots.insert(moved.key, shard.hand);
                shard.hand += 1;
            }
            shard.bytes -= gone.bytes;
            self.let_go(gone.bytes);
            self.evicted.fetch_add(1, Relaxed);
        }
    }

    fn let_go(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Relaxed);
        if let Some(memory) = &self.memory {
            memory.sub(Class::Cache, bytes as u64);
        }
    }

    fn share(&self) -> usize {
        self.limit.load(Relaxed) / SHARDS
    }

    fn shard(&self, key: CacheKey) -> &Mutex<Shard> {
        // Bits that the table inside does not look at first.
        &self.shards[(key.mixed() >> 40) as usize % SHARDS]
    }
}

impl Drop for BlockCache {
    fn drop(&mut self) {
        self.let_go(self.bytes());
    }
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache").field("figures", &self.figures()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(block: u64) -> CacheKey {
        CacheKey { segment: 7, block, field: 0 }
    }

    fn times(rows: usize) -> Cached {
        Cached::Times(Arc::new(NarrowTimes::Plain(vec![0; rows])))
    }

    #[test]
    fn bytes_stay_within_the_limit_and_what_is_read_stays() {
        let cache = BlockCache::new(64 << 10);
        for block in 0..10_000 {
            cache.insert(key(block), times(16));
            assert!(cache.bytes() <= 64 << 10);
            // One block that is read after each other one.
            if cache.get(key(3)).is_none() {
                assert!(block < 3, "a block that is always read was pushed out at {block}");
            }
        }
        let figures = cache.figures();
        assert!(figures.evicted > 9_000 && figures.entries > 100, "{figures:?}");
        assert_eq!(figures.hits, 9_997);
        for shard in &cache.shards {
            let shard = shard.lock();
            assert_eq!(shard.bytes, shard.ring.iter().map(|slot| slot.bytes).sum::<usize>());
            assert!(shard.ring.iter().enumerate().all(|(at, slot)| shard.slots[&slot.key] == at));
            assert_eq!(shard.slots.len(), shard.ring.len());
        }
        cache.set_limit(0);
        assert_eq!((cache.bytes(), cache.figures().entries), (0, 0));
        cache.insert(key(1), times(1));
        assert!(cache.get(key(1)).is_none());
    }

    #[test]
    fn a_full_cache_takes_what_comes_twice() {
        let cache = BlockCache::new(64 << 10);
        assert!(cache.wants(key(0), 500));
        (0..2_000).for_each(|block| cache.insert(key(block), times(16)));
        let new: Vec<CacheKey> = (5_000..5_050).map(key).collect();
        let first = new.iter().filter(|key| cache.wants(**key, 500)).count();
        let second = new.iter().filter(|key| cache.wants(**key, 500)).count();
        assert_eq!((first, second), (0, 50));
        assert!(!cache.wants(key(0), 64 << 10));
    }

    #[test]
    fn its_bytes_count_in_the_budget() {
        let memory = MemoryBudget::new(1 << 30);
        let cache = BlockCache::within(&memory, 64 << 10);
        (0..2_000).for_each(|block| cache.insert(key(block), times(16)));
        assert!(cache.bytes() > 32 << 10);
        assert_eq!(memory.used(Class::Cache), cache.bytes() as u64);
        cache.set_limit(8 << 10);
        assert_eq!(memory.used(Class::Cache), cache.bytes() as u64);
        drop(cache);
        assert_eq!(memory.used(Class::Cache), 0);
        assert_eq!(BlockCache::within(&memory, usize::MAX).figures().limit, memory.share(Class::Cache));
    }

    #[test]
    fn what_grows_is_counted_until_it_goes() {
        let memory = MemoryBudget::new(1 << 30);
        let cache = BlockCache::within(&memory, 64 << 10);
        cache.insert(key(1), times(16));
        let before = cache.bytes();
        cache.grow(key(1), 1_000);
        cache.grow(key(2), 1_000);
        assert_eq!((cache.bytes(), memory.used(Class::Cache)), (before + 1_000, before as u64 + 1_000));
        // More than there is room for: it goes, with all that it grew by.
        cache.grow(key(1), 64 << 10);
        assert_eq!((cache.bytes(), memory.used(Class::Cache)), (0, 0));
        assert!(cache.fits(1_024) && !cache.fits(1_025));
    }

    #[test]
    fn keys_of_one_segment_spread_over_all_parts() {
        let cache = BlockCache::new(1 << 20);
        for block in 0..1_000 {
            for field in [0, 1, CacheKey::TIMES] {
                cache.insert(CacheKey { segment: 1, block: block * 4_096, field }, times(0));
            }
        }
        assert!(cache.shards.iter().all(|shard| (100..300).contains(&shard.lock().ring.len())));
    }
}
