//! Owns the aggregates of one window and one field, and how those of several devices merge; does not loop over values.

use tidewell_codec::{Column, FieldType, Values};
use tidewell_engine::Scalar;

use crate::request::Aggregate;

/// One value of any type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(Box<str>),
}

impl From<Scalar> for Cell {
    fn from(scalar: Scalar) -> Self {
        match scalar {
            Scalar::F64(v) => Self::F64(v),
            Scalar::I64(v) => Self::I64(v),
            Scalar::Bool(v) => Self::Bool(v),
        }
    }
}

impl Cell {
    /// Row `row` of `column`.
    pub fn of(column: &Column, row: usize) -> Self {
        if !column.is_valid(row) {
            return Self::Null;
        }
        match &column.values {
            Values::F64(v) => Self::F64(v[row]),
            Values::I64(v) => Self::I64(v[row]),
            Values::Bool(v) => Self::Bool(v.get(row)),
            Values::Utf8(v) => Self::Text(v.get(row).into()),
        }
    }

    /// Appends the value to `column`, which has its type.
    pub fn push_to(&self, column: &mut Column) {
        match (self, &mut column.values) {
            (Self::Null, _) => return column.extend_nulls(1),
            (Self::F64(v), Values::F64(values)) => values.push(*v),
            (Self::I64(v), Values::I64(values)) => values.push(*v),
            (Self::Bool(v), Values::Bool(values)) => values.push(*v),
            (Self::Text(v), Values::Utf8(values)) => values.push(v),
            (cell, _) => unreachable!("{cell:?} does not belong into a column of {}", column.field_type()),
        }
        if let Some(validity) = &mut column.validity {
            validity.push(true);
        }
    }
}

/// An exact or a rounded sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sum {
    F64(f64),
    I64(i128),
}

/// The aggregates of one field over the rows of one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Summary {
    /// Values that are not null.
    pub count: u64,
    /// Values that are neither null nor NaN.
    pub numbers: u64,
    pub sum: Sum,
    /// Meaningful only when `numbers` is not 0.
    pub min: Scalar,
    /// Meaningful only when `numbers` is not 0.
    pub max: Scalar,
    /// First value that is not null, with its time.
    pub first: Option<(i64, Cell)>,
    /// Last value that is not null, with its time.
    pub last: Option<(i64, Cell)>,
}

/// An integer sum exceeds 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

impl Summary {
    /// Of no rows.
    pub const EMPTY: Self = Self {
        count: 0,
        numbers: 0,
        sum: Sum::F64(0.0),
        min: Scalar::I64(0),
        max: Scalar::I64(0),
        first: None,
        last: None,
    };

    /// The value of `aggregate`.
    pub fn value(&self, aggregate: Aggregate) -> Result<Cell, Overflow> {
        let numbers = self.numbers > 0;
        Ok(match aggregate {
            Aggregate::Count => Cell::I64(i64::try_from(self.count).unwrap_or(i64::MAX)),
            Aggregate::First => self.first.as_ref().map_or(Cell::Null, |(_, v)| v.clone()),
            Aggregate::Last => self.last.as_ref().map_or(Cell::Null, |(_, v)| v.clone()),
            _ if !numbers => Cell::Null,
            Aggregate::Min => self.min.into(),
            Aggregate::Max => self.max.into(),
            Aggregate::Mean => Cell::F64(match self.sum {
                Sum::F64(sum) => sum / self.numbers as f64,
                Sum::I64(sum) => sum as f64 / self.numbers as f64,
            }),
            Aggregate::Sum => match self.sum {
                Sum::F64(sum) => Cell::F64(sum),
                Sum::I64(sum) => Cell::I64(i64::try_from(sum).map_err(|_| Overflow)?),
            },
        })
    }

    /// Appends the value of `aggregate` to `column`, which has its type. The same as pushing [`Self::value`], without
    /// the way through a cell: windows of a few rows spend their time here.
    #[inline]
    pub fn push(&self, aggregate: Aggregate, column: &mut Column) -> Result<(), Overflow> {
        if column.validity.is_none() {
            match (&mut column.values, aggregate, self.min, self.max, self.sum) {
                (Values::I64(out), Aggregate::Count, ..) => {
                    out.push(i64::try_from(self.count).unwrap_or(i64::MAX));
                    return Ok(());
                }
                (Values::F64(out), Aggregate::Mean, _, _, Sum::F64(sum)) if self.numbers > 0 => {
                    out.push(sum / self.numbers as f64);
                    return Ok(());
                }
                (Values::F64(out), Aggregate::Min, Scalar::F64(min), ..) if self.numbers > 0 => {
                    out.push(min);
                    return Ok(());
                }
                (Values::F64(out), Aggregate::Max, _, Scalar::F64(max), _) if self.numbers > 0 => {
                    out.push(max);
                    return Ok(());
                }
                _ => {}
            }
        }
        self.value(aggregate)?.push_to(column);
        Ok(())
    }

    /// Adds the rows of another device. Devices merge in order of their ids: a sum of doubles depends on it, and of
    /// values at the same time `first` keeps the earlier device's and `last` takes the later one's.
    pub fn merge(&mut self, other: Summary) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = other;
            return;
        }
        self.sum = match (self.sum, other.sum) {
            (Sum::F64(a), Sum::F64(b)) if self.numbers > 0 && other.numbers > 0 => Sum::F64(a + b),
            (Sum::I64(a), Sum::I64(b)) => Sum::I64(a + b),
            (own, _) if other.numbers == 0 => own,
            (_, theirs) => theirs,
        };
        if other.numbers > 0 {
            if self.numbers == 0 || less(other.min, self.min) {
                self.min = other.min;
            }
            if self.numbers == 0 || less(self.max, other.max) {
                self.max = other.max;
            }
        }
        self.count += other.count;
        self.numbers += other.numbers;
        if let Some((time, _)) = &other.first
            && self.first.as_ref().is_none_or(|(own, _)| time < own)
        {
            self.first = other.first;
        }
        if let Some((time, _)) = &other.last
            && self.last.as_ref().is_none_or(|(own, _)| time >= own)
        {
            self.last = other.last;
        }
    }
}

/// Order of numbers with -0 before +0. NaN does not come here.
fn less(a: Scalar, b: Scalar) -> bool {
    match (a, b) {
        (Scalar::F64(a), Scalar::F64(b)) => a.total_cmp(&b).is_lt(),
        (Scalar::I64(a), Scalar::I64(b)) => a < b,
        _ => false,
    }
}

/// The type of `aggregate` over a field of `field_type`; `None` where it is not defined.
pub(crate) fn aggregate_type(aggregate: Aggregate, field_type: FieldType) -> Option<FieldType> {
    let number = matches!(field_type, FieldType::F64 | FieldType::I64);
    match aggregate {
        Aggregate::Count => Some(FieldType::I64),
        Aggregate::First | Aggregate::Last => Some(field_type),
        Aggregate::Mean => number.then_some(FieldType::F64),
        Aggregate::Min | Aggregate::Max | Aggregate::Sum => number.then_some(field_type),
    }
}
