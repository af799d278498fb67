//! Owns the bytes of a zone map (one field of one block); does not compute it (see `stats`).
//!
//! A zone map must be small: a slow device has as many of them as a fast one. So values are stored as decimals
//! where that is exact to the bit, and relative to the minimum.

use super::bytes::{Cursor, Flaw, put_varint, put_zigzag, varint_len, zigzag};
use super::stats::empty_stats;
use crate::types::{FieldStats, FieldType, Scalar};

const NULLS: u8 = 1;
const NANS: u8 = 1 << 1;
/// Minimum, maximum, first and last are one value.
const CONSTANT: u8 = 1 << 2;
/// Doubles: the sum is eight raw bytes. Integers: there is no sum.
const SUM_APART: u8 = 1 << 3;
/// Upper half of the flags of a double: the decimal places, or this for raw bytes.
const RAW: u8 = 15;
pub(crate) const PLACES_MAX: u8 = 14;
/// Integers up to here are exact doubles.
pub(crate) const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

pub(crate) const POWERS: [f64; PLACES_MAX as usize + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14];

/// Appends the zone map of a field that has at least one value; its `rows` are the block's and not repeated.
pub(crate) fn encode_zone(stats: &FieldStats, field_type: FieldType, out: &mut Vec<u8>) {
    let mut flags = 0;
    if stats.valid < stats.rows {
        flags |= NULLS;
    }
    if stats.nan > 0 {
        flags |= NANS;
    }
    let mut body = Vec::with_capacity(40);
    match field_type {
        FieldType::F64 => encode_f64(stats, &mut flags, &mut body),
        FieldType::I64 => encode_i64(stats, &mut flags, &mut body),
        FieldType::Bool => {
            for (bit, value) in [stats.min, stats.max, stats.first, stats.last].into_iter().enumerate() {
                flags |= u8::from(value == Some(Scalar::Bool(true))) << (4 + bit);
            }
        }
        FieldType::Utf8 => {}
    }
    out.push(flags);
    if flags & NULLS != 0 {
        put_varint(out, u64::from(stats.rows - stats.valid));
    }
    if flags & NANS != 0 {
        put_varint(out, u64::from(stats.nan));
    }
    out.extend_from_slice(&body);
}

fn encode_f64(stats: &FieldStats, flags: &mut u8, body: &mut Vec<u8>) {
    let bits = |scalar: Option<Scalar>| match scalar {
        Some(Scalar::F64(v)) => v,
        // Without a comparable value the decoder knows from the counts that there is no minimum.
        _ => 0.0,
    };
    let (first, last, sum) = (bits(stats.first), bits(stats.last), bits(stats.sum));
    let comparable = stats.nan < stats.valid;
    let values = if comparable { [bits(stats.min), bits(stats.max), first, last] } else { [first, last, first, last] };
    let constant = values.iter().all(|v| v.to_bits() == values[0].to_bits());
    let places = (0..=PLACES_MAX).find(|&k| values.iter().all(|&v| decimal(v, k).is_some()));
    if constant {
        *flags |= CONSTANT;
    }
    match places {
        Some(places) => {
            *flags |= places << 4;
            let n = values.map(|v| decimal(v, places).expect("the places were chosen for these values"));
            put_zigzag(body, n[0]);
            if !constant {
                n[1..].iter().for_each(|v| put_varint(body, v.wrapping_sub(n[0]) as u64));
            }
        }
        None => {
            *flags |= RAW << 4;
            let count = if constant { 1 } else { 4 };
            values[..count].iter().for_each(|v| body.extend_from_slice(&v.to_le_bytes()));
        }
    }
    // A sum of decimals is nearly one: the decimal and how many steps of a double it is off are shorter than the double.
    let power = POWERS[usize::from(places.unwrap_or(0))];
    // Adding 0 makes the zero that rounding leaves of a small negative sum the one that an integer stands for.
    let near = (sum * power).round() + 0.0;
    let steps = sum.to_bits().wrapping_sub((near / power).to_bits()) as i64;
    if near.abs() < EXACT_MAX && varint_len(zigzag(near as i64)) + varint_len(zigzag(steps)) < 8 {
        put_zigzag(body, near as i64);
        put_zigzag(body, steps);
    } else {
        *flags |= SUM_APART;
        body.extend_from_slice(&sum.to_le_bytes());
    }
}

