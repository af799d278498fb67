//! Owns the small types that every part of the engine speaks; does not hold data.

use std::sync::Arc;

pub use tidewell_codec::{Column, FieldType};

/// Identifies one ordered sequence of batches: chosen at random by a client, once per lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerId(pub u128);

impl std::fmt::Display for ProducerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Number of a batch within its producer; the first is 1, and 0 stands for "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqNo(pub u64);

impl std::fmt::Display for SeqNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The last applied batch of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Highest number applied: everything at or below it is settled.
    pub seq: SeqNo,
    /// When that batch arrived, by the node's clock.
    pub received_ns: i64,
}

/// A position in a shard's log: later batches have greater positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogPosition {
    /// Generation of the log file: rises by one with every file a shard starts.
    pub generation: u64,
    /// Byte offset in that file.
    pub offset: u64,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// On disk, synced, and visible to every later query.
    #[default]
    Durable,
    /// In memory only: lost when the process dies before the next sync.
    Received,
}

/// One field of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDef {
    /// Its name, unique in the table.
    pub name: Arc<str>,
    /// Its type, fixed by the first write.
    pub field_type: FieldType,
}

/// A table's name and fields, in the order in which the fields appeared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSchema {
    /// The table's name.
    pub name: Arc<str>,
    /// Its fields.
    pub fields: Vec<FieldDef>,
}

impl TableSchema {
    /// Index and definition of the field called `name`.
    pub fn field(&self, name: &str) -> Option<(usize, &FieldDef)> {
        self.fields.iter().enumerate().find(|(_, f)| &*f.name == name)
    }
}

/// Rows of one device in memory: times strictly rising, one column per requested field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Nanoseconds since 1970 UTC.
    pub times: Vec<i64>,
    /// Columns as long as `times`; left empty where a caller asked not to load them.
    pub columns: Vec<Column>,
}

/// A value of any field type, as statistics keep it. Text is not kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// A double.
    F64(f64),
    /// An integer.
    I64(i64),
    /// A boolean.
    Bool(bool),
}

/// Exact statistics of one field over the rows of one block (its zone map).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FieldStats {
    /// Rows in the block, nulls included.
    pub rows: u32,
    /// Rows with a value; NaN counts as a value.
    pub valid: u32,
    /// Rows whose value is NaN.
    pub nan: u32,
    /// Smallest value, NaN ignored; `None` without a comparable value and for text.
    pub min: Option<Scalar>,
    /// Largest value, NaN ignored.
    pub max: Option<Scalar>,
    /// Exact sum of an integer field; the sum in time order, NaN ignored, of a double field (`None` for bool and text,
    /// and for an integer sum beyond i64).
    pub sum: Option<Scalar>,
    /// First value in time, NaN included; `None` for text.
    pub first: Option<Scalar>,
    /// Last value in time, NaN included.
    pub last: Option<Scalar>,
}
