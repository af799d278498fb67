//! Owns the errors of queries: what is wrong, where, whose fault; does not map them to gRPC.

use std::time::Duration;

use tidewell_engine::memory::MemoryFull;

/// Whose fault an error is, and so what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The question is wrong: asking again changes nothing.
    Caller,
    /// The question names something that is not there (yet).
    NotFound,
    /// The question is right but larger than this node allows: ask for less.
    Limit,
    /// The caller or the node gave up before the end.
    Stopped,
    /// This version cannot answer it.
    Unsupported,
    /// The node failed: damage, I/O, a defect.
    Node,
}

/// What can go wrong with a query.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The request is not JSON of the contract.
    #[error("the request cannot be read: {message}")]
    Malformed {
        /// What was expected and found, with line and column.
        message: String,
    },
    /// The table does not exist.
    #[error("unknown table `{table}`; {}", known_names("tables", known))]
    UnknownTable {
        /// What was asked.
        table: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The table has no such field.
    #[error("table `{table}` has no field `{field}`; {}", known_names("fields", known))]
    UnknownField {
        /// The table.
        table: String,
        /// What was asked.
        field: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A `where` condition is wrong.
    #[error("`where`, column {column}: {message}")]
    Condition {
        /// Position of the mistake, in characters from 1.
        column: usize,
        /// What was expected and found.
        message: String,
    },
    /// A key of the request has a value that makes no sense.
    #[error("`{key}`: expected {expected}, found {found}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What would be right.
        expected: String,
        /// What was there.
        found: String,
    },
    /// Known, but not answered by this version.
    #[error("{what} is not available yet")]
    NotAvailable {
        /// What was asked.
        what: &'static str,
    },
    /// The windows of a downsample are more than the node allows.
    #[error(
        "about {estimate} windows (devices times windows between `start` and `end`), at most {max} are answered; ask for longer windows, a shorter range or fewer devices"
    )]
    TooManyWindows {
        /// Windows times groups.
        estimate: u128,
        /// The limit.
        max: u64,
    },
    /// The answer is longer than the node allows.
    #[error("the answer has more than {max} rows; ask for a shorter range, fewer devices or a `limit`")]
    TooManyRows {
        /// The limit.
        max: u64,
    },
    /// The query took longer than the node allows.
    #[error("the query ran into its time limit of {limit:?}; ask for a shorter range or fewer devices")]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The caller went away or cancelled.
    #[error("the query was cancelled")]
    Cancelled,
    /// A sum of integers does not fit.
    #[error(
        "the sum of `{field}` of `{device}` in the window that starts at {window} exceeds 64 bits; ask for `mean` or shorter windows"
    )]
    SumOverflow {
        /// The field.
        field: String,
        /// The device or group.
        device: String,
        /// Start of the window.
        window: crate::request::Time,
    },
    /// The answer needs more memory than the node has left for queries.
    #[error("{0}; ask for fewer devices, fields or rows at a time, or ask again later")]
    Memory(MemoryFull),
    /// The engine could not read what it holds.
    #[error(transparent)]
    Engine(#[from] tidewell_engine::Error),
    /// A worker thread of the query ended without an answer: a defect of this program.
    #[error("a worker of this query stopped unexpectedly ({what}); please report this")]
    Defect {
        /// What is known about it.
        what: String,
    },
}

impl QueryError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Malformed { .. } | Self::Condition { .. } | Self::Invalid { .. } | Self::SumOverflow { .. } => {
                Fault::Caller
            }
            Self::UnknownTable { .. } | Self::UnknownField { .. } => Fault::NotFound,
            Self::TooManyWindows { .. } | Self::TooManyRows { .. } | Self::Memory(_) => Fault::Limit,
            Self::TimedOut { .. } | Self::Cancelled => Fault::Stopped,
            Self::NotAvailable { .. } => Fault::Unsupported,
            Self::Engine(_) | Self::Defect { .. } => Fault::Node,
        }
    }
}

/// Names shown in a message, at most this many.
const KNOWN_SHOWN_MAX: usize = 32;

fn known_names(what: &str, names: &[String]) -> String {
    match names.len() {
        0 => format!("there are no {what} yet"),
        n if n <= KNOWN_SHOWN_MAX => format!("known {what}: {}", names.join(", ")),
        n => format!("known {what}: {} and {} more", names[..KNOWN_SHOWN_MAX].join(", "), n - KNOWN_SHOWN_MAX),
    }
}
