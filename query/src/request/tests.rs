//! Owns tests of requests as JSON; does not test answers.

use super::*;

fn parse(json: &str) -> Result<Request, String> {
    Request::parse(json.as_bytes()).map_err(|e| e.to_string())
}

#[test]
fn the_examples_of_the_contract_are_read() {
    let range = parse(
        r#"{"range": {"table": "readings", "devices": ["truck_1"], "start": "2024-01-01T00:00:00Z", "end": 1704067201000000000,
            "fields": ["velocity"], "where": "velocity > 50", "limit": 1000}}"#,
    )
    .unwrap();
    let Request::Range(range) = range else { panic!("{range:?}") };
    assert_eq!((range.start, range.end), (Time(1_704_067_200_000_000_000), Time(1_704_067_201_000_000_000)));
    assert_eq!(range.devices, DeviceSelection::Ids(vec!["truck_1".into()]));
    assert_eq!((range.condition.as_deref(), range.limit), (Some("velocity > 50"), Some(1000)));

    let latest = parse(
        r#"{"latest": {"table": "readings", "devices": {"glob": "truck_*"}, "fields": ["velocity"], "as_of": "2024-01-01T02:00:00+02:00"}}"#,
    )
    .unwrap();
    let Request::Latest(latest) = latest else { panic!("{latest:?}") };
    assert_eq!(latest.as_of, Some(Time(1_704_067_200_000_000_000)));
    assert_eq!(latest.devices, DeviceSelection::Glob("truck_*".into()));

    let downsample = parse(
        r#"{"downsample": {"table": "readings", "start": 0, "end": 10, "every": "1m", "origin": "1970-01-01T00:00:00Z",
            "timezone": "UTC", "fields": ["velocity"], "aggregates": ["mean", "min", "max", "count", "sum", "first", "last"],
            "group": "attribute:fleet", "fill": "none"}}"#,
    )
    .unwrap();
    let Request::Downsample(downsample) = downsample else { panic!("{downsample:?}") };
    assert_eq!(downsample.every, Every::Fixed(60_000_000_000));
    assert_eq!(downsample.group, Group::Attribute("fleet".into()));

    let threshold = parse(
        r#"{"threshold": {"table": "readings", "devices": {"attributes": {"fleet": "north"}}, "start": 0, "end": 10,
            "where": "velocity > 95 AND status = 2", "for": "5m", "max_gap": "1m", "return": "intervals"}}"#,
    )
    .unwrap();
    let Request::Threshold(threshold) = threshold else { panic!("{threshold:?}") };
    assert_eq!(threshold.for_at_least.map(Length::nanoseconds), Some(300_000_000_000));
    assert_eq!(threshold.devices, DeviceSelection::Attributes([("fleet".into(), "north".into())].into()));

    assert!(matches!(parse(r#"{"watch": {"rules": ["overheat"], "from": "now"}}"#), Ok(Request::Watch(_))));
}

#[test]
fn defaults_are_those_of_the_contract() {
    let request = parse(r#"{"downsample": {"table": "t", "start": 0, "end": 10, "every": "1mo"}}"#).unwrap();
    let Request::Downsample(r) = request else { panic!() };
    assert_eq!((r.origin, r.timezone.as_str(), r.group, r.fill), (Time(0), "UTC", Group::Device, Fill::None));
    assert_eq!((r.devices, r.fields, r.aggregates), (DeviceSelection::All, None, vec![Aggregate::Mean]));
    let request = parse(r#"{"threshold": {"table": "t", "start": 0, "end": 10, "where": "a > 1"}}"#).unwrap();
    let Request::Threshold(r) = request else { panic!() };
    assert_eq!((r.for_at_least, r.max_gap, r.answer), (None, None, ThresholdAnswer::Intervals));
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (json, expected) in [
        ("{}", "the object is empty"),
        ("[]", "exactly one of the keys range, latest"),
        (r#"{"rage": {}}"#, "unknown field `rage`, expected one of `range`"),
        (r#"{"latest": {"table": "t"}, "range": {}}"#, "exactly one key, found `latest` and then `range`"),
        (r#"{"latest": {"table": "t", "feilds": []}}"#, "unknown field `feilds`"),
        (r#"{"latest": {"table": "t", "table": "u"}}"#, "duplicate field `table`"),
        (r#"{"latest": {}}"#, "missing field `table`"),
        (r#"{"latest": {"table": "t", "as_of": 1.5}}"#, "a time: RFC 3339 text or integer nanoseconds"),
        (r#"{"latest": {"table": "t", "as_of": "yesterday"}}"#, "`yesterday` is not a time"),
        (r#"{"latest": {"table": "t", "as_of": "9999-01-01T00:00:00Z"}}"#, "outside the years 1677 to 2262"),
        (r#"{"latest": {"table": "t", "as_of": 9223372036854775808}}"#, "exceeds 64-bit nanoseconds"),
        (r#"{"latest": {"table": "t", "devices": "truck"}}"#, "a list of device ids"),
        (r#"{"latest": {"table": "t", "devices": {"globe": "x"}}}"#, "unknown field `globe`"),
        (r#"{"latest": {"table": "t", "devices": {"glob": "x", "attributes": {}}}}"#, "found also `attributes`"),
        (r#"{"downsample": {"table": "t", "start": 0, "end": 1, "every": "0s"}}"#, "longer than nothing"),
        (r#"{"downsample": {"table": "t", "start": 0, "end": 1, "every": "5 m"}}"#, "unknown unit ` m`"),
        (r#"{"downsample": {"table": "t", "start": 0, "end": 1, "every": "m"}}"#, "is not a duration"),
        (r#"{"downsample": {"table": "t", "start": 0, "end": 1, "every": "9999999999h"}}"#, "longer than 64-bit"),
        (r#"{"downsample": {"table": "t", "start": 0, "end": 1, "every": "1m", "group": "attribute:"}}"#, "`group` is"),
        (r#"{"threshold": {"table": "t", "start": 0, "end": 1, "where": "a", "for": "1mo"}}"#, "differ in length"),
        (r#"{"latest": {"table": "t"}} x"#, "trailing characters at line 1 column 28"),
    ] {
        let error = parse(json).expect_err(json);
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn requests_survive_a_round_trip_through_json() {
    for json in [
        r#"{"range": {"table": "r", "start": "2024-01-01T00:00:00.123456789Z", "end": 1704067201000000000, "where": "a > 1"}}"#,
        r#"{"latest": {"table": "r", "devices": {"attributes": {"fleet": "north"}}}}"#,
        r#"{"downsample": {"table": "r", "start": 0, "end": 10, "every": "90s", "group": "all", "fill": "linear"}}"#,
        r#"{"threshold": {"table": "r", "devices": ["a", "b"], "start": 0, "end": 10, "where": "a > 1", "for": "1d", "return": "devices"}}"#,
        r#"{"watch": {"rules": ["overheat"]}}"#,
    ] {
        let request = parse(json).unwrap();
        let again = parse(&serde_json::to_string(&request).unwrap()).unwrap();
        assert_eq!(request, again);
    }
    assert_eq!(Every::parse("90m").unwrap().to_string(), "90m");
    assert_eq!(Length::parse("0s").unwrap().to_string(), "0ns");
    assert_eq!(Length::parse("1500us").unwrap().to_string(), "1500us");
}
