//! Owns answers computed row by row, straight from the words of the contract; does not try to be fast.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{FIELDS, SECOND};
use crate::downsample::Windows;
use crate::kernels::scalar::summarise;
use crate::kernels::{Cell, Sum, Summary};
use crate::request::{Aggregate, Fill, Group, Request};
use crate::source::memory::{CellRows, MemorySource};

/// A condition as text and as a function.
#[derive(Clone)]
pub(super) struct Condition {
    pub text: String,
    holds: fn(&[Cell]) -> Option<bool>,
    /// Fields in order of appearance.
    fields: &'static [usize],
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn v(row: &[Cell]) -> Option<f64> {
    if let Cell::F64(v) = row[0] { Some(v) } else { None }
}

fn n(row: &[Cell]) -> Option<i64> {
    if let Cell::I64(n) = row[1] { Some(n) } else { None }
}

fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// Some condition.
pub(super) fn condition() -> impl Strategy<Value = Condition> {
    type Choice = (&'static str, fn(&[Cell]) -> Option<bool>, &'static [usize]);
    let choices: Vec<Choice> = vec![
        ("v > 1.5", |r| v(r).map(|v| v > 1.5), &[0]),
        ("v >= 0", |r| v(r).map(|v| v >= 0.0), &[0]),
        ("v > 1e300", |r| v(r).map(|v| v > 1e300), &[0]),
        ("NOT v <= 1", |r| v(r).map(|v| v.is_nan() || v > 1.0), &[0]),
        ("n < 4", |r| n(r).map(|n| n < 4), &[1]),
        ("v > 0.5 AND n != 2", |r| and(v(r).map(|v| v > 0.5), n(r).map(|n| n != 2)), &[0, 1]),
        (
            "n IN (1, 2, 3) AND NOT v < 1",
            |r| and(n(r).map(|n| (1..4).contains(&n)), v(r).map(|v| v.is_nan() || v >= 1.0)),
            &[1, 0],
        ),
        ("v IS NULL", |r| Some(v(r).is_none()), &[0]),
        ("b = true", |r| if let Cell::Bool(b) = r[3] { Some(b) } else { None }, &[3]),
        ("s = 'a'", |r| if let Cell::Text(s) = &r[2] { Some(&**s == "a") } else { None }, &[2]),
        ("s IS NOT NULL AND n >= 0", |r| and(Some(r[2] != Cell::Null), n(r).map(|_| true)), &[2, 1]),
    ];
    prop::sample::select(choices).prop_map(|(text, holds, fields)| Condition { text: text.into(), holds, fields })
}

fn inside(rows: &CellRows, start: i64, end: i64) -> impl Iterator<Item = &(i64, Vec<Cell>)> {
    rows.iter().filter(move |(t, _)| (start..end).contains(t))
}

fn text(s: &str) -> Cell {
    Cell::Text(s.into())
}

pub(super) fn range(
    source: &MemorySource,
    start: i64,
    end: i64,
    fields: &str,
    condition: Option<&Condition>,
    limit: Option<u64>,
) -> Vec<Vec<Cell>> {
    let fields: Vec<usize> = fields.split(',').map(|f| FIELDS.iter().position(|(n, _)| *n == f).unwrap()).collect();
    let mut out = Vec::new();
    for (device, rows) in &source.tables["t"].devices {
        for (time, cells) in inside(rows, start, end) {
            if condition.is_none_or(|c| (c.holds)(cells) == Some(true)) {
                let mut row = vec![text(device), Cell::I64(*time)];
                row.extend(fields.iter().map(|&f| cells[f].clone()));
                out.push(row);
            }
        }
    }
    out.truncate(limit.map_or(usize::MAX, |l| l as usize));
    out
}

pub(super) fn latest(source: &MemorySource, as_of: Option<i64>) -> Vec<Vec<Cell>> {
    let mut out = Vec::new();
    for (device, rows) in &source.tables["t"].devices {
        let rows: Vec<_> = rows.iter().filter(|(t, _)| as_of.is_none_or(|a| *t <= a)).collect();
        let Some((time, _)) = rows.last() else { continue };
        let mut row = vec![text(device), Cell::I64(*time)];
        row.extend((0..FIELDS.len()).map(|f| {
            rows.iter().rev().map(|(_, cells)| cells[f].clone()).find(|c| *c != Cell::Null).unwrap_or(Cell::Null)
        }));
        out.push(row);
    }
    out
}

pub(super) fn downsample(source: &MemorySource, request: &Request) -> Vec<Vec<Cell>> {
    let Request::Downsample(r) = request else { panic!("{request:?}") };
    let (start, end) = (r.start.0, r.end.0);
    let windows = Windows::new(r.every, r.origin, &r.timezone, start, end).unwrap();
    let names: Vec<String> = r.fields.clone().unwrap_or_else(|| FIELDS.iter().map(|(n, _)| (*n).to_owned()).collect());
    let fields: Vec<usize> = names.iter().map(|n| FIELDS.iter().position(|(f, _)| f == n).unwrap()).collect();
    let mut groups: BTreeMap<String, Vec<&CellRows>> = BTreeMap::new();
    for (device, rows) in &source.tables["t"].devices {
        let name = match &r.group {
            Group::Device => device.to_string(),
            Group::All => "all".to_owned(),
            Group::Attribute(a) => source.attributes.get(&**device).and_then(|m| m.get(a)).cloned().unwrap_or_default(),
        };
        groups.entry(name).or_default().push(rows);
    }
    let mut out = Vec::new();
    for (name, devices) in groups {
        if devices.iter().all(|rows| inside(rows, start, end).next().is_none()) {
            continue;
        }
        let mut table: Vec<Option<Vec<Cell>>> = Vec::new();
        for window in 0..windows.count() {
            let bounds = (windows.start(window).max(start), windows.end(window).min(end));
            let mut summaries: Option<Vec<Summary>> = None;
            for rows in &devices {
                let rows: Vec<_> = inside(rows, bounds.0, bounds.1).collect();
                if rows.is_empty() {
                    continue;
                }
                let own = summaries.get_or_insert_with(|| vec![Summary::EMPTY; fields.len()]);
                for (summary, &field) in own.iter_mut().zip(&fields) {
                    let cells: Vec<_> = rows.iter().map(|(t, cells)| (*t, cells[field].clone())).collect();
                    let mut own = summarise(&cells);
                    if let Sum::F64(sum) = &mut own.sum {
                        *sum = window_sum(&cells, bounds);
                    }
                    summary.merge(own);
                }
            }
            table.push(summaries.map(|summaries| {
                let values = summaries.iter().flat_map(|s| r.aggregates.iter().map(|&a| s.value(a).unwrap()));
                values.collect()
            }));
        }
        let counts: Vec<bool> =
            fields.iter().flat_map(|_| r.aggregates.iter().map(|a| *a == Aggregate::Count)).collect();
        for (window, row) in fill(&table, &counts, r.fill, &windows) {
            out.push([vec![text(&name), Cell::I64(windows.start(window))], row].concat());
        }
    }
    out
}

/// The sum of the doubles among `cells`, which are those of the window `start..end`: as the contract words it, from the
/// window's start on, piece by piece.
fn window_sum(cells: &[(i64, Cell)], (start, end): (i64, i64)) -> f64 {
    let of = |from: i64, to: i64| {
        let inside: Vec<_> = cells.iter().filter(|(t, _)| (from..to).contains(t)).cloned().collect();
        match summarise(&inside).sum {
            Sum::F64(sum) => sum,
            Sum::I64(_) => panic!("doubles"),
        }
    };
    let [minute, hour, day] = [60, 3_600, 86_400].map(|seconds| seconds * SECOND);
    let mut sum = 0.0;
    let mut at = start;
    while at < end {
        let fits = |width: i64| at.rem_euclid(width) == 0 && at + width <= end;
        let (next, piece) = if fits(day) {
            (at + day, (0..24).fold(0.0, |sum, i| sum + of(at + i * hour, at + i * hour + hour)))
        } else if fits(hour) {
            (at + hour, of(at, at + hour))
        } else {
            let next = (at.div_euclid(minute) * minute + minute).min(end);
            (next, of(at, next))
        };
        sum += piece;
        at = next;
    }
    sum
}

fn fill(table: &[Option<Vec<Cell>>], counts: &[bool], fill: Fill, windows: &Windows) -> Vec<(usize, Vec<Cell>)> {
    let known = |window: usize, column: usize| {
        table[window].as_ref().map(|row| row[column].clone()).filter(|cell| *cell != Cell::Null)
    };
    let mut out = Vec::new();
    for window in 0..table.len() {
        if fill == Fill::None {
            out.extend(table[window].clone().map(|row| (window, row)));
            continue;
        }
        let value = |column: usize| {
            if let Some(cell) = known(window, column) {
                return cell;
            }
            if counts[column] {
                return Cell::I64(0);
            }
            let before = (0..window).rev().find_map(|w| known(w, column).map(|c| (w, c)));
            let after = (window + 1..table.len()).find_map(|w| known(w, column).map(|c| (w, c)));
            match (fill, before, after) {
                (Fill::Previous, Some((_, cell)), _) => cell,
                (Fill::Linear, Some((from, a)), Some((to, b))) => {
                    let start = |w: usize| windows.start(w);
                    let share = (start(window) - start(from)) as f64 / (start(to) - start(from)) as f64;
                    match (a, b) {
                        (Cell::F64(a), Cell::F64(b)) => Cell::F64(a + (b - a) * share),
                        (Cell::I64(a), Cell::I64(b)) => Cell::I64(a + ((b - a) as f64 * share).round() as i64),
                        other => panic!("{other:?}"),
                    }
                }
                _ => Cell::Null,
            }
        };
        out.push((window, (0..counts.len()).map(value).collect()));
    }
    out
}

pub(super) fn threshold(
    source: &MemorySource,
    start: i64,
    end: i64,
    condition: &Condition,
    at_least: i64,
    max_gap: Option<i64>,
    answer: &str,
) -> Vec<Vec<Cell>> {
    let mut out = Vec::new();
    for (device, rows) in &source.tables["t"].devices {
        let mut intervals: Vec<Vec<&(i64, Vec<Cell>)>> = Vec::new();
        let mut open = false;
        for row in inside(rows, start, end) {
            match (condition.holds)(&row.1) {
                None => {}
                Some(false) => open = false,
                Some(true) => {
                    let near =
                        |last: &Vec<&(i64, Vec<Cell>)>| max_gap.is_none_or(|gap| row.0 - last[last.len() - 1].0 <= gap);
                    match intervals.last_mut() {
                        Some(last) if open && near(last) => last.push(row),
                        _ => intervals.push(vec![row]),
                    }
                    open = true;
                }
            }
        }
        intervals.retain(|rows| rows[rows.len() - 1].0 - rows[0].0 >= at_least);
        let matching: Vec<_> = intervals.iter().flatten().collect();
        match answer {
            "devices" if matching.is_empty() => {}
            "devices" => out.push(vec![
                text(device),
                Cell::I64(matching.len() as i64),
                Cell::I64(matching[0].0),
                Cell::I64(matching[matching.len() - 1].0),
            ]),
            "rows" => out.extend(
                matching.iter().map(|(time, cells)| [vec![text(device), Cell::I64(*time)], cells.clone()].concat()),
            ),
            _ => out.extend(intervals.iter().map(|rows| {
                let (first, last) = (rows[0].0, rows[rows.len() - 1].0);
                let mut row: Vec<Cell> = vec![text(device)];
                row.extend([first, last, last - first, rows.len() as i64].map(Cell::I64));
                for &field in condition.fields.iter().filter(|&&f| f < 2) {
                    let cells: Vec<_> = rows.iter().map(|(t, cells)| (*t, cells[field].clone())).collect();
                    let summary = summarise(&cells);
                    row.extend([Aggregate::Min, Aggregate::Max, Aggregate::Mean].map(|a| summary.value(a).unwrap()));
                }
                row
            })),
        }
    }
    out
}
