//! Owns the node's settings: file, then environment, then flags, checked into one `Config`; does not apply them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use tidewell_engine::limits::MEMORY_LIMIT_MIN;

use crate::cert::Grants;
use crate::failure::usage;
use crate::telemetry::LogFormat;
use crate::units::{Size, Span};

/// The prefix of environment variables that are settings.
const ENV_PREFIX: &str = "TIDEWELL_";

/// Flags of `serve`.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// Folder of the node's data; made when missing
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Settings as TOML [env: TIDEWELL_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where devices connect with QUIC (UDP); port 0 takes a free one [default: 127.0.0.1:4433]
    #[arg(long, value_name = "ADDR")]
    pub ingest_addr: Option<String>,
    /// Where queries are asked over Arrow Flight (gRPC, TCP) [default: 127.0.0.1:4434]
    #[arg(long, value_name = "ADDR")]
    pub query_addr: Option<String>,
    /// Where /metrics, /healthz and /readyz answer (HTTP, TCP) [default: 127.0.0.1:4435]
    #[arg(long, value_name = "ADDR")]
    pub admin_addr: Option<String>,
    /// Folder with ca.pem, node.pem, node-key.pem; without it a development authority is made in DATA_DIR/tls
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Memory that the node may hold, e.g. 2GiB [default: half of the machine's or control group's]
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<String>,
    /// Sets any key of the configuration file, e.g. `--set engine.memtable=64MiB`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Prints the settings that result from file, environment and flags as TOML, and stops
    #[arg(long)]
    pub print_config: bool,
    /// Does not write down this node as the user's last development node (for nodes that tools start)
    #[arg(long, hide = true)]
    pub forget: bool,
    /// Stops when standard input ends (for nodes that tools start)
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

/// Every setting of a node, checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of the data. Required, from any of the three places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Where devices connect.
    pub ingest_addr: SocketAddr,
    /// Where queries are asked.
    pub query_addr: SocketAddr,
    /// Where metrics and health are read.
    pub admin_addr: SocketAddr,
    /// Memory that the node may hold in all; 0 = half of the machine's, or of its control group's. From 128MiB.
    pub memory_limit: Size,
    /// Certificates.
    pub tls: TlsConfig,
    /// Storage.
    pub engine: EngineSettings,
    /// Limits of the ingest address.
    pub ingest: IngestSettings,
    /// Limits of the query address.
    pub query: QuerySettings,
    /// Where backups may go.
    pub backup: BackupSettings,
    /// Log output.
    pub log: LogSettings,
    /// Who may write and read which devices, beside `grants.toml` in the folder of certificates. Read again on SIGHUP.
    #[serde(skip_serializing_if = "no_grants")]
    pub grants: Grants,
}

fn no_grants(grants: &Grants) -> bool {
    *grants == Grants::default()
}

/// `[tls]`: certificates and who may do what. Read again on SIGHUP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Folder with `ca.pem`, `node.pem`, `node-key.pem` (and `grants.toml`, `crl.pem` when there are any).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
}

/// `[engine]`: storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSettings {
    /// Shards (threads that write); 0 = one for two cores. Fixed when the data directory is made. 0 to 256.
    pub shards: Number,
    /// Memory of all memtables of one shard, sealed ones that wait for the disk included; 0 = the shard's part of
    /// `memory_limit`, which is never exceeded. At least 1MiB.
    pub memtable: Size,
    /// A memtable older than this is sealed even when it is not full. At least 1s.
    pub seal_age: Span,
    /// Size of one log file. At least 1MiB.
    pub log_file: Size,
    /// Rows further in the future than this are set aside.
    pub max_future: Span,
    /// Batches that may wait for one shard. 1 to 65536.
    pub queue_batches: Number,
    /// Memory for decoded blocks that queries have read; 0 = its part of `memory_limit`, which is never exceeded. At
    /// least 1MiB.
    pub block_cache: Size,
    /// Whether segments are merged in the background.
    pub compaction: Switch,
    /// Bytes that background merges may write in a second; 0 = as many as the disk takes. A shard that has fallen behind is not
    /// held up.
    pub compaction_rate: Size,
    /// Flushed segments that a shard may have before it takes batches more slowly. 16 to 4096.
    pub flushed_segments_max: Number,
}

