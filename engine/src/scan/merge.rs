//! Owns merging rows of one device by time, later non-null wins per field; does not know where rows come from.

use std::ops::Range;

use tidewell_codec::{Bitmap, Column, FieldType, Text, Values};

use crate::types::Rows;

/// Brings rows in log order and any order of time into strictly rising time. Rows of one time become one row that has,
/// for each field, the value written last.
///
/// # Panics
/// When a column is not as long as the times.
pub fn sort_unique(rows: Rows) -> Rows {
    if is_rising(&rows.times) {
        return rows;
    }
    assert!(rows.columns.iter().all(|c| c.len() == rows.times.len()), "columns as long as the times");
    let count = u32::try_from(rows.times.len()).expect("rows of one device in memory are far below 2^32");
    // Stable, so that rows of one time stay in log order; rows are mostly rising runs, which this sort exploits.
    let mut order: Vec<(i64, u32)> = rows.times.iter().copied().zip(0..count).collect();
    order.sort_by_key(|(time, _)| *time);

    let mut picks = Picks::with_capacity(order.len());
    let mut at = 0;
    while at < order.len() {
        let (time, row) = order[at];
        let mut end = at + 1;
        while end < order.len() && order[end].0 == time {
            end += 1;
        }
        if end - at == 1 {
            picks.run(0, row, &[time]);
        } else {
            picks.tie(time, order[at..end].iter().map(|(_, row)| (0, *row)));
        }
        at = end;
    }
    picks.gather(&[rows])
}

/// Merges rows of one device. `sources` are in log order; within each, times rise strictly.
///
/// # Panics
/// When the sources have different numbers of columns or columns of different types.
pub fn merge(mut sources: Vec<Rows>) -> Rows {
    let columns = sources.first().map_or(0, |rows| rows.columns.len());
    assert!(sources.iter().all(|rows| rows.columns.len() == columns), "sources with the same fields");
    debug_assert!(sources.iter().all(|rows| is_rising(&rows.times)), "sources with rising times");
    if sources.iter().any(|rows| !rows.times.is_empty()) {
        sources.retain(|rows| !rows.times.is_empty());
    } else {
        sources.truncate(1);
    }
    if sources.len() <= 1 {
        return sources.pop().unwrap_or_default();
    }
    if let Some(order) = disjoint_order(&sources) {
        return concatenate(sources, &order);
    }
    merge_overlapping(sources)
}

/// Whether each time is after the one before.
pub(crate) fn is_rising(times: &[i64]) -> bool {
    // Blocks without an early exit run on vectors; one check per block stops early on unsorted rows.
    let mut start = 0;
    while start + 1 < times.len() {
        let end = times.len().min(start + 1_025);
        if !times[start..end].windows(2).fold(true, |ok, pair| ok & (pair[0] < pair[1])) {
            return false;
        }
        start = end - 1;
    }
    true
}

/// The order of the sources by time, when no two of them overlap.
fn disjoint_order(sources: &[Rows]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|&at| sources[at].times[0]);
    let apart = order.windows(2).all(|pair| sources[pair[0]].times.last() < sources[pair[1]].times.first());
    apart.then_some(order)
}

fn concatenate(mut sources: Vec<Rows>, order: &[usize]) -> Rows {
    let total = sources.iter().map(|rows| rows.times.len()).sum::<usize>();
    let mut out = std::mem::take(&mut sources[order[0]]);
    out.times.reserve(total - out.times.len());
    for &at in &order[1..] {
        out.times.extend_from_slice(&sources[at].times);
        for (own, theirs) in out.columns.iter_mut().zip(&sources[at].columns) {
            own.extend_from(theirs, 0..theirs.len());
        }
    }
    out
}

fn merge_overlapping(sources: Vec<Rows>) -> Rows {
    assert!(u32::try_from(sources.len()).is_ok_and(|count| count < TIE), "sources are far below 2^32");
    let total = sources.iter().map(|rows| rows.times.len()).sum::<usize>();
    assert!(u32::try_from(total).is_ok(), "rows of one part are far below 2^32");
    let mut picks = Picks::with_capacity(total);
    let mut heads = vec![0usize; sources.len()];
    let mut tied: Vec<(u32, u32)> = Vec::new();
    loop {
        // Sources are few (segments and memtables that overlap), so a scan over the heads beats a heap.
        let mut least: Option<(i64, usize)> = None;
        let mut next = i64::MAX;
        tied.clear();
        for (at, rows) in sources.iter().enumerate() {
            let Some(&time) = rows.times.get(heads[at]) else { continue };
            match least {
                Some((low, _)) if time == low => tied.push((at as u32, heads[at] as u32)),
                Some((low, _)) if time > low => next = next.min(time),
                _ => {
                    next = least.map_or(next, |(low, _)| low);
                    least = Some((time, at));
                    tied.clear();
                }
            }
        }
        let Some((time, at)) = least else { break };
        if tied.is_empty() {
            // Nothing else is at `time`, so at least this row comes from this source; times of i64::MAX are the last.
            let times = &sources[at].times[heads[at]..];
            let count = run_before(times, next).max(1);
            picks.run(at as u32, heads[at] as u32, &times[..count]);
            heads[at] += count;
        } else {
            let first = (at as u32, heads[at] as u32);
            picks.tie(time, std::iter::once(first).chain(tied.iter().copied()));
            heads[at] += 1;
            tied.iter().for_each(|(at, _)| heads[*at as usize] += 1);
        }
    }
    picks.gather(&sources)
}

