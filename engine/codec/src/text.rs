//! Owns the bytes of a stream of strings; does not check what the strings say beyond UTF-8.

use crate::Tier;
use crate::cold;
use crate::column::Text;
use crate::error::{CodecError, Result};
use crate::integers::{self, Choice};
use crate::reader::{Reader, put_varint};
use crate::scratch::Scratch;

const CODEC: &str = "utf8";

pub(crate) const PLAIN: u8 = 0;
pub(crate) const CONSTANT: u8 = 1;
pub(crate) const DICTIONARY: u8 = 2;
pub(crate) const ZSTD: u8 = 3;

/// Every kind but `PLAIN` can stand for more bytes than it has, so a decoder needs a bound that does not come from the
/// chunk: this many bytes a row and some more for small chunks. The encoder writes longer text as it is.
const EXPANDED_PER_ROW: usize = 1_024;
const EXPANDED_BASE: usize = 64 * 1_024;

/// Fewer bytes than this are not worth a zstd frame, whose header alone takes about ten.
const ZSTD_FROM: usize = 64;

fn expanded_max(rows: usize) -> usize {
    rows.saturating_mul(EXPANDED_PER_ROW).saturating_add(EXPANDED_BASE)
}

/// Appends `strings` as one stream: a kind byte and its payload. The count is not written.
pub(crate) fn encode(strings: &[&[u8]], tier: Tier, out: &mut Vec<u8>) {
    let bytes: usize = strings.iter().map(|string| string.len()).sum();
    let small = bytes <= expanded_max(strings.len());
    if tier != Tier::Plain && small && !strings.is_empty() {
        if strings.iter().all(|string| *string == strings[0]) {
            out.push(CONSTANT);
            put_varint(out, strings[0].len() as u64);
            out.extend_from_slice(strings[0]);
            return;
        }
        if encode_dictionary(strings, tier, out) {
            return;
        }
    }
    encode_strings(strings, tier != Tier::Plain && small, tier, out);
}

/// Appends lengths and bytes, the bytes through zstd when `may_compress` and it saves a tenth.
fn encode_strings(strings: &[&[u8]], may_compress: bool, tier: Tier, out: &mut Vec<u8>) {
    let at = out.len();
    out.push(PLAIN);
    let mut lengths = Scratch::<i64>::take();
    lengths.extend(strings.iter().map(|string| string.len() as i64));
    // Eight bytes a length would often be more than the text: lengths are packed even in the plain tier.
    integers::encode(&lengths, Choice::simple(tier.max(Tier::Hot)), out);
    let start = out.len();
    strings.iter().for_each(|string| out.extend_from_slice(string));
    let raw = out.len() - start;
    if may_compress && raw >= ZSTD_FROM {
        let mut frame = Scratch::<u8>::take();
        if cold::compress(&out[start..], &mut frame) && frame.len() < raw - raw / 10 {
            out[at] = ZSTD;
            out.truncate(start);
            put_varint(out, frame.len() as u64);
            out.extend_from_slice(&frame);
        }
    }
}

/// Appends a dictionary stream when strings repeat; tells whether it did.
fn encode_dictionary(strings: &[&[u8]], tier: Tier, out: &mut Vec<u8>) -> bool {
    // Slots hold id + 1, 0 when free; at most half of them are taken.
    let mut slots = vec![0u32; (strings.len() * 2).next_power_of_two()];
    let mask = slots.len() - 1;
    let mut distinct: Vec<&[u8]> = Vec::new();
    let mut ids = Scratch::<i64>::take();
    for (row, string) in strings.iter().enumerate() {
        if row > 0 && *string == strings[row - 1] {
            let id = ids[row - 1];
            ids.push(id);
            continue;
        }
        let mut slot = xxhash_rust::xxh3::xxh3_64(string) as usize & mask;
        let id = loop {
            match slots[slot] {
                0 => {
                    distinct.push(string);
                    slots[slot] = distinct.len() as u32;
                    break distinct.len() - 1;
                }
                id if distinct[id as usize - 1] == *string => break id as usize - 1,
                _ => slot = (slot + 1) & mask,
            }
        };
        ids.push(id as i64);
        // Mostly distinct strings do better as they are, and this is known after some hundred rows.
        if distinct.len() > 128 && distinct.len() * 4 > (row + 1) * 3 {
            return false;
        }
    }
    if distinct.len() * 4 > strings.len() * 3 {
        return false;
    }
    out.push(DICTIONARY);
    put_varint(out, distinct.len() as u64);
    encode_strings(&distinct, true, tier, out);
    integers::encode(&ids, Choice { scale: false, dictionary: false, ..Choice::all(tier) }, out);
    true
}

