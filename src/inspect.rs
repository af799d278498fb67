//! Owns `tidewell inspect` and `tidewell verify`: paths to the engine's offline readers, findings to text; does not repair.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

/// What to dump.
#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// A log file: each record with producer, number, devices, rows
    Log(InspectArgs),
    /// A segment: blocks with devices, times, codecs, sizes
    Segment(InspectArgs),
    /// A manifest: its edits, and what they add up to
    Manifest(InspectArgs),
}

/// The file.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The file, inside of a data directory
    pub path: PathBuf,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// At most so many lines
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The data directory of a stopped node
    pub data_dir: PathBuf,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Dumps.
///
/// # Errors
/// When the file cannot be read.
pub fn run(command: InspectCommand) -> Result<u8> {
    let _ = command;
    anyhow::bail!("inspect: not in this release")
}

/// Checks.
///
/// # Errors
/// When the directory cannot be read.
pub fn verify(args: &VerifyArgs) -> Result<u8> {
    let _ = args;
    anyhow::bail!("verify: not in this release")
}
