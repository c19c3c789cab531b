//! A text as a date: the day that is written, whatever clock time and offset follow it.
//!
//! Arrow reads a text of more than ten characters as a moment and takes its day in UTC, which is
//! the day before or after for many offsets. Every door through which a text becomes a date goes
//! through here: casts and comparisons of SQL (`session/as_written`), columns that workers give
//! back, and columns of files.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Date32Array, StringArray};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Date32Type};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{Code, Error, Result};
use crate::functions::constant::{answer, constant};

/// What becomes of a text that is no date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Misfit {
    /// The statement ends with an error.
    Error,
    /// It is NULL.
    Null,
}

/// The day that a text says, in days since 1970; none where it is no date.
///
/// A date may be followed by an offset (`2024-01-01+05:00`, an XML Schema date), or by a clock
/// time with or without one. Blanks and line ends around it do not count.
pub fn written_day(text: &str) -> Option<i32> {
    let text = text.trim_ascii();
    let after = after_date(text)?;
    let (date, rest) = text.split_at_checked(after)?;
    let day = Date32Type::parse(date)?;
    let rest = rest.trim_ascii_start();
    let whole = rest.is_empty() || offset(rest) || clock_time(rest);
    whole.then_some(day)
}

/// Whether a type holds dates.
pub fn is_date(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64)
}

/// Whether a type holds texts.
pub fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        // The enum is open; nothing else is text.
        _ => false,
    }
}

/// [`cast`], but texts become the dates that they say.
///
/// # Returns
/// What does not fit is NULL.
///
/// # Errors
/// Types that cannot be cast.
pub fn cast_as_written(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if is_text(column.data_type()) && is_date(to) {
        return text_dates(column, to, Misfit::Null);
    }
    Ok(cast(column, to)?)
}

/// Texts as dates.
///
/// # Errors
/// `SG1008 query-failed` for the first text that is no date, with [`Misfit::Error`].
pub fn text_dates(column: &ArrayRef, to: &DataType, misfit: Misfit) -> Result<ArrayRef> {
    let texts = cast(column, &DataType::Utf8)?;
    let texts: &StringArray = texts.as_string();
    let mut days = Vec::with_capacity(texts.len());
    for text in texts {
        let day = match text {
            None => None,
            Some(text) => match (written_day(text), misfit) {
                (Some(day), _) => Some(day),
                (None, Misfit::Null) => None,
                (None, Misfit::Error) => return Err(no_date(text)),
            },
        };
        days.push(day);
    }
    let days: ArrayRef = Arc::new(Date32Array::from(days));
    match to {
        DataType::Date32 => Ok(days),
        to => Ok(cast(&days, to)?),
    }
}

fn no_date(text: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::new(Code::QueryFailed, format!("text \"{shown}\" is no date")).with_hint(
        "Write it as 2024-01-31; a clock time and an offset may follow and do not count. \
         TRY_CAST(... AS DATE) gives NULL instead; the day in UTC is CAST(CAST(... AS TIMESTAMP) \
         AS DATE).",
    )
}

/// Where the date ends: after `2024-01-31`, `2024-1-5`, `20240131` or a signed longer year.
fn after_date(text: &str) -> Option<usize> {
    let digits = |from: usize| {
        let bytes = text.bytes().skip(from);
        bytes.take_while(u8::is_ascii_digit).count()
    };
    let sign = usize::from(text.starts_with(['+', '-']));
    let year = sign + digits(sign);
    if sign == 0 && year == 8 {
        return Some(year);
    }
    let hyphen = |at: usize| text.as_bytes().get(at) == Some(&b'-');
    let month = year + 1 + digits(year + 1);
    let day = month + 1 + digits(month + 1);
    let shaped = year >= 4 && hyphen(year) && hyphen(month);
    let sized = (1..=2).contains(&(month - year - 1)) && (1..=2).contains(&(day - month - 1));
    (shaped && sized).then_some(day)
}

