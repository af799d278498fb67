//! Owns the full check of a segment: every checksum and every invariant; does not repair.

use std::sync::Arc;

use tidewell_codec::Column;

use super::format::DEVICES_PER_PAGE;
use super::reader::{DeviceBlocks, Segment};
use super::stats::field_stats;
use super::zone::same_stats;
use crate::error::Error;

/// One thing that is wrong with a segment.
#[derive(Debug)]
pub struct Damage {
    /// The device that it hits; `None` when it hits the index.
    pub device: Option<String>,
    /// What, where, expected and found.
    pub error: Error,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.device {
            Some(device) => write!(f, "device {device}: {}", self.error),
            None => self.error.fmt(f),
        }
    }
}

/// Reads all of `segment` and lists what is wrong: checksums, order of ids and times, zone maps that do not equal the
/// data, bytes that belong to nothing, counts of the trailer. Header, trailer and root were checked at open.
pub fn verify(segment: &Arc<Segment>) -> Vec<Damage> {
    let mut check = Check { segment, damage: Vec::new(), totals: Totals::default() };
    check.run();
    check.damage
}

struct Totals {
    devices: u64,
    blocks: u64,
    rows: u64,
    time_min: i64,
    time_max: i64,
    /// Where the next device's region must begin; `None` after damage, as then it is not known.
    next_offset: Option<u64>,
}

impl Default for Totals {
    fn default() -> Self {
        Self { devices: 0, blocks: 0, rows: 0, time_min: i64::MAX, time_max: i64::MIN, next_offset: None }
    }
}

struct Check<'a> {
    segment: &'a Arc<Segment>,
    damage: Vec<Damage>,
    totals: Totals,
}

impl Check<'_> {
    fn run(&mut self) {
        let segment = self.segment;
        let trailer = segment.trailer;
        self.totals.next_offset = Some(u64::from(trailer.header_len));
        let mut page_offset = trailer.index_offset;
        let mut before: Option<&str> = None;
        for at in 0..trailer.pages as usize {
            let root = match segment.root() {
                Ok(root) => root,
                Err(error) => return self.report(None, error),
            };
            let (offset, len) = root.page(at);
            if offset != page_offset {
                self.wrong(None, offset, format!("page {at} at {page_offset}"), format!("{offset}"));
            }
            page_offset = offset.saturating_add(u64::from(len));
            let page = match segment.page(at) {
                Ok((page, _)) => page,
                Err(error) => {
                    self.report(None, error);
                    self.totals.next_offset = None;
                    continue;
                }
            };
            let full = at + 1 == trailer.pages as usize || page.len() == DEVICES_PER_PAGE;
            if !full || page.id(0).ok() != root.first_id(at).ok() {
                self.wrong(None, offset, "a full page that begins as the root says", format!("{} devices", page.len()));
            }
            for slot in 0..page.len() {
                let id = page.id(slot).map_err(segment.flawed(offset)).map(std::str::from_utf8);
                let id = match id {
                    Ok(Ok(id)) => id,
                    Ok(Err(error)) => {
                        self.wrong(None, offset, "a device id in UTF-8", error.to_string());
                        continue;
                    }
                    Err(error) => {
                        self.report(None, error);
                        continue;
                    }
                };
                if before.is_some_and(|before| before >= id) || id.is_empty() {
                    self.wrong(Some(id), offset, "device ids that ascend", format!("{id:?} after {before:?}"));
                }
                before = Some(id);
                self.device(id, page.directory(slot));
            }
        }
        if page_offset != trailer.root_offset {
            self.wrong(None, trailer.root_offset, "pages that end at the root", format!("{page_offset}"));
        }
        self.check_totals();
    }

    fn device(&mut self, id: &str, directory: (u64, u32)) {
        self.totals.devices += 1;
        let blocks = match self.segment.find(id) {
            Ok(Some(blocks)) => blocks,
            Ok(None) => {
                self.totals.next_offset = None;
                return self.wrong(Some(id), directory.0, "a device that its id finds", "none");
            }
            Err(error) => {
                self.totals.next_offset = None;
                return self.report(Some(id), error);
            }
        };
        let (first_offset, after) =
            (blocks.entries()[0].data_offset, directory.0.saturating_add(u64::from(directory.1)));
        if self.totals.next_offset.is_some_and(|next| next != first_offset) {
            let expected = format!("the region at {}", self.totals.next_offset.unwrap_or_default());
            self.wrong(Some(id), first_offset, expected, format!("{first_offset}"));
        }
        self.totals.next_offset = Some(after);
        self.totals.blocks += blocks.len() as u64;
        self.totals.rows += blocks.rows();
        let (time_min, time_max) = blocks.time_range();
        self.totals.time_min = self.totals.time_min.min(time_min);
        self.totals.time_max = self.totals.time_max.max(time_max);
        for at in 0..blocks.len() {
            self.block(id, &blocks, at);
        }
    }

    fn block(&mut self, id: &str, blocks: &DeviceBlocks, at: usize) {
        let entry = blocks.entries()[at];
        let block = match blocks.block(at) {
            Ok(block) => block,
            Err(error) => return self.report(Some(id), error),
        };
        if entry.rows as usize > self.segment.block_rows() {
            let expected = format!("at most {} rows", self.segment.block_rows());
            self.wrong(Some(id), entry.data_offset, expected, format!("{}", entry.rows));
        }
        if let Err(error) = block.load_times(&mut Vec::new()) {
            self.report(Some(id), error);
        }
        for (field, def) in self.segment.schema().fields.iter().enumerate() {
            let mut column = Column::new(def.field_type);
            if let Err(error) = block.load_field(field, &mut column) {
                self.report(Some(id), error);
                continue;
            }
            let (kept, real) = (block.stats(field), field_stats(&column, 0..column.len()));
            if !same_stats(&kept, &real) {
                let expected = format!("zone map of {} equal to its values, {real:?}", def.name);
                self.wrong(Some(id), entry.meta_offset, expected, format!("{kept:?}"));
            }
        }
    }

    fn check_totals(&mut self) {
        let (trailer, totals) = (self.segment.trailer, &self.totals);
        let counted = (totals.devices, totals.blocks, totals.rows, totals.time_min, totals.time_max);
        let kept = (trailer.devices, trailer.blocks, trailer.rows, trailer.time_min, trailer.time_max);
        let end_found = totals.next_offset;
        // After other damage the totals must differ, which says nothing new.
        if self.damage.is_empty() && counted != kept {
            self.wrong(None, trailer.root_offset, format!("totals {counted:?}"), format!("{kept:?}"));
        }
        if end_found.is_some_and(|end| end != trailer.index_offset) {
            self.wrong(None, trailer.index_offset, "devices that end at the index", format!("{end_found:?}"));
        }
    }

    fn wrong(&mut self, device: Option<&str>, offset: u64, expected: impl Into<String>, found: impl Into<String>) {
        self.report(device, Error::corruption(self.segment.name(), offset, expected, found));
    }

    fn report(&mut self, device: Option<&str>, error: Error) {
        self.damage.push(Damage { device: device.map(str::to_owned), error });
    }
}
