//! Owns the grammar of conditions; does not know tables.
//!
//! ```text
//! or         := and ( OR and )*
//! and        := unary ( AND unary )*
//! unary      := NOT unary | ( or ) | comparison
//! comparison := field op literal | literal op field | field IS [NOT] NULL
//!             | field [NOT] BETWEEN literal AND literal | field [NOT] IN ( literal , … )
//! ```

use super::token::{Kind, Literal, Token, tokens};
use super::{CONDITION_BYTES_MAX, DEPTH_MAX, Operator, error_at};
use crate::error::QueryError;

/// A condition as written. Chains of `AND` and `OR` are flat, so depth comes from parentheses and `NOT` alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Not(Box<Expression>),
    Compare { field: Name, operator: Operator, literal: At<Literal> },
    IsNull { field: Name },
    Between { field: Name, low: At<Literal>, high: At<Literal> },
    In { field: Name, literals: Vec<At<Literal>> },
}

/// A field and where it is named.
pub(super) type Name = At<String>;

/// Something and the byte offset where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct At<T> {
    pub value: T,
    pub at: usize,
}

/// Reads a condition.
pub(super) fn parse(text: &str) -> Result<Expression, QueryError> {
    if text.len() > CONDITION_BYTES_MAX {
        let message = format!("the condition has {} bytes, at most {CONDITION_BYTES_MAX} are read", text.len());
        return Err(error_at(text, 0, message));
    }
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0, depth: 0 };
    let expression = parser.or()?;
    match parser.peek() {
        Kind::End => Ok(expression),
        Kind::Close => Err(parser.error("this `)` closes nothing")),
        _ => Err(parser.expected("AND, OR or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    fn or(&mut self) -> Result<Expression, QueryError> {
        let first = self.and()?;
        if *self.peek() != Kind::Or {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take(&Kind::Or) {
            parts.push(self.and()?);
        }
        Ok(Expression::Or(parts))
    }

    fn and(&mut self) -> Result<Expression, QueryError> {
        let first = self.unary()?;
        if *self.peek() != Kind::And {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take(&Kind::And) {
            parts.push(self.unary()?);
        }
        Ok(Expression::And(parts))
    }

    fn unary(&mut self) -> Result<Expression, QueryError> {
        match self.peek() {
            Kind::Not => {
                self.deeper()?;
                let inner = self.unary()?;
                self.depth -= 1;
                Ok(Expression::Not(Box::new(inner)))
            }
            Kind::Open => {
                self.deeper()?;
                let inner = self.or()?;
                self.depth -= 1;
                if !self.take(&Kind::Close) {
                    return Err(self.expected("AND, OR or `)`"));
                }
                Ok(inner)
            }
            _ => self.comparison(),
        }
    }

    /// Steps over the word that opens a level.
    fn deeper(&mut self) -> Result<(), QueryError> {
        if self.depth == DEPTH_MAX {
            return Err(self.error(format!("parentheses and NOT nest deeper than {DEPTH_MAX}")));
        }
        self.depth += 1;
        self.next += 1;
        Ok(())
    }

    fn comparison(&mut self) -> Result<Expression, QueryError> {
        if let Kind::Literal(_) = self.peek() {
            let literal = self.literal()?;
            let Kind::Operator(operator) = *self.peek() else {
                return Err(self.expected("a comparison like `>` after a literal"));
            };
            self.next += 1;
            let field = self.field("a field: a comparison is between a field and a literal")?;
            return Ok(Expression::Compare { field, operator: operator.flipped(), literal });
        }
        let field = self.field("a field, a literal, NOT or `(`")?;
        let negated = *self.peek() == Kind::Not;
        if negated {
            self.next += 1;
        }
        let expression = match *self.peek() {
            Kind::Between => {
                self.next += 1;
                let low = self.literal()?;
                if !self.take(&Kind::And) {
                    return Err(self.expected("AND and the upper bound of BETWEEN"));
                }
                Expression::Between { field, low, high: self.literal()? }
            }
            Kind::In => {
                self.next += 1;
                Expression::In { field, literals: self.list()? }
            }
            _ if negated => return Err(self.expected("BETWEEN or IN after NOT")),
            Kind::Is => {
                self.next += 1;
                let negated = self.take(&Kind::Not);
                if !self.take(&Kind::Null) {
                    return Err(self.expected(if negated { "NULL" } else { "NULL or NOT NULL" }));
                }
                let is_null = Expression::IsNull { field };
                return Ok(if negated { Expression::Not(Box::new(is_null)) } else { is_null });
            }
            Kind::Operator(operator) => {
                self.next += 1;
                Expression::Compare { field, operator, literal: self.literal()? }
            }
            _ => return Err(self.expected("a comparison like `>`, IS, BETWEEN or IN")),
        };
        Ok(if negated { Expression::Not(Box::new(expression)) } else { expression })
    }

    fn list(&mut self) -> Result<Vec<At<Literal>>, QueryError> {
        if !self.take(&Kind::Open) {
            return Err(self.expected("`(` and a list of literals"));
        }
        let mut literals = vec![self.literal()?];
        while self.take(&Kind::Comma) {
            literals.push(self.literal()?);
        }
        if !self.take(&Kind::Close) {
            return Err(self.expected("`,` or `)`"));
        }
        Ok(literals)
    }

    fn field(&mut self, expected: &str) -> Result<Name, QueryError> {
        let at = self.tokens[self.next].at;
        match self.peek() {
            Kind::Field(name) => {
                let value = name.clone();
                self.next += 1;
                Ok(At { value, at })
            }
            _ => Err(self.expected(expected)),
        }
    }

    fn literal(&mut self) -> Result<At<Literal>, QueryError> {
        let at = self.tokens[self.next].at;
        match self.peek() {
            Kind::Literal(literal) => {
                let value = literal.clone();
                self.next += 1;
                Ok(At { value, at })
            }
            Kind::Null => Err(self.error("NULL equals nothing; use IS NULL or IS NOT NULL")),
            Kind::Field(_) => Err(self.expected("a number, a text in single quotes, true or false")),
            _ => Err(self.expected("a literal: a number, a text in single quotes, true or false")),
        }
    }

    fn peek(&self) -> &Kind {
        &self.tokens[self.next].kind
    }

    fn take(&mut self, kind: &Kind) -> bool {
        let found = self.peek() == kind;
        self.next += usize::from(found);
        found
    }

    fn expected(&self, expected: &str) -> QueryError {
        self.error(format!("expected {expected}, found {}", self.peek()))
    }

    fn error(&self, message: impl Into<String>) -> QueryError {
        error_at(self.text, self.tokens[self.next].at, message)
    }
}
