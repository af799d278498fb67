//! Owns what the manifest says about rows that are gone: deleted ones, and for how long a table keeps its rows.

use std::sync::Arc;

use crate::summary::Step;

/// Rows of one device that an operator deleted. Holds for what was in the log before it, and for nothing that came later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Its number: rises, and is the mark by which segments say which erasures they do not need any more.
    pub number: u64,
    /// The device's shard.
    pub shard: u32,
    /// The table; `None` for all of them.
    pub table: Option<Arc<str>>,
    /// The device.
    pub device: Arc<str>,
    /// First time that is deleted.
    pub start_ns: i64,
    /// First time that is not any more; `i64::MAX` has no end.
    pub end_ns: i64,
    /// Segments whose flush numbers are all below this are older than the delete.
    pub before_seq: u64,
    /// When it was asked for, by the node's clock.
    pub created_ns: i64,
}

impl Erasure {
    /// First and last time that is deleted, both inclusive.
    pub fn span(&self) -> (i64, i64) {
        (self.start_ns, if self.end_ns == i64::MAX { i64::MAX } else { self.end_ns.saturating_sub(1) })
    }

    /// Whether rows of `table` are deleted.
    pub fn covers_table(&self, table: &str) -> bool {
        self.table.as_deref().is_none_or(|own| own == table)
    }
}

/// For how long a table keeps what. `None`: rows for ever, steps as long as the rows that they tell of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Rows, in nanoseconds; `None` is for ever.
    pub raw_ns: Option<u64>,
    /// Summaries by minute; `None` is as long as the rows, and so for the longer steps.
    pub minute_ns: Option<u64>,
    /// Summaries by hour.
    pub hour_ns: Option<u64>,
    /// Summaries by day.
    pub day_ns: Option<u64>,
}

impl Retention {
    /// Rows, then summaries from short to long steps.
    pub fn parts(&self) -> [Option<u64>; 4] {
        [self.raw_ns, self.minute_ns, self.hour_ns, self.day_ns]
    }

    /// For how long steps are kept beyond their rows; `None` when they go with them.
    pub fn kept(&self, step: Step) -> Option<u64> {
        let own = match step {
            Step::Minute => self.minute_ns,
            Step::Hour => self.hour_ns,
            Step::Day => self.day_ns,
        };
        own.filter(|own| self.raw_ns.is_some_and(|raw| *own > raw))
    }

    /// The steps that are kept beyond their rows.
    pub fn kept_steps(&self) -> Vec<Step> {
        Step::ALL.into_iter().filter(|step| self.kept(*step).is_some()).collect()
    }

    /// Whether everything is kept for ever.
    pub fn is_for_ever(&self) -> bool {
        self.parts() == [None; 4]
    }
}
