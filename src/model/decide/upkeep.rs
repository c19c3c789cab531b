//! What the ledger decides for itself: who commits next, and that its time is put right.

use crate::error::Result;
use crate::model::draft::Draft;
use crate::model::event::Event;
use crate::time::Timestamp;

impl Draft<'_> {
    /// Gives this draft's statement the next turn: until it has committed, or `expires_at`, other
    /// processes wait.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn take_turn(&mut self, expires_at: Timestamp) -> Result<()> {
        let holder = std::sync::Arc::clone(&self.author.statement_id);
        self.emit(&Event::TurnTaken {
            holder: &holder,
            expires_at,
        })
    }

    /// Gives back the turn of a statement that came to nothing.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn give_turn_back(&mut self) -> Result<()> {
        let at = self.at;
        self.take_turn(at)
    }

    /// Puts the time of the store right, which a machine with a wrong clock moved into the future.
    ///
    /// # Returns
    /// The time that it had.
    ///
    /// # Errors
    /// `SG9001 bug`.
    pub fn repair_time(&mut self, now: Timestamp) -> Result<Timestamp> {
        let before = self.state.at;
        self.at = now;
        self.emit(&Event::TimeRepaired)?;
        Ok(before)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Limits;
    use crate::id::Version;
    use crate::model::decide::AcquireOptions;
    use crate::model::draft::Author;
    use crate::model::locks::LockMode;
    use crate::model::state::State;

    fn committed(
        state: &State,
        seconds: u64,
        statement: &str,
        decide: impl FnOnce(&mut Draft<'_>),
    ) -> State {
        let author = Author::new("ann", statement);
        let now = Timestamp(0).after(Duration::from_secs(seconds));
        let limits = Limits::default();
        let version = Version(state.version.0 + 1);
        let mut draft = Draft::new(state.clone(), version, now, author, &limits);
        decide(&mut draft);
        draft.finish().unwrap().state
    }

    fn note(draft: &mut Draft<'_>) {
        draft.note_statement("SELECT 1", None, "[]").unwrap();
    }

    #[test]
    fn a_turn_ends_with_the_commit_of_its_statement_or_when_it_is_given_back() {
        let later = Timestamp(0).after(Duration::from_secs(100));
        let taken = committed(&State::default(), 1, "large", |draft| {
            draft.take_turn(later).unwrap();
        });
        let turn = taken.turn.clone().unwrap();
        assert_eq!((&*turn.holder, turn.expires_at), ("large", later));
        assert_eq!(committed(&taken, 2, "small", note).turn, Some(turn));
        assert_eq!(committed(&taken, 2, "large", note).turn, None);
        let back = committed(&taken, 2, "large", |draft| draft.give_turn_back().unwrap());
        assert_eq!(back.turn, None);
    }

    #[test]
    fn a_repair_moves_what_was_given_in_the_future_and_nothing_else() {
        const YEAR: u64 = 365 * 24 * 3600;
        let options = |seconds| AcquireOptions {
            ttl: Some(Duration::from_secs(seconds)),
            mode: LockMode::Exclusive,
            reason: None,
        };
        let state = committed(&State::default(), 1000, "right", |draft| {
            draft.acquire_lock("@right", options(500)).unwrap();
        });
        let state = committed(&state, YEAR, "wrong", |draft| {
            draft.acquire_lock("@wrong", options(60)).unwrap();
        });
        let now = Timestamp(0).after(Duration::from_secs(1100));
        let state = committed(&state, 1100, "repair", |draft| {
            draft.repair_time(now).unwrap();
        });
        assert_eq!(state.at, now);
        let ends = |resource: &str| {
            let lock = state.locks.iter().find(|(path, _)| &***path == resource);
            lock.unwrap().1.expires_at
        };
        assert_eq!(
            ends("@right"),
            Timestamp(0).after(Duration::from_secs(1500))
        );
        assert_eq!(ends("@wrong"), now.after(Duration::from_secs(60)));
        // Time goes on from there.
        let state = committed(&state, 1200, "next", note);
        assert_eq!(state.at, Timestamp(0).after(Duration::from_secs(1200)));
    }
}
