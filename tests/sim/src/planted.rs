//! Owns switching planted bugs on, and seeing how many seeds it takes to catch each.

use tidewell_engine::planted as engine;
use tidewell_ingest::planted as ingest;

use crate::run::run_all;

/// A planted bug of either crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    Engine(engine::Bug),
    Ingest(ingest::Bug),
}

/// All of them.
pub fn all() -> Vec<Planted> {
    let of_engine = engine::Bug::ALL.iter().map(|bug| Planted::Engine(*bug));
    of_engine.chain(ingest::Bug::ALL.iter().map(|bug| Planted::Ingest(*bug))).collect()
}

impl std::fmt::Display for Planted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Engine(bug) => write!(f, "{bug:?}"),
            Self::Ingest(bug) => write!(f, "{bug:?}"),
        }
    }
}

/// How many seeds from 1 on it takes to catch `bug`, at most `most`, and what it broke.
pub fn caught(bug: Planted, most: u64) -> Option<(u64, String)> {
    match bug {
        Planted::Engine(bug) => engine::plant(Some(bug)),
        Planted::Ingest(bug) => ingest::plant(Some(bug)),
    }
    let all: Vec<u64> = (1..=most).collect();
    // A few at a time: most bugs are caught soon.
    let found =
        all.chunks(8).find_map(|some| run_all(some).into_iter().find_map(|(seed, run)| Some((seed, run.broken?))));
    engine::plant(None);
    ingest::plant(None);
    found
}
