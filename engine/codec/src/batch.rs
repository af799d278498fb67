//! Owns what a batch is: rows of one table as columns, grouped by device, with its limits and names; does not know sessions.
//!
//! Its bytes are in [`bytes`]: the payload of a batch frame, which goes into the log as it came.

use std::ops::Range;

use crate::column::Column;
use crate::error::CodecError;

mod bytes;
#[cfg(test)]
mod tests;

pub use bytes::{BATCH_VERSION, BatchHead, FieldBytes, decode_batch, encode_batch, peek_batch};

/// Most bytes of a table's or a field's name.
pub const MAX_NAME_BYTES: usize = 128;
/// Most bytes of a device id.
pub const MAX_DEVICE_BYTES: usize = 256;
/// Names that answers use for their own columns, so that no field may have them.
pub const RESERVED_FIELDS: [&str; 2] = ["device", "time"];

/// Rows of one table: columns, grouped by device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The table.
    pub table: String,
    /// Which rows belong to which device.
    pub devices: DeviceRuns,
    /// Device time of each row, nanoseconds since 1970 UTC, in any order.
    pub times: Vec<i64>,
    /// The fields, each as long as `times`.
    pub fields: Vec<BatchField>,
}

/// One field of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchField {
    /// Its name.
    pub name: String,
    /// Its values, one slot a row.
    pub column: Column,
}

impl Batch {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.times.len()
    }

    /// The field `name`.
    pub fn field(&self, name: &str) -> Option<&Column> {
        self.fields.iter().find(|field| field.name == name).map(|field| &field.column)
    }

    /// Bytes of memory that the rows take.
    pub fn memory_bytes(&self) -> usize {
        let columns: usize = self.fields.iter().map(|field| field.name.len() + field.column.memory_bytes()).sum();
        self.times.len() * 8 + self.devices.memory_bytes() + columns
    }

    /// Checks what a decoder at the other end will check, but for the bytes of payload and of decoded columns.
    ///
    /// # Errors
    /// Names that are not allowed, numbers of rows that contradict each other, more than `limits` allow.
    pub fn check(&self, limits: &BatchLimits) -> Result<(), BatchError> {
        check_name("table", &self.table, 0)?;
        limits.check("rows", self.rows(), limits.rows)?;
        limits.check("device runs", self.devices.len(), limits.devices)?;
        limits.check("bytes of device ids", self.devices.names.len(), limits.device_bytes)?;
        limits.check("fields", self.fields.len(), limits.fields)?;
        limits.check("rows times fields", self.rows().saturating_mul(self.fields.len()), limits.cells)?;
        for (device, rows) in self.devices.iter() {
            check_device(device, 0)?;
            if rows.is_empty() {
                return Err(BatchError::Empty { what: "device run" });
            }
        }
        if self.devices.rows() != self.rows() {
            return Err(BatchError::Rows { what: "device runs", expected: self.rows(), found: self.devices.rows() });
        }
        for (what, empty) in [("batch: no row", self.times.is_empty()), ("batch: no field", self.fields.is_empty())] {
            if empty {
                return Err(BatchError::Empty { what });
            }
        }
        for (index, field) in self.fields.iter().enumerate() {
            check_field_name(&field.name, 0)?;
            if field.column.len() != self.rows() {
                return Err(BatchError::Rows {
                    what: "a field's column",
                    expected: self.rows(),
                    found: field.column.len(),
                });
            }
            if self.fields[..index].iter().any(|other| other.name == field.name) {
                return Err(BatchError::Duplicate { field: field.name.clone(), offset: 0 });
            }
        }
        Ok(())
    }
}

/// Devices with their number of rows, in the order of the rows. A device may have several runs.
///
/// All ids lie in one buffer: a batch of a thousand devices costs three allocations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRuns {
    names: String,
    ends: Vec<u32>,
    rows: Vec<u32>,
    total: usize,
}

impl DeviceRuns {
    /// `rows` rows of one device.
    pub fn single(device: &str, rows: u32) -> Self {
        let mut runs = Self::default();
        runs.push(device, rows);
        runs
    }

