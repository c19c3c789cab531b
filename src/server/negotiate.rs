//! Which format an answer has: `?format=`, then the header `Accept` with its q-values.

use crate::error::{Code, Error, Result};
use crate::format::{Format, IpcCodec};

/// How JSON writes integers of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integers {
    /// As strings: most readers of JSON would round them.
    Text,
    /// As numbers.
    Number,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Output {
    pub format: Format,
    pub integers: Integers,
    pub codec: IpcCodec,
}

impl Output {
    /// Arrow, as it is.
    pub(super) const ARROW: Self = Self {
        format: Format::Arrow,
        integers: Integers::Text,
        codec: IpcCodec::None,
    };

    /// The header `Content-Type`. That of compressed buffers names the codec, which also keeps
    /// the body from being compressed once more.
    pub(super) fn content_type(self) -> String {
        let media = content_type(self.format);
        match self.codec {
            IpcCodec::None => media.to_owned(),
            IpcCodec::Lz4 => format!("{media}; codecs=lz4"),
            IpcCodec::Zstd => format!("{media}; codecs=zstd"),
        }
    }
}

/// What can be asked for, the default first.
const MEDIA: &[(&str, Format)] = &[
    ("application/json", Format::Json),
    ("application/x-ndjson", Format::Ndjson),
    ("text/csv", Format::Csv),
    ("text/plain", Format::Table),
    ("application/vnd.apache.arrow.stream", Format::Arrow),
    ("application/vnd.apache.arrow.file", Format::ArrowFile),
    ("application/vnd.apache.parquet", Format::Parquet),
];

/// The header `Content-Type` of a format.
pub(super) fn content_type(format: Format) -> &'static str {
    match format {
        Format::Table | Format::Expanded => "text/plain; charset=utf-8",
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Json => "application/json",
        Format::Ndjson => "application/x-ndjson",
        Format::Parquet => "application/vnd.apache.parquet",
        Format::Arrow => "application/vnd.apache.arrow.stream",
        Format::ArrowFile => "application/vnd.apache.arrow.file",
    }
}

/// One range of an `Accept` header.
struct Range<'a> {
    media: &'a str,
    quality: f32,
    integers: Option<Integers>,
    codec: IpcCodec,
}

impl Range<'_> {
    /// How exactly it names a media type; none where it does not.
    fn names(&self, media: &str) -> Option<u8> {
        if self.media.eq_ignore_ascii_case(media) {
            return Some(2);
        }
        let (kind, rest) = self.media.split_once('/')?;
        if rest != "*" {
            return None;
        }
        let same = media.split('/').next()?.eq_ignore_ascii_case(kind);
        match (kind, same) {
            ("*", _) => Some(0),
            (_, true) => Some(1),
            (_, false) => None,
        }
    }
}

/// The parts of a header between separators that stand in no quotes.
fn unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |letter| {
        if letter == '"' {
            quoted = !quoted;
        }
        letter == separator && !quoted
    })
}

fn range(text: &str) -> Option<Range<'_>> {
    let mut parts = unquoted(text, ';');
    let mut range = Range {
        media: parts.next()?.trim(),
        quality: 1.0,
        integers: None,
        codec: IpcCodec::None,
    };
    for part in parts {
        let (name, value) = part.split_once('=')?;
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => range.quality = value.parse::<f32>().ok()?.clamp(0.0, 1.0),
            "integers" => range.integers = integers_named(value),
            "codecs" => range.codec = first_codec(value),
            _ => {}
        }
    }
    Some(range)
}

/// The first codec of a list that is known here; whoever names none of them reads plain buffers.
fn first_codec(list: &str) -> IpcCodec {
    let mut known = list.split(',').filter_map(|name| match name.trim() {
        "zstd" => Some(IpcCodec::Zstd),
        "lz4" => Some(IpcCodec::Lz4),
        _ => None,
    });
    known.next().unwrap_or(IpcCodec::None)
}

/// `text` or `number`.
pub(super) fn integers_named(name: &str) -> Option<Integers> {
    match name {
        "text" => Some(Integers::Text),
        "number" => Some(Integers::Number),
        _ => None,
    }
}

