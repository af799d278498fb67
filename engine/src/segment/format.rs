//! Owns the bytes of a segment's header, index, directories and trailer; does no I/O. See `docs/format/segment.md`.

use std::sync::Arc;

use tidewell_codec::Tier;

use super::bytes::{Cursor, Flaw, put_varint, put_zigzag, u32_at, u64_at};
use super::zone::{decode_zone, encode_zone};
use crate::types::{FieldDef, FieldStats, FieldType, TableSchema};

/// First bytes of a segment. The line ends show damage by a transfer in text mode.
pub(crate) const MAGIC: [u8; 8] = *b"TWSEG\r\n\x1a";
/// Last bytes of a segment.
pub(crate) const END_MAGIC: [u8; 8] = *b"TWSEGEND";
/// The version that this program writes, and the highest that it reads.
pub(crate) const VERSION: u32 = 1;
/// Magic, version and length of the header.
pub(crate) const HEADER_START_LEN: usize = 16;
/// Bytes of the fixed trailer.
pub(crate) const TRAILER_LEN: usize = 96;
/// Bytes of a checksum.
pub(crate) const CRC_LEN: usize = 4;
/// Devices on one index page; the last page may have fewer.
pub(crate) const DEVICES_PER_PAGE: usize = 128;
/// Longest device id, field name and table name, in bytes.
pub(crate) const NAME_MAX: usize = 256;
/// Most fields of a table.
pub(crate) const FIELDS_MAX: usize = 1_024;
/// Most rows of a block: what a reader is willing to allocate for.
pub(crate) const BLOCK_ROWS_MAX: usize = 65_536;
const HEADER_LEN_MAX: u32 = 1 << 20;
const PAGE_ENTRY_LEN: usize = 14;
const ROOT_ENTRY_LEN: usize = 16;

// The end of an id on an index page is a u16; a header of the most and longest names fits its maximum.
const _: () = assert!(DEVICES_PER_PAGE * NAME_MAX <= u16::MAX as usize);
const _: () = assert!(72 + NAME_MAX + FIELDS_MAX * (3 + NAME_MAX) < HEADER_LEN_MAX as usize);

/// Appends the checksum of everything from `start`.
pub(crate) fn put_crc(out: &mut Vec<u8>, start: usize) {
    let crc = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// What the header of a segment says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    pub id: u64,
    pub shard: u32,
    pub tier: Tier,
    pub block_rows: u32,
    pub seq_min: u64,
    pub seq_max: u64,
    pub created_ns: i64,
    pub schema: Arc<TableSchema>,
}

fn tier_byte(tier: Tier) -> u8 {
    match tier {
        Tier::Plain => 0,
        Tier::Hot => 1,
        Tier::Cold => 2,
    }
}

