//! Owns the way from a request over stored data to record batches on demand; does not send them.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use tidewell_engine::Pins;
use tonic::Status;

use super::auth::DeviceScope;
use super::status::query_status;
use super::store::Plan;
use crate::answer::Answer;
use crate::error::QueryError;
use crate::export::{answer_schema, record_batch};
use crate::query::{CancelFlag, Query, QueryLimits, QueryOptions};
use crate::request::{DeviceSelection, Request};
use crate::source::{Part, Source, Table};

/// Values (rows times fields) that a core decodes and aggregates well within a millisecond, even from the cold tier.
const SMALL_VALUES_MAX: usize = 1 << 17;
/// Devices of a query that is looked at closely enough to be called small.
const SMALL_DEVICES_MAX: usize = 8;

/// Checks `request` against `source` and prepares its answer. `look` says whether listing a device's blocks is cheap
/// enough to find out if the answer is small; without looking it is taken for large.
///
/// # Errors
/// The status to send: the caller's fault, unless a file is damaged.
pub fn plan<S: Source>(
    source: &S,
    request: &Request,
    scope: &DeviceScope,
    limits: QueryLimits,
    cancel: CancelFlag,
    look: bool,
) -> Result<Plan, Status> {
    let readable = match scope {
        DeviceScope::All => None,
        DeviceScope::Patterns(_) => {
            let scope = scope.clone();
            Some(std::sync::Arc::new(move |device: &str| scope.contains(device)) as _)
        }
    };
    let options = QueryOptions { limits, cancel, readable };
    let query = Query::prepare(source, request, options).map_err(|error| query_status(&error))?;
    let schema = answer_schema(query.schema());
    let small = look && is_small(source, request, scope).map_err(|error| query_status(&error))?;
    let batches = Box::new(QueryBatches { schema: schema.clone(), step: Step::Prepared(Box::new(query)) });
    Ok(Plan { schema, small, batches, skipped: None, pins: Pins::default() })
}

/// Whether few rows of few named devices can be touched at all.
fn is_small<S: Source>(source: &S, request: &Request, scope: &DeviceScope) -> Result<bool, QueryError> {
    let (devices, start, end, fields) = match request {
        Request::Range(r) => (&r.devices, r.start.0, r.end.0, &r.fields),
        Request::Latest(r) => (&r.devices, i64::MIN, r.as_of.map_or(i64::MAX, |t| t.0.saturating_add(1)), &r.fields),
        Request::Downsample(r) => (&r.devices, r.start.0, r.end.0, &r.fields),
        Request::Threshold(r) => (&r.devices, r.start.0, r.end.0, &None),
        Request::Watch(_) => return Ok(false),
    };
    let DeviceSelection::Ids(ids) = devices else { return Ok(false) };
    if ids.len() > SMALL_DEVICES_MAX || start >= end {
        return Ok(start >= end);
    }
    let Some(table) = request.table().and_then(|name| source.table(name)) else { return Ok(true) };
    let fields = fields.as_ref().map_or(table.schema().fields.len(), Vec::len).max(1);
    let mut rows = 0usize;
    for id in ids.iter().filter(|id| scope.contains(id)) {
        for part in table.scan(id, start, end, &[])? {
            rows = rows.saturating_add(part.rows_max());
            if rows.saturating_mul(fields) > SMALL_VALUES_MAX {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The batches of one query. Listing devices may take long for a million of them, so that waits for the first batch.
struct QueryBatches<S: Source> {
    schema: SchemaRef,
    step: Step<S>,
}

enum Step<S: Source> {
    Prepared(Box<Query<S>>),
    Running(Answer),
    Ended,
}

impl<S: Source> Iterator for QueryBatches<S> {
    type Item = Result<RecordBatch, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        // Whatever fails leaves `Ended` behind: an answer never goes on after an error.
        let mut answer = match std::mem::replace(&mut self.step, Step::Ended) {
            Step::Ended => return None,
            Step::Running(answer) => answer,
            Step::Prepared(query) => match query.run() {
                Ok(answer) => answer,
                Err(error) => return Some(Err(query_status(&error))),
            },
        };
        let batch = match answer.next_batch() {
            Ok(Some(batch)) => batch,
            Ok(None) => return None,
            Err(error) => return Some(Err(query_status(&error))),
        };
        Some(match record_batch(batch, &self.schema) {
            Ok(batch) => {
                self.step = Step::Running(answer);
                Ok(batch)
            }
            Err(error) => {
                Err(Status::internal(format!("an answer contradicts its schema ({error}); please report this")))
            }
        })
    }
}
