//! Owns patched frame-of-reference: integers, their differences or differences of differences as a base, a width and
//! exceptions per vector of 1,024; does not decide whether packing is the right codec.

use crate::bitpack::{VECTOR, pack, packed_len, unpack, width_of};
use crate::error::{CodecError, Result};
use crate::reader::{Reader, put_varint, put_zigzag, unzigzag, varint_len, zigzag};

const CODEC: &str = "packed";
/// Set in a vector's first byte when exceptions follow the packed values.
const HAS_EXCEPTIONS: u8 = 0x80;
/// Vectors shorter than this never get exceptions: their header would outweigh the bits saved.
const EXCEPTIONS_FROM: usize = 24;

/// What is packed: the values, their differences, or the differences of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Values,
    Deltas,
    DeltasOfDeltas,
}

/// Base and width of one vector.
#[derive(Clone, Copy, Debug)]
struct Frame {
    base: i64,
    width: u32,
    exceptions: bool,
    /// Estimated bits of the vector, its header included.
    bits: usize,
}

/// The cheapest width for values counted by the width they need, and its bits without the header.
fn cheapest(histogram: &[u16; 65], count: usize, widest: u32) -> (u32, usize) {
    // Position, then the value itself, whose sign costs one bit.
    let per_exception = width_of(count as u64 - 1) as usize + widest as usize + 1;
    let (mut best_width, mut best_bits) = (widest, count * widest as usize);
    let mut outside = 0;
    for width in (0..widest).rev() {
        outside += usize::from(histogram[width as usize + 1]);
        let bits = count * width as usize + outside * per_exception + 24;
        if bits < best_bits {
            (best_width, best_bits) = (width, bits);
        }
    }
    (best_width, best_bits)
}

/// Chooses base and width by counting how many bits each value needs above the minimum and, when a few values lie far
/// to the low side, around the median.
fn frame(values: &[i64]) -> Frame {
    let (mut min, mut max) = (i64::MAX, i64::MIN);
    for &value in values {
        min = min.min(value);
        max = max.max(value);
    }
    let range_width = width_of(max.wrapping_sub(min) as u64);
    let header = 8 + 8 * varint_len(zigzag(min));
    let plain = Frame {
        base: min,
        width: range_width,
        exceptions: false,
        bits: header + packed_len(values.len(), range_width) * 8,
    };
    if range_width <= 1 || values.len() < EXCEPTIONS_FROM {
        return plain;
    }
    let mut histogram = [0u16; 65];
    for value in values {
        histogram[width_of(value.wrapping_sub(min) as u64) as usize] += 1;
    }
    let (width, bits) = cheapest(&histogram, values.len(), range_width);
    let mut best = Frame { base: min, width, exceptions: width < range_width, bits: header + bits };

    let step = values.len() / 16;
    let mut sample: [i64; 16] = std::array::from_fn(|i| values[i * step]);
    sample.sort_unstable();
    let spread = width_of(sample[14].wrapping_sub(sample[1]) as u64);
    if range_width > spread + 2 {
        let median = sample[8];
        let mut histogram = [0u16; 65];
        for value in values {
            histogram[width_of(zigzag(value.wrapping_sub(median))) as usize] += 1;
        }
        let widest = (range_width + 1).min(64);
        let (width, bits) = cheapest(&histogram, values.len(), widest);
        if header + bits < best.bits && width < 64 {
            // The window around the median is rarely centred on the values in it: often a bit is left to win.
            let (mut low, mut high) = (0, 0);
            for value in values {
                let above = value.wrapping_sub(median);
                let above = if width_of(zigzag(above)) <= width { above } else { 0 };
                low = low.min(above);
                high = high.max(above);
            }
            let tight = width_of((high - low) as u64);
            let bits = bits - (width - tight) as usize * values.len();
            best = Frame { base: median.wrapping_add(low), width: tight, exceptions: true, bits: header + bits };
        }
    }
    if best.bits < plain.bits { best } else { plain }
}

fn put_vector(values: &[i64], out: &mut Vec<u8>) {
    let Frame { base, width, exceptions, .. } = frame(values);
    let (mut positions, mut outliers) = ([0i64; VECTOR], [0i64; VECTOR]);
    let (mut count, mut all) = (0, 0);
    if exceptions {
        for (position, value) in values.iter().enumerate() {
            let above = value.wrapping_sub(base);
            // Written always, kept only when the value does not fit: no branch to mispredict.
            positions[count] = position as i64;
            let outlier = zigzag(above);
            outliers[count] = outlier as i64;
            let outside = (above as u64) >> width != 0;
            count += usize::from(outside);
            all |= if outside { outlier } else { 0 };
            if count == VECTOR {
                break;
            }
        }
    }
    out.push(width as u8 | if count > 0 { HAS_EXCEPTIONS } else { 0 });
    put_zigzag(out, base);
    pack(values, base, width, out);
    if count > 0 {
        put_varint(out, count as u64);
        out.push(width_of(all) as u8);
        pack(&positions[..count], 0, position_width(values.len()), out);
        pack(&outliers[..count], 0, width_of(all), out);
    }
}

