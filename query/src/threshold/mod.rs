//! Owns where a condition held: intervals and devices; rows are `range`'s, filtered by the same intervals.
//!
//! - [`interval`]: from outcomes of rows to maximal runs

mod interval;

pub(crate) use interval::{Interval, IntervalFinder, IntervalRule};

use std::sync::Arc;

use tidewell_engine::{FieldType, NarrowRows, Rows};

use crate::answer::AnswerSchema;
use crate::error::QueryError;
use crate::execute::{Builder, Step, Work};
use crate::kernels::Summary;
use crate::predicate::{Masks, Predicate, Scratch};
use crate::request::Aggregate;
use crate::source::{Part, Table};

/// Statistics of an interval, in the order of columns.
pub(crate) const STATISTICS: [Aggregate; 3] = [Aggregate::Min, Aggregate::Max, Aggregate::Mean];

/// Memory that a thread reuses.
#[derive(Default)]
pub(crate) struct ThresholdSpace {
    pub rows: Rows,
    pub narrow: NarrowRows,
    pub masks: Masks,
    pub scratch: Scratch,
}

/// Intervals of devices.
pub(crate) struct IntervalWork<T> {
    pub table: Arc<T>,
    pub devices: Vec<Arc<str>>,
    pub schema: AnswerSchema,
    pub start: i64,
    pub end: i64,
    /// Bound to its own fields, which are what is scanned.
    pub condition: Predicate,
    pub rule: IntervalRule,
    /// Numeric fields of the condition: slot and type.
    pub measured: Vec<(usize, FieldType)>,
    pub batch_rows: usize,
}

/// Where one device stands.
pub(crate) struct IntervalCursor<P> {
    device: Arc<str>,
    parts: std::vec::IntoIter<P>,
    finder: IntervalFinder,
}

impl<T: Table> Work for IntervalWork<T> {
    type Cursor = IntervalCursor<T::Part>;
    type Space = ThresholdSpace;

    fn device_count(&self) -> usize {
        self.devices.len()
    }

    fn builder(&self) -> Builder {
        Builder::new(&self.schema, self.batch_rows)
    }

    fn open(&self, device: usize, _: &mut ThresholdSpace) -> Result<Option<Self::Cursor>, QueryError> {
        let device = self.devices[device].clone();
        let parts = self.table.scan(&device, self.start, self.end, self.condition.fields())?;
        if parts.is_empty() {
            return Ok(None);
        }
        let finder = IntervalFinder::new(self.rule, &self.measured);
        Ok(Some(IntervalCursor { device, parts: parts.into_iter(), finder }))
    }

    fn step(
        &self,
        cursor: &mut Self::Cursor,
        space: &mut ThresholdSpace,
        out: &mut Builder,
    ) -> Result<Step, QueryError> {
        let IntervalCursor { device, parts, finder } = cursor;
        let mut emit = |interval: Interval, summaries: &[Summary]| {
            let values = [interval.start, interval.end, interval.duration(), interval.samples];
            values.iter().enumerate().for_each(|(index, &value)| out.push_i64(index, value));
            let mut column = values.len();
            for summary in summaries {
                for statistic in STATISTICS {
                    let cell = summary.value(statistic).expect("only sums overflow");
                    out.push_cell(column, &cell);
                    column += 1;
                }
            }
            out.end_rows(device, 1);
        };
        match parts.next() {
            Some(part) => {
                finder.add(&part, &self.condition, space, emit)?;
                Ok(Step::More)
            }
            None => {
                finder.finish(&mut emit);
                Ok(Step::Done)
            }
        }
    }
}

/// Devices that matched: how often, first and last time.
pub(crate) struct DevicesWork<T> {
    pub table: Arc<T>,
    pub devices: Vec<Arc<str>>,
    pub schema: AnswerSchema,
    pub start: i64,
    pub end: i64,
    /// Bound to its own fields, which are what is scanned.
    pub condition: Predicate,
    /// Only rows in intervals that this rule accepts; `None` = every matching row.
    pub rule: Option<IntervalRule>,
    pub batch_rows: usize,
}

