//! Owns the fixed seeds: they hold, they go through every phase, and each is the same run every time.
#![allow(missing_docs, reason = "a test target")]

use tidewell_sim::coverage::{Coverage, Phase};
use tidewell_sim::run::{run, run_all};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=60;

#[test]
fn fixed_seeds_hold_and_die_in_every_phase() {
    let mut coverage = Coverage::default();
    for (seed, outcome) in run_all(&SEEDS.collect::<Vec<_>>()) {
        if let Some(broken) = outcome.broken {
            let story = outcome.story.join("\n");
            panic!("{story}\nseed {seed} breaks at step {}: {broken}", outcome.steps);
        }
        coverage.merge(&outcome.coverage);
    }
    println!("{coverage}");
    for phase in Phase::ALL {
        assert!(coverage.crashes.get(&phase).is_some_and(|count| *count > 0), "nobody died in {phase:?}");
    }
    let met =
        ["migrations", "clients that forgot", "flipped bits", "merges of days", "backups", "deletes", "rotten bits"];
    for what in met {
        assert!(coverage.counts.get(what).is_some_and(|count| *count > 0), "no {what}");
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in 1..=6 {
        let (first, second) = (run(seed), run(seed));
        let differs = first.story.iter().zip(&second.story).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!((first.hash(), first.story.len()), (second.hash(), second.story.len()), "seed {seed}");
    }
}
