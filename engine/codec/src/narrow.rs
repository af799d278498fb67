//! Owns columns decoded into as few bytes as their values need: numbers of one, two or four bytes above a base.
//!
//! Telemetry is mostly decimals within a narrow range. In this form a block is small enough to be kept after its first
//! use, and a comparison with a literal becomes one between small integers (the value rises with the number). A value
//! comes out the same to the bit as from [`decode_column`](crate::decode_column).

use std::ops::Range;

use crate::chunk::{ALL_NULL, SOME_NULL};
use crate::column::{Bitmap, Column, FieldType, Text, Values};
use crate::decimal::{self, Divisor};
use crate::error::Result;
use crate::reader::Reader;
use crate::scratch::Scratch;
use crate::{bools, integers, reals, text};

/// Integers of decimals up to this magnitude, and their bases, are exact doubles with room to spare.
const DECIMAL_LIMIT: u64 = 1 << 50;

/// Unsigned numbers of the smallest width that holds them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// So many zeros.
    Zero(usize),
    /// One byte each.
    U8(Vec<u8>),
    /// Two bytes each.
    U16(Vec<u16>),
    /// Four bytes each.
    U32(Vec<u32>),
}

impl Numbers {
    /// The differences of `values` to `base`, which is the least of them; `None` when one needs more than four bytes.
    fn above(base: i64, max: i64, values: &[i64]) -> Option<Self> {
        let above = |value: &i64| value.wrapping_sub(base);
        Some(match max.wrapping_sub(base) as u64 {
            0 => Self::Zero(values.len()),
            0x01..=0xff => Self::U8(values.iter().map(|value| above(value) as u8).collect()),
            0x0100..=0xffff => Self::U16(values.iter().map(|value| above(value) as u16).collect()),
            0x1_0000..=0xffff_ffff => Self::U32(values.iter().map(|value| above(value) as u32).collect()),
            _ => return None,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Zero(count) => *count,
            Self::U8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::U32(v) => v.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Zero(_) => 0,
            Self::U8(v) => v.len(),
            Self::U16(v) => v.len() * 2,
            Self::U32(v) => v.len() * 4,
        }
    }

    /// Puts the numbers where `validity` has a bit, in order, and 0 elsewhere.
    fn spread(self, validity: &Bitmap) -> Self {
        match self {
            Self::Zero(_) => Self::Zero(validity.len()),
            Self::U8(v) => Self::U8(spread(&v, validity)),
            Self::U16(v) => Self::U16(spread(&v, validity)),
            Self::U32(v) => Self::U32(spread(&v, validity)),
        }
    }
}

/// What numbers mean: `base + n`, or for doubles `(base + n) / divisor`. Rises with `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    base: i64,
    /// 1 for integers.
    divisor: Divisor,
}

impl Meaning {
    /// The double that `number` stands for.
    #[inline]
    pub fn real(self, number: u32) -> f64 {
        let (base, divisor) = self.real_parts();
        (base + f64::from(number)) / divisor
    }

    /// The integer that `number` stands for.
    #[inline]
    pub fn integer(self, number: u32) -> i64 {
        self.base.wrapping_add(i64::from(number))
    }

    #[inline]
    fn real_parts(self) -> (f64, f64) {
        (self.base as f64, self.divisor.value())
    }
}

/// The values of a narrow column; null slots hold anything.
#[derive(Clone, Debug, PartialEq)]
pub enum NarrowValues {
    /// Doubles that are decimals, or degrees made of minutes.
    Decimals(Numbers, Meaning),
    /// Integers that lie close together.
    Integers(Numbers, Meaning),
    /// Other doubles.
    F64(Vec<f64>),
    /// Other integers.
    I64(Vec<i64>),
    /// Booleans, packed.
    Bool(Bitmap),
    /// Text.
    Utf8(Text),
}

