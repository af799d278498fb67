//! Owns what the user sees of a load: progress, tables of a dry run, summary; does not load.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use tidewell_codec::FieldType;

use super::args::LoadArgs;
use super::input;
use crate::units::{human_bytes, thousands};

/// What a load did.
#[derive(Debug, Default, serde::Serialize)]
pub(super) struct Summary {
    pub files: usize,
    pub tables: Vec<String>,
    pub rows: u64,
    pub acknowledged_rows: u64,
    pub refused_rows: u64,
    pub bad_lines: u64,
    pub seconds: f64,
    pub rows_per_second: f64,
    pub input_bytes: u64,
    pub sent_bytes: u64,
    pub stopped: bool,
}

/// Names and types, as a dry run found them.
pub(super) fn print_tables(tables: &BTreeMap<String, BTreeMap<String, FieldType>>) {
    let mut out = std::io::stdout().lock();
    for (table, fields) in tables {
        let _ = writeln!(out, "table {table}");
        let width = fields.keys().map(String::len).max().unwrap_or(0);
        for (name, field_type) in fields {
            let _ = writeln!(out, "  {name:width$}  {field_type}");
        }
    }
}

/// One line for people or one object for programs.
pub(super) fn print_summary(summary: &Summary, args: &LoadArgs) {
    let mut out = std::io::stdout().lock();
    if args.json {
        let _ = writeln!(out, "{}", serde_json::json!(summary));
        return;
    }
    let files = if summary.files == 1 { "1 file".to_owned() } else { format!("{} files", summary.files) };
    let what = if args.dry_run {
        format!("{} rows read, nothing sent (--dry-run)", thousands(summary.rows))
    } else {
        format!("{} rows read, {} acknowledged", thousands(summary.rows), thousands(summary.acknowledged_rows))
    };
    let mut line = format!("{files}: {what}");
    if summary.refused_rows > 0 {
        line += &format!(", {} refused by the node", thousands(summary.refused_rows));
    }
    if summary.bad_lines > 0 {
        let fate = if summary.stopped { "" } else { " skipped" };
        line += &format!(", {} bad lines{fate}", thousands(summary.bad_lines));
    }
    line += &format!(
        "; {:.1} s, {} rows/s, {} read",
        summary.seconds,
        thousands(summary.rows_per_second as u64),
        human_bytes(summary.input_bytes)
    );
    if summary.sent_bytes > 0 {
        line += &format!(", {} sent", human_bytes(summary.sent_bytes));
    }
    let _ = writeln!(out, "{line}");
    if summary.stopped {
        let _ = writeln!(
            out,
            "stopped early: correct the cause and run the same command again (rows that are in the node already stay as they are); --on-error skip goes on after bad lines"
        );
    }
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress_bar(args: &LoadArgs) -> ProgressBar {
    if args.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match input::total_bytes(&args.files) {
        Some(total) => {
            let style = ProgressStyle::with_template("{bar:30} {percent:>3}% {bytes}/{total_bytes}  {msg}  {eta} left");
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }
        None => {
            let style = ProgressStyle::with_template("{spinner} {bytes}  {msg}  {elapsed}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        }
    }
}
