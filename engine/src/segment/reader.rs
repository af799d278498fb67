//! Owns reading a segment: every look-up checks bounds and checksums of what it touches; keeps nothing per device.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tidewell_codec::{
    CodecError, Column, NarrowColumn, NarrowTimes, Tier, decode_column_into, decode_narrow, decode_times_into,
};

use super::bytes::{Flaw, u32_at};
use super::directory::{BlockEntry, Chunk, Meta, decode_directory, decode_meta};
use super::format::{CRC_LEN, HEADER_START_LEN, Header, MAGIC, TRAILER_LEN, Trailer, VERSION};
use super::index::{CheckedPages, Page, Root};
use super::segment_id;
use super::stats::empty_stats;
use crate::damage::{DamagedPlace, KnownDamage, cause_of};
use crate::error::{Error, Result};
use crate::scan::cache::{BlockCache, CacheKey};
use crate::storage::{Mapped, Storage};
use crate::types::{FieldStats, TableSchema};

/// An open segment. It stays readable while held, even when its file was removed.
pub struct Segment {
    name: String,
    bytes: Mapped,
    header: Header,
    pub(super) trailer: Trailer,
    known_damage: KnownDamage,
    pages_checked: CheckedPages,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("name", &self.name).field("rows", &self.trailer.rows).finish_non_exhaustive()
    }
}

impl Segment {
    /// Maps the file `name` and checks header, trailer and the root of the index.
    pub fn open(storage: &dyn Storage, name: &str) -> Result<Arc<Self>> {
        Self::parse(name, storage.map(name).map_err(Error::io("map", name))?)
    }

    /// Checks header, trailer and the root of the index of a segment's bytes.
    pub(super) fn parse(name: &str, bytes: Mapped) -> Result<Arc<Self>> {
        let flawed =
            |base: u64| move |flaw: Flaw| Error::corruption(name, base + flaw.at as u64, flaw.expected, flaw.found);
        if bytes.len() < HEADER_START_LEN + TRAILER_LEN {
            let found = format!("{} bytes", bytes.len());
            return Err(Error::corruption(name, bytes.len() as u64, "a header and a trailer", found));
        }
        if bytes[..8] != MAGIC {
            return Err(Error::corruption(name, 0, "the magic of a segment", format!("{:02x?}", &bytes[..8])));
        }
        match u32_at(&bytes, 8) {
            VERSION => {}
            0 => return Err(Error::corruption(name, 8, "a format version from 1", "0")),
            found => {
                let (path, format) = (name.to_owned(), "segment");
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
        if segment_id(name).is_some_and(|id| id != header.id) {
            return Err(Error::corruption(name, 16, "the id of the file's name", format!("{:016x}", header.id)));
        }
        let root_len = trailer_offset as u64 - trailer.root_offset;
        let root = checked(name, &bytes, trailer.root_offset, root_len)?;
        Root::new(root, trailer.pages).map_err(flawed(trailer.root_offset))?;
        let pages_checked = CheckedPages::new(trailer.pages);
        let (name, known_damage) = (name.to_owned(), KnownDamage::default());
        Ok(Arc::new(Self { name, header, trailer, bytes, known_damage, pages_checked }))
    }

    /// The file, relative to the data directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.header.id
    }

    /// The shard it belongs to.
    pub fn shard(&self) -> u32 {
        self.header.shard
    }

    /// The table as it was when the segment was written; it may have got more fields since.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.header.schema
    }

    /// How hard the codecs tried.
    pub fn tier(&self) -> Tier {
        self.header.tier
    }

    /// Most rows of a block.
    pub fn block_rows(&self) -> usize {
        self.header.block_rows as usize
    }

    /// Lowest and highest flush number of its rows.
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

    /// Blocks in it.
    pub fn block_count(&self) -> u64 {
        self.trailer.blocks
    }

    /// Rows in it.
    pub fn rows(&self) -> u64 {
        self.trailer.rows
    }

    /// First and last time of a row.
    pub fn time_range(&self) -> (i64, i64) {
        (self.trailer.time_min, self.trailer.time_max)
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.trailer.file_len
    }

    /// What readers found damaged since it was opened.
    pub fn known_damage(&self) -> &KnownDamage {
        &self.known_damage
    }

