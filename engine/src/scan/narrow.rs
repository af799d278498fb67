//! Owns a block's columns in narrow form, out of the cache or the file; does not decide which rows of them count.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use tidewell_codec::{NarrowColumn, NarrowTimes};

use super::cache::{CacheKey, Cached};
use crate::damage::DamagedPlace;
use crate::error::Result;
use crate::segment::{Block, DeviceBlocks};

/// Rows of a part in narrow form: a range of rows of one block.
#[derive(Debug, Default)]
pub struct NarrowRows {
    /// The part's rows among those of times and columns.
    pub range: Range<usize>,
    /// Times of all rows of the block; `None` when nobody asked for them.
    pub times: Option<Arc<NarrowTimes>>,
    /// All rows of the block, a column for each field of the scan; `None` where it was not asked for.
    pub columns: Vec<Option<Arc<NarrowColumn>>>,
}

impl NarrowRows {
    pub(super) fn clear(&mut self) {
        self.range = 0..0;
        self.times = None;
        self.columns.clear();
    }
}

/// One block as a part reads it.
pub(super) struct BlockSource {
    pub(super) blocks: DeviceBlocks,
    pub(super) block: usize,
    /// For each field of the scan its index in the segment's schema.
    pub(super) map: Arc<[Option<usize>]>,
    opened: OnceLock<Block>,
}

impl BlockSource {
    pub(super) fn new(blocks: DeviceBlocks, block: usize, map: Arc<[Option<usize>]>) -> Self {
        Self { blocks, block, map, opened: OnceLock::new() }
    }

    /// What is known to be wrong with the block.
    pub(super) fn known_damage(&self) -> Option<DamagedPlace> {
        self.blocks.known_damage(self.block)
    }

    /// Reads the meta of the block once; readers that come at the same time may both read it.
    pub(super) fn open(&self) -> Result<&Block> {
        match self.opened.get() {
            Some(block) => Ok(block),
            None => {
                let read = self.blocks.block(self.block)?;
                Ok(self.opened.get_or_init(|| read))
            }
        }
    }

    /// The times when they are in the cache or will be from now on; `None` when they should be decoded as they are.
    pub(super) fn kept_times(&self) -> Result<Option<Arc<NarrowTimes>>> {
        let Some((cache, key)) = self.blocks.cache_key(self.block, CacheKey::TIMES) else { return Ok(None) };
        if let Some(Cached::Times(times)) = cache.get(key) {
            return Ok(Some(times));
        }
        // Times are mostly steady and then take no room.
        if !cache.wants(key, self.blocks.meta(self.block).rows * 4) {
            return Ok(None);
        }
        let times = Arc::new(self.open()?.narrow_times()?);
        cache.insert(key, Cached::Times(Arc::clone(&times)));
        Ok(Some(times))
    }

    /// The times.
    pub(super) fn times(&self) -> Result<Arc<NarrowTimes>> {
        match self.kept_times()? {
            Some(times) => Ok(times),
            None => Ok(Arc::new(self.open()?.narrow_times()?)),
        }
    }

    /// `field` (an index into the segment's schema) when it is in the cache or will be from now on; `None` when it
    /// should be decoded as it is.
    pub(super) fn kept_field(&self, field: usize) -> Result<Option<Arc<NarrowColumn>>> {
        let Some((cache, key)) = self.blocks.cache_key(self.block, field as u32) else { return Ok(None) };
        if let Some(Cached::Column(column)) = cache.get(key) {
            return Ok(Some(column));
        }
        if !cache.wants(key, self.blocks.meta(self.block).rows * 2) {
            return Ok(None);
        }
        let column = Arc::new(self.open()?.narrow_field(field)?);
        cache.insert(key, Cached::Column(Arc::clone(&column)));
        Ok(Some(column))
    }

    /// `field` (an index into the segment's schema).
    pub(super) fn field(&self, field: usize) -> Result<Arc<NarrowColumn>> {
        match self.kept_field(field)? {
            Some(column) => Ok(column),
            None => Ok(Arc::new(self.open()?.narrow_field(field)?)),
        }
    }
}
