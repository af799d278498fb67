//! Owns the node's certificates and grants: where they come from, and reading them again; TLS itself is in the crates below.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use parking_lot::RwLock;
use tidewell_ingest::authority::Authority;
use tidewell_ingest::grants::SharedGrants;
use tidewell_ingest::server::Server;
use tidewell_ingest::tls::{TlsFiles, TlsMaterial};
use tidewell_query::flight;

use crate::callers::Callers;
use crate::cert::{GRANTS_FILE, Grants};
use crate::cli::GlobalArgs;
use crate::config::{self, Config, ServeArgs};
use crate::failure::usage;

/// Certificates and grants.
pub(super) struct Tls {
    pub dir: PathBuf,
    pub material: TlsMaterial,
    pub grants: SharedGrants,
    /// The authority is the data directory's own.
    pub development: bool,
}

impl Tls {
    pub fn prepare(config: &Config, data_dir: &Path) -> Result<Self> {
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

pub(super) fn query_config(material: &TlsMaterial) -> Result<Arc<rustls::ServerConfig>> {
    let config = flight::tls::server_config(material.certificate_pem(), material.key_pem(), Some(material.ca_pem()));
    Ok(Arc::new(config.context("certificates of the query address")?))
}

/// New certificates, revocations and grants; what cannot be read leaves the old ones in use.
pub(super) fn reload(
    args: &ServeArgs,
    global: &GlobalArgs,
    tls: &Tls,
    ingest: &Server,
    callers: &Callers,
    query: &RwLock<Arc<rustls::ServerConfig>>,
) {
    let read = || -> Result<usize> {
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
    match read() {
        Ok(closed) => {
            tracing::info!(closed_connections = closed, "certificates, revocations and grants are read again")
        }
        Err(error) => tracing::error!(
            error = crate::failure::one_line(&error),
            "reload failed; the old certificates and grants stay in use"
        ),
    }
}
