//! Owns how many file descriptors the process may have, and how many of them connections get.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Connections get at most this part of all descriptors: files of the data directory need few, but need them surely.
const CONNECTIONS_PART: u64 = 2;
/// Taken where the system sets no bound.
const UNLIMITED: u64 = 1 << 20;

/// Raises the bound on descriptors as far as the system allows without a privilege; returns it.
pub fn claim() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let wanted = rustix::process::Rlimit { current: limit.maximum, ..limit };
        match setrlimit(Resource::Nofile, wanted) {
            Ok(()) => limit.current = limit.maximum,
            Err(error) => tracing::debug!(%error, "the bound on file descriptors stays as it is"),
        }
    }
    limit.current.unwrap_or(UNLIMITED)
}

/// How many of `wanted` connections of the query address fit.
pub fn connections(wanted: usize, descriptors: u64) -> usize {
    let fit = usize::try_from(descriptors / CONNECTIONS_PART).unwrap_or(usize::MAX).max(1);
    if fit < wanted {
        tracing::info!(
            descriptors,
            connections = fit,
            "the query address takes fewer connections than it could; raise the bound on file descriptors (LimitNOFILE)"
        );
    }
    wanted.min(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_files() {
        assert_eq!((connections(4096, 1024), connections(4096, 20_000), connections(4096, 1)), (512, 4096, 1));
        assert!(claim() >= 64);
    }
}
