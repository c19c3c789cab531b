//! Claims: waiting jobs for a worker, together with the locks on their sources.
//!
//! Jobs come by priority, then time, then id, over all transforms of a claim together. A job whose
//! source is held by somebody stays in its queue; one whose source is gone or no longer in a status
//! that the transform takes is cancelled. A lock keeps jobs away whoever holds it: a job holds its
//! source for itself.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use crate::error::Result;
use crate::id::{JobId, Token, TransformId};
use crate::model::draft::Draft;
use crate::model::event::{AttemptRef, Event};
use crate::model::queue::Place;
use crate::model::rules;
use crate::model::state::Transform;
use crate::model::transform::Permission;
use crate::time::Timestamp;

/// A job that a worker has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedJob {
    /// The job, the attempt and its token.
    pub attempt: AttemptRef,
    /// The transform.
    pub transform: TransformId,
    /// The end of the lease.
    pub expires_at: Timestamp,
}

/// Jobs that one claim cancels at the most. Bounds the size of its commit.
const CLAIM_CANCELS_MAX: usize = 10_000;

/// What a claim may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    /// So many jobs, of any of the transforms.
    Jobs(usize),
    /// The next job, and others of its transform up to its group size.
    Group,
}

/// The waiting jobs of one transform on their way into a claim.
struct Line<'q> {
    transform: &'q Transform,
    ready: Box<dyn Iterator<Item = Place> + 'q>,
    /// Jobs of the transform that may start beside those that run.
    room: u64,
}

/// What becomes of a job whose turn it is.
enum Turn {
    /// It starts, as this attempt.
    Start(u16),
    /// It stays in its queue.
    Wait,
    /// It is cancelled, for this reason.
    Cancel(String),
}

