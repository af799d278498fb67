//! Owns the actions of the query address: what each needs, does and returns; does not check certificates.

mod backup;
mod quarantine;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_flight::{Action, ActionType, Result as ActionResult};
use futures::stream::{self, BoxStream, StreamExt};
use globset::{Glob, GlobMatcher};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tidewell_engine::DeviceInfo;
use tonic::Status;

use super::auth::{Principal, Roles};
use super::descriptor::no_sql;
use super::erase;
use super::status::engine_status;
use super::store::Store;

/// The results of one action.
pub(crate) type Results = BoxStream<'static, Result<ActionResult, Status>>;

/// One kind of action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Flush,
    Compact,
    Stats,
    Devices,
    Describe,
    Delete,
    RetentionSet,
    RetentionGet,
    TableList,
    TableDrop,
    TableRename,
    QuarantineList,
    QuarantineRelease,
    QuarantineDrop,
    Backup,
    BackupList,
    BackupPrune,
}

/// Every action: name, kind, description.
const ACTIONS: [(&str, Kind, &str); 17] = [
    ("flush", Kind::Flush, "Writes rows in memory to segments. No body. Needs admin. Returns {\"flushed\":true}."),
    ("compact", Kind::Compact, "Merges segments now. No body. Needs admin. Returns {\"compacted\":true}."),
    ("stats", Kind::Stats, "Counters and sizes. No body. Needs reader. Returns one JSON object."),
    (
        "devices",
        Kind::Devices,
        "Registered devices that the caller may read. Body: none or {\"glob\":\"truck_*\"}. Needs reader. \
         Returns one JSON object per device: id, attributes, first_seen, last_seen (null while no rows are stored).",
    ),
    (
        "describe",
        Kind::Describe,
        "Replaces the attributes of a device. Body: {\"device\":\"truck_1\",\"attributes\":{\"fleet\":\"north\"}}. \
         Needs writer. Returns {\"described\":\"truck_1\"}.",
    ),
    (
        "delete",
        Kind::Delete,
        "Takes rows of devices away, from every answer at once and from the files with their next merge. Body: \
         {\"device\":\"truck_1\"} or {\"devices\":[…]}, and as far as less than everything shall go \"table\", \"start\" \
         (inclusive), \"end\" (exclusive). Without those the attributes go, too. Needs admin. Returns {\"deleted\":1}.",
    ),
    (
        "retention.set",
        Kind::RetentionSet,
        "Sets for how long a table keeps its rows and summaries. Body: {\"table\":\"readings\",\"raw\":\"30d\",\"1m\":\"90d\",\
         \"1h\":\"5y\",\"1d\":\"forever\"}; what is left out stays as it is. Needs admin. Returns what holds then.",
    ),
    (
        "retention.get",
        Kind::RetentionGet,
        "For how long tables keep what (null: rows for ever, steps as long as their rows), and the first time that is still there. Body: none or \
         {\"table\":\"readings\"}. Needs reader. Returns one JSON object per table.",
    ),
    (
        "table.list",
        Kind::TableList,
        "Tables with fields, sizes, retention. No body. Needs reader. Returns one JSON object per table.",
    ),
    (
        "table.drop",
        Kind::TableDrop,
        "Takes a table away. Body: {\"table\":\"readings\"}. Needs admin. Returns {\"dropped\":\"readings\"}.",
    ),
    (
        "table.rename",
        Kind::TableRename,
        "Gives a table another name. Body: {\"from\":\"readings\",\"to\":\"old_readings\"}. Needs admin. Returns \
         {\"renamed\":\"readings\",\"to\":\"old_readings\"}.",
    ),
    (
        "quarantine.list",
        Kind::QuarantineList,
        "Rows that came from too far in the future, of devices that the caller may read. Body: none or \
         {\"glob\":\"truck_*\"}. Needs reader. Returns one JSON object per table and device: table, device, rows, first, \
         last, received_first, received_last.",
    ),
    (
        "quarantine.release",
        Kind::QuarantineRelease,
        "Puts such rows into their table, those whose time has come. Body: {\"table\":\"readings\",\"device\":\"truck_1\"}. \
         Needs admin. Returns {\"released\":2,\"waiting\":1}.",
    ),
    (
        "quarantine.drop",
        Kind::QuarantineDrop,
        "Deletes such rows. Body: {\"table\":\"readings\",\"device\":\"truck_1\"}. Needs admin. Returns {\"dropped\":3}.",
    ),
    (
        "backup",
        Kind::Backup,
        "Copies what a place for backups lacks, while the node goes on. Body: none or {\"to\":\"/backups\"}, one of the \
         node's destinations or below. Needs admin. Returns {\"name\":…,\"to\":…,\"files\":9,\"bytes\":…,\"new_files\":2,\
         \"new_bytes\":…,\"linked\":0,\"damage\":[]}.",
    ),
    (
        "backup.list",
        Kind::BackupList,
        "Completed backups, oldest first. Body: as for backup. Needs admin. Returns one JSON object per backup: name, \
         files, bytes, damage; or name, error.",
    ),
    (
        "backup.prune",
        Kind::BackupPrune,
        "Removes all backups but the newest, and the files that only they had. Body: {\"keep\":7}, and \"to\" as for backup. \
         Needs admin. Returns {\"removed\":1,\"removed_files\":3,\"removed_bytes\":…,\"kept\":7}.",
    ),
];