    /// Takes note of damage in the index, which may hide any rows of a device.
    fn note_index(&self, error: &Error, device: Option<&str>) {
        if let Some((_, offset, cause)) = cause_of(error) {
            let times = (self.trailer.time_min, self.trailer.time_max);
            self.known_damage.note(self.place(offset, device.map(Arc::from), times, 0, cause));
        }
    }

    /// Takes note of damage in a block, whatever part of it was hit.
    fn note_block(&self, entry: &BlockEntry, error: &Error) {
        if let Some((_, _, cause)) = cause_of(error) {
            self.known_damage.note(self.block_place(entry, cause));
        }
    }

    fn block_place(&self, entry: &BlockEntry, cause: String) -> DamagedPlace {
        self.place(entry.data_offset, None, (entry.time_min, entry.time_max), u64::from(entry.rows), cause)
    }

    fn place(
        &self,
        offset: u64,
        device: Option<Arc<str>>,
        times: (i64, i64),
        rows: u64,
        cause: String,
    ) -> DamagedPlace {
        DamagedPlace {
            path: self.name.clone(),
            offset,
            table: Arc::clone(&self.header.schema.name),
            device,
            first_ns: times.0,
            last_ns: times.1,
            rows,
            cause,
        }
    }

    /// The blocks of `device`; `None` when it has none here.
    pub fn find(self: &Arc<Self>, device: &str) -> Result<Option<DeviceBlocks>> {
        self.look_up(device).inspect_err(|error| self.note_index(error, Some(device)))
    }

    fn look_up(self: &Arc<Self>, device: &str) -> Result<Option<DeviceBlocks>> {
        let root = self.root()?;
        let Some(page_at) = root.page_of(device.as_bytes()).map_err(self.flawed(self.trailer.root_offset))? else {
            return Ok(None);
        };
        let (page, offset) = self.page(page_at)?;
        match page.find(device.as_bytes()).map_err(self.flawed(offset))? {
            Some(slot) => self.directory(page, slot).map(Some),
            None => Ok(None),
        }
    }

    /// The devices in ascending order. An index page that is damaged gives one error; the devices of the next follow.
    pub fn devices(self: &Arc<Self>) -> impl Iterator<Item = Result<DeviceEntry<'_>>> + '_ {
        Devices { segment: self, page_next: 0, page: None, slot: 0 }
    }

    /// The devices behind `after` in ascending order, as [`Self::devices`].
    ///
    /// # Errors
    /// A damaged root of the index.
    pub fn devices_after<'a>(
        self: &'a Arc<Self>,
        after: &'a str,
    ) -> Result<impl Iterator<Item = Result<DeviceEntry<'a>>> + 'a> {
        let first = self.root()?.page_of(after.as_bytes()).map_err(self.flawed(self.trailer.root_offset))?;
        let devices = Devices { segment: self, page_next: first.unwrap_or(0), page: None, slot: 0 };
        Ok(devices.skip_while(move |entry| entry.as_ref().is_ok_and(|entry| entry.id() <= after)))
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
            let bytes = self.checked(offset, u64::from(len))?;
            self.pages_checked.insert(at);
            bytes
        };
        let page = Page::new(bytes).map_err(self.flawed(offset))?;
        Ok((page, offset))
    }

    fn directory(self: &Arc<Self>, page: Page<'_>, slot: usize) -> Result<DeviceBlocks> {
        let (offset, len) = page.directory(slot);
        let bytes = self.checked(offset, u64::from(len))?;
        let (received, blocks) =
            decode_directory(bytes, offset, u64::from(self.trailer.header_len)).map_err(self.flawed(offset))?;
        Ok(DeviceBlocks { segment: self.clone(), received, blocks: blocks.into(), cache: None })
    }

    /// The `len` bytes at `offset` without the checksum at their end, which is checked.
    pub(super) fn checked(&self, offset: u64, len: u64) -> Result<&[u8]> {
        checked(&self.name, &self.bytes, offset, len)
    }

    pub(super) fn flawed(&self, base: u64) -> impl Fn(Flaw) -> Error + '_ {
        move |flaw| Error::corruption(&*self.name, base + flaw.at as u64, flaw.expected, flaw.found)
    }
}

