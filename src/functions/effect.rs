//! The effect functions: the one table of their names, parameters, types and documentation.
//!
//! An effect function changes state. None of them ever acts when it is invoked: the gate takes
//! every call out of a query before it is planned, and the root of the plan acts once per final
//! row. What is registered with DataFusion under these names is a net that only refuses.
//! The layers above read this table; nothing else declares an effect.

use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature as UdfSignature,
    Volatility,
};

use crate::error::{Code, Error};

/// What a parameter accepts, and the one Arrow type that it is turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// Text, as `Utf8`.
    Text,
    /// The key of a source: text, or a whole number that is written as text. `Utf8`.
    Key,
    /// A whole number, as `Int64`. Text that is one is accepted.
    Integer,
    /// `Boolean`. The texts `true` and `false` are accepted.
    Boolean,
    /// A moment, as `Timestamp(Microsecond, "+00:00")`. Dates and RFC 3339 texts are accepted.
    Timestamp,
    /// A length of time, as `Duration(Microsecond)`. Intervals without months, and texts such as
    /// `30 seconds`, are accepted.
    Interval,
    /// Text that is JSON, as `Utf8`.
    Json,
    /// Text that is a JSON object, as `Utf8`.
    JsonObject,
    /// One of these texts, as `Utf8`.
    Choice(&'static [&'static str]),
    /// A list of texts, as `List(Utf8)`. Text with commas is accepted.
    TextList,
}

impl ParameterKind {
    /// The type of the argument that arrives at the sink.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Text | Self::Key | Self::Json | Self::JsonObject | Self::Choice(_) => {
                DataType::Utf8
            }
            Self::Integer => DataType::Int64,
            Self::Boolean => DataType::Boolean,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            Self::Interval => DataType::Duration(TimeUnit::Microsecond),
            Self::TextList => DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
        }
    }

    /// The name of the type in SQL, for signatures and messages.
    pub fn sql_name(self) -> &'static str {
        match self {
            Self::Text | Self::Key | Self::Choice(_) => "TEXT",
            Self::Integer => "BIGINT",
            Self::Boolean => "BOOLEAN",
            Self::Timestamp => "TIMESTAMP",
            Self::Interval => "INTERVAL",
            Self::Json | Self::JsonObject => "JSON",
            Self::TextList => "TEXT[]",
        }
    }
}

/// Whether a parameter may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The call must give it. It may still be NULL in a row.
    Required,
    /// It is NULL where the call leaves it out.
    Optional,
}

/// One parameter of an effect function or procedure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The name for `name => value`.
    pub name: &'static str,
    /// What it accepts.
    pub kind: ParameterKind,
    /// Whether it may be left out.
    pub need: Need,
    /// What it means, its unit and its default.
    pub doc: &'static str,
}

const fn required(name: &'static str, kind: ParameterKind, doc: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        need: Need::Required,
        doc,
    }
}

/// A parameter that a call may leave out.
pub const fn optional(name: &'static str, kind: ParameterKind, doc: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        need: Need::Optional,
        doc,
    }
}

/// What a call gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    /// One `Int64`, NULL where refused.
    Integer,
    /// One `Boolean`: whether it was done.
    Boolean,
    /// One `Utf8`.
    Text,
    /// Rows. Only `CALL` can run it.
    Rows,
}

/// The declaration of an effect function or a procedure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The name in SQL, lower case.
    pub name: &'static str,
    /// The parameters in order, required ones first.
    pub parameters: &'static [Parameter],
    /// What a call gives back.
    pub returns: Returns,
    /// What it does, in whole sentences.
    pub doc: &'static str,
}

impl Signature {
    /// The fields of the struct of arguments: one per parameter, in order, all nullable.
    pub fn fields(&self) -> Fields {
        self.parameters
            .iter()
            .map(|parameter| Field::new(parameter.name, parameter.kind.data_type(), true))
            .collect()
    }

    /// The signature as a user reads it, such as `f(a TEXT, b => BIGINT) -> BOOLEAN`.
    pub fn usage(&self) -> String {
        let parameters: Vec<String> = self
            .parameters
            .iter()
            .map(|parameter| {
                let kind = match parameter.kind {
                    ParameterKind::Choice(choices) => format!("'{}'", choices.join("'|'")),
                    kind => kind.sql_name().to_owned(),
                };
                match parameter.need {
                    Need::Required => format!("{} {kind}", parameter.name),
                    Need::Optional => format!("{} => {kind}", parameter.name),
                }
            })
            .collect();
        let returns = match self.returns {
            Returns::Integer => "BIGINT",
            Returns::Boolean => "BOOLEAN",
            Returns::Text => "TEXT",
            Returns::Rows => "rows",
        };
        format!("{}({}) -> {returns}", self.name, parameters.join(", "))
    }

