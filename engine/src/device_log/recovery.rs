//! Owns what a run of log files means after a crash or damage: what is replayed, cut, reported; does not write.

use super::reader::{Ahead, Found, LogReader};
use super::record::{
    PAGE_BYTES, RECORD_ALIGN, RECORD_HEADER_BYTES, RECORDS_START, RecordHeader, RecordKind, align_up, file_name,
};
use super::{Cut, Damage, LogRecord, ReplayReport, generations};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::types::{LogPosition, ProducerId, SeqNo};

/// Gives every readable record of the shard from `from` on, in log order, and makes durable what it gave.
///
/// A torn tail (records that no sync ever covered) is cut and reported. Bytes that were durable and are bad now are
/// reported with producer and number where those are readable, and the records behind them are given all the same.
///
/// # Errors
/// When a file cannot be read or synced, is of a newer version, or `visit` fails.
pub fn replay(
    storage: &dyn Storage,
    shard: u32,
    from: LogPosition,
    visit: &mut dyn FnMut(LogRecord<'_>) -> Result<()>,
) -> Result<ReplayReport> {
    run(storage, shard, from, true, visit)
}

/// As [`replay`], but changes and syncs nothing: for offline inspection.
///
/// # Errors
/// As [`replay`].
pub fn dump(
    storage: &dyn Storage,
    shard: u32,
    from: LogPosition,
    visit: &mut dyn FnMut(LogRecord<'_>) -> Result<()>,
) -> Result<ReplayReport> {
    run(storage, shard, from, false, visit)
}

/// Checks every record from `from` on without keeping any.
///
/// # Errors
/// As [`replay`].
pub fn verify(storage: &dyn Storage, shard: u32, from: LogPosition) -> Result<ReplayReport> {
    run(storage, shard, from, false, &mut |_| Ok(()))
}

/// Shards that have log files, rising.
///
/// # Errors
/// When the folder cannot be listed.
pub fn shards(storage: &dyn Storage) -> Result<Vec<u32>> {
    let names = storage.list("log").map_err(Error::io("list", "log"))?;
    let parsed = names.iter().filter_map(|name| super::record::parse_file_name(name));
    let mut shards: Vec<u32> = parsed.map(|(shard, _)| shard).collect();
    shards.sort_unstable();
    shards.dedup();
    Ok(shards)
}

fn run(
    storage: &dyn Storage,
    shard: u32,
    from: LogPosition,
    sync: bool,
    visit: &mut dyn FnMut(LogRecord<'_>) -> Result<()>,
) -> Result<ReplayReport> {
    let mut files = Vec::new();
    for generation in generations(storage, shard)? {
        // Earlier files wait to be removed or written again; their content is in segments.
        if generation >= from.generation {
            files.push(LogReader::open(storage, shard, generation)?);
        }
    }
    let mut replay =
        Replay { from, report: ReplayReport { end: from, ..ReplayReport::default() }, last_group: None, visit };
    replay.note_missing(shard, &files);
    // Which file each header names as the one before it, and where that one ends.
    let ends: Vec<(u64, u64)> = files
        .iter()
        .filter_map(|file| file.header.as_ref().ok())
        .map(|header| (header.previous_generation, header.previous_end))
        .collect();
    for file in &mut files {
        let end = ends.iter().find(|(generation, _)| *generation == file.generation).map(|(_, end)| *end);
        replay.file(file, end)?;
        if sync && end.is_none() {
            let end = align_up(replay.report.end.offset, PAGE_BYTES);
            let group = replay.last_group.filter(|group| group.generation == file.generation);
            file.settle(group.map_or(0..0, |group| group.offset..end))?;
        }
        file.rest();
    }
    if sync && !files.is_empty() {
        storage.sync_dir("log").map_err(Error::io("sync", "log"))?;
    }
    Ok(replay.report)
}

struct Replay<'a> {
    from: LogPosition,
    report: ReplayReport,
    /// Where the group of the last record starts.
    last_group: Option<LogPosition>,
    visit: &'a mut dyn FnMut(LogRecord<'_>) -> Result<()>,
}

impl Replay<'_> {
    /// Reports files that are named by a later header, or by `from`, and are not there.
    fn note_missing(&mut self, shard: u32, files: &[LogReader]) {
        let is_there = |generation| files.iter().any(|file| file.generation == generation);
        let mut missing = Vec::new();
        if self.from.offset > RECORDS_START && !is_there(self.from.generation) {
            missing.push((self.from.generation, self.from.offset, 0));
        }
        for header in files.iter().filter_map(|file| file.header.as_ref().ok()) {
            let end = LogPosition { generation: header.previous_generation, offset: header.previous_end };
            if end.generation > 0 && end > self.from && end.offset > RECORDS_START && !is_there(end.generation) {
                let start = if end.generation == self.from.generation { self.from.offset } else { 0 };
                missing.retain(|(generation, _, _)| *generation != end.generation);
                missing.push((end.generation, start, end.offset - start));
            }
        }
        missing.sort_unstable();
        missing.dedup();
        for (generation, offset, len) in missing {
            self.damage(&file_name(shard, generation), offset, len, None, "the file is missing");
        }
    }

    /// Gives the records of one file. `end` is where a later file says that they end.
    fn file(&mut self, file: &mut LogReader, end: Option<u64>) -> Result<()> {
        let mut at = RECORDS_START;
        if let Err(reason) = file.header {
            // The header and the name are durable before the first record is written. So a file without a header is one
            // that was being begun, unless it has records, or a later file says that it had.
            let has_records = file.next_header(RECORDS_START, u64::MAX)?.is_some();
            if !has_records && end.is_none_or(|end| end <= RECORDS_START) {
                return Ok(());
            }
            self.damage(&file.name, 0, RECORDS_START, None, reason);
        }
        if file.generation == self.from.generation {
            at = at.max(self.from.offset);
        }
        // What later records say about the bytes before them; looked up at the first bad place.
        let mut ahead: Option<Ahead> = None;
        while end.is_none_or(|end| at < end) {
            let (bad, reason) = match file.at(at, end.unwrap_or(u64::MAX))? {
                Found::Record(header, payload) => {
                    let next = header.next(at);
                    self.last_group =
                        Some(LogPosition { generation: header.generation, offset: header.synced_through });
                    if header.kind == RecordKind::Batch {
                        self.report.records += 1;
                        self.report.bytes += u64::from(header.payload_len);
                        (self.visit)(LogRecord {
                            position: LogPosition { generation: header.generation, offset: at },
                            end: LogPosition { generation: header.generation, offset: next },
                            producer: header.producer,
                            seq: header.seq,
                            received_ns: header.received_ns,
                            payload,
                        })?;
                    }
                    at = next;
                    continue;
                }
                Found::BadPayload(header, reason) => (Some(header), reason),
                Found::Nothing => (None, "no valid record header"),
            };
            let durable = match (end, ahead) {
                (Some(end), _) => end,
                (None, Some(ahead)) => ahead.synced_through,
                (None, None) => ahead.insert(file.look_ahead(at + RECORD_ALIGN)?).synced_through,
            };
            if at >= durable {
                self.report.cut = cut(file, at, bad, ahead.map_or(at, |ahead| ahead.records_end), reason)?;
                break;
            }
            // A whole header says where the next record starts; otherwise the next one is searched.
            let after = bad.map(|header| header.next(at)).filter(|next| *next <= durable);
            let next = match after {
                Some(next) => next,
                None => file.next_header(at + RECORD_ALIGN, durable)?.map_or(durable, |(next, _)| next),
            };
            let batch = bad.filter(|header| header.kind == RecordKind::Batch).map(|h| (h.producer, h.seq));
            self.damage(&file.name, at, next - at, batch, reason);
            at = next;
        }
        self.report.end = LogPosition { generation: file.generation, offset: at };
        Ok(())
    }

    fn damage(&mut self, path: &str, offset: u64, len: u64, batch: Option<(ProducerId, SeqNo)>, reason: &'static str) {
        self.report.damaged.push(Damage { path: path.to_owned(), offset, len, batch, devices: Vec::new(), reason });
    }
}