/// Actions of Flight SQL that drivers send before anything else.
const SQL_ACTIONS: [&str; 8] = [
    "CreatePreparedStatement",
    "ClosePreparedStatement",
    "CreatePreparedSubstraitPlan",
    "BeginTransaction",
    "EndTransaction",
    "BeginSavepoint",
    "EndSavepoint",
    "CancelQuery",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DevicesBody {
    glob: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribeBody {
    device: String,
    attributes: BTreeMap<String, String>,
}

/// The answer to ListActions.
pub(crate) fn list() -> impl Iterator<Item = ActionType> {
    ACTIONS.iter().map(|(name, _, text)| ActionType { r#type: (*name).to_owned(), description: (*text).to_owned() })
}

/// Finds the action and checks that `caller` may run it.
pub(crate) fn admit(action: &Action, caller: &Principal) -> Result<Kind, Status> {
    let name = action.r#type.as_str();
    let Some((_, kind, _)) = ACTIONS.iter().find(|(known, _, _)| *known == name) else {
        if SQL_ACTIONS.contains(&name) {
            return Err(no_sql(name));
        }
        if name == "CancelFlightInfo" {
            return Err(Status::unimplemented("CancelFlightInfo: a query stops when its DoGet stream is cancelled"));
        }
        let known: Vec<&str> = ACTIONS.iter().map(|(known, _, _)| *known).collect();
        return Err(Status::unimplemented(format!("no action '{name}': this version has {}", known.join(", "))));
    };
    let needed = match kind {
        Kind::Flush
        | Kind::Compact
        | Kind::Delete
        | Kind::RetentionSet
        | Kind::TableDrop
        | Kind::TableRename
        | Kind::QuarantineRelease
        | Kind::QuarantineDrop
        | Kind::Backup
        | Kind::BackupList
        | Kind::BackupPrune => Roles { reader: false, writer: false, admin: true },
        Kind::Stats | Kind::Devices | Kind::RetentionGet | Kind::TableList | Kind::QuarantineList => Roles::READER,
        Kind::Describe => Roles::WRITER,
    };
    caller.require(needed, &format!("action '{name}'"))?;
    Ok(*kind)
}

/// Runs an action. Blocks.
pub(crate) fn run(kind: Kind, body: &[u8], store: &Arc<dyn Store>, caller: &Principal) -> Result<Results, Status> {
    match kind {
        Kind::Flush => {
            no_body("flush", body)?;
            store.flush().map_err(|error| engine_status(&error))?;
            Ok(one(&json!({"flushed": true})))
        }
        Kind::Compact => {
            no_body("compact", body)?;
            store.compact().map_err(|error| engine_status(&error))?;
            Ok(one(&json!({"compacted": true})))
        }
        Kind::Stats => {
            no_body("stats", body)?;
            Ok(one(&store.stats()))
        }
        Kind::Devices => devices(body, store, caller),
        Kind::Describe => describe(body, store, caller),
        Kind::Delete => erase::delete(body, store, caller),
        Kind::RetentionSet => erase::set_retention(body, store),
        Kind::RetentionGet => erase::retention(body, store),
        Kind::TableList => {
            no_body("table.list", body)?;
            Ok(erase::tables(store))
        }
        Kind::TableDrop => erase::drop_table(body, store),
        Kind::TableRename => erase::rename_table(body, store),
        Kind::QuarantineList => quarantine::list(body, store, caller),
        Kind::QuarantineRelease => quarantine::release(body, store),
        Kind::QuarantineDrop => quarantine::drop(body, store),
        Kind::Backup => backup::make(body, store),
        Kind::BackupList => backup::list(body, store),
        Kind::BackupPrune => backup::prune(body, store),
    }
}

fn devices(body: &[u8], store: &Arc<dyn Store>, caller: &Principal) -> Result<Results, Status> {
    let body = if body.is_empty() { DevicesBody { glob: None } } else { parse("devices", body)? };
    let glob = glob("devices", body.glob.as_deref())?;
    let scope = caller.devices.clone();
    let meant = move |device: &DeviceInfo| {
        scope.contains(&device.id) && glob.as_ref().is_none_or(|glob| glob.is_match(&*device.id))
    };
    // A page is read when the one before has left, on a thread that may block.
    let pages = stream::unfold(Some(store.devices()), |pages| async move {
        let mut pages = pages?;
        let read = tokio::task::spawn_blocking(move || (pages.next(), pages)).await;
        match read {
            Ok((Some(Ok(page)), pages)) => Some((Ok(page), Some(pages))),
            Ok((Some(Err(error)), _)) => Some((Err(engine_status(&error)), None)),
            Ok((None, _)) => None,
            Err(_) => {
                let status =
                    Status::internal("the list of devices panicked: this is a defect of the node, see its log");
                Some((Err(status), None))
            }
        }
    });
    let results = pages.flat_map(move |page| {
        let results: Vec<_> = match page {
            Ok(page) => page
                .iter()
                .filter(|device| meant(device))
                .map(|device| Ok(ActionResult::new(device_json(device).to_string())))
                .collect(),
            Err(status) => vec![Err(status)],
        };
        stream::iter(results)
    });
    Ok(results.boxed())
}

fn glob(action: &str, pattern: Option<&str>) -> Result<Option<GlobMatcher>, Status> {
    let compile = |pattern| {
        Glob::new(pattern)
            .map(|glob| glob.compile_matcher())
            .map_err(|error| Status::invalid_argument(format!("action '{action}': glob '{pattern}': {error}")))
    };
    pattern.map(compile).transpose()
}

fn device_json(device: &DeviceInfo) -> serde_json::Value {
    json!({
        "id": device.id,
        "attributes": device.attributes,
        "first_seen": device.first_seen_ns.map(time_text),
        "last_seen": device.last_seen_ns.map(time_text),
    })
}

fn describe(body: &[u8], store: &Arc<dyn Store>, caller: &Principal) -> Result<Results, Status> {
    let body: DescribeBody = parse("describe", body)?;
    if body.device.is_empty() || body.device.len() > 256 {
        return Err(Status::invalid_argument(format!(
            "action 'describe': device id of {} bytes, expected 1 to 256",
            body.device.len()
        )));
    }
    if !caller.devices.contains(&body.device) {
        return Err(Status::permission_denied(format!(
            "action 'describe': the grant of '{}' does not cover device '{}'",
            caller.name, body.device
        )));
    }
    store.set_attributes(&body.device, body.attributes).map_err(|error| engine_status(&error))?;
    Ok(one(&json!({"described": body.device})))
}

/// One line of JSON for each of `values`.
pub(crate) fn many(values: impl Iterator<Item = serde_json::Value>) -> Results {
    let lines: Vec<_> = values.map(|value| Ok(ActionResult::new(value.to_string()))).collect();
    stream::iter(lines).boxed()
}

/// One line of JSON.
pub(crate) fn one(value: &serde_json::Value) -> Results {
    let result = ActionResult::new(value.to_string());
    stream::iter([Ok(result)]).boxed()
}

fn no_body(name: &str, body: &[u8]) -> Result<(), Status> {
    if body.is_empty() || body == b"{}" {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("action '{name}' takes no body, and {} bytes came", body.len())))
}

/// The body of the action `name`.
pub(crate) fn parse<T: DeserializeOwned>(name: &str, body: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(body).map_err(|error| Status::invalid_argument(format!("action '{name}': body: {error}")))
}

/// RFC 3339 with nanoseconds.
pub(crate) fn time_text(time_ns: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time_ns)).expect("every i64 of nanoseconds is a valid time");
    format!("{time:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::auth::DeviceScope;

    #[test]
    fn roles_decide() {
        let reader = Principal { name: "r".into(), roles: Roles::READER, devices: DeviceScope::All };
        assert_eq!(admit(&Action::new("devices", ""), &reader).unwrap(), Kind::Devices);
        for name in ["flush", "compact", "describe", "delete", "retention.set", "table.drop", "table.rename"] {
            let status = admit(&Action::new(name, ""), &reader).unwrap_err();
            assert_eq!(status.code(), tonic::Code::PermissionDenied, "{name}");
            admit(&Action::new(name, ""), &Principal::admin("a")).unwrap();
        }
    }

    #[test]
    fn unknown_actions_say_what_there_is() {
        let admin = Principal::admin("a");
        let status = admit(&Action::new("fly", ""), &admin).unwrap_err();
        assert!(status.message().contains("flush, compact, stats, devices, describe"), "{}", status.message());
        let status = admit(&Action::new("CreatePreparedStatement", ""), &admin).unwrap_err();
        assert!(status.message().contains("SQL is not available"), "{}", status.message());
    }

    #[test]
    fn times_have_nanoseconds() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time_text(i64::MAX), "2262-04-11T23:47:16.854775807Z");
        time_text(i64::MIN);
    }
}
