//! Owns aggregates per window of time, of each device alone; groups of devices are `group`'s.
//!
//! - [`window`]: where windows begin and end
//! - [`fill`]: what windows without a value show
//! - [`group`]: devices together

mod fill;
mod group;
mod window;

pub(crate) use group::{GroupBatches, Grouped};
pub(crate) use window::Windows;

use std::sync::Arc;

use tidewell_engine::{FieldType, Rows};

use crate::answer::AnswerSchema;
use crate::error::QueryError;
use crate::execute::{Builder, Step, Work};
use crate::kernels::{Accumulator, Cell, Needs, Summary, rows_before};
use crate::request::{Aggregate, Fill, Time};
use crate::source::{Part, Table};
use fill::Filler;

/// What to compute, over which windows.
#[derive(Debug)]
pub(crate) struct Plan {
    pub schema: AnswerSchema,
    pub start: i64,
    pub end: i64,
    pub windows: Windows,
    /// In the order of the scan.
    pub fields: Vec<PlannedField>,
    /// Fields to scan, as indexes into the schema.
    pub scan: Vec<usize>,
    pub fill: Fill,
    pub batch_rows: usize,
}

/// Aggregates of one field, whose columns follow those of the field before.
#[derive(Debug)]
pub(crate) struct PlannedField {
    pub name: String,
    pub field_type: FieldType,
    pub aggregates: Vec<Aggregate>,
}

impl PlannedField {
    fn needs(&self) -> Needs {
        let any = |of: &[Aggregate]| self.aggregates.iter().any(|a| of.contains(a));
        Needs {
            sum: any(&[Aggregate::Mean, Aggregate::Sum]),
            extremes: any(&[Aggregate::Min, Aggregate::Max]),
            ends: any(&[Aggregate::First, Aggregate::Last]),
        }
    }
}

impl Plan {
    /// Writes the aggregates of window `window` into `cells`.
    fn cells(
        &self,
        device: &str,
        window: usize,
        summaries: &[Summary],
        cells: &mut Vec<Cell>,
    ) -> Result<(), QueryError> {
        cells.clear();
        for (field, summary) in self.fields.iter().zip(summaries) {
            for &aggregate in &field.aggregates {
                match summary.value(aggregate) {
                    Ok(cell) => cells.push(cell),
                    Err(_) => return Err(self.overflow(field, device, window)),
                }
            }
        }
        Ok(())
    }

    /// Writes the aggregates of window `window` as one row.
    fn write(
        &self,
        device: &Arc<str>,
        window: usize,
        summaries: &[Summary],
        out: &mut Builder,
    ) -> Result<(), QueryError> {
        out.push_i64(0, self.windows.start(window));
        let mut columns = out.columns[1..].iter_mut();
        for (field, summary) in self.fields.iter().zip(summaries) {
            for (&aggregate, column) in field.aggregates.iter().zip(&mut columns) {
                if summary.push(aggregate, column).is_err() {
                    return Err(self.overflow(field, device, window));
                }
            }
        }
        out.end_rows(device, 1);
        Ok(())
    }

    #[cold]
    fn overflow(&self, field: &PlannedField, device: &str, window: usize) -> QueryError {
        let window = Time(self.windows.start(window));
        QueryError::SumOverflow { field: field.name.clone(), device: device.to_owned(), window }
    }

    /// The aggregate of each column after `device` and `time`.
    fn aggregates(&self) -> impl Iterator<Item = Aggregate> + '_ {
        self.fields.iter().flat_map(|field| field.aggregates.iter().copied())
    }

    fn builder(&self) -> Builder {
        Builder::new(&self.schema, self.batch_rows)
    }
}

/// Reads one device's rows and closes windows as rows pass them.
pub(crate) struct WindowReader<P> {
    parts: std::vec::IntoIter<P>,
    accumulators: Vec<Accumulator>,
    /// The window that rows are being added to.
    open: Option<usize>,
    /// Next row of the loaded part.
    row: usize,
    /// Rows of the part in `Rows`; 0 when none is loaded.
    rows: usize,
    /// Rows of the window before: where rows are steady, the next has as many.
    guess: usize,
}

/// A window that is complete.
struct Complete {
    window: usize,
}

impl<P: Part> WindowReader<P> {
    fn new(plan: &Plan, parts: Vec<P>) -> Self {
        let accumulators = plan.fields.iter().map(|f| Accumulator::new(f.field_type, f.needs())).collect();
        Self { parts: parts.into_iter(), accumulators, open: None, row: 0, rows: 0, guess: 0 }
    }

    /// Goes on until a window is complete, whose aggregates go to `summaries`. `Ok(None)`: a part has been used up and the
    /// next may follow, or there are none left; see [`Self::is_done`].
    fn next(
        &mut self,
        plan: &Plan,
        rows: &mut Rows,
        summaries: &mut Vec<Summary>,
    ) -> Result<Option<Complete>, QueryError> {
        while self.row < self.rows {
            let window = match self.open {
                // Rows of one window after those of the window before: no division.
                Some(open) if rows.times[self.row] < plan.windows.end(open) => open,
                _ => plan.windows.at(rows.times[self.row]),
            };
            if let Some(complete) = self.turn_to(window, summaries) {
                return Ok(Some(complete));
            }
            let to = rows_before(&rows.times, self.row, plan.windows.end(window), self.guess);
            for (accumulator, column) in self.accumulators.iter_mut().zip(&rows.columns) {
                accumulator.add(&rows.times, column, self.row..to);
            }
            self.guess = to - self.row;
            self.row = to;
        }
        self.rows = 0;
        match self.parts.next() {
            Some(part) => self.open_part(plan, part, rows, summaries),
            None => Ok(self.close(summaries)),
        }
    }

