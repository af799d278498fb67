//! Owns the outer bytes of a column chunk, which are validity and then one stream of values; does not compress.
//!
//! A chunk without nulls is just its stream, whose kind byte is below 64. Otherwise it starts with one of two bytes above.

use std::ops::Range;

use crate::column::{Bitmap, Column, FieldType, Text, Values};
use crate::error::{CodecError, Result};
use crate::integers::Choice;
use crate::reader::Reader;
use crate::scratch::Scratch;
use crate::{bools, integers, reals, text};

/// How much work goes into a chunk. Every reader decodes all tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Raw little-endian values, for devices that have no processor time to spare.
    Plain,
    /// Light codecs, cheap to encode and decoded at several GB/s.
    Hot,
    /// Adds pco and zstd where they win clearly; for data that is written once and read seldom.
    Cold,
}

/// First byte of a chunk in which some rows are null: their validity follows, then the stream of the valid values.
pub(crate) const SOME_NULL: u8 = 0x40;
/// The only byte of a chunk in which every row is null.
pub(crate) const ALL_NULL: u8 = 0x41;

/// Appends rows `rows` of `column` as one self-describing chunk to `out`.
///
/// # Panics
/// When `rows` is not inside the column.
pub fn encode_column(column: &Column, rows: Range<usize>, tier: Tier, out: &mut Vec<u8>) {
    let validity = column.validity.as_ref().and_then(|validity| {
        let mut bits = Bitmap::with_capacity(rows.len());
        bits.extend_from(validity, rows.clone());
        (bits.count_ones() < bits.len()).then_some(bits)
    });
    let Some(validity) = validity else { return encode_valid(&column.values, rows, tier, out) };
    if validity.count_ones() == 0 {
        out.push(ALL_NULL);
        return;
    }
    out.push(SOME_NULL);
    bools::encode(&validity, tier, out);
    let valid = validity.iter().zip(rows.clone()).filter_map(|(valid, row)| valid.then_some(row));
    match &column.values {
        Values::F64(values) => {
            let mut kept = Scratch::<f64>::take();
            kept.extend(valid.map(|row| values[row]));
            reals::encode(&kept, tier, out);
        }
        Values::I64(values) => {
            let mut kept = Scratch::<i64>::take();
            kept.extend(valid.map(|row| values[row]));
            integers::encode(&kept, Choice::all(tier), out);
        }
        Values::Bool(values) => bools::encode(&valid.map(|row| values.get(row)).collect(), tier, out),
        Values::Utf8(values) => {
            let kept: Vec<&[u8]> = valid.map(|row| values.get_bytes(row)).collect();
            text::encode(&kept, tier, out);
        }
    }
}

fn encode_valid(values: &Values, rows: Range<usize>, tier: Tier, out: &mut Vec<u8>) {
    match values {
        Values::F64(values) => reals::encode(&values[rows], tier, out),
        Values::I64(values) => integers::encode(&values[rows], Choice::all(tier), out),
        Values::Bool(values) if rows == (0..values.len()) => bools::encode(values, tier, out),
        Values::Bool(values) => {
            let mut bits = Bitmap::with_capacity(rows.len());
            bits.extend_from(values, rows);
            bools::encode(&bits, tier, out);
        }
        Values::Utf8(values) => {
            let strings: Vec<&[u8]> = rows.map(|row| values.get_bytes(row)).collect();
            text::encode(&strings, tier, out);
        }
    }
}

/// Decodes a chunk of exactly `rows` rows.
///
/// # Errors
/// When the bytes are not a chunk of this type and number of rows, bytes left over included.
pub fn decode_column(chunk: &[u8], field_type: FieldType, rows: usize) -> Result<Column> {
    let mut column = Column::new(field_type);
    decode_column_into(chunk, field_type, rows, &mut column)?;
    Ok(column)
}

