//! Owns the codecs of the cold tier, pco and zstd over byte planes, behind bounds of our own; does not choose light codecs.

use std::cell::RefCell;

use pco::data_types::Number;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, PagingSpec};

use crate::bitpack::width_of;
use crate::error::{CodecError, Result};
use crate::integers::{PCO, PLANES, bytes_of};
use crate::reader::{Reader, put_varint, put_zigzag};
use crate::scratch::Scratch;

/// A light chunk of at most this many bytes is left alone: the headers of pco and zstd cost more than they win.
pub(crate) const BYTES_MIN: usize = 48;

/// A cold codec must be this much smaller than the light one, in hundredths. Light codecs decode four to ten times
/// faster, so a scan pays for every chunk that is not light; below 6 % the bytes saved are not worth that.
const WORTH_PERCENT: usize = 94;

/// pco's own default: above it sizes fall by less than 0.5 % and encoding takes up to six times as long.
const PCO_LEVEL: usize = 8;
const ZSTD_LEVEL: i32 = 3;
/// Widths of the integers that pco gets: the smallest that holds all differences to the minimum. pco writes a lower
/// bound of that width for every bin, which in chunks of 4,096 values is a good part of its bytes.
const PCO_8: u8 = 1;
const PCO_16: u8 = 2;
const PCO_32: u8 = 4;
const PCO_64: u8 = 8;

/// Replaces the stream at `out[start..]`, kind byte included, when pco or zstd is clearly smaller.
pub(crate) fn improve_integers(values: &[i64], start: usize, out: &mut Vec<u8>) {
    let light = out.len() - start;
    let mut allowed = light * WORTH_PERCENT / 100;
    let mut best = Scratch::<u8>::take();
    let mut candidate = Scratch::<u8>::take();
    for encode in [encode_pco_integers, encode_planes] {
        candidate.clear();
        if encode(values, &mut candidate) && candidate.len() <= allowed {
            allowed = candidate.len() - 1;
            std::mem::swap(&mut *best, &mut *candidate);
        }
    }
    if !best.is_empty() {
        out.truncate(start);
        out.extend_from_slice(&best);
    }
}

/// Replaces the payload at `out[start..]` by pco over the doubles themselves when that is clearly smaller; tells whether
/// it did.
pub(crate) fn improve_reals(values: &[f64], start: usize, out: &mut Vec<u8>) -> bool {
    let allowed = (out.len() - start) * WORTH_PERCENT / 100;
    let mut candidate = Scratch::<u8>::take();
    if !encode_pco(values, &mut candidate) || candidate.len() > allowed {
        return false;
    }
    out.truncate(start);
    out.extend_from_slice(&candidate);
    true
}

fn encode_pco_integers(values: &[i64], out: &mut Vec<u8>) -> bool {
    let min = values.iter().copied().min().unwrap_or_default();
    let max = values.iter().copied().max().unwrap_or_default();
    out.push(PCO);
    match width_of(max.wrapping_sub(min) as u64) {
        0..=8 => {
            out.push(PCO_8);
            put_zigzag(out, min);
            let narrow: Vec<u8> = values.iter().map(|value| value.wrapping_sub(min) as u8).collect();
            encode_pco(&narrow, out)
        }
        9..=16 => {
            out.push(PCO_16);
            put_zigzag(out, min);
            let narrow: Vec<u16> = values.iter().map(|value| value.wrapping_sub(min) as u16).collect();
            encode_pco(&narrow, out)
        }
        17..=32 => {
            out.push(PCO_32);
            put_zigzag(out, min);
            let narrow: Vec<u32> = values.iter().map(|value| value.wrapping_sub(min) as u32).collect();
            encode_pco(&narrow, out)
        }
        _ => {
            out.push(PCO_64);
            put_zigzag(out, 0);
            encode_pco(values, out)
        }
    }
}

