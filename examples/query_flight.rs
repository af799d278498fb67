//! Owns the smallest program that asks a question over Arrow Flight and reads the columns of the answer.
//!
//! ```sh
//! cargo run --example send_samples
//! cargo run --example query_flight -- 127.0.0.1:4434 ./data/tls dev
//! ```
//!
//! The questions are those of docs/query.md. Any other Flight client asks them the same way: a ticket of JSON.

use std::path::Path;

use anyhow::Result;
use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, TimestampNanosecondType};
use tidewell_query::flight::{ClientOptions, QueryClient};

const QUESTION: &str = r#"{"latest": {"table": "readings", "devices": {"glob": "truck_*"}, "fields": ["velocity"]}}"#;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or("127.0.0.1:4434".into());
    let tls_dir = args.next().unwrap_or("./data/tls".into());
    let certificate = args.next().unwrap_or("dev".into());

    let node = QueryClient::connect(ClientOptions::from_tls_dir(&addr, Path::new(&tls_dir), &certificate)?).await?;
    // Batches come while the node still computes; dropping the answer stops the query.
    let mut answer = node.query(QUESTION).await?;
    while let Some(batch) = answer.next().await? {
        let devices = batch["device"].as_string::<i32>();
        let times = batch["time"].as_primitive::<TimestampNanosecondType>();
        let velocities = batch["velocity"].as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            println!("{} at {} ns: velocity {}", devices.value(row), times.value(row), velocities.value(row));
        }
    }
    Ok(())
}
