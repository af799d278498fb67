//! Owns copying what can be read of a damaged segment into a new one; does not touch the manifest or the old file.

use std::sync::Arc;

use tidewell_codec::Column;

use super::Lost;
use crate::error::{Error, Result};
use crate::manifest::SegmentMeta;
use crate::segment::{DeviceBlocks, Segment, SegmentSpec, SegmentWriter, rescue, segment_name};
use crate::storage::Storage;
use crate::types::Rows;

/// What came of a damaged segment.
pub(super) struct Salvaged {
    /// The new segment; `None` when no row can be read, or when nothing was to be written.
    pub(super) meta: Option<SegmentMeta>,
    /// Rows that can be read.
    pub(super) rows: u64,
    /// What cannot.
    pub(super) lost: Vec<Lost>,
}

/// Reads all that can be read of the segment `meta` and, when `write` has a number, writes it as the segment of that
/// number, which has the same place in log order.
///
/// # Errors
/// A failed write, or a read that failed for another reason than damage.
pub(super) fn salvage(storage: &Arc<dyn Storage>, meta: &SegmentMeta, write: Option<u64>) -> Result<Salvaged> {
    let whole = |cause: String| Lost {
        path: segment_name(meta.id),
        table: meta.table.to_string(),
        device: None,
        field: None,
        first_ns: meta.time_min,
        last_ns: meta.time_max,
        rows: Some(meta.rows),
        cause,
    };
    let mut lost = Vec::new();
    let name = segment_name(meta.id);
    let segment = match Segment::open(&**storage, &name) {
        Ok(segment) => segment,
        Err(error @ Error::NewerFormat { .. }) => return Err(error),
        Err(first) => match rescue(&**storage, &name) {
            Ok(rescued) => {
                let found = rescued.segment.device_count();
                if rescued.devices != Some(found) {
                    let cause = format!("{first}; {found} devices were found in what is left of its index");
                    lost.push(Lost { rows: None, ..whole(cause) });
                }
                rescued.segment
            }
            Err(Error::Io { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("read", name)(source));
            }
            Err(_) => return Ok(Salvaged { meta: None, rows: 0, lost: vec![whole(first.to_string())] }),
        },
    };
    let mut reader = Reader { meta, segment: &segment, lost, rows: 0, writer: None };
    if let Some(id) = write {
        let spec = SegmentSpec {
            id,
            shard: meta.shard,
            schema: Arc::clone(segment.schema()),
            tier: segment.tier(),
            block_rows: segment.block_rows(),
            seq_min: meta.seq_min,
            seq_max: meta.seq_max,
            created_ns: segment.created_ns(),
        };
        reader.writer = Some(SegmentWriter::create(Arc::clone(storage), spec)?);
    }
    reader.all(&name)?;
    let Reader { lost, rows, writer, .. } = reader;
    let Some(writer) = writer else { return Ok(Salvaged { meta: None, rows, lost }) };
    if writer.rows() == 0 {
        writer.discard()?;
        return Ok(Salvaged { meta: None, rows, lost });
    }
    let summary = writer.finish()?;
    let new = SegmentMeta {
        id: write.unwrap_or(meta.id),
        rows: summary.rows,
        bytes: summary.bytes,
        time_min: summary.time_min,
        time_max: summary.time_max,
        ..meta.clone()
    };
    Ok(Salvaged { meta: Some(new), rows, lost })
}

struct Reader<'a> {
    meta: &'a SegmentMeta,
    segment: &'a Arc<Segment>,
    lost: Vec<Lost>,
    rows: u64,
    writer: Option<SegmentWriter>,
}

impl Reader<'_> {
    fn all(&mut self, name: &str) -> Result<()> {
        let segment = self.segment;
        for entry in segment.devices() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.lose(None, None, (self.meta.time_min, self.meta.time_max), None, &error);
                    continue;
                }
            };
            match entry.blocks() {
                // The same id twice, or out of order, would be a page that was written wrong: not damage of a disk.
                Ok(blocks) => self.device(entry.id(), &blocks)?,
                Err(error) => {
                    self.lose(Some(entry.id()), None, (self.meta.time_min, self.meta.time_max), None, &error);
                }
            }
        }
        debug_assert_eq!(segment.name(), name);
        Ok(())
    }

    fn device(&mut self, id: &str, blocks: &DeviceBlocks) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            writer.begin_device(id, blocks.received());
        }
        for at in 0..blocks.len() {
            let meta = blocks.meta(at);
            let times = (meta.time_min, meta.time_max);
            let mut rows = Rows::default();
            let opened = blocks.block(at).and_then(|block| block.load_times(&mut rows.times).map(|()| block));
            let block = match opened {
                Ok(block) => block,
                Err(error) => {
                    self.lose(Some(id), None, times, Some(meta.rows as u64), &error);
                    continue;
                }
            };
            let mut readable = 0;
            for (field, def) in self.segment.schema().fields.iter().enumerate() {
                let mut column = Column::new(def.field_type);
                match block.load_field(field, &mut column) {
                    Ok(()) => readable += 1,
                    Err(error) => {
                        column = Column::new(def.field_type);
                        column.extend_nulls(meta.rows);
                        self.lose(Some(id), Some(&def.name), times, Some(meta.rows as u64), &error);
                    }
                }
                column.normalise();
                rows.columns.push(column);
            }
            if readable == 0 && !rows.columns.is_empty() {
                // Times without a value would be rows that nobody wrote.
                continue;
            }
            self.rows += meta.rows as u64;
            if let Some(writer) = &mut self.writer {
                writer.push_rows(&rows)?;
            }
        }
        match &mut self.writer {
            Some(writer) => writer.end_device(),
            None => Ok(()),
        }
    }

    fn lose(&mut self, device: Option<&str>, field: Option<&str>, times: (i64, i64), rows: Option<u64>, error: &Error) {
        self.lost.push(Lost {
            path: segment_name(self.meta.id),
            table: self.meta.table.to_string(),
            device: device.map(str::to_owned),
            field: field.map(str::to_owned),
            first_ns: times.0,
            last_ns: times.1,
            rows,
            cause: error.to_string(),
        });
    }
}
