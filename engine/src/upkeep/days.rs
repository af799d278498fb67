//! Owns the calendar of merged segments: which times share a file; knows no segment.

use std::collections::BTreeSet;

use crate::limits::DAY_NS;

/// Days of a group: slow devices' rows of so many days may share one file. Groups are aligned to 1970-01-01.
pub const GROUP_DAYS: i64 = 32;

/// The day (UTC) of a time, counted from 1970-01-01.
pub fn day_of(time_ns: i64) -> i64 {
    time_ns.div_euclid(DAY_NS)
}

/// The group of a day.
pub fn group_of(day: i64) -> i64 {
    day.div_euclid(GROUP_DAYS)
}

/// The first time of a day.
fn start_of(day: i64) -> i64 {
    day.saturating_mul(DAY_NS)
}

/// The end of a day, exclusive; `i64::MAX` has no end.
pub fn end_of(day: i64) -> i64 {
    start_of(day.saturating_add(1))
}

/// Where merged rows are cut into files: at day edges, but for groups whose days share a file.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// Groups that are not cut.
    pub wide: BTreeSet<i64>,
}

impl Split {
    /// The range `[start, end)` of the file for a row at `time_ns`; an end of `i64::MAX` has no end.
    pub fn range_of(&self, time_ns: i64) -> (i64, i64) {
        let day = day_of(time_ns);
        let group = group_of(day);
        if self.wide.contains(&group) {
            let first = group * GROUP_DAYS;
            return (start_of(first), end_of(first + GROUP_DAYS - 1));
        }
        (start_of(day), end_of(day))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_the_range_of_its_file() {
        let split = Split { wide: [-1, 3].into_iter().collect() };
        for day in [-106_752, -40, -33, -32, -1, 0, 1, 95, 96, 127, 128, 106_751] {
            for time in [start_of(day), start_of(day) + 1, end_of(day) - 1] {
                let (start, end) = split.range_of(time);
                assert!(start <= time && (time < end || end == i64::MAX), "{time}: {start}..{end}");
                assert_eq!(split.range_of(start), (start, end));
                assert_eq!(split.range_of(end - 1), (start, end));
            }
        }
        assert_eq!(split.range_of(0), (0, DAY_NS));
        assert_eq!(split.range_of(-1), (-32 * DAY_NS, 0));
        assert_eq!(split.range_of(100 * DAY_NS), (96 * DAY_NS, 128 * DAY_NS));
        assert_eq!(split.range_of(i64::MAX).1, i64::MAX);
        assert_eq!(split.range_of(i64::MIN).0, i64::MIN);
    }
}
