//! Owns the bytes of the manifest (`docs/format/manifest.md`): file header, records, edits; does no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bytes::{Reader, put_text};
use super::erasure::{Erasure, Retention};
use super::state::SegmentMeta;
use crate::summary::{Step, SummaryMeta};
use crate::types::{FieldType, LogPosition};

/// Version that is written; every lower one is read.
pub const FORMAT_VERSION: u32 = 2;
/// Bytes of the file header; the first record follows.
pub const FILE_HEADER_BYTES: usize = 32;
/// Bytes of a record before its edits.
pub const RECORD_HEADER_BYTES: usize = 16;
/// Records start at multiples of this.
pub const RECORD_ALIGN: usize = 8;

const FILE_MAGIC: [u8; 8] = *b"TWELLMAN";
const RECORD_TAG: [u8; 4] = *b"TWed";

/// One change of what the data directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The data directory was made. The first edit of every manifest, and nowhere else.
    Created {
        /// Shards, for good.
        shards: u32,
        /// When, in nanoseconds since 1970 UTC.
        created_ns: i64,
    },
    /// A table has a field; the first field makes the table.
    Field {
        /// The table.
        table: Arc<str>,
        /// The field.
        field: Arc<str>,
        /// Its type, for good.
        field_type: FieldType,
    },
    /// A segment belongs to the data.
    SegmentAdded(SegmentMeta),
    /// A segment does not belong to the data any more.
    SegmentRemoved {
        /// The segment.
        id: u64,
    },
    /// Segments cover the shard's log before a position.
    LogReleased {
        /// The shard.
        shard: u32,
        /// Where replay starts.
        position: LogPosition,
    },
    /// A file holds what each producer had reached in the shard at the position of the last [`Edit::LogReleased`].
    ProducerHeads {
        /// The shard.
        shard: u32,
        /// The number in the file's name; see [`super::heads_name`].
        number: u64,
    },
    /// The attributes of a device are these; none removes them.
    Attributes {
        /// The device.
        device: Arc<str>,
        /// Keys and values.
        pairs: Arc<BTreeMap<String, String>>,
    },
    /// Numbers that no segment and no heads file has had yet.
    NextIds {
        /// For the next segment.
        segment: u64,
        /// For the next heads file.
        heads: u64,
    },
    /// Rows are deleted.
    ErasureAdded(Erasure),
    /// No file has a row of this erasure any more.
    ErasureRemoved {
        /// Its number.
        number: u64,
    },
    /// For how long a table's rows are kept; what is for ever throughout is no policy.
    RetentionSet {
        /// The table.
        table: Arc<str>,
        /// From now on.
        retention: Retention,
    },
    /// Rows of a table before a time are gone.
    CutOff {
        /// The table.
        table: Arc<str>,
        /// The first time that is kept; `i64::MIN` when nothing is cut off.
        raw_before_ns: i64,
    },
    /// A table is gone, with its segments, its policy and its erasures.
    TableDropped {
        /// The table.
        table: Arc<str>,
    },
    /// A table has another name.
    TableRenamed {
        /// What it was called.
        from: Arc<str>,
        /// What it is called, which no table was.
        to: Arc<str>,
    },
    /// A summary tells of a segment, or stands for one that is gone when it comes after [`Edit::SegmentRemoved`].
    SummaryAdded(SummaryMeta),
    /// A summary does not belong to the data any more. Those of a segment that is removed go without this.
    SummaryRemoved {
        /// The segment that it tells of.
        segment: u64,
        /// The summary.
        id: u64,
    },
}

/// Why bytes are not a file header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// They are not, or not any more: what was expected, what was found.
    Damaged(&'static str, String),
    /// An undamaged header of a newer version.
    Newer(u32),
}

