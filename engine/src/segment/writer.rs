//! Owns writing a segment, device after device; does not decide what goes in.

use std::ops::Range;
use std::sync::Arc;

use tidewell_codec::{Column, Tier, Values, encode_column, encode_times};

use super::directory::{BlockEntry, encode_directory, encode_meta};
use super::format::{BLOCK_ROWS_MAX, FIELDS_MAX, Header, NAME_MAX, SHARED_CRC_BYTES, TRAILER_LEN, Trailer, put_crc};
use super::index::IndexBuilder;
use super::segment_name;
use super::stats::field_stats;
use crate::error::{Error, Result};
use crate::planted::{self, Bug};
use crate::storage::{Storage, StorageFile};
use crate::types::{FieldStats, Rows, TableSchema};

/// Bytes gathered before a write.
const WRITE_BYTES: usize = 1 << 20;
/// A block ends early when its text grows beyond this, so that a block always fits in memory.
const BLOCK_TEXT_BYTES_MAX: usize = 4 << 20;

/// What a new segment is; all of it goes into the header.
#[derive(Clone, Debug)]
pub struct SegmentSpec {
    /// Its number, unique in the data directory.
    pub id: u64,
    /// The shard it belongs to.
    pub shard: u32,
    /// The table, with the fields that the pushed rows have.
    pub schema: Arc<TableSchema>,
    /// How hard the codecs try.
    pub tier: Tier,
    /// Most rows of a block.
    pub block_rows: usize,
    /// Lowest flush number of the rows.
    pub seq_min: u64,
    /// Highest flush number of the rows.
    pub seq_max: u64,
    /// Time of the node's clock, for people who look at the file.
    pub created_ns: i64,
}

/// What a finished segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its number.
    pub id: u64,
    /// Devices in it.
    pub devices: u64,
    /// Blocks in it.
    pub blocks: u64,
    /// Rows in it.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// First time of a row.
    pub time_min: i64,
    /// Last time of a row.
    pub time_max: i64,
}

/// Writes one segment: devices in ascending order, each with rows in rising time.
///
/// Bytes go to a temporary name; only [`SegmentWriter::finish`] makes the segment appear. Memory is bounded by one block,
/// the write buffer, the metas of the current device and about 24 bytes plus the id for each device before it.
pub struct SegmentWriter {
    storage: Arc<dyn Storage>,
    file: Box<dyn StorageFile>,
    name: String,
    spec: SegmentSpec,
    header_len: u32,
    /// Bytes not yet written; they belong at `written`.
    buffer: Vec<u8>,
    written: u64,
    index: IndexBuilder,
    device: Option<Device>,
    device_last: String,
    /// Rows of the current device that do not fill a block yet.
    pending: Rows,
    blocks: Vec<BlockEntry>,
    metas: Vec<u8>,
    /// Chunks of the current block, before checksums are put between them.
    chunks: Vec<u8>,
    fields: Vec<Option<(u64, FieldStats)>>,
    devices_total: u64,
    blocks_total: u64,
    rows_total: u64,
    time_min: i64,
    time_max: i64,
    /// Nothing is left under the temporary name.
    settled: bool,
}

struct Device {
    received: (i64, i64),
    /// Time of the last row pushed.
    time_last: Option<i64>,
}

/// A writer that failed takes its file along: a full disk or a damaged input is tried again and again, and each try has
/// a number of its own.
impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if !self.settled {
            // When it stays, the next open removes it.
            let _ = self.storage.remove(&temporary_name(&self.name));
        }
    }
}

