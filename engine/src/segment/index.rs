//! Owns the bytes of the device index: pages of ids, and a root of the pages' first ids; does no I/O.
//!
//! Fixed-width entries come first, so that a look-up is a binary search in the mapped bytes and nothing is parsed at open.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::bytes::{Cursor, Flaw, u32_at, u64_at};
use super::format::{CRC_LEN, DEVICES_PER_PAGE, put_crc};

pub(super) const PAGE_ENTRY_LEN: usize = 14;
pub(super) const ROOT_ENTRY_LEN: usize = 16;

/// Collects device ids into index pages, and first ids of pages into the root.
#[derive(Default)]
pub(crate) struct IndexBuilder {
    pages: Vec<u8>,
    /// Offset within `pages`, length, end of the first id in `first_ids`.
    root: Vec<(u64, u32, u32)>,
    first_ids: Vec<u8>,
    entries: Vec<(u16, u32, u64)>,
    ids: Vec<u8>,
}

impl IndexBuilder {
    /// Adds a device, in ascending order; its directory has `len` bytes at `offset`.
    pub(crate) fn push(&mut self, device: &str, offset: u64, len: u32) {
        if self.entries.len() == DEVICES_PER_PAGE {
            self.end_page();
        }
        self.ids.extend_from_slice(device.as_bytes());
        self.entries.push((self.ids.len() as u16, len, offset));
    }

    fn end_page(&mut self) {
        let start = self.pages.len();
        self.pages.extend_from_slice(&(self.entries.len() as u16).to_le_bytes());
        for (id_end, len, offset) in &self.entries {
            self.pages.extend_from_slice(&id_end.to_le_bytes());
            self.pages.extend_from_slice(&len.to_le_bytes());
            self.pages.extend_from_slice(&offset.to_le_bytes());
        }
        self.pages.extend_from_slice(&self.ids);
        put_crc(&mut self.pages, start);
        let first = self.entries.first().map_or(0, |e| usize::from(e.0));
        self.first_ids.extend_from_slice(&self.ids[..first]);
        self.root.push((start as u64, (self.pages.len() - start) as u32, self.first_ids.len() as u32));
        self.entries.clear();
        self.ids.clear();
    }

    /// Pages, root and count of pages, for an index that begins at `offset`.
    pub(crate) fn finish(mut self, offset: u64) -> (Vec<u8>, Vec<u8>, u32) {
        if !self.entries.is_empty() {
            self.end_page();
        }
        let mut root = Vec::with_capacity(self.root.len() * ROOT_ENTRY_LEN + self.first_ids.len() + CRC_LEN);
        for (start, len, id_end) in &self.root {
            root.extend_from_slice(&(offset + start).to_le_bytes());
            root.extend_from_slice(&len.to_le_bytes());
            root.extend_from_slice(&id_end.to_le_bytes());
        }
        root.extend_from_slice(&self.first_ids);
        put_crc(&mut root, 0);
        (self.pages, root, self.root.len() as u32)
    }
}

/// A bit for each index page whose checksum was found good: the file does not change while it is mapped.
pub(crate) struct CheckedPages(Box<[AtomicU64]>);

impl CheckedPages {
    /// None of `pages` yet.
    pub(crate) fn new(pages: u32) -> Self {
        Self((0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn contains(&self, page: usize) -> bool {
        self.0[page / 64].load(Relaxed) >> (page % 64) & 1 == 1
    }

    pub(crate) fn insert(&self, page: usize) {
        self.0[page / 64].fetch_or(1 << (page % 64), Relaxed);
    }
}

/// The root of the index: fixed-width entries, then the first ids of the pages. Checksum was checked.
#[derive(Clone, Copy)]
pub(crate) struct Root<'a> {
    bytes: &'a [u8],
    pages: usize,
}

impl<'a> Root<'a> {
    pub(crate) fn new(bytes: &'a [u8], pages: u32) -> Result<Self, Flaw> {
        let pages = pages as usize;
        match pages.checked_mul(ROOT_ENTRY_LEN) {
            Some(len) if len <= bytes.len() => Ok(Self { bytes, pages }),
            _ => Err(Flaw { at: 0, expected: "an entry per index page", found: format!("{} bytes", bytes.len()) }),
        }
    }

    /// Offset and length of page `page`.
    pub(crate) fn page(&self, page: usize) -> (u64, u32) {
        let at = page * ROOT_ENTRY_LEN;
        (u64_at(self.bytes, at), u32_at(self.bytes, at + 8))
    }

    /// First id of page `page`.
    pub(crate) fn first_id(&self, page: usize) -> Result<&'a [u8], Flaw> {
        let end = |page: usize| u32_at(self.bytes, page * ROOT_ENTRY_LEN + 12) as usize;
        let start = if page == 0 { 0 } else { end(page - 1) };
        let ids = &self.bytes[self.pages * ROOT_ENTRY_LEN..];
        ids.get(start..end(page)).ok_or_else(|| Flaw {
            at: page * ROOT_ENTRY_LEN + 12,
            expected: "an id within the root",
            found: format!("{start}..{}", end(page)),
        })
    }

    /// The only page that can hold `device`.
    pub(crate) fn page_of(&self, device: &[u8]) -> Result<Option<usize>, Flaw> {
        let (mut low, mut high) = (0, self.pages);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.first_id(middle)? <= device {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.checked_sub(1))
    }
}

/// One index page: fixed-width entries, then the ids. Checksum was checked.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Page<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let count = usize::from(Cursor::new(bytes).u16("a count of devices")?);
        if count == 0 || count > DEVICES_PER_PAGE || bytes.len() < 2 + count * PAGE_ENTRY_LEN {
            return Err(Flaw { at: 0, expected: "a count of devices", found: count.to_string() });
        }
        Ok(Self { bytes, count })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn id(&self, slot: usize) -> Result<&'a [u8], Flaw> {
        let end = |slot: usize| {
            let at = 2 + slot * PAGE_ENTRY_LEN;
            usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
        };
        let start = if slot == 0 { 0 } else { end(slot - 1) };
        self.bytes[2 + self.count * PAGE_ENTRY_LEN..].get(start..end(slot)).ok_or_else(|| Flaw {
            at: 2 + slot * PAGE_ENTRY_LEN,
            expected: "an id within the page",
            found: format!("{start}..{}", end(slot)),
        })
    }

    /// Offset and length of the directory of the device in `slot`.
    pub(crate) fn directory(&self, slot: usize) -> (u64, u32) {
        let at = 2 + slot * PAGE_ENTRY_LEN;
        (u64_at(self.bytes, at + 6), u32_at(self.bytes, at + 2))
    }

    pub(crate) fn find(&self, device: &[u8]) -> Result<Option<usize>, Flaw> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.id(middle)?.cmp(device) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(Some(middle)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }
}
