//! Tests of a batch's bytes: round trips, bounds, hostile bytes.

use super::*;
use crate::chunk::Tier;
use crate::column::{Bitmap, FieldType, Text, Values};
use proptest::prelude::*;

fn column(values: Values) -> Column {
    Column { values, validity: None }
}

fn field(name: &str, column: Column) -> BatchField {
    BatchField { name: name.into(), column }
}

/// Three devices, every type, nulls.
fn sample() -> Batch {
    let mut devices = DeviceRuns::default();
    devices.push("truck_1", 2);
    devices.push("truck_2", 1);
    devices.push("grün", 1);
    devices.push("truck_1", 1);
    let mut text = Text::default();
    ["a", "", "ccc", "d", "ü"].iter().for_each(|t| text.push(t));
    let mut nulls = column(Values::I64(vec![1, 0, 3, 0, i64::MIN]));
    nulls.validity = Some([true, false, true, false, true].into_iter().collect());
    Batch {
        table: "readings".into(),
        devices,
        times: vec![3, 1, i64::MAX, i64::MIN, 0],
        fields: vec![
            field("velocity", column(Values::F64(vec![1.5, -0.0, f64::INFINITY, 4.0, 1e300]))),
            field("_n.x-1", nulls),
            field("on", column(Values::Bool(Bitmap::filled(5, true)))),
            field("note", column(Values::Utf8(text))),
        ],
    }
}

fn encoded(batch: &Batch, tier: Tier) -> Vec<u8> {
    let mut out = Vec::new();
    encode_batch(batch, tier, &mut out);
    out
}

#[test]
fn a_batch_comes_back_in_every_tier() {
    let batch = sample();
    batch.check(&BatchLimits::default()).unwrap();
    for tier in [Tier::Plain, Tier::Hot, Tier::Cold] {
        let bytes = encoded(&batch, tier);
        assert_eq!(decode_batch(&bytes, &BatchLimits::default()).unwrap(), batch);
        let head = peek_batch(&bytes, &BatchLimits::default()).unwrap();
        assert_eq!((head.table, head.rows, &head.devices), ("readings", 5, &batch.devices));
        let names: Vec<_> = head.fields.iter().map(|f| (f.name, f.field_type)).collect();
        let types = [FieldType::F64, FieldType::I64, FieldType::Bool, FieldType::Utf8];
        assert_eq!(names, ["velocity", "_n.x-1", "on", "note"].into_iter().zip(types).collect::<Vec<_>>());
    }
}

#[test]
fn runs_give_devices_and_their_rows() {
    let runs = sample().devices;
    let all: Vec<_> = runs.iter().collect();
    assert_eq!(all, [("truck_1", 0..2), ("truck_2", 2..3), ("grün", 3..4), ("truck_1", 4..5)]);
    assert_eq!(runs.get(2), ("grün", 1));
    assert_eq!(runs.rows(), 5);
}

#[test]
fn a_thousand_devices_with_a_row_each_are_cheap() {
    let mut devices = DeviceRuns::default();
    (0..1_000).for_each(|i| devices.push(&format!("fleet-north/truck_{i:06}"), 1));
    let batch = Batch {
        table: "readings".into(),
        devices,
        times: vec![7; 1_000],
        fields: vec![field("v", column(Values::F64(vec![1.0; 1_000])))],
    };
    let bytes = encoded(&batch, Tier::Plain);
    let ids = bytes.len() - 1_000 * 16;
    assert!(ids < 3_400, "{ids} bytes for 1,000 ids of 24 bytes");
    assert_eq!(decode_batch(&bytes, &BatchLimits::default()).unwrap(), batch);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = encoded(&sample(), Tier::Hot);
    for end in 0..bytes.len() {
        assert!(decode_batch(&bytes[..end], &BatchLimits::default()).is_err(), "{end} of {}", bytes.len());
    }
    let mut longer = bytes;
    longer.push(0);
    let error = decode_batch(&longer, &BatchLimits::default()).unwrap_err();
    assert!(error.to_string().contains("left over"), "{error}");
}

#[test]
fn no_flipped_bit_panics() {
    for tier in [Tier::Plain, Tier::Hot, Tier::Cold] {
        let bytes = encoded(&sample(), tier);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(batch) = decode_batch(&bad, &BatchLimits::default()) {
                batch.check(&BatchLimits::default()).unwrap();
            }
        }
    }
}

