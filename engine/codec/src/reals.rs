//! Owns the choice among the codecs of doubles and the bytes of a stream of doubles; leaves integers to `integers`.

use crate::Tier;
use crate::bitpack::{VECTOR, pack, unpack, width_of};
use crate::decimal::{self, Divisor};
use crate::error::{CodecError, Result};
use crate::integers::{self, Choice, bytes_of};
use crate::reader::{Reader, put_varint};
use crate::scratch::Scratch;
use crate::{cold, packed};

const CODEC: &str = "f64";

pub(crate) const PLAIN: u8 = 0;
pub(crate) const CONSTANT: u8 = 1;
pub(crate) const ORDERED: u8 = 2;
pub(crate) const SINGLE: u8 = 3;
pub(crate) const SPLIT: u8 = 4;
pub(crate) const PCO: u8 = 5;
pub(crate) const PARTS: u8 = 6;
// Kinds 16 to 63 are those of [`Divisor`].

/// The encoder nests streams of doubles for parts, for exceptions of decimals, and for exceptions of those.
const DEPTH_MAX: u8 = 2;

/// Values looked at to find the divisor; more of them when the first choice left too many exceptions.
const SAMPLES: [usize; 2] = [48, 256];

/// Values that share their divisor at most when it changes within a chunk.
const PART: usize = 4_096;

/// Appends `values` as one stream: a kind byte and its payload. The count is not written.
pub(crate) fn encode(values: &[f64], tier: Tier, out: &mut Vec<u8>) {
    encode_nested(values, tier, 0, out);
}

fn encode_nested(values: &[f64], tier: Tier, depth: u8, out: &mut Vec<u8>) {
    let at = out.len();
    out.push(0);
    out[at] = encode_payload(values, tier, depth, out);
}

/// Appends the payload and gives back its kind.
fn encode_payload(values: &[f64], tier: Tier, depth: u8, out: &mut Vec<u8>) -> u8 {
    if tier == Tier::Plain || values.is_empty() {
        return put_plain(values, out);
    }
    let start = out.len();
    let kind = encode_whole(values, tier, depth, out);
    if values.len() > PART && depth == 0 && divisor_changes(values) {
        // One value of many digits in a long chunk widens all others; but parts lose what they have in common.
        let mut parts = Scratch::<u8>::take();
        values.chunks(PART).for_each(|part| encode_nested(part, tier, depth + 1, &mut parts));
        if parts.len() < out.len() - start {
            out.truncate(start);
            out.extend_from_slice(&parts);
            return PARTS;
        }
    }
    kind
}

fn divisor_changes(values: &[f64]) -> bool {
    let mut divisors = values.chunks(PART).map(|part| decimal::choose(part, SAMPLES[1]));
    let first = divisors.next();
    divisors.any(|divisor| Some(divisor) != first)
}

fn encode_whole(values: &[f64], tier: Tier, depth: u8, out: &mut Vec<u8>) -> u8 {
    let first = values[0];
    let constant = values.iter().all(|value| value.to_bits() == first.to_bits());
    let sample = if constant { &values[..1] } else { values };
    for size in SAMPLES {
        let Some(divisor) = decimal::choose(sample, size) else { break };
        if let Some(kind) = encode_divided(values, divisor, tier, depth, out) {
            return kind;
        }
        if sample.len() <= size {
            break;
        }
    }
    if constant {
        out.extend_from_slice(&first.to_le_bytes());
        return CONSTANT;
    }
    let start = out.len();
    let kind = encode_binary(values, tier, out);
    if tier == Tier::Cold && out.len() - start > cold::BYTES_MIN && cold::improve_reals(values, start, out) {
        return PCO;
    }
    kind
}

fn put_plain(values: &[f64], out: &mut Vec<u8>) -> u8 {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    PLAIN
}

fn encode_divided(values: &[f64], divisor: Divisor, tier: Tier, depth: u8, out: &mut Vec<u8>) -> Option<u8> {
    let (mut integers, mut positions) = (Scratch::<i64>::take(), Scratch::<i64>::take());
    let mut exceptions = Scratch::<f64>::take();
    if !decimal::split(values, divisor, &mut integers, &mut positions, &mut exceptions)
        || (depth == DEPTH_MAX && !exceptions.is_empty())
    {
        return None;
    }
    if exceptions.is_empty() {
        integers::encode(&integers, Choice::all(tier), out);
        return Some(divisor.kind(false));
    }
    put_varint(out, exceptions.len() as u64);
    integers::encode(&positions, Choice::simple(tier), out);
    encode_nested(&exceptions, tier, depth + 1, out);
    integers::encode(&integers, Choice::all(tier), out);
    Some(divisor.kind(true))
}

