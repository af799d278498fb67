//! Owns what windows without a value show; does not aggregate.
//!
//! A window is empty when it has no row. A column of a window may be null although it has rows, when the field is null in
//! all of them; `previous` and `linear` fill both. `count` is never filled: nothing is counted as 0. Values come from
//! inside `start` and `end` only, so the windows before the first value stay null, and for `linear` those after the last.

use std::sync::Arc;

use super::Plan;
use crate::error::QueryError;
use crate::execute::Builder;
use crate::kernels::Cell;
use crate::request::{Aggregate, Fill};

/// Most windows with rows of one device or group that `linear` holds: it needs the next value before it can go on.
pub(crate) const LINEAR_WINDOWS_MAX: usize = 1_000_000;

/// Turns windows with rows, in rising order, into windows of the answer.
///
/// Windows to fill may be many more than windows with rows, so they are written bit by bit, as the batch has room.
pub(super) struct Filler {
    fill: Fill,
    counts: Vec<bool>,
    /// Next window to write.
    next: usize,
    /// A window with rows waits here until the ones before are written.
    waiting: Option<(usize, Vec<Cell>)>,
    /// Last value of each column, for `previous`.
    previous: Vec<Cell>,
    /// Windows up to here are to be written, for the end of the range.
    until: usize,
    /// For `linear`: all windows with rows, in order.
    points: Vec<(usize, Vec<Cell>)>,
    lines: Vec<Line>,
    point: usize,
    finished: bool,
}

/// For `linear`: the points with a value of one column around the next window.
#[derive(Clone, Copy, Default)]
struct Line {
    before: Option<usize>,
    after: Option<usize>,
    /// Points up to here were looked at for `after`.
    looked: usize,
}

impl Filler {
    pub fn new(plan: &Plan) -> Self {
        let counts: Vec<bool> = plan.aggregates().map(|a| a == Aggregate::Count).collect();
        let empty = counts.iter().map(|&count| if count { Cell::I64(0) } else { Cell::Null }).collect();
        Self {
            fill: plan.fill,
            lines: vec![Line::default(); counts.len()],
            counts,
            next: 0,
            waiting: None,
            previous: empty,
            until: 0,
            points: Vec::new(),
            point: 0,
            finished: false,
        }
    }

    /// Takes the values of a window with rows; windows come in rising order. Call [`Self::drain`] before the next.
    pub fn offer(
        &mut self,
        plan: &Plan,
        device: &Arc<str>,
        window: usize,
        cells: &mut Vec<Cell>,
        out: &mut Builder,
    ) -> Result<(), QueryError> {
        match self.fill {
            Fill::None => write(plan, device, window, cells, out),
            Fill::Null | Fill::Previous if window == self.next => {
                self.write_window(plan, device, window, cells, out);
                self.next += 1;
                self.until = self.next;
            }
            Fill::Null | Fill::Previous => {
                self.until = window;
                self.waiting = Some((window, std::mem::take(cells)));
            }
            Fill::Linear => {
                if self.points.len() == LINEAR_WINDOWS_MAX {
                    return Err(QueryError::TooManyWindows {
                        estimate: plan.windows.count() as u128,
                        max: LINEAR_WINDOWS_MAX as u64,
                    });
                }
                self.points.push((window, std::mem::take(cells)));
            }
        }
        Ok(())
    }

    /// Says that no window with rows follows. Whether there is still something to [`Self::drain`].
    pub fn finish(&mut self, plan: &Plan) -> Result<bool, QueryError> {
        let any = match self.fill {
            Fill::None => false,
            Fill::Null | Fill::Previous => self.next > 0,
            Fill::Linear => !self.points.is_empty(),
        };
        // A device without rows in the range is not answered, whatever the fill.
        if any && !self.finished {
            self.until = plan.windows.count();
        }
        self.finished = true;
        Ok(self.next < self.until)
    }

    /// Writes windows until none is left (true) or the batch is full (false).
    pub fn drain(&mut self, plan: &Plan, device: &Arc<str>, out: &mut Builder) -> bool {
        while self.next < self.until {
            if out.is_full() {
                return false;
            }
            match self.fill {
                Fill::None => unreachable!("nothing is filled"),
                Fill::Null => self.write_nulls(plan, device, out),
                Fill::Previous => {
                    write(plan, device, self.next, &self.previous, out);
                    self.next += 1;
                }
                Fill::Linear => {
                    self.write_line(plan, device, out);
                    self.next += 1;
                }
            }
        }
        if let Some((window, mut cells)) = self.waiting.take() {
            self.write_window(plan, device, window, &mut cells, out);
            self.next = window + 1;
            self.until = self.next;
        }
        true
    }

