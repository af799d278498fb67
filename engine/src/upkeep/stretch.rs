//! Owns which segments may be merged with each other at all: none that would change what is later; picks no merge.
//!
//! A damaged segment is left out of merges until it is repaired, and comes back at its place in log order. So no merge
//! may reach across that place: its output would count as later than rows that are later than part of it.

use std::sync::Arc;

use super::days::day_of;
use crate::damage::SetAside;
use crate::manifest::SegmentMeta;
use crate::shard::LiveSegment;

/// Segments of one table whose merges change no order.
#[derive(Default)]
pub struct Stretch {
    /// In log order.
    pub segments: Vec<Arc<LiveSegment>>,
    /// Flushed segments behind which later ones were merged already, while a damaged one stood between: they must not wait
    /// to become more.
    pub overdue: bool,
}

/// Cuts a table's segments, in log order, at flushed ones that are damaged or set aside, and where flushed ones are older
/// than merged ones. Merged segments with days of a damaged merged one are left out with it.
pub fn stretches(segments: &[Arc<LiveSegment>], set_aside: &[SetAside]) -> Vec<Stretch> {
    let Some(first) = segments.first() else { return Vec::new() };
    let aside = set_aside.iter().map(|aside| &aside.meta).filter(|meta| meta.table == first.meta.table);
    let is_damaged = |live: &LiveSegment| !live.segment.known_damage().is_empty();
    let damaged = segments.iter().filter(|live| is_damaged(live)).map(|live| &live.meta);
    let (flushed, merged): (Vec<_>, Vec<_>) = aside.chain(damaged).partition(|meta| meta.level == 0);
    let shares_days = |live: &LiveSegment| {
        let days = |meta: &SegmentMeta| (day_of(meta.time_min), day_of(meta.time_max));
        let (first, last) = days(&live.meta);
        live.meta.level > 0 && merged.iter().map(|meta| days(meta)).any(|(from, to)| first <= to && from <= last)
    };
    let mut stretches = vec![Stretch::default()];
    let mut before: Option<&LiveSegment> = None;
    for live in segments.iter().filter(|live| !is_damaged(live) && !shares_days(live)) {
        if let Some(before) = before {
            let between = |meta: &&SegmentMeta| (before.meta.seq_max..live.meta.seq_max).contains(&meta.seq_max);
            let apart = flushed.iter().any(between);
            let turned = before.meta.level == 0 && live.meta.level > 0;
            if apart || turned {
                stretches.last_mut().expect("there is one from the start").overdue = turned && !apart;
                stretches.push(Stretch::default());
            }
        }
        stretches.last_mut().expect("there is one from the start").segments.push(Arc::clone(live));
        before = Some(live);
    }
    stretches
}
