//! Owns the actions that take rows away and change tables: their bodies and what they return; does not check roles.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value, json};
use tidewell_engine::{Delete, Retention, TableFigures};
use tonic::Status;

use super::actions::{Results, many, one, parse, time_text};
use super::auth::Principal;
use super::status::engine_status;
use super::store::Store;
use crate::request::{Length, Time};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteBody {
    device: Option<Arc<str>>,
    #[serde(default)]
    devices: Vec<Arc<str>>,
    table: Option<Arc<str>>,
    start: Option<Time>,
    end: Option<Time>,
}

/// How long something is kept: a number and a unit, a year having 365 days, or `forever`. `0` and null are for ever of rows,
/// and of steps as long as their rows.
#[derive(Clone, Copy)]
struct Kept(Option<u64>);

/// What is written for `forever`.
const FOREVER: u64 = i64::MAX as u64;

impl Kept {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "0" => return Ok(Self(None)),
            "forever" => return Ok(Self(Some(FOREVER))),
            _ => {}
        }
        let years = text.strip_suffix('y').and_then(|years| years.parse::<u64>().ok());
        let ns = match years {
            Some(years) => years.checked_mul(365 * DAY_NS).filter(|ns| i64::try_from(*ns).is_ok()),
            None => Some(Length::parse(text)?.nanoseconds().unsigned_abs()),
        };
        let ns = ns.ok_or_else(|| format!("`{text}` is longer than 64-bit nanoseconds can tell"))?;
        Ok(Self((ns > 0).then_some(ns)))
    }
}

const DAY_NS: u64 = 86_400_000_000_000;

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            Some(text) => Self::parse(&text).map_err(de::Error::custom),
            None => Ok(Self(None)),
        }
    }
}

