//! Owns files in memory that know what a crash would leave; does not fail by itself.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::sync::Mutex;

use super::{Mapped, Storage, StorageFile};

/// The unit that a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A data directory in memory, for tests. Clones share it.
///
/// Synced and unsynced state are kept apart: [`Memory::crash`] gives one of the directories that a power loss at this
/// moment may leave.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    /// Changes of names since the last sync of their folder, oldest first.
    names_pending: Vec<NameChange>,
    capacity_bytes: Option<u64>,
    locked: bool,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, oldest first.
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone)]
struct NameChange {
    file: u64,
    remove: Option<String>,
    insert: Option<String>,
}

impl Memory {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses to hold more than `bytes` in all files together, as a full disk would.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity_bytes = bytes;
    }

    /// One of the directories that a power loss now may leave, chosen by `seed`: each unsynced sector is kept or lost on
    /// its own, each unsynced name change likewise. Seed 0 keeps nothing unsynced, seed `u64::MAX` keeps all.
    pub fn crash(&self, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let state = self.0.lock();
        let mut files = BTreeMap::new();
        for (id, file) in &state.files {
            let mut bytes = file.durable.clone();
            for change in &file.pending {
                change.apply_torn(&mut bytes, &mut chance);
            }
            files.insert(*id, File { durable: bytes.clone(), bytes, pending: Vec::new() });
        }
        let mut names = state.names_durable.clone();
        // A later change of the same file says nothing when an earlier one was lost: a rename that never was cannot be
        // renamed again.
        let mut lost = std::collections::BTreeSet::new();
        for change in &state.names_pending {
            if lost.contains(&change.file) || !chance.keep() {
                lost.insert(change.file);
                continue;
            }
            change.apply(&mut names);
        }
        let linked: std::collections::BTreeSet<u64> = names.values().copied().collect();
        files.retain(|id, _| linked.contains(id));
        Self(Arc::new(Mutex::new(State {
            files,
            next_file: state.next_file,
            names_durable: names.clone(),
            names,
            names_pending: Vec::new(),
            capacity_bytes: state.capacity_bytes,
            locked: false,
        })))
    }

    /// A copy that knows all of this directory's bytes as written, whether synced or not, as after the end of a process
    /// whose machine lives on; unsynced state stays unsynced.
    pub fn kill(&self) -> Self {
        let state = self.0.lock();
        Self(Arc::new(Mutex::new(State {
            files: state.files.iter().map(|(id, file)| (*id, file.copy())).collect(),
            next_file: state.next_file,
            names: state.names.clone(),
            names_durable: state.names_durable.clone(),
            names_pending: state.names_pending.clone(),
            capacity_bytes: state.capacity_bytes,
            locked: false,
        })))
    }

    /// Changes a file's bytes behind everyone's back, durable ones too, as a failing medium would.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn damage(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let id = *state.names.get(name).unwrap_or_else(|| panic!("{name} is not there"));
        let file = state.files.get_mut(&id).expect("a name has a file");
        change(&mut file.bytes);
        file.durable = file.bytes.clone();
        file.pending.clear();
    }

    /// Forgets what was written to `name` since its last sync as far as durability goes, as the page cache does after a
    /// failed sync: reads still see the bytes, a crash will not keep them, a later sync does not bring them back.
    pub(super) fn lose_unsynced(&self, name: &str) {
        let mut state = self.0.lock();
        if let Some(id) = state.names.get(name).copied()
            && let Some(file) = state.files.get_mut(&id)
        {
            file.pending.clear();
        }
    }

    fn file(&self, id: u64, name: &str) -> Box<dyn StorageFile> {
        Box::new(MemoryFile { memory: self.clone(), id, name: name.to_owned() })
    }
}

impl State {
    fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.names_pending.push(change);
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|file| file.bytes.len() as u64).sum()
    }
}

impl File {
    fn copy(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            durable: self.durable.clone(),
            pending: self
                .pending
                .iter()
                .map(|change| match change {
                    Change::Write { offset, data } => Change::Write { offset: *offset, data: data.clone() },
                    Change::SetLen(len) => Change::SetLen(*len),
                })
                .collect(),
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => put(bytes, *offset, data),
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    fn apply_torn(&self, bytes: &mut Vec<u8>, chance: &mut Chance) {
        match self {
            Self::Write { offset, data } => {
                let mut at = *offset;
                let end = offset + data.len();
                while at < end {
                    let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                    if chance.keep() {
                        put(bytes, at, &data[at - offset..next - offset]);
                    }
                    at = next;
                }
            }
            Self::SetLen(_) => {
                if chance.keep() {
                    self.apply(bytes);
                }
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(name) = &self.remove
            && names.get(name) == Some(&self.file)
        {
            names.remove(name);
        }
        if let Some(name) = &self.insert {
            names.insert(name.clone(), self.file);
        }
    }

    fn is_in(&self, dir: &str) -> bool {
        [&self.remove, &self.insert].into_iter().flatten().any(|name| super::parent(name) == dir)
    }
}

impl Storage for Memory {
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let mut state = self.0.lock();
        if state.names.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, name.to_owned()));
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, File::default());
        state.change_names(NameChange { file: id, remove: None, insert: Some(name.to_owned()) });
        drop(state);
        Ok(self.file(id, name))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let id = self.0.lock().find(name)?;
        Ok(self.file(id, name))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        Ok(state.files[&state.find(name)?].bytes.clone())
    }

    fn map(&self, name: &str) -> io::Result<Mapped> {
        Ok(Mapped::new(self.read(name)?))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        let names = state.names.keys().filter(|name| super::parent(name) == dir);
        Ok(names.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.0.lock().names.contains_key(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        let file = state.find(from)?;
        state.change_names(NameChange { file, remove: Some(from.to_owned()), insert: Some(to.to_owned()) });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        let file = state.find(name)?;
        state.change_names(NameChange { file, remove: Some(name.to_owned()), insert: None });
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let state = &mut *self.0.lock();
        let names_durable = &mut state.names_durable;
        state.names_pending.retain(|change| {
            let here = change.is_in(dir);
            if here {
                change.apply(names_durable);
            }
            !here
        });
        // A file without a name, now and after a crash, is gone for good unless a handle still needs it; handles of
        // removed files are rare and short, so the bytes stay until the directory goes.
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state.capacity_bytes.map_or(1 << 40, |capacity| capacity.saturating_sub(state.used_bytes())))
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        drop(state);
        Ok(Box::new(Guard(self.clone())))
    }
}

