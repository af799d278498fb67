//! Owns one moment of the whole engine for readers; does not merge rows itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::catalog::{self, Tables};
use crate::erase::Masks;
use crate::error::Result;
use crate::memory::{Class, Held, MemoryBudget};
use crate::memtable::{Mark, Memtable};
use crate::quarantine;
use crate::scan::{BlockCache, Part, Source, plan, sort_unique};
use crate::shard::{LiveSegment, ShardView};
use crate::summary::plan::{StepQuestion, StepSource, plan_steps};
use crate::summary::{LiveSummary, Step, Stretch};
use crate::types::{FieldDef, Rows, TableSchema};
use tidewell_codec::shard_of;

/// Pairs of names and values that an operator gave a device.
pub type Attributes = BTreeMap<String, String>;

/// Rows that a scan copies out of memtables are counted from this size on.
const COUNTED_BYTES_MIN: u64 = 256 << 10;

fn rows_bytes(rows: &Rows) -> u64 {
    (rows.times.len() * 8 + rows.columns.iter().map(|column| column.memory_bytes()).sum::<usize>()) as u64
}

/// Segments and memtables of one moment. Cheap to clone; files go when the last holder leaves.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) shards: Arc<Vec<Arc<ShardView>>>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) attributes: Arc<HashMap<Arc<str>, Arc<Attributes>>>,
    pub(crate) cache: Arc<BlockCache>,
}

/// A device as the node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its id.
    pub id: Arc<str>,
    /// What an operator said of it.
    pub attributes: Arc<Attributes>,
    /// When its first stored batch arrived, by the node's clock; `None` when it only has attributes.
    pub first_seen_ns: Option<i64>,
    /// When its last stored batch arrived.
    pub last_seen_ns: Option<i64>,
}

impl Snapshot {
    /// All tables, sorted by name; without those that keep rows in quarantine.
    pub fn tables(&self) -> Vec<Arc<TableSchema>> {
        catalog::sorted(&self.tables).into_iter().filter(|table| quarantine::table_of(&table.name).is_none()).collect()
    }

    /// One table's rows at this moment.
    pub fn table(&self, name: &str) -> Option<TableView> {
        let schema = Arc::clone(self.tables.get(name)?);
        let shards = self.shards.iter().map(|view| ShardTable::new(view, &schema.name)).collect();
        let (memory, cache) = (Arc::clone(&self.memory), Arc::clone(&self.cache));
        Some(TableView { schema, memory, shards: Arc::new(shards), cache })
    }

    /// Attributes of `device`, if it has any.
    pub fn attributes(&self, device: &str) -> Option<Arc<Attributes>> {
        self.attributes.get(device).cloned()
    }

    /// Every device with rows or attributes, sorted by id.
    ///
    /// # Errors
    /// A damaged segment index.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let mut seen: BTreeMap<Arc<str>, Option<(i64, i64)>> = BTreeMap::new();
        let mut note = |id: Arc<str>, received: (i64, i64)| {
            let entry = seen.entry(id).or_default();
            *entry = Some(entry.map_or(received, |e| (e.0.min(received.0), e.1.max(received.1))));
        };
        for table in self.tables() {
            let Some(view) = self.table(&table.name) else { continue };
            view.visit_devices(&mut note)?;
        }
        for id in self.attributes.keys() {
            seen.entry(Arc::clone(id)).or_default();
        }
        let none = Arc::new(Attributes::new());
        Ok(seen
            .into_iter()
            .map(|(id, received)| DeviceInfo {
                attributes: self.attributes.get(&id).unwrap_or(&none).clone(),
                first_seen_ns: received.map(|r| r.0),
                last_seen_ns: received.map(|r| r.1),
                id,
            })
            .collect())
    }
}

/// One table at one moment.
#[derive(Clone)]
pub struct TableView {
    schema: Arc<TableSchema>,
    memory: Arc<MemoryBudget>,
    shards: Arc<Vec<ShardTable>>,
    cache: Arc<BlockCache>,
}

/// One shard's part of a table, in log order: segments, then memtables.
struct ShardTable {
    segments: Vec<Arc<LiveSegment>>,
    /// Summaries of segments that are gone; older than every segment.
    kept: Vec<Arc<LiveSummary>>,
    memtables: Vec<(Arc<Memtable>, Mark)>,
    masks: Arc<Masks>,
    /// First time that the table still has.
    cut_off: i64,
}