/// `[ingest]`: limits of the ingest address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestSettings {
    /// Connections at once.
    pub connections_max: Number,
    /// Bytes of batches that wait to become durable, over all connections; 0 = their part of `memory_limit`, which is never
    /// exceeded.
    pub in_flight: Size,
}

/// `[query]`: limits of the query address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuerySettings {
    /// A query that takes longer is stopped.
    pub timeout: Span,
    /// Queries at once; more wait.
    pub concurrent_max: Number,
}

/// `[backup]`: where backups may go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupSettings {
    /// Folders (absolute) and `s3://BUCKET/PREFIX`; a backup goes to one of them or below, to the first when none is asked
    /// for. As text, separated by commas. None: no backups.
    #[serde(deserialize_with = "words")]
    pub destinations: Vec<String>,
}

/// A list of texts, also when it comes as one text from the environment.
fn words<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        Text(String),
    }
    match Either::deserialize(deserializer) {
        Ok(Either::List(list)) => Ok(list),
        Ok(Either::Text(text)) => {
            Ok(text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect())
        }
        Err(_) => Err(serde::de::Error::custom("expected a list of texts")),
    }
}

/// `[log]`: log output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// Text or JSON.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
}

/// A whole number, also when it comes as text from the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Number(pub u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Whole(u64),
            Text(String),
        }
        match Either::deserialize(deserializer) {
            Ok(Either::Whole(number)) => Ok(Number(number)),
            Ok(Either::Text(text)) => text
                .replace('_', "")
                .parse()
                .map(Number)
                .map_err(|_| serde::de::Error::custom(format!("expected a whole number, found `{text}`"))),
            Err(_) => Err(serde::de::Error::custom("expected a whole number of 0 or more")),
        }
    }
}

/// True or false, also when it comes as text from the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Switch(pub bool);

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Bool(bool),
            Text(String),
        }
        match Either::deserialize(deserializer) {
            Ok(Either::Bool(value)) => Ok(Switch(value)),
            Ok(Either::Text(text)) if text == "true" || text == "on" => Ok(Switch(true)),
            Ok(Either::Text(text)) if text == "false" || text == "off" => Ok(Switch(false)),
            _ => Err(serde::de::Error::custom("expected true or false")),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: None,
            ingest_addr: SocketAddr::from(([127, 0, 0, 1], 4433)),
            query_addr: SocketAddr::from(([127, 0, 0, 1], 4434)),
            admin_addr: SocketAddr::from(([127, 0, 0, 1], 4435)),
            memory_limit: Size(0),
            tls: TlsConfig::default(),
            engine: EngineSettings::default(),
            ingest: IngestSettings::default(),
            query: QuerySettings::default(),
            backup: BackupSettings::default(),
            log: LogSettings::default(),
            grants: Grants::default(),
        }
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            shards: Number(0),
            memtable: Size(0),
            seal_age: Span(std::time::Duration::from_secs(300)),
            log_file: Size(64 << 20),
            max_future: Span(std::time::Duration::from_secs(600)),
            queue_batches: Number(4096),
            block_cache: Size(0),
            compaction: Switch(true),
            compaction_rate: Size(0),
            flushed_segments_max: Number(64),
        }
    }
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self { connections_max: Number(100_000), in_flight: Size(0) }
    }
}

