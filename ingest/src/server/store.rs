//! Owns what the server needs of the engine; does not hold rows.

use tidewell_codec::Batch;
use tidewell_engine::{Append, Engine, ProducerId, Refusal, SeqNo};

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
    fn last_settled(&self, producer: ProducerId, device: &str) -> SeqNo;
}

impl Store for Engine {
    fn shard_count(&self) -> u32 {
        Engine::shard_count(self)
    }

    fn check(&self, batch: &Batch, now_ns: i64) -> Result<(), Refusal> {
        Engine::check(self, batch, now_ns)
    }

    fn append(&self, request: Append) -> Result<(), Refusal> {
        Engine::append(self, request)
    }

    fn skip(&self, producer: ProducerId, seq: SeqNo) {
        Engine::skip(self, producer, seq);
    }

    fn last_settled(&self, producer: ProducerId, device: &str) -> SeqNo {
        Engine::last_settled(self, producer, device)
    }
}
