//! Owns what can be asked: the JSON requests of the query contract as types; does not look at data.

mod units;

pub use units::{Every, Length, Time};

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::QueryError;

/// Bytes of the longest request that is read: room for tens of thousands of device ids.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Names of the requests, in the order in which messages list them.
const NAMES: &[&str] = &["range", "latest", "downsample", "threshold", "watch"];

/// One question. As JSON it is an object with exactly one key, the name of the variant in lower case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Rows of a range of time.
    Range(RangeRequest),
    /// The newest values of each device.
    Latest(LatestRequest),
    /// Aggregates per window of time.
    Downsample(DownsampleRequest),
    /// Where a condition held.
    Threshold(ThresholdRequest),
    /// Standing rules as an endless stream. Read, but not answered yet.
    Watch(WatchRequest),
}

impl Request {
    /// Reads a request from UTF-8 JSON.
    ///
    /// # Errors
    /// [`QueryError::Malformed`] with the line and column of the first mistake; unknown keys are mistakes.
    pub fn parse(json: &[u8]) -> Result<Self, QueryError> {
        if json.len() > REQUEST_BYTES_MAX {
            return Err(QueryError::Malformed {
                message: format!("the request has {} bytes, at most {REQUEST_BYTES_MAX} are read", json.len()),
            });
        }
        serde_json::from_slice(json).map_err(|e| QueryError::Malformed { message: e.to_string() })
    }

    /// The request's name: `range`, `latest`, `downsample`, `threshold` or `watch`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Range(_) => "range",
            Self::Latest(_) => "latest",
            Self::Downsample(_) => "downsample",
            Self::Threshold(_) => "threshold",
            Self::Watch(_) => "watch",
        }
    }

    /// The table that is asked; `None` for `watch`.
    pub fn table(&self) -> Option<&str> {
        match self {
            Self::Range(r) => Some(&r.table),
            Self::Latest(r) => Some(&r.table),
            Self::Downsample(r) => Some(&r.table),
            Self::Threshold(r) => Some(&r.table),
            Self::Watch(_) => None,
        }
    }

    /// What to do about damage.
    pub fn on_damage(&self) -> OnDamage {
        match self {
            Self::Range(r) => r.damage,
            Self::Latest(r) => r.damage,
            Self::Downsample(r) => r.damage,
            Self::Threshold(r) => r.damage,
            Self::Watch(_) => OnDamage::Skip,
        }
    }
}

/// What an answer does about rows that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDamage {
    /// It goes without them and says so behind its last row.
    #[default]
    Skip,
    /// It is an error.
    Refuse,
}

impl OnDamage {
    fn is_skip(&self) -> bool {
        *self == Self::Skip
    }
}

// A derived implementation would accept a second key after the first; the contract wants exactly one.
impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Request;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object with exactly one of the keys {}", NAMES.join(", "))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Request, A::Error> {
                let Some(name) = map.next_key::<String>()? else {
                    return Err(de::Error::custom(format_args!("the object is empty: expected one of {NAMES:?}")));
                };
                let request = match name.as_str() {
                    "range" => Request::Range(map.next_value()?),
                    "latest" => Request::Latest(map.next_value()?),
                    "downsample" => Request::Downsample(map.next_value()?),
                    "threshold" => Request::Threshold(map.next_value()?),
                    "watch" => Request::Watch(map.next_value()?),
                    other => return Err(de::Error::unknown_field(other, NAMES)),
                };
                match map.next_key::<String>()? {
                    None => Ok(request),
                    Some(second) => Err(de::Error::custom(format_args!(
                        "expected exactly one key, found `{name}` and then `{second}`"
                    ))),
                }
            }
        }
        deserializer.deserialize_map(One)
    }
}

/// Rows of a range of time, ordered by device and time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeRequest {
    /// The table.
    pub table: String,
    /// Which devices; absent = all that the caller may read.
    #[serde(default, skip_serializing_if = "DeviceSelection::is_all")]
    pub devices: DeviceSelection,
    /// First time, inclusive.
    pub start: Time,
    /// Last time, exclusive.
    pub end: Time,
    /// Which fields; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// Condition that a row must match.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Most rows to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// What to do about rows that cannot be read because a file is damaged.
    #[serde(default, skip_serializing_if = "OnDamage::is_skip")]
    pub damage: OnDamage,
}

/// One row per device: the last value of each field that is not null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatestRequest {
    /// The table.
    pub table: String,
    /// Which devices; absent = all that the caller may read.
    #[serde(default, skip_serializing_if = "DeviceSelection::is_all")]
    pub devices: DeviceSelection,
    /// Which fields; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// Newest time that counts, inclusive; absent = no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
    /// What to do about rows that cannot be read because a file is damaged.
    #[serde(default, skip_serializing_if = "OnDamage::is_skip")]
    pub damage: OnDamage,
}

