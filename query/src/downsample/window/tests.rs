//! Owns tests of window edges: exact lengths, calendars, changes of clocks.

use jiff::ToSpan;
use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000_000_000;

fn at(text: &str) -> i64 {
    Time::parse(text).unwrap().0
}

fn windows(every: &str, origin: &str, zone: &str, start: &str, end: &str) -> Windows {
    let origin = if origin.is_empty() { Time::default() } else { Time::parse(origin).unwrap() };
    Windows::new(Every::parse(every).unwrap(), origin, zone, at(start), at(end)).unwrap()
}

/// Starts of all windows, and the end of the last.
fn edges(windows: &Windows) -> Vec<String> {
    (0..=windows.count()).map(|i| Time(windows.start(i)).to_string()).collect()
}

fn hours(windows: &Windows) -> Vec<f64> {
    (0..windows.count()).map(|i| (windows.end(i) - windows.start(i)) as f64 / HOUR as f64).collect()
}

#[test]
fn exact_windows_are_aligned_to_the_origin_and_not_to_the_start() {
    let w = windows("5m", "", "UTC", "2024-01-01T00:03:00Z", "2024-01-01T00:10:00Z");
    assert_eq!(edges(&w), ["2024-01-01T00:00:00Z", "2024-01-01T00:05:00Z", "2024-01-01T00:10:00Z"]);
    let w = windows("5m", "2030-01-01T00:01:00Z", "UTC", "2024-01-01T00:03:00Z", "2024-01-01T00:06:00.000000001Z");
    assert_eq!(edges(&w), ["2024-01-01T00:01:00Z", "2024-01-01T00:06:00Z", "2024-01-01T00:11:00Z"]);
    // Before the origin, too.
    let w = windows("1h", "", "UTC", "1969-12-31T23:30:00Z", "1970-01-01T00:30:00Z");
    assert_eq!(edges(&w), ["1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z", "1970-01-01T01:00:00Z"]);
}

#[test]
fn hours_stay_exact_where_clocks_change() {
    // In Berlin 02:00 to 03:00 comes twice on 27 October 2024: two windows, none lost, none doubled.
    let w = windows("1h", "", "Europe/Berlin", "2024-10-27T01:00:00+02:00", "2024-10-27T04:00:00+01:00");
    assert_eq!(hours(&w), [1.0; 4]);
    let w = windows("1h", "", "Europe/Berlin", "2024-03-31T01:00:00+01:00", "2024-03-31T04:00:00+02:00");
    assert_eq!(hours(&w), [1.0; 2]);
}

#[test]
fn days_follow_the_clocks_of_their_zone() {
    let w = windows("1d", "", "Europe/Berlin", "2024-03-30T12:00:00Z", "2024-04-01T12:00:00Z");
    assert_eq!(
        edges(&w),
        ["2024-03-29T23:00:00Z", "2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z", "2024-04-01T22:00:00Z"]
    );
    assert_eq!(hours(&w), [24.0, 23.0, 24.0]);
    let w = windows("1d", "", "Europe/Berlin", "2024-10-27T00:00:00Z", "2024-10-27T22:59:00Z");
    assert_eq!(hours(&w), [25.0]);
    let w = windows("1d", "", "America/New_York", "2024-03-10T05:00:00Z", "2024-03-11T04:00:00Z");
    assert_eq!(hours(&w), [23.0]);
    let w = windows("1d", "", "America/New_York", "2024-11-03T04:00:00Z", "2024-11-04T05:00:00Z");
    assert_eq!(hours(&w), [25.0]);
    // Lord Howe moves its clocks by half an hour.
    let w = windows("1d", "", "Australia/Lord_Howe", "2024-10-05T14:00:00Z", "2024-10-06T12:00:00Z");
    assert_eq!(hours(&w), [23.5]);
    let w = windows("1d", "", "Australia/Lord_Howe", "2024-04-06T14:00:00Z", "2024-04-07T12:00:00Z");
    assert_eq!(hours(&w), [24.5]);
    // Seven days are seven days on the wall.
    let w = windows("1w", "", "Europe/Berlin", "2024-03-25T00:00:00+01:00", "2024-04-01T00:00:00+02:00");
    assert_eq!((w.count(), hours(&w)), (1, vec![7.0 * 24.0 - 1.0]));
}

#[test]
fn midnights_that_are_skipped_or_doubled_still_begin_one_day() {
    // São Paulo went from 00:00 to 01:00.
    let w = windows("1d", "", "America/Sao_Paulo", "2018-11-03T12:00:00Z", "2018-11-05T00:00:00Z");
    assert_eq!(edges(&w), ["2018-11-03T03:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"]);
    // Havana went from 01:00 back to 00:00.
    let w = windows("1d", "", "America/Havana", "2024-11-03T04:30:00Z", "2024-11-03T05:30:00Z");
    assert_eq!(edges(&w), ["2024-11-03T04:00:00Z", "2024-11-04T05:00:00Z"]);
    // Apia had no 30 December 2011.
    let w = windows("1d", "", "Pacific/Apia", "2011-12-29T12:00:00-10:00", "2011-12-31T12:00:00+14:00");
    assert_eq!(edges(&w), ["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"]);
}

