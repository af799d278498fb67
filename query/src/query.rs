//! Owns the way from a request to an answer: check, then run; does not compute values.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidewell_engine::TableSchema;
use tidewell_engine::memory::MemoryBudget;

use crate::answer::{Answer, AnswerSchema};
use crate::downsample::{DeviceWork, GroupBatches, Grouped};
use crate::error::QueryError;
use crate::execute::{self, Budget, Counted, Metered, Needs, TASKS_AHEAD_BATCHES, block_bytes};
use crate::latest::LatestWork;
use crate::prepare::{self, Prepared, Question, RangePlan};
use crate::range::RangeWork;
use crate::request::{Group, Request};
use crate::source::{Source, Table};
use crate::threshold::{DevicesWork, IntervalWork};

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
    /// The node's memory, of which queries have a share; `None` counts nothing.
    pub memory: Option<Arc<MemoryBudget>>,
}

/// The processors that this process may use. Asking costs more than a small query: the system reads several files.
static THREADS: OnceLock<usize> = OnceLock::new();

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            rows_max: 1_000_000_000,
            windows_max: 100_000_000,
            time_max: Duration::from_secs(300),
            batch_rows: 8_192,
            threads: *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8)),
            memory: None,
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
    prepared: Prepared<S::Table>,
    source: S,
    options: QueryOptions,
}

impl<S: Source> Query<S> {
    /// Checks `request` against the tables of `source`.
    ///
    /// # Errors
    /// Whatever is wrong with the request; see [`QueryError::fault`].
    pub fn prepare(source: &S, request: &Request, options: QueryOptions) -> Result<Self, QueryError> {
        let prepared = prepare::prepare(source, request, &options.limits)?;
        Ok(Self { prepared, source: source.clone(), options })
    }

    /// The columns of the answer.
    pub fn schema(&self) -> &AnswerSchema {
        &self.prepared.schema
    }

    /// Starts the work, and the clock of its time limit. The first batch is computed when it is asked for.
    ///
    /// # Errors
    /// When the devices cannot be listed, or are more than the limits allow.
    pub fn run(self) -> Result<Answer, QueryError> {
        let Prepared { table, devices, schema, question } = self.prepared;
        let options = self.options;
        let mut budget = Budget::new(&options);
        let devices = devices.resolve(&self.source, &table, options.readable.as_ref())?;
        let needs = needs(&question, table.schema(), devices.len());
        let ahead = if devices.len() > 1 { budget.threads * TASKS_AHEAD_BATCHES } else { 0 };
        let mut threads = budget.threads.min(devices.len().max(1));
        let held = budget.memory.hold_threads(&mut threads, ahead, needs)?;
        budget.threads = threads;
        let memory = budget.memory.clone();
        let (batch_rows, rows_max) = (options.limits.batch_rows, options.limits.rows_max);
        let shown = schema.clone();
        let mut limit = None;
        let batches = match question {
            Question::Range { rows: RangePlan { start, end, scan, selected, condition, rule }, limit: asked } => {
                limit = asked;
                let of_one_device = asked.unwrap_or(u64::MAX);
                let work_budget = budget.clone();
                let work = RangeWork {
                    table,
                    devices,
                    schema,
                    start,
                    end,
                    scan,
                    selected,
                    condition,
                    rule,
                    limit: of_one_device,
                    batch_rows,
                    budget: work_budget,
                };
                execute::run(work, budget)
            }
            Question::Latest { end, fields } => {
                execute::run(LatestWork { table, devices, schema, end, fields, batch_rows }, budget)
            }
            Question::Intervals { start, end, condition, rule, measured } => {
                let work = IntervalWork { table, devices, schema, start, end, condition, rule, measured, batch_rows };
                execute::run(work, budget)
            }
            Question::Devices { start, end, condition, rule } => {
                let work = DevicesWork { table, devices, schema, start, end, condition, rule, batch_rows };
                execute::run(work, budget)
            }
            Question::Downsample { plan, group } => {
                let windows = plan.windows.count();
                match group {
                    Group::Device => {
                        prepare::check_windows(windows, devices.len(), &options.limits)?;
                        execute::run(DeviceWork { table, devices, plan: *plan }, budget)
                    }
                    Group::All | Group::Attribute(_) => {
                        let groups = self::groups(&self.source, &group, devices);
                        prepare::check_windows(windows, groups.len(), &options.limits)?;
                        Box::new(GroupBatches::new(table, *plan, groups, budget))
                    }
                }
            }
        };
        let counted = Counted::new(Metered::new(batches, limit, rows_max), &memory, held)?;
        Ok(Answer::new(shown, Box::new(counted)))
    }
}

/// What a question holds in memory while it is answered.
fn needs(question: &Question, schema: &TableSchema, devices: usize) -> Needs {
    let none: &[usize] = &[];
    let (scanned, other) = match question {
        Question::Range { rows, .. } => (&rows.scan[..], rows.rule.as_ref().map_or(none, |(_, rule)| rule.fields())),
        Question::Latest { fields, .. } => (&fields[..], none),
        Question::Intervals { condition, .. } | Question::Devices { condition, .. } => (condition.fields(), none),
        Question::Downsample { plan, .. } => (&plan.scan[..], none),
    };
    let block = |fields: &[usize]| block_bytes(fields.iter().map(|&field| schema.fields[field].field_type));
    let block_bytes = block(scanned).max(block(other));
    let thread_bytes = match question {
        // Rows are decoded into one place and gathered in another.
        Question::Range { .. } => 2 * block_bytes,
        Question::Downsample { plan, group: Group::All | Group::Attribute(_) } => block_bytes + plan.slices_bytes(),
        _ => block_bytes,
    };
    Needs { devices, block_bytes, thread_bytes }
}

/// Puts devices together by `group`, in order of the groups' names.
fn groups<S: Source>(source: &S, group: &Group, devices: Vec<Arc<str>>) -> Vec<Grouped> {
    let mut groups: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
    for device in devices {
        let name = match group {
            Group::Attribute(attribute) => {
                let attributes = source.attributes(&device);
                // Devices without the attribute go together under the empty name.
                attributes.and_then(|a| a.get(attribute).map(|v| v.as_str().into())).unwrap_or_default()
            }
            _ => group.to_string().into(),
        };
        groups.entry(name).or_default().push(device);
    }
    groups.into_iter().map(|(name, devices)| Grouped { name, devices }).collect()
}

#[cfg(test)]
mod tests;
