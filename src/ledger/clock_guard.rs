//! Keeps processes with a wrong clock from committing.
//!
//! All moments of a store are compared with each other, so they must be those of one clock, which
//! is the store's own: of the file system, of the bucket. A process compares its clock with it when
//! it opens the store for writing, then every `clock_check`, and at once where the wall clock and
//! the running clock went apart, because then somebody set the wall clock.

use std::time::Duration;

use crate::config::Limits;
use crate::error::{Code, Error, Result};
use crate::ledger::store::{Probe, SecondPut, Store};
use crate::time::{Clock, Timestamp};

/// By how much the two clocks of a machine may go apart between two checks. Chosen: NTP slews by
/// far less in `clock_check`.
const APART_MAX: Duration = Duration::from_secs(1);

/// How often a store that answers slowly is asked for its time at once.
const PROBES_MAX: u32 = 3;

/// By how many times the skew the newest commit may seem to lie in the future: one process may be
/// ahead by it, this one behind, and the store may have been slow to tell either.
const AHEAD_TIMES: u32 = 3;

/// What is known of this process's clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClockGuard {
    /// Both clocks, when they were compared with the store's last.
    checked: Option<(Timestamp, Duration)>,
}

impl ClockGuard {
    /// Compares this process's clock with the store's, where that is due.
    ///
    /// # Errors
    /// `SG7007 clock-off`, `SG7008 store-unsafe`; `SG7002 store-unavailable`.
    pub(super) async fn check(
        &mut self,
        store: &Store,
        clock: &Clock,
        limits: &Limits,
    ) -> Result<()> {
        if let Some((wall, running)) = self.checked {
            let ran = clock.running().saturating_sub(running);
            let now = clock.now();
            let went = now.since(wall);
            let apart = went.abs_diff(ran).max(wall.since(now));
            if ran < limits.clock_check && apart < APART_MAX {
                return Ok(());
            }
            self.checked = None;
        }
        let mut attempt = 1;
        loop {
            let (before, asked) = (clock.now(), clock.running());
            let Some(probe) = store.probe().await? else {
                break;
            };
            // A test that holds its clock still says nothing of the disk on which it runs.
            let of_test = store.local_path().is_some() && !matches!(clock, Clock::System);
            let (before, after, at) = match of_test {
                true => (probe.at, probe.at, probe.at),
                false => (before, clock.now(), probe.at),
            };
            judge(Probe { at, ..probe }, before, after, limits)?;
            // An answer that took long, or was slept over, leaves open by how much they differ.
            let took = clock.running().saturating_sub(asked);
            if took <= limits.clock_skew_max / 4 || attempt == PROBES_MAX {
                break;
            }
            attempt += 1;
        }
        self.checked = Some((clock.now(), clock.running()));
        Ok(())
    }
}

/// `before` and `after`: this process's clock around the moment at which the store was asked.
fn judge(probe: Probe, before: Timestamp, after: Timestamp, limits: &Limits) -> Result<()> {
    if probe.second_put == SecondPut::Taken {
        return Err(Error::new(
            Code::StoreUnsafe,
            "the store lets a second file take the name of a first one",
        )
        .with_detail("It ignores put-if-absent (If-None-Match), on which every commit rests.")
        .with_hint(
            "Use a store that honours conditional writes; read this one with --read-only.",
        ));
    }
    let ahead = before.since(probe.at);
    let behind = probe.at.since(after);
    let off = ahead.max(behind);
    if off <= limits.clock_skew_max {
        return Ok(());
    }
    let word = match ahead > behind {
        true => "ahead of",
        false => "behind",
    };
    Err(Error::new(
        Code::ClockOff,
        format!(
            "the clock of this machine is {} s {word} the store's",
            off.as_secs()
        ),
    )
    .with_detail(format!(
        "At {} here it was {} there; {} s may lie between.",
        after,
        probe.at,
        limits.clock_skew_max.as_secs()
    ))
    .with_hint(
        "Set this machine's clock, or read the store with --read-only. Nothing was changed.",
    ))
}

/// Refuses to go on from a time that lies in the future.
///
/// # Errors
/// `SG7009 time-ahead`.
pub(super) fn check_time(at: Timestamp, now: Timestamp, limits: &Limits) -> Result<()> {
    let ahead = at.since(now);
    if ahead <= limits.clock_skew_max * AHEAD_TIMES {
        return Ok(());
    }
    Err(Error::new(
        Code::TimeAhead,
        format!("the newest commit lies {} s in the future", ahead.as_secs()),
    )
    .with_detail(format!(
        "It was made at {at}, by a machine with a wrong clock. Nothing was changed."
    ))
    .with_hint("Run sluicegate repair, which puts the time of the store right."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(at: i64, before: i64, after: i64, expected: Option<Code>) {
        let second = |seconds: i64| Timestamp(seconds * 1_000_000);
        let probe = Probe {
            at: second(at),
            second_put: SecondPut::Refused,
        };
        let judged = judge(probe, second(before), second(after), &Limits::default());
        let code = judged.err().map(|error| error.code());
        assert_eq!(code, expected, "{at} {before} {after}");
    }

    #[test]
    fn a_clock_may_differ_by_the_skew_and_no_more() {
        check(100, 100, 100, None);
        check(100, 110, 110, None);
        check(100, 90, 90, None);
        check(100, 111, 111, Some(Code::ClockOff));
        check(100, 89, 89, Some(Code::ClockOff));
        // A request that took long says nothing against the clock.
        check(100, 95, 160, None);
    }

    #[test]
    fn a_store_that_takes_a_second_put_is_refused() {
        let probe = Probe {
            at: Timestamp(0),
            second_put: SecondPut::Taken,
        };
        let judged = judge(probe, Timestamp(0), Timestamp(0), &Limits::default());
        assert_eq!(judged.unwrap_err().code(), Code::StoreUnsafe);
    }
}
