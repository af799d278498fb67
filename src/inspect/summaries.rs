//! Owns `tidewell inspect summary`: what aggregates per step a data directory keeps, and with flags what they are.

use std::io::Write;

use anyhow::{Result, anyhow};
use serde_json::json;
use tidewell_engine::summary::{self, Summary};

use super::{InspectArgs, Place, note};
use crate::failure::{EXIT_FAILED, EXIT_OK, usage};
use crate::output::rfc3339;
use crate::units::{human_bytes, thousands};

pub(super) fn run(args: &InspectArgs, out: &mut impl Write) -> Result<u8> {
    let place = Place::find(&args.path, "seg")?;
    let inside = args.blocks || args.device.is_some();
    if args.json && inside {
        return Err(usage("inspect summary: --json gives a line about each summary; leave out --blocks and --device"));
    }
    let (names, detail) = match &place.file {
        Some(file) => (vec![file.clone()], true),
        // Segments lie beside them.
        None => {
            let names = place.storage.list("seg")?.into_iter().map(|name| format!("seg/{name}"));
            (names.filter(|name| summary::summary_id(name).is_some()).collect(), inside)
        }
    };
    let mut code = EXIT_OK;
    for name in names {
        let summary = match Summary::open(&*place.storage, &name) {
            Ok(summary) => summary,
            Err(error) => {
                code = EXIT_FAILED;
                writeln!(out, "{}", note(args, "damage", &format!("{name}: {error}")))?;
                continue;
            }
        };
        let (first, last) = summary.time_range();
        if args.json {
            let line = json!({
                "path": name, "id": summary.id(), "segment": summary.segment(), "shard": summary.shard(),
                "step": summary.step().name(), "table": &*summary.schema().name, "devices": summary.device_count(),
                "steps": summary.steps(), "bytes": summary.file_bytes(), "first": rfc3339(first), "last": rfc3339(last),
            });
            writeln!(out, "{line}")?;
        } else if detail {
            let mut text = String::new();
            summary::dump(&summary, args.device.as_deref(), args.blocks, &mut text)
                .map_err(|error| anyhow!("inspect {name}: {error}"))?;
            out.write_all(text.as_bytes())?;
        } else {
            writeln!(
                out,
                "{name}  shard {}  by {} of segment {:016x}  table {}  {} steps of {} devices  {}  {} to {}",
                summary.shard(),
                summary.step(),
                summary.segment(),
                summary.schema().name,
                thousands(summary.steps()),
                summary.device_count(),
                human_bytes(summary.file_bytes()),
                rfc3339(first),
                rfc3339(last)
            )?;
        }
    }
    Ok(code)
}
