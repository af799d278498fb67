//! Owns the actions about backups: bodies and answers; does not make any.

use std::sync::Arc;

use arrow_flight::Result as ActionResult;
use futures::stream::{self, StreamExt};
use serde::Deserialize;
use tonic::Status;

use super::{Results, one, parse};
use crate::flight::store::{Backups, Store};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    to: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PruneBody {
    to: Option<String>,
    keep: usize,
}

fn backups(store: &Arc<dyn Store>) -> Result<Arc<dyn Backups>, Status> {
    store.backups().ok_or_else(|| {
        Status::failed_precondition(
            "this node has no place for backups: name one in its configuration, [backup] destinations = [\"/backups\"]",
        )
    })
}

fn body(name: &str, body: &[u8]) -> Result<Body, Status> {
    if body.is_empty() { Ok(Body::default()) } else { parse(name, body) }
}

pub(super) fn make(bytes: &[u8], store: &Arc<dyn Store>) -> Result<Results, Status> {
    let body = body("backup", bytes)?;
    Ok(one(&backups(store)?.make(body.to.as_deref())?))
}

pub(super) fn list(bytes: &[u8], store: &Arc<dyn Store>) -> Result<Results, Status> {
    let body = body("backup.list", bytes)?;
    let rows = backups(store)?.list(body.to.as_deref())?;
    Ok(stream::iter(rows.into_iter().map(|row| Ok(ActionResult::new(row.to_string())))).boxed())
}

pub(super) fn prune(bytes: &[u8], store: &Arc<dyn Store>) -> Result<Results, Status> {
    let body: PruneBody = parse("backup.prune", bytes)?;
    if body.keep == 0 {
        return Err(Status::invalid_argument("action 'backup.prune': keep: expected 1 or more, found 0"));
    }
    Ok(one(&backups(store)?.prune(body.to.as_deref(), body.keep)?))
}