impl Header {
    /// The bytes, checksum included.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.seq_min.to_le_bytes());
        out.extend_from_slice(&self.seq_max.to_le_bytes());
        out.extend_from_slice(&self.created_ns.to_le_bytes());
        out.extend_from_slice(&self.shard.to_le_bytes());
        out.extend_from_slice(&self.block_rows.to_le_bytes());
        out.push(tier_byte(self.tier));
        put_name(&mut out, &self.schema.name);
        out.extend_from_slice(&(self.schema.fields.len() as u16).to_le_bytes());
        for field in &self.schema.fields {
            out.push(field.field_type as u8);
            put_name(&mut out, &field.name);
        }
        let len = (out.len() + CRC_LEN) as u32;
        out[12..16].copy_from_slice(&len.to_le_bytes());
        put_crc(&mut out, 0);
        out
    }

    /// The length of the header, from its first [`HEADER_START_LEN`] bytes; magic and version were checked.
    pub(crate) fn len(start: &[u8]) -> Result<usize, Flaw> {
        match u32_at(start, 12) {
            len if len > HEADER_LEN_MAX || (len as usize) < HEADER_START_LEN + CRC_LEN => {
                Err(Flaw { at: 12, expected: "the length of a header", found: len.to_string() })
            }
            len => Ok(len as usize),
        }
    }

    /// Reads a header whose magic, version and checksum were checked; `bytes` ends before the checksum.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let mut cursor = Cursor::new(bytes);
        cursor.take(HEADER_START_LEN, "the start of a header")?;
        let id = cursor.u64("a segment id")?;
        let seq_min = cursor.u64("a sequence number")?;
        let seq_max = cursor.u64("a sequence number")?;
        let created_ns = cursor.i64("a creation time")?;
        let shard = cursor.u32("a shard")?;
        let block_rows = cursor.u32("the rows of a block")?;
        let tier = match cursor.byte("a tier")? {
            0 => Tier::Plain,
            1 => Tier::Hot,
            2 => Tier::Cold,
            other => return Err(cursor.flaw("a tier", other.to_string())),
        };
        if block_rows == 0 || block_rows as usize > BLOCK_ROWS_MAX || seq_min > seq_max {
            return Err(cursor.flaw(
                "rows per block within limits and a rising sequence range",
                format!("{block_rows} rows, {seq_min} to {seq_max}"),
            ));
        }
        let name = take_name(&mut cursor, "a table name")?;
        let count = usize::from(cursor.u16("a count of fields")?);
        if count > FIELDS_MAX {
            return Err(cursor.flaw("a count of fields", count.to_string()));
        }
        let mut fields: Vec<FieldDef> = Vec::with_capacity(count);
        for _ in 0..count {
            let byte = cursor.byte("a field type")?;
            let Some(field_type) = FieldType::from_byte(byte) else {
                return Err(cursor.flaw("a field type", byte.to_string()));
            };
            fields.push(FieldDef { field_type, name: take_name(&mut cursor, "a field name")? });
        }
        cursor.end("the end of the header")?;
        let schema = Arc::new(TableSchema { name, fields });
        Ok(Self { id, shard, tier, block_rows, seq_min, seq_max, created_ns, schema })
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(name.as_bytes());
}

fn take_name(cursor: &mut Cursor<'_>, what: &'static str) -> Result<Arc<str>, Flaw> {
    let len = usize::from(cursor.u16(what)?);
    let bytes = cursor.take(len, what)?;
    match std::str::from_utf8(bytes) {
        Ok(name) if len <= NAME_MAX => Ok(name.into()),
        Ok(_) => Err(cursor.flaw(what, format!("{len} bytes"))),
        Err(error) => Err(cursor.flaw(what, error.to_string())),
    }
}

/// The fixed end of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub devices: u64,
    pub blocks: u64,
    pub rows: u64,
    pub time_min: i64,
    pub time_max: i64,
    /// Where the index pages begin, which is where the devices' regions end.
    pub index_offset: u64,
    /// Where the root of the index begins; it ends where the trailer begins.
    pub root_offset: u64,
    pub file_len: u64,
    pub pages: u32,
    pub header_len: u32,
}

impl Trailer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER_LEN);
        out.extend_from_slice(&self.devices.to_le_bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.time_min.to_le_bytes());
        out.extend_from_slice(&self.time_max.to_le_bytes());
        out.extend_from_slice(&self.index_offset.to_le_bytes());
        out.extend_from_slice(&self.root_offset.to_le_bytes());
        out.extend_from_slice(&self.file_len.to_le_bytes());
        out.extend_from_slice(&self.pages.to_le_bytes());
        out.extend_from_slice(&self.header_len.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        put_crc(&mut out, 0);
        out.extend_from_slice(&END_MAGIC);
        debug_assert_eq!(out.len(), TRAILER_LEN);
        out
    }

    /// Reads a trailer and checks it against itself and the length of the file.
    pub(crate) fn decode(bytes: &[u8; TRAILER_LEN], file_len: u64) -> Result<Self, Flaw> {
        let flaw = |at, expected, found| Err(Flaw { at, expected, found });
        if bytes[88..] != END_MAGIC {
            return flaw(88, "the magic of a segment's end", format!("{:02x?}", &bytes[88..]));
        }
        let crc = crc32c::crc32c(&bytes[..84]);
        if crc != u32_at(bytes, 84) {
            return flaw(84, "the checksum of the trailer", format!("{:08x}, computed {crc:08x}", u32_at(bytes, 84)));
        }
        let word = |at| u64_at(bytes, at);
        let trailer = Self {
            devices: word(0),
            blocks: word(8),
            rows: word(16),
            time_min: word(24) as i64,
            time_max: word(32) as i64,
            index_offset: word(40),
            root_offset: word(48),
            file_len: word(56),
            pages: u32_at(bytes, 64),
            header_len: u32_at(bytes, 68),
        };
        if trailer.file_len != file_len {
            return flaw(56, "the length of the file", format!("{}, the file has {file_len} bytes", trailer.file_len));
        }
        let ordered = u64::from(trailer.header_len) <= trailer.index_offset
            && trailer.index_offset <= trailer.root_offset
            && trailer.root_offset <= file_len - TRAILER_LEN as u64;
        let counted = trailer.devices.div_ceil(DEVICES_PER_PAGE as u64) == u64::from(trailer.pages)
            && trailer.devices <= trailer.blocks
            && trailer.blocks <= trailer.rows
            && trailer.devices > 0
            && trailer.time_min <= trailer.time_max;
        if !ordered || !counted {
            return flaw(0, "sections in order and counts that agree", format!("{trailer:?}"));
        }
        Ok(trailer)
    }
}

