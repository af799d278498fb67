//! Owns the end of a shard's log: group, sync, rotation, recycling; does not read records.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::record::{
    FILE_HEADER_BYTES, FileHeader, PAGE_BYTES, PAYLOAD_BYTES_MAX, Place, RECORD_ALIGN, RECORD_HEADER_BYTES,
    RECORDS_START, RecordHeader, RecordKind, align_up, file_name,
};
use super::{LogConfig, LogStats, RecordHead, generations};
use crate::error::{Error, Result};
use crate::storage::{Storage, StorageFile};
use crate::types::{LogPosition, ProducerId, SeqNo};

/// A group buffer larger than this is given back after its commit.
const GROUP_BYTES_KEPT: usize = 16 << 20;

/// Appends to one shard's log. All I/O happens in [`LogWriter::commit`] and [`LogWriter::release_before`].
///
/// What must stay true: `end` is durable; a file is only written past `end`; no file is written again once a later one
/// was begun; after a failed sync (or a write that failed for another reason than a full disk) nothing is written at all.
pub struct LogWriter {
    storage: Arc<dyn Storage>,
    shard: u32,
    config: LogConfig,
    file: Option<CurrentFile>,
    /// Where the durable records end.
    end: LogPosition,
    released: LogPosition,
    next_generation: u64,
    /// Set when a later file was begun, whose header may pin where the current one ends, or when the current file holds
    /// bytes past `end` that were given up and could not be cut off.
    rotate_next: bool,
    /// Whether a write of the waiting group was tried.
    tried: bool,
    /// Records of the group that waits for its commit.
    group: Vec<u8>,
    group_start: LogPosition,
    last_record: Option<(RecordHeader, usize)>,
    /// Files before the current one that may still be needed, oldest first: generation and bytes.
    full: VecDeque<(u64, u64)>,
    /// Files that are not needed and wait to be written again: generation and bytes.
    spares: Vec<(u64, u64)>,
    poison: Option<String>,
    stats: LogStats,
}

struct CurrentFile {
    generation: u64,
    file: Box<dyn StorageFile>,
    name: String,
}

/// Where the file for the next generation comes from.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    New,
    /// A released file of this generation.
    Spare(u64),
    /// An attempt to begin this very file that met a full disk or a want of descriptors.
    Leftover,
}

