//! Owns the Arrow types and names of answer columns; does not build arrays.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidewell_codec::FieldType;

/// Name of the device column in every answer.
pub const DEVICE: &str = "device";

/// Name of the time column in every answer that has one.
pub const TIME: &str = "time";

/// The Arrow type of a stored field.
pub fn data_type(field_type: FieldType) -> DataType {
    match field_type {
        FieldType::F64 => DataType::Float64,
        FieldType::I64 => DataType::Int64,
        FieldType::Bool => DataType::Boolean,
        FieldType::Utf8 => DataType::Utf8,
    }
}

/// The type of every point in time: nanoseconds since 1970 UTC.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from("UTC")))
}

/// The type of every length of time: nanoseconds.
pub fn duration_type() -> DataType {
    DataType::Duration(TimeUnit::Nanosecond)
}

/// The `device` column: plain UTF-8, which every Flight client reads (dictionaries trip some of them).
pub fn device_field() -> Field {
    Field::new(DEVICE, DataType::Utf8, false)
}

/// A column of points in time that are never null.
pub fn time_field(name: &str) -> Field {
    Field::new(name, time_type(), false)
}

/// A stored field; any row may lack it.
pub fn field(name: &str, field_type: FieldType) -> Field {
    Field::new(name, data_type(field_type), true)
}

/// The schema of rows as they are stored: `device, time, <fields>`.
pub fn rows_schema<'a>(fields: impl IntoIterator<Item = (&'a str, FieldType)>) -> SchemaRef {
    let mut columns = vec![device_field(), time_field(TIME)];
    columns.extend(fields.into_iter().map(|(name, field_type)| field(name, field_type)));
    Arc::new(Schema::new(columns))
}
