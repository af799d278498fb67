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
    let times: Vec<&[i64]> = chunks.iter().map(|chunk| &chunk.times[..]).collect();
    let mut gathered: Vec<Rows> = devices
        .iter()
        .map(|runs| Rows { times: copy_runs(&times, runs), columns: Vec::with_capacity(fields.len()) })
        .collect();
    for &field in fields {
        let reals = plain(chunks, field, |values| if let Values::F64(values) = values { Some(values) } else { None });
        let integers =
            plain(chunks, field, |values| if let Values::I64(values) = values { Some(values) } else { None });
        for (rows, runs) in gathered.iter_mut().zip(devices) {
            rows.columns.push(match (&reals, &integers) {
                (Some(sources), _) => Column { values: Values::F64(copy_runs(sources, runs)), validity: None },
                (_, Some(sources)) => Column { values: Values::I64(copy_runs(sources, runs)), validity: None },
                (None, None) => gather_any(chunks, runs, schema, field),
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

fn copy_runs<T: Copy>(sources: &[&[T]], runs: &[Run]) -> Vec<T> {
    let total: usize = runs.iter().map(|run| run.len as usize).sum();
    if runs.len() == total {
        // A gateway's batches have a row of each device: a loop of loads, which the processor overlaps, and no copy calls.
        return runs.iter().map(|run| sources[run.chunk as usize][run.start as usize]).collect();
    }
    let mut values = Vec::with_capacity(total);
    for run in runs {
        let start = run.start as usize;
        values.extend_from_slice(&sources[run.chunk as usize][start..start + run.len as usize]);
    }
    values
}

/// Any type, with nulls, and chunks that do not have the field.
fn gather_any(chunks: &[Arc<Chunk>], runs: &[Run], schema: &TableSchema, field: usize) -> Column {
    let mut column = Column::new(schema.fields[field].field_type);
    for run in runs {
        match chunks[run.chunk as usize].columns.get(field).and_then(Option::as_ref) {
            Some(from) => column.extend_from(from, run.start as usize..(run.start + run.len) as usize),
            None => column.extend_nulls(run.len as usize),
        }
    }
    column
}
