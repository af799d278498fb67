//! Owns reading a device's rows from the newest back; plans only as far as its caller reads.
//!
//! A scan plans every block of its range, which for "the newest row" is all there is: years of days. This reads as many
//! blocks as the newest rows take, and segments that end before them are not even asked for the device.

use std::sync::Arc;

use super::{COUNTED_BYTES_MIN, TableView, rows_bytes};
use crate::error::Result;
use crate::memory::{Class, Held};
use crate::scan::{Part, Source, plan, sort_unique};
use crate::segment::DeviceBlocks;
use crate::types::{FieldDef, Rows};
use tidewell_codec::shard_of;

/// Rows of a memtable that are looked at first.
const NEWEST_ROWS: usize = 4;
/// Most blocks of one source that are planned at once.
const BLOCKS_MAX: usize = 64;

/// Rows of one device as parts, the newest first. See [`TableView::scan_back`].
pub struct Newest {
    view: TableView,
    shard: usize,
    device: Arc<str>,
    fields: Arc<[usize]>,
    defs: Arc<[FieldDef]>,
    /// Times up to here are still to be read; `None` when all were.
    last: Option<i64>,
    /// Parts that were planned, in time order.
    parts: std::vec::IntoIter<Part>,
    /// The device's blocks in the segments that were asked, by place of the segment in log order.
    found: Vec<(usize, DeviceBlocks)>,
    /// How many segments were asked, those that end last first.
    asked: usize,
    memory: Memory,
    /// Counts rows that were copied from memtables.
    held: Option<Arc<Held>>,
    /// How many blocks to go back with the next plan.
    blocks: usize,
}

/// Rows in memtables, in log order.
enum Memory {
    Unread,
    /// The newest rows of each, and the time from which they are all.
    Tails(Vec<Arc<Rows>>, i64),
    All(Vec<Arc<Rows>>),
}

impl TableView {
    /// One device's rows of before `end_ns` as parts that are disjoint, the newest first, planned as they are read.
    /// `fields` are indexes into the schema; `end_ns == i64::MAX` has no end.
    pub fn scan_back(&self, device: &Arc<str>, end_ns: i64, fields: &Arc<[usize]>) -> Newest {
        Newest {
            view: self.clone(),
            shard: shard_of(device, self.shards.len() as u32) as usize,
            device: Arc::clone(device),
            fields: Arc::clone(fields),
            defs: self.defs(fields),
            last: if end_ns == i64::MAX { Some(end_ns) } else { end_ns.checked_sub(1) },
            parts: Vec::new().into_iter(),
            found: Vec::new(),
            asked: 0,
            memory: Memory::Unread,
            held: None,
            blocks: 1,
        }
    }
}

impl Newest {
    /// The next older part.
    ///
    /// # Errors
    /// A damaged segment index.
    pub fn next_part(&mut self) -> Result<Option<Part>> {
        loop {
            if let Some(part) = self.parts.next_back() {
                return Ok(Some(part));
            }
            let Some(last) = self.last else { return Ok(None) };
            let view = &self.view;
            view.miss_set_aside(&view.shards[self.shard], i64::MIN, last.saturating_add(1))?;
            self.plan_before(last)?;
        }
    }

    /// Plans the newest rows up to `last`.
    fn plan_before(&mut self, last: i64) -> Result<()> {
        let cut_off = self.view.shards[self.shard].cut_off;
        let memory_from = self.read_memory(last)?;
        let Some(newest) = self.newest_before(last, memory_from)? else {
            self.last = None;
            return Ok(());
        };
        // What a memtable's tail does not tell is left for later.
        let first = newest.max(memory_from).max(cut_off);
        if first <= last {
            let shard = &self.view.shards[self.shard];
            let (Memory::Tails(rows, _) | Memory::All(rows)) = &self.memory else { unreachable!("it was read") };
            let mut sources = Vec::with_capacity(self.found.len() + rows.len());
            for (at, blocks) in &self.found {
                let (min, max) = blocks.time_range();
                if max >= first && min <= last {
                    sources.push(shard.masks.source(&shard.segments[*at].meta, &self.device, blocks.clone()));
                }
            }
            sources.extend(rows.iter().cloned().map(Source::Rows));
            let end = last.saturating_add(1);
            let mut parts = plan(sources, &self.defs, first, end);
            let without = self.view.without(&self.device);
            for part in &mut parts {
                self.held.iter().for_each(|held| part.hold(held));
                without.iter().for_each(|without| part.go_without(without));
            }
            self.parts = parts.into_iter();
        }
        self.last = first.checked_sub(1).filter(|last| *last >= cut_off);
        self.blocks = (self.blocks * 2).min(BLOCKS_MAX);
        Ok(())
    }

