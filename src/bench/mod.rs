//! stub
use anyhow::Result;
/// stub
#[derive(Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// stub
    Ingest,
}
/// stub
pub async fn run(_args: BenchCommand) -> Result<u8> {
    Ok(0)
}
