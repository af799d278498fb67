//! Owns turning single rows into batches, by number of rows or by age; does not encode or send by itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tidewell_codec::{Batch, BatchField, Bitmap, Column, DeviceRuns, FieldType, Values};
use tokio::sync::Mutex;

use super::{Client, SendError};

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A double.
    F64(f64),
    /// An integer.
    I64(i64),
    /// True or false.
    Bool(bool),
    /// Text.
    Utf8(&'a str),
}

impl Value<'_> {
    /// Its type.
    pub fn field_type(&self) -> FieldType {
        match self {
            Self::F64(_) => FieldType::F64,
            Self::I64(_) => FieldType::I64,
            Self::Bool(_) => FieldType::Bool,
            Self::Utf8(_) => FieldType::Utf8,
        }
    }
}

/// A row that contradicts the rows before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table:?}, field {field:?} of device {device:?}: has {has}, got {got}")]
pub struct RowError {
    /// The table.
    pub table: String,
    /// The field.
    pub field: String,
    /// Whose row.
    pub device: String,
    /// The type of the rows before.
    pub has: FieldType,
    /// The type of this one.
    pub got: FieldType,
}

/// Collects rows of any tables and devices and gives them as batches, one a table, grouped by device.
#[derive(Debug, Default)]
pub struct RowBuilder {
    tables: Vec<Table>,
    rows: usize,
}

#[derive(Debug)]
struct Table {
    name: String,
    fields: Vec<(String, FieldType)>,
    field_index: HashMap<String, usize>,
    devices: Vec<DeviceRows>,
    device_index: HashMap<String, usize>,
}

#[derive(Debug)]
struct DeviceRows {
    device: String,
    times: Vec<i64>,
    /// By index of the table's fields; shorter when later fields never came.
    columns: Vec<Column>,
}

