//! Owns loops over rows: what they add to the aggregates of one window; does not find windows.
//!
//! - [`scalar`]: the same answers value by value, to the bit; the reference for tests
//! - [`summary`]: aggregates of one window and one field, and how they merge
//!
//! The loops over numbers themselves are the engine's (`tidewell_engine::totals`), because summaries in files are
//! made by the same ones. Which stretches of a window are summed by themselves is told by [`Accumulator::end_piece`] and
//! [`Accumulator::end_day`]; where neither is called there is one sum over all rows.

#[cfg(test)]
pub(crate) mod scalar;
mod summary;

#[cfg(test)]
pub(crate) use summary::Sum;
pub(crate) use summary::{Cell, Summary, aggregate_type};

use std::ops::Range;

use tidewell_codec::{Bitmap, Column, FieldType, Values};
use tidewell_engine::totals::{FloatTotals, IntegerTotals, Totals, bitmap_word, for_valid};
use tidewell_engine::{FieldStats, Scalar, StepField, StepSums};

/// Which aggregates are needed, so that a loop computes no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Sum of numbers.
    pub sum: bool,
    /// Smallest and largest number.
    pub extremes: bool,
    /// First and last value.
    pub ends: bool,
}

impl Needs {
    fn totals(self) -> Totals {
        Totals { sum: self.sum, extremes: self.extremes }
    }
}

/// Aggregates of one window and one field while rows are added in time order.
#[derive(Clone, Debug)]
pub(crate) struct Accumulator {
    needs: Needs,
    /// Values that are not null.
    count: u64,
    kind: Kind,
    first: Option<(i64, Cell)>,
    last: Option<(i64, Cell)>,
}

#[derive(Clone, Debug)]
enum Kind {
    F64(FloatSum),
    I64(IntegerTotals),
    Other,
}

/// A sum of doubles in its order: values make pieces, pieces make days (a piece outside of a day is a day of its own
/// here), days make the window. Adding an empty piece changes nothing, because no sum that begins at 0.0 is ever -0.0.
#[derive(Clone, Debug)]
struct FloatSum {
    totals: FloatTotals,
    /// Values of the piece so far, NaN included.
    place: u64,
    day: f64,
    window: f64,
}

impl FloatSum {
    const EMPTY: Self = Self { totals: FloatTotals::EMPTY, place: 0, day: 0.0, window: 0.0 };

    #[inline]
    fn add(&mut self, values: &[f64], needs: Needs) {
        self.totals.add(values, self.place, needs.totals());
        self.place += values.len() as u64;
    }

    #[inline]
    fn end_piece(&mut self) {
        if self.place > 0 {
            self.day += self.totals.take_sum();
            self.place = 0;
        }
    }

    #[inline]
    fn end_day(&mut self) {
        self.end_piece();
        self.window += std::mem::take(&mut self.day);
    }
}

impl Accumulator {
    /// No rows yet of a field of `field_type`.
    pub fn new(field_type: FieldType, needs: Needs) -> Self {
        let kind = match field_type {
            FieldType::F64 => Kind::F64(FloatSum::EMPTY),
            FieldType::I64 => Kind::I64(IntegerTotals::EMPTY),
            FieldType::Bool | FieldType::Utf8 => Kind::Other,
        };
        Self { needs, count: 0, kind, first: None, last: None }
    }

    /// Ends a piece: the rows that follow are summed by themselves.
    #[inline]
    pub fn end_piece(&mut self) {
        if let Kind::F64(sum) = &mut self.kind {
            sum.end_piece();
        }
    }

    /// Ends a day, or a piece that belongs to none.
    #[inline]
    pub fn end_day(&mut self) {
        if let Kind::F64(sum) = &mut self.kind {
            sum.end_day();
        }
    }

