//! Owns what a backup holds: one state of the manifest, its files, and the log up to one moment; does not copy anything.
//!
//! What must stay true: every row acknowledged before [`Engine::backup_view`] is in the view, none is in it in part, and
//! no file of it vanishes or changes while the view lives. The order makes it so. First each shard says where its log
//! ends, and keeps its files from then on. Only then is the manifest's state taken: whatever it says to be in segments is
//! there, and the log between the two has the rest. A delete is in the state or is not, and it flushed its shard before it
//! came into it, so that no record behind it can bring back what it took.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::device_log;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::manifest::{self, ManifestState};
use crate::segment::{self, segment_id};
use crate::shard::ShardView;
use crate::shard::core::LogHold;
use crate::shard::view::SegmentMap;
use crate::storage::{Storage, StorageFile};
use crate::summary::LiveSummary;
use crate::types::LogPosition;

/// How often the views are looked at until they have all that the manifest lists, and the pause between.
const TRIES_MAX: u32 = 100;
const TRY_PAUSE: Duration = Duration::from_millis(10);

/// All that a data directory needs to be made again as it was at one moment.
pub struct BackupView {
    /// When the data directory was made: with the number of shards, what tells it from others.
    pub created_ns: i64,
    /// Its shards.
    pub shards: u32,
    /// The moment, by the node's clock.
    pub taken_ns: i64,
    /// The manifest and the producers' heads: small, and held in memory.
    pub small: Vec<SmallFile>,
    /// Segments and what lies beside them: immutable, and there until the view goes.
    pub files: Vec<String>,
    logs: Vec<LogFile>,
    log_holds: Vec<Arc<LogHold>>,
    storage: Arc<dyn Storage>,
    /// Segments and summaries of each shard: no file goes before its last holder. Memtables are not held.
    held: Vec<(Arc<SegmentMap>, Arc<KeptSummaries>)>,
}

type KeptSummaries = HashMap<Arc<str>, Vec<Arc<LiveSummary>>>;

/// A file with its bytes.
pub struct SmallFile {
    /// Its name, relative to the data directory.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

struct LogFile {
    name: String,
    /// Bytes that count; `None` for all.
    end: Option<u64>,
}

impl Engine {
    /// This moment, for a backup: every row acknowledged before the call is in it. Flushes nothing, and holds up commits
    /// for no longer than one takes.
    ///
    /// # Errors
    /// When a shard is closed, or a file cannot be opened.
    pub fn backup_view(&self) -> Result<BackupView> {
        let mut ends = Vec::new();
        let mut log_holds = Vec::new();
        for shard in &self.shards {
            let (end, hold) = shard.sender.hold_log()?;
            ends.push(end);
            log_holds.push(hold);
        }
        let storage = Arc::clone(&self.storage);
        let mut tries = 0;
        let (manifest, views) = loop {
            let manifest = self.manifest.lock();
            let views: Vec<Arc<ShardView>> = self.shards.iter().map(|shard| shard.view.load()).collect();
            tries += 1;
            // What readers do not see after that long was set aside; nobody will remove it.
            if has_all(&views, manifest.state()) || tries > TRIES_MAX {
                break (manifest, views);
            }
            // An edit is durable before readers see what it brought: for a moment the views are behind.
            drop(manifest);
            std::thread::sleep(TRY_PAUSE);
        };
        let state = manifest.state().clone();
        // The next flush removes these, so they are read before it can.
        let mut small = read_heads(&*storage, &state)?;
        drop(manifest);
        small.push(manifest::snapshot_file(&state));
        Ok(BackupView {
            created_ns: state.created_ns,
            shards: state.shard_count,
            taken_ns: self.now_ns(),
            small,
            files: state.lasting_files(),
            logs: log_files(&*storage, &state, &ends)?,
            log_holds,
            storage,
            held: views.iter().map(|view| (Arc::clone(&view.segments), Arc::clone(&view.kept))).collect(),
        })
    }
}

impl BackupView {
    /// Gives the logs, file by file with all the bytes that count, and then lets go of them: until this has been called the
    /// node cannot give up any log file.
    ///
    /// # Errors
    /// When a file cannot be read, or `visit` fails.
    pub fn take_logs<E: From<Error>>(&mut self, mut visit: impl FnMut(SmallFile) -> Result<(), E>) -> Result<(), E> {
        for log in std::mem::take(&mut self.logs) {
            let bytes = read_up_to(&*self.storage, &log.name, log.end)?;
            visit(SmallFile { name: log.name, bytes })?;
        }
        self.log_holds.clear();
        Ok(())
    }

