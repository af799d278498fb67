//! Owns tests of whole answers: against naive evaluation row by row, whatever the blocks, statistics and threads.

mod bounds;
mod naive;

use proptest::prelude::*;
use tidewell_engine::FieldType;

use super::*;
use crate::answer::AnswerColumn;
use crate::kernels::Cell;
use crate::source::memory::{CellRows, MemorySource};

pub(super) const SECOND: i64 = 1_000_000_000;
pub(super) const FIELDS: [(&str, FieldType); 4] =
    [("v", FieldType::F64), ("n", FieldType::I64), ("s", FieldType::Utf8), ("b", FieldType::Bool)];

/// Rows of an answer; the name first.
pub(super) fn ask_with(
    source: &MemorySource,
    request: &str,
    options: QueryOptions,
) -> Result<Vec<Vec<Cell>>, QueryError> {
    let query = Query::prepare(source, &Request::parse(request.as_bytes())?, options)?;
    let schema = query.schema().clone();
    let answer = query.run()?;
    assert_eq!(answer.schema(), &schema);
    let mut rows = Vec::new();
    for batch in answer {
        let batch = batch?;
        assert!(batch.rows > 0, "batches are not empty");
        assert_eq!(batch.columns.len(), schema.len());
        for row in 0..batch.rows {
            let cells = batch.columns.iter().zip(schema.iter()).map(|(column, field)| match column {
                AnswerColumn::Names(names) => {
                    assert_eq!((names.len(), field.answer_type), (batch.rows, crate::AnswerType::Name));
                    Cell::Text(names.get(row).unwrap().as_ref().into())
                }
                AnswerColumn::Values(column) => {
                    assert_eq!(column.len(), batch.rows, "{}", field.name);
                    let cell = Cell::of(column, row);
                    assert!(field.nullable || cell != Cell::Null, "{} is not nullable", field.name);
                    cell
                }
            });
            rows.push(cells.collect());
        }
    }
    Ok(rows)
}

pub(super) fn ask(source: &MemorySource, request: &str) -> Result<Vec<Vec<Cell>>, QueryError> {
    ask_with(source, request, QueryOptions::default())
}

