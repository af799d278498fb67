//! Owns the outer bytes of a column chunk: header, validity and the choice of the values' codec family; does not compress.

use std::ops::Range;

use crate::column::{Bitmap, Column, FieldType, Text, Values};
use crate::error::{CodecError, Result};
use crate::reader::Reader;

/// How much work goes into a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Raw little-endian values, for devices that have no processor time to spare.
    Plain,
    /// Light codecs, cheap to encode and decoded at several GB/s.
    Hot,
    /// Adds pco and zstd where they win clearly; for data that is written once and read seldom.
    Cold,
}

/// Appends rows `rows` of `column` as one self-describing chunk to `out`.
///
/// # Panics
/// When `rows` is not inside the column.
pub fn encode_column(column: &Column, rows: Range<usize>, tier: Tier, out: &mut Vec<u8>) {
    let _ = tier;
    match &column.validity {
        None => out.push(0),
        Some(validity) => {
            out.push(0x40);
            let mut bits = Bitmap::default();
            bits.extend_from(validity, rows.clone());
            out.extend_from_slice(bits.as_bytes());
        }
    }
    match &column.values {
        Values::F64(v) => v[rows].iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Values::I64(v) => v[rows].iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Values::Bool(v) => {
            let mut bits = Bitmap::default();
            bits.extend_from(v, rows);
            out.extend_from_slice(bits.as_bytes());
        }
        Values::Utf8(v) => {
            for row in rows.clone() {
                out.extend_from_slice(&(v.get_bytes(row).len() as u32).to_le_bytes());
            }
            for row in rows {
                out.extend_from_slice(v.get_bytes(row));
            }
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
/// As [`decode_column`]; `column` may then hold some of the rows and should be cleared.
pub fn decode_column_into(chunk: &[u8], field_type: FieldType, rows: usize, column: &mut Column) -> Result<()> {
    let mut reader = Reader::new(chunk, field_type.name());
    let header = reader.byte()?;
    let mut next = Column::new(field_type);
    if header == 0x40 {
        let bits = reader.bytes(rows.div_ceil(8))?.to_vec();
        next.validity = Bitmap::from_bytes(bits, rows);
    } else if header != 0 {
        return Err(CodecError::UnknownKind { codec: field_type.name(), kind: header });
    }
    let words = |bytes: &[u8]| -> Vec<[u8; 8]> { bytes.as_chunks::<8>().0.to_vec() };
    let too_many = || CodecError::Invalid { codec: field_type.name(), what: "too many rows" };
    match &mut next.values {
        Values::F64(v) => {
            let bytes = reader.bytes(rows.checked_mul(8).ok_or_else(too_many)?)?;
            v.extend(words(bytes).into_iter().map(f64::from_le_bytes));
        }
        Values::I64(v) => {
            let bytes = reader.bytes(rows.checked_mul(8).ok_or_else(too_many)?)?;
            v.extend(words(bytes).into_iter().map(i64::from_le_bytes));
        }
        Values::Bool(v) => {
            let bits = reader.bytes(rows.div_ceil(8))?.to_vec();
            *v = Bitmap::from_bytes(bits, rows).ok_or_else(too_many)?;
        }
        Values::Utf8(v) => {
            let lengths = reader.bytes(rows.checked_mul(4).ok_or_else(too_many)?)?;
            let mut offsets = vec![0];
            let mut end = 0i32;
            for length in lengths.as_chunks::<4>().0 {
                end = i32::try_from(u32::from_le_bytes(*length))
                    .ok()
                    .and_then(|l| end.checked_add(l))
                    .ok_or_else(too_many)?;
                offsets.push(end);
            }
            let bytes = reader.bytes(end as usize)?.to_vec();
            *v = Text::from_parts(offsets, bytes)
                .ok_or(CodecError::Invalid { codec: "utf8", what: "text is not UTF-8" })?;
        }
    }
    reader.finish()?;
    next.normalise();
    if column.field_type() != field_type {
        return Err(CodecError::WrongColumn { codec: field_type.name(), found: column.field_type().name() });
    }
    column.extend_from(&next, 0..rows);
    Ok(())
}

/// Appends times as one chunk: the bytes of an integer column without nulls.
pub fn encode_times(times: &[i64], tier: Tier, out: &mut Vec<u8>) {
    let _ = tier;
    out.push(0);
    times.iter().for_each(|t| out.extend_from_slice(&t.to_le_bytes()));
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
    let column = decode_column(chunk, FieldType::I64, rows)?;
    match column {
        Column { values: Values::I64(v), validity: None } => times.extend_from_slice(&v),
        _ => return Err(CodecError::Invalid { codec: "time", what: "times cannot be null" }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_chunks_come_back() {
        let mut column = Column::new(FieldType::F64);
        column.extend_nulls(2);
        if let Values::F64(v) = &mut column.values {
            v.extend([1.5, -0.0, 3.0]);
        }
        column.validity.as_mut().unwrap().extend_filled(3, true);
        for range in [0..5, 1..4, 2..5, 0..0] {
            let mut out = Vec::new();
            encode_column(&column, range.clone(), Tier::Hot, &mut out);
            let mut expected = Column::new(FieldType::F64);
            expected.extend_from(&column, range.clone());
            expected.normalise();
            assert_eq!(decode_column(&out, FieldType::F64, range.len()), Ok(expected));
        }
        let mut out = Vec::new();
        encode_times(&[1, 2, 3], Tier::Hot, &mut out);
        assert_eq!(decode_times(&out, 3), Ok(vec![1, 2, 3]));
    }
}
