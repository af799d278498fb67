//! Owns the computation of a block's zone map from its rows; does not know its bytes (see `zone`).

use std::ops::Range;

use tidewell_codec::{Bitmap, Column, Values};

use crate::types::{FieldStats, FieldType, Scalar};

/// Statistics of a field that has no value in a block of `rows` rows.
pub fn empty_stats(field_type: FieldType, rows: u32) -> FieldStats {
    let sum = match field_type {
        FieldType::F64 => Some(Scalar::F64(0.0)),
        FieldType::I64 => Some(Scalar::I64(0)),
        FieldType::Bool | FieldType::Utf8 => None,
    };
    FieldStats { rows, valid: 0, nan: 0, min: None, max: None, sum, first: None, last: None }
}

/// Exact statistics of the rows `range` of `column`.
///
/// Of zeros of both signs -0 is the smaller one, so that the result does not depend on the order of the rows.
///
/// # Panics
/// When the range has 2^32 rows or more; blocks are bounded far below.
pub fn field_stats(column: &Column, range: Range<usize>) -> FieldStats {
    let rows = u32::try_from(range.len()).expect("a block is bounded far below 2^32 rows");
    let empty = empty_stats(column.field_type(), rows);
    let validity = column.validity.as_ref();
    let valid = validity.map_or(rows, |v| count_valid(v, range.clone()));
    if valid == 0 {
        return empty;
    }
    let some_null = valid < rows;
    match &column.values {
        Values::F64(values) if some_null => {
            let present: Vec<f64> = valid_slots(validity, range).map(|i| values[i]).collect();
            f64_stats(&present, empty)
        }
        Values::F64(values) => f64_stats(&values[range], empty),
        Values::I64(values) if some_null => {
            let present: Vec<i64> = valid_slots(validity, range).map(|i| values[i]).collect();
            i64_stats(&present, empty)
        }
        Values::I64(values) => i64_stats(&values[range], empty),
        Values::Bool(values) => bool_stats(valid_slots(validity, range).map(|i| values.get(i)), valid, empty),
        Values::Utf8(_) => FieldStats { valid, ..empty },
    }
}

fn count_valid(validity: &Bitmap, range: Range<usize>) -> u32 {
    if range.start == 0 && range.end == validity.len() {
        return validity.count_ones() as u32;
    }
    let bytes = validity.as_bytes();
    let mut count = 0;
    let mut at = range.start;
    while at < range.end {
        if at.is_multiple_of(8) && at + 8 <= range.end {
            count += bytes[at / 8].count_ones();
            at += 8;
        } else {
            count += u32::from(validity.get(at));
            at += 1;
        }
    }
    count
}

fn valid_slots(validity: Option<&Bitmap>, range: Range<usize>) -> impl Iterator<Item = usize> + '_ {
    range.filter(move |&i| validity.is_none_or(|v| v.get(i)))
}

fn f64_stats(values: &[f64], empty: FieldStats) -> FieldStats {
    // Four lanes and selects instead of branches: the compiler makes min and max instructions of them, which run while
    // the sum waits for its additions. A comparison with NaN is false, so NaN never wins.
    let (mut low, mut high) = ([f64::INFINITY; 4], [f64::NEG_INFINITY; 4]);
    let mut nans = [0u64; 4];
    // In time order, so that the sum does not depend on how rows were cut into chunks.
    let mut sum = 0.0;
    let (quads, rest) = values.as_chunks::<4>();
    let mut take = |lane: usize, v: f64| {
        low[lane] = if v < low[lane] { v } else { low[lane] };
        high[lane] = if v > high[lane] { v } else { high[lane] };
        nans[lane] += u64::from(v.is_nan());
    };
    for quad in quads {
        for (lane, v) in quad.iter().enumerate() {
            take(lane, *v);
        }
        for v in quad {
            sum += v;
        }
    }
    for v in rest {
        take(0, *v);
        sum += v;
    }
    let nan = nans.iter().sum::<u64>() as u32;
    if nan > 0 {
        sum = values.iter().filter(|v| !v.is_nan()).fold(0.0, |sum, v| sum + v);
    }
    let mut min = low.into_iter().fold(f64::INFINITY, |a, b| if b < a { b } else { a });
    let mut max = high.into_iter().fold(f64::NEG_INFINITY, |a, b| if b > a { b } else { a });
    // Comparisons do not tell -0 from +0: look which of them is there.
    let has = |zero: f64| values.iter().any(|v| v.to_bits() == zero.to_bits());
    if min == 0.0 {
        min = if has(-0.0) { -0.0 } else { 0.0 };
    }
    if max == 0.0 {
        max = if has(0.0) { 0.0 } else { -0.0 };
    }
    let comparable = (nan as usize) < values.len();
    FieldStats {
        valid: values.len() as u32,
        nan,
        min: comparable.then_some(Scalar::F64(min)),
        max: comparable.then_some(Scalar::F64(max)),
        sum: Some(Scalar::F64(sum)),
        first: values.first().map(|v| Scalar::F64(*v)),
        last: values.last().map(|v| Scalar::F64(*v)),
        ..empty
    }
}