/// A key that is there, null included.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Kept>, D::Error> {
    Kept::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionBody {
    table: String,
    #[serde(default, deserialize_with = "given")]
    raw: Option<Kept>,
    #[serde(default, rename = "1m", deserialize_with = "given")]
    minute: Option<Kept>,
    #[serde(default, rename = "1h", deserialize_with = "given")]
    hour: Option<Kept>,
    #[serde(default, rename = "1d", deserialize_with = "given")]
    day: Option<Kept>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TablesBody {
    table: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableBody {
    table: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RenameBody {
    from: String,
    to: String,
}

/// `delete`.
pub(crate) fn delete(body: &[u8], store: &Arc<dyn Store>, caller: &Principal) -> Result<Results, Status> {
    let body: DeleteBody = parse("delete", body)?;
    let devices: Vec<Arc<str>> = body.device.into_iter().chain(body.devices).collect();
    if devices.is_empty() {
        return Err(Status::invalid_argument("action 'delete': expected device or devices, found neither"));
    }
    if let Some(foreign) = devices.iter().find(|device| !caller.devices.contains(device)) {
        return Err(Status::permission_denied(format!(
            "action 'delete': the grant of '{}' does not cover device '{foreign}'",
            caller.name
        )));
    }
    let range = match (body.start, body.end) {
        (None, None) => None,
        (start, end) => Some((start.map_or(i64::MIN, |t| t.0), end.map_or(i64::MAX, |t| t.0))),
    };
    let deletes: Vec<Delete> =
        devices.into_iter().map(|device| Delete { table: body.table.clone(), device, range }).collect();
    store.delete(&deletes).map_err(|error| engine_status(&error))?;
    Ok(one(&json!({"deleted": deletes.len()})))
}

/// `retention.set`.
pub(crate) fn set_retention(body: &[u8], store: &Arc<dyn Store>) -> Result<Results, Status> {
    let body: RetentionBody = parse("retention.set", body)?;
    let before = table(store, "retention.set", &body.table)?.retention;
    let kept = |given: Option<Kept>, before: Option<u64>| given.map_or(before, |kept| kept.0);
    let retention = Retention {
        raw_ns: kept(body.raw, before.raw_ns).filter(|ns| *ns != FOREVER),
        minute_ns: kept(body.minute, before.minute_ns),
        hour_ns: kept(body.hour, before.hour_ns),
        day_ns: kept(body.day, before.day_ns),
    };
    store.set_retention(&body.table, retention).map_err(|error| engine_status(&error))?;
    Ok(one(&retention_json(&table(store, "retention.set", &body.table)?).into()))
}

/// `retention.get`.
pub(crate) fn retention(body: &[u8], store: &Arc<dyn Store>) -> Result<Results, Status> {
    let body: TablesBody = if body.is_empty() { TablesBody::default() } else { parse("retention.get", body)? };
    let tables = match &body.table {
        Some(name) => vec![table(store, "retention.get", name)?],
        None => store.table_figures(),
    };
    Ok(many(tables.iter().map(|table| retention_json(table).into())))
}

/// `table.list`.
pub(crate) fn tables(store: &Arc<dyn Store>) -> Results {
    many(store.table_figures().iter().map(|table| {
        let fields: Map<String, Value> =
            table.schema.fields.iter().map(|f| (f.name.to_string(), f.field_type.name().into())).collect();
        let mut line = retention_json(table);
        line.insert("fields".into(), fields.into());
        line.insert("segments".into(), table.segments.into());
        line.insert("segment_bytes".into(), table.segment_bytes.into());
        line.insert("segment_rows".into(), table.segment_rows.into());
        line.insert("first".into(), table.time_range.map(|(first, _)| time_text(first)).into());
        line.insert("last".into(), table.time_range.map(|(_, last)| time_text(last)).into());
        line.insert("erasures".into(), table.erasures.into());
        line.into()
    }))
}

/// `table.drop`.
pub(crate) fn drop_table(body: &[u8], store: &Arc<dyn Store>) -> Result<Results, Status> {
    let body: TableBody = parse("table.drop", body)?;
    store.drop_table(&body.table).map_err(|error| engine_status(&error))?;
    Ok(one(&json!({"dropped": body.table})))
}

/// `table.rename`.
pub(crate) fn rename_table(body: &[u8], store: &Arc<dyn Store>) -> Result<Results, Status> {
    let body: RenameBody = parse("table.rename", body)?;
    store.rename_table(&body.from, &body.to).map_err(|error| engine_status(&error))?;
    Ok(one(&json!({"renamed": body.from, "to": body.to})))
}

fn table(store: &Arc<dyn Store>, action: &str, name: &str) -> Result<TableFigures, Status> {
    let tables = store.table_figures();
    let known: Vec<&str> = tables.iter().map(|table| &*table.schema.name).collect();
    match known.iter().position(|known| *known == name) {
        Some(at) => Ok(tables[at].clone()),
        None => Err(Status::not_found(format!("action '{action}': no table '{name}'; tables: {}", known.join(", ")))),
    }
}

fn retention_json(table: &TableFigures) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("table".into(), (*table.schema.name).into());
    for (key, kept) in ["raw", "1m", "1h", "1d"].into_iter().zip(table.retention.parts()) {
        line.insert(key.into(), kept.map(length_text).into());
    }
    line.insert("raw_before".into(), table.cut_off.map(time_text).into());
    line
}

/// Whole days where it can, else the largest unit that is exact.
fn length_text(ns: u64) -> String {
    if ns == FOREVER {
        return "forever".to_owned();
    }
    if ns.is_multiple_of(DAY_NS) {
        return format!("{}d", ns / DAY_NS);
    }
    i64::try_from(ns).ok().and_then(Length::from_nanoseconds).map_or_else(|| format!("{ns}ns"), |len| len.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_a_unit_or_is_for_ever() {
        let ns = |text: &str| Kept::parse(text).map(|kept| kept.0);
        assert_eq!(ns("30d"), Ok(Some(30 * DAY_NS)));
        assert_eq!(ns("5y"), Ok(Some(5 * 365 * DAY_NS)));
        assert_eq!((ns("forever"), ns("0"), ns("0d")), (Ok(Some(FOREVER)), Ok(None), Ok(None)));
        for text in ["30", "y", "1mo", "-1d", "999999y", ""] {
            assert!(ns(text).is_err(), "{text}");
        }
        assert_eq!((length_text(30 * DAY_NS), length_text(DAY_NS / 2)), ("30d".to_owned(), "12h".to_owned()));
        let body: RetentionBody = serde_json::from_str(r#"{"table": "t", "raw": "1d", "1h": null}"#).unwrap();
        assert_eq!(body.raw.map(|kept| kept.0), Some(Some(DAY_NS)));
        assert_eq!((body.hour.map(|kept| kept.0), body.day.is_none()), (Some(None), true));
    }
}
