//! Owns the decision which segments of a table are merged next; merges nothing.
//!
//! Flushed segments (level 0) hold rows of any time. The oldest of them are merged together into segments of one day
//! each, or of one group of days. From then on only segments of overlapping days, a partition, are merged with each
//! other: neighbours of similar size while the day is open, all of them once it is closed and quiet.
//!
//! How often a row is written, at the most: by its flush; by the merge into its day; by each merge of neighbours, which
//! makes a file of a higher tier than any of them, and tiers grow by [`COMPACTION_FAN_IN`] times, so log8 of the day's rows by
//! those that a merge of flushed segments brings; when the day is finished; when its group is. Late rows make a day be
//! finished again when they are an eighth of it, or after a day of quiet.

mod partition;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;

use tidewell_codec::Tier;

use self::partition::{Partition, partitions};
use super::days::{GROUP_DAYS, Split, day_of, end_of, group_of};
use crate::limits::{COLD_BLOCK_ROWS, COMPACTION_FAN_IN, DAY_NS, SEGMENT_ROWS_MAX};

/// Flushed segments that one merge takes at the most, and layers that one merge of neighbours takes.
const INPUTS_MAX: usize = 64;
/// A day is closed when it has been over for so long.
const CLOSED_AFTER_NS: i64 = 600_000_000_000;
/// What got no segment for so long is quiet.
const QUIET_NS: i64 = 600_000_000_000;
/// Flushed segments of a quiet table are merged after so long, however few they are.
const FLUSHED_QUIET_NS: i64 = 3_600_000_000_000;
/// A finished day is finished again when what came late is at least its part of so much.
const LATE_PART: u64 = 8;
/// A group is merged when it has no more rows than so many full segments: beyond that its files are long enough.
const GROUP_SEGMENTS_MAX: u64 = 8;

/// What the decision needs to know of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub id: u64,
    /// 0 when it was flushed.
    pub level: u8,
    /// Lowest flush number.
    pub seq_min: u64,
    /// Highest flush number.
    pub seq_max: u64,
    /// Rows.
    pub rows: u64,
    /// Devices.
    pub devices: u64,
    /// First time.
    pub time_min: i64,
    /// Last time.
    pub time_max: i64,
    /// Whether its blocks are cold.
    pub cold: bool,
    /// When it was written.
    pub created_ns: i64,
    /// A merge of it failed lately: it is left alone.
    pub paused: bool,
}

/// A merge to do.
#[derive(Clone, Debug)]
pub struct Due {
    /// Numbers of the inputs.
    pub inputs: BTreeSet<u64>,
    /// Where its rows are cut into files.
    pub split: Split,
    /// How hard the codecs try.
    pub tier: Tier,
    /// The shard has so many flushed segments that reading them costs more than writing: the merge must not wait.
    pub urgent: bool,
}

/// The merge of flushed segments that is due, if there is one.
pub fn flushed(segments: &[Candidate], now_ns: i64) -> Option<Due> {
    let waiting: Vec<&Candidate> = segments.iter().filter(|s| s.level == 0).collect();
    let newest = waiting.iter().map(|s| s.created_ns).max()?;
    let quiet = newest.saturating_add(FLUSHED_QUIET_NS) <= now_ns;
    if waiting.len() < COMPACTION_FAN_IN && !quiet {
        return None;
    }
    let urgent = waiting.len() > 2 * COMPACTION_FAN_IN;
    // Behind, a merge writes what is cheap to write; the merges of the days make it cold.
    let tier = if urgent { Tier::Hot } else { Tier::Cold };
    merge_flushed(segments, waiting, tier, urgent, now_ns)
}

/// The merge of the oldest flushed segments, however few they are.
pub fn flushed_all(segments: &[Candidate], now_ns: i64) -> Option<Due> {
    let waiting = segments.iter().filter(|s| s.level == 0).collect();
    merge_flushed(segments, waiting, Tier::Cold, true, now_ns)
}

