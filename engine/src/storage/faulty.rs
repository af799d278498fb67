//! Owns a directory in memory that fails on purpose: chosen operations, a power loss; does not know formats.

use std::io;
use std::sync::Arc;

use crate::sync::Mutex;

use super::memory::Memory;
use super::{Mapped, Storage, StorageFile};

/// What an injected failure looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an error. A failed sync also drops the unsynced bytes for good, as the page cache does.
    Eio,
    /// The disk is full. A write has taken half of its bytes by then.
    Enospc,
}

/// An operation that can be made to fail; reads are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Storage::create`].
    Create,
    /// [`StorageFile::write_at`].
    Write,
    /// [`StorageFile::set_len`].
    SetLen,
    /// [`StorageFile::sync_data`].
    Sync,
    /// [`Storage::rename`].
    Rename,
    /// [`Storage::remove`].
    Remove,
    /// [`Storage::sync_dir`].
    SyncDir,
}

/// A [`Memory`] whose changing operations are counted and can fail. Clones share it.
#[derive(Clone, Default)]
pub struct Faulty {
    memory: Memory,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    operations: u64,
    at: Vec<(u64, Fault)>,
    named: Vec<(Operation, String, Fault)>,
    halt_after: Option<u64>,
}

impl Faulty {
    /// An empty directory without planned faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wraps what is already there.
    pub fn over(memory: Memory) -> Self {
        Self { memory, plan: Arc::default() }
    }

    /// The directory below, where nothing fails.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.plan.lock().operations
    }

    /// Makes the `n`-th changing operation from the start (the first is 1) fail.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.plan.lock().at.push((n, fault));
    }

    /// Makes every `operation` on a name that contains `part` fail until [`Faulty::heal`].
    pub fn fail_named(&self, operation: Operation, part: &str, fault: Fault) {
        self.plan.lock().named.push((operation, part.to_owned(), fault));
    }

    /// Lets `n` changing operations through and refuses all later ones: the moment of a crash. What they would have
    /// done is not done; take the directory with [`Faulty::crash`].
    pub fn halt_after(&self, n: u64) {
        self.plan.lock().halt_after = Some(n);
    }

    /// Refuses to hold more than `bytes` in all files together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.memory.set_capacity(bytes);
    }

    /// Forgets all planned faults.
    pub fn heal(&self) {
        let mut plan = self.plan.lock();
        *plan = Plan { operations: plan.operations, ..Plan::default() };
        drop(plan);
        self.memory.set_capacity(None);
    }

    /// A directory that a power loss now may leave; see [`Memory::crash`].
    pub fn crash(&self, seed: u64) -> Memory {
        self.memory.crash(seed)
    }

    fn check(&self, operation: Operation, name: &str) -> Result<(), Fault> {
        let mut plan = self.plan.lock();
        plan.operations += 1;
        let n = plan.operations;
        if plan.halt_after.is_some_and(|last| n > last) {
            return Err(Fault::Eio);
        }
        let planned = plan.at.iter().find(|(at, _)| *at == n).map(|(_, fault)| *fault);
        let named = || {
            let hit = |(which, part, _): &&(Operation, String, Fault)| *which == operation && name.contains(&**part);
            plan.named.iter().find(hit).map(|(_, _, fault)| *fault)
        };
        planned.or_else(named).map_or(Ok(()), Err)
    }

    fn halted(&self) -> bool {
        let plan = self.plan.lock();
        plan.halt_after.is_some_and(|last| plan.operations > last)
    }

    fn wrap(&self, name: &str, file: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        Box::new(FaultyFile { directory: self.clone(), name: name.to_owned(), file })
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Eio => io::Error::other("injected input/output error"),
            Self::Enospc => io::ErrorKind::StorageFull.into(),
        }
    }
}

impl Storage for Faulty {
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.check(Operation::Create, name).map_err(Fault::error)?;
        Ok(self.wrap(name, self.memory.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(self.wrap(name, self.memory.open(name)?))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.memory.read(name)
    }

    fn map(&self, name: &str) -> io::Result<Mapped> {
        self.memory.map(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.memory.list(dir)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.memory.exists(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check(Operation::Rename, from).map_err(Fault::error)?;
        self.memory.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check(Operation::Remove, name).map_err(Fault::error)?;
        self.memory.remove(name)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.check(Operation::SyncDir, dir).map_err(Fault::error)?;
        self.memory.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.memory.free_bytes()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.memory.lock()
    }
}

struct FaultyFile {
    directory: Faulty,
    name: String,
    file: Box<dyn StorageFile>,
}

impl StorageFile for FaultyFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.directory.check(Operation::Write, &self.name) {
            Ok(()) => self.file.write_at(offset, data),
            Err(fault) => {
                if fault == Fault::Enospc {
                    self.file.write_at(offset, &data[..data.len() / 2])?;
                }
                Err(fault.error())
            }
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.directory.check(Operation::SetLen, &self.name).map_err(Fault::error)?;
        self.file.set_len(len)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        match self.directory.check(Operation::Sync, &self.name) {
            Ok(()) => self.file.sync_data(),
            Err(fault) => {
                // After the halt nothing happens any more, so what was unsynced then may still survive the crash.
                if !self.directory.halted() {
                    self.directory.memory.lose_unsynced(&self.name);
                }
                Err(fault.error())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_sync_loses_the_bytes_even_when_a_later_one_succeeds() {
        let faulty = Faulty::new();
        let mut file = faulty.create("a").unwrap();
        faulty.sync_dir("").unwrap();
        file.write_at(0, &[1; 600]).unwrap();
        faulty.fail_named(Operation::Sync, "a", Fault::Eio);
        file.sync_data().unwrap_err();
        faulty.heal();
        file.sync_data().unwrap();
        assert_eq!(faulty.read("a").unwrap(), [1; 600]);
        assert_eq!(faulty.crash(0).read("a").unwrap(), []);
    }

    #[test]
    fn operations_after_the_halt_do_nothing() {
        let faulty = Faulty::new();
        faulty.halt_after(2);
        let mut file = faulty.create("a").unwrap();
        file.write_at(0, &[1; 10]).unwrap();
        file.write_at(0, &[2; 10]).unwrap_err();
        faulty.sync_dir("").unwrap_err();
        assert_eq!(faulty.read("a").unwrap(), [1; 10]);
        assert_eq!(faulty.operations(), 4);
    }
}
