//! Owns an engine without threads: the same shards, flushes, merges and retention, moved step by step by one caller. For
//! simulations only; a dropped engine is one whose process died.
//!
//! Calls that wait for a shard move all shards until the answer is there. They may be made while a merge or a flush is
//! under way, from within the storage that it writes to: that is how a simulation lets things happen at the same time.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::error::Result;
use crate::recovery::RecoveryReport;
use crate::shard::stepped::{SteppedShard, Stepping};
use crate::shard::worker::Run;
use crate::storage::Storage;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The shard takes what is queued as one group.
    Group(u32),
    /// The shard's next flush.
    Flush(u32),
    /// The shard's next due merge of flushed segments.
    MergeFlushed(u32),
    /// The shard's next due merge within a partition.
    MergePartition(u32),
    /// What the keeper of retention does at a tick.
    Keep,
}

impl Engine {
    /// As [`Engine::open`], without threads.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_stepped(
        storage: Arc<dyn Storage>,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RecoveryReport)> {
        Self::open_as(storage, config, clock, Run::Steps(Arc::new(Stepping::default())))
    }

    /// Does one step; false when there was nothing to do.
    ///
    /// # Errors
    /// A failed merge, or a failed write of the keeper. Failures of groups and flushes are told to whoever waits for them.
    pub fn step(&self, step: Step) -> Result<bool> {
        match step {
            Step::Group(shard) => Ok(self.stepped(shard).step_worker()),
            Step::Flush(shard) => Ok(self.stepped(shard).step_flush()),
            Step::MergeFlushed(shard) => self.merges.of_shard(shard).merge_flushed(self.now_ns()),
            Step::MergePartition(shard) => self.merges.of_shard(shard).merge_partition(self.now_ns()),
            Step::Keep => self.keeper.keep().map(|()| true),
        }
    }

    fn stepped(&self, shard: u32) -> Arc<SteppedShard> {
        match &self.run {
            Run::Steps(stepping) => stepping.shard(shard),
            Run::Threads => panic!("an engine with threads moves by itself"),
        }
    }
}
