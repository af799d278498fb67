//! Owns how answers are computed: device by device, in order, within bounds; does not know what is computed.
//!
//! - [`builder`]: gathers rows into batches
//! - [`ordered`]: devices on several threads, answers in order
//! - [`budget`]: cancellation, time, rows
//! - [`memory`]: what is held, against the node's memory

mod budget;
mod builder;
mod memory;
mod ordered;

pub(crate) use budget::{Budget, Metered};
pub(crate) use builder::Builder;
pub(crate) use memory::{Counted, Needs, QueryMemory, block_bytes};
pub(crate) use ordered::{TASKS_AHEAD_BATCHES, run};

use crate::error::QueryError;

/// What one step of a device's work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is more; the batch may be full.
    More,
    /// The device is done.
    Done,
}

/// The work of a query on many devices, each for itself.
///
/// Work is cut into steps of about a block, so that it can stop between them and so that memory stays bounded.
pub(crate) trait Work: Send + Sync + 'static {
    /// Where the work on one device stands.
    type Cursor: Send;
    /// Memory that one thread reuses from device to device.
    type Space: Default + Send;

    /// Number of devices.
    fn device_count(&self) -> usize;
    /// An empty batch.
    fn builder(&self) -> Builder;
    /// Begins with device `device`; `None` when it has nothing to answer.
    fn open(&self, device: usize, space: &mut Self::Space) -> Result<Option<Self::Cursor>, QueryError>;
    /// Goes on for about a block, or until `out` is full.
    fn step(&self, cursor: &mut Self::Cursor, space: &mut Self::Space, out: &mut Builder) -> Result<Step, QueryError>;
}
