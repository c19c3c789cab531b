//! The public error: what the user does next, a stable code, a message, a detail and a hint.
//!
//! Inner modules have their own `thiserror` enums where they need to match on causes; everything
//! that leaves the crate is an [`Error`]. A code never changes its meaning. Each code has a page
//! under `src/error/`, which `sluicegate explain SG1001` prints.

mod nearest;

use std::fmt;

pub use nearest::nearest;

/// The result of everything public in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the user can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The statement, the argument or the file is wrong: change it.
    Input,
    /// The named object does not exist, or not for this user.
    NotFound,
    /// Another statement, job or lock is in the way: wait, or look who holds it.
    Conflict,
    /// The user or the session may not do this.
    Denied,
    /// A limit of `config.rs` was reached: ask for less, or raise the named setting.
    Limit,
    /// The store or the network did not answer: try again.
    Unavailable,
    /// The store holds something that breaks its rules: do not go on, run `sluicegate check`.
    Corrupt,
    /// A bug in Sluicegate: report it.
    Internal,
}

macro_rules! codes {
    ($($name:ident = $code:literal, $kind:ident, $slug:literal, $sqlstate:literal;)*) => {
        /// A stable error code. [`Code::page`] tells the cause and what to try.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = concat!($code, " ", $slug)] $name,)* }

        impl Code {
            /// Every code, in ascending order.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The code as users see it, such as `SG1001`.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code,)* }
            }

            /// The name in words, such as `syntax-error`.
            pub fn slug(self) -> &'static str {
                match self { $(Code::$name => $slug,)* }
            }

            /// What the user can do.
            pub fn kind(self) -> Kind {
                match self { $(Code::$name => Kind::$kind,)* }
            }

            /// The nearest SQLSTATE class of PostgreSQL, for clients that know those.
            pub fn sqlstate(self) -> &'static str {
                match self { $(Code::$name => $sqlstate,)* }
            }

            /// The page of the code: Markdown, cause and remedy.
            pub fn page(self) -> &'static str {
                match self { $(Code::$name => include_str!(concat!("error/", $code, ".md")),)* }
            }
        }
    };
}

