//! Owns the decision which segments of a table are merged next; merges nothing.
//!
//! Flushed segments (level 0) hold rows of any time. The oldest of them are merged together into segments of one day
//! each, or of one group of days. From then on only segments of overlapping days, a partition, are merged with each
//! other, and only neighbours in log order.

use std::sync::Arc;

use tidewell_codec::Tier;

use super::days::{Split, day_of, group_of};
use crate::erase::Masks;
use crate::error::Result;
use crate::limits::COMPACTION_FAN_IN;
use crate::shard::LiveSegment;

/// A merge to do.
pub struct Due {
    /// In log order.
    pub inputs: Vec<Arc<LiveSegment>>,
    /// Where its rows are cut into files.
    pub split: Split,
}

/// The next merge of a table whose segments, in log order, are `segments`.
pub fn due(segments: &[Arc<LiveSegment>]) -> Option<Due> {
    if let Some(due) = flushed(segments, COMPACTION_FAN_IN) {
        return Some(due);
    }
    let mut partitions = partitions(segments);
    let at = partitions.iter().position(|partition| {
        let level = partition[0].meta.level;
        partition.len() >= COMPACTION_FAN_IN && partition.iter().all(|s| s.meta.level == level)
    })?;
    Some(whole(partitions.swap_remove(at)))
}

/// The flushed segments, when there are at least `count`.
pub fn flushed(segments: &[Arc<LiveSegment>], count: usize) -> Option<Due> {
    let inputs: Vec<_> = segments.iter().filter(|s| s.meta.level == 0).cloned().collect();
    let merged = segments.iter().filter(|s| s.meta.level > 0);
    (inputs.len() >= count).then(|| Due { inputs, split: Split { wide: merged.flat_map(wide_group).collect() } })
}

/// Partitions that are not one cold file yet, whole.
pub fn unfinished(segments: &[Arc<LiveSegment>]) -> Vec<Due> {
    let unfinished = |partition: &Vec<Arc<LiveSegment>>| {
        let seq_max = partition[0].meta.seq_max;
        partition.iter().any(|s| s.meta.seq_max != seq_max || s.segment.tier() == Tier::Hot)
    };
    partitions(segments).into_iter().filter(unfinished).map(whole).collect()
}

/// A merge of segments with rows that were deleted before `deleted_before_ns`, or that lie before the table's cut-off: the
/// flushed ones together, any other one by itself.
///
/// # Errors
/// A damaged index.
pub fn erasing(segments: &[Arc<LiveSegment>], masks: &Masks, deleted_before_ns: i64) -> Result<Option<Due>> {
    for segment in segments {
        let flushed_part = segment.meta.level == 0;
        let cut = !flushed_part && masks.cut_share(&segment.meta) >= 0.5;
        if cut || masks.has_work(segment, deleted_before_ns)? {
            return Ok(if flushed_part { flushed(segments, 1) } else { Some(whole(vec![Arc::clone(segment)])) });
        }
    }
    Ok(None)
}

/// Whether the segment may have rows that readers do not see any more.
///
/// # Errors
/// A damaged index.
pub fn hides_rows(segment: &LiveSegment, masks: &Masks, deleted_before_ns: i64) -> Result<bool> {
    Ok(masks.cut_share(&segment.meta) > 0.0 || masks.has_work(segment, deleted_before_ns)?)
}

/// A merge of all of `inputs`.
pub fn whole(inputs: Vec<Arc<LiveSegment>>) -> Due {
    let split = Split { wide: inputs.iter().flat_map(wide_group).collect() };
    Due { inputs, split }
}

/// The group of a segment of several days of one group.
fn wide_group(segment: &Arc<LiveSegment>) -> Option<i64> {
    let (first, last) = (day_of(segment.meta.time_min), day_of(segment.meta.time_max));
    (first != last && group_of(first) == group_of(last)).then(|| group_of(first))
}

/// Merged segments by the days that they share, directly or through others; each partition in log order.
fn partitions(segments: &[Arc<LiveSegment>]) -> Vec<Vec<Arc<LiveSegment>>> {
    let mut merged: Vec<_> = segments.iter().filter(|s| s.meta.level > 0).cloned().collect();
    merged.sort_by_key(|s| day_of(s.meta.time_min));
    let mut partitions: Vec<Vec<Arc<LiveSegment>>> = Vec::new();
    let mut last_day = i64::MIN;
    for segment in merged {
        let (first, last) = (day_of(segment.meta.time_min), day_of(segment.meta.time_max));
        match partitions.last_mut() {
            Some(partition) if first <= last_day => partition.push(segment),
            _ => partitions.push(vec![segment]),
        }
        last_day = last_day.max(last);
    }
    for partition in &mut partitions {
        partition.sort_by_key(|s| (s.meta.seq_max, s.meta.id));
    }
    partitions
}
