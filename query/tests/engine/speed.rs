//! Owns rough figures of queries over the engine; run by hand with `--ignored --nocapture`, never a check.

use std::time::Instant;

use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, Values};
use tidewell_query::{Query, QueryOptions, Request};

use super::support::{Node, SECOND};

const DEVICES: usize = 1_000;
const ROWS: i64 = 8_640;

/// A day of one row every ten seconds; one device in ten runs hot for a while.
fn day(device: usize) -> Batch {
    let mut state = device as u64 + 1;
    let mut value = 50.0;
    let velocity = (0..ROWS)
        .map(|i| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            value += ((state >> 33) % 200) as f64 / 100.0 - 1.0;
            value = value.clamp(10.0, 90.0);
            let hot = device.is_multiple_of(10) && (4_000..4_200).contains(&i);
            ((if hot { 99.0 } else { value }) * 100.0).round() / 100.0
        })
        .collect();
    let status = (0..ROWS).map(|i| i / 100 % 5).collect();
    let column = |values| Column { values, validity: None };
    Batch {
        table: "t".to_owned(),
        devices: DeviceRuns::single(&format!("truck_{device:04}"), ROWS as u32),
        times: (0..ROWS).map(|i| i * 10 * SECOND).collect(),
        fields: vec![
            BatchField { name: "velocity".to_owned(), column: column(Values::F64(velocity)) },
            BatchField { name: "status".to_owned(), column: column(Values::I64(status)) },
        ],
    }
}

#[test]
#[ignore = "prints times, checks nothing"]
fn figures() {
    let mut node = Node::new(1);
    for device in 0..DEVICES {
        node.append(day(device));
    }
    node.flush();
    for when in ["hot", "cold"] {
        let range = r#""table": "t", "start": 0, "end": 86400000000000"#;
        let questions = [
            (
                "downsample 1 device 1 min",
                format!(
                    r#"{{"downsample": {{{range}, "devices": ["truck_0007"], "every": "1m", "fields": ["velocity"], "aggregates": ["mean", "min", "max"]}}}}"#
                ),
            ),
            (
                "downsample 1 device 1 h",
                format!(
                    r#"{{"downsample": {{{range}, "devices": ["truck_0007"], "every": "1h", "fields": ["velocity"], "aggregates": ["mean", "min", "max"]}}}}"#
                ),
            ),
            (
                "downsample all 1 h",
                format!(
                    r#"{{"downsample": {{{range}, "every": "1h", "fields": ["velocity"], "aggregates": ["mean", "min", "max"]}}}}"#
                ),
            ),
            (
                "downsample all 1 d min max",
                format!(
                    r#"{{"downsample": {{{range}, "every": "1d", "fields": ["velocity"], "aggregates": ["min", "max"]}}}}"#
                ),
            ),
            (
                "downsample group all 1 h",
                format!(r#"{{"downsample": {{{range}, "every": "1h", "fields": ["velocity"], "group": "all"}}}}"#),
            ),
            (
                "threshold velocity > 95",
                format!(r#"{{"threshold": {{{range}, "where": "velocity > 95", "for": "5m", "max_gap": "1m"}}}}"#),
            ),
            (
                "threshold velocity > 60 (many)",
                format!(r#"{{"threshold": {{{range}, "where": "velocity > 60", "for": "5m", "max_gap": "1m"}}}}"#),
            ),
            (
                "threshold devices",
                format!(
                    r#"{{"threshold": {{{range}, "where": "velocity > 95 AND status = 2", "return": "devices"}}}}"#
                ),
            ),
            ("latest all", r#"{"latest": {"table": "t"}}"#.to_owned()),
            ("range 1 device", format!(r#"{{"range": {{{range}, "devices": ["truck_0007"]}}}}"#)),
            ("range all, velocity > 95", format!(r#"{{"range": {{{range}, "where": "velocity > 95"}}}}"#)),
        ];
        for (name, question) in questions {
            let request = Request::parse(question.as_bytes()).expect("reads");
            let snapshot = node.snapshot();
            let mut times = Vec::new();
            let mut rows = 0;
            for _ in 0..31 {
                let begin = Instant::now();
                let query = Query::prepare(&snapshot, &request, QueryOptions::default()).expect("fits");
                rows = query.run().expect("runs").map(|b| b.expect("answers").rows).sum();
                times.push(begin.elapsed());
            }
            times.sort();
            println!("{when} {name}: {rows} rows, best {:?}, median {:?}", times[0], times[times.len() / 2]);
        }
        node.compact();
    }
}
