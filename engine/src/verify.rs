//! Owns the offline check of a data directory: every checksum and invariant; repairs nothing.

use std::sync::Arc;

use tidewell_codec::{BatchLimits, decode_batch};

use crate::device_log::dump;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, orphans, read_heads};
use crate::segment::{Segment, segment_name, verify as verify_segment};
use crate::storage::Storage;
use crate::summary::{Summary, SummaryMeta, summary_name, verify as verify_summary};
use crate::upkeep::order_violations;

/// What a check found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Segments read to the last block.
    pub segments: u64,
    /// Rows in them.
    pub segment_rows: u64,
    /// Summaries read to the last step, and compared with their segments' rows.
    pub summaries: u64,
    /// Log records that no segment covers.
    pub log_records: u64,
    /// Rows in them.
    pub log_rows: u64,
    /// Things to know that are no damage: a torn tail, files that the next open removes.
    pub notes: Vec<String>,
    /// Damage, each with file, place, expected and found.
    pub damage: Vec<String>,
}

/// Reads everything in the directory behind `storage` without changing it.
///
/// # Errors
/// Another process has the directory, or the manifest cannot be read at all: nothing can be said of the rest then.
pub fn verify(storage: &Arc<dyn Storage>) -> Result<VerifyReport> {
    let _lock = storage.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked,
        _ => Error::io("lock", "LOCK")(error),
    })?;
    let mut report = VerifyReport::default();
    let (state, manifest) = Manifest::inspect(&**storage)?;
    report.notes.extend(manifest.cut.map(|(offset, bytes)| {
        format!("{}: {bytes} bytes at offset {offset} were torn by a crash and are cut at the next open", manifest.path)
    }));
    let mut opened = Vec::new();
    for meta in state.segments.values() {
        let name = segment_name(meta.id);
        match Segment::open(&**storage, &name) {
            Ok(segment) => {
                report.segments += 1;
                report.segment_rows += segment.rows();
                if (segment.rows(), segment.shard()) != (meta.rows, meta.shard) {
                    report.damage.push(format!(
                        "{name}: the manifest says {} rows of shard {}, the segment {} rows of shard {}",
                        meta.rows,
                        meta.shard,
                        segment.rows(),
                        segment.shard()
                    ));
                }
                report.damage.extend(verify_segment(&segment).iter().map(ToString::to_string));
                opened.push((meta.clone(), Arc::clone(&segment)));
                state.summaries_of(meta.id).for_each(|meta| check_summary(storage, meta, Some(&segment), &mut report));
            }
            Err(error) => {
                report.damage.push(error.to_string());
                state.summaries_of(meta.id).for_each(|meta| check_summary(storage, meta, None, &mut report));
            }
        }
    }
    report.damage.extend(order_violations(&opened));
    for meta in state.summaries.values().filter(|meta| !state.segments.contains_key(&meta.segment)) {
        check_summary(storage, meta, None, &mut report);
    }
    for shard in 0..state.shard_count {
        if let Some(number) = state.heads_files[shard as usize]
            && let Err(error) = read_heads(&**storage, shard, number)
        {
            report.damage.push(error.to_string());
        }
        let from = state.released.get(shard as usize).copied().unwrap_or_default();
        let limits = BatchLimits::default();
        let replayed = dump(&**storage, shard, from, &mut |record| {
            match decode_batch(record.payload, &limits) {
                Ok(batch) => report.log_rows += batch.times.len() as u64,
                Err(error) => report.damage.push(format!(
                    "log of shard {shard}, generation {}, offset {}: batch {} of producer {} cannot be read: {error}",
                    record.position.generation, record.position.offset, record.seq, record.producer
                )),
            }
            Ok(())
        })?;
        report.log_records += replayed.records;
        report.notes.extend(replayed.cut.iter().map(ToString::to_string));
        report.damage.extend(replayed.damaged.iter().map(ToString::to_string));
    }
    report.notes.extend(
        orphans(&**storage, &state)?
            .into_iter()
            .map(|name| format!("{name} is in no manifest; the next open removes it")),
    );
    Ok(report)
}

fn check_summary(
    storage: &Arc<dyn Storage>,
    meta: &SummaryMeta,
    segment: Option<&Arc<Segment>>,
    report: &mut VerifyReport,
) {
    let name = summary_name(meta.id);
    let summary = match Summary::open(&**storage, &name) {
        Ok(summary) => summary,
        Err(error) => return report.damage.push(error.to_string()),
    };
    report.summaries += 1;
    let found = (summary.segment(), summary.shard(), summary.step(), summary.steps());
    let listed = (meta.segment, meta.shard, meta.step, meta.rows);
    if found != listed {
        report.damage.push(format!(
            "{name}: the manifest says {listed:?} of segment, shard, step and count, the summary {found:?}"
        ));
    }
    report.damage.extend(verify_summary(&summary, segment).iter().map(ToString::to_string));
}
