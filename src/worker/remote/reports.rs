//! How a worker behind a server reports: files first, then one statement per kind of outcome.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::decide::{Outcome as Verdict, Report};
use crate::worker::command::Outcome;
use crate::worker::group::failed;
use crate::worker::local::{CANCELLED, check_status};
use crate::worker::queue::{Ended, Group, Verdicts};
use crate::worker::remote::Remote;

/// Reports of one statement at the most, so that its body stays far below what a server takes.
const REPORTS_MAX: usize = 200;

/// Bytes of the columns in one statement at the most; a single source may have more.
const COLUMNS_BYTES: usize = 4 << 20;

/// A success, ready to be reported.
struct Done {
    report: Report,
    status: Option<String>,
    columns: Option<String>,
    output: Option<String>,
}

/// A failure, ready to be reported.
struct Failed {
    report: Report,
    code: String,
    message: String,
}

impl Remote {
    /// Stores files and logs, and reports all.
    pub(super) async fn report_all(&self, group: &Group, ended: Vec<Ended>) -> Result<Verdicts> {
        let (mut done, mut failures, mut released) = (Vec::new(), Vec::new(), Vec::new());
        for mut one in ended {
            let report = one.job.report;
            if let Some(log) = one.log.take().filter(|log| !log.is_empty()) {
                self.files.keep_log(report, &log).await;
            }
            let output = match &one.outcome {
                Outcome::Completed { status, output, .. } => {
                    let checked = check_status(group, status.as_deref());
                    match checked {
                        Ok(()) => self.files.store(report, output.as_deref()).await,
                        Err(error) => Err(error),
                    }
                }
                Outcome::Failed { .. } | Outcome::Cancelled | Outcome::Released => Ok(None),
            };
            self.files.forget(report).await;
            let outcome = match output {
                Ok(at) => match one.outcome {
                    Outcome::Completed {
                        status, columns, ..
                    } => {
                        done.push(Done {
                            report,
                            status,
                            columns: columns.to_json()?,
                            output: at,
                        });
                        continue;
                    }
                    other => other,
                },
                Err(error) if error.retryable() => return Err(error),
                Err(error) => failed(&error),
            };
            match outcome {
                Outcome::Failed { code, message } => failures.push(Failed {
                    report,
                    code,
                    message,
                }),
                Outcome::Cancelled => failures.push(Failed {
                    report,
                    code: CANCELLED.0.to_owned(),
                    message: CANCELLED.1.to_owned(),
                }),
                Outcome::Released | Outcome::Completed { .. } => released.push(report),
            }
        }
        let mut verdicts = Verdicts::new();
        self.complete(done, &mut failures, &mut verdicts).await?;
        for part in failures.chunks(REPORTS_MAX) {
            add(&mut verdicts, self.fail(part).await?);
        }
        add(&mut verdicts, self.hand_back(released.into_iter()).await?);
        Ok(verdicts)
    }

