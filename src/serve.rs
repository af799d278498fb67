//! Owns the life of a node: start order, stop order, reload; the parts themselves are in the other crates.
//!
//! Start: settings, certificates, TCP addresses (so that a taken port is told at once), admin, engine with its
//! recovery, query, ingest, ready line. Stop: no new peers, ingest drains, queries drain, engine seals and syncs, admin, exit.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use parking_lot::RwLock;
use serde_json::json;
use tidewell_engine::clock::SystemClock;
use tidewell_engine::storage::Disk;
use tidewell_engine::{Engine, EngineConfig, Error as EngineError, RecoveryReport, ShardFigures};
use tidewell_ingest::authority::Authority;
use tidewell_ingest::grants::SharedGrants;
use tidewell_ingest::server::{self, Server, ServerConfig, StartError};
use tidewell_ingest::tls::{TlsFiles, TlsMaterial};
use tidewell_query::QueryLimits;
use tidewell_query::flight::{self, EngineStore, FlightLimits, FlightQueries};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Facts, Health, Sample, Value};
use crate::callers::Callers;
use crate::cert::{GRANTS_FILE, Grants};
use crate::cli::GlobalArgs;
use crate::config::{self, Config, ServeArgs};
use crate::failure::{EXIT_FAILED, EXIT_OK, usage};
use crate::last_node::{self, LastNode};
use crate::units::{human_bytes, thousands};

