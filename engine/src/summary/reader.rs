//! Owns reading a summary: every look-up checks bounds and checksums of what it touches; keeps nothing per device.

use std::sync::{Arc, OnceLock};

use super::aggregate::DeviceSteps;
use super::entry::{Entry, EntryHead};
use super::format::{Header, MAGIC, TRAILER_LEN, Trailer, VERSION};
use super::summary_id;
use super::types::{Step, StepField, StepRows};
use crate::error::{Error, Result};
use crate::scan::BlockCache;
use crate::scan::cache::{CacheKey, Cached};
use crate::segment::bytes::{Cursor, Flaw, u32_at};
use crate::segment::format::{CRC_LEN, HEADER_START_LEN};
use crate::segment::index::{CheckedPages, Page, Root};
use crate::segment::reader::checked;
use crate::storage::{Mapped, Storage};
use crate::types::{FieldDef, FieldType, TableSchema};

/// An open summary. It stays readable while held, even when its file was removed.
pub struct Summary {
    name: String,
    bytes: Mapped,
    header: Header,
    pub(super) trailer: Trailer,
    pages_checked: CheckedPages,
}

impl std::fmt::Debug for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Summary").field("name", &self.name).field("step", &self.header.step).finish_non_exhaustive()
    }
}

impl Summary {
    /// Maps the file `name` and checks header, trailer and the root of the index.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged there, or is of a newer version.
    pub fn open(storage: &dyn Storage, name: &str) -> Result<Arc<Self>> {
        let bytes = storage.map(name).map_err(Error::io("map", name))?;
        let flawed =
            |base: u64| move |flaw: Flaw| Error::corruption(name, base + flaw.at as u64, flaw.expected, flaw.found);
        if bytes.len() < HEADER_START_LEN + TRAILER_LEN {
            let found = format!("{} bytes", bytes.len());
            return Err(Error::corruption(name, bytes.len() as u64, "a header and a trailer", found));
        }
        if bytes[..8] != MAGIC {
            return Err(Error::corruption(name, 0, "the magic of a summary", format!("{:02x?}", &bytes[..8])));
        }
        match u32_at(&bytes, 8) {
            VERSION => {}
            0 => return Err(Error::corruption(name, 8, "a format version from 1", "0")),
            found => {
                let (path, format) = (name.to_owned(), "summary");
                return Err(Error::NewerFormat { path, format, found, supported: VERSION });
            }
        }
        let trailer_offset = bytes.len() - TRAILER_LEN;
        let mut tail = [0; TRAILER_LEN];
        tail.copy_from_slice(&bytes[trailer_offset..]);
        let trailer = Trailer::decode(&tail, bytes.len() as u64).map_err(flawed(trailer_offset as u64))?;
        let header_len = Header::len(&bytes).map_err(flawed(0))?;
        if header_len != trailer.header_len as usize {
            let found = format!("{header_len}, the trailer says {}", trailer.header_len);
            return Err(Error::corruption(name, 12, "one length of the header", found));
        }
        let header = Header::decode(checked(name, &bytes, 0, header_len as u64)?).map_err(flawed(0))?;
        if summary_id(name).is_some_and(|id| id != header.id) {
            return Err(Error::corruption(name, 16, "the id of the file's name", format!("{:016x}", header.id)));
        }
        let root_len = trailer_offset as u64 - trailer.root_offset;
        let root = checked(name, &bytes, trailer.root_offset, root_len)?;
        Root::new(root, trailer.pages).map_err(flawed(trailer.root_offset))?;
        let pages_checked = CheckedPages::new(trailer.pages);
        Ok(Arc::new(Self { name: name.to_owned(), header, trailer, bytes, pages_checked }))
    }

