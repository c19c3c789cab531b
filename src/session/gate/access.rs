//! Who may run what: the rights of a session, which are those of a role.

use crate::error::{Code, Error, Result};
use crate::functions::effect::{CLAIM_JOBS, EffectFunction};
use crate::model::tokens::Role;
use crate::session::gate::{Call, Gate};
use crate::session::statement::Statement;

/// What a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Effects and changes of rows, but no CREATE, DROP, CHECKPOINT and SET.
    Operator,
    /// Queries, and what a worker says: `claim_jobs` and its reports.
    Worker,
    /// Queries, previews and settings only.
    ReadOnly,
}

impl Access {
    /// What the bearer of a token may do.
    pub fn of(role: Role) -> Self {
        match role {
            Role::Reader => Self::ReadOnly,
            Role::Worker => Self::Worker,
            Role::Operator => Self::Operator,
            Role::Admin => Self::ReadWrite,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "admin",
            Self::Operator => "operator",
            Self::Worker => "worker",
            Self::ReadOnly => "reader",
        }
    }
}

/// What a statement asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// To change rows, jobs or locks.
    Act,
    /// To change what there is, or how sessions work.
    Define,
}

impl Gate {
    pub(super) fn check_access(&self, statement: &Statement) -> Result<()> {
        let (what, right) = match statement {
            Statement::Query(_)
            | Statement::Preview(_)
            | Statement::Explain { .. }
            | Statement::Show(_)
            | Statement::ShowCreate(_)
            | Statement::Describe(_)
            | Statement::Prepare(_)
            | Statement::Execute(_)
            | Statement::Transaction(_)
            | Statement::Other(_) => return Ok(()),
            Statement::Set(_) if self.access == Access::ReadOnly => return Ok(()),
            Statement::Set(_) => ("SET", Right::Define),
            Statement::Effect(_) => ("an effect function", Right::Act),
            Statement::Call(_) => ("CALL", Right::Act),
            Statement::Insert { .. } => ("INSERT", Right::Act),
            Statement::Update { .. } => ("UPDATE", Right::Act),
            Statement::Delete { .. } => ("DELETE", Right::Act),
            Statement::Truncate { .. } => ("TRUNCATE", Right::Act),
            Statement::CreateTable { .. }
            | Statement::CreateView { .. }
            | Statement::CreateExternalTable { .. }
            | Statement::CreateTransform(_) => ("CREATE", Right::Define),
            Statement::Drop { .. } => ("DROP", Right::Define),
            Statement::Copy(_) => ("COPY", Right::Act),
            Statement::Checkpoint => ("CHECKPOINT", Right::Define),
        };
        let reports = self.access == Access::Worker && self.reports_only(statement)?;
        self.check_right(what, right, reports)
    }

    /// Whether rows may be written.
    ///
    /// # Errors
    /// `SG1007 read-only`, `SG4002 role-denied`.
    pub fn check_insert(&self) -> Result<()> {
        self.check_right("INSERT", Right::Act, false)
    }

    fn check_right(&self, what: &str, right: Right, reports: bool) -> Result<()> {
        let allowed = match self.access {
            Access::ReadWrite => true,
            Access::Operator => right == Right::Act,
            Access::Worker => reports,
            Access::ReadOnly => false,
        };
        match self.access {
            _ if allowed => Ok(()),
            Access::ReadWrite | Access::Operator | Access::Worker => Err(Error::new(
                Code::RoleDenied,
                format!(
                    "{what} is not allowed to the role \"{}\"",
                    self.access.name()
                ),
            )
            .with_hint("Use PREVIEW to see what would happen, or a token of another role.")),
            Access::ReadOnly => Err(Error::new(
                Code::ReadOnly,
                format!("{what} cannot run in a read-only session"),
            )
            .with_hint("Use PREVIEW to see what would happen, or open a writing session.")),
        }
    }

    /// Whether a statement is what a worker says: it claims jobs or reports on them.
    fn reports_only(&self, statement: &Statement) -> Result<bool> {
        let reports = |function: EffectFunction| match function {
            EffectFunction::Heartbeat
            | EffectFunction::CompleteJob
            | EffectFunction::FailJob
            | EffectFunction::HandBackJob => true,
            EffectFunction::ScheduleJob
            | EffectFunction::CancelJob
            | EffectFunction::RetryJob
            | EffectFunction::SetStatus
            | EffectFunction::AcquireLock
            | EffectFunction::RenewLock
            | EffectFunction::ReleaseLock => false,
        };
        Ok(match statement {
            Statement::Effect(query) => {
                let (_, items) = self.rewrite_effects(query.as_ref().clone())?;
                items.iter().all(|item| reports(item.function))
            }
            Statement::Call(function) => match self.call(function)? {
                Call::Effect(query) => {
                    let (_, items) = self.rewrite_effects(*query)?;
                    items.iter().all(|item| reports(item.function))
                }
                Call::Procedure { signature, .. } => signature.name == CLAIM_JOBS.name,
            },
            _ => false,
        })
    }
}
