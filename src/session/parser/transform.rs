//! `CREATE TRANSFORM name ON table FROM STATUS ... TO STATUS ... [WITH (...)] body`.

use std::time::Duration;

use datafusion::sql::parser::DFParser;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::{Code, Error, Result};
use crate::session::parser::{
    Source, both_or_replace_and_if_not_exists, expect_words, expected, from_parser, identifier,
    parse_name, position, take_words,
};
use crate::session::statement::{
    CreateTransform, Existing, Output, Statement, TransformBody, TransformOptions,
};

const OPTIONS: &str = "group_size, concurrency, max_attempts, priority, timeout, lease, backoff, \
                       backoff_max, memory, output";

/// Parses what follows `CREATE [OR REPLACE] TRANSFORM`.
pub(super) fn parse(
    source: &Source<'_>,
    parser: &mut DFParser<'_>,
    mut existing: Existing,
) -> Result<Statement> {
    if parser
        .parser
        .parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS])
    {
        existing = match existing {
            Existing::Refuse | Existing::Keep => Existing::Keep,
            Existing::Replace => return Err(both_or_replace_and_if_not_exists()),
        };
    }
    let name = parse_name(parser)?;
    expect_words(parser, &["ON"])?;
    let table = parse_name(parser)?;
    expect_words(parser, &["FROM", "STATUS"])?;
    let from_status = parse_texts(parser)?;
    expect_words(parser, &["TO", "STATUS"])?;
    let to_status = parse_texts(parser)?;
    let mut options = TransformOptions::default();
    if take_words(parser, &["WITH"]) {
        parse_options(parser, &mut options)?;
    }
    if take_words(parser, &["OUTPUT"]) {
        expect_words(parser, &["PARQUET"])?;
        options.output = Output::Parquet;
    }
    let body = parse_body(source, parser)?;
    Ok(Statement::CreateTransform(Box::new(CreateTransform {
        name,
        existing,
        table,
        from_status,
        to_status,
        options,
        body,
    })))
}

fn parse_body(source: &Source<'_>, parser: &mut DFParser<'_>) -> Result<TransformBody> {
    if take_words(parser, &["USING", "COMMAND"]) {
        return Ok(TransformBody::Command(parse_text(parser)?));
    }
    if take_words(parser, &["USING", "OUTSIDE"]) {
        expect_words(parser, &["WORKER"])?;
        return Ok(TransformBody::Outside);
    }
    if take_words(parser, &["AS"]) {
        let start = parser.parser.peek_token().span.start;
        let query = from_parser(parser.parser.parse_query())?;
        return Ok(TransformBody::Sql {
            text: source.slice(start, source.end).to_owned(),
            position: position(start),
            query,
        });
    }
    Err(expected(
        "AS SELECT ..., USING COMMAND '...' or USING OUTSIDE WORKER",
        &parser.parser.peek_token(),
    ))
}

/// A text in quotes. The parser's own rule would take a bare word as well.
fn parse_text(parser: &mut DFParser<'_>) -> Result<String> {
    let token = parser.parser.next_token();
    match token.token {
        Token::SingleQuotedString(text) => Ok(text),
        _ => Err(expected("a text in quotes", &token)),
    }
}

fn parse_texts(parser: &mut DFParser<'_>) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    loop {
        texts.push(parse_text(parser)?);
        if !parser.parser.consume_token(&Token::Comma) {
            return Ok(texts);
        }
    }
}

fn parse_options(parser: &mut DFParser<'_>, options: &mut TransformOptions) -> Result<()> {
    from_parser(parser.parser.expect_token(&Token::LParen))?;
    let mut seen = Vec::new();
    loop {
        let at = parser.parser.peek_token();
        let name = identifier(&from_parser(parser.parser.parse_identifier())?);
        if seen.contains(&name) {
            return Err(Error::new(
                Code::InvalidDefinition,
                format!("option \"{name}\" is double"),
            )
            .with_hint("Give each option once.")
            .with_position(position(at.span.start)));
        }
        let _ = parser.parser.consume_token(&Token::Eq);
        let value = parser.parser.next_token();
        set_option(options, &name, &value, &at)?;
        seen.push(name);
        if !parser.parser.consume_token(&Token::Comma) {
            break;
        }
    }
    from_parser(parser.parser.expect_token(&Token::RParen))?;
    Ok(())
}

fn set_option(
    options: &mut TransformOptions,
    name: &str,
    value: &TokenWithSpan,
    at: &TokenWithSpan,
) -> Result<()> {
    let wrong = |must: &str| {
        Error::new(
            Code::InvalidDefinition,
            format!("option \"{name}\" is not {must}"),
        )
        .with_hint(format!("Write {name} followed by {must}."))
        .with_position(position(value.span.start))
    };
    let text = match &value.token {
        Token::SingleQuotedString(text) | Token::Number(text, _) => text.clone(),
        Token::Word(word) => word.value.clone(),
        _ => return Err(expected("a value", value)),
    };
    let count = || {
        let parsed: Option<u32> = text.parse().ok().filter(|count| *count > 0);
        parsed.ok_or_else(|| wrong("a whole number above 0"))
    };
    let duration = || duration(&text).ok_or_else(|| wrong("a length of time such as '10 minutes'"));
    match name {
        "group_size" => options.group_size = Some(count()?),
        "concurrency" => options.concurrency = Some(count()?),
        "max_attempts" => options.max_attempts = Some(count()?),
        "priority" => {
            options.priority = Some(text.parse().map_err(|_| wrong("a whole number"))?);
        }
        "timeout" => options.timeout = Some(duration()?),
        "lease" => options.lease = Some(duration()?),
        "backoff" => options.backoff = Some(duration()?),
        "backoff_max" => options.backoff_max = Some(duration()?),
        "memory" => {
            options.memory_bytes =
                Some(bytes(&text).ok_or_else(|| wrong("a size such as '512 MB'"))?);
        }
        "output" if text.eq_ignore_ascii_case("parquet") => options.output = Output::Parquet,
        "output" => return Err(wrong("PARQUET")),
        _ => {
            return Err(Error::new(
                Code::InvalidDefinition,
                format!("option \"{name}\" does not exist"),
            )
            .with_hint(format!("The options of a transform are {OPTIONS}."))
            .with_position(position(at.span.start)));
        }
    }
    Ok(())
}

/// `10 minutes`, `1 hour 30 minutes`, `500 ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut micros = 0_u64;
    let mut words = text.split_whitespace().peekable();
    words.peek()?;
    while let Some(number) = words.next() {
        let unit = match words.next()?.to_ascii_lowercase().as_str() {
            "ms" | "millisecond" | "milliseconds" => 1_000,
            "s" | "second" | "seconds" => 1_000_000,
            "min" | "minute" | "minutes" => 60_000_000,
            "h" | "hour" | "hours" => 3_600_000_000,
            "d" | "day" | "days" => 86_400_000_000,
            _ => return None,
        };
        micros = micros.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
    }
    (micros > 0).then(|| Duration::from_micros(micros))
}

/// `1048576`, `512 MB`, `2GB`: units of 1024.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" | "KIB" => 1 << 10,
        "MB" | "MIB" => 1 << 20,
        "GB" | "GIB" => 1 << 30,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)
        .filter(|bytes| *bytes > 0)
}
