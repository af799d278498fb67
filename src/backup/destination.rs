//! Owns the places where backups go, as names and bytes: folders and S3 buckets; does not know what is in them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use tidewell_engine::storage::StorageFile;
use tokio::runtime::Handle;

use crate::failure::usage;

/// A file up to this size goes up in one request; larger ones in parts of it.
const PART_BYTES: u64 = 8 << 20;
/// Parts on the way at once.
const PARTS_MAX: usize = 4;

/// A folder, or a prefix of a bucket. Its calls block.
pub struct Destination {
    name: String,
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    /// The folder, when it is one.
    folder: Option<PathBuf>,
    runtime: Handle,
}

/// How a file came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Checksum of all its bytes.
    pub crc32c: u32,
    /// Whether it shares its bytes with the original.
    pub linked: bool,
}

/// Whether `name` is the form of a destination: an absolute path or `s3://BUCKET[/PREFIX]`.
///
/// # Errors
/// Says what was expected.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |path: &Path| path.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir));
    let good = match name.strip_prefix("s3://") {
        Some(rest) => !rest.starts_with('/') && !rest.is_empty() && plain(Path::new(rest)),
        None => Path::new(name).is_absolute() && plain(Path::new(name)),
    };
    if good {
        return Ok(());
    }
    Err(usage(format!("destination of backups: {name}: expected an absolute path without `..`, or s3://BUCKET/PREFIX")))
}

impl Destination {
    /// Opens a destination; a folder is made when `make` says so.
    ///
    /// # Errors
    /// When it is not there, or its settings are not complete.
    pub fn open(name: &str, make: bool, runtime: Handle) -> Result<Self> {
        check_name(name)?;
        let Some(rest) = name.strip_prefix("s3://") else {
            let folder = PathBuf::from(name);
            if make {
                fs::create_dir_all(&folder).with_context(|| format!("make destination of backups: {name}"))?;
            }
            let store = LocalFileSystem::new_with_prefix(&folder)
                .map_err(|error| anyhow!("open destination of backups: {name}: {error}"))?;
            return Ok(Self {
                name: name.to_owned(),
                store: Arc::new(store),
                prefix: Key::default(),
                folder: Some(folder),
                runtime,
            });
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // Credentials, region and endpoint come from the environment, as with every program that speaks S3.
        let store = AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(|error| {
            anyhow!("open destination of backups: {name}: {error}; set AWS_ACCESS_KEY_ID and the like")
        })?;
        Ok(Self { name: name.to_owned(), store: Arc::new(store), prefix: Key::from(prefix), folder: None, runtime })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Files below `dir` and their sizes, by key.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list(&self, dir: &str) -> Result<BTreeMap<String, u64>> {
        let below = self.key(dir);
        let objects = self.runtime.block_on(self.store.list(Some(&below)).try_collect::<Vec<_>>());
        let objects = objects.with_context(|| format!("list {dir} of {}", self.name))?;
        let depth = self.prefix.parts().count();
        let relative = |key: &Key| Key::from_iter(key.parts().skip(depth)).to_string();
        Ok(objects.iter().map(|object| (relative(&object.location), object.size)).collect())
    }

    /// Writes a small file, whole or not at all, and durable.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        if let Some(path) = self.path(key) {
            let temporary = self.temporary(key)?;
            let written = write_synced(&temporary, |file| Ok(file.write_all(&bytes)?));
            return written.and_then(|()| Ok(fs::rename(&temporary, &path)?)).with_context(|| self.writing(key));
        }
        self.runtime.block_on(self.store.put(&self.key(key), bytes.into())).with_context(|| self.writing(key))?;
        Ok(())
    }

    /// Stores an immutable file; by a link to `original` where that can be. The last names become durable with
    /// [`Self::sync`].
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn put_file(&self, key: &str, file: &dyn StorageFile, original: &Path) -> Result<Stored> {
        let Some(path) = self.path(key) else {
            return Ok(Stored { crc32c: self.upload(key, file)?, linked: false });
        };
        let temporary = self.temporary(key)?;
        // What a backup that did not finish left here may be anything.
        let _ = fs::remove_file(&path);
        if fs::hard_link(original, &path).is_ok() {
            let crc32c = copy(file, |_| Ok(())).with_context(|| self.writing(key))?;
            return Ok(Stored { crc32c, linked: true });
        }
        let mut crc32c = 0;
        write_synced(&temporary, |out| {
            crc32c = copy(file, |bytes| Ok(out.write_all(bytes)?))?;
            Ok(())
        })
        .and_then(|()| Ok(fs::rename(&temporary, &path)?))
        .with_context(|| self.writing(key))?;
        Ok(Stored { crc32c, linked: false })
    }

