//! The waiting jobs of one transform in the order in which they are claimed.
//!
//! Jobs that were scheduled together have ascending ids and mostly one priority and one time, so
//! the queue holds ranges of ids: a million jobs of one statement are one entry. Taking a job out
//! of the middle splits its range.

use std::cmp::Reverse;

use imbl::OrdMap;

use crate::id::JobId;
use crate::model::transform::Permission;
use crate::time::Timestamp;

/// The place of a job in the order: higher priority first, then earlier, then older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    priority: Reverse<i16>,
    run_at: Timestamp,
    first: JobId,
}

/// Waiting jobs in claim order.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// From the first id of a range to the id after its last.
    ranges: OrdMap<Place, JobId>,
    len: u64,
}

impl Queue {
    /// The number of waiting jobs.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a job in.
    pub fn insert(&mut self, priority: i16, run_at: Timestamp, job: JobId) {
        self.insert_new(QueueRange {
            priority,
            run_at,
            first: job,
            end: JobId(job.0 + 1),
        });
    }

    /// Puts jobs in, none of which is there.
    pub fn insert_new(&mut self, jobs: QueueRange) {
        let QueueRange {
            priority,
            run_at,
            first,
            end: new_end,
        } = jobs;
        self.len += new_end.0 - first.0;
        let place = Place {
            priority: Reverse(priority),
            run_at,
            first,
        };
        let before = self
            .ranges
            .range(..place)
            .next_back()
            .map(|(before, end)| (*before, *end));
        if let Some((before, end)) = before {
            let same = before.priority == place.priority && before.run_at == run_at;
            if same && end == first {
                self.ranges.insert(before, new_end);
                return;
            }
        }
        self.ranges.insert(place, new_end);
    }

    /// Takes a job out; says whether it was there.
    pub fn remove(&mut self, priority: i16, run_at: Timestamp, job: JobId) -> Found {
        let place = Place {
            priority: Reverse(priority),
            run_at,
            first: job,
        };
        let Some((&holder, &end)) = self.ranges.range(..=place).next_back() else {
            return Found::No;
        };
        let same = holder.priority == place.priority && holder.run_at == run_at;
        if !same || job >= end {
            return Found::No;
        }
        self.ranges.remove(&holder);
        if holder.first < job {
            self.ranges.insert(holder, job);
        }
        let next = JobId(job.0 + 1);
        if next < end {
            self.ranges.insert(
                Place {
                    first: next,
                    ..holder
                },
                end,
            );
        }
        self.len -= 1;
        Found::Yes
    }

    /// The jobs that may run at `now`, in claim order.
    pub fn ready(&self, now: Timestamp) -> impl Iterator<Item = JobId> {
        self.ranges
            .iter()
            .filter(move |(place, _)| place.run_at <= now)
            .flat_map(|(place, end)| (place.first.0..end.0).map(JobId))
    }

    /// The ranges in order. Neighbours may touch, which depends on how the queue came about.
    pub fn ranges(&self) -> impl Iterator<Item = QueueRange> {
        self.ranges.iter().map(|(place, end)| QueueRange {
            priority: place.priority.0,
            run_at: place.run_at,
            first: place.first,
            end: *end,
        })
    }

    /// Puts a range in; says whether it is one that no other overlaps.
    pub fn insert_range(&mut self, range: QueueRange) -> Permission {
        let place = Place {
            priority: Reverse(range.priority),
            run_at: range.run_at,
            first: range.first,
        };
        let same = |other: &Place| other.priority == place.priority && other.run_at == place.run_at;
        let before = self.ranges.range(..=place).next_back();
        let after = self.ranges.range(place..).next();
        let apart = before.is_none_or(|(other, end)| !same(other) || *end <= range.first)
            && after.is_none_or(|(other, _)| !same(other) || other.first >= range.end);
        if !apart || range.first >= range.end {
            return Permission::Denied;
        }
        self.len += range.end.0 - range.first.0;
        self.ranges.insert(place, range.end);
        Permission::Allowed
    }

