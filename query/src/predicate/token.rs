//! Owns the words of a condition; does not know their order.

use super::{Operator, error_at};
use crate::error::QueryError;

/// One word and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    /// Byte offset in the text.
    pub at: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A field, bare or in double quotes.
    Field(String),
    /// A literal.
    Literal(Literal),
    Operator(Operator),
    Open,
    Close,
    Comma,
    And,
    Or,
    Not,
    Is,
    Null,
    Between,
    In,
    End,
}

/// A constant of a condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    /// A whole number that fits 64 bits.
    Integer(i64),
    /// Any other number. Never NaN, never infinite.
    Float(f64),
    Bool(bool),
    Text(String),
}

impl std::fmt::Display for Literal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(v) => write!(f, "the number {v}"),
            Self::Float(v) => write!(f, "the number {v}"),
            Self::Bool(v) => write!(f, "{v}"),
            Self::Text(v) => write!(f, "the text '{}'", shortened(v)),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Field(name) => write!(f, "the name `{}`", shortened(name)),
            Self::Literal(literal) => literal.fmt(f),
            Self::Operator(operator) => write!(f, "`{}`", operator.symbol()),
            Self::Open => f.write_str("`(`"),
            Self::Close => f.write_str("`)`"),
            Self::Comma => f.write_str("`,`"),
            Self::And => f.write_str("AND"),
            Self::Or => f.write_str("OR"),
            Self::Not => f.write_str("NOT"),
            Self::Is => f.write_str("IS"),
            Self::Null => f.write_str("NULL"),
            Self::Between => f.write_str("BETWEEN"),
            Self::In => f.write_str("IN"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// Messages quote at most this many characters of a caller's text.
const SHOWN_MAX: usize = 40;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Splits `text` into words; the last is always [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, QueryError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        if next.is_whitespace() {
            at += next.len_utf8();
            continue;
        }
        let (kind, length) = token(text, at, next)?;
        tokens.push(Token { kind, at });
        at += length;
    }
    tokens.push(Token { kind: Kind::End, at: text.len() });
    Ok(tokens)
}

/// The word at byte `at`, which begins with `next`, and its length in bytes.
fn token(text: &str, at: usize, next: char) -> Result<(Kind, usize), QueryError> {
    let rest = &text[at..];
    let second = rest[next.len_utf8()..].chars().next();
    Ok(match (next, second) {
        ('(', _) => (Kind::Open, 1),
        (')', _) => (Kind::Close, 1),
        (',', _) => (Kind::Comma, 1),
        ('=', Some('=')) => (Kind::Operator(Operator::Equal), 2),
        ('=', _) => (Kind::Operator(Operator::Equal), 1),
        ('!', Some('=')) | ('<', Some('>')) => (Kind::Operator(Operator::NotEqual), 2),
        ('<', Some('=')) => (Kind::Operator(Operator::LessEqual), 2),
        ('<', _) => (Kind::Operator(Operator::Less), 1),
        ('>', Some('=')) => (Kind::Operator(Operator::GreaterEqual), 2),
        ('>', _) => (Kind::Operator(Operator::Greater), 1),
        ('\'', _) => {
            let (value, length) = quoted(rest, '\'')
                .ok_or_else(|| error_at(text, at, "the text that starts here has no closing quote (')"))?;
            (Kind::Literal(Literal::Text(value)), length)
        }
        ('"', _) => {
            let (value, length) = quoted(rest, '"')
                .ok_or_else(|| error_at(text, at, "the name that starts here has no closing quote (\")"))?;
            (Kind::Field(value), length)
        }
        ('0'..='9', _) | ('.', Some('0'..='9')) | ('-' | '+', Some('0'..='9' | '.')) => number(text, at)?,
        (c, _) if c.is_alphabetic() || c == '_' => {
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            (word(&rest[..length]), length)
        }
        (c, _) => {
            return Err(error_at(
                text,
                at,
                format!(
                    "unexpected character `{c}`; names with other characters than letters, digits, `_` and `.` go in double quotes"
                ),
            ));
        }
    })
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

/// The content of a quoted text at the start of `rest`, where a doubled quote stands for one, and its length.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            value.push(c);
        } else if chars.peek().is_some_and(|&(_, c)| c == quote) {
            value.push(quote);
            chars.next();
        } else {
            return Some((value, at + quote.len_utf8()));
        }
    }
    None
}

fn number(text: &str, at: usize) -> Result<(Kind, usize), QueryError> {
    let rest = &text[at..];
    let mut length = 1;
    let bytes = rest.as_bytes();
    while let Some(&byte) = bytes.get(length) {
        let after_exponent = matches!(bytes[length - 1], b'e' | b'E');
        match byte {
            b'+' | b'-' if after_exponent => {}
            b'+' | b'-' => break,
            _ if rest[length..].chars().next().is_some_and(is_name) => {}
            _ => break,
        }
        length += rest[length..].chars().next().map_or(1, char::len_utf8);
    }
    let digits = &rest[..length];
    let wrong = |why: &str| error_at(text, at, format!("`{}` {why}", shortened(digits)));
    if let Ok(integer) = digits.parse::<i64>() {
        return Ok((Kind::Literal(Literal::Integer(integer)), length));
    }
    // `parse::<f64>` also takes words like `inf`; here the first character is a digit, a sign or a point.
    if !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
        return Err(wrong("is not a number"));
    }
    match digits.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok((Kind::Literal(Literal::Float(float)), length)),
        Ok(_) => Err(wrong("is too large for a 64-bit float")),
        Err(_) => Err(wrong("is not a number")),
    }
}

fn word(word: &str) -> Kind {
    // Keywords are short; the longest has seven letters.
    if word.len() <= 7 {
        match word.to_ascii_lowercase().as_str() {
            "and" => return Kind::And,
            "or" => return Kind::Or,
            "not" => return Kind::Not,
            "is" => return Kind::Is,
            "null" => return Kind::Null,
            "between" => return Kind::Between,
            "in" => return Kind::In,
            "true" => return Kind::Literal(Literal::Bool(true)),
            "false" => return Kind::Literal(Literal::Bool(false)),
            _ => {}
        }
    }
    Kind::Field(word.to_owned())
}
