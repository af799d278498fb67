//! Owns collecting devices' rows out of the chunks of a memtable; does not sort.

use std::sync::Arc;

use tidewell_codec::{Column, Values};

use super::{Chunk, Run};
use crate::types::{Rows, TableSchema};

/// Copies the rows of each device's runs, in their order.
///
/// Devices that lie side by side in a gateway's batches should be gathered together: the loops go field by field, so the
/// chunks' columns are looked up once for all of them, and a cache line that was fetched for one serves its neighbours.
pub(super) fn gather(chunks: &[Arc<Chunk>], devices: &[&[Run]], schema: &TableSchema, fields: &[usize]) -> Vec<Rows> {
    let mut gathered: Vec<Rows> = devices
        .iter()
        .map(|runs| {
            let mut times = Vec::with_capacity(row_count(runs));
            runs.iter().for_each(|run| extend_run(&mut times, &chunks[run.chunk as usize].times, run));
            Rows { times, columns: Vec::with_capacity(fields.len()) }
        })
        .collect();
    // Looking up every chunk pays when the devices have a row in most of them, as in a gateway's batches.
    let shared = devices.iter().map(|runs| runs.len()).sum::<usize>() >= chunks.len();
    for &field in fields {
        let reals = shared.then(|| plain(chunks, field, |v| if let Values::F64(v) = v { Some(v) } else { None }));
        let integers = shared.then(|| plain(chunks, field, |v| if let Values::I64(v) = v { Some(v) } else { None }));
        for (rows, runs) in gathered.iter_mut().zip(devices) {
            rows.columns.push(match (&reals, &integers) {
                (Some(Some(sources)), _) => Column { values: Values::F64(copy_runs(sources, runs)), validity: None },
                (_, Some(Some(sources))) => Column { values: Values::I64(copy_runs(sources, runs)), validity: None },
                _ => gather_any(chunks, runs, schema, field),
            });
        }
    }
    gathered
}

/// The part of a run that may have rows in `[start_ns, end_ns)`; a run whose times do not rise is taken whole.
pub(super) fn clip(chunks: &[Arc<Chunk>], run: Run, start_ns: i64, end_ns: i64) -> Option<Run> {
    let start = run.start as usize;
    let times = &chunks[run.chunk as usize].times[start..start + run.len as usize];
    if !times.is_sorted() {
        return Some(run);
    }
    let first = times.partition_point(|&time| time < start_ns);
    let last = if end_ns == i64::MAX { times.len() } else { times.partition_point(|&time| time < end_ns) };
    (first < last).then(|| Run { start: run.start + first as u32, len: (last - first) as u32, ..run })
}

/// The field's values in every chunk; `None` unless each chunk has them, of this type and without a null.
fn plain<'a, T>(
    chunks: &'a [Arc<Chunk>],
    field: usize,
    pick: impl Fn(&'a Values) -> Option<&'a Vec<T>>,
) -> Option<Vec<&'a [T]>> {
    let values = |chunk: &'a Arc<Chunk>| match chunk.columns.get(field)? {
        Some(Column { values, validity: None }) => pick(values).map(|values| &values[..]),
        _ => None,
    };
    chunks.iter().map(values).collect()
}

fn row_count(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.len as usize).sum()
}

fn copy_runs<T: Copy>(sources: &[&[T]], runs: &[Run]) -> Vec<T> {
    let total = row_count(runs);
    if runs.len() == total {
        // A row of each batch: a loop of loads, which the processor overlaps.
        return runs.iter().map(|run| sources[run.chunk as usize][run.start as usize]).collect();
    }
    let mut values = Vec::with_capacity(total);
    runs.iter().for_each(|run| extend_run(&mut values, sources[run.chunk as usize], run));
    values
}

/// Runs shorter than this are copied by a loop: a call of memcpy costs more than a few values.
const SHORT_RUN: usize = 16;

#[inline]
fn extend_run<T: Copy>(to: &mut Vec<T>, from: &[T], run: &Run) {
    let source = &from[run.start as usize..(run.start + run.len) as usize];
    if source.len() < SHORT_RUN {
        source.iter().for_each(|&value| to.push(value));
    } else {
        to.extend_from_slice(source);
    }
}

/// Any type, with nulls, and chunks that do not have the field.
fn gather_any(chunks: &[Arc<Chunk>], runs: &[Run], schema: &TableSchema, field: usize) -> Column {
    let mut column = Column::new(schema.fields[field].field_type);
    match &mut column.values {
        Values::F64(values) => values.reserve_exact(row_count(runs)),
        Values::I64(values) => values.reserve_exact(row_count(runs)),
        Values::Bool(_) | Values::Utf8(_) => {}
    }
    for run in runs {
        match chunks[run.chunk as usize].columns.get(field).and_then(Option::as_ref) {
            Some(from) => column.extend_from(from, run.start as usize..(run.start + run.len) as usize),
            None => column.extend_nulls(run.len as usize),
        }
    }
    column
}
