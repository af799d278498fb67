//! Owns making a damaged data directory serve again: what can be read is kept, what cannot is named and set aside.
//!
//! Nothing is deleted: whole files go to the folder `lost` before others take their place. A crash at any point leaves a
//! directory that can be opened, verified and repaired again.
//!
//! - `salvage`: what can be read of a damaged segment, as a new one

mod salvage;

use std::sync::Arc;

use tidewell_codec::{BatchLimits, decode_batch};

use crate::device_log::{Damage, RECORD_HEADER_BYTES, dump, retire};
use crate::error::{Error, Result};
use crate::manifest::{Edit, Manifest, ManifestState, SegmentMeta, heads_name, read_heads, write_heads};
use crate::recovery::devices_in;
use crate::segment::{Segment, segment_name, verify as verify_segment};
use crate::storage::{Storage, write_new_file};
use crate::summary::{Summary, SummaryMeta, summary_name, verify as verify_summary};

/// Folder of files that were set aside, within the data directory.
pub const LOST_DIR: &str = "lost";

/// What cannot be read any more, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The damaged file.
    pub path: String,
    /// The table; empty when it is not known.
    pub table: String,
    /// The device; `None` when it may be any.
    pub device: Option<String>,
    /// The only field that is lost; `None` when it is whole rows.
    pub field: Option<String>,
    /// First time of what is lost; `i64::MIN` when it is not known.
    pub first_ns: i64,
    /// Last time of what is lost, inclusive; `i64::MAX` when it is not known.
    pub last_ns: i64,
    /// Rows; `None` when it is not known.
    pub rows: Option<u64>,
    /// What was expected in the file, and what was found.
    pub cause: String,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Steps, in order.
    pub steps: Vec<String>,
    /// What cannot be read any more.
    pub lost: Vec<Lost>,
    /// Damage that stays, and why.
    pub left: Vec<String>,
    /// Rows of damaged segments that were kept.
    pub rows_kept: u64,
}

impl RepairReport {
    /// Whether there was nothing to repair.
    pub fn is_sound(&self) -> bool {
        self.steps.is_empty() && self.lost.is_empty() && self.left.is_empty()
    }
}

/// Repairs the directory behind `storage`, or with `dry_run` only finds out what a repair would do.
///
/// # Errors
/// Another process has the directory, a newer format, a manifest that cannot be read, or a failed read or write.
pub fn repair(storage: &Arc<dyn Storage>, dry_run: bool) -> Result<RepairReport> {
    let _lock = storage.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked,
        _ => Error::io("lock", "LOCK")(error),
    })?;
    let (state, _) = Manifest::inspect(&**storage)?;
    let mut repair = Repair {
        storage,
        dry_run,
        next_segment: state.next_segment_id.max(1),
        next_heads: state.next_heads_id.max(1),
        edits: Vec::new(),
        replaced: Vec::new(),
        report: RepairReport::default(),
    };
    for meta in state.segments.values() {
        // What was told of a segment that is replaced goes with it: its rows answer.
        if let Some(segment) = repair.segment(meta)? {
            for summary in state.summaries_of(meta.id) {
                repair.summary(summary, Some(&segment))?;
            }
        }
    }
    for summary in state.summaries.values().filter(|summary| !state.segments.contains_key(&summary.segment)) {
        repair.summary(summary, None)?;
    }
    for shard in 0..state.shard_count {
        repair.heads(&state, shard)?;
    }
    repair.take_effect()?;
    // The logs last: what is done to them needs no edit.
    for shard in 0..state.shard_count {
        repair.log(&state, shard)?;
    }
    Ok(repair.report)
}

struct Repair<'a> {
    storage: &'a Arc<dyn Storage>,
    dry_run: bool,
    next_segment: u64,
    next_heads: u64,
    /// Take effect together.
    edits: Vec<Edit>,
    /// Files that nothing names once the edits are in effect. Copies of them are in `lost` by then.
    replaced: Vec<String>,
    report: RepairReport,
}

