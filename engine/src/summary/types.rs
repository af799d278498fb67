//! Owns the words of summaries: steps, aggregates per step, stretches of a scan; does not know files.

use std::ops::Range;
use std::sync::Arc;

use tidewell_codec::{Column, FieldType};

use super::reader::SummaryEntry;
use crate::error::Result;
use crate::limits::DAY_NS;
use crate::scan::Part;
use crate::types::FieldDef;

/// A length of time for which aggregates are kept; steps begin at whole multiples of it since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Step {
    /// 60 seconds.
    Minute = 1,
    /// 60 minutes.
    Hour = 2,
    /// 24 hours.
    Day = 3,
}

impl Step {
    /// Every step, the shortest first.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// Its length in nanoseconds.
    pub const fn width_ns(self) -> i64 {
        match self {
            Self::Minute => DAY_NS / 1_440,
            Self::Hour => DAY_NS / 24,
            Self::Day => DAY_NS,
        }
    }

    /// Its name: `1m`, `1h`, `1d`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }

    /// The step that `byte` stands for on disk.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u8 == byte)
    }

    /// The number of the step that holds `time_ns`; the one that begins at 1970 is 0.
    pub const fn number(self, time_ns: i64) -> i64 {
        time_ns.div_euclid(self.width_ns())
    }

    /// The start of step `number`. The first step begins where time begins.
    pub const fn start_of(self, number: i64) -> i64 {
        number.saturating_mul(self.width_ns())
    }

    /// The last time of step `number`.
    pub const fn last_of(self, number: i64) -> i64 {
        match number.saturating_add(1).checked_mul(self.width_ns()) {
            Some(end) => end - 1,
            None => i64::MAX,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Sums of one field, one for each step.
#[derive(Clone, Debug, PartialEq)]
pub enum StepSums {
    /// Of doubles: a minute's and an hour's by eight lanes over its rows, a day's from its hours; NaN adds nothing.
    F64(Vec<f64>),
    /// Of integers: exact.
    I64(Vec<i64>),
    /// There are none: of booleans and text, and where an integer sum is beyond 64 bits.
    None,
}

/// Aggregates of one field, one entry for each step of [`StepRows::starts`].
#[derive(Clone, Debug, PartialEq)]
pub struct StepField {
    /// Values that are not null.
    pub count: Vec<u64>,
    /// Values that are NaN; they are counted, too.
    pub nan: Vec<u64>,
    /// Sums; 0 where there is no number.
    pub sum: StepSums,
    /// Smallest value, NaN ignored, -0 below +0; null without a number. All null for text.
    pub min: Column,
    /// Largest value.
    pub max: Column,
    /// First value, NaN included; null where `count` is 0. All null for text.
    pub first: Column,
    /// Last value.
    pub last: Column,
    /// Time of the first value; 0 where `count` is 0 and for text.
    pub first_at: Vec<i64>,
    /// Time of the last value.
    pub last_at: Vec<i64>,
}

impl StepField {
    /// No step yet of a field of `field_type`.
    pub fn new(field_type: FieldType) -> Self {
        let column = || Column::new(field_type);
        let sum = match field_type {
            FieldType::F64 => StepSums::F64(Vec::new()),
            FieldType::I64 => StepSums::I64(Vec::new()),
            FieldType::Bool | FieldType::Utf8 => StepSums::None,
        };
        Self {
            count: Vec::new(),
            nan: Vec::new(),
            sum,
            min: column(),
            max: column(),
            first: column(),
            last: column(),
            first_at: Vec::new(),
            last_at: Vec::new(),
        }
    }
}

impl StepField {
    /// Memory that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        let columns = [&self.min, &self.max, &self.first, &self.last];
        let sums = if let StepSums::None = self.sum { 0 } else { 8 };
        size_of::<Self>() + self.count.len() * (4 * 8 + sums) + columns.map(Column::memory_bytes).iter().sum::<usize>()
    }

    /// Adds later steps of the same field.
    pub(super) fn append(&mut self, later: Self) {
        self.count.extend(later.count);
        self.nan.extend(later.nan);
        match (&mut self.sum, later.sum) {
            (StepSums::F64(own), StepSums::F64(later)) => own.extend(later),
            (StepSums::I64(own), StepSums::I64(later)) => own.extend(later),
            (own, _) => *own = StepSums::None,
        }
        for (own, later) in [
            (&mut self.min, later.min),
            (&mut self.max, later.max),
            (&mut self.first, later.first),
            (&mut self.last, later.last),
        ] {
            own.extend_from(&later, 0..later.len());
        }
        self.first_at.extend(later.first_at);
        self.last_at.extend(later.last_at);
    }
}

/// Aggregates of consecutive steps that have rows: a range of those that are stored together. A step in which every value
/// of a field is null is here, too, with a count of 0; a step without rows is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepRows {
    /// The steps that were asked for, among those of `starts` and of each field.
    pub range: Range<usize>,
    /// Where the steps begin, rising.
    pub starts: Arc<[i64]>,
    /// One for each field of the scan, in its order.
    pub fields: Vec<Arc<StepField>>,
}

impl StepRows {
    /// Empties it.
    pub fn clear(&mut self) {
        *self = Self { fields: std::mem::take(&mut self.fields), ..Self::default() };
        self.fields.clear();
    }
}

/// A run of whole steps of one device whose aggregates are stored.
///
/// Holds what it reads from, so it can be loaded at any time, on any thread, and more than once.
#[derive(Debug)]
pub struct StepPart {
    entry: SummaryEntry,
    /// Numbers of the steps.
    numbers: Range<i64>,
    fields: Arc<[FieldDef]>,
}

impl StepPart {
    pub(super) fn new(entry: &SummaryEntry, numbers: Range<i64>, fields: &Arc<[FieldDef]>) -> Self {
        Self { entry: entry.clone(), numbers, fields: Arc::clone(fields) }
    }

    /// The length of its steps.
    pub fn step(&self) -> Step {
        self.entry.summary().step()
    }

    /// The start of its first step and the last time of its last one, both inclusive.
    pub fn time_range(&self) -> (i64, i64) {
        let step = self.step();
        (step.start_of(self.numbers.start), step.last_of(self.numbers.end - 1))
    }

    /// Reads the aggregates of all fields of the scan; what `rows` held is replaced, its memory reused. On an error `rows`
    /// is empty.
    ///
    /// # Errors
    /// A damaged summary.
    pub fn load(&self, rows: &mut StepRows) -> Result<()> {
        let loaded = self.entry.load(self.numbers.clone(), &self.fields, rows);
        if loaded.is_err() {
            rows.clear();
        }
        loaded
    }
}

/// One stretch of time in the answer of a scan by steps.
#[derive(Debug)]
pub enum Stretch {
    /// Rows as they were written.
    Rows(Part),
    /// Aggregates that stand for them.
    Steps(StepPart),
}

impl Stretch {
    /// A first and a last time, both inclusive, that enclose what is in it.
    pub fn time_range(&self) -> (i64, i64) {
        match self {
            Self::Rows(part) => part.time_range(),
            Self::Steps(part) => part.time_range(),
        }
    }
}
