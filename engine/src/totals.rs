//! Owns how numbers are added up: the loops of sums and extremes, which queries and summaries share; knows no windows.
//!
//! A sum of doubles depends on its order. So that an answer does not depend on how rows lie in blocks, nor on whether
//! rows were summed when a segment was written or when a question was asked, there is one order and this is the code of
//! it: of a stretch of rows, value number `i` (nulls not counted, NaN adds nothing but takes its place) goes to lane
//! `i % 8`, and lanes are added up in a fixed order at the end. Which stretches there are is said in `docs/query.md`.

use std::ops::Range;

use tidewell_codec::Bitmap;

/// Lanes of a sum. Part of every stored sum: another number gives other last digits.
pub const LANES: usize = 8;

/// Which totals are needed, so that a loop computes no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sum of numbers.
    pub sum: bool,
    /// Smallest and largest number.
    pub extremes: bool,
}

impl Totals {
    /// Everything.
    pub const ALL: Self = Self { sum: true, extremes: true };
}

/// Totals of doubles, in eight lanes that the compiler turns into vector code.
#[derive(Clone, Debug)]
pub struct FloatTotals {
    sums: [f64; LANES],
    mins: [f64; LANES],
    maxs: [f64; LANES],
    /// Values that are not NaN.
    numbers: u64,
    /// Zeros of either sign that were the smallest or largest value when they came: `<` does not tell them apart.
    negative_zero: bool,
    positive_zero: bool,
}

impl Default for FloatTotals {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl FloatTotals {
    /// Of no value.
    pub const EMPTY: Self = Self {
        sums: [0.0; LANES],
        mins: [f64::INFINITY; LANES],
        maxs: [f64::NEG_INFINITY; LANES],
        numbers: 0,
        negative_zero: false,
        positive_zero: false,
    };

    /// Adds `values`; `before` values of the same stretch came earlier and decide the first lane.
    #[inline]
    pub fn add(&mut self, values: &[f64], before: u64, totals: Totals) {
        // One loop for each set of totals, so that none computes what nobody asked for.
        match (totals.sum, totals.extremes) {
            (true, true) => self.add_needed::<true, true>(values, before),
            (true, false) => self.add_needed::<true, false>(values, before),
            (false, true) => self.add_needed::<false, true>(values, before),
            (false, false) => {}
        }
    }

    fn add_needed<const SUM: bool, const EXTREMES: bool>(&mut self, values: &[f64], before: u64) {
        let phase = (before % LANES as u64) as usize;
        let head = if phase == 0 { 0 } else { (LANES - phase).min(values.len()) };
        let (head, rest) = values.split_at(head);
        for (lane, &value) in (phase..).zip(head) {
            self.add_one::<SUM, EXTREMES>(lane, value);
        }
        let (blocks, tail) = rest.as_chunks::<LANES>();
        if !blocks.is_empty() {
            // Local copies stay in registers; fields behind a reference would go through memory at every step.
            let (mut sums, mut mins, mut maxs) = (self.sums, self.mins, self.maxs);
            let mut nans = [0i64; LANES];
            for block in blocks {
                for lane in 0..LANES {
                    let value = block[lane];
                    nans[lane] += i64::from(value.is_nan());
                    if SUM {
                        sums[lane] += if value.is_nan() { 0.0 } else { value };
                    }
                    if EXTREMES {
                        // Comparisons with NaN are false, so NaN is never kept.
                        mins[lane] = if value < mins[lane] { value } else { mins[lane] };
                        maxs[lane] = if value > maxs[lane] { value } else { maxs[lane] };
                    }
                }
            }
            (self.sums, self.mins, self.maxs) = (sums, mins, maxs);
            self.numbers += (blocks.len() * LANES) as u64 - nans.iter().sum::<i64>() as u64;
        }
        for (lane, &value) in tail.iter().enumerate() {
            self.add_one::<SUM, EXTREMES>(lane, value);
        }
        if EXTREMES {
            self.note_zeros(values);
        }
    }

    #[inline]
    fn add_one<const SUM: bool, const EXTREMES: bool>(&mut self, lane: usize, value: f64) {
        self.numbers += u64::from(!value.is_nan());
        if SUM {
            self.sums[lane] += if value.is_nan() { 0.0 } else { value };
        }
        if EXTREMES {
            self.mins[lane] = if value < self.mins[lane] { value } else { self.mins[lane] };
            self.maxs[lane] = if value > self.maxs[lane] { value } else { self.maxs[lane] };
        }
    }

    /// Adds `numbers` values of which only the smallest and the largest are known; -0 counts as smaller than +0.
    #[inline]
    pub fn add_known(&mut self, numbers: u64, extremes: Option<(f64, f64)>) {
        self.numbers += numbers;
        if let Some((min, max)) = extremes {
            self.mins[0] = if min < self.mins[0] { min } else { self.mins[0] };
            self.maxs[0] = if max > self.maxs[0] { max } else { self.maxs[0] };
            // The bounds tell which zeros there are, as far as a zero can be the answer.
            let zero = |zero: f64| min.to_bits() == zero.to_bits() || max.to_bits() == zero.to_bits();
            self.negative_zero |= zero(-0.0);
            self.positive_zero |= zero(0.0);
        }
    }