/// `Z`, `+05`, `+05:30` or `+0530`
fn offset(text: &str) -> bool {
    if matches!(text, "Z" | "z" | "UTC") {
        return true;
    }
    let Some(rest) = text.strip_prefix(['+', '-']) else {
        return false;
    };
    let number = |part: &str, most: u32| {
        part.len() == 2
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse::<u32>().is_ok_and(|number| number <= most)
    };
    let (hours, minutes) = match rest.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if rest.len() == 4 => rest.split_at_checked(2).unwrap_or((rest, "")),
        None => (rest, "00"),
    };
    number(hours, 14) && number(minutes, 59)
}

/// Whether the rest is a clock time, after `T` or a blank: `02:00`, `02:00:00.5`, with an offset or
/// without.
fn clock_time(text: &str) -> bool {
    let text = text.strip_prefix(['T', 't']).unwrap_or(text);
    let clock = |c: char| c.is_ascii_digit() || matches!(c, ':' | '.' | ',');
    let end = text.find(|c: char| !clock(c)).unwrap_or(text.len());
    let (time, zone) = text.split_at_checked(end).unwrap_or((text, ""));
    let zone = zone.trim_ascii_start();
    let mut parts = time.splitn(3, ':');
    let number = |part: Option<&str>, most: u32| {
        part.is_some_and(|part| {
            (1..=2).contains(&part.len()) && part.parse::<u32>().is_ok_and(|n| n <= most)
        })
    };
    let (hour, minute) = (parts.next(), parts.next());
    let second = parts.next().is_none_or(|part| {
        let (whole, fraction) = part.split_once(['.', ',']).unwrap_or((part, "0"));
        let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
        // A leap second is the sixty-first.
        number(Some(whole), 60) && digits
    });
    let time = number(hour, 24) && number(minute, 59) && second;
    time && (zone.is_empty() || offset(zone))
}

/// Replaces a cast of texts to dates.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WrittenDate {
    to: DataType,
    misfit: Misfit,
    signature: Signature,
}

impl WrittenDate {
    /// The function for one type of dates.
    pub fn udf(to: DataType, misfit: Misfit) -> ScalarUDF {
        ScalarUDF::from(Self {
            to,
            misfit,
            signature: Signature::any(1, Volatility::Immutable),
        })
    }
}

impl ScalarUDFImpl for WrittenDate {
    fn name(&self) -> &str {
        match self.misfit {
            Misfit::Error => "written_date",
            Misfit::Null => "try_written_date",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.to.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let texts = arrays
            .first()
            .ok_or_else(|| Error::bug("a date of no text"))?;
        let dates = text_dates(texts, &self.to, self.misfit)?;
        answer(constant(&args.args), dates)
    }
}

#[cfg(test)]
mod tests {
    use arrow::temporal_conversions::date32_to_datetime;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let day = written_day(text).and_then(date32_to_datetime);
        let day = day.map(|day| day.date().to_string());
        assert_eq!(day.as_deref(), expected, "{text:?}");
    }

    #[test]
    fn the_day_is_the_one_that_is_written() {
        for text in [
            "2024-01-01",
            "2024-1-1",
            "20240101",
            "2024-01-01T02:00:00+05:00",
            "2024-01-01 23:59:59.5-11:00",
            "2024-01-01T02:00:00Z",
            "2024-01-01T02:00:00",
            "2024-01-01 02:00",
            "2024-01-01+05:00",
            "2024-01-01-11:00",
            "2024-01-01 +0530",
            "2024-01-01Z",
            "\n 2024-01-01+05:00\r\n",
        ] {
            check(text, Some("2024-01-01"));
        }
        check("-0044-03-15", Some("-0044-03-15"));
        check("+10999-12-31", Some("+10999-12-31"));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "2024",
            "2024-01",
            "2024-13-01",
            "2023-02-29",
            "01/02/2024",
            "tomorrow",
            "2024-01-01x",
            "2024-01-01T25:00:00Z",
            "2024-01-01T",
            "2024-01-01+99:00",
            "2024-01-01+5",
            "2024-01-011",
            "\u{e9}\u{e9}\u{e9}\u{e9}-\u{e9}",
            "2024-01-01\u{e9}",
        ] {
            check(text, None);
        }
    }
}