/// How long connections may take to leave when the node stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs a node until it is told to stop.
///
/// # Errors
/// One line that says what could not be started, and what to do.
pub fn run(args: ServeArgs, global: &GlobalArgs) -> Result<u8> {
    let config = config::load(&args, global, std::env::vars())?;
    if args.print_config {
        print!("{}", config.to_toml());
        return Ok(EXIT_OK);
    }
    crate::telemetry::start(config.log.format, &config.log.filter)?;
    for variable in config::unknown_variables(std::env::vars().map(|(name, _)| name)) {
        tracing::warn!(variable, "no setting has this name; see `tidewell serve --print-config`");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let code = runtime.block_on(node(args, global.clone(), config));
    // A query thread that hangs in a read must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn node(args: ServeArgs, global: GlobalArgs, config: Config) -> Result<u8> {
    let data_dir = prepare_data_dir(config.data_dir()?)?;
    let mut parent_gone = stdin_closes(args.until_stdin_closes);
    // Signals count from here on: one that comes during recovery still stops the node in order.
    let mut stop = StopSignals::new()?;
    let mut reload = signal(SignalKind::hangup()).context("listen to SIGHUP")?;
    let tls = Tls::prepare(&config, &data_dir)?;

    let query_listener = bind(config.query_addr, "query", "--query-addr").await?;
    let admin_listener = bind(config.admin_addr, "admin", "--admin-addr").await?;
    let (query_addr, admin_addr) = (query_listener.local_addr()?, admin_listener.local_addr()?);
    let state = Arc::new(State { started: Instant::now(), phase: AtomicU8::new(STARTING), parts: OnceLock::new() });
    let (admin_stop, admin_stopped) = watch::channel(false);
    let admin = tokio::spawn(admin::serve(admin_listener, state.clone(), admin_stopped));

    let engine = open_engine(&data_dir, &config).await?;
    let (query_stop, query_stopped) = tokio::sync::oneshot::channel::<()>();
    let ingest = start_ingest(&config, &tls, &engine)?;
    let ingest_addr = ingest.local_addr().context("ingest address")?;
    let callers = Arc::new(Callers::new(tls.grants.clone(), tls.material.revoked().context("revocation list")?));
    let service = FlightQueries::new(
        Arc::new(EngineStore::new(engine.clone(), QueryLimits::default())),
        callers.clone(),
        FlightLimits {
            queries: config.query.concurrent_max.0 as usize,
            compute: config.query.timeout.0,
            drain: DRAIN,
            ..FlightLimits::default()
        },
    );
    let query_tls = Arc::new(RwLock::new(query_config(&tls.material)?));
    let source = query_tls.clone();
    let query = tokio::spawn(flight::serve_flight(
        query_listener,
        Some(Arc::new(move || source.read().clone())),
        service,
        async move {
            let _ = query_stopped.await;
        },
    ));
    let parts = Parts {
        engine: engine.clone(),
        ingest: ingest.metrics().clone(),
        ingest_addr,
        query_addr,
        data_dir: data_dir.clone(),
    };
    state.parts.set(parts).ok().expect("only this function sets it");
    state.phase.store(READY, Ordering::Release);

    if tls.development && !args.forget {
        remember(ingest_addr, query_addr, admin_addr, &tls.dir, &data_dir);
    }
    tracing::info!(%ingest_addr, %query_addr, %admin_addr, data_dir = %data_dir.display(), shards = engine.shard_count(), "ready");
    let line = json!({
        "ready": true,
        "ingest_addr": ingest_addr.to_string(),
        "query_addr": query_addr.to_string(),
        "admin_addr": admin_addr.to_string(),
        "tls_dir": tls.dir.display().to_string(),
    });
    // Whoever started the node may have gone away; the node goes on.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());

    loop {
        tokio::select! {
            name = stop.next() => {
                tracing::info!(signal = name, "stopping: no new peers, draining");
                break;
            }
            _ = &mut parent_gone => {
                tracing::info!("stopping: standard input was closed");
                break;
            }
            _ = reload.recv() => reload_tls(&args, &global, &tls, &ingest, &callers, &query_tls),
        }
    }
    state.phase.store(STOPPING, Ordering::Release);
    let _ = query_stop.send(());
    tokio::select! {
        () = ingest.shutdown(DRAIN) => {}
        _ = stop.next() => tracing::warn!("second signal: connections are cut"),
    }
    match tokio::time::timeout(DRAIN + Duration::from_secs(3), query).await {
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the query address ended with an error"),
        Err(_) => tracing::warn!("queries did not end in time and are cut"),
        _ => {}
    }
    let closed = tokio::task::spawn_blocking(move || engine.close()).await.context("close the engine")?;
    admin_stop.send_replace(true);
    let _ = tokio::time::timeout(Duration::from_secs(1), admin).await;
    match closed {
        Ok(()) => {
            tracing::info!("stopped: everything is sealed and synced");
            Ok(EXIT_OK)
        }
        Err(error) => {
            tracing::error!(%error, "the last rows could not be sealed; they are in the log, and the next start replays them");
            Ok(EXIT_FAILED)
        }
    }
}

/// Resolves when standard input ends, if that is wanted: so a node goes with the program that started it.
fn stdin_closes(wanted: bool) -> tokio::sync::oneshot::Receiver<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    if wanted {
        // A thread of its own: a blocking read in the runtime's pool would hold up its end.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            drop(sender);
        });
    } else {
        // Never sent and never dropped: the receiver waits for ever.
        std::mem::forget(sender);
    }
    receiver
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen to SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen to SIGINT")?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Makes the folder and checks that files can be made in it, before anything else takes time.
fn prepare_data_dir(dir: &Path) -> Result<PathBuf> {
    let shown = dir.display();
    std::fs::create_dir_all(dir).map_err(|e| {
        anyhow!("make data directory: {shown}: {e}; choose a folder that this user may write with --data-dir")
    })?;
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)).map_err(|e| {
        anyhow!("write data directory: {shown}: {e}; choose a folder that this user may write with --data-dir")
    })?;
    std::path::absolute(dir).with_context(|| format!("data directory: {shown}"))
}

async fn bind(address: SocketAddr, what: &str, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow!("listen on the {what} address: {address}: {}", bind_advice(&error, flag)))
}

fn bind_advice(error: &std::io::Error, flag: &str) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "the port is in use, perhaps by another node; stop that one or choose another with {flag} (port 0 takes a free one)"
        ),
        std::io::ErrorKind::AddrNotAvailable => format!("this machine has no such address; choose another with {flag}"),
        std::io::ErrorKind::PermissionDenied => {
            format!("{error}; ports below 1024 need a privilege, choose another with {flag}")
        }
        _ => format!("{error}; choose another address with {flag}"),
    }
}

/// Certificates and grants.
struct Tls {
    dir: PathBuf,
    material: TlsMaterial,
    grants: SharedGrants,
    development: bool,
}

