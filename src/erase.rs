//! Owns `tidewell delete`, `retention` and `table`: flags to actions, their answers to lines; does not decide what goes.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::act::act;
use crate::cli::NodeArgs;
use crate::failure::{EXIT_OK, usage};
use crate::query::{now_ns, time};
use crate::units::{human_bytes, thousands};

/// `delete`.
#[derive(Debug, Args)]
#[command(
    after_help = "The rows are in no answer once the command returns; files lose them with their next merge, an hour later at the \
latest, or with the action compact. Without --table, --start and --end the device's attributes go, too.\n\
Examples:\n  tidewell delete --device truck_1\n  tidewell delete --device truck_1 --table readings --start 2024-05-01 --end 2024-05-02"
)]
pub struct DeleteArgs {
    /// The device; may be repeated
    #[arg(long, value_name = "ID", required = true)]
    device: Vec<String>,
    /// Only rows of this table
    #[arg(long)]
    table: Option<String>,
    /// Only rows from this time on: RFC 3339, a date, nanoseconds, now-15m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    start: Option<String>,
    /// Only rows before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    end: Option<String>,
    /// The answer as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// For how long tables keep what.
#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Say for how long a table keeps its rows and summaries; what is not named stays as it is
    #[command(
        after_help = "A length is a number and a unit such as 12h, 30d, 5y; or forever. 0 takes it back: rows are kept for ever then, \
summaries as long as the rows.\nExample:\n  tidewell retention set readings --raw 30d --hour 5y"
    )]
    Set(RetentionSetArgs),
    /// Show for how long tables keep what, and the first time whose rows are still there
    Get(RetentionGetArgs),
}

/// `retention set`.
#[derive(Debug, Args)]
pub struct RetentionSetArgs {
    /// The table
    table: String,
    /// Rows
    #[arg(long, value_name = "LENGTH")]
    raw: Option<String>,
    /// Summaries by minute
    #[arg(long, value_name = "LENGTH")]
    minute: Option<String>,
    /// Summaries by hour
    #[arg(long, value_name = "LENGTH")]
    hour: Option<String>,
    /// Summaries by day
    #[arg(long, value_name = "LENGTH")]
    day: Option<String>,
    /// The answer as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// `retention get`.
#[derive(Debug, Args)]
pub struct RetentionGetArgs {
    /// The table [default: all]
    table: Option<String>,
    /// One JSON object for each table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Tables of a node.
#[derive(Debug, Subcommand)]
pub enum TableCommand {
    /// List tables with sizes, times and retention
    List(TableListArgs),
    /// Take a table away, with all its rows
    Drop(TableDropArgs),
    /// Give a table another name
    Rename(TableRenameArgs),
}

/// `table list`.
#[derive(Debug, Args)]
pub struct TableListArgs {
    /// One JSON object for each table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// `table drop`.
#[derive(Debug, Args)]
pub struct TableDropArgs {
    /// The table
    table: String,
    #[command(flatten)]
    node: NodeArgs,
}

/// `table rename`.
#[derive(Debug, Args)]
pub struct TableRenameArgs {
    /// What it is called
    from: String,
    /// What it shall be called
    to: String,
    #[command(flatten)]
    node: NodeArgs,
}

/// Takes rows away.
///
/// # Errors
/// When the node is not there or refuses.
pub async fn delete(args: DeleteArgs) -> Result<u8> {
    let now_ns = now_ns();
    let mut body = Map::new();
    body.insert("devices".into(), json!(args.device));
    if let Some(table) = args.table {
        body.insert("table".into(), table.into());
    }
    for (key, flag, text) in [("start", "--start", args.start), ("end", "--end", args.end)] {
        if let Some(text) = text {
            body.insert(key.into(), time(&text, flag, now_ns)?);
        }
    }
    let answers = act(&args.node, "delete", &body.into()).await?;
    print(&answers, args.json, |done| format!("rows of {} devices deleted", done["deleted"]))
}

/// Sets or shows retention.
///
/// # Errors
/// When the node is not there or refuses.
pub async fn retention(command: RetentionCommand) -> Result<u8> {
    let (answers, json) = match command {
        RetentionCommand::Set(args) => {
            let mut body = Map::new();
            body.insert("table".into(), args.table.into());
            for (key, length) in [("raw", args.raw), ("1m", args.minute), ("1h", args.hour), ("1d", args.day)] {
                if let Some(length) = length {
                    body.insert(key.into(), length.into());
                }
            }
            if body.len() == 1 {
                return Err(usage("retention set: expected --raw, --minute, --hour or --day, found none"));
            }
            (act(&args.node, "retention.set", &body.into()).await?, args.json)
        }
        RetentionCommand::Get(args) => {
            let body = args.table.map_or_else(|| json!({}), |table| json!({"table": table}));
            (act(&args.node, "retention.get", &body).await?, args.json)
        }
    };
    print(&answers, json, retention_line)
}

/// Lists, drops or renames tables.
///
/// # Errors
/// When the node is not there or refuses.
pub async fn table(command: TableCommand) -> Result<u8> {
    match command {
        TableCommand::List(args) => print(&act(&args.node, "table.list", &json!({})).await?, args.json, |table| {
            let number = |key: &str| table[key].as_u64().unwrap_or(0);
            format!(
                "{}\n  {} rows in {} segments, {}, {} to {}; {} deletes not carried out in files",
                retention_line(table),
                thousands(number("segment_rows")),
                number("segments"),
                human_bytes(number("segment_bytes")),
                table["first"].as_str().unwrap_or("-"),
                table["last"].as_str().unwrap_or("-"),
                number("erasures")
            )
        }),
        TableCommand::Drop(args) => {
            let answers = act(&args.node, "table.drop", &json!({"table": args.table})).await?;
            print(&answers, false, |done| format!("table {} dropped", done["dropped"].as_str().unwrap_or_default()))
        }
        TableCommand::Rename(args) => {
            let answers = act(&args.node, "table.rename", &json!({"from": args.from, "to": args.to})).await?;
            print(&answers, false, |done| {
                let name = |key: &str| done[key].as_str().unwrap_or_default().to_owned();
                format!("table {} is called {}", name("renamed"), name("to"))
            })
        }
    }
}

fn retention_line(table: &Value) -> String {
    let kept = |key: &str, otherwise: &str| table[key].as_str().unwrap_or(otherwise).to_owned();
    let cut_off = table["raw_before"].as_str().map_or(String::new(), |time| format!("; rows before {time} are gone"));
    format!(
        "{}: rows {}, minutes {}, hours {}, days {}{cut_off}",
        table["table"].as_str().unwrap_or_default(),
        kept("raw", "forever"),
        kept("1m", "as rows"),
        kept("1h", "as rows"),
        kept("1d", "as rows"),
    )
}

fn print(answers: &[Value], json: bool, words: impl Fn(&Value) -> String) -> Result<u8> {
    let mut out = io::stdout().lock();
    for answer in answers {
        writeln!(out, "{}", if json { answer.to_string() } else { words(answer) })?;
    }
    Ok(EXIT_OK)
}
