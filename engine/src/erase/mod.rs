//! Owns taking rows away: deletes, retention, dropped and renamed tables; files are rewritten by merges, not here.
//!
//! - `masks`: what is gone for readers though files still have it, found by device
//! - `delete`: deletes of a device or a range, and when one is done
//! - `retention`: where a table's rows are cut off
//! - `tables`: dropped and renamed tables
//! - `keeper`: the thread that looks after all of it
//!
//! A delete holds for what is in the log before it and for nothing that comes later. So it first puts the shard's rows into
//! segments; then one manifest edit names the next flush number: segments below it are masked, later ones are not. A
//! merge leaves masked rows out and notes in its output which erasures that file is clean of; an erasure is forgotten once
//! no file needs it.

mod delete;
pub(crate) mod keeper;
mod masks;
mod retention;
mod tables;

pub use delete::{Delete, pending_files};
pub use masks::Masks;
pub use tables::TableFigures;