    /// Looks at the signs of zeros, only where a zero may be the answer: -0 counts as smaller than +0.
    #[inline]
    fn note_zeros(&mut self, values: &[f64]) {
        if self.lane_min() == 0.0 || self.lane_max() == 0.0 {
            self.negative_zero |= values.iter().any(|v| v.to_bits() == (-0.0f64).to_bits());
            self.positive_zero |= values.iter().any(|v| v.to_bits() == 0);
        }
    }

    #[inline]
    fn lane_min(&self) -> f64 {
        halve(self.mins, |a, b| if b < a { b } else { a })
    }

    #[inline]
    fn lane_max(&self) -> f64 {
        halve(self.maxs, |a, b| if b > a { b } else { a })
    }

    /// Values that are not NaN.
    pub fn numbers(&self) -> u64 {
        self.numbers
    }

    /// Smallest and largest number; meaningful only when there is a number.
    #[inline]
    pub fn extremes(&self) -> (f64, f64) {
        let min = match self.lane_min() {
            0.0 if self.negative_zero => -0.0,
            0.0 => 0.0,
            other => other,
        };
        let max = match self.lane_max() {
            0.0 if self.positive_zero => 0.0,
            0.0 => -0.0,
            other => other,
        };
        (min, max)
    }

    /// The sum of the stretch, which ends here: the next value is number 0 of another. Extremes and numbers go on.
    #[inline]
    pub fn take_sum(&mut self) -> f64 {
        halve(std::mem::replace(&mut self.sums, [0.0; LANES]), |a, b| a + b)
    }
}

/// Folds lanes by halves, in the order `((0 4) (2 6)) ((1 5) (3 7))`: three steps deep, and a fixed order for sums.
#[inline(always)]
fn halve(l: [f64; LANES], fold: impl Fn(f64, f64) -> f64) -> f64 {
    let four = [fold(l[0], l[4]), fold(l[1], l[5]), fold(l[2], l[6]), fold(l[3], l[7])];
    fold(fold(four[0], four[2]), fold(four[1], four[3]))
}

/// Values between two carries of an integer sum: 2^31 halves of 32 bits fit 64 bits.
const CARRY_EVERY: usize = 1 << 16;

/// Totals of integers; exact, so that order does not matter.
#[derive(Clone, Debug)]
pub struct IntegerTotals {
    /// Their sum.
    pub sum: i128,
    /// The smallest; `i64::MAX` without a value.
    pub min: i64,
    /// The largest; `i64::MIN` without a value.
    pub max: i64,
}

impl Default for IntegerTotals {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl IntegerTotals {
    /// Of no value.
    pub const EMPTY: Self = Self { sum: 0, min: i64::MAX, max: i64::MIN };

    /// Adds `values`.
    #[inline]
    pub fn add(&mut self, values: &[i64], totals: Totals) {
        if totals.sum {
            for slice in values.chunks(CARRY_EVERY) {
                let (mut high, mut low) = (0i64, 0u64);
                for &value in slice {
                    high += value >> 32;
                    low += value as u64 & 0xffff_ffff;
                }
                self.sum += (i128::from(high) << 32) + i128::from(low);
            }
        }
        if totals.extremes {
            self.min = values.iter().fold(self.min, |a, &b| a.min(b));
            self.max = values.iter().fold(self.max, |a, &b| a.max(b));
        }
    }
}

/// Calls `each` with the valid values of `range`, in order, in slices.
#[inline]
pub fn for_valid<T: Copy + Default>(values: &[T], validity: &Bitmap, range: Range<usize>, mut each: impl FnMut(&[T])) {
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

/// Bits `64 * index..` of `bitmap`, the first one lowest.
#[inline]
pub fn bitmap_word(bitmap: &Bitmap, index: usize) -> u64 {
    let bytes = &bitmap.as_bytes()[index * 8..];
    match bytes.first_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However values come in slices, the sum is that of lanes filled one by one, to the bit.
        #[test]
        fn slices_do_not_change_a_sum(values in prop::collection::vec(prop_oneof![9 => -1e6..1e6f64, 1 => Just(f64::NAN)], 0..100),
                                      cuts in prop::collection::vec(0..100usize, 0..5)) {
            let mut lanes = [0.0; LANES];
            for (index, value) in values.iter().enumerate().filter(|(_, v)| !v.is_nan()) {
                lanes[index % LANES] += value;
            }
            let [a, b, c, d, e, f, g, h] = lanes;
            let expected = ((a + e) + (c + g)) + ((b + f) + (d + h));
            let mut totals = FloatTotals::EMPTY;
            let mut from = 0;
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(values.len())).collect();
            cuts.sort_unstable();
            for to in cuts.into_iter().chain([values.len()]) {
                totals.add(&values[from..to], from as u64, Totals::ALL);
                from = to;
            }
            prop_assert_eq!(totals.take_sum().to_bits(), expected.to_bits());
            prop_assert_eq!(totals.numbers(), values.iter().filter(|v| !v.is_nan()).count() as u64);
        }
    }

    #[test]
    fn zeros_keep_their_signs() {
        let mut totals = FloatTotals::EMPTY;
        totals.add(&[0.0, -0.0], 0, Totals::ALL);
        let (min, max) = totals.extremes();
        assert_eq!((min.to_bits(), max.to_bits()), ((-0.0f64).to_bits(), 0));
        let mut known = FloatTotals::EMPTY;
        known.add_known(2, Some((min, max)));
        let (min, max) = known.extremes();
        assert_eq!((min.to_bits(), max.to_bits()), ((-0.0f64).to_bits(), 0));
    }
}
