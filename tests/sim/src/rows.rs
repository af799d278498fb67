//! Owns rows as clients make them, and their form as batches; does not know what became of them.

use std::collections::BTreeMap;

use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, FieldType, Text, Values};
use tidewell_engine::Rows;

/// A value of any type, compared bit by bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The bits of a double.
    F64(u64),
    /// An integer.
    I64(i64),
    /// True or false.
    Bool(bool),
    /// Text.
    Utf8(String),
}

/// Fields that a row sets.
pub type Fields = BTreeMap<String, Value>;

/// One row to send.
#[derive(Clone, Debug)]
pub struct Row {
    /// Whose.
    pub device: String,
    /// When.
    pub time: i64,
    /// What.
    pub fields: Fields,
}

/// The type of a field, which its name tells.
pub fn type_of(field: &str) -> FieldType {
    match field.as_bytes()[0] {
        b'v' => FieldType::F64,
        b'b' => FieldType::Bool,
        b's' => FieldType::Utf8,
        _ => FieldType::I64,
    }
}

/// A batch of `rows`, grouped into runs of equal neighbours.
pub fn batch(table: &str, rows: &[Row]) -> Batch {
    let mut devices = DeviceRuns::default();
    for run in rows.chunk_by(|a, b| a.device == b.device) {
        devices.push(&run[0].device, run.len() as u32);
    }
    let mut names: Vec<&String> = rows.iter().flat_map(|row| row.fields.keys()).collect();
    names.sort();
    names.dedup();
    let fields = names.into_iter().map(|name| {
        let mut column = Column::new(type_of(name));
        for row in rows {
            match row.fields.get(name) {
                Some(value) => column.extend_from(&one(value), 0..1),
                None => column.extend_nulls(1),
            }
        }
        column.normalise();
        BatchField { name: name.clone(), column }
    });
    Batch { table: table.to_owned(), devices, fields: fields.collect(), times: rows.iter().map(|r| r.time).collect() }
}

fn one(value: &Value) -> Column {
    let values = match value {
        Value::F64(bits) => Values::F64(vec![f64::from_bits(*bits)]),
        Value::I64(v) => Values::I64(vec![*v]),
        Value::Bool(v) => Values::Bool([*v].into_iter().collect()),
        Value::Utf8(v) => {
            let mut text = Text::default();
            text.push(v);
            Values::Utf8(text)
        }
    };
    Column { values, validity: None }
}

/// A value of a column, unless it is null.
pub fn value(column: &Column, row: usize) -> Option<Value> {
    column.is_valid(row).then(|| match &column.values {
        Values::F64(v) => Value::F64(v[row].to_bits()),
        Values::I64(v) => Value::I64(v[row]),
        Values::Bool(v) => Value::Bool(v.get(row)),
        Values::Utf8(v) => Value::Utf8(v.get(row).to_owned()),
    })
}

/// Rows of a scan, each with the fields that are not null.
pub fn from_scan(rows: &Rows, names: &[String]) -> Vec<(i64, Fields)> {
    let fields = |row: usize| {
        let columns = names.iter().zip(&rows.columns);
        columns.filter_map(|(name, column)| Some((name.clone(), value(column, row)?))).collect()
    };
    (0..rows.times.len()).map(|row| (rows.times[row], fields(row))).collect()
}
