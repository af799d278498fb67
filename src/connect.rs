//! Owns which node a command talks to: flags, or the last development node; does not own the connections' protocols.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use tidewell_codec::{Batch, Tier};
use tidewell_ingest::client::{Client, ClientConfig, Delivery, Observer, Rejected};
use tidewell_ingest::tls::{TlsFiles, TlsMaterial};
use tidewell_query::flight::{ClientOptions, QueryClient};

use crate::cli::{NodeArgs, resolve};
use crate::failure::usage;
use crate::last_node::{self, LastNode};

/// A node and the certificate to show it.
#[derive(Clone, Debug)]
pub struct Target {
    /// QUIC address, when known.
    pub ingest: Option<SocketAddr>,
    /// Flight address as `host:port`, when known.
    pub query: Option<String>,
    /// Folder of certificates.
    pub tls_dir: PathBuf,
    /// Name of the certificate in it.
    pub cert: String,
    /// Name that the node's certificate must carry, when the user gave a name and not a number.
    pub server_name: Option<String>,
    /// It came from the note about the last development node.
    pub remembered: bool,
}

/// Which of a node's two addresses `--node` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `load`, `bench ingest`.
    Ingest,
    /// `query`, `bench query`.
    Query,
}

impl Target {
    /// The node that `args` name, or the last development node.
    ///
    /// # Errors
    /// When an address is not one, or nothing is known.
    pub fn find(args: &NodeArgs, purpose: Purpose) -> Result<Self> {
        let note = last_node::path();
        let last = LastNode::recall(note.as_deref());
        Self::choose(args, purpose, last)
    }

    fn choose(args: &NodeArgs, purpose: Purpose, last: Result<LastNode>) -> Result<Self> {
        let Some(named) = &args.node else {
            let last = last?;
            return Ok(Self {
                ingest: Some(resolve(&last.ingest_addr)?),
                query: Some(last.query_addr),
                tls_dir: args.tls_dir.clone().unwrap_or(last.tls_dir),
                cert: args.cert.clone(),
                server_name: None,
                remembered: true,
            });
        };
        let address = resolve(named)?;
        let last = last.ok();
        let tls_dir = match (&args.tls_dir, &last) {
            (Some(dir), _) => dir.clone(),
            (None, Some(last)) => last.tls_dir.clone(),
            (None, None) => {
                return Err(usage(format!(
                    "connect to {named}: no certificates; add --tls-dir DIR with ca.pem and {0}.pem, {0}-key.pem",
                    args.cert
                )));
            }
        };
        // The other address of the same node is known when it is the last one; else it is the next port, as by default.
        let same = |known: &str| resolve(known).is_ok_and(|known| known == address);
        let last = last.filter(|l| same(if purpose == Purpose::Ingest { &l.ingest_addr } else { &l.query_addr }));
        let neighbour = |up: bool| {
            let port = if up { address.port().checked_add(1) } else { address.port().checked_sub(1) };
            port.map(|port| SocketAddr::new(address.ip(), port))
        };
        let (ingest, query) = match (purpose, last) {
            (_, Some(last)) => (Some(resolve(&last.ingest_addr)?), Some(last.query_addr)),
            (Purpose::Ingest, None) => (Some(address), neighbour(true).map(|a| a.to_string())),
            (Purpose::Query, None) => (neighbour(false), Some(named.clone())),
        };
        let host = named
            .rsplit_once(':')
            .map(|(host, _)| host)
            .filter(|host| !host.starts_with('[') && host.parse::<std::net::IpAddr>().is_err());
        Ok(Self {
            ingest,
            query,
            tls_dir,
            cert: args.cert.clone(),
            server_name: host.map(str::to_owned),
            remembered: false,
        })
    }

    /// The QUIC address.
    ///
    /// # Errors
    /// When it is not known.
    pub fn ingest(&self) -> Result<SocketAddr> {
        self.ingest.ok_or_else(|| usage("connect: the ingest address is not known; name it with --node"))
    }

    /// A connection to the query address.
    ///
    /// # Errors
    /// When certificates cannot be read or the node does not answer.
    pub async fn query_client(&self) -> Result<QueryClient> {
        let address = self
            .query
            .as_deref()
            .ok_or_else(|| usage("connect: the query address is not known; name it with --node"))?;
        let options = ClientOptions::from_tls_dir(address, &self.tls_dir, &self.cert)
            .context("read certificates")
            .map_err(|e| e.context(format!("connect to {address}")))?;
        QueryClient::connect(options).await.map_err(|error| self.unreachable(error.into()))
    }

    /// Adds what to do when nothing answers.
    pub fn unreachable(&self, error: anyhow::Error) -> anyhow::Error {
        if self.remembered {
            error.context("ask the last development node (start it again with `tidewell serve`, or name another with --node ADDR --tls-dir DIR)")
        } else {
            error
        }
    }
}

/// A node that is away for longer ends a load: somebody is waiting for it.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// Different refusals that are kept for the user.
const REFUSALS_KEPT: usize = 5;

/// A connection to the ingest address that knows what became of its rows.
pub struct Feed {
    client: Client,
    fate: Arc<Fate>,
    address: SocketAddr,
}

#[derive(Default)]
struct Fate {
    refusals: Mutex<Vec<String>>,
    away_since: Mutex<Option<(Instant, String)>>,
    closing: AtomicBool,
}

impl Observer for Fate {
    fn rejected(&self, rejected: &Rejected) {
        let line = rejected.to_string();
        let mut kept = self.refusals.lock();
        if kept.len() < REFUSALS_KEPT && !kept.contains(&line) {
            kept.push(line);
        }
    }