pub(crate) fn checked<'a>(name: &str, bytes: &'a [u8], offset: u64, len: u64) -> Result<&'a [u8]> {
    let range = usize::try_from(offset).ok().zip(offset.checked_add(len).and_then(|end| usize::try_from(end).ok()));
    let part = range.and_then(|(start, end)| bytes.get(start..end)).filter(|part| part.len() >= CRC_LEN);
    let Some(part) = part else {
        let found = format!("{len} bytes at {offset} of {}", bytes.len());
        return Err(Error::corruption(name, offset, "a section within the file", found));
    };
    let (body, crc) = part.split_at(part.len() - CRC_LEN);
    let (written, computed) = (u32_at(crc, 0), crc32c::crc32c(body));
    if written != computed {
        let found = format!("{computed:08x} over {} bytes", body.len());
        return Err(Error::corruption(name, offset, format!("checksum {written:08x}"), found));
    }
    Ok(body)
}

/// One device of [`Segment::devices`].
pub struct DeviceEntry<'a> {
    segment: &'a Arc<Segment>,
    page: Page<'a>,
    slot: usize,
    id: &'a str,
}

impl<'a> DeviceEntry<'a> {
    /// Its id.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// Its blocks.
    pub fn blocks(&self) -> Result<DeviceBlocks> {
        let blocks = self.segment.directory(self.page, self.slot);
        blocks.inspect_err(|error| self.segment.note_index(error, Some(self.id)))
    }
}

struct Devices<'a> {
    segment: &'a Arc<Segment>,
    page_next: usize,
    page: Option<(Page<'a>, u64)>,
    slot: usize,
}

impl<'a> Devices<'a> {
    fn advance(&mut self) -> Result<Option<DeviceEntry<'a>>> {
        let segment = self.segment;
        let (page, offset) = match self.page.filter(|(page, _)| self.slot < page.len()) {
            Some(current) => current,
            None if self.page_next == segment.trailer.pages as usize => return Ok(None),
            None => {
                self.page_next += 1;
                self.slot = 0;
                self.page = None;
                let next = segment.page(self.page_next - 1)?;
                self.page = Some(next);
                next
            }
        };
        let slot = self.slot;
        self.slot += 1;
        let id = page.id(slot).map_err(segment.flawed(offset))?;
        match std::str::from_utf8(id) {
            Ok(id) => Ok(Some(DeviceEntry { segment, page, slot, id })),
            Err(error) => Err(Error::corruption(&*segment.name, offset, "a device id in UTF-8", error.to_string())),
        }
    }
}

impl<'a> Iterator for Devices<'a> {
    type Item = Result<DeviceEntry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if let Err(error) = &next {
            self.segment.note_index(error, None);
        }
        next.transpose()
    }
}

/// Rows and times of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMeta {
    /// Rows in it.
    pub rows: usize,
    /// Time of the first row.
    pub time_min: i64,
    /// Time of the last row.
    pub time_max: i64,
}

/// The blocks of one device in one segment, in rising time; cheap to clone.
#[derive(Clone, Debug)]
pub struct DeviceBlocks {
    segment: Arc<Segment>,
    received: (i64, i64),
    blocks: Arc<[BlockEntry]>,
    cache: Option<Arc<BlockCache>>,
}

impl DeviceBlocks {
    /// The segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The same blocks, read through `cache`. Merges read without one: what they read is gone soon.
    pub fn cached(self, cache: &Arc<BlockCache>) -> Self {
        Self { cache: Some(Arc::clone(cache)), ..self }
    }

    /// The cache, and the key of `field` of block `block` in it.
    pub(crate) fn cache_key(&self, block: usize, field: u32) -> Option<(&BlockCache, CacheKey)> {
        let key = CacheKey { segment: self.segment.id(), block: self.blocks[block].data_offset, field };
        self.cache.as_deref().map(|cache| (cache, key))
    }

    /// When the first and the last batch with these rows came.
    pub fn received(&self) -> (i64, i64) {
        self.received
    }

    /// Number of blocks; at least one.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there is no block, which no segment has.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Rows of all blocks.
    pub fn rows(&self) -> u64 {
        self.blocks.iter().map(|b| u64::from(b.rows)).sum()
    }

    /// First and last time of all blocks.
    pub fn time_range(&self) -> (i64, i64) {
        match (self.blocks.first(), self.blocks.last()) {
            (Some(first), Some(last)) => (first.time_min, last.time_max),
            _ => (i64::MAX, i64::MIN),
        }
    }

