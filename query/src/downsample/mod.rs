//! Owns aggregates per window of time, of each device alone; groups of devices are `group`'s.
//!
//! - [`window`]: where windows begin and end
//! - [`pieces`]: in which order a window's doubles are summed, and which steps fit into it
//! - [`reader`]: rows, and steps that stand for them, into windows
//! - [`copy`]: steps that are windows as they are
//! - [`fill`]: what windows without a value show
//! - [`group`]: devices together

mod copy;
mod fill;
mod group;
mod pieces;
mod reader;
mod window;

pub(crate) use group::{GroupBatches, Grouped};
pub(crate) use window::Windows;

use std::sync::Arc;

use tidewell_engine::{FieldType, Step};

use crate::answer::AnswerSchema;
use crate::error::QueryError;
use crate::execute::{self, Builder, Work};
use crate::kernels::{Cell, Needs, Summary};
use crate::request::{Aggregate, Fill, Group, Time};
use crate::source::Table;
use fill::Filler;
use pieces::Piece;
use reader::{Loaded, Progress, WindowReader};

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
    /// Steps that may stand for rows, longest first.
    steps: Vec<Step>,
    /// The step that a window of the answer is, when it can be written as it is.
    copied: Option<Step>,
    /// Whether windows are summed piece by piece.
    pieces: bool,
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

    /// Whether a sum of it depends on the order of its values.
    fn has_pieces(&self) -> bool {
        self.field_type == FieldType::F64 && self.needs().sum
    }

    /// Whether steps keep what is asked: of text they keep counts only.
    fn is_in_steps(&self) -> bool {
        self.field_type != FieldType::Utf8 || !self.needs().ends
    }
}

impl Plan {
    /// A plan for the windows of `start..end`.
    #[expect(clippy::too_many_arguments, reason = "the parts of a checked request, each used once")]
    pub fn new(
        schema: AnswerSchema,
        (start, end): (i64, i64),
        windows: Windows,
        fields: Vec<PlannedField>,
        scan: Vec<usize>,
        fill: Fill,
        group: &Group,
        batch_rows: usize,
    ) -> Self {
        let longest = windows.longest().min(end.wrapping_sub(start) as u64);
        let fits = |step: Step| step.width_ns() as u64 <= longest;
        let steps: Vec<Step> = if fields.iter().all(PlannedField::is_in_steps) {
            Step::ALL.into_iter().rev().filter(|&step| fits(step)).collect()
        } else {
            Vec::new()
        };
        let plain = fill == Fill::None && *group == Group::Device;
        let copied = steps.iter().copied().find(|step| plain && windows.are_steps_of(step.width_ns()));
        // Inside of a minute there is one piece only.
        let pieces = fields.iter().any(PlannedField::has_pieces) && !windows.divide(Step::Minute.width_ns());
        Self { schema, start, end, windows, fields, scan, fill, batch_rows, steps, copied, pieces }
    }

    /// Whether the aggregates of the step that begins at `time` serve a window.
    fn takes(&self, step: Step, time: i64) -> bool {
        let Some(step_end) = time.checked_add(step.width_ns()) else { return false };
        if time < self.start || step_end > self.end {
            return false;
        }
        if self.copied == Some(step) {
            return true;
        }
        let window = self.windows.at(time);
        let (start, end) = (self.windows.start(window).max(self.start), self.windows.end(window).min(self.end));
        if self.pieces { pieces::has_place(step, start, end, time) } else { step_end <= end }
    }

    /// What is summed by itself around `time`, in the window `start..end`.
    #[inline]
    fn piece_at(&self, start: i64, end: i64, time: i64) -> Piece {
        if self.pieces { pieces::piece_at(start, end, time) } else { Piece { end, day_end: end } }
    }

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

/// Downsampling of each device alone.
pub(crate) struct DeviceWork<T> {
    pub table: Arc<T>,
    pub devices: Vec<Arc<str>>,
    pub plan: Plan,
}

/// Where one device stands.
pub(crate) struct DeviceCursor<T: Table> {
    device: Arc<str>,
    reader: WindowReader<T>,
    filler: Filler,
}

/// Memory that a thread reuses.
#[derive(Default)]
pub(crate) struct WindowSpace {
    loaded: Loaded,
    summaries: Vec<Summary>,
    cells: Vec<Cell>,
}

impl<T: Table> Work for DeviceWork<T> {
    type Cursor = DeviceCursor<T>;
    type Space = WindowSpace;

    fn device_count(&self) -> usize {
        self.devices.len()
    }

    fn builder(&self) -> Builder {
        self.plan.builder()
    }

    fn open(&self, device: usize, _: &mut WindowSpace) -> Result<Option<Self::Cursor>, QueryError> {
        let device = self.devices[device].clone();
        let reader = WindowReader::open(&self.plan, &self.table, &device, (self.plan.start, self.plan.end))?;
        if reader.is_done() {
            return Ok(None);
        }
        Ok(Some(DeviceCursor { device, reader, filler: Filler::new(&self.plan) }))
    }

    fn step(
        &self,
        cursor: &mut Self::Cursor,
        space: &mut WindowSpace,
        out: &mut Builder,
    ) -> Result<execute::Step, QueryError> {
        let DeviceCursor { device, reader, filler } = cursor;
        let plan = &self.plan;
        loop {
            if !filler.drain(plan, device, out) || out.is_full() {
                return Ok(execute::Step::More);
            }
            if reader.is_done() {
                // `finish` may have left windows to fill, which the next `drain` shows.
                return Ok(if filler.finish(plan)? { execute::Step::More } else { execute::Step::Done });
            }
            match reader.next(plan, &mut space.loaded, &mut space.summaries)? {
                Progress::Window(window) if plan.fill == Fill::None => {
                    plan.write(device, window, &space.summaries, out)?;
                }
                Progress::Window(window) => {
                    plan.cells(device, window, &space.summaries, &mut space.cells)?;
                    filler.offer(plan, device, window, &mut space.cells, out)?;
                }
                Progress::Steps => {
                    let range = reader.take_steps(out.room());
                    copy::write_steps(plan, device, &space.loaded.steps, range, out);
                }
                // Time to look at the clock.
                Progress::Loaded => return Ok(execute::Step::More),
            }
        }
    }
}
