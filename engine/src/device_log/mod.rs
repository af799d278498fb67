//! Owns the write-ahead logs of one shard's devices, which share a run of files; does not know what a payload holds.
//!
//! - `record`: the bytes (`docs/format/log.md`)
//! - `writer`: append, group commit, rotation, recycling
//! - `reader`: one file, piece by piece
//! - `retire`: damaged bytes out of the way of later replays
//! - `recovery`: a run of files: what is replayed, what is cut, what is damaged

mod reader;
mod record;
mod recovery;
mod retire;
#[cfg(test)]
mod tests;
mod writer;

pub use record::{FORMAT_VERSION, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, RECORDS_START};
pub use recovery::{dump, replay, shards, verify};
pub use retire::retire;
pub use writer::LogWriter;

use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::types::{LogPosition, ProducerId, SeqNo};

/// How a log uses its disk.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// Usual size of a file; the next one is begun when a group would start beyond it.
    pub file_bytes: u64,
    /// Released files that are kept to be written again.
    pub spares_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { file_bytes: 64 << 20, spares_max: 3 }
    }
}

/// What the log knows about a batch besides its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Who numbered it.
    pub producer: ProducerId,
    /// Its number.
    pub seq: SeqNo,
    /// When it came, by the node's clock.
    pub received_ns: i64,
}

/// A record as replay gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Where it starts.
    pub position: LogPosition,
    /// Where the record after it starts.
    pub end: LogPosition,
    /// Who numbered it.
    pub producer: ProducerId,
    /// Its number.
    pub seq: SeqNo,
    /// When it came, by the node's clock.
    pub received_ns: i64,
    /// The payload as it came.
    pub payload: &'a [u8],
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Where the log ends: what [`LogWriter::resume`] wants.
    pub end: LogPosition,
    /// Records that were given.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// The torn tail, when there was one: what a crash left of records that were never acknowledged.
    pub cut: Option<Cut>,
    /// Records and headers that were durable once and are not readable now.
    pub damaged: Vec<Damage>,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// File, relative to the data directory.
    pub path: String,
    /// Where the last whole record ends.
    pub offset: u64,
    /// Bytes of remains behind it, as far as they can be told from older bytes of a recycled file.
    pub bytes: u64,
    /// What was wrong with the first of them.
    pub reason: &'static str,
    /// Producer and number of the first of them, when its header is readable.
    pub batch: Option<(ProducerId, SeqNo)>,
}

/// Bytes that were durable once and are not readable now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// File, relative to the data directory.
    pub path: String,
    /// Where they start.
    pub offset: u64,
    /// How many; 0 when a whole file of unknown length is missing.
    pub len: u64,
    /// Producer and number of the lost batch, when its header is readable.
    pub batch: Option<(ProducerId, SeqNo)>,
    /// Devices of that batch, as far as its bytes still tell them; empty until somebody looks.
    pub devices: Vec<String>,
    /// What was wrong.
    pub reason: &'static str,
}

/// Devices of a lost batch that a message names.
const DEVICES_SHOWN: usize = 8;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: the log was cut at offset {}: {} ({} bytes that were never acknowledged)",
            self.path, self.offset, self.reason, self.bytes
        )?;
        match self.batch {
            Some((producer, seq)) => write!(f, "; the first is batch {seq} of producer {producer}"),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged at offset {}: {} ({} bytes", self.path, self.offset, self.reason, self.len)?;
        match self.batch {
            Some((producer, seq)) => {
                write!(f, "; batch {seq} of producer {producer} is lost")?;
                let shown = self.devices.iter().take(DEVICES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(" ");
                match self.devices.len() {
                    0 => write!(f, ")"),
                    count if count <= DEVICES_SHOWN => write!(f, ", with rows of {shown})"),
                    count => write!(f, ", with rows of {shown} and {} more)", count - DEVICES_SHOWN),
                }
            }
            None => write!(f, "; the batches in them are lost)"),
        }
    }
}

/// Counters of a [`LogWriter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Records appended.
    pub records: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Groups committed.
    pub groups: u64,
    /// Bytes written to files, headers and filling included.
    pub bytes_written: u64,
    /// Syncs of files and folders.
    pub syncs: u64,
    /// Files begun.
    pub rotations: u64,
    /// Files begun over an old one.
    pub recycled: u64,
    /// Files there are, spares included.
    pub files: u64,
    /// Files that wait to be written again.
    pub spares: u64,
    /// Bytes of all files.
    pub file_bytes: u64,
}

/// A shard's files by rising generation, with their names.
///
/// # Errors
/// When the folder cannot be listed.
pub fn files(storage: &dyn Storage, shard: u32) -> Result<Vec<(u64, String)>> {
    let named = |generation| (generation, record::file_name(shard, generation));
    Ok(generations(storage, shard)?.into_iter().map(named).collect())
}

/// Generations of a shard's files, rising.
fn generations(storage: &dyn Storage, shard: u32) -> Result<Vec<u64>> {
    let names = storage.list("log").map_err(Error::io("list", "log"))?;
    let parsed = names.iter().filter_map(|name| record::parse_file_name(name));
    let mut generations: Vec<u64> = parsed.filter(|(of, _)| *of == shard).map(|(_, generation)| generation).collect();
    generations.sort_unstable();
    Ok(generations)
}