/// The header of manifest file `number`.
pub fn encode_file_header(number: u64) -> [u8; FILE_HEADER_BYTES] {
    let mut bytes = [0; FILE_HEADER_BYTES];
    bytes[0..8].copy_from_slice(&FILE_MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Checks a file header, and gives the version of the file.
///
/// # Errors
/// When the bytes are not the header of file `number`, or one of a newer version.
pub fn check_file_header(bytes: &[u8], number: u64) -> Result<u32, HeaderFault> {
    let damaged = |expected, found: String| Err(HeaderFault::Damaged(expected, found));
    let Some(bytes) = bytes.first_chunk::<FILE_HEADER_BYTES>() else {
        return damaged("a file header of 32 bytes", format!("{} bytes", bytes.len()));
    };
    if bytes[..8] != FILE_MAGIC {
        return damaged("magic TWELLMAN", format!("{:02x?}", &bytes[..8]));
    }
    let mut reader = Reader { bytes: &bytes[8..] };
    let (Some(version), Some(_), Some(found), Some(_), Some(crc)) =
        (reader.u32(), reader.u32(), reader.u64(), reader.u32(), reader.u32())
    else {
        unreachable!("the header has its fixed length")
    };
    let computed = crc32c::crc32c(&bytes[..28]);
    if computed != crc {
        return damaged("a file header with its checksum", format!("{crc:08x} for bytes with {computed:08x}"));
    }
    if version > FORMAT_VERSION {
        return Err(HeaderFault::Newer(version));
    }
    if found != number {
        return damaged("the header of this file", format!("the header of file {found:016x}"));
    }
    Ok(version)
}

/// Adds a record of `edits` to `out`, whose first byte is at `offset` of manifest file `number`.
pub fn encode_record(edits: &[Edit], number: u64, offset: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + RECORD_HEADER_BYTES, 0);
    for edit in edits {
        edit.encode(out);
    }
    let len = (out.len() - start - RECORD_HEADER_BYTES) as u32;
    out[start + 4..start + 8].copy_from_slice(&RECORD_TAG);
    out[start + 8..start + 12].copy_from_slice(&len.to_le_bytes());
    let body_crc = crc32c::crc32c(&out[start + RECORD_HEADER_BYTES..]);
    out[start + 12..start + 16].copy_from_slice(&body_crc.to_le_bytes());
    let crc = header_crc(&out[start + 4..start + RECORD_HEADER_BYTES], number, offset);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(RECORD_ALIGN), 0);
}

/// The header at the start of `bytes`, which lie at `offset` of manifest file `number`: length and checksum of the edits.
/// `None` when there is no valid one.
pub fn decode_record_header(bytes: &[u8], number: u64, offset: u64) -> Option<(usize, u32)> {
    let bytes = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    if bytes[4..8] != RECORD_TAG {
        return None;
    }
    let mut reader = Reader { bytes };
    let crc = reader.u32()?;
    reader.u32()?;
    let (len, body_crc) = (reader.u32()?, reader.u32()?);
    (crc == header_crc(&bytes[4..], number, offset)).then_some((len as usize, body_crc))
}

/// The edits in the body of a record, whose checksum was right.
///
/// # Errors
/// Says what was expected and what was found.
pub fn decode_edits(body: &[u8]) -> Result<Vec<Edit>, (&'static str, String)> {
    let mut reader = Reader { bytes: body };
    let mut edits = Vec::new();
    while !reader.bytes.is_empty() {
        edits.push(Edit::decode(&mut reader)?);
    }
    Ok(edits)
}

fn header_crc(bytes: &[u8], number: u64, offset: u64) -> u32 {
    let crc = crc32c::crc32c(bytes);
    let crc = crc32c::crc32c_append(crc, &number.to_le_bytes());
    crc32c::crc32c_append(crc, &offset.to_le_bytes())
}

