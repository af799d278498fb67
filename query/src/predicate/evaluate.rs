//! Owns the evaluation of conditions over columns; does not skip blocks.
//!
//! Tests work on 64 rows at a time: a loop over a fixed array of values shifts comparison results into a word, which the
//! compiler turns into vector code. Reference: `tests.rs` evaluates the same condition row by row.

use tidewell_codec::{Bitmap, Column, Text, Values};
use tidewell_engine::totals::bitmap_word;

use super::narrow::NarrowView;
use super::{Node, Operator, Predicate};

/// One outcome per row, as bits: matched, failed, or, when neither bit is set, unknown. Bits past `rows` are zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct Masks {
    pub matched: Vec<u64>,
    pub failed: Vec<u64>,
    pub rows: usize,
}

/// Memory that evaluations reuse.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    free: Vec<Masks>,
}

impl Masks {
    fn reset(&mut self, rows: usize) {
        self.rows = rows;
        self.matched.clear();
        self.matched.resize(rows.div_ceil(64), 0);
        self.failed.clear();
        self.failed.resize(rows.div_ceil(64), 0);
    }

    /// How many rows match.
    pub fn match_count(&self) -> usize {
        self.matched.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Turns "the comparison holds" in `matched` into three outcomes.
    fn apply_validity(&mut self, view: &View<'_>) {
        let rows = self.rows;
        for (index, (matched, failed)) in self.matched.iter_mut().zip(&mut self.failed).enumerate() {
            let valid = view.valid_word(index, rows);
            *failed = !*matched & valid;
            *matched &= valid;
        }
    }
}

/// Bits `64 * index ..` of a validity bitmap over `rows` rows; zero past the end.
#[inline]
pub(crate) fn valid_word(validity: Option<&Bitmap>, index: usize, rows: usize) -> u64 {
    match validity {
        None => {
            let left = rows - (index * 64).min(rows);
            if left >= 64 { u64::MAX } else { (1 << left) - 1 }
        }
        Some(bitmap) => bitmap_word(bitmap, index),
    }
}

/// Columns that a condition is evaluated over.
pub(super) trait Columns {
    /// The column in `slot`.
    fn view(&self, slot: usize) -> View<'_>;
}

/// One column: its values from the first row on that counts.
pub(super) struct View<'a> {
    pub operand: Operand<'a>,
    pub validity: Option<&'a Bitmap>,
    /// Where the first row is in `validity`, in words.
    pub first_word: usize,
}

impl View<'_> {
    fn valid_word(&self, index: usize, rows: usize) -> u64 {
        let inside = valid_word(None, index, rows);
        self.validity.map_or(inside, |bits| bitmap_word(bits, self.first_word + index) & inside)
    }
}

