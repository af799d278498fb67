//! Owns the choice among the integer codecs and the bytes of an integer stream; does not know what the integers mean.
//!
//! A stream is one kind byte and the kind's payload. It does not carry its count, which the reader knows, and it
//! ends where its payload ends, so streams can follow each other and nest.

use crate::cold;
use crate::error::{CodecError, Result};
use crate::packed::{self, Order};
use crate::reader::{Reader, put_varint, put_zigzag, varint_len};
use crate::scratch::Scratch;
use crate::{Tier, dictionary, runs};

const CODEC: &str = "integers";

pub(crate) const PLAIN: u8 = 0;
pub(crate) const CONSTANT: u8 = 1;
pub(crate) const LINE: u8 = 2;
pub(crate) const PACKED: u8 = 3;
pub(crate) const PACKED_DELTAS: u8 = 4;
pub(crate) const PACKED_DELTAS_OF_DELTAS: u8 = 5;
pub(crate) const SCALED: u8 = 6;
pub(crate) const RUNS: u8 = 7;
pub(crate) const DICTIONARY: u8 = 8;
pub(crate) const PCO: u8 = 9;
pub(crate) const PLANES: u8 = 10;

/// Streams inside streams that a decoder follows. The encoder nests at most scaled, runs, dictionary, ids.
const DEPTH_MAX: u8 = 4;

/// What an encoder may still try; each wrapping codec switches itself off for the streams inside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) tier: Tier,
    pub(crate) scale: bool,
    pub(crate) runs: bool,
    pub(crate) dictionary: bool,
}

impl Choice {
    /// Everything that `tier` allows.
    pub(crate) fn all(tier: Tier) -> Self {
        Self { tier, scale: true, runs: true, dictionary: true }
    }

    /// For lengths, ids and positions: small numbers that are packed or, when cold, handed to pco.
    pub(crate) fn simple(tier: Tier) -> Self {
        Self { tier, scale: false, runs: false, dictionary: false }
    }
}

/// Appends `values` as one stream.
pub(crate) fn encode(values: &[i64], choice: Choice, out: &mut Vec<u8>) {
    let (Some(&first), true) = (values.first(), choice.tier != Tier::Plain) else {
        out.push(PLAIN);
        values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        return;
    };
    let changes = values[1..].iter().zip(values).filter(|(now, before)| now != before).count();
    if changes == 0 {
        out.push(CONSTANT);
        put_zigzag(out, first);
        return;
    }
    let step = values[1].wrapping_sub(first);
    if changes == values.len() - 1 && values[1..].iter().zip(values).all(|(b, a)| b.wrapping_sub(*a) == step) {
        out.push(LINE);
        put_zigzag(out, first);
        put_zigzag(out, step);
        return;
    }
    if choice.scale
        && let Some(scale) = common_step(values)
    {
        let mut scaled = Scratch::<i64>::take();
        // No overflow: `common_step` has checked the range.
        scaled.extend(values.iter().map(|value| (value - first) / scale));
        out.push(SCALED);
        put_zigzag(out, first);
        put_varint(out, scale as u64);
        return encode(&scaled, Choice { scale: false, ..choice }, out);
    }

    let start = out.len();
    encode_light(values, changes + 1, choice, out);
    if choice.tier == Tier::Cold && out.len() - start > cold::BYTES_MIN {
        cold::improve_integers(values, start, out);
    }
}

/// Appends the best of packing, runs and dictionary, judged by estimates.
fn encode_light(values: &[i64], run_count: usize, choice: Choice, out: &mut Vec<u8>) {
    let start = out.len();
    let (order, packed_bits) = packed::choose(values);
    if choice.runs && run_count <= values.len() / 3 && values.len() >= 8 {
        out.push(RUNS);
        runs::encode(values, run_count, choice, out);
        if (out.len() - start) * 8 <= packed_bits {
            return;
        }
        out.truncate(start);
    }
    if choice.dictionary && dictionary::encode(values, packed_bits, choice, out) {
        return;
    }
    if packed_bits >= values.len() * 64 {
        out.push(PLAIN);
        values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        return;
    }
    out.push(match order {
        Order::Values => PACKED,
        Order::Deltas => PACKED_DELTAS,
        Order::DeltasOfDeltas => PACKED_DELTAS_OF_DELTAS,
    });
    packed::encode(values, order, out);
}