/// One column of a block, decoded and small.
#[derive(Clone, Debug, PartialEq)]
pub struct NarrowColumn {
    values: NarrowValues,
    validity: Option<Bitmap>,
}

/// Decodes a chunk of exactly `rows` rows into its narrow form.
///
/// # Errors
/// As [`decode_column`](crate::decode_column).
pub fn decode_narrow(chunk: &[u8], field_type: FieldType, rows: usize) -> Result<NarrowColumn> {
    let mut reader = Reader::new(chunk, field_type.name());
    let column = match chunk.first() {
        Some(&ALL_NULL) => {
            reader.byte()?;
            NarrowColumn::nulls(field_type, rows)
        }
        Some(&SOME_NULL) => {
            reader.byte()?;
            let mut validity = Bitmap::default();
            bools::decode(&mut reader, rows, &mut validity)?;
            let valid = validity.count_ones();
            if valid == 0 || valid == rows {
                return Err(reader.invalid("validity marks no row or every row as null"));
            }
            let dense = decode_values(&mut reader, field_type, valid)?;
            NarrowColumn { values: dense.spread(&validity), validity: Some(validity) }
        }
        _ => NarrowColumn { values: decode_values(&mut reader, field_type, rows)?, validity: None },
    };
    reader.codec = field_type.name();
    reader.finish()?;
    Ok(column)
}

fn decode_values(reader: &mut Reader<'_>, field_type: FieldType, count: usize) -> Result<NarrowValues> {
    Ok(match field_type {
        FieldType::F64 => {
            let mut decoded = Scratch::<i64>::take();
            match reals::decode_divided(reader, count, &mut decoded)? {
                Some(divisor) => decimals(&decoded, divisor),
                None => {
                    let mut values = Vec::with_capacity(count);
                    reals::decode(reader, count, &mut values)?;
                    NarrowValues::F64(values)
                }
            }
        }
        FieldType::I64 => {
            let mut decoded = Scratch::<i64>::take();
            integers::decode(reader, count, &mut decoded)?;
            let (min, max) = bounds(&decoded);
            match Numbers::above(min, max, &decoded) {
                Some(numbers) => NarrowValues::Integers(numbers, Meaning { base: min, divisor: Divisor::ONE }),
                None => NarrowValues::I64(decoded.to_vec()),
            }
        }
        FieldType::Bool => {
            let mut values = Bitmap::with_capacity(count);
            bools::decode(reader, count, &mut values)?;
            NarrowValues::Bool(values)
        }
        FieldType::Utf8 => {
            let mut values = Text::default();
            text::decode(reader, count, &mut values)?;
            NarrowValues::Utf8(values)
        }
    })
}

fn decimals(integers: &[i64], divisor: Divisor) -> NarrowValues {
    let (min, max) = bounds(integers);
    let numbers = match min.unsigned_abs().max(max.unsigned_abs()) {
        // Only damaged or hostile bytes are beyond: there the order of values is not that of integers.
        beyond if beyond >= DECIMAL_LIMIT => None,
        _ => Numbers::above(min, max, integers),
    };
    match numbers {
        Some(numbers) => NarrowValues::Decimals(numbers, Meaning { base: min, divisor }),
        None => {
            let mut values = Vec::with_capacity(integers.len());
            decimal::join(integers, divisor, &mut values);
            NarrowValues::F64(values)
        }
    }
}

/// Least and greatest; 0 and 0 of none.
fn bounds(values: &[i64]) -> (i64, i64) {
    let Some(&first) = values.first() else { return (0, 0) };
    values.iter().fold((first, first), |(min, max), &value| (min.min(value), max.max(value)))
}

/// Puts dense values where `validity` has a bit, and the default elsewhere.
fn spread<T: Copy + Default>(dense: &[T], validity: &Bitmap) -> Vec<T> {
    let mut dense = dense.iter();
    validity.iter().map(|valid| if valid { dense.next().copied().unwrap_or_default() } else { T::default() }).collect()
}

