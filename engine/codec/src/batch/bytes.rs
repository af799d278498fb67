//! Owns the bytes of a batch (`docs/protocol.md`, "Batch payload"); does not know the bytes inside a column chunk.

use std::collections::HashSet;

use super::{
    Batch, BatchError, BatchField, BatchLimits, DEVICE_RULE, DeviceRuns, MAX_DEVICE_BYTES, MAX_NAME_BYTES,
    check_field_name, check_name, has_control, name_error,
};
use crate::chunk::{Tier, decode_column, decode_times, encode_column, encode_times};
use crate::column::FieldType;
use crate::error::CodecError;
use crate::reader::{Reader, put_varint};

/// The format of a batch's bytes.
pub const BATCH_VERSION: u8 = 1;

/// How the rows of the device runs are told.
const ROWS_EACH: u8 = 0;
const ROWS_EQUAL: u8 = 1;

/// A batch whose columns are not decoded yet.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchHead<'a> {
    /// The table.
    pub table: &'a str,
    /// Number of rows.
    pub rows: usize,
    /// Which rows belong to which device.
    pub devices: DeviceRuns,
    /// The chunk of the times.
    pub times: &'a [u8],
    /// Where the times' chunk starts in the payload.
    pub times_offset: usize,
    /// The fields.
    pub fields: Vec<FieldBytes<'a>>,
}

/// A field whose column is not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldBytes<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub field_type: FieldType,
    /// The chunk of its column.
    pub chunk: &'a [u8],
    /// Where the chunk starts in the payload.
    pub offset: usize,
}

