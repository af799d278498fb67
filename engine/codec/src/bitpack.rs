//! Owns packing of unsigned integers into a fixed number of bits; does not choose the width.
//!
//! Two layouts. A full vector of 1,024 values is interleaved over 16 lanes: value `i` lies in lane `i % 16`, and each
//! lane packs its 64 values into `width` words, word `w` of lane `l` at word position `16 * w + l`. Sixteen neighbours
//! are then shifted by the same amount, which is what baseline vector instructions can do, so one loop with the width as
//! a plain variable is as fast as one function per width. Fewer values go one after the other, least significant bit
//! first, and take not a byte more than they need.

use crate::error::Result;
use crate::reader::Reader;

/// Values in a full vector.
pub(crate) const VECTOR: usize = 1_024;
const LANES: usize = 16;
/// Bytes of one word of every lane.
const WORD_ROW: usize = LANES * 8;

/// Bits that `value` needs.
#[inline]
pub(crate) fn width_of(value: u64) -> u32 {
    64 - value.leading_zeros()
}

#[inline]
fn mask_of(width: u32) -> u64 {
    if width == 0 { 0 } else { u64::MAX >> (64 - width) }
}

/// Bytes that `count` values of `width` bits take.
pub(crate) fn packed_len(count: usize, width: u32) -> usize {
    if count == VECTOR { width as usize * WORD_ROW } else { (count * width as usize).div_ceil(8) }
}

/// Appends the low `width` bits of `value - base` for each value. At most [`VECTOR`] values.
pub(crate) fn pack(values: &[i64], base: i64, width: u32, out: &mut Vec<u8>) {
    debug_assert!(values.len() <= VECTOR && width <= 64);
    match <&[i64; VECTOR]>::try_from(values) {
        _ if width == 0 => {}
        Ok(vector) => pack_vector(vector, base, width, out),
        Err(_) => pack_sequence(values, base, width, out),
    }
}

fn pack_vector(values: &[i64; VECTOR], base: i64, width: u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + width as usize * WORD_ROW, 0);
    let mask = mask_of(width);
    let mut words = out[start..].as_chunks_mut::<WORD_ROW>().0.iter_mut();
    let mut current = [0u64; LANES];
    let mut used = 0;
    for row in values.as_chunks::<LANES>().0 {
        let row: [u64; LANES] = std::array::from_fn(|lane| (row[lane].wrapping_sub(base)) as u64 & mask);
        for lane in 0..LANES {
            current[lane] |= row[lane] << used;
        }
        used += width;
        if used >= 64 {
            let Some(word) = words.next() else { return };
            for lane in 0..LANES {
                word[lane * 8..lane * 8 + 8].copy_from_slice(&current[lane].to_le_bytes());
            }
            used -= 64;
            // A shift by 64 would be out of range; with nothing carried over the words start empty.
            let carried = width - used;
            for lane in 0..LANES {
                current[lane] = if used == 0 { 0 } else { row[lane] >> carried };
            }
        }
    }
}

fn pack_sequence(values: &[i64], base: i64, width: u32, out: &mut Vec<u8>) {
    out.reserve(packed_len(values.len(), width) + 8);
    let mask = mask_of(width);
    let (mut current, mut used) = (0u64, 0);
    for value in values {
        let value = value.wrapping_sub(base) as u64 & mask;
        current |= value << used;
        used += width;
        if used >= 64 {
            out.extend_from_slice(&current.to_le_bytes());
            used -= 64;
            current = if used == 0 { 0 } else { value >> (width - used) };
        }
    }
    out.extend_from_slice(&current.to_le_bytes()[..used.div_ceil(8) as usize]);
}

/// Reads what [`pack`] wrote into `values`, which is at most [`VECTOR`] long.
pub(crate) fn unpack(reader: &mut Reader<'_>, base: i64, width: u32, values: &mut [i64]) -> Result<()> {
    debug_assert!(values.len() <= VECTOR && width <= 64);
    let bytes = reader.bytes(packed_len(values.len(), width))?;
    match <&mut [i64; VECTOR]>::try_from(&mut *values) {
        _ if width == 0 => values.fill(base),
        Ok(vector) => unpack_vector(bytes, base, width, vector),
        Err(_) => unpack_sequence(bytes, base, width, values),
    }
    Ok(())
}

