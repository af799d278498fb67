//! Owns the count of files that the process has mapped, and the refusal of more than the kernel lets it have.
//!
//! The kernel counts the maps of a process (`vm.max_map_count`, 65,530 by default) and those of its threads' stacks and its
//! allocator together. At the bound the next allocation fails, which ends a process; so files stay below it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the kernel allows where it does not tell.
const MAX_UNKNOWN: usize = 65_530;
/// No kernel allows so few that this many files would not fit.
const LOOK_FROM: usize = 4_096;
/// Maps that are left for threads and the allocator, as a part of all.
const SPARED_PART: usize = 16;

static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// One mapped file.
#[derive(Debug)]
pub(super) struct MapSlot(());

impl MapSlot {
    /// Counts one more.
    pub(super) fn take() -> io::Result<Self> {
        let before = MAPPED.fetch_add(1, Ordering::Relaxed);
        // Looked up each time, but only where it may matter: an operator may raise it while the node runs.
        if before >= LOOK_FROM && before >= mapped_max() {
            MAPPED.fetch_sub(1, Ordering::Relaxed);
            return Err(refused(before));
        }
        Ok(Self(()))
    }
}

impl Drop for MapSlot {
    fn drop(&mut self) {
        MAPPED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Files that are mapped now.
pub fn mapped() -> usize {
    MAPPED.load(Ordering::Relaxed)
}

/// Files that may be mapped as the kernel is set now.
pub fn mapped_max() -> usize {
    let told = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
    files_max(told.unwrap_or(MAX_UNKNOWN))
}

fn files_max(maps: usize) -> usize {
    maps - maps / SPARED_PART
}

fn refused(mapped: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::OutOfMemory,
        format!(
            "{mapped} files are mapped, and the kernel allows this process not many more maps; raise vm.max_map_count (sysctl), at once and without a restart"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_leave_maps_for_threads_and_the_allocator() {
        assert_eq!(files_max(65_530), 61_435);
        assert!(mapped_max() > 1_000);
        let before = mapped();
        let slots: Vec<MapSlot> = (0..10).map(|_| MapSlot::take().unwrap()).collect();
        assert!(mapped() >= before + 10, "tests of other files run beside");
        drop(slots);
        assert!(refused(61_435).to_string().contains("vm.max_map_count"));
    }
}
