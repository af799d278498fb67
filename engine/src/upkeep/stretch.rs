//! Owns which segments may be merged with each other at all: none that would change what is later; picks no merge.
//!
//! A damaged segment is left out of merges until it is repaired, and comes back at its place in log order. So no merge
//! may reach across that place: its output would count as later than rows that are later than part of it.

use std::sync::Arc;

use crate::damage::SetAside;
use crate::shard::LiveSegment;

/// Segments of one table whose merges change no order.
pub struct Stretch {
    /// In log order.
    pub segments: Vec<Arc<LiveSegment>>,
    /// Flushed segments behind which later ones were merged already, while a damaged one stood between: they must not wait
    /// to become more.
    pub overdue: bool,
}

/// Cuts a table's segments, in log order, at those that are damaged or set aside, and where flushed ones are older than
/// merged ones.
pub fn stretches(segments: &[Arc<LiveSegment>], set_aside: &[SetAside]) -> Vec<Stretch> {
    let table = segments.first().map(|live| Arc::clone(&live.meta.table));
    let mut left_out: Vec<u64> =
        set_aside.iter().filter(|aside| Some(&aside.meta.table) == table.as_ref()).map(|a| a.meta.seq_max).collect();
    left_out.extend(segments.iter().filter(|live| !live.segment.known_damage().is_empty()).map(|s| s.meta.seq_max));
    let mut stretches: Vec<Stretch> = vec![Stretch { segments: Vec::new(), overdue: false }];
    let mut before: Option<&LiveSegment> = None;
    for live in segments.iter().filter(|live| live.segment.known_damage().is_empty()) {
        if let Some(before) = before {
            let apart = left_out.iter().any(|seq| (before.meta.seq_max..=live.meta.seq_max).contains(seq));
            let turned = before.meta.level == 0 && live.meta.level > 0;
            if apart || turned {
                if let Some(last) = stretches.last_mut() {
                    last.overdue = turned && !apart;
                }
                stretches.push(Stretch { segments: Vec::new(), overdue: false });
            }
        }
        if let Some(last) = stretches.last_mut() {
            last.segments.push(Arc::clone(live));
        }
        before = Some(live);
    }
    stretches.retain(|stretch| !stretch.segments.is_empty());
    stretches
}