impl RowBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows collected.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a row. Fields of the table that it does not name are null.
    ///
    /// # Errors
    /// When a field has another type than in the rows before; the row is then not added.
    pub fn push(
        &mut self,
        table: &str,
        device: &str,
        time_ns: i64,
        fields: &[(&str, Value<'_>)],
    ) -> Result<(), RowError> {
        let index = self.tables.iter().position(|t| t.name == table).unwrap_or_else(|| {
            self.tables.push(Table::new(table));
            self.tables.len() - 1
        });
        self.tables[index].push(device, time_ns, fields)?;
        self.rows += 1;
        Ok(())
    }

    /// Takes all rows as batches.
    pub fn take(&mut self) -> Vec<Batch> {
        self.rows = 0;
        std::mem::take(&mut self.tables).into_iter().filter_map(Table::into_batch).collect()
    }
}

impl Table {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            fields: Vec::new(),
            field_index: HashMap::new(),
            devices: Vec::new(),
            device_index: HashMap::new(),
        }
    }

    fn push(&mut self, device: &str, time_ns: i64, fields: &[(&str, Value<'_>)]) -> Result<(), RowError> {
        for (name, value) in fields {
            let got = value.field_type();
            if let Some(&index) = self.field_index.get(*name)
                && self.fields[index].1 != got
            {
                let (table, field, device) = (self.name.clone(), (*name).to_owned(), device.to_owned());
                return Err(RowError { table, field, device, has: self.fields[index].1, got });
            }
        }
        let device_index = match self.device_index.get(device) {
            Some(&index) => index,
            None => {
                self.devices.push(DeviceRows { device: device.to_owned(), times: Vec::new(), columns: Vec::new() });
                self.device_index.insert(device.to_owned(), self.devices.len() - 1);
                self.devices.len() - 1
            }
        };
        let rows = self.devices[device_index].times.len();
        for (name, value) in fields {
            let index = match self.field_index.get(*name) {
                Some(&index) => index,
                None => {
                    self.fields.push(((*name).to_owned(), value.field_type()));
                    self.field_index.insert((*name).to_owned(), self.fields.len() - 1);
                    self.fields.len() - 1
                }
            };
            let columns = &mut self.devices[device_index].columns;
            while columns.len() <= index {
                columns.push(Column::new(self.fields[columns.len()].1));
            }
            let column = &mut columns[index];
            // The same field twice in a row: the first counts.
            if column.len() <= rows {
                column.extend_nulls(rows - column.len());
                push_value(column, *value);
            }
        }
        self.devices[device_index].times.push(time_ns);
        Ok(())
    }

    fn into_batch(self) -> Option<Batch> {
        let fields = self.fields.into_iter().map(|(name, t)| BatchField { name, column: Column::new(t) }).collect();
        let mut batch = Batch { table: self.name, devices: DeviceRuns::default(), times: Vec::new(), fields };
        for rows in self.devices {
            let count = rows.times.len();
            batch.devices.push(&rows.device, u32::try_from(count).unwrap_or(u32::MAX));
            batch.times.extend_from_slice(&rows.times);
            let mut columns = rows.columns.into_iter();
            for field in &mut batch.fields {
                match columns.next() {
                    Some(column) => {
                        let missing = count - column.len();
                        field.column.extend_from(&column, 0..column.len());
                        field.column.extend_nulls(missing);
                    }
                    None => field.column.extend_nulls(count),
                }
            }
        }
        (!batch.times.is_empty()).then_some(batch)
    }
}

fn push_value(column: &mut Column, value: Value<'_>) {
    match (&mut column.values, value) {
        (Values::F64(values), Value::F64(value)) => values.push(value),
        (Values::I64(values), Value::I64(value)) => values.push(value),
        (Values::Bool(values), Value::Bool(value)) => values.push(value),
        (Values::Utf8(values), Value::Utf8(value)) => values.push(value),
        (values, value) => unreachable!("{:?} was checked against {:?}", value, std::mem::discriminant(values)),
    }
    if let Some(validity) = &mut column.validity {
        Bitmap::push(validity, true);
    }
}

/// Collects rows and sends them when there are enough or the oldest has waited long enough.
#[derive(Clone)]
pub struct RowBatcher(Arc<Batcher>);

struct Batcher {
    client: Client,
    rows_max: usize,
    linger: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    builder: RowBuilder,
    oldest: Option<Instant>,
    /// Why an earlier background send failed; told to the next caller.
    failed: Option<SendError>,
}

/// Why a row was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It contradicts the rows before.
    #[error(transparent)]
    Row(#[from] RowError),
    /// Sending failed.
    #[error(transparent)]
    Send(#[from] SendError),
}

impl RowBatcher {
    /// Sends through `client` when `rows_max` rows are there or the oldest is `linger` old.
    pub fn new(client: Client, rows_max: usize, linger: Duration) -> Self {
        let batcher =
            Arc::new(Batcher { client, rows_max: rows_max.max(1), linger, state: Mutex::new(State::default()) });
        tokio::spawn(send_old(Arc::downgrade(&batcher), linger));
        Self(batcher)
    }

    /// Adds a row; waits when the client has no room.
    ///
    /// # Errors
    /// When the row contradicts earlier ones, or sending failed.
    pub async fn push(
        &self,
        table: &str,
        device: &str,
        time_ns: i64,
        fields: &[(&str, Value<'_>)],
    ) -> Result<(), PushError> {
        let mut state = self.0.state.lock().await;
        if let Some(error) = state.failed.take() {
            return Err(error.into());
        }
        state.builder.push(table, device, time_ns, fields)?;
        state.oldest.get_or_insert_with(Instant::now);
        if state.builder.rows() >= self.0.rows_max {
            self.0.send(&mut state).await?;
        }
        Ok(())
    }

    /// Sends what is collected and waits until all of it is acknowledged or refused.
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn flush(&self) -> Result<(), SendError> {
        let mut state = self.0.state.lock().await;
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        self.0.send(&mut state).await?;
        drop(state);
        self.0.client.flush().await
    }
}

impl Batcher {
    /// The lock is held over the wait for room, so that rows of one device stay in order.
    async fn send(&self, state: &mut State) -> Result<(), SendError> {
        state.oldest = None;
        for batch in state.builder.take() {
            // What becomes of it is told by flush and the observer.
            self.client.send(batch).await?;
        }
        Ok(())
    }
}

async fn send_old(batcher: Weak<Batcher>, linger: Duration) {
    let step = (linger / 4).max(Duration::from_millis(1));
    loop {
        tokio::time::sleep(step).await;
        let Some(batcher) = batcher.upgrade() else { return };
        let mut state = batcher.state.lock().await;
        if state.oldest.is_some_and(|oldest| oldest.elapsed() >= batcher.linger)
            && let Err(error) = batcher.send(&mut state).await
        {
            state.failed = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewell_codec::BatchLimits;

    #[test]
    fn rows_become_one_batch_a_table_grouped_by_device() {
        let mut builder = RowBuilder::new();
        for time in 0..3 {
            for device in ["a", "b"] {
                builder.push("readings", device, time, &[("v", Value::F64(time as f64))]).unwrap();
            }
        }
        builder.push("readings", "a", 9, &[("note", Value::Utf8("late")), ("v", Value::F64(9.0))]).unwrap();
        builder.push("other", "a", 1, &[("n", Value::I64(1)), ("on", Value::Bool(true))]).unwrap();
        assert_eq!(builder.rows(), 8);
        let batches = builder.take();
        assert_eq!(builder.rows(), 0);
        assert_eq!(batches.len(), 2);
        let readings = &batches[0];
        readings.check(&BatchLimits::default()).unwrap();
        let runs: Vec<_> = readings.devices.iter().collect();
        assert_eq!(runs, [("a", 0..4), ("b", 4..7)]);
        assert_eq!(readings.times, [0, 1, 2, 9, 0, 1, 2]);
        let note = readings.field("note").unwrap();
        assert_eq!((note.len(), note.null_count(), note.is_valid(3)), (7, 6, true));
        assert_eq!(readings.field("v").unwrap().null_count(), 0);
        batches[1].check(&BatchLimits::default()).unwrap();
        assert!(builder.take().is_empty());
    }

    #[test]
    fn a_contradicting_row_is_refused_by_name_and_leaves_nothing() {
        let mut builder = RowBuilder::new();
        builder.push("t", "a", 1, &[("v", Value::F64(1.0))]).unwrap();
        let error = builder.push("t", "b", 2, &[("w", Value::I64(1)), ("v", Value::I64(2))]).unwrap_err().to_string();
        assert!(error.contains("\"t\"") && error.contains("\"v\"") && error.contains("f64"), "{error}");
        let batch = builder.take().remove(0);
        assert_eq!((batch.rows(), batch.fields.len(), batch.devices.len()), (1, 1, 1));
    }
}
