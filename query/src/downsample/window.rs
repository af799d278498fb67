//! Owns where windows begin and end: the one place that decides it; does not look at rows.
//!
//! Lengths up to hours are exact: edges lie at `origin + k * every`, whatever clocks on the wall do. Lengths from days on
//! follow the calendar of a time zone: edge `k` is the moment at which a clock there first shows `origin + k units`. A
//! day at a change of clocks has 23, 25 or (on Lord Howe) 23.5 and 24.5 hours, and still is one window. Where clocks skip the edge,
//! the window begins after the skip; where they show it twice, at the first time. A day that a zone left out (Apia,
//! 30 December 2011) has no window.

use std::sync::Arc;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::error::QueryError;
use crate::request::{Every, Time};

/// Most windows of calendar length: days of the five centuries that nanoseconds can tell are fewer.
const CALENDAR_WINDOWS_MAX: usize = 250_000;

/// The windows that touch a range, numbered from 0. Every row of the range lies in exactly one.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    edges: Edges,
    count: usize,
}

#[derive(Clone, Debug)]
enum Edges {
    /// Edge `i` is `first + i * step`; the last one is `end`, cut to 64 bits.
    Even { first: i64, step: i64, end: i64 },
    /// One more edge than windows, strictly rising.
    Listed(Arc<[i64]>),
}

impl Windows {
    /// The windows that touch `[start, end)`, which must not be empty.
    pub fn new(every: Every, origin: Time, timezone: &str, start: i64, end: i64) -> Result<Self, QueryError> {
        debug_assert!(start < end, "a checked range is not empty");
        let zone = zone(timezone)?;
        let unit = match every {
            Every::Fixed(step) => return Self::even(step, origin, start, end),
            Every::Days(n) => Unit { n, days: 1, ..Unit::default() },
            Every::Weeks(n) => Unit { n, days: 7, ..Unit::default() },
            Every::Months(n) => Unit { n, months: 1, ..Unit::default() },
            Every::Years(n) => Unit { n, months: 12, ..Unit::default() },
        };
        let edges = Calendar { unit, origin: civil_origin(every, origin, &zone)?, zone }.edges(start, end)?;
        let (count, last) = (edges.len() - 1, edges[edges.len() - 1]);
        // Days of UTC, say: a division finds a window faster than a search.
        let step = edges[1].checked_sub(edges[0]);
        if let Some(step) = step.filter(|&step| edges.windows(2).all(|e| e[1].checked_sub(e[0]) == Some(step))) {
            return Ok(Self { count, edges: Edges::Even { first: edges[0], step, end: last } });
        }
        Ok(Self { count, edges: Edges::Listed(edges.into()) })
    }

    fn even(step: i64, origin: Time, start: i64, end: i64) -> Result<Self, QueryError> {
        // In 128 bits, because `start - origin` may not fit 64.
        let (step_wide, origin) = (i128::from(step), i128::from(origin.0));
        let first = origin + (i128::from(start) - origin).div_euclid(step_wide) * step_wide;
        let count = (i128::from(end) - first + step_wide - 1) / step_wide;
        let end = i64::try_from(first + count * step_wide).unwrap_or(i64::MAX);
        let first = i64::try_from(first).map_err(|_| too_early())?;
        let count = usize::try_from(count).map_err(|_| too_early())?;
        Ok(Self { edges: Edges::Even { first, step, end }, count })
    }

    /// Number of windows, at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Nanoseconds of the longest window.
    pub fn longest(&self) -> u64 {
        match &self.edges {
            Edges::Even { step, .. } => *step as u64,
            Edges::Listed(edges) => edges.windows(2).map(|e| e[1].wrapping_sub(e[0]) as u64).max().unwrap_or(0),
        }
    }

    /// Whether each window is one step of `width`, counted from 1970 UTC.
    pub fn are_steps_of(&self, width: i64) -> bool {
        matches!(&self.edges, Edges::Even { first, step, .. } if *step == width && first.rem_euclid(width) == 0)
    }

    /// Whether no window reaches across an edge of steps of `width`.
    pub fn divide(&self, width: i64) -> bool {
        matches!(&self.edges, Edges::Even { first, step, .. } if width % step == 0 && first.rem_euclid(*step) == 0)
    }

    /// Start of window `index`.
    #[inline]
    pub fn start(&self, index: usize) -> i64 {
        match &self.edges {
            // Starts of windows fit 64 bits, though their distance to `first` may not: wrapping gives them all the same.
            Edges::Even { first, step, .. } if index < self.count => {
                first.wrapping_add((index as i64).wrapping_mul(*step))
            }
            Edges::Even { end, .. } => *end,
            Edges::Listed(edges) => edges[index],
        }
    }

    /// End of window `index`, which is the start of the next.
    #[inline]
    pub fn end(&self, index: usize) -> i64 {
        self.start(index + 1)
    }

