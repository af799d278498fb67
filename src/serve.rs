//! Owns the life of a node: start order, stop order, reload; the parts themselves are in the other crates.
//!
//! Start: settings, certificates, TCP addresses (so that a taken port is told at once), admin, engine with its
//! recovery, query, ingest, ready line. Stop: no new peers, ingest drains, queries drain, engine seals and syncs, admin, exit.

mod facts;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use parking_lot::RwLock;
use serde_json::json;
use tidewell_engine::clock::SystemClock;
use tidewell_engine::limits::MEMTABLE_BYTES_MAX;
use tidewell_engine::memory::{Class, MemoryBudget};
use tidewell_engine::storage::Disk;
use tidewell_engine::{Engine, EngineConfig, Error as EngineError, RecoveryReport};
use tidewell_ingest::server::{Server, ServerConfig, StartError};
use tidewell_query::QueryLimits;
use tidewell_query::flight::{self, Backups, EngineStore, FlightLimits, FlightQueries};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin;
use crate::backup::NodeBackups;
use crate::callers::Callers;
use crate::cli::GlobalArgs;
use crate::config::{self, Config, ServeArgs};
use crate::descriptors;
use crate::failure::{EXIT_FAILED, EXIT_OK};
use crate::last_node::{self, LastNode};
use facts::{Parts, State};
use tls::{Tls, query_config};

/// Bytes of batches in flight, however much memory there is: more would only make them wait longer.
const IN_FLIGHT_BYTES_MAX: u64 = 256 << 20;

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
    // Before the runtime has threads.
    tidewell_engine::allocator::bound(config.memory_bytes());
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
    let state = Arc::new(State::starting());
    let (admin_stop, admin_stopped) = watch::channel(false);
    let admin = tokio::spawn(admin::serve(admin_listener, state.clone(), admin_stopped));

    let memory = MemoryBudget::new(config.memory_bytes());
    let descriptors = descriptors::claim();
    let engine = open_engine(&data_dir, &config, memory.clone()).await?;
    let (query_stop, query_stopped) = tokio::sync::oneshot::channel::<()>();
    let ingest = start_ingest(&config, &tls, &engine, memory.clone())?;
    let ingest_addr = ingest.local_addr().context("ingest address")?;
    let callers = Arc::new(Callers::new(tls.grants.clone(), tls.material.revoked().context("revocation list")?));
    let service = FlightQueries::new(
        Arc::new(
            EngineStore::new(engine.clone(), QueryLimits::default()).with_backups(backups(&config, &engine, &data_dir)),
        ),
        callers.clone(),
        FlightLimits {
            connections: descriptors::connections(FlightLimits::default().connections, descriptors),
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
        memory,
        ingest: ingest.metrics().clone(),
        ingest_addr,
        query_addr,
        data_dir: data_dir.clone(),
    };
    state.ready(parts);

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
            _ = reload.recv() => tls::reload(&args, &global, &tls, &ingest, &callers, &query_tls),
        }
    }
    state.stopping();
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

/// Backups, when the configuration has a place for them.
fn backups(config: &Config, engine: &Arc<Engine>, data_dir: &Path) -> Option<Arc<dyn Backups>> {
    let destinations = config.backup.destinations.clone();
    let runtime = tokio::runtime::Handle::current();
    let make =
        || Arc::new(NodeBackups::new(engine.clone(), data_dir.to_owned(), destinations.clone(), runtime)) as Arc<_>;
    (!destinations.is_empty()).then(make)
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

async fn open_engine(data_dir: &Path, config: &Config, memory: Arc<MemoryBudget>) -> Result<Arc<Engine>> {
    let settings = EngineConfig {
        shards: u32::try_from(config.engine.shards.0).ok().filter(|n| *n > 0),
        memory,
        memtable_bytes: match config.engine.memtable.0 {
            0 => MEMTABLE_BYTES_MAX,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        },
        block_cache_bytes: match config.engine.block_cache.0 {
            0 => usize::MAX,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        },
        seal_age: config.engine.seal_age.0,
        log_file_bytes: config.engine.log_file.0,
        max_future: config.engine.max_future.0,
        queue_batches: config.engine.queue_batches.0 as usize,
        compaction: config.engine.compaction.0,
        compaction_bytes_per_second: config.engine.compaction_rate.0,
        flushed_segments_max: config.engine.flushed_segments_max.0 as usize,
        ..EngineConfig::default()
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

/// An idle connection's buffers and state, about (measured: 31 KiB).
const CONNECTION_BYTES: u64 = 32 << 10;

fn start_ingest(config: &Config, tls: &Tls, engine: &Arc<Engine>, memory: Arc<MemoryBudget>) -> Result<Server> {
    // What lies unread in QUIC's buffers comes on top of the bytes in flight: a quarter of them.
    let share = memory.share(Class::Queue) / 5 * 4;
    let in_flight = match config.ingest.in_flight.0 {
        0 => share.min(IN_FLIGHT_BYTES_MAX),
        bytes => bytes.min(share),
    };
    let connections_max = config.ingest.connections_max.0.min(memory.limit() / 8 / CONNECTION_BYTES);
    if connections_max < config.ingest.connections_max.0 {
        tracing::info!(connections_max, "memory_limit allows fewer connections than ingest.connections_max");
    }
    let settings = ServerConfig {
        addr: config.ingest_addr,
        connections_max: usize::try_from(connections_max).unwrap_or(usize::MAX),
        memory_bytes: usize::try_from(in_flight).unwrap_or(usize::MAX),
        memory: Some(memory),
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
