//! Owns the figures of reading segments: decoding blocks out of mapped files, and leaving blocks out by their zone maps.
#![allow(missing_docs, reason = "a bench target")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidewell_benches::FIELDS;
use tidewell_benches::store::{Place, Store};
use tidewell_codec::Values;
use tidewell_engine::{Part, Rows, Scalar, TableView};

/// 30 days of one truck.
const ROWS: usize = 262_144;
const DEVICE: &str = "truck_0";
/// A slow walk, so that blocks differ.
const ELEVATION: usize = 2;

fn parts(table: &TableView, fields: &[usize]) -> Vec<Part> {
    table.scan(DEVICE, i64::MIN, i64::MAX, fields).expect("a good segment")
}

/// Finds, checks and decodes every block; the file is in the page cache.
fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    group.sample_size(30);
    for place in [Place::Hot, Place::Cold] {
        let store = Store::fleet(1, ROWS, place);
        let table = store.table();
        let figures = &store.engine().figures()[0];
        let cells = (ROWS * FIELDS.len()) as f64;
        eprintln!("{}: {:.3} bytes a value in segments", place.name(), figures.segment_bytes as f64 / cells);
        let all: Vec<usize> = (0..FIELDS.len()).collect();
        for (name, fields) in [("all_fields", &all[..]), ("one_field", &[ELEVATION])] {
            group.throughput(Throughput::Elements((ROWS * fields.len()) as u64));
            group.bench_function(BenchmarkId::new(name, place.name()), |b| {
                let mut rows = Rows::default();
                b.iter(|| {
                    let mut found = 0;
                    for part in parts(&table, fields) {
                        part.load(&mut rows).expect("a good block");
                        found += black_box(&rows).times.len();
                    }
                    assert_eq!(found, ROWS);
                });
            });
        }
    }
    group.finish();
}

fn highest(part: &Part) -> f64 {
    match part.stats(0).and_then(|stats| stats.max) {
        Some(Scalar::F64(max)) => max,
        other => panic!("a whole block has a zone map of a field of doubles, found {other:?}"),
    }
}

/// Rows above `bound`, in blocks that `worth_loading` lets through.
fn count_above(table: &TableView, bound: f64, rows: &mut Rows, worth_loading: impl Fn(&Part) -> bool) -> usize {
    let mut found = 0;
    for part in parts(table, &[ELEVATION]) {
        if worth_loading(&part) {
            part.load(rows).expect("a good block");
            let Values::F64(values) = &rows.columns[0].values else { panic!("elevation is f64") };
            found += values.iter().filter(|value| **value > bound).count();
        }
    }
    found
}

/// A bound that one block in eight reaches, with and without zone maps.
fn zone_maps(c: &mut Criterion) {
    let mut group = c.benchmark_group("zone_maps");
    group.sample_size(30);
    group.throughput(Throughput::Elements(ROWS as u64));
    for place in [Place::Hot, Place::Cold] {
        let store = Store::fleet(1, ROWS, place);
        let table = store.table();
        let mut peaks: Vec<f64> = parts(&table, &[ELEVATION]).iter().map(highest).collect();
        peaks.sort_unstable_by(|a, b| b.total_cmp(a));
        // The peak of the first block that stays out; the walk's upper end may be shared, so it need not be an eighth.
        let bound = peaks[peaks.len() / 8];
        let reached = peaks.iter().filter(|peak| **peak > bound).count();
        let mut rows = Rows::default();
        let expected = count_above(&table, bound, &mut rows, |_| true);
        eprintln!("{}: {reached} of {} blocks reach {bound}, {expected} rows", place.name(), peaks.len());
        group.bench_function(BenchmarkId::new("every_block", place.name()), |b| {
            b.iter(|| assert_eq!(count_above(&table, bound, &mut rows, |_| true), expected));
        });
        group.bench_function(BenchmarkId::new("skipping", place.name()), |b| {
            b.iter(|| assert_eq!(count_above(&table, bound, &mut rows, |part| highest(part) > bound), expected));
        });
    }
    group.finish();
}

criterion_group!(benches, decode, zone_maps);
criterion_main!(benches);
