//! Durable, ordered samples: per-device logs, memtables, compressed segments, scans.
//!
//! Plain threads, no async, no network, no Arrow. A batch that was decoded once goes through the modules in this order:
//!
//! - [`engine`]: open, check, append, snapshot, close; [`config`] and [`limits`] bound it, [`catalog`] knows the tables
//! - [`shard`]: one thread, the only writer of its devices
//! - [`device_log`]: the write-ahead logs of a shard's devices, in shared files with one sync per group
//! - [`memtable`]: rows that are not in a segment yet
//! - [`segment`]: immutable files of compressed columns with zone maps, read through mmap
//! - [`erase`]: deletes, retention, dropped tables: what is gone for readers before files are rewritten
//! - [`upkeep`]: memtables into segments, small segments into large ones
//! - [`manifest`]: the only truth about which segments exist; [`recovery`] starts from it
//! - [`quarantine`]: rows too far in the future, apart from all others
//! - [`registry`]: what operators said of devices
//! - [`snapshot`], [`scan`]: what a reader sees at one moment, newest write of each field first
//! - [`memory`]: the one limit on memory, and each holder's share; [`allocator`]: what freed memory may be kept
//! - [`summary`]: aggregates per step of the clock, beside the segments that merges write
//! - [`totals`]: how numbers are added up, for whoever sums rows
//! - [`damage`]: what is known of places that cannot be read, and answers that went without them
//! - [`storage`]: the only door to files; [`clock`]: the only clock
//! - [`backup`]: all that makes the directory again as it was at one moment
//! - `stepped` (feature `simulation`): the same engine without threads, moved by hand
//! - `sync`: the locks and atomics of the engine
//! - [`verify`]: every checksum and invariant, offline; [`repair`]: what to do about it
//!
//! It is *not* a server and *not* a query engine: see the `ingest` and `query` crates.

pub mod allocator;
pub mod backup;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod damage;
pub mod device_log;
pub mod engine;
pub mod erase;
pub mod error;
pub mod limits;
pub mod manifest;
pub mod memory;
pub mod memtable;
pub mod quarantine;
pub mod recovery;
pub mod registry;
pub mod repair;
pub mod scan;
pub mod segment;
pub mod shard;
pub mod snapshot;
#[cfg(feature = "simulation")]
pub mod stepped;
pub mod storage;
pub mod summary;
mod sync;
pub mod totals;
pub mod types;
pub mod upkeep;
pub mod verify;

pub use backup::BackupView;
pub use config::EngineConfig;
pub use damage::{DamageReport, DamagedPlace, SetAside, Skipped};
pub use engine::Engine;
pub use erase::{Delete, TableFigures};
pub use error::{Error, Refusal, RefusalCode, Result};
pub use manifest::{Erasure, Retention};
pub use recovery::RecoveryReport;
pub use registry::{Attributes, Registry};
pub use scan::{BlockCache, CacheFigures, NarrowRows, Part};
pub use shard::{Append, AppendSink, SEGMENT_LEVELS, ShardFigures};
pub use snapshot::{DeviceInfo, DevicePages, Newest, Pins, Snapshot, TableView};
pub use summary::{Step, StepField, StepPart, StepRows, StepSums, Stretch};
pub use types::*;
