//! Owns conditions on rows (`where`): from text to typed tests over columns; does not read data.
//!
//! - [`token`]: words of the text
//! - [`parse`]: the grammar, into [`parse::Expression`]
//! - [`check`]: names and types against a table, into [`Predicate`]
//! - [`evaluate`]: columns in, a bit per row out
//! - [`narrow`]: tests on numbers that stand for values
//! - [`prune`]: what zone maps alone tell
//!
//! A condition has three outcomes. A row *matches*, *fails*, or is *unknown* because a null decides. A comparison with a
//! null is unknown; `AND`, `OR` and `NOT` follow SQL. A comparison with NaN is false, so `v > 5` fails for NaN and
//! `NOT v > 5` matches.

mod check;
mod evaluate;
mod narrow;
mod parse;
mod prune;
mod token;

pub(crate) use evaluate::{Masks, Scratch};

use tidewell_engine::TableSchema;

use crate::error::QueryError;

/// Longest condition that is read.
pub(crate) const CONDITION_BYTES_MAX: usize = 256 << 10;

/// How deep parentheses and `NOT` may nest. Evaluation recurses so deep, and keeps a pair of bitmaps per level.
pub(crate) const DEPTH_MAX: usize = 64;

/// Comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Operator {
    /// The operator with its sides exchanged: `5 < v` is `v > 5`.
    fn flipped(self) -> Self {
        match self {
            Self::Equal | Self::NotEqual => self,
            Self::Less => Self::Greater,
            Self::LessEqual => Self::GreaterEqual,
            Self::Greater => Self::Less,
            Self::GreaterEqual => Self::LessEqual,
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
        }
    }

    /// Applies the operator. False when `a` or `b` is NaN, `!=` included: NaN is never true in a comparison.
    #[allow(clippy::double_comparisons, reason = "`a != b` is true for NaN")]
    #[inline(always)]
    fn holds<T: PartialOrd + PartialEq>(self, a: T, b: T) -> bool {
        match self {
            Self::Equal => a == b,
            Self::NotEqual => a < b || a > b,
            Self::Less => a < b,
            Self::LessEqual => a <= b,
            Self::Greater => a > b,
            Self::GreaterEqual => a >= b,
        }
    }
}

/// A condition whose names and types fit a table.
#[derive(Clone, Debug)]
pub(crate) struct Predicate {
    root: Node,
    fields: Vec<usize>,
    /// Where each of `fields` is among the loaded columns.
    slots: Vec<usize>,
}

/// One test. `slot` is the position of the field among the loaded columns.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// True for no value: fails unless null.
    Never { slot: usize },
    /// A double against a double.
    F64 { slot: usize, operator: Operator, value: f64 },
    /// A double is one of these, sorted, -0 as +0.
    F64In { slot: usize, values: Vec<f64> },
    /// An integer lies in `low..=high`; or outside, when `inside` is false.
    I64 { slot: usize, low: i64, high: i64, inside: bool },
    /// An integer is one of these, sorted.
    I64In { slot: usize, values: Vec<i64> },
    /// A boolean is this.
    Bool { slot: usize, value: bool },
    /// Text against text, by UTF-8 bytes.
    Text { slot: usize, operator: Operator, value: Box<str> },
    /// Text is one of these, sorted.
    TextIn { slot: usize, values: Vec<Box<str>> },
    /// There is no value. Never unknown.
    IsNull { slot: usize },
    /// All of these.
    And(Vec<Node>),
    /// Any of these.
    Or(Vec<Node>),
    /// The opposite; unknown stays unknown.
    Not(Box<Node>),
}

impl Predicate {
    /// Reads `text` as a condition on rows of `schema`. Slots are positions in [`Self::fields`] until [`Self::bind`].
    pub fn parse(text: &str, schema: &TableSchema) -> Result<Self, QueryError> {
        let expression = parse::parse(text)?;
        check::check(text, &expression, schema)
    }

    /// The fields that the condition names, as indexes into the schema, in order of first appearance.
    pub fn fields(&self) -> &[usize] {
        &self.fields
    }

    /// The loaded columns that the condition reads.
    pub fn slots(&self) -> &[usize] {
        &self.slots
    }

    /// Makes slots positions in `columns`, a list of indexes into the schema that holds all of [`Self::fields`].
    pub fn bind(mut self, columns: &[usize]) -> Self {
        let slots: Vec<usize> = self
            .fields
            .iter()
            .map(|field| columns.iter().position(|c| c == field).expect("the scan loads every field of `where`"))
            .collect();
        self.root.rebind(&slots);
        self.slots = slots;
        self
    }
}

impl Node {
    fn rebind(&mut self, slots: &[usize]) {
        match self {
            Self::Never { slot }
            | Self::F64 { slot, .. }
            | Self::F64In { slot, .. }
            | Self::I64 { slot, .. }
            | Self::I64In { slot, .. }
            | Self::Bool { slot, .. }
            | Self::Text { slot, .. }
            | Self::TextIn { slot, .. }
            | Self::IsNull { slot } => *slot = slots[*slot],
            Self::And(nodes) | Self::Or(nodes) => nodes.iter_mut().for_each(|n| n.rebind(slots)),
            Self::Not(node) => node.rebind(slots),
        }
    }
}

/// The error at byte `offset` of `text`.
fn error_at(text: &str, offset: usize, message: impl Into<String>) -> QueryError {
    let column = text.get(..offset).map_or(0, |before| before.chars().count()) + 1;
    QueryError::Condition { column, message: message.into() }
}

#[cfg(test)]
mod tests;
