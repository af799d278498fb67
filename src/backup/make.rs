//! Owns making, listing and pruning backups in a running node; what is consistent the engine decides.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidewell_engine::Engine;
use tidewell_engine::storage::StorageFile;
use tidewell_query::flight::Backups;
use tokio::runtime::Handle;
use tonic::Status;

use super::destination::Destination;
use super::listing::{self, DATA, Entry, Listing, StoreId};
use crate::failure::one_line;

/// Bytes at each end of an immutable file that its key has the checksum of.
const TAG_BYTES: u64 = 4096;

/// The backups of one node.
pub struct NodeBackups {
    engine: Arc<Engine>,
    data_dir: PathBuf,
    destinations: Vec<String>,
    runtime: Handle,
    /// Held while a backup is made or pruned: a prune must not take what a backup is about to name.
    busy: Mutex<()>,
}

impl NodeBackups {
    /// Backups of `engine`, to `destinations` and to places below them.
    pub fn new(engine: Arc<Engine>, data_dir: PathBuf, destinations: Vec<String>, runtime: Handle) -> Self {
        Self { engine, data_dir, destinations, runtime, busy: Mutex::new(()) }
    }

    fn destination(&self, to: Option<&str>, make: bool) -> Result<Destination, Status> {
        let to = match (to, self.destinations.first()) {
            (Some(to), _) => to.trim_end_matches('/'),
            (None, Some(first)) => first,
            (None, None) => return Err(Status::failed_precondition("this node has no destination of backups")),
        };
        super::destination::check_name(to).map_err(|error| Status::invalid_argument(one_line(&error)))?;
        let allowed = self.destinations.iter().any(|known| {
            let known = known.trim_end_matches('/');
            to.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if !allowed {
            return Err(Status::permission_denied(format!(
                "destination of backups: {to}: this node's configuration allows {} and what is below",
                self.destinations.join(", ")
            )));
        }
        Destination::open(to, make, self.runtime.clone()).map_err(|error| status(&error))
    }

    fn turn(&self) -> Result<parking_lot::MutexGuard<'_, ()>, Status> {
        self.busy.try_lock().ok_or_else(|| Status::unavailable("another backup or prune is under way; try again later"))
    }

    fn run(&self, destination: &Destination) -> Result<Value> {
        let mut view = self.engine.backup_view().context("take a view for a backup")?;
        let store = StoreId { created_ns: view.created_ns, shards: view.shards };
        let known = known_files(destination, store)?;
        let mut made =
            Made { destination, known, files: Vec::new(), damage: Vec::new(), new_files: 0, new_bytes: 0, linked: 0 };
        // First, because the node keeps its log files for as long as this takes.
        view.take_logs(|file| made.small(&file.name, file.bytes))?;
        for file in std::mem::take(&mut view.small) {
            made.small(&file.name, file.bytes)?;
        }
        for name in std::mem::take(&mut view.files) {
            let file = view.open(&name)?;
            if made.lasting(&name, &*file, self.data_dir.join(&name))? {
                made.damage.extend(view.damage(&name));
            }
        }
        destination.sync(made.files.iter().map(|file| &*file.key))?;
        let name = name_of(view.taken_ns);
        let listing = Listing::new(name.clone(), store, made.files, made.damage);
        let (key, bytes) = listing.encode();
        destination.put(&key, bytes)?;
        destination.sync([&*key].into_iter())?;
        tracing::info!(
            name,
            destination = destination.name(),
            files = listing.files.len(),
            new_files = made.new_files,
            "backup"
        );
        Ok(json!({
            "name": name,
            "to": destination.name(),
            "files": listing.files.len(),
            "bytes": listing.bytes(),
            "new_files": made.new_files,
            "new_bytes": made.new_bytes,
            "linked": made.linked,
            "damage": listing.damage,
        }))
    }

    fn prune_to(destination: &Destination, keep: usize) -> Result<Value> {
        let keys = listing::keys(destination)?;
        let (old, kept) = keys.split_at(keys.len().saturating_sub(keep));
        let mut named = HashSet::new();
        for key in kept {
            // Without this list nobody knows which files are needed.
            let listing = listing::read(destination, key).context("nothing was removed")?;
            named.extend(listing.files.into_iter().map(|file| file.key));
        }
        if kept.is_empty() {
            return Ok(json!({"removed": 0, "removed_files": 0, "removed_bytes": 0, "kept": 0}));
        }
        for key in old {
            destination.remove(key)?;
        }
        let (mut files, mut bytes) = (0, 0);
        for (key, size) in destination.list(DATA)? {
            if !named.contains(&key) {
                destination.remove(&key)?;
                files += 1;
                bytes += size;
            }
        }
        Ok(json!({"removed": old.len(), "removed_files": files, "removed_bytes": bytes, "kept": kept.len()}))
    }
}

impl Backups for NodeBackups {
    fn make(&self, to: Option<&str>) -> Result<Value, Status> {
        let _turn = self.turn()?;
        let destination = self.destination(to, true)?;
        self.run(&destination).map_err(|error| status(&error))
    }

