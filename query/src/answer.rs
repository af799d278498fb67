//! Owns the shape of answers: named, typed columns in bounded batches; does not compute them.

use std::ops::Range;
use std::sync::Arc;

use tidewell_engine::{Column, FieldType};

use crate::error::QueryError;

/// Type of one column of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerType {
    /// Names, in runs of equal ones: [`AnswerColumn::Names`].
    Name,
    /// Nanoseconds since 1970 UTC, in an `i64` column.
    Time,
    /// Nanoseconds, in an `i64` column.
    Duration,
    /// Values of this type.
    Value(FieldType),
}

/// One column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerField {
    /// Its name.
    pub name: String,
    /// Its type.
    pub answer_type: AnswerType,
    /// Whether it may hold nulls.
    pub nullable: bool,
}

impl AnswerField {
    /// A column that holds no nulls.
    pub(crate) fn required(name: impl Into<String>, answer_type: AnswerType) -> Self {
        Self { name: name.into(), answer_type, nullable: false }
    }

    /// A column that may hold nulls.
    pub(crate) fn nullable(name: impl Into<String>, answer_type: AnswerType) -> Self {
        Self { name: name.into(), answer_type, nullable: true }
    }
}

/// The columns of an answer, known before it is computed. The first is always `device`.
pub type AnswerSchema = Arc<[AnswerField]>;

/// Some rows of an answer: columns of `rows` rows each, as the schema lists them.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerBatch {
    /// Number of rows.
    pub rows: usize,
    /// The columns.
    pub columns: Vec<AnswerColumn>,
}

/// One column of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerColumn {
    /// Names in runs.
    Names(NameRuns),
    /// Values; times and durations are `i64`.
    Values(Column),
}

impl AnswerColumn {
    /// The values of a column that is not made of names.
    pub fn values(&self) -> Option<&Column> {
        match self {
            Self::Names(_) => None,
            Self::Values(column) => Some(column),
        }
    }
}

/// A column of names in runs of equal ones: answers are ordered by device, so that a batch has few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRuns {
    names: Vec<Arc<str>>,
    ends: Vec<usize>,
}

impl NameRuns {
    /// Appends `rows` times `name`.
    pub fn push(&mut self, name: &Arc<str>, rows: usize) {
        if rows == 0 {
            return;
        }
        let end = self.len() + rows;
        match self.names.last() {
            Some(last) if last == name => *self.ends.last_mut().expect("a name has an end") = end,
            _ => {
                self.names.push(name.clone());
                self.ends.push(end);
            }
        }
    }

    /// Appends the rows of `other`.
    pub fn append(&mut self, other: &NameRuns) {
        for (name, rows) in other.runs() {
            self.push(name, rows.len());
        }
    }

    /// Forgets the rows from `rows` on.
    pub fn truncate(&mut self, rows: usize) {
        let keep = self.ends.partition_point(|&end| end < rows);
        if keep < self.ends.len() {
            self.ends[keep] = rows;
            let runs = if rows == 0 { 0 } else { keep + 1 };
            self.ends.truncate(runs);
            self.names.truncate(runs);
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of runs.
    pub fn run_count(&self) -> usize {
        self.names.len()
    }

    /// Each run's name and rows.
    pub fn runs(&self) -> impl Iterator<Item = (&Arc<str>, Range<usize>)> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        self.names.iter().zip(starts.zip(self.ends.iter().copied()).map(|(start, end)| start..end))
    }

    /// The name of row `row`.
    pub fn get(&self, row: usize) -> Option<&Arc<str>> {
        self.names.get(self.ends.partition_point(|&end| end <= row))
    }
}

/// An answer that is computed while it is read. Dropping it stops the work.
pub struct Answer {
    schema: AnswerSchema,
    batches: Box<dyn Batches>,
    ended: bool,
}

/// What computes an answer.
pub(crate) trait Batches: Send {
    /// The next batch, never empty; `None` at the end.
    fn next_batch(&mut self) -> Result<Option<AnswerBatch>, QueryError>;
}

impl Batches for Box<dyn Batches> {
    fn next_batch(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        (**self).next_batch()
    }
}

impl Answer {
    pub(crate) fn new(schema: AnswerSchema, batches: Box<dyn Batches>) -> Self {
        Self { schema, batches, ended: false }
    }

    /// The columns of every batch.
    pub fn schema(&self) -> &AnswerSchema {
        &self.schema
    }

    /// The next batch, never empty; `None` at the end. Blocks while it is computed: call it from a thread that may.
    ///
    /// # Errors
    /// When reading fails or the query exceeds a limit; the answer is over then.
    pub fn next_batch(&mut self) -> Result<Option<AnswerBatch>, QueryError> {
        if self.ended {
            return Ok(None);
        }
        let next = self.batches.next_batch();
        self.ended = !matches!(next, Ok(Some(_)));
        next
    }
}

impl Iterator for Answer {
    type Item = Result<AnswerBatch, QueryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().transpose()
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("schema", &self.schema).field("ended", &self.ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_merge_into_runs_and_are_cut() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut runs = NameRuns::default();
        runs.push(&a, 2);
        runs.push(&a, 1);
        runs.push(&b, 0);
        runs.push(&b, 3);
        let mut twice = runs.clone();
        twice.append(&runs);
        assert_eq!(
            twice.runs().map(|(n, r)| (&**n, r)).collect::<Vec<_>>(),
            [("a", 0..3), ("b", 3..6), ("a", 6..9), ("b", 9..12)]
        );
        assert_eq!((twice.get(8).map(|n| &**n), twice.get(12)), (Some("a"), None));
        for rows in (0..=12).rev() {
            twice.truncate(rows);
            assert_eq!(twice.len(), rows);
            assert_eq!(twice.get(0).is_some(), rows > 0);
        }
        assert!(twice.is_empty());
    }
}
