//! Owns the reference of the kernels: aggregates value by value, as the contract words them; does not try to be fast.

use super::summary::{Cell, Sum, Summary};
use tidewell_engine::Scalar;
use tidewell_engine::totals::LANES;

/// Aggregates of the rows `(time, value)` of one window, in time order.
pub(crate) fn summarise(rows: &[(i64, Cell)]) -> Summary {
    let mut summary = Summary::EMPTY;
    let mut lanes = [0.0f64; LANES];
    for (time, cell) in rows {
        if *cell == Cell::Null {
            continue;
        }
        let lane = summary.count as usize % LANES;
        summary.count += 1;
        if summary.first.is_none() {
            summary.first = Some((*time, cell.clone()));
        }
        summary.last = Some((*time, cell.clone()));
        match cell {
            Cell::F64(v) if !v.is_nan() => {
                lanes[lane] += v;
                summary.numbers += 1;
                keep(&mut summary, cell);
            }
            Cell::I64(v) => {
                let before = if let Sum::I64(sum) = summary.sum { sum } else { 0 };
                summary.sum = Sum::I64(before + i128::from(*v));
                summary.numbers += 1;
                keep(&mut summary, cell);
            }
            _ => {}
        }
    }
    if !matches!(summary.sum, Sum::I64(_)) {
        let [a, b, c, d, e, f, g, h] = lanes;
        summary.sum = Sum::F64(((a + e) + (c + g)) + ((b + f) + (d + h)));
    }
    summary
}

fn keep(summary: &mut Summary, cell: &Cell) {
    let number = match cell {
        Cell::F64(v) => Scalar::F64(*v),
        Cell::I64(v) => Scalar::I64(*v),
        _ => panic!("a number"),
    };
    let order = |a: Scalar, b: Scalar| match (a, b) {
        (Scalar::F64(a), Scalar::F64(b)) => a.total_cmp(&b),
        (Scalar::I64(a), Scalar::I64(b)) => a.cmp(&b),
        _ => panic!("numbers of one type"),
    };
    let first = summary.numbers == 1;
    if first || order(number, summary.min).is_lt() {
        summary.min = number;
    }
    if first || order(number, summary.max).is_gt() {
        summary.max = number;
    }
}
