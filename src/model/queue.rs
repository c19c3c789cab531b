//! The waiting jobs of one transform in the order in which they are claimed.
//!
//! Jobs that were scheduled together have ascending ids and mostly one priority and one time, so
//! the queue holds ranges of ids: a million jobs of one statement are one entry. Taking a job out
//! of the middle splits its range.
//!
//! A claim pays for what it takes, not for what waits: jobs that are not due are passed over with
//! one look-up per priority, and a job whose source is held by another job is *parked*. It waits
//! and counts, but stands in no range until the source is free. Whoever changes what runs on a
//! source parks and unparks, see `apply`; so what is parked follows from the rest of the state.

use std::cmp::Reverse;
use std::ops::Bound;

use imbl::OrdMap;

use crate::id::JobId;
use crate::model::transform::Permission;
use crate::time::Timestamp;

/// The place of a job in the order: higher priority first, then earlier, then older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    priority: Reverse<i16>,
    run_at: Timestamp,
    first: JobId,
}

impl Place {
    /// The job that stands there.
    pub fn job(&self) -> JobId {
        self.first
    }
}

/// Waiting jobs in claim order.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// From the first id of a range to the id after its last.
    ranges: OrdMap<Place, JobId>,
    /// Jobs in ranges, and parked ones.
    len: u64,
    parked: u64,
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

    /// Takes a waiting job out of the order, because its source is held; says whether it stood
    /// there.
    pub fn park(&mut self, priority: i16, run_at: Timestamp, job: JobId) -> Found {
        let found = self.remove(priority, run_at, job);
        if found == Found::Yes {
            self.insert_parked();
        }
        found
    }

    /// Puts a parked job back, because its source is free.
    pub fn unpark(&mut self, priority: i16, run_at: Timestamp, job: JobId) {
        self.parked = self.parked.saturating_sub(1);
        self.len = self.len.saturating_sub(1);
        self.insert(priority, run_at, job);
    }

    /// Counts a job in that is parked from the beginning.
    pub fn insert_parked(&mut self) {
        self.len += 1;
        self.parked += 1;
    }

    /// Takes a parked job out.
    pub fn remove_parked(&mut self) {
        self.len = self.len.saturating_sub(1);
        self.parked = self.parked.saturating_sub(1);
    }

    /// The jobs that may run at `now` and are not parked, with their places, in claim order.
    pub fn ready(&self, now: Timestamp) -> impl Iterator<Item = Place> + use<'_> {
        let mut from = Bound::Unbounded;
        let ranges = std::iter::from_fn(move || {
            loop {
                let (place, end) = self.ranges.range((from, Bound::Unbounded)).next()?;
                if place.run_at <= now {
                    from = Bound::Excluded(*place);
                    return Some((*place, *end));
                }
                // All others of this priority come later still.
                from = Bound::Excluded(Place {
                    run_at: Timestamp::MAX,
                    first: JobId(u64::MAX),
                    ..*place
                });
            }
        });
        ranges.flat_map(|(place, end)| {
            (place.first.0..end.0).map(move |job| Place {
                first: JobId(job),
                ..place
            })
        })
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
        let mut from = Bound::Unbounded;
        let firsts = std::iter::from_fn(|| {
            let (place, _) = self.ranges.range((from, Bound::Unbounded)).next()?;
            let of_priority = |run_at, first| Place {
                run_at,
                first,
                ..*place
            };
            let due = of_priority(now, JobId(u64::MAX));
            let last = of_priority(Timestamp::MAX, JobId(u64::MAX));
            from = Bound::Excluded(last);
            let later = (Bound::Excluded(due), Bound::Included(last));
            Some(
                self.ranges
                    .range(later)
                    .next()
                    .map(|(place, _)| place.run_at),
            )
        });
        firsts.flatten().min()
    }
}

impl PartialEq for Queue {
    /// Whether the same jobs stand in the same order.
    fn eq(&self, other: &Self) -> bool {
        (self.len, self.parked) == (other.len, other.parked) && self.joined().eq(other.joined())
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
        queue.ready(NOW).map(|place| place.job().0).collect()
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
    fn jobs_that_are_not_due_are_passed_over_at_once() {
        let mut queue = Queue::default();
        for id in 1..=10_000 {
            let priority = if id % 2 == 0 { 5 } else { -5 };
            queue.insert(
                priority,
                Timestamp(2_000 + i64::try_from(id).unwrap()),
                JobId(id),
            );
        }
        queue.insert(0, NOW, JobId(20_001));
        queue.insert(-9, NOW, JobId(20_002));
        assert_eq!(ids(&queue), [20_001, 20_002]);
        assert_eq!(queue.next_run_after(NOW), Some(Timestamp(2_001)));
        assert_eq!(
            queue.next_run_after(Timestamp(2_001)),
            Some(Timestamp(2_002))
        );
    }

    #[test]
    fn a_parked_job_waits_and_counts_but_is_not_ready() {
        let mut queue = Queue::default();
        (1..=3).for_each(|id| queue.insert(0, NOW, JobId(id)));
        let all = queue.clone();
        queue.park(0, NOW, JobId(2));
        assert_eq!((ids(&queue), queue.len()), (vec![1, 3], 3));
        assert_ne!(queue, all);
        queue.unpark(0, NOW, JobId(2));
        assert_eq!(queue, all);
        queue.park(0, NOW, JobId(1));
        queue.remove_parked();
        assert_eq!((ids(&queue), queue.len()), (vec![2, 3], 2));
        queue.insert_parked();
        assert_eq!((ids(&queue), queue.len()), (vec![2, 3], 3));
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