impl NarrowValues {
    /// Puts dense values where `validity` has a bit.
    fn spread(self, validity: &Bitmap) -> Self {
        match self {
            Self::Decimals(numbers, meaning) => Self::Decimals(numbers.spread(validity), meaning),
            Self::Integers(numbers, meaning) => Self::Integers(numbers.spread(validity), meaning),
            Self::F64(v) => Self::F64(spread(&v, validity)),
            Self::I64(v) => Self::I64(spread(&v, validity)),
            Self::Bool(bits) => {
                let mut dense = bits.iter();
                Self::Bool(validity.iter().map(|valid| valid && dense.next().unwrap_or_default()).collect())
            }
            Self::Utf8(strings) => {
                let (mut out, mut next) = (Text::default(), 0);
                for valid in validity.iter() {
                    out.push_bytes(if valid { strings.get_bytes(next) } else { b"" });
                    next += usize::from(valid);
                }
                Self::Utf8(out)
            }
        }
    }
}

impl NarrowColumn {
    /// `rows` nulls.
    pub fn nulls(field_type: FieldType, rows: usize) -> Self {
        let values = match field_type {
            FieldType::F64 => NarrowValues::Decimals(Numbers::Zero(rows), Meaning { base: 0, divisor: Divisor::ONE }),
            FieldType::I64 => NarrowValues::Integers(Numbers::Zero(rows), Meaning { base: 0, divisor: Divisor::ONE }),
            FieldType::Bool => NarrowValues::Bool(Bitmap::filled(rows, false)),
            FieldType::Utf8 => {
                let mut strings = Text::default();
                (0..rows).for_each(|_| strings.push(""));
                NarrowValues::Utf8(strings)
            }
        };
        Self { values, validity: (rows > 0).then(|| Bitmap::filled(rows, false)) }
    }