impl LogWriter {
    /// Goes on behind `end`, which [`super::replay`] reported (or the default for a new shard). The next record goes to a
    /// new file, whose header then says where the records of the file before it end: a torn tail is cut for good by that.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn resume(storage: Arc<dyn Storage>, shard: u32, end: LogPosition, config: LogConfig) -> Result<Self> {
        let mut full = VecDeque::new();
        for generation in generations(&*storage, shard)? {
            let name = file_name(shard, generation);
            let len = storage.open(&name).and_then(|file| file.len()).map_err(Error::io("open", &*name))?;
            full.push_back((generation, len));
        }
        // Never the name of a file that is there, not even of one that replay could not use.
        let highest = full.back().map_or(0, |(generation, _)| *generation).max(end.generation);
        Ok(Self {
            storage,
            shard,
            config,
            file: None,
            end,
            released: LogPosition::default(),
            next_generation: highest + 1,
            rotate_next: false,
            tried: false,
            group: Vec::new(),
            group_start: LogPosition::default(),
            last_record: None,
            full,
            spares: Vec::new(),
            poison: None,
            stats: LogStats::default(),
        })
    }

    /// Adds a record to the group. It is durable once [`LogWriter::commit`] returned `Ok`. Gives the record's position.
    ///
    /// # Errors
    /// When the log is poisoned or the payload is too large.
    pub fn append(&mut self, head: &RecordHead, payload: &[u8]) -> Result<LogPosition> {
        self.check_poison()?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::Invalid(format!(
                "a log record holds at most {PAYLOAD_BYTES_MAX} bytes, found {}",
                payload.len()
            )));
        }
        Ok(self.push(RecordKind::Batch, head, payload))
    }

    /// Bytes in the group that waits for its commit.
    pub fn group_bytes(&self) -> usize {
        self.group.len()
    }

    /// Writes the group with one write and one sync. Gives the position behind it: everything before is durable.
    ///
    /// # Errors
    /// [`Error::passes`]: the group waits on; call again, or [`LogWriter::abandon_group`] and go on later. After any
    /// other error the log is poisoned: all further calls fail with the same cause.
    pub fn commit(&mut self) -> Result<LogPosition> {
        self.check_poison()?;
        let Some((mut header, at)) = self.last_record else {
            return Ok(self.end);
        };
        let start = self.group_start;
        if !header.last {
            header.last = true;
            header.encode(self.place(at), &mut self.group[at..]);
            let end = start.offset + self.group.len() as u64;
            self.group.resize((align_up(end, PAGE_BYTES) - start.offset) as usize, 0);
            self.last_record = Some((header, at));
        }
        self.tried = true;
        if self.file.as_ref().is_none_or(|file| file.generation != start.generation) {
            self.rotate()?;
        }
        let Some(current) = &mut self.file else { unreachable!("rotate() opens a file") };
        if let Err(source) = current.file.write_at(start.offset, &self.group) {
            let name = current.name.clone();
            return Err(self.fail("write", &name, source));
        }
        if let Err(source) = current.file.sync_data() {
            let name = current.name.clone();
            return Err(self.fail("sync", &name, source));
        }
        self.stats.bytes_written += self.group.len() as u64;
        self.stats.syncs += 1;
        self.stats.groups += 1;
        self.end = LogPosition { generation: start.generation, offset: header.next(start.offset + at as u64) };
        self.clear_group();
        Ok(self.end)
    }

    /// Drops the group that waits: its records were not acknowledged and will not be replayed unless the process dies
    /// before this returns.
    ///
    /// # Errors
    /// When what was written of the group could not be cut off durably; the log is poisoned then.
    pub fn abandon_group(&mut self) -> Result<()> {
        self.check_poison()?;
        let written = self.tried && self.file.as_ref().is_some_and(|f| f.generation == self.group_start.generation);
        self.clear_group();
        let end = self.end.offset;
        if let Some(current) = &mut self.file
            && written
        {
            // Records of the dropped group must not turn up behind those of the next one. So they are cut off and the cut
            // is synced before anything takes their place; or, failing that, the next group goes to another file, whose
            // header says where the records of this one end.
            match current.file.set_len(end) {
                Err(_) => self.rotate_next = true,
                Ok(()) => {
                    if let Err(source) = current.file.sync_data() {
                        let name = current.name.clone();
                        return Err(self.fail("sync", &name, source));
                    }
                    self.stats.syncs += 1;
                }
            }
        }
        Ok(())
    }

    /// Gives up files whose records all lie before `position`: a few are kept to be written again, others are removed.
    /// The caller must have made durable that `position` is where replay starts.
    ///
    /// # Errors
    /// When a file cannot be removed. That does not poison the log.
    pub fn release_before(&mut self, position: LogPosition) -> Result<()> {
        self.released = self.released.max(position);
        while let Some(&(generation, bytes)) = self.full.front()
            && generation < position.generation
        {
            // A short file would have to grow again; a long one held a huge group and would hold its space for good.
            let fits = bytes >= self.config.file_bytes / 2 && bytes <= self.config.file_bytes.saturating_mul(2);
            if fits && self.spares.len() < self.config.spares_max {
                self.spares.push((generation, bytes));
            } else {
                let name = file_name(self.shard, generation);
                match self.storage.remove(&name) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io("remove", name)(error));
                    }
                    _ => {}
                }
            }
            self.full.pop_front();
        }
        Ok(())
    }

    /// Ends the log in order: commits what waits and leaves a mark, by which replay can tell a damaged last group from
    /// one that a crash tore.
    ///
    /// # Errors
    /// As [`LogWriter::commit`].
    pub fn close(mut self) -> Result<LogPosition> {
        self.commit()?;
        if self.file.is_some() && !self.rotate_next {
            let head = RecordHead { producer: ProducerId(0), seq: SeqNo(0), received_ns: 0 };
            // The mark belongs into the file whose records it vouches for, full or not.
            self.config.file_bytes = u64::MAX;
            self.push(RecordKind::End, &head, &[]);
            self.commit()?;
        }
        Ok(self.end)
    }

    /// Where the durable records end.
    pub fn end(&self) -> LogPosition {
        self.end
    }

    /// Everything before is in segments, as far as this writer was told.
    pub fn released(&self) -> LogPosition {
        self.released
    }

    /// Why the log refuses to go on, when it does.
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.as_deref()
    }

    /// Counters since the log was resumed.
    pub fn stats(&self) -> LogStats {
        let current = self.file.as_ref().map(|file| file.file.len().unwrap_or(self.end.offset));
        let others = self.full.iter().chain(&self.spares).map(|(_, bytes)| bytes);
        LogStats {
            files: (self.full.len() + self.spares.len() + usize::from(current.is_some())) as u64,
            file_bytes: others.sum::<u64>() + current.unwrap_or(0),
            spares: self.spares.len() as u64,
            ..self.stats
        }
    }

    fn push(&mut self, kind: RecordKind, head: &RecordHead, payload: &[u8]) -> LogPosition {
        let bytes = RECORD_HEADER_BYTES + payload.len();
        match &mut self.last_record {
            None => self.group_start = self.place_group(bytes as u64),
            // A commit failed on a full disk and the caller goes on appending: the group is open again.
            Some((header, at)) if header.last => {
                header.last = false;
                let (header, at) = (*header, *at);
                let end = align_up((at + RECORD_HEADER_BYTES) as u64 + u64::from(header.payload_len), RECORD_ALIGN);
                self.group.truncate(end as usize);
                header.encode(self.place(at), &mut self.group[at..]);
            }
            Some(_) => {}
        }
        let at = self.group.len();
        let header = RecordHeader {
            kind,
            last: false,
            payload_len: payload.len() as u32,
            payload_crc: crc32c::crc32c(payload),
            generation: self.group_start.generation,
            synced_through: self.group_start.offset,
            producer: head.producer,
            seq: head.seq,
            received_ns: head.received_ns,
        };
        self.group.resize(at + RECORD_HEADER_BYTES, 0);
        header.encode(self.place(at), &mut self.group[at..]);
        self.group.extend_from_slice(payload);
        self.group.resize(align_up(self.group.len() as u64, RECORD_ALIGN) as usize, 0);
        self.last_record = Some((header, at));
        self.stats.records += u64::from(kind == RecordKind::Batch);
        self.stats.payload_bytes += payload.len() as u64;
        LogPosition { generation: self.group_start.generation, offset: self.group_start.offset + at as u64 }
    }

    /// Where a group that begins with `bytes` goes. Only its first record decides: a file may grow past its usual size by
    /// one group, and in return every record's place is known when it is appended.
    fn place_group(&self, bytes: u64) -> LogPosition {
        let room = !self.rotate_next
            && self.file.is_some()
            && (self.end.offset + bytes <= self.config.file_bytes || self.end.offset <= RECORDS_START);
        if room { self.end } else { LogPosition { generation: self.next_generation, offset: RECORDS_START } }
    }

    fn place(&self, at: usize) -> Place {
        Place {
            shard: self.shard,
            generation: self.group_start.generation,
            offset: self.group_start.offset + at as u64,
        }
    }

    fn clear_group(&mut self) {
        self.group.clear();
        self.group.shrink_to(GROUP_BYTES_KEPT);
        self.last_record = None;
        self.tried = false;
    }

    /// Starts the next file. Everything in the file before is synced already, because each commit does that. The header and
    /// the name are durable before the first record is written: a file whose header is torn holds no records.
    fn rotate(&mut self) -> Result<()> {
        let generation = self.next_generation;
        debug_assert_eq!(generation, self.group_start.generation);
        // From here on a later file may exist whose header pins where the current one ends.
        self.rotate_next = true;
        let name = file_name(self.shard, generation);
        let (mut file, origin) = match self.open_next(&name) {
            Ok(opened) => opened,
            Err(source) => return Err(self.fail("create", &name, source)),
        };
        let header = FileHeader {
            shard: self.shard,
            generation,
            previous_generation: self.end.generation,
            previous_end: self.end.offset,
            recycled: matches!(origin, Origin::Spare(_) | Origin::Leftover),
        };
        let mut page = [0; RECORDS_START as usize];
        page[..FILE_HEADER_BYTES].copy_from_slice(&header.encode());
        if let Err(source) = file.write_at(0, &page) {
            return Err(self.fail("write", &name, source));
        }
        if let Err(source) = file.sync_data() {
            return Err(self.fail("sync", &name, source));
        }
        let old_name = match origin {
            Origin::Spare(spare) => Some(file_name(self.shard, spare)),
            Origin::New | Origin::Leftover => None,
        };
        if let Some(old_name) = old_name {
            // Only now: under the new name, the file never has the header of another time.
            if let Err(source) = self.storage.rename(&old_name, &name) {
                return Err(self.fail("rename to", &name, source));
            }
            self.spares.retain(|(generation, _)| origin != Origin::Spare(*generation));
            file = match self.storage.open(&name) {
                Ok(file) => file,
                Err(source) => return Err(self.fail("open", &name, source)),
            };
        }
        if let Err(source) = self.storage.sync_dir("log") {
            return Err(self.fail("sync folder of", &name, source));
        }
        let new = CurrentFile { generation, file, name };
        if let Some(old) = self.file.replace(new) {
            // A wrong size only costs a recycling.
            self.full.push_back((old.generation, old.file.len().unwrap_or(0)));
        }
        self.stats.rotations += 1;
        self.stats.recycled += u64::from(matches!(origin, Origin::Spare(_)));
        self.stats.syncs += 2;
        self.stats.bytes_written += RECORDS_START;
        self.next_generation += 1;
        self.rotate_next = false;
        self.end = LogPosition { generation, offset: RECORDS_START };
        Ok(())
    }

    /// The file for the next generation, perhaps still under another name.
    fn open_next(&self, name: &str) -> io::Result<(Box<dyn StorageFile>, Origin)> {
        if self.storage.exists(name)? {
            return Ok((self.storage.open(name)?, Origin::Leftover));
        }
        if let Some(&(spare, _)) = self.spares.last() {
            return Ok((self.storage.open(&file_name(self.shard, spare))?, Origin::Spare(spare)));
        }
        Ok((self.storage.create(name)?, Origin::New))
    }

    fn fail(&mut self, operation: &'static str, path: &str, source: io::Error) -> Error {
        let error = Error::io(operation, path)(source);
        // A full disk is a state that passes, as long as nothing was promised; a failed sync never is, because the
        // system may have dropped what it could not write. Without a descriptor nothing was begun, not even a sync.
        let passes =
            error.is_disk_full() && matches!(operation, "create" | "write" | "rename to") || error.is_shortage();
        if !passes {
            self.poison = Some(error.to_string());
        }
        error
    }

    fn check_poison(&self) -> Result<()> {
        match &self.poison {
            Some(cause) => Err(Error::Poisoned { shard: self.shard, cause: cause.clone() }),
            None => Ok(()),
        }
    }
}