/// Appends the bytes of `batch` to `out`. Call [`Batch::check`] before on a batch of unknown origin.
///
/// # Panics
/// When a column or the device runs have another number of rows than the batch.
pub fn encode_batch(batch: &Batch, tier: Tier, out: &mut Vec<u8>) {
    let rows = batch.rows();
    assert_eq!(batch.devices.rows(), rows, "rows of the device runs");
    out.push(BATCH_VERSION);
    put_text(out, &batch.table);
    put_varint(out, rows as u64);
    put_varint(out, batch.devices.len() as u64);
    let equal = batch.devices.rows.windows(2).all(|pair| pair[0] == pair[1]);
    out.push(if equal { ROWS_EQUAL } else { ROWS_EACH });
    if !equal {
        batch.devices.rows.iter().for_each(|&rows| put_varint(out, u64::from(rows)));
    }
    let mut before: &[u8] = &[];
    for (device, _) in batch.devices.iter() {
        let device = device.as_bytes();
        let shared = before.iter().zip(device).take_while(|(a, b)| a == b).count();
        put_varint(out, shared as u64);
        put_varint(out, (device.len() - shared) as u64);
        out.extend_from_slice(&device[shared..]);
        before = device;
    }
    let mut chunk = Vec::new();
    encode_times(&batch.times, tier, &mut chunk);
    put_chunk(out, &chunk);
    put_varint(out, batch.fields.len() as u64);
    for field in &batch.fields {
        assert_eq!(field.column.len(), rows, "rows of field {}", field.name);
        put_text(out, &field.name);
        out.push(field.column.field_type() as u8);
        chunk.clear();
        encode_column(&field.column, 0..rows, tier, &mut chunk);
        put_chunk(out, &chunk);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_chunk(out: &mut Vec<u8>, chunk: &[u8]) {
    put_varint(out, chunk.len() as u64);
    out.extend_from_slice(chunk);
}

/// Decodes a batch and checks everything about it but what only the node knows (grants, schemas, clocks).
///
/// # Errors
/// Bytes that are not a batch, or one that `limits` do not allow.
pub fn decode_batch(payload: &[u8], limits: &BatchLimits) -> Result<Batch, BatchError> {
    let head = peek_batch(payload, limits)?;
    let column_error = |field: &str, offset| {
        let field = field.to_owned();
        move |source| BatchError::Column { field, offset, source }
    };
    let times = decode_times(head.times, head.rows).map_err(column_error("time", head.times_offset))?;
    let mut decoded = times.len() * 8;
    let mut fields = Vec::with_capacity(head.fields.len());
    for FieldBytes { name, field_type, chunk, offset } in head.fields {
        let column = decode_column(chunk, field_type, head.rows).map_err(column_error(name, offset))?;
        decoded += column.memory_bytes();
        limits.check("bytes of decoded columns", decoded, limits.decoded)?;
        fields.push(BatchField { name: name.to_owned(), column });
    }
    Ok(Batch { table: head.table.to_owned(), devices: head.devices, times, fields })
}

/// Reads table, devices and fields of a batch without decoding its columns: for authorisation and for looking into a log.
///
/// # Errors
/// As [`decode_batch`], except for what is wrong inside a column chunk.
pub fn peek_batch<'a>(payload: &'a [u8], limits: &BatchLimits) -> Result<BatchHead<'a>, BatchError> {
    limits.check("payload bytes", payload.len(), limits.payload)?;
    let mut cursor = Cursor { reader: Reader::new(payload, "batch"), total: payload.len() };
    let version = cursor.byte("version")?;
    if version != BATCH_VERSION {
        return Err(BatchError::Version { found: version });
    }
    let (table, offset) = cursor.name("table")?;
    check_name("table", table, offset)?;
    let rows = cursor.count("rows", limits.rows)?;
    if rows == 0 {
        return Err(BatchError::Empty { what: "batch: no row" });
    }
    let devices = cursor.devices(rows, limits)?;
    let (times, times_offset) = cursor.chunk("time chunk")?;
    let count = cursor.count("fields", limits.fields)?;
    if count == 0 {
        return Err(BatchError::Empty { what: "batch: no field" });
    }
    limits.check("rows times fields", rows.saturating_mul(count), limits.cells)?;
    let mut fields: Vec<FieldBytes<'a>> = Vec::with_capacity(count.min(cursor.left() / 4));
    let mut seen = HashSet::new();
    for _ in 0..count {
        let (name, offset) = cursor.name("field")?;
        check_field_name(name, offset)?;
        let known = if count <= 16 { fields.iter().any(|field| field.name == name) } else { !seen.insert(name) };
        if known {
            return Err(BatchError::Duplicate { field: name.to_owned(), offset });
        }
        let offset = cursor.offset();
        let found = cursor.byte("field type")?;
        let field_type = FieldType::from_byte(found).ok_or_else(|| BatchError::FieldType {
            field: name.to_owned(),
            offset,
            found,
        })?;
        let (chunk, offset) = cursor.chunk("column chunk")?;
        fields.push(FieldBytes { name, field_type, chunk, offset });
    }
    cursor.finish()?;
    Ok(BatchHead { table, rows, devices, times, times_offset, fields })
}