    /// Number of rows, nulls included.
    pub fn len(&self) -> usize {
        match &self.values {
            NarrowValues::Decimals(numbers, _) | NarrowValues::Integers(numbers, _) => numbers.len(),
            NarrowValues::F64(v) => v.len(),
            NarrowValues::I64(v) => v.len(),
            NarrowValues::Bool(v) => v.len(),
            NarrowValues::Utf8(v) => v.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its values are doubles.
    pub fn is_f64(&self) -> bool {
        matches!(self.values, NarrowValues::Decimals(..) | NarrowValues::F64(_))
    }

    /// Its values.
    pub fn values(&self) -> &NarrowValues {
        &self.values
    }

    /// Bit set = the row has a value. `None` = every row has one.
    pub fn validity(&self) -> Option<&Bitmap> {
        self.validity.as_ref()
    }

    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let values = match &self.values {
            NarrowValues::Decimals(numbers, _) | NarrowValues::Integers(numbers, _) => numbers.bytes(),
            NarrowValues::F64(v) => v.len() * 8,
            NarrowValues::I64(v) => v.len() * 8,
            NarrowValues::Bool(v) => v.as_bytes().len(),
            NarrowValues::Utf8(v) => v.byte_len() + v.len() * 4,
        };
        size_of::<Self>() + values + self.validity.as_ref().map_or(0, |v| v.as_bytes().len())
    }

    /// Writes the doubles of the rows `range` to `out`, which is as long; null slots get anything. `None` for other types.
    pub fn write_f64(&self, range: Range<usize>, out: &mut [f64]) -> Option<()> {
        match &self.values {
            NarrowValues::Decimals(numbers, meaning) => {
                let (base, divisor) = meaning.real_parts();
                fn write<T: Copy + Into<f64>>(numbers: &[T], base: f64, divisor: f64, out: &mut [f64]) {
                    for (out, number) in out.iter_mut().zip(numbers) {
                        *out = (base + (*number).into()) / divisor;
                    }
                }
                match numbers {
                    Numbers::Zero(_) => out.fill(base / divisor),
                    Numbers::U8(v) => write(&v[range], base, divisor, out),
                    Numbers::U16(v) => write(&v[range], base, divisor, out),
                    Numbers::U32(v) => write(&v[range], base, divisor, out),
                }
            }
            NarrowValues::F64(v) => out.copy_from_slice(&v[range]),
            _ => return None,
        }
        Some(())
    }

    /// Writes the integers of the rows `range` to `out`, which is as long; null slots get anything. `None` for other types.
    pub fn write_i64(&self, range: Range<usize>, out: &mut [i64]) -> Option<()> {
        match &self.values {
            NarrowValues::Integers(numbers, meaning) => {
                fn write<T: Copy + Into<u32>>(numbers: &[T], base: i64, out: &mut [i64]) {
                    for (out, number) in out.iter_mut().zip(numbers) {
                        *out = base.wrapping_add(i64::from((*number).into()));
                    }
                }
                match numbers {
                    Numbers::Zero(_) => out.fill(meaning.base),
                    Numbers::U8(v) => write(&v[range], meaning.base, out),
                    Numbers::U16(v) => write(&v[range], meaning.base, out),
                    Numbers::U32(v) => write(&v[range], meaning.base, out),
                }
            }
            NarrowValues::I64(v) => out.copy_from_slice(&v[range]),
            _ => return None,
        }
        Some(())
    }

    /// Appends the rows `range` to `column`, which has this type.
    ///
    /// # Panics
    /// When the types differ: columns are matched against the table's schema before.
    pub fn extend_into(&self, range: Range<usize>, column: &mut Column) {
        let (before, count) = (column.len(), range.len());
        match (&self.values, &mut column.values) {
            (NarrowValues::Decimals(numbers, meaning), Values::F64(out)) => {
                let (base, divisor) = meaning.real_parts();
                match numbers {
                    Numbers::Zero(_) => out.resize(before + count, base / divisor),
                    Numbers::U8(v) => out.extend(v[range.clone()].iter().map(|n| (base + f64::from(*n)) / divisor)),
                    Numbers::U16(v) => out.extend(v[range.clone()].iter().map(|n| (base + f64::from(*n)) / divisor)),
                    Numbers::U32(v) => out.extend(v[range.clone()].iter().map(|n| (base + f64::from(*n)) / divisor)),
                }
            }
            (NarrowValues::Integers(numbers, Meaning { base, .. }), Values::I64(out)) => match numbers {
                Numbers::Zero(_) => out.resize(before + count, *base),
                Numbers::U8(v) => out.extend(v[range.clone()].iter().map(|n| base.wrapping_add(i64::from(*n)))),
                Numbers::U16(v) => out.extend(v[range.clone()].iter().map(|n| base.wrapping_add(i64::from(*n)))),
                Numbers::U32(v) => out.extend(v[range.clone()].iter().map(|n| base.wrapping_add(i64::from(*n)))),
            },
            (NarrowValues::F64(v), Values::F64(out)) => out.extend_from_slice(&v[range.clone()]),
            (NarrowValues::I64(v), Values::I64(out)) => out.extend_from_slice(&v[range.clone()]),
            (NarrowValues::Bool(v), Values::Bool(out)) => out.extend_from(v, range.clone()),
            (NarrowValues::Utf8(v), Values::Utf8(out)) => out.extend_from(v, range.clone()),
            _ => panic!("columns of one type"),
        }
        match (&self.validity, &mut column.validity) {
            (None, None) => {}
            (None, Some(own)) => own.extend_filled(count, true),
            (Some(validity), own) => {
                own.get_or_insert_with(|| Bitmap::filled(before, true)).extend_from(validity, range.clone());
                // A null slot of a column holds 0.
                for (slot, row) in (before..).zip(range) {
                    if !validity.get(row) {
                        match &mut column.values {
                            Values::F64(out) => out[slot] = 0.0,
                            Values::I64(out) => out[slot] = 0,
                            Values::Bool(_) | Values::Utf8(_) => {}
                        }
                    }
                }
            }
        }
    }
}

/// Units of times that are looked for: most clocks tick in seconds, milliseconds or microseconds.
const UNITS: [i64; 3] = [1_000_000_000, 1_000_000, 1_000];

/// Rising times in few bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NarrowTimes {
    /// `first + step * row`.
    Line {
        /// Time of the first row.
        first: i64,
        /// Time between two rows.
        step: i64,
        /// Number of rows.
        rows: usize,
    },
    /// `first + unit * ticks[row]`.
    Ticks {
        /// Time of the first row.
        first: i64,
        /// Length of a tick.
        unit: i64,
        /// Ticks since the first row.
        ticks: Vec<u32>,
    },
    /// As they are.
    Plain(Vec<i64>),
}

