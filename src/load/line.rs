//! Owns the grammar of InfluxDB line protocol: one line to its parts; does not know tables or devices.

use std::borrow::Cow;

/// The parts of one line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line<'a> {
    /// What becomes the table.
    pub measurement: Cow<'a, str>,
    /// Tag pairs in the order of the line.
    pub tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Field pairs; a field named twice keeps the last value, as InfluxDB does.
    pub fields: Vec<(Cow<'a, str>, Value<'a>)>,
    /// The number at the end, in whatever unit the file uses.
    pub time: Option<i64>,
}

/// The value of one field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `1`, `1.5`, `1e3`.
    F64(f64),
    /// `1i`, `1u`.
    I64(i64),
    /// `t`, `true`, …
    Bool(bool),
    /// `"text"`.
    Utf8(Cow<'a, str>),
}

/// Why a line was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineError {
    /// A quoted text goes on in the next line: read one more and try again.
    OpenQuote,
    /// What was expected and found.
    Wrong(String),
}

fn wrong<T>(message: impl Into<String>) -> Result<T, LineError> {
    Err(LineError::Wrong(message.into()))
}

/// Reads one line, without its line end. `None` for blank lines and comments.
///
/// # Errors
/// What was expected and found, or that a quoted text is still open.
pub fn parse(text: &str) -> Result<Option<Line<'_>>, LineError> {
    let text = text.trim_start_matches([' ', '\t']).trim_end_matches(['\r', '\n', ' ', '\t']);
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let mut at = Cursor { text, at: 0 };
    let mut line = Line { measurement: at.name(b", ", b", ")?, ..Line::default() };
    if line.measurement.is_empty() {
        return wrong("the measurement is empty");
    }
    while at.take(b',') {
        let key = at.name(b"=, ", b"=, ")?;
        if !at.take(b'=') {
            return wrong(format!("tag `{key}`: expected `=` after its name"));
        }
        let value = at.name(b"=, ", b"=, ")?;
        if key.is_empty() || value.is_empty() {
            return wrong(format!("tag `{key}={value}`: expected a name and a value"));
        }
        if line.tags.iter().any(|(seen, _)| *seen == key) {
            return wrong(format!("tag `{key}` is there twice"));
        }
        line.tags.push((key, value));
    }
    if !at.take_blanks() {
        return wrong(format!("expected a blank and fields after `{}`", head(&text[..at.at])));
    }
    loop {
        let key = at.name(b"=, ", b"=, ")?;
        if key.is_empty() || !at.take(b'=') {
            return wrong(format!("expected FIELD=VALUE, found `{}`", head(&text[at.at.min(text.len())..])));
        }
        let value = at.value(&key)?;
        match line.fields.iter_mut().find(|(seen, _)| *seen == key) {
            Some((_, old)) => *old = value,
            None => line.fields.push((key, value)),
        }
        if !at.take(b',') {
            break;
        }
    }
    if at.take_blanks() {
        let rest = &text[at.at..];
        line.time = Some(
            rest.parse()
                .map_err(|_| LineError::Wrong(format!("expected a whole number as time, found `{}`", head(rest))))?,
        );
    } else if at.at < text.len() {
        return wrong(format!("expected `,`, a blank or the end, found `{}`", head(&text[at.at..])));
    }
    Ok(Some(line))
}

