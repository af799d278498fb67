//! Owns the bytes of a sequence of bits, be it a boolean column or a validity; does not know which of the two it is.

use crate::Tier;
use crate::column::Bitmap;
use crate::error::{CodecError, Result};
use crate::integers::{self, Choice};
use crate::reader::{Reader, put_varint};
use crate::runs::last_length;
use crate::scratch::Scratch;

const CODEC: &str = "bool";

pub(crate) const BITMAP: u8 = 0;
pub(crate) const ALL_FALSE: u8 = 1;
pub(crate) const ALL_TRUE: u8 = 2;
pub(crate) const RUNS_FROM_FALSE: u8 = 3;
pub(crate) const RUNS_FROM_TRUE: u8 = 4;

/// Appends `bits` as one stream: a kind byte and its payload. The count is not written.
pub(crate) fn encode(bits: &Bitmap, tier: Tier, out: &mut Vec<u8>) {
    let start = out.len();
    let ones = bits.count_ones();
    if tier != Tier::Plain && (ones == 0 || ones == bits.len()) {
        out.push(if ones == 0 { ALL_FALSE } else { ALL_TRUE });
        return;
    }
    // Every run costs about a byte, a bit costs one bit.
    if tier != Tier::Plain && change_count(bits.as_bytes(), bits.len()) < bits.len() / 8 {
        let mut lengths = Scratch::<i64>::take();
        let first = bits.get(0);
        run_lengths(bits, &mut lengths);
        out.push(if first { RUNS_FROM_TRUE } else { RUNS_FROM_FALSE });
        put_varint(out, lengths.len() as u64);
        lengths.pop();
        integers::encode(&lengths, Choice::simple(tier), out);
        if out.len() - start <= bits.as_bytes().len() {
            return;
        }
        out.truncate(start);
    }
    out.push(BITMAP);
    out.extend_from_slice(bits.as_bytes());
}

/// How often a bit differs from the one before.
fn change_count(bytes: &[u8], len: usize) -> usize {
    let mut count = 0;
    let mut before = bytes.first().map_or(0, |byte| byte & 1);
    for byte in bytes {
        count += (byte ^ (byte << 1 | before)).count_ones() as usize;
        before = byte >> 7;
    }
    // The zero bits that pad the last byte look like one change when the last bit is set.
    let padded = !len.is_multiple_of(8) && bytes.last().is_some_and(|byte| byte >> (len % 8 - 1) & 1 == 1);
    count - usize::from(padded)
}

fn run_lengths(bits: &Bitmap, lengths: &mut Vec<i64>) {
    let mut value = bits.get(0);
    let mut start = 0;
    let words = bits.as_bytes();
    let mut index = 0;
    while index < bits.len() {
        let same = if value { 0xff } else { 0 };
        if index % 8 == 0 && words[index / 8] == same && index + 8 <= bits.len() {
            index += 8;
            continue;
        }
        if bits.get(index) != value {
            lengths.push((index - start) as i64);
            start = index;
            value = !value;
        }
        index += 1;
    }
    lengths.push((bits.len() - start) as i64);
}

/// Reads one stream of `count` bits and appends them.
pub(crate) fn decode(reader: &mut Reader<'_>, count: usize, bits: &mut Bitmap) -> Result<()> {
    reader.codec = CODEC;
    let kind = reader.byte()?;
    match kind {
        BITMAP => {
            let bytes = reader.bytes(count.div_ceil(8))?;
            let clean = count.is_multiple_of(8) || bytes.last().is_none_or(|last| last >> (count % 8) == 0);
            if !clean {
                return Err(reader.invalid("bits are set behind the last one"));
            }
            let read =
                Bitmap::from_bytes(bytes.to_vec(), count).ok_or_else(|| reader.invalid("bitmap has another length"))?;
            if bits.is_empty() {
                *bits = read;
            } else {
                bits.extend_from(&read, 0..count);
            }
        }
        ALL_FALSE => bits.extend_filled(count, false),
        ALL_TRUE => bits.extend_filled(count, true),
        RUNS_FROM_FALSE | RUNS_FROM_TRUE => {
            let run_count = reader.bounded("runs", count)?;
            if run_count == 0 {
                return Err(reader.invalid("no run of bits"));
            }
            let mut lengths = Scratch::<i64>::take();
            integers::decode(reader, run_count - 1, &mut lengths)?;
            reader.codec = CODEC;
            let last =
                last_length(&lengths, count).ok_or_else(|| reader.invalid("lengths do not add up to the count"))?;
            let mut value = kind == RUNS_FROM_TRUE;
            for &length in lengths.iter().chain([&last]) {
                bits.extend_filled(length as usize, value);
                value = !value;
            }
        }
        _ => return Err(CodecError::UnknownKind { codec: CODEC, kind }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(bits: &Bitmap, tier: Tier) -> usize {
        let mut out = Vec::new();
        encode(bits, tier, &mut out);
        for prefix in [0, 3, 8] {
            let mut back = Bitmap::filled(prefix, true);
            let mut reader = Reader::new(&out, "test");
            decode(&mut reader, bits.len(), &mut back).unwrap();
            reader.finish().unwrap();
            let mut expected = Bitmap::filled(prefix, true);
            expected.extend_from(bits, 0..bits.len());
            assert_eq!(back, expected);
        }
        out.len()
    }

    #[test]
    fn patterns_come_back_and_runs_are_small() {
        for tier in [Tier::Plain, Tier::Hot, Tier::Cold] {
            for len in [0, 1, 7, 8, 9, 64, 100, 1_000, 4_096] {
                for period in [1, 2, 3, 50, 200, 10_000] {
                    for shift in [0, 1, 7] {
                        let bits: Bitmap = (0..len).map(|i| (i + shift) / period % 2 == 0).collect();
                        let changes = (1..len).filter(|i| bits.get(*i) != bits.get(*i - 1)).count();
                        assert_eq!(change_count(bits.as_bytes(), len), changes, "{len} {period} {shift}");
                        round_trip(&bits, tier);
                    }
                }
            }
        }
        let runs: Bitmap = (0..4_096).map(|i| i / 200 % 2 == 0).collect();
        assert!(round_trip(&runs, Tier::Hot) < 40);
        assert_eq!(round_trip(&Bitmap::filled(4_096, true), Tier::Hot), 1);
    }
}