/// Reads forward through a payload and says where and at what it failed.
struct Cursor<'a> {
    reader: Reader<'a>,
    total: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.reader.rest().len()
    }

    fn offset(&self) -> usize {
        self.total - self.left()
    }

    fn at<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, CodecError>,
    ) -> Result<T, BatchError> {
        let offset = self.offset();
        read(&mut self.reader).map_err(|source| BatchError::Bytes { what, offset, source })
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, BatchError> {
        self.at(what, Reader::byte)
    }

    fn count(&mut self, what: &'static str, max: usize) -> Result<usize, BatchError> {
        let found = self.at(what, Reader::varint)?;
        match usize::try_from(found) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(BatchError::Limit { what, found, max }),
        }
    }

    fn bytes(&mut self, what: &'static str, count: usize) -> Result<&'a [u8], BatchError> {
        self.at(what, |reader| reader.bytes(count))
    }

    /// A text behind its length; its characters are checked by the caller.
    fn name(&mut self, what: &'static str) -> Result<(&'a str, usize), BatchError> {
        let length = self.at(what, |reader| reader.bounded("length of a name", MAX_NAME_BYTES))?;
        let offset = self.offset();
        let bytes = self.bytes(what, length)?;
        let name = std::str::from_utf8(bytes)
            .map_err(|_| name_error(what, &String::from_utf8_lossy(bytes), offset, super::NAME_RULE))?;
        Ok((name, offset))
    }

    fn chunk(&mut self, what: &'static str) -> Result<(&'a [u8], usize), BatchError> {
        let left = self.left();
        let length = self.at(what, |reader| reader.bounded("length of a chunk", left))?;
        let offset = self.offset();
        Ok((self.bytes(what, length)?, offset))
    }

    fn devices(&mut self, rows: usize, limits: &BatchLimits) -> Result<DeviceRuns, BatchError> {
        let count = self.count("device runs", limits.devices.min(rows))?;
        if count == 0 {
            return Err(BatchError::Empty { what: "batch: no device" });
        }
        // Each id takes two bytes at least, so what is allocated here is bounded by what really came.
        if count > self.left() / 2 {
            let source = CodecError::Truncated { codec: "batch", needed: count * 2, found: self.left() };
            return Err(BatchError::Bytes { what: "device runs", offset: self.offset(), source });
        }
        let mode = self.byte("mode of the rows of device runs")?;
        let run_rows = match mode {
            ROWS_EQUAL if rows.is_multiple_of(count) => vec![u32_of(rows / count); count],
            ROWS_EQUAL => {
                return Err(BatchError::Rows {
                    what: "equal device runs",
                    expected: rows,
                    found: rows / count * count,
                });
            }
            ROWS_EACH => self.run_rows(count, rows)?,
            found => {
                let source = CodecError::UnknownKind { codec: "batch", kind: found };
                let offset = self.offset() - 1;
                return Err(BatchError::Bytes { what: "mode of the rows of device runs", offset, source });
            }
        };
        let (names, ends) = self.device_ids(count, limits)?;
        Ok(DeviceRuns::from_parts(names, ends, run_rows, rows))
    }

    fn run_rows(&mut self, count: usize, rows: usize) -> Result<Vec<u32>, BatchError> {
        let mut run_rows = Vec::with_capacity(count);
        let mut total = 0;
        for _ in 0..count {
            let run = self.count("rows of a device run", rows)?;
            if run == 0 {
                return Err(BatchError::Empty { what: "device run" });
            }
            total += run;
            run_rows.push(u32_of(run));
        }
        if total != rows {
            return Err(BatchError::Rows { what: "device runs", expected: rows, found: total });
        }
        Ok(run_rows)
    }

    /// Ids, each as the number of bytes it shares with the one before and the rest.
    fn device_ids(&mut self, count: usize, limits: &BatchLimits) -> Result<(String, Vec<u32>), BatchError> {
        let start = self.offset();
        let mut names: Vec<u8> = Vec::new();
        let mut ends = Vec::with_capacity(count);
        let mut before = 0..0;
        for _ in 0..count {
            let offset = self.offset();
            let max = before.len();
            let shared = self.at("device id", |reader| reader.bounded("bytes shared with the id before", max))?;
            let own =
                self.at("device id", |reader| reader.bounded("length of a device id", MAX_DEVICE_BYTES - shared))?;
            if shared + own == 0 {
                return Err(name_error("device", "", offset, DEVICE_RULE));
            }
            limits.check("bytes of device ids", names.len() + shared + own, limits.device_bytes)?;
            let begin = names.len();
            names.extend_from_within(before.start..before.start + shared);
            names.extend_from_slice(self.bytes("device id", own)?);
            ends.push(u32_of(names.len()));
            before = begin..names.len();
        }
        // Valid as a whole with every end between two characters means that each id is valid.
        let names = String::from_utf8(names)
            .ok()
            .filter(|names| !has_control(names) && ends.iter().all(|&end| names.is_char_boundary(end as usize)));
        match names {
            Some(names) => Ok((names, ends)),
            None => Err(name_error("device", "(one of the batch)", start, DEVICE_RULE)),
        }
    }

    fn finish(mut self) -> Result<(), BatchError> {
        self.at("end", |reader| reader.finish())
    }
}

fn u32_of(value: usize) -> u32 {
    u32::try_from(value).expect("limits of a batch are below 4 Gi")
}
