//! Owns the order in which a window's doubles are summed: which stretches of it are summed by themselves.
//!
//! A window is cut into whole days, hours and minutes of UTC, the longest that fit, and what is left at its edges. Rows
//! of an hour, of a minute or of what is left are summed by the lanes of the engine; hours make a day, and all that makes
//! the window, each added in time order. So a sum is the same to the bit whether an hour comes as its rows or as the
//! sum that a segment's summary keeps of it.

use tidewell_engine::Step;

/// What is summed by itself around one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Rows before this time belong to it.
    pub end: i64,
    /// End of the whole day that it is part of; its own end when there is none.
    pub day_end: i64,
}

/// The piece of the window `start..end` that holds `time`.
#[inline]
pub(super) fn piece_at(start: i64, end: i64, time: i64) -> Piece {
    debug_assert!(start <= time && start < end, "{time} is in {start}..{end}");
    if let Some(hour_end) = whole(Step::Hour, start, end, time) {
        return Piece { end: hour_end, day_end: whole(Step::Day, start, end, time).unwrap_or(hour_end) };
    }
    // What is left ends at the next minute, too: a whole minute and a part of one differ only in where they begin.
    let end = Step::Minute.last_of(Step::Minute.number(time)).saturating_add(1).min(end);
    Piece { end, day_end: end }
}

/// Whether the sum that is kept of the step at `time` has its place in the sum of the window `start..end`.
#[inline]
pub(super) fn has_place(step: Step, start: i64, end: i64, time: i64) -> bool {
    // Minutes of a whole hour do not: the hour is summed from its rows.
    whole(step, start, end, time).is_some() && (step != Step::Minute || whole(Step::Hour, start, end, time).is_none())
}

/// The end of the step around `time`, when it lies wholly inside `start..end`.
#[inline]
pub(super) fn whole(step: Step, start: i64, end: i64, time: i64) -> Option<i64> {
    let width = step.width_ns();
    // Unsigned, because the length of a window may exceed 63 bits.
    if end.wrapping_sub(start) as u64 >= width as u64 {
        let from = time.checked_sub(time.rem_euclid(width))?;
        let to = from.checked_add(width)?;
        return (start <= from && to <= end).then_some(to);
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = Step::Minute.width_ns();
    const HOUR: i64 = Step::Hour.width_ns();
    const DAY: i64 = Step::Day.width_ns();

    /// From the window's start on, the longest whole step that fits, or what is left until the next minute.
    fn greedy(start: i64, end: i64) -> Vec<(i64, Step, bool)> {
        let mut at = start;
        let mut pieces = Vec::new();
        while at < end {
            let fits = |w: i64| at.rem_euclid(w) == 0 && at + w <= end;
            let (step, next, whole) = if fits(DAY) {
                (Step::Day, at + DAY, true)
            } else if fits(HOUR) {
                (Step::Hour, at + HOUR, true)
            } else {
                (Step::Minute, (at.div_euclid(MINUTE) * MINUTE + MINUTE).min(end), fits(MINUTE))
            };
            pieces.push((at, step, whole));
            at = next;
        }
        pieces
    }

    proptest! {
        #[test]
        fn pieces_are_those_of_a_greedy_cut(start in -3 * DAY..3 * DAY, length in 1..4 * DAY, rough in prop::sample::select(vec![1, MINUTE, HOUR, DAY]),
                                           times in prop::collection::vec(0.0..1.0f64, 20)) {
            let start = start / rough * rough;
            let end = start + (length / rough * rough).max(rough);
            let pieces = greedy(start, end);
            for share in times {
                let time = (start + ((end - start) as f64 * share) as i64).min(end - 1);
                let at = pieces.partition_point(|p| p.0 <= time) - 1;
                let (from, step, whole) = pieces[at];
                let to = pieces.get(at + 1).map_or(end, |p| p.0);
                let expected = match step {
                    Step::Day => {
                        let hour = Step::Hour.last_of(Step::Hour.number(time)) + 1;
                        Piece { end: hour, day_end: to }
                    }
                    _ => Piece { end: to, day_end: to },
                };
                prop_assert_eq!(piece_at(start, end, time), expected);
                for asked in Step::ALL {
                    let asked_at = asked.start_of(asked.number(time));
                    let place = whole && (asked == step && asked_at == from || asked == Step::Hour && step == Step::Day);
                    prop_assert_eq!(has_place(asked, start, end, asked_at), place, "{} at {}", asked, asked_at);
                }
            }
        }
    }

    #[test]
    fn the_edges_of_time_do_not_overflow() {
        for (start, end) in [(i64::MIN, i64::MAX), (i64::MAX - 5, i64::MAX), (i64::MIN, i64::MIN + 5)] {
            for time in [start, end - 1] {
                let piece = piece_at(start, end, time);
                assert!(piece.end > time && piece.end <= end && piece.day_end <= end, "{piece:?}");
            }
            assert!(!has_place(Step::Day, start, end, i64::MAX));
        }
        assert_eq!(piece_at(i64::MIN, i64::MAX, i64::MAX).end, i64::MAX);
    }
}
