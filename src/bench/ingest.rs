//! Owns `bench ingest`: senders, clock, counters and the comparison with what is read back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, TimestampNanosecondType};
use clap::Args;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidewell_codec::{Tier, shard_of};
use tidewell_ingest::client::{Client, Observer, Rejected, Settled};
use tidewell_query::flight::QueryClient;

use super::fleet::{Device, Fleet, START_NS, STEP_NS, TABLE};
use super::order::{Disorder, Order};
use super::progress::{self, Latencies};
use super::{Subject, own_cpu_seconds, round, stored};
use crate::cli::NodeArgs;
use crate::connect::{client_config, material};
use crate::failure::{EXIT_FAILED, EXIT_OK};
use crate::units::{Span, human_bytes, thousands};

/// How columns go over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Encoding {
    /// Little-endian values as they are
    Plain,
    /// The codecs of the log and of fresh segments
    Encoded,
}

/// Flags of `bench ingest`.
#[derive(Clone, Debug, Args)]
pub struct IngestArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Devices that send
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub devices: u64,
    /// Connections; devices are shared out among them
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub connections: u64,
    /// Rows of a batch
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub batch_rows: u64,
    /// Devices of a batch: 1 = each batch is one device's rows (store and forward), 1000 = rows of a fleet at one moment
    ///
    /// At most the devices that a connection has in one shard: raise --devices or lower --connections for more.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub batch_devices: u64,
    /// Fields of a row
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub fields: u64,
    /// How long rows are sent
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub seconds: f64,
    /// How columns go over the wire
    #[arg(long, value_enum, default_value_t = Encoding::Encoded)]
    pub encoding: Encoding,
    /// Rows per second over all connections, whatever the answers take; without it each connection sends as fast as it may
    #[arg(long, value_name = "ROWS")]
    pub rate: Option<f64>,
    /// Batches of one connection that may wait for their acknowledgement
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub in_flight: u64,
    /// Percent of rows that come late
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub late: f64,
    /// How late at most, in the rows' own time (a row is 10 s): any delay up to it is as likely
    #[arg(long, value_name = "SPAN", default_value = "10m")]
    pub late_by: Span,
    /// Percent of rows that come once more, in a later batch
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub duplicates: f64,
    /// Figures are also given for each interval of this length
    #[arg(long, value_name = "SPAN", default_value = "1m")]
    pub every: Span,
    /// Do not merge everything at the end: bytes stored are then those of the moment
    #[arg(long)]
    pub no_compact: bool,
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

impl IngestArgs {
    fn disorder(&self) -> Disorder {
        let late_rows = self.late_by.0.as_nanos() / STEP_NS as u128;
        let late_rows = u64::try_from(late_rows).unwrap_or(u64::MAX);
        Disorder { late: self.late / 100.0, late_rows, twice: self.duplicates / 100.0 }
    }
}

/// What all senders add to.
struct Tally {
    latencies: Latencies,
    /// With a rate the senders measure themselves, from the moment a batch was due.
    open_loop: bool,
    refused_rows: AtomicU64,
    /// Rows that were sent once more on purpose.
    repeated_rows: AtomicU64,
    first_refusal: Mutex<Option<String>>,
}

impl AsRef<Latencies> for Tally {
    fn as_ref(&self) -> &Latencies {
        &self.latencies
    }
}

impl Observer for Tally {
    fn settled(&self, settled: &Settled) {
        if !self.open_loop {
            self.latencies.record(settled.settled_at.saturating_duration_since(settled.accepted_at));
        }
    }

    fn rejected(&self, rejected: &Rejected) {
        self.refused_rows.fetch_add(u64::from(rejected.rows), Ordering::Relaxed);
        self.first_refusal.lock().get_or_insert_with(|| rejected.to_string());
    }
}

/// Runs the measurement and prints it.
///
/// # Errors
/// When the node cannot be started or reached.
pub async fn run(args: IngestArgs) -> Result<u8> {
    let subject = Subject::find(&args.node, args.data_dir.as_deref(), &args.set)?;
    let result = measure(&args, &subject).await;
    let keep = args.data_dir.is_some() || result.is_err();
    subject.end(keep)?;
    let report = result?;
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    let good = number("read_back_rows") + number("repeated_rows") >= number("acknowledged_rows")
        && report["duplicates"] == 0
        && report["refused_rows"] == 0;
    if args.json {
        println!("{report}");
    } else {
        print(&report);
    }
    if !good {
        eprintln!("tidewell: bench ingest: acknowledged rows are missing, twice or refused: {report}");
    }
    Ok(if good { EXIT_OK } else { EXIT_FAILED })
}

