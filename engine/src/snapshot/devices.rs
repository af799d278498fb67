//! Owns the list of all devices of one moment, some at a time and in order; does not read rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Snapshot, TableView};
use crate::error::Result;
use crate::memtable::MemtableDevice;
use crate::registry::{Attributes, Packed};

/// Devices that a page takes from each source at the most.
const PAGE_DEVICES: usize = 1_024;

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

/// Every device with rows or attributes, sorted by id, in pages. Holds its moment, and of the devices only a list of
/// those that are in memory anyway.
pub struct DevicePages {
    snapshot: Snapshot,
    tables: Vec<TableView>,
    /// Of each memtable and table, sorted.
    in_memory: Vec<Vec<MemtableDevice>>,
    /// Devices with attributes, sorted.
    described: Vec<Packed>,
    /// The last device of the page before; `None` at the end.
    after: Option<String>,
}

/// What the sources said of the devices of a page.
#[derive(Default)]
struct Page {
    seen: BTreeMap<Arc<str>, Option<(i64, i64)>>,
    /// The smallest last device of those sources that have more: what lies behind it is not known wholly.
    complete_to: Option<Arc<str>>,
}

impl Page {
    fn note(&mut self, id: Arc<str>, received: Option<(i64, i64)>) {
        let entry = self.seen.entry(id).or_default();
        *entry = match (*entry, received) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }

    /// A source has given `count` devices up to `last`; when they fill a page it may have more.
    fn read(&mut self, count: usize, last: Option<Arc<str>>) {
        if count == PAGE_DEVICES
            && let Some(last) = last
            && self.complete_to.as_ref().is_none_or(|other| last < *other)
        {
            self.complete_to = Some(last);
        }
    }
}

impl DevicePages {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let tables: Vec<TableView> = snapshot.tables().iter().filter_map(|table| snapshot.table(&table.name)).collect();
        let mut in_memory = Vec::new();
        for view in &tables {
            let memtables = view.shards.iter().flat_map(|shard| shard.memtables.iter().map(|m| (m, shard.cut_off)));
            for ((memtable, mark), cut_off) in memtables {
                let mut devices = memtable.devices(&view.schema.name, *mark, cut_off);
                devices.sort_unstable_by(|a, b| a.id.cmp(&b.id));
                in_memory.push(devices);
            }
        }
        let described = snapshot.attributes.packed();
        Self { snapshot: snapshot.clone(), tables, in_memory, described, after: Some(String::new()) }
    }

    /// Devices of which only summaries are left.
    fn note_kept(&self, after: &str, page: &mut Page) -> Result<()> {
        for shard in self.tables.iter().flat_map(|view| view.shards.iter()) {
            for live in &shard.kept {
                let (mut count, mut last) = (0, None);
                live.summary.visit(&mut |id, entry| {
                    if id <= after {
                        return true;
                    }
                    // A damaged entry is found by whoever asks for its device, who can be told.
                    if let Ok(entry) = entry {
                        let (from, to) = entry.time_range();
                        if shard.masks.mask_kept(&live.meta, id).left_of(from, to).next().is_some() {
                            page.note(id.into(), Some(entry.received()));
                        }
                    }
                    count += 1;
                    last = Some(id.into());
                    count < PAGE_DEVICES
                })?;
                page.read(count, last);
            }
        }
        Ok(())
    }

    fn page(&self, after: &str) -> Result<Page> {
        let mut page = Page::default();
        for (view, shard) in self.tables.iter().flat_map(|view| view.shards.iter().map(move |shard| (view, shard))) {
            view.miss_set_aside(shard, i64::MIN, i64::MAX)?;
            for live in &shard.segments {
                let mut last: Option<Arc<str>> = None;
                let mut count = 0;
                let Some(entries) = view.or_without(live, None, live.segment.devices_after(after))? else { continue };
                for entry in entries.take(PAGE_DEVICES) {
                    // Counted as one that was read: a full page says that more may follow.
                    count += 1;
                    let Some(entry) = view.or_without(live, None, entry)? else { continue };
                    let id: Arc<str> = entry.id().into();
                    last = Some(Arc::clone(&id));
                    let Some(blocks) = view.or_without(live, Some(&id), entry.blocks())? else { continue };
                    let leaves_rows = shard.masks.leaves_rows(&live.meta, &id, &blocks);
                    // A block that cannot be read does not make its device unknown.
                    if view.or_without(live, Some(&id), leaves_rows)?.unwrap_or(true) {
                        page.note(Arc::clone(&id), Some(blocks.received()));
                    }
                }
                page.read(count, last);
            }
        }
        self.note_kept(after, &mut page)?;
        for devices in &self.in_memory {
            let rest = &devices[devices.partition_point(|device| *device.id <= *after)..];
            let part = &rest[..rest.len().min(PAGE_DEVICES)];
            part.iter().for_each(|device| page.note(Arc::clone(&device.id), Some(device.received_ns)));
            page.read(part.len(), part.last().map(|device| Arc::clone(&device.id)));
        }
        let rest = &self.described[self.described.partition_point(|packed| packed.id() <= after)..];
        let part = &rest[..rest.len().min(PAGE_DEVICES)];
        part.iter().for_each(|packed| page.note(packed.id().into(), None));
        page.read(part.len(), part.last().map(|packed| packed.id().into()));
        Ok(page)
    }
}

impl Iterator for DevicePages {
    type Item = Result<Vec<DeviceInfo>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // Stays taken after an error: a list never goes on behind damage.
            let after = self.after.take()?;
            let mut page = match self.page(&after) {
                Ok(page) => page,
                Err(error) => return Some(Err(error)),
            };
            if let Some(last) = page.complete_to {
                page.seen.retain(|id, _| *id <= last);
                self.after = Some(last.to_string());
            }
            if page.seen.is_empty() && self.after.is_some() {
                // All of them were erased.
                continue;
            }
            let none = Arc::new(Attributes::new());
            let devices = page.seen.into_iter().map(|(id, received)| DeviceInfo {
                attributes: self.snapshot.attributes(&id).unwrap_or_else(|| Arc::clone(&none)),
                first_seen_ns: received.map(|r| r.0),
                last_seen_ns: received.map(|r| r.1),
                id,
            });
            return Some(Ok(devices.collect()));
        }
    }
}
