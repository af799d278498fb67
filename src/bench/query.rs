//! Owns `bench query`: a loaded fleet, questions of different kinds, and how long their answers take.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::fleet::{Device, Fleet, START_NS, TABLE};
use super::{Subject, histogram, milliseconds, round};
use crate::cli::NodeArgs;
use crate::connect::Feed;
use crate::failure::EXIT_OK;
use crate::units::{Span, thousands};

const HOUR_NS: i64 = 3_600_000_000_000;
/// Rows of a batch that fills the node.
const BATCH_ROWS: u64 = 2_160;

/// Flags of `bench query`.
#[derive(Clone, Debug, Args)]
pub struct QueryArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Devices
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub devices: u64,
    /// Hours of rows of each device
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub hours: u64,
    /// Time between two rows of a device
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = step)]
    pub step: Span,
    /// How often each question is asked
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub runs: u32,
    /// Ask before rows are in segments
    #[arg(long)]
    pub no_flush: bool,
    /// Merge segments before asking
    #[arg(long)]
    pub compact: bool,
    /// The rows are in the node already
    #[arg(long)]
    pub no_load: bool,
    /// Chooses the values
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Settings of the node that is started, as for `serve --set`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Folder for the node's data, which is then kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl QueryArgs {
    fn step_ns(&self) -> i64 {
        self.step.0.as_nanos() as i64
    }
}

/// A time between rows that lets an hour have some.
fn step(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    let some = (1..=HOUR_NS as u128).contains(&span.0.as_nanos());
    if some { Ok(span) } else { Err(format!("expected a time of 1ns to 1h, found {text}")) }
}

/// Runs the measurement and prints it.
///
/// # Errors
/// When the node cannot be started or reached, or refuses a question.
pub async fn run(args: QueryArgs) -> Result<u8> {
    let subject = Subject::find(&args.node, args.data_dir.as_deref(), &args.set)?;
    let result = measure(&args, &subject).await;
    subject.end(args.data_dir.is_some() || result.is_err())?;
    let report = result?;
    if args.json {
        println!("{report}");
    } else {
        print(&report);
    }
    Ok(EXIT_OK)
}

async fn measure(args: &QueryArgs, subject: &Subject) -> Result<Value> {
    let rows = args.hours * 3_600_000_000_000 / args.step_ns() as u64;
    if !args.no_load {
        fill(args, subject, rows).await?;
    }
    let client = subject.target.query_client().await?;
    if !args.no_flush {
        client.action("flush", Vec::new()).await.context("action flush")?;
    }
    if args.compact {
        client.action("compact", Vec::new()).await.context("action compact")?;
    }
    let mut results = Vec::new();
    for (name, scanned, question) in questions(args, rows) {
        let question = question.to_string();
        let mut latencies = histogram();
        let mut answer_rows = 0;
        let cpu = subject.cpu_seconds();
        let begin = Instant::now();
        for run in 0..=args.runs {
            let start = Instant::now();
            let mut answer = client.query(&question).await.with_context(|| format!("question {name}"))?;
            answer_rows = 0;
            while let Some(batch) = answer.next().await.with_context(|| format!("question {name}"))? {
                answer_rows += batch.num_rows() as u64;
            }
            // The first answer touches files for the first time; it is not what a dashboard sees.
            if run > 0 {
                latencies.saturating_record(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
            }
        }
        let cpu_ms = subject
            .cpu_seconds()
            .zip(cpu)
            .map(|(after, before)| round((after - before) * 1e3 / f64::from(args.runs + 1), 3));
        results.push(json!({
            "name": name,
            "ms": milliseconds(&latencies),
            "answer_rows": answer_rows,
            "covered_rows": scanned,
            "node_cpu_ms": cpu_ms,
            "queries_per_second": round(f64::from(args.runs + 1) / begin.elapsed().as_secs_f64(), 1),
        }));
    }
    Ok(json!({"rows": rows * args.devices, "devices": args.devices, "runs": args.runs, "queries": results}))
}

async fn fill(args: &QueryArgs, subject: &Subject, rows: u64) -> Result<()> {
    let fleet = Fleet::new(args.seed, 10).with_step(args.step_ns());
    let feed = Feed::connect(&subject.target).await?;
    let mut from = 0;
    while from < rows {
        let take = BATCH_ROWS.min(rows - from);
        for number in 0..args.devices {
            drop(feed.send(fleet.batch(&[Device::new(number)], from, take as usize)).await?);
        }
        from += take;
    }
    feed.flush().await?;
    anyhow::ensure!(feed.refused_rows() == 0, "load the fleet: {}", feed.refusals().join("; "));
    feed.close().await;
    Ok(())
}

/// Name, rows that lie in its range, and the question.
fn questions(args: &QueryArgs, rows: u64) -> Vec<(&'static str, u64, Value)> {
    let end = START_NS + rows as i64 * args.step_ns();
    let hour_before_end = end - HOUR_NS;
    let one = json!([Device::new(args.devices / 2).id]);
    let hour = ((HOUR_NS / args.step_ns()) as u64).min(rows);
    vec![
        ("latest_one", 1, json!({"latest": {"table": TABLE, "devices": one}})),
        ("latest_all", args.devices, json!({"latest": {"table": TABLE, "fields": ["velocity", "fuel_state"]}})),
        (
            "range_one_hour",
            hour,
            json!({"range": {"table": TABLE, "devices": one, "start": hour_before_end, "end": end}}),
        ),
        (
            "downsample_one_device",
            rows,
            json!({"downsample": {"table": TABLE, "devices": one, "start": START_NS, "end": end, "every": "5m", "fields": ["velocity"], "aggregates": ["mean", "max"]}}),
        ),
        (
            "downsample_all_by_hour",
            rows * args.devices,
            json!({"downsample": {"table": TABLE, "start": START_NS, "end": end, "every": "1h", "fields": ["velocity", "fuel_consumption"], "aggregates": ["mean", "max"]}}),
        ),
        (
            "downsample_fleet",
            rows * args.devices,
            json!({"downsample": {"table": TABLE, "start": START_NS, "end": end, "every": "1h", "fields": ["velocity"], "aggregates": ["mean"], "group": "all"}}),
        ),
        (
            "threshold_selective",
            rows * args.devices,
            json!({"threshold": {"table": TABLE, "start": START_NS, "end": end, "where": "velocity > 99 AND status = 2", "max_gap": "1m"}}),
        ),
        (
            "threshold_intervals",
            rows * args.devices,
            json!({"threshold": {"table": TABLE, "start": START_NS, "end": end, "where": "velocity > 80", "for": "10m", "max_gap": "1m"}}),
        ),
    ]
}

fn print(report: &Value) {
    println!(
        "{} rows of {} devices, each question {} times\n",
        thousands(report["rows"].as_u64().unwrap_or(0)),
        report["devices"],
        report["runs"]
    );
    println!(
        "{:<24} {:>10} {:>10} {:>10} {:>12} {:>12}",
        "question", "p50 ms", "p99 ms", "cpu ms", "answer rows", "rows covered"
    );
    for query in report["queries"].as_array().into_iter().flatten() {
        let number = |path: &str| query.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        println!(
            "{:<24} {:>10.2} {:>10.2} {:>10.2} {:>12} {:>12}",
            query["name"].as_str().unwrap_or_default(),
            number("/ms/p50"),
            number("/ms/p99"),
            number("/node_cpu_ms"),
            thousands(number("/answer_rows") as u64),
            thousands(number("/covered_rows") as u64)
        );
    }
}
