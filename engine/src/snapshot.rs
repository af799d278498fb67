//! Owns one moment of the whole engine for readers; does not merge rows itself.

mod devices;

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::erase::Masks;
use crate::error::Result;
use crate::memory::{Class, MemoryBudget};
use crate::memtable::{Mark, Memtable};
use crate::quarantine;
use crate::registry::{Attributes, Registry};
use crate::scan::{BlockCache, Part, Source, plan, sort_unique};
use crate::shard::{LiveSegment, ShardView};
use crate::summary::{Step, Stretch};
use crate::types::{FieldDef, Rows, TableSchema};
use tidewell_codec::shard_of;

/// Rows that a scan copies out of memtables are counted from this size on.
const COUNTED_BYTES_MIN: u64 = 256 << 10;

fn rows_bytes(rows: &Rows) -> u64 {
    (rows.times.len() * 8 + rows.columns.iter().map(|column| column.memory_bytes()).sum::<usize>()) as u64
}

pub use devices::{DeviceInfo, DevicePages};

/// Segments and memtables of one moment. Cheap to clone; files go when the last holder leaves.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) shards: Arc<Vec<Arc<ShardView>>>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) attributes: Registry,
    pub(crate) cache: Arc<BlockCache>,
}

impl Snapshot {
    /// All tables, sorted by name; without those that keep rows in quarantine.
    pub fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.catalog.tables().into_iter().filter(|table| quarantine::table_of(&table.name).is_none()).collect()
    }

    /// One table's rows at this moment.
    pub fn table(&self, name: &str) -> Option<TableView> {
        let schema = self.catalog.table(name)?;
        let shards = self.shards.iter().map(|view| ShardTable::new(view, &schema.name)).collect();
        let (memory, cache) = (Arc::clone(&self.memory), Arc::clone(&self.cache));
        Some(TableView { schema, memory, shards: Arc::new(shards), cache })
    }

    /// Attributes of `device`, if it has any.
    pub fn attributes(&self, device: &str) -> Option<Arc<Attributes>> {
        self.attributes.get(device).map(Arc::new)
    }

    /// Every device with rows or attributes, sorted by id.
    ///
    /// # Errors
    /// A damaged segment index.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let mut all = Vec::new();
        for page in self.device_pages() {
            all.extend(page?);
        }
        Ok(all)
    }

    /// The same, some at a time: a node may know millions.
    pub fn device_pages(&self) -> DevicePages {
        DevicePages::new(self)
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
            memtables: memtables
                .map(|m| (Arc::clone(m), m.mark(table)))
                .filter(|(_, mark)| *mark != Mark::default())
                .collect(),
            masks: Arc::clone(&view.masks),
            cut_off: view.masks.cut_off(table),
        }
    }
}

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
            for (memtable, mark) in &shard.memtables {
                for device in memtable.devices(&self.schema.name, *mark) {
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
        let shard = &self.shards[shard_of(device, self.shards.len() as u32) as usize];
        let start_ns = start_ns.max(shard.cut_off);
        let mut sources = Vec::new();
        let mut copied = 0;
        for live in &shard.segments {
            if live.meta.time_max >= start_ns
                && (live.meta.time_min < end_ns || end_ns == i64::MAX)
                && let Some(blocks) = live.segment.find(device)?
            {
                sources.push(shard.masks.source(&live.meta, device, blocks.cached(&self.cache)));
            }
        }
        for (memtable, mark) in &shard.memtables {
            let rows = memtable.rows_of(&self.schema, device, fields, *mark, (start_ns, end_ns));
            if !rows.times.is_empty() {
                copied += rows_bytes(&rows);
                sources.push(Source::Rows(Arc::new(sort_unique(rows))));
            }
        }
        // Few rows are not worth the counting: a question about the last minutes must not be slowed by it.
        let held = match copied {
            0..COUNTED_BYTES_MIN => None,
            _ => Some(Arc::new(self.memory.hold(Class::Query, copied)?)),
        };
        let mut parts = plan(sources, &defs, start_ns, end_ns);
        if let Some(held) = held {
            parts.iter_mut().for_each(|part| part.hold(&held));
        }
        Ok(parts)
    }

    /// The rows of [`Self::scan`] as stretches that are disjoint and in time order: aggregates of whole steps where they
    /// are stored and may stand for the rows, and rows everywhere else.
    ///
    /// `steps` are the lengths that the caller can use, longest first. `usable` says whether the aggregates of the step
    /// that begins at a time serve it; it must be false for one that is not wholly inside the range, and is asked for
    /// stored steps only. Of text only the counts are stored: a caller that needs more offers no steps.
    ///
    /// # Errors
    /// A damaged segment index.
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
        let _ = usable;
        Ok(self.scan(device, start_ns, end_ns, fields)?.into_iter().map(Stretch::Rows).collect())
    }
}