/// Equal to the bit, except that all NaN are one.
fn same(a: &[Vec<Cell>], b: &[Vec<Cell>]) -> bool {
    let cell = |a: &Cell, b: &Cell| match (a, b) {
        (Cell::F64(a), Cell::F64(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| cell(a, b)))
}

fn cell_row() -> impl Strategy<Value = Vec<Cell>> {
    let v = prop_oneof![
        6 => (0..8i64).prop_map(|v| Cell::F64(v as f64 * 0.5)),
        2 => Just(Cell::Null),
        1 => prop::sample::select(vec![f64::NAN, -0.0, f64::INFINITY, f64::NEG_INFINITY, 0.1, 1e17]).prop_map(Cell::F64),
    ];
    let n = prop_oneof![6 => (0..5i64).prop_map(Cell::I64), 2 => Just(Cell::Null)];
    let s = prop_oneof![2 => "[ab]".prop_map(|s| Cell::Text(s.into())), 1 => Just(Cell::Null)];
    let b = prop_oneof![2 => any::<bool>().prop_map(Cell::Bool), 1 => Just(Cell::Null)];
    (v, n, s, b).prop_map(|(v, n, s, b)| vec![v, n, s, b])
}

fn device_rows() -> impl Strategy<Value = CellRows> {
    let steps = prop_oneof![4 => Just(SECOND), 2 => SECOND..5 * SECOND, 1 => 1..90 * SECOND];
    prop::collection::vec((steps, cell_row()), 0..60).prop_map(|rows| {
        let mut time = 0;
        rows.into_iter()
            .map(|(step, cells)| {
                time += step;
                (time, cells)
            })
            .collect()
    })
}

/// Rows minutes and hours apart, and some seconds, over two days around 1970.
fn sparse_rows() -> impl Strategy<Value = CellRows> {
    let steps =
        prop_oneof![4 => Just(60 * SECOND), 4 => 1..60 * SECOND, 2 => 1..4_000 * SECOND, 1 => 1..40_000 * SECOND];
    let row = prop_oneof![1 => cell_row(), 1 => rough_row()];
    prop::collection::vec((steps, row), 0..60).prop_map(|rows| {
        let mut time = -43_200 * SECOND;
        rows.into_iter()
            .map(|(step, cells)| {
                time += step;
                (time, cells)
            })
            .collect()
    })
}

/// Doubles whose sum shows in which order they were added.
fn rough_row() -> impl Strategy<Value = Vec<Cell>> {
    (-1e6..1e6f64, -5..5i64).prop_map(|(v, n)| vec![Cell::F64(v), Cell::I64(n), Cell::Null, Cell::Bool(v > 0.0)])
}

fn days() -> impl Strategy<Value = MemorySource> {
    prop::collection::vec(sparse_rows(), 1..4).prop_map(with_fleets)
}

fn source() -> impl Strategy<Value = MemorySource> {
    prop::collection::vec(device_rows(), 1..6).prop_map(with_fleets)
}

fn with_fleets(devices: Vec<CellRows>) -> MemorySource {
    let names: Vec<String> = (0..devices.len()).map(|i| format!("truck_{i}")).collect();
    let devices = names.iter().map(String::as_str).zip(devices).collect();
    let mut source = MemorySource::new(&FIELDS, devices);
    for (index, name) in names.iter().enumerate().skip(1) {
        let fleet = if index % 2 == 0 { "north" } else { "south" };
        let attributes = [("fleet".to_owned(), fleet.to_owned())].into();
        source.attributes.insert(name.clone(), Arc::new(attributes));
    }
    source
}

/// The answer must be `expected` in any blocks, with or without statistics and stored steps, on any number of threads, in
/// any batch size.
fn check(source: &MemorySource, request: &str, expected: &[Vec<Cell>]) -> Result<(), TestCaseError> {
    let cases = [
        (&[1_000][..], false, 0, 1, 8_192),
        (&[1], true, 2, 1, 1),
        (&[5, 1, 17], true, 3, 3, 7),
        (&[1_000], true, 1_000_003, 2, 8_192),
    ];
    for (blocks, stats, steps, threads, batch_rows) in cases {
        let source = source.with_steps(blocks, stats, steps);
        let limits = QueryLimits { threads, batch_rows, ..QueryLimits::default() };
        let found = ask_with(&source, request, QueryOptions { limits, ..QueryOptions::default() })
            .map_err(|e| TestCaseError::fail(format!("{request}: {e}")))?;
        prop_assert!(
            same(&found, expected),
            "{request}\nblocks {blocks:?}, stats {stats}, steps {steps}, threads {threads}\nfound    {found:?}\nexpected {expected:?}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn ranges_equal_the_naive_answer(
        source in source(), start in 0..60i64, length in 1..120i64,
        condition in prop::option::of(naive::condition()), limit in prop::option::of(0..40u64),
        fields in prop::sample::select(vec!["v", "n,v", "s,b", "b,n,s,v"]),
    ) {
        let (start, end) = (start * SECOND, (start + length) * SECOND);
        let mut request = serde_json::json!({"table": "t", "start": start, "end": end,
            "fields": fields.split(',').collect::<Vec<_>>()});
        if let Some(condition) = &condition {
            request["where"] = condition.text.clone().into();
        }
        if let Some(limit) = limit {
            request["limit"] = limit.into();
        }
        let expected = naive::range(&source, start, end, fields, condition.as_ref(), limit);
        check(&source, &serde_json::json!({"range": request}).to_string(), &expected)?;
    }

    #[test]
    fn latest_equals_the_naive_answer(source in source(), as_of in prop::option::of(0..150i64)) {
        let as_of = as_of.map(|t| t * SECOND);
        let mut request = serde_json::json!({"table": "t"});
        if let Some(as_of) = as_of {
            request["as_of"] = as_of.into();
        }
        check(&source, &serde_json::json!({"latest": request}).to_string(), &naive::latest(&source, as_of))?;
    }

    #[test]
    fn downsampling_equals_the_naive_answer(
        source in source(), start in 0..60i64, length in 1..200i64,
        every in prop::sample::select(vec!["1s", "10s", "15s", "1m", "1d"]),
        group in prop::sample::select(vec!["device", "all", "attribute:fleet"]),
        fill in prop::sample::select(vec!["none", "null", "previous", "linear"]),
        parts in prop::sample::subsequence(vec!["mean", "min", "max", "count", "sum", "first", "last"], 1..7),
        fields in prop::sample::select(vec!["v", "n", "v,n"]),
    ) {
        let (start, end) = (start * SECOND + 1, (start + length) * SECOND);
        let request = serde_json::json!({"downsample": {"table": "t", "start": start, "end": end, "every": every,
            "group": group, "fill": fill, "aggregates": parts, "fields": fields.split(',').collect::<Vec<_>>()}});
        let expected = naive::downsample(&source, &Request::parse(request.to_string().as_bytes()).unwrap());
        check(&source, &request.to_string(), &expected)?;
    }

    #[test]
    fn steps_change_no_answer(
        source in days(), start in -30..30i64, length in 1..120i64, rough in prop::sample::select(vec![1, 60, 3_600 * SECOND]),
        (every, zone, origin) in prop::sample::select(vec![("1m", "UTC", 0), ("5m", "UTC", 0), ("90m", "UTC", 0),
            ("1h", "UTC", 0), ("1h", "UTC", 60), ("1h", "UTC", 7), ("1d", "UTC", 0), ("1d", "Europe/Berlin", 0),
            ("1d", "Asia/Kathmandu", 0), ("36h", "UTC", 0), ("1w", "UTC", 0), ("1mo", "UTC", 0)]),
        group in prop::sample::select(vec!["device", "device", "all", "attribute:fleet"]),
        fill in prop::sample::select(vec!["none", "none", "null", "previous", "linear"]),
        parts in prop::sample::subsequence(vec!["mean", "min", "max", "count", "sum", "first", "last"], 1..7),
        fields in prop::sample::select(vec!["v", "n", "v,n"]),
    ) {
        let hour = 3_600 * SECOND;
        let (start, end) = (start * hour / 2, (start * hour / 2 + length * hour / 2).max(1));
        let (start, end) = (start / rough * rough, (end / rough * rough).max(start / rough * rough + rough));
        let request = serde_json::json!({"downsample": {"table": "t", "start": start, "end": end, "every": every,
            "timezone": zone, "origin": origin * SECOND, "group": group, "fill": fill, "aggregates": parts,
            "fields": fields.split(',').collect::<Vec<_>>()}});
        let expected = naive::downsample(&source, &Request::parse(request.to_string().as_bytes()).unwrap());
        check(&source, &request.to_string(), &expected)?;
    }

    #[test]
    fn text_and_flags_are_downsampled_too(
        source in source(), fill in prop::sample::select(vec!["none", "null", "previous"]),
        group in prop::sample::select(vec!["device", "all"]),
    ) {
        let request = serde_json::json!({"downsample": {"table": "t", "start": 0, "end": 200 * SECOND, "every": "20s",
            "group": group, "fill": fill, "aggregates": ["last", "count", "first"]}});
        let expected = naive::downsample(&source, &Request::parse(request.to_string().as_bytes()).unwrap());
        check(&source, &request.to_string(), &expected)?;
    }

    #[test]
    fn thresholds_equal_the_naive_answer(
        source in source(), start in 0..60i64, length in 1..200i64, condition in naive::condition(),
        at_least in prop::option::of(0..20i64), max_gap in prop::option::of(0..20i64),
        answer in prop::sample::select(vec!["intervals", "rows", "devices"]),
    ) {
        let (start, end) = (start * SECOND, (start + length) * SECOND);
        let mut request = serde_json::json!({"table": "t", "start": start, "end": end,
            "where": condition.text.clone(), "return": answer});
        if let Some(at_least) = at_least {
            request["for"] = format!("{at_least}s").into();
        }
        if let Some(max_gap) = max_gap {
            request["max_gap"] = format!("{max_gap}s").into();
        }
        let expected = naive::threshold(
            &source, start, end, &condition, at_least.unwrap_or(0) * SECOND, max_gap.map(|g| g * SECOND), answer,
        );
        check(&source, &serde_json::json!({"threshold": request}).to_string(), &expected)?;
    }
}
