//! Owns rows on their way to the node: columns per table, grouped into batches of one shard; does not parse.

use std::borrow::Cow;
use std::collections::HashMap;

use tidewell_codec::batch::{MAX_DEVICE_BYTES, MAX_NAME_BYTES, RESERVED_FIELDS};
use tidewell_codec::{Batch, BatchField, Bitmap, Column, DeviceRuns, FieldType, Text, Values, shard_of};

/// Fields of one table in one batch.
const FIELDS_MAX: usize = 1_024;

/// One value of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Nothing.
    Null,
    /// A double.
    F64(f64),
    /// An integer.
    I64(i64),
    /// True or false.
    Bool(bool),
    /// Text.
    Utf8(&'a str),
}

/// Rows of one table that wait to be sent.
#[derive(Debug)]
pub struct RowBuffer {
    table: String,
    names: Vec<String>,
    columns: Vec<Column>,
    index: HashMap<String, usize>,
    device_ids: HashMap<String, u32>,
    devices: Vec<String>,
    row_devices: Vec<u32>,
    times: Vec<i64>,
    text_bytes: usize,
}

impl RowBuffer {
    /// An empty buffer for `table`.
    pub fn new(table: impl Into<String>) -> Self {
        Self {
            table: table.into(),
            names: Vec::new(),
            columns: Vec::new(),
            index: HashMap::new(),
            device_ids: HashMap::new(),
            devices: Vec::new(),
            row_devices: Vec::new(),
            times: Vec::new(),
            text_bytes: 0,
        }
    }

    /// Number of rows that wait.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether no row waits.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Bytes that the rows take at most when they are sent plain.
    pub fn bytes(&self) -> usize {
        self.len() * (8 + self.columns.len() * 9) + self.text_bytes
    }

    /// Rows times fields.
    pub fn cells(&self) -> usize {
        self.len() * self.columns.len()
    }

