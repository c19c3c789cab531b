//! A deterministic simulation of processes on one store: one seed is one history.
//!
//! Everything that a process has of the world is simulated: its clocks (wrong, jumping), its way
//! to the store (slow, cut, answering late or never), its life (stopped for any time between two
//! requests, killed, started again). The ledger, its upkeep and the model are the real ones, in a
//! runtime of one thread whose time is not the machine's. What must hold is in [`judge`].
//!
//! `tests/run` plays some seeds; `SLUICEGATE_SIM_SECONDS=3600 cargo test --release --lib sim::`
//! plays for an hour. A seed that fails is printed; `SLUICEGATE_SIM_SEED=n` plays it again.
//! `tests/mutations` says which faults of the code it must find.

mod actor;
mod judge;
mod process;
pub(crate) mod shelf;
mod world;

use std::time::{Duration, Instant};

use world::{Setting, play};

/// Seeds that once failed, each with what it found.
const KEPT: &[(u64, &str)] = &[];

/// Seeds of a run without settings.
const SEEDS: u64 = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Plays a seed in every setting.
fn play_all(seed: u64) {
    for setting in Setting::ALL {
        let played = std::panic::catch_unwind(|| play(seed, setting));
        if played.is_err() {
            panic!("seed {seed} fails as {setting:?}; SLUICEGATE_SIM_SEED={seed} plays it again");
        }
    }
}

#[test]
fn nothing_is_lost_and_nobody_holds_what_another_holds() {
    if let Some(seed) = number("SLUICEGATE_SIM_SEED") {
        return play_all(seed);
    }
    for (seed, _) in KEPT {
        play_all(*seed);
    }
    let Some(seconds) = number("SLUICEGATE_SIM_SECONDS") else {
        return (1..=SEEDS).for_each(play_all);
    };
    let (begun, first) = (Instant::now(), rand::random::<u32>().into());
    let mut seed: u64 = first;
    while begun.elapsed() < Duration::from_secs(seconds) {
        play_all(seed);
        seed += 1;
    }
    let histories = (seed - first) * Setting::ALL.len() as u64;
    println!("{histories} histories from seed {first} on");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for setting in Setting::ALL {
        let once = play(7, setting);
        assert_eq!(once, play(7, setting), "{setting:?}");
        assert_ne!(once, play(8, setting), "{setting:?}");
    }
}
