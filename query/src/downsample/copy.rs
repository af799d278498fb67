//! Owns steps that are windows of the answer as they are: columns to columns, no way through a summary.

use std::ops::Range;
use std::sync::Arc;

use tidewell_codec::{Column, FieldType, Values};
use tidewell_engine::{StepField, StepRows, StepSums};

use super::Plan;
use crate::execute::Builder;
use crate::kernels::Cell;
use crate::request::Aggregate;

/// Appends the steps `range` as windows of `device`.
pub(super) fn write_steps(plan: &Plan, device: &Arc<str>, steps: &StepRows, range: Range<usize>, out: &mut Builder) {
    if let Values::I64(times) = &mut out.columns[0].values {
        times.extend_from_slice(&steps.starts[range.clone()]);
    }
    let mut columns = out.columns[1..].iter_mut();
    for (field, planned) in steps.fields.iter().zip(&plan.fields) {
        // NaN are seldom, and so are steps in which all values are null: the loops below have no branch for them.
        let all_numbers = (range.clone()).all(|at| field.count[at] > field.nan[at]);
        for (&aggregate, column) in planned.aggregates.iter().zip(&mut columns) {
            match aggregate {
                Aggregate::Count => push_i64(column, field.count[range.clone()].iter().map(|&count| signed(count))),
                Aggregate::First => column.extend_from(&field.first, range.clone()),
                Aggregate::Last => column.extend_from(&field.last, range.clone()),
                Aggregate::Min => column.extend_from(&field.min, range.clone()),
                Aggregate::Max => column.extend_from(&field.max, range.clone()),
                Aggregate::Mean | Aggregate::Sum if all_numbers => push_sums(field, aggregate, range.clone(), column),
                Aggregate::Mean | Aggregate::Sum => {
                    range.clone().for_each(|at| sum_at(field, aggregate, at, column.field_type()).push_to(column));
                }
            }
        }
    }
    out.end_rows(device, range.len());
}

fn push_sums(field: &StepField, aggregate: Aggregate, range: Range<usize>, column: &mut Column) {
    let numbers = field.count[range.clone()].iter().zip(&field.nan[range.clone()]).map(|(count, nan)| count - nan);
    match (&field.sum, aggregate) {
        (StepSums::F64(sums), Aggregate::Mean) => {
            push_f64(column, sums[range].iter().zip(numbers).map(|(sum, numbers)| sum / numbers as f64));
        }
        (StepSums::I64(sums), Aggregate::Mean) => {
            push_f64(column, sums[range].iter().zip(numbers).map(|(&sum, numbers)| sum as f64 / numbers as f64));
        }
        (StepSums::F64(sums), _) => push_f64(column, sums[range].iter().copied()),
        (StepSums::I64(sums), _) => push_i64(column, sums[range].iter().copied()),
        (StepSums::None, _) => column.extend_nulls(range.len()),
    }
}

fn sum_at(field: &StepField, aggregate: Aggregate, at: usize, field_type: FieldType) -> Cell {
    let numbers = field.count[at] - field.nan[at];
    match (&field.sum, aggregate) {
        _ if numbers == 0 => Cell::Null,
        (StepSums::F64(sums), Aggregate::Mean) => Cell::F64(sums[at] / numbers as f64),
        (StepSums::I64(sums), Aggregate::Mean) => Cell::F64(sums[at] as f64 / numbers as f64),
        (StepSums::F64(sums), _) => Cell::F64(sums[at]),
        (StepSums::I64(sums), _) => Cell::I64(sums[at]),
        (StepSums::None, _) => {
            debug_assert!(!matches!(field_type, FieldType::F64), "doubles always have a sum");
            Cell::Null
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn push_f64(column: &mut Column, values: impl ExactSizeIterator<Item = f64>) {
    let added = values.len();
    if let Values::F64(own) = &mut column.values {
        own.extend(values);
    }
    if let Some(validity) = &mut column.validity {
        validity.extend_filled(added, true);
    }
}

fn push_i64(column: &mut Column, values: impl ExactSizeIterator<Item = i64>) {
    let added = values.len();
    if let Values::I64(own) = &mut column.values {
        own.extend(values);
    }
    if let Some(validity) = &mut column.validity {
        validity.extend_filled(added, true);
    }
}