codes! {
    SyntaxError = "SG1001", Input, "syntax-error", "42601";
    PlanError = "SG1002", Input, "plan-error", "42000";
    EffectMisplaced = "SG1003", Input, "effect-misplaced", "0A000";
    EffectArgument = "SG1004", Input, "effect-argument", "42883";
    Unsupported = "SG1005", Input, "unsupported-statement", "0A000";
    SettingDenied = "SG1006", Denied, "setting-denied", "42501";
    ReadOnly = "SG1007", Denied, "read-only", "25006";
    QueryFailed = "SG1008", Input, "query-failed", "22000";
    UnknownObject = "SG2001", NotFound, "unknown-object", "42P01";
    UnknownTransform = "SG2002", NotFound, "unknown-transform", "42704";
    AlreadyExists = "SG2003", Input, "already-exists", "42P07";
    InvalidDefinition = "SG2004", Input, "invalid-definition", "42P16";
    ObjectInUse = "SG2005", Conflict, "object-in-use", "55006";
    DuplicateKey = "SG3001", Input, "duplicate-key", "23505";
    InvalidKey = "SG3002", Input, "invalid-key", "23502";
    RowLocked = "SG3003", Conflict, "row-locked", "55P03";
    WriteConflict = "SG3004", Conflict, "write-conflict", "40001";
    RowInUse = "SG3005", Conflict, "row-in-use", "55006";
    Unauthenticated = "SG4001", Denied, "unauthenticated", "28000";
    RoleDenied = "SG4002", Denied, "role-denied", "42501";
    BadRequest = "SG4003", Input, "bad-request", "08P01";
    NotAcceptable = "SG4004", Input, "not-acceptable", "0A000";
    UnsupportedMedia = "SG4005", Input, "unsupported-media", "0A000";
    MethodNotAllowed = "SG4006", Input, "method-not-allowed", "0A000";
    KeyReused = "SG4007", Input, "key-reused", "22023";
    StatementExpired = "SG4008", NotFound, "statement-expired", "02000";
    TooBusy = "SG4009", Limit, "too-busy", "53300";
    Cancelled = "SG4010", Conflict, "cancelled", "57014";
    TooManyRows = "SG5001", Limit, "too-many-rows", "54000";
    OutOfMemory = "SG5002", Limit, "out-of-memory", "53200";
    Timeout = "SG5003", Limit, "timeout", "57014";
    TooLarge = "SG5004", Limit, "too-large", "54000";
    Contended = "SG5005", Conflict, "contended", "40001";
    TooManyStatuses = "SG5006", Limit, "too-many-statuses", "54000";
    OutsideRoots = "SG6001", Denied, "outside-roots", "42501";
    FileUnreadable = "SG6002", NotFound, "file-unreadable", "58P01";
    NotXml = "SG6003", Input, "not-xml", "2200M";
    InvalidXPath = "SG6004", Input, "invalid-xpath", "10608";
    OutputFailed = "SG6005", Unavailable, "output-failed", "58030";
    StoreUrl = "SG7001", Input, "store-url", "08001";
    StoreUnavailable = "SG7002", Unavailable, "store-unavailable", "08006";
    StoreCorrupt = "SG7003", Corrupt, "store-corrupt", "XX001";
    StoreTooNew = "SG7004", Input, "store-too-new", "0A000";
    SnapshotGone = "SG7005", Unavailable, "snapshot-gone", "58P01";
    StoreReplaced = "SG7006", Corrupt, "store-replaced", "55000";
    ClockOff = "SG7007", Unavailable, "clock-off", "55000";
    StoreUnsafe = "SG7008", Input, "store-unsafe", "0A000";
    TimeAhead = "SG7009", Corrupt, "time-ahead", "55000";
    CommandUnusable = "SG8001", Input, "command-unusable", "58030";
    CommandFailed = "SG8002", Input, "command-failed", "58000";
    NoAnswer = "SG8003", Input, "no-answer", "58000";
    AttemptTimeout = "SG8004", Limit, "attempt-timeout", "57014";
    InvalidAnswer = "SG8005", Input, "invalid-answer", "22000";
    LeaseLost = "SG8006", Conflict, "lease-lost", "40001";
    Bug = "SG9001", Internal, "bug", "XX000";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place in the text of a statement or script, both counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
}

/// An error with everything a user needs to go on.
///
/// `Display` prints the message only; the REPL and the server print all parts.
pub struct Error(Box<Parts>);

struct Parts {
    code: Code,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    position: Option<Position>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error. The message is lower case, without a full stop, and says the kind of
    /// object and its name in quotes.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            code,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            source: None,
        }))
    }

    /// A broken assumption of ours. Users are asked to report it.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Code::Bug, message)
            .with_hint("This is a bug in Sluicegate; please report the statement and this message.")
    }

    /// Adds facts of this occurrence: whole sentences.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds what to do next: whole sentences.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds where in the SQL text the cause stands.
    #[must_use]
    pub fn with_position(mut self, position: Position) -> Self {
        self.0.position = Some(position);
        self
    }

    /// Keeps the inner error as the source.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the user can do.
    pub fn kind(&self) -> Kind {
        self.0.code.kind()
    }

    /// One line: what is wrong.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Facts of this occurrence.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// What to do next.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where in the SQL text.
    pub fn position(&self) -> Option<Position> {
        self.0.position
    }

    /// Whether the same statement may succeed when it is simply tried again.
    pub fn retryable(&self) -> bool {
        matches!(
            self.0.code,
            Code::WriteConflict
                | Code::TooBusy
                | Code::Contended
                | Code::StoreUnavailable
                | Code::SnapshotGone
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.0.code.as_str())
            .field("message", &self.0.message)
            .field("detail", &self.0.detail)
            .field("hint", &self.0.hint)
            .field("position", &self.0.position)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_that_opens_with_its_name() {
        for code in Code::ALL {
            let title = format!("# {code} {}", code.slug());
            assert_eq!(
                code.page().lines().next(),
                Some(title.as_str()),
                "page of {code}"
            );
        }
    }

    #[test]
    fn codes_are_unique_and_ascend() {
        assert!(
            Code::ALL
                .windows(2)
                .all(|pair| pair[0].as_str() < pair[1].as_str())
        );
    }
}
