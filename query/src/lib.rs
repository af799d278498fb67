//! Questions over snapshots: ranges, latest values, downsampling and thresholds.
//!
//! Modules in the order in which a question becomes an answer:
//!
//! - [`request`]: what can be asked, as JSON and as types
//! - [`source`]: the data that is asked, as the engine's snapshot gives it
//! - [`Query`]: checks a request (`prepare`, `devices`, `predicate`) and runs it (`execute`)
//! - `range`, `latest`, `downsample`, `threshold`: what is computed, over `kernels`
//! - [`answer`]: named columns in bounded batches
//! - [`error`]: what can be wrong, and whose fault it is
//! - [`export`]: engine columns as Arrow arrays, without a copy
//! - [`flight`]: the query address, and the client of it

pub mod answer;
mod devices;
mod downsample;
pub mod error;
mod execute;
pub mod export;
pub mod flight;
mod kernels;
mod latest;
mod predicate;
mod prepare;
mod query;
mod range;
pub mod request;
pub mod source;
mod threshold;

pub use answer::{Answer, AnswerBatch, AnswerColumn, AnswerField, AnswerSchema, AnswerType, NameRuns};
pub use error::{Fault, QueryError};
pub use query::{CancelFlag, Query, QueryLimits, QueryOptions, ReadableDevices};
pub use request::Request;
