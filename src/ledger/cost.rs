//! What it costs to replay commits: the measure by which a checkpoint is due.

use crate::config::Limits;

/// A number of commits, their bytes and their events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Files to be read.
    pub commits: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Events to be folded in. A commit of bulk work has many events in few bytes.
    pub events: u64,
}

impl Cost {
    /// Adds a commit.
    pub fn add(&mut self, bytes: u64, events: u64) {
        self.commits += 1;
        self.bytes += bytes;
        self.events += events;
    }

    /// Takes away what a checkpoint holds.
    pub fn less(&mut self, other: Self) {
        self.commits = self.commits.saturating_sub(other.commits);
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self.events = self.events.saturating_sub(other.events);
    }

    /// Whether so much is to be replayed that a checkpoint is worth its price: the shares of the
    /// three bounds together make a whole.
    pub fn due(self, limits: &Limits) -> bool {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let commits = share(self.commits, limits.checkpoint_commits);
        let bytes = share(self.bytes, limits.checkpoint_bytes);
        commits + bytes + share(self.events, limits.checkpoint_events) >= 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(commits: u64, bytes: u64, events: u64, due: bool) {
        let cost = Cost {
            commits,
            bytes,
            events,
        };
        let limits = Limits {
            checkpoint_commits: 100,
            checkpoint_bytes: 1000,
            checkpoint_events: 10_000,
            ..Limits::default()
        };
        assert_eq!(cost.due(&limits), due, "{cost:?}");
    }

    #[test]
    fn a_checkpoint_is_due_by_what_replay_costs() {
        check(0, 0, 0, false);
        check(100, 0, 0, true);
        check(99, 0, 0, false);
        check(0, 1000, 0, true);
        check(3, 0, 9_700, true);
        check(50, 250, 2_499, false);
    }
}