/// How many of the rising `times` are before `end`: steps double, then the last step is searched.
fn run_before(times: &[i64], end: i64) -> usize {
    let mut bound = 1;
    while bound < times.len() && times[bound] < end {
        bound *= 2;
    }
    let low = bound / 2;
    low + times[low..times.len().min(bound + 1)].partition_point(|t| *t < end)
}

/// Marks a step that is one row made of several; no source has this number.
const TIE: u32 = u32::MAX;

/// Rows `row..row + len` of `source`, or (for [`TIE`]) one row from `ties[row..row + len]`.
struct Step {
    source: u32,
    row: u32,
    len: u32,
}

/// Which rows make up the result, found once from the times and applied to every column.
struct Picks {
    times: Vec<i64>,
    steps: Vec<Step>,
    /// Source and row, in log order.
    ties: Vec<(u32, u32)>,
}

impl Picks {
    fn with_capacity(rows: usize) -> Self {
        Self { times: Vec::with_capacity(rows), steps: Vec::new(), ties: Vec::new() }
    }

    fn run(&mut self, source: u32, row: u32, times: &[i64]) {
        self.times.extend_from_slice(times);
        let len = times.len() as u32;
        match self.steps.last_mut() {
            Some(last) if last.source == source && last.row + last.len == row => last.len += len,
            _ => self.steps.push(Step { source, row, len }),
        }
    }

    fn tie(&mut self, time: i64, rows: impl Iterator<Item = (u32, u32)>) {
        self.times.push(time);
        let start = self.ties.len();
        self.ties.extend(rows);
        self.steps.push(Step { source: TIE, row: start as u32, len: (self.ties.len() - start) as u32 });
    }

    fn gather(self, sources: &[Rows]) -> Rows {
        let columns = (0..sources[0].columns.len())
            .map(|at| {
                let columns: Vec<&Column> = sources.iter().map(|rows| &rows.columns[at]).collect();
                self.gather_column(&columns)
            })
            .collect();
        Rows { times: self.times, columns }
    }

    fn gather_column(&self, columns: &[&Column]) -> Column {
        let rows = self.times.len();
        let nulls = columns.iter().any(|column| column.validity.is_some());
        let field_type = columns[0].field_type();
        assert!(columns.iter().all(|c| c.field_type() == field_type), "columns of one type");
        // One pass over the steps for the values, one for the validity, each with its type known outside the loop.
        let values = match field_type {
            FieldType::F64 => {
                let sources = columns.iter().map(|c| if let Values::F64(v) = &c.values { &v[..] } else { &[] });
                Values::F64(self.gather_plain(columns, &sources.collect::<Vec<_>>()))
            }
            FieldType::I64 => {
                let sources = columns.iter().map(|c| if let Values::I64(v) = &c.values { &v[..] } else { &[] });
                Values::I64(self.gather_plain(columns, &sources.collect::<Vec<_>>()))
            }
            FieldType::Bool => {
                let mut out = Bitmap::with_capacity(rows);
                self.each(columns, |column, range| {
                    if let Values::Bool(v) = &columns[column].values {
                        out.extend_from(v, range);
                    }
                });
                Values::Bool(out)
            }
            FieldType::Utf8 => {
                let mut out = Text::default();
                self.each(columns, |column, range| {
                    if let Values::Utf8(v) = &columns[column].values {
                        out.extend_from(v, range);
                    }
                });
                Values::Utf8(out)
            }
        };
        let validity = nulls.then(|| {
            let mut out = Bitmap::with_capacity(rows);
            self.each(columns, |column, range| match &columns[column].validity {
                Some(validity) => out.extend_from(validity, range),
                None => out.extend_filled(range.len(), true),
            });
            out
        });
        let mut column = Column { values, validity };
        column.normalise();
        column
    }

    fn gather_plain<T: Copy>(&self, columns: &[&Column], sources: &[&[T]]) -> Vec<T> {
        let mut out = Vec::with_capacity(self.times.len());
        self.each(columns, |column, range| match range.len() {
            1 => out.push(sources[column][range.start]),
            _ => out.extend_from_slice(&sources[column][range]),
        });
        out
    }

    /// Calls `take` with source and rows of each step; of a tie, the last row that has a value, or the last.
    fn each(&self, columns: &[&Column], mut take: impl FnMut(usize, Range<usize>)) {
        for step in &self.steps {
            let (start, end) = (step.row as usize, (step.row + step.len) as usize);
            if step.source != TIE {
                take(step.source as usize, start..end);
                continue;
            }
            let tied = &self.ties[start..end];
            let valid = tied.iter().rev().find(|(source, row)| columns[*source as usize].is_valid(*row as usize));
            if let Some(&(source, row)) = valid.or(tied.last()) {
                take(source as usize, row as usize..row as usize + 1);
            }
        }
    }
}