    /// Appends `rows` rows of `device`.
    ///
    /// # Panics
    /// When the ids together pass 4 GiB; limits are far below.
    pub fn push(&mut self, device: &str, rows: u32) {
        self.names.push_str(device);
        self.ends.push(u32::try_from(self.names.len()).expect("device ids of a batch are bounded far below 4 GiB"));
        self.rows.push(rows);
        self.total += rows as usize;
    }

    /// Takes checked parts: `ends` are boundaries of characters in `names`, rising, as many as `rows`.
    fn from_parts(names: String, ends: Vec<u32>, rows: Vec<u32>, total: usize) -> Self {
        Self { names, ends, rows, total }
    }

    /// Number of runs.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no run.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rows of all runs together.
    pub fn rows(&self) -> usize {
        self.total
    }

    /// Device and number of rows of run `index`.
    pub fn get(&self, index: usize) -> (&str, u32) {
        (self.name(index), self.rows[index])
    }

    fn name(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.names[start..self.ends[index] as usize]
    }

    /// Each run's device and its rows.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Range<usize>)> + '_ {
        let mut start = 0;
        (0..self.len()).map(move |index| {
            let rows = start..start + self.rows[index] as usize;
            start = rows.end;
            (self.name(index), rows)
        })
    }

    /// The shard that all devices belong to.
    ///
    /// # Errors
    /// Two devices of different shards.
    pub fn shard(&self, shard_count: u32) -> Result<u32, MixedShards> {
        let mut devices = self.iter();
        let Some((first, _)) = devices.next() else { return Ok(0) };
        let first_shard = shard_of(first, shard_count);
        if shard_count == 1 {
            return Ok(0);
        }
        for (other, _) in devices {
            let other_shard = shard_of(other, shard_count);
            if other_shard != first_shard {
                let (first, other) = (first.to_owned(), other.to_owned());
                return Err(MixedShards { first, first_shard, other, other_shard });
            }
        }
        Ok(first_shard)
    }

    fn memory_bytes(&self) -> usize {
        self.names.len() + self.len() * 8
    }
}

/// Two devices of one batch belong to different shards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "device {first:?} belongs to shard {first_shard}, device {other:?} to shard {other_shard}; split the batch by shard"
)]
pub struct MixedShards {
    /// The first device of the batch.
    pub first: String,
    /// Its shard.
    pub first_shard: u32,
    /// The first device of another shard.
    pub other: String,
    /// Its shard.
    pub other_shard: u32,
}

/// The shard of a device: xxh3 (64 bits, seed 0) of the id's bytes, modulo the number of shards. Part of the protocol.
///
/// # Panics
/// When `shard_count` is 0.
pub fn shard_of(device: &str, shard_count: u32) -> u32 {
    let shard = xxhash_rust::xxh3::xxh3_64(device.as_bytes()) % u64::from(shard_count);
    u32::try_from(shard).expect("a remainder is below its divisor, which is a u32")
}

/// What a decoder accepts. Memory that decoding takes is bounded by these, whatever the bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Bytes of a payload.
    pub payload: usize,
    /// Rows.
    pub rows: usize,
    /// Device runs.
    pub devices: usize,
    /// Bytes of all device ids written out (they are stored shortened).
    pub device_bytes: usize,
    /// Fields.
    pub fields: usize,
    /// Rows times fields: a constant column takes few bytes and decodes to 8 bytes a row.
    pub cells: usize,
    /// Bytes of memory of the decoded columns: one short chunk of text may stand for a kilobyte in each row. Checked
    /// after each column, so it is passed by one column at most.
    pub decoded: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            payload: 16 << 20,
            rows: 65_536,
            devices: 65_536,
            device_bytes: 4 << 20,
            fields: 1_024,
            cells: 4 << 20,
            decoded: 64 << 20,
        }
    }
}

impl BatchLimits {
    fn check(&self, what: &'static str, found: usize, max: usize) -> Result<(), BatchError> {
        if found > max { Err(BatchError::Limit { what, found: found as u64, max }) } else { Ok(()) }
    }
}

