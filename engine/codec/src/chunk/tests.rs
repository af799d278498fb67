//! Round trips over many shapes, hostile bytes, and the bytes themselves.

use proptest::prelude::*;

use super::*;

const TIERS: [Tier; 3] = [Tier::Plain, Tier::Hot, Tier::Cold];

/// A generator whose seed is in the test that uses it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0 ^ self.0 >> 33;
        x.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ x >> 29
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn real_shapes(count: usize) -> Vec<(&'static str, Vec<f64>)> {
    let mut random = Random(count as u64 + 1);
    let mut walk = |step: f64, digits: i32| -> Vec<f64> {
        let mut n = 2_150i64;
        (0..count)
            .map(|_| {
                n += random.below(21) as i64 - 10;
                (n as f64 * step) / 10f64.powi(digits)
            })
            .collect()
    };
    let one = walk(1.0, 1);
    let five = walk(1.0, 5);
    let adc = walk(0.0625, 0);
    let mut sticky = one.clone();
    (1..count).for_each(|i| sticky[i] = if i % 23 == 0 { one[i] } else { sticky[i - 1] });
    let mut holes = one.clone();
    (0..count).step_by(37).for_each(|i| holes[i] = [f64::NAN, -0.0, f64::INFINITY, 0.123_456_7, 1e300][i % 5]);
    let smooth: Vec<f64> = (0..count).map(|i| (i as f64 / 100.0).sin()).collect();
    let single: Vec<f64> = smooth.iter().map(|v| f64::from(*v as f32)).collect();
    let noise: Vec<f64> = (0..count).map(|_| f64::from_bits(random.next())).collect();
    let narrow: Vec<f64> = (0..count).map(|_| 1.0 + random.below(1 << 50) as f64 / (1u64 << 50) as f64).collect();
    let few: Vec<f64> = (0..count).map(|_| f64::sqrt(2.0 + random.below(7) as f64)).collect();
    let parked: Vec<f64> = (0..count).map(|i| f64::sqrt(2.0 + (i / 50) as f64)).collect();
    vec![
        ("one digit", one),
        ("five digits", five),
        ("adc", adc),
        ("sticky", sticky),
        ("holes", holes),
        ("smooth", smooth),
        ("single", single),
        ("noise", noise),
        ("narrow", narrow),
        ("few", few),
        ("parked", parked),
        ("constant", vec![21.5; count]),
        ("constant odd", vec![0.1 + 0.2; count]),
        ("nan", vec![f64::from_bits(0xfff8_0000_dead_beef); count]),
        ("minus zero", vec![-0.0; count]),
        ("counter", (0..count).map(|i| i as f64).collect()),
    ]
}

fn integer_shapes(count: usize) -> Vec<(&'static str, Vec<i64>)> {
    let mut random = Random(count as u64 + 2);
    let n = count as i64;
    vec![
        ("constant", vec![7; count]),
        ("line", (0..n).map(|i| 1_700_000_000_000 + i * 10_000).collect()),
        ("jitter ms", (0..n).map(|i| 1_700_000_000_000 + i * 10_000 + random.below(40) as i64).collect()),
        (
            "jitter ms in ns",
            (0..n).map(|i| (1_700_000_000_000 + i * 1_000 + random.below(40) as i64) * 1_000_000).collect(),
        ),
        (
            "counter",
            (0..n)
                .scan(0, |sum, _| {
                    *sum += random.below(2_000) as i64;
                    Some(*sum)
                })
                .collect(),
        ),
        ("counts", (0..n).map(|_| random.below(50) as i64).collect()),
        ("states", (0..n).map(|i| [3, 900, -4, i64::MAX][(i / 50 % 4) as usize]).collect()),
        ("far apart", (0..n).map(|_| [i64::MIN, 0, 5_000_000_007, i64::MAX][random.below(4) as usize]).collect()),
        ("noise", (0..n).map(|_| random.next() as i64).collect()),
        ("spikes", (0..n).map(|i| if i % 100 == 99 { random.next() as i64 } else { i % 4 }).collect()),
        ("squares", (0..n).map(|i| i * i * 3).collect()),
    ]
}

fn text_shapes(count: usize) -> Vec<(&'static str, Vec<String>)> {
    let mut random = Random(count as u64 + 3);
    vec![
        ("constant", vec!["grün".to_string(); count]),
        ("states", (0..count).map(|_| ["idle", "running", "", "störung"][random.below(4) as usize].into()).collect()),
        ("distinct", (0..count).map(|i| format!("trip {i} of bike {}", random.below(1_000))).collect()),
        ("ids", (0..count).map(|_| format!("{:016x}", random.next())).collect()),
    ]
}

