//! Which codec a shape of doubles gets.

use super::*;
use crate::decimal::{DECIMAL_KIND, DECIMAL_PATCHED_KIND};

fn encoded(values: &[f64], tier: Tier) -> Vec<u8> {
    let mut out = Vec::new();
    encode(values, tier, &mut out);
    let mut back = Vec::new();
    let mut reader = Reader::new(&out, "test");
    decode(&mut reader, values.len(), &mut back).unwrap();
    reader.finish().unwrap();
    assert!(back.iter().map(|v| v.to_bits()).eq(values.iter().map(|v| v.to_bits())));
    out
}

fn kind(values: &[f64]) -> u8 {
    encoded(values, Tier::Hot)[0]
}

fn noise(index: usize) -> u64 {
    let x = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 2
}

fn shape(count: usize, value: impl Fn(usize) -> f64) -> Vec<f64> {
    (0..count).map(value).collect()
}

#[test]
fn each_shape_gets_the_codec_made_for_it() {
    assert_eq!(kind(&[]), PLAIN);
    assert_eq!(kind(&[-0.0; 9]), CONSTANT);
    assert_eq!(kind(&[21.5; 9]), DECIMAL_KIND + 1);
    assert_eq!(kind(&shape(500, |i| (noise(i) % 1_000) as f64)), DECIMAL_KIND);
    assert_eq!(kind(&shape(500, |i| (noise(i) % 100_000) as f64 / 1e3)), DECIMAL_KIND + 3);
    assert_eq!(kind(&shape(500, |i| if i % 40 == 1 { f64::NAN } else { i as f64 / 10.0 })), DECIMAL_PATCHED_KIND + 1);
    assert_eq!(kind(&shape(500, |i| f64::from((i as f32 / 70.0).sin()))), SINGLE);
    assert_eq!(kind(&shape(500, |i| f64::sqrt((2 + noise(i) % 5) as f64))), ORDERED);
    assert_eq!(kind(&shape(500, |i| 1.0 + noise(i) as f64 / 2f64.powi(62))), SPLIT);
    assert_eq!(kind(&shape(500, |i| f64::from_bits(noise(i) << 2 ^ noise(i + 9) >> 7))), PLAIN);
    assert_eq!(encoded(&shape(500, |i| i as f64), Tier::Plain)[0], PLAIN);
    assert_eq!(encoded(&shape(4_096, |i| (noise(i) % 1_000) as f64 * (1.0 / 3.0)), Tier::Cold)[0], PCO);
}

#[test]
fn digits_that_change_split_long_columns_into_parts() {
    let value = |i: usize| (noise(i) % 2_000) as f64 / if i < 8_192 { 10.0 } else { 1e6 };
    let values = shape(12_000, value);
    assert_eq!(kind(&values), PARTS);
    assert_eq!(kind(&values[..8_192]), DECIMAL_KIND + 1);
    let bytes: usize = values.chunks(4_096).map(|part| encoded(part, Tier::Hot).len()).sum();
    assert_eq!(encoded(&values, Tier::Hot).len(), bytes + 1);
}

#[test]
fn order_is_kept_and_bits_come_back() {
    let rising = [f64::NEG_INFINITY, -1e300, -1.5, -5e-324, -0.0, 0.0, 5e-324, 1.5, 1e300, f64::INFINITY];
    assert!(rising.windows(2).all(|pair| ordered(pair[0]) < ordered(pair[1])));
    for value in rising {
        assert_eq!(from_ordered(ordered(value)).to_bits(), value.to_bits());
    }
    for value in [0.0, -0.0, 0.5, -3.25, f64::INFINITY, f64::from(f32::MIN_POSITIVE)] {
        assert_eq!(ordered_single(value).map(|n| from_ordered_single(n).to_bits()), Some(value.to_bits()));
    }
    assert_eq!(ordered_single(0.1), None);
}

#[test]
fn exceptions_of_exceptions_end() {
    let mut bytes = vec![DECIMAL_PATCHED_KIND, 1, 1, 0];
    bytes.extend([DECIMAL_PATCHED_KIND, 1, 1, 0].repeat(DEPTH_MAX as usize + 1));
    bytes.extend([PLAIN; 64]);
    let failed = decode(&mut Reader::new(&bytes, "test"), 4, &mut Vec::new());
    assert!(matches!(failed, Err(CodecError::Invalid { what: "streams are nested too deep", .. })), "{failed:?}");
}
