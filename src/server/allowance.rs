//! What is shared out: bytes that requests may bring and keep in memory, of one request and of all
//! together, and places of which each actor has so many.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Code, Error, Result};

/// Bytes of one permit of the pool. Chosen: a semaphore counts to 2^29 on small machines.
const PERMIT_BYTES: usize = 1024;

/// Bytes of each request that do not count, so that people can send their statements while others
/// upload all that the server holds. Chosen: ample for what is typed.
const FREE_BYTES: usize = 64 << 10;

/// The permits of a pool of so many bytes.
pub(super) fn permits(bytes: usize) -> usize {
    (bytes / PERMIT_BYTES).min(Semaphore::MAX_PERMITS)
}

/// What one request has taken. What it took is free again when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Allowance(Arc<Mutex<Taken>>);

#[derive(Debug)]
struct Taken {
    pool: Arc<Semaphore>,
    bytes_max: usize,
    bytes: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Allowance {
    /// A request that may take `bytes_max` out of `pool`.
    pub(super) fn new(pool: &Arc<Semaphore>, bytes_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Taken {
            pool: Arc::clone(pool),
            bytes_max,
            bytes: 0,
            permit: None,
        })))
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    /// `SG5004 too-large` for this request, `SG4009 too-busy` for all of them.
    pub(super) fn take(&self, bytes: usize) -> Result<()> {
        let mut taken = self.0.lock();
        let all = taken.bytes.saturating_add(bytes);
        if all > taken.bytes_max {
            return Err(too_large(taken.bytes_max));
        }
        let has = taken
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let counted = all.saturating_sub(FREE_BYTES);
        let needs = counted.div_ceil(PERMIT_BYTES).saturating_sub(has);
        let needs = u32::try_from(needs).map_err(|_| too_large(taken.bytes_max))?;
        let more = Arc::clone(&taken.pool).try_acquire_many_owned(needs);
        let more = more.map_err(|_| {
            Error::new(
                Code::TooBusy,
                "the server holds as many uploaded rows as it may",
            )
            .with_hint("Try again after the seconds in Retry-After.")
        })?;
        match &mut taken.permit {
            Some(permit) => permit.merge(more),
            None => taken.permit = Some(more),
        }
        taken.bytes = all;
        Ok(())
    }
}

/// Places of which each actor may take some.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<Arc<str>, usize>>);

/// One place of an actor, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    actor: Arc<str>,
}

impl Shares {
    /// A place, where the actor has fewer than `most`.
    pub(super) fn take(self: &Arc<Self>, actor: &Arc<str>, most: usize) -> Option<Share> {
        let mut taken = self.0.lock();
        let own = taken.entry(Arc::clone(actor)).or_default();
        if *own >= most {
            return None;
        }
        *own += 1;
        Some(Share {
            shares: Arc::clone(self),
            actor: Arc::clone(actor),
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.0.lock();
        let left = taken
            .get(&self.actor)
            .map_or(0, |own| own.saturating_sub(1));
        match left {
            0 => taken.remove(&self.actor),
            left => taken.insert(Arc::clone(&self.actor), left),
        };
    }
}

/// The error of a request that brings too much.
pub(super) fn too_large(bytes_max: usize) -> Error {
    Error::new(
        Code::TooLarge,
        format!("the request has more than {bytes_max} bytes"),
    )
    .with_hint("Send it in parts, or write Parquet files and INSERT from an external table.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_actor_has_places_of_their_own() {
        let shares = Arc::new(Shares::default());
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        let first = shares.take(&ann, 2);
        let second = shares.take(&ann, 2);
        assert!(first.is_some() && second.is_some() && shares.take(&ann, 2).is_none());
        assert!(shares.take(&bob, 2).is_some());
        drop(first);
        assert!(shares.take(&ann, 2).is_some());
        drop(second);
        assert!(shares.0.lock().is_empty());
    }

    #[test]
    fn one_request_and_all_together_are_bounded() {
        let pool = Arc::new(Semaphore::new(permits(10 << 10)));
        let first = Allowance::new(&pool, FREE_BYTES + (8 << 10));
        first.take(FREE_BYTES + 1).unwrap();
        first.take(7 << 10).unwrap();
        assert_eq!(first.take(2 << 10).unwrap_err().code(), Code::TooLarge);
        let second = Allowance::new(&pool, FREE_BYTES + (8 << 10));
        second.take(FREE_BYTES + (2 << 10)).unwrap();
        assert_eq!(second.take(1).unwrap_err().code(), Code::TooBusy);
        let short = Allowance::new(&pool, FREE_BYTES);
        short.take(FREE_BYTES).unwrap();
        drop(first);
        second.take(6 << 10).unwrap();
    }
}
