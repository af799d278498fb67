//! Owns turning a sealed memtable into segments; does not decide when.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crate::sync::Mutex;

use crate::catalog::Catalog;
use crate::error::Result;
use crate::limits::HOT_BLOCK_ROWS;
use crate::manifest::{Edit, Manifest, SegmentMeta, heads_name, write_heads};
use crate::scan::sort_unique;
use crate::segment::{Segment, SegmentSpec, SegmentWriter, segment_name};
use crate::shard::core::Sealed;
use crate::shard::{LiveSegment, ShardStats, SharedView};
use crate::storage::Storage;
use crate::types::{Column, Rows, TableSchema};
use crate::upkeep::FileNumbers;
use tidewell_codec::Tier;

/// Writes one shard's sealed memtables.
pub struct Flusher {
    /// The shard.
    pub shard: u32,
    /// The data directory.
    pub storage: Arc<dyn Storage>,
    /// All tables.
    pub catalog: Arc<Catalog>,
    /// Which segments exist.
    pub manifest: Arc<Mutex<Manifest>>,
    /// Numbers of new files.
    pub numbers: Arc<FileNumbers>,
    /// What readers see.
    pub view: Arc<SharedView>,
    /// Counters.
    pub stats: Arc<ShardStats>,
    /// Number of the next flush: later flushes hold later rows.
    pub next_seq: u64,
    /// Set when the node goes down: a full disk is not waited for any more.
    pub stopping: Arc<AtomicBool>,
    /// Told after each flush.
    pub compactor: crossbeam_channel::Sender<()>,
}

impl Flusher {
    /// The shard that it writes for.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// Whether the node goes down.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether a flush that failed may be tried again: not once the manifest has stopped.
    pub fn may_try_again(&self) -> bool {
        self.manifest.lock().is_sound()
    }

    /// Writes a segment for each table, then one manifest edit that brings them in and lets the log go.
    ///
    /// A crash before the edit leaves files that the next open removes, and the log still has the rows.
    ///
    /// # Errors
    /// A failed write; the memtable stays readable and the flush can be tried again.
    pub fn flush(&mut self, sealed: &Sealed, now_ns: i64) -> Result<()> {
        let mut edits = Vec::new();
        let mut written = Vec::new();
        let number = self.numbers.heads();
        if let Err(error) = self.write_files(sealed, now_ns, number, &mut written, &mut edits) {
            self.take_back(&written, number);
            return Err(error);
        }
        edits.extend(written.iter().cloned().map(Edit::SegmentAdded));
        edits.push(Edit::ProducerHeads { shard: self.shard, number });
        edits.push(Edit::LogReleased { shard: self.shard, position: sealed.until });
        let opened = written.iter().cloned().map(|meta| open_live(&self.storage, meta));
        let segments = match opened.collect::<Result<Vec<_>>>() {
            Ok(segments) => segments,
            Err(error) => {
                self.take_back(&written, number);
                return Err(error);
            }
        };
        let flushed_bytes = segments.iter().map(|segment| segment.meta.bytes).sum();
        let old_heads = {
            // Held until readers see the same: whoever takes segments out of the manifest meets them in the view.
            let mut manifest = self.manifest.lock();
            let old = manifest.state().heads_files[self.shard as usize];
            if let Err(error) = manifest.append(&edits) {
                // After a failure that stopped the manifest nobody knows whether the edit is there: what it names must stay.
                if manifest.is_sound() {
                    self.take_back(&written, number);
                }
                return Err(error);
            }
            self.view.replace_sealed(&sealed.memtable, segments);
            old
        };
        self.next_seq += 1;
        self.stats.flush_bytes.add(flushed_bytes);
        self.stats.flushes.add(1);
        self.stats.flushed_segments.set(self.view.flushed_segments());
        if let Some(old) = old_heads.map(|number| heads_name(self.shard, number))
            && let Err(error) = self.storage.remove(&old)
        {
            tracing::warn!(file = %old, %error, "cannot remove the heads that a flush replaced");
        }
        // A full channel means that the compactor has been told already.
        let _ = self.compactor.try_send(());
        Ok(())
    }

