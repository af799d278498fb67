//! Owns segments: immutable files of column blocks, one table of one shard; does not know which of them exist.
//!
//! A [`SegmentWriter`] writes devices in ascending order and blocks in rising time. A [`Segment`] keeps nothing per
//! device in memory: it is opened by its header and the root of its index, and everything else is looked up in the
//! mapped file and checked where it is touched. The bytes are in `docs/format/segment.md` and `format`.

pub(crate) mod bytes;
mod directory;
mod dump;
pub(crate) mod format;
pub(crate) mod index;
pub(crate) mod reader;
mod rescue;
mod stats;
mod verify;
mod writer;
pub(crate) mod zone;

#[cfg(test)]
pub(crate) mod tests;

pub use dump::dump;
pub use reader::{Block, BlockMeta, DeviceBlocks, DeviceEntry, Segment};
pub use rescue::{Rescued, rescue};
pub use stats::{empty_stats, field_stats};
pub use verify::{Damage, verify};
pub use writer::{SegmentSpec, SegmentSummary, SegmentWriter};

/// Folder of segments within the data directory.
pub const SEGMENT_DIR: &str = "seg";

/// The file of segment `id`, relative to the data directory.
pub fn segment_name(id: u64) -> String {
    format!("{SEGMENT_DIR}/{id:016x}.seg")
}

/// The id of the segment called `name`, with or without its folder; `None` for any other file.
pub fn segment_id(name: &str) -> Option<u64> {
    let stem = name.rsplit('/').next()?.strip_suffix(".seg")?;
    let canonical = stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    canonical.then(|| u64::from_str_radix(stem, 16).ok()).flatten()
}
