//! Owns the only door to files: everything the engine keeps goes through [`Storage`]; does not know formats.

pub mod disk;
pub mod faulty;
pub mod maps;
pub mod memory;

use std::io;
use std::ops::Deref;
use std::sync::Arc;

pub use disk::Disk;
pub use faulty::Faulty;
pub use memory::Memory;

/// A data directory. Names are relative to it, with `/` between a folder and a file.
///
/// The disk promises what POSIX does: bytes are durable after [`StorageFile::sync_data`], names after
/// [`Storage::sync_dir`] of their folder; everything else may be lost, torn at a sector, or reordered by a crash.
pub trait Storage: Send + Sync + 'static {
    /// Makes a file; fails when it exists. Missing folders are made.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;
    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;
    /// Reads a whole file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Maps a file to read. The file must not change while a mapping lives: segments never do.
    fn map(&self, name: &str) -> io::Result<Mapped>;
    /// Names in a folder (without the folder), sorted; empty when the folder is missing.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Whether a file exists.
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// Renames within the directory, replacing the target.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes that can still be written.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Takes the directory for this process until the guard goes; `WouldBlock` when another has it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
}

/// An open file.
pub trait StorageFile: Send {
    /// Writes all of `data` at `offset`, growing the file when needed.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or grows (with zeros) to `len`.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Makes written bytes (and the length needed to read them) durable. A failure must never be retried.
    fn sync_data(&mut self) -> io::Result<()>;
}

/// The bytes of a mapped file; cheap to clone.
#[derive(Clone)]
pub struct Mapped(Arc<dyn Deref<Target = [u8]> + Send + Sync>);

impl Mapped {
    /// Wraps whatever keeps the bytes alive.
    pub fn new(bytes: impl Deref<Target = [u8]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(bytes))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Writes a new file so that after a crash it is there whole or not at all: temporary name, sync, rename, sync folder.
pub fn write_new_file(storage: &dyn Storage, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    if storage.exists(&temporary)? {
        storage.remove(&temporary)?;
    }
    let mut file = storage.create(&temporary)?;
    let written = file.write_at(0, bytes).and_then(|()| file.sync_data());
    drop(file);
    if let Err(error) = written {
        // On a full disk every byte counts, and the next try may have another name.
        let _ = storage.remove(&temporary);
        return Err(error);
    }
    storage.rename(&temporary, name)?;
    storage.sync_dir(parent(name))
}

/// The folder of a name; empty for the data directory itself.
pub fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}
