//! Owns collecting one device's rows out of the chunks of a memtable; does not sort.

use std::sync::Arc;

use tidewell_codec::{Column, Values};

use super::{Chunk, Run};
use crate::types::{Rows, TableSchema};

/// Copies the rows of `runs`, in their order, field by field: a column's copy loop touches one array of each chunk.
pub(super) fn gather(chunks: &[Arc<Chunk>], runs: &[Run], schema: &TableSchema, fields: &[usize]) -> Rows {
    let total: usize = runs.iter().map(|r| r.len as usize).sum();
    let mut times = Vec::with_capacity(total);
    for run in runs {
        extend_run(&mut times, &chunks[run.chunk as usize].times, run);
    }
    let columns = fields.iter().map(|&field| gather_field(chunks, runs, schema, field, total)).collect();
    Rows { times, columns }
}

fn gather_field(chunks: &[Arc<Chunk>], runs: &[Run], schema: &TableSchema, field: usize, total: usize) -> Column {
    let mut column = Column::new(schema.fields[field].field_type);
    match &mut column.values {
        Values::F64(values) => values.reserve_exact(total),
        Values::I64(values) => values.reserve_exact(total),
        Values::Bool(_) | Values::Utf8(_) => {}
    }
    for run in runs {
        let source = chunks[run.chunk as usize].columns.get(field).and_then(Option::as_ref);
        match (source, &mut column) {
            // Without nulls on either side a run is a plain copy; runs of a gateway's batches are a row or two long.
            (
                Some(Column { values: Values::F64(from), validity: None }),
                Column { values: Values::F64(to), validity: None },
            ) => extend_run(to, from, run),
            (
                Some(Column { values: Values::I64(from), validity: None }),
                Column { values: Values::I64(to), validity: None },
            ) => extend_run(to, from, run),
            (Some(from), to) => to.extend_from(from, run.start as usize..(run.start + run.len) as usize),
            (None, to) => to.extend_nulls(run.len as usize),
        }
    }
    column
}

#[inline]
fn extend_run<T: Copy>(to: &mut Vec<T>, from: &[T], run: &Run) {
    let start = run.start as usize;
    if run.len == 1 {
        to.push(from[start]);
    } else {
        to.extend_from_slice(&from[start..start + run.len as usize]);
    }
}
