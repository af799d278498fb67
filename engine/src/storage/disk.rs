//! Owns files of a real file system under one directory; so does its unsafe code, memory maps.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::{Mapped, Storage, StorageFile, maps::MapSlot};

/// A data directory on disk.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Opens the directory, making it when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be made or its parent cannot be synced.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        make_dir(&root)?;
        Ok(Self { root })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> PathBuf {
        debug_assert!(
            !name.starts_with('/') && !name.split('/').any(|part| part == ".."),
            "{name} leaves the directory"
        );
        self.root.join(name)
    }
}

impl Storage for Disk {
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let path = self.path(name);
        let make = || OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_dir(path.parent().unwrap_or(&self.root))?;
                make()?
            }
            other => other?,
        };
        Ok(Box::new(DiskFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let path = self.path(name);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            // Offline inspection of a directory that may only be read; a write then fails by itself.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                File::open(&path)?
            }
            other => other?,
        };
        Ok(Box::new(DiskFile(file)))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    fn map(&self, name: &str) -> io::Result<Mapped> {
        let file = File::open(self.path(name))?;
        if file.metadata()?.len() == 0 {
            return Ok(Mapped::new(Vec::new()));
        }
        let slot = MapSlot::take()?;
        map_file(&file, slot)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A name that is not UTF-8 is not ours.
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        fs::exists(self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path("LOCK"))?;
        match file.try_lock() {
            // The lock goes with the file handle.
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Makes a folder and the folders above it, and makes each new name durable: a synced file in a folder whose own name
/// is lost would be lost with it.
fn make_dir(path: &Path) -> io::Result<()> {
    if fs::exists(path)? {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_dir(parent)?;
    match fs::create_dir(path) {
        // Another thread made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    File::open(parent)?.sync_all()
}

struct DiskFile(File);

impl StorageFile for DiskFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

struct MappedFile(Mmap, MapSlot);

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[allow(unsafe_code)]
fn map_file(file: &File, slot: MapSlot) -> io::Result<Mapped> {
    // Only immutable files are mapped (segments and summaries: written under a temporary name, synced, renamed, never opened to
    // write again, and removed by unlinking, which leaves the pages of a live mapping in place), and the directory's lock keeps
    // other nodes out. A person who cuts a segment by hand while the node runs can still cause SIGBUS.
    // SAFETY: a mapping is sound while nobody cuts or rewrites the file under it; nothing in the process does.
    let map = unsafe { Mmap::map(file)? };
    Ok(Mapped::new(MappedFile(map, slot)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_lock_on_the_same_directory_is_refused_until_the_first_goes() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path().join("a/b")).unwrap();
        let guard = disk.lock().unwrap();
        let other = Disk::open(dir.path().join("a/b")).unwrap();
        assert_eq!(other.lock().err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(guard);
        other.lock().unwrap();
    }

    #[test]
    fn mapping_and_reading_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        super::super::write_new_file(&disk, "seg/x", &bytes).unwrap();
        super::super::write_new_file(&disk, "seg/empty", &[]).unwrap();
        assert_eq!(&disk.map("seg/x").unwrap()[..], &disk.read("seg/x").unwrap()[..]);
        assert_eq!(disk.map("seg/empty").unwrap().len(), 0);
        // A mapping outlives the name.
        let map = disk.map("seg/x").unwrap();
        disk.remove("seg/x").unwrap();
        assert_eq!(&map[..], &bytes[..]);
        assert_eq!(disk.list("seg").unwrap(), ["empty"]);
        assert!(disk.list("nothing").unwrap().is_empty());
        assert!(disk.free_bytes().unwrap() > 0);
    }
}
