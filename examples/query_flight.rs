//! Owns the smallest program that asks a question over Arrow Flight and prints the answer.
//!
//! ```sh
//! cargo run --example query_flight -- 127.0.0.1:4434 ./data/tls '{"latest": {"table": "readings"}}'
//! ```
//!
//! The questions are those of docs/query.md. Any other Flight client asks them the same way: a ticket of JSON.

use std::path::Path;

use anyhow::Result;
use arrow::util::pretty::pretty_format_batches;
use tidewell_query::flight::{ClientOptions, QueryClient};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or("127.0.0.1:4434".into());
    let tls_dir = args.next().unwrap_or("./data/tls".into());
    let question = args.next().unwrap_or(r#"{"latest": {"table": "readings"}}"#.into());

    let node = QueryClient::connect(ClientOptions::from_tls_dir(&addr, Path::new(&tls_dir), "dev")?).await?;
    // Batches come while the node still computes; dropping the answer stops the query.
    let mut answer = node.query(&question).await?;
    while let Some(batch) = answer.next().await? {
        println!("{}", pretty_format_batches(&[batch])?);
    }
    Ok(())
}