#[test]
fn names_are_checked_at_both_ends() {
    let limits = BatchLimits::default();
    let long = "x".repeat(129);
    for bad in ["", "1a", "-a", "a b", "grün", "a\u{0}", &long, "."] {
        let mut batch = sample();
        batch.table = bad.into();
        assert!(matches!(batch.check(&limits), Err(BatchError::Name { what: "table", .. })), "{bad:?}");
        assert!(decode_batch(&encoded(&batch, Tier::Plain), &limits).is_err(), "{bad:?}");
        let mut batch = sample();
        batch.fields[1].name = bad.into();
        assert!(matches!(batch.check(&limits), Err(BatchError::Name { what: "field", .. })), "{bad:?}");
        assert!(decode_batch(&encoded(&batch, Tier::Plain), &limits).is_err(), "{bad:?}");
    }
    let long = "d".repeat(257);
    for bad in ["", "a\nb", "\u{85}", &long] {
        let mut batch = sample();
        batch.devices = DeviceRuns::single(bad, 5);
        assert!(matches!(batch.check(&limits), Err(BatchError::Name { what: "device", .. })), "{bad:?}");
        assert!(decode_batch(&encoded(&batch, Tier::Plain), &limits).is_err(), "{bad:?}");
    }
    let mut batch = sample();
    batch.fields[0].name = "time".into();
    let error = decode_batch(&encoded(&batch, Tier::Plain), &limits).unwrap_err();
    assert!(error.to_string().contains("\"time\"") && batch.check(&limits).is_err(), "{error}");
}

#[test]
fn a_field_appears_once() {
    let limits = BatchLimits::default();
    let mut batch = sample();
    batch.fields[2].name = "velocity".into();
    assert!(matches!(batch.check(&limits), Err(BatchError::Duplicate { .. })));
    let error = decode_batch(&encoded(&batch, Tier::Plain), &limits).unwrap_err();
    assert!(matches!(&error, BatchError::Duplicate { field, .. } if field == "velocity"), "{error}");
    // Many fields take another path.
    let fields = (0..40).map(|i| field(&format!("f{}", i % 39), column(Values::I64(vec![0; 5])))).collect();
    batch.fields = fields;
    let error = decode_batch(&encoded(&batch, Tier::Plain), &limits).unwrap_err();
    assert!(matches!(&error, BatchError::Duplicate { field, .. } if field == "f0"), "{error}");
}

#[test]
fn limits_are_held() {
    let bytes = encoded(&sample(), Tier::Plain);
    let all = BatchLimits::default();
    for (limits, what) in [
        (BatchLimits { rows: 4, ..all }, "rows"),
        (BatchLimits { devices: 3, ..all }, "device runs"),
        (BatchLimits { device_bytes: 20, ..all }, "bytes of device ids"),
        (BatchLimits { fields: 3, ..all }, "fields"),
        (BatchLimits { cells: 19, ..all }, "rows times fields"),
    ] {
        for error in [decode_batch(&bytes, &limits).unwrap_err(), sample().check(&limits).unwrap_err()] {
            assert!(error.is_limit() && error.to_string().starts_with(what), "{what}: {error}");
        }
    }
    let error = decode_batch(&bytes, &BatchLimits { payload: bytes.len() - 1, ..all }).unwrap_err();
    assert!(error.to_string().starts_with("payload bytes"), "{error}");
}

#[test]
fn little_text_that_decodes_to_much_is_refused() {
    let rows = 1_000;
    let mut text = Text::default();
    (0..rows).for_each(|_| text.push(&"x".repeat(1_000)));
    let fields = (0..20).map(|i| field(&format!("f{i}"), column(Values::Utf8(text.clone())))).collect();
    let devices = DeviceRuns::single("d", rows as u32);
    let batch = Batch { table: "t".into(), devices, times: vec![0; rows], fields };
    let bytes = encoded(&batch, Tier::Hot);
    assert!(bytes.len() < 100_000, "{}", bytes.len());
    assert_eq!(decode_batch(&bytes, &BatchLimits::default()).unwrap().rows(), rows);
    let error = decode_batch(&bytes, &BatchLimits { decoded: 10 << 20, ..BatchLimits::default() }).unwrap_err();
    assert!(error.is_limit() && error.to_string().starts_with("bytes of decoded columns"), "{error}");
}