/// Where one device stands.
pub(crate) struct DevicesCursor<P> {
    device: Arc<str>,
    parts: std::vec::IntoIter<P>,
    finder: Option<IntervalFinder>,
    matches: Matches,
}

/// Matching rows of one device.
#[derive(Clone, Copy, Default)]
struct Matches {
    count: i64,
    first: i64,
    last: i64,
}

impl Matches {
    /// Adds `count` rows from `first` to `last`, later than all before.
    fn add(&mut self, count: i64, first: i64, last: i64) {
        if self.count == 0 {
            self.first = first;
        }
        self.last = last;
        self.count += count;
    }
}

impl<T: Table> Work for DevicesWork<T> {
    type Cursor = DevicesCursor<T::Part>;
    type Space = ThresholdSpace;

    fn device_count(&self) -> usize {
        self.devices.len()
    }

    fn builder(&self) -> Builder {
        Builder::new(&self.schema, self.batch_rows)
    }

    fn open(&self, device: usize, _: &mut ThresholdSpace) -> Result<Option<Self::Cursor>, QueryError> {
        let device = self.devices[device].clone();
        let parts = self.table.scan(&device, self.start, self.end, self.condition.fields())?;
        if parts.is_empty() {
            return Ok(None);
        }
        let finder = self.rule.map(|rule| IntervalFinder::new(rule, &[]));
        Ok(Some(DevicesCursor { device, parts: parts.into_iter(), finder, matches: Matches::default() }))
    }

    fn step(
        &self,
        cursor: &mut Self::Cursor,
        space: &mut ThresholdSpace,
        out: &mut Builder,
    ) -> Result<Step, QueryError> {
        let matches = &mut cursor.matches;
        let mut take = |interval: Interval, _: &[Summary]| matches.add(interval.samples, interval.start, interval.end);
        if let Some(part) = cursor.parts.next() {
            match &mut cursor.finder {
                Some(finder) => finder.add(&part, &self.condition, space, take)?,
                None => self.count(&part, matches, space)?,
            }
            return Ok(Step::More);
        }
        if let Some(finder) = &mut cursor.finder {
            finder.finish(&mut take);
        }
        if cursor.matches.count > 0 {
            out.push_i64(0, cursor.matches.count);
            out.push_i64(1, cursor.matches.first);
            out.push_i64(2, cursor.matches.last);
            out.end_rows(&cursor.device, 1);
        }
        Ok(Step::Done)
    }
}

impl<T: Table> DevicesWork<T> {
    fn count(&self, part: &T::Part, matches: &mut Matches, space: &mut ThresholdSpace) -> Result<(), QueryError> {
        let ThresholdSpace { rows, narrow, masks, scratch } = space;
        let verdict = self.condition.verdict(|slot| part.stats(slot));
        if !verdict.can_match {
            return Ok(());
        }
        if verdict.all_match()
            && let Some(stats) = part.stats(0)
        {
            let (first, last) = part.time_range();
            matches.add(i64::from(stats.rows), first, last);
            return Ok(());
        }
        let narrowed = part.narrow(self.condition.slots(), narrow)?;
        let offset = if narrowed {
            self.condition.evaluate_narrow(narrow, masks, scratch)
        } else {
            part.load_fields(self.condition.slots(), rows)?;
            self.condition.evaluate(&rows.columns, rows.times.len(), masks, scratch);
            0
        };
        let (Some(first), Some(last)) = (interval::next_set(&masks.matched, 0), interval::last_set(&masks.matched))
        else {
            return Ok(());
        };
        let count = i64::try_from(masks.match_count()).unwrap_or(i64::MAX);
        if narrowed {
            part.narrow_times(narrow)?;
        }
        // Of the times only two are looked at.
        match narrow.times.as_ref().filter(|_| narrowed) {
            Some(times) => matches.add(count, times.get(offset + first), times.get(offset + last)),
            None => matches.add(count, rows.times[first], rows.times[last]),
        }
        Ok(())
    }
}
