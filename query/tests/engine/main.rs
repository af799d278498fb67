//! Owns the proof that an answer depends on the rows alone: the same questions before and after flush, late rows,
//! compaction and a new start.

mod speed;
mod support;

use support::{Node, Row, SECOND};
use tidewell_engine::Snapshot;
use tidewell_query::{AnswerBatch, Query, QueryLimits, QueryOptions, Request};

/// The answer as text, floats to the bit. Batches are cut as they happen to be, so rows are told one by one.
fn ask(snapshot: &Snapshot, request: &str, threads: usize) -> Vec<String> {
    let limits = QueryLimits { threads, ..QueryLimits::default() };
    let options = QueryOptions { limits, ..QueryOptions::default() };
    let request = Request::parse(request.as_bytes()).unwrap_or_else(|e| panic!("{request}: {e}"));
    let query = Query::prepare(snapshot, &request, options).unwrap_or_else(|e| panic!("{request:?}: {e}"));
    let answer = query.run().unwrap_or_else(|e| panic!("{request:?}: {e}"));
    answer.flat_map(|batch| rows(&batch.unwrap_or_else(|e| panic!("{request:?}: {e}")))).collect()
}

fn rows(batch: &AnswerBatch) -> Vec<String> {
    (0..batch.rows)
        .map(|row| batch.columns.iter().map(|c| support::cell(c, row)).collect::<Vec<_>>().join(" "))
        .collect()
}

const QUESTIONS: [&str; 9] = [
    r#"{"range": {"table": "t", "start": 100000000000, "end": 5000000000000}}"#,
    r#"{"range": {"table": "t", "start": 0, "end": 9000000000000, "where": "n > 3 AND v < 90", "fields": ["v", "s"]}}"#,
    r#"{"latest": {"table": "t"}}"#,
    r#"{"latest": {"table": "t", "as_of": 3333333333333}}"#,
    r#"{"downsample": {"table": "t", "start": 0, "end": 9000000000000, "every": "1m", "fields": ["v", "n"],
        "aggregates": ["mean", "min", "max", "count", "sum", "first", "last"], "fill": "linear"}}"#,
    r#"{"downsample": {"table": "t", "start": 0, "end": 9000000000000, "every": "1d", "fields": ["v", "n"],
        "aggregates": ["mean", "min", "max", "count", "sum", "first", "last"], "group": "all"}}"#,
    r#"{"downsample": {"table": "t", "start": 0, "end": 9000000000000, "every": "1h", "fields": ["v", "n"],
        "aggregates": ["min", "max", "count", "first", "last"]}}"#,
    r#"{"threshold": {"table": "t", "start": 0, "end": 9000000000000, "where": "v > 40", "for": "5s", "max_gap": "30s"}}"#,
    r#"{"threshold": {"table": "t", "start": 0, "end": 9000000000000, "where": "NOT v < 99 OR s = 'x'", "return": "devices"}}"#,
];

#[test]
fn answers_stay_the_same_through_flush_compaction_and_restart() {
    let mut node = Node::new(2);
    let value = |i: i64| match i % 97 {
        0 => f64::NAN,
        1 => -0.0,
        2 => 0.0,
        i => (i * 7919 % 1000) as f64 / 10.0,
    };
    // Twelve devices with rows every second; every seventh row lacks `v`, some come late, some are written twice.
    let row = |device: i64, i: i64| Row {
        device: format!("d{device}"),
        time: i * SECOND + device,
        v: (i % 7 != 0).then(|| value(i + device)),
        n: (i % 11 != 0).then_some(i % 10),
        s: (i % 13 == 0).then(|| if i % 2 == 0 { "x".to_owned() } else { "ü".to_owned() }),
    };
    let stretch = |from: i64, to: i64, step: usize| {
        (0..12).flat_map(move |d| (from..to).step_by(step).map(move |i| row(d, i))).collect::<Vec<_>>()
    };
    let mut written = Vec::new();
    written.extend(stretch(0, 2_000, 1));
    written.extend(stretch(4_000, 8_000, 1));
    node.write(&stretch(0, 2_000, 1));
    node.write(&stretch(4_000, 8_000, 1));
    node.flush();
    // Late, between and over rows that are in a segment.
    node.write(&stretch(1_500, 4_500, 2));
    node.write(&stretch(1_501, 4_500, 2));

    let expected: Vec<_> = QUESTIONS.iter().map(|q| ask(&node.snapshot(), q, 1)).collect();
    assert_eq!(expected[2].len(), 12);
    assert!(expected.iter().all(|rows| !rows.is_empty()));
    let check = |node: &Node, when: &str| {
        for (question, expected) in QUESTIONS.iter().zip(&expected) {
            for threads in [1, 3] {
                let found = ask(&node.snapshot(), question, threads);
                assert_eq!(found.len(), expected.len(), "{when}: {question}");
                let differs = found.iter().zip(expected).find(|(a, b)| a != b);
                assert_eq!(differs, None, "{when}, {threads} threads: {question}");
            }
        }
    };
    check(&node, "with late rows in memory");
    node.flush();
    check(&node, "after flush");
    node.compact();
    check(&node, "after compaction");
    node.restart();
    check(&node, "after a restart");
}