/// Collects device ids into index pages, and first ids of pages into the root.
#[derive(Default)]
pub(crate) struct IndexBuilder {
    pages: Vec<u8>,
    /// Offset within `pages`, length, end of the first id in `first_ids`.
    root: Vec<(u64, u32, u32)>,
    first_ids: Vec<u8>,
    entries: Vec<(u16, u32, u64)>,
    ids: Vec<u8>,
}

impl IndexBuilder {
    /// Adds a device, in ascending order; its directory has `len` bytes at `offset`.
    pub(crate) fn push(&mut self, device: &str, offset: u64, len: u32) {
        if self.entries.len() == DEVICES_PER_PAGE {
            self.end_page();
        }
        self.ids.extend_from_slice(device.as_bytes());
        self.entries.push((self.ids.len() as u16, len, offset));
    }

    fn end_page(&mut self) {
        let start = self.pages.len();
        self.pages.extend_from_slice(&(self.entries.len() as u16).to_le_bytes());
        for (id_end, len, offset) in &self.entries {
            self.pages.extend_from_slice(&id_end.to_le_bytes());
            self.pages.extend_from_slice(&len.to_le_bytes());
            self.pages.extend_from_slice(&offset.to_le_bytes());
        }
        self.pages.extend_from_slice(&self.ids);
        put_crc(&mut self.pages, start);
        let first = self.entries.first().map_or(0, |e| usize::from(e.0));
        self.first_ids.extend_from_slice(&self.ids[..first]);
        self.root.push((start as u64, (self.pages.len() - start) as u32, self.first_ids.len() as u32));
        self.entries.clear();
        self.ids.clear();
    }

    /// Pages, root and count of pages, for an index that begins at `offset`.
    pub(crate) fn finish(mut self, offset: u64) -> (Vec<u8>, Vec<u8>, u32) {
        if !self.entries.is_empty() {
            self.end_page();
        }
        let mut root = Vec::with_capacity(self.root.len() * ROOT_ENTRY_LEN + self.first_ids.len() + CRC_LEN);
        for (start, len, id_end) in &self.root {
            root.extend_from_slice(&(offset + start).to_le_bytes());
            root.extend_from_slice(&len.to_le_bytes());
            root.extend_from_slice(&id_end.to_le_bytes());
        }
        root.extend_from_slice(&self.first_ids);
        put_crc(&mut root, 0);
        (self.pages, root, self.root.len() as u32)
    }
}

/// The root of the index: fixed-width entries, then the first ids of the pages. Checksum was checked.
#[derive(Clone, Copy)]
pub(crate) struct Root<'a> {
    bytes: &'a [u8],
    pages: usize,
}

impl<'a> Root<'a> {
    pub(crate) fn new(bytes: &'a [u8], pages: u32) -> Result<Self, Flaw> {
        let pages = pages as usize;
        match pages.checked_mul(ROOT_ENTRY_LEN) {
            Some(len) if len <= bytes.len() => Ok(Self { bytes, pages }),
            _ => Err(Flaw { at: 0, expected: "an entry per index page", found: format!("{} bytes", bytes.len()) }),
        }
    }

    /// Offset and length of page `page`.
    pub(crate) fn page(&self, page: usize) -> (u64, u32) {
        let at = page * ROOT_ENTRY_LEN;
        (u64_at(self.bytes, at), u32_at(self.bytes, at + 8))
    }