    /// The file, relative to the data directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.header.id
    }

    /// The segment whose rows it tells of.
    pub fn segment(&self) -> u64 {
        self.header.segment
    }

    /// The shard it belongs to.
    pub fn shard(&self) -> u32 {
        self.header.shard
    }

    /// The length of its steps.
    pub fn step(&self) -> Step {
        self.header.step
    }

    /// The table as it was when the summary was written; it may have got more fields since.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.header.schema
    }

    /// Lowest and highest flush number of the rows.
    pub fn seq_range(&self) -> (u64, u64) {
        (self.header.seq_min, self.header.seq_max)
    }

    /// When it was written.
    pub fn created_ns(&self) -> i64 {
        self.header.created_ns
    }

    /// Devices in it.
    pub fn device_count(&self) -> u64 {
        self.trailer.devices
    }

    /// Steps of all devices.
    pub fn steps(&self) -> u64 {
        self.trailer.steps
    }

    /// First and last time of a row.
    pub fn time_range(&self) -> (i64, i64) {
        (self.trailer.time_min, self.trailer.time_max)
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.trailer.file_len
    }

    /// The steps of `device`; `None` when it has none here.
    ///
    /// # Errors
    /// Damage of the index or of the device's entry.
    pub fn find(self: &Arc<Self>, device: &str) -> Result<Option<SummaryEntry>> {
        self.slot_of(device)?.map(|(page, slot)| self.entry(page, slot)).transpose()
    }

    /// The same, for a reader that may soon be back: what it decodes is kept in `cache`.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub(crate) fn find_cached(self: &Arc<Self>, device: &str, cache: &Arc<BlockCache>) -> Result<Option<SummaryEntry>> {
        let Some((page, slot)) = self.slot_of(device)? else { return Ok(None) };
        let key = self.entry_key(page.directory(slot).0);
        let mut found = match cache.get(key) {
            Some(Cached::Entry(entry)) => SummaryEntry {
                summary: Arc::clone(self),
                head: entry.head,
                offset: key.block,
                len: entry.len + CRC_LEN,
                opened: Some(entry),
                cache: None,
            },
            _ => self.entry(page, slot)?,
        };
        if found.opened.is_none() && cache.wants(key, Entry::bytes_of(found.head.count, self.schema().fields.len())) {
            let entry = Arc::new(found.decode()?);
            cache.insert(key, Cached::Entry(Arc::clone(&entry)));
            found.opened = Some(entry);
        }
        found.cache = Some(Arc::clone(cache));
        Ok(Some(found))
    }

    fn entry_key(&self, offset: u64) -> CacheKey {
        CacheKey { segment: self.header.id, block: offset, field: CacheKey::ENTRY }
    }

    fn slot_of(&self, device: &str) -> Result<Option<(Page<'_>, usize)>> {
        let root = self.root()?;
        let Some(page_at) = root.page_of(device.as_bytes()).map_err(self.flawed(self.trailer.root_offset))? else {
            return Ok(None);
        };
        let (page, offset) = self.page(page_at)?;
        Ok(page.find(device.as_bytes()).map_err(self.flawed(offset))?.map(|slot| (page, slot)))
    }

    /// Devices and their steps, in ascending order; calls `visit` for each until it says no.
    ///
    /// # Errors
    /// A damaged index page. Damage of an entry is handed to `visit`.
    pub fn visit(self: &Arc<Self>, visit: &mut dyn FnMut(&str, Result<SummaryEntry>) -> bool) -> Result<()> {
        for at in 0..self.trailer.pages as usize {
            let (page, offset) = self.page(at)?;
            for slot in 0..page.len() {
                let id = page.id(slot).map_err(self.flawed(offset))?;
                let id = std::str::from_utf8(id).map_err(|error| {
                    Error::corruption(&*self.name, offset, "a device id in UTF-8", error.to_string())
                })?;
                if !visit(id, self.entry(page, slot)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn root(&self) -> Result<Root<'_>> {
        // The checksum was checked at open; bounds are checked again at every use.
        let end = self.trailer.file_len as usize - TRAILER_LEN - CRC_LEN;
        let bytes = &self.bytes[self.trailer.root_offset as usize..end];
        Root::new(bytes, self.trailer.pages).map_err(self.flawed(self.trailer.root_offset))
    }

    /// Index page `at` and its offset.
    pub(super) fn page(&self, at: usize) -> Result<(Page<'_>, u64)> {
        let (offset, len) = self.root()?.page(at);
        let bytes = if self.pages_checked.contains(at) {
            // It was inside the file and had a checksum when it was checked.
            &self.bytes[offset as usize..(offset + u64::from(len)) as usize - CRC_LEN]
        } else {
            let bytes = checked(&self.name, &self.bytes, offset, u64::from(len))?;
            self.pages_checked.insert(at);
            bytes
        };
        let page = Page::new(bytes).map_err(self.flawed(offset))?;
        Ok((page, offset))
    }

    fn entry(self: &Arc<Self>, page: Page<'_>, slot: usize) -> Result<SummaryEntry> {
        let (offset, len) = page.directory(slot);
        let bytes = checked(&self.name, &self.bytes, offset, u64::from(len))?;
        let head = EntryHead::decode(&mut Cursor::new(bytes)).map_err(self.flawed(offset))?;
        let summary = Arc::clone(self);
        Ok(SummaryEntry { summary, head, offset, len: len as usize, opened: None, cache: None })
    }

    pub(super) fn flawed(&self, base: u64) -> impl Fn(Flaw) -> Error + '_ {
        move |flaw| Error::corruption(&*self.name, base + flaw.at as u64, flaw.expected, flaw.found)
    }
}

/// The steps of one device in one summary; cheap to clone. Its checksum was checked.
#[derive(Clone, Debug)]
pub struct SummaryEntry {
    summary: Arc<Summary>,
    head: EntryHead,
    pub(super) offset: u64,
    pub(super) len: usize,
    /// What was decoded of it before.
    opened: Option<Arc<Entry>>,
    /// Where to keep what is decoded.
    cache: Option<Arc<BlockCache>>,
}

impl SummaryEntry {
    /// The summary.
    pub fn summary(&self) -> &Arc<Summary> {
        &self.summary
    }

    /// Steps that have rows.
    pub fn steps(&self) -> usize {
        self.head.count
    }

    /// Times of the first and the last row.
    pub fn time_range(&self) -> (i64, i64) {
        (self.head.first, self.head.last)
    }

    /// When the first and the last batch with these rows came.
    pub fn received(&self) -> (i64, i64) {
        self.head.received
    }

    /// Gives the steps `numbers` with the `fields` of a scan, whose names they have in the table now.
    ///
    /// # Errors
    /// Contents that contradict each other.
    pub fn load(&self, numbers: std::ops::Range<i64>, fields: &[FieldDef], rows: &mut StepRows) -> Result<()> {
        let decoded;
        let entry = match &self.opened {
            Some(entry) => &**entry,
            None => {
                decoded = self.decode()?;
                &decoded
            }
        };
        rows.fields.clear();
        rows.range = entry.find(numbers);
        rows.starts = Arc::clone(&entry.starts);
        for field in fields {
            let known = self.summary.schema().field(&field.name);
            if let Some((_, known)) = known.filter(|(_, known)| known.field_type != field.field_type) {
                let expected = format!("field {} of type {}", field.name, field.field_type);
                return Err(Error::corruption(self.summary.name(), 0, expected, known.field_type.name()));
            }
            rows.fields.push(self.field(entry, known.map(|(at, _)| at), field.field_type)?);
        }
        Ok(())
    }

    /// All steps of one field: `at` is its index in the summary's schema.
    fn field(&self, entry: &Entry, at: Option<usize>, field_type: FieldType) -> Result<Arc<StepField>> {
        let place = at.and_then(|at| entry.kept.get(at));
        if let Some(steps) = place.and_then(OnceLock::get) {
            return Ok(Arc::clone(steps));
        }
        let steps = entry.field(self.bytes(), at, field_type, 0..entry.numbers.len());
        let steps = Arc::new(steps.map_err(self.summary.flawed(self.offset))?);
        if let (Some(place), Some(cache)) = (place, &self.cache)
            && cache.fits(steps.bytes())
            && place.set(Arc::clone(&steps)).is_ok()
        {
            cache.grow(self.summary.entry_key(self.offset), steps.bytes());
        }
        Ok(steps)
    }

    /// The steps for which `gone` is false.
    pub(super) fn without(&self, gone: &dyn Fn(i64) -> bool) -> Result<DeviceSteps> {
        let entry = self.decode()?;
        let fields = &self.summary.schema().fields;
        let mut out = DeviceSteps::new(fields);
        let left: Vec<usize> = (0..entry.numbers.len()).filter(|at| !gone(entry.numbers[*at])).collect();
        for run in left.chunk_by(|a, b| a + 1 == *b) {
            let range = run[0]..run[run.len() - 1] + 1;
            out.numbers.extend_from_slice(&entry.numbers[range.clone()]);
            out.rows.extend(entry.rows[range.clone()].iter().map(|rows| *rows as u64));
            out.first_row.extend_from_slice(&entry.first_row[range.clone()]);
            out.last_row.extend_from_slice(&entry.last_row[range.clone()]);
            for (at, (own, field)) in out.fields.iter_mut().zip(fields).enumerate() {
                let steps = entry.field(self.bytes(), Some(at), field.field_type, range.clone());
                own.append(steps.map_err(self.summary.flawed(self.offset))?);
            }
        }
        Ok(out)
    }

    pub(super) fn decode(&self) -> Result<Entry> {
        Entry::decode(self.bytes(), self.summary.step(), self.summary.schema().fields.len())
            .map_err(self.summary.flawed(self.offset))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let start = self.offset as usize;
        &self.summary.bytes[start..start + self.len - CRC_LEN]
    }
}
