//! Owns `tidewell demo`: the story, its checks and its text; trucks are in `fleet`, the node is a child process.

mod checks;
pub mod fleet;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use tidewell_ingest::authority::Authority;
use tidewell_ingest::client::Client;
use tidewell_ingest::identity::Identity;
use tokio::sync::watch;

use crate::child::{NodeOptions, NodeProcess, temporary_folder};
use crate::connect::{client_config, material};
use crate::failure::EXIT_OK;
use crate::last_node::{self, LastNode};
use crate::units::thousands;
use checks::{check_counts, check_overheating, check_tunnel, count, show_hours};
use fleet::{STEP_NS, TUNNEL, Truck, device};

/// Ticks of the drive: each truck sends one batch a tick.
const TICKS: i64 = 100;
/// Simulated rows of a truck in one tick: 9 minutes at a row each 10 s.
const STEPS_A_TICK: i64 = 54;
/// Ticks that the truck in the tunnel is not heard of.
const TUNNEL_TICKS: std::ops::Range<i64> = 25..55;
/// Tick at which the node is killed.
const KILL_TICK: i64 = 45;

/// Flags of `demo`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The demo uses a temporary folder and free ports, needs no network and asks nothing. It checks what it shows and exits 1 when a check fails."
)]
pub struct DemoArgs {
    /// Leave the node serving after the demo, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Trucks that drive
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(13..=200))]
    pub trucks: u16,
    /// Seconds that the drive takes
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub seconds: u16,
}

/// Runs the demo.
///
/// # Errors
/// The first check that fails, or whatever keeps the demo from running.
pub async fn run(args: DemoArgs) -> Result<u8> {
    let folder = temporary_folder("demo")?;
    let result = if args.keep {
        story(&args, &folder).await
    } else {
        tokio::select! {
            result = story(&args, &folder) => result,
            // The node goes with its handle; what is left is the folder.
            _ = tokio::signal::ctrl_c() => {
                let _ = std::fs::remove_dir_all(&folder);
                anyhow::bail!("demo: interrupted");
            }
        }
    };
    match &result {
        Ok(()) => {
            let _ = std::fs::remove_dir_all(&folder);
        }
        Err(_) => eprintln!("the demo's data and log are kept for a look: {}", folder.display()),
    }
    result.map(|()| EXIT_OK)
}

async fn story(args: &DemoArgs, folder: &Path) -> Result<()> {
    let begin = Instant::now();
    let trucks = usize::from(args.trucks);
    let steps = TICKS * STEPS_A_TICK;
    let hours = steps * STEP_NS / 3_600_000_000_000;
    println!("Tidewell demo: a node, {trucks} trucks, {hours} hours of driving in {} seconds\n", args.seconds);

    // 1. A node of its own process, so that it can be killed.
    let options = NodeOptions {
        data_dir: folder.join("data"),
        log: folder.join("node.log"),
        addresses: None,
        settings: Vec::new(),
    };
    let mut node = NodeProcess::start(&options)?;
    let ready = node.ready().clone();
    let options = NodeOptions { addresses: Some(ready.clone()), ..options };
    line("node", &format!("process {}, ready after {} ms", node.pid(), node.start_time.as_millis()));
    more(&format!("ingest  {}  QUIC, client certificates required", ready.ingest_addr));
    more(&format!("query   {}  Arrow Flight over TLS", ready.query_addr));
    more(&format!("admin   http://{}/  metrics and health", ready.admin_addr));

    // 2. Each truck has a certificate that lets it write its own id and nothing else.
    let authority = Authority::open(&ready.tls_dir).context("open the development authority")?;
    for number in 0..trucks {
        let id = device(number);
        authority.issue(&id, &[Identity::Device(id.clone())], &[]).context("issue a certificate")?;
    }
    line("fleet", &format!("{trucks} certificates, one for each truck; a truck may write its own id and no other"));

    // 3. The drive. The last simulated moment is now, so that nothing lies in the future.
    let end_ns = crate::query::now_ns() / STEP_NS * STEP_NS;
    let start_ns = end_ns - steps * STEP_NS;
    let mut drive = Drive::start(&node, trucks, steps, start_ns).await?;
    drive.run(&mut node, &options, Duration::from_secs(args.seconds.into())).await?;
    let sent = drive.finish().await?;
    let client = node.target("dev").query_client().await?;

    // 4. Questions, and whether the answers are right.
    check_counts(&client, sent, trucks, start_ns, end_ns).await?;
    check_tunnel(&client, steps, start_ns, end_ns).await?;
    show_hours(&client, trucks, start_ns, end_ns).await?;
    check_overheating(&client, steps, start_ns, end_ns).await?;
    println!("\nAll checks held, after {:.1} seconds.\n", begin.elapsed().as_secs_f64());

    if args.keep {
        return keep(node, folder).await;
    }
    let took = node.stop()?;
    println!(
        "The node was told to stop (SIGTERM), drained, sealed, synced and ended with 0 after {} ms.",
        took.as_millis()
    );
    println!("Go on with a node of your own:\n  tidewell serve --data-dir ./data");
    println!("and in another terminal, once it has rows (tidewell load --help, tidewell bench ingest --help):");
    examples(None);
    Ok(())
}