/// Reads one stream of `count` strings and appends them.
pub(crate) fn decode(reader: &mut Reader<'_>, count: usize, text: &mut Text) -> Result<()> {
    reader.codec = CODEC;
    let kind = reader.byte()?;
    match kind {
        PLAIN | ZSTD => decode_strings(reader, kind, count, text),
        CONSTANT => {
            let len = reader.bounded("bytes of the string", reader.rest().len())?;
            let bytes = reader.bytes(len)?;
            check_room(len.saturating_mul(count), count, text)?;
            std::str::from_utf8(bytes).map_err(|_| reader.invalid("string is not UTF-8"))?;
            (0..count).for_each(|_| text.push_bytes(bytes));
            Ok(())
        }
        DICTIONARY => {
            let distinct = reader.bounded("distinct strings", count)?;
            let kind = reader.byte()?;
            if !matches!(kind, PLAIN | ZSTD) {
                return Err(CodecError::UnknownKind { codec: "utf8 dictionary", kind });
            }
            let mut entries = Text::default();
            decode_strings(reader, kind, distinct, &mut entries)?;
            let mut ids = Scratch::<i64>::take();
            integers::decode(reader, count, &mut ids)?;
            reader.codec = CODEC;
            let mut bytes = 0usize;
            for &id in ids.iter() {
                if !(0..distinct as i64).contains(&id) {
                    let allowed = (distinct as u64).saturating_sub(1);
                    return Err(CodecError::OutOfRange { codec: CODEC, what: "id", found: id as u64, allowed });
                }
                bytes = bytes.saturating_add(entries.get_bytes(id as usize).len());
            }
            check_room(bytes, count, text)?;
            ids.iter().for_each(|id| text.push_bytes(entries.get_bytes(*id as usize)));
            Ok(())
        }
        _ => Err(CodecError::UnknownKind { codec: CODEC, kind }),
    }
}

fn decode_strings(reader: &mut Reader<'_>, kind: u8, count: usize, text: &mut Text) -> Result<()> {
    let mut lengths = Scratch::<i64>::take();
    integers::decode(reader, count, &mut lengths)?;
    reader.codec = CODEC;
    let mut bytes = 0usize;
    for &length in lengths.iter() {
        let length = usize::try_from(length).map_err(|_| reader.invalid("length is negative"))?;
        bytes = bytes.saturating_add(length);
    }
    let wrong = CodecError::Invalid { codec: CODEC, what: "strings are not UTF-8 or too long together" };
    if kind == PLAIN {
        return text.extend_checked(&lengths, reader.bytes(bytes)?).ok_or(wrong);
    }
    check_room(bytes, count, text)?;
    let len = reader.bounded("bytes of the frame", reader.rest().len())?;
    let frame = reader.bytes(len)?;
    let mut raw = Scratch::<u8>::take();
    raw.resize(bytes, 0);
    cold::decompress(frame, &mut raw)?;
    text.extend_checked(&lengths, &raw).ok_or(wrong)
}

/// Refuses text that a few bytes would blow up, and columns of 2 GiB.
fn check_room(bytes: usize, rows: usize, text: &Text) -> Result<()> {
    let allowed = expanded_max(rows).min(i32::MAX as usize - text.byte_len());
    if bytes > allowed {
        let (found, allowed) = (bytes as u64, allowed as u64);
        return Err(CodecError::OutOfRange { codec: CODEC, what: "bytes of all strings", found, allowed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(strings: &[String], tier: Tier) -> usize {
        let slices: Vec<&[u8]> = strings.iter().map(|s| s.as_bytes()).collect();
        let mut out = Vec::new();
        encode(&slices, tier, &mut out);
        let mut back = Text::default();
        back.push("before");
        let mut reader = Reader::new(&out, "test");
        decode(&mut reader, strings.len(), &mut back).unwrap();
        reader.finish().unwrap();
        assert_eq!(back.iter().skip(1).collect::<Vec<_>>(), strings.iter().map(String::as_str).collect::<Vec<_>>());
        out.len()
    }

    #[test]
    fn all_kinds_of_text_come_back() {
        let shapes: Vec<(Vec<String>, usize)> = vec![
            (vec![], 10),
            (vec!["".into(); 100], 4),
            (vec!["grün".into(); 100], 8),
            ((0..1_000).map(|i| ["ENE", "NW", "S", "ü"][i * 7 % 4].into()).collect(), 300),
            ((0..1_000).map(|i| format!("message number {i} of the pump")).collect(), 8_000),
            ((0..10).map(|i| format!("{i}")).collect(), 30),
            ((0..300).map(|i| format!("{}", i * 7_919 % 1_000_003)).collect(), 2_500),
            (vec!["x".repeat(200_000), "y".into()], 200_100),
        ];
        for (strings, allowed) in shapes {
            for tier in [Tier::Plain, Tier::Hot, Tier::Cold] {
                let bytes = round_trip(&strings, tier);
                assert!(tier == Tier::Plain || bytes <= allowed, "{bytes} > {allowed}: {:?}", strings.first());
            }
        }
    }

    #[test]
    fn text_bombs_are_refused_before_they_are_built() {
        let mut chunk = vec![CONSTANT];
        put_varint(&mut chunk, 100_000);
        chunk.extend(std::iter::repeat_n(b'x', 100_000));
        let failed = decode(&mut Reader::new(&chunk, "test"), 10_000, &mut Text::default());
        assert!(matches!(failed, Err(CodecError::OutOfRange { what: "bytes of all strings", .. })), "{failed:?}");
    }
}
