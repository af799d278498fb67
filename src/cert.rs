//! Owns `tidewell cert`: certificates of a development authority and the grants that go with them; the cryptography is `ingest`'s.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tidewell_ingest::authority::Authority;
use tidewell_ingest::identity::Identity;

use crate::failure::{EXIT_OK, usage};

/// File of grants beside the certificates. The node reads it at start and on SIGHUP.
pub const GRANTS_FILE: &str = "grants.toml";

/// The kinds of certificates.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Make an authority: ca.pem, and node.pem and dev.pem signed by it
    #[command(
        after_help = "Example:\n  tidewell cert init --tls-dir ./tls --host node1.example.org\n  tidewell serve --data-dir ./data --tls-dir ./tls"
    )]
    Init(InitArgs),
    /// A device: may write its own id
    #[command(after_help = "Example:\n  tidewell cert device truck_1 --tls-dir ./tls")]
    Device(DeviceArgs),
    /// A gateway: may write the ids that match its patterns
    #[command(
        after_help = "Example:\n  tidewell cert gateway depot_north --devices 'truck_*,trailer_*' --tls-dir ./tls\n\nThe patterns go to grants.toml in the same folder; a running node reads it on SIGHUP."
    )]
    Gateway(GatewayArgs),
    /// A reader: may ask about the ids that match its patterns
    #[command(
        after_help = "Example:\n  tidewell cert reader dashboard --devices 'truck_*' --tls-dir ./tls\n  tidewell cert reader operator --role admin --tls-dir ./tls"
    )]
    Reader(ReaderArgs),
    /// Take certificates back: adds them to crl.pem
    #[command(
        after_help = "Example:\n  tidewell cert revoke truck_1 --tls-dir ./tls\n\nA running node reads the list on SIGHUP, and closes the connections of these certificates."
    )]
    Revoke(RevokeArgs),
}

/// `cert init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder of the authority; made when missing
    #[arg(long, value_name = "DIR")]
    pub tls_dir: PathBuf,
    /// Name or address under which devices reach the node; may be repeated. localhost is always in
    #[arg(long, value_name = "HOST")]
    pub host: Vec<String>,
}

/// `cert device`.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// The device id
    pub id: String,
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    pub tls_dir: PathBuf,
    /// Name of the files [default: the id, with `_` for what does not fit a file name]
    #[arg(long, value_name = "NAME")]
    pub file: Option<String>,
}

/// `cert gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// Name of the gateway
    pub name: String,
    /// Patterns of device ids that it may write, separated by commas
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',', required = true)]
    pub devices: Vec<String>,
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    pub tls_dir: PathBuf,
    /// Name of the files [default: the name, with `_` for what does not fit a file name]
    #[arg(long, value_name = "NAME")]
    pub file: Option<String>,
}

/// `cert reader`.
#[derive(Debug, Args)]
pub struct ReaderArgs {
    /// Name of the reader
    pub name: String,
    /// Patterns of device ids that it may see, separated by commas
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',', default_value = "*")]
    pub devices: Vec<String>,
    /// What it may do
    #[arg(long, value_enum, default_value_t = ReaderRole::Reader)]
    pub role: ReaderRole,
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    pub tls_dir: PathBuf,
    /// Name of the files [default: the name, with `_` for what does not fit a file name]
    #[arg(long, value_name = "NAME")]
    pub file: Option<String>,
}

/// `cert revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Names of certificate files in the folder, without `.pem`
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    pub tls_dir: PathBuf,
}

/// What a reader may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReaderRole {
    /// Asks
    #[default]
    Reader,
    /// Asks, and changes attributes of devices
    Writer,
    /// Everything
    Admin,
}

/// Grants as a file has them: names to what they may touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Gateway to patterns of device ids that it may write.
    pub gateways: BTreeMap<String, Vec<String>>,
    /// Reader to what it may see.
    pub readers: BTreeMap<String, ReaderGrant>,
}

/// Grant of one reader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReaderGrant {
    /// What it may do.
    #[serde(default)]
    pub role: ReaderRole,
    /// Patterns of device ids that it may see.
    pub devices: Vec<String>,
}