impl NarrowTimes {
    /// The narrow form of `times`, which rise.
    pub fn of(times: &[i64]) -> Self {
        let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return Self::Plain(Vec::new()) };
        let step = times.get(1).map_or(1, |second| second.wrapping_sub(first));
        if times.windows(2).fold(true, |same, pair| same & (pair[1].wrapping_sub(pair[0]) == step)) {
            return Self::Line { first, step, rows: times.len() };
        }
        let span = last.wrapping_sub(first) as u64;
        for unit in UNITS.into_iter().chain([1]) {
            if span / unit as u64 > u64::from(u32::MAX) {
                break;
            }
            if times.iter().all(|time| (time.wrapping_sub(first) as u64).is_multiple_of(unit as u64)) {
                let ticks = times.iter().map(|time| (time.wrapping_sub(first) as u64 / unit as u64) as u32);
                return Self::Ticks { first, unit, ticks: ticks.collect() };
            }
        }
        Self::Plain(times.to_vec())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Line { rows, .. } => *rows,
            Self::Ticks { ticks, .. } => ticks.len(),
            Self::Plain(times) => times.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that they take, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Line { .. } => 0,
                Self::Ticks { ticks, .. } => ticks.len() * 4,
                Self::Plain(times) => times.len() * 8,
            }
    }

    /// The time of row `row`.
    #[inline]
    pub fn get(&self, row: usize) -> i64 {
        match self {
            Self::Line { first, step, .. } => first.wrapping_add(step.wrapping_mul(row as i64)),
            Self::Ticks { first, unit, ticks } => first.wrapping_add(unit.wrapping_mul(i64::from(ticks[row]))),
            Self::Plain(times) => times[row],
        }
    }

    /// The rows with times in `first..=last`.
    pub fn rows(&self, first: i64, last: i64) -> Range<usize> {
        let before = |end: &dyn Fn(i64) -> bool| {
            let (mut low, mut high) = (0, self.len());
            while low < high {
                let middle = low + (high - low) / 2;
                if end(self.get(middle)) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            low
        };
        let start = before(&|time| time < first);
        start..before(&|time| time <= last).max(start)
    }

    /// Writes the times of the rows from `start` on to `out`.
    pub fn write(&self, start: usize, out: &mut [i64]) {
        for (row, time) in (start..).zip(out) {
            *time = self.get(row);
        }
    }

    /// Appends the times of the rows `range`.
    pub fn extend_into(&self, range: Range<usize>, times: &mut Vec<i64>) {
        match self {
            Self::Line { first, step, .. } => {
                times.extend(range.map(|row| first.wrapping_add(step.wrapping_mul(row as i64))));
            }
            Self::Ticks { first, unit, ticks } => {
                times.extend(ticks[range].iter().map(|tick| first.wrapping_add(unit.wrapping_mul(i64::from(*tick)))));
            }
            Self::Plain(own) => times.extend_from_slice(&own[range]),
        }
    }
}

#[cfg(test)]
mod tests;
