//! What a command answers: lines cut from a stream, and the meaning of one line.
//!
//! Invariants: memory is bounded by the line limit whatever is printed; an answer that names its
//! source but is otherwise malformed fails that source. Called by `worker::command` only. Pure.

use crate::error::Code;
use crate::id::JobId;
use crate::json::{Object, Value, parse_bytes};

/// A line of standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// Its bytes without the line end.
    Text(Vec<u8>),
    /// It was longer than allowed, by its length in bytes.
    TooLong(u64),
}

/// Cuts a stream of chunks into lines.
#[derive(Debug)]
pub(crate) struct LineSplitter {
    limit: usize,
    begun: Vec<u8>,
    /// Bytes of the line at hand that were thrown away.
    skipped: u64,
}

impl LineSplitter {
    /// Lines of more than `limit` bytes are dropped.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            begun: Vec::new(),
            skipped: 0,
        }
    }

    /// The lines that end within `chunk`.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                Some(_) | None => (piece, false),
            };
            if self.skipped > 0 || self.begun.len() + text.len() > self.limit {
                self.skipped += (self.begun.len() + text.len()) as u64;
                self.begun = Vec::new();
            } else {
                self.begun.extend_from_slice(text);
            }
            if ended {
                lines.push(self.cut());
            }
        }
        lines
    }

    /// What stands after the last line end, where something does.
    pub(crate) fn finish(&mut self) -> Option<Line> {
        (self.skipped > 0 || !self.begun.is_empty()).then(|| self.cut())
    }

    fn cut(&mut self) -> Line {
        match std::mem::take(&mut self.skipped) {
            0 => Line::Text(std::mem::take(&mut self.begun)),
            bytes => Line::TooLong(bytes),
        }
    }
}

/// The success of one source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Success {
    pub(crate) status: Option<String>,
    pub(crate) columns: Object,
    pub(crate) output: Option<String>,
}

/// The failure of one source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// One answer. At least one of the two names is present.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) job_id: Option<JobId>,
    pub(crate) source_id: Option<String>,
    pub(crate) result: Result<Success, Failure>,
}

impl Answer {
    /// Reads a line; the error says why it is no answer for anybody.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        let shown = || {
            let text: String = String::from_utf8_lossy(line).chars().take(200).collect();
            text.trim_end().to_owned()
        };
        let Ok(value) = parse_bytes(line.trim_ascii()) else {
            return Err(format!("it is not JSON: {}", shown()));
        };
        let Value::Object(mut fields) = value else {
            return Err(format!("it is not a JSON object: {}", shown()));
        };
        let job_id = match fields.get("job_id") {
            Some(Value::Number(number)) => number.parse().ok().map(JobId),
            Some(Value::Text(text)) => text.parse().ok().map(JobId),
            Some(_) | None => None,
        };
        let source_id = match fields.remove("source_id") {
            Some(Value::Text(text)) => Some(text),
            Some(Value::Number(number)) => Some(number),
            Some(_) | None => None,
        };
        if job_id.is_none() && source_id.is_none() {
            return Err(format!("it has neither source_id nor job_id: {}", shown()));
        }
        Ok(Self {
            job_id,
            source_id,
            result: result_of(fields),
        })
    }
}

fn result_of(mut fields: Object) -> Result<Success, Failure> {
    match fields.remove("error") {
        None | Some(Value::Null) => {}
        Some(error) => return Err(failure_of(error)),
    }
    let columns = match fields.remove("columns") {
        None | Some(Value::Null) => Object::new(),
        Some(Value::Object(columns)) => columns,
        Some(other) => return Err(malformed("columns", "an object", &other)),
    };
    let status = text_of(&mut fields, "status")?;
    let output = text_of(&mut fields, "output")?;
    Ok(Success {
        status,
        columns,
        output,
    })
}

fn text_of(fields: &mut Object, name: &str) -> Result<Option<String>, Failure> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(malformed(name, "text", &other)),
    }
}

fn failure_of(error: Value) -> Failure {
    let own = || Code::CommandFailed.as_str().to_owned();
    match error {
        Value::Text(message) => Failure {
            code: own(),
            message,
        },
        Value::Object(mut parts) => {
            let mut part = |name| match parts.remove(name) {
                Some(Value::Text(text)) if !text.is_empty() => Some(text),
                Some(_) | None => None,
            };
            let code = part("code").unwrap_or_else(own);
            let message = part("message").unwrap_or_else(|| code.clone());
            Failure { code, message }
        }
        other => Failure {
            code: own(),
            message: other.to_string(),
        },
    }
}

fn malformed(name: &str, wanted: &str, found: &Value) -> Failure {
    let found: String = found.to_string().chars().take(200).collect();
    Failure {
        code: Code::InvalidAnswer.as_str().to_owned(),
        message: format!("\"{name}\" of the answer is {found}, not {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_the_stream_is_chunked() {
        let stream = b"one\n\ntwo is long\nthree\nrest";
        let expected = vec![
            Line::Text(b"one".to_vec()),
            Line::Text(Vec::new()),
            Line::TooLong(11),
            Line::Text(b"three".to_vec()),
            Line::Text(b"rest".to_vec()),
        ];
        for size in 1..=stream.len() {
            let mut splitter = LineSplitter::new(5);
            let mut lines: Vec<Line> = stream
                .chunks(size)
                .flat_map(|chunk| splitter.push(chunk))
                .collect();
            lines.extend(splitter.finish());
            assert_eq!(lines, expected, "chunks of {size} bytes");
        }
    }

    #[test]
    fn error_may_be_text_or_code_and_message() {
        let failure = |line: &str| Answer::parse(line.as_bytes()).unwrap().result.unwrap_err();
        let check = |line: &str, code: &str, message: &str| {
            let expected = Failure {
                code: code.to_owned(),
                message: message.to_owned(),
            };
            assert_eq!(failure(line), expected, "{line}");
        };
        check(
            r#"{"source_id":"a","error":"no lots"}"#,
            "SG8002",
            "no lots",
        );
        check(
            r#"{"source_id":"a","error":{"code":"no-lots","message":"m"}}"#,
            "no-lots",
            "m",
        );
        check(
            r#"{"job_id":1,"error":{"code":"no-lots"}}"#,
            "no-lots",
            "no-lots",
        );
        check(r#"{"job_id":1,"error":false}"#, "SG8002", "false");
        check(
            r#"{"job_id":1,"columns":[1]}"#,
            "SG8005",
            "\"columns\" of the answer is [1], not an object",
        );
        check(
            r#"{"job_id":1,"status":7}"#,
            "SG8005",
            "\"status\" of the answer is 7, not text",
        );
    }

    #[test]
    fn line_without_a_name_is_no_answer() {
        for line in [
            "Traceback",
            "[1]",
            r#"{"status":"X"}"#,
            r#"{"job_id":-1}"#,
            "\u{0}",
        ] {
            assert!(Answer::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn numbers_name_sources_and_jobs() {
        let answer = Answer::parse(br#"{"source_id": 17, "job_id": "4"}"#).unwrap();
        assert_eq!(answer.source_id.as_deref(), Some("17"));
        assert_eq!(answer.job_id, Some(JobId(4)));
    }
}
