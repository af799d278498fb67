//! Owns summaries: aggregates of a segment's rows per device, field and step of the clock; does not know windows.
//!
//! - [`types`]: steps, aggregates per step, and the stretches that a scan by steps gives
//! - `aggregate`: what rows that pass come to per step; `build`: that for a whole segment while it is written
//! - `entry`, `format`: the bytes (`docs/format/summary.md`); [`reader`], `writer`: files of them
//! - [`live`]: which summaries a reader sees; [`plan`]: where they may stand for rows
//!
//! A summary tells what lies in *its* segment. It may stand for rows only where nothing else has any at the same time.

mod aggregate;
mod build;
mod dump;
mod entry;
mod format;
pub mod live;
pub mod plan;
pub mod reader;
pub mod types;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use build::rewrite_without;
pub use build::{SummaryBuild, build_for_segment};
pub use dump::dump;
pub(crate) use entry::{Entry, STEPS_MAX};
pub use live::LiveSummary;
pub use reader::{Summary, SummaryEntry};
pub use types::{Step, StepField, StepPart, StepRows, StepSums, Stretch};
pub use verify::verify;

/// What the manifest knows about a summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryMeta {
    /// Its number, never used again, not by a segment either.
    pub id: u64,
    /// The segment whose rows it tells of. When that is gone, the summary stands for its rows.
    pub segment: u64,
    /// The shard that wrote it.
    pub shard: u32,
    /// The table.
    pub table: Arc<str>,
    /// The length of its steps.
    pub step: Step,
    /// Smallest flush number of the rows.
    pub seq_min: u64,
    /// Largest flush number of the rows.
    pub seq_max: u64,
    /// Steps of all devices.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Time of the first row.
    pub time_min: i64,
    /// Time of the last row.
    pub time_max: i64,
}

/// The file of summary `id`, relative to the data directory.
pub fn summary_name(id: u64) -> String {
    format!("{}/{id:016x}.sum", crate::segment::SEGMENT_DIR)
}

/// The id of the summary called `name`, with or without its folder; `None` for any other file.
pub fn summary_id(name: &str) -> Option<u64> {
    let stem = name.rsplit('/').next()?.strip_suffix(".sum")?;
    let canonical = stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    canonical.then(|| u64::from_str_radix(stem, 16).ok()).flatten()
}
