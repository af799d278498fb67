//! Owns the loops over numbers: eight lanes that the compiler turns into vector code; does not look at validity.

use tidewell_engine::Scalar;

use super::summary::{Sum, Summary};
use super::{FloatLanes, IntegerTotals, LANES, Needs};

impl FloatLanes {
    /// Adds `values`; `before` values of the window came earlier and decide the first lane.
    #[inline]
    pub(super) fn add(&mut self, values: &[f64], before: u64, needs: Needs) {
        // One loop for each set of aggregates, so that none computes what nobody asked for.
        match (needs.sum, needs.extremes) {
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

    /// Looks at the signs of zeros, only where a zero may be the answer: -0 counts as smaller than +0.
    #[inline]
    fn note_zeros(&mut self, values: &[f64]) {
        if self.min() == 0.0 || self.max() == 0.0 {
            self.negative_zero |= values.iter().any(|v| v.to_bits() == (-0.0f64).to_bits());
            self.positive_zero |= values.iter().any(|v| v.to_bits() == 0);
        }
    }

    #[inline]
    fn min(&self) -> f64 {
        halve(self.mins, |a, b| if b < a { b } else { a })
    }

    #[inline]
    fn max(&self) -> f64 {
        halve(self.maxs, |a, b| if b > a { b } else { a })
    }

    pub(super) fn finish(&self, summary: &mut Summary) {
        summary.numbers = self.numbers;
        summary.sum = Sum::F64(halve(self.sums, |a, b| a + b));
        let (min, max) = (self.min(), self.max());
        summary.min = Scalar::F64(match min {
            0.0 if self.negative_zero => -0.0,
            0.0 => 0.0,
            other => other,
        });
        summary.max = Scalar::F64(match max {
            0.0 if self.positive_zero => 0.0,
            0.0 => -0.0,
            other => other,
        });
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

impl IntegerTotals {
    /// Adds `values`.
    #[inline]
    pub(super) fn add(&mut self, values: &[i64], needs: Needs) {
        if needs.sum {
            for slice in values.chunks(CARRY_EVERY) {
                let (mut high, mut low) = (0i64, 0u64);
                for &value in slice {
                    high += value >> 32;
                    low += value as u64 & 0xffff_ffff;
                }
                self.sum += (i128::from(high) << 32) + i128::from(low);
            }
        }
        if needs.extremes {
            self.min = values.iter().fold(self.min, |a, &b| a.min(b));
            self.max = values.iter().fold(self.max, |a, &b| a.max(b));
        }
    }
}