    /// The window that `time` lies in, which must be inside the range. (A scan without end may give the last
    /// nanosecond of all, which no half-open range holds: it goes to the last window.)
    #[inline]
    pub fn at(&self, time: i64) -> usize {
        let index = match &self.edges {
            Edges::Even { first, step, .. } => {
                // The distance fits 64 unsigned bits; a division of 64 bits is several times faster than one of 128.
                (time.wrapping_sub(*first) as u64 / *step as u64) as usize
            }
            Edges::Listed(edges) => edges.partition_point(|&edge| edge <= time) - 1,
        };
        index.min(self.count - 1)
    }
}

/// Looks a zone up by its IANA name.
fn zone(name: &str) -> Result<TimeZone, QueryError> {
    TimeZone::get(name).map_err(|_| QueryError::Invalid {
        key: "timezone",
        expected: "an IANA time zone like Europe/Berlin".to_owned(),
        found: format!("`{name}`"),
    })
}

/// The date and time on the wall from which calendar windows count.
///
/// The default origin, 1970-01-01T00:00:00Z, stands for "where the calendar's own unit begins": midnight, a Monday, the
/// first of a month, the first of January of the zone. Any other origin is a moment, and counts as the zone's clock
/// shows it.
fn civil_origin(every: Every, origin: Time, zone: &TimeZone) -> Result<DateTime, QueryError> {
    if origin == Time::default() {
        let monday = Date::constant(1969, 12, 29);
        let first = Date::constant(1970, 1, 1);
        return Ok(if matches!(every, Every::Weeks(_)) { monday } else { first }.at(0, 0, 0, 0));
    }
    Timestamp::from_nanosecond(i128::from(origin.0)).map(|t| zone.to_datetime(t)).map_err(|_| too_early())
}

#[derive(Clone, Copy, Default)]
struct Unit {
    n: i32,
    days: i32,
    months: i32,
}

struct Calendar {
    unit: Unit,
    origin: DateTime,
    zone: TimeZone,
}

impl Calendar {
    /// Strictly rising edges from the last at or before `start` to the first at or after `end`.
    fn edges(&self, start: i64, end: i64) -> Result<Vec<i64>, QueryError> {
        let mut k = self.estimate(start)?;
        // The estimate may be off by one where clocks change or months are uneven.
        while self.edge(k)? > start {
            k -= 1;
        }
        while self.edge(k + 1)? <= start {
            k += 1;
        }
        let mut edges = vec![self.edge(k)?];
        let mut last = edges[0];
        while last < end {
            k += 1;
            let next = self.edge(k)?;
            // A day that does not exist in the zone begins where the next one does.
            if next > last {
                edges.push(next);
                last = next;
            }
            if edges.len() > CALENDAR_WINDOWS_MAX {
                return Err(QueryError::TooManyWindows {
                    estimate: edges.len() as u128,
                    max: CALENDAR_WINDOWS_MAX as u64,
                });
            }
        }
        Ok(edges)
    }

    /// About the number of the edge before `time`.
    fn estimate(&self, time: i64) -> Result<i64, QueryError> {
        let local =
            Timestamp::from_nanosecond(i128::from(time)).map(|t| self.zone.to_datetime(t)).map_err(|_| too_early())?;
        let units = if self.unit.days > 0 {
            let span = local.date().since((jiff::Unit::Day, self.origin.date())).map_err(|_| too_early())?;
            i64::from(span.get_days()) / i64::from(self.unit.days)
        } else {
            let month = |d: Date| i64::from(d.year()) * 12 + i64::from(d.month()) - 1;
            (month(local.date()) - month(self.origin.date())) / i64::from(self.unit.months)
        };
        Ok(units.div_euclid(i64::from(self.unit.n)))
    }

    /// The moment of edge `k`, cut to what 64-bit nanoseconds can tell.
    fn edge(&self, k: i64) -> Result<i64, QueryError> {
        let units = k.checked_mul(i64::from(self.unit.n)).ok_or_else(too_early)?;
        let span = if self.unit.days > 0 {
            i64::checked_mul(units, i64::from(self.unit.days)).map(|days| Span::new().try_days(days))
        } else {
            i64::checked_mul(units, i64::from(self.unit.months)).map(|months| Span::new().try_months(months))
        };
        // Always counted from the origin: stepping from edge to edge would lose the 31st after February.
        let local = span.and_then(Result::ok).and_then(|span| self.origin.checked_add(span).ok());
        let Some(local) = local else {
            // Beyond the calendar: windows of a thousand years and more end there.
            return Ok(if k > 0 { i64::MAX } else { i64::MIN });
        };
        let moment = self.zone.to_ambiguous_timestamp(local).compatible().map_err(|_| too_early())?;
        let bounded = moment.as_nanosecond().clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        Ok(i64::try_from(bounded).unwrap_or(i64::MAX))
    }
}

fn too_early() -> QueryError {
    QueryError::Invalid {
        key: "start",
        expected: "windows inside the years 1678 to 2261".to_owned(),
        found: "a window beyond".to_owned(),
    }
}

#[cfg(test)]
mod tests;
