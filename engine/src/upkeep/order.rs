//! Owns the check that segments lie to each other as merges leave them, so that the order of writes is the order of flush
//! numbers; mends nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::manifest::SegmentMeta;
use crate::segment::Segment;

/// What the manifest says of a segment, and the segment.
pub type Checked = (SegmentMeta, Arc<Segment>);

/// Says of each pair of segments of one table and shard that contradict each other why they do.
pub fn order_violations(segments: &[Checked]) -> Vec<String> {
    let mut tables: BTreeMap<(u32, &str), Vec<&Checked>> = BTreeMap::new();
    for segment in segments {
        tables.entry((segment.0.shard, &segment.0.table)).or_default().push(segment);
    }
    let mut found = Vec::new();
    for ((shard, table), list) in &tables {
        let place = format!("table {table} of shard {shard}");
        let (flushed, merged): (Vec<_>, Vec<_>) = list.iter().copied().partition(|(meta, _)| meta.level == 0);
        for (meta, _) in &flushed {
            // Below them is allowed: it waited for the repair of a neighbour.
            let crossed = |other: &SegmentMeta| other.seq_max >= meta.seq_min && other.seq_min <= meta.seq_max;
            found.extend(merged.iter().filter(|(other, _)| crossed(other)).map(|(other, _)| {
                format!(
                    "{place}: flushed segment {:016x} has flush number {}, which is among those of merged segment {:016x} ({} to {})",
                    meta.id, meta.seq_min, other.id, other.seq_min, other.seq_max
                )
            }));
        }
        let mut by_time = merged;
        by_time.sort_by_key(|(meta, _)| meta.time_min);
        for (at, a) in by_time.iter().enumerate() {
            let overlapping = by_time[at + 1..].iter().take_while(|b| b.0.time_min <= a.0.time_max);
            found.extend(overlapping.filter(|b| !are_ordered(a, b)).map(|b| {
                format!(
                    "{place}: merged segments {:016x} (flush numbers {} to {}) and {:016x} ({} to {}) overlap in time, and neither is later",
                    a.0.id, a.0.seq_min, a.0.seq_max, b.0.id, b.0.seq_min, b.0.seq_max
                )
            }));
        }
        let mut seqs: Vec<_> = flushed.iter().map(|(meta, _)| (meta.seq_min, meta.id)).collect();
        seqs.sort_unstable();
        found.extend(seqs.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| {
            format!(
                "{place}: flushed segments {:016x} and {:016x} have one flush number, {}",
                pair[0].1, pair[1].1, pair[0].0
            )
        }));
    }
    found
}

/// Whether one of two merged segments is later in log order, or they are of one merge and hold different devices.
fn are_ordered(a: &Checked, b: &Checked) -> bool {
    if a.0.seq_max < b.0.seq_min || b.0.seq_max < a.0.seq_min {
        return true;
    }
    (a.0.seq_min, a.0.seq_max) == (b.0.seq_min, b.0.seq_max)
        && match (device_range(&a.1), device_range(&b.1)) {
            (Some(a), Some(b)) => a.1 < b.0 || b.1 < a.0,
            // Damage of the index, which is reported where it is read for its own sake.
            _ => true,
        }
}

/// The first and the last device.
fn device_range(segment: &Arc<Segment>) -> Option<(String, String)> {
    let mut devices = segment.devices();
    let first = devices.next()?.ok()?.id().to_owned();
    let mut last = first.clone();
    for device in devices {
        last = device.ok()?.id().to_owned();
    }
    Some((first, last))
}