async fn measure(args: &IngestArgs, subject: &Subject) -> Result<Value> {
    let query = subject.target.query_client().await?;
    let before = stored(&query).await?;
    let fleet = Arc::new(Fleet::new(args.seed, args.fields as usize));
    let tally = Arc::new(Tally {
        latencies: Latencies::new(),
        open_loop: args.rate.is_some(),
        refused_rows: AtomicU64::new(0),
        repeated_rows: AtomicU64::new(0),
        first_refusal: Mutex::new(None),
    });
    let certificates = material(&subject.target)?;
    let mut clients = Vec::new();
    for _ in 0..args.connections.min(args.devices) {
        let mut config = client_config(&subject.target)?;
        config.encoding = if args.encoding == Encoding::Plain { Tier::Plain } else { Tier::Hot };
        config.in_flight_batches = args.in_flight as usize;
        clients.push(Client::connect_observed(config, &certificates, tally.clone()).await?);
    }
    let shard_count = clients[0].welcome().shard_count.max(1);
    let connections = clients.len() as u64;
    let plans: Vec<Vec<Vec<Device>>> = (0..connections).map(|c| groups(args, c, connections, shard_count)).collect();

    let (node_cpu, own_cpu) = (subject.cpu_seconds(), own_cpu_seconds());
    let start = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let watching =
        tokio::spawn(progress::watch(clients.clone(), tally.clone(), args.every.0, subject.pid(), stop.clone()));
    let mut senders = Vec::new();
    for (client, groups) in clients.iter().zip(plans) {
        let pace =
            args.rate.map(|rate| Duration::from_secs_f64(args.batch_rows as f64 * connections as f64 / rate.max(1e-3)));
        senders.push(tokio::spawn(sender(
            client.clone(),
            fleet.clone(),
            tally.clone(),
            groups,
            args.clone(),
            start,
            pace,
        )));
    }
    for sender in senders {
        sender.await.context("a sender")??;
    }
    let seconds = start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let seen = watching.await.context("the watcher")?;
    let own_cpu = own_cpu_seconds() - own_cpu;
    let node_cpu = subject.cpu_seconds().zip(node_cpu).map(|(after, before)| after - before);
    let sum = |pick: fn(&tidewell_ingest::client::ClientStats) -> &AtomicU64| -> u64 {
        clients.iter().map(|c| pick(c.stats()).load(Ordering::Relaxed)).sum()
    };
    let (rows, batches, wire, retries) =
        (sum(|s| &s.rows), sum(|s| &s.batches), sum(|s| &s.payload_bytes), sum(|s| &s.retries));
    // Each close waits until QUIC has said its last words, so all say them at once.
    futures::future::join_all(clients.into_iter().map(|client| async move {
        client.close(Duration::from_secs(1)).await;
    }))
    .await;
    let after = stored(&query).await?;
    query.action("flush", Vec::new()).await.context("action flush")?;
    if !args.no_compact {
        query.action("compact", Vec::new()).await.context("action compact")?;
    }
    let settled = stored(&query).await?;
    let (read_back, duplicates) = read_back(&query).await?;
    let values = (rows * args.fields).max(1) as f64;
    let mut report = json!({
        "rows_per_second": round(rows as f64 / seconds, 0),
        "values_per_second": round(values / seconds, 0),
        "ack_ms": tally.latencies.all(),
        "bytes_per_value": {
            "wire": round(wire as f64 / values, 4),
            "log": round(after.log_bytes.saturating_sub(before.log_bytes) as f64 / values, 4),
            "stored": round(settled.segment_bytes.saturating_sub(before.segment_bytes) as f64 / values, 4),
        },
        "cpu_seconds_per_million_values": {
            "node": node_cpu.map(|cpu| round(cpu / values * 1e6, 4)),
            "client": round(own_cpu / values * 1e6, 4),
        },
        "write_amplification": {
            "while_sending": round(after.write_amplification(&before), 3),
            "in_the_end": round(settled.write_amplification(&before), 3),
        },
        "node_bytes": { "anonymous": seen.anonymous, "resident": seen.resident },
        "intervals": seen.intervals,
        "acknowledged_rows": rows,
        "repeated_rows": tally.repeated_rows.load(Ordering::Relaxed),
        "read_back_rows": read_back,
        "duplicates": duplicates,
        "refused_rows": tally.refused_rows.load(Ordering::Relaxed),
        "seconds": round(seconds, 3),
        "batches": batches,
        "retries": retries,
        "devices": args.devices,
        "connections": connections,
        "batch_rows": args.batch_rows,
        "batch_devices": args.batch_devices,
        "fields": args.fields,
        "encoding": if args.encoding == Encoding::Plain { "plain" } else { "encoded" },
        "rate": args.rate,
        "shards": shard_count,
        "durability": "durable",
    });
    if let Some(refusal) = &*tally.first_refusal.lock() {
        report["first_refusal"] = refusal.as_str().into();
    }
    Ok(report)
}

