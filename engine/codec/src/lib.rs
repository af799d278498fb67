//! Columns, their compressed form, and the bytes of a batch.
//!
//! Shared by devices (which encode), the node's log (which keeps the bytes as they came) and segments
//! (which hold the same column chunks). Pure functions over memory: no file, no clock, no thread.
//!
//! - [`column`]: columns in memory, in Arrow's layout

pub mod column;

pub use column::{Bitmap, Column, FieldType, Text, Values};
