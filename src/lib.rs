//! The Tidewell node and its command line: wiring of the engine, the ingest address and the query address.
//!
//! - [`cli`]: commands and help; [`config`]: settings of a node; [`units`]: sizes and durations in words
//! - [`serve`]: start order, stop order; [`admin`]: metrics and health over HTTP; [`telemetry`]: logs
//! - [`load`], [`query`], [`cert`], [`inspect`]: the commands for data, questions, certificates, damage
//! - [`erase`], [`quarantine`]: what an operator does about rows of a running node, by [`act`]ions
//! - [`backup`]: copies of all data to folders and buckets, and back
//! - [`demo`], [`mod@bench`]: the whole loop to look at, and to measure
//! - [`connect`], [`last_node`], [`output`], [`failure`]: which node, printed how, ended how

#![forbid(unsafe_code)]

pub mod act;
pub mod admin;
pub mod backup;
pub mod bench;
pub mod callers;
pub mod cert;
pub mod child;
pub mod cli;
pub mod config;
pub mod connect;
pub mod demo;
pub mod descriptors;
pub mod erase;
pub mod failure;
pub mod inspect;
pub mod last_node;
pub mod load;
pub mod memory;
pub mod output;
pub mod quarantine;
pub mod query;
pub mod repair;
pub mod serve;
pub mod telemetry;
pub mod units;

use anyhow::Result;
use cli::{Cli, Command};

/// Runs what the command line asks for, and says how the process ends.
///
/// # Errors
/// One chain that [`failure::one_line`] prints.
pub fn run(cli: Cli) -> Result<u8> {
    if let Command::Serve(args) = cli.command {
        return serve::run(args, &cli.global);
    }
    telemetry::start(cli.global.log_format.unwrap_or_default(), cli.global.log_filter.as_deref().unwrap_or("warn"))?;
    match cli.command {
        Command::Serve(_) => unreachable!("it returned above"),
        Command::Cert(command) => cert::run(command),
        Command::Inspect(command) => inspect::run(command),
        Command::Verify(args) => inspect::verify(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Watch(_) => Err(failure::usage(
            "watch: standing rules are not in this release; `tidewell query threshold` answers the same question over stored rows",
        )),
        Command::Demo(args) => runtime()?.block_on(demo::run(args)),
        Command::Backup(args) => runtime()?.block_on(backup::run(args)),
        Command::Restore(args) => runtime()?.block_on(backup::run_restore(args)),
        Command::Load(args) => runtime()?.block_on(load::run(*args)),
        Command::Delete(args) => runtime()?.block_on(erase::delete(args)),
        Command::Retention(command) => runtime()?.block_on(erase::retention(command)),
        Command::Table(command) => runtime()?.block_on(erase::table(command)),
        Command::Quarantine(command) => runtime()?.block_on(quarantine::run(command)),
        Command::Query(command) => runtime()?.block_on(query::run(*command)),
        Command::Bench(command) => runtime()?.block_on(bench::run(command)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    use anyhow::Context;

    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}