    /// Writes a window with rows.
    fn write_window(&mut self, plan: &Plan, device: &Arc<str>, window: usize, cells: &mut [Cell], out: &mut Builder) {
        if self.fill == Fill::Previous {
            for ((cell, previous), count) in cells.iter_mut().zip(&mut self.previous).zip(&self.counts) {
                if *count {
                    continue;
                }
                if *cell == Cell::Null {
                    cell.clone_from(previous);
                } else {
                    previous.clone_from(cell);
                }
            }
        }
        write(plan, device, window, cells, out);
    }

    fn write_nulls(&mut self, plan: &Plan, device: &Arc<str>, out: &mut Builder) {
        let windows = self.next..self.until.min(self.next + out.room());
        windows.clone().for_each(|window| out.push_i64(0, plan.windows.start(window)));
        for (column, &count) in (1..).zip(&self.counts) {
            if count {
                windows.clone().for_each(|_| out.push_i64(column, 0));
            } else {
                out.columns[column].extend_nulls(windows.len());
            }
        }
        out.end_rows(device, windows.len());
        self.next = windows.end;
    }

    /// Writes window `next` from the points around it.
    fn write_line(&mut self, plan: &Plan, device: &Arc<str>, out: &mut Builder) {
        let window = self.next;
        while self.points.get(self.point).is_some_and(|(at, _)| *at < window) {
            self.point += 1;
        }
        let here = self.points.get(self.point).filter(|(at, _)| *at == window).map(|(_, cells)| cells);
        out.push_i64(0, plan.windows.start(window));
        for (column, line) in self.lines.iter_mut().enumerate() {
            let cell = match here.map(|cells| &cells[column]) {
                Some(cell) if *cell != Cell::Null => cell.clone(),
                _ if self.counts[column] => Cell::I64(0),
                _ => line.at(plan, &self.points, column, window),
            };
            out.push_cell(column + 1, &cell);
        }
        out.end_rows(device, 1);
    }
}

impl Line {
    /// The value of `column` at `window`, which rises from call to call.
    fn at(&mut self, plan: &Plan, points: &[(usize, Vec<Cell>)], column: usize, window: usize) -> Cell {
        // Points before the window become `before`; the first behind it stays `after` until windows pass it.
        while self.after.is_none_or(|after| points[after].0 <= window) {
            self.before = self.after.or(self.before);
            let next = (self.looked..points.len()).find(|&i| points[i].1[column] != Cell::Null);
            let Some(next) = next else {
                self.looked = points.len();
                self.after = None;
                return Cell::Null;
            };
            self.looked = next + 1;
            self.after = Some(next);
        }
        match (self.before, self.after) {
            (Some(before), Some(after)) => {
                // Distances first: nanoseconds since 1970 have more digits than a double.
                let from = plan.windows.start(points[before].0);
                let distance = |window: usize| (plan.windows.start(window) as i128 - i128::from(from)) as f64;
                let share = distance(window) / distance(points[after].0);
                between(&points[before].1[column], &points[after].1[column], share)
            }
            _ => Cell::Null,
        }
    }
}

/// The value at `share` of the way from `a` to `b`; integers are rounded to the nearest.
fn between(a: &Cell, b: &Cell, share: f64) -> Cell {
    match (a, b) {
        (Cell::F64(a), Cell::F64(b)) => Cell::F64(a + (b - a) * share),
        (Cell::I64(a), Cell::I64(b)) => {
            let way = ((i128::from(*b) - i128::from(*a)) as f64 * share).round() as i128;
            Cell::I64(i64::try_from(i128::from(*a) + way).unwrap_or(*b))
        }
        _ => Cell::Null,
    }
}

fn write(plan: &Plan, device: &Arc<str>, window: usize, cells: &[Cell], out: &mut Builder) {
    out.push_i64(0, plan.windows.start(window));
    for (column, cell) in cells.iter().enumerate() {
        out.push_cell(column + 1, cell);
    }
    out.end_rows(device, 1);
}