impl Tls {
    fn prepare(config: &Config, data_dir: &Path) -> Result<Self> {
        let development = config.tls.dir.is_none();
        let dir = config.tls.dir.clone().unwrap_or_else(|| data_dir.join("tls"));
        if development {
            // Devices may come through the addresses that were asked for, so the certificate names them too.
            let named: Vec<String> = [config.ingest_addr.ip(), config.query_addr.ip()]
                .into_iter()
                .filter(|ip| !ip.is_unspecified())
                .map(|ip| ip.to_string())
                .collect();
            let hosts: Vec<&str> = named.iter().map(String::as_str).collect();
            let made = Authority::ensure_development_set(&dir, &hosts).context("make development certificates")?;
            if !dir.join(GRANTS_FILE).exists() {
                Grants::development().write(&dir)?;
            }
            if made {
                tracing::warn!(dir = %dir.display(), "no TLS files were named: made a development authority; dev.pem may write every device and administer");
            } else {
                tracing::info!(dir = %dir.display(), "uses the development authority of the data directory");
            }
            let public = |ip: IpAddr| !ip.is_loopback();
            if public(config.ingest_addr.ip()) || public(config.query_addr.ip()) {
                tracing::warn!(
                    "a development authority serves an address that other machines can reach; make certificates with `tidewell cert init` and name them with --tls-dir"
                );
            }
        }
        let material = Self::material(&dir)?;
        let grants = Self::grants(&dir, config)?.compile()?.shared();
        Ok(Self { dir: std::path::absolute(&dir).unwrap_or(dir), material, grants, development })
    }

    fn material(dir: &Path) -> Result<TlsMaterial> {
        for file in ["ca.pem", "node.pem", "node-key.pem"] {
            if !dir.join(file).exists() {
                return Err(usage(format!(
                    "read certificates: {}: expected ca.pem, node.pem and node-key.pem, {file} is missing; make them with `tidewell cert init --tls-dir {0}`",
                    dir.display()
                )));
            }
        }
        let material = TlsMaterial::load(&TlsFiles::in_dir(dir, "node")).map_err(|e| {
            anyhow!(
                "read certificates: {e}; replace the file, or make new ones with `tidewell cert init --tls-dir DIR`"
            )
        })?;
        // Files that are whole but do not belong together show only now.
        material.server_config().map_err(|e| {
            anyhow!(
                "read certificates: {}: node.pem, node-key.pem and ca.pem do not go together: {e}; replace them, or make new ones with `tidewell cert init --tls-dir DIR`",
                dir.display()
            )
        })?;
        Ok(material)
    }

    fn grants(dir: &Path, config: &Config) -> Result<Grants> {
        Ok(Grants::read(dir)?.merge(&config.grants))
    }
}

fn query_config(material: &TlsMaterial) -> Result<Arc<rustls::ServerConfig>> {
    let config = flight::tls::server_config(material.certificate_pem(), material.key_pem(), Some(material.ca_pem()));
    Ok(Arc::new(config.context("certificates of the query address")?))
}

/// New certificates, revocations and grants; what cannot be read leaves the old ones in use.
fn reload_tls(
    args: &ServeArgs,
    global: &GlobalArgs,
    tls: &Tls,
    ingest: &Server,
    callers: &Callers,
    query: &RwLock<Arc<rustls::ServerConfig>>,
) {
    let reload = || -> Result<usize> {
        let config = config::load(args, global, std::env::vars())?;
        let grants = Tls::grants(&tls.dir, &config)?.compile()?;
        let material = Tls::material(&tls.dir)?;
        let revoked = material.revoked().context("revocation list")?;
        let query_tls = query_config(&material)?;
        // Everything is readable: from here on nothing fails half-way.
        let closed = ingest.reload_tls(&material).context("certificates of the ingest address")?;
        *query.write() = query_tls;
        tls.grants.store(Arc::new(grants));
        callers.reload(revoked);
        Ok(closed)
    };
    match reload() {
        Ok(closed) => {
            tracing::info!(closed_connections = closed, "certificates, revocations and grants are read again")
        }
        Err(error) => tracing::error!(
            error = crate::failure::one_line(&error),
            "reload failed; the old certificates and grants stay in use"
        ),
    }
}