/// The devices of one connection in groups that make a batch: all of one shard, since a batch belongs to one.
fn groups(args: &IngestArgs, connection: u64, connections: u64, shard_count: u32) -> Vec<Vec<Device>> {
    let mut shards: Vec<Vec<Device>> = vec![Vec::new(); shard_count as usize];
    for number in (connection..args.devices).step_by(connections as usize) {
        let device = Device::new(number);
        shards[shard_of(&device.id, shard_count) as usize].push(device);
    }
    let size = args.batch_devices.min(args.batch_rows) as usize;
    let chunks: Vec<Vec<Vec<Device>>> =
        shards.into_iter().map(|devices| devices.chunks(size).map(<[Device]>::to_vec).collect()).collect();
    // Shards take turns, so that none waits while another is served.
    let longest = chunks.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|at| chunks.iter().filter_map(move |shard| shard.get(at).cloned())).collect()
}

async fn sender(
    client: Client,
    fleet: Arc<Fleet>,
    tally: Arc<Tally>,
    groups: Vec<Vec<Device>>,
    args: IngestArgs,
    start: Instant,
    pace: Option<Duration>,
) -> Result<()> {
    let end = start + Duration::from_secs_f64(args.seconds);
    let disorder = args.disorder();
    let mut sent = vec![0u64; groups.len()];
    let mut orders: Vec<Order> =
        (0..groups.len() as u64).map(|group| Order::new(disorder, args.seed.wrapping_add(group))).collect();
    let mut waiting = tokio::task::JoinSet::new();
    for turn in 0u32.. {
        let due = match pace {
            Some(pace) => {
                let due = start + pace * turn;
                tokio::time::sleep_until(due.into()).await;
                due
            }
            None => Instant::now(),
        };
        if due >= end {
            break;
        }
        let at = turn as usize % groups.len();
        let devices = &groups[at];
        let rows = (args.batch_rows as usize / devices.len()).max(1);
        let batch = if disorder.is_none() {
            sent[at] += rows as u64;
            fleet.batch(devices, sent[at] - rows as u64, rows)
        } else {
            fleet.batch_of(devices, &orders[at].take(rows))
        };
        let delivery = client.send(batch).await.context("send")?;
        if pace.is_some() {
            let tally = tally.clone();
            waiting.spawn(async move {
                if delivery.wait().await.is_ok() {
                    tally.latencies.record(due.elapsed());
                }
            });
            // Those that are done need not be kept.
            while waiting.try_join_next().is_some() {}
        }
    }
    for (devices, order) in groups.iter().zip(&mut orders) {
        let size = (args.batch_rows as usize / devices.len()).max(1);
        loop {
            let rows = order.rest(size);
            if rows.is_empty() {
                break;
            }
            drop(client.send(fleet.batch_of(devices, &rows)).await.context("send")?);
        }
        tally.repeated_rows.fetch_add(order.repeated * devices.len() as u64, Ordering::Relaxed);
    }
    client.flush().await.context("flush")?;
    while waiting.join_next().await.is_some() {}
    Ok(())
}