fn encode_pco<T: Number>(values: &[T], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let config = ChunkConfig::default()
        .with_compression_level(PCO_LEVEL)
        .with_enable_8_bit(true)
        .with_paging_spec(PagingSpec::Exact(vec![values.len()]));
    let file = FileCompressor::default();
    // Only an invalid configuration or a failing writer are errors; then the light codec simply stays.
    let Ok(mut chunk) = file.chunk_compressor(values, &config) else { return false };
    let written = file
        .write_header(&mut *out)
        .and_then(|out| chunk.write_meta(out))
        .and_then(|out| chunk.write_page(0, out))
        .is_ok();
    // A newer pco may write what our own check does not know yet: such bytes must not reach a disk.
    written && check_pco_head(&Reader::new(&out[start..], "pco"), size_of::<T>()).is_ok()
}

/// Reads pco integers after the stream's kind byte.
pub(crate) fn decode_pco_integers(reader: &mut Reader<'_>, count: usize, values: &mut Vec<i64>) -> Result<()> {
    reader.codec = "pco";
    let width = reader.byte()?;
    let base = reader.zigzag()?;
    match width {
        PCO_8 => decode_narrow::<u8>(reader, count, base, values),
        PCO_16 => decode_narrow::<u16>(reader, count, base, values),
        PCO_32 => decode_narrow::<u32>(reader, count, base, values),
        PCO_64 => {
            let start = values.len();
            values.resize(start + count, 0);
            decode_pco(reader, &mut values[start..])?;
            values[start..].iter_mut().for_each(|value| *value = value.wrapping_add(base));
            Ok(())
        }
        _ => Err(reader.invalid("width of the integers is not 1, 2, 4 or 8")),
    }
}

fn decode_narrow<T>(reader: &mut Reader<'_>, count: usize, base: i64, values: &mut Vec<i64>) -> Result<()>
where
    T: Number + Default + Into<i64>,
{
    let mut narrow = vec![T::default(); count];
    decode_pco(reader, &mut narrow)?;
    values.extend(narrow.into_iter().map(|value| base.wrapping_add(value.into())));
    Ok(())
}

/// Reads pco doubles after the chunk's header.
pub(crate) fn decode_pco_reals(reader: &mut Reader<'_>, count: usize, values: &mut Vec<f64>) -> Result<()> {
    reader.codec = "pco";
    let start = values.len();
    values.resize(start + count, 0.0);
    decode_pco(reader, &mut values[start..])
}

fn decode_pco<T: Number>(reader: &mut Reader<'_>, values: &mut [T]) -> Result<()> {
    check_pco_head(reader, size_of::<T>())?;
    let failed = |_| CodecError::Invalid { codec: "pco", what: "bytes are not a pco page" };
    let (file, rest) = FileDecompressor::new(reader.rest()).map_err(failed)?;
    let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).map_err(failed)?;
    let mut page = chunk.page_decompressor(rest, values.len()).map_err(failed)?;
    let progress = page.read(values).map_err(failed)?;
    if progress.n_processed != values.len() || !progress.finished {
        return Err(reader.invalid("page has another number of values"));
    }
    let consumed = reader.rest().len() - page.into_src().len();
    reader.bytes(consumed)?;
    Ok(())
}

/// Refuses what pco would accept but our encoder never writes: other format versions, whose layout this check does not
/// know; a dictionary, which pco allocates from its claimed length before it reads the entries; a look-back window
/// larger than its encoder makes; and convolutions, which only explicit settings produce.
fn check_pco_head(reader: &Reader<'_>, value_bytes: usize) -> Result<()> {
    let mut bits = reader.clone();
    if bits.bytes(2)? != [4, 1] {
        return Err(reader.invalid("format version is not 4.1"));
    }
    let mut word = [0; 16];
    let rest = bits.rest();
    let len = rest.len().min(16);
    word[..len].copy_from_slice(&rest[..len]);
    let word = u128::from_le_bytes(word);
    let mode_bits = match word & 0xf {
        0 => 0,
        1 | 2 => value_bytes * 8,
        3 => 8,
        _ => return Err(reader.invalid("mode is not one that the encoder uses")),
    };
    let delta = word >> (4 + mode_bits);
    match delta & 0xf {
        0 | 1 => Ok(()),
        2 if (delta >> 4 & 0x1f) < LOOKBACK_BITS_MAX => Ok(()),
        2 => Err(reader.invalid("look-back window is longer than the encoder makes it")),
        _ => Err(reader.invalid("delta encoding is not one that the encoder uses")),
    }
}

