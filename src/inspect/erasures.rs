//! Owns `tidewell inspect erasures`: what was deleted and which files still have it; what is cut off and how long is kept.

use std::io::Write;

use anyhow::{Result, anyhow};
use serde_json::json;
use tidewell_engine::erase::pending_files;
use tidewell_engine::manifest::Manifest;

use super::{InspectArgs, Place};
use crate::failure::EXIT_OK;
use crate::output::rfc3339;

pub(super) fn run(args: &InspectArgs, out: &mut impl Write) -> Result<u8> {
    let place = Place::find(&args.path, "manifest")?;
    let (state, _) = Manifest::inspect(&*place.storage)?;
    let pending = pending_files(&place.storage, &state).map_err(|error| anyhow!("inspect erasures: {error}"))?;
    let wanted =
        pending.iter().filter(|(erasure, _)| args.device.as_deref().is_none_or(|only| only == &*erasure.device));
    let mut count = 0;
    for (erasure, files) in wanted {
        count += 1;
        // The ends of time are no moments that anybody named.
        let start = (erasure.start_ns != i64::MIN).then(|| rfc3339(erasure.start_ns));
        let end = (erasure.end_ns != i64::MAX).then(|| rfc3339(erasure.end_ns));
        if args.json {
            let line = json!({
                "erasure": erasure.number, "created": rfc3339(erasure.created_ns), "shard": erasure.shard,
                "table": erasure.table.as_deref(), "device": &*erasure.device, "start": start, "end": end, "files": files,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(
                out,
                "erasure {}  {}  shard {}  table {}  device {}  {} to {}  in {} files: {}",
                erasure.number,
                rfc3339(erasure.created_ns),
                erasure.shard,
                erasure.table.as_deref().unwrap_or("(all)"),
                erasure.device,
                start.as_deref().unwrap_or("the beginning"),
                end.as_deref().unwrap_or("the end"),
                files.len(),
                files.join(" ")
            )?;
        }
    }
    for (table, cut_off) in &state.cut_offs {
        if args.json {
            writeln!(out, "{}", json!({"table": &**table, "raw_before": rfc3339(*cut_off)}))?;
        } else {
            writeln!(out, "table {table}: rows before {} are gone", rfc3339(*cut_off))?;
        }
    }
    if count == 0 && !args.json {
        writeln!(out, "no file has rows that were deleted")?;
    }
    Ok(EXIT_OK)
}