/// Decodes a chunk of exactly `rows` rows behind the rows that `column` has, and reuses its memory.
///
/// # Errors
/// As [`decode_column`], or when `column` has another type. `column` may then hold some of the rows and values without
/// their validity; it has to be cleared or dropped.
pub fn decode_column_into(chunk: &[u8], field_type: FieldType, rows: usize, column: &mut Column) -> Result<()> {
    if column.field_type() != field_type {
        return Err(CodecError::WrongColumn { codec: field_type.name(), found: column.field_type().name() });
    }
    let mut reader = Reader::new(chunk, field_type.name());
    match chunk.first() {
        Some(&ALL_NULL) => {
            reader.byte()?;
            reader.finish()?;
            column.extend_nulls(rows);
            return Ok(());
        }
        Some(&SOME_NULL) => {
            reader.byte()?;
            let mut validity = Bitmap::default();
            bools::decode(&mut reader, rows, &mut validity)?;
            let valid = validity.count_ones();
            if valid == 0 || valid == rows {
                return Err(reader.invalid("validity marks no row or every row as null"));
            }
            decode_spread(&mut reader, &validity, valid, &mut column.values)?;
            let len = column.len() - rows;
            match &mut column.validity {
                None if len == 0 => column.validity = Some(validity),
                own => own.get_or_insert_with(|| Bitmap::filled(len, true)).extend_from(&validity, 0..rows),
            }
        }
        _ => {
            match &mut column.values {
                Values::F64(values) => reals::decode(&mut reader, rows, values)?,
                Values::I64(values) => integers::decode(&mut reader, rows, values)?,
                Values::Bool(values) => bools::decode(&mut reader, rows, values)?,
                Values::Utf8(values) => text::decode(&mut reader, rows, values)?,
            }
            if let Some(validity) = &mut column.validity {
                validity.extend_filled(rows, true);
            }
        }
    }
    reader.codec = field_type.name();
    reader.finish()
}

/// Decodes the `valid` values that there are and puts them where `validity` says; the other slots hold 0, false or "".
fn decode_spread(reader: &mut Reader<'_>, validity: &Bitmap, valid: usize, values: &mut Values) -> Result<()> {
    match values {
        Values::F64(values) => {
            let mut dense = Scratch::<f64>::take();
            reals::decode(reader, valid, &mut dense)?;
            spread(&dense, validity, values);
        }
        Values::I64(values) => {
            let mut dense = Scratch::<i64>::take();
            integers::decode(reader, valid, &mut dense)?;
            spread(&dense, validity, values);
        }
        Values::Bool(values) => {
            let mut dense = Bitmap::default();
            bools::decode(reader, valid, &mut dense)?;
            let mut next = dense.iter();
            validity.iter().for_each(|valid| values.push(valid && next.next().unwrap_or_default()));
        }
        Values::Utf8(values) => {
            let mut dense = Text::default();
            text::decode(reader, valid, &mut dense)?;
            let mut next = 0;
            for valid in validity.iter() {
                values.push_bytes(if valid { dense.get_bytes(next) } else { b"" });
                next += usize::from(valid);
            }
        }
    }
    Ok(())
}

fn spread<T: Copy + Default>(dense: &[T], validity: &Bitmap, values: &mut Vec<T>) {
    values.reserve(validity.len());
    let mut next = 0;
    for valid in validity.iter() {
        // A null behind the last valid value looks one past the end.
        let value = dense.get(next).copied().unwrap_or_default();
        values.push(if valid { value } else { T::default() });
        next += usize::from(valid);
    }
}

/// Appends times as one chunk: the bytes of an integer column without nulls.
pub fn encode_times(times: &[i64], tier: Tier, out: &mut Vec<u8>) {
    integers::encode(times, Choice::all(tier), out);
}

/// Decodes a chunk of exactly `rows` times.
///
/// # Errors
/// As [`decode_column`]; a chunk with nulls is refused.
pub fn decode_times(chunk: &[u8], rows: usize) -> Result<Vec<i64>> {
    let mut times = Vec::new();
    decode_times_into(chunk, rows, &mut times)?;
    Ok(times)
}

/// Decodes a chunk of exactly `rows` times behind the ones that `times` has.
///
/// # Errors
/// As [`decode_times`]; `times` may then hold some of the rows and should be cleared.
pub fn decode_times_into(chunk: &[u8], rows: usize, times: &mut Vec<i64>) -> Result<()> {
    let mut reader = Reader::new(chunk, "time");
    integers::decode(&mut reader, rows, times)?;
    reader.codec = "time";
    reader.finish()
}

#[cfg(test)]
mod tests;
