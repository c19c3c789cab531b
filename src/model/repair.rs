//! How the time of a state is put right after a machine with a wrong clock committed.
//!
//! Moments are of two kinds. Facts of the past (when a job was made, when it ended) stay as they
//! were written, wrong as they are. Moments that something waits for (the end of a lease, the
//! earliest start of a job) are moved back by as much as the time is, where they were given in
//! the future; so a lease of a minute lasts a minute from the repair.

use std::time::Duration;

use crate::id::JobId;
use crate::model::jobs::{JobState, Liveness};
use crate::model::locks::Lock;
use crate::model::state::State;
use crate::time::Timestamp;

/// Moves `state` back to `now`.
pub(in crate::model) fn repair(state: &mut State, now: Timestamp) {
    let ahead = state.at.since(now);
    state.at = now;
    repair_locks(state, now, ahead);
    repair_jobs(state, now, ahead);
    state.kept.repair(now);
    state.turn = None;
}

fn earlier(moment: Timestamp, by: Duration) -> Timestamp {
    let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
    Timestamp(moment.0.saturating_sub(micros))
}

fn repair_locks(state: &mut State, now: Timestamp, ahead: Duration) {
    let wrong: Vec<(std::sync::Arc<str>, Lock)> = state
        .locks
        .iter()
        .filter(|(_, lock)| lock.acquired_at > now)
        .map(|(resource, lock)| (std::sync::Arc::clone(resource), lock.clone()))
        .collect();
    for (resource, lock) in wrong {
        state.locks.remove(&resource, lock.token);
        let lock = Lock {
            acquired_at: lock.acquired_at.min(now),
            expires_at: earlier(lock.expires_at, ahead),
            ..lock
        };
        state.locks.insert(&resource, lock);
    }
}

fn repair_jobs(state: &mut State, now: Timestamp, ahead: Duration) {
    let live = |(index, job): (usize, &crate::model::jobs::Job)| {
        let given_at = job.created_at.max(job.started_at);
        let live = job.state.liveness() == Liveness::Live;
        (live && given_at > now).then_some(JobId(index as u64 + 1))
    };
    let wrong: Vec<JobId> = state.jobs.iter().enumerate().filter_map(live).collect();
    for id in wrong {
        let Some(job) = state.job_mut(id) else {
            continue;
        };
        let (transform, priority) = (job.transform, job.priority);
        let (run_at, expires_at) = (job.run_at, job.expires_at);
        job.run_at = earlier(run_at, ahead);
        match job.state {
            JobState::Running => {
                job.started_at = job.started_at.min(now);
                job.expires_at = earlier(expires_at, ahead);
                let expires_now = job.expires_at;
                state.leases.remove(&(expires_at, id));
                state.leases.insert((expires_now, id));
            }
            JobState::Waiting | JobState::Retryable => {
                let run_now = job.run_at;
                if let Some(transform) = state.transform_mut(transform) {
                    transform.queue.remove(priority, run_at, id);
                    transform.queue.insert(priority, run_now, id);
                }
            }
            JobState::Completed | JobState::Cancelled | JobState::Discarded => {}
        }
    }
}
