//! Owns merging segments of one table and shard; does not touch memtables.
//!
//! Inputs are neighbours in log order, so that "later wins" among them and towards all others stays what it was. The
//! output has the inputs' range of flush numbers, cold codecs and larger blocks. A crash leaves either the inputs or the
//! outputs: one manifest edit swaps them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tidewell_codec::Tier;

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::limits::{COLD_BLOCK_ROWS, COMPACTION_FAN_IN, COMPACTION_LEVEL_MAX, DAY_NS, SEGMENT_ROWS_MAX};
use crate::manifest::{Edit, Manifest, SegmentMeta};
use crate::scan::{Source, plan};
use crate::segment::{SegmentSpec, SegmentWriter, segment_name};
use crate::shard::{LiveSegment, ShardStats, SharedView};
use crate::storage::Storage;
use crate::types::{FieldDef, Rows, TableSchema};
use crate::upkeep::FileNumbers;
use crate::upkeep::flush::open_live;

/// Merges one shard's segments.
pub struct Compactor {
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
    /// Set when the node goes down: a merge gives up between two devices, and its inputs stay.
    pub stopping: Arc<AtomicBool>,
}

impl Compactor {
    /// Does one due merge; false when none is due.
    ///
    /// # Errors
    /// A failed read or write; the inputs stay.
    pub fn run_once(&self, now_ns: i64) -> Result<bool> {
        let view = self.view.load();
        let mut tables: Vec<_> = view.segments.iter().collect();
        tables.sort_by(|a, b| a.0.cmp(b.0));
        for (table, segments) in tables {
            if let Some(inputs) = pick(segments) {
                self.merge(table, inputs, now_ns)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Merges all segments of each table, whatever their level, until each table's rows are in cold blocks once.
    ///
    /// # Errors
    /// A failed read or write; what was merged before stays merged.
    pub fn run_all(&self, now_ns: i64) -> Result<()> {
        let view = self.view.load();
        for (table, segments) in view.segments.iter() {
            let hot = segments.iter().any(|s| s.meta.level == 0);
            let mixed = segments.iter().any(|s| s.meta.seq_max != segments[0].meta.seq_max);
            if hot || mixed {
                self.merge(table, segments, now_ns)?;
            }
        }
        Ok(())
    }

    fn merge(&self, table: &str, inputs: &[Arc<LiveSegment>], now_ns: i64) -> Result<()> {
        let Some(schema) = self.catalog.table(table) else { return Ok(()) };
        let level = inputs.iter().map(|s| s.meta.level).max().unwrap_or(0).saturating_add(1).min(COMPACTION_LEVEL_MAX);
        let mut outputs: Vec<SegmentMeta> = Vec::new();
        for (start, end) in day_ranges(inputs) {
            match self.write_range(&schema, inputs, level, start, end, now_ns) {
                Ok(output) => outputs.extend(output),
                Err(error) => {
                    // The next try has numbers of its own.
                    for meta in outputs {
                        let _ = self.storage.remove(&segment_name(meta.id));
                    }
                    return Err(error);
                }
            }
        }
        let mut edits: Vec<Edit> = outputs.iter().cloned().map(Edit::SegmentAdded).collect();
        edits.extend(inputs.iter().map(|s| Edit::SegmentRemoved { id: s.meta.id }));
        let opened = outputs.into_iter().map(|meta| open_live(&self.storage, meta)).collect::<Result<Vec<_>>>()?;
        self.manifest.lock().append(&edits)?;
        for segment in &opened {
            self.stats.compaction_bytes.add(segment.meta.bytes);
        }
        self.stats.compactions.add(1);
        let ids: Vec<u64> = inputs.iter().map(|s| s.meta.id).collect();
        self.view.replace_segments(&ids, opened);
        Ok(())
    }

    /// Writes the inputs' rows of `[start, end)` as one segment; `None` when there is none.
    fn write_range(
        &self,
        schema: &Arc<TableSchema>,
        inputs: &[Arc<LiveSegment>],
        level: u8,
        start: i64,
        end: i64,
        now_ns: i64,
    ) -> Result<Option<SegmentMeta>> {
        let seq_min = inputs.iter().map(|s| s.meta.seq_min).min().unwrap_or(0);
        let seq_max = inputs.iter().map(|s| s.meta.seq_max).max().unwrap_or(0);
        let id = self.numbers.segment();
        let spec = SegmentSpec {
            id,
            shard: self.shard,
            schema: Arc::clone(schema),
            tier: Tier::Cold,
            block_rows: COLD_BLOCK_ROWS,
            seq_min,
            seq_max,
            created_ns: now_ns,
        };
        let fields: Arc<[FieldDef]> = schema.fields.iter().cloned().collect();
        let mut writer = SegmentWriter::create(Arc::clone(&self.storage), spec)?;
        let mut rows = Rows::default();
        for device in merged_devices(inputs)? {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(Error::Invalid("the merge was given up: the node goes down".into()));
            }
            let mut received = (i64::MAX, i64::MIN);
            let mut sources = Vec::new();
            for input in inputs {
                if let Some(blocks) = input.segment.find(&device)? {
                    received = (received.0.min(blocks.received().0), received.1.max(blocks.received().1));
                    sources.push(Source::Blocks(blocks));
                }
            }
            writer.begin_device(&device, received);
            for part in plan(sources, &fields, start, end) {
                part.load(&mut rows)?;
                writer.push_rows(&rows)?;
            }
            writer.end_device()?;
        }
        if writer.rows() == 0 {
            writer.discard()?;
            return Ok(None);
        }
        let summary = writer.finish()?;
        Ok(Some(SegmentMeta {
            id,
            shard: self.shard,
            table: Arc::clone(&schema.name),
            level,
            seq_min,
            seq_max,
            rows: summary.rows,
            bytes: summary.bytes,
            time_min: summary.time_min,
            time_max: summary.time_max,
            clean: inputs.iter().map(|s| s.meta.clean).min().unwrap_or(0),
        }))
    }
}

/// The oldest run of neighbours of one level that is long enough to merge.
fn pick(segments: &[Arc<LiveSegment>]) -> Option<&[Arc<LiveSegment>]> {
    for level in 0..COMPACTION_LEVEL_MAX {
        let mut start = 0;
        while start < segments.len() {
            let run = segments[start..].iter().take_while(|s| s.meta.level == level).count();
            if run >= COMPACTION_FAN_IN {
                return Some(&segments[start..start + run]);
            }
            start += run.max(1);
        }
    }
    None
}

/// Cuts the inputs' time into ranges `[start, end)` (`i64::MAX` has no end) at day edges, so that no output gets much longer than
/// [`SEGMENT_ROWS_MAX`]. Rows are taken as spread evenly over each input's time.
fn day_ranges(inputs: &[Arc<LiveSegment>]) -> Vec<(i64, i64)> {
    let rows: u64 = inputs.iter().map(|s| s.meta.rows).sum();
    let first = inputs.iter().map(|s| s.meta.time_min).min().unwrap_or(0);
    if rows <= SEGMENT_ROWS_MAX {
        return vec![(first, i64::MAX)];
    }
    let day = |time: i64| time.div_euclid(DAY_NS);
    let mut rows_of_day: BTreeMap<i64, f64> = BTreeMap::new();
    for input in inputs {
        let days = day(input.meta.time_min)..=day(input.meta.time_max);
        let count = (days.end() - days.start() + 1) as f64;
        for d in days {
            *rows_of_day.entry(d).or_default() += input.meta.rows as f64 / count;
        }
    }
    let mut ranges = Vec::new();
    let (mut start, mut sum) = (first, 0.0);
    for (d, rows) in rows_of_day {
        let day_start = d.saturating_mul(DAY_NS);
        if sum > 0.0 && sum + rows > SEGMENT_ROWS_MAX as f64 && day_start > start {
            ranges.push((start, day_start));
            (start, sum) = (day_start, 0.0);
        }
        sum += rows;
    }
    ranges.push((start, i64::MAX));
    ranges
}

/// Ids of all inputs, ascending, each once.
fn merged_devices(inputs: &[Arc<LiveSegment>]) -> Result<Vec<Arc<str>>> {
    let mut devices: Vec<Arc<str>> = Vec::new();
    for input in inputs {
        for device in input.segment.devices() {
            devices.push(Arc::from(device?.id()));
        }
    }
    devices.sort_unstable();
    devices.dedup();
    Ok(devices)
}
