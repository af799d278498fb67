//! Owns what the server needs of the engine; does not hold rows.

use bytes::Bytes;
use std::sync::Arc;
use tidewell_codec::Batch;
use tidewell_engine::{Durability, ProducerId, Refusal, SeqNo};

/// A batch on its way into a shard.
pub struct Append {
    /// Who numbered it.
    pub producer: ProducerId,
    /// Its number.
    pub seq: SeqNo,
    /// Its bytes, as they came.
    pub payload: Bytes,
    /// The same, decoded.
    pub batch: Batch,
    /// When it came, nanoseconds since 1970 UTC.
    pub received_ns: i64,
    /// What its acknowledgement promises.
    pub durability: Durability,
    /// Given back to the sink.
    pub ticket: u64,
    /// Told once how it ended.
    pub sink: Arc<dyn AppendSink>,
}

/// Is told how a batch ended.
pub trait AppendSink: Send + Sync {
    /// Called from the shard's thread; must not block.
    fn settled(&self, ticket: u64, outcome: Result<(), Refusal>);
}

/// The engine as the server sees it; tests put a slow or failing one in its place.
pub trait Store: Send + Sync + 'static {
    /// Shards of the data directory.
    fn shard_count(&self) -> u32;

    /// Whether the batch may be appended at all.
    ///
    /// # Errors
    /// Names the rule that it breaks.
    fn check(&self, batch: &Batch, now_ns: i64) -> Result<(), Refusal>;

    /// Hands a batch to its shard without waiting.
    ///
    /// # Errors
    /// When the shard does not take it; the sink is then not called.
    fn append(&self, request: Append) -> Result<(), Refusal>;

    /// The batch `seq` was refused for good and will not come: shards that refused it for now stop waiting for it. Goes
    /// through the same queues as batches.
    fn skip(&self, producer: ProducerId, seq: SeqNo);

    /// The highest number of `producer` that the shard of `device` has settled; 0 for none.
    fn last_settled(&self, producer: ProducerId, device: &str) -> u64;
}
