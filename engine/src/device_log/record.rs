//! Owns the bytes of log files and records (`docs/format/log.md`); does no I/O.

use crate::types::{ProducerId, SeqNo};

/// Version that is written; every lower one is read.
pub const FORMAT_VERSION: u32 = 1;
/// Where the first record of a file starts: the header has a page of its own, so that no record rewrites it.
pub const RECORDS_START: u64 = 4096;
/// Bytes of the file header that mean something.
pub const FILE_HEADER_BYTES: usize = 64;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 64;
/// Records start at multiples of this.
pub const RECORD_ALIGN: u64 = 16;
/// Groups start at multiples of this, a sector: writing one never rewrites a sector with acknowledged records.
pub const GROUP_ALIGN: u64 = 512;
/// A group's write is filled with zeros up to a multiple of this, a page: the page cache then need not read the old page
/// of a recycled file to complete it.
pub const PAGE_BYTES: u64 = 4096;
/// Largest payload of a record.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

const FILE_MAGIC: [u8; 8] = *b"TWELLLOG";
const RECORD_TAG: [u8; 2] = *b"TW";
const FLAG_LAST: u8 = 1;
const FLAG_RECYCLED: u32 = 1;

const _: () = assert!(PAGE_BYTES.is_multiple_of(GROUP_ALIGN) && GROUP_ALIGN.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(RECORDS_START.is_multiple_of(PAGE_BYTES) && RECORDS_START >= FILE_HEADER_BYTES as u64);
const _: () = assert!((RECORD_HEADER_BYTES as u64).is_multiple_of(RECORD_ALIGN));

/// Rounds up to a multiple of `align`, a power of two.
pub fn align_up(value: u64, align: u64) -> u64 {
    debug_assert!(align.is_power_of_two());
    (value + align - 1) & !(align - 1)
}

/// The first bytes of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The shard that the file belongs to.
    pub shard: u32,
    /// The file's place in the shard's run of files.
    pub generation: u64,
    /// Generation of the file before this one; 0 when this is the first.
    pub previous_generation: u64,
    /// Where the records of that file end. Bytes before it were durable, bytes after it mean nothing.
    pub previous_end: u64,
    /// Whether the file was written before, so that old bytes may follow the last record.
    pub recycled: bool,
}

/// Why bytes are not a file header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// They are not, or not any more.
    Damaged(&'static str),
    /// An undamaged header of a newer version.
    Newer(u32),
}

impl FileHeader {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&FILE_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.shard.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.previous_generation.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[40..44].copy_from_slice(&(if self.recycled { FLAG_RECYCLED } else { 0 }).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When the bytes are not a header, or one of a newer version. Every version keeps magic, version and checksum in
    /// their places, so a flipped bit in the version is not mistaken for a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let Some(bytes) = bytes.first_chunk::<FILE_HEADER_BYTES>() else {
            return Err(HeaderFault::Damaged("file shorter than its header"));
        };
        if bytes[0..8] != FILE_MAGIC {
            return Err(HeaderFault::Damaged("no log file magic"));
        }
        if crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(HeaderFault::Damaged("file header checksum does not match"));
        }
        let version = u32_at(bytes, 8);
        if version > FORMAT_VERSION {
            return Err(HeaderFault::Newer(version));
        }
        let header = Self {
            shard: u32_at(bytes, 12),
            generation: u64_at(bytes, 16),
            previous_generation: u64_at(bytes, 24),
            previous_end: u64_at(bytes, 32),
            recycled: u32_at(bytes, 40) & FLAG_RECYCLED != 0,
        };
        // Believed, it would say where a file ends that is yet to be written.
        if header.previous_generation >= header.generation {
            return Err(HeaderFault::Damaged("file header names itself or a later file as the one before it"));
        }
        Ok(header)
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A batch as it came.
    Batch,
    /// Written when a log is closed in order: all before it is durable. No payload.
    End,
}

