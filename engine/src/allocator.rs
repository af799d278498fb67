//! Owns how much freed memory the C library's allocator may keep; allocates nothing itself.
//!
//! It gives each thread that allocates an arena of its own, up to eight for each core, and an arena keeps what was freed in
//! it. A node whose threads hand blocks to each other then holds several times what it uses: twelve wide questions beside a
//! load were 160 MiB of process for 30 MiB in use. So arenas are few, and large blocks go back to the system when freed.

/// Bytes of `memory_limit` for each arena.
const LIMIT_PER_ARENA: u64 = 64 << 20;
/// Blocks from this size on are mapped by themselves; an arena whose free end is as long gives it back.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: i32 = 1 << 20;

/// Bounds what the allocator keeps, for a node with `memory_limit`. Must be called before there is a second thread; the
/// allocators of other C libraries have no such setting.
pub fn bound(memory_limit: u64) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    set(arenas(memory_limit, cores));
}

fn arenas(memory_limit: u64, cores: usize) -> i32 {
    let of_limit = usize::try_from(memory_limit / LIMIT_PER_ARENA).unwrap_or(usize::MAX);
    i32::try_from(of_limit.min(cores).max(1)).unwrap_or(i32::MAX)
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn set(arenas: i32) {
    use std::ffi::c_int;

    unsafe extern "C" {
        fn mallopt(param: c_int, value: c_int) -> c_int;
    }
    // From <malloc.h>; they are part of the C library's interface and never change.
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_MMAP_THRESHOLD: c_int = -3;
    const M_ARENA_MAX: c_int = -8;
    for (param, value) in [(M_ARENA_MAX, arenas), (M_MMAP_THRESHOLD, LARGE_BYTES), (M_TRIM_THRESHOLD, LARGE_BYTES)] {
        // SAFETY: the signature is that of <malloc.h>, and any value is allowed. The call changes settings without a lock
        // against other threads that set them; nothing else in the program does.
        let taken = unsafe { mallopt(param, value) };
        if taken == 0 {
            tracing::debug!(param, value, "the allocator does not take a setting");
        }
    }
}

#[cfg(not(target_env = "gnu"))]
fn set(_: i32) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_follow_the_limit_and_the_cores() {
        assert_eq!((arenas(128 << 20, 2), arenas(128 << 20, 64), arenas(16 << 30, 64)), (2, 2, 64));
        assert_eq!(arenas(0, 1), 1);
    }
}
