//! Owns the only truth about what the data directory holds: an append-only file of edits; does not act on them.
//!
//! - `edit`, `bytes`: the bytes (`docs/format/manifest.md`)
//! - `erasure`: what they say about rows that are gone
//! - `state`: what the edits add up to
//! - `heads`: files of what each producer had reached
//! - `orphans`: files that the state does not name

mod bytes;
mod edit;
mod erasure;
mod heads;
mod orphans;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

pub use edit::{Edit, FORMAT_VERSION};
use edit::{FILE_HEADER_BYTES, HeaderFault, RECORD_ALIGN, RECORD_HEADER_BYTES};
pub use erasure::{Erasure, Retention};
pub use heads::{heads_name, read_heads, write_heads};
pub use orphans::orphans;
pub use state::{ManifestState, SegmentMeta};

use crate::backup::SmallFile;
use crate::error::{Error, Result};
use crate::planted::{self, Bug};
use crate::storage::{Storage, StorageFile, write_new_file};

const DIR: &str = "manifest";
/// A manifest below this size is not rewritten.
const REWRITE_BYTES_MIN: u64 = 1 << 20;
/// A manifest is rewritten when it is this many times as large as it was when it was last written anew.
const REWRITE_GROWTH: u64 = 4;

/// The open manifest.
pub struct Manifest {
    storage: Arc<dyn Storage>,
    number: u64,
    /// `None` before the first edit.
    file: Option<Box<dyn StorageFile>>,
    end: u64,
    /// Bytes of the file when it was written anew.
    base: u64,
    state: ManifestState,
    /// The file is of an older version: the next edits go into a new one, whose version tells older programs to keep off.
    outdated: bool,
    /// Set once; shared, so that who asks for it does not wait for a sync.
    poison: Arc<OnceLock<String>>,
    recovered: ManifestReport,
}

/// What opening a manifest found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestReport {
    /// The file that was read; empty for a new directory.
    pub path: String,
    /// Its records.
    pub records: u64,
    /// Offset and bytes of a last record that a crash tore; it was never in effect.
    pub cut: Option<(u64, u64)>,
}

impl Manifest {
    /// Reads the manifest and gives what it adds up to; an empty state when there is none yet (the first edit of which
    /// must be [`Edit::Created`]).
    ///
    /// # Errors
    /// When it cannot be read, is damaged before its last record, or is of a newer version.
    pub fn open(storage: Arc<dyn Storage>) -> Result<(Self, ManifestState)> {
        let numbers = numbers(&*storage)?;
        let mut manifest = Self {
            number: numbers.last().copied().unwrap_or(0),
            storage,
            file: None,
            end: 0,
            base: 0,
            state: ManifestState::default(),
            outdated: false,
            poison: Arc::default(),
            recovered: ManifestReport::default(),
        };
        let Some((newest, older)) = numbers.split_last() else {
            return Ok((manifest, ManifestState::default()));
        };
        let name = file_name(*newest);
        let mut file = manifest.storage.open(&name).map_err(Error::io("open", &*name))?;
        let bytes = manifest.storage.read(&name).map_err(Error::io("read", &*name))?;
        let read = read(&name, *newest, &bytes)?;
        if read.end < bytes.len() as u64 {
            // Remains of the torn record go now, so that they cannot be taken for damage behind a later record.
            file.set_len(read.end).map_err(Error::io("cut", &*name))?;
        }
        // After the death of a process its last record may be in the page cache only, and what is read counts from here on.
        // A sync alone would not do: where one has failed, the system keeps showing what it could not write, and takes it
        // for written. Only the last record can be such a one, because nothing is written behind a failed sync.
        let last = &bytes[read.last as usize..read.end as usize];
        if !planted::is(Bug::TrustPageCache) {
            file.write_at(read.last, last).map_err(Error::io("write", &*name))?;
        }
        file.sync_data().map_err(Error::io("sync", &*name))?;
        manifest.storage.sync_dir(DIR).map_err(Error::io("sync", DIR))?;
        for number in older {
            let old = file_name(*number);
            manifest.storage.remove(&old).map_err(Error::io("remove", old))?;
        }
        manifest.file = Some(file);
        (manifest.end, manifest.base) = (read.end, read.base);
        manifest.outdated = read.version < FORMAT_VERSION;
        manifest.recovered = read.report;
        manifest.state = read.state;
        let state = manifest.state.clone();
        Ok((manifest, state))
    }

