//! Owns loops over values: what a slice of a column adds to the aggregates of one window; does not find windows.
//!
//! - [`lanes`]: the loops that run
//! - [`scalar`]: the same answers value by value, to the bit; the reference for tests
//! - [`summary`]: aggregates of one window and one field, and how they merge
//!
//! A sum of doubles depends on its order. So that an answer does not depend on how rows lie in blocks, value number `i`
//! of a window (nulls not counted) always goes to lane `i % 8`, and lanes are added up in a fixed order at the end.

mod lanes;
#[cfg(test)]
pub(crate) mod scalar;
mod summary;

pub(crate) use summary::{Cell, Summary, aggregate_type};

use std::ops::Range;

use tidewell_codec::{Bitmap, Column, FieldType, Values};
use tidewell_engine::{FieldStats, Scalar};

use crate::predicate::bitmap_word;

/// Lanes of a sum. Part of the answer: another number gives other last digits.
pub(crate) const LANES: usize = 8;

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
    F64(FloatLanes),
    I64(IntegerTotals),
    Other,
}

/// Lanes of a column of doubles.
#[derive(Clone, Debug)]
struct FloatLanes {
    sums: [f64; LANES],
    mins: [f64; LANES],
    maxs: [f64; LANES],
    /// Values that are not NaN.
    numbers: u64,
    /// Zeros of either sign that were the smallest or largest value when they came: `<` does not tell them apart.
    negative_zero: bool,
    positive_zero: bool,
}

/// Totals of a column of integers; exact, so that order does not matter.
#[derive(Clone, Debug)]
struct IntegerTotals {
    sum: i128,
    min: i64,
    max: i64,
}

impl FloatLanes {
    const EMPTY: Self = Self {
        sums: [0.0; LANES],
        mins: [f64::INFINITY; LANES],
        maxs: [f64::NEG_INFINITY; LANES],
        numbers: 0,
        negative_zero: false,
        positive_zero: false,
    };
}

impl IntegerTotals {
    const EMPTY: Self = Self { sum: 0, min: i64::MAX, max: i64::MIN };
}

impl Accumulator {
    /// No rows yet of a field of `field_type`.
    pub fn new(field_type: FieldType, needs: Needs) -> Self {
        let kind = match field_type {
            FieldType::F64 => Kind::F64(FloatLanes::EMPTY),
            FieldType::I64 => Kind::I64(IntegerTotals::EMPTY),
            FieldType::Bool | FieldType::Utf8 => Kind::Other,
        };
        Self { needs, count: 0, kind, first: None, last: None }
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
            (Kind::F64(lanes), Values::F64(values), None) => {
                lanes.add(&values[range.clone()], self.count, self.needs);
                self.count += range.len() as u64;
            }
            (Kind::F64(lanes), Values::F64(values), Some(validity)) => {
                for_valid(values, validity, range, |slice| {
                    lanes.add(slice, self.count, self.needs);
                    self.count += slice.len() as u64;
                });
            }
            (Kind::I64(totals), Values::I64(values), None) => {
                totals.add(&values[range.clone()], self.needs);
                self.count += range.len() as u64;
            }
            (Kind::I64(totals), Values::I64(values), Some(validity)) => {
                for_valid(values, validity, range, |slice| {
                    totals.add(slice, self.needs);
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
            (Kind::F64(lanes), Some(Scalar::F64(min)), Some(Scalar::F64(max))) => {
                lanes.numbers += u64::from(stats.valid - stats.nan);
                lanes.mins[0] = if min < lanes.mins[0] { min } else { lanes.mins[0] };
                lanes.maxs[0] = if max > lanes.maxs[0] { max } else { lanes.maxs[0] };
                // Statistics order -0 before +0, so the bounds tell which zeros there are.
                let zero = |zero: f64| min.to_bits() == zero.to_bits() || max.to_bits() == zero.to_bits();
                lanes.negative_zero |= zero(-0.0);
                lanes.positive_zero |= zero(0.0);
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

    /// Whether [`Self::add_block`] gives the same answer, to the bit, as adding the block's rows.
    pub fn takes(&self, stats: &FieldStats) -> bool {
        // The lanes of a sum of doubles cannot be told from its total.
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
            Kind::F64(lanes) => {
                lanes.finish(&mut summary);
                *lanes = FloatLanes::EMPTY;
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

/// Calls `each` with the valid values of `range`, in order, in slices.
fn for_valid<T: Copy + Default>(values: &[T], validity: &Bitmap, range: Range<usize>, mut each: impl FnMut(&[T])) {
    let mut row = range.start;
    let mut gathered = [T::default(); 64];
    while row < range.end {
        let word_end = (row / 64 + 1) * 64;
        let end = range.end.min(word_end);
        let width = end - row;
        let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        let mut bits = bitmap_word(validity, row / 64) >> (row % 64) & mask;
        if bits == mask {
            each(&values[row..end]);
        } else if bits != 0 {
            let mut length = 0;
            while bits != 0 {
                gathered[length] = values[row + bits.trailing_zeros() as usize];
                length += 1;
                bits &= bits - 1;
            }
            each(&gathered[..length]);
        }
        row = end;
    }
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