impl Default for QuerySettings {
    fn default() -> Self {
        Self { timeout: Span(std::time::Duration::from_secs(300)), concurrent_max: Number(64) }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

/// Where one value came from, for messages.
type Origin = String;

/// The settings that `args` and `environment` (name, value) give, and the file that one of them names.
///
/// # Errors
/// One line that names the file and line, variable or flag, the key, and what was expected.
pub fn load(
    args: &ServeArgs,
    log_flags: &crate::cli::GlobalArgs,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config> {
    let environment: BTreeMap<String, String> = environment.into_iter().collect();
    let path = args.config.clone().or_else(|| environment.get("TIDEWELL_CONFIG").map(PathBuf::from));
    let mut table = match &path {
        Some(path) => read_file(path)?,
        None => toml::Table::new(),
    };
    for (key, value, origin) in from_environment(&environment)? {
        insert(&mut table, &key, value, &origin)?;
    }
    for (key, value, origin) in from_flags(args, log_flags)? {
        insert(&mut table, &key, value, &origin)?;
    }
    checked(table)
}

fn read_file(path: &Path) -> Result<toml::Table> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| usage(format!("read configuration: {shown}: {e}; give the path of a TOML file with --config")))?;
    parse(&shown.to_string(), &text)
}

fn parse(shown: &str, text: &str) -> Result<toml::Table> {
    let at = |e: &toml::de::Error| {
        let line = e.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        usage(format!(
            "read configuration: {shown}:{line}: {}; `tidewell serve --print-config` shows all keys",
            e.message()
        ))
    };
    // The typed reading comes first: it knows keys, types and the line of what is wrong.
    toml::from_str::<Config>(text).map_err(|e| at(&e))?;
    text.parse::<toml::Table>().map_err(|e| at(&e))
}

/// The settings in the text of a file called `shown`, without environment and flags.
///
/// # Errors
/// As [`load`].
pub fn read_text(shown: &str, text: &str) -> Result<Config> {
    checked(parse(shown, text)?)
}

fn checked(table: toml::Table) -> Result<Config> {
    let config: Config =
        table.try_into().map_err(|e: toml::de::Error| usage(format!("configuration: {}", e.message())))?;
    config.check()?;
    Ok(config)
}

/// All keys in dotted form, taken from the defaults so that none can be forgotten.
fn all_keys() -> Vec<String> {
    fn walk(prefix: &str, table: &toml::Table, keys: &mut Vec<String>) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) => walk(&path, inner, keys),
                _ => keys.push(path),
            }
        }
    }
    let filled =
        Config { data_dir: Some(PathBuf::new()), tls: TlsConfig { dir: Some(PathBuf::new()) }, ..Config::default() };
    let table = toml::Table::try_from(&filled).expect("the defaults are plain tables");
    let mut keys = Vec::new();
    walk("", &table, &mut keys);
    keys
}

fn variable_of(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

fn from_environment(environment: &BTreeMap<String, String>) -> Result<Vec<(String, String, Origin)>> {
    let mut values = Vec::new();
    for key in all_keys() {
        let variable = variable_of(&key);
        if let Some(value) = environment.get(&variable) {
            values.push((key, value.clone(), format!("environment variable {variable}")));
        }
    }
    // The short name of the most used filter, shared with the other commands.
    if let Some(value) = environment.get("TIDEWELL_LOG") {
        values.push(("log.filter".into(), value.clone(), "environment variable TIDEWELL_LOG".into()));
    }
    Ok(values)
}

fn from_flags(args: &ServeArgs, log: &crate::cli::GlobalArgs) -> Result<Vec<(String, String, Origin)>> {
    let mut values = Vec::new();
    for pair in &args.set {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| usage(format!("flag --set: `{pair}`: expected KEY=VALUE")))?;
        values.push((key.trim().to_owned(), value.trim().to_owned(), format!("flag --set {key}")));
    }
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
    let format = log.log_format.map(|f| match f {
        LogFormat::Text => "text".to_owned(),
        LogFormat::Json => "json".to_owned(),
    });
    for (key, flag, value) in [
        ("data_dir", "--data-dir", path(&args.data_dir)),
        ("ingest_addr", "--ingest-addr", args.ingest_addr.clone()),
        ("query_addr", "--query-addr", args.query_addr.clone()),
        ("admin_addr", "--admin-addr", args.admin_addr.clone()),
        ("memory_limit", "--memory-limit", args.memory_limit.clone()),
        ("tls.dir", "--tls-dir", path(&args.tls_dir)),
        ("log.format", "--log-format", format),
        ("log.filter", "--log", log.log_filter.clone()),
    ] {
        if let Some(value) = value {
            values.push((key.to_owned(), value, format!("flag {flag}")));
        }
    }
    Ok(values)
}

