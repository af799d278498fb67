//! Owns the contract in its most naive form: what every answer must be; knows nothing of files.

use std::collections::{BTreeMap, BTreeSet};

use crate::rows::{Fields, Row};

/// Rows of one table by device and time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// (device, time) to fields; later writes win field by field.
    pub rows: BTreeMap<(String, i64), Fields>,
    /// First time that the table still takes.
    pub cut_off: Option<i64>,
    /// Days of rows that are kept.
    pub kept_days: Option<u64>,
}

/// What happens to the rows of a node.
#[derive(Clone, Debug)]
pub enum Change {
    /// A batch was applied.
    Rows { table: String, rows: Vec<Row> },
    /// Rows of a device were deleted; `None` for all tables, for all times.
    Delete { table: Option<String>, device: String, range: Option<(i64, i64)> },
    /// A table was dropped.
    Drop { table: String },
    /// A table got another name.
    Rename { from: String, to: String },
    /// Rows of a table are kept for so many days from now on.
    Retention { table: String, days: Option<u64> },
    /// The keeper moved the cut-offs.
    Keep { now_ns: i64 },
}

/// Nanoseconds of a day.
pub const DAY_NS: i64 = 86_400_000_000_000;

/// All tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// By name.
    pub tables: BTreeMap<String, Table>,
}

impl Model {
    /// Makes the change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Rows { table, rows } => {
                let table = self.tables.entry(table.clone()).or_default();
                let cut_off = table.cut_off.unwrap_or(i64::MIN);
                for row in rows.iter().filter(|row| row.time >= cut_off) {
                    let slot = table.rows.entry((row.device.clone(), row.time)).or_default();
                    slot.extend(row.fields.iter().map(|(name, value)| (name.clone(), value.clone())));
                }
            }
            Change::Delete { table, device, range } => {
                let (start, end) = range.unwrap_or((i64::MIN, i64::MAX));
                let gone = |of: &String, time: i64| of == device && time >= start && (time < end || end == i64::MAX);
                for (name, rows) in &mut self.tables {
                    if table.as_ref().is_none_or(|table| table == name) {
                        rows.rows.retain(|(of, time), _| !gone(of, *time));
                    }
                }
            }
            Change::Drop { table } => {
                self.tables.remove(table);
            }
            Change::Rename { from, to } => {
                if let Some(table) = self.tables.remove(from) {
                    self.tables.insert(to.clone(), table);
                }
            }
            Change::Retention { table, days } => self.tables.entry(table.clone()).or_default().kept_days = *days,
            Change::Keep { now_ns } => {
                for table in self.tables.values_mut() {
                    // A cut-off that may go back is not modelled: policies only ever become shorter, or end with their table.
                    if let Some(days) = table.kept_days {
                        let oldest = now_ns.saturating_sub(days as i64 * DAY_NS);
                        let cut_off = oldest.div_euclid(DAY_NS) * DAY_NS;
                        table.cut_off = Some(table.cut_off.map_or(cut_off, |before| before.max(cut_off)));
                        table.rows.retain(|(_, time), _| *time >= cut_off);
                    }
                }
            }
        }
    }

    /// Every device with rows in `table`.
    pub fn devices(&self, table: &str) -> BTreeSet<String> {
        let rows = self.tables.get(table).into_iter().flat_map(|table| table.rows.keys());
        rows.map(|(device, _)| device.clone()).collect()
    }

    /// All rows of a device in order of time.
    pub fn rows(&self, table: &str, device: &str) -> Vec<(i64, Fields)> {
        let Some(table) = self.tables.get(table) else { return Vec::new() };
        let range = (device.to_owned(), i64::MIN)..=(device.to_owned(), i64::MAX);
        table.rows.range(range).map(|((_, time), fields)| (*time, fields.clone())).collect()
    }
}
