//! Owns rows of a range of time, whole or filtered by a condition; does not decide what an interval is.

use std::sync::Arc;

use tidewell_codec::{Column, Text, Values};
use tidewell_engine::Rows;

use crate::answer::AnswerSchema;
use crate::error::QueryError;
use crate::execute::{Budget, Builder, Step, Work};
use crate::predicate::Predicate;
use crate::source::{Part, Table};
use crate::threshold::{Interval, IntervalFinder, IntervalRule, ThresholdSpace};

/// Parts with fewer rows are copied into the batch: a batch of their own would cost more.
const ADOPT_ROWS_MIN: usize = 1_024;

/// Rows of devices, in order of time.
pub(crate) struct RangeWork<T> {
    pub table: Arc<T>,
    pub devices: Vec<Arc<str>>,
    pub schema: AnswerSchema,
    pub start: i64,
    pub end: i64,
    /// Fields to scan, as indexes into the schema: the selected ones, then those that only the condition needs.
    pub scan: Vec<usize>,
    /// How many of `scan` are answered.
    pub selected: usize,
    /// Bound to positions in `scan`.
    pub condition: Option<Predicate>,
    /// Only rows in intervals that this rule accepts, with the condition bound to its own fields.
    pub rule: Option<(IntervalRule, Predicate)>,
    /// Most rows of one device.
    pub limit: u64,
    pub batch_rows: usize,
    pub budget: Budget,
}

/// Where one device stands.
pub(crate) struct RangeCursor<P> {
    device: Arc<str>,
    parts: std::vec::IntoIter<P>,
    left: u64,
    /// Intervals still ahead, in order; `None` = every matching row counts.
    intervals: Option<Vec<Interval>>,
}

/// Memory that a thread reuses.
#[derive(Default)]
pub(crate) struct RangeSpace {
    threshold: ThresholdSpace,
    rest: Rows,
}

impl<T: Table> Work for RangeWork<T> {
    type Cursor = RangeCursor<T::Part>;
    type Space = RangeSpace;

    fn device_count(&self) -> usize {
        self.devices.len()
    }

    fn builder(&self) -> Builder {
        Builder::new(&self.schema, self.batch_rows)
    }

    fn open(&self, device: usize, space: &mut RangeSpace) -> Result<Option<Self::Cursor>, QueryError> {
        let device = self.devices[device].clone();
        let intervals = match &self.rule {
            None => None,
            Some((rule, condition)) => {
                let mut finder = IntervalFinder::new(*rule, &[]);
                let mut intervals = Vec::new();
                for part in self.table.scan(&device, self.start, self.end, condition.fields())? {
                    self.budget.check()?;
                    finder.add(&part, condition, &mut space.threshold, |interval, _| intervals.push(interval))?;
                }
                finder.finish(|interval, _| intervals.push(interval));
                if intervals.is_empty() {
                    return Ok(None);
                }
                Some(intervals)
            }
        };
        let (start, end) = match &intervals {
            Some(intervals) => (intervals[0].start, intervals[intervals.len() - 1].end.saturating_add(1)),
            None => (self.start, self.end),
        };
        let parts = self.table.scan(&device, start, end, &self.scan)?;
        if parts.is_empty() {
            return Ok(None);
        }
        Ok(Some(RangeCursor { device, parts: parts.into_iter(), left: self.limit, intervals }))
    }

    fn step(&self, cursor: &mut Self::Cursor, space: &mut RangeSpace, out: &mut Builder) -> Result<Step, QueryError> {
        let Some(part) = cursor.parts.next().filter(|_| cursor.left > 0) else { return Ok(Step::Done) };
        match &self.condition {
            None => self.whole(cursor, &part, space, out)?,
            Some(condition) => self.filtered(cursor, &part, condition, space, out)?,
        }
        Ok(Step::More)
    }
}

impl<T: Table> RangeWork<T> {
    fn whole(
        &self,
        cursor: &mut RangeCursor<T::Part>,
        part: &T::Part,
        space: &mut RangeSpace,
        out: &mut Builder,
    ) -> Result<(), QueryError> {
        let which: Vec<usize> = (0..self.selected).collect();
        part.load_fields(&which, &mut space.threshold.rows)?;
        let rows = space.threshold.rows.times.len();
        let take = usize::try_from(cursor.left).map_or(rows, |left| left.min(rows));
        cursor.left -= take as u64;
        if take == rows && rows >= ADOPT_ROWS_MIN && out.rows() == 0 {
            let rows = std::mem::take(&mut space.threshold.rows);
            out.adopt(&cursor.device, rows.times, rows.columns.into_iter().take(self.selected));
        } else if take > 0 {
            out.extend(
                &cursor.device,
                &space.threshold.rows.times,
                space.threshold.rows.columns.iter().take(self.selected),
                0..take,
            );
        }
        Ok(())
    }