impl Grants {
    /// Reads `grants.toml` of `folder`; a missing file grants nothing.
    ///
    /// # Errors
    /// When the file cannot be read or has unknown keys.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(GRANTS_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("read grants: {}", path.display())),
        };
        toml::from_str(&text).map_err(|e| usage(format!("read grants: {}: {}", path.display(), e.message())))
    }

    /// The grant of `dev.pem`: every device.
    pub fn development() -> Self {
        Self { gateways: BTreeMap::from([("dev".to_owned(), vec!["*".to_owned()])]), readers: BTreeMap::new() }
    }

    /// Both together; the same name in both has the patterns of both.
    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        for (name, patterns) in &other.gateways {
            self.gateways.entry(name.clone()).or_default().extend(patterns.iter().cloned());
        }
        for (name, grant) in &other.readers {
            let own = self.readers.entry(name.clone()).or_default();
            own.role = grant.role;
            own.devices.extend(grant.devices.iter().cloned());
        }
        self
    }

    /// The grants as the ingest crate compiles them.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn compile(&self) -> Result<tidewell_ingest::grants::Grants> {
        use tidewell_ingest::grants::{Grants as Compiled, GrantsConfig, ReaderGrant as Grant, Role};

        let role = |role| match role {
            ReaderRole::Reader => Role::Reader,
            ReaderRole::Writer => Role::Writer,
            ReaderRole::Admin => Role::Admin,
        };
        let reader = |grant: &ReaderGrant| Grant { role: role(grant.role), devices: grant.devices.clone() };
        Compiled::new(&GrantsConfig {
            gateways: self.gateways.clone(),
            readers: self.readers.iter().map(|(name, grant)| (name.clone(), reader(grant))).collect(),
        })
        .map_err(|e| usage(format!("grants: {e}")))
    }

    /// Writes `grants.toml` of `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(GRANTS_FILE);
        let text = format!(
            "# Who may write and read which devices. Read by the node at start and on SIGHUP.\n\n{}",
            toml::to_string_pretty(self).context("write grants")?
        );
        let temporary = path.with_extension("toml.tmp");
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .with_context(|| format!("write grants: {}", path.display()))
    }
}

/// Makes the certificates that the command asks for.
///
/// # Errors
/// When files exist, cannot be written, or a name is not allowed.
pub fn run(command: CertCommand) -> Result<u8> {
    match command {
        CertCommand::Init(args) => {
            let dir = &args.tls_dir;
            if dir.join("ca.pem").exists() {
                return Err(usage(format!(
                    "cert init: {}: there is an authority already; name another folder, or use it with cert device, gateway or reader",
                    dir.display()
                )));
            }
            let hosts: Vec<&str> = args.host.iter().map(String::as_str).collect();
            Authority::ensure_development_set(dir, &hosts).context("cert init")?;
            Grants::development().write(dir)?;
            println!("{}", dir.display());
            println!("  ca.pem, ca-key.pem      the authority; keep ca-key.pem away from the node and from devices");
            println!("  node.pem, node-key.pem  for `tidewell serve --tls-dir {}`", dir.display());
            println!("  dev.pem, dev-key.pem    may write every device and administer; for development only");
            println!("  grants.toml             who may write and read which devices; remove `dev` before production");
        }
        CertCommand::Device(args) => {
            issue(&args.tls_dir, args.file.as_deref(), &args.id, Identity::Device(args.id.clone()))?;
        }
        CertCommand::Gateway(args) => {
            check_patterns(&args.devices)?;
            issue(&args.tls_dir, args.file.as_deref(), &args.name, Identity::Gateway(args.name.clone()))?;
            let mut grants = Grants::read(&args.tls_dir)?;
            grants.gateways.insert(args.name.clone(), args.devices);
            grants.write(&args.tls_dir)?;
            told_grant(&args.tls_dir);
        }
        CertCommand::Reader(args) => {
            check_patterns(&args.devices)?;
            issue(&args.tls_dir, args.file.as_deref(), &args.name, Identity::Reader(args.name.clone()))?;
            let mut grants = Grants::read(&args.tls_dir)?;
            grants.readers.insert(args.name.clone(), ReaderGrant { role: args.role, devices: args.devices });
            grants.write(&args.tls_dir)?;
            told_grant(&args.tls_dir);
        }
        CertCommand::Revoke(args) => {
            let authority = open_authority(&args.tls_dir)?;
            let files: Vec<PathBuf> =
                args.names.iter().map(|name| args.tls_dir.join(format!("{}.pem", file_name(name)))).collect();
            let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
            let list = authority.revoke_also(&files).context("cert revoke")?;
            println!("{}  (a running node reads it on SIGHUP)", list.display());
        }
    }
    Ok(EXIT_OK)
}

