//! Owns the bytes of a segment's header and trailer, and the limits of the format; does no I/O.
//!
//! The whole format is in `docs/format/segment.md`; see `index` and `directory` for what lies in between.

use std::sync::Arc;

use tidewell_codec::Tier;

use super::bytes::{Cursor, Flaw, u32_at, u64_at};
use crate::types::{FieldDef, FieldType, TableSchema};

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
/// A block whose chunks take no more has one checksum for all of them: a slow device must not pay four bytes a field.
pub(crate) const SHARED_CRC_BYTES: usize = 2_048;
/// Devices on one index page; the last page may have fewer.
pub(crate) const DEVICES_PER_PAGE: usize = 128;
/// Longest device id, field name and table name, in bytes.
pub(crate) const NAME_MAX: usize = 256;
/// Most fields of a table.
pub(crate) const FIELDS_MAX: usize = 1_024;
/// Most rows of a block: what a reader is willing to allocate for.
pub(crate) const BLOCK_ROWS_MAX: usize = 65_536;
pub(crate) const HEADER_LEN_MAX: u32 = 1 << 20;

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

pub(crate) fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(name.as_bytes());
}

pub(crate) fn take_name(cursor: &mut Cursor<'_>, what: &'static str) -> Result<Arc<str>, Flaw> {
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
