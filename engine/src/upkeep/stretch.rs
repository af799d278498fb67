//! Owns which segments may be merged with each other at all: none that would change what is later; picks no merge.
//!
//! A damaged segment is left out of merges until it is repaired, and comes back at its place in log order. So no merge
//! may reach across that place: its output would count as later than rows that are later than part of it.

use super::days::day_of;
use super::pick::Candidate;
use crate::manifest::SegmentMeta;

/// Segments of one table whose merges change no order.
#[derive(Debug, Default)]
pub struct Stretch {
    /// In log order.
    pub segments: Vec<Candidate>,
    /// Flushed segments behind which later ones were merged already, while a damaged one stood between: they must not wait
    /// to become more.
    pub overdue: bool,
}

/// Cuts a table's undamaged segments, in log order, at flushed ones that are left out, and where flushed ones are older
/// than merged ones. Merged segments with days of a merged one that is left out are left out with it.
pub fn stretches(segments: Vec<Candidate>, left_out: &[&SegmentMeta]) -> Vec<Stretch> {
    let (flushed, merged): (Vec<&SegmentMeta>, Vec<&SegmentMeta>) = left_out.iter().partition(|meta| meta.level == 0);
    let shares_days = |s: &Candidate| {
        let (first, last) = (day_of(s.time_min), day_of(s.time_max));
        s.level > 0 && merged.iter().any(|meta| first <= day_of(meta.time_max) && day_of(meta.time_min) <= last)
    };
    let is_left_out = |s: &Candidate| left_out.iter().any(|meta| meta.id == s.id);
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut before: Option<(u8, u64)> = None;
    for segment in segments {
        if is_left_out(&segment) || shares_days(&segment) {
            continue;
        }
        let (apart, turned) = match before {
            None => (false, false),
            Some((level, seq)) => (
                flushed.iter().any(|meta| (seq..segment.seq_max).contains(&meta.seq_max)),
                level == 0 && segment.level > 0,
            ),
        };
        before = Some((segment.level, segment.seq_max));
        match stretches.last_mut() {
            Some(last) if !apart && !turned => last.segments.push(segment),
            last => {
                if let Some(last) = last {
                    last.overdue = turned && !apart;
                }
                stretches.push(Stretch { segments: vec![segment], overdue: false });
            }
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(level: u8, seq: u64, day: i64) -> Candidate {
        let time = day * crate::limits::DAY_NS;
        Candidate {
            id: seq,
            level,
            seq_min: seq,
            seq_max: seq,
            rows: 1,
            devices: 1,
            time_min: time,
            time_max: time,
            cold: false,
            created_ns: 0,
            paused: false,
        }
    }

    fn meta(of: &Candidate) -> SegmentMeta {
        SegmentMeta {
            id: of.id,
            shard: 0,
            table: "t".into(),
            level: of.level,
            seq_min: of.seq_min,
            seq_max: of.seq_max,
            rows: 1,
            bytes: 1,
            time_min: of.time_min,
            time_max: of.time_max,
            clean: 0,
        }
    }

    fn cut(segments: &[Candidate], left_out: &[SegmentMeta]) -> Vec<(Vec<u64>, bool)> {
        let stretches = stretches(segments.to_vec(), &left_out.iter().collect::<Vec<_>>());
        stretches.into_iter().map(|s| (s.segments.iter().map(|s| s.id).collect(), s.overdue)).collect()
    }

    #[test]
    fn no_merge_reaches_across_a_flushed_segment_that_is_left_out() {
        let all: Vec<Candidate> = [(1, 1), (0, 2), (0, 3), (0, 4), (0, 5)].map(|(l, s)| candidate(l, s, 0)).into();
        assert_eq!(cut(&all, &[]), [(vec![1, 2, 3, 4, 5], false)]);
        assert_eq!(cut(&all, &[meta(&all[2])]), [(vec![1, 2], false), (vec![4, 5], false)]);
        // One that cannot even be opened is not among the candidates.
        let without: Vec<Candidate> = all.iter().filter(|s| s.id != 3).cloned().collect();
        assert_eq!(cut(&without, &[meta(&all[2])]), [(vec![1, 2], false), (vec![4, 5], false)]);
    }

    #[test]
    fn repaired_segments_catch_up_before_later_ones_join_them() {
        let all: Vec<Candidate> = [(1, 1), (0, 2), (0, 3), (1, 5), (0, 6)].map(|(l, s)| candidate(l, s, 0)).into();
        assert_eq!(cut(&all, &[]), [(vec![1, 2, 3], true), (vec![5, 6], false)]);
    }

    #[test]
    fn a_merged_segment_that_is_left_out_holds_up_its_days_only() {
        let all = [candidate(1, 1, 0), candidate(1, 2, 1), candidate(1, 3, 0), candidate(0, 4, 0)];
        assert_eq!(cut(&all, &[meta(&all[0])]), [(vec![2, 4], false)]);
    }
}