/// Bits of the longest look-back window that pco's encoder chooses.
const LOOKBACK_BITS_MAX: u128 = 15;

thread_local! {
    // Contexts are some hundred KiB; making one per chunk would cost more than the work.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Appends `raw` as a zstd frame; false when zstd refused, and then `out` is as before.
pub(crate) fn compress(raw: &[u8], out: &mut Vec<u8>) -> bool {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        let Some(Ok(frame)) = slot.as_mut().map(|compressor| compressor.compress(raw)) else { return false };
        out.extend_from_slice(&frame);
        true
    })
}

/// Decompresses `frame` into `raw`, which it must fill exactly.
pub(crate) fn decompress(frame: &[u8], raw: &mut [u8]) -> Result<()> {
    let failed = CodecError::Invalid { codec: "zstd", what: "frame does not fill its values exactly" };
    let filled = DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Decompressor::new().ok();
        }
        slot.as_mut().and_then(|decompressor| decompressor.decompress_to_buffer(frame, raw).ok())
    });
    if filled == Some(raw.len()) { Ok(()) } else { Err(failed) }
}

/// Appends differences to the minimum as byte planes, lowest bytes of all values first, in one zstd frame.
fn encode_planes(values: &[i64], out: &mut Vec<u8>) -> bool {
    let min = values.iter().copied().min().unwrap_or_default();
    let max = values.iter().copied().max().unwrap_or_default();
    let planes = width_of(max.wrapping_sub(min) as u64).div_ceil(8) as usize;
    let mut raw = Scratch::<u8>::take();
    for plane in 0..planes {
        raw.extend(values.iter().map(|value| (value.wrapping_sub(min) as u64 >> (plane * 8)) as u8));
    }
    out.push(PLANES);
    out.push(planes as u8);
    put_zigzag(out, min);
    let mut frame = Scratch::<u8>::take();
    if !compress(&raw, &mut frame) {
        return false;
    }
    put_varint(out, frame.len() as u64);
    out.extend_from_slice(&frame);
    true
}