    /// First id of page `page`.
    pub(crate) fn first_id(&self, page: usize) -> Result<&'a [u8], Flaw> {
        let end = |page: usize| u32_at(self.bytes, page * ROOT_ENTRY_LEN + 12) as usize;
        let start = if page == 0 { 0 } else { end(page - 1) };
        let ids = &self.bytes[self.pages * ROOT_ENTRY_LEN..];
        ids.get(start..end(page)).ok_or_else(|| Flaw {
            at: page * ROOT_ENTRY_LEN + 12,
            expected: "an id within the root",
            found: format!("{start}..{}", end(page)),
        })
    }

    /// The only page that can hold `device`.
    pub(crate) fn page_of(&self, device: &[u8]) -> Result<Option<usize>, Flaw> {
        let (mut low, mut high) = (0, self.pages);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.first_id(middle)? <= device {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.checked_sub(1))
    }
}

/// One index page: fixed-width entries, then the ids. Checksum was checked.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Page<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let count = usize::from(Cursor::new(bytes).u16("a count of devices")?);
        if count == 0 || count > DEVICES_PER_PAGE || bytes.len() < 2 + count * PAGE_ENTRY_LEN {
            return Err(Flaw { at: 0, expected: "a count of devices", found: count.to_string() });
        }
        Ok(Self { bytes, count })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn id(&self, slot: usize) -> Result<&'a [u8], Flaw> {
        let end = |slot: usize| {
            let at = 2 + slot * PAGE_ENTRY_LEN;
            usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
        };
        let start = if slot == 0 { 0 } else { end(slot - 1) };
        self.bytes[2 + self.count * PAGE_ENTRY_LEN..].get(start..end(slot)).ok_or_else(|| Flaw {
            at: 2 + slot * PAGE_ENTRY_LEN,
            expected: "an id within the page",
            found: format!("{start}..{}", end(slot)),
        })
    }

    /// Offset and length of the directory of the device in `slot`.
    pub(crate) fn directory(&self, slot: usize) -> (u64, u32) {
        let at = 2 + slot * PAGE_ENTRY_LEN;
        (u64_at(self.bytes, at + 6), u32_at(self.bytes, at + 2))
    }

    pub(crate) fn find(&self, device: &[u8]) -> Result<Option<usize>, Flaw> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.id(middle)?.cmp(device) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(Some(middle)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }
}

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

/// One field of one block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chunk {
    /// Offset within the block's data.
    pub offset: u64,
    /// Length without the checksum.
    pub len: u64,
    pub stats: FieldStats,
}

/// Appends a block's meta; `fields` has `(length of the chunk, zone map)` for every field that has a value.
pub(crate) fn encode_meta(
    times_len: u64,
    fields: &[Option<(u64, FieldStats)>],
    schema: &TableSchema,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.resize(start + fields.len().div_ceil(8), 0);
    put_varint(out, times_len);
    for (at, (field, def)) in fields.iter().zip(&schema.fields).enumerate() {
        if let Some((len, stats)) = field {
            out[start + at / 8] |= 1 << (at % 8);
            put_varint(out, *len);
            encode_zone(stats, def.field_type, out);
        }
    }
    put_crc(out, start);
}

/// Reads a block's meta: the length of its time chunk, and its field chunks. Checksum was checked.
pub(crate) fn decode_meta(
    bytes: &[u8],
    rows: u32,
    data_len: u64,
    schema: &TableSchema,
) -> Result<(u64, Vec<Option<Chunk>>), Flaw> {
    const LEN: &str = "the length of a chunk";
    let mut cursor = Cursor::new(bytes);
    let present = cursor.take(schema.fields.len().div_ceil(8), "a bitmap of fields")?;
    let times_len = cursor.varint(LEN)?;
    let mut end = times_len.saturating_add(CRC_LEN as u64);
    let mut chunks = Vec::with_capacity(schema.fields.len());
    for (at, def) in schema.fields.iter().enumerate() {
        if present[at / 8] >> (at % 8) & 1 == 0 {
            chunks.push(None);
            continue;
        }
        let len = cursor.varint(LEN)?;
        let stats = decode_zone(&mut cursor, def.field_type, rows)?;
        chunks.push(Some(Chunk { offset: end, len, stats }));
        end = end.saturating_add(len).saturating_add(CRC_LEN as u64);
    }
    cursor.end("the end of a block's meta")?;
    if end != data_len {
        return Err(cursor.flaw("chunks that fill the block", format!("{end} of {data_len} bytes")));
    }
    Ok((times_len, chunks))
}
