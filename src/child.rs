//! Owns a node as a child process: start, wait until it is ready, CPU time, stop, kill; `demo` and `bench` use it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use crate::connect::Target;

/// How long a node may take to become ready; recovery of a large log takes longest.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a node may take to stop in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// The unit of CPU times in /proc. Linux shows them to programs in hundredths of a second on every machine we build for.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

/// The line that `serve` prints when it accepts work.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// QUIC address.
    pub ingest_addr: SocketAddr,
    /// Flight address.
    pub query_addr: SocketAddr,
    /// HTTP address.
    pub admin_addr: SocketAddr,
    /// Folder of certificates.
    pub tls_dir: PathBuf,
}

/// A running node.
pub struct NodeProcess {
    child: Child,
    ready: Ready,
    log: PathBuf,
    /// How long the start took.
    pub start_time: Duration,
}

/// How to start a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its data.
    pub data_dir: PathBuf,
    /// File for its log output.
    pub log: PathBuf,
    /// Addresses to use again; `None` takes free ports.
    pub addresses: Option<Ready>,
    /// `KEY=VALUE` settings.
    pub settings: Vec<String>,
}

impl NodeProcess {
    /// Starts a node and waits for its ready line.
    ///
    /// # Errors
    /// When it does not become ready: the last lines of its log say why.
    pub fn start(options: &NodeOptions) -> Result<Self> {
        let begin = Instant::now();
        let program = std::env::current_exe().context("find this program")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&options.log)
            .with_context(|| format!("open log: {}", options.log.display()))?;
        let address = |pick: fn(&Ready) -> SocketAddr| {
            options.addresses.as_ref().map_or_else(|| "127.0.0.1:0".into(), |ready| pick(ready).to_string())
        };
        let mut command = Command::new(program);
        // Settings of the user's own node must not reach this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEWELL_") {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--forget", "--until-stdin-closes", "--log", "info", "--data-dir"])
            .arg(&options.data_dir)
            .args(["--ingest-addr", &address(|r| r.ingest_addr)])
            .args(["--query-addr", &address(|r| r.query_addr)])
            .args(["--admin-addr", &address(|r| r.admin_addr)]);
        for setting in &options.settings {
            command.args(["--set", setting]);
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().context("start a node")?;
        let stdout = child.stdout.take().context("output of the node")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let line = receiver.recv_timeout(READY_TIMEOUT).unwrap_or_default();
        match serde_json::from_str::<Ready>(&line) {
            Ok(ready) => Ok(Self { child, ready, log: options.log.clone(), start_time: begin.elapsed() }),
            Err(_) => {
                let _ = child.kill();
                let status = child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
                Err(anyhow!("start a node: it did not become ready ({status}): {}", tail(&options.log)))
            }
        }
    }

    /// Addresses and certificates.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How clients reach it, showing the certificate `cert`.
    pub fn target(&self, cert: &str) -> Target {
        Target {
            ingest: Some(self.ready.ingest_addr),
            query: Some(self.ready.query_addr.to_string()),
            tls_dir: self.ready.tls_dir.clone(),
            cert: cert.to_owned(),
            server_name: None,
            remembered: false,
        }
    }

    /// Seconds of CPU that the node has used.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds_of(self.pid()).unwrap_or(0.0)
    }

    /// `kill -9`: nothing is flushed, nobody is told.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill the node")?;
        self.child.wait().context("wait for the killed node")?;
        Ok(())
    }

    /// SIGTERM, then waits for the end in order.
    ///
    /// # Errors
    /// When it does not end with 0 in time.
    pub fn stop(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("stop the node")?;
        loop {
            if let Some(status) = self.child.try_wait().context("wait for the node")? {
                return self.check(status).map(|()| begin.elapsed());
            }
            if begin.elapsed() > STOP_TIMEOUT {
                let _ = self.kill();
                bail!("stop the node: it did not end within {} s: {}", STOP_TIMEOUT.as_secs(), tail(&self.log));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn check(&self, status: ExitStatus) -> Result<()> {
        anyhow::ensure!(status.success(), "stop the node: expected exit code 0, found {status}: {}", tail(&self.log));
        Ok(())
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // After a stop this finds a process that is gone, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log file, joined.
fn tail(path: &Path) -> String {
    const BYTES: u64 = 2_000;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    if lines.is_empty() { "its log is empty".into() } else { lines.into_iter().rev().collect::<Vec<_>>().join(" | ") }
}

/// Seconds of CPU, user and system, of a process.
pub fn cpu_seconds_of(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold blanks and brackets; the fields after the last one are fixed.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / CLOCK_TICKS_PER_SECOND)
}

/// Anonymous and resident bytes of a process.
pub fn memory_of(pid: u32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some((bytes("RssAnon:")?, bytes("VmRSS:")?))
}

/// A folder of its own below the system's temporary folder.
///
/// # Errors
/// When it cannot be made.
pub fn temporary_folder(what: &str) -> Result<PathBuf> {
    let base = std::env::temp_dir();
    for attempt in 0..1_000 {
        let path = base.join(format!("tidewell-{what}-{}-{attempt}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("make folder: {}", path.display())),
        }
    }
    bail!("make folder: {}: too many of them; remove tidewell-{what}-*", base.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_is_read() {
        let before = cpu_seconds_of(std::process::id()).unwrap();
        assert!((0.0..1e6).contains(&before));
        assert_eq!(cpu_seconds_of(u32::MAX), None);
        let (anonymous, resident) = memory_of(std::process::id()).unwrap();
        assert!(anonymous > 0 && anonymous <= resident);
    }
}