fn i64_stats(values: &[i64], empty: FieldStats) -> FieldStats {
    let (mut min, mut max) = (i64::MAX, i64::MIN);
    // Halves are summed apart: neither overflows below 2^32 rows, and the loop stays in 64-bit lanes.
    let (mut low, mut high) = (0u64, 0i64);
    for &v in values {
        min = min.min(v);
        max = max.max(v);
        low += v as u64 & 0xffff_ffff;
        high += v >> 32;
    }
    let sum = (i128::from(high) << 32) + i128::from(low);
    FieldStats {
        valid: values.len() as u32,
        min: Some(Scalar::I64(min)),
        max: Some(Scalar::I64(max)),
        sum: i64::try_from(sum).ok().map(Scalar::I64),
        first: values.first().map(|v| Scalar::I64(*v)),
        last: values.last().map(|v| Scalar::I64(*v)),
        ..empty
    }
}

fn bool_stats(mut values: impl Iterator<Item = bool>, valid: u32, empty: FieldStats) -> FieldStats {
    let Some(first) = values.next() else { return empty };
    let (mut min, mut max, mut last) = (first, first, first);
    for v in values {
        min &= v;
        max |= v;
        last = v;
    }
    let some = |v| Some(Scalar::Bool(v));
    FieldStats { valid, min: some(min), max: some(max), first: some(first), last: some(last), ..empty }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubles(values: &[f64]) -> Column {
        Column { values: Values::F64(values.to_vec()), validity: None }
    }

    #[test]
    fn nan_counts_as_a_value_and_is_ignored_otherwise() {
        let column = doubles(&[f64::NAN, 2.0, f64::NAN, -1.0, 7.5, 0.0, f64::NAN]);
        let stats = field_stats(&column, 0..7);
        assert_eq!((stats.rows, stats.valid, stats.nan), (7, 7, 3));
        assert_eq!((stats.min, stats.max), (Some(Scalar::F64(-1.0)), Some(Scalar::F64(7.5))));
        assert_eq!(stats.sum, Some(Scalar::F64(8.5)));
        assert!(matches!(stats.first, Some(Scalar::F64(v)) if v.is_nan()));
        let only = field_stats(&column, 0..1);
        assert_eq!((only.min, only.max, only.sum), (None, None, Some(Scalar::F64(0.0))));
    }

    #[test]
    fn negative_zero_is_below_zero_in_any_order() {
        for values in [[0.0, -0.0], [-0.0, 0.0]] {
            let stats = field_stats(&doubles(&values), 0..2);
            let bits = |s: Option<Scalar>| match s {
                Some(Scalar::F64(v)) => v.to_bits(),
                other => panic!("{other:?}"),
            };
            assert_eq!((bits(stats.min), bits(stats.max)), ((-0.0f64).to_bits(), 0));
        }
    }

    #[test]
    fn integer_sums_are_exact_or_absent() {
        let column = Column { values: Values::I64(vec![i64::MAX, 1, -1, i64::MIN, 5]), validity: None };
        assert_eq!(field_stats(&column, 0..5).sum, Some(Scalar::I64(4)));
        assert_eq!(field_stats(&column, 0..2).sum, None);
        assert_eq!(field_stats(&column, 3..5).sum, Some(Scalar::I64(i64::MIN + 5)));
    }

    #[test]
    fn nulls_do_not_take_part() {
        let mut column = Column::nulls(FieldType::I64, 3);
        column.extend_from(&Column { values: Values::I64(vec![4, 9]), validity: None }, 0..2);
        column.extend_nulls(20);
        let stats = field_stats(&column, 1..21);
        assert_eq!((stats.rows, stats.valid), (20, 2));
        assert_eq!(
            (stats.min, stats.first, stats.last),
            (Some(Scalar::I64(4)), Some(Scalar::I64(4)), Some(Scalar::I64(9)))
        );
        assert_eq!(field_stats(&column, 5..20), empty_stats(FieldType::I64, 15));
        let flags = Column { values: Values::Bool([true, false, true].into_iter().collect()), validity: None };
        let stats = field_stats(&flags, 0..3);
        assert_eq!((stats.min, stats.max), (Some(Scalar::Bool(false)), Some(Scalar::Bool(true))));
    }
}
