//! Owns what the query address needs of the node behind it; does not implement it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use tidewell_codec::Batch;
use tidewell_engine::memory::MemoryBudget;
use tidewell_engine::quarantine::{Quarantined, Released};
use tidewell_engine::{
    Append, Delete, DeviceInfo, Error, Pins, Refusal, Retention, Skipped, TableFigures, TableSchema,
};
use tonic::Status;

use super::auth::DeviceScope;
use crate::query::CancelFlag;
use crate::request::Request;

/// The record batches of an answer, computed one at a time as they are asked for. Asking may block.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch, Status>> + Send>;

/// Lists of devices, sorted by id over all of them, read some at a time. Asking may block.
pub type DevicePages = Box<dyn Iterator<Item = Result<Vec<DeviceInfo>, Error>> + Send>;

/// A checked question over one moment of the data.
pub struct Plan {
    /// The columns of its answer.
    pub schema: SchemaRef,
    /// Whether it surely takes well under a millisecond to compute.
    pub small: bool,
    /// The answer. Nothing is computed before the first batch is asked for.
    pub batches: Batches,
    /// Where the answer notes what it goes without because it cannot be read.
    pub skipped: Option<Arc<Skipped>>,
    /// What it keeps in memory that has been written to disk since.
    pub pins: Pins,
}

/// A node as the query address sees it. All calls may block, and see every row acknowledged before.
pub trait Store: Send + Sync + 'static {
    /// Checks a question against the tables, restricted to the devices in `scope`; must not block for long.
    /// `cancel` is set when nobody wants the answer any more; the computation looks at it often.
    ///
    /// # Errors
    /// The status to send: the caller's fault, unless a file is damaged.
    fn plan(&self, request: &Request, scope: &DeviceScope, cancel: CancelFlag) -> Result<Plan, Status>;

    /// The node's memory, of which queries have a share; `None` counts nothing.
    fn memory(&self) -> Option<Arc<MemoryBudget>> {
        None
    }

    /// All tables, sorted by name.
    fn tables(&self) -> Vec<Arc<TableSchema>>;

    /// Whether a device in `scope` has rows in `table`.
    ///
    /// # Errors
    /// When a file is damaged.
    fn has_devices(&self, table: &str, scope: &DeviceScope) -> Result<bool, Error>;

    /// All devices, sorted by id.
    fn devices(&self) -> DevicePages;

    /// Rows that came from too far in the future, of the devices that are `wanted`.
    ///
    /// # Errors
    /// When a file is damaged.
    fn quarantined(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Quarantined>, Error>;

    /// Puts a device's rows of that kind into `table`, those whose time has come.
    ///
    /// # Errors
    /// When none waits, a file is damaged or the disk refuses.
    fn release_quarantined(&self, table: &str, device: &str) -> Result<Released, Error>;

    /// Deletes a device's rows of that kind; returns their number.
    ///
    /// # Errors
    /// As [`Store::release_quarantined`].
    fn drop_quarantined(&self, table: &str, device: &str) -> Result<u64, Error>;

    /// Replaces the attributes of a device.
    ///
    /// # Errors
    /// When a bound is broken or the disk refuses.
    fn set_attributes(&self, device: &str, attributes: BTreeMap<String, String>) -> Result<(), Error>;

    /// Number of shards: a batch holds devices of one.
    fn shard_count(&self) -> u32;

    /// Now, by the node's clock.
    fn now_ns(&self) -> i64;

    /// Checks a batch before it is appended.
    ///
    /// # Errors
    /// Types that contradict the table, or times too far in the future.
    fn check(&self, batch: &Batch) -> Result<(), Refusal>;

    /// Hands a checked batch to its shard. Does not block.
    ///
    /// # Errors
    /// When the shard takes no more for now.
    fn append(&self, append: Append) -> Result<(), Refusal>;

    /// Writes memtables to segments.
    ///
    /// # Errors
    /// When the disk refuses.
    fn flush(&self) -> Result<(), Error>;

    /// Merges segments now.
    ///
    /// # Errors
    /// When the disk refuses or a file is damaged.
    fn compact(&self) -> Result<(), Error>;

    /// Takes rows away.
    ///
    /// # Errors
    /// When a bound is broken, a table is not there, or the disk refuses.
    fn delete(&self, deletes: &[Delete]) -> Result<(), Error>;

    /// Tables with their sizes and retention, sorted by name.
    fn table_figures(&self) -> Vec<TableFigures>;

    /// Sets for how long a table keeps what.
    ///
    /// # Errors
    /// When the table is not there or the disk refuses.
    fn set_retention(&self, table: &str, retention: Retention) -> Result<(), Error>;

    /// Takes a table away.
    ///
    /// # Errors
    /// When the table is not there or the disk refuses.
    fn drop_table(&self, table: &str) -> Result<(), Error>;

    /// Gives a table another name.
    ///
    /// # Errors
    /// When the table is not there, the name is taken, or the disk refuses.
    fn rename_table(&self, from: &str, to: &str) -> Result<(), Error>;

    /// Counters and sizes as one JSON object.
    fn stats(&self) -> serde_json::Value;

    /// What makes backups, when the node is told where they may go.
    fn backups(&self) -> Option<Arc<dyn Backups>> {
        None
    }
}

/// Makes and keeps backups. All calls may block for long; `to` is one of the node's destinations, or none for the first.
pub trait Backups: Send + Sync + 'static {
    /// Makes a backup of this moment.
    ///
    /// # Errors
    /// When the destination is not one of the node's, or cannot be written.
    fn make(&self, to: Option<&str>) -> Result<serde_json::Value, Status>;

    /// Completed backups, oldest first.
    ///
    /// # Errors
    /// When the destination is not one of the node's, or cannot be read.
    fn list(&self, to: Option<&str>) -> Result<Vec<serde_json::Value>, Status>;

    /// Removes all backups but the newest `keep`, and the files that only they had.
    ///
    /// # Errors
    /// As [`Backups::make`].
    fn prune(&self, to: Option<&str>, keep: usize) -> Result<serde_json::Value, Status>;
}
