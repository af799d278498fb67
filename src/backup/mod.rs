//! Owns `tidewell backup` and `tidewell restore`: flags to actions and files, answers to lines.
//!
//! - `destination`: folders and buckets, as names and bytes
//! - `listing`: what a backup says of itself
//! - `make`: in the running node: make, list, prune
//! - `restore`: without a node

mod destination;
pub mod listing;
mod make;
mod restore;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::act::act;
use crate::cli::NodeArgs;
use crate::failure::{EXIT_FAILED, EXIT_OK, one_line};
use crate::units::human_bytes;

pub use destination::{Destination, check_name};
pub use make::NodeBackups;

/// Makes a backup of a running node, or keeps those that there are.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "The node writes the backup itself, to a place that its configuration allows ([backup] destinations).\nExample:\n  tidewell backup --to /backups/node-1"
)]
pub struct BackupArgs {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    #[command(flatten)]
    make: MakeArgs,
}

/// What there is besides making one.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// List completed backups, oldest first
    List(ListArgs),
    /// Remove all but the newest, and the files that only the others had
    Prune(PruneArgs),
}

/// Where to.
#[derive(Debug, Args)]
pub struct MakeArgs {
    /// One of the node's destinations, or a place below one: a folder of the node, or s3://BUCKET/PREFIX [default: the first]
    #[arg(long, value_name = "DEST")]
    to: Option<String>,
    /// The answer as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Which.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// As with `backup`; asks the node
    #[arg(long, value_name = "DEST", conflicts_with = "from")]
    to: Option<String>,
    /// A folder or s3://BUCKET/PREFIX that is read without a node
    #[arg(long, value_name = "DEST")]
    from: Option<String>,
    /// One JSON object for each backup
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// How many.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Backups to keep, the newest; 1 or more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
    /// As with `backup`
    #[arg(long, value_name = "DEST")]
    to: Option<String>,
    /// The answer as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// `restore`.
#[derive(Debug, Args)]
#[command(
    after_help = "Checks every checksum before DIR gets its name. S3 settings come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT.\nExample:\n  tidewell restore --from /backups/node-1 --to ./data"
)]
pub struct RestoreArgs {
    /// Where the backup is: a folder or s3://BUCKET/PREFIX
    #[arg(long, value_name = "DEST")]
    from: String,
    /// The data directory to make: a folder that is empty or not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Name of the backup, of `backup list` [default: the newest]
    #[arg(long, value_name = "NAME")]
    at: Option<String>,
    /// Restores what is left of a damaged backup, and says what is damaged
    #[arg(long)]
    accept_damage: bool,
    /// The answer as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `backup`.
///
/// # Errors
/// When the node is not there or refuses.
pub async fn run(args: BackupArgs) -> Result<u8> {
    let with_to = |to: Option<String>| to.map_or_else(|| json!({}), |to| json!({"to": to}));
    match args.command {
        None => {
            let made = act(&args.make.node, "backup", &with_to(args.make.to)).await?;
            print(&made, args.make.json, |made| {
                format!(
                    "{}: {} files, {}; {} files and {} of them new",
                    text(made, "name"),
                    made["files"],
                    size(made, "bytes"),
                    made["new_files"],
                    size(made, "new_bytes")
                )
            })?;
            report_damage(&made, args.make.json)
        }
        Some(BackupCommand::List(args)) => {
            let rows = match args.from {
                Some(from) => {
                    let runtime = Handle::current();
                    let read = move || list(&Destination::open(&absolute(&from)?, false, runtime)?);
                    tokio::task::spawn_blocking(read).await??
                }
                None => act(&args.node, "backup.list", &with_to(args.to)).await?,
            };
            print(&rows, args.json, |row| match row.get("error").and_then(Value::as_str) {
                Some(error) => format!("{}: {error}", text(row, "name")),
                None => format!("{}: {} files, {}", text(row, "name"), row["files"], size(row, "bytes")),
            })?;
            if rows.is_empty() && !args.json {
                writeln!(io::stderr(), "no completed backup")?;
            }
            Ok(if rows.iter().any(|row| row.get("error").is_some()) { EXIT_FAILED } else { EXIT_OK })
        }
        Some(BackupCommand::Prune(args)) => {
            let mut body = with_to(args.to);
            body["keep"] = args.keep.into();
            let done = act(&args.node, "backup.prune", &body).await?;
            print(&done, args.json, |done| {
                format!(
                    "{} backups removed, {} kept; {} files with {} gone",
                    done["removed"],
                    done["kept"],
                    done["removed_files"],
                    size(done, "removed_bytes")
                )
            })?;
            Ok(EXIT_OK)
        }
    }
}

/// Runs `restore`.
///
/// # Errors
/// When the folder is not empty, or the backup is not there or damaged.
pub async fn run_restore(args: RestoreArgs) -> Result<u8> {
    let runtime = Handle::current();
    let (from, json) = (absolute(&args.from)?, args.json);
    let done = tokio::task::spawn_blocking(move || {
        let from = Destination::open(&from, false, runtime)?;
        restore::restore(&from, &args.to, args.at.as_deref(), args.accept_damage)
    })
    .await??;
    let done = [done];
    print(&done, json, |done| {
        format!(
            "{} restored to {}: {} files, {}",
            text(done, "name"),
            text(done, "to"),
            done["files"],
            size(done, "bytes")
        )
    })?;
    report_damage(&done, json)
}

/// Completed backups, oldest first; one that cannot be read has an `error`.
fn list(destination: &Destination) -> Result<Vec<Value>> {
    let rows = listing::keys(destination)?.into_iter().map(|key| match listing::read(destination, &key) {
        Ok(listing) => listing.to_json(),
        Err(error) => {
            let name = listing::parts(&key).map_or("", |(name, _)| name);
            json!({"name": name, "error": one_line(&error)})
        }
    });
    Ok(rows.collect())
}

/// A folder of this machine in the form that destinations have.
fn absolute(name: &str) -> Result<String> {
    if name.starts_with("s3://") {
        return Ok(name.to_owned());
    }
    Ok(std::path::absolute(name)?.display().to_string())
}

fn print(answers: &[Value], json: bool, words: impl Fn(&Value) -> String) -> io::Result<()> {
    let mut out = io::stdout().lock();
    answers.iter().try_for_each(|answer| writeln!(out, "{}", if json { answer.to_string() } else { words(answer) }))
}

fn report_damage(answers: &[Value], json: bool) -> Result<u8> {
    let damage: Vec<&Value> = answers.iter().filter_map(|answer| answer["damage"].as_array()).flatten().collect();
    for found in damage.iter().filter(|_| !json) {
        writeln!(io::stderr(), "damaged: {}", found.as_str().unwrap_or_default())?;
    }
    Ok(if damage.is_empty() { EXIT_OK } else { EXIT_FAILED })
}

fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

fn size(answer: &Value, key: &str) -> String {
    human_bytes(answer[key].as_u64().unwrap_or(0))
}