/// Aggregates per window of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownsampleRequest {
    /// The table.
    pub table: String,
    /// Which devices; absent = all that the caller may read.
    #[serde(default, skip_serializing_if = "DeviceSelection::is_all")]
    pub devices: DeviceSelection,
    /// First time, inclusive.
    pub start: Time,
    /// Last time, exclusive.
    pub end: Time,
    /// Length of a window.
    pub every: Every,
    /// Where windows are counted from.
    #[serde(default)]
    pub origin: Time,
    /// IANA name of the zone whose calendar `1d`, `1w`, `1mo` and `1y` follow.
    #[serde(default = "utc")]
    pub timezone: String,
    /// Which fields; absent = all that every requested aggregate is defined for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// What to compute.
    #[serde(default = "mean_only")]
    pub aggregates: Vec<Aggregate>,
    /// Which rows go together.
    #[serde(default)]
    pub group: Group,
    /// What windows without a value show.
    #[serde(default)]
    pub fill: Fill,
    /// What to do about rows that cannot be read because a file is damaged.
    #[serde(default, skip_serializing_if = "OnDamage::is_skip")]
    pub damage: OnDamage,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn mean_only() -> Vec<Aggregate> {
    vec![Aggregate::Mean]
}

/// A function from the rows of a window to one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// Arithmetic mean, as f64.
    Mean,
    /// Smallest value.
    Min,
    /// Largest value.
    Max,
    /// How many values are not null; NaN counts.
    Count,
    /// Sum, in the field's type.
    Sum,
    /// First value in time that is not null.
    First,
    /// Last value in time that is not null.
    Last,
}

impl Aggregate {
    /// The name in requests and in column names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Count => "count",
            Self::Sum => "sum",
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

/// Which rows a window gathers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Group {
    /// Each device alone.
    #[default]
    Device,
    /// All devices together.
    All,
    /// Devices with the same value of this attribute together.
    Attribute(String),
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("device"),
            Self::All => f.write_str("all"),
            Self::Attribute(name) => write!(f, "attribute:{name}"),
        }
    }
}

impl Serialize for Group {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "device" => Ok(Self::Device),
            "all" => Ok(Self::All),
            other => match other.strip_prefix("attribute:") {
                Some(name) if !name.is_empty() => Ok(Self::Attribute(name.to_owned())),
                _ => Err(de::Error::custom(format_args!(
                    "`group` is `device`, `all` or `attribute:<name>`, found `{other}`"
                ))),
            },
        }
    }
}

/// What windows without a value show, between `start` and `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// Nothing: such windows are left out.
    #[default]
    None,
    /// A row of nulls.
    Null,
    /// The value of the window before.
    Previous,
    /// A value on the straight line between its neighbours.
    Linear,
}

/// Where a condition held, as intervals, rows or devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdRequest {
    /// The table.
    pub table: String,
    /// Which devices; absent = all that the caller may read.
    #[serde(default, skip_serializing_if = "DeviceSelection::is_all")]
    pub devices: DeviceSelection,
    /// First time, inclusive.
    pub start: Time,
    /// Last time, exclusive.
    pub end: Time,
    /// The condition.
    #[serde(rename = "where")]
    pub condition: String,
    /// Shortest interval that counts, from its first to its last matching row; absent = 0.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub for_at_least: Option<Length>,
    /// Longest time between two matching rows of one interval; absent = no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gap: Option<Length>,
    /// What to answer.
    #[serde(default, rename = "return")]
    pub answer: ThresholdAnswer,
    /// What to do about rows that cannot be read because a file is damaged.
    #[serde(default, skip_serializing_if = "OnDamage::is_skip")]
    pub damage: OnDamage,
}

/// The shape of a threshold's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThresholdAnswer {
    /// Maximal runs of matching rows.
    #[default]
    Intervals,
    /// The matching rows.
    Rows,
    /// A row per device that matched.
    Devices,
}

/// Follows standing rules. Not answered yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchRequest {
    /// Names of the rules.
    pub rules: Vec<String>,
    /// Where to begin: `now` or a cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Which devices a request is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum DeviceSelection {
    /// All that the caller may read.
    #[default]
    All,
    /// These.
    Ids(Vec<String>),
    /// Those whose id matches a pattern of `*`, `?`, `[…]` and `{a,b}`.
    Glob(String),
    /// Those that have all of these attributes with these values.
    Attributes(BTreeMap<String, String>),
}

impl DeviceSelection {
    fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

impl Serialize for DeviceSelection {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_none(),
            Self::Ids(ids) => serializer.collect_seq(ids),
            Self::Glob(glob) => serializer.collect_map([("glob", glob)]),
            Self::Attributes(attributes) => serializer.collect_map([("attributes", attributes)]),
        }
    }
}

// Written by hand because serde's untagged enums say only "did not match any variant".
impl<'de> Deserialize<'de> for DeviceSelection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Selection;
        impl<'de> Visitor<'de> for Selection {
            type Value = DeviceSelection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of device ids, {\"glob\": …} or {\"attributes\": {…}}")
            }

            fn visit_unit<E: de::Error>(self) -> Result<DeviceSelection, E> {
                Ok(DeviceSelection::All)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<DeviceSelection, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(DeviceSelection::Ids)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DeviceSelection, A::Error> {
                let selection = match map.next_key::<String>()?.as_deref() {
                    Some("glob") => DeviceSelection::Glob(map.next_value()?),
                    Some("attributes") => DeviceSelection::Attributes(map.next_value()?),
                    Some(other) => return Err(de::Error::unknown_field(other, &["glob", "attributes"])),
                    None => return Err(de::Error::custom("`devices` is empty: expected `glob` or `attributes`")),
                };
                match map.next_key::<String>()? {
                    None => Ok(selection),
                    Some(second) => Err(de::Error::custom(format_args!(
                        "`devices` takes one of `glob` and `attributes`, found also `{second}`"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(Selection)
    }
}

#[cfg(test)]
mod tests;