    fn filtered(
        &self,
        cursor: &mut RangeCursor<T::Part>,
        part: &T::Part,
        condition: &Predicate,
        space: &mut RangeSpace,
        out: &mut Builder,
    ) -> Result<(), QueryError> {
        if !condition.verdict(|slot| part.stats(slot)).can_match {
            return Ok(());
        }
        let RangeSpace { threshold: ThresholdSpace { rows, narrow, masks, scratch }, rest } = space;
        let needed = condition.slots();
        if part.narrow(needed, narrow)? {
            condition.evaluate_narrow(narrow, masks, scratch);
            if masks.match_count() == 0 {
                return Ok(());
            }
        }
        part.load_fields(needed, rows)?;
        condition.evaluate(&rows.columns, rows.times.len(), masks, scratch);
        if let Some(intervals) = &cursor.intervals {
            keep_inside(intervals, &rows.times, &mut masks.matched);
        }
        let matches = masks.match_count() as u64;
        if matches == 0 {
            return Ok(());
        }
        // Fields that only the answer shows are decoded for blocks that have something to show.
        let others: Vec<usize> = (0..self.selected).filter(|slot| !needed.contains(slot)).collect();
        if !others.is_empty() {
            part.load_fields(&others, rest)?;
            if rest.times != rows.times {
                // A block turned out to be damaged where only these fields are. No load gives rows of it from now on.
                return self.filtered(cursor, part, condition, space, out);
            }
        }
        if matches > cursor.left {
            keep_first(&mut masks.matched, cursor.left);
        }
        let taken = masks.match_count();
        cursor.left -= taken as u64;
        if let Values::I64(times) = &mut out.columns[0].values {
            gather_values(&rows.times, &masks.matched, times);
        }
        for slot in 0..self.selected {
            let column = if needed.contains(&slot) { &rows.columns[slot] } else { &rest.columns[slot] };
            gather(column, &masks.matched, &mut out.columns[slot + 1]);
        }
        out.end_rows(&cursor.device, taken);
        Ok(())
    }
}

/// Clears the bits of rows outside of all `intervals`, which are in order.
fn keep_inside(intervals: &[Interval], times: &[i64], matched: &mut [u64]) {
    let Some(&first) = times.first() else { return };
    let mut next = intervals.partition_point(|i| i.end < first);
    for (index, word) in matched.iter_mut().enumerate() {
        for_each_bit(&[*word], |bit| {
            let time = times[index * 64 + bit];
            while intervals.get(next).is_some_and(|i| i.end < time) {
                next += 1;
            }
            if intervals.get(next).is_none_or(|i| time < i.start) {
                *word &= !(1 << bit);
            }
        });
    }
}

/// Clears all set bits but the first `count`.
fn keep_first(matched: &mut [u64], count: u64) {
    let mut left = count;
    for word in matched {
        let ones = u64::from(word.count_ones());
        if ones > left {
            let mut kept = 0;
            for _ in 0..left {
                let lowest = *word & word.wrapping_neg();
                kept |= lowest;
                *word ^= lowest;
            }
            *word = kept;
        }
        left -= ones.min(left);
    }
}

#[inline]
fn for_each_bit(words: &[u64], mut each: impl FnMut(usize)) {
    for (index, &word) in words.iter().enumerate() {
        let mut bits = word;
        while bits != 0 {
            each(index * 64 + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
}

fn gather_values<T: Copy>(values: &[T], matched: &[u64], out: &mut Vec<T>) {
    for (index, &word) in matched.iter().enumerate() {
        if word == u64::MAX {
            out.extend_from_slice(&values[index * 64..index * 64 + 64]);
        } else {
            for_each_bit(&[word], |bit| out.push(values[index * 64 + bit]));
        }
    }
}

/// Appends the rows of `column` whose bits are set.
fn gather(column: &Column, matched: &[u64], out: &mut Column) {
    let before = out.len();
    match (&column.values, &mut out.values) {
        (Values::F64(values), Values::F64(out)) => gather_values(values, matched, out),
        (Values::I64(values), Values::I64(out)) => gather_values(values, matched, out),
        (Values::Bool(values), Values::Bool(out)) => for_each_bit(matched, |row| out.push(values.get(row))),
        (Values::Utf8(values), Values::Utf8(out)) => gather_text(values, matched, out),
        _ => unreachable!("a scan gives columns of the schema's types"),
    }
    let added = out.len() - before;
    match (&column.validity, &mut out.validity) {
        (None, None) => {}
        (None, Some(own)) => own.extend_filled(added, true),
        (Some(theirs), own) => {
            let own = own.get_or_insert_with(|| tidewell_codec::Bitmap::filled(before, true));
            for_each_bit(matched, |row| own.push(theirs.get(row)));
        }
    }
}

fn gather_text(values: &Text, matched: &[u64], out: &mut Text) {
    for_each_bit(matched, |row| out.push(values.get(row)));
}
