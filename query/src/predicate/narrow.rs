//! Owns tests on numbers that stand for values: a comparison of values becomes an interval of numbers; does not decode.
//!
//! A value rises with its number (`Meaning`), so the numbers whose values pass `v > literal` lie side by side. Where they
//! begin is found by trying values, not by dividing the literal: so the outcome is that of comparing values, to the bit.

use std::ops::Range;

use tidewell_codec::{Meaning, NarrowValues, Numbers};
use tidewell_engine::NarrowRows;

use super::evaluate::{Columns, Masks, Operand, Scratch, View};
use super::{Node, Operator, Predicate};

/// Numbers of some rows and what they mean.
pub(super) struct NarrowView<'a> {
    numbers: &'a Numbers,
    meaning: Meaning,
    real: bool,
    rows: Range<usize>,
}

/// Columns of one block, from a row on that begins a word of their bitmaps.
struct NarrowColumns<'a> {
    rows: &'a NarrowRows,
    range: Range<usize>,
}

impl Columns for NarrowColumns<'_> {
    fn view(&self, slot: usize) -> View<'_> {
        let column = self.rows.columns[slot].as_deref().expect("every column of the condition was asked for");
        let range = self.range.clone();
        let operand = match column.values() {
            NarrowValues::Decimals(numbers, meaning) => {
                Operand::Narrow(NarrowView { numbers, meaning: *meaning, real: true, rows: range })
            }
            NarrowValues::Integers(numbers, meaning) => {
                Operand::Narrow(NarrowView { numbers, meaning: *meaning, real: false, rows: range })
            }
            NarrowValues::F64(values) => Operand::F64(&values[range]),
            NarrowValues::I64(values) => Operand::I64(&values[range]),
            NarrowValues::Bool(bits) => Operand::Bool(bits),
            NarrowValues::Utf8(text) => Operand::Text(text, range.start),
        };
        View { operand, validity: column.validity(), first_word: self.range.start / 64 }
    }
}

impl Predicate {
    /// Evaluates the condition over the rows of a part. Bit 0 of `masks` is the row that is given back, at most 63 rows
    /// before the part's first; rows that are not the part's are unknown.
    pub fn evaluate_narrow(&self, rows: &NarrowRows, masks: &mut Masks, scratch: &mut Scratch) -> usize {
        let first = rows.range.start / 64 * 64;
        let range = first..rows.range.end.max(first);
        let count = range.len();
        self.root.evaluate(&NarrowColumns { rows, range }, count, masks, scratch);
        let before = rows.range.start - first;
        for words in [&mut masks.matched, &mut masks.failed] {
            if let Some(word) = words.first_mut() {
                *word &= u64::MAX << before;
            }
        }
        first
    }
}

/// Numbers from `from` up to, and without, `to`; or all others.
#[derive(Clone, Copy)]
struct Interval {
    from: u64,
    to: u64,
    inside: bool,
}