    /// Reports successes. Those that the server cannot take become failures.
    async fn complete(
        &self,
        done: Vec<Done>,
        failures: &mut Vec<Failed>,
        verdicts: &mut Verdicts,
    ) -> Result<()> {
        let mut parts = parts(done);
        while let Some(mut part) = parts.pop() {
            match self.complete_part(&part).await {
                Ok(counts) => add(verdicts, counts),
                // Something is wrong with a source: the others must not suffer.
                Err(error) if whose(&error) == Fault::Sources => {
                    let half = part.len() / 2;
                    let second = part.split_off(half);
                    match (part.is_empty(), second) {
                        (true, mut alone) => {
                            if let (Some(one), Outcome::Failed { code, message }) =
                                (alone.pop(), failed(&error))
                            {
                                failures.push(Failed {
                                    report: one.report,
                                    code,
                                    message,
                                });
                            }
                        }
                        (false, second) => parts.extend([second, part]),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn complete_part(&self, part: &[Done]) -> Result<Verdicts> {
        let sql = "SELECT complete_job(job, token, output_uri => output, status => status, \
                   columns => columns) FROM ended";
        let reports: Vec<Report> = part.iter().map(|one| one.report).collect();
        let text = |of: fn(&Done) -> Option<&String>| part.iter().map(of).collect::<StringArray>();
        let rows = table(
            &reports,
            vec![
                ("output", text(|one| one.output.as_ref())),
                ("status", text(|one| one.status.as_ref())),
                ("columns", text(|one| one.columns.as_ref())),
            ],
        )?;
        self.counts(sql, rows).await
    }

    async fn fail(&self, part: &[Failed]) -> Result<Verdicts> {
        let sql = "SELECT fail_job(job, token, message, code => code) FROM ended";
        let reports: Vec<Report> = part.iter().map(|one| one.report).collect();
        let text = |of: fn(&Failed) -> &String| StringArray::from_iter_values(part.iter().map(of));
        let rows = table(
            &reports,
            vec![
                ("message", text(|one| &one.message)),
                ("code", text(|one| &one.code)),
            ],
        )?;
        self.counts(sql, rows).await
    }

    /// Gives jobs back unfinished.
    pub(super) async fn hand_back(
        &self,
        reports: impl Iterator<Item = Report> + Send,
    ) -> Result<Verdicts> {
        let reports: Vec<Report> = reports.collect();
        if reports.is_empty() {
            return Ok(Verdicts::new());
        }
        let sql = "SELECT hand_back_job(job, token) FROM ended";
        self.counts(sql, table(&reports, Vec::new())?).await
    }

    /// Runs a statement of reports, and tells how they ended.
    async fn counts(&self, sql: &str, rows: RecordBatch) -> Result<Verdicts> {
        let key = Uuid::now_v7().to_string();
        let (counts, _) = self
            .run(&key, sql.to_owned(), vec![("ended", rows)])
            .await?;
        let mut verdicts = Verdicts::new();
        for count in counts {
            let verdict = Verdict::ALL.iter().find(|one| one.name() == count.outcome);
            if let Some(verdict) = verdict {
                *verdicts.entry(*verdict).or_default() += count.count;
            }
        }
        Ok(verdicts)
    }
}

/// Attempts as a table of a statement: columns `job` and `token`, and more texts.
pub(super) fn table(reports: &[Report], texts: Vec<(&str, StringArray)>) -> Result<RecordBatch> {
    let ids = |of: fn(&Report) -> u64| {
        let ids = reports.iter().map(of);
        let ids = ids.map(|id| i64::try_from(id).unwrap_or(i64::MAX));
        Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef
    };
    let mut columns = vec![
        ("job", ids(|one| one.job.0), false),
        ("token", ids(|one| one.token.0), false),
    ];
    columns.extend(
        texts
            .into_iter()
            .map(|(name, texts)| (name, Arc::new(texts) as _, true)),
    );
    RecordBatch::try_from_iter_with_nullable(columns)
        .map_err(|error| Error::bug("reports do not fit their columns").with_source(error))
}

/// Whose fault an error is.
#[derive(PartialEq, Eq)]
enum Fault {
    /// Of what the sources' attempts gave.
    Sources,
    /// Of the way to the server, of the store, or of this worker's rights.
    Others,
}

fn whose(error: &Error) -> Fault {
    match error.code().kind() {
        Kind::Input | Kind::NotFound | Kind::Limit if !error.retryable() => Fault::Sources,
        Kind::Input
        | Kind::NotFound
        | Kind::Limit
        | Kind::Conflict
        | Kind::Denied
        | Kind::Unavailable
        | Kind::Corrupt
        | Kind::Internal => Fault::Others,
    }
}

fn add(verdicts: &mut Verdicts, more: Verdicts) {
    for (verdict, count) in more {
        *verdicts.entry(verdict).or_default() += count;
    }
}

/// Cuts successes into parts of one statement each.
fn parts(done: Vec<Done>) -> Vec<Vec<Done>> {
    let mut parts: Vec<Vec<Done>> = Vec::new();
    let mut bytes = 0;
    for one in done {
        let more = one.columns.as_ref().map_or(0, String::len);
        match parts.last_mut() {
            Some(part) if part.len() < REPORTS_MAX && bytes + more <= COLUMNS_BYTES => {
                bytes += more;
                part.push(one);
            }
            Some(_) | None => {
                bytes = more;
                parts.push(vec![one]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{JobId, Token};

    #[test]
    fn statements_are_bounded_by_rows_and_bytes() {
        let done = |count: usize, bytes: usize| -> Vec<Done> {
            (0..count)
                .map(|_| Done {
                    report: Report {
                        job: JobId(1),
                        token: Token(1),
                    },
                    status: None,
                    columns: Some("x".repeat(bytes)),
                    output: None,
                })
                .collect()
        };
        let sizes = |count, bytes| -> Vec<usize> {
            parts(done(count, bytes)).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(0, 1), Vec::<usize>::new());
        assert_eq!(sizes(201, 1), [200, 1]);
        assert_eq!(sizes(3, COLUMNS_BYTES / 2), [2, 1]);
        assert_eq!(sizes(2, COLUMNS_BYTES + 1), [1, 1]);
    }
}
