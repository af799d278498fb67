//! Owns the bounds of a running query: cancellation, time, rows; does not schedule.

use std::time::{Duration, Instant};

use crate::answer::{AnswerBatch, AnswerColumn, Batches};
use crate::error::QueryError;
use crate::execute::QueryMemory;
use crate::query::{CancelFlag, QueryOptions};

/// What every step of a query checks.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    cancel: CancelFlag,
    /// Set when the answer is dropped or failed, so that other threads of the same query stop.
    stop: CancelFlag,
    deadline: Instant,
    time_max: Duration,
    pub threads: usize,
    pub memory: QueryMemory,
}

impl Budget {
    /// Starts the clock.
    pub fn new(options: &QueryOptions) -> Self {
        let now = Instant::now();
        let time_max = options.limits.time_max;
        Self {
            cancel: options.cancel.clone(),
            stop: CancelFlag::default(),
            deadline: now.checked_add(time_max).unwrap_or(now + Duration::from_secs(86_400 * 365)),
            time_max,
            threads: options.limits.threads.max(1),
            memory: QueryMemory::new(options.limits.memory.clone()),
        }
    }

    /// Fails when the query should stop.
    pub fn check(&self) -> Result<(), QueryError> {
        if self.cancel.is_cancelled() || self.stop.is_cancelled() {
            return Err(QueryError::Cancelled);
        }
        if Instant::now() > self.deadline {
            return Err(QueryError::TimedOut { limit: self.time_max });
        }
        Ok(())
    }

    /// Stops all threads of this query at their next step.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// Counts the rows of an answer: cuts it at the caller's limit, refuses it at the node's.
pub(crate) struct Metered<B> {
    inner: B,
    rows: u64,
    limit: Option<u64>,
    rows_max: u64,
}

impl<B: Batches> Metered<B> {
    /// `limit` is what the caller asked for, `rows_max` what the node allows.
    pub fn new(inner: B, limit: Option<u64>, rows_max: u64) -> Self {
        Self { inner, rows: 0, limit, rows_max }
    }
}

impl<B: Batches> Batches for Metered<B> {
    fn next_batch(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        let left = self.limit.map_or(u64::MAX, |limit| limit - self.rows);
        if left == 0 {
            return Ok(None);
        }
        let Some(mut batch) = self.inner.next_batch()? else { return Ok(None) };
        if batch.rows as u64 > left {
            truncate(&mut batch, usize::try_from(left).expect("less than the rows of a batch"));
        }
        self.rows += batch.rows as u64;
        if self.rows > self.rows_max {
            return Err(QueryError::TooManyRows { max: self.rows_max });
        }
        Ok(Some(batch))
    }
}

fn truncate(batch: &mut AnswerBatch, rows: usize) {
    for column in &mut batch.columns {
        match column {
            AnswerColumn::Names(names) => names.truncate(rows),
            AnswerColumn::Values(values) => {
                let mut cut = tidewell_codec::Column::new(values.field_type());
                cut.extend_from(values, 0..rows);
                *values = cut;
            }
        }
    }
    batch.rows = rows;
}