#[test]
fn rows_must_add_up() {
    let batch = Batch {
        table: "t".into(),
        devices: DeviceRuns::single("d", 2),
        times: vec![1, 2],
        fields: vec![field("v", column(Values::I64(vec![1, 2])))],
    };
    let bytes = encoded(&batch, Tier::Plain);
    // version, "t", rows, runs, mode, shared, length, "d"
    assert_eq!(bytes[..9], [1, 1, b't', 2, 1, 1, 0, 1, b'd']);
    let decode = |bytes: &[u8]| decode_batch(bytes, &BatchLimits::default());
    let mut zero_runs = bytes.clone();
    zero_runs[4] = 0;
    assert!(matches!(decode(&zero_runs), Err(BatchError::Empty { .. })));
    let mut each = bytes.clone();
    each.splice(5..6, [0, 1]);
    let error = decode(&each).unwrap_err();
    assert_eq!(error, BatchError::Rows { what: "device runs", expected: 2, found: 1 });
    let mut no_rows = bytes;
    no_rows[3] = 0;
    assert!(matches!(decode(&no_rows), Err(BatchError::Empty { .. })));
}

#[test]
fn an_id_may_not_be_cut_inside_a_character() {
    let batch = Batch {
        table: "t".into(),
        devices: DeviceRuns::single("ü", 1),
        times: vec![1],
        fields: vec![field("v", column(Values::I64(vec![1])))],
    };
    let bytes = encoded(&batch, Tier::Plain);
    let mut two = bytes.clone();
    // Two runs of two rows in all: "ü", then its first byte alone.
    two.splice(3..10, [2, 2, 1, 0, 2, 0xc3, 0xbc, 1, 0]);
    let error = peek_batch(&two, &BatchLimits::default()).unwrap_err();
    assert!(matches!(error, BatchError::Name { what: "device", .. }), "{error}");
    // Sharing half a character with the id before is fine when the rest completes it.
    let mut runs = DeviceRuns::single("ü", 1);
    runs.push("ö", 1);
    let batch =
        Batch { devices: runs, times: vec![1, 2], fields: vec![field("v", column(Values::I64(vec![1, 2])))], ..batch };
    assert_eq!(decode_batch(&encoded(&batch, Tier::Plain), &BatchLimits::default()).unwrap(), batch);
}

#[test]
fn shards_are_pinned() {
    // xxh3_64 with seed 0: these numbers are part of the protocol.
    let shards: Vec<u32> = ["truck_1", "truck_2", "truck_3", "grün", ""].iter().map(|d| shard_of(d, 8)).collect();
    assert_eq!(shards, PINNED);
    let mut runs = DeviceRuns::single("truck_1", 1);
    assert_eq!(runs.shard(8), Ok(PINNED[0]));
    runs.push("truck_2", 1);
    let error = runs.shard(1 << 20).unwrap_err();
    assert!(error.to_string().contains("\"truck_1\"") && error.to_string().contains("\"truck_2\""), "{error}");
    assert_eq!(runs.shard(1), Ok(0));
}

const PINNED: [u32; 5] = [6, 5, 2, 3, 2];

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_batch(&bytes, &BatchLimits::default());
        let mut framed = vec![BATCH_VERSION, 1, b't'];
        framed.extend(&bytes);
        let _ = decode_batch(&framed, &BatchLimits::default());
    }

    #[test]
    fn any_batch_comes_back(
        runs in proptest::collection::vec(("[a-z]{1,3}(é[0-9])?", 1u32..5), 1..20),
        types in proptest::collection::vec(0u8..4, 1..20),
        seed in any::<u64>(),
    ) {
        let mut devices = DeviceRuns::default();
        runs.iter().for_each(|(device, rows)| devices.push(device, *rows));
        let rows = devices.rows();
        let mut state = seed | 1;
        let mut random = || { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state };
        let times = (0..rows).map(|_| random() as i64).collect();
        let mut fields = Vec::new();
        for (index, field_type) in types.iter().enumerate() {
            let values = match field_type {
                0 => Values::F64((0..rows).map(|_| (random() % 1_000) as f64 / 10.0).collect()),
                1 => Values::I64((0..rows).map(|_| random() as i64 >> (index * 3)).collect()),
                2 => Values::Bool((0..rows).map(|_| random() % 3 == 0).collect()),
                _ => {
                    let mut text = Text::default();
                    (0..rows).for_each(|_| text.push(&"xyz"[..(random() % 4) as usize]));
                    Values::Utf8(text)
                }
            };
            fields.push(field(&format!("f{index}"), column(values)));
        }
        let batch = Batch { table: "t".into(), devices, times, fields };
        batch.check(&BatchLimits::default()).unwrap();
        for tier in [Tier::Plain, Tier::Hot, Tier::Cold] {
            prop_assert_eq!(&decode_batch(&encoded(&batch, tier), &BatchLimits::default()).unwrap(), &batch);
        }
    }
}
