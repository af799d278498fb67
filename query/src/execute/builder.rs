//! Owns the batch that is being filled; does not decide when it is full enough to send.

use std::ops::Range;
use std::sync::Arc;

use tidewell_codec::{Column, Values};
use tidewell_engine::FieldType;

use crate::answer::{AnswerBatch, AnswerColumn, AnswerField, AnswerType, NameRuns};
use crate::kernels::Cell;

/// A batch that grows. The first column is the device's name, all others are values.
#[derive(Debug)]
pub(crate) struct Builder {
    names: NameRuns,
    /// All columns but the first, in the order of the schema.
    pub columns: Vec<Column>,
    types: Vec<FieldType>,
    rows: usize,
    target: usize,
}

impl Builder {
    /// An empty batch of `schema`, full at `target` rows.
    pub fn new(schema: &[AnswerField], target: usize) -> Self {
        debug_assert_eq!(schema.first().map(|f| f.answer_type), Some(AnswerType::Name));
        let types: Vec<FieldType> = schema
            .iter()
            .skip(1)
            .map(|field| match field.answer_type {
                AnswerType::Value(field_type) => field_type,
                AnswerType::Time | AnswerType::Duration => FieldType::I64,
                AnswerType::Name => unreachable!("only the first column holds names"),
            })
            .collect();
        let columns = types.iter().map(|&t| Column::new(t)).collect();
        Self { names: NameRuns::default(), columns, types, rows: 0, target: target.max(1) }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether the batch should be sent.
    pub fn is_full(&self) -> bool {
        self.rows >= self.target
    }

    /// How many rows are missing until it is full, at least one.
    pub fn room(&self) -> usize {
        self.target.saturating_sub(self.rows).max(1)
    }

    /// Ends `rows` rows whose values were pushed to every column.
    pub fn end_rows(&mut self, name: &Arc<str>, rows: usize) {
        self.names.push(name, rows);
        self.rows += rows;
        debug_assert!(self.columns.iter().all(|c| c.len() == self.rows), "every column of the batch grew by {rows}");
    }

    /// Appends one time or duration to column `index`.
    #[inline]
    pub fn push_i64(&mut self, index: usize, value: i64) {
        match &mut self.columns[index].values {
            Values::I64(values) => values.push(value),
            _ => unreachable!("times and durations are integers"),
        }
    }

    /// Appends one value to column `index`.
    #[inline]
    pub fn push_cell(&mut self, index: usize, cell: &Cell) {
        cell.push_to(&mut self.columns[index]);
    }

    /// Appends the rows `range` of `times` and `columns`, given in the order of the schema.
    pub fn extend<'a>(
        &mut self,
        name: &Arc<str>,
        times: &[i64],
        columns: impl Iterator<Item = &'a Column>,
        range: Range<usize>,
    ) {
        match &mut self.columns[0].values {
            Values::I64(own) => own.extend_from_slice(&times[range.clone()]),
            _ => unreachable!("times are integers"),
        }
        for (own, column) in self.columns[1..].iter_mut().zip(columns) {
            own.extend_from(column, range.clone());
        }
        self.end_rows(name, range.len());
    }

    /// Takes whole columns without a copy; the batch must be empty.
    pub fn adopt(&mut self, name: &Arc<str>, times: Vec<i64>, columns: impl Iterator<Item = Column>) {
        debug_assert_eq!(self.rows, 0, "only an empty batch adopts columns");
        let rows = times.len();
        self.columns.clear();
        self.columns.push(Column { values: Values::I64(times), validity: None });
        self.columns.extend(columns);
        self.end_rows(name, rows);
    }

    /// Appends the rows of `batch`.
    pub fn append(&mut self, batch: AnswerBatch) {
        let first = self.rows == 0;
        let mut columns = batch.columns.into_iter();
        if let Some(AnswerColumn::Names(names)) = columns.next() {
            self.names.append(&names);
        }
        for (own, column) in self.columns.iter_mut().zip(columns) {
            match column {
                AnswerColumn::Values(column) if first => *own = column,
                AnswerColumn::Values(column) => own.extend_from(&column, 0..batch.rows),
                AnswerColumn::Names(_) => unreachable!("only the first column holds names"),
            }
        }
        self.rows += batch.rows;
    }

    /// The rows so far; begins anew. `None` when there are none.
    pub fn take(&mut self) -> Option<AnswerBatch> {
        if self.rows == 0 {
            return None;
        }
        let rows = std::mem::take(&mut self.rows);
        let empty = self.types.iter().map(|&t| Column::new(t)).collect();
        let values = std::mem::replace(&mut self.columns, empty).into_iter().map(AnswerColumn::Values);
        let columns = std::iter::once(AnswerColumn::Names(std::mem::take(&mut self.names))).chain(values).collect();
        Some(AnswerBatch { rows, columns })
    }
}
