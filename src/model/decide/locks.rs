//! Explicit locks and `set_status`.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::id::Token;
use crate::model::decide::{Decision, Outcome};
use crate::model::draft::Draft;
use crate::model::event::{Event, Refusal, SourceRef};
use crate::model::locks::{LockMode, resource_problem};
use crate::model::rules;

/// The optional arguments of `acquire_lock`.
#[derive(Debug, Clone, Copy)]
pub struct AcquireOptions<'a> {
    /// How long the lease is; the limit's default where it is not given.
    pub ttl: Option<Duration>,
    /// What the lock shuts out.
    pub mode: LockMode,
    /// Who holds it; the actor where it is not given.
    pub owner: Option<&'a str>,
    /// Why, for others to read.
    pub reason: Option<&'a str>,
}

/// Whether a lock may be released without its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Only with its token.
    No,
    /// Any lock on the resource, for when the owner is gone.
    Yes,
}

impl Draft<'_> {
    fn lease(&self, ttl: Option<Duration>) -> Result<Duration> {
        let ttl = ttl.unwrap_or(self.limits.lease);
        if ttl.is_zero() || ttl > self.limits.lease_max {
            return Err(
                Error::new(Code::EffectArgument, "argument \"ttl\" is out of range")
                    .with_detail(format!(
                        "It is {} s; a lease is longer than 0 s and at most {} s.",
                        ttl.as_secs_f64(),
                        self.limits.lease_max.as_secs()
                    ))
                    .with_hint("Ask for a shorter lease and renew it while you need it."),
            );
        }
        Ok(ttl)
    }

    /// Acquires a lock.
    ///
    /// # Errors
    /// `SG1004 effect-argument`: the resource is no path, or the lease is out of range.
    pub fn acquire_lock(
        &mut self,
        resource: &str,
        options: AcquireOptions<'_>,
    ) -> Result<Decision> {
        if let Some(problem) = resource_problem(resource) {
            return Err(Error::new(
                Code::EffectArgument,
                format!("resource \"{resource}\" is not a path: {problem}"),
            )
            .with_hint("Write a path such as notices or notices/00123-2024."));
        }
        let expires_at = self.at.after(self.lease(options.ttl)?);
        if let Some(decision) = self.lock_in_the_way(resource, options.mode) {
            let about = Refusal {
                resource: Some(resource),
                ..Refusal::default()
            };
            self.refuse("acquire_lock", &decision, about)?;
            return Ok(decision);
        }
        let token = Token(self.state.last_token.0 + 1);
        let owner = options
            .owner
            .map_or_else(|| Arc::clone(&self.author.actor), Into::into);
        self.emit(&Event::LockAcquired {
            resource,
            token,
            mode: options.mode,
            owner: &owner,
            reason: options.reason,
            expires_at,
        })?;
        Ok(Decision {
            token: Some(token),
            ..Decision::new(Outcome::Acquired)
        })
    }

    fn lock_in_the_way(&self, resource: &str, mode: LockMode) -> Option<Decision> {
        if let Some((path, lock)) = self.state.locks.conflict(resource, mode) {
            let reason = format!(
                "{} lock on \"{path}\" is held by \"{}\" until {}",
                match lock.mode {
                    LockMode::Exclusive => "an exclusive",
                    LockMode::Shared => "a shared",
                },
                lock.owner,
                lock.expires_at
            );
            let refused = Decision::refused(Outcome::Locked, reason);
            return Some(Decision {
                holder: Some(Arc::clone(&lock.owner)),
                ..refused
            });
        }
        let id = rules::running_job_on(&self.state, resource)?;
        let job = self.state.job(id)?;
        let worker = self.state.worker_name(job.worker)?;
        let reason = format!(
            "job {id} runs on it, held by worker \"{worker}\" until {}",
            job.expires_at
        );
        Some(Decision {
            blocking_job: Some(id),
            holder: Some(Arc::clone(worker)),
            ..Decision::refused(Outcome::Locked, reason)
        })
    }

    fn not_held(resource: &str, token: Token) -> Decision {
        let reason = format!("\"{resource}\" is not locked with token {token}");
        Decision::refused(Outcome::NotHeld, reason)
    }

    /// Prolongs a lease: it ends `ttl` from now.
    ///
    /// # Errors
    /// `SG1004 effect-argument`: the lease is out of range.
    pub fn renew_lock(
        &mut self,
        resource: &str,
        token: Token,
        ttl: Option<Duration>,
    ) -> Result<Decision> {
        let expires_at = self.at.after(self.lease(ttl)?);
        if self.state.locks.get(resource, token).is_none() {
            let decision = Self::not_held(resource, token);
            let about = Refusal {
                resource: Some(resource),
                token: Some(token),
                ..Refusal::default()
            };
            self.refuse("renew_lock", &decision, about)?;
            return Ok(decision);
        }
        self.emit(&Event::LockRenewed {
            resource,
            token,
            expires_at,
        })?;
        Ok(Decision::new(Outcome::Renewed))
    }

    /// Releases a lock, or with [`Force::Yes`] all locks on the resource.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn release_lock(
        &mut self,
        resource: &str,
        token: Option<Token>,
        force: Force,
    ) -> Result<Decision> {
        let held: Vec<(Token, Arc<str>)> = self
            .state
            .locks
            .covering(resource)
            .filter(|(path, lock)| {
                path.as_ref() == resource && (force == Force::Yes || Some(lock.token) == token)
            })
            .map(|(_, lock)| (lock.token, Arc::clone(&lock.owner)))
            .collect();
        if held.is_empty() {
            let decision = Self::not_held(resource, token.unwrap_or_default());
            let about = Refusal {
                resource: Some(resource),
                token,
                ..Refusal::default()
            };
            self.refuse("release_lock", &decision, about)?;
            return Ok(decision);
        }
        for (held_token, owner) in held {
            let taken = format!("taken from \"{owner}\" by force");
            let reason = (Some(held_token) != token).then_some(taken.as_str());
            self.emit(&Event::LockReleased {
                resource,
                token: held_token,
                reason,
            })?;
        }
        Ok(Decision::new(Outcome::Released))
    }

    /// Gives a source another status by hand.
    ///
    /// # Errors
    /// `SG2001 unknown-object`: there is no such source table. `SG1004 effect-argument`: the
    /// status is empty.
    pub fn set_status(
        &mut self,
        table: &str,
        source_id: &str,
        status: &str,
        from: Option<&str>,
    ) -> Result<Decision> {
        if status.is_empty() {
            return Err(
                Error::new(Code::EffectArgument, "argument \"status\" is empty")
                    .with_hint("Write a status such as RAW."),
            );
        }
        let found = self.source_table(table)?;
        let unknown = || {
            let reason = format!("source table \"{table}\" has no key \"{source_id}\"");
            Decision::refused(Outcome::UnknownSource, reason)
        };
        let place = found.def.key_type.parse(source_id).and_then(|key| {
            let slot = found.keys.find(key)?;
            Some((key, slot, found.source(slot)?))
        });
        let decision = match place {
            None => unknown(),
            Some((key, slot, source)) => {
                if let Some(holder) = self.holder(found, slot, source) {
                    holder.refusal()
                } else if found.status_name(source.status) == status {
                    Decision::refused(Outcome::Unchanged, format!("its status is {status}"))
                } else if let Some(from) = from
                    && found.status_name(source.status) != from
                {
                    let now = found.status_name(source.status);
                    Decision::refused(
                        Outcome::WrongStatus,
                        format!("its status is {now}, not {from}"),
                    )
                } else {
                    let source = SourceRef {
                        table: found.id,
                        slot,
                        key,
                    };
                    self.emit(&Event::StatusSet { source, status })?;
                    return Ok(Decision::new(Outcome::StatusSet));
                }
            }
        };
        let about = Refusal {
            table: Some(table),
            source_id: Some(source_id),
            ..Refusal::default()
        };
        self.refuse("set_status", &decision, about)?;
        Ok(decision)
    }
}
