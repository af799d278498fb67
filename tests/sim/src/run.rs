//! Owns one run: a seed becomes a plan and a list of steps, each of which is a seed of its own. So a failing run is cut down
//! by leaving steps out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::coverage::Coverage;
use crate::random::Random;
use crate::world::{Plan, World};

/// Steps of a run.
pub const STEPS: usize = 400;

/// What became of a run.
pub struct Outcome {
    /// What must be true and was not.
    pub broken: Option<String>,
    /// What happened.
    pub story: Vec<String>,
    /// What was met.
    pub coverage: Coverage,
    /// Steps that were done.
    pub steps: usize,
}

impl Outcome {
    /// Stands for the whole story: equal for equal runs.
    pub fn hash(&self) -> u32 {
        self.story.iter().fold(0, |hash, line| crc32c::crc32c_append(hash, line.as_bytes()))
    }
}

/// The steps of a seed.
pub fn steps_of(seed: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    (0..STEPS).map(|_| random.next()).collect()
}

/// Runs a seed.
pub fn run(seed: u64) -> Outcome {
    run_steps(&Plan::of(seed), &steps_of(seed))
}

/// Runs these steps.
pub fn run_steps(plan: &Plan, steps: &[u64]) -> Outcome {
    let mut world = match World::new(plan.clone()) {
        Ok(world) => world,
        Err(broken) => {
            let (story, coverage) = Default::default();
            return Outcome { broken: Some(broken), story, coverage, steps: 0 };
        }
    };
    let mut done = 0;
    let ended = catch_unwind(AssertUnwindSafe(|| {
        for step in steps {
            done += 1;
            world.step(*step)?;
        }
        world.finish()
    }));
    let broken = match ended {
        Ok(ended) => ended.err(),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Some(format!("a panic: {}", message.unwrap_or_default()))
        }
    };
    let (story, coverage) = (std::mem::take(&mut world.story), std::mem::take(&mut world.coverage));
    if broken.is_some() {
        // What broke may panic again while it goes.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(world)));
    }
    Outcome { broken, story, coverage, steps: done }
}

/// Leaves steps out as long as the run still breaks; at most `tries` runs.
pub fn shrink(plan: &Plan, steps: &[u64], mut tries: usize) -> Vec<u64> {
    let first = run_steps(plan, steps);
    let mut steps = steps[..first.steps].to_vec();
    let mut size = (steps.len() / 2).max(1);
    loop {
        let mut at = 0;
        while at < steps.len() && tries > 0 {
            let end = (at + size).min(steps.len());
            let without = [&steps[..at], &steps[end..]].concat();
            tries -= 1;
            if run_steps(plan, &without).broken.is_some() {
                steps = without;
            } else {
                at = end;
            }
        }
        if size == 1 || tries == 0 {
            return steps;
        }
        size /= 2;
    }
}