async fn open_engine(data_dir: &Path, config: &Config) -> Result<Arc<Engine>> {
    let settings = EngineConfig {
        shards: u32::try_from(config.engine.shards.0).ok().filter(|n| *n > 0),
        memtable_bytes: usize::try_from(config.engine.memtable.0).unwrap_or(usize::MAX),
        seal_age: config.engine.seal_age.0,
        log_file_bytes: config.engine.log_file.0,
        max_future: config.engine.max_future.0,
        queue_batches: config.engine.queue_batches.0 as usize,
        compaction: config.engine.compaction.0,
    };
    let dir = data_dir.to_owned();
    let start = Instant::now();
    let opened = tokio::task::spawn_blocking(move || -> Result<(Engine, RecoveryReport), EngineError> {
        let storage = Disk::open(&dir).map_err(EngineError::io("open", "."))?;
        Engine::open(Arc::new(storage), settings, Arc::new(SystemClock))
    })
    .await
    .context("open the engine")?;
    let (engine, report) = opened.map_err(|error| {
        let next = match &error {
            EngineError::Corruption { .. } => {
                "; `tidewell verify` lists all damage of the directory, restore it from a backup"
            }
            EngineError::Io { .. } => "; check the disk and who owns the files",
            _ => "",
        };
        anyhow!("open data directory: {}: {error}{next}", data_dir.display())
    })?;
    for finding in report.findings() {
        tracing::warn!(finding, "recovery");
    }
    tracing::info!(
        segments = report.segments,
        log_records = report.records(),
        seconds = start.elapsed().as_secs_f64(),
        "opened the data directory"
    );
    Ok(Arc::new(engine))
}

fn start_ingest(config: &Config, tls: &Tls, engine: &Arc<Engine>) -> Result<Server> {
    let settings = ServerConfig {
        addr: config.ingest_addr,
        connections_max: config.ingest.connections_max.0 as usize,
        memory_bytes: usize::try_from(config.ingest.in_flight.0).unwrap_or(usize::MAX),
        max_future: config.engine.max_future.0,
        ..ServerConfig::default()
    };
    Server::start(settings, &tls.material, tls.grants.clone(), engine.clone()).map_err(|error| match error {
        StartError::Bind { addr, source } => {
            anyhow!("listen on the ingest address: {addr}: {}", bind_advice(&source, "--ingest-addr"))
        }
        other => anyhow!("start the ingest address: {other}"),
    })
}

/// Lets commands that name no node find this one. A failure is not worth stopping for.
fn remember(ingest: SocketAddr, query: SocketAddr, admin: SocketAddr, tls_dir: &Path, data_dir: &Path) {
    let reachable = |mut address: SocketAddr| {
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                IpAddr::from([127, 0, 0, 1])
            } else {
                IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
            });
        }
        address.to_string()
    };
    let note = LastNode {
        ingest_addr: reachable(ingest),
        query_addr: reachable(query),
        admin_addr: reachable(admin),
        tls_dir: tls_dir.to_owned(),
        data_dir: data_dir.to_owned(),
        pid: std::process::id(),
    };
    if let Some(path) = last_node::path()
        && let Err(error) = note.remember(&path)
    {
        tracing::info!(
            error = crate::failure::one_line(&error),
            "other commands will not find this node by themselves"
        );
    }
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const STOPPING: u8 = 2;

/// What the admin address reports.
struct State {
    started: Instant,
    phase: AtomicU8,
    parts: OnceLock<Parts>,
}

struct Parts {
    engine: Arc<Engine>,
    ingest: Arc<server::Metrics>,
    ingest_addr: SocketAddr,
    query_addr: SocketAddr,
    data_dir: PathBuf,
}

impl State {
    fn phase(&self) -> &'static str {
        match self.phase.load(Ordering::Acquire) {
            STARTING => "recovering",
            READY => "serving",
            _ => "stopping",
        }
    }
}

