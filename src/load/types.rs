//! Owns the types of CSV columns: what a sample says, what the caller overrides, how one cell is read.

use tidewell_codec::FieldType;

use super::rows::Cell;

/// How cells are spelled in this file.
#[derive(Clone, Debug, Default)]
pub struct Spelling {
    /// Texts that mean "no value", beside the empty one.
    pub nulls: Vec<String>,
    /// Numbers are written `1,5`.
    pub decimal_comma: bool,
}

impl Spelling {
    /// Whether `text` (already without blanks around it) is no value.
    #[inline]
    pub fn is_null(&self, text: &str) -> bool {
        text.is_empty() || self.nulls.iter().any(|null| null == text)
    }

    fn f64(&self, text: &str) -> Option<f64> {
        if self.decimal_comma && text.contains(',') {
            return number(&text.replacen(',', ".", 1));
        }
        number(text)
    }

    /// An integer; `96.0` is one too, because some tools write all numbers so.
    fn i64(&self, text: &str) -> Option<i64> {
        if let Ok(value) = text.parse() {
            return Some(value);
        }
        let (whole, fraction) = text.split_once(if self.decimal_comma { ',' } else { '.' })?;
        if !fraction.bytes().all(|b| b == b'0') {
            return None;
        }
        whole.parse().ok()
    }

    /// Reads `text` as `field_type`.
    ///
    /// # Errors
    /// What was expected and found.
    pub fn cell<'a>(&self, text: &'a str, field_type: FieldType) -> Result<Cell<'a>, String> {
        let cell = match field_type {
            _ if self.is_null(text) => Some(Cell::Null),
            FieldType::F64 => self.f64(text).map(Cell::F64),
            FieldType::I64 => self.i64(text).map(Cell::I64),
            FieldType::Bool => boolean(text).map(Cell::Bool),
            FieldType::Utf8 => Some(Cell::Utf8(text)),
        };
        cell.ok_or_else(|| format!("expected {field_type}, found `{}`", text.chars().take(40).collect::<String>()))
    }
}

/// A double as people write them. `inf`, `infinity` and `nan` count, because the store keeps them.
fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "1.0" => Some(true),
        "0" | "0.0" => Some(false),
        _ if ["true", "t", "yes", "on"].iter().any(|word| word.eq_ignore_ascii_case(text)) => Some(true),
        _ if ["false", "f", "no", "off"].iter().any(|word| word.eq_ignore_ascii_case(text)) => Some(false),
        _ => None,
    }
}

/// What the cells seen so far can be read as.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guess {
    seen: u64,
    not_number: u64,
    not_bool: u64,
    fraction: bool,
}

/// One cell in so many may be no number and the column is one all the same: such cells come from damaged lines, and a
/// column of texts would hide them for ever.
const DAMAGED_ONE_IN: u64 = 1_000;