/// `n` with `value == n / 10^places` to the bit.
pub(crate) fn decimal(value: f64, places: u8) -> Option<i64> {
    let power = POWERS[usize::from(places)];
    let n = (value * power).round();
    // The comparison is false for NaN and infinities, too.
    (n.abs() < EXACT_MAX && ((n as i64) as f64 / power).to_bits() == value.to_bits()).then_some(n as i64)
}

fn encode_i64(stats: &FieldStats, flags: &mut u8, body: &mut Vec<u8>) {
    let int = |scalar: Option<Scalar>| match scalar {
        Some(Scalar::I64(v)) => v,
        _ => 0,
    };
    let values = [int(stats.min), int(stats.max), int(stats.first), int(stats.last)];
    put_zigzag(body, values[0]);
    if values.iter().all(|v| *v == values[0]) {
        *flags |= CONSTANT;
    } else {
        values[1..].iter().for_each(|v| put_varint(body, v.wrapping_sub(values[0]) as u64));
    }
    match stats.sum {
        Some(Scalar::I64(sum)) => put_zigzag(body, sum),
        _ => *flags |= SUM_APART,
    }
}

/// Reads what [`encode_zone`] wrote for a block of `rows` rows.
pub(crate) fn decode_zone(cursor: &mut Cursor<'_>, field_type: FieldType, rows: u32) -> Result<FieldStats, Flaw> {
    const COUNT: &str = "a count of rows within the block";
    let flags = cursor.byte("flags of a zone map")?;
    let count = |cursor: &mut Cursor<'_>, flag: u8, below: u32| -> Result<u32, Flaw> {
        if flags & flag == 0 {
            return Ok(0);
        }
        let count = cursor.varint(COUNT)?;
        match u32::try_from(count) {
            Ok(count) if count > 0 && count <= below => Ok(count),
            _ => Err(cursor.flaw(COUNT, count.to_string())),
        }
    };
    let valid = rows - count(cursor, NULLS, rows)?;
    let nan = count(cursor, NANS, valid)?;
    if valid == 0 || (nan > 0 && field_type != FieldType::F64) {
        return Err(cursor.flaw(COUNT, format!("{valid} values, {nan} NaN of {field_type} in {rows} rows")));
    }
    let stats = FieldStats { valid, nan, ..empty_stats(field_type, rows) };
    match field_type {
        FieldType::F64 => decode_f64(cursor, flags, stats),
        FieldType::I64 => decode_i64(cursor, flags, stats),
        FieldType::Bool => {
            let bit = |bit: u8| Some(Scalar::Bool(flags >> (4 + bit) & 1 == 1));
            Ok(FieldStats { min: bit(0), max: bit(1), first: bit(2), last: bit(3), ..stats })
        }
        FieldType::Utf8 => Ok(stats),
    }
}

fn decode_f64(cursor: &mut Cursor<'_>, flags: u8, stats: FieldStats) -> Result<FieldStats, Flaw> {
    const VALUE: &str = "a value of a zone map";
    let places = flags >> 4;
    let constant = flags & CONSTANT != 0;
    let power = POWERS.get(usize::from(places)).copied();
    let mut values = [0.0; 4];
    if let Some(power) = power {
        let base = cursor.zigzag(VALUE)?;
        values = [base as f64 / power; 4];
        if !constant {
            for value in &mut values[1..] {
                *value = base.wrapping_add(cursor.varint(VALUE)? as i64) as f64 / power;
            }
        }
    } else {
        values[0] = f64::from_bits(cursor.u64(VALUE)?);
        for at in 1..4 {
            values[at] = if constant { values[0] } else { f64::from_bits(cursor.u64(VALUE)?) };
        }
    }
    let sum = if flags & SUM_APART != 0 {
        f64::from_bits(cursor.u64(VALUE)?)
    } else {
        let near = cursor.zigzag(VALUE)? as f64 / power.unwrap_or(1.0);
        f64::from_bits(near.to_bits().wrapping_add(cursor.zigzag(VALUE)? as u64))
    };
    let some = |v| Some(Scalar::F64(v));
    let comparable = stats.nan < stats.valid;
    Ok(FieldStats {
        min: comparable.then_some(Scalar::F64(values[0])),
        max: comparable.then_some(Scalar::F64(values[1])),
        sum: some(sum),
        first: some(values[2]),
        last: some(values[3]),
        ..stats
    })
}