    /// An argument error with the signature as hint.
    pub fn argument_error(&self, message: impl Into<String>) -> Error {
        Error::new(Code::EffectArgument, message).with_hint(format!("Write {}.", self.usage()))
    }
}

/// An effect function: scalar, one effect per final row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EffectFunction {
    /// `schedule_job`
    ScheduleJob,
    /// `cancel_job`
    CancelJob,
    /// `retry_job`
    RetryJob,
    /// `set_status`
    SetStatus,
    /// `acquire_lock`
    AcquireLock,
    /// `renew_lock`
    RenewLock,
    /// `release_lock`
    ReleaseLock,
    /// `heartbeat`
    Heartbeat,
    /// `complete_job`
    CompleteJob,
    /// `fail_job`
    FailJob,
    /// `hand_back_job`
    HandBackJob,
}

impl EffectFunction {
    /// All of them, in the order of the reference.
    pub const ALL: &[Self] = &[
        Self::ScheduleJob,
        Self::CancelJob,
        Self::RetryJob,
        Self::SetStatus,
        Self::AcquireLock,
        Self::RenewLock,
        Self::ReleaseLock,
        Self::Heartbeat,
        Self::CompleteJob,
        Self::FailJob,
        Self::HandBackJob,
    ];

    /// The function of this lower-case name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|function| function.signature().name == name)
    }

    /// The name in SQL.
    pub fn name(self) -> &'static str {
        self.signature().name
    }

    /// The type of one result.
    pub fn return_type(self) -> DataType {
        match self.signature().returns {
            Returns::Integer => DataType::Int64,
            Returns::Boolean => DataType::Boolean,
            Returns::Text => DataType::Utf8,
            // No scalar function declares rows; a test holds this.
            Returns::Rows => DataType::Null,
        }
    }

    /// The declaration.
    pub fn signature(self) -> &'static Signature {
        match self {
            Self::ScheduleJob => &SCHEDULE_JOB,
            Self::CancelJob => &CANCEL_JOB,
            Self::RetryJob => &RETRY_JOB,
            Self::SetStatus => &SET_STATUS,
            Self::AcquireLock => &ACQUIRE_LOCK,
            Self::RenewLock => &RENEW_LOCK,
            Self::ReleaseLock => &RELEASE_LOCK,
            Self::Heartbeat => &HEARTBEAT,
            Self::CompleteJob => &COMPLETE_JOB,
            Self::FailJob => &FAIL_JOB,
            Self::HandBackJob => &HAND_BACK_JOB,
        }
    }
}

/// The modes of a lock.
pub const LOCK_MODES: &[&str] = &["exclusive", "shared"];

const PRIORITY: Parameter = optional(
    "priority",
    ParameterKind::Integer,
    "Jobs of a higher priority are claimed first. Default 0.",
);
const RUN_AT: Parameter = optional(
    "run_at",
    ParameterKind::Timestamp,
    "Not before this moment. Default: at once.",
);
const PARAMS: Parameter = optional(
    "params",
    ParameterKind::Json,
    "JSON that the transform receives. Default NULL.",
);
const BATCH: Parameter = optional(
    "batch",
    ParameterKind::Text,
    "A name for the batch of jobs. Default: the batch of the statement has none.",
);
const JOB_ID: Parameter = required("job_id", ParameterKind::Integer, "The job.");
const TOKEN: Parameter = required(
    "token",
    ParameterKind::Integer,
    "The fencing token that the holder was given.",
);
const RESOURCE: Parameter = required(
    "resource",
    ParameterKind::Text,
    "A path such as `notices/00123-2024`: a source table, or a key in it; a lock on a path covers \
     all below it. A name that only programs agree on begins with @, such as `@nightly`.",
);

static SCHEDULE_JOB: Signature = Signature {
    name: "schedule_job",
    parameters: &[
        required(
            "transform",
            ParameterKind::Text,
            "The name of the transform.",
        ),
        required(
            "source_id",
            ParameterKind::Key,
            "The key of the source, TEXT or BIGINT.",
        ),
        PRIORITY,
        RUN_AT,
        PARAMS,
        BATCH,
    ],
    returns: Returns::Integer,
    doc: "Schedules the transform for a source and returns the job id: the one that lives \
          already, where there is one. NULL where refused; PREVIEW tells the reason.",
};

