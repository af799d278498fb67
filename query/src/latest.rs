//! Owns the newest values of devices; reads blocks from the end and only as far as it must.

use std::sync::Arc;

use tidewell_engine::Rows;

use crate::answer::AnswerSchema;
use crate::error::QueryError;
use crate::execute::{Builder, Step, Work};
use crate::kernels::{Cell, last_one};
use crate::source::{Newest, Part, Table};

/// The last value of each field, device by device.
pub(crate) struct LatestWork<T> {
    pub table: Arc<T>,
    pub devices: Vec<Arc<str>>,
    pub schema: AnswerSchema,
    /// Rows before this time count.
    pub end: i64,
    /// Fields to answer, as indexes into the schema.
    pub fields: Arc<[usize]>,
    pub batch_rows: usize,
}

/// Where one device stands.
pub(crate) struct LatestCursor<N> {
    device: Arc<str>,
    parts: N,
    /// Time of the newest row.
    time: Option<i64>,
    values: Vec<Cell>,
    /// Fields without a value yet.
    missing: Vec<usize>,
}

impl<T: Table> Work for LatestWork<T> {
    type Cursor = LatestCursor<T::Newest>;
    type Space = Rows;

    fn device_count(&self) -> usize {
        self.devices.len()
    }

    fn builder(&self) -> Builder {
        Builder::new(&self.schema, self.batch_rows)
    }

    fn open(&self, device: usize, _: &mut Rows) -> Result<Option<Self::Cursor>, QueryError> {
        let device = self.devices[device].clone();
        let parts = self.table.scan_back(&device, self.end, &self.fields);
        Ok(Some(LatestCursor {
            device,
            parts,
            time: None,
            values: vec![Cell::Null; self.fields.len()],
            missing: (0..self.fields.len()).collect(),
        }))
    }

    fn step(&self, cursor: &mut Self::Cursor, rows: &mut Rows, out: &mut Builder) -> Result<Step, QueryError> {
        let done = cursor.time.is_some() && cursor.missing.is_empty();
        if !done && let Some(part) = cursor.parts.next_part()? {
            cursor.look_into(&part, rows)?;
            return Ok(Step::More);
        }
        if let Some(time) = cursor.time {
            out.push_i64(0, time);
            for (index, value) in cursor.values.iter().enumerate() {
                out.push_cell(index + 1, value);
            }
            out.end_rows(&cursor.device, 1);
        }
        Ok(Step::Done)
    }
}

impl<N: Newest> LatestCursor<N> {
    /// Takes what the next older part can tell.
    fn look_into(&mut self, part: &N::Part, rows: &mut Rows) -> Result<(), QueryError> {
        let mut load = Vec::new();
        let (mut exact, mut found) = (false, Vec::new());
        for &field in &self.missing {
            match part.stats(field) {
                Some(stats) => {
                    exact = true;
                    match stats.last {
                        _ if stats.valid == 0 => {}
                        Some(last) => {
                            self.values[field] = last.into();
                            found.push(field);
                        }
                        // Statistics keep no text.
                        None => load.push(field),
                    }
                }
                None => load.push(field),
            }
        }
        if self.time.is_none() && exact {
            // With statistics the part lies wholly inside the range, and then its last time is exact.
            self.time = Some(part.time_range().1);
        }
        if !load.is_empty() || self.time.is_none() {
            part.load_fields(&load, rows)?;
            if self.time.is_none() {
                self.time = rows.times.last().copied();
            }
            for &field in &load {
                let column = &rows.columns[field];
                let last = match &column.validity {
                    None => column.len().checked_sub(1),
                    Some(validity) => last_one(validity, 0..column.len()),
                };
                if let Some(row) = last {
                    self.values[field] = Cell::of(column, row);
                    found.push(field);
                }
            }
        }
        self.missing.retain(|field| !found.contains(field));
        Ok(())
    }
}
