//! Owns reading one log file piece by piece; does not decide what a bad place means.

use std::io;
use std::ops::Range;

use super::record::{
    FileHeader, HeaderFault, Place, RECORD_ALIGN, RECORD_HEADER_BYTES, RECORDS_START, RecordHeader, align_up, file_name,
};
use crate::error::{Error, Result};
use crate::storage::{Storage, StorageFile};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;

/// One open log file and a window of its bytes.
pub(super) struct LogReader {
    pub(super) name: String,
    pub(super) shard: u32,
    pub(super) generation: u64,
    pub(super) len: u64,
    pub(super) header: Result<FileHeader, &'static str>,
    file: Box<dyn StorageFile>,
    window: Vec<u8>,
    window_start: u64,
}

/// What is at a place where a record should start.
pub(super) enum Found<'a> {
    Record(RecordHeader, &'a [u8]),
    /// The header is whole, the payload is not.
    BadPayload(RecordHeader, &'static str),
    /// No header of this place and generation.
    Nothing,
}

impl LogReader {
    pub(super) fn open(storage: &dyn Storage, shard: u32, generation: u64) -> Result<Self> {
        let name = file_name(shard, generation);
        let file = storage.open(&name).map_err(Error::io("open", &*name))?;
        let len = file.len().map_err(Error::io("open", &*name))?;
        let mut reader =
            Self { name, shard, generation, len, header: Err(""), file, window: Vec::new(), window_start: 0 };
        let mut page = [0; RECORDS_START as usize];
        let read = reader.file.read_at(0, &mut page).map_err(Error::io("read", &*reader.name))?;
        reader.header = match FileHeader::decode(&page[..read]) {
            Ok(header) if (header.shard, header.generation) == (shard, generation) => Ok(header),
            Ok(_) => Err("file header of another file"),
            Err(HeaderFault::Damaged(reason)) => Err(reason),
            Err(HeaderFault::Newer(found)) => {
                return Err(Error::NewerFormat {
                    path: reader.name,
                    format: "log",
                    found,
                    supported: super::FORMAT_VERSION,
                });
            }
        };
        Ok(reader)
    }

    /// Makes durable what was read: after the death of a process its last writes may be in the page cache only, and what
    /// is replayed counts as durable from then on. `group` is where the last group is.
    ///
    /// A sync alone would not do: where one has failed, the system keeps showing what it could not write, and takes it for
    /// written. Only the header and the last group can be such, because nothing is written behind a failed sync.
    pub(super) fn settle(&mut self, group: Range<u64>) -> Result<()> {
        let header = if self.header.is_ok() { 0..RECORDS_START } else { 0..0 };
        for Range { mut start, end } in [header, group] {
            while start < end {
                let piece = self.bytes(start, PIECE_BYTES.min((end - start) as usize))?.to_vec();
                if piece.is_empty() {
                    break;
                }
                self.file.write_at(start, &piece).map_err(Error::io("write", &*self.name))?;
                start += piece.len() as u64;
            }
        }
        self.file.sync_data().map_err(Error::io("sync", &*self.name))
    }

    /// Frees the window's memory.
    pub(super) fn rest(&mut self) {
        self.window = Vec::new();
    }

    /// Up to `len` bytes at `offset`; fewer only at the end of the file.
    pub(super) fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let len = len.min(self.len.saturating_sub(offset) as usize);
        let end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || offset + len as u64 > end {
            let want = len.max(PIECE_BYTES).min(self.len.saturating_sub(offset) as usize);
            self.window.resize(want, 0);
            // A buffer that held one huge record is not kept for the small ones after it.
            self.window.shrink_to(2 * PIECE_BYTES);
            let read = self.file.read_at(offset, &mut self.window).map_err(Error::io("read", &*self.name))?;
            self.window.truncate(read);
            self.window_start = offset;
            if read < want {
                return Err(Error::io("read", &*self.name)(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let start = (offset - self.window_start) as usize;
        Ok(&self.window[start..start + len])
    }

    fn place(&self, offset: u64) -> Place {
        Place { shard: self.shard, generation: self.generation, offset }
    }

    /// Looks for a record at `offset`, which must end at `limit` at the latest.
    pub(super) fn at(&mut self, offset: u64, limit: u64) -> Result<Found<'_>> {
        let place = self.place(offset);
        let Some(header) = RecordHeader::decode(self.bytes(offset, RECORD_HEADER_BYTES)?, place) else {
            return Ok(Found::Nothing);
        };
        let start = offset + RECORD_HEADER_BYTES as u64;
        let end = start + u64::from(header.payload_len);
        if end > self.len {
            return Ok(Found::BadPayload(header, "the file ends inside the record"));
        }
        if end > limit {
            return Ok(Found::BadPayload(header, "the record is longer than its file's content"));
        }
        let payload = self.bytes(start, header.payload_len as usize)?;
        if crc32c::crc32c(payload) != header.payload_crc {
            return Ok(Found::BadPayload(header, "payload checksum does not match"));
        }
        Ok(Found::Record(header, payload))
    }

    /// The first valid record header at or after `offset` and before `limit`.
    pub(super) fn next_header(&mut self, offset: u64, limit: u64) -> Result<Option<(u64, RecordHeader)>> {
        let mut offset = align_up(offset, RECORD_ALIGN);
        let limit = limit.min(self.len);
        while offset + RECORD_HEADER_BYTES as u64 <= limit {
            let place = self.place(offset);
            let piece = self.bytes(offset, PIECE_BYTES.min((limit - offset) as usize))?;
            let last = piece.len() - RECORD_HEADER_BYTES;
            for at in (0..=last).step_by(RECORD_ALIGN as usize) {
                let place = Place { offset: offset + at as u64, ..place };
                if let Some(header) = RecordHeader::decode(&piece[at..], place) {
                    return Ok(Some((place.offset, header)));
                }
            }
            offset += (last as u64 / RECORD_ALIGN + 1) * RECORD_ALIGN;
        }
        Ok(None)
    }

    /// What the headers after `offset` tell: up to where the file was durable, and where their records end.
    pub(super) fn look_ahead(&mut self, offset: u64) -> Result<Ahead> {
        let mut ahead = Ahead { synced_through: 0, records_end: 0 };
        let mut at = offset;
        while let Some((found, header)) = self.next_header(at, u64::MAX)? {
            ahead.synced_through = ahead.synced_through.max(header.synced_through);
            let end = found + RECORD_HEADER_BYTES as u64 + u64::from(header.payload_len);
            ahead.records_end = ahead.records_end.max(end.min(self.len));
            // Past the payload, which may hold anything; but not past the end of a record that a lie made long.
            at = if end <= self.len { header.next(found) } else { found + RECORD_ALIGN };
        }
        Ok(ahead)
    }
}

/// See [`LogReader::look_ahead`].
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) synced_through: u64,
    pub(super) records_end: u64,
}