impl SegmentWriter {
    /// Starts the segment of `spec` under a temporary name; a left-over of that name is replaced.
    pub fn create(storage: Arc<dyn Storage>, spec: SegmentSpec) -> Result<Self> {
        let names_fit = spec.schema.name.len() <= NAME_MAX
            && spec.schema.fields.len() <= FIELDS_MAX
            && spec.schema.fields.iter().all(|f| f.name.len() <= NAME_MAX);
        if !names_fit || spec.block_rows == 0 || spec.block_rows > BLOCK_ROWS_MAX || spec.seq_min > spec.seq_max {
            return Err(Error::Invalid(format!(
                "segment {:016x} of table {} breaks a limit",
                spec.id, spec.schema.name
            )));
        }
        let name = segment_name(spec.id);
        let temporary = temporary_name(&name);
        if storage.exists(&temporary).map_err(Error::io("look for", &temporary))? {
            storage.remove(&temporary).map_err(Error::io("remove", &temporary))?;
        }
        let file = storage.create(&temporary).map_err(Error::io("create", &temporary))?;
        let header = Header {
            id: spec.id,
            shard: spec.shard,
            tier: spec.tier,
            block_rows: spec.block_rows as u32,
            seq_min: spec.seq_min,
            seq_max: spec.seq_max,
            created_ns: spec.created_ns,
            schema: spec.schema.clone(),
        };
        let mut buffer = Vec::with_capacity(WRITE_BYTES + WRITE_BYTES / 4);
        buffer.extend_from_slice(&header.encode());
        let columns = empty_columns(&spec.schema);
        Ok(Self {
            storage,
            file,
            name,
            header_len: buffer.len() as u32,
            buffer,
            written: 0,
            index: IndexBuilder::default(),
            device: None,
            device_last: String::new(),
            pending: Rows { times: Vec::new(), columns },
            blocks: Vec::new(),
            metas: Vec::new(),
            chunks: Vec::new(),
            fields: Vec::new(),
            devices_total: 0,
            blocks_total: 0,
            rows_total: 0,
            time_min: i64::MAX,
            time_max: i64::MIN,
            settled: false,
            spec,
        })
    }

    /// Writes all rows of one device. `received` is when its first and last batch came. No row: nothing is written.
    ///
    /// # Panics
    /// When devices do not ascend, times do not rise, or columns do not fit the schema.
    pub fn push_device(&mut self, device: &str, received: (i64, i64), rows: &Rows) -> Result<()> {
        self.begin_device(device, received);
        self.check_rows(rows);
        let mut start = 0;
        while start < rows.times.len() {
            let end = self.block_end(rows, start);
            self.write_block(rows, start..end)?;
            start = end;
        }
        self.end_device()
    }

    /// Starts a device whose rows come in pieces.
    ///
    /// # Panics
    /// When `device` does not come after the one before, is not 1 to 256 bytes long, or that one was not ended.
    pub fn begin_device(&mut self, device: &str, received: (i64, i64)) {
        assert!(self.device.is_none(), "device {} is still open", self.device_last);
        assert!(!device.is_empty() && device.len() <= NAME_MAX, "a device id of {} bytes", device.len());
        assert!(*device > *self.device_last, "device {device} must come after {}", self.device_last);
        self.device_last.clear();
        self.device_last.push_str(device);
        self.device = Some(Device { received, time_last: None });
    }

    /// Adds rows to the device, later than all before.
    ///
    /// # Panics
    /// As [`SegmentWriter::push_device`].
    pub fn push_rows(&mut self, rows: &Rows) -> Result<()> {
        self.check_rows(rows);
        let mut start = 0;
        while start < rows.times.len() {
            if self.pending.times.is_empty() {
                let end = self.block_end(rows, start);
                if end < rows.times.len() || end - start == self.spec.block_rows {
                    self.write_block(rows, start..end)?;
                    start = end;
                    continue;
                }
            }
            let room = self.spec.block_rows - self.pending.times.len();
            let end = rows.times.len().min(start + room);
            self.pending.times.extend_from_slice(&rows.times[start..end]);
            for (own, theirs) in self.pending.columns.iter_mut().zip(&rows.columns) {
                own.extend_from(theirs, start..end);
            }
            start = end;
            if self.pending.times.len() == self.spec.block_rows {
                self.write_pending()?;
            }
        }
        Ok(())
    }

