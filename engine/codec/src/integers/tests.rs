//! Which codec a shape of integers gets, and streams that no encoder writes.

use super::*;

fn kind(values: &[i64], tier: Tier) -> u8 {
    let mut out = Vec::new();
    encode(values, Choice::all(tier), &mut out);
    let mut back = Vec::new();
    let mut reader = Reader::new(&out, "test");
    decode(&mut reader, values.len(), &mut back).unwrap();
    reader.finish().unwrap();
    assert_eq!(back, values);
    out[0]
}

fn noise(index: i64) -> i64 {
    let x = (index as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 1) as i64
}

fn shape(count: i64, value: impl Fn(i64) -> i64) -> Vec<i64> {
    (0..count).map(value).collect()
}

#[test]
fn each_shape_gets_the_codec_made_for_it() {
    assert_eq!(kind(&[], Tier::Hot), PLAIN);
    assert_eq!(kind(&[9], Tier::Hot), CONSTANT);
    assert_eq!(kind(&[i64::MIN; 500], Tier::Hot), CONSTANT);
    assert_eq!(kind(&shape(500, |i| 1_700_000_000_000 + i * 10_000), Tier::Hot), LINE);
    assert_eq!(kind(&shape(500, |i| noise(i) % 50), Tier::Hot), PACKED);
    assert_eq!(kind(&shape(500, |i| i * 10_000 + noise(i) % 40), Tier::Hot), PACKED_DELTAS);
    assert_eq!(kind(&shape(5_000, |i| i * i * 3 + noise(i) % 4), Tier::Hot), PACKED_DELTAS_OF_DELTAS);
    assert_eq!(kind(&shape(500, |i| (i * 10_000 + noise(i) % 40) * 1_000_000), Tier::Hot), SCALED);
    assert_eq!(kind(&shape(500, |i| noise(i / 50) % 6), Tier::Hot), RUNS);
    assert_eq!(kind(&shape(500, |i| noise(noise(i) % 5)), Tier::Hot), DICTIONARY);
    assert_eq!(kind(&shape(500, |i| noise(i) ^ (noise(i + 7) << 32)), Tier::Hot), PLAIN);
    assert_eq!(kind(&shape(500, |i| noise(i) % 3), Tier::Plain), PLAIN);
    assert_eq!(kind(&shape(4_096, |i| i64::from((noise(i) as u64).leading_zeros()) * 999), Tier::Cold), SCALED);
    assert_eq!(kind(&shape(4_096, |i| (noise(i) % 900) * (noise(i + 1) % 900) / 900), Tier::Cold), PCO);
    assert_eq!(kind(&shape(4_096, |i| noise(i % 400) % 251), Tier::Cold), PLANES);
}

#[test]
fn a_common_step_needs_to_pay() {
    assert_eq!(common_step(&[0, 10, 20, 50]), None, "two bytes of header for nine bits");
    assert_eq!(common_step(&shape(100, |i| noise(i) % 1_000 * 625 + 3)), Some(625));
    assert_eq!(common_step(&[i64::MIN, i64::MAX, 0, 1]), None);
    let wide = shape(100, |i| if i % 2 == 0 { i64::MIN } else { i64::MAX - 1 });
    assert_eq!(common_step(&wide), None, "differences wrap");
}

#[test]
fn streams_nested_too_deep_are_refused() {
    let mut bytes = Vec::new();
    for _ in 0..=DEPTH_MAX {
        bytes.extend([SCALED, 0, 1]);
    }
    bytes.extend([CONSTANT, 2]);
    let failed = decode(&mut Reader::new(&bytes, "test"), 10, &mut Vec::new());
    assert!(matches!(failed, Err(CodecError::Invalid { what: "streams are nested too deep", .. })), "{failed:?}");
    assert!(decode(&mut Reader::new(&bytes[3..], "test"), 10, &mut Vec::new()).is_ok());
}

#[test]
fn run_lengths_have_to_add_up() {
    // Two runs of values 0 and 1; the first length is stated, the second follows from the count.
    let runs = |length: u8| [RUNS, 2, LINE, 0, 2, CONSTANT, length << 1];
    let mut values = Vec::new();
    decode(&mut Reader::new(&runs(3), "test"), 5, &mut values).unwrap();
    assert_eq!(values, [0, 0, 0, 1, 1]);
    for length in [0, 5, 6, 63] {
        assert!(decode(&mut Reader::new(&runs(length), "test"), 5, &mut Vec::new()).is_err(), "{length}");
    }
    assert!(decode(&mut Reader::new(&[RUNS, 6, CONSTANT, 0, CONSTANT, 2], "test"), 5, &mut Vec::new()).is_err());
    assert!(decode(&mut Reader::new(&[RUNS, 0, PLAIN, PLAIN], "test"), 5, &mut Vec::new()).is_err());
}

#[test]
fn ids_have_to_be_in_the_dictionary() {
    let ids = |id: u8| [DICTIONARY, 2, LINE, 0, 100, CONSTANT, id << 1];
    let mut values = Vec::new();
    decode(&mut Reader::new(&ids(1), "test"), 3, &mut values).unwrap();
    assert_eq!(values, [50; 3]);
    assert!(decode(&mut Reader::new(&ids(2), "test"), 3, &mut Vec::new()).is_err());
    assert!(decode(&mut Reader::new(&[DICTIONARY, 0, PLAIN, CONSTANT, 0], "test"), 3, &mut Vec::new()).is_err());
}