    /// The column of `name`; added with nulls for the rows so far when it is new.
    ///
    /// # Errors
    /// When the column has another type, or there are too many.
    pub fn field(&mut self, name: &str, field_type: FieldType) -> Result<usize, String> {
        if let Some(&at) = self.index.get(name) {
            let has = self.columns[at].field_type();
            if has == field_type {
                return Ok(at);
            }
            return Err(format!("field `{name}` of table `{}`: has {has}, got {field_type}", self.table));
        }
        if clean_name(name) != name {
            return Err(format!("field `{}`: expected a name like `{}`", head(name), clean_name(name)));
        }
        if self.columns.len() == FIELDS_MAX {
            return Err(format!("table `{}`: more than {FIELDS_MAX} fields", self.table));
        }
        self.columns.push(Column::nulls(field_type, self.times.len()));
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), self.columns.len() - 1);
        Ok(self.columns.len() - 1)
    }

    /// Appends one row; fields that are not named are null. `cells` names no field twice.
    ///
    /// # Errors
    /// When the device id is empty or too long, or no field was named yet. Nothing is appended then.
    pub fn push(&mut self, device: &str, time: i64, cells: &[(usize, Cell<'_>)]) -> Result<(), String> {
        if self.columns.is_empty() {
            return Err("no column has had a value so far: there is nothing to store but a time".into());
        }
        let device = match self.device_ids.get(device) {
            Some(&id) => id,
            None => {
                if device.is_empty() || device.len() > MAX_DEVICE_BYTES || device.chars().any(char::is_control) {
                    return Err(format!(
                        "device `{}`: expected an id of 1 to {MAX_DEVICE_BYTES} bytes without control characters, found {}",
                        head(device).escape_debug(),
                        device.len()
                    ));
                }
                let id = self.devices.len() as u32;
                self.devices.push(device.to_owned());
                self.device_ids.insert(device.to_owned(), id);
                id
            }
        };
        for &(at, cell) in cells {
            if let Cell::Utf8(text) = cell {
                self.text_bytes += text.len();
            }
            push_cell(&mut self.columns[at], cell);
        }
        self.row_devices.push(device);
        self.times.push(time);
        let rows = self.times.len();
        if cells.len() < self.columns.len() {
            for column in self.columns.iter_mut().filter(|c| c.len() < rows) {
                column.extend_nulls(1);
            }
        }
        debug_assert!(self.columns.iter().all(|c| c.len() == rows));
        Ok(())
    }

    /// Takes all rows as batches of one shard each: rows of one device together, in time order.
    ///
    /// Rows with the same device and time keep their order, because the later one wins.
    pub fn take(&mut self, shard_count: u32) -> Vec<Batch> {
        let shards: Vec<u32> = self.devices.iter().map(|d| shard_of(d, shard_count)).collect();
        let mut order: Vec<u32> = (0..self.times.len() as u32).collect();
        let key = |row: u32| {
            let device = self.row_devices[row as usize];
            (shards[device as usize], device, self.times[row as usize])
        };
        if !order.is_sorted_by_key(|&row| key(row)) {
            order.sort_by_key(|&row| key(row));
        }
        let mut batches = Vec::new();
        let mut start = 0;
        while start < order.len() {
            let shard = shards[self.row_devices[order[start] as usize] as usize];
            let end =
                start + order[start..].partition_point(|&row| shards[self.row_devices[row as usize] as usize] == shard);
            batches.push(self.gather(&order[start..end]));
            start = end;
        }
        for column in &mut self.columns {
            *column = Column::new(column.field_type());
        }
        self.times.clear();
        self.row_devices.clear();
        // Ids of devices are forgotten too: a file may name a million of them once each.
        self.devices.clear();
        self.device_ids.clear();
        self.text_bytes = 0;
        batches
    }

    fn gather(&self, order: &[u32]) -> Batch {
        let mut devices = DeviceRuns::default();
        let mut at = 0;
        while at < order.len() {
            let device = self.row_devices[order[at] as usize];
            let rows = order[at..].partition_point(|&row| self.row_devices[row as usize] == device);
            devices.push(&self.devices[device as usize], rows as u32);
            at += rows;
        }
        let mut fields = Vec::with_capacity(self.columns.len());
        for (name, column) in self.names.iter().zip(&self.columns) {
            let column = gather_column(column, order);
            // A field that none of these rows sets has nothing to say; but a batch has at least one.
            if column.null_count() < column.len() {
                fields.push(BatchField { name: name.clone(), column });
            }
        }
        if fields.is_empty() {
            let column = Column::nulls(self.columns[0].field_type(), order.len());
            fields.push(BatchField { name: self.names[0].clone(), column });
        }
        let times = order.iter().map(|&row| self.times[row as usize]).collect();
        Batch { table: self.table.clone(), devices, times, fields }
    }
}

/// `text` as the name of a field or a table: ASCII letters, digits and `_ - .`, not beginning with a digit.
///
/// A name that is one already stays as it is. `Engine RPM [RPM]` becomes `Engine_RPM_RPM`.
pub fn clean_name(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let begins_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if begins_well && text.len() <= MAX_NAME_BYTES && text.bytes().all(plain) && !RESERVED_FIELDS.contains(&text) {
        return Cow::Borrowed(text);
    }
    let mut name = String::with_capacity(text.len());
    let mut gap = false;
    for character in text.chars() {
        let letters = match character {
            'ä' => "ae",
            'ö' => "oe",
            'ü' => "ue",
            'Ä' => "Ae",
            'Ö' => "Oe",
            'Ü' => "Ue",
            'ß' => "ss",
            'µ' | 'μ' => "u",
            '%' => "percent",
            c if c.is_ascii() && plain(c as u8) => {
                if std::mem::take(&mut gap) && !name.is_empty() {
                    name.push('_');
                }
                name.push(c);
                continue;
            }
            _ => {
                gap = true;
                continue;
            }
        };
        if std::mem::take(&mut gap) && !name.is_empty() {
            name.push('_');
        }
        name.push_str(letters);
    }
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins_well || RESERVED_FIELDS.contains(&name.as_str()) {
        name.insert(0, '_');
    }
    // Only ASCII is left, so that any cut is between characters.
    name.truncate(MAX_NAME_BYTES);
    Cow::Owned(name)
}

/// The first characters of a name that may be very long.
fn head(text: &str) -> String {
    text.chars().take(40).collect()
}

fn push_cell(column: &mut Column, cell: Cell<'_>) {
    match (&mut column.values, cell) {
        (_, Cell::Null) => return column.extend_nulls(1),
        (Values::F64(values), Cell::F64(value)) => values.push(value),
        (Values::I64(values), Cell::I64(value)) => values.push(value),
        (Values::Bool(values), Cell::Bool(value)) => values.push(value),
        (Values::Utf8(values), Cell::Utf8(value)) => values.push(value),
        (values, cell) => panic!("the parser gave {cell:?} for a column of {values:?}"),
    }
    if let Some(validity) = &mut column.validity {
        validity.push(true);
    }
}

fn gather_column(column: &Column, order: &[u32]) -> Column {
    let rows = || order.iter().map(|&row| row as usize);
    let values = match &column.values {
        Values::F64(v) => Values::F64(rows().map(|row| v[row]).collect()),
        Values::I64(v) => Values::I64(rows().map(|row| v[row]).collect()),
        Values::Bool(v) => Values::Bool(rows().map(|row| v.get(row)).collect()),
        Values::Utf8(v) => {
            let mut text = Text::default();
            rows().for_each(|row| text.push(v.get(row)));
            Values::Utf8(text)
        }
    };
    let validity: Option<Bitmap> = column.validity.as_ref().map(|v| rows().map(|row| v.get(row)).collect());
    let mut column = Column { values, validity };
    column.normalise();
    column
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_grouped_by_shard_and_device_and_ordered_by_time() {
        let mut buffer = RowBuffer::new("t");
        let speed = buffer.field("speed", FieldType::F64).unwrap();
        for (device, time, value) in [("b", 2, 1.0), ("a", 5, 2.0), ("b", 1, 3.0), ("b", 2, 4.0), ("c", 0, 5.0)] {
            buffer.push(device, time, &[(speed, Cell::F64(value))]).unwrap();
        }
        let name = buffer.field("name", FieldType::Utf8).unwrap();
        buffer.push("a", 4, &[(name, Cell::Utf8("x")), (speed, Cell::Null)]).unwrap();
        let batches = buffer.take(4);
        let mut seen = Vec::new();
        for batch in &batches {
            let mut at = 0;
            for (device, rows) in batch.devices.iter() {
                assert_eq!(rows.start, at);
                at = rows.end;
                for row in rows {
                    let speed = batch.fields.iter().find(|f| f.name == "speed").and_then(|f| {
                        let Values::F64(v) = &f.column.values else { panic!("type") };
                        f.column.is_valid(row).then(|| v[row])
                    });
                    seen.push((device.to_owned(), batch.times[row], speed));
                }
            }
            let shards: std::collections::HashSet<u32> = batch.devices.iter().map(|(d, _)| shard_of(d, 4)).collect();
            assert_eq!(shards.len(), 1);
        }
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("a", 4, None),
            ("a", 5, Some(2.0)),
            ("b", 1, Some(3.0)),
            ("b", 2, Some(1.0)),
            ("b", 2, Some(4.0)),
            ("c", 0, Some(5.0)),
        ];
        assert_eq!(seen, expected.map(|(d, t, v)| (d.to_owned(), t, v)));
        assert!(buffer.is_empty() && buffer.take(4).is_empty());
    }

    #[test]
    fn headers_become_names() {
        for (header, name) in [
            ("PM2.5", "PM2.5"),
            ("Engine RPM [RPM]", "Engine_RPM_RPM"),
            ("Engine Coolant Temperature [Â°C]", "Engine_Coolant_Temperature_C"),
            ("Engine Coolant Temperature [°C]", "Engine_Coolant_Temperature_C"),
            ("energy(kWh/hh)", "energy_kWh_hh"),
            ("Wärme [ Wh]", "Waerme_Wh"),
            ("PWM 1 [ %]", "PWM_1_percent"),
            ("2nd", "_2nd"),
            ("time", "_time"),
            ("  ", "_"),
        ] {
            assert_eq!(clean_name(header), name);
            assert_eq!(clean_name(name), name, "a clean name stays");
        }
        assert_eq!(clean_name(&"x".repeat(300)).len(), MAX_NAME_BYTES);
    }

    #[test]
    fn what_is_taken_passes_the_check_of_the_node() {
        let mut buffer = RowBuffer::new("t");
        let speed = buffer.field("speed", FieldType::F64).unwrap();
        buffer.push("a", 1, &[(speed, Cell::Null)]).unwrap();
        for batch in buffer.take(3) {
            batch.check(&tidewell_codec::BatchLimits::default()).unwrap();
        }
    }

    #[test]
    fn types_and_names_are_checked() {
        let mut buffer = RowBuffer::new("t");
        buffer.field("speed", FieldType::F64).unwrap();
        let error = buffer.field("speed", FieldType::I64).unwrap_err();
        assert!(error.contains("speed") && error.contains("f64") && error.contains("i64"), "{error}");
        assert!(buffer.field("", FieldType::I64).is_err());
        assert!(buffer.push("a\tb", 0, &[]).is_err());
        assert!(buffer.push("", 0, &[]).is_err());
        assert!(buffer.push(&"x".repeat(257), 0, &[]).is_err());
    }
}