    /// Removes the files of a flush that will be tried again: the next try has numbers of its own, and on a full disk what
    /// stays would leave it less room.
    fn take_back(&self, written: &[SegmentMeta], heads: u64) {
        let segments = written.iter().map(|meta| segment_name(meta.id));
        for name in segments.chain([heads_name(self.shard, heads)]) {
            let _ = self.storage.remove(&name);
        }
    }

    /// Writes all files of a flush; `written` has the segments, also when a later one failed.
    fn write_files(
        &self,
        sealed: &Sealed,
        now_ns: i64,
        heads: u64,
        written: &mut Vec<SegmentMeta>,
        edits: &mut Vec<Edit>,
    ) -> Result<()> {
        let mut tables = sealed.memtable.tables();
        tables.sort();
        for name in tables {
            let Some(schema) = self.catalog.table(&name) else { continue };
            written.extend(self.write_table(sealed, &schema, now_ns)?);
            edits.extend(self.new_fields(&schema));
        }
        write_heads(&*self.storage, self.shard, heads, &sealed.heads.sorted())
    }

    fn write_table(&self, sealed: &Sealed, schema: &Arc<TableSchema>, now_ns: i64) -> Result<Option<SegmentMeta>> {
        let id = self.numbers.segment();
        let spec = SegmentSpec {
            id,
            shard: self.shard,
            schema: Arc::clone(schema),
            tier: Tier::Hot,
            block_rows: HOT_BLOCK_ROWS,
            seq_min: self.next_seq,
            seq_max: self.next_seq,
            created_ns: now_ns,
        };
        let cut_off = self.view.load().masks.cut_off(&schema.name);
        let mut writer = SegmentWriter::create(Arc::clone(&self.storage), spec)?;
        sealed.memtable.drain_table(schema, |device, rows| {
            let rows = rows_from(sort_unique(rows), cut_off);
            if rows.times.is_empty() { Ok(()) } else { writer.push_device(&device.id, device.received_ns, &rows) }
        })?;
        if writer.rows() == 0 {
            // All of them became too old while they were in memory.
            writer.discard()?;
            return Ok(None);
        }
        let summary = writer.finish()?;
        Ok(Some(SegmentMeta {
            id,
            shard: self.shard,
            table: Arc::clone(&schema.name),
            level: 0,
            seq_min: self.next_seq,
            seq_max: self.next_seq,
            rows: summary.rows,
            bytes: summary.bytes,
            time_min: summary.time_min,
            time_max: summary.time_max,
            clean: 0,
        }))
    }

    /// Fields that the manifest does not know yet.
    fn new_fields(&self, schema: &TableSchema) -> Vec<Edit> {
        let manifest = self.manifest.lock();
        let known = manifest.state().table(&schema.name);
        let new = schema.fields.iter().filter(|field| known.is_none_or(|table| table.field(&field.name).is_none()));
        new.map(|field| Edit::Field {
            table: Arc::clone(&schema.name),
            field: Arc::clone(&field.name),
            field_type: field.field_type,
        })
        .collect()
    }
}

/// The rows that are not older than `from_ns`; `rows` are sorted.
fn rows_from(rows: Rows, from_ns: i64) -> Rows {
    let first = rows.times.partition_point(|time| *time < from_ns);
    if first == 0 {
        return rows;
    }
    let columns = rows.columns.iter().map(|column| {
        let mut kept = Column::new(column.field_type());
        kept.extend_from(column, first..rows.times.len());
        kept.normalise();
        kept
    });
    Rows { columns: columns.collect(), times: rows.times[first..].to_vec() }
}

/// Opens a segment that the manifest lists, or is about to.
pub fn open_live(storage: &Arc<dyn Storage>, meta: SegmentMeta) -> Result<Arc<LiveSegment>> {
    let name = segment_name(meta.id);
    let segment = Segment::open(&**storage, &name)?;
    Ok(LiveSegment::new(meta, segment, name, Arc::clone(storage)))
}
