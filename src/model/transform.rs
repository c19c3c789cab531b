//! Transforms: named, versioned ways to process the sources of one table.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a transform does its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum TransformKind {
    /// A query over `input`, run by a worker inside Sluicegate.
    Sql {
        /// The query's text.
        body: String,
        /// Whether all columns also go to a Parquet output.
        output: SqlOutput,
    },
    /// An external command, run by a worker.
    Command {
        /// The command line, split into words by shell rules but never given to a shell.
        command: String,
    },
    /// Any program that claims jobs over SQL.
    Outside,
}

impl TransformKind {
    /// The name in the `transforms` table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sql { .. } => "sql",
            Self::Command { .. } => "command",
            Self::Outside => "outside",
        }
    }
}

/// Where the columns of a SQL transform go besides the source table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SqlOutput {
    /// Nowhere.
    None,
    /// To a Parquet file in the attempt's folder.
    Parquet,
}

/// One version of a transform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformDef {
    /// The source table.
    pub table: String,
    /// The statuses from which it takes a source. Empty: from any.
    pub from_status: Vec<String>,
    /// The statuses that it may set; the first is the default. Empty: the status stays.
    pub to_status: Vec<String>,
    /// How it works.
    #[serde(flatten)]
    pub kind: TransformKind,
    /// Sources in one claim of a worker.
    pub group_size: u32,
    /// How long one group may run, in milliseconds.
    pub timeout_ms: u64,
    /// Failures after which a job is discarded.
    pub max_attempts: u16,
    /// How many groups' worth of sources may run at once in the whole store: that many times
    /// `group_size` jobs.
    pub concurrency: u32,
    /// The lease of a running job, in milliseconds; heartbeats renew it.
    pub lease_ms: u64,
    /// The pause before the second attempt, in milliseconds; it doubles with each further one.
    pub backoff_ms: u64,
    /// The longest pause, in milliseconds.
    pub backoff_max_ms: u64,
    /// The priority of its jobs where `schedule_job` gives none.
    pub priority: i16,
    /// Address space of the command in bytes; unlimited where absent.
    pub memory_bytes: Option<u64>,
    /// The statement's text.
    pub sql: String,
}

impl TransformDef {
    /// Whether it takes sources of this status.
    pub fn takes(&self, status: &str) -> Permission {
        Permission::of(self.from_status.is_empty() || self.from_status.iter().any(|s| s == status))
    }

    /// The status that a completed source gets: the one that was asked for, the first allowed
    /// one, or none where the transform sets no status.
    ///
    /// # Errors
    /// The asked status, where the transform may not set it.
    pub fn status_to_set<'a>(&'a self, asked: Option<&'a str>) -> Result<Option<&'a str>, &'a str> {
        match asked {
            None => Ok(self.to_status.first().map(String::as_str)),
            Some(status) if self.to_status.iter().any(|allowed| allowed == status) => {
                Ok(Some(status))
            }
            Some(status) => Err(status),
        }
    }

    /// Sources that may be in work at once.
    pub fn running_max(&self) -> u64 {
        u64::from(self.concurrency) * u64::from(self.group_size)
    }

    /// How long one group may run.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The lease of a running job.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// The pause after the given number of failures: exponential, bounded, and spread by up to a
    /// quarter so that jobs which failed together do not all come back together. The spread is a
    /// function of `seed`, because deciding must be deterministic.
    ///
    /// # Source
    /// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    pub fn backoff(&self, failures: u16, seed: u64) -> Duration {
        let doublings = u32::from(failures.saturating_sub(1)).min(32);
        let pause = self
            .backoff_ms
            .saturating_mul(1_u64 << doublings)
            .min(self.backoff_max_ms);
        // SplitMix64's finaliser: two multiplications spread neighbouring seeds evenly.
        let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let spread = pause / 4;
        Duration::from_millis(pause - spread + mixed % (spread + 1))
    }
}

/// A yes or no that cannot be mixed up with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Allowed.
    Allowed,
    /// Not allowed.
    Denied,
}

impl Permission {
    /// Allowed where `condition` holds.
    pub fn of(condition: bool) -> Self {
        if condition {
            Self::Allowed
        } else {
            Self::Denied
        }
    }
}

/// A transform as the state holds it: the newest version and its queue are in `State`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransformVersion {
    /// Counted from 1 per name.
    pub number: u32,
    /// What it says.
    pub def: std::sync::Arc<TransformDef>,
}