impl Edit {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Created { shards, created_ns } => {
                out.push(1);
                out.extend_from_slice(&shards.to_le_bytes());
                out.extend_from_slice(&created_ns.to_le_bytes());
            }
            Self::Field { table, field, field_type } => {
                out.push(2);
                put_text(out, table);
                put_text(out, field);
                out.push(*field_type as u8);
            }
            Self::SegmentAdded(meta) => {
                out.push(9);
                out.extend_from_slice(&meta.id.to_le_bytes());
                out.extend_from_slice(&meta.shard.to_le_bytes());
                put_text(out, &meta.table);
                out.push(meta.level);
                for value in [meta.seq_min, meta.seq_max, meta.rows, meta.bytes] {
                    out.extend_from_slice(&value.to_le_bytes());
                }
                out.extend_from_slice(&meta.time_min.to_le_bytes());
                out.extend_from_slice(&meta.time_max.to_le_bytes());
                out.extend_from_slice(&meta.clean.to_le_bytes());
            }
            Self::SegmentRemoved { id } => {
                out.push(4);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Self::LogReleased { shard, position } => {
                out.push(5);
                out.extend_from_slice(&shard.to_le_bytes());
                out.extend_from_slice(&position.generation.to_le_bytes());
                out.extend_from_slice(&position.offset.to_le_bytes());
            }
            Self::ProducerHeads { shard, number } => {
                out.push(6);
                out.extend_from_slice(&shard.to_le_bytes());
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Attributes { device, pairs } => {
                out.push(7);
                put_text(out, device);
                out.extend_from_slice(&(pairs.len() as u32).to_le_bytes());
                for (key, value) in &**pairs {
                    put_text(out, key);
                    put_text(out, value);
                }
            }
            Self::NextIds { segment, heads } => {
                out.push(8);
                out.extend_from_slice(&segment.to_le_bytes());
                out.extend_from_slice(&heads.to_le_bytes());
            }
            Self::ErasureAdded(erasure) => {
                out.push(10);
                out.extend_from_slice(&erasure.number.to_le_bytes());
                out.extend_from_slice(&erasure.shard.to_le_bytes());
                put_text(out, erasure.table.as_deref().unwrap_or_default());
                put_text(out, &erasure.device);
                out.extend_from_slice(&erasure.start_ns.to_le_bytes());
                out.extend_from_slice(&erasure.end_ns.to_le_bytes());
                out.extend_from_slice(&erasure.before_seq.to_le_bytes());
                out.extend_from_slice(&erasure.created_ns.to_le_bytes());
            }
            Self::ErasureRemoved { number } => {
                out.push(11);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::RetentionSet { table, retention } => {
                out.push(12);
                put_text(out, table);
                for kept in retention.parts() {
                    out.extend_from_slice(&kept.unwrap_or(0).to_le_bytes());
                }
            }
            Self::CutOff { table, raw_before_ns } => {
                out.push(13);
                put_text(out, table);
                out.extend_from_slice(&raw_before_ns.to_le_bytes());
            }
            Self::TableDropped { table } => {
                out.push(14);
                put_text(out, table);
            }
            Self::TableRenamed { from, to } => {
                out.push(15);
                put_text(out, from);
                put_text(out, to);
            }
            Self::SummaryAdded(meta) => {
                out.push(16);
                out.extend_from_slice(&meta.id.to_le_bytes());
                out.extend_from_slice(&meta.segment.to_le_bytes());
                out.extend_from_slice(&meta.shard.to_le_bytes());
                put_text(out, &meta.table);
                out.push(meta.step as u8);
                for value in [meta.seq_min, meta.seq_max, meta.rows, meta.bytes] {
                    out.extend_from_slice(&value.to_le_bytes());
                }
                out.extend_from_slice(&meta.time_min.to_le_bytes());
                out.extend_from_slice(&meta.time_max.to_le_bytes());
            }
            Self::SummaryRemoved { segment, id } => {
                out.push(17);
                out.extend_from_slice(&segment.to_le_bytes());
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, (&'static str, String)> {
        let kind = reader.u8().unwrap_or_default();
        let edit = match kind {
            1 => Self::created(reader),
            2 => Self::field(reader),
            3 => Self::segment_added(reader, false),
            4 => reader.u64().map(|id| Self::SegmentRemoved { id }),
            5 => Self::log_released(reader),
            6 => Self::producer_heads(reader),
            7 => Self::attributes(reader),
            8 => Self::next_ids(reader),
            9 => Self::segment_added(reader, true),
            10 => Self::erasure_added(reader),
            11 => reader.u64().map(|number| Self::ErasureRemoved { number }),
            12 => Self::retention_set(reader),
            13 => Self::cut_off(reader),
            14 => reader.text().map(|table| Self::TableDropped { table: table.into() }),
            15 => Self::table_renamed(reader),
            16 => Self::summary_added(reader),
            17 => Self::summary_removed(reader),
            other => return Err(("an edit of kind 1 to 17", format!("kind {other}"))),
        };
        edit.ok_or_else(|| ("a whole edit", format!("an edit of kind {kind} that is cut or not valid")))
    }

    fn created(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self::Created { shards: reader.u32()?, created_ns: reader.i64()? })
    }

    fn field(reader: &mut Reader<'_>) -> Option<Self> {
        let (table, field) = (reader.text()?.into(), reader.text()?.into());
        Some(Self::Field { table, field, field_type: FieldType::from_byte(reader.u8()?)? })
    }

    /// Segments of version 1 were written before there were erasures.
    fn segment_added(reader: &mut Reader<'_>, with_clean: bool) -> Option<Self> {
        Some(Self::SegmentAdded(SegmentMeta {
            id: reader.u64()?,
            shard: reader.u32()?,
            table: reader.text()?.into(),
            level: reader.u8()?,
            seq_min: reader.u64()?,
            seq_max: reader.u64()?,
            rows: reader.u64()?,
            bytes: reader.u64()?,
            time_min: reader.i64()?,
            time_max: reader.i64()?,
            clean: if with_clean { reader.u64()? } else { 0 },
        }))
    }

    fn log_released(reader: &mut Reader<'_>) -> Option<Self> {
        let shard = reader.u32()?;
        let position = LogPosition { generation: reader.u64()?, offset: reader.u64()? };
        Some(Self::LogReleased { shard, position })
    }

    fn producer_heads(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self::ProducerHeads { shard: reader.u32()?, number: reader.u64()? })
    }

    fn attributes(reader: &mut Reader<'_>) -> Option<Self> {
        let device = reader.text()?.into();
        let count = reader.u32()?;
        let mut pairs = BTreeMap::new();
        for _ in 0..count {
            pairs.insert(reader.text()?.to_owned(), reader.text()?.to_owned());
        }
        Some(Self::Attributes { device, pairs: Arc::new(pairs) })
    }

    fn next_ids(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self::NextIds { segment: reader.u64()?, heads: reader.u64()? })
    }
    fn erasure_added(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self::ErasureAdded(Erasure {
            number: reader.u64()?,
            shard: reader.u32()?,
            table: Some(reader.text()?).filter(|table| !table.is_empty()).map(Into::into),
            device: reader.text()?.into(),
            start_ns: reader.i64()?,
            end_ns: reader.i64()?,
            before_seq: reader.u64()?,
            created_ns: reader.i64()?,
        }))
    }

    fn retention_set(reader: &mut Reader<'_>) -> Option<Self> {
        let table = reader.text()?.into();
        let mut kept = || Some(Some(reader.u64()?).filter(|ns| *ns > 0));
        let retention = Retention { raw_ns: kept()?, minute_ns: kept()?, hour_ns: kept()?, day_ns: kept()? };
        Some(Self::RetentionSet { table, retention })
    }

    fn cut_off(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self::CutOff { table: reader.text()?.into(), raw_before_ns: reader.i64()? })
    }

    fn summary_added(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self::SummaryAdded(SummaryMeta {
            id: reader.u64()?,
            segment: reader.u64()?,
            shard: reader.u32()?,
            table: reader.text()?.into(),
            step: Step::from_byte(reader.u8()?)?,
            seq_min: reader.u64()?,
            seq_max: reader.u64()?,
            rows: reader.u64()?,
            bytes: reader.u64()?,
            time_min: reader.i64()?,
            time_max: reader.i64()?,
        }))
    }

    fn summary_removed(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self::SummaryRemoved { segment: reader.u64()?, id: reader.u64()? })
    }

    fn table_renamed(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self::TableRenamed { from: reader.text()?.into(), to: reader.text()?.into() })
    }
}
