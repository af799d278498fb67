//! Runs seeds: given ones, fresh ones for a while, one again with its story.
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidewell_sim::coverage::Coverage;
use tidewell_sim::run::{run, run_steps, shrink, steps_of};
use tidewell_sim::world::Plan;

const USAGE: &str = "sim seeds FIRST COUNT | sim fresh SECONDS | sim replay SEED | sim shrink SEED";

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u64>().ok());
    let ok = match (args.first().map(String::as_str), number(1), number(2)) {
        (Some("seeds"), Some(first), Some(count)) => many(first..first + count, None),
        (Some("fresh"), Some(seconds), _) => {
            let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_millis() as u64) * 1_000;
            many(first.., Some(Duration::from_secs(seconds)))
        }
        (Some("replay"), Some(seed), _) => replay(seed),
        (Some("shrink"), Some(seed), _) => cut_down(seed),
        _ => {
            println!("{USAGE}");
            false
        }
    };
    std::process::exit(i32::from(!ok));
}

fn many(seeds: impl Iterator<Item = u64>, time: Option<Duration>) -> bool {
    let started = Instant::now();
    let mut coverage = Coverage::default();
    let (mut count, mut broken) = (0u64, Vec::new());
    for seed in seeds {
        if time.is_some_and(|time| started.elapsed() >= time) {
            break;
        }
        let outcome = run(seed);
        count += 1;
        coverage.merge(&outcome.coverage);
        if let Some(why) = outcome.broken {
            println!("seed {seed} breaks at step {}: {why}", outcome.steps);
            broken.push(seed);
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{coverage}");
    println!(
        "{count} seeds in {seconds:.1} s, {:.0} a minute; {} broke: {broken:?}",
        count as f64 * 60.0 / seconds,
        broken.len()
    );
    broken.is_empty()
}

fn replay(seed: u64) -> bool {
    let outcome = run(seed);
    outcome.story.iter().for_each(|line| println!("{line}"));
    println!("{:?}\n{}\nstory {:08x}", Plan::of(seed), outcome.coverage, outcome.hash());
    if let Some(why) = &outcome.broken {
        println!("seed {seed} breaks at step {}: {why}", outcome.steps);
    }
    outcome.broken.is_none()
}

fn cut_down(seed: u64) -> bool {
    let plan = Plan::of(seed);
    let steps = shrink(&plan, &steps_of(seed), 400);
    let outcome = run_steps(&plan, &steps);
    outcome.story.iter().for_each(|line| println!("{line}"));
    println!("{plan:?}\n{} steps; {}", steps.len(), outcome.broken.as_deref().unwrap_or("does not break"));
    outcome.broken.is_none()
}