    /// Adds the rows `range`, which follow all rows added before.
    pub fn add(&mut self, times: &[i64], column: &Column, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if self.needs.ends {
            self.add_ends(times, column, range.clone());
        }
        match (&mut self.kind, &column.values, &column.validity) {
            (Kind::F64(sum), Values::F64(values), None) => {
                sum.add(&values[range.clone()], self.needs);
                self.count += range.len() as u64;
            }
            (Kind::F64(sum), Values::F64(values), Some(validity)) => {
                for_valid(values, validity, range, |slice| {
                    sum.add(slice, self.needs);
                    self.count += slice.len() as u64;
                });
            }
            (Kind::I64(totals), Values::I64(values), None) => {
                totals.add(&values[range.clone()], self.needs.totals());
                self.count += range.len() as u64;
            }
            (Kind::I64(totals), Values::I64(values), Some(validity)) => {
                for_valid(values, validity, range, |slice| {
                    totals.add(slice, self.needs.totals());
                    self.count += slice.len() as u64;
                });
            }
            (_, _, None) => self.count += range.len() as u64,
            (_, _, Some(validity)) => self.count += ones(validity, range) as u64,
        }
    }

    fn add_ends(&mut self, times: &[i64], column: &Column, range: Range<usize>) {
        let (first, last) = match &column.validity {
            None => (range.start, range.end - 1),
            Some(validity) => match (next_one(validity, range.clone()), last_one(validity, range)) {
                (Some(first), Some(last)) => (first, last),
                _ => return,
            },
        };
        if self.first.is_none() {
            self.first = Some((times[first], Cell::of(column, first)));
        }
        self.last = Some((times[last], Cell::of(column, last)));
    }

    /// Adds a whole block by its statistics, which must hold what is needed; see [`Self::takes`].
    pub fn add_block(&mut self, stats: &FieldStats, time_range: (i64, i64)) {
        if stats.valid == 0 {
            return;
        }
        self.count += u64::from(stats.valid);
        match (&mut self.kind, stats.min, stats.max) {
            (Kind::F64(sum), Some(Scalar::F64(min)), Some(Scalar::F64(max))) => {
                sum.totals.add_known(u64::from(stats.valid - stats.nan), Some((min, max)));
            }
            (Kind::I64(totals), Some(Scalar::I64(min)), Some(Scalar::I64(max))) => {
                totals.min = totals.min.min(min);
                totals.max = totals.max.max(max);
                if let Some(Scalar::I64(sum)) = stats.sum {
                    totals.sum += i128::from(sum);
                }
            }
            _ => {}
        }
        if self.needs.ends {
            // A block without nulls begins and ends with a value, at its own first and last time.
            if self.first.is_none() {
                self.first = stats.first.map(|v| (time_range.0, v.into()));
            }
            self.last = stats.last.map(|v| (time_range.1, v.into()));
        }
    }

    /// Adds step `at` of `field`, whose sum is a piece of its own, or a whole day.
    #[inline]
    pub fn add_step(&mut self, field: &StepField, at: usize) {
        let count = field.count[at];
        if count == 0 {
            return;
        }
        self.count += count;
        let numbers = count - field.nan[at];
        match (&mut self.kind, &field.min.values, &field.max.values) {
            (Kind::F64(own), Values::F64(mins), Values::F64(maxs)) => {
                own.totals.add_known(numbers, (numbers > 0).then(|| (mins[at], maxs[at])));
                if let StepSums::F64(sums) = &field.sum {
                    own.end_piece();
                    own.day += sums[at];
                }
            }
            (Kind::I64(own), Values::I64(mins), Values::I64(maxs)) => {
                (own.min, own.max) = (own.min.min(mins[at]), own.max.max(maxs[at]));
                if let StepSums::I64(sums) = &field.sum {
                    own.sum += i128::from(sums[at]);
                }
            }
            _ => {}
        }
        if self.needs.ends {
            if self.first.is_none() {
                self.first = Some((field.first_at[at], Cell::of(&field.first, at)));
            }
            self.last = Some((field.last_at[at], Cell::of(&field.last, at)));
        }
    }

