//! Owns bugs that tests switch on, one at a time, to see that the simulation catches them. Without the feature `planted`, which
//! no release has, none can be switched on and the places that ask are compiled away.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// A group is acknowledged without a sync.
    AckBeforeSync = 1,
    /// New files get their names without a sync of the folder.
    SkipDirectorySync,
    /// A new log file gets its name without a sync of the folder.
    SkipLogDirectorySync,
    /// A failed sync of the log is tried again, and believed.
    RetrySync,
    /// A manifest edit names a segment whose bytes were not synced.
    SkipSegmentSync,
    /// A manifest edit takes effect without a sync.
    SkipManifestSync,
    /// A batch that comes again is applied again.
    NoDedup,
    /// A flush writes no heads of producers.
    HeadsLeftOut,
    /// Replay does not move the heads of producers.
    HeadsNotReplayed,
    /// A flush gives up more of the log than it wrote.
    TruncateTooFar,
    /// Log files are given up when a memtable is sealed, not when it is in segments.
    ReleaseBeforeFlush,
    /// A sealed memtable loses its last batch.
    RotationLosesChunk,
    /// A group that could not be written is visible, and acknowledged.
    PublishAfterFailure,
    /// Replay takes records whose payload does not match its checksum.
    ReplayBadChecksum,
    /// A shard lets later batches pass one that was refused for now.
    RefusedIsForgotten,
    /// A zone map leaves out the last row of its block.
    StaleZoneMap,
    /// Steps stand for rows although others came late.
    StaleSummary,
    /// A merge carries deleted rows on and marks them clean.
    MaskDroppedAtMerge,
    /// A merge lets the oldest write of a field win.
    MergeOrderReversed,
    /// A merge leaves its inputs in the manifest.
    MergeForgetsInputs,
    /// A merge removes its files although its edit may be there.
    MergeRemovesDoubted,
    /// A delete does not flush the rows that it is about.
    DeleteBeforeFlush,
    /// Retention removes files that still have live rows.
    RetentionTooMuch,
    /// A backup does not keep the log files that it will copy.
    BackupHoldsNothing,
    /// A stopped shard says that it has flushed.
    StoppedShardFlushes,
    /// A start takes for durable what it reads.
    TrustPageCache,
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Whether `bug` is switched on.
#[inline(always)]
pub(crate) fn is(bug: Bug) -> bool {
    #[cfg(feature = "planted")]
    return PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8;
    #[cfg(not(feature = "planted"))]
    {
        let _ = bug;
        false
    }
}

/// Switches one bug on and all others off, for the whole process.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}

impl Bug {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::AckBeforeSync,
        Self::SkipDirectorySync,
        Self::SkipLogDirectorySync,
        Self::RetrySync,
        Self::SkipSegmentSync,
        Self::SkipManifestSync,
        Self::NoDedup,
        Self::HeadsLeftOut,
        Self::HeadsNotReplayed,
        Self::TruncateTooFar,
        Self::ReleaseBeforeFlush,
        Self::RotationLosesChunk,
        Self::PublishAfterFailure,
        Self::ReplayBadChecksum,
        Self::RefusedIsForgotten,
        Self::StaleZoneMap,
        Self::StaleSummary,
        Self::MaskDroppedAtMerge,
        Self::MergeOrderReversed,
        Self::MergeForgetsInputs,
        Self::MergeRemovesDoubted,
        Self::DeleteBeforeFlush,
        Self::RetentionTooMuch,
        Self::BackupHoldsNothing,
        Self::StoppedShardFlushes,
        Self::TrustPageCache,
    ];
}
