//! Owns one moment of the whole engine for readers; does not merge rows itself.

mod devices;
mod newest;
mod pins;

use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};

use crate::catalog::{self, Tables};
use crate::damage::{DamagedPlace, SetAside, Skipped, cause_of};
use crate::erase::Masks;
use crate::error::Result;
use crate::memory::{Class, Held, MemoryBudget};
use crate::memtable::{Mark, Memtable};
use crate::quarantine;
use crate::registry::{Attributes, Registry};
use crate::scan::{BlockCache, Part, Source, Without, plan, sort_unique};
use crate::shard::{LiveSegment, ShardView};
use crate::summary::plan::{StepQuestion, StepSource, plan_steps};
use crate::summary::{LiveSummary, Step, Stretch};
use crate::types::{FieldDef, Rows, TableSchema};
use tidewell_codec::shard_of;

pub use newest::Newest;
pub use pins::Pins;

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
    pub(crate) tables: Arc<Tables>,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) attributes: Registry,
    /// Where readers note what they go without; `None` makes damage an error.
    pub(crate) skipped: Option<Arc<Skipped>>,
    pub(crate) cache: Arc<BlockCache>,
}

impl Snapshot {
    /// All tables, sorted by name; without those that keep rows in quarantine.
    pub fn tables(&self) -> Vec<Arc<TableSchema>> {
        catalog::sorted(&self.tables).into_iter().filter(|table| quarantine::table_of(&table.name).is_none()).collect()
    }

    /// The same moment for readers that go without what is damaged: it is noted in `skipped` instead of being an error.
    #[must_use]
    pub fn going_without(mut self, skipped: Arc<Skipped>) -> Self {
        self.skipped = Some(skipped);
        self
    }