    /// Whether [`Self::add_block`] gives the same answer, to the bit, as adding the block's rows.
    pub fn takes(&self, stats: &FieldStats) -> bool {
        // Statistics add doubles in another order.
        let sum = match self.kind {
            Kind::F64(_) => !self.needs.sum,
            Kind::I64(_) => !self.needs.sum || stats.valid == 0 || matches!(stats.sum, Some(Scalar::I64(_))),
            Kind::Other => true,
        };
        let extremes = !self.needs.extremes || stats.valid == stats.nan || (stats.min.is_some() && stats.max.is_some());
        // First and last values of a block with nulls lie at times that only its rows tell.
        let ends = !self.needs.ends || stats.valid == 0 || {
            stats.valid == stats.rows && stats.first.is_some() && stats.last.is_some()
        };
        sum && extremes && ends
    }

    /// The aggregates of the rows added so far; begins anew.
    pub fn finish(&mut self) -> Summary {
        let mut summary = Summary {
            count: std::mem::take(&mut self.count),
            first: self.first.take(),
            last: self.last.take(),
            ..Summary::EMPTY
        };
        match &mut self.kind {
            Kind::F64(sum) => {
                sum.end_day();
                let (min, max) = sum.totals.extremes();
                summary.numbers = sum.totals.numbers();
                summary.sum = summary::Sum::F64(sum.window);
                (summary.min, summary.max) = (Scalar::F64(min), Scalar::F64(max));
                *sum = FloatSum::EMPTY;
            }
            Kind::I64(totals) => {
                summary.numbers = summary.count;
                summary.sum = summary::Sum::I64(totals.sum);
                (summary.min, summary.max) = (Scalar::I64(totals.min), Scalar::I64(totals.max));
                *totals = IntegerTotals::EMPTY;
            }
            Kind::Other => {}
        }
        summary
    }
}

/// First row from `from` on whose time is at least `end`. `guess` is how many rows the window before had: where rows come
/// at a steady rate the first probe hits.
#[inline]
pub(crate) fn rows_before(times: &[i64], from: usize, end: i64, guess: usize) -> usize {
    let at = from + guess;
    if guess > 0 && at < times.len() && times[at - 1] < end && times[at] >= end {
        return at;
    }
    let mut step = 1;
    let mut low = from;
    // Invariant: every row before `low` is before `end`.
    while low + step <= times.len() && times[low + step - 1] < end {
        low += step;
        step *= 2;
    }
    let high = (low + step).min(times.len());
    low + times[low..high].partition_point(|&t| t < end)
}

fn ones(bits: &Bitmap, range: Range<usize>) -> usize {
    let mut count = 0;
    let mut row = range.start;
    while row < range.end {
        let end = range.end.min((row / 64 + 1) * 64);
        let width = end - row;
        let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        count += (bitmap_word(bits, row / 64) >> (row % 64) & mask).count_ones() as usize;
        row = end;
    }
    count
}

fn next_one(bits: &Bitmap, range: Range<usize>) -> Option<usize> {
    let mut row = range.start;
    while row < range.end {
        let word = bitmap_word(bits, row / 64) >> (row % 64);
        if word != 0 {
            let found = row + word.trailing_zeros() as usize;
            return (found < range.end).then_some(found);
        }
        row = (row / 64 + 1) * 64;
    }
    None
}

/// The last set bit of `range`.
pub(crate) fn last_one(bits: &Bitmap, range: Range<usize>) -> Option<usize> {
    let mut end = range.end;
    while end > range.start {
        let base = (end - 1) / 64 * 64;
        let width = end - base;
        let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        let word = bitmap_word(bits, base / 64) & mask;
        if word != 0 {
            let found = base + 63 - word.leading_zeros() as usize;
            return (found >= range.start).then_some(found);
        }
        end = base;
    }
    None
}

#[cfg(test)]
mod tests;