/// Puts one value into the table, after checking it alone so that a message can name its origin.
fn insert(table: &mut toml::Table, key: &str, value: String, origin: &str) -> Result<()> {
    let steps: Vec<&str> = key.split('.').collect();
    let place = |table: &mut toml::Table| {
        let mut here = table;
        for step in &steps[..steps.len() - 1] {
            let entry = here.entry((*step).to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            here = entry.as_table_mut().with_context(|| format!("{origin}: `{step}` is not a section"))?;
        }
        here.insert(steps[steps.len() - 1].to_owned(), toml::Value::String(value.clone()));
        Ok::<(), anyhow::Error>(())
    };
    let mut alone = toml::Table::new();
    place(&mut alone)?;
    if let Err(error) = alone.try_into::<Config>() {
        return Err(usage(format!("{origin}: `{value}`: {}", error.message().replace('\n', " "))));
    }
    place(table)
}

impl Config {
    fn check(&self) -> Result<()> {
        let bad = |key: &str, found: String, expected: &str| {
            Err(usage(format!("configuration: {key}: expected {expected}, found {found}")))
        };
        let engine = &self.engine;
        if engine.shards.0 > 256 {
            return bad("engine.shards", engine.shards.0.to_string(), "0 (one for two cores) to 256");
        }
        if self.memory_limit != Size(0) && self.memory_limit < Size(MEMORY_LIMIT_MIN) {
            let least = format!("{} or more, or 0 (half of the machine's memory)", Size(MEMORY_LIMIT_MIN));
            return bad("memory_limit", self.memory_limit.to_string(), &least);
        }
        let sizes = [
            ("engine.memtable", engine.memtable),
            ("engine.block_cache", engine.block_cache),
            ("engine.log_file", engine.log_file),
        ];
        for (key, size) in sizes {
            let derived = key != "engine.log_file" && size == Size(0);
            if !derived && (size < Size(1 << 20) || size > Size(64 << 30)) {
                return bad(key, size.to_string(), "1MiB to 64GiB");
            }
        }
        if engine.seal_age.0 < std::time::Duration::from_secs(1) {
            return bad("engine.seal_age", engine.seal_age.to_string(), "1s or more");
        }
        if !(16..=4_096).contains(&engine.flushed_segments_max.0) {
            return bad("engine.flushed_segments_max", engine.flushed_segments_max.0.to_string(), "16 to 4096");
        }
        if engine.queue_batches.0 == 0 || engine.queue_batches.0 > 65_536 {
            return bad("engine.queue_batches", engine.queue_batches.0.to_string(), "1 to 65536");
        }
        if self.ingest.connections_max.0 == 0 || self.ingest.connections_max.0 > 1 << 20 {
            return bad("ingest.connections_max", self.ingest.connections_max.0.to_string(), "1 to 1048576");
        }
        if self.ingest.in_flight != Size(0) && self.ingest.in_flight < Size(16 << 20) {
            return bad(
                "ingest.in_flight",
                self.ingest.in_flight.to_string(),
                "16MiB (one batch of the largest size) or more, or 0 (its part of memory_limit)",
            );
        }
        for destination in &self.backup.destinations {
            crate::backup::check_name(destination)
                .map_err(|error| usage(format!("configuration: backup.destinations: {error}")))?;
        }
        if self.query.concurrent_max.0 == 0 {
            return bad("query.concurrent_max", "0".into(), "1 or more");
        }
        Ok(())
    }

    /// The folder of the data.
    ///
    /// # Errors
    /// When no place named one.
    pub fn data_dir(&self) -> Result<&Path> {
        self.data_dir.as_deref().ok_or_else(|| {
            usage("serve: no data directory; add --data-dir DIR, TIDEWELL_DATA_DIR or `data_dir` in the configuration file")
        })
    }

    /// Memory that the node may hold: what was set, or half of what there is.
    pub fn memory_bytes(&self) -> u64 {
        match self.memory_limit {
            Size(0) => (crate::memory::available() / 2).max(MEMORY_LIMIT_MIN),
            Size(bytes) => bytes,
        }
    }

    /// The settings as TOML that `--config` accepts.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are plain tables")
    }
}

/// Settings variables (`TIDEWELL_…`) that no key answers to: a typing error, most likely.
pub fn unknown_variables(environment: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut known: Vec<String> = all_keys().iter().map(|key| variable_of(key)).collect();
    // Read by the other commands, or before the settings.
    known.extend(["CONFIG", "LOG", "LOG_FORMAT", "NODE", "TLS_DIR", "CERT"].map(|name| format!("{ENV_PREFIX}{name}")));
    environment.into_iter().filter(|name| name.starts_with(ENV_PREFIX) && !known.contains(name)).collect()
}

#[cfg(test)]
mod tests;
