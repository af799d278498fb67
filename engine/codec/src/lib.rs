//! Columns, their compressed form, and the bytes of a batch.
//!
//! Shared by devices (which encode), the node's log (which keeps the bytes as they came) and segments
//! (which hold the same column chunks). Pure functions over memory: no file, no clock, no thread.
//!
//! - [`column`]: columns in memory, in Arrow's layout
//! - [`batch`]: rows of many devices as columns, and the bytes of a batch
//! - [`narrow`]: columns decoded into as few bytes as their values need
//! - `chunk`: one column as a self-describing chunk of bytes, and back; `docs/format/column.md` has every byte
//!   - `integers`, `reals`, `bools`, `text`: the choice of codec for each kind of value
//!   - `packed`, `runs`, `dictionary`, `decimal`: the light codecs; `bitpack` below them; `cold`: pco and zstd

pub mod batch;
mod bitpack;
mod bools;
mod chunk;
mod cold;
pub mod column;
mod decimal;
mod dictionary;
mod error;
mod integers;
pub mod narrow;
mod packed;
mod reader;
mod reals;
mod runs;
mod scratch;
mod text;

pub use batch::{
    Batch, BatchError, BatchField, BatchHead, BatchLimits, DeviceRuns, MixedShards, check_table_name, decode_batch,
    encode_batch, peek_batch, shard_of,
};
pub use chunk::{
    Tier, decode_column, decode_column_into, decode_times, decode_times_into, encode_column, encode_times,
};
pub use column::{Bitmap, Column, FieldType, Text, Values};
pub use error::CodecError;
pub use narrow::{Meaning, NarrowColumn, NarrowTimes, NarrowValues, Numbers, decode_narrow};