impl Facts for State {
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![
            Sample {
                name: "build_info",
                help: "Version of the node",
                labels: vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
                value: Value::Gauge(1.0),
            },
            Sample {
                name: "uptime_seconds",
                help: "Seconds since the start",
                labels: Vec::new(),
                value: Value::Gauge(self.started.elapsed().as_secs_f64()),
            },
            Sample {
                name: "ready",
                help: "1 while the node accepts batches and answers queries",
                labels: Vec::new(),
                value: Value::Gauge(f64::from(self.phase.load(Ordering::Acquire) == READY)),
            },
        ];
        let Some(parts) = self.parts.get() else { return samples };
        samples.extend(shard_samples(&parts.engine));
        samples.extend(ingest_samples(&parts.ingest));
        samples
    }

    fn health(&self) -> Health {
        let mut detail = serde_json::Map::new();
        detail.insert("phase".into(), self.phase().into());
        detail.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        detail.insert("uptime_seconds".into(), json!(self.started.elapsed().as_secs()));
        let Some(parts) = self.parts.get() else { return Health { ready: false, healthy: true, detail } };
        let shards = parts.engine.figures();
        let numbers = |wanted: fn(&ShardFigures) -> bool| -> Vec<usize> {
            shards.iter().enumerate().filter(|(_, shard)| wanted(shard)).map(|(number, _)| number).collect()
        };
        let (poisoned, full) = (numbers(|s| s.poisoned), numbers(|s| s.disk_full));
        let healthy = poisoned.is_empty();
        // A full disk refuses batches but queries go on: not ready for devices, healthy all the same.
        let ready = self.phase.load(Ordering::Acquire) == READY && healthy && full.is_empty();
        detail.insert("shards".into(), json!(shards.len()));
        detail.insert("poisoned_shards".into(), json!(poisoned));
        detail.insert("disk_full_shards".into(), json!(full));
        Health { ready, healthy, detail }
    }

    fn summary(&self) -> Vec<(String, String)> {
        let mut lines = vec![
            ("Version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("State".to_owned(), self.phase().to_owned()),
        ];
        let Some(parts) = self.parts.get() else { return lines };
        let all = total(&parts.engine.figures());
        let mut line = |title: &str, value: String| lines.push((title.to_owned(), value));
        line("Ingest (QUIC)", parts.ingest_addr.to_string());
        line("Queries (Arrow Flight)", parts.query_addr.to_string());
        line("Data directory", parts.data_dir.display().to_string());
        line("Tables", parts.engine.snapshot().tables().len().to_string());
        line("Rows since start", thousands(all.rows));
        line("Rows in segments", thousands(all.segment_rows));
        line("Segments", format!("{}, {}", thousands(all.segments), human_bytes(all.segment_bytes)));
        line("Memtables", human_bytes(all.memtable_bytes));
        line("Connections", thousands(parts.ingest.connections.value()));
        lines
    }
}

/// The sum of all shards; what is a maximum or a last value is the greatest.
fn total(shards: &[ShardFigures]) -> ShardFigures {
    let mut all = ShardFigures::default();
    for shard in shards {
        all.batches += shard.batches;
        all.duplicate_batches += shard.duplicate_batches;
        all.refused_batches += shard.refused_batches;
        all.rows += shard.rows;
        all.log_bytes += shard.log_bytes;
        all.log_syncs += shard.log_syncs;
        all.log_sync_last_us = all.log_sync_last_us.max(shard.log_sync_last_us);
        all.log_sync_max_us = all.log_sync_max_us.max(shard.log_sync_max_us);
        all.memtable_bytes += shard.memtable_bytes;
        all.memtables_sealed += shard.memtables_sealed;
        all.flushes += shard.flushes;
        all.flush_bytes += shard.flush_bytes;
        all.compactions += shard.compactions;
        all.compaction_bytes += shard.compaction_bytes;
        all.stalls += shard.stalls;
        all.queued += shard.queued;
        all.producers += shard.producers;
        all.disk_full |= shard.disk_full;
        all.poisoned |= shard.poisoned;
        all.segments += shard.segments;
        all.segment_bytes += shard.segment_bytes;
        all.segment_rows += shard.segment_rows;
    }
    all
}