fn position_width(len: usize) -> u32 {
    width_of(len as u64 - 1)
}

fn read_vector(reader: &mut Reader<'_>, values: &mut [i64]) -> Result<()> {
    let head = reader.byte()?;
    let width = checked_width(head & !HAS_EXCEPTIONS)?;
    let base = reader.zigzag()?;
    unpack(reader, base, width, values)?;
    if head & HAS_EXCEPTIONS != 0 {
        let count = reader.bounded("exceptions", values.len())?;
        let width = checked_width(reader.byte()?)?;
        let (mut positions, mut outliers) = ([0i64; VECTOR], [0i64; VECTOR]);
        unpack(reader, 0, position_width(values.len()), &mut positions[..count])?;
        unpack(reader, 0, width, &mut outliers[..count])?;
        for (&position, &outlier) in positions[..count].iter().zip(&outliers[..count]) {
            let Some(value) = values.get_mut(position as usize) else {
                return Err(CodecError::OutOfRange {
                    codec: CODEC,
                    what: "position of an exception",
                    found: position as u64,
                    allowed: values.len() as u64 - 1,
                });
            };
            *value = base.wrapping_add(unzigzag(outlier as u64));
        }
    }
    Ok(())
}

fn checked_width(width: u8) -> Result<u32> {
    if width > 64 {
        return Err(CodecError::OutOfRange { codec: CODEC, what: "width", found: width.into(), allowed: 64 });
    }
    Ok(width.into())
}

/// Appends the packed stream of `values`, of which there must be more than `order` takes differences (0, 1 or 2).
///
/// The first value or two have no difference of their own. They get a copy of the first real one, and the start in the
/// header is chosen so that the running sums come out right: every vector is then decoded by the same loop.
pub(crate) fn encode(values: &[i64], order: Order, out: &mut Vec<u8>) {
    match order {
        Order::Values => values.chunks(VECTOR).for_each(|vector| put_vector(vector, out)),
        Order::Deltas => {
            let first = values[1].wrapping_sub(values[0]);
            put_zigzag(out, values[0].wrapping_sub(first));
            let mut deltas = [first; VECTOR];
            for start in (0..values.len()).step_by(VECTOR) {
                let count = VECTOR.min(values.len() - start);
                fill_deltas(values, start, &mut deltas[..count]);
                put_vector(&deltas[..count], out);
            }
        }
        Order::DeltasOfDeltas => {
            let first = second_difference(values, 2);
            let before = values[1].wrapping_sub(values[0]).wrapping_sub(first);
            put_zigzag(out, values[0].wrapping_sub(before));
            put_zigzag(out, before.wrapping_sub(first));
            let mut deltas = [first; VECTOR];
            for start in (0..values.len()).step_by(VECTOR) {
                let count = VECTOR.min(values.len() - start);
                fill_deltas_of_deltas(values, start, &mut deltas[..count]);
                put_vector(&deltas[..count], out);
            }
        }
    }
}

#[inline]
fn second_difference(values: &[i64], at: usize) -> i64 {
    values[at].wrapping_sub(values[at - 1]).wrapping_sub(values[at - 1].wrapping_sub(values[at - 2]))
}

/// Differences of `values[start..]` to their predecessors; slots before the first difference stay as they are.
fn fill_deltas(values: &[i64], start: usize, deltas: &mut [i64]) {
    let skip = usize::from(start == 0);
    let (now, before) = (&values[start + skip..], &values[start + skip - 1..]);
    for ((delta, now), before) in deltas[skip..].iter_mut().zip(now).zip(before) {
        *delta = now.wrapping_sub(*before);
    }
}

fn fill_deltas_of_deltas(values: &[i64], start: usize, deltas: &mut [i64]) {
    let skip = 2usize.saturating_sub(start);
    let at = start + skip;
    let (now, before, earlier) = (&values[at..], &values[at - 1..], &values[at - 2..]);
    for (((delta, now), before), earlier) in deltas[skip..].iter_mut().zip(now).zip(before).zip(earlier) {
        *delta = now.wrapping_sub(*before).wrapping_sub(before.wrapping_sub(*earlier));
    }
}

/// Reads `values.len()` values.
pub(crate) fn decode(reader: &mut Reader<'_>, order: Order, values: &mut [i64]) -> Result<()> {
    reader.codec = CODEC;
    let mut value = if order == Order::Values { 0 } else { reader.zigzag()? };
    let mut delta = if order == Order::DeltasOfDeltas { reader.zigzag()? } else { 0 };
    for vector in values.chunks_mut(VECTOR) {
        read_vector(reader, vector)?;
        match order {
            Order::Values => {}
            Order::Deltas => {
                for slot in vector {
                    value = value.wrapping_add(*slot);
                    *slot = value;
                }
            }
            Order::DeltasOfDeltas => {
                for slot in vector {
                    delta = delta.wrapping_add(*slot);
                    value = value.wrapping_add(delta);
                    *slot = value;
                }
            }
        }
    }
    Ok(())
}

