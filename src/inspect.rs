//! Owns `tidewell inspect` and `tidewell verify`: paths to the engine's offline readers, findings to text; does not repair.

mod erasures;
mod summaries;

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;
use tidewell_codec::{BatchLimits, peek_batch};
use tidewell_engine::LogPosition;
use tidewell_engine::device_log::{self, LogRecord};
use tidewell_engine::manifest::Manifest;
use tidewell_engine::segment::{self, Segment};
use tidewell_engine::storage::{Disk, Storage};

use crate::failure::{EXIT_FAILED, EXIT_OK, usage};
use crate::output::rfc3339;
use crate::units::{human_bytes, thousands};

/// What to dump.
#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// Log records: producer, number, time of arrival, table, devices, rows
    #[command(
        after_help = "PATH is a log file, or a data directory for the logs of all shards.\nExample:\n  tidewell inspect log ./data --device truck_1 --limit 20"
    )]
    Log(InspectArgs),
    /// A segment: table, fields, and with --blocks or --device its blocks with times, codecs and sizes
    #[command(
        after_help = "PATH is a segment file, or a data directory for a line about each segment.\nExample:\n  tidewell inspect segment ./data/seg/0000000000000001.seg --device truck_1"
    )]
    Segment(InspectArgs),
    /// Summaries: table and step, and with --blocks or --device the aggregates of each step
    #[command(
        after_help = "PATH is a summary file, or a data directory for a line about each summary.\nExample:\n  tidewell inspect summary ./data --device truck_1"
    )]
    Summary(InspectArgs),
    /// The manifest: tables, segments, and where replay starts
    #[command(
        after_help = "PATH is a manifest file or a data directory.\nExample:\n  tidewell inspect manifest ./data"
    )]
    Manifest(InspectArgs),
    /// Deletes that files still have rows of, and what retention cut off
    #[command(
        after_help = "PATH is a data directory. A delete is listed until no file has a row of it.\nExample:\n  tidewell inspect erasures ./data --device truck_1"
    )]
    Erasures(InspectArgs),
}

/// The file.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A data directory, or a file in it
    pub path: PathBuf,
    /// Only this device
    #[arg(long, value_name = "ID")]
    pub device: Option<String>,
    /// Blocks of a segment, or steps of a summary, too
    #[arg(long)]
    pub blocks: bool,
    /// At most so many records of a log
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// One JSON object a line: a record, a segment, a summary, the manifest
    #[arg(long)]
    pub json: bool,
}