impl Repair<'_> {
    /// The segment when it is sound; else a new one takes its place.
    fn segment(&mut self, meta: &SegmentMeta) -> Result<Option<Arc<Segment>>> {
        let name = segment_name(meta.id);
        match Segment::open(&**self.storage, &name) {
            Ok(segment) if verify_segment(&segment).is_empty() => return Ok(Some(segment)),
            Err(error @ Error::NewerFormat { .. }) => return Err(error),
            _ => {}
        }
        let number = (!self.dry_run).then(|| {
            self.next_segment += 1;
            self.next_segment - 1
        });
        let salvaged = salvage::salvage(self.storage, meta, number)?;
        self.report.rows_kept += salvaged.rows;
        self.report.steps.push(match salvaged.rows {
            0 => format!("{name}: none of its {} rows can be read; the file is set aside", meta.rows),
            rows => format!("{name}: {rows} of its {} rows go into a new segment; the file is set aside", meta.rows),
        });
        self.report.lost.extend(salvaged.lost);
        self.set_aside(&name)?;
        self.edits.push(Edit::SegmentRemoved { id: meta.id });
        self.edits.extend(salvaged.meta.map(Edit::SegmentAdded));
        self.replaced.push(name);
        Ok(None)
    }

    /// Forgets a damaged summary. Only where the segment is gone is anything lost by it.
    fn summary(&mut self, meta: &SummaryMeta, segment: Option<&Arc<Segment>>) -> Result<()> {
        let name = summary_name(meta.id);
        let cause = match Summary::open(&**self.storage, &name) {
            Ok(summary) => verify_summary(&summary, segment).first().map(ToString::to_string),
            Err(Error::Io { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("read", name)(source));
            }
            Err(error @ Error::NewerFormat { .. }) => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        let Some(cause) = cause else { return Ok(()) };
        let answers = if segment.is_some() { "; rows answer in its place" } else { "" };
        self.report.steps.push(format!("{name}: set aside{answers}"));
        if segment.is_none() {
            self.report.lost.push(Lost {
                path: name.clone(),
                table: meta.table.to_string(),
                device: None,
                field: None,
                first_ns: meta.time_min,
                last_ns: meta.time_max,
                rows: None,
                cause: format!("steps of {} whose rows retention has removed: {cause}", meta.step.name()),
            });
        }
        self.set_aside(&name)?;
        self.edits.push(Edit::SummaryRemoved { segment: meta.segment, id: meta.id });
        self.replaced.push(name);
        Ok(())
    }

    fn heads(&mut self, state: &ManifestState, shard: u32) -> Result<()> {
        let Some(number) = state.heads_files[shard as usize] else { return Ok(()) };
        let cause = match read_heads(&**self.storage, shard, number) {
            Ok(_) => return Ok(()),
            Err(Error::Io { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("read", heads_name(shard, number))(source));
            }
            Err(error @ Error::NewerFormat { .. }) => return Err(error),
            Err(error) => error.to_string(),
        };
        let name = heads_name(shard, number);
        self.report.steps.push(format!(
            "{name}: set aside ({cause}); no row is lost, but batches of shard {shard} that are sent again are taken for new ones"
        ));
        self.set_aside(&name)?;
        if !self.dry_run {
            write_heads(&**self.storage, shard, self.next_heads, &[])?;
        }
        self.edits.push(Edit::ProducerHeads { shard, number: self.next_heads });
        self.next_heads += 1;
        self.replaced.push(name);
        Ok(())
    }

    /// One edit of the manifest, then the files that it no longer names.
    fn take_effect(&mut self) -> Result<()> {
        if self.dry_run || self.edits.is_empty() {
            return Ok(());
        }
        let (mut manifest, _) = Manifest::open(Arc::clone(self.storage))?;
        manifest.append(&self.edits)?;
        for name in &self.replaced {
            match self.storage.remove(name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &**name)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn log(&mut self, state: &ManifestState, shard: u32) -> Result<()> {
        let from = state.released.get(shard as usize).copied().unwrap_or_default();
        let limits = BatchLimits::default();
        let mut unreadable = Vec::new();
        let replayed = dump(&**self.storage, shard, from, &mut |record| {
            if let Err(error) = decode_batch(record.payload, &limits) {
                unreadable.push((record.position, record.end, record.producer, record.seq, error.to_string()));
            }
            Ok(())
        })?;
        if let Some(cut) = &replayed.cut {
            // The next start cuts it; a repair has nothing to add.
            self.report.steps.push(format!("{cut}; the next start takes them out"));
        }
        for mut damage in replayed.damaged {
            damage.devices = devices_in(&**self.storage, &damage);
            self.retire(&damage)?;
        }
        for (position, end, producer, seq, cause) in unreadable {
            let path = format!("log/{shard:04}-{:016x}.log", position.generation);
            let damage = Damage {
                path,
                offset: position.offset,
                len: end.offset - position.offset,
                batch: Some((producer, seq)),
                devices: Vec::new(),
                reason: "a payload that is no batch",
            };
            debug_assert!(damage.len >= RECORD_HEADER_BYTES as u64);
            self.report.steps.push(format!("{}: batch {seq} of producer {producer} is no batch: {cause}", damage.path));
            self.retire(&damage)?;
        }
        Ok(())
    }

    /// Takes a damaged place of a log out of the way.
    fn retire(&mut self, damage: &Damage) -> Result<()> {
        let lost = |device: Option<String>| Lost {
            path: damage.path.clone(),
            table: String::new(),
            device,
            field: None,
            first_ns: i64::MIN,
            last_ns: i64::MAX,
            rows: None,
            cause: damage.to_string(),
        };
        // A file's header has no rows.
        if damage.batch.is_some() || damage.offset > 0 || damage.len == 0 {
            match &damage.devices[..] {
                [] => self.report.lost.push(lost(None)),
                devices => self.report.lost.extend(devices.iter().map(|device| lost(Some(device.clone())))),
            }
        }
        if !self.dry_run {
            self.set_aside(&damage.path)?;
            if !retire(&**self.storage, damage)? {
                self.report.left.push(format!("{damage}; it goes with the next flush of its shard"));
                return Ok(());
            }
        }
        self.report
            .steps
            .push(format!("{}: {} bytes at offset {} are taken out", damage.path, damage.len, damage.offset));
        Ok(())
    }

    /// Copies a file to `lost`, once.
    fn set_aside(&self, name: &str) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let target = format!("{LOST_DIR}/{}", name.rsplit('/').next().unwrap_or(name));
        if self.storage.exists(&target).map_err(Error::io("look for", &*target))? {
            return Ok(());
        }
        match self.storage.read(name) {
            Ok(bytes) => write_new_file(&**self.storage, &target, &bytes).map_err(Error::io("write", target)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("read", name)(error)),
        }
    }
}
