//! Owns bugs that tests switch on, one at a time, to see that the simulation catches them. Without the feature `planted`, which
//! no release has, none can be switched on and the places that ask are compiled away.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// An ack covers batches that are not settled.
    AckOverGap = 1,
    /// A client forgets its last unacknowledged batch when its lane goes.
    ClientForgets,
    /// A batch is taken although its frame does not match its checksum.
    ChecksumIgnored,
    /// A client goes on behind a batch that was refused for now.
    NackLosesOrder,
    /// A session lets later batches pass one that was refused for now.
    NoHold,
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
    pub const ALL: &'static [Self] =
        &[Self::AckOverGap, Self::ClientForgets, Self::ChecksumIgnored, Self::NackLosesOrder, Self::NoHold];
}