    /// Reads the manifest without changing anything; for offline inspection.
    ///
    /// # Errors
    /// As [`Manifest::open`].
    pub fn inspect(storage: &dyn Storage) -> Result<(ManifestState, ManifestReport)> {
        let Some(number) = numbers(storage)?.last().copied() else {
            return Ok(Default::default());
        };
        let name = file_name(number);
        let bytes = storage.read(&name).map_err(Error::io("read", &*name))?;
        let read = read(&name, number, &bytes)?;
        Ok((read.state, read.report))
    }

    /// Makes edits durable, all or none of them, and applies them.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they contradict the state, or a state that passes ([`Error::passes`]): nothing changed, go
    /// on later. After any other error the manifest refuses all further edits.
    pub fn append(&mut self, edits: &[Edit]) -> Result<()> {
        self.check_poison()?;
        if edits.is_empty() {
            return Ok(());
        }
        // Attributes may be many and never contradict anything, so the trial does without them.
        let attributes = std::mem::take(&mut self.state.attributes);
        let mut trial = self.state.clone();
        self.state.attributes = attributes;
        for edit in edits {
            trial.apply(edit).map_err(Error::Invalid)?;
        }
        let grown = self.end >= REWRITE_BYTES_MIN.max(self.base.saturating_mul(REWRITE_GROWTH));
        if self.file.is_some() && !grown && !self.outdated {
            self.append_record(edits)?;
            apply_all(&mut self.state, edits);
        } else {
            let mut state = self.state.clone();
            apply_all(&mut state, edits);
            self.rewrite(&state)?;
            self.state = state;
        }
        Ok(())
    }

    /// Whether it takes edits. Once it does not, nobody knows until the next open whether the last one is there.
    pub fn is_sound(&self) -> bool {
        self.poison.get().is_none()
    }

    /// Why it stopped, once it has.
    pub fn stop_cause(&self) -> Arc<OnceLock<String>> {
        Arc::clone(&self.poison)
    }

    /// What all edits so far add up to.
    pub fn state(&self) -> &ManifestState {
        &self.state
    }

    /// What opening found.
    pub fn report(&self) -> &ManifestReport {
        &self.recovered
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    fn append_record(&mut self, edits: &[Edit]) -> Result<()> {
        let name = file_name(self.number);
        let Some(file) = &mut self.file else { unreachable!("the caller has a file") };
        let mut record = Vec::new();
        edit::encode_record(edits, self.number, self.end, &mut record);
        if let Err(source) = file.write_at(self.end, &record) {
            let error = Error::io("write", &*name)(source);
            // What was written of the record must be gone before another takes its place.
            if !error.is_disk_full() || file.set_len(self.end).and_then(|()| file.sync_data()).is_err() {
                self.stop(&error);
            }
            return Err(error);
        }
        if !planted::is(Bug::SkipManifestSync)
            && let Err(source) = file.sync_data()
        {
            let error = Error::io("sync", &*name)(source);
            self.stop(&error);
            return Err(error);
        }
        self.end += record.len() as u64;
        Ok(())
    }

    /// Writes `state` as the only record of the next file, and removes the file before.
    fn rewrite(&mut self, state: &ManifestState) -> Result<()> {
        let number = self.number + 1;
        let name = file_name(number);
        let mut bytes = edit::encode_file_header(number).to_vec();
        edit::encode_record(&state.snapshot(), number, FILE_HEADER_BYTES as u64, &mut bytes);
        let written = write_new_file(&*self.storage, &name, &bytes).and_then(|()| self.storage.open(&name));
        let file = match written {
            Ok(file) => file,
            Err(source) => {
                let error = Error::io("write", &*name)(source);
                // A full disk or a want of descriptors leaves a temporary file that the next attempt replaces. After any
                // other failure nobody knows whether the new file is there, and an edit in the old one could be overruled
                // by it.
                let renamed = self.storage.exists(&name).unwrap_or(true);
                if !error.passes() || renamed {
                    self.stop(&error);
                }
                return Err(error);
            }
        };
        if self.file.replace(file).is_some() {
            // The new file overrules the old one, so that one does no harm when it stays; open() removes it then.
            if let Err(error) = self.storage.remove(&file_name(self.number)) {
                tracing::warn!(path = file_name(self.number), %error, "could not remove an old manifest");
            }
        }
        self.number = number;
        self.outdated = false;
        self.end = bytes.len() as u64;
        self.base = self.end;
        Ok(())
    }

    fn stop(&self, error: &Error) {
        tracing::error!(%error, "the manifest stops taking edits until the next start");
        let _ = self.poison.set(error.to_string());
    }

    fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            Some(cause) => Err(Error::Invalid(format!(
                "the manifest stopped after a failed write or sync ({cause}); restart the node once the disk is healthy"
            ))),
            None => Ok(()),
        }
    }
}

