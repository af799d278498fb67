//! Owns the smallest program that sends rows: one device, ten samples, done when the node has them on disk.
//!
//! ```sh
//! tidewell serve --data-dir ./data &
//! cargo run --example send_samples -- 127.0.0.1:4433 ./data/tls dev
//! tidewell query range --table readings
//! ```
//!
//! For a steady stream see `RowBatcher`, which makes batches by size and age; [`Client`] connects and sends again by itself.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use tidewell_ingest::client::{Client, ClientConfig, RowBuilder, Value};
use tidewell_ingest::tls::{TlsFiles, TlsMaterial};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let addr: SocketAddr =
        args.next().unwrap_or("127.0.0.1:4433".into()).parse().context("ADDR, such as 127.0.0.1:4433")?;
    let tls_dir = args.next().unwrap_or("./data/tls".into());
    let certificate = args.next().unwrap_or("dev".into());

    // `certificate` names the files: ca.pem, dev.pem, dev-key.pem. What it may write stands in the certificate.
    let material = TlsMaterial::load(&TlsFiles::in_dir(Path::new(&tls_dir), &certificate))?;
    let mut config = ClientConfig::new(addr);
    config.server_name = addr.ip().to_string();
    let client = Client::connect(config, &material).await?;

    let mut rows = RowBuilder::new();
    let now_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as i64;
    for second in 0..10 {
        let time_ns = now_ns - (10 - second) * 1_000_000_000;
        let velocity = Value::F64(50.0 + second as f64);
        rows.push("readings", "truck_1", time_ns, &[("velocity", velocity), ("gear", Value::I64(3))])?;
    }
    for batch in rows.take() {
        // `send` waits for room, `wait` for the acknowledgement: from then on the rows survive a power cut.
        client.send(batch).await?.wait().await?;
    }
    println!("10 rows of truck_1 are durable");
    client.close(Duration::from_secs(5)).await;
    Ok(())
}
