//! Owns the way of one device's rows and steps into windows, in time order; does not write answers.

use std::ops::Range;
use std::sync::Arc;

use tidewell_engine::{FieldType, Rows, StepField, StepRows, StepSums};

use super::pieces::Piece;
use super::{Plan, PlannedField};
use crate::error::QueryError;
use crate::kernels::{Accumulator, Summary, rows_before};
use crate::source::{Part, Steps, Stretch, Table};

/// Reads one device's rows, or steps that stand for them, and closes windows as they are passed.
pub(super) struct WindowReader<T: Table> {
    table: Arc<T>,
    device: Arc<str>,
    stretches: std::vec::IntoIter<Stretch<T::Part, T::Steps>>,
    /// Rows in the place of steps that lack what is asked; read before the next stretch.
    instead: std::vec::IntoIter<T::Part>,
    accumulators: Vec<Accumulator>,
    open: Option<Open>,
    /// Rows of the loaded part that are still to be added, and to which fields.
    rows: Range<usize>,
    slots: Vec<usize>,
    /// Loaded steps that are still to be added.
    steps: Range<usize>,
    /// Whether they are windows of the answer.
    copied: bool,
    /// Rows of the piece before: where rows are steady, the next has as many.
    guess: usize,
}

/// The window that rows are being added to.
#[derive(Clone, Copy)]
struct Open {
    window: usize,
    /// Where it begins and ends inside the range.
    start: i64,
    end: i64,
    piece: Piece,
}

enum Turn {
    /// Values before this time go on.
    Inside { piece_end: i64 },
    /// A window was closed, and its aggregates told.
    Closed(usize),
}

/// Memory that readers load into.
#[derive(Default)]
pub(super) struct Loaded {
    pub rows: Rows,
    pub steps: StepRows,
}

/// What [`WindowReader::next`] came to.
pub(super) enum Progress {
    /// This window is complete.
    Window(usize),
    /// Loaded steps are whole windows of the answer, to be taken with [`WindowReader::take_steps`].
    Steps,
    /// A stretch was loaded.
    Loaded,
}

impl<T: Table> WindowReader<T> {
    /// Begins with the rows of `device` inside `start..end`, whose edges are edges of windows or of the range.
    pub fn open(plan: &Plan, table: &Arc<T>, device: &Arc<str>, (start, end): (i64, i64)) -> Result<Self, QueryError> {
        // Even where no step is of use: the table knows of rows that are gone while steps of them are left.
        let usable = |step, time| plan.takes(step, time);
        let stretches = table.scan_steps(device, start, end, &plan.scan, &plan.steps, &usable)?;
        Ok(Self {
            table: table.clone(),
            device: device.clone(),
            stretches: stretches.into_iter(),
            instead: Vec::new().into_iter(),
            accumulators: plan.fields.iter().map(|f| Accumulator::new(f.field_type, f.needs())).collect(),
            open: None,
            rows: 0..0,
            slots: Vec::with_capacity(plan.fields.len()),
            steps: 0..0,
            copied: false,
            guess: 0,
        })
    }

    /// Whether everything was read and the last window was closed.
    pub fn is_done(&self) -> bool {
        self.rows.is_empty()
            && self.steps.is_empty()
            && self.open.is_none()
            && self.instead.len() == 0
            && self.stretches.len() == 0
    }

    /// Goes on until a window is complete or a stretch was loaded.
    pub fn next(
        &mut self,
        plan: &Plan,
        loaded: &mut Loaded,
        summaries: &mut Vec<Summary>,
    ) -> Result<Progress, QueryError> {
        while !self.rows.is_empty() {
            let times = &loaded.rows.times;
            let end = match self.turn_to(plan, times[self.rows.start], summaries) {
                Turn::Inside { piece_end } => piece_end,
                Turn::Closed(window) => return Ok(Progress::Window(window)),
            };
            // At least one row, even one at the last nanosecond of all, which no piece ends behind.
            let to = rows_before(times, self.rows.start, end, self.guess).max(self.rows.start + 1);
            for &slot in &self.slots {
                self.accumulators[slot].add(times, &loaded.rows.columns[slot], self.rows.start..to);
            }
            self.guess = to - self.rows.start;
            self.rows.start = to;
        }
        if self.copied && !self.steps.is_empty() {
            return Ok(self.close(summaries).map_or(Progress::Steps, Progress::Window));
        }
        while !self.steps.is_empty() {
            let at = self.steps.start;
            if let Turn::Closed(window) = self.turn_to(plan, loaded.steps.starts[at], summaries) {
                return Ok(Progress::Window(window));
            }
            for (accumulator, field) in self.accumulators.iter_mut().zip(&loaded.steps.fields) {
                accumulator.add_step(field, at);
            }
            self.steps.start += 1;
        }
        if let Some(part) = self.instead.next() {
            return self.open_part(plan, &part, loaded, summaries);
        }
        match self.stretches.next() {
            Some(Stretch::Rows(part)) => self.open_part(plan, &part, loaded, summaries),
            Some(Stretch::Steps(steps)) => self.open_steps(plan, &steps, loaded),
            None => Ok(self.close(summaries).map_or(Progress::Loaded, Progress::Window)),
        }
    }

