//! Owns names and types of conditions against a table; does not evaluate.

use tidewell_engine::{FieldType, TableSchema};

use super::parse::{At, Expression, Name};
use super::token::Literal;
use super::{Node, Operator, Predicate, error_at};
use crate::error::QueryError;

/// Resolves the names of `expression` in `schema` and makes its tests exact for the fields' types.
pub(super) fn check(text: &str, expression: &Expression, schema: &TableSchema) -> Result<Predicate, QueryError> {
    let mut checker = Checker { text, schema, fields: Vec::new() };
    let root = checker.node(expression)?;
    let slots = (0..checker.fields.len()).collect();
    Ok(Predicate { root, fields: checker.fields, slots })
}

struct Checker<'a> {
    text: &'a str,
    schema: &'a TableSchema,
    fields: Vec<usize>,
}

impl Checker<'_> {
    fn node(&mut self, expression: &Expression) -> Result<Node, QueryError> {
        Ok(match expression {
            Expression::And(parts) => Node::And(self.nodes(parts)?),
            Expression::Or(parts) => Node::Or(self.nodes(parts)?),
            Expression::Not(inner) => Node::Not(Box::new(self.node(inner)?)),
            Expression::IsNull { field } => Node::IsNull { slot: self.slot(field)?.0 },
            Expression::Compare { field, operator, literal } => self.compare(field, *operator, literal)?,
            Expression::Between { field, low, high } => Node::And(vec![
                self.compare(field, Operator::GreaterEqual, low)?,
                self.compare(field, Operator::LessEqual, high)?,
            ]),
            Expression::In { field, literals } => self.any_of(field, literals)?,
        })
    }

    fn nodes(&mut self, parts: &[Expression]) -> Result<Vec<Node>, QueryError> {
        parts.iter().map(|part| self.node(part)).collect()
    }

    fn slot(&mut self, field: &Name) -> Result<(usize, FieldType), QueryError> {
        let Some((index, definition)) = self.schema.field(&field.value) else {
            let known: Vec<&str> = self.schema.fields.iter().take(32).map(|f| &*f.name).collect();
            return Err(self.error(
                field,
                format!(
                    "table `{}` has no field `{}`; known fields: {}",
                    self.schema.name,
                    field.value,
                    known.join(", ")
                ),
            ));
        };
        let slot = self.fields.iter().position(|&f| f == index).unwrap_or_else(|| {
            self.fields.push(index);
            self.fields.len() - 1
        });
        Ok((slot, definition.field_type))
    }

    fn compare(&mut self, field: &Name, operator: Operator, literal: &At<Literal>) -> Result<Node, QueryError> {
        let (slot, field_type) = self.slot(field)?;
        Ok(match (field_type, &literal.value) {
            (FieldType::F64, Literal::Float(value)) => Node::F64 { slot, operator, value: *value },
            (FieldType::F64, Literal::Integer(value)) => float_against_integer(slot, operator, *value),
            (FieldType::I64, Literal::Integer(value)) => {
                integer(slot, operator, i128::from(*value), i128::from(*value))
            }
            (FieldType::I64, Literal::Float(value)) => {
                // Far beyond every i64, and far from where adding one would overflow.
                let bound = |v: f64| (v as i128).clamp(-(1 << 100), 1 << 100);
                integer(slot, operator, bound(value.floor()), bound(value.ceil()))
            }
            (FieldType::Bool, Literal::Bool(value)) => match operator {
                Operator::Equal => Node::Bool { slot, value: *value },
                Operator::NotEqual => Node::Bool { slot, value: !value },
                _ => {
                    let name = &field.value;
                    return Err(self.error(
                        field,
                        format!("`{name}` is bool and takes `=` and `!=` only, found `{}`", operator.symbol()),
                    ));
                }
            },
            (FieldType::Utf8, Literal::Text(value)) => Node::Text { slot, operator, value: value.as_str().into() },
            (field_type, _) => return Err(self.mismatch(field, field_type, literal)),
        })
    }

    fn any_of(&mut self, field: &Name, literals: &[At<Literal>]) -> Result<Node, QueryError> {
        let (slot, field_type) = self.slot(field)?;
        match field_type {
            FieldType::F64 => {
                let mut values = Vec::new();
                for literal in literals {
                    match literal.value {
                        Literal::Float(v) => values.push(v + 0.0),
                        Literal::Integer(v) if exact(v) => values.push(v as f64),
                        // No double equals this integer.
                        Literal::Integer(_) => {}
                        _ => return Err(self.mismatch(field, field_type, literal)),
                    }
                }
                values.sort_by(f64::total_cmp);
                Ok(Node::F64In { slot, values })
            }
            FieldType::I64 => {
                let mut values = Vec::new();
                for literal in literals {
                    match literal.value {
                        Literal::Integer(v) => values.push(v),
                        Literal::Float(v) if v.fract() == 0.0 => values.extend(i64::try_from(v as i128).ok()),
                        Literal::Float(_) => {}
                        _ => return Err(self.mismatch(field, field_type, literal)),
                    }
                }
                values.sort_unstable();
                Ok(Node::I64In { slot, values })
            }
            FieldType::Bool => {
                literals.iter().map(|l| self.compare(field, Operator::Equal, l)).collect::<Result<_, _>>().map(Node::Or)
            }
            FieldType::Utf8 => {
                let mut values: Vec<Box<str>> = Vec::new();
                for literal in literals {
                    match &literal.value {
                        Literal::Text(v) => values.push(v.as_str().into()),
                        _ => return Err(self.mismatch(field, field_type, literal)),
                    }
                }
                values.sort_unstable();
                Ok(Node::TextIn { slot, values })
            }
        }
    }

    fn mismatch(&self, field: &Name, field_type: FieldType, literal: &At<Literal>) -> QueryError {
        let expected = match field_type {
            FieldType::F64 | FieldType::I64 => "a number",
            FieldType::Bool => "true or false",
            FieldType::Utf8 => "a text in single quotes",
        };
        self.error(literal, format!("`{}` is {field_type}: expected {expected}, found {}", field.value, literal.value))
    }

    fn error<T>(&self, place: &At<T>, message: String) -> QueryError {
        error_at(self.text, place.at, message)
    }
}

