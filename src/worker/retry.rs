//! Doing something again while that may help: bounded, with pauses.

use std::time::Duration;

use crate::error::Result;

/// How often something is done again, and the pause before each further try, counted from 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retries {
    pub most: u32,
    pub pause: fn(u32) -> Duration,
    /// What is logged of every try that failed.
    pub told: &'static str,
}

impl Retries {
    /// Does it until it goes well, fails for good, or was done again often enough.
    pub(super) async fn run<T, F>(self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tries = 0;
        loop {
            match attempt().await {
                Err(error) if error.retryable() && tries < self.most => {
                    tries += 1;
                    tracing::warn!(%error, tries, "{}", self.told);
                    tokio::time::sleep((self.pause)(tries)).await;
                }
                ended => return ended,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::error::{Code, Error};

    use super::*;

    const RETRIES: Retries = Retries {
        most: 2,
        pause: |_| Duration::ZERO,
        told: "again",
    };

    #[tokio::test]
    async fn what_may_help_is_done_again_so_often_and_no_more() {
        for (code, fails, tries, well) in [
            (Code::StoreUnavailable, 2, 3, true),
            (Code::StoreUnavailable, 9, 3, false),
            (Code::PlanError, 9, 1, false),
        ] {
            let done = Cell::new(0);
            let ended = RETRIES.run(async || {
                done.set(done.get() + 1);
                match done.get() > fails {
                    true => Ok(()),
                    false => Err(Error::new(code, "no")),
                }
            });
            assert_eq!(ended.await.is_ok(), well);
            assert_eq!(done.get(), tries);
        }
    }
}