/// The bytes of a record before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record is.
    pub kind: RecordKind,
    /// Whether it is the last of its group: the next record starts at the next multiple of [`GROUP_ALIGN`].
    pub last: bool,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// Checksum of the payload.
    pub payload_crc: u32,
    /// Generation of the file.
    pub generation: u64,
    /// Offset in this file before which everything was synced when this record was written.
    pub synced_through: u64,
    /// Who numbered the batch.
    pub producer: ProducerId,
    /// Its number.
    pub seq: SeqNo,
    /// When it came, by the node's clock.
    pub received_ns: i64,
}

/// Where a record lies. It goes into the checksum, so a record is only valid in the place where it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Shard of the file.
    pub shard: u32,
    /// Generation of the file.
    pub generation: u64,
    /// Offset in the file.
    pub offset: u64,
}

impl RecordHeader {
    /// Writes the header of a record at `place` over the first bytes of `bytes`.
    ///
    /// # Panics
    /// When `bytes` is too short.
    pub fn encode(&self, place: Place, bytes: &mut [u8]) {
        let bytes = &mut bytes[..RECORD_HEADER_BYTES];
        bytes[4..6].copy_from_slice(&RECORD_TAG);
        bytes[6] = match self.kind {
            RecordKind::Batch => 1,
            RecordKind::End => 2,
        };
        bytes[7] = if self.last { FLAG_LAST } else { 0 };
        bytes[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.synced_through.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.producer.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.seq.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.received_ns.to_le_bytes());
        let crc = header_crc(bytes, place);
        bytes[0..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the header of a record at `place`; `None` when the bytes are not one, or one from another place or time.
    pub fn decode(bytes: &[u8], place: Place) -> Option<Self> {
        let bytes = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
        // The two cheap comparisons first: a scan asks at every multiple of 16.
        if bytes[4..6] != RECORD_TAG
            || u64_at(bytes, 16) != place.generation
            || header_crc(bytes, place) != u32_at(bytes, 0)
        {
            return None;
        }
        let kind = match bytes[6] {
            1 => RecordKind::Batch,
            2 => RecordKind::End,
            _ => return None,
        };
        let header = Self {
            kind,
            last: bytes[7] & FLAG_LAST != 0,
            payload_len: u32_at(bytes, 8),
            payload_crc: u32_at(bytes, 12),
            generation: u64_at(bytes, 16),
            synced_through: u64_at(bytes, 24),
            producer: ProducerId(u128::from_le_bytes(*bytes[32..].first_chunk()?)),
            seq: SeqNo(u64_at(bytes, 48)),
            received_ns: u64_at(bytes, 56) as i64,
        };
        (header.payload_len as usize <= PAYLOAD_BYTES_MAX && header.synced_through <= place.offset).then_some(header)
    }

    /// Where the record after one at `offset` starts.
    pub fn next(&self, offset: u64) -> u64 {
        let end = offset + RECORD_HEADER_BYTES as u64 + u64::from(self.payload_len);
        align_up(end, if self.last { GROUP_ALIGN } else { RECORD_ALIGN })
    }

    /// Whether `bytes`, though not a valid header, were one of this generation before they were hurt.
    pub fn was_one(bytes: &[u8], generation: u64) -> bool {
        bytes.len() >= 24 && bytes[4..6] == RECORD_TAG && u64_at(bytes, 16) == generation
    }
}

fn header_crc(bytes: &[u8], place: Place) -> u32 {
    let crc = crc32c::crc32c(&bytes[4..RECORD_HEADER_BYTES]);
    let crc = crc32c::crc32c_append(crc, &place.shard.to_le_bytes());
    crc32c::crc32c_append(crc, &place.offset.to_le_bytes())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller checked the length"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller checked the length"))
}

/// Name of a log file.
pub fn file_name(shard: u32, generation: u64) -> String {
    format!("log/{shard:04}-{generation:016x}.log")
}

/// Shard and generation out of a file name without its folder; `None` for other files.
pub fn parse_file_name(name: &str) -> Option<(u32, u64)> {
    let (shard, generation) = name.strip_suffix(".log")?.split_once('-')?;
    let parsed = (shard.parse().ok()?, u64::from_str_radix(generation, 16).ok()?);
    (file_name(parsed.0, parsed.1).strip_prefix("log/") == Some(name)).then_some(parsed)
}