/// The greatest common divisor of all differences to the first value, when dividing by it saves more than it costs.
fn common_step(values: &[i64]) -> Option<i64> {
    let first = values[0];
    let difference = |value: &i64| value.wrapping_sub(first).unsigned_abs();
    let stride = (values.len() / 32).max(1) | 1;
    let mut common = 0;
    for value in values.iter().step_by(stride) {
        common = gcd(common, difference(value));
        if common == 1 {
            return None;
        }
    }
    let (mut min, mut max) = (first, first);
    for value in values {
        min = min.min(*value);
        max = max.max(*value);
        let difference = difference(value);
        if difference != 0 && (common == 0 || difference % common != 0) {
            common = gcd(common, difference);
            if common == 1 {
                return None;
            }
        }
    }
    // Differences that wrapped have no common step that means anything.
    max.checked_sub(min)?;
    let saved = values.len() * common.ilog2() as usize;
    (saved > 8 * (varint_len(common) + 1)).then(|| i64::try_from(common).ok()).flatten()
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Reads one stream of `count` values and appends them.
pub(crate) fn decode(reader: &mut Reader<'_>, count: usize, values: &mut Vec<i64>) -> Result<()> {
    decode_nested(reader, count, values, 0)
}

/// Reads one stream that lies `depth` streams deep.
pub(crate) fn decode_nested(reader: &mut Reader<'_>, count: usize, values: &mut Vec<i64>, depth: u8) -> Result<()> {
    reader.codec = CODEC;
    if depth > DEPTH_MAX {
        return Err(reader.invalid("streams are nested too deep"));
    }
    let kind = reader.byte()?;
    let start = values.len();
    match kind {
        PLAIN => {
            let bytes = reader.bytes(bytes_of(count, 8)?)?;
            values.extend(bytes.as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word)));
        }
        CONSTANT => {
            let value = reader.zigzag()?;
            values.resize(start + count, value);
        }
        LINE => {
            let first = reader.zigzag()?;
            let step = reader.zigzag()?;
            values.extend((0..count as i64).map(|index| first.wrapping_add(step.wrapping_mul(index))));
        }
        PACKED | PACKED_DELTAS | PACKED_DELTAS_OF_DELTAS => {
            let order = match kind {
                PACKED => Order::Values,
                PACKED_DELTAS => Order::Deltas,
                _ => Order::DeltasOfDeltas,
            };
            values.resize(start + count, 0);
            packed::decode(reader, order, &mut values[start..])?;
        }
        SCALED => {
            let first = reader.zigzag()?;
            let scale = reader.varint()? as i64;
            decode_nested(reader, count, values, depth + 1)?;
            for value in &mut values[start..] {
                *value = value.wrapping_mul(scale).wrapping_add(first);
            }
        }
        RUNS => runs::decode(reader, count, values, depth)?,
        DICTIONARY => dictionary::decode(reader, count, values, depth)?,
        PCO => cold::decode_pco_integers(reader, count, values)?,
        PLANES => cold::decode_planes(reader, count, values)?,
        _ => return Err(CodecError::UnknownKind { codec: CODEC, kind }),
    }
    Ok(())
}

/// `count * size`, which a hostile count could overflow.
pub(crate) fn bytes_of(count: usize, size: usize) -> Result<usize> {
    count.checked_mul(size).ok_or(CodecError::OutOfRange {
        codec: CODEC,
        what: "values",
        found: count as u64,
        allowed: (usize::MAX / size) as u64,
    })
}

#[cfg(test)]
mod tests;
