//! Owns `bench devices`: what a device costs in memory and time, with few and with very many of them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use tidewell_codec::shard_of;
use tidewell_ingest::client::Client;
use tidewell_query::flight::QueryClient;

use super::fleet::{Device, Fleet, TABLE};
use super::{round, stored};
use crate::child::{NodeOptions, NodeProcess, memory_of, temporary_folder};
use crate::connect::{client_config, material};
use crate::failure::EXIT_OK;
use crate::units::{human_bytes, thousands};

/// Flags of `bench devices`.
#[derive(Clone, Debug, Args)]
pub struct DevicesArgs {
    /// Numbers of devices, each measured on a node of its own
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1000,10000,100000,1000000")]
    pub devices: Vec<u64>,
    /// Rows of each device, sent as gateways send them: a row of every device, then the next
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub rows_per_device: u64,
    /// Fields of a row
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub fields: u64,
    /// Devices of a batch, one row of each
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub batch_devices: u64,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub connections: u64,
    /// Settings of the nodes, as for `serve --set`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Folder for the nodes' data, which is then kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the measurement and prints it.
///
/// # Errors
/// When a node cannot be started or reached, or a device is missing from an answer.
pub async fn run(args: DevicesArgs) -> Result<u8> {
    let folder = match &args.data_dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("make folder: {}", dir.display()))?;
            dir.clone()
        }
        None => temporary_folder("bench")?,
    };
    let mut results = Vec::new();
    for &devices in &args.devices {
        let place = folder.join(devices.to_string());
        std::fs::create_dir_all(&place).with_context(|| format!("make folder: {}", place.display()))?;
        let result = measure(&args, devices, &place).await?;
        if !args.json {
            print(&result);
        }
        results.push(result);
        if args.data_dir.is_none() {
            let _ = std::fs::remove_dir_all(&place);
        }
    }
    if args.data_dir.is_none() {
        let _ = std::fs::remove_dir_all(&folder);
    }
    if args.json {
        println!("{}", json!({"rows_per_device": args.rows_per_device, "fields": args.fields, "results": results}));
    }
    Ok(EXIT_OK)
}

async fn measure(args: &DevicesArgs, devices: u64, place: &Path) -> Result<Value> {
    let options = NodeOptions {
        data_dir: place.join("data"),
        log: place.join("node.log"),
        addresses: None,
        settings: args.set.clone(),
    };
    let mut node = NodeProcess::start(&options)?;
    let anonymous = |node: &NodeProcess| memory_of(node.pid()).map_or(0, |(anonymous, _)| anonymous);
    let empty = anonymous(&node);
    let seconds = send(args, devices, &node).await?;
    let query = node.target("dev").query_client().await?;
    let full = anonymous(&node);
    let latest_in_memory = latest(&query, devices).await?;
    let flush = timed(query.action("flush", Vec::new())).await.context("action flush")?;
    let flushed = stored(&query).await?.segment_bytes;
    let latest_flushed = latest(&query, devices).await?;
    let list = Instant::now();
    let listed = query.action("devices", Vec::new()).await.context("action devices")?.len() as u64;
    let list = list.elapsed().as_secs_f64();
    anyhow::ensure!(listed == devices, "action devices: expected {devices}, found {listed}");
    let compact = timed(query.action("compact", Vec::new())).await.context("action compact")?;
    let compacted = stored(&query).await?.segment_bytes;
    drop(query);
    node.stop()?;
    drop(node);
    let mut node = NodeProcess::start(&options)?;
    let open = node.start_time.as_secs_f64();
    let idle = anonymous(&node);
    let query = node.target("dev").query_client().await?;
    let latest_cold = latest(&query, devices).await?;
    let latest_warm = latest(&query, devices).await?;
    drop(query);
    node.stop()?;
    let rows = devices * args.rows_per_device;
    let each = |bytes: u64, of: u64| round(bytes as f64 / of as f64, 1);
    let ms = |seconds: f64| round(seconds * 1e3, 1);
    Ok(json!({
        "devices": devices,
        "rows_per_second": round(rows as f64 / seconds, 0),
        "node_bytes": { "empty": empty, "rows_in_memory": full, "idle_after_restart": idle },
        "bytes_per_device": {
            "active": each(full.saturating_sub(empty), devices),
            "idle": each(idle.saturating_sub(empty), devices),
        },
        "stored_bytes_per_row": { "flushed": each(flushed, rows), "compacted": each(compacted, rows) },
        "ms": {
            "flush": ms(flush), "compact": ms(compact), "open": ms(open), "devices": ms(list),
            "latest_in_memory": ms(latest_in_memory), "latest_flushed": ms(latest_flushed),
            "latest_compacted_first": ms(latest_cold), "latest_compacted": ms(latest_warm),
        },
    }))
}

