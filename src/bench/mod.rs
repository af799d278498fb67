//! Owns `tidewell bench`: what is measured and printed; `fleet` makes rows, `ingest` and `query` run.

pub mod devices;
pub mod fleet;
pub mod ingest;
mod order;
mod progress;
pub mod query;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tidewell_query::flight::QueryClient;

use crate::child::{NodeOptions, NodeProcess, cpu_seconds_of, temporary_folder};
use crate::cli::NodeArgs;
use crate::connect::{Purpose, Target};

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Send rows at full speed or at a rate, then read back what was acknowledged
    #[command(
        after_help = "Examples:\n  tidewell bench ingest --devices 1000 --connections 4 --seconds 10\n  tidewell bench ingest --rate 200000 --json\n  tidewell bench ingest --batch-devices 1000     rows of a whole fleet at once, one of each device\n\nStarts a node of its own in a temporary folder unless --node names one. bytes_per_value: wire = payloads of batches,\nlog = written to device logs, stored = segments after flush and compaction. ack_ms: from handing a batch to the client\nlibrary (with --rate: from the moment it was due) to its durable acknowledgement. write_amplification: segment bytes\nwritten by flushes and merges for each byte flushed."
    )]
    Ingest(ingest::IngestArgs),
    /// Send a few rows of very many devices: what a device costs in memory and time, and how that grows
    Devices(devices::DevicesArgs),
    /// Ask one question after another and measure how long answers take
    #[command(after_help = "Starts a node of its own and loads a fleet into it unless --node names one that has it.")]
    Query(query::QueryArgs),
}

/// Runs a measurement.
///
/// # Errors
/// When the node cannot be started or reached, or acknowledged rows are missing.
pub async fn run(command: BenchCommand) -> Result<u8> {
    match command {
        BenchCommand::Ingest(args) => ingest::run(args).await,
        BenchCommand::Devices(args) => devices::run(args).await,
        BenchCommand::Query(args) => query::run(args).await,
    }
}

/// The node under test: one of our own, or one that somebody else runs.
pub(crate) struct Subject {
    own: Option<(NodeProcess, PathBuf)>,
    target: Target,
}

impl Subject {
    fn find(args: &NodeArgs, data_dir: Option<&Path>, settings: &[String]) -> Result<Self> {
        if args.node.is_some() {
            return Ok(Self { own: None, target: Target::find(args, Purpose::Ingest)? });
        }
        let folder = match data_dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).with_context(|| format!("make folder: {}", dir.display()))?;
                dir.to_owned()
            }
            None => temporary_folder("bench")?,
        };
        let node = NodeProcess::start(&NodeOptions {
            data_dir: folder.join("data"),
            log: folder.join("node.log"),
            addresses: None,
            settings: settings.to_vec(),
        })?;
        let target = node.target("dev");
        Ok(Self { own: Some((node, folder)), target })
    }

    /// Process id of a node of our own.
    fn pid(&self) -> Option<u32> {
        self.own.as_ref().map(|(node, _)| node.pid())
    }

    /// Seconds of CPU of the node; `None` for a node on who knows which machine.
    fn cpu_seconds(&self) -> Option<f64> {
        self.own.as_ref().map(|(node, _)| node.cpu_seconds())
    }

    /// Ends a node of our own; `keep` leaves its data.
    fn end(self, keep: bool) -> Result<()> {
        let Some((mut node, folder)) = self.own else { return Ok(()) };
        node.stop()?;
        if !keep {
            let _ = std::fs::remove_dir_all(folder);
        }
        Ok(())
    }
}

/// Seconds of CPU of this process.
fn own_cpu_seconds() -> f64 {
    cpu_seconds_of(std::process::id()).unwrap_or(0.0)
}

/// Bytes that the `stats` action tells, over all shards.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    log_bytes: u64,
    segment_bytes: u64,
    flush_bytes: u64,
    compaction_bytes: u64,
}

impl Stored {
    /// Segment bytes written for each byte flushed, since `before`.
    fn write_amplification(&self, before: &Self) -> f64 {
        let flushed = self.flush_bytes.saturating_sub(before.flush_bytes);
        let merged = self.compaction_bytes.saturating_sub(before.compaction_bytes);
        (flushed + merged) as f64 / flushed.max(1) as f64
    }
}

async fn stored(client: &QueryClient) -> Result<Stored> {
    let answer = client.action("stats", Vec::new()).await.context("action stats")?;
    let value: Value =
        serde_json::from_slice(answer.first().context("action stats: no answer")?).context("action stats")?;
    let shards = value["shards"].as_array().context("action stats: expected `shards`")?;
    let sum = |key: &str| shards.iter().filter_map(|shard| shard[key].as_u64()).sum();
    Ok(Stored {
        log_bytes: sum("log_bytes"),
        segment_bytes: sum("segment_bytes"),
        flush_bytes: sum("flush_bytes"),
        compaction_bytes: sum("compaction_bytes"),
    })
}

/// A histogram of microseconds up to ten minutes, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants that fit")
}

/// Milliseconds of a histogram of microseconds.
fn milliseconds(histogram: &Histogram<u64>) -> Value {
    let ms = |us: u64| round(us as f64 / 1e3, 3);
    json!({
        "p50": ms(histogram.value_at_quantile(0.5)),
        "p99": ms(histogram.value_at_quantile(0.99)),
        "p999": ms(histogram.value_at_quantile(0.999)),
        "max": ms(histogram.max()),
    })
}

/// Figures are measured to a few digits; more would only look exact.
fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
