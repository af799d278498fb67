//! Owns the bytes of a summary's header and trailer (`docs/format/summary.md`); does no I/O.
//!
//! The index between them is the segment's: pages of ids with a root (`segment::index`).

use std::sync::Arc;

use super::types::Step;
use crate::segment::bytes::{Cursor, Flaw, u32_at, u64_at};
use crate::segment::format::{
    CRC_LEN, DEVICES_PER_PAGE, FIELDS_MAX, HEADER_LEN_MAX, HEADER_START_LEN, put_crc, put_name, take_name,
};
use crate::types::{FieldDef, FieldType, TableSchema};

/// First bytes of a summary. The line ends show damage by a transfer in text mode.
pub(crate) const MAGIC: [u8; 8] = *b"TWSUM\r\n\x1a";
/// Last bytes of a summary.
pub(crate) const END_MAGIC: [u8; 8] = *b"TWSUMEND";
/// The version that this program writes, and the highest that it reads.
pub(crate) const VERSION: u32 = 1;
/// Bytes of the fixed trailer.
pub(crate) const TRAILER_LEN: usize = 88;

/// What the header of a summary says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    pub id: u64,
    pub segment: u64,
    pub shard: u32,
    pub step: Step,
    pub seq_min: u64,
    pub seq_max: u64,
    pub created_ns: i64,
    pub schema: Arc<TableSchema>,
}

impl Header {
    /// The bytes, checksum included.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for word in [self.id, self.segment, self.seq_min, self.seq_max] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.created_ns.to_le_bytes());
        out.extend_from_slice(&self.shard.to_le_bytes());
        out.push(self.step as u8);
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

    /// The length of the header, from its first 16 bytes; magic and version were checked.
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
        let id = cursor.u64("a summary's id")?;
        let segment = cursor.u64("a segment id")?;
        let seq_min = cursor.u64("a sequence number")?;
        let seq_max = cursor.u64("a sequence number")?;
        let created_ns = cursor.i64("a creation time")?;
        let shard = cursor.u32("a shard")?;
        let byte = cursor.byte("a step")?;
        let Some(step) = Step::from_byte(byte) else { return Err(cursor.flaw("a step", byte.to_string())) };
        if seq_min > seq_max {
            return Err(cursor.flaw("a rising sequence range", format!("{seq_min} to {seq_max}")));
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
        Ok(Self { id, segment, shard, step, seq_min, seq_max, created_ns, schema })
    }
}

/// The fixed end of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub devices: u64,
    /// Steps of all devices.
    pub steps: u64,
    pub time_min: i64,
    pub time_max: i64,
    /// Where the index pages begin, which is where the entries end.
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
        out.extend_from_slice(&self.steps.to_le_bytes());
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
        if bytes[80..] != END_MAGIC {
            return flaw(80, "the magic of a summary's end", format!("{:02x?}", &bytes[80..]));
        }
        let crc = crc32c::crc32c(&bytes[..76]);
        if crc != u32_at(bytes, 76) {
            return flaw(76, "the checksum of the trailer", format!("{:08x}, computed {crc:08x}", u32_at(bytes, 76)));
        }
        let word = |at| u64_at(bytes, at);
        let trailer = Self {
            devices: word(0),
            steps: word(8),
            time_min: word(16) as i64,
            time_max: word(24) as i64,
            index_offset: word(32),
            root_offset: word(40),
            file_len: word(48),
            pages: u32_at(bytes, 56),
            header_len: u32_at(bytes, 60),
        };
        if trailer.file_len != file_len {
            return flaw(48, "the length of the file", format!("{}, the file has {file_len} bytes", trailer.file_len));
        }
        let ordered = u64::from(trailer.header_len) <= trailer.index_offset
            && trailer.index_offset <= trailer.root_offset
            && trailer.root_offset <= file_len - TRAILER_LEN as u64;
        let counted = trailer.devices.div_ceil(DEVICES_PER_PAGE as u64) == u64::from(trailer.pages)
            && trailer.devices <= trailer.steps
            && trailer.devices > 0
            && trailer.time_min <= trailer.time_max;
        if !ordered || !counted {
            return flaw(0, "sections in order and counts that agree", format!("{trailer:?}"));
        }
        Ok(trailer)
    }
}