    /// Rows and times of block `block`.
    pub fn meta(&self, block: usize) -> BlockMeta {
        let entry = &self.blocks[block];
        BlockMeta { rows: entry.rows as usize, time_min: entry.time_min, time_max: entry.time_max }
    }

    /// The blocks that have times in `first..=last`.
    pub fn overlapping(&self, first: i64, last: i64) -> std::ops::Range<usize> {
        let start = self.blocks.partition_point(|b| b.time_max < first);
        let end = self.blocks.partition_point(|b| b.time_min <= last);
        start..end.max(start)
    }

    /// Reads and checks the meta of block `block`: where its chunks are, and its zone maps.
    pub fn block(&self, block: usize) -> Result<Block> {
        self.open_block(block).inspect_err(|error| self.segment.note_block(&self.blocks[block], error))
    }

    /// What is known to be wrong with block `block`.
    pub fn known_damage(&self, block: usize) -> Option<DamagedPlace> {
        self.segment.known_damage.at(self.blocks[block].data_offset)
    }

    /// Block `block`, which is the device's, as a damaged place; `None` when `error` is no damage.
    pub(crate) fn damaged(&self, block: usize, device: &Arc<str>, error: &Error) -> Option<DamagedPlace> {
        let (_, _, cause) = cause_of(error)?;
        let place = self.known_damage(block).unwrap_or_else(|| self.segment.block_place(&self.blocks[block], cause));
        let place = DamagedPlace { device: Some(Arc::clone(device)), ..place };
        self.segment.known_damage.note(place.clone());
        Some(place)
    }

    fn open_block(&self, block: usize) -> Result<Block> {
        let entry = self.blocks[block];
        let bytes = self.segment.checked(entry.meta_offset, entry.meta_len)?;
        let meta = decode_meta(bytes, entry.rows, entry.data_len, &self.segment.header.schema)
            .map_err(self.segment.flawed(entry.meta_offset))?;
        Ok(Block { segment: self.segment.clone(), entry, meta, data_checked: AtomicBool::new(false) })
    }

    /// Zone map of `field` (an index into the segment's schema) in block `block`.
    pub fn stats(&self, block: usize, field: usize) -> Result<FieldStats> {
        self.block(block).map(|b| b.stats(field))
    }

    /// Appends the times of block `block`.
    pub fn load_times(&self, block: usize, times: &mut Vec<i64>) -> Result<()> {
        self.block(block)?.load_times(times)
    }

    /// Appends `field` (an index into the segment's schema) of block `block`.
    pub fn load_field(&self, block: usize, field: usize, column: &mut Column) -> Result<()> {
        self.block(block)?.load_field(field, column)
    }

    pub(super) fn entries(&self) -> &[BlockEntry] {
        &self.blocks
    }
}

/// One block whose meta was read; decodes times and fields on demand and checks their checksums each time.
#[derive(Debug)]
pub struct Block {
    segment: Arc<Segment>,
    entry: BlockEntry,
    meta: Meta,
    /// The shared checksum was checked; says nothing about blocks whose chunks have their own.
    data_checked: AtomicBool,
}

impl Block {
    /// Rows in it.
    pub fn rows(&self) -> usize {
        self.entry.rows as usize
    }

    /// Zone map of `field` (an index into the segment's schema).
    pub fn stats(&self, field: usize) -> FieldStats {
        match &self.meta.fields[field] {
            Some((_, stats)) => *stats,
            None => empty_stats(self.segment.header.schema.fields[field].field_type, self.entry.rows),
        }
    }

    /// Bytes of the chunk of `field`, 0 when the field has no value here.
    pub fn field_bytes(&self, field: usize) -> u64 {
        self.meta.fields[field].map_or(0, |(chunk, _)| chunk.len)
    }

    /// Bytes of the time chunk.
    pub fn times_bytes(&self) -> u64 {
        self.meta.times.len
    }

    /// Appends the times.
    pub fn load_times(&self, times: &mut Vec<i64>) -> Result<()> {
        self.read_times(times).inspect_err(|error| self.segment.note_block(&self.entry, error))
    }

