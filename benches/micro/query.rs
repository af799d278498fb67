//! Owns the figures of questions: downsampling and thresholds over decoded rows, and whole questions over an engine.
#![allow(missing_docs, reason = "a bench target")]

mod decoded;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use decoded::Decoded;
use tidewell_benches::START_NS;
use tidewell_benches::store::{Place, Store, end_ns};
use tidewell_query::source::Source;
use tidewell_query::{Query, QueryLimits, QueryOptions, Request};

/// 30 days of one truck.
const ROWS: usize = 259_200;
/// 6 hours of each truck of a fleet.
const FLEET_ROWS: usize = 2_160;
/// Twenty minutes of each truck of a large fleet.
const LATEST_ROWS: usize = 120;
const PLACES: [Place; 3] = [Place::Memory, Place::Hot, Place::Cold];

/// Asks, and counts the rows of the answer.
fn ask<S: Source>(source: &S, request: &Request, threads: usize) -> usize {
    let limits = QueryLimits { threads, ..QueryLimits::default() };
    let query = Query::prepare(source, request, QueryOptions { limits, ..QueryOptions::default() });
    let answer = query.and_then(Query::run).expect("a good request");
    answer.map(|batch| batch.expect("good blocks").rows).sum()
}

fn downsample(every: &str, aggregates: &str) -> Request {
    let end = end_ns(ROWS);
    let json = format!(
        r#"{{"downsample": {{"table": "readings", "start": {START_NS}, "end": {end}, "every": "{every}",
            "fields": ["velocity"], "aggregates": {aggregates}}}}}"#
    );
    Request::parse(json.as_bytes()).expect("a good request")
}

fn threshold(steps: usize, condition: &str) -> Request {
    let end = end_ns(steps);
    let json = format!(
        r#"{{"threshold": {{"table": "readings", "start": {START_NS}, "end": {end}, "where": "{condition}",
            "for": "1m", "max_gap": "30s"}}}}"#
    );
    Request::parse(json.as_bytes()).expect("a good request")
}

/// Windows and aggregates alone: blocks of decoded columns without statistics, one thread.
fn kernels(c: &mut Criterion) {
    let mut group = c.benchmark_group("kernel");
    group.sample_size(30);
    group.throughput(Throughput::Elements(ROWS as u64));
    let decoded = Decoded::of(&Store::fleet(1, ROWS, Place::Hot).table());
    for (name, aggregates) in [("mean", r#"["mean"]"#), ("min_mean_max", r#"["min", "mean", "max"]"#)] {
        for (every, windows) in [("1m", 43_200), ("1h", 720)] {
            let request = downsample(every, aggregates);
            group.bench_function(BenchmarkId::new(format!("downsample_{name}"), every), |b| {
                b.iter(|| assert_eq!(ask(&decoded, &request, 1), windows));
            });
        }
    }
    let conditions =
        [("one_field", "velocity > 95"), ("two_fields", "velocity > 80 AND status = 2"), ("never", "velocity > 200")];
    for (name, condition) in conditions {
        let request = threshold(ROWS, condition);
        let intervals = ask(&decoded, &request, 1);
        eprintln!("{condition}: {intervals} intervals");
        group.bench_function(BenchmarkId::new("threshold", name), |b| {
            b.iter(|| assert_eq!(ask(&decoded, &request, 1), intervals));
        });
    }
    group.finish();
}

/// One device's 30 days, from the request to the last batch. A day's maximum comes mostly out of zone maps.
fn one_device(c: &mut Criterion) {
    let mut group = c.benchmark_group("downsample");
    group.sample_size(30);
    group.throughput(Throughput::Elements(ROWS as u64));
    for place in PLACES {
        let store = Store::fleet(1, ROWS, place);
        let snapshot = store.snapshot();
        let questions = [
            ("mean_1m", "1m", r#"["mean"]"#, 43_200),
            ("mean_1h", "1h", r#"["mean"]"#, 720),
            ("min_mean_max_1h", "1h", r#"["min", "mean", "max"]"#, 720),
            ("max_1d", "1d", r#"["max"]"#, 30),
        ];
        for (name, every, aggregates, windows) in questions {
            let request = downsample(every, aggregates);
            group.bench_function(BenchmarkId::new(name, place.name()), |b| {
                b.iter(|| assert_eq!(ask(&snapshot, &request, 1), windows));
            });
        }
    }
    group.finish();
}

/// Intervals of a whole fleet, on one thread and on two.
fn fleet(c: &mut Criterion) {
    let mut group = c.benchmark_group("threshold");
    group.sample_size(20);
    for devices in [100, 1_000] {
        group.throughput(Throughput::Elements((devices * FLEET_ROWS) as u64));
        for place in PLACES {
            let store = Store::fleet(devices, FLEET_ROWS, place);
            let snapshot = store.snapshot();
            for (name, condition) in [("some", "velocity > 80 AND status = 2"), ("never", "velocity > 200")] {
                let request = threshold(FLEET_ROWS, condition);
                let intervals = ask(&snapshot, &request, 1);
                eprintln!("{devices} devices, {condition}: {intervals} intervals");
                for threads in [1, 2] {
                    let id = BenchmarkId::new(format!("{name}_{}_{threads}_threads", place.name()), devices);
                    group.bench_function(id, |b| {
                        b.iter(|| assert_eq!(ask(&snapshot, &request, threads), intervals));
                    });
                }
            }
        }
    }
    group.finish();
}

/// The newest row of every device.
fn latest(c: &mut Criterion) {
    let mut group = c.benchmark_group("latest");
    group.sample_size(20);
    let request = Request::parse(br#"{"latest": {"table": "readings", "fields": ["velocity", "fuel_state"]}}"#);
    let request = request.expect("a good request");
    for devices in [1_000, 10_000] {
        group.throughput(Throughput::Elements(devices as u64));
        for place in [Place::Memory, Place::Hot, Place::Cold, Place::Mixed] {
            let store = Store::fleet(devices, LATEST_ROWS, place);
            let snapshot = store.snapshot();
            for threads in [1, 2] {
                let id = BenchmarkId::new(format!("{}_{threads}_threads", place.name()), devices);
                group.bench_function(id, |b| {
                    b.iter(|| assert_eq!(ask(&snapshot, &request, threads), devices));
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, kernels, one_device, fleet, latest);
criterion_main!(benches);