impl ShardTable {
    fn new(view: &ShardView, table: &str) -> Self {
        let memtables = view.sealed.iter().chain([&view.active]);
        Self {
            segments: view.segments.get(table).cloned().unwrap_or_default(),
            kept: match view.masks.kept_steps(table) {
                [] => Vec::new(),
                steps => {
                    let of_table = view.kept.get(table).into_iter().flatten();
                    of_table.filter(|live| steps.contains(&live.meta.step)).cloned().collect()
                }
            },
            memtables: memtables
                .map(|m| (Arc::clone(m), m.mark(table)))
                .filter(|(_, mark)| *mark != Mark::default())
                .collect(),
            masks: Arc::clone(&view.masks),
            cut_off: view.masks.cut_off(table),
        }
    }

    /// Whether some summary may matter to a question that can use `steps`.
    fn has_steps(&self, steps: &[Step]) -> bool {
        let gone = self.cut_off > i64::MIN;
        !self.kept.is_empty()
            || (gone || !steps.is_empty()) && self.segments.iter().any(|live| !live.summaries.is_empty())
    }
}

/// Rows copied out of memtables, in log order, and the memory that is held for them.
type RowsInMemory = (Vec<Arc<Rows>>, Option<Arc<Held>>);

impl TableView {
    /// The table's name and fields.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// Ids of the devices that have rows in this table, sorted.
    ///
    /// # Errors
    /// A damaged segment index.
    pub fn devices(&self) -> Result<Vec<Arc<str>>> {
        let mut ids = Vec::new();
        self.visit_devices(&mut |id, _| ids.push(id))?;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Each device of each source, with its receive times; a device may come several times.
    pub(crate) fn visit_devices(&self, visit: &mut impl FnMut(Arc<str>, (i64, i64))) -> Result<()> {
        for shard in self.shards.iter() {
            for live in &shard.segments {
                for entry in live.segment.devices() {
                    let entry = entry?;
                    let blocks = entry.blocks()?;
                    if shard.masks.leaves_rows(&live.meta, entry.id(), &blocks)? {
                        visit(Arc::from(entry.id()), blocks.received());
                    }
                }
            }
            for live in &shard.kept {
                live.summary.visit(&mut |id, entry| match entry {
                    Ok(entry) => {
                        let (first, last) = entry.time_range();
                        if shard.masks.mask_kept(&live.meta, id).left_of(first, last).next().is_some() {
                            visit(Arc::from(id), entry.received());
                        }
                        true
                    }
                    // Found by whoever asks for this device, who can be told.
                    Err(_) => true,
                })?;
            }
            for (memtable, mark) in &shard.memtables {
                for device in memtable.devices(&self.schema.name, *mark, shard.cut_off) {
                    visit(device.id, device.received_ns);
                }
            }
        }
        Ok(())
    }

    /// One device's rows of `[start_ns, end_ns)` as parts that are disjoint and in time order; the newest write of each
    /// field wins. `fields` are indexes into the schema; `end_ns == i64::MAX` has no end.
    ///
    /// # Errors
    /// A damaged segment index, or more rows in memtables than the memory for queries holds.
    pub fn scan(&self, device: &str, start_ns: i64, end_ns: i64, fields: &[usize]) -> Result<Vec<Part>> {
        let defs: Arc<[FieldDef]> = fields.iter().map(|&field| self.schema.fields[field].clone()).collect();
        let shard = self.shard_of(device);
        let start_ns = start_ns.max(shard.cut_off);
        let mut sources = Vec::new();
        for live in &shard.segments {
            if live.meta.time_max >= start_ns
                && (live.meta.time_min < end_ns || end_ns == i64::MAX)
                && let Some(blocks) = live.segment.find(device)?
            {
                sources.push(shard.masks.source(&live.meta, device, blocks.cached(&self.cache)));
            }
        }
        let (rows, held) = self.rows_in_memory(shard, device, fields, (start_ns, end_ns))?;
        sources.extend(rows.into_iter().map(Source::Rows));
        let mut parts = plan(sources, &defs, start_ns, end_ns);
        if let Some(held) = held {
            parts.iter_mut().for_each(|part| part.hold(&held));
        }
        Ok(parts)
    }

    /// The device's rows in memtables.
    fn rows_in_memory(
        &self,
        shard: &ShardTable,
        device: &str,
        fields: &[usize],
        range: (i64, i64),
    ) -> Result<RowsInMemory> {
        let mut copied = 0;
        let mut all = Vec::new();
        for (memtable, mark) in &shard.memtables {
            let rows = memtable.rows_of(&self.schema, device, fields, *mark, range);
            if !rows.times.is_empty() {
                copied += rows_bytes(&rows);
                all.push(Arc::new(sort_unique(rows)));
            }
        }
        // Few rows are not worth the counting: a question about the last minutes must not be slowed by it.
        let held = match copied {
            0..COUNTED_BYTES_MIN => None,
            _ => Some(Arc::new(self.memory.hold(Class::Query, copied)?)),
        };
        Ok((all, held))
    }

    /// The rows of [`Self::scan`] as stretches that are disjoint and in time order: aggregates of whole steps where they
    /// are stored and may stand for the rows, and rows everywhere else.
    ///
    /// `steps` are the lengths that the caller can use, longest first. `usable` says whether the aggregates of the step
    /// that begins at a time serve it, and is asked only for steps that lie wholly inside the range. Of text only the
    /// counts are stored: a caller that needs more offers no steps.
    ///
    /// # Errors
    /// A damaged segment index; rows that retention has removed while steps of them are kept, where `usable` does not
    /// accept those.
    pub fn scan_steps(
        &self,
        device: &str,
        start_ns: i64,
        end_ns: i64,
        fields: &[usize],
        steps: &[Step],
        usable: &dyn Fn(Step, i64) -> bool,
    ) -> Result<Vec<Stretch>> {
        debug_assert!(steps.is_sorted_by(|a, b| a > b), "longest first");
        let shard = self.shard_of(device);
        if !shard.has_steps(steps) {
            return Ok(self.scan(device, start_ns, end_ns, fields)?.into_iter().map(Stretch::Rows).collect());
        }
        let (last_ns, unbounded) =
            if end_ns == i64::MAX { (i64::MAX, true) } else { (end_ns.saturating_sub(1), false) };
        if end_ns == i64::MIN || start_ns > last_ns {
            return Ok(Vec::new());
        }
        let defs: Arc<[FieldDef]> = fields.iter().map(|&field| self.schema.fields[field].clone()).collect();
        let kept = shard.masks.kept_steps(&self.schema.name);
        let mut sources = Vec::new();
        for same_segment in shard.kept.chunk_by(|a, b| a.meta.segment == b.meta.segment) {
            let here =
                same_segment.iter().filter(|live| live.meta.time_max >= start_ns && live.meta.time_min <= last_ns);
            let entries = here.filter_map(|live| live.summary.find(device).transpose()).collect::<Result<Vec<_>>>()?;
            if let Some(entry) = entries.first() {
                let live = same_segment.iter().find(|live| live.meta.id == entry.summary().id());
                let mask = live.map(|live| shard.masks.mask_kept(&live.meta, device)).unwrap_or_default();
                sources.push(StepSource::Steps { entries, segment: None, mask });
            }
        }
        for live in &shard.segments {
            if live.meta.time_max < start_ns || (live.meta.time_min >= end_ns && !unbounded) {
                continue;
            }
            let wanted = live.summaries.iter().filter(|summary| {
                let gone = live.meta.time_min < shard.cut_off && kept.contains(&summary.meta.step);
                gone || steps.contains(&summary.meta.step)
            });
            // Rows answer where a summary is damaged; `verify` tells which.
            let entries: Vec<_> = wanted.filter_map(|summary| summary.summary.find(device).ok().flatten()).collect();
            if !entries.is_empty() {
                let mask = shard.masks.mask(&live.meta, device);
                sources.push(StepSource::Steps { entries, segment: Some(Arc::clone(&live.segment)), mask });
            } else if live.meta.time_max >= shard.cut_off
                && let Some(blocks) = live.segment.find(device)?
            {
                sources.push(StepSource::Rows(shard.masks.source(&live.meta, device, blocks.cached(&self.cache))));
            }
        }
        let range = (start_ns.max(shard.cut_off), end_ns);
        let (rows, held) = self.rows_in_memory(shard, device, fields, range)?;
        sources.extend(rows.into_iter().map(|rows| StepSource::Rows(Source::Rows(rows))));
        let question = StepQuestion {
            device,
            first: start_ns,
            last: last_ns,
            fields: &defs,
            steps,
            usable,
            cut_off: shard.cut_off,
            kept,
            cache: Some(&self.cache),
        };
        let mut stretches = plan_steps(&sources, &question)?;
        if let Some(held) = held {
            for stretch in &mut stretches {
                if let Stretch::Rows(part) = stretch {
                    part.hold(&held);
                }
            }
        }
        Ok(stretches)
    }

    fn shard_of(&self, device: &str) -> &ShardTable {
        &self.shards[shard_of(device, self.shards.len() as u32) as usize]
    }
}
