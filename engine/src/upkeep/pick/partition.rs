//! Owns how the merged segments of a table lie to each other: partitions in time, layers in log order.

use super::Candidate;
use crate::upkeep::days::day_of;

/// Merged segments whose days overlap, directly or through others.
#[derive(Debug)]
pub struct Partition<'a> {
    /// In log order. Segments of one layer come from one stretch of the log, which no other layer has a part of: any run of
    /// layers may be merged.
    pub layers: Vec<Vec<&'a Candidate>>,
    /// The first day.
    pub first_day: i64,
    /// The last day.
    pub last_day: i64,
}

impl<'a> Partition<'a> {
    /// All its segments, in log order.
    pub fn members(&self) -> impl Iterator<Item = &'a Candidate> + '_ {
        self.layers.iter().flatten().copied()
    }

    /// Whether one merge wrote all of it: no two have a time of a device in common.
    pub fn is_one(&self) -> bool {
        let mut ranges = self.members().map(|s| (s.seq_min, s.seq_max));
        let first = ranges.next();
        ranges.all(|range| Some(range) == first)
    }

    /// Rows of each layer.
    pub fn layers_rows(&self) -> Vec<u64> {
        self.layers.iter().map(|layer| layer.iter().map(|s| s.rows).sum()).collect()
    }
}

/// The partitions of the merged ones among `segments`, by time.
pub fn partitions(segments: &[Candidate]) -> Vec<Partition<'_>> {
    let mut merged: Vec<&Candidate> = segments.iter().filter(|s| s.level > 0).collect();
    merged.sort_by_key(|s| day_of(s.time_min));
    let mut partitions: Vec<(i64, i64, Vec<&Candidate>)> = Vec::new();
    for segment in merged {
        let (first, last) = (day_of(segment.time_min), day_of(segment.time_max));
        match partitions.last_mut() {
            Some((_, end, members)) if first <= *end => {
                *end = last.max(*end);
                members.push(segment);
            }
            _ => partitions.push((first, last, vec![segment])),
        }
    }
    partitions
        .into_iter()
        .map(|(first_day, last_day, members)| Partition { layers: layers(members), first_day, last_day })
        .collect()
}

/// Segments whose ranges of flush numbers overlap, directly or through others, together.
fn layers(mut members: Vec<&Candidate>) -> Vec<Vec<&Candidate>> {
    members.sort_by_key(|s| (s.seq_min, s.id));
    let mut layers: Vec<Vec<&Candidate>> = Vec::new();
    let mut seq_max = 0;
    for segment in members {
        match layers.last_mut() {
            Some(layer) if segment.seq_min <= seq_max => layer.push(segment),
            _ => layers.push(vec![segment]),
        }
        seq_max = seq_max.max(segment.seq_max);
    }
    layers
}
