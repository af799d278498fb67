//! Owns the decision which segments of a table are merged next; merges nothing.
//!
//! Flushed segments (level 0) hold rows of any time. The oldest of them are merged together into segments of one day
//! each, or of one group of days. From then on only segments of overlapping days, a partition, are merged with each
//! other: neighbours of similar size while the day is open, all of them once it is closed and quiet.
//!
//! How often a row is written, at the most: by its flush; by the merge into its day; by each merge of neighbours, which
//! makes a file of a higher tier than any of them, and tiers grow by [`COMPACTION_FAN_IN`] times, so log8 of the day's rows
//! by those that a merge of flushed segments brings; when the day is finished; when each of its two groups is. Late rows
//! make a day be finished again when they are an eighth of it, or after a day of quiet.

mod partition;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;

use tidewell_codec::Tier;

use self::partition::{Partition, partitions};
use super::days::{GROUP_DAYS, Group, Split, day_of, end_of};
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

/// What the decision knows beside the segments.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The time.
    pub now_ns: i64,
    /// Days that may share a file at the most. A file goes when all its days are beyond retention, so it must not have many
    /// more than are kept.
    pub group_days_max: i64,
}

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
pub fn flushed(segments: &[Candidate], terms: Terms) -> Option<Due> {
    let waiting: Vec<&Candidate> = segments.iter().filter(|s| s.level == 0).collect();
    let newest = waiting.iter().map(|s| s.created_ns).max()?;
    let quiet = newest.saturating_add(FLUSHED_QUIET_NS) <= terms.now_ns;
    if waiting.len() < COMPACTION_FAN_IN && !quiet {
        return None;
    }
    let urgent = waiting.len() > 2 * COMPACTION_FAN_IN;
    // Behind, a merge writes what is cheap to write; the merges of the days make it cold.
    let tier = if urgent { Tier::Hot } else { Tier::Cold };
    merge_flushed(segments, waiting, tier, urgent, terms)
}

/// The merge of the oldest flushed segments, however few they are.
pub fn flushed_all(segments: &[Candidate], terms: Terms) -> Option<Due> {
    let waiting = segments.iter().filter(|s| s.level == 0).collect();
    merge_flushed(segments, waiting, Tier::Cold, true, terms)
}

fn merge_flushed(
    segments: &[Candidate],
    mut waiting: Vec<&Candidate>,
    tier: Tier,
    urgent: bool,
    terms: Terms,
) -> Option<Due> {
    // Always the oldest ones: those that stay are later in log order than all that was merged.
    waiting.sort_by_key(|s| s.seq_max);
    waiting.truncate(INPUTS_MAX);
    if waiting.is_empty() || waiting.iter().any(|s| s.paused) {
        return None;
    }
    let merged: Vec<&Candidate> = segments.iter().filter(|s| s.level > 0).collect();
    let mut wide: BTreeSet<Group> = merged.iter().filter_map(|s| wide_group(s)).collect();
    // Old days of slow devices, as when years of history are loaded: one file for each would be a file of a few rows.
    let is_taken = |group: Group| merged.iter().any(|s| overlap(s, group).is_some());
    wide.extend(sparse_groups(&waiting, terms, is_taken));
    Some(Due { inputs: ids(&waiting), split: Split { wide }, tier, urgent })
}

/// The merge of a partition that is due, if there is one: of neighbours of similar size, else of one that is closed, else of
/// a group of slow days.
pub fn partition(segments: &[Candidate], terms: Terms) -> Option<Due> {
    let mut partitions = partitions(segments);
    partitions.retain(|partition| !partition.members().any(|s| s.paused));
    let neighbours = partitions.iter().find_map(|partition| {
        let run = partition.layers.get(neighbours(&partition.layers_rows())?)?;
        let inputs: Vec<&Candidate> = run.iter().flatten().copied().collect();
        let wide = partition.members().filter_map(wide_group).collect();
        Some(Due { inputs: ids(&inputs), split: Split { wide }, tier: Tier::Cold, urgent: false })
    });
    neighbours
        .or_else(|| partitions.iter().find(|p| is_due_whole(p, terms.now_ns)).map(|p| whole(p, terms)))
        .or_else(|| GROUP_DAYS.iter().rev().find_map(|days| sparse_group(&partitions, *days, terms)))
}

