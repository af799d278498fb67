//! Owns computing aggregates per step from rows of one device as they pass; does not know bytes.
//!
//! Sums of doubles are the ones that a query computes from the same rows, to the bit (`docs/query.md`): a minute's and
//! an hour's by lanes over their rows, a day's from its hours in time order.

use std::ops::Range;

use tidewell_codec::{Bitmap, Column, FieldType, Values};

use super::types::{Step, StepField, StepSums};
use crate::totals::{FloatTotals, IntegerTotals, Totals, for_valid};
use crate::types::{FieldDef, Rows, Scalar};

/// Rows of a device at the least, before it is judged whether a step is worth keeping.
const JUDGE_ROWS: u64 = 2_048;

/// Aggregates of one device's steps, and of its rows whatever their fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceSteps {
    /// Numbers of the steps that have rows, rising; see [`Step::number`].
    pub numbers: Vec<i64>,
    /// Rows of each step.
    pub rows: Vec<u64>,
    /// Time of each step's first row.
    pub first_row: Vec<i64>,
    /// Time of each step's last row.
    pub last_row: Vec<i64>,
    /// One for each field of the schema.
    pub fields: Vec<StepField>,
}

impl DeviceSteps {
    pub(crate) fn new(fields: &[FieldDef]) -> Self {
        Self {
            numbers: Vec::new(),
            rows: Vec::new(),
            first_row: Vec::new(),
            last_row: Vec::new(),
            fields: fields.iter().map(|field| StepField::new(field.field_type)).collect(),
        }
    }

    /// Days out of hours: sums of doubles are added hour by hour, everything else is exact.
    pub(crate) fn days(&self, fields: &[FieldDef]) -> Self {
        let mut out = Self::new(fields);
        let mut from = 0;
        while from < self.numbers.len() {
            let day = self.numbers[from].div_euclid(24);
            let to = from + self.numbers[from..].partition_point(|hour| hour.div_euclid(24) == day);
            out.numbers.push(day);
            out.rows.push(self.rows[from..to].iter().sum());
            out.first_row.push(self.first_row[from]);
            out.last_row.push(self.last_row[to - 1]);
            for (own, hours) in out.fields.iter_mut().zip(&self.fields) {
                push_merged(own, hours, from..to);
            }
            from = to;
        }
        out
    }
}

/// Appends to `out` what the steps `range` of `parts` are together.
fn push_merged(out: &mut StepField, parts: &StepField, range: Range<usize>) {
    out.count.push(parts.count[range.clone()].iter().sum());
    out.nan.push(parts.nan[range.clone()].iter().sum());
    match (&mut out.sum, &parts.sum) {
        (StepSums::F64(out), StepSums::F64(parts)) => {
            out.push(parts[range.clone()].iter().fold(0.0, |sum, part| sum + part))
        }
        (StepSums::I64(sums), StepSums::I64(parts)) => {
            let sum = parts[range.clone()].iter().map(|part| i128::from(*part)).sum::<i128>();
            match i64::try_from(sum) {
                Ok(sum) => sums.push(sum),
                Err(_) => out.sum = StepSums::None,
            }
        }
        (own, _) => *own = StepSums::None,
    }
    let mut ends = Ends::default();
    let mut extremes = Extremes::default();
    for at in range {
        if parts.count[at] == 0 {
            continue;
        }
        let first = scalar(&parts.first, at).map(|value| (parts.first_at[at], value));
        let last = scalar(&parts.last, at).map(|value| (parts.last_at[at], value));
        ends.first = ends.first.or(first);
        ends.last = last.or(ends.last);
        if let (Some(min), Some(max)) = (scalar(&parts.min, at), scalar(&parts.max, at)) {
            extremes.take(min);
            extremes.take(max);
        }
    }
    let (min, max) = extremes.finish();
    push(&mut out.min, min);
    push(&mut out.max, max);
    ends.push_to(out);
}

/// Computes the steps of one device after the other.
pub(crate) struct StepBuilder {
    step: Step,
    /// A step that holds few rows costs about as much as the rows do.
    rows_per_step_min: u64,
    given_up: bool,
    /// The step that rows are being added to, and its last time.
    open: Option<(i64, i64)>,
    rows: (u64, i64, i64),
    rows_total: u64,
    fields: Vec<FieldState>,
    done: DeviceSteps,
    defs: Vec<FieldDef>,
}

impl StepBuilder {
    /// For rows of `fields`. Gives up on a device with fewer rows to a step than `rows_per_step_min`.
    pub(crate) fn new(step: Step, fields: &[FieldDef], rows_per_step_min: u64) -> Self {
        Self {
            step,
            rows_per_step_min,
            given_up: false,
            open: None,
            rows: (0, 0, 0),
            rows_total: 0,
            fields: fields.iter().map(|field| FieldState::new(field.field_type)).collect(),
            done: DeviceSteps::new(fields),
            defs: fields.to_vec(),
        }
    }

