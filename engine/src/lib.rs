//! Durable, ordered samples: per-device logs, memtables, compressed segments, scans.
//!
//! Plain threads, no async, no network, no Arrow. Modules in the order in which data flows:
//!
//! - [`types`], [`error`]: the words that all others use
//! - [`storage`]: the only door to files
//! - [`segment`]: immutable files of column blocks
//! - [`scan`]: blocks and rows of one device, merged by time

pub mod error;
pub mod scan;
pub mod segment;
pub mod storage;
pub mod types;

pub use error::{Error, Refusal, RefusalCode, Result};
pub use types::*;
