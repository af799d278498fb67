//! Owns the figures of the column codecs: both ways, both tiers, on the shapes that telemetry has.
#![allow(missing_docs, reason = "a bench target")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidewell_benches::{Random, START_NS, STEP_NS};
use tidewell_codec::{
    Bitmap, Column, Text, Tier, Values, decode_column_into, decode_times_into, encode_column, encode_times,
};

const ROWS: usize = 4_096;
const TIERS: [(Tier, &str, &str); 2] =
    [(Tier::Hot, "encode_hot", "decode_hot"), (Tier::Cold, "encode_cold", "decode_cold")];

/// Values that walk by up to `range` steps of 10^-`decimals`.
fn walk(decimals: i32, range: i64) -> Values {
    let mut random = Random::new(decimals as u64);
    let (mut at, scale) = (20_000i64, 10f64.powi(decimals));
    let steps = std::iter::repeat_with(|| {
        at += random.around_zero(range);
        at as f64 / scale
    });
    Values::F64(steps.take(ROWS).collect())
}

/// Values that stay with a chance of `10_000 - per_10_000` in 10,000, else become one of `count`.
fn sticky(seed: u64, count: u64, per_10_000: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    let mut at = 0;
    let steps = std::iter::repeat_with(|| {
        if random.chance(per_10_000) {
            at = random.bits() % count;
        }
        at
    });
    steps.take(ROWS).collect()
}

fn columns() -> Vec<(&'static str, Values)> {
    let mut random = Random::new(7);
    let smooth = (0..ROWS).map(|i| {
        let noise = random.around_zero(1_000) as f32 * 1e-5;
        f64::from(20.0 + 5.0 * (i as f32 / 300.0).sin() + noise)
    });
    let smooth = Values::F64(smooth.collect());
    // An exponent of 0 and 52 random bits: nothing to find.
    let noise = (0..ROWS).map(|_| f64::from_bits(0x3ff0_0000_0000_0000 | random.bits() >> 12));
    let noise = Values::F64(noise.collect());
    let mut total = 1_000_000;
    let counter = std::iter::repeat_with(|| {
        total += 50 + random.around_zero(50);
        total
    });
    let counter = Values::I64(counter.take(ROWS).collect());
    let mut text = Text::default();
    const WINDS: [&str; 16] =
        ["N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW"];
    sticky(3, 16, 3_000).into_iter().for_each(|at| text.push(WINDS[at as usize]));
    vec![
        ("decimal_1", walk(1, 10)),
        ("decimal_2", walk(2, 50)),
        ("decimal_5", walk(5, 150)),
        ("f32_smooth", smooth),
        ("noise", noise),
        ("sticky_gauge", Values::F64(sticky(1, 1_000, 100).into_iter().map(|v| v as f64 / 10.0).collect())),
        ("counter", counter),
        ("enum_runs", Values::I64(sticky(2, 6, 100).into_iter().map(|v| v as i64).collect())),
        ("bool", Values::Bool(sticky(4, 2, 400).into_iter().map(|v| v == 1).collect::<Bitmap>())),
        ("text", Values::Utf8(text)),
    ]
}

fn times() -> Vec<(&'static str, Vec<i64>)> {
    let mut random = Random::new(9);
    let fixed = |i: usize| START_NS + i as i64 * STEP_NS;
    // Microseconds from a clock that wakes up to half a millisecond early or late.
    let mut jitter = |i| fixed(i) + random.around_zero(500) * 1_000;
    vec![("time_fixed", (0..ROWS).map(fixed).collect()), ("time_jitter", (0..ROWS).map(&mut jitter).collect())]
}

fn clear(column: &mut Column) {
    column.validity = None;
    match &mut column.values {
        Values::F64(v) => v.clear(),
        Values::I64(v) => v.clear(),
        Values::Bool(v) => v.clear(),
        Values::Utf8(v) => v.clear(),
    }
}

fn report(name: &str, tier: Tier, bytes: usize) {
    eprintln!("{name} {tier:?}: {:.3} bytes a value", bytes as f64 / ROWS as f64);
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, values) in columns() {
        let column = Column { values, validity: None };
        let field_type = column.field_type();
        for (tier, encode, decode) in TIERS {
            let mut chunk = Vec::new();
            encode_column(&column, 0..ROWS, tier, &mut chunk);
            report(name, tier, chunk.len());
            group.bench_function(BenchmarkId::new(encode, name), |b| {
                let mut out = Vec::new();
                b.iter(|| {
                    out.clear();
                    encode_column(black_box(&column), 0..ROWS, tier, &mut out);
                    assert_eq!(out.len(), chunk.len());
                });
            });
            group.bench_function(BenchmarkId::new(decode, name), |b| {
                let mut out = Column::new(field_type);
                b.iter(|| {
                    clear(&mut out);
                    decode_column_into(black_box(&chunk), field_type, ROWS, &mut out).expect("a good chunk");
                    assert_eq!(out.len(), ROWS);
                });
                assert!(out == column, "{name}: other values than were encoded");
            });
        }
    }
    for (name, times) in times() {
        for (tier, encode, decode) in TIERS {
            let mut chunk = Vec::new();
            encode_times(&times, tier, &mut chunk);
            report(name, tier, chunk.len());
            group.bench_function(BenchmarkId::new(encode, name), |b| {
                let mut out = Vec::new();
                b.iter(|| {
                    out.clear();
                    encode_times(black_box(&times), tier, &mut out);
                    assert_eq!(out.len(), chunk.len());
                });
            });
            group.bench_function(BenchmarkId::new(decode, name), |b| {
                let mut out = Vec::new();
                b.iter(|| {
                    out.clear();
                    decode_times_into(black_box(&chunk), ROWS, &mut out).expect("a good chunk");
                    assert_eq!(out.len(), ROWS);
                });
                assert!(out == times, "{name}: other times than were encoded");
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = codec
}
criterion_main!(benches);
