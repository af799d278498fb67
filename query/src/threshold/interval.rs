//! Owns maximal runs of matching rows; does not know where rows come from or where intervals go.

use std::ops::Range;

use tidewell_codec::{Bitmap, Column, Values};
use tidewell_engine::{FieldType, NarrowRows, Rows};

use super::ThresholdSpace;
use crate::error::QueryError;
use crate::kernels::{Accumulator, Needs, Summary};
use crate::predicate::{Masks, Predicate};
use crate::source::Part;

/// Which runs of matching rows are intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IntervalRule {
    /// Shortest time from the first to the last row.
    pub for_at_least: i64,
    /// Longest time between neighbours; `None` = no bound.
    pub max_gap: Option<i64>,
}

/// A maximal run of matching rows, at most `max_gap` apart, none of which fails in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    /// Time of the first matching row.
    pub start: i64,
    /// Time of the last matching row.
    pub end: i64,
    /// Number of matching rows.
    pub samples: i64,
}

impl Interval {
    /// From the first to the last row; cut to 292 years, which is what 64 bits hold.
    pub fn duration(&self) -> i64 {
        self.end.saturating_sub(self.start)
    }
}

/// Finds the intervals of one device in parts that come in order of time.
pub(crate) struct IntervalFinder {
    rule: IntervalRule,
    open: Option<Interval>,
    /// Statistics of the open interval: slot and state.
    measures: Vec<(usize, Accumulator)>,
    summaries: Vec<Summary>,
}

impl IntervalFinder {
    /// Begins with a device; `measured` fields (slot, type) get statistics over the matching rows.
    pub fn new(rule: IntervalRule, measured: &[(usize, FieldType)]) -> Self {
        let needs = Needs { sum: true, extremes: true, ends: false };
        let measures = measured.iter().map(|&(slot, field_type)| (slot, Accumulator::new(field_type, needs))).collect();
        Self { rule, open: None, measures, summaries: Vec::with_capacity(measured.len()) }
    }

    /// Adds the rows of a part, which follow all rows before, and passes intervals that end to `emit`.
    ///
    /// The part is not loaded when its zone maps tell all that is needed: no row matches, and either no interval is open,
    /// or a row fails and ends it, or all rows are unknown and change nothing.
    pub fn add<P: Part>(
        &mut self,
        part: &P,
        condition: &Predicate,
        space: &mut ThresholdSpace,
        mut emit: impl FnMut(Interval, &[Summary]),
    ) -> Result<(), QueryError> {
        let ThresholdSpace { rows, narrow, masks, scratch } = space;
        let verdict = condition.verdict(|slot| part.stats(slot));
        if !verdict.can_match {
            if self.open.is_none() || !verdict.can_fail {
                return Ok(());
            }
            if verdict.some_fail {
                self.close(&mut emit);
                return Ok(());
            }
        }
        if part.narrow(condition.slots(), narrow)? {
            let first = condition.evaluate_narrow(narrow, masks, scratch);
            if masks.matched.iter().any(|word| *word != 0) {
                part.narrow_times(narrow)?;
                self.widen(narrow, first, masks, rows);
            }
        } else {
            part.load_fields(condition.slots(), rows)?;
            condition.evaluate(&rows.columns, rows.times.len(), masks, scratch);
        }
        self.add_rows(&rows.times, &rows.columns, masks, &mut emit);
        Ok(())
    }

    /// Puts what intervals look at into `rows`: times and measured values where rows match. Row 0 is `first` of the block;
    /// what lies between is left over from earlier use and never read.
    fn widen(&self, narrow: &NarrowRows, first: usize, masks: &Masks, rows: &mut Rows) {
        let words = || {
            let matched = masks.matched.iter().enumerate().filter(|(_, word)| **word != 0);
            matched.map(|(index, _)| index * 64..masks.rows.min(index * 64 + 64))
        };
        rows.times.resize(masks.rows, 0);
        if let Some(times) = &narrow.times {
            words().for_each(|range| times.write(first + range.start, &mut rows.times[range]));
        }
        for &(slot, _) in &self.measures {
            let Some(column) = narrow.columns.get(slot).and_then(Option::as_deref) else { continue };
            if rows.columns.len() <= slot {
                rows.columns.resize(slot + 1, Column::new(FieldType::F64));
            }
            let out = &mut rows.columns[slot];
            let validity = column.validity().map(|validity| {
                let mut own = Bitmap::with_capacity(masks.rows);
                own.extend_from(validity, first..first + masks.rows);
                own
            });
            let block = |range: &Range<usize>| first + range.start..first + range.end;
            let mut written = Some(());
            if column.is_f64() {
                let Values::F64(values) = wide(out, FieldType::F64) else { unreachable!("a column of doubles") };
                values.resize(masks.rows, 0.0);
                words().for_each(|range| written = written.and(column.write_f64(block(&range), &mut values[range])));
            } else {
                let Values::I64(values) = wide(out, FieldType::I64) else { unreachable!("a column of integers") };
                values.resize(masks.rows, 0);
                words().for_each(|range| written = written.and(column.write_i64(block(&range), &mut values[range])));
            }
            debug_assert!(written.is_some(), "measured fields are numbers");
            out.validity = validity;
        }
    }