/// Values that a test reads.
pub(super) enum Operand<'a> {
    F64(&'a [f64]),
    I64(&'a [i64]),
    /// From the word on that [`View::first_word`] says.
    Bool(&'a Bitmap),
    /// Text from this row on.
    Text(&'a Text, usize),
    /// Numbers that stand for values.
    Narrow(NarrowView<'a>),
}

impl Columns for [Column] {
    fn view(&self, slot: usize) -> View<'_> {
        let column = &self[slot];
        let operand = match &column.values {
            Values::F64(values) => Operand::F64(values),
            Values::I64(values) => Operand::I64(values),
            Values::Bool(bits) => Operand::Bool(bits),
            Values::Utf8(text) => Operand::Text(text, 0),
        };
        View { operand, validity: column.validity.as_ref(), first_word: 0 }
    }
}

impl Predicate {
    /// Evaluates the condition over `columns` of `rows` rows each.
    pub fn evaluate(&self, columns: &[Column], rows: usize, masks: &mut Masks, scratch: &mut Scratch) {
        self.root.evaluate(columns, rows, masks, scratch);
    }
}

impl Node {
    pub(super) fn evaluate<C: Columns + ?Sized>(
        &self,
        columns: &C,
        rows: usize,
        masks: &mut Masks,
        scratch: &mut Scratch,
    ) {
        match self {
            Self::And(nodes) => {
                nodes[0].evaluate(columns, rows, masks, scratch);
                for node in &nodes[1..] {
                    // A row that has failed stays failed, so nothing is left to ask once no row can match.
                    if all_ones(&masks.failed, rows) {
                        return;
                    }
                    combine(node, columns, masks, scratch, |own, other| {
                        (own.0 & other.0, own.1 | other.1) //
                    });
                }
            }
            Self::Or(nodes) => {
                nodes[0].evaluate(columns, rows, masks, scratch);
                for node in &nodes[1..] {
                    if all_ones(&masks.matched, rows) {
                        return;
                    }
                    combine(node, columns, masks, scratch, |own, other| {
                        (own.0 | other.0, own.1 & other.1) //
                    });
                }
            }
            Self::Not(node) => {
                node.evaluate(columns, rows, masks, scratch);
                std::mem::swap(&mut masks.matched, &mut masks.failed);
            }
            Self::IsNull { slot } => {
                masks.reset(rows);
                let view = columns.view(*slot);
                for (index, (matched, failed)) in masks.matched.iter_mut().zip(&mut masks.failed).enumerate() {
                    *failed = view.valid_word(index, rows);
                    *matched = valid_word(None, index, rows) & !*failed;
                }
            }
            Self::Never { slot }
            | Self::F64 { slot, .. }
            | Self::F64In { slot, .. }
            | Self::I64 { slot, .. }
            | Self::I64In { slot, .. }
            | Self::Bool { slot, .. }
            | Self::Text { slot, .. }
            | Self::TextIn { slot, .. } => {
                let view = columns.view(*slot);
                masks.reset(rows);
                self.compare(&view, rows, &mut masks.matched);
                masks.apply_validity(&view);
            }
        }
    }

    /// Sets the bit of each row whose value passes this test; null slots may be set or not.
    fn compare(&self, view: &View<'_>, rows: usize, out: &mut [u64]) {
        match (self, &view.operand) {
            (Self::Never { .. }, _) => {}
            (Self::F64 { operator, value, .. }, Operand::F64(values)) => compare_f64(values, *operator, *value, out),
            (Self::F64In { values: list, .. }, Operand::F64(values)) => fill(values, out, |v| contains_f64(list, v)),
            (Self::I64 { low, high, inside: true, .. }, Operand::I64(values)) => match (*low, *high) {
                (low, high) if low == high => fill(values, out, |v| v == low),
                (i64::MIN, high) => fill(values, out, |v| v <= high),
                (low, i64::MAX) => fill(values, out, |v| v >= low),
                (low, high) => fill(values, out, |v| v >= low && v <= high),
            },
            (Self::I64 { low, high, inside: false, .. }, Operand::I64(values)) => {
                fill(values, out, |v| v < *low || v > *high);
            }
            (Self::I64In { values: list, .. }, Operand::I64(values)) => {
                fill(values, out, |v| list.binary_search(&v).is_ok());
            }
            (_, Operand::Narrow(numbers)) => numbers.compare(self, out),
            (Self::Bool { value, .. }, Operand::Bool(bits)) => {
                let flip = if *value { 0 } else { u64::MAX };
                let words = out.iter_mut().enumerate();
                words.for_each(|(index, word)| *word = bitmap_word(bits, view.first_word + index) ^ flip);
            }
            (Self::Text { operator, value, .. }, Operand::Text(text, first)) => {
                let value = value.as_bytes();
                fill_by_row(rows, out, |row| operator.holds(text.get_bytes(first + row), value));
            }
            (Self::TextIn { values: list, .. }, Operand::Text(text, first)) => fill_by_row(rows, out, |row| {
                let value = text.get_bytes(first + row);
                list.binary_search_by(|probe| probe.as_bytes().cmp(value)).is_ok()
            }),
            _ => unreachable!("the condition was checked against the table's types"),
        }
    }
}

/// Evaluates `node` and merges its outcome into `masks`; `merge` maps two (matched, failed) pairs to one.
fn combine<C: Columns + ?Sized>(
    node: &Node,
    columns: &C,
    masks: &mut Masks,
    scratch: &mut Scratch,
    merge: impl Fn((u64, u64), (u64, u64)) -> (u64, u64),
) {
    let mut other = scratch.free.pop().unwrap_or_default();
    node.evaluate(columns, masks.rows, &mut other, scratch);
    let theirs = other.matched.iter().zip(&other.failed);
    for ((matched, failed), (&m, &f)) in masks.matched.iter_mut().zip(&mut masks.failed).zip(theirs) {
        (*matched, *failed) = merge((*matched, *failed), (m, f));
    }
    scratch.free.push(other);
}

fn all_ones(words: &[u64], rows: usize) -> bool {
    words.iter().enumerate().all(|(index, &word)| word == valid_word(None, index, rows))
}

fn compare_f64(values: &[f64], operator: Operator, value: f64, out: &mut [u64]) {
    // One loop per operator, so that the compiler sees a constant comparison in each.
    match operator {
        Operator::Equal => fill(values, out, |v| v == value),
        Operator::NotEqual => fill(values, out, |v| Operator::NotEqual.holds(v, value)),
        Operator::Less => fill(values, out, |v| v < value),
        Operator::LessEqual => fill(values, out, |v| v <= value),
        Operator::Greater => fill(values, out, |v| v > value),
        Operator::GreaterEqual => fill(values, out, |v| v >= value),
    }
}

fn contains_f64(list: &[f64], value: f64) -> bool {
    // The list holds +0 only, and no NaN; adding zero turns -0 into +0.
    !value.is_nan() && list.binary_search_by(|probe| probe.total_cmp(&(value + 0.0))).is_ok()
}

/// Sets bit `i` of `out` when `test` holds for value `i`.
#[inline]
fn fill<T: Copy>(values: &[T], out: &mut [u64], test: impl Fn(T) -> bool) {
    let (chunks, rest) = values.as_chunks::<64>();
    for (chunk, word) in chunks.iter().zip(out.iter_mut()) {
        // Eight bits at a time: the compiler vectorises this shape, and not a shift by 0..64.
        let mut bytes = [0u8; 8];
        for (lane, byte) in bytes.iter_mut().enumerate() {
            for bit in 0..8 {
                *byte |= u8::from(test(chunk[lane * 8 + bit])) << bit;
            }
        }
        *word = u64::from_le_bytes(bytes);
    }
    if let Some(word) = out.get_mut(chunks.len()) {
        *word = rest.iter().enumerate().fold(0, |word, (bit, &v)| word | u64::from(test(v)) << bit);
    }
}

fn fill_by_row(rows: usize, out: &mut [u64], test: impl Fn(usize) -> bool) {
    for (index, word) in out.iter_mut().enumerate() {
        let base = index * 64;
        *word = (base..rows.min(base + 64)).fold(0, |word, row| word | u64::from(test(row)) << (row - base));
    }
}