fn head(text: &str) -> String {
    text.chars().take(40).collect()
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn take_blanks(&mut self) -> bool {
        let start = self.at;
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
        self.at > start
    }

    /// Text up to one of `ends`, where a backslash takes away the meaning of one of `escapable` and is itself otherwise.
    ///
    /// All bytes looked for are ASCII, so a slice never cuts a character.
    fn name(&mut self, ends: &[u8], escapable: &[u8]) -> Result<Cow<'a, str>, LineError> {
        let (bytes, start) = (self.text.as_bytes(), self.at);
        let mut owned: Option<String> = None;
        let mut plain = start;
        while let Some(byte) = self.peek() {
            if byte == b'\\' && bytes.get(self.at + 1).is_some_and(|next| escapable.contains(next)) {
                owned.get_or_insert_default().push_str(&self.text[plain..self.at]);
                plain = self.at + 1;
                self.at += 2;
            } else if ends.contains(&byte) {
                break;
            } else {
                self.at += 1;
            }
        }
        let rest = &self.text[plain..self.at];
        Ok(match owned {
            None => Cow::Borrowed(rest),
            Some(text) => Cow::Owned(text + rest),
        })
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>, LineError> {
        if self.take(b'"') {
            return self.quoted();
        }
        let start = self.at;
        while self.peek().is_some_and(|b| b != b',' && b != b' ') {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        let value = match text {
            "t" | "T" | "true" | "True" | "TRUE" => Some(Value::Bool(true)),
            "f" | "F" | "false" | "False" | "FALSE" => Some(Value::Bool(false)),
            _ => match text.as_bytes().last() {
                Some(b'i') => text[..text.len() - 1].parse().ok().map(Value::I64),
                // Unsigned numbers of the upper half have no place in an i64.
                Some(b'u') => {
                    text[..text.len() - 1].parse::<u64>().ok().and_then(|v| i64::try_from(v).ok()).map(Value::I64)
                }
                Some(b'0'..=b'9' | b'.') => text.parse().ok().map(Value::F64),
                _ => None,
            },
        };
        match value {
            Some(value) => Ok(value),
            None => wrong(format!("field `{key}`: expected 1.5, 1i, 1u, true or \"text\", found `{}`", head(text))),
        }
    }

    fn quoted(&mut self) -> Result<Value<'a>, LineError> {
        let bytes = self.text.as_bytes();
        let mut owned: Option<String> = None;
        let mut plain = self.at;
        loop {
            match self.peek() {
                None => return Err(LineError::OpenQuote),
                Some(b'"') => break,
                Some(b'\\') if matches!(bytes.get(self.at + 1), Some(b'"' | b'\\')) => {
                    owned.get_or_insert_default().push_str(&self.text[plain..self.at]);
                    plain = self.at + 1;
                    self.at += 2;
                }
                Some(_) => self.at += 1,
            }
        }
        let rest = &self.text[plain..self.at];
        self.at += 1;
        Ok(Value::Utf8(match owned {
            None => Cow::Borrowed(rest),
            Some(text) => Cow::Owned(text + rest),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line<'_> {
        parse(text).unwrap().unwrap()
    }

    #[test]
    fn a_plain_line_has_all_its_parts() {
        let line = line(
            "weather,location=San\\ Francisco,kind=a wind=2.24,rain=0,n=5i,u=7u,ok=t,text=\"a b\" 1577836800000000000",
        );
        assert_eq!(line.measurement, "weather");
        assert_eq!(line.tags, [("location".into(), "San Francisco".into()), ("kind".into(), "a".into())]);
        assert_eq!(
            line.fields,
            [
                ("wind".into(), Value::F64(2.24)),
                ("rain".into(), Value::F64(0.0)),
                ("n".into(), Value::I64(5)),
                ("u".into(), Value::I64(7)),
                ("ok".into(), Value::Bool(true)),
                ("text".into(), Value::Utf8("a b".into())),
            ]
        );
        assert_eq!(line.time, Some(1_577_836_800_000_000_000));
    }

    #[test]
    fn escapes_and_quotes() {
        let line = line(r#"my\ table\,x,t\=ag=v\,al fi\ eld="say \"hi\", C:\\x \n=1",b=-1.5e3"#);
        assert_eq!(line.measurement, "my table,x");
        assert_eq!(line.tags, [("t=ag".into(), "v,al".into())]);
        assert_eq!(line.fields[0], ("fi eld".into(), Value::Utf8(r#"say "hi", C:\x \n=1"#.into())));
        assert_eq!(line.fields[1], ("b".into(), Value::F64(-1500.0)));
        assert_eq!(line.time, None);
        assert_eq!(parse("m f=\"open, 1"), Err(LineError::OpenQuote));
        assert_eq!(parse("m f=\"two\nlines\" 1").unwrap().unwrap().fields[0].1, Value::Utf8("two\nlines".into()));
        assert_eq!(super::parse("m\\n f=1").unwrap().unwrap().measurement, "m\\n");
    }

    #[test]
    fn blank_lines_and_comments_are_nothing() {
        for text in ["", "  ", "# note", "\r"] {
            assert_eq!(parse(text), Ok(None));
        }
        assert_eq!(line("m f=1 5\r").time, Some(5));
        assert_eq!(line("m f=1,f=2").fields, [("f".into(), Value::F64(2.0))]);
    }

    #[test]
    fn wrong_lines_say_what_was_expected() {
        for text in [
            "m",
            "m ",
            "m,t f=1",
            "m,t= f=1",
            "m f",
            "m f=",
            "m f=abc",
            "m f=1 x",
            "m f=1x",
            "m f=1,",
            "m f=18446744073709551615u",
            ",a=b f=1",
            "m,a=1,a=2 f=1",
            "m f=\"a\"b",
            "m f=1 2 3",
            "m f=1 1.5",
            "m f=nan",
            "m f=inf",
        ] {
            assert!(matches!(parse(text), Err(LineError::Wrong(_))), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn any_text_is_survived() {
        use proptest::prelude::*;
        proptest!(|(text in "[a-c\\\\\", =\\n0-9iué#]{0,40}")| { let _ = parse(&text); });
    }
}