    /// Adds rows of the device, later than all before.
    pub(crate) fn push_rows(&mut self, rows: &Rows) {
        let mut from = 0;
        while from < rows.times.len() && !self.given_up {
            let time = rows.times[from];
            let (number, last) = match self.open {
                Some((number, last)) if time <= last => (number, last),
                _ => {
                    self.close();
                    let number = self.step.number(time);
                    (number, self.step.last_of(number))
                }
            };
            self.open = Some((number, last));
            let to = rows_through(&rows.times, from, last);
            for (state, column) in self.fields.iter_mut().zip(&rows.columns) {
                state.add(&rows.times, column, from..to);
            }
            if self.rows.0 == 0 {
                self.rows.1 = time;
            }
            self.rows = (self.rows.0 + (to - from) as u64, self.rows.1, rows.times[to - 1]);
            self.rows_total += (to - from) as u64;
            let steps = self.done.numbers.len() as u64 + 1;
            self.given_up = self.rows_total >= JUDGE_ROWS && self.rows_total * 2 < steps * self.rows_per_step_min;
            from = to;
        }
    }

    fn close(&mut self) {
        let Some((number, _)) = self.open.take() else { return };
        self.done.numbers.push(number);
        self.done.rows.push(self.rows.0);
        self.done.first_row.push(self.rows.1);
        self.done.last_row.push(self.rows.2);
        for (state, out) in self.fields.iter_mut().zip(&mut self.done.fields) {
            state.close(out);
        }
        self.rows = (0, 0, 0);
    }

    /// The device's steps, and begins anew. `None` when it had no row or too few to a step.
    pub(crate) fn end_device(&mut self) -> Option<DeviceSteps> {
        self.close();
        let fields = &self.defs;
        let done = std::mem::replace(&mut self.done, DeviceSteps::new(fields));
        let kept = !std::mem::take(&mut self.given_up)
            && !done.numbers.is_empty()
            && std::mem::take(&mut self.rows_total) >= done.numbers.len() as u64 * self.rows_per_step_min;
        self.rows_total = 0;
        kept.then_some(done)
    }
}

/// How many rows from the start lie at or before `last`: steps double, then the last step is searched.
fn rows_through(times: &[i64], from: usize, last: i64) -> usize {
    let mut bound = 1;
    while from + bound < times.len() && times[from + bound] <= last {
        bound *= 2;
    }
    let low = from + bound / 2;
    low + times[low..times.len().min(from + bound + 1)].partition_point(|t| *t <= last)
}

/// One field while rows of one step are added.
struct FieldState {
    count: u64,
    numbers: Numbers,
    ends: Ends,
}

enum Numbers {
    F64(FloatTotals),
    I64(IntegerTotals),
    Bool(Extremes),
    Utf8,
}

impl FieldState {
    fn new(field_type: FieldType) -> Self {
        let numbers = match field_type {
            FieldType::F64 => Numbers::F64(FloatTotals::EMPTY),
            FieldType::I64 => Numbers::I64(IntegerTotals::EMPTY),
            FieldType::Bool => Numbers::Bool(Extremes::default()),
            FieldType::Utf8 => Numbers::Utf8,
        };
        Self { count: 0, numbers, ends: Ends::default() }
    }

    fn add(&mut self, times: &[i64], column: &Column, range: Range<usize>) {
        let Some((first, last)) = ends_of(column.validity.as_ref(), range.clone()) else { return };
        if let Some(value) = scalar(column, first) {
            self.ends.first = self.ends.first.or(Some((times[first], value)));
        }
        if let Some(value) = scalar(column, last) {
            self.ends.last = Some((times[last], value));
        }
        let count = &mut self.count;
        match (&mut self.numbers, &column.values, &column.validity) {
            (Numbers::F64(totals), Values::F64(values), None) => {
                totals.add(&values[range.clone()], *count, Totals::ALL);
                *count += range.len() as u64;
            }
            (Numbers::F64(totals), Values::F64(values), Some(validity)) => {
                for_valid(values, validity, range, |slice| {
                    totals.add(slice, *count, Totals::ALL);
                    *count += slice.len() as u64;
                });
            }
            (Numbers::I64(totals), Values::I64(values), None) => {
                totals.add(&values[range.clone()], Totals::ALL);
                *count += range.len() as u64;
            }
            (Numbers::I64(totals), Values::I64(values), Some(validity)) => {
                for_valid(values, validity, range, |slice| {
                    totals.add(slice, Totals::ALL);
                    *count += slice.len() as u64;
                });
            }
            (Numbers::Bool(extremes), Values::Bool(values), _) => {
                for row in range.filter(|&row| column.is_valid(row)) {
                    extremes.take(Scalar::Bool(values.get(row)));
                    *count += 1;
                }
            }
            _ => *count += range.filter(|&row| column.is_valid(row)).count() as u64,
        }
    }