    /// Ends the last interval.
    pub fn finish(&mut self, mut emit: impl FnMut(Interval, &[Summary])) {
        self.close(&mut emit);
    }

    fn add_rows(
        &mut self,
        times: &[i64],
        columns: &[Column],
        masks: &Masks,
        emit: &mut impl FnMut(Interval, &[Summary]),
    ) {
        let mut row = 0;
        loop {
            let matched = next_set(&masks.matched, row);
            // Failing rows matter only while an interval is open.
            if self.open.is_some() && any_set(&masks.failed, row..matched.unwrap_or(masks.rows)) {
                self.close(emit);
            }
            let Some(matched) = matched else { return };
            row = next_clear(&masks.matched, matched).unwrap_or(masks.rows).min(masks.rows);
            self.add_run(times, columns, matched..row, emit);
        }
    }

    /// Adds a run of matching rows, cut where neighbours are too far apart.
    fn add_run(
        &mut self,
        times: &[i64],
        columns: &[Column],
        run: Range<usize>,
        emit: &mut impl FnMut(Interval, &[Summary]),
    ) {
        let mut from = run.start;
        if self.open.is_some_and(|open| self.too_far(open.end, times[from])) {
            self.close(emit);
        }
        while from < run.end {
            let to = match self.rule.max_gap {
                None => run.end,
                Some(_) => (from + 1..run.end).find(|&row| self.too_far(times[row - 1], times[row])).unwrap_or(run.end),
            };
            let open = self.open.get_or_insert(Interval { start: times[from], end: 0, samples: 0 });
            open.end = times[to - 1];
            open.samples += (to - from) as i64;
            for (slot, measure) in &mut self.measures {
                measure.add(times, &columns[*slot], from..to);
            }
            if to < run.end {
                self.close(emit);
            }
            from = to;
        }
    }

    fn too_far(&self, earlier: i64, later: i64) -> bool {
        // Times rise, so the distance fits 64 unsigned bits.
        self.rule.max_gap.is_some_and(|gap| later.wrapping_sub(earlier) as u64 > gap as u64)
    }

    fn close(&mut self, emit: &mut impl FnMut(Interval, &[Summary])) {
        let Some(interval) = self.open.take() else { return };
        self.summaries.clear();
        self.summaries.extend(self.measures.iter_mut().map(|(_, measure)| measure.finish()));
        if interval.duration() >= self.rule.for_at_least {
            emit(interval, &self.summaries);
        }
    }
}

/// The values of `column`, which gets that type.
fn wide(column: &mut Column, field_type: FieldType) -> &mut Values {
    if column.field_type() != field_type {
        *column = Column::new(field_type);
    }
    &mut column.values
}

/// First set bit at or after `from`.
#[inline]
pub(super) fn next_set(words: &[u64], from: usize) -> Option<usize> {
    let first = words.get(from / 64)? & (u64::MAX << (from % 64));
    if first != 0 {
        return Some(from / 64 * 64 + first.trailing_zeros() as usize);
    }
    let next = from / 64 + 1;
    let index = next + words[next..].iter().position(|&w| w != 0)?;
    Some(index * 64 + words[index].trailing_zeros() as usize)
}

/// Whether a bit of `range` is set.
#[inline]
fn any_set(words: &[u64], range: Range<usize>) -> bool {
    next_set(&words[..range.end.div_ceil(64)], range.start).is_some_and(|found| found < range.end)
}

/// First clear bit at or after `from`.
#[inline]
fn next_clear(words: &[u64], from: usize) -> Option<usize> {
    let first = !words.get(from / 64)? & (u64::MAX << (from % 64));
    if first != 0 {
        return Some(from / 64 * 64 + first.trailing_zeros() as usize);
    }
    let next = from / 64 + 1;
    let index = next + words[next..].iter().position(|&w| w != u64::MAX)?;
    Some(index * 64 + words[index].trailing_ones() as usize)
}

/// Last set bit.
pub(super) fn last_set(words: &[u64]) -> Option<usize> {
    let index = words.iter().rposition(|&w| w != 0)?;
    Some(index * 64 + 63 - words[index].leading_zeros() as usize)
}