/// Every shape as a column, without nulls and with nulls of several densities.
fn columns(count: usize) -> Vec<(String, Column)> {
    let mut all: Vec<(String, Values)> = Vec::new();
    all.extend(real_shapes(count).into_iter().map(|(name, v)| (format!("f64 {name}"), Values::F64(v))));
    all.extend(integer_shapes(count).into_iter().map(|(name, v)| (format!("i64 {name}"), Values::I64(v))));
    all.extend(text_shapes(count).into_iter().map(|(name, strings)| {
        let mut text = Text::default();
        strings.iter().for_each(|s| text.push(s));
        (format!("utf8 {name}"), Values::Utf8(text))
    }));
    for period in [1, 3, 200, usize::MAX] {
        let bits = (0..count).map(|i| i / period % 2 == 0).collect();
        all.push((format!("bool period {period}"), Values::Bool(bits)));
    }
    let mut columns = Vec::new();
    for (name, values) in all {
        let full = Column { values, validity: None };
        for keep in [2usize, 50] {
            let mut holey = Column::new(full.field_type());
            for row in 0..count {
                // Long holes for the sparse case, single ones for the dense case.
                if (keep == 2 && row / 40 % 2 == 0) || (keep == 50 && row % 50 != 7) {
                    holey.extend_from(&full, row..row + 1);
                } else {
                    holey.extend_nulls(1);
                }
            }
            columns.push((format!("{name}, holes {keep}"), holey));
        }
        columns.push((format!("{name}, all null"), Column::nulls(full.field_type(), count)));
        columns.push((name, full));
    }
    columns
}

