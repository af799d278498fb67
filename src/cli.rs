//! Owns the command line: commands, shared flags, help; each command's own flags live beside the command.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::telemetry::LogFormat;

const EXAMPLES: &str = "\
Five minutes:
  tidewell demo                                   see the whole loop run by itself
  tidewell serve --data-dir ./data                a node on this machine, with certificates of its own
  tidewell load trips.csv --table trips --device-column bike --time-column at
  tidewell query latest --table trips
  tidewell query downsample --table trips --every 1h --aggregates mean,max --fields speed

Exit codes: 0 done, 1 failed (or damage found, rows refused, a check that did not hold), 2 wrong flags or configuration.
Every flag that has [env: TIDEWELL_...] can be set there; flags override the environment, which overrides the file.";

/// A time-series node for telemetry of machines: QUIC in, column store, Arrow Flight out.
#[derive(Debug, Parser)]
#[command(name = "tidewell", version, about, after_help = EXAMPLES, max_term_width = 110, propagate_version = true)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// How log lines on standard error look [default: text]
    #[arg(long, global = true, env = "TIDEWELL_LOG_FORMAT", value_enum, help_heading = "Logging")]
    pub log_format: Option<LogFormat>,
    /// What is logged: a level, or a list such as `warn,tidewell_engine=debug` [default: info for serve, else warn]
    #[arg(long = "log", global = true, env = "TIDEWELL_LOG", value_name = "FILTER", help_heading = "Logging")]
    pub log_filter: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole loop: a node, simulated trucks over QUIC, queries, a crash and a restart
    Demo(crate::demo::DemoArgs),
    /// Run a node
    Serve(crate::config::ServeArgs),
    /// Make a development authority and certificates for devices, gateways and readers
    #[command(subcommand)]
    Cert(crate::cert::CertCommand),
    /// Send files to a node over QUIC: CSV or InfluxDB line protocol, plain, gzip or zstd
    Load(Box<crate::load::LoadArgs>),
    /// Ask a node: rows, latest values, downsampled windows, threshold intervals
    #[command(subcommand)]
    Query(Box<crate::query::QueryCommand>),
    /// Take rows of a device away
    Delete(crate::erase::DeleteArgs),
    /// For how long tables keep their rows and summaries
    #[command(subcommand)]
    Retention(crate::erase::RetentionCommand),
    /// Tables: list, drop, rename
    #[command(subcommand)]
    Table(crate::erase::TableCommand),
    /// Rows too far in the future: list, release, drop
    #[command(subcommand)]
    Quarantine(crate::quarantine::QuarantineCommand),
    /// Follow standing rules (not in this release)
    Watch(WatchArgs),
    /// Dump a log, a segment or a manifest of a stopped node
    #[command(subcommand)]
    Inspect(crate::inspect::InspectCommand),
    /// Check every checksum and invariant of a stopped node's data directory; exit 1 on damage
    Verify(crate::inspect::VerifyArgs),
    /// Make a stopped node's damaged data directory serve again; names what is lost, deletes nothing
    Repair(crate::repair::RepairArgs),
    /// Back up a running node to a folder or a bucket; list and prune backups
    Backup(crate::backup::BackupArgs),
    /// Make a data directory out of a backup, every checksum checked
    Restore(crate::backup::RestoreArgs),
    /// Measure a node: send or ask at full speed, then read back what was acknowledged
    #[command(subcommand)]
    Bench(crate::bench::BenchCommand),
}

/// Which node to talk to.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeArgs {
    /// Address of the node: ingest for load and bench, query for query. Default: the last development node of this user
    #[arg(long, env = "TIDEWELL_NODE", value_name = "ADDR", help_heading = "Node")]
    pub node: Option<String>,
    /// Folder with `ca.pem`, and `dev.pem` + `dev-key.pem` (or the certificate named by --cert). Default: the last development node's
    #[arg(long, env = "TIDEWELL_TLS_DIR", value_name = "DIR", help_heading = "Node")]
    pub tls_dir: Option<PathBuf>,
    /// Name of the certificate in --tls-dir to show: NAME.pem and NAME-key.pem
    #[arg(long, env = "TIDEWELL_CERT", value_name = "NAME", default_value = "dev", help_heading = "Node")]
    pub cert: String,
}

/// `watch`: announced, not in this release.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Names of rules
    #[arg(value_name = "RULE")]
    pub rules: Vec<String>,
    /// Which node
    #[command(flatten)]
    pub node: NodeArgs,
}

/// A socket address out of `HOST:PORT`, resolved when HOST is a name.
///
/// # Errors
/// When the text has no port or the name is unknown.
pub fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    use std::net::ToSocketAddrs;

    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let mut found = address.to_socket_addrs().map_err(|e| {
        crate::failure::usage(format!(
            "resolve node address: {address}: expected HOST:PORT such as 127.0.0.1:4433 ({e})"
        ))
    })?;
    // IPv4 first: a node that listens on 127.0.0.1 should answer to `localhost`.
    let all: Vec<SocketAddr> = found.by_ref().collect();
    all.iter()
        .find(|a| a.is_ipv4())
        .or(all.first())
        .copied()
        .ok_or_else(|| crate::failure::usage(format!("resolve node address: {address}: the name has no address")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_has_help() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some() || sub.get_name() == "help", "{path} has no help");
                for arg in sub.get_arguments() {
                    assert!(
                        arg.get_help().is_some() || arg.get_long_help().is_some(),
                        "{path} --{} has no help",
                        arg.get_id()
                    );
                }
                check(sub, &path);
            }
        }
        check(&Cli::command(), "tidewell");
    }

    #[test]
    fn names_and_numbers_resolve() {
        assert_eq!(resolve("127.0.0.1:4433").unwrap().port(), 4433);
        assert_eq!(resolve("localhost:1").unwrap().port(), 1);
        assert!(resolve("127.0.0.1").is_err());
    }
}