impl Guess {
    /// Takes one cell into account.
    pub fn see(&mut self, text: &str, spelling: &Spelling) {
        if spelling.is_null(text) {
            return;
        }
        self.seen += 1;
        // `1` and `0` are numbers unless the caller says otherwise, `96.0` is no integer by itself.
        if self.fraction || text.parse::<i64>().is_err() {
            match spelling.f64(text) {
                Some(_) => self.fraction = true,
                None => self.not_number += 1,
            }
        }
        self.not_bool += u64::from(!(text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")));
    }

    /// The narrowest type that fits: i64, f64, bool, utf8. `None` when every cell was empty.
    pub fn field_type(self) -> Option<FieldType> {
        let damaged = self.seen / DAMAGED_ONE_IN;
        Some(match self {
            Self { seen: 0, .. } => return None,
            Self { not_number, fraction: false, .. } if not_number <= damaged => FieldType::I64,
            Self { not_number, .. } if not_number <= damaged => FieldType::F64,
            Self { not_bool: 0, .. } => FieldType::Bool,
            _ => FieldType::Utf8,
        })
    }
}

/// One `--types` entry: a column and its type; `*` stands for every column guessed to be a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeOverride {
    /// The column as the header has it, or `*`.
    pub column: String,
    /// Its type.
    pub field_type: FieldType,
}

impl std::str::FromStr for TypeOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The last `=`: a header may hold one itself.
        let (column, name) = text.rsplit_once('=').ok_or("expected COLUMN=TYPE")?;
        let field_type = match name.trim() {
            "f64" => FieldType::F64,
            "i64" => FieldType::I64,
            "bool" => FieldType::Bool,
            "utf8" => FieldType::Utf8,
            other => return Err(format!("expected f64, i64, bool or utf8, found `{other}`")),
        };
        let column = column.trim();
        if column.is_empty() {
            return Err("expected COLUMN=TYPE".into());
        }
        if column == "*" && !matches!(field_type, FieldType::F64 | FieldType::I64) {
            return Err("`*` stands for the number columns: expected *=f64 or *=i64".into());
        }
        Ok(Self { column: column.to_owned(), field_type })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(cells: &[&str]) -> Option<FieldType> {
        let spelling = Spelling { nulls: vec!["NA".into()], decimal_comma: false };
        let mut guess = Guess::default();
        cells.iter().for_each(|cell| guess.see(cell, &spelling));
        guess.field_type()
    }

    #[test]
    fn the_narrowest_type_that_fits_is_guessed() {
        assert_eq!(guess(&["1", "-2", "", "NA"]), Some(FieldType::I64));
        assert_eq!(guess(&["1", "2.5", "1e3"]), Some(FieldType::F64));
        assert_eq!(guess(&["96.0"]), Some(FieldType::F64));
        assert_eq!(guess(&["true", "False"]), Some(FieldType::Bool));
        assert_eq!(guess(&["true", "1"]), Some(FieldType::Utf8));
        assert_eq!(guess(&["NW", "1"]), Some(FieldType::Utf8));
        assert_eq!(guess(&["99999999999999999999"]), Some(FieldType::F64));
        assert_eq!(guess(&["", "NA"]), None);
        let mut mostly = vec!["7"; 1_000];
        mostly.push("7\u{0}x");
        assert_eq!(guess(&mostly), Some(FieldType::I64), "one damaged line in a thousand");
        mostly.push("A7");
        assert_eq!(guess(&mostly), Some(FieldType::Utf8));
    }

    #[test]
    fn cells_are_read_as_their_column_says() {
        let plain = Spelling::default();
        assert_eq!(plain.cell("96.00", FieldType::I64), Ok(Cell::I64(96)));
        assert!(plain.cell("96.5", FieldType::I64).unwrap_err().contains("96.5"));
        assert_eq!(plain.cell("96", FieldType::F64), Ok(Cell::F64(96.0)));
        assert_eq!(plain.cell("0.0", FieldType::Bool), Ok(Cell::Bool(false)));
        assert_eq!(plain.cell("", FieldType::Utf8), Ok(Cell::Null));
        assert!(plain.cell("1,5", FieldType::F64).is_err());
        let comma = Spelling { nulls: vec!["888,8".into()], decimal_comma: true };
        assert_eq!(comma.cell("-67,5", FieldType::F64), Ok(Cell::F64(-67.5)));
        assert_eq!(comma.cell("888,8", FieldType::F64), Ok(Cell::Null));
        assert!(comma.cell("1,234,5", FieldType::F64).is_err());
    }

    #[test]
    fn overrides_are_read() {
        assert_eq!("a=b=f64".parse(), Ok(TypeOverride { column: "a=b".into(), field_type: FieldType::F64 }));
        assert!("a".parse::<TypeOverride>().is_err());
        assert!("a=float".parse::<TypeOverride>().unwrap_err().contains("utf8"));
        assert!("*=utf8".parse::<TypeOverride>().is_err());
    }
}