    /// The ranges in order, none of which can be joined with the next.
    fn joined(&self) -> impl Iterator<Item = QueueRange> {
        let mut ranges = self.ranges().peekable();
        std::iter::from_fn(move || {
            let mut range = ranges.next()?;
            while let Some(next) = ranges.next_if(|next| {
                next.priority == range.priority
                    && next.run_at == range.run_at
                    && next.first == range.end
            }) {
                range.end = next.end;
            }
            Some(range)
        })
    }

    /// The earliest moment after `now` at which a waiting job may run.
    pub fn next_run_after(&self, now: Timestamp) -> Option<Timestamp> {
        let moments = self.ranges.keys().map(|place| place.run_at);
        moments.filter(|run_at| *run_at > now).min()
    }
}

impl PartialEq for Queue {
    /// Whether the same jobs stand in the same order.
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.joined().eq(other.joined())
    }
}

/// Jobs of one priority and time whose ids follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRange {
    /// Their priority.
    pub priority: i16,
    /// The moment from which they may run.
    pub run_at: Timestamp,
    /// The first.
    pub first: JobId,
    /// The one after the last.
    pub end: JobId,
}

/// Whether something was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It was there.
    Yes,
    /// It was not.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn ids(queue: &Queue) -> Vec<u64> {
        queue.ready(NOW).map(|job| job.0).collect()
    }

    #[test]
    fn jobs_of_one_statement_are_one_range() {
        let mut queue = Queue::default();
        (1..=1_000).for_each(|id| queue.insert(0, NOW, JobId(id)));
        assert_eq!((queue.ranges.len(), queue.len()), (1, 1_000));
    }

    #[test]
    fn higher_priority_then_earlier_then_older_comes_first() {
        let mut queue = Queue::default();
        queue.insert(0, Timestamp(5), JobId(1));
        queue.insert(0, Timestamp(4), JobId(2));
        queue.insert(9, Timestamp(6), JobId(3));
        queue.insert(9, Timestamp(2_000), JobId(4));
        queue.insert(0, Timestamp(4), JobId(5));
        assert_eq!(ids(&queue), [3, 2, 5, 1]);
        assert_eq!(queue.next_run_after(Timestamp(4)), Some(Timestamp(5)));
        assert_eq!(queue.next_run_after(Timestamp(2_000)), None);
    }

    #[test]
    fn removal_from_the_middle_keeps_the_rest() {
        let mut queue = Queue::default();
        (1..=5).for_each(|id| queue.insert(0, NOW, JobId(id)));
        assert_eq!(queue.remove(0, NOW, JobId(3)), Found::Yes);
        assert_eq!(queue.remove(0, NOW, JobId(3)), Found::No);
        assert_eq!(queue.remove(1, NOW, JobId(4)), Found::No);
        assert_eq!(queue.remove(0, NOW, JobId(9)), Found::No);
        assert_eq!((ids(&queue), queue.len()), (vec![1, 2, 4, 5], 4));
        queue.insert(0, NOW, JobId(3));
        assert_eq!(ids(&queue), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn ranges_make_the_same_queue_again() {
        let mut queue = Queue::default();
        for id in [1, 2, 5, 4, 3, 9] {
            queue.insert(0, NOW, JobId(id));
        }
        queue.insert(1, Timestamp(7), JobId(8));
        let mut again = Queue::default();
        for range in queue.ranges() {
            assert_eq!(again.insert_range(range), Permission::Allowed);
            assert_eq!(again.insert_range(range), Permission::Denied);
        }
        assert_eq!(again, queue);
        let mut in_order = Queue::default();
        (1..=5).for_each(|id| in_order.insert(0, NOW, JobId(id)));
        in_order.insert(0, NOW, JobId(9));
        assert_ne!(in_order, queue);
        in_order.insert(1, Timestamp(7), JobId(8));
        assert_eq!(in_order, queue);
    }
}
