//! Pins the bytes of column chunks: every kind in `docs/format/column.md` has a line in the fixture of its version.
//!
//! Each line is `name<TAB>tier<TAB>rows<TAB>hex`. Chunks of our own codecs are also encoded again and compared; pco and
//! zstd may find other bytes in a later release, as long as the old ones still decode.

use tidewell_codec::{Bitmap, Column, FieldType, Text, Tier, Values, decode_column, encode_column};

const VERSION_1: &str = include_str!("fixtures/column-v1.tsv");

/// A case: its name, the column, the tier that wrote it, and the kind bytes it has to start with.
struct Case {
    name: &'static str,
    column: Column,
    tier: Tier,
    starts: &'static [u8],
    /// Whether pco or zstd had a part in it.
    foreign: bool,
}

fn noise(index: usize) -> u64 {
    let x = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 2
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, values, tier, starts| {
        cases.push(Case { name, column: Column { values, validity: None }, tier, starts, foreign: false });
    };
    let ints = |count: usize, value: &dyn Fn(usize) -> i64| Values::I64((0..count).map(value).collect());
    let reals = |count: usize, value: &dyn Fn(usize) -> f64| Values::F64((0..count).map(value).collect());
    let bits = |count: usize, value: &dyn Fn(usize) -> bool| Values::Bool((0..count).map(value).collect());
    let text = |count: usize, value: &dyn Fn(usize) -> String| {
        let mut text = Text::default();
        (0..count).for_each(|i| text.push(&value(i)));
        Values::Utf8(text)
    };

    add("i64 plain", ints(3, &|i| [1, -2, i64::MIN][i]), Tier::Plain, &[0]);
    add("i64 constant", ints(100, &|_| -7), Tier::Hot, &[1]);
    add("i64 line", ints(100, &|i| 1_700_000_000_000 + 10_000 * i as i64), Tier::Hot, &[2]);
    add("i64 packed", ints(40, &|i| 1_000 + (noise(i) % 16) as i64), Tier::Hot, &[3]);
    add("i64 packed vector", ints(1_030, &|i| (noise(i) >> 30) as i64 % 4 - 1), Tier::Hot, &[3]);
    let spike = |i: usize| if i == 17 || i == 50 { -1_000_000 } else { (noise(i) % 8) as i64 };
    add("i64 packed exceptions", ints(80, &spike), Tier::Hot, &[3, 0x83]);
    add("i64 deltas", ints(40, &|i| 5_000 * i as i64 + (noise(i) % 30) as i64), Tier::Hot, &[4]);
    add("i64 deltas of deltas", ints(60, &|i| (7 * i * i) as i64 + (noise(i) % 2) as i64), Tier::Hot, &[5]);
    add("i64 scaled", ints(30, &|i| 1_000_000 * (noise(i) % 50) as i64 + 9), Tier::Hot, &[6]);
    add("i64 runs", ints(90, &|i| (noise(i / 20) % 6) as i64), Tier::Hot, &[7]);
    add("i64 dictionary", ints(70, &|i| noise((noise(i) >> 30) as usize % 5) as i64), Tier::Hot, &[8, 5]);
    add("f64 plain", reals(2, &|i| [-0.0, f64::NAN][i]), Tier::Plain, &[0]);
    add("f64 constant", reals(9, &|_| -0.0), Tier::Hot, &[1]);
    add("f64 ordered", reals(90, &|i| f64::sqrt(2.0 + (i / 30) as f64)), Tier::Hot, &[2]);
    add("f64 single", reals(20, &|i| f64::from((i as f32 / 7.0).sqrt())), Tier::Hot, &[3]);
    add("f64 split", reals(30, &|i| 1.0 + noise(i) as f64 / 2f64.powi(62)), Tier::Hot, &[4]);
    add("f64 decimal", reals(30, &|i| 20.0 + (noise(i) % 40) as f64 / 10.0), Tier::Hot, &[17]);
    add(
        "f64 decimal 15",
        reals(4, &|i| [0.123_456_789_012_345, 0.5, 0.123_456_789_012_346, 0.25][i]),
        Tier::Hot,
        &[31],
    );
    let holes = |i: usize| if i % 20 == 3 { f64::NAN } else { (noise(i) % 40) as f64 / 100.0 };
    add("f64 decimal patched", reals(50, &holes), Tier::Hot, &[34, 3]);
    add("f64 parts", reals(4_100, &|i| if i < 4_096 { 1.5 } else { 0.001 * i as f64 }), Tier::Hot, &[6, 17]);
    add("bool bitmap", bits(20, &|i| noise(i) % 4 < 2), Tier::Hot, &[0]);
    add("bool false", bits(20, &|_| false), Tier::Hot, &[1]);
    add("bool true", bits(20, &|_| true), Tier::Hot, &[2]);
    add("bool runs from false", bits(900, &|i| i / 100 % 2 == 1), Tier::Hot, &[3]);
    add("bool runs from true", bits(900, &|i| i / 101 % 2 == 0), Tier::Hot, &[4]);
    add("utf8 plain", text(3, &|i| ["a", "", "grün"][i].into()), Tier::Hot, &[0]);
    add("utf8 constant", text(30, &|_| "grün".into()), Tier::Hot, &[1]);
    add("utf8 dictionary", text(30, &|i| ["ENE", "NW", "S"][noise(i) as usize % 3].into()), Tier::Hot, &[2, 3]);
    for field_type in [FieldType::F64, FieldType::I64, FieldType::Bool, FieldType::Utf8] {
        let name = ["", "f64 all null", "i64 all null", "bool all null", "utf8 all null"][field_type as usize];
        let column = Column::nulls(field_type, 9);
        cases.push(Case { name, column, tier: Tier::Hot, starts: &[0x41], foreign: false });
    }
    let mut holey = Column { values: ints(10, &|i| i as i64 % 3), validity: Some(Bitmap::filled(10, true)) };
    if let (Values::I64(values), Some(validity)) = (&mut holey.values, &mut holey.validity) {
        values[4] = 0;
        validity.set(4, false);
    }
    cases.push(Case { name: "i64 some null", column: holey, tier: Tier::Hot, starts: &[0x40, 0], foreign: false });

    let mut add = |name, values, starts| {
        let column = Column { values, validity: None };
        cases.push(Case { name, column, tier: Tier::Cold, starts, foreign: true });
    };
    let skewed = |i: usize| (noise(i) % 30 * (noise(i + 1) % 30) / 30) as i64;
    add("i64 pco 1", ints(400, &skewed), &[9, 1]);
    add("i64 pco 2", ints(300, &|i| skewed(i) * skewed(i + 2) + skewed(i + 5)), &[9, 2]);
    add("i64 pco 4", ints(200, &|i| (1 << skewed(i)) + skewed(i + 3)), &[9, 4]);
    add("i64 pco 8", ints(200, &|i| (noise(i) >> (5 + 2 * skewed(i))) as i64), &[9, 8]);
    add("i64 planes", ints(500, &|i| (noise(i % 60) % 251) as i64), &[10, 1]);
    add("f64 pco", reals(300, &|i| (noise(i) % 100) as f64 / 3.0), &[5]);
    add("utf8 zstd", text(20, &|i| format!("message number {i} of the pump")), &[3]);

    let mut add = |name, values, starts| {
        let column = Column { values, validity: None };
        cases.push(Case { name, column, tier: Tier::Hot, starts, foreign: false });
    };
    let minutes = |i: usize| (318_637 + noise(i) % 90) as f64 / 1e4;
    add("f64 degrees", reals(30, &|i| -(minutes(i) * 1e4).round() / 60e4), &[52]);
    let lost = |i: usize| if i == 3 { f64::NAN } else { 72.0 + minutes(i) / 60.0 };
    add("f64 degrees patched", reals(40, &lost), &[60]);
    cases
}