/// Maps doubles to integers of the same order, so that neighbours stay neighbours.
#[inline]
fn ordered(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

#[inline]
fn from_ordered(integer: i64) -> f64 {
    f64::from_bits((integer ^ ((integer >> 63) as u64 >> 1) as i64) as u64)
}

#[inline]
fn ordered_single(value: f64) -> Option<i64> {
    let single = value as f32;
    let bits = single.to_bits() as i32;
    (f64::from(single).to_bits() == value.to_bits()).then_some(i64::from(bits ^ ((bits >> 31) as u32 >> 1) as i32))
}

#[inline]
fn from_ordered_single(integer: i64) -> f64 {
    let integer = integer as i32;
    f64::from(f32::from_bits((integer ^ ((integer >> 31) as u32 >> 1) as i32) as u32))
}

/// Doubles that are no decimals: singles in disguise, ordered integers, or split into a low-entropy and a noisy half.
fn encode_binary(values: &[f64], tier: Tier, out: &mut Vec<u8>) -> u8 {
    let mut integers = Scratch::<i64>::take();
    integers.extend(values.iter().map_while(|value| ordered_single(*value)));
    // NaN is never written as a single: conversion may change its payload on some machines.
    if integers.len() == values.len() && !values.iter().any(|value| value.is_nan()) {
        integers::encode(&integers, Choice::all(tier), out);
        return SINGLE;
    }
    integers.clear();
    integers.extend(values.iter().map(|value| ordered(*value)));

    let start = out.len();
    let (cut, split_bits) = choose_cut(values);
    let (_, packed_bits) = packed::choose_or_plain(&integers);
    let changes = values.windows(2).filter(|pair| pair[0].to_bits() != pair[1].to_bits()).count();
    // Runs and dictionaries work on whole values: give them their chance when values repeat.
    if packed_bits <= split_bits || changes < values.len() / 2 || repeats(&integers) {
        integers::encode(&integers, Choice { scale: false, ..Choice::all(tier) }, out);
        if (out.len() - start) * 8 <= split_bits {
            return ORDERED;
        }
        out.truncate(start);
    }
    encode_split(values, cut, tier, out);
    if out.len() - start < values.len() * 8 {
        return SPLIT;
    }
    out.truncate(start);
    put_plain(values, out)
}

/// Whether a value of a sample is seen again in it often enough for a dictionary.
fn repeats(integers: &[i64]) -> bool {
    let stride = (integers.len() / 64).max(1) | 1;
    let mut sample = [0; 64];
    let count = integers.iter().step_by(stride).take(64).zip(&mut sample).map(|(value, slot)| *slot = *value).count();
    sample[..count].sort_unstable();
    let distinct = 1 + sample[..count].windows(2).filter(|pair| pair[0] != pair[1]).count();
    distinct * 4 <= count * 3
}

/// Low bits that stay raw, and the estimated bits of all values: the high bits are counted as ids of their distinct values.
fn choose_cut(values: &[f64]) -> (u32, usize) {
    const SAMPLE: usize = 128;
    let stride = (values.len() / SAMPLE).max(1) | 1;
    let mut sample = [0u64; SAMPLE];
    let slots = values.iter().step_by(stride).take(SAMPLE).zip(&mut sample);
    let count = slots.map(|(value, slot)| *slot = value.to_bits()).count();
    let sample = &mut sample[..count];
    sample.sort_unstable();
    let mut best = (64, usize::MAX);
    for cut in 48..64 {
        let distinct = 1 + sample.windows(2).filter(|pair| pair[0] >> cut != pair[1] >> cut).count();
        // A sample full of distinct halves says nothing about how many there are in all.
        let high = if distinct * 4 > count { 64 - cut } else { width_of(distinct as u64 - 1).min(64 - cut) };
        let bits = (cut + high) as usize * values.len() + distinct * (64 - cut) as usize;
        if bits < best.1 {
            best = (cut, bits);
        }
    }
    best
}

fn encode_split(values: &[f64], cut: u32, tier: Tier, out: &mut Vec<u8>) {
    let mut halves = Scratch::<i64>::take();
    halves.extend(values.iter().map(|value| if cut == 64 { 0 } else { (value.to_bits() >> cut) as i64 }));
    out.push(cut as u8);
    integers::encode(&halves, Choice { scale: false, ..Choice::all(tier) }, out);
    halves.clear();
    halves.extend(values.iter().map(|value| value.to_bits() as i64));
    halves.chunks(VECTOR).for_each(|vector| pack(vector, 0, cut, out));
}

/// Reads one stream of `count` doubles and appends them.
pub(crate) fn decode(reader: &mut Reader<'_>, count: usize, values: &mut Vec<f64>) -> Result<()> {
    decode_nested(reader, count, values, 0)
}

/// Reads a stream of `count` divided integers without exceptions, and gives back the divisor; `None`, and nothing read, when
/// the stream is of another kind.
pub(crate) fn decode_divided(
    reader: &mut Reader<'_>,
    count: usize,
    integers: &mut Vec<i64>,
) -> Result<Option<Divisor>> {
    let kind = reader.rest().first().copied();
    let Some((divisor, false)) = kind.and_then(Divisor::of_kind) else { return Ok(None) };
    reader.byte()?;
    integers::decode(reader, count, integers)?;
    Ok(Some(divisor))
}

fn decode_nested(reader: &mut Reader<'_>, count: usize, values: &mut Vec<f64>, depth: u8) -> Result<()> {
    reader.codec = CODEC;
    if depth > DEPTH_MAX {
        return Err(reader.invalid("streams are nested too deep"));
    }
    let kind = reader.byte()?;
    let start = values.len();
    match kind {
        PLAIN => {
            let bytes = reader.bytes(bytes_of(count, 8)?)?;
            values.extend(bytes.as_chunks::<8>().0.iter().map(|word| f64::from_le_bytes(*word)));
        }
        CONSTANT => {
            let word = reader.bytes(8)?.as_chunks::<8>().0[0];
            values.resize(start + count, f64::from_le_bytes(word));
        }
        ORDERED | SINGLE => {
            let mut integers = Scratch::<i64>::take();
            integers::decode(reader, count, &mut integers)?;
            if kind == ORDERED {
                values.extend(integers.iter().map(|integer| from_ordered(*integer)));
            } else {
                values.extend(integers.iter().map(|integer| from_ordered_single(*integer)));
            }
        }
        SPLIT => {
            let cut = u32::from(reader.byte()?);
            if !(1..=64).contains(&cut) {
                return Err(reader.invalid("cut is not 1 to 64 bits"));
            }
            let mut halves = Scratch::<i64>::take();
            integers::decode(reader, count, &mut halves)?;
            reader.codec = CODEC;
            values.resize(start + count, 0.0);
            let mut low = [0i64; VECTOR];
            for (values, halves) in values[start..].chunks_mut(VECTOR).zip(halves.chunks(VECTOR)) {
                let low = &mut low[..values.len()];
                unpack(reader, 0, cut, low)?;
                let shift = cut % 64;
                let keep = if cut == 64 { 0 } else { u64::MAX };
                for ((value, high), low) in values.iter_mut().zip(halves).zip(low.iter()) {
                    *value = f64::from_bits((*high as u64 & keep) << shift | *low as u64);
                }
            }
        }
        PCO => cold::decode_pco_reals(reader, count, values)?,
        PARTS => {
            let mut left = count;
            while left > 0 {
                let part = left.min(PART);
                decode_nested(reader, part, values, depth + 1)?;
                left -= part;
            }
        }
        _ => match Divisor::of_kind(kind) {
            Some((divisor, patched)) => decode_joined(reader, count, values, divisor, patched, depth)?,
            None => return Err(CodecError::UnknownKind { codec: CODEC, kind }),
        },
    }
    Ok(())
}

/// Reads divided integers and the exceptions that stand between them.
fn decode_joined(
    reader: &mut Reader<'_>,
    count: usize,
    values: &mut Vec<f64>,
    divisor: Divisor,
    patched: bool,
    depth: u8,
) -> Result<()> {
    let start = values.len();
    let (mut positions, mut exceptions) = (Scratch::<i64>::take(), Scratch::<f64>::take());
    if patched {
        let exception_count = reader.bounded("exceptions", count)?;
        integers::decode(reader, exception_count, &mut positions)?;
        decode_nested(reader, exception_count, &mut exceptions, depth + 1)?;
    }
    let mut integers = Scratch::<i64>::take();
    integers::decode(reader, count, &mut integers)?;
    decimal::join(&integers, divisor, values);
    for (&position, &exception) in positions.iter().zip(exceptions.iter()) {
        let slot = usize::try_from(position).ok().and_then(|position| values[start..].get_mut(position));
        let Some(slot) = slot else {
            return Err(CodecError::OutOfRange {
                codec: CODEC,
                what: "position of an exception",
                found: position as u64,
                allowed: (count as u64).saturating_sub(1),
            });
        };
        *slot = exception;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
