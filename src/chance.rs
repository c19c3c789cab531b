//! Random numbers and ids. A simulation seeds them, per thread, so that it can be run again.
//!
//! Secrets are not made here; they come from the system at once (`session::tokens`).

use std::cell::RefCell;
use std::ops::RangeInclusive;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use uuid::{Builder, Uuid};

use crate::time::Timestamp;

thread_local! {
    static SEEDED: RefCell<Option<Xoshiro256PlusPlus>> = const { RefCell::new(None) };
}

/// From now on this thread gets the same numbers after the same seed.
pub fn seed(seed: u64) {
    SEEDED.with_borrow_mut(|seeded| *seeded = Some(Xoshiro256PlusPlus::seed_from_u64(seed)));
}

/// A random number.
pub fn number() -> u64 {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(seeded) => seeded.next_u64(),
        None => rand::random(),
    })
}

/// A random number in a range.
pub fn within(range: RangeInclusive<u64>) -> u64 {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(seeded) => seeded.random_range(range),
        None => rand::random_range(range),
    })
}

/// A new id that tells when it was made (RFC 9562, version 7).
pub fn id(at: Timestamp) -> Uuid {
    let millis = u64::try_from(at.0 / 1000).unwrap_or_default();
    let (high, low) = (number().to_be_bytes(), number().to_be_bytes());
    let mut random = [0; 10];
    for (to, from) in random.iter_mut().zip(high.iter().chain(&low)) {
        *to = *from;
    }
    Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// When an id was made; `None` where it does not tell.
pub fn made_at(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    micros.checked_add(i64::from(nanos / 1000)).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_when_it_was_made() {
        let at = Timestamp(1_700_000_000_123_000);
        assert_eq!(made_at(id(at)), Some(at));
        assert_eq!(made_at(Uuid::nil()), None);
        assert_ne!(id(at), id(at));
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let of = |start| {
            seed(start);
            (number(), within(0..=9), id(Timestamp(0)))
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }
}
