//! Owns sizes and durations as people write them (`256MiB`, `10s`); does not know which setting they belong to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A length of time, written with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Nanoseconds of each unit, the longer names first so that `ms` is not read as `m` and `s`.
const SPAN_UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Splits `12.5MiB` into its number and its unit.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    (text[..end].trim(), text[end..].trim())
}

/// `number * unit`, exactly for whole numbers and rounded for fractions.
fn scale(number: &str, unit: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let scaled = number.parse::<f64>().ok()? * unit as f64;
    // 2^63 keeps the cast exact enough and far away from the edge of u64.
    (scaled.is_finite() && (0.0..9.2e18).contains(&scaled)).then_some(scaled.round() as u64)
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text.trim());
        let found = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        match found {
            Some(&(_, factor)) if !number.is_empty() => scale(number, factor).map(Size),
            None if number == "0" && unit.is_empty() => Some(Size(0)),
            _ => None,
        }
        .ok_or_else(|| format!("expected a size with a unit such as 64KiB, 256MiB or 2GiB, found `{text}`"))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text.trim());
        match SPAN_UNITS.iter().find(|(name, _)| *name == unit) {
            Some(&(_, factor)) if !number.is_empty() => scale(number, factor).map(|ns| Span(Duration::from_nanos(ns))),
            None if number == "0" && unit.is_empty() => Some(Span(Duration::ZERO)),
            _ => None,
        }
        .ok_or_else(|| format!("expected a duration with a unit such as 250ms, 10s, 5m, 1h or 1d, found `{text}`"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the binary units: what is printed can be read back and is exact.
        for (name, factor) in &SIZE_UNITS[..4] {
            if self.0 >= *factor && self.0.is_multiple_of(*factor) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        if ns == 0 {
            return f.write_str("0s");
        }
        for (name, factor) in SPAN_UNITS.iter().rev() {
            if ns.is_multiple_of(u128::from(*factor)) {
                return write!(f, "{}{name}", ns / u128::from(*factor));
            }
        }
        unreachable!("every number of nanoseconds is a multiple of one")
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_text!(Size);
as_text!(Span);

/// `bytes` for people: three digits and a binary unit (`1.42 MiB`).
pub fn human_bytes(bytes: u64) -> String {
    for (name, factor) in &SIZE_UNITS[..4] {
        if bytes >= *factor {
            return format!("{:.2} {name}", bytes as f64 / *factor as f64);
        }
    }
    format!("{bytes} B")
}

/// A whole number with thousands separators (`1,234,567`).
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_read_back() {
        for (text, bytes) in [("256MiB", 256 << 20), ("1.5KiB", 1536), ("10KB", 10_000), ("7B", 7), ("0", 0)] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
            assert_eq!(Size(bytes).to_string().parse::<Size>().unwrap(), Size(bytes));
        }
        for text in ["256", "MiB", "-1MiB", "1XB", "99999999999TiB", ""] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit_and_read_back() {
        for (text, ns) in [("10s", 10_000_000_000), ("250ms", 250_000_000), ("1.5h", 5_400_000_000_000), ("3us", 3000)]
        {
            assert_eq!(text.parse::<Span>().unwrap().0.as_nanos(), ns, "{text}");
            assert_eq!(Span(Duration::from_nanos(ns as u64)).to_string().parse::<Span>().unwrap().0.as_nanos(), ns);
        }
        for text in ["10", "s", "1mo", "-5s", "1e9s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert_eq!(Span(Duration::from_secs(600)).to_string(), "10m");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        assert_eq!(human_bytes(1_500_000), "1.43 MiB");
    }
}