    /// Ends the device; one without rows leaves no trace.
    pub fn end_device(&mut self) -> Result<()> {
        self.write_pending()?;
        let device = self.device.take().expect("end_device follows begin_device");
        if self.blocks.is_empty() {
            return Ok(());
        }
        self.buffer.append(&mut self.metas);
        let (offset, start) = (self.position(), self.buffer.len());
        encode_directory(device.received, &self.blocks, &mut self.buffer);
        let len = (self.buffer.len() - start) as u32;
        self.index.push(&self.device_last, offset, len);
        self.devices_total += 1;
        self.blocks_total += self.blocks.len() as u64;
        self.blocks.clear();
        self.write_out(WRITE_BYTES)
    }

    /// Rows written or pushed so far.
    pub fn rows(&self) -> u64 {
        self.rows_total + self.pending.times.len() as u64
    }

    /// Bytes that the segment has so far.
    pub fn bytes(&self) -> u64 {
        self.position()
    }

    /// Writes index and trailer, syncs, and gives the segment its name. A segment needs at least one row.
    pub fn finish(mut self) -> Result<SegmentSummary> {
        assert!(self.device.is_none(), "device {} is still open", self.device_last);
        if self.rows_total == 0 {
            let name = self.name.clone();
            self.discard()?;
            return Err(Error::Invalid(format!("{name} would have no row")));
        }
        let index_offset = self.position();
        let (pages, root, page_count) = std::mem::take(&mut self.index).finish(index_offset);
        let root_offset = index_offset + pages.len() as u64;
        let file_len = root_offset + (root.len() + TRAILER_LEN) as u64;
        let trailer = Trailer {
            devices: self.devices_total,
            blocks: self.blocks_total,
            rows: self.rows_total,
            time_min: self.time_min,
            time_max: self.time_max,
            index_offset,
            root_offset,
            file_len,
            pages: page_count,
            header_len: self.header_len,
        };
        self.buffer.extend_from_slice(&pages);
        self.buffer.extend_from_slice(&root);
        self.buffer.extend_from_slice(&trailer.encode());
        self.write_out(0)?;
        assert_eq!(self.written, file_len, "every byte was counted");

        // The order is the promise: bytes, then the name, then the folder. A crash in between leaves an orphan at most.
        let temporary = temporary_name(&self.name);
        if !planted::is(Bug::SkipSegmentSync) {
            self.file.sync_data().map_err(Error::io("sync", &temporary))?;
        }
        self.storage.rename(&temporary, &self.name).map_err(Error::io("rename", &temporary))?;
        self.settled = true;
        let dir = self.name.rsplit_once('/').map_or("", |(dir, _)| dir);
        if !planted::is(Bug::SkipDirectorySync) {
            self.storage.sync_dir(dir).map_err(Error::io("sync", dir))?;
        }
        Ok(SegmentSummary {
            id: self.spec.id,
            devices: self.devices_total,
            blocks: self.blocks_total,
            rows: self.rows_total,
            bytes: file_len,
            time_min: self.time_min,
            time_max: self.time_max,
        })
    }

