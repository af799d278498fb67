//! Owns the conversion of columns to Arrow arrays without a copy; does not know which columns an answer has.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DurationNanosecondArray, Float64Array, Int64Array, StringArray, TimestampNanosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::error::ArrowError;
use tidewell_codec::{Bitmap, Column, Text, Values};

/// One column as an array; its vectors become the array's buffers.
///
/// # Errors
/// When the column contradicts itself (validity of another length, text that is not UTF-8): our bug, not the caller's.
pub fn column_array(column: Column) -> Result<ArrayRef, ArrowError> {
    let Column { values, validity } = column;
    Ok(match values {
        Values::F64(values) => f64_array(values, validity)?,
        Values::I64(values) => i64_array(values, validity)?,
        Values::Bool(values) => bool_array(values, validity)?,
        Values::Utf8(values) => text_array(values, validity)?,
    })
}

/// Doubles as an array.
///
/// # Errors
/// When `validity` has another length than `values`.
pub fn f64_array(values: Vec<f64>, validity: Option<Bitmap>) -> Result<ArrayRef, ArrowError> {
    let nulls = nulls(validity, values.len())?;
    Ok(Arc::new(Float64Array::new(ScalarBuffer::from(values), nulls)))
}

/// Integers as an array.
///
/// # Errors
/// When `validity` has another length than `values`.
pub fn i64_array(values: Vec<i64>, validity: Option<Bitmap>) -> Result<ArrayRef, ArrowError> {
    let nulls = nulls(validity, values.len())?;
    Ok(Arc::new(Int64Array::new(ScalarBuffer::from(values), nulls)))
}

/// Booleans as an array.
///
/// # Errors
/// When `validity` has another length than `values`.
pub fn bool_array(values: Bitmap, validity: Option<Bitmap>) -> Result<ArrayRef, ArrowError> {
    let nulls = nulls(validity, values.len())?;
    Ok(Arc::new(BooleanArray::new(bits(values), nulls)))
}

/// Text as an array. Arrow checks the UTF-8 once more, since skipping that needs unsafe code.
///
/// # Errors
/// When `validity` has another length than `values`, or the text is not UTF-8.
pub fn text_array(values: Text, validity: Option<Bitmap>) -> Result<ArrayRef, ArrowError> {
    let nulls = nulls(validity, values.len())?;
    let (offsets, bytes) = values.into_parts();
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls)?))
}

/// Nanoseconds since 1970 UTC as a column of points in time.
pub fn time_array(times_ns: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::new(ScalarBuffer::from(times_ns), None).with_timezone("UTC"))
}

/// Nanoseconds as a column of durations.
pub fn duration_array(durations_ns: Vec<i64>) -> ArrayRef {
    Arc::new(DurationNanosecondArray::new(ScalarBuffer::from(durations_ns), None))
}

/// A column that repeats each device for its run of rows.
///
/// # Errors
/// When the column passes 2 GiB; batches are bounded far below.
pub fn device_array<'a>(runs: impl IntoIterator<Item = (&'a str, usize)>) -> Result<ArrayRef, ArrowError> {
    let mut offsets = vec![0i32];
    let mut bytes: Vec<u8> = Vec::new();
    for (device, rows) in runs {
        let end = device.len().checked_mul(rows).and_then(|added| bytes.len().checked_add(added));
        if end.and_then(|end| i32::try_from(end).ok()).is_none() || i32::try_from(rows).is_err() {
            return Err(ArrowError::OffsetOverflowError(bytes.len()));
        }
        let start = bytes.len() as i32;
        let step = device.len() as i32;
        offsets.extend((1..=rows as i32).map(|row| start + row * step));
        bytes.extend_from_slice(device.repeat(rows).as_bytes());
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), None)?))
}

fn bits(bitmap: Bitmap) -> BooleanBuffer {
    let len = bitmap.len();
    BooleanBuffer::new(Buffer::from_vec(bitmap.into_bytes()), 0, len)
}

fn nulls(validity: Option<Bitmap>, rows: usize) -> Result<Option<NullBuffer>, ArrowError> {
    match validity {
        None => Ok(None),
        Some(validity) if validity.len() == rows => Ok(Some(NullBuffer::new(bits(validity)))),
        Some(validity) => Err(ArrowError::InvalidArgumentError(format!(
            "validity of {} rows beside a column of {rows}",
            validity.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{DurationNanosecondType, Float64Type, Int64Type, TimestampNanosecondType};
    use tidewell_codec::FieldType;

    use super::*;
    use crate::export::{data_type, duration_type, time_type};

    #[test]
    fn values_are_taken_and_not_copied() {
        let values = vec![1.5, f64::NAN, -0.0];
        let address = values.as_ptr();
        let array = column_array(Column { values: Values::F64(values), validity: None }).unwrap();
        assert_eq!(array.as_primitive::<Float64Type>().values().as_ptr(), address);
        let times = vec![1, 2, 3];
        let address = times.as_ptr();
        let array = time_array(times);
        assert_eq!(array.as_primitive::<TimestampNanosecondType>().values().as_ptr(), address);
        assert_eq!(array.data_type(), &time_type());
        let array = duration_array(vec![7]);
        assert_eq!(array.as_primitive::<DurationNanosecondType>().value(0), 7);
        assert_eq!(array.data_type(), &duration_type());
    }

    #[test]
    fn every_type_keeps_values_and_nulls() {
        let validity: Bitmap = [true, false, true].into_iter().collect();
        let mut text = Text::default();
        ["grün", "", "x"].iter().for_each(|t| text.push(t));
        for values in [
            Values::F64(vec![1.0, 0.0, f64::NAN]),
            Values::I64(vec![i64::MIN, 0, i64::MAX]),
            Values::Bool([true, false, false].into_iter().collect()),
            Values::Utf8(text),
        ] {
            let column = Column { values, validity: Some(validity.clone()) };
            let field_type = column.field_type();
            let array = column_array(column).unwrap();
            assert_eq!(array.data_type(), &data_type(field_type));
            assert_eq!((array.len(), array.null_count()), (3, 1));
            assert!(array.is_null(1));
            match field_type {
                FieldType::F64 => assert!(array.as_primitive::<Float64Type>().value(2).is_nan()),
                FieldType::I64 => assert_eq!(array.as_primitive::<Int64Type>().value(0), i64::MIN),
                FieldType::Bool => assert!(array.as_boolean().value(0)),
                FieldType::Utf8 => assert_eq!(array.as_string::<i32>().value(0), "grün"),
            }
        }
    }

    #[test]
    fn devices_repeat_by_runs() {
        let array = device_array([("truck_1", 2), ("ü", 1), ("none", 0), ("truck_2", 3)]).unwrap();
        let devices: Vec<&str> = array.as_string::<i32>().iter().map(|d| d.unwrap()).collect();
        assert_eq!(devices, ["truck_1", "truck_1", "ü", "truck_2", "truck_2", "truck_2"]);
        assert_eq!(device_array([]).unwrap().len(), 0);
        assert!(device_array([("d", usize::MAX), ("dd", usize::MAX)]).is_err());
    }

    #[test]
    fn validity_of_another_length_is_refused() {
        let column = Column { values: Values::I64(vec![1, 2]), validity: Some(Bitmap::filled(3, true)) };
        assert!(column_array(column).is_err());
    }
}
