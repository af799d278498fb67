//! Owns what is known of places that cannot be read: in files, and in answers that went without them; reads nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;

use crate::error::Error;
use crate::manifest::SegmentMeta;
use crate::segment::segment_name;

/// Places that are remembered one by one, for a segment and for an answer; further ones are counted.
const PLACES_MAX: usize = 1_000;

/// A place in a segment that cannot be read, and what may be missing because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPlace {
    /// The file, relative to the data directory.
    pub path: String,
    /// Where in it.
    pub offset: u64,
    /// The table whose rows it held.
    pub table: Arc<str>,
    /// The device whose rows it held; `None` when they may be anybody's.
    pub device: Option<Arc<str>>,
    /// First time of a row that may be missing.
    pub first_ns: i64,
    /// Last time of such a row, inclusive.
    pub last_ns: i64,
    /// Rows that are missing; 0 when it is not known.
    pub rows: u64,
    /// What was expected there, and what was found.
    pub cause: String,
}

impl DamagedPlace {
    /// The damage again, as the error that a reader gets who does not go without.
    pub fn error(&self) -> Error {
        Error::corruption(&*self.path, self.offset, "undamaged bytes", &*self.cause)
    }
}

impl std::fmt::Display for DamagedPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at offset {}: table {}", self.path, self.offset, self.table)?;
        match &self.device {
            Some(device) => write!(f, ", device {device}")?,
            None => write!(f, ", any device")?,
        }
        match self.rows {
            0 => write!(f, ", rows from {} to {} ns", self.first_ns, self.last_ns)?,
            rows => write!(f, ", {rows} rows from {} to {} ns", self.first_ns, self.last_ns)?,
        }
        write!(f, ": {}", self.cause)
    }
}

/// What is wrong with an error's file, when the error is damage.
pub(crate) fn cause_of(error: &Error) -> Option<(&str, u64, String)> {
    match error {
        Error::Corruption { path, offset, expected, found } => {
            Some((path, *offset, format!("expected {expected}, found {found}")))
        }
        _ => None,
    }
}

#[derive(Debug, Default)]
struct Kept {
    places: Vec<DamagedPlace>,
    more: u64,
}

/// Places of one segment that readers found damaged. They are not read again while the segment is open.
#[derive(Debug, Default)]
pub struct KnownDamage {
    kept: Mutex<Kept>,
    /// So that readers of an undamaged segment take no lock.
    count: AtomicU64,
}

impl KnownDamage {
    /// Whether nothing is damaged, as far as anybody has looked.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// How many places are known.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// The damage that was found at `offset`.
    pub fn at(&self, offset: u64) -> Option<DamagedPlace> {
        if self.is_empty() {
            return None;
        }
        self.kept.lock().places.iter().find(|place| place.offset == offset).cloned()
    }

    /// All places that are remembered.
    pub fn places(&self) -> Vec<DamagedPlace> {
        if self.is_empty() { Vec::new() } else { self.kept.lock().places.clone() }
    }

    /// Takes note of a place. One that is known may get a device.
    pub fn note(&self, place: DamagedPlace) {
        let mut kept = self.kept.lock();
        match kept.places.iter_mut().find(|known| known.offset == place.offset) {
            Some(known) => known.device = known.device.take().or(place.device),
            None => {
                tracing::error!(damage = %place, "a damaged place in a segment is left out from here on");
                if kept.places.len() < PLACES_MAX {
                    kept.places.push(place);
                } else {
                    kept.more += 1;
                }
                self.count.store(kept.places.len() as u64 + kept.more, Ordering::Release);
            }
        }
    }
}

/// What an answer went without. One for each question; shared by all that read for it.
#[derive(Debug, Default)]
pub struct Skipped(Mutex<Kept>);