/// Values looked at in one place when the order is chosen.
const SAMPLE: usize = 128;

/// The order that packs best and the bits that all values will take, both judged on up to three samples.
pub(crate) fn choose(values: &[i64]) -> (Order, usize) {
    let mut costs = [0usize; 3];
    let mut sampled = 0;
    // Differences are taken of neighbours, plain values from the whole vector around them: a drift that
    // no short run of neighbours shows costs bits in a vector of 1,024.
    let places: &[usize] = match values.len() {
        0..=192 => &[0],
        193..=512 => &[0, 1],
        _ => &[0, 1, 2],
    };
    for &place in places {
        let room = values.len().saturating_sub(SAMPLE + 2);
        let start = if places.len() == 1 { 0 } else { room * place / (places.len() - 1) };
        let near = &values[start..values.len().min(start + if places.len() == 1 { values.len() } else { SAMPLE + 2 })];
        let count = near.len().saturating_sub(2);
        let mut buffer = [0i64; 192];
        let vector = start / VECTOR * VECTOR;
        let vector = &values[vector..values.len().min(vector + VECTOR)];
        let stride = (vector.len() / count.max(1)).max(1);
        let spread = vector.iter().step_by(stride).take(192).zip(&mut buffer).map(|(v, slot)| *slot = *v).count();
        costs[0] += frame(&buffer[..spread]).bits * count.max(1) / spread;
        if count == 0 {
            costs[1] = usize::MAX / 2;
            costs[2] = usize::MAX / 2;
        } else {
            fill_deltas(near, 2, &mut buffer[..count]);
            costs[1] += frame(&buffer[..count]).bits;
            fill_deltas_of_deltas(near, 2, &mut buffer[..count]);
            costs[2] += frame(&buffer[..count]).bits;
        }
        sampled += count.max(1);
    }
    let scale = |bits: usize| bits.saturating_mul(values.len()) / sampled;
    // The starts that differences need beside their frames.
    let start_bits = 8 * varint_len(zigzag(values[0]));
    let costs = [scale(costs[0]), scale(costs[1]) + start_bits, scale(costs[2]) + start_bits + 8];
    // A sum of sums is slower to decode and spreads one odd value over three: it has to win clearly.
    if costs[2] + values.len() / 4 < costs[1].min(costs[0]) {
        (Order::DeltasOfDeltas, costs[2])
    } else if costs[1] < costs[0] {
        (Order::Deltas, costs[1])
    } else {
        (Order::Values, costs[0])
    }
}

/// As [`choose`], for columns that may be too short to have differences of differences.
pub(crate) fn choose_or_plain(values: &[i64]) -> (Order, usize) {
    if values.len() < 3 { (Order::Values, values.len() * 64) } else { choose(values) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(values: &[i64], order: Order) -> usize {
        let mut out = Vec::new();
        encode(values, order, &mut out);
        let mut back = vec![0; values.len()];
        let mut reader = Reader::new(&out, "test");
        decode(&mut reader, order, &mut back).unwrap();
        reader.finish().unwrap();
        assert_eq!(back, values);
        out.len()
    }

    #[test]
    fn all_orders_come_back_at_vector_borders() {
        for count in [3usize, 4, 23, 24, 100, 1_023, 1_024, 1_025, 1_026, 2_048, 3_000] {
            let wild: Vec<i64> =
                (0..count).map(|i| (i as i64).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)).collect();
            let tame: Vec<i64> = (0..count).map(|i| 1_000_000 + 10 * i as i64 + (i as i64 * 7) % 5).collect();
            for order in [Order::Values, Order::Deltas, Order::DeltasOfDeltas] {
                round_trip(&wild, order);
                round_trip(&tame, order);
                round_trip(&vec![i64::MIN; count], order);
            }
        }
    }

    #[test]
    fn outliers_on_both_sides_become_exceptions() {
        let mut values: Vec<i64> = (0..1_024).map(|i| 500 + i % 16).collect();
        for (at, outlier) in [(3, -1_000_000_000), (700, 7_000_000_000), (1_023, i64::MIN), (5, i64::MAX)] {
            values[at] = outlier;
        }
        let bytes = round_trip(&values, Order::Values);
        assert!(bytes < 1_024 / 2 + 100, "{bytes}");
    }

    #[test]
    fn hostile_counts_and_widths_are_refused() {
        for bad in [&[65, 0][..], &[0x80, 0, 5, 1, 0xff], &[0x80, 0, 1, 65], &[0x80, 0, 2, 0, 0xff]] {
            let mut values = [0; 3];
            assert!(decode(&mut Reader::new(bad, "test"), Order::Values, &mut values).is_err(), "{bad:x?}");
        }
    }
}