fn told_grant(folder: &Path) {
    println!("{}  (a running node reads it on SIGHUP)", folder.join(GRANTS_FILE).display());
}

fn check_patterns(patterns: &[String]) -> Result<()> {
    tidewell_ingest::grants::Patterns::new("certificate", patterns)
        .map(|_| ())
        .map_err(|e| usage(format!("flag --devices: {e}")))
}

fn open_authority(folder: &Path) -> Result<Authority> {
    if !folder.join("ca.pem").exists() {
        return Err(usage(format!(
            "cert: {}: no authority there; make one with `tidewell cert init --tls-dir {0}`",
            folder.display()
        )));
    }
    Authority::open(folder).context("cert")
}

fn issue(folder: &Path, file: Option<&str>, name: &str, identity: Identity) -> Result<()> {
    let authority = open_authority(folder)?;
    let limit = tidewell_ingest::identity::NAME_BYTES_MAX;
    if name.is_empty() || name.len() > limit {
        return Err(usage(format!("cert: expected a name of 1 to {limit} bytes, found {}", name.len())));
    }
    let file = file.map_or_else(|| file_name(name), str::to_owned);
    if ["ca", "node", "dev", "crl"].contains(&file.as_str()) || file.contains(['/', '\\']) {
        return Err(usage(format!("cert: `{file}` cannot be a file name here; choose one with --file NAME")));
    }
    let files = authority.issue(&file, &[identity], &[]).context("cert")?;
    println!("{}", files.certificate.display());
    println!("{}", files.key.display());
    Ok(())
}

fn file_name(name: &str) -> String {
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect();
    // A leading dot would hide the file, a very long name does not fit a folder.
    safe.trim_start_matches('.').chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_written_and_read_and_unknown_keys_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Grants::read(folder.path()).unwrap(), Grants::default());
        let mut grants = Grants::default();
        grants.gateways.insert("depot".into(), vec!["truck_*".into()]);
        grants.readers.insert("dash".into(), ReaderGrant { role: ReaderRole::Writer, devices: vec!["*".into()] });
        grants.write(folder.path()).unwrap();
        assert_eq!(Grants::read(folder.path()).unwrap(), grants);
        std::fs::write(folder.path().join(GRANTS_FILE), "[gateway]\nx = [\"*\"]\n").unwrap();
        assert!(Grants::read(folder.path()).unwrap_err().to_string().contains("grants.toml"));
    }

    #[test]
    fn an_authority_is_made_once_and_issues() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("tls");
        let device = |id: &str| CertCommand::Device(DeviceArgs { id: id.into(), tls_dir: dir.clone(), file: None });
        assert!(run(device("truck 1")).is_err(), "no authority yet");
        run(CertCommand::Init(InitArgs { tls_dir: dir.clone(), host: vec![] })).unwrap();
        assert!(run(CertCommand::Init(InitArgs { tls_dir: dir.clone(), host: vec![] })).is_err());
        run(device("truck 1")).unwrap();
        assert!(dir.join("truck_1.pem").exists() && dir.join("truck_1-key.pem").exists());
        assert!(run(device("truck 1")).is_err(), "files are not overwritten");
        assert!(run(device("node")).is_err());
        run(CertCommand::Gateway(GatewayArgs {
            name: "depot".into(),
            devices: vec!["truck_*".into()],
            tls_dir: dir.clone(),
            file: None,
        }))
        .unwrap();
        assert_eq!(Grants::read(&dir).unwrap().gateways["depot"], ["truck_*"]);
        let revoke = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            run(CertCommand::Revoke(RevokeArgs { names, tls_dir: dir.clone() }))
        };
        revoke(&["truck 1"]).unwrap();
        assert!(revoke(&["nobody"]).is_err() && dir.join("crl.pem").exists());
        assert!(
            run(CertCommand::Reader(ReaderArgs {
                name: "r".into(),
                devices: vec!["[".into()],
                role: ReaderRole::Reader,
                tls_dir: dir,
                file: None
            }))
            .is_err()
        );
    }
}
