//! Owns opening what is left of a segment: an index that is built anew from the pages that can be read, in memory; for
//! repair only. Writes nothing.

use std::sync::Arc;

use super::bytes::{u32_at, u64_at};
use super::format::{
    CRC_LEN, DEVICES_PER_PAGE, HEADER_START_LEN, Header, MAGIC, NAME_MAX, TRAILER_LEN, Trailer, VERSION,
};
use super::index::{IndexBuilder, PAGE_ENTRY_LEN, Page, ROOT_ENTRY_LEN};
use super::reader::Segment;
use crate::error::{Error, Result};
use crate::storage::{Mapped, Storage};

/// Headers up to this length are searched for a single wrong byte.
const MENDED_LEN_MAX: usize = 4_096;

/// What could be opened of a segment.
pub struct Rescued {
    /// Its devices, as far as they were found.
    pub segment: Arc<Segment>,
    /// How many devices an undamaged index has, when the trailer still tells.
    pub devices: Option<u64>,
}

/// Opens the file `name` whatever is damaged in it, as long as its header can be made out and some part of its index.
///
/// # Errors
/// When too little is left, or the file cannot be read.
pub fn rescue(storage: &dyn Storage, name: &str) -> Result<Rescued> {
    let mapped = storage.map(name).map_err(Error::io("map", name))?;
    let lost = |offset: u64, what: &str| Error::corruption(name, offset, what, "other bytes");
    if mapped.len() < HEADER_START_LEN + TRAILER_LEN {
        return Err(lost(0, "a header and a trailer"));
    }
    let mut bytes = mapped.to_vec();
    drop(mapped);
    let tail = bytes.len() - TRAILER_LEN;
    let trailer = mended_trailer(&bytes[tail..], bytes.len() as u64);
    let header_len = mended_header(&mut bytes, trailer.as_ref()).ok_or_else(|| lost(0, "the header of a segment"))?;
    let (index_offset, mut entries) = match &trailer {
        Some(trailer) => (trailer.index_offset, pages_by_walking(&bytes, trailer)),
        None => {
            let root = find_root(&bytes, header_len, tail).ok_or_else(|| lost(tail as u64, "an index or a trailer"))?;
            (root.0, pages_by_root(&bytes, &root))
        }
    };
    entries.sort_unstable();
    entries.dedup_by(|a, b| a.0 == b.0);
    if entries.is_empty() || index_offset as usize > tail {
        return Err(lost(index_offset, "an index page"));
    }
    let mut index = IndexBuilder::default();
    for (id, offset, len) in &entries {
        index.push(id, *offset, *len);
    }
    bytes.truncate(index_offset as usize);
    let (pages, root, page_count) = index.finish(index_offset);
    bytes.extend_from_slice(&pages);
    let root_offset = bytes.len() as u64;
    bytes.extend_from_slice(&root);
    // Nothing is read by these counts; they only have to agree with each other.
    let devices = entries.len() as u64;
    let (time_min, time_max) = trailer.map_or((i64::MIN, i64::MAX), |t| (t.time_min, t.time_max));
    let new = Trailer {
        devices,
        blocks: devices,
        rows: devices,
        time_min,
        time_max,
        index_offset,
        root_offset,
        file_len: (bytes.len() + TRAILER_LEN) as u64,
        pages: page_count,
        header_len: header_len as u32,
    };
    bytes.extend_from_slice(&new.encode());
    let segment = Segment::parse(name, Mapped::new(bytes))?;
    Ok(Rescued { segment, devices: trailer.map(|trailer| trailer.devices) })
}

/// Makes `bytes`, of which the last four are the checksum of the rest, right again by changing one byte. Whether they
/// are right already is for the caller to see.
fn mend_one_byte(bytes: &mut [u8]) -> bool {
    let Some(body) = bytes.len().checked_sub(CRC_LEN) else { return false };
    for at in 0..bytes.len() {
        let was = bytes[at];
        for value in 0..=u8::MAX {
            bytes[at] = value;
            if crc32c::crc32c(&bytes[..body]) == u32_at(bytes, body) {
                return true;
            }
        }
        bytes[at] = was;
    }
    false
}

fn mended_trailer(tail: &[u8], file_len: u64) -> Option<Trailer> {
    let mut tail: [u8; TRAILER_LEN] = *tail.first_chunk()?;
    // The magic behind the checksum is the same in every file.
    tail[88..].copy_from_slice(&super::format::END_MAGIC);
    if let Ok(trailer) = Trailer::decode(&tail, file_len) {
        return Some(trailer);
    }
    mend_one_byte(&mut tail[..88]).then(|| Trailer::decode(&tail, file_len).ok()).flatten()
}