impl Skipped {
    /// Takes note of a place, once.
    pub fn note(&self, place: DamagedPlace) {
        let mut kept = self.0.lock();
        if kept.places.contains(&place) {
            return;
        }
        if kept.places.len() < PLACES_MAX {
            kept.places.push(place);
        } else {
            kept.more += 1;
        }
    }

    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.0.lock().places.is_empty()
    }

    /// The places, and the number of further ones.
    pub fn places(&self) -> (Vec<DamagedPlace>, u64) {
        let kept = self.0.lock();
        (kept.places.clone(), kept.more)
    }
}

/// A segment that the manifest names and that cannot be opened. Everything else is served without it.
#[derive(Clone, Debug)]
pub struct SetAside {
    /// What the manifest says of it.
    pub meta: SegmentMeta,
    /// What is wrong with it.
    pub place: DamagedPlace,
}

impl SetAside {
    /// A segment whose opening failed with `error`; gives the error back when that says nothing about the file.
    pub(crate) fn new(meta: SegmentMeta, error: Error) -> Result<Self, Error> {
        let (offset, cause) = match &error {
            Error::Corruption { offset, expected, found, .. } => {
                (*offset, format!("expected {expected}, found {found}"))
            }
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                (0, "the file is missing".to_owned())
            }
            Error::Io { source, .. } if source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                (0, source.to_string())
            }
            _ => return Err(error),
        };
        let place = DamagedPlace {
            path: segment_name(meta.id),
            offset,
            table: Arc::clone(&meta.table),
            device: None,
            first_ns: meta.time_min,
            last_ns: meta.time_max,
            rows: meta.rows,
            cause,
        };
        Ok(Self { meta, place })
    }
}

/// All damage that a running engine knows of.
#[derive(Clone, Debug, Default)]
pub struct DamageReport {
    /// Segments that could not be opened.
    pub set_aside: Vec<DamagedPlace>,
    /// Places in open segments; the first ones.
    pub places: Vec<DamagedPlace>,
    /// How many of those there are.
    pub place_count: u64,
    /// What was wrong with the logs when the engine was opened, a line each.
    pub log: Vec<String>,
}

impl DamageReport {
    /// Whether nothing is damaged, as far as anybody has looked.
    pub fn is_empty(&self) -> bool {
        self.set_aside.is_empty() && self.place_count == 0 && self.log.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u64, device: Option<&str>) -> DamagedPlace {
        DamagedPlace {
            path: "seg/1.seg".into(),
            offset,
            table: "t".into(),
            device: device.map(Arc::from),
            first_ns: 0,
            last_ns: 9,
            rows: 10,
            cause: "expected a, found b".into(),
        }
    }

    #[test]
    fn a_place_is_known_once_and_learns_its_device() {
        let known = KnownDamage::default();
        assert!(known.is_empty() && known.at(7).is_none());
        known.note(place(7, None));
        known.note(place(7, Some("d")));
        known.note(place(7, None));
        assert_eq!((known.count(), known.places()), (1, vec![place(7, Some("d"))]));
        (0..2 * PLACES_MAX as u64).for_each(|at| known.note(place(100 + at, None)));
        assert_eq!((known.count(), known.places().len()), (2 * PLACES_MAX as u64 + 1, PLACES_MAX));
    }

    #[test]
    fn only_what_the_file_is_to_blame_for_sets_it_aside() {
        let meta = SegmentMeta {
            id: 1,
            shard: 0,
            table: "t".into(),
            level: 0,
            seq_min: 1,
            seq_max: 1,
            rows: 3,
            bytes: 9,
            time_min: 0,
            time_max: 9,
            clean: 0,
        };
        let io = |kind: std::io::ErrorKind| Error::io("open", "seg/1.seg")(kind.into());
        assert!(SetAside::new(meta.clone(), io(std::io::ErrorKind::NotFound)).is_ok());
        assert!(SetAside::new(meta.clone(), io(std::io::ErrorKind::PermissionDenied)).is_err());
        assert!(SetAside::new(meta.clone(), Error::corruption("seg/1.seg", 3, "a", "b")).is_ok());
        let newer = Error::NewerFormat { path: "seg/1.seg".into(), format: "segment", found: 9, supported: 1 };
        assert!(SetAside::new(meta, newer).is_err());
    }
}
