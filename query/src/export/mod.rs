//! Owns the way from engine columns to Arrow arrays and schemas; does not know requests or the network.
//!
//! Engine columns have Arrow's layout already, so a value is never copied here: vectors become buffers.
//! Only the `device` column is built, because the engine keeps a device once and not per row.

mod answer;
mod schema;
mod to_arrow;

pub use answer::{answer_schema, record_batch};
pub use schema::{DEVICE, TIME, data_type, device_field, duration_type, field, rows_schema, time_field, time_type};
pub use to_arrow::{
    bool_array, column_array, device_array, duration_array, f64_array, i64_array, text_array, time_array,
};