    /// Opens one of [`Self::files`] to read.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self, name: &str) -> Result<Box<dyn StorageFile>> {
        self.storage.open(name).map_err(Error::io("open", name))
    }

    /// Checks all checksums of one of [`Self::files`] that is a segment: each kind of damage in words.
    pub fn damage(&self, name: &str) -> Vec<String> {
        let Some(id) = name.strip_prefix("seg/").and_then(segment_id) else { return Vec::new() };
        let mut all = self.held.iter().flat_map(|(tables, _)| tables.values().flatten());
        let found = all.find(|live| live.meta.id == id);
        found.map_or_else(Vec::new, |live| segment::verify(&live.segment).iter().map(ToString::to_string).collect())
    }
}

/// Whether readers see every segment and summary that the manifest lists.
fn has_all(views: &[Arc<ShardView>], state: &ManifestState) -> bool {
    let segments = || views.iter().flat_map(|view| view.segments.values().flatten());
    let seen: HashSet<u64> = segments().map(|live| live.meta.id).collect();
    let kept = views.iter().flat_map(|view| view.kept.values().flatten());
    let summaries: HashSet<u64> =
        segments().flat_map(|live| &live.summaries).chain(kept).map(|summary| summary.meta.id).collect();
    state.segments.keys().all(|id| seen.contains(id)) && state.summaries.keys().all(|(_, id)| summaries.contains(id))
}

fn read_heads(storage: &dyn Storage, state: &ManifestState) -> Result<Vec<SmallFile>> {
    let read = |name: String| {
        let bytes = storage.read(&name).map_err(Error::io("read", &*name))?;
        Ok(SmallFile { name, bytes })
    };
    state.heads_names().into_iter().map(read).collect()
}

/// Log files between what segments cover and each shard's end.
fn log_files(storage: &dyn Storage, state: &ManifestState, ends: &[LogPosition]) -> Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for (shard, (from, end)) in (0..).zip(state.released.iter().zip(ends)) {
        // Also when segments have everything: replay wants the file that it starts in, and takes its lack for damage.
        let end = from.max(end);
        for (generation, name) in device_log::files(storage, shard)? {
            if (from.generation..=end.generation).contains(&generation) {
                // Bytes behind the end are of later groups, of which some may be half written.
                files.push(LogFile { name, end: (generation == end.generation).then_some(end.offset) });
            }
        }
    }
    Ok(files)
}

fn read_up_to(storage: &dyn Storage, name: &str, end: Option<u64>) -> Result<Vec<u8>> {
    let file = storage.open(name).map_err(Error::io("open", name))?;
    let len = file.len().map_err(Error::io("read", name))?;
    let wanted = match end {
        // Without a record: of the page of its header a crash may have left the first sectors only.
        Some(end) if end <= device_log::RECORDS_START => end.min(len),
        Some(end) => end,
        None => len,
    };
    let mut bytes = vec![0; wanted as usize];
    let filled = file.read_at(0, &mut bytes).map_err(Error::io("read", name))?;
    if (filled as u64) < wanted {
        let found = format!("{filled} bytes");
        return Err(Error::corruption(
            name,
            filled as u64,
            format!("{wanted} bytes that were written and synced"),
            found,
        ));
    }
    Ok(bytes)
}
