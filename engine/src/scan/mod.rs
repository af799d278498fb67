//! Owns turning blocks and rows of one device into parts: disjoint in time, in time order, later writes won.
//!
//! - [`mod@merge`]: rows in memory, the one place where "later non-null wins" is decided
//! - [`mod@plan`]: which blocks and rows must be merged, and which can be handed on undecoded
//! - [`mod@cache`]: blocks that stay decoded
//! - [`mod@narrow`]: a block's columns in few bytes, out of the cache or the file
//! - [`mod@mask`]: times at which rows of a source are gone
//! - [`mod@part`]: one piece of an answer, decoded when it is loaded

pub mod cache;
pub mod mask;
pub mod merge;
pub mod narrow;
pub mod part;
pub mod plan;

#[cfg(test)]
mod tests;

pub use cache::{BlockCache, CacheFigures};
pub use mask::Mask;
pub use merge::{merge, sort_unique};
pub use narrow::NarrowRows;
pub use part::Part;
pub(crate) use part::Without;
pub use plan::{Source, plan};