static CANCEL_JOB: Signature = Signature {
    name: "cancel_job",
    parameters: &[JOB_ID],
    returns: Returns::Boolean,
    doc: "Cancels a job, or asks a running one to stop. FALSE where the job is final.",
};

static RETRY_JOB: Signature = Signature {
    name: "retry_job",
    parameters: &[JOB_ID, PRIORITY, RUN_AT, PARAMS, BATCH],
    returns: Returns::Integer,
    doc: "Makes a new job from a final one, with the final one as its parent, and returns its id. \
          NULL where refused.",
};

static SET_STATUS: Signature = Signature {
    name: "set_status",
    parameters: &[
        required("table", ParameterKind::Text, "The source table."),
        required(
            "source_id",
            ParameterKind::Key,
            "The key of the source, TEXT or BIGINT.",
        ),
        required("status", ParameterKind::Text, "The new status."),
        optional(
            "from",
            ParameterKind::Text,
            "Only where this is its status at the moment of the commit. Default: any.",
        ),
    ],
    returns: Returns::Boolean,
    doc: "Sets the status of a source that is not locked. FALSE where refused.",
};

static ACQUIRE_LOCK: Signature = Signature {
    name: "acquire_lock",
    parameters: &[
        RESOURCE,
        optional(
            "ttl",
            ParameterKind::Interval,
            "How long it holds. Default 60 seconds.",
        ),
        optional(
            "mode",
            ParameterKind::Choice(LOCK_MODES),
            "Default exclusive.",
        ),
        optional("reason", ParameterKind::Text, "Why, for others to read."),
    ],
    returns: Returns::Integer,
    doc: "Takes a lock and returns its fencing token, or NULL where a holder is in the way, be it \
          another program of the same actor. The lock is the actor's under this token: a session \
          shows the tokens that it was given; a request shows them in Sluicegate-Lock-Tokens. Who \
          does not show it is kept out of what it covers: new rows, changes, schedules and jobs.",
};

static RENEW_LOCK: Signature = Signature {
    name: "renew_lock",
    parameters: &[
        RESOURCE,
        TOKEN,
        required(
            "ttl",
            ParameterKind::Interval,
            "How long it holds, from the commit on.",
        ),
    ],
    returns: Returns::Boolean,
    doc: "Prolongs a lock. FALSE where the token is not that of the live lock, or another actor \
          took it.",
};

static RELEASE_LOCK: Signature = Signature {
    name: "release_lock",
    parameters: &[
        RESOURCE,
        optional(
            "token",
            ParameterKind::Integer,
            "The holder's token. Needed unless forced.",
        ),
        optional(
            "force",
            ParameterKind::Boolean,
            "Release all locks on the resource, whoever took them; for when the holder is gone. \
             The ledger says so. Default false.",
        ),
    ],
    returns: Returns::Boolean,
    doc: "Releases a lock. FALSE where the token is not that of the live lock, or another actor \
          took it, unless forced.",
};

static HEARTBEAT: Signature = Signature {
    name: "heartbeat",
    parameters: &[JOB_ID, TOKEN],
    returns: Returns::Text,
    doc: "Renews the lease of a running job. 'alive': go on. 'cancel-requested': the lease is \
          renewed, but somebody asked the job to stop. 'stale': the token is not the live one; \
          stop at once, nothing that is reported will count.",
};

static COMPLETE_JOB: Signature = Signature {
    name: "complete_job",
    parameters: &[
        JOB_ID,
        TOKEN,
        optional("output_uri", ParameterKind::Text, "Where the output is."),
        optional(
            "status",
            ParameterKind::Text,
            "The new status of the source. Default: the first TO STATUS of the transform.",
        ),
        optional(
            "columns",
            ParameterKind::JsonObject,
            "Values for columns of the source, as a JSON object.",
        ),
    ],
    returns: Returns::Boolean,
    doc: "Reports success; the job, its lock and its source change in one commit. FALSE where \
          the token is stale.",
};

static FAIL_JOB: Signature = Signature {
    name: "fail_job",
    parameters: &[
        JOB_ID,
        TOKEN,
        required("error", ParameterKind::Text, "What went wrong, for people."),
        optional(
            "code",
            ParameterKind::Text,
            "What went wrong, for machines.",
        ),
    ],
    returns: Returns::Boolean,
    doc: "Reports a failure; the job is retried or discarded. FALSE where the token is stale.",
};

static HAND_BACK_JOB: Signature = Signature {
    name: "hand_back_job",
    parameters: &[JOB_ID, TOKEN],
    returns: Returns::Boolean,
    doc: "Gives a running job back unfinished; no attempt is used up. For a worker that ends. The \
          first five times it waits again at once, then after pauses that grow as those after \
          failures; the thousandth time discards it. FALSE where the token is stale.",
};

