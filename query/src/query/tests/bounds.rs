//! Owns tests of what is refused, cut and stopped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidewell_engine::FieldType;
use tidewell_engine::memory::{Class, MemoryBudget};

use super::{FIELDS, SECOND, ask, ask_with};
use crate::error::{Fault, QueryError};
use crate::kernels::Cell;
use crate::query::{CancelFlag, Query, QueryLimits, QueryOptions};
use crate::request::Request;
use crate::source::memory::MemorySource;

fn source(devices: usize, rows: i64) -> MemorySource {
    let names: Vec<String> = (0..devices).map(|i| format!("truck_{i:04}")).collect();
    let row = |t: i64| (t * SECOND, vec![Cell::F64(t as f64), Cell::I64(i64::MAX), Cell::Null, Cell::Bool(t % 2 == 0)]);
    let devices = names.iter().map(|name| (name.as_str(), (0..rows).map(row).collect())).collect();
    MemorySource::new(&FIELDS, devices).with_blocks(&[16], true)
}

#[test]
fn wrong_requests_are_refused_with_what_is_known() {
    let source = source(2, 20);
    for (request, fault, expected) in [
        (r#"{"latest": {"table": "x"}}"#, Fault::NotFound, "unknown table `x`; known tables: t"),
        (
            r#"{"latest": {"table": "t", "fields": ["w"]}}"#,
            Fault::NotFound,
            "table `t` has no field `w`; known fields: v, n, s, b",
        ),
        (r#"{"latest": {"table": "t", "fields": ["v", "v"]}}"#, Fault::Caller, "each field once, found `v` twice"),
        (
            r#"{"range": {"table": "t", "start": 5, "end": 5}}"#,
            Fault::Caller,
            "expected a time after `start` (1970-01-01T00:00:00.000000005Z)",
        ),
        (r#"{"range": {"table": "t", "start": 0, "end": 5, "where": "v > "}}"#, Fault::Caller, "`where`, column 5"),
        (
            r#"{"range": {"table": "t", "devices": {"glob": "truck[" }, "start": 0, "end": 5}}"#,
            Fault::Caller,
            "a pattern of",
        ),
        (r#"{"range": {"table": "t", "devices": [""], "start": 0, "end": 5}}"#, Fault::Caller, "ids of 1 to 256 bytes"),
        (
            r#"{"downsample": {"table": "t", "start": 0, "end": 5, "every": "1s", "fields": ["s"]}}"#,
            Fault::Caller,
            "`fields`: expected numeric fields for `mean`, found `s`, which is utf8",
        ),
        (
            r#"{"downsample": {"table": "t", "start": 0, "end": 5, "every": "1s", "fields": ["b"], "aggregates": ["last"], "fill": "linear"}}"#,
            Fault::Caller,
            "numeric fields for `last` with linear fill, found `b`, which is bool",
        ),
        (
            r#"{"downsample": {"table": "t", "start": 0, "end": 5, "every": "1s", "aggregates": []}}"#,
            Fault::Caller,
            "at least one aggregate",
        ),
        (
            r#"{"downsample": {"table": "t", "start": 0, "end": 5, "every": "1s", "aggregates": ["min", "min"]}}"#,
            Fault::Caller,
            "each aggregate once",
        ),
        (
            r#"{"downsample": {"table": "t", "start": 0, "end": "2024-01-01T00:00:00Z", "every": "1ns"}}"#,
            Fault::Limit,
            "about 1704067200000000000 windows",
        ),
        (
            r#"{"downsample": {"table": "t", "start": 0, "end": 1000000000000, "every": "1s", "fields": ["n"], "aggregates": ["sum"], "group": "all"}}"#,
            Fault::Caller,
            "the sum of `n` of `all` in the window that starts at 1970-01-01T00:00:00Z exceeds 64 bits",
        ),
        (r#"{"watch": {"rules": []}}"#, Fault::Unsupported, "`watch` is not available yet"),
    ] {
        let error = ask(&source, request).expect_err(request);
        assert!(error.to_string().contains(expected), "{request}: {error}");
        assert_eq!(error.fault(), fault, "{request}");
    }
    let empty = MemorySource::default();
    let error = ask(&empty, r#"{"latest": {"table": "x"}}"#).unwrap_err();
    assert_eq!(error.to_string(), "unknown table `x`; there are no tables yet");
}

#[test]
fn devices_are_chosen_by_list_pattern_and_attributes() {
    let mut source = source(12, 1);
    source.attributes.insert("truck_0003".into(), Arc::new([("fleet".into(), "north".into())].into()));
    let names = |devices: &str, options: QueryOptions| {
        let request = format!(r#"{{"latest": {{"table": "t", "devices": {devices}, "fields": ["v"]}}}}"#);
        let rows = ask_with(&source, &request, options).unwrap();
        rows.into_iter()
            .map(|row| if let Cell::Text(t) = &row[0] { t.to_string() } else { panic!() })
            .collect::<Vec<_>>()
    };
    let any = QueryOptions::default;
    assert_eq!(names(r#"["truck_0007", "nobody", "truck_0002", "truck_0007"]"#, any()), ["truck_0002", "truck_0007"]);
    assert_eq!(names("[]", any()), [""; 0]);
    assert_eq!(names(r#"{"glob": "truck_001?"}"#, any()), ["truck_0010", "truck_0011"]);
    assert_eq!(names(r#"{"glob": "truck_000{1,2}"}"#, any()), ["truck_0001", "truck_0002"]);
    assert_eq!(names(r#"{"attributes": {"fleet": "north"}}"#, any()), ["truck_0003"]);
    assert_eq!(names(r#"{"attributes": {"fleet": "north", "model": "x"}}"#, any()), [""; 0]);
    let only = QueryOptions { readable: Some(Arc::new(|device| device.ends_with('7'))), ..any() };
    assert_eq!(names("null", only.clone()), ["truck_0007"]);
    assert_eq!(names(r#"["truck_0001", "truck_0007"]"#, only), ["truck_0007"]);
}

#[test]
fn the_columns_of_an_answer_are_known_before() {
    let source = source(1, 1);
    let columns = |request: &str| {
        let request = Request::parse(request.as_bytes()).unwrap();
        let query = Query::prepare(&source, &request, QueryOptions::default()).unwrap();
        query.schema().iter().map(|f| f.name.clone()).collect::<Vec<_>>().join(" ")
    };
    let range = r#""table": "t", "start": 0, "end": 1"#;
    assert_eq!(columns(&format!(r#"{{"range": {{{range}}}}}"#)), "device time v n s b");
    assert_eq!(columns(r#"{"latest": {"table": "t", "fields": ["n"]}}"#), "device time n");
    assert_eq!(
        columns(&format!(r#"{{"downsample": {{{range}, "every": "1s", "aggregates": ["mean", "last"]}}}}"#)),
        "device time v_mean v_last n_mean n_last"
    );
    let threshold = |answer: &str| {
        let condition = "s = 'a' OR n > 1 OR v > 2";
        columns(&format!(r#"{{"threshold": {{{range}, "where": "{condition}", "return": "{answer}"}}}}"#))
    };
    assert_eq!(threshold("intervals"), "device start end duration samples n_min n_max n_mean v_min v_max v_mean");
    assert_eq!(
        (threshold("rows").as_str(), threshold("devices").as_str()),
        ("device time v n s b", "device matches first last")
    );
}

#[test]
fn limits_stop_a_query() {
    let source = source(40, 100);
    let range = r#"{"range": {"table": "t", "start": 0, "end": 9223372036854775807}}"#;
    let run = |request: &str, limits: QueryLimits| {
        ask_with(&source, request, QueryOptions { limits, ..QueryOptions::default() })
    };
    for threads in [1, 3] {
        let limits = QueryLimits { threads, batch_rows: 10, ..QueryLimits::default() };
        assert_eq!(run(range, limits.clone()).unwrap().len(), 4_000);
        let error = run(range, QueryLimits { rows_max: 3_999, ..limits.clone() }).unwrap_err();
        assert!(matches!(error, QueryError::TooManyRows { max: 3_999 }), "{error}");
        let error = run(range, QueryLimits { time_max: Duration::ZERO, ..limits.clone() }).unwrap_err();
        assert!(matches!(error, QueryError::TimedOut { .. }), "{error}");
        let windows =
            r#"{"downsample": {"table": "t", "start": 0, "end": 10000000000, "every": "1s", "fields": ["v"]}}"#;
        let error = run(windows, QueryLimits { windows_max: 399, ..limits }).unwrap_err();
        assert!(matches!(error, QueryError::TooManyWindows { estimate: 400, max: 399 }), "{error}");
    }
}

#[test]
fn memory_is_counted_refused_by_name_and_given_back() {
    let source = source(40, 2_000);
    let memory = MemoryBudget::new(128 << 20);
    let asked = [
        r#"{"range": {"table": "t", "start": 0, "end": 9223372036854775807}}"#,
        r#"{"downsample": {"table": "t", "start": 0, "end": 90000000000, "every": "1s", "fields": ["v"], "group": "all"}}"#,
        r#"{"threshold": {"table": "t", "start": 0, "end": 9223372036854775807, "where": "v > 1", "return": "intervals"}}"#,
    ];
    for (request, threads) in asked.iter().flat_map(|request| [(request, 1), (request, 3)]) {
        let limits = QueryLimits { threads, memory: Some(memory.clone()), ..QueryLimits::default() };
        let options = QueryOptions { limits, ..QueryOptions::default() };
        let query = || Query::prepare(&source, &Request::parse(request.as_bytes()).unwrap(), options.clone()).unwrap();
        let mut answer = query().run().unwrap();
        assert!(answer.next_batch().unwrap().is_some());
        assert!(memory.used(Class::Query) > 128 << 10, "{request}: {}", memory.used(Class::Query));
        drop(answer);
        assert_eq!(memory.used(Class::Query), 0, "{request}");
        assert!(query().run().unwrap().all(|batch| batch.is_ok()));
        assert_eq!(memory.used(Class::Query), 0, "{request}");
        let others = memory.hold(Class::Query, memory.share(Class::Query) - (64 << 10)).unwrap();
        let error = query().run().unwrap_err();
        assert_eq!(error.fault(), Fault::Limit);
        let text = error.to_string();
        assert!(matches!(error, QueryError::Memory(_)) && text.contains("65536 of its share"), "{text}");
        drop(others);
    }
}

#[test]
fn a_cancelled_query_stops_and_a_dropped_one_leaves_no_thread_waiting() {
    let source = source(200, 200);
    let range = br#"{"range": {"table": "t", "start": 0, "end": 9223372036854775807}}"#;
    for threads in [1, 3] {
        let cancel = CancelFlag::default();
        let limits = QueryLimits { threads, batch_rows: 10, ..QueryLimits::default() };
        let options = QueryOptions { limits, cancel: cancel.clone(), readable: None };
        let query = || Query::prepare(&source, &Request::parse(range).unwrap(), options.clone()).unwrap();
        let mut answer = query().run().unwrap();
        assert!(answer.next_batch().unwrap().is_some());
        // Dropping joins the threads: a thread that waited for ever would hang the test here.
        drop(query().run().unwrap());
        let mut other = query().run().unwrap();
        assert!(other.next_batch().unwrap().is_some());
        drop(other);
        cancel.cancel();
        let error = answer.find_map(Result::err).expect("the answer ends with the reason");
        assert!(matches!(error, QueryError::Cancelled), "{error}");
        assert!(answer.next_batch().unwrap().is_none(), "nothing follows an error");
    }
}

#[test]
fn a_limit_ends_the_work_early() {
    let source = source(200, 200);
    let request = r#"{"range": {"table": "t", "start": 0, "end": 9223372036854775807, "fields": ["v"], "limit": 205}}"#;
    let rows = ask(&source, request).unwrap();
    assert_eq!(rows.len(), 205);
    assert_eq!(rows[204], [Cell::Text("truck_0001".into()), Cell::I64(4 * SECOND), Cell::F64(4.0)]);
}

#[test]
fn sums_do_not_depend_on_threads_or_slices_of_groups() {
    // More devices than a slice; values whose sum depends on the order of additions.
    let names: Vec<String> = (0..300).map(|i| format!("d{i:03}")).collect();
    let devices = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            (
                name.as_str(),
                (0..7).map(|t| (t * SECOND, vec![Cell::F64(0.1 * (i as f64).exp2().sqrt() + t as f64)])).collect(),
            )
        })
        .collect();
    let source = MemorySource::new(&[("v", FieldType::F64)], devices);
    let request = r#"{"downsample": {"table": "t", "start": 0, "end": 7000000000, "every": "3s", "group": "all", "aggregates": ["sum", "count"]}}"#;
    let answers: Vec<_> = [1, 2, 5]
        .map(|threads| {
            let limits = QueryLimits { threads, ..QueryLimits::default() };
            ask_with(&source, request, QueryOptions { limits, ..QueryOptions::default() }).unwrap()
        })
        .into();
    assert_eq!(answers[0].len(), 3);
    assert_eq!(answers[0][0][3], Cell::I64(900));
    assert!(answers.iter().all(|a| *a == answers[0]));
}

#[test]
fn blocks_are_loaded_only_where_zone_maps_do_not_tell() {
    // 100 rows in blocks of 16: v rises from 0 to 99, so rows from 96 on are in the last block alone.
    let source = source(1, 100);
    let loads = |request: &str| {
        let before = source.tables["t"].loads.load(std::sync::atomic::Ordering::Relaxed);
        ask(&source, &request.replace("RANGE", r#""table": "t", "start": 0, "end": 9223372036854775807"#)).unwrap();
        source.tables["t"].loads.load(std::sync::atomic::Ordering::Relaxed) - before
    };
    for (request, expected) in [
        (r#"{"threshold": {RANGE, "where": "v > 97"}}"#, 1),
        (r#"{"threshold": {RANGE, "where": "v > 1000"}}"#, 0),
        // An interval is open after the third block; the fourth ends it by its statistics alone.
        (r#"{"threshold": {RANGE, "where": "v < 48"}}"#, 3),
        (r#"{"threshold": {RANGE, "where": "s = 'x'"}}"#, 0),
        // All rows of six blocks match: their number and their times are known.
        (r#"{"threshold": {RANGE, "where": "v >= 0", "return": "devices"}}"#, 0),
        (r#"{"threshold": {RANGE, "where": "v >= 40", "return": "devices"}}"#, 1),
        // Twice for one block: first the condition's field, then the rest.
        (r#"{"range": {RANGE, "where": "v > 97"}}"#, 2),
        (r#"{"range": {RANGE, "where": "v > 97", "fields": ["v"]}}"#, 1),
        (r#"{"latest": {"table": "t"}}"#, 0),
        (r#"{"latest": {"table": "t", "as_of": 50000000000}}"#, 1),
        (
            r#"{"downsample": {RANGE, "every": "1000y", "fields": ["v"], "aggregates": ["min", "max", "count", "last"]}}"#,
            0,
        ),
        (r#"{"downsample": {RANGE, "every": "1000y", "fields": ["v"]}}"#, 7),
        (r#"{"downsample": {RANGE, "every": "1000y", "fields": ["n"]}}"#, 7),
    ] {
        assert_eq!(loads(request), expected, "{request}");
    }
}

#[test]
fn stored_steps_are_read_in_the_place_of_rows() {
    let row = |i: i64| (i * 60 * SECOND, vec![Cell::F64(i as f64 * 0.1), Cell::I64(i), Cell::Null, Cell::Null]);
    let source = MemorySource::new(&FIELDS, vec![("truck", (0..3 * 1_440).map(row).collect())]);
    // Every step but those numbered 0 is stored.
    let source = source.with_steps(&[1_000], true, 1_000_000);
    let count = |request: &str| {
        let table = &source.tables["t"];
        let before = [&table.loads, &table.steps_loaded].map(|n| n.load(Ordering::Relaxed));
        let rows = ask(&source, request).unwrap().len();
        let after = [&table.loads, &table.steps_loaded].map(|n| n.load(Ordering::Relaxed));
        (rows, after[0] - before[0], after[1] - before[1])
    };
    let request = |every: &str, more: &str| {
        let day = 86_400 * SECOND;
        let (start, end) = (day, 3 * day);
        format!(r#"{{"downsample": {{"table": "t", "start": {start}, "end": {end}, "every": "{every}", {more}}}}}"#)
    };
    assert_eq!(count(&request("1h", r#""fields": ["v", "n"]"#)), (48, 0, 48));
    assert_eq!(count(&request("1h", r#""fields": ["v", "n"], "fill": "null""#)), (48, 0, 48));
    assert_eq!(count(&request("1d", r#""fields": ["v", "n"], "aggregates": ["mean", "last"]"#)), (2, 0, 2));
    assert_eq!(count(&request("1d", r#""fields": ["v"], "group": "all""#)), (2, 0, 2));
    // Berlin's days begin an hour before those of UTC: 23 hours of each are whole hours of UTC, and one is the day before.
    assert_eq!(count(&request("1d", r#""fields": ["v"], "timezone": "Europe/Berlin""#)), (3, 0, 48));
    assert_eq!(count(&request("1m", r#""fields": ["v"]"#)), (2_880, 0, 2_880));
    // An hour that is summed from its rows has no use for the sums of its minutes; for extremes any step serves.
    assert_eq!(count(&request("1h", r#""fields": ["v"], "origin": 1800000000000"#)).2, 48 * 60);
    assert_eq!(count(&request("1h", r#""fields": ["v"], "origin": 1800000000000, "aggregates": ["max"]"#)).2, 48 * 60);
    // Text is not kept.
    assert_eq!(count(&request("1h", r#""fields": ["s"], "aggregates": ["last"]"#)).2, 0);
    assert_eq!(count(&request("1h", r#""fields": ["s"], "aggregates": ["count"]"#)).2, 48);
    // Shorter than every step.
    assert_eq!(count(&request("30s", r#""fields": ["v"]"#)).2, 0);
}

#[test]
fn integer_sums_that_no_step_can_hold_are_added_from_rows() {
    let value = |i: i64| if i % 2 == 0 { i64::MAX } else { i64::MIN };
    let row = |i: i64| (i * 1_800 * SECOND, vec![Cell::Null, Cell::I64(value(i / 2)), Cell::Null, Cell::Null]);
    let source = MemorySource::new(&FIELDS, vec![("truck", (0..96).map(row).collect())]).with_steps(&[7], true, 1_000);
    let ask = |every: &str, from: i64| {
        let (start, end) = (from * 3_600 * SECOND, 48 * 3_600 * SECOND);
        let request = format!(
            r#"{{"downsample": {{"table": "t", "start": {start}, "end": {end}, "every": "{every}", "fields": ["n"], "aggregates": ["sum"]}}}}"#
        );
        ask(&source, &request)
    };
    assert!(matches!(ask("1h", 25), Err(QueryError::SumOverflow { .. })));
    // Each hour alone is beyond 64 bits, the day is not.
    assert_eq!(ask("1d", 24).unwrap()[0][2], Cell::I64(-24));
}
