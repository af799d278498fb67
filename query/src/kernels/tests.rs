//! Owns tests of the kernels against the scalar reference; does not test windows.

use proptest::prelude::*;
use tidewell_codec::Column;

use super::scalar::summarise;
use super::summary::Sum;
use super::*;
use crate::request::Aggregate;

const ALL: Needs = Needs { sum: true, extremes: true, ends: true };
const AGGREGATES: [Aggregate; 7] = [
    Aggregate::Mean,
    Aggregate::Min,
    Aggregate::Max,
    Aggregate::Count,
    Aggregate::Sum,
    Aggregate::First,
    Aggregate::Last,
];

fn column(field_type: FieldType, cells: &[Cell]) -> Column {
    let mut column = Column::new(field_type);
    cells.iter().for_each(|cell| cell.push_to(&mut column));
    column
}

/// Equal to the bit, with any NaN equal to any other: which NaN an addition gives is the processor's choice.
fn same(a: &Cell, b: &Cell) -> bool {
    match (a, b) {
        (Cell::F64(a), Cell::F64(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        _ => a == b,
    }
}

fn check(field_type: FieldType, cells: &[Cell], cuts: &[usize]) {
    let times: Vec<i64> = (0..cells.len() as i64).map(|i| i * 10).collect();
    let rows: Vec<(i64, Cell)> = times.iter().copied().zip(cells.iter().cloned()).collect();
    let expected = summarise(&rows);
    let column = column(field_type, cells);
    let mut accumulator = Accumulator::new(field_type, ALL);
    let mut from = 0;
    for &cut in cuts {
        let to = cut.clamp(from, cells.len());
        accumulator.add(&times, &column, from..to);
        from = to;
    }
    accumulator.add(&times, &column, from..cells.len());
    let found = accumulator.finish();
    assert_eq!(
        (found.count, found.first.as_ref().map(|f| f.0)),
        (expected.count, expected.first.as_ref().map(|f| f.0))
    );
    assert_eq!(found.last.as_ref().map(|l| l.0), expected.last.as_ref().map(|l| l.0));
    for aggregate in AGGREGATES {
        if aggregate_type(aggregate, field_type).is_none() {
            continue;
        }
        match (found.value(aggregate), expected.value(aggregate)) {
            (Ok(a), Ok(b)) => assert!(same(&a, &b), "{aggregate:?}: found {a:?}, expected {b:?}"),
            (a, b) => assert_eq!(a, b),
        }
    }
    assert_eq!(accumulator.finish().count, 0, "finish begins anew");
}

fn double() -> impl Strategy<Value = Cell> {
    prop_oneof![
        6 => (-1e6..1e6f64).prop_map(Cell::F64),
        1 => Just(Cell::Null),
        1 => prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 1e308])
            .prop_map(Cell::F64),
    ]
}

fn special() -> impl Strategy<Value = Cell> {
    prop::sample::select(vec![0.0, -0.0, f64::NAN, -1.0, 1.0]).prop_map(Cell::F64)
}

fn integer() -> impl Strategy<Value = Cell> {
    prop_oneof![any::<i64>().prop_map(Cell::I64), Just(Cell::Null), (-5..5i64).prop_map(Cell::I64)]
}

fn other() -> impl Strategy<Value = Cell> {
    prop_oneof!["[a-c]{0,3}".prop_map(|s| Cell::Text(s.into())), Just(Cell::Null)]
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..200usize, 0..6).prop_map(|mut cuts| {
        cuts.sort_unstable();
        cuts
    })
}