    fn upload(&self, key: &str, file: &dyn StorageFile) -> Result<u32> {
        let to = self.key(key);
        let sent = self.runtime.block_on(async {
            if file.len()? <= PART_BYTES {
                let mut all = Vec::new();
                let crc32c = copy(file, |bytes| {
                    all.extend_from_slice(bytes);
                    Ok(())
                })?;
                self.store.put(&to, all.into()).await?;
                return Ok(crc32c);
            }
            let mut parts =
                WriteMultipart::new_with_chunk_size(self.store.put_multipart(&to).await?, PART_BYTES as usize);
            let (mut crc32c, mut at, len) = (0, 0, file.len()?);
            while at < len {
                let bytes = read_piece(file, at, len)?;
                crc32c = crc32c::crc32c_append(crc32c, &bytes);
                at += bytes.len() as u64;
                parts.wait_for_capacity(PARTS_MAX).await?;
                parts.put(bytes.into());
            }
            parts.finish().await?;
            Ok::<u32, anyhow::Error>(crc32c)
        });
        sent.with_context(|| self.writing(key))
    }

    /// Makes the names in these folders durable.
    ///
    /// # Errors
    /// When a folder cannot be synced.
    pub fn sync<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Result<()> {
        let Some(root) = &self.folder else { return Ok(()) };
        let mut folders: Vec<PathBuf> =
            keys.flat_map(|key| Path::new(key).ancestors().skip(1)).map(|dir| root.join(dir)).collect();
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            File::open(&folder).and_then(|dir| dir.sync_all()).with_context(|| format!("sync {}", folder.display()))?;
        }
        Ok(())
    }

    /// All of a small file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let bytes = self.runtime.block_on(async { self.store.get(&self.key(key)).await?.bytes().await });
        Ok(bytes.with_context(|| self.reading(key))?.to_vec())
    }

    /// Gives a file piece by piece; its length and checksum.
    ///
    /// # Errors
    /// When it cannot be read, or `visit` fails.
    pub fn read(&self, key: &str, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<(u64, u32)> {
        self.runtime.block_on(async {
            let mut pieces = self.store.get(&self.key(key)).await.with_context(|| self.reading(key))?.into_stream();
            let (mut len, mut crc32c) = (0, 0);
            while let Some(piece) = pieces.next().await {
                let piece = piece.with_context(|| self.reading(key))?;
                len += piece.len() as u64;
                crc32c = crc32c::crc32c_append(crc32c, &piece);
                visit(&piece)?;
            }
            Ok((len, crc32c))
        })
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, key: &str) -> Result<()> {
        self.runtime
            .block_on(self.store.delete(&self.key(key)))
            .with_context(|| format!("remove {key} of {}", self.name))
    }

    fn key(&self, key: &str) -> Key {
        Key::from_iter(self.prefix.parts().chain(Key::from(key).parts()))
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(key))
    }

    /// Where a file of the folder is written before it has its name; makes the folder that it will be in.
    fn temporary(&self, key: &str) -> Result<PathBuf> {
        let Some(path) = self.path(&format!("{key}.tmp")) else { bail!("{} is no folder", self.name) };
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        Ok(path)
    }

    fn writing(&self, key: &str) -> String {
        format!("write {key} to {}", self.name)
    }

    fn reading(&self, key: &str) -> String {
        format!("read {key} of {}", self.name)
    }
}

fn write_synced(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut file = File::create(path)?;
    write(&mut file)?;
    Ok(file.sync_all()?)
}

fn read_piece(file: &dyn StorageFile, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut piece = vec![0; (len - at).min(PART_BYTES) as usize];
    let filled = file.read_at(at, &mut piece)?;
    if filled < piece.len() {
        bail!("{} bytes expected, the file ends at {}", len, at + filled as u64);
    }
    Ok(piece)
}

/// Gives all bytes of `file`; their checksum.
fn copy(file: &dyn StorageFile, mut to: impl FnMut(&[u8]) -> Result<()>) -> Result<u32> {
    let (mut crc32c, mut at, len) = (0, 0, file.len()?);
    while at < len {
        let piece = read_piece(file, at, len)?;
        crc32c = crc32c::crc32c_append(crc32c, &piece);
        to(&piece)?;
        at += piece.len() as u64;
    }
    Ok(crc32c)
}