/// The remains behind the last whole record, or `None` when there are none: when the log just ends there.
fn cut(
    file: &mut LogReader,
    at: u64,
    bad: Option<RecordHeader>,
    records_end: u64,
    reason: &'static str,
) -> Result<Option<Cut>> {
    // A new file has only zeros behind its records. A recycled one has old bytes there, except in the page of the last
    // record, which was filled with zeros.
    let recycled = file.header.as_ref().is_ok_and(|header| header.recycled);
    let page_end = align_up(at, PAGE_BYTES);
    let mut end = records_end;
    if let Some(header) = bad {
        end = end.max((at + RECORD_HEADER_BYTES as u64 + u64::from(header.payload_len)).min(file.len));
    }
    let limit = if recycled { page_end } else { file.len };
    let mut place = at;
    while place < limit.min(file.len) {
        let piece = file.bytes(place, (limit - place).min(1 << 20) as usize)?;
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            end = end.max(place + last as u64 + 1);
        }
        place += piece.len() as u64;
    }
    let generation = file.generation;
    let batch = bad.filter(|header| header.kind == RecordKind::Batch).map(|h| (h.producer, h.seq));
    if recycled && RecordHeader::was_one(file.bytes(at, RECORD_HEADER_BYTES)?, generation) {
        end = end.max(at + RECORD_HEADER_BYTES as u64);
    }
    Ok((end > at).then(|| Cut { path: file.name.clone(), offset: at, bytes: end - at, reason, batch }))
}
