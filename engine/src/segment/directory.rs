//! Owns the bytes of a device's directory (its blocks) and of a block's meta (its chunks and zone maps); does no I/O.

use super::bytes::{Cursor, Flaw, put_varint, put_zigzag};
use super::format::{BLOCK_ROWS_MAX, CRC_LEN, put_crc};
use super::zone::{decode_zone, encode_zone};
use crate::types::{FieldStats, TableSchema};

/// One block as its device's directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    pub rows: u32,
    pub time_min: i64,
    pub time_max: i64,
    pub data_offset: u64,
    pub data_len: u64,
    pub meta_offset: u64,
    pub meta_len: u64,
}

/// Appends a directory; the blocks' data and metas lie before it without a gap, so only lengths are kept.
pub(crate) fn encode_directory(received: (i64, i64), blocks: &[BlockEntry], out: &mut Vec<u8>) {
    let start = out.len();
    let first = blocks.first().map_or(0, |b| b.time_min);
    put_varint(out, blocks.len() as u64);
    out.extend_from_slice(&first.to_le_bytes());
    put_zigzag(out, received.0.wrapping_sub(first));
    put_zigzag(out, received.1.wrapping_sub(received.0));
    let mut before = first;
    for block in blocks {
        put_varint(out, u64::from(block.rows));
        put_varint(out, block.time_min.wrapping_sub(before) as u64);
        put_varint(out, block.time_max.wrapping_sub(block.time_min) as u64);
        put_varint(out, block.data_len);
        put_varint(out, block.meta_len);
        before = block.time_max;
    }
    put_crc(out, start);
}

/// Reads a directory that lies at `offset`, for a segment whose header ends at `header_len`; checksum was checked.
pub(crate) fn decode_directory(
    bytes: &[u8],
    offset: u64,
    header_len: u64,
) -> Result<((i64, i64), Vec<BlockEntry>), Flaw> {
    const TIME: &str = "block times that rise";
    const PLACE: &str = "blocks within the file";
    let mut cursor = Cursor::new(bytes);
    let count = cursor.varint("a count of blocks")?;
    // Each block takes at least five bytes: a count beyond that must not reserve memory.
    if count == 0 || count > bytes.len() as u64 / 5 {
        return Err(cursor.flaw("a count of blocks", count.to_string()));
    }
    let mut time = cursor.i64("a first time")?;
    let received_first = time.wrapping_add(cursor.zigzag("a receive time")?);
    let received_last = received_first.wrapping_add(cursor.zigzag("a receive time")?);
    let mut blocks = Vec::with_capacity(count as usize);
    let (mut data_total, mut meta_total) = (0u64, 0u64);
    for at in 0..count {
        let rows = cursor.varint("the rows of a block")?;
        if rows == 0 || rows > BLOCK_ROWS_MAX as u64 {
            return Err(cursor.flaw("the rows of a block", rows.to_string()));
        }
        let (gap, span) = (cursor.varint(TIME)?, cursor.varint(TIME)?);
        let time_min = time.checked_add_unsigned(gap);
        let time_max = time_min.and_then(|t| t.checked_add_unsigned(span));
        let (Some(time_min), Some(time_max)) = (time_min, time_max) else {
            return Err(cursor.flaw(TIME, format!("{gap} and {span} past {time}")));
        };
        if (gap == 0) != (at == 0) || span < rows - 1 {
            return Err(cursor.flaw(TIME, format!("gap {gap}, {rows} rows in {span} ns")));
        }
        let (data_len, meta_len) = (cursor.varint(PLACE)?, cursor.varint(PLACE)?);
        blocks.push(BlockEntry {
            rows: rows as u32,
            time_min,
            time_max,
            data_offset: data_total,
            data_len,
            meta_offset: meta_total,
            meta_len,
        });
        data_total = data_total.saturating_add(data_len);
        meta_total = meta_total.saturating_add(meta_len);
        time = time_max;
    }
    cursor.end("the end of the directory")?;
    let metas = offset.checked_sub(meta_total);
    match metas.and_then(|m| m.checked_sub(data_total)).filter(|start| *start >= header_len) {
        Some(data) => {
            for block in &mut blocks {
                block.data_offset += data;
                block.meta_offset += data + data_total;
            }
            Ok(((received_first, received_last), blocks))
        }
        None => Err(Flaw { at: 0, expected: PLACE, found: format!("{data_total} and {meta_total} bytes before it") }),
    }
}

/// One chunk of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chunk {
    /// Offset within the block's data.
    pub offset: u64,
    /// Length without the checksum.
    pub len: u64,
}

/// Where the chunks of a block are, and its zone maps.
#[derive(Debug)]
pub(crate) struct Meta {
    /// One checksum at the end of the data covers all chunks; else each chunk has its own behind it.
    pub shared_crc: bool,
    pub times: Chunk,
    /// One for each field of the schema; `None` when the block has no value of it.
    pub fields: Vec<Option<(Chunk, FieldStats)>>,
}

/// Appends a block's meta; `fields` has `(length of the chunk, zone map)` for every field that has a value.
pub(crate) fn encode_meta(
    shared_crc: bool,
    times_len: u64,
    fields: &[Option<(u64, FieldStats)>],
    schema: &TableSchema,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.resize(start + fields.len().div_ceil(8), 0);
    put_varint(out, times_len << 1 | u64::from(shared_crc));
    for (at, (field, def)) in fields.iter().zip(&schema.fields).enumerate() {
        if let Some((len, stats)) = field {
            out[start + at / 8] |= 1 << (at % 8);
            put_varint(out, *len);
            encode_zone(stats, def.field_type, out);
        }
    }
    put_crc(out, start);
}

/// Reads the meta of a block with `rows` rows and `data_len` bytes of data. Checksum was checked.
pub(crate) fn decode_meta(bytes: &[u8], rows: u32, data_len: u64, schema: &TableSchema) -> Result<Meta, Flaw> {
    const LEN: &str = "the length of a chunk";
    let mut cursor = Cursor::new(bytes);
    let present = cursor.take(schema.fields.len().div_ceil(8), "a bitmap of fields")?;
    let times = cursor.varint(LEN)?;
    let (shared_crc, times_len) = (times & 1 == 1, times >> 1);
    let crc_each = if shared_crc { 0 } else { CRC_LEN as u64 };
    let mut end = times_len + crc_each;
    let mut fields = Vec::with_capacity(schema.fields.len());
    for (at, def) in schema.fields.iter().enumerate() {
        if present[at / 8] >> (at % 8) & 1 == 0 {
            fields.push(None);
            continue;
        }
        let len = cursor.varint(LEN)?;
        let stats = decode_zone(&mut cursor, def.field_type, rows)?;
        fields.push(Some((Chunk { offset: end, len }, stats)));
        end = end.saturating_add(len).saturating_add(crc_each);
    }
    cursor.end("the end of a block's meta")?;
    if shared_crc {
        end = end.saturating_add(CRC_LEN as u64);
    }
    if end != data_len {
        return Err(cursor.flaw("chunks that fill the block", format!("{end} of {data_len} bytes")));
    }
    Ok(Meta { shared_crc, times: Chunk { offset: 0, len: times_len }, fields })
}
