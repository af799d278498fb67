//! Owns `tidewell restore`: a backup back into an empty folder, every checksum checked; does not start a node.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tidewell_engine::storage::{Disk, Storage};
use tidewell_engine::verify::verify;

use super::destination::Destination;
use super::listing::{self, Entry, Listing};
use crate::failure::usage;

/// Findings that a message names; the answer has all.
const SHOWN_MAX: usize = 3;

/// Makes the data directory `to` out of the backup called `at`, or of the newest.
///
/// Everything is put together beside `to`, which gets its name when all has been checked: a restore that was broken off
/// cannot be taken for an empty node.
///
/// # Errors
/// When `to` is not empty, the backup is not there, or damaged and `accept_damage` is not set.
pub fn restore(from: &Destination, to: &Path, at: Option<&str>, accept_damage: bool) -> Result<Value> {
    let to = std::path::absolute(to)?;
    let shown = to.display().to_string();
    if to.exists() && fs::read_dir(&to).with_context(|| format!("restore to {shown}"))?.next().is_some() {
        return Err(usage(format!("restore to {shown}: the folder is not empty; choose one that is, or a new one")));
    }
    let listing = find(from, at)?;
    let beside = PathBuf::from(format!("{}.restoring", shown.trim_end_matches('/')));
    if beside.exists() {
        bail!("restore to {shown}: {} is there, of a restore that did not end; remove it first", beside.display());
    }
    let damage = match fill(from, &listing, &beside) {
        Ok(damage) => damage,
        Err(error) => {
            let _ = fs::remove_dir_all(&beside);
            return Err(error);
        }
    };
    if !damage.is_empty() && !accept_damage {
        let _ = fs::remove_dir_all(&beside);
        let first = damage.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("; ");
        bail!(
            "backup {} of {} is damaged in {} places: {first}; take an older one with --at, or what is left of this with --accept-damage",
            listing.name,
            from.name(),
            damage.len()
        );
    }
    fs::rename(&beside, &to).with_context(|| format!("restore to {shown}"))?;
    sync(to.parent().unwrap_or(&to))?;
    Ok(
        json!({"name": listing.name, "to": shown, "files": listing.files.len(), "bytes": listing.bytes(), "damage": damage}),
    )
}

fn find(from: &Destination, at: Option<&str>) -> Result<Listing> {
    let keys = listing::keys(from)?;
    let found = match at {
        None => keys.last(),
        Some(name) => keys.iter().find(|key| listing::parts(key).is_some_and(|(known, _)| known == name)),
    };
    let key = found.ok_or_else(|| match at {
        None => anyhow!("{} has no completed backup", from.name()),
        Some(name) => anyhow!("{} has no completed backup {name}; `tidewell backup list` names them", from.name()),
    })?;
    listing::read(from, key)
}

/// Puts every file into `folder`; what is wrong with them.
fn fill(from: &Destination, listing: &Listing, folder: &Path) -> Result<Vec<String>> {
    let mut damage = Vec::new();
    for file in &listing.files {
        check_name(&file.name)?;
        if let Err(error) = fetch(from, file, &folder.join(&file.name)) {
            damage.push(crate::failure::one_line(&error));
        }
    }
    for dir in fs::read_dir(folder)?.filter_map(Result::ok).filter(|entry| entry.path().is_dir()) {
        sync(&dir.path())?;
    }
    sync(folder)?;
    let storage: Arc<dyn Storage> = Arc::new(Disk::open(folder)?);
    match verify(&storage) {
        Ok(report) => damage.extend(report.damage),
        Err(error) => damage.push(error.to_string()),
    }
    Ok(damage)
}

fn fetch(from: &Destination, entry: &Entry, path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let mut file = File::create_new(path).with_context(|| format!("write {}", path.display()))?;
    let (bytes, crc32c) = from.read(&entry.key, |piece| Ok(file.write_all(piece)?))?;
    file.sync_all().with_context(|| format!("sync {}", path.display()))?;
    if (bytes, crc32c) != (entry.bytes, entry.crc32c) {
        bail!(
            "{}: expected {} bytes with checksum {:08x}, found {bytes} with {crc32c:08x}",
            entry.key,
            entry.bytes,
            entry.crc32c
        );
    }
    Ok(())
}

/// A listing may come from anywhere: its names must not lead out of the folder.
fn check_name(name: &str) -> Result<()> {
    if !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(());
    }
    bail!("the backup names a file {name:?}, which is outside of a data directory")
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|dir| dir.sync_all()).with_context(|| format!("sync {}", folder.display()))
}