/// Trucks that drive, each over a connection of its own.
struct Drive {
    tick: watch::Sender<i64>,
    trucks: Vec<tokio::task::JoinHandle<Result<u64>>>,
    clients: Vec<Client>,
    sent: Arc<AtomicU64>,
    backlog: Arc<AtomicU64>,
}

impl Drive {
    async fn start(node: &NodeProcess, trucks: usize, steps: i64, start_ns: i64) -> Result<Self> {
        let (tick, ticks) = watch::channel(0);
        let mut drive =
            Self { tick, trucks: Vec::new(), clients: Vec::new(), sent: Arc::default(), backlog: Arc::default() };
        for number in 0..trucks {
            let target = node.target(&device(number));
            let mut config = client_config(&target)?;
            config.lanes = 1;
            // Trucks are impatient, so that the story after the crash goes on at once.
            config.backoff_max = Duration::from_millis(300);
            let client = Client::connect(config, &material(&target)?)
                .await
                .with_context(|| format!("connect {}", device(number)))?;
            let (sent, backlog) = (drive.sent.clone(), drive.backlog.clone());
            drive.trucks.push(tokio::spawn(one_truck(
                number,
                steps,
                start_ns,
                client.clone(),
                ticks.clone(),
                sent,
                backlog,
            )));
            drive.clients.push(client);
        }
        Ok(drive)
    }

    fn acknowledged(&self) -> u64 {
        self.clients.iter().map(|client| client.stats().rows.load(Ordering::Relaxed)).sum()
    }

    /// Lets simulated time pass, and kills the node in the middle.
    async fn run(&mut self, node: &mut NodeProcess, options: &NodeOptions, time: Duration) -> Result<()> {
        let live = std::io::stdout().is_terminal();
        let mut clock = tokio::time::interval(time / TICKS as u32);
        // After the crash the drive goes on at its pace instead of catching up.
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for tick in 1..=TICKS {
            clock.tick().await;
            self.tick.send_replace(tick);
            if tick == TUNNEL_TICKS.start {
                erase(live);
                line("tunnel", &format!("{} drives into a tunnel; its rows wait on board", device(TUNNEL)));
            }
            if tick == KILL_TICK {
                erase(live);
                self.crash(node, options).await?;
                clock.reset();
            }
            if tick == TUNNEL_TICKS.end {
                erase(live);
                line(
                    "tunnel",
                    &format!(
                        "{} is out of the tunnel and sends {} late rows",
                        device(TUNNEL),
                        thousands(self.backlog.load(Ordering::Relaxed))
                    ),
                );
            }
            progress(live, tick, self);
            ensure!(!node.has_ended(), "the node ended by itself; its log is {}", options.log.display());
        }
        erase(live);
        Ok(())
    }

    /// `kill -9` while batches are under way, and a restart. What was acknowledged before must be there after.
    async fn crash(&mut self, node: &mut NodeProcess, options: &NodeOptions) -> Result<()> {
        node.kill()?;
        // Acknowledgements that were already on the wire count: the node has promised them.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let promised = self.acknowledged();
        line(
            "crash",
            &format!(
                "kill -9 with {} rows acknowledged and {} under way",
                thousands(promised),
                thousands(self.sent.load(Ordering::Relaxed).saturating_sub(promised))
            ),
        );
        let restart = Instant::now();
        let options = options.clone();
        *node =
            tokio::task::spawn_blocking(move || NodeProcess::start(&options)).await.context("restart the node")??;
        let client = node.target("dev").query_client().await?;
        let found = count(&client, json!({}), i64::MIN, i64::MAX).await?;
        ensure!(
            found >= promised,
            "after the crash: expected at least the {promised} rows that were acknowledged, found {found}"
        );
        line(
            "restart",
            &format!(
                "ready after {} ms; {} rows found, none of the {} acknowledged is missing",
                restart.elapsed().as_millis(),
                thousands(found),
                thousands(promised)
            ),
        );
        Ok(())
    }