/// All partitions that are not one cold file yet, whole.
pub fn unfinished(segments: &[Candidate], terms: Terms) -> Vec<Due> {
    let unfinished = |p: &&Partition<'_>| !p.is_one() || p.members().any(|s| !s.cold);
    partitions(segments).iter().filter(unfinished).map(|p| whole(p, terms)).collect()
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

fn whole(partition: &Partition<'_>, terms: Terms) -> Due {
    let members: Vec<&Candidate> = partition.members().collect();
    // Of several days it is history of slow devices that stays together, or was merged by a program that did not cut.
    let wide = if partition.first_day == partition.last_day {
        BTreeSet::new()
    } else {
        sparse_groups(&members, terms, |_| false)
    };
    Due { inputs: ids(&members), split: Split { wide }, tier: Tier::Cold, urgent: false }
}

/// What lies in one group of `days` and has blocks that are far from full, each finished: together they make fuller ones.
fn sparse_group(partitions: &[Partition<'_>], days: i64, terms: Terms) -> Option<Due> {
    let mut start = 0;
    while start < partitions.len() {
        let group = Group::of(partitions[start].first_day, days);
        let inside = partitions[start..].iter().take_while(|p| p.first_day <= group.last_day()).count();
        let run = &partitions[start..start + inside];
        start += inside.max(1);
        let members: Vec<&Candidate> = run.iter().flat_map(Partition::members).collect();
        let rows: u64 = members.iter().map(|s| s.rows).sum();
        let newest = members.iter().map(|s| s.created_ns).max().unwrap_or(i64::MAX);
        if run.len() > 1
            && run.iter().all(|p| p.is_one() && p.last_day <= group.last_day())
            && newest.saturating_add(QUIET_NS) <= terms.now_ns
            && rows <= GROUP_SEGMENTS_MAX * SEGMENT_ROWS_MAX
            && is_sparse(&members, group, terms)
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

/// The group of a segment of several days of one group.
fn wide_group(segment: &Candidate) -> Option<Group> {
    let (first, last) = (day_of(segment.time_min), day_of(segment.time_max));
    let groups = GROUP_DAYS.iter().rev().map(|days| Group::of(first, *days));
    groups.into_iter().find(|group| first != last && last <= group.last_day())
}

/// The first and the last day of a segment inside `group`.
fn overlap(segment: &Candidate, group: Group) -> Option<(i64, i64)> {
    let (first, last) = (day_of(segment.time_min), day_of(segment.time_max));
    let (first, last) = (first.max(group.first_day), last.min(group.last_day()));
    (first <= last).then_some((first, last))
}

/// The groups in which a file for each part would have short blocks, the widest ones that are not taken.
fn sparse_groups(segments: &[&Candidate], terms: Terms, is_taken: impl Fn(Group) -> bool) -> BTreeSet<Group> {
    let mut found: BTreeSet<Group> = BTreeSet::new();
    for days in GROUP_DAYS {
        let groups: BTreeSet<Group> = segments
            .iter()
            .flat_map(|s| day_of(s.time_min).div_euclid(days)..=day_of(s.time_max).div_euclid(days))
            .map(|number| Group::of(number * days, days))
            .collect();
        let is_inside =
            |group: &Group| GROUP_DAYS.iter().any(|days| found.contains(&Group::of(group.first_day, *days)));
        let is_free = |group: &Group| !is_inside(group) && !is_taken(*group);
        let sparse: Vec<Group> =
            groups.into_iter().filter(|group| is_free(group) && is_sparse(segments, *group, terms)).collect();
        found.extend(sparse);
    }
    found
}

/// Whether `group` is over and a file for each part of it, days or narrower groups, would have short blocks: so it is when
/// the devices of a segment have few rows a part. Rows are taken as spread evenly over each segment's days.
fn is_sparse(segments: &[&Candidate], group: Group, terms: Terms) -> bool {
    if group.days > terms.group_days_max || !is_closed(group.last_day(), terms.now_ns) {
        return false;
    }
    let part = GROUP_DAYS.iter().copied().find(|days| *days < group.days).unwrap_or(1);
    let (mut rows, mut device_parts) = (0.0, 0.0);
    for segment in segments {
        if let Some((first, last)) = overlap(segment, group) {
            let all = day_of(segment.time_max) - day_of(segment.time_min) + 1;
            let inside = last - first + 1;
            rows += segment.rows as f64 * inside as f64 / all as f64;
            device_parts += segment.devices as f64 * (inside as f64 / part as f64).max(1.0);
        }
    }
    rows < device_parts * (COLD_BLOCK_ROWS / 4) as f64
}