proptest! {
    #[test]
    fn doubles_equal_the_reference(cells in prop::collection::vec(double(), 0..200), cuts in cuts()) {
        check(FieldType::F64, &cells, &cuts);
    }

    #[test]
    fn zeros_keep_their_signs(cells in prop::collection::vec(special(), 0..40), cuts in cuts()) {
        check(FieldType::F64, &cells, &cuts);
    }

    #[test]
    fn integers_equal_the_reference(cells in prop::collection::vec(integer(), 0..200), cuts in cuts()) {
        check(FieldType::I64, &cells, &cuts);
    }

    #[test]
    fn text_equals_the_reference(cells in prop::collection::vec(other(), 0..200), cuts in cuts()) {
        check(FieldType::Utf8, &cells, &cuts);
    }

    #[test]
    fn edges_are_found(mut times in prop::collection::vec(-100..100i64, 0..80), from in 0..80usize, end in -120..120i64, guess in 0..20usize) {
        times.sort_unstable();
        times.dedup();
        let from = from.min(times.len()).min(times.partition_point(|&t| t < end));
        prop_assert_eq!(rows_before(&times, from, end, guess), times.partition_point(|&t| t < end));
    }

    #[test]
    fn bit_searches_find_what_a_loop_finds(bits in prop::collection::vec(any::<bool>(), 0..200), a in 0..200usize, b in 0..200usize) {
        let bitmap: Bitmap = bits.iter().copied().collect();
        let range = a.min(b).min(bits.len())..a.max(b).min(bits.len());
        prop_assert_eq!(next_one(&bitmap, range.clone()), range.clone().find(|&i| bits[i]));
        prop_assert_eq!(last_one(&bitmap, range.clone()), range.clone().rev().find(|&i| bits[i]));
        prop_assert_eq!(ones(&bitmap, range.clone()), range.filter(|&i| bits[i]).count());
    }
}

#[test]
fn only_nan_has_a_count_and_no_mean() {
    let mut accumulator = Accumulator::new(FieldType::F64, ALL);
    accumulator.add(&[1, 2], &column(FieldType::F64, &[Cell::F64(f64::NAN), Cell::F64(f64::NAN)]), 0..2);
    let summary = accumulator.finish();
    assert_eq!(summary.value(Aggregate::Count), Ok(Cell::I64(2)));
    for aggregate in [Aggregate::Mean, Aggregate::Min, Aggregate::Max, Aggregate::Sum] {
        assert_eq!(summary.value(aggregate), Ok(Cell::Null));
    }
    assert!(matches!(summary.value(Aggregate::First), Ok(Cell::F64(v)) if v.is_nan()));
}

#[test]
fn integer_sums_are_exact_or_refused() {
    let sum = |values: &[i64]| {
        let cells: Vec<Cell> = values.iter().map(|&v| Cell::I64(v)).collect();
        let mut accumulator = Accumulator::new(FieldType::I64, ALL);
        accumulator.add(&vec![0; cells.len()], &column(FieldType::I64, &cells), 0..cells.len());
        accumulator.finish()
    };
    assert_eq!(sum(&[i64::MAX, i64::MAX, i64::MIN, i64::MIN, 2]).value(Aggregate::Sum), Ok(Cell::I64(0)));
    assert!(sum(&[i64::MAX, 1]).value(Aggregate::Sum).is_err());
    assert_eq!(sum(&[i64::MAX, i64::MAX]).value(Aggregate::Mean), Ok(Cell::F64(i64::MAX as f64)));
}

#[test]
fn summaries_of_devices_merge_in_order() {
    let summary = |rows: &[(i64, f64)]| summarise(&rows.iter().map(|&(t, v)| (t, Cell::F64(v))).collect::<Vec<_>>());
    let mut all = Summary::EMPTY;
    all.merge(summary(&[(5, f64::NAN)]));
    all.merge(summary(&[(5, 0.0), (7, 3.0)]));
    all.merge(summary(&[(1, -0.0), (7, 2.0)]));
    all.merge(Summary::EMPTY);
    assert_eq!((all.count, all.numbers, all.sum), (5, 4, Sum::F64(5.0)));
    assert!(same(&all.min.into(), &Cell::F64(-0.0)) && same(&all.max.into(), &Cell::F64(3.0)));
    assert_eq!((all.first, all.last), (Some((1, Cell::F64(-0.0))), Some((7, Cell::F64(2.0)))));
}