/// The first manifest file of a data directory that is to hold `state`.
pub(crate) fn snapshot_file(state: &ManifestState) -> SmallFile {
    let mut bytes = edit::encode_file_header(1).to_vec();
    edit::encode_record(&state.snapshot(), 1, FILE_HEADER_BYTES as u64, &mut bytes);
    SmallFile { name: file_name(1), bytes }
}

fn apply_all(state: &mut ManifestState, edits: &[Edit]) {
    for edit in edits {
        state.apply(edit).expect("the trial took the same edits");
    }
}

struct Read {
    state: ManifestState,
    version: u32,
    report: ManifestReport,
    /// Where the last whole record starts.
    last: u64,
    /// Where it ends.
    end: u64,
    /// Where the first one ends.
    base: u64,
}

fn read(name: &str, number: u64, bytes: &[u8]) -> Result<Read> {
    let version = match edit::check_file_header(bytes, number) {
        Ok(version) => version,
        Err(HeaderFault::Damaged(expected, found)) => return Err(Error::corruption(name, 0, expected, found)),
        Err(HeaderFault::Newer(found)) => {
            return Err(Error::NewerFormat {
                path: name.to_owned(),
                format: "manifest",
                found,
                supported: FORMAT_VERSION,
            });
        }
    };
    let mut state = ManifestState::default();
    let mut report = ManifestReport { path: name.to_owned(), ..ManifestReport::default() };
    let (mut at, mut base, mut last) = (FILE_HEADER_BYTES, 0, 0);
    while at < bytes.len() {
        let Some(body) = record_at(bytes, number, at) else {
            // The first record was synced before the file got its name, so it cannot be torn; and no record is written
            // before the one in front of it was synced.
            let damaged = base == 0 || (at + 1..bytes.len()).any(|next| is_header(bytes, number, next));
            if damaged {
                return Err(Error::corruption(name, at as u64, "a record with its checksum", "other bytes"));
            }
            report.cut = Some((at as u64, (bytes.len() - at) as u64));
            break;
        };
        let edits = edit::decode_edits(body)
            .map_err(|(expected, found)| Error::corruption(name, at as u64, expected, found))?;
        for edit in &edits {
            state
                .apply(edit)
                .map_err(|found| Error::corruption(name, at as u64, "an edit that fits those before it", found))?;
        }
        report.records += 1;
        last = at as u64;
        at = (at + RECORD_HEADER_BYTES + body.len()).next_multiple_of(RECORD_ALIGN);
        if base == 0 {
            base = at as u64;
        }
    }
    if base == 0 {
        return Err(Error::corruption(name, at as u64, "a first record", "the end of the file"));
    }
    Ok(Read { state, version, report, last, end: at as u64, base })
}

/// The edits of the record at `at`; `None` when there is no whole one.
fn record_at(bytes: &[u8], number: u64, at: usize) -> Option<&[u8]> {
    let (len, crc) = edit::decode_record_header(&bytes[at..], number, at as u64)?;
    let start = at + RECORD_HEADER_BYTES;
    // The filling up to the next record belongs to it: a file cut inside it was torn.
    bytes.get(start..(start + len).next_multiple_of(RECORD_ALIGN))?;
    let body = &bytes[start..start + len];
    (crc32c::crc32c(body) == crc).then_some(body)
}

fn is_header(bytes: &[u8], number: u64, at: usize) -> bool {
    at.is_multiple_of(RECORD_ALIGN) && edit::decode_record_header(&bytes[at..], number, at as u64).is_some()
}

fn file_name(number: u64) -> String {
    format!("{DIR}/{number:016x}.manifest")
}

/// Numbers of the manifest files, rising.
fn numbers(storage: &dyn Storage) -> Result<Vec<u64>> {
    let names = storage.list(DIR).map_err(Error::io("list", DIR))?;
    let number = |name: &String| {
        let number = u64::from_str_radix(name.strip_suffix(".manifest")?, 16).ok()?;
        (file_name(number).strip_prefix("manifest/") == Some(name)).then_some(number)
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