    /// Waits until every row is acknowledged.
    async fn finish(self) -> Result<u64> {
        let mut rows = 0;
        for truck in self.trucks {
            rows += tokio::time::timeout(Duration::from_secs(30), truck)
                .await
                .context("a truck's last rows: no acknowledgement within 30 s")?
                .context("a truck")??;
        }
        let acknowledged: u64 = self.clients.iter().map(|client| client.stats().rows.load(Ordering::Relaxed)).sum();
        let retries: u64 = self.clients.iter().map(|client| client.stats().retries.load(Ordering::Relaxed)).sum();
        ensure!(acknowledged >= rows, "expected {rows} rows acknowledged, found {acknowledged}");
        let bytes: u64 = self.clients.iter().map(|client| client.stats().payload_bytes.load(Ordering::Relaxed)).sum();
        let values = (rows * 10).max(1);
        line(
            "drive",
            &format!(
                "{} rows, {} values, all acknowledged; {:.2} bytes a value on the wire{}",
                thousands(rows),
                thousands(values),
                bytes as f64 / values as f64,
                if retries > 0 { format!(", {retries} batches sent again") } else { String::new() }
            ),
        );
        for client in self.clients {
            client.close(Duration::from_secs(2)).await;
        }
        Ok(rows)
    }
}

async fn one_truck(
    number: usize,
    steps: i64,
    start_ns: i64,
    client: Client,
    mut ticks: watch::Receiver<i64>,
    sent: Arc<AtomicU64>,
    backlog: Arc<AtomicU64>,
) -> Result<u64> {
    let mut truck = Truck::new(number, steps);
    let mut waiting = Vec::new();
    let (mut done, mut rows) = (0, 0);
    while done < TICKS {
        let now = *ticks.wait_for(|tick| *tick > done).await.context("the clock stopped")?;
        while done < now {
            done += 1;
            let batch = truck.drive(STEPS_A_TICK as usize, start_ns);
            rows += batch.rows() as u64;
            waiting.push(batch);
        }
        if number == TUNNEL && TUNNEL_TICKS.contains(&now) {
            backlog.store(waiting.iter().map(|b| b.rows() as u64).sum(), Ordering::Relaxed);
            continue;
        }
        for batch in waiting.drain(..) {
            sent.fetch_add(batch.rows() as u64, Ordering::Relaxed);
            // The delivery is not kept: the flush at the end waits for all of them.
            drop(client.send(batch).await.with_context(|| format!("send as {}", device(number)))?);
        }
    }
    client.flush().await.with_context(|| format!("send as {}", device(number)))?;
    let refused = client.stats().rejected_rows.load(Ordering::Relaxed);
    ensure!(refused == 0, "{}: {refused} rows were refused", device(number));
    Ok(rows)
}

/// One line that is written over on a terminal, and a line for each quarter elsewhere.
fn progress(live: bool, tick: i64, drive: &Drive) {
    let text = format!(
        "{:>3} %     {} rows sent, {} acknowledged",
        tick * 100 / TICKS,
        thousands(drive.sent.load(Ordering::Relaxed)),
        thousands(drive.acknowledged())
    );
    let mut out = std::io::stdout().lock();
    let _ = match live {
        true => write!(out, "\r\x1b[K{text}"),
        false if tick % 25 == 0 => writeln!(out, "{text}"),
        false => Ok(()),
    };
    let _ = out.flush();
}

/// Takes the line of `progress` away, so that the next one stays.
fn erase(live: bool) {
    if live {
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "\r\x1b[K");
        let _ = out.flush();
    }
}

/// One step of the story.
fn line(title: &str, text: &str) {
    println!("{title:<10}{text}");
}

/// More about the step before.
fn more(text: &str) {
    println!("{:<10}{text}", "");
}

async fn keep(mut node: NodeProcess, folder: &Path) -> Result<()> {
    let ready = node.ready().clone();
    let note = LastNode {
        ingest_addr: ready.ingest_addr.to_string(),
        query_addr: ready.query_addr.to_string(),
        admin_addr: ready.admin_addr.to_string(),
        tls_dir: ready.tls_dir.clone(),
        data_dir: folder.join("data"),
        pid: node.pid(),
    };
    let remembered = last_node::path().is_some_and(|path| note.remember(&path).is_ok());
    println!("The node goes on serving, process {}:", node.pid());
    println!("  ingest {}   query {}   admin http://{}/", ready.ingest_addr, ready.query_addr, ready.admin_addr);
    println!("  certificates {}\n\nIn another terminal:", ready.tls_dir.display());
    examples((!remembered).then_some((ready.query_addr.to_string(), ready.tls_dir)));
    println!("\nCtrl-C stops it and removes its data.");
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).context("listen to SIGTERM")?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.context("wait for Ctrl-C")?,
        _ = terminate.recv() => {}
    }
    node.stop()?;
    Ok(())
}

/// Commands to try, with flags only where they are needed.
fn examples(node: Option<(String, PathBuf)>) {
    let flags = node.map(|(address, dir)| format!(" --node {address} --tls-dir {}", dir.display())).unwrap_or_default();
    for command in [
        "query latest --table readings --fields velocity,fuel_state",
        "query downsample --table readings --every 1h --aggregates mean,max --fields velocity --group all",
        "query threshold --table readings --where 'engine_temperature > 110' --for 5m --json",
    ] {
        println!("  tidewell {command}{flags}");
    }
}
