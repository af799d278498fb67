//! Owns deletes: what can be asked, how one takes effect, when it is done; does not rewrite files.

use std::sync::Arc;

use tidewell_codec::shard_of;

use super::masks::{applies, has_rows};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::limits::DEVICE_ID_BYTES_MAX;
use crate::manifest::{Edit, Erasure, ManifestState};
use crate::registry::Attributes;
use crate::segment::{Segment, segment_name};
use crate::shard::ShardView;
use crate::storage::Storage;
use crate::summary::{LiveSummary, summary_name};
use crate::upkeep::flush::Flusher;

/// Rows of one device that should go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// The table; `None` for all of them.
    pub table: Option<Arc<str>>,
    /// The device.
    pub device: Arc<str>,
    /// Times `[start, end)` (`i64::MAX` has no end); `None` for all of them.
    pub range: Option<(i64, i64)>,
}

impl Delete {
    /// Whether nothing of the device is left, so that its attributes go, too.
    pub fn is_whole_device(&self) -> bool {
        self.table.is_none() && self.range.is_none()
    }

    /// Checks what can be checked without the data.
    ///
    /// # Errors
    /// Says what is out of bounds.
    pub fn check(&self) -> Result<()> {
        if !(1..=DEVICE_ID_BYTES_MAX).contains(&self.device.len()) {
            let found = self.device.len();
            return Err(Error::Invalid(format!("a device id has 1 to {DEVICE_ID_BYTES_MAX} bytes, this one {found}")));
        }
        match self.range {
            Some((start, end)) if start >= end => {
                Err(Error::Invalid(format!("delete of device {}: the range {start}..{end} is empty", self.device)))
            }
            _ => Ok(()),
        }
    }
}

impl Engine {
    /// Takes rows of devices away: at once for readers, from the files with the merges to come. Rows that were acknowledged
    /// before the call are deleted, rows that come after it are not. Deletes of one shard take effect together.
    ///
    /// # Errors
    /// A device or a range out of bounds, a table that is not there; a failed write: a part may have taken effect then, and
    /// the same deletes may be asked for again.
    pub fn delete(&self, deletes: &[Delete]) -> Result<()> {
        for delete in deletes {
            delete.check()?;
            delete.table.as_deref().map_or(Ok(()), |table| self.require_table(table))?;
        }
        let mut by_shard: Vec<Vec<Delete>> = vec![Vec::new(); self.shards.len()];
        for delete in deletes {
            by_shard[shard_of(&delete.device, self.shard_count()) as usize].push(delete.clone());
        }
        let now_ns = self.clock.now_ns();
        let mut waits = Vec::new();
        for (shard, deletes) in self.shards.iter().zip(by_shard).filter(|(_, deletes)| !deletes.is_empty()) {
            waits.push(shard.sender.flush_then(move |flusher| delete_in_shard(flusher, &deletes, now_ns).map(drop))?);
        }
        waits.into_iter().try_for_each(|wait| wait.wait())?;
        for delete in deletes.iter().filter(|delete| delete.is_whole_device()) {
            if self.attributes.read().contains(&delete.device) {
                self.set_attributes(&delete.device, Attributes::new())?;
            }
        }
        Ok(())
    }
}

/// Makes `deletes` of one shard take effect. Runs on the thread that flushes, behind a flush of all that was acknowledged
/// before: no segment can appear between the flush number that is noted and the edit that notes it, and a merge that began
/// before has older inputs only. Returns how many erasures files still have to carry out.
fn delete_in_shard(flusher: &mut Flusher, deletes: &[Delete], now_ns: i64) -> Result<usize> {
    let view = flusher.view.load();
    let mut edits = Vec::new();
    for delete in deletes {
        let (start_ns, end_ns) = delete.range.unwrap_or((i64::MIN, i64::MAX));
        let erasure = Erasure {
            number: flusher.numbers.erasure(),
            shard: flusher.shard,
            table: delete.table.clone(),
            device: Arc::clone(&delete.device),
            start_ns,
            end_ns,
            before_seq: flusher.next_seq,
            created_ns: now_ns,
        };
        // What no file has need not be remembered.
        if is_pending(&erasure, &view) {
            edits.push(Edit::ErasureAdded(erasure));
        }
    }
    let mut manifest = flusher.manifest.lock();
    manifest.append(&edits)?;
    flusher.view.set_masks(manifest.state(), flusher.shard);
    Ok(edits.len())
}

/// Whether a file of the view still has rows of the erasure, or may have: an index that cannot be read is no proof, and
/// nobody can look into a segment that was set aside.
fn is_pending(erasure: &Erasure, view: &ShardView) -> bool {
    view.set_aside.iter().any(|aside| applies(erasure, &aside.meta))
        || view
            .segments
            .values()
            .flatten()
            .any(|live| applies(erasure, &live.meta) && has_rows(erasure, &live.segment).unwrap_or(true))
        || view.kept.values().flatten().any(|live| live.has_steps(erasure).unwrap_or(true))
}

/// Numbers of erasures that no file of the view needs any more. They are not needed by any later view either: what is
/// flushed later came later, and a merge adds nothing to its inputs.
pub(super) fn finished(view: &ShardView) -> Vec<u64> {
    view.masks.erasures().filter(|erasure| !is_pending(erasure, view)).map(|erasure| erasure.number).collect()
}

/// Each erasure with the files that still have rows of it; for offline inspection.
///
/// # Errors
/// A damaged or missing file.
pub fn pending_files(storage: &Arc<dyn Storage>, state: &ManifestState) -> Result<Vec<(Erasure, Vec<String>)>> {
    let mut all: Vec<(Erasure, Vec<String>)> =
        state.erasures.values().map(|erasure| (erasure.clone(), Vec::new())).collect();
    for meta in state.segments.values() {
        if !all.iter().any(|(erasure, _)| applies(erasure, meta)) {
            continue;
        }
        let name = segment_name(meta.id);
        let segment = Segment::open(&**storage, &name)?;
        for (erasure, files) in all.iter_mut().filter(|(erasure, _)| applies(erasure, meta)) {
            if has_rows(erasure, &segment)? {
                files.push(name.clone());
            }
        }
    }
    for meta in state.summaries.values().filter(|meta| !state.segments.contains_key(&meta.segment)) {
        let live = LiveSummary::open(storage, meta.clone())?;
        for (erasure, files) in &mut all {
            if live.has_steps(erasure)? {
                files.push(summary_name(meta.id));
            }
        }
    }
    Ok(all)
}