/// Rows of the table, and rows whose device and time came before.
async fn read_back(client: &QueryClient) -> Result<(u64, u64)> {
    let request = json!({"range": {"table": TABLE, "start": START_NS, "end": i64::MAX, "fields": ["latitude"]}});
    let mut answer = client.query(&request.to_string()).await.context("read back")?;
    let (mut rows, mut duplicates) = (0, 0);
    let mut last: Option<(String, i64)> = None;
    while let Some(batch) = answer.next().await.context("read back")? {
        let devices = names(batch.column_by_name("device").context("the answer has no device")?)?;
        let devices = devices.as_string::<i32>();
        let times =
            batch.column_by_name("time").context("the answer has no time")?.as_primitive::<TimestampNanosecondType>();
        rows += batch.num_rows() as u64;
        // Answers are ordered by device and time, so a row that comes twice comes twice in a row.
        for row in 0..batch.num_rows() {
            let same = if row > 0 {
                devices.value(row) == devices.value(row - 1) && times.value(row) <= times.value(row - 1)
            } else {
                last.as_ref().is_some_and(|(device, time)| devices.value(0) == device && times.value(0) <= *time)
            };
            duplicates += u64::from(same);
        }
        let end = batch.num_rows() - 1;
        last = Some((devices.value(end).to_owned(), times.value(end)));
    }
    Ok((rows, duplicates))
}

fn names(column: &ArrayRef) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::Utf8 => Ok(column.clone()),
        _ => arrow::compute::cast(column, &DataType::Utf8).context("device names"),
    }
}

fn print(report: &Value) {
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    println!(
        "{} rows/s, {} values/s over {:.1} s, {} connections, {} shards",
        thousands(number("/rows_per_second") as u64),
        thousands(number("/values_per_second") as u64),
        number("/seconds"),
        report["connections"],
        report["shards"]
    );
    println!(
        "durable acknowledgement  p50 {:.2} ms  p99 {:.2} ms  p999 {:.2} ms  max {:.2} ms",
        number("/ack_ms/p50"),
        number("/ack_ms/p99"),
        number("/ack_ms/p999"),
        number("/ack_ms/max")
    );
    println!(
        "bytes a value            wire {:.3}  log {:.3}  stored {:.3}",
        number("/bytes_per_value/wire"),
        number("/bytes_per_value/log"),
        number("/bytes_per_value/stored")
    );
    println!(
        "CPU s / million values   node {:.3}  client {:.3}",
        number("/cpu_seconds_per_million_values/node"),
        number("/cpu_seconds_per_million_values/client")
    );
    println!(
        "write amplification      {:.2} while sending, {:.2} in the end; node at most {} anonymous, {} resident",
        number("/write_amplification/while_sending"),
        number("/write_amplification/in_the_end"),
        human_bytes(number("/node_bytes/anonymous") as u64),
        human_bytes(number("/node_bytes/resident") as u64)
    );
    let intervals = report["intervals"].as_array().map_or(&[][..], |all| all);
    for (at, interval) in intervals.iter().enumerate().filter(|_| intervals.len() > 1) {
        let number = |path: &str| interval.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        println!(
            "interval {:>3}             {:>12} rows/s  p99 {:.2} ms  p999 {:.2} ms  node {}",
            at + 1,
            thousands(number("/rows_per_second") as u64),
            number("/ack_ms/p99"),
            number("/ack_ms/p999"),
            human_bytes(number("/node_anonymous_bytes") as u64)
        );
    }
    println!(
        "{} rows acknowledged, {} read back, {} twice, {} refused",
        thousands(number("/acknowledged_rows") as u64),
        thousands(number("/read_back_rows") as u64),
        report["duplicates"],
        report["refused_rows"]
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(devices: u64, batch_devices: u64) -> IngestArgs {
        use clap::Parser;

        let line = format!("tidewell bench ingest --devices {devices} --batch-devices {batch_devices}");
        let cli = crate::cli::Cli::try_parse_from(line.split(' ')).unwrap();
        match cli.command {
            crate::cli::Command::Bench(super::super::BenchCommand::Ingest(args)) => args,
            _ => panic!("another command"),
        }
    }

    #[test]
    fn every_device_is_in_one_group_of_one_shard() {
        let args = args(1_001, 50);
        let mut seen = std::collections::HashSet::new();
        for connection in 0..4 {
            for group in groups(&args, connection, 4, 3) {
                assert!(!group.is_empty() && group.len() <= 50);
                let shards: std::collections::HashSet<u32> = group.iter().map(|d| shard_of(&d.id, 3)).collect();
                assert_eq!(shards.len(), 1);
                for device in group {
                    assert!(seen.insert(device.number));
                }
            }
        }
        assert_eq!(seen.len(), 1_001);
    }
}
