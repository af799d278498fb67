//! Owns the reading of time stamps in files; does not know where in a line they stand.

use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// How a time stamp is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339, `YYYY-MM-DD HH:MM[:SS[.fraction]][zone]`, or a number since 1970; told apart value by value.
    Auto,
    /// Always a number since 1970.
    Epoch,
    /// A pattern as `strftime` has them.
    Pattern(String),
}

impl FromStr for TimeFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "epoch" => Ok(Self::Epoch),
            _ if text.contains('%') => Ok(Self::Pattern(text.to_owned())),
            _ => Err("expected auto, epoch or a pattern such as '%d.%m.%Y %H:%M:%S'".into()),
        }
    }
}

/// The unit of numeric time stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TimeUnit {
    /// By the number of digits of the first one: up to 11 seconds, up to 14 ms, up to 17 us, else ns
    Auto,
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl TimeUnit {
    /// Nanoseconds of one unit; `None` for `Auto`.
    fn factor(self) -> Option<i64> {
        match self {
            Self::Auto => None,
            Self::S => Some(1_000_000_000),
            Self::Ms => Some(1_000_000),
            Self::Us => Some(1_000),
            Self::Ns => Some(1),
        }
    }
}

/// Reads time stamps of one file.
#[derive(Clone, Debug)]
pub struct TimeReader {
    format: TimeFormat,
    unit: TimeUnit,
    zone: TimeZone,
    /// The zone has one offset for ever, so the calendar library need not be asked for each row.
    fixed_offset_ns: Option<i64>,
}

impl TimeReader {
    /// A reader for stamps in `format`; those without a zone of their own are in `zone`.
    pub fn new(format: TimeFormat, unit: TimeUnit, zone: TimeZone) -> Self {
        let fixed_offset_ns = zone.to_fixed_offset().ok().map(|o| i64::from(o.seconds()) * 1_000_000_000);
        Self { format, unit, zone, fixed_offset_ns }
    }

