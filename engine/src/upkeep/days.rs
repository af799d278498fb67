//! Owns the calendar of merged segments: which times share a file; knows no segment.

use std::collections::BTreeSet;

use crate::limits::DAY_NS;

/// Widths of groups in days, the widest first: slow devices' rows of so many days may share one file, those of very slow
/// ones of more. Groups are aligned to 1970-01-01, so that they nest.
pub const GROUP_DAYS: [i64; 2] = [1_024, 32];

/// Days that may share one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The first day.
    pub first_day: i64,
    /// How many there are: one of [`GROUP_DAYS`].
    pub days: i64,
}

impl Group {
    /// The group of that many days that `day` is in.
    pub fn of(day: i64, days: i64) -> Self {
        Self { first_day: day.div_euclid(days) * days, days }
    }

    /// The last day.
    pub fn last_day(self) -> i64 {
        self.first_day + self.days - 1
    }
}

/// The day (UTC) of a time, counted from 1970-01-01.
pub fn day_of(time_ns: i64) -> i64 {
    time_ns.div_euclid(DAY_NS)
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
    pub wide: BTreeSet<Group>,
}

impl Split {
    /// The range `[start, end)` of the file for a row at `time_ns`; an end of `i64::MAX` has no end.
    pub fn range_of(&self, time_ns: i64) -> (i64, i64) {
        let day = day_of(time_ns);
        let group = GROUP_DAYS.iter().map(|days| Group::of(day, *days)).find(|group| self.wide.contains(group));
        let (first, last) = group.map_or((day, day), |group| (group.first_day, group.last_day()));
        (start_of(first), end_of(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_the_range_of_its_file() {
        let wide = [Group::of(-1, 32), Group::of(96, 32), Group::of(2_048, 1_024), Group::of(2_048, 32)];
        let split = Split { wide: wide.into_iter().collect() };
        for day in [-106_752, -40, -33, -32, -1, 0, 1, 95, 96, 127, 128, 2_047, 2_048, 3_071, 3_072, 106_751] {
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
        assert_eq!(split.range_of(2_050 * DAY_NS), (2_048 * DAY_NS, 3_072 * DAY_NS));
        assert_eq!(split.range_of(i64::MAX).1, i64::MAX);
        assert_eq!(split.range_of(i64::MIN).0, i64::MIN);
    }
}
