//! Owns what is handed to a shard: one batch and the way back to its sender.

use std::sync::Arc;

use bytes::Bytes;
use tidewell_codec::Batch;

use crate::error::Refusal;
use crate::types::{Durability, ProducerId, SeqNo};

/// Where a batch's fate is told.
pub trait AppendSink: Send + Sync {
    /// The batch with `ticket` is on disk, synced and visible (or, at [`Durability::Received`], in memory), or was
    /// refused. Called from the shard's thread: must not block.
    fn settled(&self, ticket: u64, outcome: Result<(), Refusal>);
}

/// One checked batch on its way into a shard.
pub struct Append {
    /// Whose batch it is.
    pub producer: ProducerId,
    /// Its number.
    pub seq: SeqNo,
    /// The batch's bytes, which go into the log as they came.
    pub payload: Bytes,
    /// The same batch, decoded.
    pub batch: Batch,
    /// When it arrived, by the node's clock.
    pub received_ns: i64,
    /// What the acknowledgement promises.
    pub durability: Durability,
    /// The sender's own number for this batch, handed back with the outcome.
    pub ticket: u64,
    /// Who is told.
    pub sink: Arc<dyn AppendSink>,
}

impl Append {
    /// Tells the sender.
    pub fn settle(&self, outcome: Result<(), Refusal>) {
        self.sink.settled(self.ticket, outcome);
    }
}