impl Draft<'_> {
    /// Gives waiting jobs of some transforms to a worker, `max` at the most.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn claim_jobs(
        &mut self,
        worker: &str,
        transforms: &[TransformId],
        max: usize,
    ) -> Result<Vec<StartedJob>> {
        self.claim(worker, transforms, Take::Jobs(max))
    }

    /// Gives the job that comes first, and others of its transform up to its group size, to a
    /// worker.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn claim_group(
        &mut self,
        worker: &str,
        transforms: &[TransformId],
    ) -> Result<Vec<StartedJob>> {
        self.claim(worker, transforms, Take::Group)
    }

    fn claim(
        &mut self,
        worker: &str,
        transforms: &[TransformId],
        take: Take,
    ) -> Result<Vec<StartedJob>> {
        let all: BTreeSet<TransformId> = transforms.iter().copied().collect();
        let all = all.iter().filter_map(|id| self.state.transforms.get(id));
        let all: Vec<Arc<Transform>> = all.map(Arc::clone).collect();
        let mut lines: Vec<Line<'_>> = all.iter().map(|one| self.line(one)).collect();
        let mut heads: BinaryHeap<Reverse<(Place, usize)>> = BinaryHeap::new();
        for (at, line) in lines.iter_mut().enumerate() {
            heads.extend(line.next().map(|place| Reverse((place, at))));
        }
        let mut most = match take {
            Take::Jobs(max) => max,
            Take::Group => usize::MAX,
        };
        let (mut started, mut cancelled) = (Vec::new(), 0);
        while started.len() < most && cancelled < CLAIM_CANCELS_MAX {
            let Some(Reverse((place, at))) = heads.pop() else {
                break;
            };
            let Some(line) = lines.get_mut(at) else { break };
            let job = place.job();
            match self.turn(line.transform, job) {
                Turn::Wait => {}
                Turn::Cancel(reason) => {
                    cancelled += 1;
                    let reason = &reason;
                    self.emit(&Event::JobCancelled { job, reason })?;
                }
                Turn::Start(attempt) => {
                    line.room -= 1;
                    started.push(self.start(worker, line.transform, job, attempt)?);
                    if take == Take::Group && started.len() == 1 {
                        let size = line.transform.def().group_size;
                        most = usize::try_from(size).unwrap_or(usize::MAX);
                        heads.clear();
                    }
                }
            }
            heads.extend(line.next().map(|place| Reverse((place, at))));
        }
        Ok(started)
    }

    /// The jobs of a transform that may start: none where its whole table is locked, for then none
    /// of its sources is free.
    fn line<'q>(&self, transform: &'q Arc<Transform>) -> Line<'q> {
        let table = self.state.tables.get(&transform.table);
        let open = table.is_some_and(|table| {
            let whole = self.state.locks.covering(&table.name).next();
            whole.is_none()
        });
        let most = if open {
            transform.def().running_max()
        } else {
            0
        };
        Line {
            transform,
            ready: Box::new(transform.queue.ready(self.at)),
            room: most.saturating_sub(transform.running),
        }
    }

    fn turn(&self, transform: &Transform, id: JobId) -> Turn {
        let (Some(job), Some(table)) =
            (self.state.job(id), self.state.tables.get(&transform.table))
        else {
            return Turn::Wait;
        };
        let Some(source) = table.source(job.slot) else {
            return Turn::Cancel("its source was deleted".to_owned());
        };
        let free = rules::source_is_free(&self.state.locks, table, job.slot, source);
        if free == Permission::Denied {
            return Turn::Wait;
        }
        let status = table.status_name(source.status);
        if rules::status_is_taken(transform, status) == Permission::Denied {
            return Turn::Cancel(format!("its source has status {status} by now"));
        }
        match job.attempt.checked_add(1) {
            Some(attempt) => Turn::Start(attempt),
            None => Turn::Cancel(format!("it was tried {} times", job.attempt)),
        }
    }

    fn start(
        &mut self,
        worker: &str,
        transform: &Transform,
        job: JobId,
        attempt: u16,
    ) -> Result<StartedJob> {
        let token = Token(self.state.last_token.0 + 1);
        let attempt = AttemptRef {
            job,
            attempt,
            token,
        };
        let expires_at = self.at.after(transform.def().lease());
        self.emit(&Event::JobStarted {
            attempt,
            worker,
            transform_version: transform.version.number,
            expires_at,
        })?;
        Ok(StartedJob {
            attempt,
            transform: transform.id,
            expires_at,
        })
    }
}

impl Line<'_> {
    fn next(&mut self) -> Option<Place> {
        if self.room == 0 {
            return None;
        }
        self.ready.next()
    }
}

#[cfg(test)]
mod tests {
    use crate::model::decide::{Completion, Outcome};
    use crate::model::jobs::JobState;
    use crate::model::keys::{Key, KeyType};
    use crate::model::testing::{World, texts};

    use super::*;

    /// A claim over several transforms took all jobs of the first before one of another, whatever
    /// their priorities were.
    #[test]
    fn jobs_come_by_priority_then_time_then_id_over_all_transforms() {
        let mut world = World::new(KeyType::Text, &texts(&["a", "b", "c", "d", "e"]));
        world.transform("first", &[]);
        world.transform("second", &[]);
        world.schedule("first", "a", 0);
        world.schedule("second", "b", 5);
        world.schedule("first", "c", 5);
        world.schedule("second", "d", -1);
        world.schedule("first", "e", 0);
        assert_eq!(world.claimed_keys(2), ["b", "c"]);
        assert_eq!(world.claimed_keys(9), ["a", "e", "d"]);
    }