#[inline]
fn load(word: &[u8; WORD_ROW]) -> [u64; LANES] {
    let words = word.as_chunks::<8>().0;
    std::array::from_fn(|lane| u64::from_le_bytes(words[lane]))
}

fn unpack_vector(bytes: &[u8], base: i64, width: u32, values: &mut [i64; VECTOR]) {
    let mask = mask_of(width);
    let mut words = bytes.as_chunks::<WORD_ROW>().0.iter();
    let mut current = words.next().map_or([0; LANES], load);
    let mut used = 0;
    for row in values.as_chunks_mut::<LANES>().0 {
        if used + width <= 64 {
            for lane in 0..LANES {
                row[lane] = ((current[lane] >> used & mask) as i64).wrapping_add(base);
            }
            used += width;
            if used == 64 {
                current = words.next().map_or([0; LANES], load);
                used = 0;
            }
        } else {
            let next = words.next().map_or([0; LANES], load);
            let high = 64 - used;
            for lane in 0..LANES {
                row[lane] = (((current[lane] >> used | next[lane] << high) & mask) as i64).wrapping_add(base);
            }
            current = next;
            used = width - high;
        }
    }
}

fn unpack_sequence(bytes: &[u8], base: i64, width: u32, values: &mut [i64]) {
    let mask = mask_of(width);
    let step = width as usize;
    // Values whose 16 bytes from their first byte on are all there are read with one unaligned load.
    let fast = if bytes.len() < 16 { 0 } else { ((bytes.len() - 16) * 8 / step + 1).min(values.len()) };
    let (head, tail) = values.split_at_mut(fast);
    if width <= 57 {
        for (index, value) in head.iter_mut().enumerate() {
            let bit = index * step;
            let word: [u8; 8] = bytes[bit / 8..][..8].try_into().unwrap_or_default();
            *value = ((u64::from_le_bytes(word) >> (bit % 8) & mask) as i64).wrapping_add(base);
        }
    } else {
        for (index, value) in head.iter_mut().enumerate() {
            let bit = index * step;
            let word: [u8; 16] = bytes[bit / 8..][..16].try_into().unwrap_or_default();
            *value = (((u128::from_le_bytes(word) >> (bit % 8)) as u64 & mask) as i64).wrapping_add(base);
        }
    }
    for (index, value) in tail.iter_mut().enumerate() {
        let bit = (fast + index) * step;
        let rest = &bytes[bit / 8..];
        let mut word = [0; 16];
        let len = rest.len().min(16);
        word[..len].copy_from_slice(&rest[..len]);
        *value = (((u128::from_le_bytes(word) >> (bit % 8)) as u64 & mask) as i64).wrapping_add(base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_and_many_lengths_come_back() {
        let mut state = 7u64;
        let noise: Vec<u64> = (0..VECTOR)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state ^ state >> 29
            })
            .collect();
        for width in 0..=64 {
            for count in [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 100, 1_000, 1_023, 1_024] {
                for base in [0, -5, i64::MAX - 3] {
                    let values: Vec<i64> =
                        noise[..count].iter().map(|v| ((v & mask_of(width)) as i64).wrapping_add(base)).collect();
                    let mut out = Vec::new();
                    pack(&values, base, width, &mut out);
                    assert_eq!(out.len(), packed_len(count, width));
                    let mut back = vec![99; count];
                    let mut reader = Reader::new(&out, "test");
                    unpack(&mut reader, base, width, &mut back).unwrap();
                    assert_eq!(back, values, "width {width} count {count}");
                    reader.finish().unwrap();
                    if !out.is_empty() {
                        let mut short = Reader::new(&out[1..], "test");
                        assert!(unpack(&mut short, base, width, &mut back).is_err());
                    }
                }
            }
        }
    }
}