/// `verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Changes nothing. Exit code 0: no damage; 1: damage, or the directory cannot be read; 2: wrong flags."
)]
pub struct VerifyArgs {
    /// The data directory of a stopped node
    pub data_dir: PathBuf,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// A data directory, and the file in it that was named.
struct Place {
    storage: Arc<dyn Storage>,
    /// `log/…`, relative to the data directory.
    file: Option<String>,
}

impl Place {
    fn find(path: &Path, folder: &str) -> Result<Self> {
        let shown = path.display();
        let data = std::fs::metadata(path).with_context(|| format!("inspect: {shown}"))?;
        let open = |dir: &Path| -> Result<Arc<dyn Storage>> {
            Ok(Arc::new(Disk::open(dir).with_context(|| format!("open data directory: {}", dir.display()))?))
        };
        if data.is_dir() {
            // `data/log` means the same as `data`.
            let dir = if path.ends_with(folder) { path.parent().unwrap_or(path) } else { path };
            if !dir.join("manifest").is_dir() && !dir.join(folder).is_dir() {
                return Err(usage(format!(
                    "inspect: {shown}: expected a data directory, found neither manifest nor {folder} in it"
                )));
            }
            return Ok(Self { storage: open(dir)?, file: None });
        }
        let path = std::path::absolute(path).with_context(|| format!("inspect: {shown}"))?;
        let inside = path.parent().filter(|parent| parent.ends_with(folder)).and_then(|parent| parent.parent());
        let (Some(dir), Some(name)) = (inside, path.file_name()) else {
            return Err(usage(format!(
                "inspect: {shown}: expected a file in the folder `{folder}` of a data directory"
            )));
        };
        Ok(Self { storage: open(dir)?, file: Some(format!("{folder}/{}", name.to_string_lossy())) })
    }
}

/// Dumps.
///
/// # Errors
/// When the file cannot be read.
pub fn run(command: InspectCommand) -> Result<u8> {
    let stdout = std::io::stdout();
    let mut out = BufWriter::new(stdout.lock());
    let code = match command {
        InspectCommand::Log(args) => log(&args, &mut out),
        InspectCommand::Segment(args) => segments(&args, &mut out),
        InspectCommand::Summary(args) => summaries::run(&args, &mut out),
        InspectCommand::Manifest(args) => manifest(&args, &mut out),
        InspectCommand::Erasures(args) => erasures::run(&args, &mut out),
    };
    match code.and_then(|code| out.flush().map(|()| code).map_err(Into::into)) {
        // `| head` has enough.
        Err(error)
            if error.chain().any(|c| {
                c.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
            }) =>
        {
            Ok(EXIT_OK)
        }
        other => other,
    }
}

fn log(args: &InspectArgs, out: &mut impl Write) -> Result<u8> {
    let place = Place::find(&args.path, "log")?;
    // `0003-0000000000000012.log`: shard and generation.
    let wanted = match &place.file {
        None => None,
        Some(file) => Some(
            parse_log_name(file)
                .ok_or_else(|| usage(format!("inspect log: {file}: expected a name like 0000-0000000000000001.log")))?,
        ),
    };
    let mut code = EXIT_OK;
    let mut written = 0;
    for shard in device_log::shards(&*place.storage)? {
        if wanted.is_some_and(|(only, _)| only != shard) {
            continue;
        }
        let from = LogPosition { generation: wanted.map_or(0, |(_, generation)| generation), offset: 0 };
        let mut failed = None;
        let report = device_log::dump(&*place.storage, shard, from, &mut |record| {
            let in_file = wanted.is_none_or(|(_, generation)| record.position.generation == generation);
            if in_file && failed.is_none() && args.limit.is_none_or(|limit| written < limit) {
                match record_line(shard, &record, args) {
                    Some(line) => {
                        written += 1;
                        failed = writeln!(out, "{line}").err();
                    }
                    None => return Ok(()),
                }
            }
            Ok(())
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if let Some(cut) = &report.cut {
            writeln!(out, "{}", note(args, "torn tail", &cut.to_string()))?;
        }
        for damage in &report.damaged {
            code = EXIT_FAILED;
            writeln!(out, "{}", note(args, "damage", &damage.to_string()))?;
        }
    }
    Ok(code)
}

fn note(args: &InspectArgs, kind: &str, text: &str) -> String {
    if args.json { json!({ kind: text }).to_string() } else { format!("{kind}: {text}") }
}

fn parse_log_name(file: &str) -> Option<(u32, u64)> {
    let name = file.rsplit('/').next()?.strip_suffix(".log")?;
    let (shard, generation) = name.split_once('-')?;
    Some((shard.parse().ok()?, u64::from_str_radix(generation, 16).ok()?))
}

/// One record; `None` when it is about other devices.
fn record_line(shard: u32, record: &LogRecord<'_>, args: &InspectArgs) -> Option<String> {
    let head = peek_batch(record.payload, &BatchLimits::default());
    if let (Some(device), Ok(head)) = (&args.device, &head)
        && !head.devices.iter().any(|(id, _)| id == device)
    {
        return None;
    }
    let (position, received) = (record.position, rfc3339(record.received_ns));
    if args.json {
        let mut line = json!({
            "shard": shard, "generation": position.generation, "offset": position.offset, "producer": record.producer.to_string(),
            "seq": record.seq.0, "received": received, "payload_bytes": record.payload.len(),
        });
        match head {
            Ok(head) => {
                line["table"] = head.table.into();
                line["rows"] = head.rows.into();
                line["fields"] = head.fields.iter().map(|f| f.name).collect::<Vec<_>>().into();
                line["devices"] = head
                    .devices
                    .iter()
                    .map(|(id, rows)| json!({"id": id, "rows": rows.len()}))
                    .collect::<Vec<_>>()
                    .into();
            }
            Err(error) => line["error"] = error.to_string().into(),
        }
        return Some(line.to_string());
    }
    let about = match head {
        Ok(head) => {
            let mut devices: Vec<&str> = head.devices.iter().map(|(id, _)| id).take(3).collect();
            let more = head.devices.len().saturating_sub(devices.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            devices.dedup();
            format!(
                "table {}  {} rows x {} fields  {}{more}",
                head.table,
                head.rows,
                head.fields.len(),
                devices.join(" ")
            )
        }
        Err(error) => format!("unreadable: {error}"),
    };
    Some(format!(
        "shard {shard}  {:016x}:{:<10}  producer {}  batch {}  {received}  {} bytes  {about}",
        position.generation,
        position.offset,
        record.producer,
        record.seq,
        record.payload.len()
    ))
}

fn segments(args: &InspectArgs, out: &mut impl Write) -> Result<u8> {
    let place = Place::find(&args.path, "seg")?;
    let (names, detail) = match &place.file {
        Some(file) => (vec![file.clone()], true),
        None => (
            // Summaries lie beside the segments that they tell of.
            place
                .storage
                .list("seg")?
                .into_iter()
                .map(|name| format!("seg/{name}"))
                .filter(|name| name.ends_with(".seg"))
                .collect(),
            args.blocks || args.device.is_some(),
        ),
    };
    if args.json && (args.blocks || args.device.is_some()) {
        return Err(usage("inspect segment: --json gives a line about each segment; leave out --blocks and --device"));
    }
    let mut code = EXIT_OK;
    for name in names {
        let segment = match Segment::open(&*place.storage, &name) {
            Ok(segment) => segment,
            Err(error) => {
                code = EXIT_FAILED;
                writeln!(out, "{}", note(args, "damage", &format!("{name}: {error}")))?;
                continue;
            }
        };
        if args.json {
            let (first, last) = segment.time_range();
            let line = json!({
                "path": name, "id": segment.id(), "shard": segment.shard(), "tier": format!("{:?}", segment.tier()).to_lowercase(),
                "table": &*segment.schema().name, "rows": segment.rows(), "devices": segment.device_count(),
                "blocks": segment.block_count(), "bytes": segment.file_bytes(), "first": rfc3339(first), "last": rfc3339(last),
            });
            writeln!(out, "{line}")?;
        } else if detail {
            let mut text = String::new();
            segment::dump(&segment, args.device.as_deref(), args.blocks, &mut text)
                .map_err(|e| anyhow!("inspect {name}: {e}"))?;
            out.write_all(text.as_bytes())?;
        } else {
            let (first, last) = segment.time_range();
            writeln!(
                out,
                "{name}  shard {}  {:?}  table {}  {} rows of {} devices in {} blocks  {}  {} to {}",
                segment.shard(),
                segment.tier(),
                segment.schema().name,
                thousands(segment.rows()),
                segment.device_count(),
                segment.block_count(),
                human_bytes(segment.file_bytes()),
                rfc3339(first),
                rfc3339(last)
            )?;
        }
    }
    Ok(code)
}

fn manifest(args: &InspectArgs, out: &mut impl Write) -> Result<u8> {
    let place = Place::find(&args.path, "manifest")?;
    let (state, report) = Manifest::inspect(&*place.storage)?;
    if args.json {
        let tables: Vec<_> = state
            .tables
            .iter()
            .map(|t| json!({"name": &*t.name, "fields": t.fields.iter().map(|f| json!({"name": &*f.name, "type": f.field_type.name()})).collect::<Vec<_>>()}))
            .collect();
        let segments: Vec<_> = state
            .segments
            .values()
            .map(|s| json!({"id": s.id, "shard": s.shard, "table": &*s.table, "level": s.level, "seq_min": s.seq_min, "seq_max": s.seq_max, "rows": s.rows, "bytes": s.bytes, "first": rfc3339(s.time_min), "last": rfc3339(s.time_max)}))
            .collect();
        let released: Vec<_> =
            state.released.iter().map(|p| json!({"generation": p.generation, "offset": p.offset})).collect();
        let line = json!({
            "path": report.path, "records": report.records, "shards": state.shard_count, "created": rfc3339(state.created_ns),
            "tables": tables, "segments": segments, "replay_from": released, "devices_with_attributes": state.attributes.len(),
        });
        writeln!(out, "{line}")?;
        return Ok(EXIT_OK);
    }
    writeln!(
        out,
        "{}: {} records, {} shards, made {}",
        report.path,
        report.records,
        state.shard_count,
        rfc3339(state.created_ns)
    )?;
    if let Some((offset, bytes)) = report.cut {
        writeln!(out, "torn tail: {bytes} bytes at offset {offset} were never in effect")?;
    }
    for table in &state.tables {
        let fields: Vec<String> = table.fields.iter().map(|f| format!("{} {}", f.name, f.field_type)).collect();
        writeln!(out, "table {}: {}", table.name, fields.join(", "))?;
    }
    for meta in state.segments.values() {
        writeln!(
            out,
            "segment {:016x}  shard {}  level {}  flushes {} to {}  table {}  {} rows  {}  {} to {}",
            meta.id,
            meta.shard,
            meta.level,
            meta.seq_min,
            meta.seq_max,
            meta.table,
            thousands(meta.rows),
            human_bytes(meta.bytes),
            rfc3339(meta.time_min),
            rfc3339(meta.time_max)
        )?;
    }
    for (shard, position) in state.released.iter().enumerate() {
        writeln!(out, "shard {shard}: replay starts at {:016x}:{}", position.generation, position.offset)?;
    }
    if !state.attributes.is_empty() {
        writeln!(out, "{} devices have attributes", state.attributes.len())?;
    }
    Ok(EXIT_OK)
}

/// Checks.
///
/// # Errors
/// When the directory cannot be read, or a node has it.
pub fn verify(args: &VerifyArgs) -> Result<u8> {
    let shown = args.data_dir.display();
    if !args.data_dir.join("manifest").is_dir() {
        return Err(anyhow!(
            "verify: {shown}: expected a data directory, found no manifest in it; name the folder given to `serve --data-dir`"
        ));
    }
    let storage: Arc<dyn Storage> = Arc::new(Disk::open(&args.data_dir).with_context(|| format!("verify: {shown}"))?);
    let report = tidewell_engine::verify::verify(&storage).with_context(|| format!("verify: {shown}"))?;
    let good = report.damage.is_empty();
    if args.json {
        let line = json!({
            "ok": good, "segments": report.segments, "segment_rows": report.segment_rows, "log_records": report.log_records,
            "log_rows": report.log_rows, "notes": report.notes, "damage": report.damage,
        });
        println!("{line}");
    } else {
        for line in &report.damage {
            println!("damage: {line}");
        }
        for line in &report.notes {
            println!("note: {line}");
        }
        println!(
            "{shown}: {} segments with {} rows, {} log records with {} rows not yet in segments: {}",
            report.segments,
            thousands(report.segment_rows),
            report.log_records,
            thousands(report.log_rows),
            if good { "no damage".to_owned() } else { format!("{} damaged places", report.damage.len()) }
        );
    }
    Ok(if good { EXIT_OK } else { EXIT_FAILED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_names_tell_shard_and_generation() {
        assert_eq!(parse_log_name("log/0003-000000000000001f.log"), Some((3, 31)));
        assert_eq!(parse_log_name("log/x.log"), None);
    }

    #[test]
    fn places_are_found_or_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        assert!(Place::find(&dir.join("none"), "log").is_err());
        assert!(Place::find(dir, "log").err().unwrap().to_string().contains("data directory"));
        std::fs::create_dir_all(dir.join("log")).unwrap();
        std::fs::write(dir.join("log/0000-0000000000000001.log"), b"").unwrap();
        let place = Place::find(&dir.join("log/0000-0000000000000001.log"), "log").unwrap();
        assert_eq!(place.file.as_deref(), Some("log/0000-0000000000000001.log"));
        assert!(Place::find(&dir.join("log"), "log").unwrap().file.is_none());
        assert!(Place::find(&dir.join("log/0000-0000000000000001.log"), "seg").is_err());
        let args = VerifyArgs { data_dir: dir.join("none"), json: false };
        assert!(verify(&args).is_err());
    }
}
