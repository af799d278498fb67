//! Owns `tidewell quarantine`: flags to actions, their answers to lines; does not decide which rows wait.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::act::act;
use crate::cli::NodeArgs;
use crate::failure::EXIT_OK;

/// Rows whose time lay more than `max_future` ahead of the node's clock when they came.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List the rows that wait, by table and device
    List(ListArgs),
    /// Put a device's rows whose time has come into their table
    Release(DeviceArgs),
    /// Delete a device's rows that wait
    Drop(DeviceArgs),
}

/// Which rows to list.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Devices, as a pattern such as `truck_*` [default: all]
    #[arg(long, value_name = "GLOB")]
    device: Option<String>,
    /// One JSON object for each table and device
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Whose rows.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// The table that they were sent to
    #[arg(long)]
    table: String,
    /// The device
    #[arg(long)]
    device: String,
    /// The answer as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs one command.
///
/// # Errors
/// When the node is not there or refuses.
pub async fn run(command: QuarantineCommand) -> Result<u8> {
    let (answers, json, words): (Vec<Value>, bool, fn(&Value) -> String) = match command {
        QuarantineCommand::List(args) => {
            let body = args.device.map_or_else(|| json!({}), |glob| json!({"glob": glob}));
            (act(&args.node, "quarantine.list", &body).await?, args.json, |row| {
                let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
                format!(
                    "{} {}: {} rows from {} to {}, received {} to {}",
                    text("table"),
                    text("device"),
                    row["rows"],
                    text("first"),
                    text("last"),
                    text("received_first"),
                    text("received_last")
                )
            })
        }
        QuarantineCommand::Release(args) => {
            let body = json!({"table": args.table, "device": args.device});
            (act(&args.node, "quarantine.release", &body).await?, args.json, |done| {
                format!("{} rows released, {} still too far in the future", done["released"], done["waiting"])
            })
        }
        QuarantineCommand::Drop(args) => {
            let body = json!({"table": args.table, "device": args.device});
            (act(&args.node, "quarantine.drop", &body).await?, args.json, |done| {
                format!("{} rows dropped", done["dropped"])
            })
        }
    };
    let mut out = io::stdout().lock();
    for answer in &answers {
        writeln!(out, "{}", if json { answer.to_string() } else { words(answer) })?;
    }
    if answers.is_empty() && !json {
        writeln!(io::stderr(), "nothing waits")?;
    }
    Ok(EXIT_OK)
}