    fn read_times(&self, times: &mut Vec<i64>) -> Result<()> {
        let offset = self.entry.data_offset;
        let chunk = self.chunk_bytes(self.meta.times)?;
        let start = times.len();
        decode_times_into(chunk, self.rows(), times).map_err(|e| self.undecodable("times", offset, &e))?;
        // Callers search and merge by time, so order is checked here and nowhere else.
        let new = &times[start..];
        let rising = new.windows(2).fold(true, |ok, pair| ok & (pair[0] < pair[1]));
        let ends = (new.first().copied(), new.last().copied());
        if !rising || new.len() != self.rows() || ends != (Some(self.entry.time_min), Some(self.entry.time_max)) {
            times.truncate(start);
            let expected =
                format!("{} rising times from {} to {}", self.rows(), self.entry.time_min, self.entry.time_max);
            return Err(Error::corruption(
                &*self.segment.name,
                offset,
                expected,
                format!("{ends:?}, rising: {rising}"),
            ));
        }
        Ok(())
    }

    /// Appends `field` (an index into the segment's schema); nulls when the block has no value of it.
    pub fn load_field(&self, field: usize, column: &mut Column) -> Result<()> {
        self.read_field(field, column).inspect_err(|error| self.segment.note_block(&self.entry, error))
    }

    fn read_field(&self, field: usize, column: &mut Column) -> Result<()> {
        let def = &self.segment.header.schema.fields[field];
        let Some((chunk, _)) = self.meta.fields[field] else {
            column.extend_nulls(self.rows());
            return Ok(());
        };
        let before = column.len();
        let bytes = self.chunk_bytes(chunk)?;
        let offset = self.entry.data_offset + chunk.offset;
        decode_column_into(bytes, def.field_type, self.rows(), column)
            .map_err(|e| self.undecodable(&def.name, offset, &e))?;
        match column.len().cmp(&(before + self.rows())) {
            Ordering::Equal => Ok(()),
            _ => Err(Error::corruption(
                &*self.segment.name,
                offset,
                format!("{} rows of {}", self.rows(), def.name),
                format!("{}", column.len() - before),
            )),
        }
    }

    /// The times in narrow form.
    pub fn narrow_times(&self) -> Result<NarrowTimes> {
        let mut times = Vec::with_capacity(self.rows());
        self.load_times(&mut times)?;
        Ok(NarrowTimes::of(&times))
    }

    /// `field` (an index into the segment's schema) in narrow form; nulls when the block has no value of it.
    pub fn narrow_field(&self, field: usize) -> Result<NarrowColumn> {
        self.read_narrow(field).inspect_err(|error| self.segment.note_block(&self.entry, error))
    }

    fn read_narrow(&self, field: usize) -> Result<NarrowColumn> {
        let def = &self.segment.header.schema.fields[field];
        let Some((chunk, _)) = self.meta.fields[field] else {
            return Ok(NarrowColumn::nulls(def.field_type, self.rows()));
        };
        decode_narrow(self.chunk_bytes(chunk)?, def.field_type, self.rows())
            .map_err(|e| self.undecodable(&def.name, self.entry.data_offset + chunk.offset, &e))
    }

    /// The checked bytes of the chunk of `field`; `None` when the field has no value here.
    pub(super) fn field_chunk(&self, field: usize) -> Result<Option<&[u8]>> {
        self.meta.fields[field].map(|(chunk, _)| self.chunk_bytes(chunk)).transpose()
    }

    /// The checked bytes of the time chunk.
    pub(super) fn times_chunk(&self) -> Result<&[u8]> {
        self.chunk_bytes(self.meta.times)
    }

    fn chunk_bytes(&self, chunk: Chunk) -> Result<&[u8]> {
        // `decode_meta` checked that the chunks fill the block, so no sum overflows.
        let offset = self.entry.data_offset + chunk.offset;
        if !self.meta.shared_crc {
            return self.segment.checked(offset, chunk.len + CRC_LEN as u64);
        }
        // Checked once for all chunks: the file does not change while it is mapped.
        if !self.data_checked.load(Relaxed) {
            self.segment.checked(self.entry.data_offset, self.entry.data_len)?;
            self.data_checked.store(true, Relaxed);
        }
        Ok(&self.segment.bytes[offset as usize..(offset + chunk.len) as usize])
    }

    fn undecodable(&self, what: &str, offset: u64, error: &CodecError) -> Error {
        let expected = format!("a chunk of {what} with {} rows", self.rows());
        Error::corruption(&*self.segment.name, offset, expected, error.to_string())
    }
}
