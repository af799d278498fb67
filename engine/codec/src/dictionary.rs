//! Owns dictionary coding of integers that take few distinct values far apart; does not handle text.

use crate::bitpack::width_of;
use crate::error::{CodecError, Result};
use crate::integers::{self, Choice, DICTIONARY};
use crate::reader::{Reader, put_varint};
use crate::scratch::Scratch;

const CODEC: &str = "dictionary";
/// Most distinct values; ids then fit a byte, and the table fits the first cache.
const DISTINCT_MAX: usize = 256;
const SLOTS: usize = 1_024;
/// Columns shorter than this do not earn back their dictionary.
const COUNT_MIN: usize = 64;

/// Ids of values in the order in which they appear first.
struct Table {
    /// Id + 1 of the value that hashed here, 0 when free.
    slots: [u16; SLOTS],
    distinct: Vec<i64>,
}

impl Table {
    fn new() -> Self {
        Self { slots: [0; SLOTS], distinct: Vec::with_capacity(DISTINCT_MAX) }
    }

    /// The id of `value`; `None` when the table is full.
    #[inline]
    fn id(&mut self, value: i64) -> Option<u16> {
        let mut slot = ((value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize;
        loop {
            match self.slots[slot] {
                0 => break,
                id if self.distinct[usize::from(id) - 1] == value => return Some(id - 1),
                _ => slot = (slot + 1) % SLOTS,
            }
        }
        if self.distinct.len() == DISTINCT_MAX {
            return None;
        }
        self.distinct.push(value);
        self.slots[slot] = self.distinct.len() as u16;
        Some(self.distinct.len() as u16 - 1)
    }
}

/// Appends `values` as a dictionary stream, kind byte included, when that beats `packed_bits`; tells whether it did.
pub(crate) fn encode(values: &[i64], packed_bits: usize, choice: Choice, out: &mut Vec<u8>) -> bool {
    // Ids of a useful dictionary take at least two bits; below six packed bits nothing is left to win.
    if values.len() < COUNT_MIN || packed_bits < 6 * values.len() {
        return false;
    }
    let mut table = Table::new();
    let stride = (values.len() / COUNT_MIN) | 1;
    let sampled = values.iter().step_by(stride).map_while(|value| table.id(*value)).count();
    if table.distinct.len() * 4 > sampled * 3 {
        return false;
    }
    let mut ids = Scratch::<i64>::take();
    for value in values {
        let Some(id) = table.id(*value) else { return false };
        ids.push(i64::from(id));
    }
    let distinct = table.distinct.len();
    // Sorted values pack well, and ids in their order keep what neighbours have in common.
    let mut order: Vec<u16> = (0..distinct as u16).collect();
    order.sort_unstable_by_key(|id| table.distinct[usize::from(*id)]);
    let mut rank = [0i64; DISTINCT_MAX];
    for (position, id) in order.iter().enumerate() {
        rank[usize::from(*id)] = position as i64;
    }
    for id in ids.iter_mut() {
        *id = rank[*id as usize];
    }
    table.distinct.sort_unstable();
    let start = out.len();
    out.push(DICTIONARY);
    put_varint(out, distinct as u64);
    integers::encode(&table.distinct, Choice::simple(choice.tier), out);
    let expected_bits = (out.len() - start) * 8 + values.len() * width_of(distinct as u64 - 1) as usize;
    if expected_bits < packed_bits {
        integers::encode(&ids, Choice::simple(choice.tier), out);
        if (out.len() - start) * 8 < packed_bits {
            return true;
        }
    }
    out.truncate(start);
    false
}

/// Reads what [`encode`] wrote, after the stream's kind byte.
pub(crate) fn decode(reader: &mut Reader<'_>, count: usize, values: &mut Vec<i64>, depth: u8) -> Result<()> {
    reader.codec = CODEC;
    let distinct = reader.bounded("distinct values", DISTINCT_MAX.min(count))?;
    let mut table = Scratch::<i64>::take();
    integers::decode_nested(reader, distinct, &mut table, depth + 1)?;
    let start = values.len();
    integers::decode_nested(reader, count, values, depth + 1)?;
    for value in &mut values[start..] {
        let id = *value as u64;
        let Some(entry) = usize::try_from(id).ok().and_then(|id| table.get(id)) else {
            let allowed = (distinct as u64).saturating_sub(1);
            return Err(CodecError::OutOfRange { codec: CODEC, what: "id", found: id, allowed });
        };
        *value = *entry;
    }
    Ok(())
}
