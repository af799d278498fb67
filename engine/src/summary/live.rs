//! Owns a summary that readers see; its file goes with the last of them once it was replaced.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::reader::Summary;
use super::{SummaryMeta, summary_name};
use crate::error::Result;
use crate::manifest::Erasure;
use crate::storage::Storage;

/// An open summary.
pub struct LiveSummary {
    /// What the manifest says of it.
    pub meta: SummaryMeta,
    /// The reader.
    pub summary: Arc<Summary>,
    storage: Arc<dyn Storage>,
    replaced: AtomicBool,
}

impl LiveSummary {
    /// Opens a summary that the manifest lists, or is about to.
    ///
    /// # Errors
    /// A damaged header, trailer or root.
    pub fn open(storage: &Arc<dyn Storage>, meta: SummaryMeta) -> Result<Arc<Self>> {
        let summary = Summary::open(&**storage, &summary_name(meta.id))?;
        Ok(Arc::new(Self { meta, summary, storage: Arc::clone(storage), replaced: AtomicBool::new(false) }))
    }

    /// The same summary after its table got another name. What older snapshots hold stays readable when this one's file goes.
    pub(crate) fn renamed(&self, table: &Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            meta: SummaryMeta { table: Arc::clone(table), ..self.meta.clone() },
            summary: Arc::clone(&self.summary),
            storage: Arc::clone(&self.storage),
            replaced: AtomicBool::new(false),
        })
    }

    /// Whether it tells, in the place of rows, of some that the erasure deletes.
    ///
    /// # Errors
    /// Damage of the index or of the device's entry.
    pub(crate) fn has_steps(&self, erasure: &Erasure) -> Result<bool> {
        let (first, last) = erasure.span();
        if erasure.shard != self.meta.shard
            || self.meta.seq_max >= erasure.before_seq
            || self.meta.time_min > last
            || self.meta.time_max < first
            || !erasure.covers_table(&self.meta.table)
        {
            return Ok(false);
        }
        let Some(entry) = self.summary.find(&erasure.device)? else { return Ok(false) };
        let step = self.meta.step;
        Ok(!entry.decode()?.find(step.number(first)..step.number(last).saturating_add(1)).is_empty())
    }

    /// Says that the manifest no longer lists it: the file is removed when the last query lets go.
    pub fn mark_replaced(&self) {
        self.replaced.store(true, Ordering::Release);
    }
}

/// Opens summaries that the manifest lists. One that cannot be opened is left out and said in `findings`: while its segment
/// is there, rows answer in its place.
///
/// # Errors
/// A want of maps or descriptors: the summary is whole, and may be all that is left of rows.
pub(crate) fn open_listed<'a>(
    storage: &Arc<dyn Storage>,
    metas: impl Iterator<Item = &'a SummaryMeta>,
    findings: &mut Vec<String>,
) -> Result<Vec<Arc<LiveSummary>>> {
    let mut out = Vec::new();
    for meta in metas {
        match LiveSummary::open(storage, meta.clone()) {
            Ok(live) => out.push(live),
            Err(error) if error.is_shortage() => return Err(error),
            Err(error) => findings.push(format!("summary of steps of {} is not used: {error}", meta.step)),
        }
    }
    Ok(out)
}

impl Drop for LiveSummary {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Acquire)
            && let Err(error) = self.storage.remove(self.summary.name())
        {
            // Not in the manifest any more, so the next open removes it as an orphan.
            tracing::warn!(summary = %self.summary.name(), %error, "cannot remove a replaced summary");
        }
    }
}
