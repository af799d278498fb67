//! The narrow form against the plain decoder, and hostile bytes.

use proptest::prelude::*;

use super::*;
use crate::{Tier, decode_column, encode_column};

fn check(column: &Column, tier: Tier) -> NarrowColumn {
    let rows = column.len();
    let mut chunk = Vec::new();
    encode_column(column, 0..rows, tier, &mut chunk);
    let plain = decode_column(&chunk, column.field_type(), rows).unwrap();
    let narrow = decode_narrow(&chunk, column.field_type(), rows).unwrap();
    assert_eq!(narrow.len(), rows);
    for range in [0..rows, 0..rows / 2, rows / 3..rows] {
        let mut expected = Column::new(column.field_type());
        expected.extend_nulls(1);
        expected.extend_from(&plain, range.clone());
        let mut got = Column::new(column.field_type());
        got.extend_nulls(1);
        narrow.extend_into(range.clone(), &mut got);
        assert_eq!(got.validity, expected.validity, "{range:?}");
        match (&got.values, &expected.values) {
            (Values::F64(a), Values::F64(b)) => {
                assert!(a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())), "{a:?} {b:?}");
                let mut written = vec![0.0; rows];
                narrow.write_f64(range.clone(), &mut written[range.clone()]).unwrap();
                for row in range.filter(|row| plain.is_valid(*row)) {
                    let Values::F64(v) = &plain.values else { panic!("doubles") };
                    assert_eq!(written[row].to_bits(), v[row].to_bits());
                }
            }
            (Values::I64(a), Values::I64(b)) => {
                assert_eq!(a, b);
                let mut written = vec![0; rows];
                narrow.write_i64(range.clone(), &mut written[range.clone()]).unwrap();
                for row in range.filter(|row| plain.is_valid(*row)) {
                    let Values::I64(v) = &plain.values else { panic!("integers") };
                    assert_eq!(written[row], v[row]);
                }
            }
            (a, b) => assert_eq!(a, b),
        }
    }
    narrow
}

fn doubles(values: Vec<f64>) -> Column {
    Column { values: Values::F64(values), validity: None }
}

#[test]
fn decimals_take_as_few_bytes_as_their_range_needs() {
    let column = |range: i64| doubles((0..500).map(|i| (1_000_000 + i * 7_919 % range) as f64 / 10.0).collect());
    for (range, bytes) in [(200, 1), (60_000, 2), (1_000_000, 4)] {
        for tier in [Tier::Hot, Tier::Cold] {
            let narrow = check(&column(range), tier);
            assert!(narrow.bytes() <= 500 * bytes + size_of::<NarrowColumn>(), "{range}: {}", narrow.bytes());
        }
    }
    assert!(check(&doubles(vec![21.5; 500]), Tier::Hot).bytes() <= size_of::<NarrowColumn>());
}

#[test]
fn numbers_and_values_rise_together() {
    let narrow = check(&doubles(vec![-3.7, -0.1, 0.0, 0.3, 1e4]), Tier::Hot);
    let NarrowValues::Decimals(_, meaning) = narrow.values() else { panic!("decimals") };
    for number in 0..200_000 {
        assert!(meaning.real(number) < meaning.real(number + 1));
    }
}

#[test]
fn bytes_that_end_early_or_go_on_are_refused() {
    let mut column = doubles((0..100).map(|i| f64::from(i % 7) / 10.0).collect());
    column.extend_nulls(3);
    let mut chunk = Vec::new();
    encode_column(&column, 0..103, Tier::Hot, &mut chunk);
    for end in 0..chunk.len() {
        assert!(decode_narrow(&chunk[..end], FieldType::F64, 103).is_err(), "{end}");
    }
    chunk.push(0);
    assert!(decode_narrow(&chunk, FieldType::F64, 103).is_err());
}

fn real() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-2_000i64..2_000).prop_map(|n| n as f64 / 10.0),
        1 => any::<f64>(),
        1 => prop_oneof![Just(f64::NAN), Just(-0.0), Just(f64::INFINITY)],
    ]
}

proptest! {
    #[test]
    fn values_come_back_to_the_bit(
        decimals in prop::collection::vec((-300_000i64..300_000).prop_map(|n| n as f64 / 100.0), 1..200),
        reals in prop::collection::vec(real(), 1..200),
        integers in prop::collection::vec(prop_oneof![-100i64..100, any::<i64>()], 1..100),
        near in prop::collection::vec(1_000_000_000i64..1_000_070_000, 1..100),
        flags in prop::collection::vec(any::<bool>(), 1..100),
        words in prop::collection::vec("[a-d]{0,3}", 1..60),
        nulls in prop::collection::vec(any::<bool>(), 0..200),
    ) {
        let mut text = Text::default();
        words.iter().for_each(|word| text.push(word));
        let columns = [
            Values::F64(decimals), Values::F64(reals), Values::I64(integers), Values::I64(near),
            Values::Bool(flags.into_iter().collect()), Values::Utf8(text),
        ];
        for values in columns {
            let whole = Column { values, validity: None };
            let mut holes = Column::new(whole.field_type());
            for row in 0..whole.len() {
                match nulls.get(row) {
                    Some(true) => holes.extend_nulls(1),
                    _ => holes.extend_from(&whole, row..row + 1),
                }
            }
            for tier in [Tier::Plain, Tier::Hot, Tier::Cold] {
                check(&whole, tier);
                check(&holes, tier);
            }
        }
    }

    #[test]
    fn any_bytes_decode_or_fail_like_the_plain_decoder(bytes in prop::collection::vec(any::<u8>(), 0..60), rows in 0usize..40) {
        for field_type in [FieldType::F64, FieldType::I64, FieldType::Bool, FieldType::Utf8] {
            let plain = decode_column(&bytes, field_type, rows);
            let narrow = decode_narrow(&bytes, field_type, rows);
            prop_assert_eq!(plain.is_ok(), narrow.is_ok(), "{:?} {:?}", plain, narrow);
        }
    }

    #[test]
    fn times_come_back(start in any::<i64>(), gaps in prop::collection::vec(1u32..5, 0..100), unit in prop::sample::select(vec![1i64, 999, 1_000, 10_000_000, 10_000_000_000])) {
        let mut times = vec![start];
        for gap in gaps {
            let Some(next) = unit.checked_mul(i64::from(gap)).and_then(|gap| times[times.len() - 1].checked_add(gap)) else { break };
            times.push(next);
        }
        let narrow = NarrowTimes::of(&times);
        prop_assert_eq!(narrow.len(), times.len());
        let mut back = Vec::new();
        narrow.extend_into(0..times.len(), &mut back);
        prop_assert_eq!(&back, &times);
        for (row, time) in times.iter().enumerate() {
            prop_assert_eq!(narrow.get(row), *time);
            prop_assert_eq!(narrow.rows(*time, i64::MAX), row..times.len());
            prop_assert_eq!(narrow.rows(i64::MIN, *time), 0..row + 1);
            prop_assert_eq!(narrow.rows(time.saturating_add(1), *time), row + usize::from(*time < i64::MAX)..row + 1);
        }
    }
}

#[test]
fn steady_times_take_no_memory() {
    let steady: Vec<i64> = (0..8_640).map(|i| 1_767_225_600_000_000_000 + i * 10_000_000_000).collect();
    assert!(matches!(NarrowTimes::of(&steady), NarrowTimes::Line { rows: 8_640, .. }));
    let mut late = steady;
    late[5] += 3_000_000;
    assert!(matches!(NarrowTimes::of(&late), NarrowTimes::Ticks { unit: 1_000_000, .. }));
}
