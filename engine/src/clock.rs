//! Owns the engine's idea of now; a simulation brings its own.

use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time in nanoseconds since 1970 UTC.
pub trait Clock: Send + Sync {
    /// Now.
    fn now_ns(&self) -> i64;
}

/// The system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ns(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
    }
}
