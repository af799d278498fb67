//! Owns the engine's errors: what failed, whose fault it is, what to do.

use std::io;

use rustix::io::Errno;

use crate::memory::MemoryFull;
use crate::summary::Step;

/// What can go wrong in the engine. Errors name the file, the offset, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried, as a verb: `write`, `sync`, `open`.
        operation: &'static str,
        /// File, relative to the data directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes on disk are not what was written.
    #[error("{path} is damaged at offset {offset}: expected {expected}, found {found}")]
    Corruption {
        /// File, relative to the data directory.
        path: String,
        /// Byte offset of the damage.
        offset: u64,
        /// What an undamaged file has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file was written by a newer version.
    #[error(
        "{path} has {format} format version {found}, this program reads up to {supported}; use the version that wrote it or a newer one"
    )]
    NewerFormat {
        /// File, relative to the data directory.
        path: String,
        /// Which format: `log`, `segment`, `manifest`.
        format: &'static str,
        /// Version in the file.
        found: u32,
        /// Highest version that this program reads.
        supported: u32,
    },
    /// Another process has the data directory open.
    #[error("the data directory is in use by another node; stop that one or choose another directory")]
    Locked,
    /// A write or sync failed before: the shard refuses further work until the node is opened again.
    #[error("shard {shard} stopped after a failed write or sync ({cause}); restart the node once the disk is healthy")]
    Poisoned {
        /// The shard.
        shard: u32,
        /// The failure that stopped it.
        cause: String,
    },
    /// A scan would copy more rows out of memtables than the memory for queries holds.
    #[error(transparent)]
    Memory(#[from] MemoryFull),
    /// A question needs rows that retention has removed, of a time of which only aggregates per step are left.
    #[error(
        "table {table}: the rows of device {device} from {from_ns} are gone (its rows begin at {cut_off_ns} by retention), steps of {step} are left; ask for windows made of whole steps of that length, and not for text"
    )]
    RowsGone {
        /// The table.
        table: String,
        /// The device.
        device: String,
        /// Where the rows that are missing begin.
        from_ns: i64,
        /// The first time of which the table has rows.
        cut_off_ns: i64,
        /// The shortest step that is left.
        step: Step,
    },
    /// The caller asked for something that does not exist or contradicts the configuration.
    #[error("{0}")]
    Invalid(String),
}

/// Result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an [`io::Error`] with the operation and the file it hit.
    pub fn io(operation: &'static str, path: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.into(), source }
    }

    /// Damage at `offset` of `path`.
    pub fn corruption(
        path: impl Into<String>,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Corruption { path: path.into(), offset, expected: expected.into(), found: found.into() }
    }

    /// Whether the system had no descriptor or memory map left. Nothing was begun then, so the same may be tried again.
    pub fn is_shortage(&self) -> bool {
        match self {
            // A want of descriptors never comes from a write or sync of an open file; a want of memory might.
            Self::Io { source, operation, .. } => {
                let is = |errno: Errno| source.raw_os_error() == Some(errno.raw_os_error());
                is(Errno::MFILE)
                    || is(Errno::NFILE)
                    || *operation == "map" && source.kind() == io::ErrorKind::OutOfMemory
            }
            _ => false,
        }
    }

    /// Whether the failure is a state that passes by itself, as a full disk does, and left nothing in doubt.
    pub fn passes(&self) -> bool {
        self.is_disk_full() || self.is_shortage()
    }

    /// Whether the disk had no room left.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull
            || source.kind() == io::ErrorKind::QuotaExceeded)
    }
}

/// Why a batch was not taken. The numbers on the wire are the ingest crate's; here is only the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The reason, for programs.
    pub code: RefusalCode,
    /// The reason, for people: what was expected, what was found.
    pub message: String,
}

impl Refusal {
    /// A refusal with `code`.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Reasons to refuse a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The batch breaks the rules of its format.
    Malformed,
    /// Its devices belong to more than one shard.
    MixedShards,
    /// A field has another type than the table's.
    TypeConflict,
    /// It exceeds a stated maximum.
    TooLarge,
    /// The disk has no room; accepted again by itself once there is.
    DiskFull,
    /// The shard stopped after a failed write or sync.
    ShardPoisoned,
    /// The shard's queue is full.
    Overloaded,
    /// An earlier batch of the same producer was refused and must come first.
    AfterRefused,
    /// The node is going down.
    ShuttingDown,
}

impl RefusalCode {
    /// Whether the same batch may be accepted later.
    pub fn retryable(self) -> bool {
        match self {
            Self::Malformed | Self::MixedShards | Self::TypeConflict | Self::TooLarge => false,
            Self::DiskFull | Self::ShardPoisoned | Self::Overloaded | Self::AfterRefused | Self::ShuttingDown => true,
        }
    }
}