fn merge_flushed(
    segments: &[Candidate],
    mut waiting: Vec<&Candidate>,
    tier: Tier,
    urgent: bool,
    now_ns: i64,
) -> Option<Due> {
    // Always the oldest ones: those that stay are later in log order than all that was merged.
    waiting.sort_by_key(|s| s.seq_max);
    waiting.truncate(INPUTS_MAX);
    if waiting.is_empty() || waiting.iter().any(|s| s.paused) {
        return None;
    }
    let merged: Vec<&Candidate> = segments.iter().filter(|s| s.level > 0).collect();
    let mut wide: BTreeSet<i64> = merged.iter().filter_map(|s| wide_group(s)).collect();
    // Old days of slow devices, as when years of history are loaded: one file for each would be a file of a few rows.
    let taken: BTreeSet<i64> = merged.iter().flat_map(|s| groups(&[s])).collect();
    wide.extend(groups(&waiting).filter(|&group| {
        !taken.contains(&group) && is_closed(last_day_of(group), now_ns) && is_sparse(&waiting, group)
    }));
    Some(Due { inputs: ids(&waiting), split: Split { wide }, tier, urgent })
}

/// The merge of a partition that is due, if there is one: of neighbours of similar size, else of one that is closed, else of
/// a group of slow days.
pub fn partition(segments: &[Candidate], now_ns: i64) -> Option<Due> {
    let mut partitions = partitions(segments);
    partitions.retain(|partition| !partition.members().any(|s| s.paused));
    let neighbours = partitions.iter().find_map(|partition| {
        let run = partition.layers.get(neighbours(&partition.layers_rows())?)?;
        let inputs: Vec<&Candidate> = run.iter().flatten().copied().collect();
        let wide = partition.members().filter_map(wide_group).collect();
        Some(Due { inputs: ids(&inputs), split: Split { wide }, tier: Tier::Cold, urgent: false })
    });
    neighbours
        .or_else(|| partitions.iter().find(|p| is_due_whole(p, now_ns)).map(|p| whole(p, now_ns)))
        .or_else(|| sparse_group(&partitions, now_ns))
}

/// All partitions that are not one cold file yet, whole.
pub fn unfinished(segments: &[Candidate], now_ns: i64) -> Vec<Due> {
    let unfinished = |p: &&Partition<'_>| !p.is_one() || p.members().any(|s| !s.cold);
    partitions(segments).iter().filter(unfinished).map(|p| whole(p, now_ns)).collect()
}

/// A merged segment written anew by itself.
pub fn alone(segment: &Candidate) -> Due {
    let wide = wide_group(segment).into_iter().collect();
    Due { inputs: [segment.id].into(), split: Split { wide }, tier: Tier::Cold, urgent: false }
}

/// A run of neighbours that is worth a merge: it has [`COMPACTION_FAN_IN`] of one tier and none of a higher one, so that
/// the output is of a higher tier than each of them. `rows` are in log order.
fn neighbours(rows: &[u64]) -> Option<Range<usize>> {
    let tiers: Vec<u32> = rows.iter().map(|rows| tier_of(*rows)).collect();
    let mut levels: Vec<u32> = tiers.clone();
    levels.sort_unstable();
    levels.dedup();
    for level in levels {
        let mut start = 0;
        while start < tiers.len() {
            let len = tiers[start..].iter().take_while(|tier| **tier <= level).count().min(INPUTS_MAX);
            let run = start..start + len;
            if tiers[run.clone()].iter().filter(|tier| **tier == level).count() >= COMPACTION_FAN_IN {
                return Some(run);
            }
            start += len.max(1);
        }
    }
    None
}

fn tier_of(rows: u64) -> u32 {
    rows.max(1).ilog(COMPACTION_FAN_IN as u64)
}

