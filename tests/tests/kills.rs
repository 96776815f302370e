//! Agents that are killed at random moments, at work and while they start, under load and under attack: nothing is lost
//! and nothing gets through.
//!
//! Ten kills in an ordinary run, a hundred with `cargo xtask test --long`. The moments come from a seed that is
//! printed; `OVERLAY_TEST_SEED` repeats a run.

use std::{env, thread, time::Duration};

use overlay_tests::{host::Host, siege::Siege};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Longest time that an agent works before it is killed.
const WORK: Duration = Duration::from_millis(500);
/// Longest time after its start that an agent is killed while it starts: about what a start takes.
const START: Duration = Duration::from_millis(200);

fn seed() -> u64 {
    let given =
        env::var("OVERLAY_TEST_SEED").ok().map(|text| text.parse().expect("OVERLAY_TEST_SEED is a number"));
    given.unwrap_or_else(rand::random)
}

fn kills() -> usize {
    if env::var_os("OVERLAY_TEST_LONG").is_some() { 100 } else { 10 }
}

/// Not a wait for anything: the point is to hit another moment each time.
fn pause(random: &mut StdRng, longest: Duration) -> Duration {
    let pause = random.random_range(Duration::ZERO..longest);
    thread::sleep(pause);
    pause
}

#[test]
fn agents_killed_at_random_lose_no_packet_reset_no_connection_and_let_nothing_through() {
    let (seed, kills) = (seed(), kills());
    println!("seed {seed}, {kills} kills");
    let mut random = StdRng::seed_from_u64(seed);
    let siege = Siege::lay();
    let mut killed = 0;
    while killed < kills {
        let host = &siege.cluster.hosts[random.random_range(0..siege.cluster.hosts.len())];
        let worked = pause(&mut random, WORK);
        host.kill9();
        killed += 1;
        println!("{killed}: {} killed after {worked:?} at work", host.label());
        siege.wait_for_progress();
        killed += kill_while_it_starts(host, &mut random, kills - killed);
        siege.wait_for_progress();
        host.start();
    }
    siege.lift();
}

/// Starts the agent and kills it, no, once or twice, but at most so often.
fn kill_while_it_starts(host: &Host, random: &mut StdRng, most: usize) -> usize {
    let times = random.random_range(0..=2).min(most);
    for _ in 0..times {
        host.spawn();
        let started = pause(random, START);
        host.kill9();
        println!("   {} killed {started:?} after its start", host.label());
    }
    times
}
