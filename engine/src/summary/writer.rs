//! Owns writing a summary, device after device; does not compute aggregates.

use std::sync::Arc;

use super::aggregate::DeviceSteps;
use super::entry::{STEPS_MAX, encode_entry};
use super::format::{Header, TRAILER_LEN, Trailer};
use super::types::Step;
use super::{SummaryMeta, summary_name};
use crate::error::{Error, Result};
use crate::segment::index::IndexBuilder;
use crate::storage::{Storage, StorageFile};
use crate::types::TableSchema;

/// Bytes gathered before a write.
const WRITE_BYTES: usize = 256 << 10;

/// What a new summary is; all of it goes into the header.
#[derive(Clone, Debug)]
pub(crate) struct SummarySpec {
    /// Its number, unique in the data directory.
    pub id: u64,
    /// The segment whose rows it tells of.
    pub segment: u64,
    pub shard: u32,
    pub step: Step,
    /// The table, with the fields that the rows have.
    pub schema: Arc<TableSchema>,
    pub seq_min: u64,
    pub seq_max: u64,
    pub created_ns: i64,
}

/// Writes one summary: devices in ascending order.
///
/// Bytes go to a temporary name; only [`SummaryWriter::finish`] makes the summary appear. Memory is bounded by the write
/// buffer, one entry, and about 16 bytes plus the id for each device.
pub(crate) struct SummaryWriter {
    storage: Arc<dyn Storage>,
    /// Made with the first bytes that are written: most minutes of slow devices are not worth a file.
    file: Option<Box<dyn StorageFile>>,
    name: String,
    spec: SummarySpec,
    header_len: u32,
    /// Bytes not yet written; they belong at `written`.
    buffer: Vec<u8>,
    written: u64,
    index: IndexBuilder,
    devices: u64,
    steps: u64,
    time_min: i64,
    time_max: i64,
    /// Nothing is left under the temporary name.
    settled: bool,
}

impl Drop for SummaryWriter {
    fn drop(&mut self) {
        if !self.settled && self.file.is_some() {
            // When it stays, the next open removes it.
            let _ = self.storage.remove(&temporary_name(&self.name));
        }
    }
}

impl SummaryWriter {
    pub(crate) fn new(storage: Arc<dyn Storage>, spec: SummarySpec) -> Self {
        let header = Header {
            id: spec.id,
            segment: spec.segment,
            shard: spec.shard,
            step: spec.step,
            seq_min: spec.seq_min,
            seq_max: spec.seq_max,
            created_ns: spec.created_ns,
            schema: Arc::clone(&spec.schema),
        };
        let buffer = header.encode();
        Self {
            storage,
            file: None,
            name: summary_name(spec.id),
            spec,
            header_len: buffer.len() as u32,
            buffer,
            written: 0,
            index: IndexBuilder::default(),
            devices: 0,
            steps: 0,
            time_min: i64::MAX,
            time_max: i64::MIN,
            settled: false,
        }
    }

    /// Adds a device, after all before. One with more steps than an entry may have is left out: its rows answer.
    pub(crate) fn push_device(&mut self, device: &str, received: (i64, i64), steps: &DeviceSteps) -> Result<()> {
        let count = steps.numbers.len();
        if count == 0 || count > STEPS_MAX {
            return Ok(());
        }
        let (offset, start) = (self.position(), self.buffer.len());
        encode_entry(steps, self.spec.step, received, &self.spec.schema.fields, &mut self.buffer);
        self.index.push(device, offset, (self.buffer.len() - start) as u32);
        self.devices += 1;
        self.steps += count as u64;
        self.time_min = self.time_min.min(steps.first_row[0]);
        self.time_max = self.time_max.max(steps.last_row[count - 1]);
        self.write_out(WRITE_BYTES)
    }

    /// Writes index and trailer, syncs, and gives the summary its name. `None`, and no file, when no device was added.
    pub(crate) fn finish(mut self) -> Result<Option<SummaryMeta>> {
        if self.devices == 0 {
            return Ok(None);
        }
        let index_offset = self.position();
        let (pages, root, page_count) = std::mem::take(&mut self.index).finish(index_offset);
        let root_offset = index_offset + pages.len() as u64;
        let file_len = root_offset + (root.len() + TRAILER_LEN) as u64;
        let trailer = Trailer {
            devices: self.devices,
            steps: self.steps,
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
        if let Some(file) = &mut self.file {
            file.sync_data().map_err(Error::io("sync", &temporary))?;
        }
        self.storage.rename(&temporary, &self.name).map_err(Error::io("rename", &temporary))?;
        self.settled = true;
        let dir = crate::storage::parent(&self.name);
        self.storage.sync_dir(dir).map_err(Error::io("sync", dir))?;
        Ok(Some(SummaryMeta {
            id: self.spec.id,
            segment: self.spec.segment,
            shard: self.spec.shard,
            table: Arc::clone(&self.spec.schema.name),
            step: self.spec.step,
            seq_min: self.spec.seq_min,
            seq_max: self.spec.seq_max,
            rows: self.steps,
            bytes: file_len,
            time_min: self.time_min,
            time_max: self.time_max,
        }))
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Writes the buffer once it has `at_least` bytes.
    fn write_out(&mut self, at_least: usize) -> Result<()> {
        if self.buffer.len() < at_least || self.buffer.is_empty() {
            return Ok(());
        }
        let temporary = temporary_name(&self.name);
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                if self.storage.exists(&temporary).map_err(Error::io("look for", &temporary))? {
                    self.storage.remove(&temporary).map_err(Error::io("remove", &temporary))?;
                }
                none.insert(self.storage.create(&temporary).map_err(Error::io("create", &temporary))?)
            }
        };
        file.write_at(self.written, &self.buffer).map_err(Error::io("write", &temporary))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn temporary_name(name: &str) -> String {
    format!("{name}.tmp")
}
