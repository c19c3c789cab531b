//! Time: microseconds since 1970 in UTC, and the only place that reads the wall clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};

/// A moment: microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Later than every moment that is ever committed.
    pub const MAX: Self = Self(i64::MAX);

    /// This moment plus `duration`, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// How long it is from `earlier` to this moment; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(moment) => f.write_str(&moment.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{} us", self.0),
        }
    }
}

/// Where the present moment comes from: the machine's clock, or a test's.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The wall clock of this machine.
    System,
    /// A clock that stands still until a test moves it.
    Mock(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `start`.
    pub fn mock(start: Timestamp) -> Self {
        Self::Mock(Arc::new(AtomicI64::new(start.0)))
    }

    /// The present moment.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clock"
    )]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since_1970 = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
            }
            Self::Mock(micros) => Timestamp(micros.load(Ordering::SeqCst)),
        }
    }

    /// Moves a mock clock on; does nothing to the system's.
    pub fn advance(&self, duration: Duration) {
        match self {
            Self::System => {}
            Self::Mock(micros) => {
                micros.fetch_add(
                    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
                    Ordering::SeqCst,
                );
            }
        }
    }
}
