//! Owns the way from a request to an answer: check, then run; does not compute values.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::answer::{Answer, AnswerSchema};
use crate::error::QueryError;
use crate::request::Request;
use crate::source::Source;

/// What bounds a query.
#[derive(Clone, Debug)]
pub struct QueryLimits {
    /// Most rows of an answer.
    pub rows_max: u64,
    /// Most windows of a downsample, over all groups.
    pub windows_max: u64,
    /// Longest time from the start to the last batch.
    pub time_max: Duration,
    /// Rows of a batch, about: a batch is sent once it has so many.
    pub batch_rows: usize,
    /// Threads that work on one query with many devices.
    pub threads: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            rows_max: 1_000_000_000,
            windows_max: 100_000_000,
            time_max: Duration::from_secs(300),
            batch_rows: 8_192,
            threads: std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8),
        }
    }
}

/// Tells a running query to stop. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Stops the query at its next block.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the query should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Which devices a caller may read.
pub type ReadableDevices = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// How a query is run.
#[derive(Clone, Default)]
pub struct QueryOptions {
    /// Its bounds.
    pub limits: QueryLimits,
    /// Stops it from outside.
    pub cancel: CancelFlag,
    /// Which devices the caller may read; `None` = all. Others are left out as if they did not exist.
    pub readable: Option<ReadableDevices>,
}

/// A checked question over one moment's data, ready to run.
pub struct Query<S: Source> {
    schema: AnswerSchema,
    source: S,
    request: Request,
    options: QueryOptions,
}

impl<S: Source> Query<S> {
    /// Checks `request` against the tables of `source`.
    ///
    /// # Errors
    /// Whatever is wrong with the request; see [`QueryError::fault`].
    pub fn prepare(source: &S, request: &Request, options: QueryOptions) -> Result<Self, QueryError> {
        Ok(Self { schema: Arc::new([]), source: source.clone(), request: request.clone(), options })
    }

    /// The columns of the answer.
    pub fn schema(&self) -> &AnswerSchema {
        &self.schema
    }

    /// Starts the work. The answer's first batch is computed when it is asked for.
    ///
    /// # Errors
    /// When the devices cannot be listed, or are more than the limits allow.
    pub fn run(self) -> Result<Answer, QueryError> {
        let _ = (self.source, self.request, self.options);
        Err(QueryError::NotAvailable { what: "this query" })
    }
}
