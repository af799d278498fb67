//! Owns a shard: the only writer of its devices; does not decode batches and does not read for queries.

pub mod append;
pub mod core;
mod drive;
pub mod heads;
pub(crate) mod running;
pub mod stats;
#[cfg(feature = "simulation")]
pub(crate) mod stepped;
mod turn;
pub mod view;
pub mod worker;

pub use append::{Append, AppendSink};
pub use heads::ProducerHeads;
pub use running::{SEGMENT_LEVELS, ShardFigures};
pub use stats::ShardStats;
pub use view::{LiveSegment, ShardView, SharedView};
