//! Questions over snapshots: ranges, latest values, downsampling and thresholds.
//!
//! Modules in the order in which a question becomes an answer:
//!
//! - [`request`]: what can be asked, as JSON and as types
//! - [`source`]: the data that is asked, as the engine's snapshot gives it
//! - [`Query`]: checks a request and runs it
//! - [`answer`]: named columns in bounded batches
//! - [`error`]: what can be wrong, and whose fault it is
//! - [`export`]: engine columns as Arrow arrays, without a copy
//! - [`flight`]: the query address, and the client of it

pub mod answer;
pub mod error;
pub mod export;
pub mod flight;
mod query;
pub mod request;
pub mod source;

pub use answer::{Answer, AnswerBatch, AnswerColumn, AnswerField, AnswerSchema, AnswerType, NameRuns};
pub use error::{Fault, QueryError};
pub use query::{CancelFlag, Query, QueryLimits, QueryOptions, ReadableDevices};
pub use request::Request;