/// Bits of doubles, so that NaN compares.
fn same(a: &Column, b: &Column) -> bool {
    let (mut a, mut b) = (a.clone(), b.clone());
    a.normalise();
    b.normalise();
    a.validity == b.validity
        && match (&a.values, &b.values) {
            (Values::F64(a), Values::F64(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
            (a, b) => a == b,
        }
}

fn encoded(column: &Column, tier: Tier) -> Vec<u8> {
    let mut out = Vec::new();
    encode_column(column, 0..column.len(), tier, &mut out);
    out
}

#[test]
fn every_shape_comes_back_from_every_tier() {
    for count in [1, 2, 3, 10, 64, 100, 1_000, 1_025, 4_096] {
        for (name, column) in columns(count) {
            for tier in TIERS {
                let chunk = encoded(&column, tier);
                let back = decode_column(&chunk, column.field_type(), count);
                assert!(
                    back.as_ref().is_ok_and(|back| same(back, &column)),
                    "{name} x {count} {tier:?}: {:?}",
                    back.err()
                );
                let raw = column.memory_bytes() + 16 + count / 8;
                assert!(chunk.len() <= raw, "{name} x {count} {tier:?}: {} bytes", chunk.len());
            }
        }
    }
}

#[test]
fn ranges_are_encoded_as_if_they_were_columns() {
    for (name, column) in columns(100) {
        for range in [0..0, 0..100, 3..50, 17..18, 64..100] {
            let mut part = Column::new(column.field_type());
            part.extend_from(&column, range.clone());
            let mut chunk = Vec::new();
            encode_column(&column, range.clone(), Tier::Hot, &mut chunk);
            let back = decode_column(&chunk, column.field_type(), range.len()).unwrap();
            assert!(same(&back, &part), "{name} {range:?}");
        }
    }
}

#[test]
fn decoding_appends_to_what_is_there() {
    for (name, column) in columns(70) {
        let chunk = encoded(&column, Tier::Hot);
        for before in [Column::nulls(column.field_type(), 3), Column::new(column.field_type()), column.clone()] {
            let mut expected = before.clone();
            expected.extend_from(&column, 0..70);
            let mut into = before;
            decode_column_into(&chunk, column.field_type(), 70, &mut into).unwrap();
            assert!(same(&into, &expected), "{name}");
        }
        let mut other =
            Column::new(if column.field_type() == FieldType::F64 { FieldType::I64 } else { FieldType::F64 });
        assert!(matches!(
            decode_column_into(&chunk, column.field_type(), 70, &mut other),
            Err(CodecError::WrongColumn { .. })
        ));
    }
}

#[test]
fn cut_and_extended_chunks_are_refused() {
    for (name, column) in columns(300) {
        for tier in TIERS {
            let mut chunk = encoded(&column, tier);
            for len in (0..chunk.len()).step_by(1 + chunk.len() / 200) {
                assert!(
                    decode_column(&chunk[..len], column.field_type(), 300).is_err(),
                    "{name} {tier:?} cut at {len}"
                );
            }
            chunk.push(0);
            assert!(decode_column(&chunk, column.field_type(), 300).is_err(), "{name} {tier:?} with one byte more");
        }
    }
}

#[test]
fn flipped_bits_never_panic_and_never_change_the_number_of_rows() {
    for count in [40, 1_100] {
        for (_, column) in columns(count) {
            for tier in TIERS {
                let chunk = encoded(&column, tier);
                // Headers in full, the packed rest at intervals.
                let tail = (64..chunk.len()).step_by(1 + chunk.len() / 40);
                for at in (0..chunk.len().min(64)).chain(tail) {
                    for bit in 0..8 {
                        let mut bad = chunk.clone();
                        bad[at] ^= 1 << bit;
                        for field_type in [column.field_type(), FieldType::I64] {
                            if let Ok(back) = decode_column(&bad, field_type, count) {
                                assert_eq!(back.len(), count);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn wrong_row_counts_never_panic() {
    for (_, column) in columns(200) {
        for tier in TIERS {
            let chunk = encoded(&column, tier);
            for rows in [0, 1, 199, 201, 4_096] {
                if let Ok(back) = decode_column(&chunk, column.field_type(), rows) {
                    assert_eq!(back.len(), rows);
                }
            }
        }
    }
}

#[test]
fn small_chunks_have_little_overhead() {
    let bytes = |values: Values| {
        let mut out = Vec::new();
        let column = Column { values, validity: None };
        encode_column(&column, 0..column.len(), Tier::Hot, &mut out);
        out.len()
    };
    assert_eq!(bytes(Values::I64(vec![5; 10])), 2);
    assert_eq!(bytes(Values::F64(vec![5.0; 10])), 3);
    assert_eq!(bytes(Values::F64(vec![21.5])), 4);
    assert_eq!(bytes(Values::Bool(Bitmap::filled(10, true))), 1);
    assert_eq!(bytes(Values::I64(vec![3, 4, 5, 4, 3, 3, 4, 5, 5, 3])), 6);
    assert!(bytes(Values::F64(vec![21.5, 21.6, 21.4, 21.5])) <= 7);
    let mut out = Vec::new();
    encode_column(&Column::nulls(FieldType::Utf8, 60_000), 0..60_000, Tier::Hot, &mut out);
    assert_eq!(out.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), rows in 0usize..3_000) {
        for field_type in [FieldType::F64, FieldType::I64, FieldType::Bool, FieldType::Utf8] {
            if let Ok(column) = decode_column(&bytes, field_type, rows) {
                prop_assert_eq!(column.len(), rows);
            }
        }
    }

    #[test]
    fn any_doubles_come_back(
        bits in proptest::collection::vec(prop_oneof![any::<u64>(), (0u64..1_000).prop_map(|n| (n as f64 / 10.0).to_bits())], 0..400),
        repeat in 1usize..5,
    ) {
        let values: Vec<f64> = bits.iter().flat_map(|b| std::iter::repeat_n(f64::from_bits(*b), repeat)).collect();
        let column = Column { values: Values::F64(values), validity: None };
        for tier in TIERS {
            let back = decode_column(&encoded(&column, tier), FieldType::F64, column.len()).unwrap();
            prop_assert!(same(&back, &column));
        }
    }

    #[test]
    fn any_integers_come_back(
        steps in proptest::collection::vec(prop_oneof![4 => -5i64..5, 1 => any::<i64>()], 0..400),
        scale in prop_oneof![Just(1i64), Just(1_000_000), any::<i64>()],
        summed in any::<bool>(),
    ) {
        let mut sum = 0i64;
        let values: Vec<i64> = steps.iter().map(|step| {
            sum = if summed { sum.wrapping_add(*step) } else { *step };
            sum.wrapping_mul(scale)
        }).collect();
        for tier in TIERS {
            let mut chunk = Vec::new();
            encode_times(&values, tier, &mut chunk);
            prop_assert_eq!(&decode_times(&chunk, values.len()).unwrap(), &values);
        }
    }
}