/// Chooses the output.
///
/// # Errors
/// `SG4004 not-acceptable`.
pub(super) fn choose(
    format: Option<&str>,
    integers: Option<&str>,
    accept: Option<&str>,
) -> Result<Output> {
    let asked = match integers {
        None => None,
        Some(name) => Some(integers_named(name).ok_or_else(|| {
            Error::new(
                Code::BadRequest,
                format!("integers \"{name}\" is neither text nor number"),
            )
            .with_hint("Use ?integers=number for JSON numbers; text is the default.")
        })?),
    };
    let (format, named, codec) = match (format, accept) {
        (Some(name), _) => {
            let format = name.parse::<Format>().map_err(|error: Error| {
                Error::new(Code::NotAcceptable, error.message().to_owned())
                    .with_hint(error.hint().unwrap_or_default().to_owned())
            })?;
            (format, None, IpcCodec::None)
        }
        (None, None) => (Format::Json, None, IpcCodec::None),
        (None, Some(accept)) => accepted(accept)?,
    };
    Ok(Output {
        format,
        integers: asked.or(named).unwrap_or(Integers::Text),
        codec,
    })
}

fn accepted(accept: &str) -> Result<(Format, Option<Integers>, IpcCodec)> {
    let ranges: Vec<Range<'_>> = unquoted(accept, ',').filter_map(range).collect();
    let mut best: Option<(usize, Format, &Range<'_>)> = None;
    for (media, format) in MEDIA {
        let named = ranges
            .iter()
            .enumerate()
            .filter_map(|(place, range)| range.names(media).map(|exactly| (exactly, place, range)));
        // The most exact range that names a type says how much it is wanted.
        let Some((_, place, range)) = named.max_by_key(|(exactly, ..)| *exactly) else {
            continue;
        };
        let better = best.is_none_or(|(before, _, other)| {
            range.quality > other.quality || (range.quality == other.quality && place < before)
        });
        if range.quality > 0.0 && better {
            best = Some((place, *format, range));
        }
    }
    match best {
        Some((_, format, range)) => {
            let arrow = matches!(format, Format::Arrow | Format::ArrowFile);
            let codec = if arrow { range.codec } else { IpcCodec::None };
            Ok((format, range.integers, codec))
        }
        None => {
            let known: Vec<&str> = MEDIA.iter().map(|(media, _)| *media).collect();
            Err(Error::new(
                Code::NotAcceptable,
                format!("no format is in Accept \"{accept}\""),
            )
            .with_hint(format!("There are: {}.", known.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expected: Option<Format>) {
        let chosen = choose(None, None, Some(accept)).ok();
        assert_eq!(chosen.map(|output| output.format), expected, "{accept}");
    }

    #[test]
    fn accept_is_weighed() {
        check("*/*", Some(Format::Json));
        check("text/csv", Some(Format::Csv));
        check("TEXT/CSV; charset=utf-8", Some(Format::Csv));
        check("text/html, */*;q=0.8", Some(Format::Json));
        check(
            "text/csv;q=0.5, application/x-ndjson;q=0.9",
            Some(Format::Ndjson),
        );
        check("application/x-ndjson, text/csv", Some(Format::Ndjson));
        check("text/csv, application/x-ndjson", Some(Format::Csv));
        check("application/json;q=0, */*;q=0.1", Some(Format::Ndjson));
        check("text/*", Some(Format::Csv));
        check(
            "application/vnd.apache.arrow.stream; codecs=\"zstd, lz4\"",
            Some(Format::Arrow),
        );
        check("text/html", None);
        check("application/json;q=0", None);
        check("", None);
    }

    #[test]
    fn codecs_are_those_that_the_client_names_first() {
        for (accept, codec) in [
            ("application/vnd.apache.arrow.stream", IpcCodec::None),
            (
                "application/vnd.apache.arrow.stream; codecs=\"zstd, lz4\"",
                IpcCodec::Zstd,
            ),
            (
                "application/vnd.apache.arrow.stream;codecs=\"lz4,zstd\";q=0.9",
                IpcCodec::Lz4,
            ),
            (
                "application/vnd.apache.arrow.file; codecs=zstd",
                IpcCodec::Zstd,
            ),
            (
                "application/vnd.apache.arrow.stream; codecs=\"br\"",
                IpcCodec::None,
            ),
            ("application/json; codecs=zstd", IpcCodec::None),
        ] {
            let output = choose(None, None, Some(accept)).unwrap();
            assert_eq!(output.codec, codec, "{accept}");
        }
    }

    #[test]
    fn the_address_overrides_the_header() {
        let output = choose(Some("csv"), None, Some("text/html")).unwrap();
        assert_eq!(output.format, Format::Csv);
        assert!(choose(Some("xlsx"), None, None).is_err());
        let output = choose(None, None, Some("application/json;integers=number")).unwrap();
        assert_eq!(output.integers, Integers::Number);
        assert!(choose(None, Some("both"), None).is_err());
    }
}