impl NarrowView<'_> {
    /// Sets the bit of each row whose value passes `node`.
    pub(super) fn compare(&self, node: &Node, out: &mut [u64]) {
        match node {
            Node::Never { .. } => {}
            Node::F64 { operator, value, .. } if self.real => self.mark(self.interval(*operator, *value), out),
            Node::F64In { values, .. } if self.real => {
                let equal = |value: &f64| self.interval(Operator::Equal, *value);
                self.mark_any(values.iter().map(equal), out);
            }
            Node::I64 { low, high, inside, .. } if !self.real => {
                let found = self.between(*low, *high);
                self.mark(Interval { inside: *inside, ..found }, out);
            }
            Node::I64In { values, .. } if !self.real => {
                self.mark_any(values.iter().map(|value| self.between(*value, *value)), out);
            }
            _ => unreachable!("the condition was checked against the table's types"),
        }
    }

    /// The numbers whose doubles pass `operator` against `value`.
    fn interval(&self, operator: Operator, value: f64) -> Interval {
        let all = self.numbers_max() + 1;
        let first = |passes: &dyn Fn(f64) -> bool| {
            let (mut low, mut high) = (0, all);
            while low < high {
                let middle = low + (high - low) / 2;
                // Below `all`, which is at most 2^32.
                if passes(self.meaning.real(middle as u32)) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            low
        };
        if value.is_nan() {
            return Interval { from: 0, to: 0, inside: true };
        }
        let (equal, greater) = (first(&|own| own >= value), first(&|own| own > value));
        let (from, to, inside) = match operator {
            Operator::Equal => (equal, greater, true),
            Operator::NotEqual => (equal, greater, false),
            Operator::Less => (0, equal, true),
            Operator::LessEqual => (0, greater, true),
            Operator::Greater => (greater, all, true),
            Operator::GreaterEqual => (equal, all, true),
        };
        Interval { from, to, inside }
    }

    /// The numbers whose integers lie in `low..=high`.
    fn between(&self, low: i64, high: i64) -> Interval {
        let (all, base) = (i128::from(self.numbers_max()) + 1, i128::from(self.meaning.integer(0)));
        // Clamped to 0..=2^32.
        let from = (i128::from(low) - base).clamp(0, all) as u64;
        let to = (i128::from(high) - base + 1).clamp(0, all) as u64;
        Interval { from, to: to.max(from), inside: true }
    }

    /// The greatest number of this width.
    fn numbers_max(&self) -> u64 {
        match self.numbers {
            Numbers::Zero(_) => 0,
            Numbers::U8(_) => u64::from(u8::MAX),
            Numbers::U16(_) => u64::from(u16::MAX),
            Numbers::U32(_) => u64::from(u32::MAX),
        }
    }

    /// Sets the bits of numbers in any of `intervals`.
    fn mark_any(&self, intervals: impl Iterator<Item = Interval>, out: &mut [u64]) {
        let mut words = vec![0; out.len()];
        for interval in intervals.filter(|interval| interval.from < interval.to) {
            self.mark(interval, &mut words);
            out.iter_mut().zip(&words).for_each(|(own, word)| *own |= word);
        }
    }

    /// Sets the bits of numbers in `interval`, clears the others.
    fn mark(&self, interval: Interval, out: &mut [u64]) {
        let Interval { from, to, inside } = interval;
        let all = self.numbers_max() + 1;
        if from >= to || (from == 0 && to == all) {
            // Bits past the last row are cleared with those of nulls.
            out.fill(if (from < to) == inside { u64::MAX } else { 0 });
            return;
        }
        let flip = if inside { 0 } else { u64::MAX };
        // Less than `all`, so both fit the width of the numbers.
        let (low, span) = (from, to - from - 1);
        match self.numbers {
            Numbers::Zero(_) => unreachable!("one number is in the interval or not"),
            Numbers::U8(v) => {
                let (low, span) = (low as u8, span as u8);
                mark(&v[self.rows.clone()], out, |n| n.wrapping_sub(low) <= span);
            }
            Numbers::U16(v) => {
                let (low, span) = (low as u16, span as u16);
                mark(&v[self.rows.clone()], out, |n| n.wrapping_sub(low) <= span);
            }
            Numbers::U32(v) => {
                let (low, span) = (low as u32, span as u32);
                mark(&v[self.rows.clone()], out, |n| n.wrapping_sub(low) <= span);
            }
        }
        out.iter_mut().for_each(|word| *word ^= flip);
    }
}

/// Sets bit `i` of `out` to whether `test` holds for value `i`.
#[inline]
fn mark<T: Copy>(values: &[T], out: &mut [u64], test: impl Fn(T) -> bool) {
    let (chunks, rest) = values.as_chunks::<64>();
    for (chunk, word) in chunks.iter().zip(out.iter_mut()) {
        // A byte for each value first: that loop runs on vectors of the values' own width.
        let mut flags = [0u8; 64];
        for (flag, value) in flags.iter_mut().zip(chunk) {
            *flag = u8::from(test(*value));
        }
        *word = 0;
        for (at, eight) in flags.as_chunks::<8>().0.iter().enumerate() {
            // The product brings the lowest bit of byte `i` to bit `56 + i`; no two of them meet.
            let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
            *word |= bits << (at * 8);
        }
    }
    if let Some(word) = out.get_mut(chunks.len()) {
        *word = rest.iter().enumerate().fold(0, |word, (bit, &v)| word | u64::from(test(v)) << bit);
    }
}