    /// Whether all parts were read and the last window was closed.
    fn is_done(&self) -> bool {
        self.row >= self.rows && self.open.is_none() && self.parts.len() == 0
    }

    /// Makes `window` the open one; closes another.
    fn turn_to(&mut self, window: usize, summaries: &mut Vec<Summary>) -> Option<Complete> {
        let complete = if self.open.is_some_and(|open| open != window) { self.close(summaries) } else { None };
        self.open = Some(window);
        complete
    }

    fn close(&mut self, summaries: &mut Vec<Summary>) -> Option<Complete> {
        let window = self.open.take()?;
        summaries.clear();
        summaries.extend(self.accumulators.iter_mut().map(Accumulator::finish));
        Some(Complete { window })
    }

    fn open_part(
        &mut self,
        plan: &Plan,
        part: P,
        rows: &mut Rows,
        summaries: &mut Vec<Summary>,
    ) -> Result<Option<Complete>, QueryError> {
        // Only a part with statistics lies wholly inside the range, with exact times.
        if part.stats(0).is_some() {
            let (first, last) = part.time_range();
            let window = plan.windows.at(first);
            if last < plan.windows.end(window) {
                return self.add_whole(window, &part, rows, summaries);
            }
        }
        let all: Vec<usize> = (0..plan.fields.len()).collect();
        part.load_fields(&all, rows)?;
        (self.row, self.rows) = (0, rows.times.len());
        Ok(None)
    }

    /// Adds a part that lies in one window: by statistics where they give the same answer to the bit.
    fn add_whole(
        &mut self,
        window: usize,
        part: &P,
        rows: &mut Rows,
        summaries: &mut Vec<Summary>,
    ) -> Result<Option<Complete>, QueryError> {
        let complete = self.turn_to(window, summaries);
        let mut load = Vec::new();
        for (slot, accumulator) in self.accumulators.iter_mut().enumerate() {
            match part.stats(slot) {
                Some(stats) if accumulator.takes(&stats) => accumulator.add_block(&stats, part.time_range()),
                _ => load.push(slot),
            }
        }
        if !load.is_empty() {
            part.load_fields(&load, rows)?;
            for slot in load {
                self.accumulators[slot].add(&rows.times, &rows.columns[slot], 0..rows.times.len());
            }
        }
        Ok(complete)
    }
}

/// Downsampling of each device alone.
pub(crate) struct DeviceWork<T> {
    pub table: Arc<T>,
    pub devices: Vec<Arc<str>>,
    pub plan: Plan,
}

/// Where one device stands.
pub(crate) struct DeviceCursor<P> {
    device: Arc<str>,
    reader: WindowReader<P>,
    filler: Filler,
}

/// Memory that a thread reuses.
#[derive(Default)]
pub(crate) struct WindowSpace {
    rows: Rows,
    summaries: Vec<Summary>,
    cells: Vec<Cell>,
}

impl<T: Table> Work for DeviceWork<T> {
    type Cursor = DeviceCursor<T::Part>;
    type Space = WindowSpace;

    fn device_count(&self) -> usize {
        self.devices.len()
    }

    fn builder(&self) -> Builder {
        self.plan.builder()
    }

    fn open(&self, device: usize, _: &mut WindowSpace) -> Result<Option<Self::Cursor>, QueryError> {
        let device = self.devices[device].clone();
        let parts = self.table.scan(&device, self.plan.start, self.plan.end, &self.plan.scan)?;
        if parts.is_empty() {
            return Ok(None);
        }
        let reader = WindowReader::new(&self.plan, parts);
        Ok(Some(DeviceCursor { device, reader, filler: Filler::new(&self.plan) }))
    }

    fn step(&self, cursor: &mut Self::Cursor, space: &mut WindowSpace, out: &mut Builder) -> Result<Step, QueryError> {
        let DeviceCursor { device, reader, filler } = cursor;
        let plan = &self.plan;
        loop {
            if !filler.drain(plan, device, out) || out.is_full() {
                return Ok(Step::More);
            }
            if reader.is_done() {
                // `finish` may have left windows to fill, which the next `drain` shows.
                return Ok(if filler.finish(plan)? { Step::More } else { Step::Done });
            }
            let before = reader.rows;
            match reader.next(plan, &mut space.rows, &mut space.summaries)? {
                Some(complete) if plan.fill == Fill::None => {
                    plan.write(device, complete.window, &space.summaries, out)?;
                }
                Some(complete) => {
                    plan.cells(device, complete.window, &space.summaries, &mut space.cells)?;
                    filler.offer(plan, device, complete.window, &mut space.cells, out)?;
                }
                // A part is used up: time to look at the clock.
                None if before > 0 => return Ok(Step::More),
                None => {}
            }
        }
    }
}