    /// Reads memtables, first their newest rows and then all; returns from which time on what was read is complete.
    fn read_memory(&mut self, last: i64) -> Result<i64> {
        let shard = &self.view.shards[self.shard];
        let end = last.saturating_add(1);
        let (read, from) = match &self.memory {
            Memory::All(_) => return Ok(i64::MIN),
            Memory::Tails(_, from) if last >= *from => return Ok(*from),
            Memory::Unread => {
                let mut from = i64::MIN;
                let mut tails = Vec::new();
                for (memtable, mark) in &shard.memtables {
                    let (tail, complete_from) =
                        memtable.newest_of(&self.view.schema, &self.device, &self.fields, *mark, end, NEWEST_ROWS);
                    from = from.max(complete_from);
                    tails.extend((!tail.times.is_empty()).then(|| Arc::new(sort_unique(tail))));
                }
                (tails, from)
            }
            Memory::Tails(..) => {
                let view = &self.view;
                let (all, held) = view.rows_in_memory(shard, &self.device, &self.fields, (i64::MIN, end))?;
                (self.memory, self.held) = (Memory::All(all), held);
                return Ok(i64::MIN);
            }
        };
        let copied = read.iter().map(|rows| rows_bytes(rows)).sum::<u64>();
        if copied >= COUNTED_BYTES_MIN {
            self.held = Some(Arc::new(self.view.memory.hold(Class::Query, copied)?));
        }
        self.memory = if from == i64::MIN { Memory::All(read) } else { Memory::Tails(read, from) };
        Ok(from)
    }

    /// Where the block begins (or the one some blocks before it) that has the newest time up to `last`; asks the segments
    /// that reach so far. `None` when there is nothing up to `last`.
    fn newest_before(&mut self, last: i64, memory_from: i64) -> Result<Option<i64>> {
        let shard = &self.view.shards[self.shard];
        // Newest time, and from where to plan.
        let mut best: Option<(i64, i64)> = None;
        let mut offer = |newest: i64, from: i64| {
            if best.is_none_or(|(time, _)| newest > time) {
                best = Some((newest, from));
            }
            best
        };
        let (Memory::Tails(rows, _) | Memory::All(rows)) = &self.memory else { unreachable!("it was read") };
        let mut bound = None;
        for rows in rows {
            let end = rows.times.partition_point(|time| *time <= last);
            if end > 0 {
                bound = offer(rows.times[end - 1], rows.times[end.saturating_sub(NEWEST_ROWS * self.blocks)]);
            }
        }
        let blocks_back = self.blocks;
        let mut look = |blocks: &DeviceBlocks| {
            let end = blocks.overlapping(i64::MIN, last).end;
            if end == 0 {
                return None;
            }
            let newest = blocks.meta(end - 1).time_max.min(last);
            Some(offer(newest, blocks.meta(end.saturating_sub(blocks_back)).time_min))
        };
        for (_, blocks) in &self.found {
            bound = look(blocks).unwrap_or(bound);
        }
        let order = shard.newest_first();
        while let Some(&at) = order.get(self.asked) {
            let live = &shard.segments[at];
            // Whatever else ends before the rows to plan has no part in them.
            if bound.is_some_and(|(_, from)| live.meta.time_max < from.max(memory_from)) {
                break;
            }
            self.asked += 1;
            if live.meta.time_min <= last
                && let Some(Some(blocks)) =
                    self.view.or_without(live, Some(&self.device), live.segment.find(&self.device))?
            {
                let blocks = blocks.cached(&self.view.cache);
                bound = look(&blocks).unwrap_or(bound);
                self.found.push((at, blocks));
                self.found.sort_by_key(|(at, _)| *at);
            }
        }
        Ok(bound.map(|(_, from)| from))
    }
}
