//! Owns the note about the user's last development node; commands that name no node read it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::failure::usage;

/// Where a development node listens and where its certificates are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastNode {
    /// QUIC address.
    pub ingest_addr: String,
    /// Flight address.
    pub query_addr: String,
    /// HTTP address.
    pub admin_addr: String,
    /// Folder with `ca.pem`, `dev.pem`, `dev-key.pem`.
    pub tls_dir: PathBuf,
    /// Folder of the data.
    pub data_dir: PathBuf,
    /// Process of the node.
    pub pid: u32,
}

/// `$XDG_STATE_HOME/tidewell/last-node.json`, or the same below `~/.local/state`.
pub fn path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("tidewell/last-node.json"))
}

impl LastNode {
    /// Writes the note; a reader sees the old one or the new one, never half.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn remember(&self, path: &Path) -> Result<()> {
        let folder = path.parent().context("the state file has no folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("make folder: {}", folder.display()))?;
        let temporary = path.with_extension(format!("json.{}", std::process::id()));
        let text = serde_json::to_string_pretty(self).context("write last node")?;
        std::fs::write(&temporary, text + "\n").with_context(|| format!("write last node: {}", temporary.display()))?;
        std::fs::rename(&temporary, path).with_context(|| format!("write last node: {}", path.display()))
    }

    /// Reads the note.
    ///
    /// # Errors
    /// When there is none: the message says how to name a node.
    pub fn recall(path: Option<&Path>) -> Result<Self> {
        const NEXT: &str = "start one with `tidewell serve --data-dir DIR`, or name one with --node ADDR --tls-dir DIR";
        let Some(path) = path else {
            return Err(usage(format!("find a node: neither XDG_STATE_HOME nor HOME is set; {NEXT}")));
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(usage(format!("find a node: no development node has run here yet; {NEXT}")));
            }
            Err(error) => return Err(usage(format!("find a node: {}: {error}; {NEXT}", path.display()))),
        };
        serde_json::from_str(&text).map_err(|e| usage(format!("find a node: {}: {e}; {NEXT}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_a_missing_one_teaches() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/tidewell/last-node.json");
        let error = LastNode::recall(Some(&path)).unwrap_err();
        assert!(error.to_string().contains("tidewell serve"), "{error}");
        let node = LastNode {
            ingest_addr: "127.0.0.1:1".into(),
            query_addr: "127.0.0.1:2".into(),
            admin_addr: "127.0.0.1:3".into(),
            tls_dir: "/tls".into(),
            data_dir: "/data".into(),
            pid: 7,
        };
        node.remember(&path).unwrap();
        assert_eq!(LastNode::recall(Some(&path)).unwrap(), node);
        std::fs::write(&path, "{").unwrap();
        assert!(LastNode::recall(Some(&path)).unwrap_err().to_string().contains("last-node.json"));
    }
}