    /// One table's rows at this moment.
    pub fn table(&self, name: &str) -> Option<TableView> {
        let schema = Arc::clone(self.tables.get(name)?);
        let shards = self.shards.iter().map(|view| ShardTable::new(view, &schema.name)).collect();
        let (memory, cache, skipped) = (Arc::clone(&self.memory), Arc::clone(&self.cache), self.skipped.clone());
        Some(TableView(Arc::new(TableMoment { schema, memory, shards, cache, skipped, asked: OnceLock::new() })))
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

/// One table at one moment. Cheap to clone: threads that share it count one thing, not each part of it.
#[derive(Clone)]
pub struct TableView(Arc<TableMoment>);

impl std::ops::Deref for TableView {
    type Target = TableMoment;

    fn deref(&self) -> &TableMoment {
        &self.0
    }
}

/// What the clones of a [`TableView`] share.
pub struct TableMoment {
    schema: Arc<TableSchema>,
    memory: Arc<MemoryBudget>,
    shards: Vec<ShardTable>,
    /// Where to note what is damaged; `None` makes it an error.
    skipped: Option<Arc<Skipped>>,
    cache: Arc<BlockCache>,
    /// The fields that were asked for first, and their definitions: a question asks for the same of each device, and
    /// threads that copy names at a time wait for each other's counters.
    asked: OnceLock<AskedFields>,
}

/// Indexes into a schema, and what is there.
type AskedFields = (Box<[usize]>, Arc<[FieldDef]>);

/// One shard's part of a table, in log order: segments, then memtables.
struct ShardTable {
    segments: Vec<Arc<LiveSegment>>,
    set_aside: Vec<SetAside>,
    /// Summaries of segments that are gone; older than every segment.
    kept: Vec<Arc<LiveSummary>>,
    memtables: Vec<(Arc<Memtable>, Mark)>,
    masks: Arc<Masks>,
    /// First time that the table still has.
    cut_off: i64,
    /// Places of `segments`, those that end last first; sorted when first needed.
    newest_first: OnceLock<Vec<usize>>,
}

impl ShardTable {
    fn new(view: &ShardView, table: &str) -> Self {
        let memtables = view.sealed.iter().chain([&view.active]);
        Self {
            segments: view.segments.get(table).cloned().unwrap_or_default(),
            set_aside: view.set_aside.iter().filter(|aside| &*aside.meta.table == table).cloned().collect(),
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
            newest_first: OnceLock::new(),
        }
    }

    fn newest_first(&self) -> &[usize] {
        self.newest_first.get_or_init(|| {
            let mut order: Vec<usize> = (0..self.segments.len()).collect();
            order.sort_by_key(|&at| Reverse(self.segments[at].meta.time_max));
            order
        })
    }

    /// Each device of which only summaries are left, with its receive times; a device may come several times.
    fn visit_kept(&self, visit: &mut impl FnMut(Arc<str>, (i64, i64))) -> Result<()> {
        for live in &self.kept {
            live.summary.visit(&mut |id, entry| match entry {
                Ok(entry) => {
                    let (first, last) = entry.time_range();
                    if self.masks.mask_kept(&live.meta, id).left_of(first, last).next().is_some() {
                        visit(Arc::from(id), entry.received());
                    }
                    true
                }
                // Found by whoever asks for this device, who can be told.
                Err(_) => true,
            })?;
        }
        Ok(())
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
        let mut others = Vec::new();
        for shard in self.shards.iter() {
            self.miss_set_aside(shard, i64::MIN, i64::MAX)?;
            self.without_kept(shard.visit_kept(&mut |id, _| others.push(id)))?;
            for (memtable, mark) in &shard.memtables {
                let devices = memtable.devices(&self.schema.name, *mark, shard.cut_off);
                others.extend(devices.into_iter().map(|device| device.id));
            }
        }
        // Ids in segments are compared where they lie; only those that are told are copied.
        let mut ids: Vec<&str> = Vec::with_capacity(others.len());
        for shard in self.shards.iter() {
            for live in &shard.segments {
                for entry in live.segment.devices() {
                    let Some(entry) = self.or_without(live, None, entry)? else { continue };
                    // Directories need not be read where nothing is deleted.
                    let leaves_rows = || {
                        let blocks = entry.blocks()?;
                        shard.masks.leaves_rows(&live.meta, entry.id(), &blocks)
                    };
                    // A device whose blocks cannot be read is not unknown.
                    if !shard.masks.may_hide(&live.meta, entry.id())
                        || self.or_without(live, Some(entry.id()), leaves_rows())?.unwrap_or(true)
                    {
                        ids.push(entry.id());
                    }
                }
            }
        }
        ids.extend(others.iter().map(|id| &**id));
        // Stable, because it makes use of ids that are in order already.
        ids.sort();
        ids.dedup();
        Ok(ids.into_iter().map(Arc::from).collect())
    }

    /// Each device of each source, with its receive times; a device may come several times.
    pub(crate) fn visit_devices(&self, visit: &mut impl FnMut(Arc<str>, (i64, i64))) -> Result<()> {
        for shard in self.shards.iter() {
            self.miss_set_aside(shard, i64::MIN, i64::MAX)?;
            for live in &shard.segments {
                for entry in live.segment.devices() {
                    let Some(entry) = self.or_without(live, None, entry)? else { continue };
                    let Some(blocks) = self.or_without(live, Some(entry.id()), entry.blocks())? else { continue };
                    let leaves_rows = shard.masks.leaves_rows(&live.meta, entry.id(), &blocks);
                    // A block that cannot be read does not make its device unknown.
                    if self.or_without(live, Some(entry.id()), leaves_rows)?.unwrap_or(true) {
                        visit(Arc::from(entry.id()), blocks.received());
                    }
                }
            }
            self.without_kept(shard.visit_kept(visit))?;
            for (memtable, mark) in &shard.memtables {
                for device in memtable.devices(&self.schema.name, *mark, shard.cut_off) {
                    visit(device.id, device.received_ns);
                }
            }
        }
        Ok(())
    }

    /// What was read of a segment; `None` when it is damaged and this reader goes without.
    fn or_without<T>(&self, live: &LiveSegment, device: Option<&str>, read: Result<T>) -> Result<Option<T>> {
        let error = match read {
            Ok(read) => return Ok(Some(read)),
            Err(error) => error,
        };
        let (Some(skipped), Some((path, offset, cause))) = (&self.skipped, cause_of(&error)) else { return Err(error) };
        skipped.note(DamagedPlace {
            path: path.to_owned(),
            offset,
            table: Arc::clone(&live.meta.table),
            device: device.map(Arc::from),
            first_ns: live.meta.time_min,
            last_ns: live.meta.time_max,
            rows: 0,
            cause,
        });
        Ok(None)
    }

    /// Forgives damage in a summary whose segment is gone, for readers that go without.
    fn without_kept(&self, visited: Result<()>) -> Result<()> {
        let Err(error) = visited else { return Ok(()) };
        let (Some(skipped), Some((path, offset, cause))) = (&self.skipped, cause_of(&error)) else { return Err(error) };
        let (table, path) = (Arc::clone(&self.schema.name), path.to_owned());
        let (first_ns, last_ns) = (i64::MIN, i64::MAX);
        skipped.note(DamagedPlace { path, offset, table, device: None, first_ns, last_ns, rows: 0, cause });
        Ok(())
    }

    /// Notes the segments of the shard that could not be opened and may have rows in the range.
    fn miss_set_aside(&self, shard: &ShardTable, start_ns: i64, end_ns: i64) -> Result<()> {
        for SetAside { meta, place } in &shard.set_aside {
            if meta.time_max >= start_ns && (meta.time_min < end_ns || end_ns == i64::MAX) {
                match &self.skipped {
                    Some(skipped) => skipped.note(place.clone()),
                    None => return Err(place.error()),
                }
            }
        }
        Ok(())
    }

    fn defs(&self, fields: &[usize]) -> Arc<[FieldDef]> {
        let defs = || fields.iter().map(|&field| self.schema.fields[field].clone()).collect();
        let (asked, known) = self.asked.get_or_init(|| (fields.into(), defs()));
        if **asked == *fields { Arc::clone(known) } else { defs() }
    }

    /// One device's rows of `[start_ns, end_ns)` as parts that are disjoint and in time order; the newest write of each
    /// field wins. `fields` are indexes into the schema; `end_ns == i64::MAX` has no end.
    ///
    /// # Errors
    /// A damaged segment index, or more rows in memtables than the memory for queries holds.
    pub fn scan(&self, device: &str, start_ns: i64, end_ns: i64, fields: &[usize]) -> Result<Vec<Part>> {
        let defs = self.defs(fields);
        let shard = self.shard_of(device);
        let start_ns = start_ns.max(shard.cut_off);
        self.miss_set_aside(shard, start_ns, end_ns)?;
        let mut sources = Vec::new();
        for live in &shard.segments {
            if live.meta.time_max >= start_ns
                && (live.meta.time_min < end_ns || end_ns == i64::MAX)
                && let Some(Some(blocks)) = self.or_without(live, Some(device), live.segment.find(device))?
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
        if let Some(without) = self.without(device) {
            parts.iter_mut().for_each(|part| part.go_without(&without));
        }
        Ok(parts)
    }

    /// What parts of a reader need that goes without what is damaged.
    fn without(&self, device: &str) -> Option<Arc<Without>> {
        let skipped = self.skipped.as_ref()?;
        Some(Arc::new(Without { device: Arc::from(device), skipped: Arc::clone(skipped) }))
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
        let error = match self.stretches(device, start_ns, end_ns, fields, steps, usable) {
            Ok(stretches) => return Ok(stretches),
            Err(error) => error,
        };
        // Where an index is damaged, a reader who goes without gets what the rows that are left tell.
        let (Some(skipped), Some((path, offset, cause))) = (&self.skipped, cause_of(&error)) else { return Err(error) };
        skipped.note(DamagedPlace {
            path: path.to_owned(),
            offset,
            table: Arc::clone(&self.schema.name),
            device: Some(Arc::from(device)),
            first_ns: start_ns,
            last_ns: if end_ns == i64::MAX { end_ns } else { end_ns.saturating_sub(1) },
            rows: 0,
            cause,
        });
        Ok(self.scan(device, start_ns, end_ns, fields)?.into_iter().map(Stretch::Rows).collect())
    }

    fn stretches(
        &self,
        device: &str,
        start_ns: i64,
        end_ns: i64,
        fields: &[usize],
        steps: &[Step],
        usable: &dyn Fn(Step, i64) -> bool,
    ) -> Result<Vec<Stretch>> {
        let shard = self.shard_of(device);
        if !shard.has_steps(steps) {
            return Ok(self.scan(device, start_ns, end_ns, fields)?.into_iter().map(Stretch::Rows).collect());
        }
        let (last_ns, unbounded) =
            if end_ns == i64::MAX { (i64::MAX, true) } else { (end_ns.saturating_sub(1), false) };
        if end_ns == i64::MIN || start_ns > last_ns {
            return Ok(Vec::new());
        }
        self.miss_set_aside(shard, start_ns, end_ns)?;
        let defs = self.defs(fields);
        let kept = shard.masks.kept_steps(&self.schema.name);
        let mut sources = Vec::new();
        for same_segment in shard.kept.chunk_by(|a, b| a.meta.segment == b.meta.segment) {
            let here =
                same_segment.iter().filter(|live| live.meta.time_max >= start_ns && live.meta.time_min <= last_ns);
            let found = here.filter_map(|live| live.summary.find_cached(device, &self.cache).transpose());
            let entries = found.collect::<Result<Vec<_>>>()?;
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
            let found = |summary: &Arc<LiveSummary>| summary.summary.find_cached(device, &self.cache).ok().flatten();
            let entries: Vec<_> = wanted.filter_map(found).collect();
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
        let without = self.without(device);
        for stretch in &mut stretches {
            if let Stretch::Rows(part) = stretch {
                held.iter().for_each(|held| part.hold(held));
                without.iter().for_each(|without| part.go_without(without));
            }
        }
        Ok(stretches)
    }

    fn shard_of(&self, device: &str) -> &ShardTable {
        &self.shards[shard_of(device, self.shards.len() as u32) as usize]
    }
}