/// Makes the header at the start of `bytes` readable; its length.
fn mended_header(bytes: &mut [u8], trailer: Option<&Trailer>) -> Option<usize> {
    // What every header begins with is not worth a guess.
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let len = trailer.map(|t| t.header_len as usize).or_else(|| Header::len(bytes).ok())?;
    let header = bytes.get_mut(..len).filter(|header| header.len() >= HEADER_START_LEN + CRC_LEN)?;
    header[12..16].copy_from_slice(&(len as u32).to_le_bytes());
    let body = len - CRC_LEN;
    let right = crc32c::crc32c(&header[..body]) == u32_at(header, body);
    if !right && (len > MENDED_LEN_MAX || !mend_one_byte(header)) {
        return None;
    }
    Header::decode(&header[..body]).ok().map(|_| len)
}

/// Id of a device, place and length of its directory.
type Entry = (String, u64, u32);

/// The entries of the page at `offset`, and its length, when its checksum holds.
fn page_at(bytes: &[u8], offset: usize, end: usize, entries: &mut Vec<Entry>) -> Option<usize> {
    let count = usize::from(u16::from_le_bytes(*bytes.get(offset..end)?.first_chunk()?));
    if count == 0 || count > DEVICES_PER_PAGE {
        return None;
    }
    let fixed = 2 + count * PAGE_ENTRY_LEN;
    let last = bytes.get(offset + fixed - PAGE_ENTRY_LEN..end)?;
    let len = fixed + usize::from(u16::from_le_bytes(*last.first_chunk()?)) + CRC_LEN;
    let page = bytes.get(offset..offset + len).filter(|_| offset + len <= end)?;
    if crc32c::crc32c(&page[..len - CRC_LEN]) != u32_at(page, len - CRC_LEN) {
        return None;
    }
    let page = Page::new(&page[..len - CRC_LEN]).ok()?;
    for slot in 0..page.len() {
        let id = page.id(slot).ok().and_then(|id| std::str::from_utf8(id).ok());
        if let Some(id) = id.filter(|id| !id.is_empty() && id.len() <= NAME_MAX) {
            let (offset, len) = page.directory(slot);
            entries.push((id.to_owned(), offset, len));
        }
    }
    Some(len)
}

/// All pages that can be read, one behind the other; behind a damaged one the next is searched.
fn pages_by_walking(bytes: &[u8], trailer: &Trailer) -> Vec<Entry> {
    let mut entries = Vec::new();
    let (mut at, end) = (trailer.index_offset as usize, (trailer.root_offset as usize).min(bytes.len()));
    while at < end {
        at += page_at(bytes, at, end, &mut entries).unwrap_or(1);
    }
    entries
}

/// Where the first page is, and each page of a root.
type FoundRoot = (u64, Vec<(u64, u32)>);

/// Looks for the root in front of the trailer by what its entries say of each other: pages lie one behind the other, and
/// the last ends where the root begins.
fn find_root(bytes: &[u8], header_len: usize, tail: usize) -> Option<FoundRoot> {
    let first = |at: usize| -> Option<FoundRoot> {
        let entry = |page: usize| {
            let entry = bytes.get(at + page * ROOT_ENTRY_LEN..tail)?.get(..ROOT_ENTRY_LEN)?;
            Some((u64_at(entry, 0), u32_at(entry, 8), u32_at(entry, 12) as usize))
        };
        let (start, _, _) = entry(0)?;
        let (mut next, mut pages) = (start, Vec::new());
        if (start as usize) < header_len {
            return None;
        }
        loop {
            let (offset, len, id_end) = entry(pages.len())?;
            if offset != next || len as usize <= CRC_LEN || id_end == 0 {
                return None;
            }
            pages.push((offset, len));
            next = offset.checked_add(u64::from(len))?;
            if next > at as u64 {
                return None;
            }
            if next == at as u64 {
                let end = at + pages.len() * ROOT_ENTRY_LEN + id_end + CRC_LEN;
                let root = bytes.get(at..end).filter(|_| end == tail)?;
                let body = root.len() - CRC_LEN;
                return (crc32c::crc32c(&root[..body]) == u32_at(root, body)).then_some((start, pages));
            }
        }
    };
    (header_len..tail).rev().find_map(first)
}

fn pages_by_root(bytes: &[u8], root: &FoundRoot) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (offset, len) in &root.1 {
        page_at(bytes, *offset as usize, *offset as usize + *len as usize, &mut entries);
    }
    entries
}