    /// Gives up: removes the temporary file.
    pub fn discard(mut self) -> Result<()> {
        let temporary = temporary_name(&self.name);
        self.settled = true;
        self.storage.remove(&temporary).map_err(Error::io("remove", temporary))
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn check_rows(&mut self, rows: &Rows) {
        let device = self.device.as_mut().expect("rows follow begin_device");
        let name = &self.device_last;
        let Some((&first, &last)) = rows.times.first().zip(rows.times.last()) else { return };
        assert!(device.time_last.is_none_or(|before| before < first), "times of {name} must rise across pushes");
        // Without an early exit the loop runs on vectors.
        let rising = rows.times.windows(2).fold(true, |ok, pair| ok & (pair[0] < pair[1]));
        assert!(rising, "times of {name} must rise");
        assert_eq!(rows.columns.len(), self.spec.schema.fields.len(), "columns of {name}");
        for (column, field) in rows.columns.iter().zip(&self.spec.schema.fields) {
            assert_eq!(column.field_type(), field.field_type, "type of {} of {name}", field.name);
            assert_eq!(column.len(), rows.times.len(), "rows of {} of {name}", field.name);
        }
        device.time_last = Some(last);
    }

    /// Where the block that begins at `start` ends: when full of rows, or of text.
    fn block_end(&self, rows: &Rows, start: usize) -> usize {
        let mut end = rows.times.len().min(start + self.spec.block_rows);
        for column in &rows.columns {
            if let Values::Utf8(text) = &column.values
                && text.byte_len() > BLOCK_TEXT_BYTES_MAX
            {
                let mut bytes = 0;
                for row in start..end {
                    bytes += text.get_bytes(row).len();
                    if bytes > BLOCK_TEXT_BYTES_MAX && row > start {
                        end = row;
                        break;
                    }
                }
            }
        }
        end
    }

    fn write_pending(&mut self) -> Result<()> {
        if self.pending.times.is_empty() {
            return Ok(());
        }
        let columns = empty_columns(&self.spec.schema);
        let pending = std::mem::replace(&mut self.pending, Rows { times: Vec::new(), columns });
        let mut start = 0;
        while start < pending.times.len() {
            let end = self.block_end(&pending, start);
            self.write_block(&pending, start..end)?;
            start = end;
        }
        Ok(())
    }

    fn write_block(&mut self, rows: &Rows, range: Range<usize>) -> Result<()> {
        let data_offset = self.position();
        let times = &rows.times[range.clone()];
        let (time_min, time_max) = (times[0], times[times.len() - 1]);
        self.chunks.clear();
        encode_times(times, self.spec.tier, &mut self.chunks);
        let times_len = self.chunks.len();
        self.fields.clear();
        for column in &rows.columns {
            let seen = range.len() - usize::from(planted::is(Bug::StaleZoneMap) && range.len() > 1);
            let stats = field_stats(column, range.start..range.start + seen);
            // A field without a value takes no byte but its bit in the meta.
            let chunk = (stats.valid > 0).then(|| {
                let start = self.chunks.len();
                encode_column(column, range.clone(), self.spec.tier, &mut self.chunks);
                ((self.chunks.len() - start) as u64, stats)
            });
            self.fields.push(chunk);
        }
        let shared_crc = self.chunks.len() <= SHARED_CRC_BYTES;
        let data_start = self.buffer.len();
        if shared_crc {
            self.buffer.extend_from_slice(&self.chunks);
            put_crc(&mut self.buffer, data_start);
        } else {
            let lens = std::iter::once(times_len).chain(self.fields.iter().flatten().map(|(len, _)| *len as usize));
            let mut chunk_start = 0;
            for len in lens {
                let start = self.buffer.len();
                self.buffer.extend_from_slice(&self.chunks[chunk_start..chunk_start + len]);
                put_crc(&mut self.buffer, start);
                chunk_start += len;
            }
        }
        let data_len = (self.buffer.len() - data_start) as u64;
        let meta_start = self.metas.len();
        encode_meta(shared_crc, times_len as u64, &self.fields, &self.spec.schema, &mut self.metas);
        self.blocks.push(BlockEntry {
            rows: range.len() as u32,
            time_min,
            time_max,
            data_offset,
            data_len,
            // Offsets of metas follow from their lengths, see `decode_directory`.
            meta_offset: 0,
            meta_len: (self.metas.len() - meta_start) as u64,
        });
        self.rows_total += range.len() as u64;
        self.time_min = self.time_min.min(time_min);
        self.time_max = self.time_max.max(time_max);
        self.write_out(WRITE_BYTES)
    }

    /// Writes the buffer once it has `at_least` bytes.
    fn write_out(&mut self, at_least: usize) -> Result<()> {
        if self.buffer.len() >= at_least && !self.buffer.is_empty() {
            let io = |error| Error::io("write", temporary_name(&self.name))(error);
            self.file.write_at(self.written, &self.buffer).map_err(io)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

fn temporary_name(name: &str) -> String {
    format!("{name}.tmp")
}

fn empty_columns(schema: &TableSchema) -> Vec<Column> {
    schema.fields.iter().map(|f| Column::new(f.field_type)).collect()
}