    fn disconnected(&self, reason: &str, retry_in: Duration) {
        if self.closing.load(Ordering::Relaxed) {
            return;
        }
        tracing::warn!(reason, ?retry_in, "the connection to the node is lost, trying again");
        let mut away = self.away_since.lock();
        let since = away.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        *away = Some((since, reason.to_owned()));
    }

    fn connected(&self) {
        *self.away_since.lock() = None;
    }
}

/// Certificates of `target` for the ingest address.
///
/// # Errors
/// When they cannot be read.
pub fn material(target: &Target) -> Result<TlsMaterial> {
    TlsMaterial::load(&TlsFiles::in_dir(&target.tls_dir, &target.cert)).context("read certificates")
}

/// Settings of a client of `target`.
///
/// # Errors
/// When the address is not known.
pub fn client_config(target: &Target) -> Result<ClientConfig> {
    let address = target.ingest()?;
    let mut config = ClientConfig::new(address);
    config.server_name = target.server_name.clone().unwrap_or_else(|| address.ip().to_string());
    config.encoding = Tier::Hot;
    config.software = concat!("tidewell/", env!("CARGO_PKG_VERSION")).into();
    Ok(config)
}

impl Feed {
    /// Connects and waits for the node's greeting.
    ///
    /// # Errors
    /// When certificates cannot be read, or the node does not answer or refuses.
    pub async fn connect(target: &Target) -> Result<Self> {
        let address = target.ingest()?;
        if target.remembered
            && let Some(query) = &target.query
        {
            // UDP does not tell that nobody listens; the other address of the same node does, at once.
            if let Err(error) = tokio::net::TcpStream::connect(query).await {
                return Err(target.unreachable(anyhow!("connect to {address}: {error}")));
            }
        }
        let fate = Arc::new(Fate::default());
        let client = Client::connect_observed(client_config(target)?, &material(target)?, fate.clone()).await.map_err(
            |error| target.unreachable(anyhow!("{error}; is the node running, and is this its ingest address?")),
        )?;
        Ok(Self { client, fate, address })
    }

    /// Takes a batch for sending; waits when many are under way.
    ///
    /// # Errors
    /// When the node is away for long, or no node would take the batch.
    pub async fn send(&self, batch: Batch) -> Result<Delivery> {
        tokio::select! {
            sent = self.client.send(batch) => sent.with_context(|| format!("send to {}", self.address)),
            error = self.away() => Err(error),
        }
    }

    /// Waits until all that was sent is acknowledged or refused.
    ///
    /// # Errors
    /// When the node is away for long.
    pub async fn flush(&self) -> Result<()> {
        tokio::select! {
            done = self.client.flush() => done.with_context(|| format!("send to {}", self.address)),
            error = self.away() => Err(error),
        }
    }

    /// Ends when the node has been away for too long.
    async fn away(&self) -> anyhow::Error {
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if let Some((since, reason)) = &*self.fate.away_since.lock()
                && since.elapsed() > AWAY_MAX
            {
                return anyhow!(
                    "send to {}: the node is away for {} s: {reason}; run the same command again when it is back",
                    self.address,
                    AWAY_MAX.as_secs()
                );
            }
        }
    }

    /// The client itself.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Rows that are durable.
    pub fn acknowledged_rows(&self) -> u64 {
        self.client.stats().rows.load(Ordering::Relaxed)
    }

    /// Rows that the node refused for good.
    pub fn refused_rows(&self) -> u64 {
        self.client.stats().rejected_rows.load(Ordering::Relaxed)
    }

    /// Encoded bytes of the acknowledged rows.
    pub fn payload_bytes(&self) -> u64 {
        self.client.stats().payload_bytes.load(Ordering::Relaxed)
    }

    /// The first different refusals, in the node's words.
    pub fn refusals(&self) -> Vec<String> {
        self.fate.refusals.lock().clone()
    }

    /// Disconnects.
    pub async fn close(self) {
        self.fate.closing.store(true, Ordering::Relaxed);
        self.client.close(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> LastNode {
        LastNode {
            ingest_addr: "127.0.0.1:5001".into(),
            query_addr: "127.0.0.1:6001".into(),
            admin_addr: "127.0.0.1:7001".into(),
            tls_dir: "/last".into(),
            data_dir: "/data".into(),
            pid: 1,
        }
    }

    fn args(node: Option<&str>, dir: Option<&str>) -> NodeArgs {
        NodeArgs { node: node.map(Into::into), tls_dir: dir.map(Into::into), cert: "dev".into() }
    }

    #[test]
    fn flags_win_over_the_last_node() {
        let target = Target::choose(&args(None, None), Purpose::Ingest, Ok(last())).unwrap();
        assert_eq!((target.ingest.unwrap().port(), target.query.as_deref()), (5001, Some("127.0.0.1:6001")));
        let target = Target::choose(&args(Some("127.0.0.1:4433"), Some("/t")), Purpose::Ingest, Ok(last())).unwrap();
        assert_eq!((target.query.as_deref(), target.tls_dir.to_str()), (Some("127.0.0.1:4434"), Some("/t")));
        let target = Target::choose(&args(Some("127.0.0.1:6001"), None), Purpose::Query, Ok(last())).unwrap();
        assert_eq!((target.ingest.unwrap().port(), target.tls_dir.to_str()), (5001, Some("/last")));
    }

    #[test]
    fn nothing_known_is_a_usage_error() {
        let nothing = || Err(usage("none"));
        assert!(Target::choose(&args(None, None), Purpose::Query, nothing()).is_err());
        let error = Target::choose(&args(Some("127.0.0.1:1"), None), Purpose::Query, nothing()).unwrap_err();
        assert!(error.to_string().contains("--tls-dir"), "{error}");
    }
}