/// Why bytes are not a batch, or not one that is allowed. Offsets count from the start of the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A format that this build does not read.
    #[error("batch version: expected {BATCH_VERSION}, found {found}")]
    Version {
        /// The first byte.
        found: u8,
    },
    /// The bytes end early, go on too long, or a number is not in its shortest form.
    #[error("{what} at byte {offset}: {source}")]
    Bytes {
        /// What was being read.
        what: &'static str,
        /// Where.
        offset: usize,
        /// What was wrong.
        source: CodecError,
    },
    /// More than the limits allow.
    #[error("{what}: expected at most {max}, found {found}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much the batch has.
        found: u64,
        /// How much is allowed.
        max: usize,
    },
    /// A name that is not allowed.
    #[error("{what} name {name:?} at byte {offset}: expected {rule}")]
    Name {
        /// Table, field or device.
        what: &'static str,
        /// The name, shortened.
        name: String,
        /// Where.
        offset: usize,
        /// What is allowed.
        rule: &'static str,
    },
    /// A field type that does not exist.
    #[error("field {field:?} at byte {offset}: expected a type from 1 to 4, found {found}")]
    FieldType {
        /// The field.
        field: String,
        /// Where.
        offset: usize,
        /// The byte.
        found: u8,
    },
    /// The same field twice.
    #[error("field {field:?} at byte {offset}: it appeared before in this batch")]
    Duplicate {
        /// The field.
        field: String,
        /// Where.
        offset: usize,
    },
    /// Two places of the batch disagree about the number of rows.
    #[error("rows of {what}: expected {expected}, found {found}")]
    Rows {
        /// Which place.
        what: &'static str,
        /// The rows of the batch.
        expected: usize,
        /// The rows there.
        found: usize,
    },
    /// Nothing where something has to be.
    #[error("{what}: expected at least one row and one field")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
    /// A column chunk that does not decode.
    #[error("field {field:?}, chunk at byte {offset}: {source}")]
    Column {
        /// The field, or `time`.
        field: String,
        /// Where its chunk starts.
        offset: usize,
        /// What was wrong.
        source: CodecError,
    },
}

impl BatchError {
    /// Whether the batch is only too big, so that the same rows could be sent in smaller batches.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::Limit { .. })
    }
}

const NAME_RULE: &str = "1 to 128 bytes: a letter or _, then letters, digits, _ - .";
const DEVICE_RULE: &str = "1 to 256 bytes of UTF-8 without control characters";
const RESERVED_RULE: &str = "another name: answers call their own columns device and time";

fn name_error(what: &'static str, name: &str, offset: usize, rule: &'static str) -> BatchError {
    BatchError::Name { what, name: name.chars().take(64).collect(), offset, rule }
}

/// Checks a table's or a field's name: 1 to 128 bytes, a letter or `_`, then letters, digits, `_`, `-`, `.` (ASCII).
fn check_name(what: &'static str, name: &str, offset: usize) -> Result<(), BatchError> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if first && rest && name.len() <= MAX_NAME_BYTES { Ok(()) } else { Err(name_error(what, name, offset, NAME_RULE)) }
}

fn check_field_name(name: &str, offset: usize) -> Result<(), BatchError> {
    check_name("field", name, offset)?;
    if RESERVED_FIELDS.contains(&name) { Err(name_error("field", name, offset, RESERVED_RULE)) } else { Ok(()) }
}

fn check_device(device: &str, offset: usize) -> Result<(), BatchError> {
    if device.is_empty() || device.len() > MAX_DEVICE_BYTES || has_control(device) {
        return Err(name_error("device", device, offset, DEVICE_RULE));
    }
    Ok(())
}

fn has_control(text: &str) -> bool {
    if text.is_ascii() { text.bytes().any(|b| b.is_ascii_control()) } else { text.chars().any(char::is_control) }
}

/// Whether `name` may name a table.
///
/// # Errors
/// The rule that it breaks.
pub fn check_table_name(name: &str) -> Result<(), BatchError> {
    check_name("table", name, 0)
}