    #[test]
    fn a_group_is_of_the_transform_whose_job_comes_first() {
        let mut world = World::new(KeyType::Text, &texts(&["a", "b", "c", "d"]));
        world.transform("first", &[]);
        world.transform("second", &[]);
        for (transform, key, priority) in [
            ("first", "a", 3),
            ("second", "b", 9),
            ("second", "c", 1),
            ("second", "d", 0),
        ] {
            world.schedule(transform, key, priority);
        }
        let ids: Vec<TransformId> = world.state.transforms.keys().copied().collect();
        let mut claimed = Vec::new();
        for _ in 0..3 {
            let group = world.commit("w", |draft| draft.claim_group("w", &ids));
            claimed.push(
                group
                    .iter()
                    .map(|one| one.attempt.job.0)
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(claimed, [vec![2, 3], vec![1], vec![4]]);
    }

    /// Jobs on `n` and `n/lot` ran at once, for each had a source of its own.
    #[test]
    fn jobs_on_a_path_exclude_those_above_and_below_it() {
        let mut world = World::new(
            KeyType::Text,
            &texts(&["n", "n/lot", "n/lot/1", "m/1", "m/2"]),
        );
        world.transform("t", &["DONE"]);
        for key in ["n/lot", "n", "n/lot/1", "m/1", "m/2"] {
            world.schedule("t", key, 0);
        }
        let claimed = world.claim(9);
        let keys: Vec<&str> = claimed.iter().map(|(_, key)| key.as_str()).collect();
        assert_eq!(keys, ["n/lot", "m/1", "m/2"]);
        assert!(world.update("ann", &[], "n").is_err());
        assert!(world.update("ann", &[], "n/lot/1").is_err());
        assert!(world.insert("ann", &[], &texts(&["n/lot/2"])).is_err());
        world.insert("ann", &[], &texts(&["n/lots"])).unwrap();
        let report = claimed[0].0;
        world.commit("w", |draft| {
            draft.complete_job(report, Completion::default())
        });
        assert_eq!(world.claimed_keys(9), ["n"]);
    }

    #[test]
    fn a_lock_keeps_jobs_away_whoever_holds_it() {
        for (resource, left) in [("n", 0), ("n/a", 1), ("n/a/part", 1)] {
            let mut world = World::new(KeyType::Text, &texts(&["a", "b"]));
            world.transform("t", &[]);
            world.schedule("t", "a", 0);
            world.schedule("t", "b", 0);
            let token = world.lock("w", resource).token.unwrap();
            let ids: Vec<TransformId> = world.state.transforms.keys().copied().collect();
            let started = world.step("w", &[token.0], |draft| draft.claim_jobs("w", &ids, 9));
            assert_eq!(started.unwrap().len(), left, "{resource}");
        }
    }

    #[test]
    fn a_job_waits_for_another_on_its_source_out_of_the_queue() {
        let mut world = World::new(KeyType::Int, &[Key::Int(1), Key::Int(2)]);
        world.transform("first", &[]);
        world.transform("second", &[]);
        for transform in ["first", "second"] {
            world.schedule(transform, "1", 0);
        }
        let claimed = world.claim(9);
        assert_eq!(claimed.len(), 1);
        let waiting = |world: &World| {
            let second = world.state.transform("second").unwrap();
            (second.queue.len(), second.queue.ready(world.now).count())
        };
        assert_eq!(waiting(&world), (1, 0));
        let report = claimed[0].0;
        world.commit("w", |draft| draft.hand_back(report));
        assert_eq!(waiting(&world), (1, 1));
        let again = world.claim(9);
        assert_eq!(again.len(), 1);
        let cancelled = world.commit("ann", |draft| draft.cancel_job(JobId(2)));
        assert_eq!(cancelled.outcome, Outcome::Cancelled);
        assert_eq!(waiting(&world), (0, 0));
    }

    #[test]
    fn a_job_whose_attempts_are_used_up_is_cancelled() {
        let mut world = World::new(KeyType::Text, &texts(&["a", "b"]));
        world.transform("t", &[]);
        let job = world.schedule("t", "a", 9);
        world.schedule("t", "b", 0);
        world.state.job_mut(job).unwrap().attempt = u16::MAX;
        assert_eq!(world.claimed_keys(9), ["b"]);
        let state = world.state.job(job).unwrap().state;
        assert_eq!(state, JobState::Cancelled);
    }
}
