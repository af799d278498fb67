//! Owns the disk of the simulated node: the engine's own memory disk, that fails, fills up and stops on command, and knows in
//! which phase it did.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tidewell_engine::storage::faulty::{Fault, Operation};
use tidewell_engine::storage::{Faulty, Mapped, Memory, Storage, StorageFile};

use crate::coverage::Phase;

/// What else happens in the middle of a merge or a flush.
pub type Meanwhile = Box<dyn FnOnce() + Send>;

/// A disk. Clones share it.
#[derive(Clone)]
pub struct Disk {
    below: Faulty,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What the node is doing, as far as names do not tell.
    activity: Option<Phase>,
    operations: u64,
    halt_after: Option<u64>,
    fail_at: Option<(u64, Fault)>,
    /// The next operation of this phase is the last but so many.
    halt_in: Option<(Phase, u64)>,
    /// The next operation of this phase fails.
    fail_next: Option<(Phase, Fault)>,
    /// In which phase the node died.
    halted: Option<Phase>,
    /// Phases of operations that failed since they were asked for.
    failed: Vec<Phase>,
    /// How often free space is asked for, and writes are refused, until there is room again.
    full_for: u32,
    /// Writes of segments until something else happens.
    meanwhile: Option<(u32, Meanwhile)>,
}

impl Disk {
    /// A disk with the files of `memory`.
    pub fn over(memory: Memory) -> Self {
        Self { below: Faulty::over(memory), state: Arc::default() }
    }

    /// The files.
    pub fn memory(&self) -> &Memory {
        self.below.memory()
    }

    /// Says what the node is doing now; gives back what it was doing before.
    pub fn set_activity(&self, activity: Option<Phase>) -> Option<Phase> {
        std::mem::replace(&mut self.state.lock().activity, activity)
    }

    /// After `n` more operations nothing works any more.
    pub fn halt_in(&self, n: u64) {
        let mut state = self.state.lock();
        state.halt_after = Some(state.operations + n);
    }

    /// The node dies at the next operation of `phase`, or `later` operations of it after that.
    pub fn halt_at(&self, phase: Phase, later: u64) {
        self.state.lock().halt_in = Some((phase, later));
    }

    /// The next operation of `phase` fails.
    pub fn fail_next(&self, phase: Phase, fault: Fault) {
        self.state.lock().fail_next = Some((phase, fault));
    }

    /// The `n`-th operation from now fails.
    pub fn fail_in(&self, n: u64, fault: Fault) {
        let mut state = self.state.lock();
        state.fail_at = Some((state.operations + n, fault));
    }

    /// There is no room for a while.
    pub fn fill_up(&self, refusals: u32) {
        self.state.lock().full_for = refusals;
    }

    /// Forgets planned faults.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        (state.halt_after, state.fail_at, state.full_for, state.meanwhile) = (None, None, 0, None);
        (state.halt_in, state.fail_next) = (None, None);
        self.below.heal();
    }

    /// In which phase the node died, once it has.
    pub fn halted(&self) -> Option<Phase> {
        self.state.lock().halted
    }

    /// Phases of operations that failed since the last call.
    pub fn take_failed(&self) -> Vec<Phase> {
        std::mem::take(&mut self.state.lock().failed)
    }

    /// Does `what` before the `n`-th write of a segment from now; `None` takes that back.
    pub fn meanwhile(&self, what: Option<(u32, Meanwhile)>) {
        self.state.lock().meanwhile = what;
    }

    /// Notes an operation that changes something; fails it when there is no room.
    fn note(&self, name: &str, operation: Operation) -> io::Result<()> {
        let due = {
            let mut state = self.state.lock();
            state.operations += 1;
            let phase = state.phase(name, operation);
            if let Some((at, left)) = &mut state.halt_in
                && *at == phase
            {
                if *left == 0 {
                    state.halt_in = None;
                    state.halt_after = Some(state.operations - 1);
                } else {
                    *left -= 1;
                }
            }
            if let Some((at, fault)) = state.fail_next
                && at == phase
            {
                state.fail_next = None;
                state.fail_at = Some((state.operations, fault));
            }
            if state.halt_after.is_some_and(|last| state.operations > last) && state.halted.is_none() {
                state.halted = Some(phase);
                self.below.halt_after(self.below.operations());
            }
            if let Some((at, fault)) = state.fail_at
                && at == state.operations
            {
                state.failed.push(phase);
                self.below.fail_at(self.below.operations() + 1, fault);
            }
            let of_segment = name.starts_with("seg/") && operation == Operation::Write;
            match &mut state.meanwhile {
                Some((0, _)) if of_segment => state.meanwhile.take(),
                Some((left, _)) if of_segment => {
                    *left -= 1;
                    None
                }
                _ => None,
            }
        };
        if let Some((_, what)) = due {
            what();
        }
        if operation == Operation::Write {
            self.take_room()?;
        }
        Ok(())
    }

    fn take_room(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.full_for == 0 {
            return Ok(());
        }
        state.full_for -= 1;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn wrap(&self, name: &str, file: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        Box::new(DiskFile { disk: self.clone(), name: name.to_owned(), file })
    }
}

impl State {
    fn phase(&self, name: &str, operation: Operation) -> Phase {
        let folder = name.split('/').next().unwrap_or_default();
        match (self.activity, folder, operation) {
            (Some(Phase::Open), ..) => Phase::Open,
            (Some(activity @ (Phase::Delete | Phase::Tables | Phase::Retention)), "manifest", _) => activity,
            (_, "manifest", _) => Phase::ManifestEdit,
            (_, "log", Operation::Write) => Phase::Append,
            (_, "log", Operation::Sync) => Phase::Sync,
            (_, "log", Operation::Create | Operation::Rename | Operation::SyncDir) => Phase::Rotate,
            (_, "log", Operation::Remove | Operation::SetLen) => Phase::Release,
            (_, _, Operation::Remove) => Phase::Remove,
            (Some(Phase::Merge), ..) => Phase::Merge,
            _ => Phase::Seal,
        }
    }
}

impl Storage for Disk {
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.note(name, Operation::Create)?;
        Ok(self.wrap(name, self.below.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(self.wrap(name, self.below.open(name)?))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.below.read(name)
    }

    fn map(&self, name: &str) -> io::Result<Mapped> {
        self.below.map(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.below.list(dir)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.below.exists(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.note(from, Operation::Rename)?;
        self.below.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.note(name, Operation::Remove)?;
        self.below.remove(name)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.note(dir, Operation::SyncDir)?;
        self.below.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        match self.take_room() {
            Ok(()) => self.below.free_bytes(),
            Err(_) => Ok(0),
        }
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.below.lock()
    }
}

struct DiskFile {
    disk: Disk,
    name: String,
    file: Box<dyn StorageFile>,
}

impl StorageFile for DiskFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.note(&self.name, Operation::Write)?;
        self.file.write_at(offset, data)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.disk.note(&self.name, Operation::SetLen)?;
        self.file.set_len(len)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.disk.note(&self.name, Operation::Sync)?;
        self.file.sync_data()
    }
}