fn exact(integer: i64) -> bool {
    (integer as f64) as i128 == i128::from(integer)
}

/// A double against an integer, which may not be a double itself: then the comparison moves to the nearest double, with
/// the operator that gives the exact answer.
fn float_against_integer(slot: usize, operator: Operator, integer: i64) -> Node {
    let value = integer as f64;
    if exact(integer) {
        return Node::F64 { slot, operator, value };
    }
    let above = value as i128 > i128::from(integer);
    match operator {
        Operator::Equal => Node::Never { slot },
        // Every double but NaN differs.
        Operator::NotEqual => Node::F64 { slot, operator: Operator::LessEqual, value: f64::INFINITY },
        Operator::Less | Operator::LessEqual if above => Node::F64 { slot, operator: Operator::Less, value },
        Operator::Less | Operator::LessEqual => Node::F64 { slot, operator: Operator::LessEqual, value },
        Operator::Greater | Operator::GreaterEqual if above => {
            Node::F64 { slot, operator: Operator::GreaterEqual, value }
        }
        Operator::Greater | Operator::GreaterEqual => Node::F64 { slot, operator: Operator::Greater, value },
    }
}

/// An integer against a number between `floor` and `ceil`, which are equal when it is whole.
fn integer(slot: usize, operator: Operator, floor: i128, ceil: i128) -> Node {
    let (least, most) = (i128::from(i64::MIN), i128::from(i64::MAX));
    let (low, high) = match operator {
        Operator::Equal | Operator::NotEqual if floor != ceil => (1, 0),
        Operator::Equal | Operator::NotEqual => (floor, floor),
        Operator::Less => (least, ceil - 1),
        Operator::LessEqual => (least, floor),
        Operator::Greater => (floor + 1, most),
        Operator::GreaterEqual => (ceil, most),
    };
    let (low, high) = (low.max(least), high.min(most));
    let inside = operator != Operator::NotEqual;
    match (i64::try_from(low), i64::try_from(high)) {
        (Ok(low), Ok(high)) if low <= high => Node::I64 { slot, low, high, inside },
        _ if inside => Node::Never { slot },
        _ => Node::I64 { slot, low: i64::MIN, high: i64::MAX, inside: true },
    }
}
