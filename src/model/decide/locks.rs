//! Explicit locks and `set_status`.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Code, Error, Result, nearest};
use crate::id::Token;
use crate::model::decide::sources::fits;
use crate::model::decide::{Decision, Outcome, held_by_lock};
use crate::model::draft::Draft;
use crate::model::event::{Event, Refusal, SourceRef};
use crate::model::locks::{LockMode, resource_problem};
use crate::model::rules;
use crate::model::transform::Permission;

/// The optional arguments of `acquire_lock`.
#[derive(Debug, Clone, Copy)]
pub struct AcquireOptions<'a> {
    /// How long the lease is; the limit's default where it is not given.
    pub ttl: Option<Duration>,
    /// What the lock shuts out.
    pub mode: LockMode,
    /// Why, for others to read.
    pub reason: Option<&'a str>,
}

/// A lock that is to be released; its owner, where that is not known to be the author.
type Releasable = (Token, Option<Arc<str>>);

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
    /// `SG1004 effect-argument`: the resource is no path, or the lease is out of range. `SG2001
    /// unknown-object`: it names no source table, and is not named as free.
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
        if rules::resource_is_known(&self.state, resource) == Permission::Denied {
            return Err(self.unknown_resource(resource));
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
        let owner = Arc::clone(&self.author.actor);
        self.emit(&Event::LockAcquired {
            resource,
            token,
            mode: options.mode,
            owner: &owner,
            reason: options.reason,
            expires_at,
        })?;
        self.author.lock_tokens.insert(token);
        Ok(Decision {
            token: Some(token),
            ..Decision::new(Outcome::Acquired)
        })
    }

    /// The error for a lock that would keep nobody out, because nobody would look for it.
    fn unknown_resource(&self, resource: &str) -> Error {
        let (name, rest) = match resource.split_once('/') {
            Some((name, rest)) => (name, Some(rest)),
            None => (resource, None),
        };
        if self.state.table(name).is_some() {
            let key = rest
                .and_then(|rest| rest.split('/').next())
                .unwrap_or_default();
            return Error::new(
                Code::EffectArgument,
                format!("resource \"{resource}\" names no source that table \"{name}\" can have"),
            )
            .with_detail(format!(
                "Its keys are numbers of type BIGINT, and \"{key}\" is none."
            ))
            .with_hint(format!("Write the key as a number, such as {name}/7."));
        }
        let names = self.state.table_ids.keys().map(AsRef::as_ref);
        let near = match nearest(name, names.clone()) {
            Some(near) => match rest {
                Some(rest) => format!("Did you mean \"{near}/{rest}\"? "),
                None => format!("Did you mean \"{near}\"? "),
            },
            None => match names.clone().next() {
                Some(_) => {
                    let names: Vec<&str> = names.collect();
                    format!("Source tables of this store: {}. ", names.join(", "))
                }
                None => String::new(),
            },
        };
        Error::new(
            Code::UnknownObject,
            format!("resource \"{resource}\" is in no source table"),
        )
        .with_detail(format!(
            "A lock on it would keep nobody out: there is no source table \"{name}\"."
        ))
        .with_hint(format!(
            "{near}A name that only your programs agree on begins with @: '@{resource}'."
        ))
    }

    fn lock_in_the_way(&self, resource: &str, mode: LockMode) -> Option<Decision> {
        let holder = match self.state.locks.conflict(resource, mode) {
            Some((path, lock)) => held_by_lock(path, lock, ""),
            None => {
                let job = rules::running_job_on(&self.state, resource)?;
                let key = resource.split_once('/').map(|(_, key)| key);
                self.held_by_job(job, key.unwrap_or_default())?
            }
        };
        Some(holder.refusal())
    }

    /// The lock with this token, where the author took it; whose name it is under where not.
    fn own_lock(&self, resource: &str, token: Token) -> Result<(), Decision> {
        match self.state.locks.get(resource, token) {
            None => Err(Decision::refused(
                Outcome::NotHeld,
                format!("\"{resource}\" is not locked with token {token}"),
            )),
            Some(lock) if lock.owner == self.author.actor => Ok(()),
            Some(lock) => {
                let actor = &self.author.actor;
                let reason = format!(
                    "\"{}\" took the lock on \"{resource}\" with token {token}, not \"{actor}\"",
                    lock.owner
                );
                Err(Decision {
                    holder: Some(Arc::clone(&lock.owner)),
                    ..Decision::refused(Outcome::NotHeld, reason)
                })
            }
        }
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
        if let Err(decision) = self.own_lock(resource, token) {
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

    /// Releases a lock of the author's own, or with [`Force::Yes`] all locks on the resource,
    /// whoever took them: then the ledger says so.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn release_lock(
        &mut self,
        resource: &str,
        token: Option<Token>,
        force: Force,
    ) -> Result<Decision> {
        let held = match force {
            Force::No => {
                let token = token.unwrap_or_default();
                self.own_lock(resource, token).map(|()| vec![(token, None)])
            }
            Force::Yes => self.all_locks_on(resource),
        };
        let held = match held {
            Ok(held) => held,
            Err(decision) => {
                let about = Refusal {
                    resource: Some(resource),
                    token,
                    ..Refusal::default()
                };
                self.refuse("release_lock", &decision, about)?;
                return Ok(decision);
            }
        };
        for (held_token, owner) in held {
            let own = Some(held_token) == token && owner.as_ref() == Some(&self.author.actor);
            let taken = owner.filter(|_| !own);
            let taken = taken.map(|owner| format!("taken from \"{owner}\" by force"));
            self.emit(&Event::LockReleased {
                resource,
                token: held_token,
                reason: taken.as_deref(),
            })?;
            self.author.lock_tokens.remove(&held_token);
        }
        Ok(Decision::new(Outcome::Released))
    }

    /// All locks on a resource itself, with their owners.
    fn all_locks_on(&self, resource: &str) -> Result<Vec<Releasable>, Decision> {
        let covering = self.state.locks.covering(resource);
        let on_it: Vec<_> = covering
            .filter(|(path, _)| path.as_ref() == resource)
            .map(|(_, lock)| (lock.token, Some(Arc::clone(&lock.owner))))
            .collect();
        if on_it.is_empty() {
            let reason = format!("\"{resource}\" is not locked");
            return Err(Decision::refused(Outcome::NotHeld, reason));
        }
        Ok(on_it)
    }

    /// Gives a source another status by hand.
    ///
    /// # Errors
    /// `SG2001 unknown-object`: there is no such source table. `SG1004 effect-argument`: the
    /// status is empty. `SG5006 too-many-statuses`.
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
                    fits(found, status)?;
                    let source = SourceRef {
                        table: found.id,
                        slot,
                        key,
                        under: self.under(found, key),
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

#[cfg(test)]
mod tests {
    use crate::model::decide::ScheduleOptions;
    use crate::model::keys::{Key, KeyType};
    use crate::model::testing::{TABLE, World, exclusive, texts};

    use super::*;

    fn world() -> World {
        let mut world = World::new(KeyType::Text, &texts(&["a", "b", "n", "n/lot"]));
        world.transform("t", &["DONE"]);
        world
    }

    /// What each kind of change of source `a` answers to somebody.
    fn check(world: &World, actor: &str, tokens: &[u64], may: Permission) {
        let world = || World {
            state: world.state.clone(),
            limits: world.limits.clone(),
            now: world.now,
        };
        let set = world().step(actor, tokens, |draft| {
            draft.set_status(TABLE, "a", "X", None)
        });
        let scheduled = world().step(actor, tokens, |draft| {
            let target = draft.schedule_target("t")?;
            draft.schedule_job(&target, "a", ScheduleOptions::default())
        });
        let replace = world().write(
            actor,
            tokens,
            &texts(&["a"]),
            Some("Y"),
            crate::model::decide::WriteMode::Replace,
        );
        let found = [
            ("set_status", set.unwrap().outcome == Outcome::StatusSet),
            ("schedule", scheduled.unwrap().outcome == Outcome::Scheduled),
            ("UPDATE", world().update(actor, tokens, "a").is_ok()),
            ("DELETE", world().delete(actor, tokens, "a").is_ok()),
            ("REPLACE", replace.is_ok()),
        ];
        for (what, done) in found {
            assert_eq!(
                Permission::of(done),
                may,
                "{what} by {actor} with {tokens:?}"
            );
        }
    }

    /// Two programs of one user took turns at a source. The lease of the first was over and the
    /// second held the lock, but the first could still write, for its name was that of the lock.
    #[test]
    fn a_lock_belongs_to_its_token_under_the_name_that_took_it() {
        use Permission::{Allowed, Denied};
        for resource in ["n", "n/a", "n/a/part"] {
            let mut world = world();
            let token = world.lock("ann", resource).token.unwrap();
            check(&world, "ann", &[token.0], Allowed);
            check(&world, "ann", &[], Denied);
            check(&world, "ann", &[token.0 + 1], Denied);
            check(&world, "bob", &[token.0], Denied);
        }
    }

    #[test]
    fn a_stale_holder_writes_nothing() {
        let mut world = world();
        let first = world.lock("ann", "n/a").token.unwrap();
        world.pass(61);
        world.commit("bob", |draft| draft.expire_leases());
        check(&world, "ann", &[first.0], Permission::Allowed);
        world.lock("ann", "n/a");
        check(&world, "ann", &[first.0], Permission::Denied);
    }

    #[test]
    fn what_is_acquired_in_a_statement_is_its_own_in_the_next_row() {
        let mut world = world();
        let set = world.commit("ann", |draft| {
            draft.acquire_lock("n/a", exclusive())?;
            draft.set_status(TABLE, "a", "X", None)
        });
        assert_eq!(set.outcome, Outcome::StatusSet);
    }

    #[test]
    fn only_who_took_a_lock_renews_and_releases_it_unless_forced() {
        let mut world = world();
        let token = world.lock("ann", "n/a").token.unwrap();
        let minute = Some(Duration::from_secs(60));
        for (actor, token) in [("bob", token), ("ann", Token(token.0 + 1))] {
            let renewed = world.commit(actor, |draft| draft.renew_lock("n/a", token, minute));
            assert_eq!(renewed.outcome, Outcome::NotHeld, "{actor} {token}");
            let released = world.commit(actor, |draft| {
                draft.release_lock("n/a", Some(token), Force::No)
            });
            assert_eq!(released.outcome, Outcome::NotHeld, "{actor} {token}");
        }
        let renewed = world.commit("ann", |draft| draft.renew_lock("n/a", token, minute));
        assert_eq!(renewed.outcome, Outcome::Renewed);
        let forced = world.commit("bob", |draft| {
            draft.release_lock("n/a", Some(token), Force::Yes)
        });
        assert_eq!(forced.outcome, Outcome::Released);
        let again = world.commit("ann", |draft| {
            draft.release_lock("n/a", Some(token), Force::No)
        });
        assert_eq!(again.outcome, Outcome::NotHeld);
    }

    #[test]
    fn a_table_lock_keeps_new_rows_of_others_out() {
        let mut world = world();
        let token = world.lock("ann", "n").token.unwrap();
        let new = texts(&["new"]);
        let refused = world.insert("bob", &[], &new).map_err(|error| error.code());
        assert_eq!(refused, Err(Code::RowLocked));
        world.insert("ann", &[token.0], &new).unwrap();
        let mut world = self::world();
        world.lock("ann", "n/new");
        let refused = world.insert("ann", &[], &new).map_err(|error| error.code());
        assert_eq!(refused, Err(Code::RowLocked));
        world.insert("ann", &[], &texts(&["other"])).unwrap();
    }

    #[test]
    fn resources_are_paths_below_tables_or_free() {
        let mut texts = world();
        let mut numbers = World::new(KeyType::Int, &[Key::Int(7)]);
        let mut check = |numbered: bool, resource: &str, code: Option<Code>| {
            let world = if numbered { &mut numbers } else { &mut texts };
            let world = &mut World {
                state: world.state.clone(),
                limits: world.limits.clone(),
                now: world.now,
            };
            let locked = world.step("ann", &[], |draft| {
                draft.acquire_lock(resource, exclusive())
            });
            assert_eq!(locked.err().map(|error| error.code()), code, "{resource}");
        };
        for free in ["n", "n/a", "n/none", "n/a/b", "@nightly", "@nightly/part"] {
            check(false, free, None);
        }
        for bad in [
            "",
            "/",
            "n/",
            "/n",
            "n//a",
            "@",
            "@/a",
            "n/\u{1}",
            &"n".repeat(1025),
        ] {
            check(false, bad, Some(Code::EffectArgument));
        }
        for unknown in ["m", "nn/a", "nightly"] {
            check(false, unknown, Some(Code::UnknownObject));
        }
        for (resource, code) in [
            ("n/7", None),
            ("n/8/part", None),
            ("n/07", Some(Code::EffectArgument)),
            ("n/x", Some(Code::EffectArgument)),
        ] {
            check(true, resource, code);
        }
    }

    #[test]
    fn a_near_table_is_named_for_a_resource_that_is_in_none() {
        let mut world = world();
        let locked = world.step("ann", &[], |draft| draft.acquire_lock("N/1", exclusive()));
        let error = locked.unwrap_err();
        let hint = error.hint().unwrap();
        assert!(hint.starts_with("Did you mean \"n/1\"? "), "{hint}");
        assert!(hint.contains("'@N/1'"), "{hint}");
    }

    #[test]
    fn a_job_and_a_lock_exclude_each_other_above_and_below() {
        for (key, excluded) in [
            ("n", ["n/n", "n/n/lot", "n/n/lot/x", "n"]),
            ("n/lot", ["n/n/lot", "n/n", "n/n/lot/x", "n"]),
        ] {
            let mut world = world();
            world.schedule("t", key, 0);
            assert_eq!(world.claimed_keys(1), [key]);
            for resource in excluded {
                let refused = world.lock("ann", resource);
                assert_eq!(refused.outcome, Outcome::Locked, "{key} {resource}");
                assert!(refused.blocking_job.is_some());
            }
            for free in ["n/a", "n/n/lots", "n/nn"] {
                let free_for_it = key == "n" && free.starts_with("n/n/");
                let outcome = world.lock("ann", free).outcome;
                assert_eq!(outcome == Outcome::Acquired, !free_for_it, "{key} {free}");
            }
        }
    }
}