    /// Nanoseconds since 1970 of `text`.
    ///
    /// # Errors
    /// What was expected and found.
    pub fn read(&mut self, text: &str) -> Result<i64, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("the time is empty".into());
        }
        match &self.format {
            TimeFormat::Epoch => self.epoch(text),
            TimeFormat::Pattern(pattern) => self.pattern(pattern, text),
            TimeFormat::Auto if looks_numeric(text) => self.epoch(text),
            TimeFormat::Auto => self.calendar(text),
        }
    }

    /// A decimal number of units; the fraction is taken digit by digit so that nothing is rounded.
    fn epoch(&mut self, text: &str) -> Result<i64, String> {
        let bad = || format!("time `{text}`: expected a number since 1970");
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        if self.unit == TimeUnit::Auto {
            // Decided once a file: a stamp in milliseconds of 1970 must not be taken for seconds.
            self.unit = match whole.len() {
                0..=11 => TimeUnit::S,
                12..=14 => TimeUnit::Ms,
                15..=17 => TimeUnit::Us,
                _ => TimeUnit::Ns,
            };
        }
        let factor = self.unit.factor().unwrap_or(1);
        let mut ns = i128::from(whole.parse::<u64>().map_err(|_| bad())?) * i128::from(factor);
        let mut step = factor;
        for digit in fraction.bytes().map(|b| i128::from(b - b'0')) {
            step /= 10;
            if step == 0 && digit != 0 {
                return Err(format!("time `{text}`: finer than a nanosecond"));
            }
            ns += digit * i128::from(step);
        }
        i64::try_from(if negative { -ns } else { ns })
            .map_err(|_| format!("time `{text}`: outside of 1677 to 2262; check --time-unit"))
    }

    /// `YYYY-MM-DD[T| ]HH:MM[:SS[.fraction]][zone]` or a date alone, by hand: it is the hot path of most files.
    fn calendar(&self, text: &str) -> Result<i64, String> {
        let bad = || {
            format!(
                "time `{text}`: expected RFC 3339, YYYY-MM-DD HH:MM:SS or a number since 1970; --time-format '%d.%m.%Y %H:%M' reads others"
            )
        };
        let bytes = text.as_bytes();
        let two = |at: usize| match bytes.get(at..at + 2) {
            Some([a @ b'0'..=b'9', b @ b'0'..=b'9']) => Some((a - b'0') as i8 * 10 + (b - b'0') as i8),
            _ => None,
        };
        let is = |at: usize, any: &[u8]| bytes.get(at).is_some_and(|b| any.contains(b));
        let year = match (two(0), two(2)) {
            (Some(century), Some(year)) => i16::from(century) * 100 + i16::from(year),
            _ => return Err(bad()),
        };
        let separator = *bytes.get(4).ok_or_else(bad)?;
        if !matches!(separator, b'-' | b'/' | b'.') || !is(7, &[separator]) {
            return Err(bad());
        }
        let (month, day) = (two(5).ok_or_else(bad)?, two(8).ok_or_else(bad)?);
        let (mut hour, mut minute, mut second, mut nanos, mut at) = (0, 0, 0, 0i32, 10);
        if bytes.len() > 10 {
            if !is(10, b"T t") {
                return Err(bad());
            }
            at = 11;
            while is(at, b" ") {
                at += 1;
            }
            hour = two(at).ok_or_else(bad)?;
            if !is(at + 2, b":") {
                return Err(bad());
            }
            minute = two(at + 3).ok_or_else(bad)?;
            at += 5;
            if is(at, b":") {
                second = two(at + 1).ok_or_else(bad)?;
                at += 3;
                if is(at, b".,") {
                    at += 1;
                    let start = at;
                    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
                        let place = at - start;
                        if place < 9 {
                            nanos += i32::from(digit - b'0') * 10i32.pow(8 - place as u32);
                        } else if *digit != b'0' {
                            return Err(format!("time `{text}`: finer than a nanosecond"));
                        }
                        at += 1;
                    }
                    if at == start {
                        return Err(bad());
                    }
                }
            }
        }
        let civil = civil(year, month, day, hour, minute, second, nanos)
            .ok_or_else(|| format!("time `{text}`: no such day or time"))?;
        match offset(text[at..].trim()) {
            Ok(Some(seconds)) => shift(civil, i64::from(seconds) * 1_000_000_000),
            Ok(None) => self.local(civil),
            Err(()) => Err(bad()),
        }
        .map_err(|e| {
            if e.is_empty() { format!("time `{text}`: outside of 1677 to 2262") } else { format!("time `{text}`: {e}") }
        })
    }

    fn pattern(&self, pattern: &str, text: &str) -> Result<i64, String> {
        let bad = |e: jiff::Error| format!("time `{text}`: does not match `{pattern}` ({e})");
        let parsed = jiff::fmt::strtime::parse(pattern, text).map_err(bad)?;
        if parsed.offset().is_some() || parsed.timestamp().is_some() {
            let stamp = parsed.to_timestamp().map_err(bad)?;
            return i64::try_from(stamp.as_nanosecond()).map_err(|_| format!("time `{text}`: outside of 1677 to 2262"));
        }
        let civil = match parsed.to_datetime() {
            Ok(civil) => civil,
            // A pattern without a time of day names midnight.
            Err(_) if parsed.hour().is_none() => {
                parsed.to_date().map_err(bad)?.to_datetime(jiff::civil::Time::midnight())
            }
            Err(error) => return Err(bad(error)),
        };
        self.local(civil).map_err(|e| format!("time `{text}`: {e}"))
    }

    /// A time of day without a zone of its own. In the hour that a zone repeats, the first one is meant.
    fn local(&self, civil: DateTime) -> Result<i64, String> {
        if let Some(offset_ns) = self.fixed_offset_ns {
            return shift(civil, offset_ns);
        }
        let stamp = self.zone.to_ambiguous_timestamp(civil).compatible().map_err(|e| e.to_string())?;
        i64::try_from(stamp.as_nanosecond()).map_err(|_| "outside of 1677 to 2262".to_owned())
    }
}