/// Whether all of a partition should become one: its days are over, and nothing came for a while.
fn is_due_whole(partition: &Partition<'_>, now_ns: i64) -> bool {
    let newest = partition.members().map(|s| s.created_ns).max().unwrap_or(i64::MIN);
    if !is_closed(partition.last_day, now_ns) || newest.saturating_add(QUIET_NS) > now_ns {
        return false;
    }
    if partition.is_one() {
        return partition.members().any(|s| !s.cold);
    }
    let rows = partition.layers_rows();
    let largest = rows.iter().copied().max().unwrap_or(0);
    let others = rows.iter().sum::<u64>() - largest;
    rows.len() == 1 || others.saturating_mul(LATE_PART) >= largest || newest.saturating_add(DAY_NS) <= now_ns
}

fn whole(partition: &Partition<'_>, now_ns: i64) -> Due {
    let members: Vec<&Candidate> = partition.members().collect();
    // Of several days it is history of slow devices that stays together, or was merged by a program that did not cut.
    let wide = if partition.first_day == partition.last_day {
        BTreeSet::new()
    } else {
        groups(&members).filter(|g| is_closed(last_day_of(*g), now_ns) && is_sparse(&members, *g)).collect()
    };
    Due { inputs: ids(&members), split: Split { wide }, tier: Tier::Cold, urgent: false }
}

/// Days of one group whose blocks are far from full, each finished: together they make fuller ones.
fn sparse_group(partitions: &[Partition<'_>], now_ns: i64) -> Option<Due> {
    let mut start = 0;
    while start < partitions.len() {
        let group = group_of(partitions[start].first_day);
        let inside = partitions[start..].iter().take_while(|p| group_of(p.first_day) == group).count();
        let run = &partitions[start..start + inside];
        start += inside.max(1);
        let members: Vec<&Candidate> = run.iter().flat_map(Partition::members).collect();
        let rows: u64 = members.iter().map(|s| s.rows).sum();
        let newest = members.iter().map(|s| s.created_ns).max().unwrap_or(i64::MAX);
        if run.len() > 1
            && run.iter().all(|p| p.is_one() && group_of(p.last_day) == group)
            && is_closed(last_day_of(group), now_ns)
            && newest.saturating_add(QUIET_NS) <= now_ns
            && rows <= GROUP_SEGMENTS_MAX * SEGMENT_ROWS_MAX
            && is_sparse(&members, group)
        {
            let split = Split { wide: [group].into_iter().collect() };
            return Some(Due { inputs: ids(&members), split, tier: Tier::Cold, urgent: false });
        }
    }
    None
}

fn ids(segments: &[&Candidate]) -> BTreeSet<u64> {
    segments.iter().map(|s| s.id).collect()
}

fn is_closed(last_day: i64, now_ns: i64) -> bool {
    end_of(last_day).saturating_add(CLOSED_AFTER_NS) <= now_ns
}

fn last_day_of(group: i64) -> i64 {
    group * GROUP_DAYS + GROUP_DAYS - 1
}

/// The groups in which segments may have rows.
fn groups(segments: &[&Candidate]) -> impl Iterator<Item = i64> + use<> {
    let groups: BTreeSet<i64> =
        segments.iter().flat_map(|s| group_of(day_of(s.time_min))..=group_of(day_of(s.time_max))).collect();
    groups.into_iter()
}

/// The group of a segment of several days of one group.
fn wide_group(segment: &Candidate) -> Option<i64> {
    let (first, last) = (day_of(segment.time_min), day_of(segment.time_max));
    (first != last && group_of(first) == group_of(last)).then(|| group_of(first))
}

/// Whether a file for each day of `group` would have short blocks: so it is when the devices of a segment have few rows a
/// day there. Rows are taken as spread evenly over each segment's days.
fn is_sparse(segments: &[&Candidate], group: i64) -> bool {
    let (mut rows, mut device_days) = (0.0, 0.0);
    for segment in segments {
        let (first, last) = (day_of(segment.time_min), day_of(segment.time_max));
        let inside = last.min(last_day_of(group)) - first.max(group * GROUP_DAYS) + 1;
        if inside > 0 {
            rows += segment.rows as f64 * inside as f64 / (last - first + 1) as f64;
            device_days += segment.devices as f64 * inside as f64;
        }
    }
    rows < device_days * (COLD_BLOCK_ROWS / 4) as f64
}