fn shard_samples(engine: &Engine) -> Vec<Sample> {
    type Read = fn(&ShardFigures) -> u64;
    const COUNTERS: [(&str, &str, Read); 11] = [
        ("batches", "Batches applied", |s| s.batches),
        ("duplicate_batches", "Batches acknowledged again and not applied again", |s| s.duplicate_batches),
        ("refused_batches", "Batches refused", |s| s.refused_batches),
        ("rows", "Rows applied, replaced ones included", |s| s.rows),
        ("log_bytes", "Bytes written to device logs", |s| s.log_bytes),
        ("log_syncs", "Group commits of device logs", |s| s.log_syncs),
        ("flushes", "Memtables written as segments", |s| s.flushes),
        ("flush_bytes", "Segment bytes written by flushes", |s| s.flush_bytes),
        ("compactions", "Merges of segments", |s| s.compactions),
        ("compaction_bytes", "Segment bytes written by merges", |s| s.compaction_bytes),
        ("stalls", "Times that a shard waited for a flush", |s| s.stalls),
    ];
    const GAUGES: [(&str, &str, Read); 11] = [
        ("log_sync_last_microseconds", "Write and sync of the last group", |s| s.log_sync_last_us),
        ("log_sync_max_microseconds", "Longest write and sync of a group", |s| s.log_sync_max_us),
        ("memtable_bytes", "Bytes of the active memtable", |s| s.memtable_bytes),
        ("memtables_sealed", "Sealed memtables that wait for the disk", |s| s.memtables_sealed),
        ("queued_batches", "Batches that wait for the shard", |s| s.queued),
        ("producers", "Producers remembered", |s| s.producers),
        ("disk_full", "1 while batches are refused for want of room", |s| u64::from(s.disk_full)),
        ("poisoned", "1 after a failed write or sync", |s| u64::from(s.poisoned)),
        ("segments", "Live segments", |s| s.segments),
        ("segment_bytes", "Bytes of live segments", |s| s.segment_bytes),
        ("segment_rows", "Rows of live segments", |s| s.segment_rows),
    ];
    let shards = engine.figures();
    let mut samples = Vec::new();
    let label = |number: usize| vec![("shard", number.to_string())];
    for (name, help, read) in COUNTERS {
        samples.extend(shards.iter().enumerate().map(|(n, s)| Sample {
            name,
            help,
            labels: label(n),
            value: Value::Counter(read(s)),
        }));
    }
    for (name, help, read) in GAUGES {
        samples.extend(shards.iter().enumerate().map(|(n, s)| Sample {
            name,
            help,
            labels: label(n),
            value: Value::Gauge(read(s) as f64),
        }));
    }
    samples
}

fn ingest_samples(ingest: &server::Metrics) -> Vec<Sample> {
    let gauges = [
        ("ingest_connections", "Connections with a verified certificate", &ingest.connections),
        ("ingest_handshakes", "Handshakes in flight", &ingest.handshakes),
        ("ingest_lanes", "Open lanes", &ingest.lanes),
        ("ingest_in_flight_bytes", "Bytes of batches between arrival and settlement", &ingest.in_flight_bytes),
    ];
    let counters = [
        (
            "ingest_accepted_connections",
            "Connections with a verified certificate since the start",
            &ingest.connections_total,
        ),
        ("ingest_failed_handshakes", "Handshakes that failed", &ingest.handshakes_failed),
        ("ingest_refused_connections", "Connection attempts over a bound", &ingest.refused),
        ("ingest_retried_connections", "Connection attempts that had to prove their address", &ingest.retried),
        ("ingest_revoked_connections", "Connections closed because of a revocation", &ingest.revoked),
        ("ingest_batches", "Batches acknowledged", &ingest.batches),
        ("ingest_rows", "Rows acknowledged", &ingest.rows),
        ("ingest_values", "Values acknowledged, nulls included", &ingest.values),
        ("ingest_payload_bytes", "Payload bytes acknowledged", &ingest.bytes),
        ("ingest_memory_waits", "Times that a lane waited for memory", &ingest.memory_waits),
        ("ingest_queue_waits", "Times that a lane waited for a shard's queue", &ingest.queue_waits),
    ];
    let mut samples = Vec::new();
    samples.extend(gauges.map(|(name, help, c)| Sample {
        name,
        help,
        labels: Vec::new(),
        value: Value::Gauge(c.value() as f64),
    }));
    samples.extend(counters.map(|(name, help, c)| Sample {
        name,
        help,
        labels: Vec::new(),
        value: Value::Counter(c.value()),
    }));
    for (name, help, label, counts) in [
        ("ingest_nacks", "Batches refused, by reason", "code", ingest.nacks()),
        ("ingest_lane_ends", "Lanes ended by the node, by reason", "code", ingest.lane_ends()),
    ] {
        samples.extend(counts.into_iter().map(|(code, count)| Sample {
            name,
            help,
            labels: vec![(label, code.to_owned())],
            value: Value::Counter(count),
        }));
    }
    samples
}