/// Digits with at most one point: not a calendar time.
fn looks_numeric(text: &str) -> bool {
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text).as_bytes();
    rest.iter().all(|b| b.is_ascii_digit() || *b == b'.') && rest.iter().filter(|b| **b == b'.').count() <= 1
}

fn civil(year: i16, month: i8, day: i8, hour: i8, minute: i8, second: i8, nanos: i32) -> Option<DateTime> {
    // A leap second is the last moment of its minute: the clock of the store has none.
    let (second, nanos) = if second == 60 { (59, 999_999_999) } else { (second, nanos) };
    DateTime::new(year, month, day, hour, minute, second, nanos).ok()
}

/// `civil` seen as UTC, minus the offset.
fn shift(civil: DateTime, offset_ns: i64) -> Result<i64, String> {
    let days = days_from_civil(i64::from(civil.year()), i64::from(civil.month()), i64::from(civil.day()));
    let seconds = i64::from(civil.hour()) * 3600 + i64::from(civil.minute()) * 60 + i64::from(civil.second());
    let ns = (i128::from(days) * 86_400 + i128::from(seconds)) * 1_000_000_000 + i128::from(civil.subsec_nanosecond());
    i64::try_from(ns - i128::from(offset_ns)).map_err(|_| String::new())
}

/// Days since 1970-01-01 in the Gregorian calendar (H. Hinnant's algorithm: years start in March).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Seconds east of UTC of `Z`, `UTC`, `+01:00`, `+0100`, `+01`; `None` for nothing.
fn offset(text: &str) -> Result<Option<i32>, ()> {
    match text {
        "" => return Ok(None),
        "Z" | "z" | "UTC" | "GMT" => return Ok(Some(0)),
        _ => {}
    }
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'+') => (1, &text[1..]),
        Some(b'-') => (-1, &text[1..]),
        _ => return Err(()),
    };
    let digits: String = digits.chars().filter(|c| *c != ':').collect();
    if !matches!(digits.len(), 2 | 4 | 6) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(());
    }
    let part = |at: usize| digits.get(at..at + 2).map_or(0, |d| d.parse::<i32>().unwrap_or(0));
    let (hours, minutes, seconds) = (part(0), part(2), part(4));
    if hours > 25 || minutes > 59 || seconds > 59 {
        return Err(());
    }
    Ok(Some(sign * (hours * 3600 + minutes * 60 + seconds)))
}