fn encoded(case: &Case) -> Vec<u8> {
    let mut chunk = Vec::new();
    encode_column(&case.column, 0..case.column.len(), case.tier, &mut chunk);
    chunk
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn same(a: &Column, b: &Column) -> bool {
    match (&a.values, &b.values) {
        (Values::F64(x), Values::F64(y)) => {
            a.validity == b.validity && x.iter().map(|v| v.to_bits()).eq(y.iter().map(|v| v.to_bits()))
        }
        _ => a == b,
    }
}

#[test]
fn chunks_of_version_1_have_not_changed() {
    let mut lines = VERSION_1.lines();
    for case in cases() {
        let line = lines.next().unwrap_or_default();
        let fields: Vec<&str> = line.split('\t').collect();
        let rows = case.column.len();
        let [name, tier, stated_rows, bytes] = fields[..] else { panic!("no fixture for {}: {line:?}", case.name) };
        assert_eq!((name, tier, stated_rows), (case.name, &*format!("{:?}", case.tier), &*rows.to_string()));
        let chunk: Vec<u8> =
            (0..bytes.len()).step_by(2).map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap()).collect();
        assert!(chunk.starts_with(case.starts), "{name} starts with {:x?}", &chunk[..4.min(chunk.len())]);
        let back = decode_column(&chunk, case.column.field_type(), rows);
        assert!(back.as_ref().is_ok_and(|back| same(back, &case.column)), "{name}: {:?}", back.err());
        if !case.foreign {
            assert_eq!(hex(&encoded(&case)), bytes, "{name}");
        }
    }
    assert_eq!(lines.next(), None);
}

/// Writes the fixture; to be run once for a new version of the format, never to make a failing test pass.
#[test]
#[ignore = "writes tests/fixtures"]
fn write_fixture() {
    let lines: String = cases()
        .iter()
        .map(|case| format!("{}\t{:?}\t{}\t{}\n", case.name, case.tier, case.column.len(), hex(&encoded(case))))
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/column-v1.tsv");
    std::fs::write(path, lines).unwrap();
}
