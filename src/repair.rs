//! Owns `tidewell repair`: a repair's findings as text or JSON, and the exit code; the work is the engine's.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde_json::json;
use tidewell_engine::repair::{LOST_DIR, Lost, RepairReport};
use tidewell_engine::storage::{Disk, Storage};

use crate::failure::{EXIT_FAILED, EXIT_OK};
use crate::output::rfc3339;
use crate::units::thousands;

/// Lost places that the text names; JSON names all.
const LOST_SHOWN_MAX: usize = 50;

/// `repair`.
#[derive(Debug, Args)]
#[command(
    after_help = "Keeps what can be read and names what cannot. Nothing is deleted: damaged files go to DATA_DIR/lost. Make a copy of the \
directory first when the disk itself is failing.\nExit code 0: no damage, or nothing was lost by it; 1: something is lost (it is named), or the \
repair failed; 2: wrong flags.\nExample:\n  tidewell repair ./data --dry-run"
)]
pub struct RepairArgs {
    /// The data directory of a stopped node
    pub data_dir: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Repairs.
///
/// # Errors
/// When a node has the directory, or it cannot be read or written.
pub fn run(args: &RepairArgs) -> Result<u8> {
    let shown = args.data_dir.display();
    if !args.data_dir.join("manifest").is_dir() {
        return Err(anyhow!(
            "repair: {shown}: expected a data directory, found no manifest in it; name the folder given to `serve --data-dir`"
        ));
    }
    let storage: Arc<dyn Storage> = Arc::new(Disk::open(&args.data_dir).with_context(|| format!("repair: {shown}"))?);
    let report = tidewell_engine::repair::repair(&storage, args.dry_run).with_context(|| format!("repair: {shown}"))?;
    if args.json {
        println!("{}", report_json(args, &report));
    } else {
        print!("{}", report_text(args, &report));
    }
    Ok(if report.lost.is_empty() && report.left.is_empty() { EXIT_OK } else { EXIT_FAILED })
}

fn report_json(args: &RepairArgs, report: &RepairReport) -> serde_json::Value {
    let time = |ns: i64| (ns != i64::MIN && ns != i64::MAX).then(|| rfc3339(ns));
    let lost: Vec<_> = report
        .lost
        .iter()
        .map(|lost| {
            json!({
                "path": lost.path, "table": (!lost.table.is_empty()).then_some(&lost.table), "device": lost.device,
                "field": lost.field, "first": time(lost.first_ns), "last": time(lost.last_ns), "rows": lost.rows,
                "cause": lost.cause,
            })
        })
        .collect();
    json!({
        "ok": report.is_sound(), "dry_run": args.dry_run, "steps": report.steps, "lost": lost, "left": report.left,
        "rows_kept": report.rows_kept,
    })
}

fn report_text(args: &RepairArgs, report: &RepairReport) -> String {
    let shown = args.data_dir.display();
    if report.is_sound() {
        return format!("{shown}: nothing to repair\n");
    }
    let mut text = String::new();
    let step = if args.dry_run { "would do" } else { "done" };
    report.steps.iter().for_each(|line| text += &format!("{step}: {line}\n"));
    report.lost.iter().take(LOST_SHOWN_MAX).for_each(|lost| text += &format!("lost: {}\n", lost_text(lost)));
    if report.lost.len() > LOST_SHOWN_MAX {
        text += &format!("lost: and {} more places; --json names all\n", report.lost.len() - LOST_SHOWN_MAX);
    }
    report.left.iter().for_each(|line| text += &format!("left: {line}\n"));
    text += &format!(
        "{shown}: {} rows of damaged segments kept, {} places lost; damaged files are in {LOST_DIR}{}\n",
        thousands(report.rows_kept),
        thousands(report.lost.len() as u64),
        if args.dry_run { " after a repair" } else { "" }
    );
    text
}

fn lost_text(lost: &Lost) -> String {
    let device = lost.device.as_deref().map_or_else(|| "any device".to_owned(), |id| format!("device {id}"));
    let field = lost.field.as_deref().map_or_else(String::new, |field| format!(", field {field}"));
    let rows =
        lost.rows.map_or_else(|| "an unknown number of rows".to_owned(), |rows| format!("{} rows", thousands(rows)));
    let table = if lost.table.is_empty() { String::new() } else { format!("table {}, ", lost.table) };
    let times = match (lost.first_ns, lost.last_ns) {
        (i64::MIN, _) | (_, i64::MAX) => String::new(),
        (first, last) => format!(", {} to {}", rfc3339(first), rfc3339(last)),
    };
    format!("{table}{device}{field}: {rows}{times} ({})", lost.cause)
}