    fn list(&self, to: Option<&str>) -> Result<Vec<Value>, Status> {
        let destination = self.destination(to, true)?;
        super::list(&destination).map_err(|error| status(&error))
    }

    fn prune(&self, to: Option<&str>, keep: usize) -> Result<Value, Status> {
        let _turn = self.turn()?;
        let destination = self.destination(to, true)?;
        Self::prune_to(&destination, keep).map_err(|error| status(&error))
    }
}

fn status(error: &anyhow::Error) -> Status {
    Status::internal(one_line(error))
}

/// Files that completed backups name and that are there, by key, with their checksums.
fn known_files(destination: &Destination, store: StoreId) -> Result<HashMap<String, Entry>> {
    let there = destination.list(DATA)?;
    let mut known = HashMap::new();
    for key in listing::keys(destination)? {
        let listing = match listing::read(destination, &key) {
            Ok(listing) => listing,
            Err(error) => {
                // What it alone named is copied again.
                tracing::warn!(error = one_line(&error), "a backup cannot be read");
                continue;
            }
        };
        if listing.store != store {
            bail!(
                "{}: it has backups of another data directory ({}); choose a place of its own for each node",
                destination.name(),
                listing.name
            );
        }
        let whole = |file: &Entry| there.get(&file.key) == Some(&file.bytes);
        known.extend(listing.files.into_iter().filter(whole).map(|file| (file.key.clone(), file)));
    }
    Ok(known)
}

/// A backup that is being made.
struct Made<'a> {
    destination: &'a Destination,
    known: HashMap<String, Entry>,
    files: Vec<Entry>,
    damage: Vec<String>,
    new_files: u64,
    new_bytes: u64,
    linked: u64,
}

impl Made<'_> {
    /// Adds a file that is in memory.
    fn small(&mut self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let crc32c = crc32c::crc32c(&bytes);
        let len = bytes.len() as u64;
        let entry = Entry { name: name.to_owned(), key: key_of(name, len, crc32c), bytes: len, crc32c };
        if !self.known.contains_key(&entry.key) {
            self.destination.put(&entry.key, bytes)?;
            self.new_files += 1;
            self.new_bytes += len;
        }
        self.files.push(entry);
        Ok(())
    }

    /// Adds an immutable file; whether it is new here.
    fn lasting(&mut self, name: &str, file: &dyn StorageFile, original: PathBuf) -> Result<bool> {
        let bytes = file.len().with_context(|| format!("read {name}"))?;
        let tag = tag_of(file, bytes).with_context(|| format!("read {name}"))?;
        let key = key_of(name, bytes, tag);
        if let Some(known) = self.known.get(&key) {
            self.files.push(Entry { name: name.to_owned(), ..known.clone() });
            return Ok(false);
        }
        let stored = self.destination.put_file(&key, file, &original)?;
        self.new_files += 1;
        self.new_bytes += bytes;
        self.linked += u64::from(stored.linked);
        self.files.push(Entry { name: name.to_owned(), key, bytes, crc32c: stored.crc32c });
        Ok(true)
    }
}

/// A key that two files of one name share only when they are the same: a node that was restored goes on with the numbers of
/// the node that was lost.
fn key_of(name: &str, bytes: u64, tag: u32) -> String {
    format!("{DATA}/{name}.{bytes:x}-{tag:08x}")
}

/// Checksum of both ends of a file: header with time, trailer with the checksums of everything between.
fn tag_of(file: &dyn StorageFile, bytes: u64) -> Result<u32> {
    let mut ends = vec![0; (2 * TAG_BYTES).min(bytes) as usize];
    let (head, tail) = ends.split_at_mut(TAG_BYTES.min(bytes) as usize);
    let filled = file.read_at(0, head)? + file.read_at(bytes - tail.len() as u64, tail)?;
    if filled < ends.len() {
        return Err(anyhow!("{bytes} bytes expected, fewer found"));
    }
    Ok(crc32c::crc32c(&ends))
}

/// A moment as the name of a backup; names sort as moments do.
fn name_of(taken_ns: i64) -> String {
    let time =
        jiff::Timestamp::from_nanosecond(i128::from(taken_ns)).expect("every i64 of nanoseconds is a valid time");
    time.strftime("%Y%m%dT%H%M%S.%9fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_moments() {
        assert_eq!(name_of(1_700_000_000_000_000_001), "20231114T221320.000000001Z");
    }
}
