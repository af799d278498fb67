//! Owns the actions on rows too far in the future: list, release, drop; does not decide which rows those are.

use std::sync::Arc;

use arrow_flight::Result as ActionResult;
use futures::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tonic::Status;

use super::{DevicesBody, Results, glob, one, parse, time_text};
use crate::flight::auth::Principal;
use crate::flight::status::engine_status;
use crate::flight::store::Store;

/// Whose rows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceBody {
    table: String,
    device: String,
}

pub(super) fn list(body: &[u8], store: &Arc<dyn Store>, caller: &Principal) -> Result<Results, Status> {
    let body = if body.is_empty() { DevicesBody { glob: None } } else { parse("quarantine.list", body)? };
    let matcher = glob("quarantine.list", body.glob.as_deref())?;
    let wanted = |device: &str| caller.devices.contains(device) && matcher.as_ref().is_none_or(|m| m.is_match(device));
    let found = store.quarantined(&wanted).map_err(|error| engine_status(&error))?;
    let lines: Vec<Result<ActionResult, Status>> = found
        .iter()
        .map(|waiting| {
            let line = json!({
                "table": waiting.table,
                "device": waiting.device,
                "rows": waiting.rows,
                "first": time_text(waiting.first_ns),
                "last": time_text(waiting.last_ns),
                "received_first": time_text(waiting.received_ns.0),
                "received_last": time_text(waiting.received_ns.1),
            });
            Ok(ActionResult::new(line.to_string()))
        })
        .collect();
    Ok(stream::iter(lines).boxed())
}

pub(super) fn release(body: &[u8], store: &Arc<dyn Store>) -> Result<Results, Status> {
    let DeviceBody { table, device } = parse("quarantine.release", body)?;
    let done = store.release_quarantined(&table, &device).map_err(|error| engine_status(&error))?;
    Ok(one(&json!({"released": done.released, "waiting": done.waiting})))
}

pub(super) fn drop(body: &[u8], store: &Arc<dyn Store>) -> Result<Results, Status> {
    let DeviceBody { table, device } = parse("quarantine.drop", body)?;
    let dropped = store.drop_quarantined(&table, &device).map_err(|error| engine_status(&error))?;
    Ok(one(&json!({"dropped": dropped})))
}