    /// The next loaded steps, at most `most`, which the caller writes; see [`Progress::Steps`].
    pub fn take_steps(&mut self, most: usize) -> Range<usize> {
        let taken = self.steps.start..self.steps.end.min(self.steps.start + most);
        self.steps.start = taken.end;
        taken
    }

    /// Makes the window and the piece of `time` those that values are added to, or closes the window before.
    #[inline]
    fn turn_to(&mut self, plan: &Plan, time: i64, summaries: &mut Vec<Summary>) -> Turn {
        let Some(open) = &mut self.open else {
            let open = Open::at(plan, time, plan.windows.at(time));
            self.open = Some(open);
            return Turn::Inside { piece_end: open.piece.end };
        };
        if time < open.piece.end {
            return Turn::Inside { piece_end: open.piece.end };
        }
        if time >= open.end {
            // A last window without an end holds the last nanosecond of all.
            let window = plan.windows.at(time);
            if window != open.window {
                let next = Open::at(plan, time, window);
                let closed = self.close(summaries);
                self.open = Some(next);
                return Turn::Closed(closed.expect("a window was open"));
            }
        }
        let day_ends = time >= open.piece.day_end;
        open.piece = plan.piece_at(open.start, open.end, time);
        let piece_end = open.piece.end;
        for accumulator in &mut self.accumulators {
            if day_ends { accumulator.end_day() } else { accumulator.end_piece() }
        }
        Turn::Inside { piece_end }
    }

    fn close(&mut self, summaries: &mut Vec<Summary>) -> Option<usize> {
        let open = self.open.take()?;
        summaries.clear();
        summaries.extend(self.accumulators.iter_mut().map(Accumulator::finish));
        Some(open.window)
    }

    fn open_part(
        &mut self,
        plan: &Plan,
        part: &T::Part,
        loaded: &mut Loaded,
        summaries: &mut Vec<Summary>,
    ) -> Result<Progress, QueryError> {
        let mut progress = Progress::Loaded;
        self.slots.clear();
        // Only a part with statistics lies wholly inside the range, with exact times.
        let whole = part.stats(0).is_some() && {
            let (first, last) = part.time_range();
            last < plan.windows.end(plan.windows.at(first))
        };
        if whole {
            let times = part.time_range();
            if let Turn::Closed(window) = self.turn_to(plan, times.0, summaries) {
                progress = Progress::Window(window);
            }
            for (slot, accumulator) in self.accumulators.iter_mut().enumerate() {
                match part.stats(slot) {
                    // Where they give the same answer to the bit.
                    Some(stats) if accumulator.takes(&stats) => accumulator.add_block(&stats, times),
                    _ => self.slots.push(slot),
                }
            }
            if self.slots.is_empty() {
                return Ok(progress);
            }
        } else {
            self.slots.extend(0..plan.fields.len());
        }
        part.load_fields(&self.slots, &mut loaded.rows)?;
        self.rows = 0..loaded.rows.times.len();
        Ok(progress)
    }

    fn open_steps(&mut self, plan: &Plan, part: &T::Steps, loaded: &mut Loaded) -> Result<Progress, QueryError> {
        part.load(&mut loaded.steps)?;
        let steps = &loaded.steps;
        let lacks = |(field, planned): (&Arc<StepField>, &PlannedField)| {
            matches!(field.sum, StepSums::None) && planned.field_type == FieldType::I64 && planned.needs().sum
        };
        if steps.fields.iter().zip(&plan.fields).any(lacks) {
            // A sum beyond 64 bits is kept nowhere, and may be part of one that is not.
            let (first, last) = part.time_range();
            let parts = self.table.scan(&self.device, first, last.saturating_add(1), &plan.scan)?;
            let counts = |field: &Arc<StepField>| field.count[steps.range.clone()].iter().sum::<u64>();
            let values = steps.fields.iter().map(counts).max().unwrap_or(0);
            if parts.iter().map(|part| part.rows_max() as u64).sum::<u64>() < values {
                let field = steps.fields.iter().zip(&plan.fields).position(lacks).unwrap_or(0);
                return Err(plan.overflow(&plan.fields[field], &self.device, plan.windows.at(first)));
            }
            self.instead = parts.into_iter();
            return Ok(Progress::Loaded);
        }
        self.steps = steps.range.clone();
        self.copied = plan.copied == Some(part.step());
        Ok(Progress::Loaded)
    }
}

impl Open {
    #[inline]
    fn at(plan: &Plan, time: i64, window: usize) -> Self {
        let start = plan.windows.start(window).max(plan.start);
        let end = plan.windows.end(window).min(plan.end);
        Self { window, start, end, piece: plan.piece_at(start, end, time) }
    }
}