    /// Appends the step's aggregates to `out` and begins anew.
    fn close(&mut self, out: &mut StepField) {
        let count = std::mem::take(&mut self.count);
        out.count.push(count);
        let (mut nan, mut min, mut max) = (0, None, None);
        match (&mut self.numbers, &mut out.sum) {
            (Numbers::F64(totals), StepSums::F64(sums)) => {
                nan = count - totals.numbers();
                sums.push(totals.take_sum());
                if nan < count {
                    let (low, high) = totals.extremes();
                    (min, max) = (Some(Scalar::F64(low)), Some(Scalar::F64(high)));
                }
                *totals = FloatTotals::EMPTY;
            }
            (Numbers::I64(totals), sums) => {
                if count > 0 {
                    (min, max) = (Some(Scalar::I64(totals.min)), Some(Scalar::I64(totals.max)));
                }
                match (i64::try_from(totals.sum), &mut *sums) {
                    (Ok(sum), StepSums::I64(sums)) => sums.push(sum),
                    _ => *sums = StepSums::None,
                }
                *totals = IntegerTotals::EMPTY;
            }
            (Numbers::Bool(extremes), _) => {
                (min, max) = extremes.finish();
                *extremes = Extremes::default();
            }
            _ => {}
        }
        out.nan.push(nan);
        push(&mut out.min, min);
        push(&mut out.max, max);
        std::mem::take(&mut self.ends).push_to(out);
    }
}

/// First and last value of a step with their times.
#[derive(Clone, Copy, Default)]
struct Ends {
    first: Option<(i64, Scalar)>,
    last: Option<(i64, Scalar)>,
}

impl Ends {
    fn push_to(self, out: &mut StepField) {
        out.first_at.push(self.first.map_or(0, |(at, _)| at));
        out.last_at.push(self.last.map_or(0, |(at, _)| at));
        push(&mut out.first, self.first.map(|(_, value)| value));
        push(&mut out.last, self.last.map(|(_, value)| value));
    }
}

/// Smallest and largest of values that are already totals, -0 below +0.
#[derive(Clone, Copy, Default)]
struct Extremes {
    min: Option<Scalar>,
    max: Option<Scalar>,
}

impl Extremes {
    fn take(&mut self, value: Scalar) {
        if self.min.is_none_or(|min| less(value, min)) {
            self.min = Some(value);
        }
        if self.max.is_none_or(|max| less(max, value)) {
            self.max = Some(value);
        }
    }

    fn finish(self) -> (Option<Scalar>, Option<Scalar>) {
        (self.min, self.max)
    }
}

fn less(a: Scalar, b: Scalar) -> bool {
    match (a, b) {
        (Scalar::F64(a), Scalar::F64(b)) => a.total_cmp(&b).is_lt(),
        (Scalar::I64(a), Scalar::I64(b)) => a < b,
        (Scalar::Bool(a), Scalar::Bool(b)) => !a & b,
        _ => false,
    }
}

/// First and last row of `range` with a value.
fn ends_of(validity: Option<&Bitmap>, mut range: Range<usize>) -> Option<(usize, usize)> {
    let Some(validity) = validity else { return range.next().map(|first| (first, range.end.max(first + 1) - 1)) };
    let first = range.clone().find(|&row| validity.get(row))?;
    let last = (first..range.end).rev().find(|&row| validity.get(row))?;
    Some((first, last))
}

/// Row `row` of `column`; `None` for a null and for text.
pub(crate) fn scalar(column: &Column, row: usize) -> Option<Scalar> {
    if !column.is_valid(row) {
        return None;
    }
    match &column.values {
        Values::F64(v) => Some(Scalar::F64(v[row])),
        Values::I64(v) => Some(Scalar::I64(v[row])),
        Values::Bool(v) => Some(Scalar::Bool(v.get(row))),
        Values::Utf8(_) => None,
    }
}

/// Appends a value of the column's type, or a null.
fn push(column: &mut Column, value: Option<Scalar>) {
    match (value, &mut column.values) {
        (Some(Scalar::F64(value)), Values::F64(values)) => values.push(value),
        (Some(Scalar::I64(value)), Values::I64(values)) => values.push(value),
        (Some(Scalar::Bool(value)), Values::Bool(values)) => values.push(value),
        _ => return column.extend_nulls(1),
    }
    if let Some(validity) = &mut column.validity {
        validity.push(true);
    }
}
