//! Owns how requests write times, durations and window lengths; does not compute window edges.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A moment in nanoseconds since 1970 UTC. In JSON an integer or RFC 3339 text with any offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// Reads RFC 3339 text or a decimal integer of nanoseconds.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(nanoseconds) = text.parse::<i64>() {
            return Ok(Self(nanoseconds));
        }
        let timestamp: Timestamp = text.parse().map_err(|e| {
            format!(
                "`{text}` is not a time: expected RFC 3339 like 2024-03-31T01:30:00+01:00 or integer nanoseconds ({e})"
            )
        })?;
        i64::try_from(timestamp.as_nanosecond())
            .map(Self)
            .map_err(|_| format!("`{text}` lies outside the years 1677 to 2262 that nanoseconds can tell"))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time: RFC 3339 text or integer nanoseconds")
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Time, E> {
                Ok(Time(v))
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Time, E> {
                i64::try_from(v).map(Time).map_err(|_| E::custom(format_args!("time {v} exceeds 64-bit nanoseconds")))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Time, E> {
                Time::parse(v).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(TimeVisitor)
    }
}

/// An exact length of time in nanoseconds, not negative. In JSON text like `250ms`, `10s`, `5m`, `1h`, `1d` (24 hours).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Length(i64);

impl Length {
    /// A length of `nanoseconds`; `None` when negative.
    pub fn from_nanoseconds(nanoseconds: i64) -> Option<Self> {
        (nanoseconds >= 0).then_some(Self(nanoseconds))
    }

    /// Nanoseconds, never negative.
    pub fn nanoseconds(self) -> i64 {
        self.0
    }

    /// Reads a number and a unit.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text)?;
        let factor = match unit {
            "d" => DAY,
            "w" => 7 * DAY,
            "mo" | "y" => {
                return Err(format!(
                    "`{text}`: months and years differ in length; a duration takes ns us ms s m h d w"
                ));
            }
            _ => fixed_unit(unit).ok_or_else(|| unknown_unit(text, unit, "ns us ms s m h d w"))?,
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| too_long(text))
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display_fixed(self.0, f)
    }
}

/// Length of a window: exact up to hours, by the calendar of a time zone from days on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Every {
    /// This many nanoseconds, whatever clocks on the wall do: `ns us ms s m h`.
    Fixed(i64),
    /// This many civil days: 23 to 25 hours each where clocks change.
    Days(i32),
    /// This many weeks of civil days.
    Weeks(i32),
    /// This many months.
    Months(i32),
    /// This many years.
    Years(i32),
}

impl Every {
    /// Reads a number and a unit.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text)?;
        if number == 0 {
            return Err(format!("`{text}`: a window must be longer than nothing"));
        }
        let calendar = || i32::try_from(number).map_err(|_| too_long(text));
        match unit {
            "d" => calendar().map(Self::Days),
            "w" => calendar().map(Self::Weeks),
            "mo" => calendar().map(Self::Months),
            "y" => calendar().map(Self::Years),
            _ => {
                let factor = fixed_unit(unit).ok_or_else(|| unknown_unit(text, unit, "ns us ms s m h d w mo y"))?;
                number.checked_mul(factor).map(Self::Fixed).ok_or_else(|| too_long(text))
            }
        }
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(nanoseconds) => display_fixed(*nanoseconds, f),
            Self::Days(n) => write!(f, "{n}d"),
            Self::Weeks(n) => write!(f, "{n}w"),
            Self::Months(n) => write!(f, "{n}mo"),
            Self::Years(n) => write!(f, "{n}y"),
        }
    }
}

macro_rules! as_text {
    ($type:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                $type::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Length);
as_text!(Every);

fn split(text: &str) -> Result<(i64, &str), String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || unit.is_empty() {
        return Err(format!(
            "`{text}` is not a duration: expected a whole number and a unit, like 250ms, 10s, 5m, 1h, 1d"
        ));
    }
    number.parse().map(|number| (number, unit)).map_err(|_| too_long(text))
}

fn fixed_unit(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

fn unknown_unit(text: &str, unit: &str, known: &str) -> String {
    format!("`{text}`: unknown unit `{unit}`, expected one of {known}")
}

fn too_long(text: &str) -> String {
    format!("`{text}` is longer than 64-bit nanoseconds can tell")
}

fn display_fixed(nanoseconds: i64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (unit, name) in [(HOUR, "h"), (MINUTE, "m"), (SECOND, "s"), (MILLISECOND, "ms"), (MICROSECOND, "us")] {
        if nanoseconds != 0 && nanoseconds % unit == 0 {
            return write!(f, "{}{name}", nanoseconds / unit);
        }
    }
    write!(f, "{nanoseconds}ns")
}
