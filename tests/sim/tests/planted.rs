//! Owns the proof that the simulation catches what it is there for: bugs that are switched on one at a time.
#![allow(missing_docs, reason = "a test target")]

use tidewell_sim::planted::{all, caught};

/// Seeds within which each bug must be caught.
const SEEDS_MAX: u64 = 300;

#[test]
fn every_planted_bug_is_caught() {
    // What a bug breaks may be an assertion of the product.
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<String> = all()
        .into_iter()
        .filter(|bug| match caught(*bug, SEEDS_MAX) {
            Some((seeds, why)) => {
                println!("{bug}: seed {seeds}: {why}");
                false
            }
            None => true,
        })
        .map(|bug| bug.to_string())
        .collect();
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not caught within {SEEDS_MAX} seeds: {missed:?}");
}