/// Reads what [`encode_planes`] wrote, after the stream's kind byte.
pub(crate) fn decode_planes(reader: &mut Reader<'_>, count: usize, values: &mut Vec<i64>) -> Result<()> {
    reader.codec = "planes";
    let planes = usize::from(reader.byte()?);
    if !(1..=8).contains(&planes) {
        return Err(reader.invalid("not one to eight planes"));
    }
    let min = reader.zigzag()?;
    let len = reader.bounded("bytes of the frame", reader.rest().len())?;
    let frame = reader.bytes(len)?;
    let mut raw = Scratch::<u8>::take();
    raw.resize(bytes_of(count, planes)?, 0);
    decompress(frame, &mut raw)?;
    let start = values.len();
    values.resize(start + count, min);
    for (plane, bytes) in raw.chunks(count.max(1)).enumerate() {
        for (value, byte) in values[start..].iter_mut().zip(bytes) {
            *value = value.wrapping_add(((u64::from(*byte)) << (plane * 8)) as i64);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::{varint_len, zigzag};

    /// pco's writer puts fields one after the other, lowest bit first.
    fn head(fields: &[(u128, u32)]) -> Vec<u8> {
        let (mut word, mut at) = (0u128, 0);
        for (value, bits) in fields {
            word |= value << at;
            at += bits;
        }
        [&[4, 1][..], &word.to_le_bytes(), &[0; 64]].concat()
    }

    #[test]
    fn what_pco_would_allocate_for_without_bytes_is_refused_before() {
        let refused = |fields: &[(u128, u32)]| {
            let bytes = head(fields);
            check_pco_head(&Reader::new(&bytes, "pco"), 8).is_err()
        };
        assert!(!refused(&[(0, 4), (0, 4)]), "classic without deltas is what the encoder writes");
        assert!(!refused(&[(0, 4), (1, 4), (1, 3)]));
        assert!(!refused(&[(1, 4), (10, 64), (2, 4), (14, 5)]));
        assert!(refused(&[(4, 4), ((1 << 25) - 1, 25)]), "a dictionary of 33 million entries");
        assert!(refused(&[(0, 4), (2, 4), (15, 5)]), "a look-back window of 65,536 values");
        assert!(refused(&[(1, 4), (10, 64), (2, 4), (31, 5)]));
        assert!(refused(&[(0, 4), (3, 4)]), "a convolution");
        assert!(check_pco_head(&Reader::new(&[4, 2, 0, 0], "pco"), 8).is_err());
    }

    fn noise(i: u64) -> u64 {
        let x = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 10
    }

    #[test]
    fn flipped_bits_of_pco_pages_never_panic() {
        let shapes: [(&str, Vec<i64>); 5] = [
            ("classic", (0..600).map(|i| (noise(i) % 40 * (noise(i + 1) % 40)) as i64).collect()),
            ("deltas", (0..600).map(|i| (i * i) as i64 + (noise(i) % 9) as i64).collect()),
            ("int mult", (0..900).map(|i| (noise(i) % 5_000 * 1_000 + noise(i + 7) % 3) as i64).collect()),
            ("look-back", (0..1_200).map(|i| (noise(i % 61) % (1 << 50)) as i64 + (noise(i) % 3) as i64).collect()),
            ("single bin", vec![5; 300]),
        ];
        let mut look_backs = 0;
        for (name, values) in shapes {
            let mut chunk = Vec::new();
            assert!(encode_pco_integers(&values, &mut chunk));
            let mut back = Vec::new();
            decode_pco_integers(&mut Reader::new(&chunk[1..], "pco"), values.len(), &mut back).unwrap();
            assert_eq!(back, values, "{name}");
            let base_len = varint_len(zigzag(values.iter().copied().min().unwrap()));
            look_backs += usize::from(chunk[1] == PCO_64 && chunk[5] >> 4 == 2 || chunk[4 + base_len] >> 4 == 2);
            for bit in 8..chunk.len() * 8 {
                let mut bad = chunk.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let mut back = Vec::new();
                if decode_pco_integers(&mut Reader::new(&bad[1..], "pco"), values.len(), &mut back).is_ok() {
                    assert_eq!(back.len(), values.len());
                }
            }
        }
        assert!(look_backs > 0, "no shape made pco look back");
        let reals: Vec<f64> =
            (0..700).map(|i| (noise(i) % 900) as f64 * 0.37 + (noise(i + 3) % 7) as f64 * 1e-16).collect();
        let mut chunk = Vec::new();
        assert!(encode_pco(&reals, &mut chunk));
        for bit in 0..chunk.len() * 8 {
            let mut bad = chunk.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let _ = decode_pco_reals(&mut Reader::new(&bad, "pco"), reals.len(), &mut Vec::new());
        }
    }

    #[test]
    fn cold_codecs_stay_away_unless_they_win() {
        let noise: Vec<i64> = (0..500).map(|i| (noise(i) >> 30) as i64).collect();
        let mut out = vec![0; 500 * 3 + 10];
        let light = out.clone();
        improve_integers(&noise, 0, &mut out);
        assert!(out == light);
        let repeats: Vec<i64> = (0..500).map(|i| noise[i % 50]).collect();
        improve_integers(&repeats, 0, &mut out);
        assert!(out.len() < 400 && matches!(out[0], PCO | PLANES), "{} bytes of kind {}", out.len(), out[0]);
    }
}