#[test]
fn weeks_begin_on_monday_and_months_and_years_on_their_first() {
    let w = windows("1w", "", "UTC", "2024-01-03T00:00:00Z", "2024-01-08T00:00:00Z");
    assert_eq!(edges(&w), ["2024-01-01T00:00:00Z", "2024-01-08T00:00:00Z"]);
    let w = windows("1mo", "", "Europe/Berlin", "2024-03-15T00:00:00Z", "2024-04-15T00:00:00Z");
    assert_eq!(edges(&w), ["2024-02-29T23:00:00Z", "2024-03-31T22:00:00Z", "2024-04-30T22:00:00Z"]);
    let w = windows("3mo", "", "UTC", "2024-02-01T00:00:00Z", "2024-02-02T00:00:00Z");
    assert_eq!(edges(&w), ["2024-01-01T00:00:00Z", "2024-04-01T00:00:00Z"]);
    let w = windows("1y", "", "UTC", "1969-06-01T00:00:00Z", "1970-06-01T00:00:00Z");
    assert_eq!(edges(&w), ["1969-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1971-01-01T00:00:00Z"]);
    // Months counted from a 31st: February ends early, March is whole again.
    let w = windows("1mo", "2024-01-31T00:00:00Z", "UTC", "2024-02-01T00:00:00Z", "2024-04-01T00:00:00Z");
    assert_eq!(
        edges(&w),
        ["2024-01-31T00:00:00Z", "2024-02-29T00:00:00Z", "2024-03-31T00:00:00Z", "2024-04-30T00:00:00Z"]
    );
    // A day that begins at six, in the zone's time.
    let w = windows("1d", "2024-01-01T06:00:00+01:00", "Europe/Berlin", "2024-07-01T10:00:00Z", "2024-07-01T11:00:00Z");
    assert_eq!(edges(&w), ["2024-07-01T04:00:00Z", "2024-07-02T04:00:00Z"]);
}

#[test]
fn the_ends_of_time_and_unknown_zones_are_refused_or_cut() {
    let error = Windows::new(Every::Days(1), Time(0), "Europe/Bärlin", 0, 1).unwrap_err();
    assert!(error.to_string().contains("expected an IANA time zone like Europe/Berlin, found `Europe/Bärlin`"));
    for every in ["7h", "1d", "1w", "1mo", "1y", "2000y", "2147483647mo"] {
        let every = Every::parse(every).unwrap();
        for (start, end) in [(i64::MIN + 400 * 24 * HOUR, i64::MIN + 400 * 24 * HOUR + 1), (i64::MAX - 1, i64::MAX)] {
            if let Ok(w) = Windows::new(every, Time(1), "UTC", start, end) {
                assert!(w.start(0) <= start && w.end(w.count() - 1) >= end, "{every}");
            }
        }
        let all = Windows::new(every, Time(0), "Europe/Berlin", i64::MIN, i64::MAX);
        assert!(all.is_err() || all.is_ok_and(|w| w.count() > 0), "{every}");
    }
}

fn zones() -> Vec<String> {
    jiff::tz::db().available().map(|name| name.to_string()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_day_of_any_zone_is_what_its_calendar_says(zone in prop::sample::select(zones()), time in at("1900-01-01T00:00:00Z")..at("2100-01-01T00:00:00Z")) {
        let windows = Windows::new(Every::Days(1), Time(0), &zone, time, time + 1).unwrap();
        prop_assert_eq!(windows.count(), 1);
        let zone = TimeZone::get(&zone).unwrap();
        let date = zone.to_datetime(Timestamp::from_nanosecond(i128::from(time)).unwrap()).date();
        let midnight = |date: Date| date.to_zoned(zone.clone()).unwrap().timestamp().as_nanosecond() as i64;
        let (start, end) = (midnight(date), midnight(date.checked_add(1.day()).unwrap()));
        // Where clocks went back over midnight a date comes twice; the second time belongs to the day already begun.
        if start <= time && time < end {
            prop_assert_eq!((windows.start(0), windows.end(0)), (start, end));
        }
    }

    #[test]
    fn windows_cover_the_range_once(
        every in prop::sample::select(vec!["7s", "1m", "90m", "6h", "1d", "3d", "1w", "1mo", "5mo", "1y"]),
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata", "America/St_Johns"]),
        origin in prop_oneof![Just(0), at("1950-01-01T00:00:00Z")..at("2050-01-01T00:00:00Z")],
        start in at("1960-01-01T00:00:00Z")..at("2040-01-01T00:00:00Z"),
        length in prop_oneof![1..100 * HOUR, 1..10_000 * HOUR],
        probe in 0.0..1.0f64,
    ) {
        let every = Every::parse(every).unwrap();
        let end = start + length;
        let windows = Windows::new(every, Time(origin), zone, start, end).unwrap();
        let count = windows.count();
        prop_assert!(windows.start(0) <= start && start < windows.end(0));
        prop_assert!(windows.start(count - 1) < end && end <= windows.end(count - 1));
        let time = start + (probe * (length - 1) as f64) as i64;
        let window = windows.at(time);
        prop_assert!(windows.start(window) <= time && time < windows.end(window));
        if count < 10_000 {
            prop_assert!((0..count).all(|i| windows.start(i) < windows.end(i)));
        }
        // The same window, whatever the query's start.
        let narrow = Windows::new(every, Time(origin), zone, time, time + 1).unwrap();
        prop_assert_eq!((narrow.count(), narrow.start(0), narrow.end(0)), (1, windows.start(window), windows.end(window)));
    }
}