/// `claim_jobs`: CALL only, returns rows.
pub static CLAIM_JOBS: Signature = Signature {
    name: "claim_jobs",
    parameters: &[
        required("worker", ParameterKind::Text, "The name of the worker."),
        optional(
            "transforms",
            ParameterKind::TextList,
            "Only these: a list, or text with commas. Default: all that outside workers run.",
        ),
        optional(
            "max",
            ParameterKind::Integer,
            "How many jobs at most. Default 1.",
        ),
        optional(
            "rows",
            ParameterKind::Boolean,
            "Also the row of each source, as a JSON object in the column `row`. Default false.",
        ),
    ],
    returns: Returns::Rows,
    doc: "Gives jobs to a worker outside: each is running and locked when the rows arrive. \
          Repeated under its idempotency key within an hour, it gives those of them again that \
          still run.",
};

/// The procedures that `CALL` knows beside the effect functions. Open: later layers add theirs.
#[derive(Debug, Clone)]
pub struct Procedures(Vec<&'static Signature>);

impl Default for Procedures {
    fn default() -> Self {
        Self(vec![&CLAIM_JOBS])
    }
}

impl Procedures {
    /// Adds a procedure of a later layer; one of the same name is replaced.
    #[must_use]
    pub fn with(mut self, signature: &'static Signature) -> Self {
        self.0.retain(|known| known.name != signature.name);
        self.0.push(signature);
        self
    }

    /// The procedure of this lower-case name.
    pub fn named(&self, name: &str) -> Option<&'static Signature> {
        self.0
            .iter()
            .copied()
            .find(|signature| signature.name == name)
    }

    /// All of them, in the order in which they were added.
    pub fn all(&self) -> &[&'static Signature] {
        &self.0
    }
}

/// The net under an effect function: it has the name and the type, and refuses to run.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct EffectUdf {
    function: EffectFunction,
    signature: UdfSignature,
}

impl EffectUdf {
    /// The net for `function`.
    pub fn new(function: EffectFunction) -> Self {
        Self {
            function,
            signature: UdfSignature::user_defined(Volatility::Volatile),
        }
    }

    /// Which function it stands for.
    pub fn function(&self) -> EffectFunction {
        self.function
    }
}

/// The error for an effect function that got past the gate.
pub fn misplaced(function: EffectFunction) -> Error {
    Error::new(
        Code::EffectMisplaced,
        format!(
            "effect function \"{}\" cannot run inside a query plan",
            function.name()
        ),
    )
    .with_hint(format!(
        "Make it a bare item of the outermost SELECT list of a statement of its own, or write \
         CALL {}(...).",
        function.name()
    ))
}

impl ScalarUDFImpl for EffectUdf {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &UdfSignature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.function.return_type())
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Err(DataFusionError::External(Box::new(misplaced(
            self.function,
        ))))
    }
}

/// The nets for all effect functions, to be registered with every session.
pub fn effect_udfs() -> Vec<Arc<ScalarUDF>> {
    EffectFunction::ALL
        .iter()
        .map(|function| Arc::new(ScalarUDF::new_from_impl(EffectUdf::new(*function))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_sound() {
        for function in EffectFunction::ALL {
            let signature = function.signature();
            assert_eq!(EffectFunction::named(signature.name), Some(*function));
            assert_ne!(signature.returns, Returns::Rows, "{}", signature.name);
            let needs: Vec<Need> = signature.parameters.iter().map(|p| p.need).collect();
            let first_optional = needs.iter().position(|need| *need == Need::Optional);
            let last_required = needs.iter().rposition(|need| *need == Need::Required);
            assert!(first_optional.is_none_or(|first| last_required < Some(first)));
        }
    }

    #[test]
    fn usage_shows_names_types_and_choices() {
        assert_eq!(
            EffectFunction::AcquireLock.signature().usage(),
            "acquire_lock(resource TEXT, ttl => INTERVAL, mode => 'exclusive'|'shared', \
             reason => TEXT) -> BIGINT"
        );
    }

    #[test]
    fn a_procedure_of_the_same_name_replaces_the_known_one() {
        static OTHER: Signature = Signature {
            name: "claim_jobs",
            parameters: &[],
            returns: Returns::Rows,
            doc: "",
        };
        let procedures = Procedures::default().with(&OTHER);
        assert_eq!(procedures.named("claim_jobs"), Some(&OTHER));
        assert_eq!(procedures.all().len(), 1);
    }
}