struct Guard(Memory);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.lock().locked = false;
    }
}

struct MemoryFile {
    memory: Memory,
    id: u64,
    name: String,
}

impl MemoryFile {
    fn with<R>(&self, act: impl FnOnce(&mut File) -> R) -> io::Result<R> {
        let mut state = self.memory.0.lock();
        let file = state.files.get_mut(&self.id);
        file.map(act).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, self.name.clone()))
    }
}

impl StorageFile for MemoryFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut room = data.len();
        {
            let state = self.memory.0.lock();
            if let Some(capacity) = state.capacity_bytes {
                let file = &state.files[&self.id];
                let growth = (offset + data.len() as u64).saturating_sub(file.bytes.len() as u64);
                let free = capacity.saturating_sub(state.used_bytes());
                if growth > free {
                    room -= ((growth - free) as usize).min(room);
                }
            }
        }
        self.with(|file| {
            let change = Change::Write { offset: offset as usize, data: data[..room].to_vec() };
            if room > 0 {
                change.apply(&mut file.bytes);
                file.pending.push(change);
            }
        })?;
        // A full disk takes what fits before it says no.
        if room < data.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|file| {
            let start = (offset as usize).min(file.bytes.len());
            let len = buf.len().min(file.bytes.len() - start);
            buf[..len].copy_from_slice(&file.bytes[start..start + len]);
            len
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|file| file.bytes.len() as u64)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.with(|file| {
            let change = Change::SetLen(len as usize);
            change.apply(&mut file.bytes);
            file.pending.push(change);
        })
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.with(|file| {
            for change in std::mem::take(&mut file.pending) {
                change.apply(&mut file.durable);
            }
        })
    }
}

/// Seeded choices (SplitMix64).
pub(super) struct Chance {
    state: u64,
    fixed: Option<bool>,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        let fixed = match seed {
            0 => Some(false),
            u64::MAX => Some(true),
            _ => None,
        };
        Self { state: seed, fixed }
    }

    fn keep(&mut self) -> bool {
        self.fixed.unwrap_or_else(|| self.next() & 1 == 1)
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crash_keeps_synced_bytes_and_names_only_when_nothing_else_is_kept() {
        let memory = Memory::new();
        let mut file = memory.create("log/a").unwrap();
        file.write_at(0, &[1; 1000]).unwrap();
        file.sync_data().unwrap();
        file.write_at(500, &[2; 1000]).unwrap();
        assert!(!memory.crash(0).exists("log/a").unwrap(), "the name was not synced");
        memory.sync_dir("log").unwrap();
        memory.rename("log/a", "log/b").unwrap();
        assert_eq!(memory.crash(0).read("log/a").unwrap(), [1; 1000]);
        let all = memory.crash(u64::MAX).read("log/b").unwrap();
        assert_eq!((all.len(), all[499], all[500]), (1500, 1, 2));
    }

    #[test]
    fn crash_tears_at_sectors() {
        let memory = Memory::new();
        let mut file = memory.create("a").unwrap();
        file.write_at(0, &vec![7; 64 * SECTOR_BYTES]).unwrap();
        memory.sync_dir("").unwrap();
        let bytes = memory.crash(5).read("a").unwrap();
        let kept = bytes.chunks(SECTOR_BYTES).filter(|sector| sector.iter().all(|b| *b == 7)).count();
        let lost = bytes.chunks(SECTOR_BYTES).filter(|sector| sector.iter().all(|b| *b == 0)).count();
        assert!(kept > 10 && lost > 10 && kept + lost == bytes.len() / SECTOR_BYTES);
        assert_eq!(bytes, memory.crash(5).read("a").unwrap(), "the same seed leaves the same bytes");
    }

    #[test]
    fn full_directory_says_so_after_taking_what_fits() {
        let memory = Memory::new();
        memory.set_capacity(Some(1000));
        let mut file = memory.create("a").unwrap();
        let error = file.write_at(0, &[1; 1500]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.len().unwrap(), 1000);
        // Overwriting needs no room.
        file.write_at(0, &[2; 1000]).unwrap();
        assert_eq!(memory.free_bytes().unwrap(), 0);
    }
}
