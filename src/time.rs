//! Time: microseconds since 1970 in UTC, and the only place that reads the machine's clocks.
//!
//! There are two. The wall clock says when something happened and may be wrong, jump, or run back.
//! The running clock says only how long it is from one reading to the next; it goes on while the
//! process is stopped or the machine sleeps, and never jumps. Moments that are committed come from
//! the first, "how long was I away" from the second.

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

    /// This moment less `duration`.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
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

/// Clocks of a simulation.
pub trait SimulatedClock: Send + Sync {
    /// The present moment, as wrong as the simulation wants it.
    fn now(&self) -> Timestamp;

    /// How long the simulation has run.
    fn running(&self) -> Duration;
}

/// Where the present moment comes from: the machine's clocks, or a test's.
#[derive(Clone)]
pub enum Clock {
    /// The clocks of this machine.
    System,
    /// A clock that stands still until a test moves it.
    Mock(Arc<AtomicI64>),
    /// Those of one process of a simulation.
    Simulated(Arc<dyn SimulatedClock>),
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Mock(_) => "Mock",
            Self::Simulated(_) => "Simulated",
        })
    }
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
            Self::Simulated(clock) => clock.now(),
        }
    }

    /// A reading of the running clock. Only the difference of two readings says something.
    pub fn running(&self) -> Duration {
        match self {
            Self::System => running(),
            Self::Mock(micros) => {
                let micros = u64::try_from(micros.load(Ordering::SeqCst));
                Duration::from_micros(micros.unwrap_or_default())
            }
            Self::Simulated(clock) => clock.running(),
        }
    }

    /// Moves a mock clock on; does nothing to others.
    pub fn advance(&self, duration: Duration) {
        match self {
            Self::System | Self::Simulated(_) => {}
            Self::Mock(micros) => {
                micros.fetch_add(
                    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
                    Ordering::SeqCst,
                );
            }
        }
    }
}

/// The time since the machine was started, its sleep included.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn running() -> Duration {
    let reading = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(reading.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(reading.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

/// The time since the first call.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn running() -> Duration {
    static FIRST: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    FIRST.elapsed()
}
