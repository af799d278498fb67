//! Owns what a query counts against the node's memory; does not allocate.

use std::collections::VecDeque;
use std::sync::Arc;

use tidewell_engine::FieldType;
use tidewell_engine::limits::COLD_BLOCK_ROWS;
use tidewell_engine::memory::{Class, Held, MemoryBudget};

use crate::answer::{AnswerBatch, AnswerColumn, Batches};
use crate::error::QueryError;

/// What a query takes before it has read anything: threads, queues, messages.
const BASE_BYTES: u64 = 64 << 10;
/// A device's id in a list.
const DEVICE_BYTES: u64 = 56;
/// Bytes of a text value, about.
const TEXT_BYTES: u64 = 48;
/// Batches between the computation and the network: two wait, one is encoded, one is being sent, one is being made.
const BATCHES_UNDER_WAY: usize = 5;

/// The node's memory as a query sees it; without one nothing is counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueryMemory(Option<Arc<MemoryBudget>>);

/// Bytes that a part of a query holds.
pub(crate) type Charge = Option<Held>;

impl QueryMemory {
    pub fn new(budget: Option<Arc<MemoryBudget>>) -> Self {
        Self(budget)
    }

    /// Counts `bytes`, until the charge goes.
    pub fn hold(&self, bytes: u64) -> Result<Charge, QueryError> {
        match &self.0 {
            Some(budget) => budget.hold(Class::Query, bytes).map(Some).map_err(QueryError::Memory),
            None => Ok(None),
        }
    }

    /// Counts what `threads` threads need for their blocks, and for the batches that they have ready before their turn;
    /// a query that would take more than half of what is free goes on with one thread.
    pub fn hold_threads(&self, threads: &mut usize, ahead: usize, needs: Needs) -> Result<Charge, QueryError> {
        let Some(budget) = &self.0 else { return Ok(None) };
        let fixed = BASE_BYTES + needs.devices as u64 * DEVICE_BYTES;
        let all = |threads: usize| needs.thread_bytes.saturating_mul(threads as u64);
        let ahead = needs.block_bytes.saturating_mul(ahead as u64);
        if *threads > 1 && fixed.saturating_add(all(*threads)).saturating_add(ahead) > budget.free(Class::Query) / 2 {
            *threads = 1;
        }
        self.hold(fixed.saturating_add(all(*threads)))
    }
}

/// What the threads of a query need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// Devices in its list.
    pub devices: usize,
    /// Bytes of the rows of one decoded block.
    pub block_bytes: u64,
    /// Bytes that each thread keeps.
    pub thread_bytes: u64,
}

/// Bytes of a decoded block of columns of these types, times included.
pub(crate) fn block_bytes(types: impl Iterator<Item = FieldType>) -> u64 {
    let row = types.fold(8, |sum, field_type| {
        sum + match field_type {
            FieldType::F64 | FieldType::I64 => 8,
            FieldType::Bool => 1,
            FieldType::Utf8 => TEXT_BYTES,
        }
    });
    row * COLD_BLOCK_ROWS as u64
}

/// Bytes of a batch.
pub(crate) fn batch_bytes(batch: &AnswerBatch) -> u64 {
    let bytes: usize = batch
        .columns
        .iter()
        .map(|column| match column {
            AnswerColumn::Names(names) => names.run_count() * 24,
            AnswerColumn::Values(values) => values.memory_bytes(),
        })
        .sum();
    bytes as u64
}

/// Counts the batches that are on their way to the caller, which nobody tells when they have left: the last few.
pub(crate) struct Counted<B> {
    inner: B,
    /// What the query as a whole holds.
    _query: Charge,
    under_way: VecDeque<u64>,
    held: Charge,
}

impl<B: Batches> Counted<B> {
    pub fn new(inner: B, memory: &QueryMemory, query: Charge) -> Result<Self, QueryError> {
        Ok(Self { inner, _query: query, under_way: VecDeque::new(), held: memory.hold(0)? })
    }
}

impl<B: Batches> Batches for Counted<B> {
    fn next_batch(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        let batch = self.inner.next_batch()?;
        if let (Some(held), Some(batch)) = (&mut self.held, &batch) {
            if self.under_way.len() == BATCHES_UNDER_WAY {
                self.under_way.pop_front();
            }
            self.under_way.push_back(batch_bytes(batch));
            held.resize(self.under_way.iter().sum()).map_err(QueryError::Memory)?;
        }
        Ok(batch)
    }
}
