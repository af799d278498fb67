//! Owns summaries: aggregates of a segment's rows per device, field and step; does not know windows.
//!
//! - [`types`]: steps of the clock, aggregates per step, and the stretches that a scan by steps gives
//!
//! A summary tells what lies in *its* segment. It may stand for rows only where nothing else has any at the same time;
//! [`crate::TableView::scan_steps`] decides that.

pub mod types;

pub use types::{Step, StepField, StepPart, StepRows, StepSums, Stretch};