fn decode_i64(cursor: &mut Cursor<'_>, flags: u8, stats: FieldStats) -> Result<FieldStats, Flaw> {
    const VALUE: &str = "a value of a zone map";
    let mut values = [cursor.zigzag(VALUE)?; 4];
    if flags & CONSTANT == 0 {
        let base = values[0];
        for value in &mut values[1..] {
            *value = base.wrapping_add(cursor.varint(VALUE)? as i64);
        }
    }
    let sum = if flags & SUM_APART == 0 { Some(Scalar::I64(cursor.zigzag(VALUE)?)) } else { None };
    let some = |v| Some(Scalar::I64(v));
    Ok(FieldStats {
        min: some(values[0]),
        max: some(values[1]),
        sum,
        first: some(values[2]),
        last: some(values[3]),
        ..stats
    })
}

/// Whether two zone maps are the same to the bit; a NaN sum equals any NaN, as its bits depend on the processor.
pub(crate) fn same_stats(a: &FieldStats, b: &FieldStats) -> bool {
    let same = |a: Option<Scalar>, b: Option<Scalar>| match (a, b) {
        (Some(Scalar::F64(a)), Some(Scalar::F64(b))) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    };
    let nan = |s: Option<Scalar>| matches!(s, Some(Scalar::F64(v)) if v.is_nan());
    (a.rows, a.valid, a.nan) == (b.rows, b.valid, b.nan)
        && same(a.min, b.min)
        && same(a.max, b.max)
        && same(a.first, b.first)
        && same(a.last, b.last)
        && (same(a.sum, b.sum) || (nan(a.sum) && nan(b.sum)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidewell_codec::{Column, Values};

    use super::*;
    use crate::segment::stats::field_stats;

    fn round_trip(column: &Column) -> usize {
        let rows = column.len() as u32;
        let stats = field_stats(column, 0..column.len());
        if stats.valid == 0 {
            return 0;
        }
        let mut out = Vec::new();
        encode_zone(&stats, column.field_type(), &mut out);
        let mut cursor = Cursor::new(&out);
        let decoded = decode_zone(&mut cursor, column.field_type(), rows).unwrap();
        cursor.end("the end").unwrap();
        assert!(same_stats(&stats, &decoded), "{stats:?} {decoded:?}");
        for cut in 0..out.len() {
            assert!(decode_zone(&mut Cursor::new(&out[..cut]), column.field_type(), rows).is_err());
        }
        out.len()
    }

    #[test]
    fn zone_maps_of_decimals_are_short() {
        let values = (0..8640).map(|i| (200 + i * 37 % 91) as f64 / 10.0).collect();
        assert!(round_trip(&Column { values: Values::F64(values), validity: None }) <= 16);
        assert!(round_trip(&Column { values: Values::F64(vec![1.0; 10]), validity: None }) <= 4);
    }

    proptest! {
        #[test]
        fn zone_maps_come_back_to_the_bit(doubles in proptest::collection::vec(prop_oneof![
            any::<f64>(), (-100_000i64..100_000).prop_map(|n| n as f64 / 1000.0),
            Just(f64::NAN), Just(-0.0), Just(0.0), Just(f64::INFINITY), Just(f64::NEG_INFINITY), any::<u64>().prop_map(f64::from_bits),
        ], 1..20), ints in proptest::collection::vec(any::<i64>(), 1..20), nulls in 0usize..3) {
            for values in [Values::F64(doubles), Values::I64(ints)] {
                let mut column = Column { values, validity: None };
                column.extend_nulls(nulls);
                round_trip(&column);
            }
        }
    }
}