/// A zone by its IANA name, or a fixed offset such as `+01:00`.
///
/// # Errors
/// When neither is known.
pub fn zone(text: &str) -> Result<TimeZone, String> {
    if let Ok(Some(seconds)) = offset(text)
        && let Ok(offset) = jiff::tz::Offset::from_seconds(seconds)
    {
        return Ok(offset.to_time_zone());
    }
    TimeZone::get(text).map_err(|_| format!("expected a zone such as UTC, Europe/Berlin or +01:00, found `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &str, unit: TimeUnit, zone_name: &str, text: &str) -> Result<i64, String> {
        TimeReader::new(format.parse().unwrap(), unit, zone(zone_name).unwrap()).read(text)
    }

    fn auto(text: &str) -> Result<i64, String> {
        read("auto", TimeUnit::Auto, "UTC", text)
    }

    /// Nanoseconds as jiff sees them, for comparison.
    fn by_jiff(text: &str) -> i64 {
        i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn calendar_times_in_all_spellings() {
        let expected = by_jiff("2019-09-10T04:11:19.5Z");
        for text in [
            "2019-09-10T04:11:19.5Z",
            "2019-09-10 04:11:19.500+00",
            "2019-09-10 04:11:19.5",
            "2019-09-10T06:11:19.5000000+02:00",
            "2019-09-09 23:11:19,5 -0500",
            "2019/09/10 04:11:19.5 UTC",
        ] {
            assert_eq!(auto(text).unwrap(), expected, "{text}");
        }
        assert_eq!(auto("2019-09-10").unwrap(), by_jiff("2019-09-10T00:00:00Z"));
        assert_eq!(auto("2019-09-10 04:11").unwrap(), by_jiff("2019-09-10T04:11:00Z"));
        assert_eq!(auto("1969-12-31T23:59:59.999999999Z").unwrap(), -1);
        assert_eq!(auto("2016-12-31T23:59:60Z").unwrap(), by_jiff("2016-12-31T23:59:59.999999999Z"));
    }

    #[test]
    fn days_agree_with_the_calendar_library() {
        for day in (-100_000i64..100_000).step_by(37) {
            let stamp = jiff::Timestamp::from_second(day * 86_400 + 86_399).unwrap();
            let ns = i64::try_from(stamp.as_nanosecond());
            if let Ok(ns) = ns {
                assert_eq!(auto(&stamp.to_string()).unwrap(), ns, "{stamp}");
            }
        }
    }

    #[test]
    fn numbers_by_digits_and_by_unit() {
        assert_eq!(auto("1489017618").unwrap(), 1_489_017_618_000_000_000);
        assert_eq!(auto("1489017618.25").unwrap(), 1_489_017_618_250_000_000);
        assert_eq!(auto("1767225600000").unwrap(), 1_767_225_600_000_000_000);
        assert_eq!(auto("1577836800000000000").unwrap(), 1_577_836_800_000_000_000);
        assert_eq!(read("epoch", TimeUnit::Ms, "UTC", "-1").unwrap(), -1_000_000);
        // The first stamp decides: 17 is then 17 ms, not 17 s.
        let mut reader = TimeReader::new(TimeFormat::Auto, TimeUnit::Auto, TimeZone::UTC);
        reader.read("1767225600000").unwrap();
        assert_eq!(reader.read("17").unwrap(), 17_000_000);
        assert!(read("epoch", TimeUnit::S, "UTC", "99999999999").is_err());
        assert!(read("epoch", TimeUnit::Ns, "UTC", "1.5").is_err());
    }

    #[test]
    fn patterns_and_zones() {
        let expected = by_jiff("2019-08-22T23:00:00Z");
        assert_eq!(read("%d.%m.%Y %H:%M", TimeUnit::Auto, "+01:00", "23.08.2019 00:00").unwrap(), expected);
        let summer = by_jiff("2019-08-22T22:00:00Z");
        assert_eq!(read("%d.%m.%Y %H:%M", TimeUnit::Auto, "Europe/Berlin", "23.08.2019 00:00").unwrap(), summer);
        assert_eq!(read("auto", TimeUnit::Auto, "Europe/Berlin", "2019-08-23 00:00:00").unwrap(), summer);
        assert_eq!(read("%Y %m %d %H", TimeUnit::Auto, "UTC", "2013 3 1 0").unwrap(), by_jiff("2013-03-01T00:00:00Z"));
        assert_eq!(read("%Y-%m-%d", TimeUnit::Auto, "UTC", "2013-03-01").unwrap(), by_jiff("2013-03-01T00:00:00Z"));
        assert_eq!(
            read("%Y-%m-%dT%H:%M:%S%.f%z", TimeUnit::Auto, "UTC", "2013-03-01T01:00:00.25+0100").unwrap(),
            by_jiff("2013-03-01T00:00:00.25Z")
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_text() {
        for text in [
            "",
            "yesterday",
            "2019-13-01",
            "2019-02-30",
            "2019-09-10 25:00:00",
            "2019-09-10T04:11:19.5X",
            "12:30:00",
            "2019-09-10 04:11:19.",
            "9999-01-01",
            "2019-09-10ü",
        ] {
            assert!(auto(text).is_err(), "{text}");
        }
        assert!(zone("Mars/Olympus").is_err());
        assert!("%H".parse::<TimeFormat>().is_ok() && "iso".parse::<TimeFormat>().is_err());
    }
}