async fn timed<T, E>(call: impl Future<Output = Result<T, E>>) -> Result<f64, E> {
    let start = Instant::now();
    call.await?;
    Ok(start.elapsed().as_secs_f64())
}

/// Sends all rows; gives the seconds until the last was acknowledged.
async fn send(args: &DevicesArgs, devices: u64, node: &NodeProcess) -> Result<f64> {
    let target = node.target("dev");
    let certificates = material(&target)?;
    let fleet = std::sync::Arc::new(Fleet::new(1, args.fields as usize));
    let mut clients = Vec::new();
    for _ in 0..args.connections {
        clients.push(Client::connect(client_config(&target)?, &certificates).await?);
    }
    let shards = clients[0].welcome().shard_count.max(1);
    let start = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for (connection, client) in (0..args.connections).zip(clients) {
        let mut of_shard: Vec<Vec<Device>> = vec![Vec::new(); shards as usize];
        for number in (connection..devices).step_by(args.connections as usize) {
            let device = Device::new(number);
            of_shard[shard_of(&device.id, shards) as usize].push(device);
        }
        let (fleet, size, rounds) = (fleet.clone(), args.batch_devices as usize, args.rows_per_device);
        senders.spawn(async move {
            for row in 0..rounds {
                for group in of_shard.iter().flat_map(|devices| devices.chunks(size)) {
                    drop(client.send(fleet.batch(group, row, 1)).await.context("send")?);
                }
            }
            client.flush().await.context("flush")?;
            client.close(std::time::Duration::from_secs(1)).await;
            anyhow::Ok(())
        });
    }
    while let Some(sent) = senders.join_next().await {
        sent.context("a sender")??;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Asks for the newest values of all devices; gives the seconds.
async fn latest(query: &QueryClient, devices: u64) -> Result<f64> {
    let request = json!({"latest": {"table": TABLE, "fields": ["velocity", "fuel_state"]}});
    let start = Instant::now();
    let mut answer = query.query(&request.to_string()).await.context("latest")?;
    let mut rows = 0;
    while let Some(batch) = answer.next().await.context("latest")? {
        rows += batch.num_rows() as u64;
    }
    anyhow::ensure!(rows == devices, "latest: expected {devices} devices, found {rows}");
    Ok(start.elapsed().as_secs_f64())
}

fn print(result: &Value) {
    let number = |path: &str| result.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let size = |path: &str| human_bytes(number(path) as u64);
    println!(
        "{} devices: {} rows/s; node {} empty, {} with rows in memory ({:.0} B a device), {} idle ({:.0} B a device)",
        thousands(number("/devices") as u64),
        thousands(number("/rows_per_second") as u64),
        size("/node_bytes/empty"),
        size("/node_bytes/rows_in_memory"),
        number("/bytes_per_device/active"),
        size("/node_bytes/idle_after_restart"),
        number("/bytes_per_device/idle"),
    );
    println!(
        "    flush {:.0} ms  compact {:.0} ms  open {:.0} ms  list {:.0} ms  stored a row {:.1} B flushed, {:.1} B compacted",
        number("/ms/flush"),
        number("/ms/compact"),
        number("/ms/open"),
        number("/ms/devices"),
        number("/stored_bytes_per_row/flushed"),
        number("/stored_bytes_per_row/compacted"),
    );
    println!(
        "    latest of all: in memory {:.1} ms  flushed {:.1} ms  compacted {:.1} ms (first {:.1} ms)",
        number("/ms/latest_in_memory"),
        number("/ms/latest_flushed"),
        number("/ms/latest_compacted"),
        number("/ms/latest_compacted_first"),
    );
}
