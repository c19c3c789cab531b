//! Spans of time as people read them: `3.46 s`, `2 h 05 min`. What programs read keeps the ISO
//! form.

use std::fmt::Write;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit,
    IntervalYearMonthType, TimeUnit,
};

/// A span: months and days have no fixed length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    months: i32,
    days: i32,
    nanos: i128,
}

/// The spans of a column; none where its type is another.
pub(super) fn spans(array: &dyn Array) -> Option<Vec<Span>> {
    let rows = 0..array.len();
    let plain = |nanos: i128| Span {
        months: 0,
        days: 0,
        nanos,
    };
    let spans = match array.data_type() {
        DataType::Duration(unit) => {
            let values = cast(array, &DataType::Int64).ok()?;
            let values = values.as_primitive::<Int64Type>();
            let factor = factor(*unit);
            rows.map(|row| plain(i128::from(values.value(row)) * factor))
                .collect()
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let values = array.as_primitive_opt::<IntervalMonthDayNanoType>()?;
            let span = |row| {
                let value = values.value(row);
                Span {
                    months: value.months,
                    days: value.days,
                    nanos: value.nanoseconds.into(),
                }
            };
            rows.map(span).collect()
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let values = array.as_primitive_opt::<IntervalDayTimeType>()?;
            let span = |row| {
                let value = values.value(row);
                Span {
                    months: 0,
                    days: value.days,
                    nanos: i128::from(value.milliseconds) * 1_000_000,
                }
            };
            rows.map(span).collect()
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            let values = array.as_primitive_opt::<IntervalYearMonthType>()?;
            let span = |row| Span {
                months: values.value(row),
                days: 0,
                nanos: 0,
            };
            rows.map(span).collect()
        }
        _ => return None,
    };
    Some(spans)
}

fn factor(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 86_400 * SECOND;

impl Span {
    /// Appends the two or three largest units.
    pub(super) fn write(self, out: &mut String) {
        // What is less than a day may have been written as hours: 49 h are 2 d 01 h.
        let (days, nanos) = match self.months {
            0 => (i128::from(self.days) + self.nanos / DAY, self.nanos % DAY),
            _ => (i128::from(self.days), self.nanos),
        };
        let negative = self.months < 0 || (self.months == 0 && (days < 0 || nanos < 0));
        if negative {
            out.push('-');
        }
        let signs = [i128::from(self.months), days, nanos].map(i128::signum);
        let mixed = signs.contains(&1) && signs.contains(&-1);
        if mixed {
            // No short form says it; all of it, unit by unit.
            out.truncate(out.len() - usize::from(negative));
            let _: std::fmt::Result =
                write!(out, "{} mon {days} d {} s", self.months, seconds(nanos));
            return;
        }
        let (months, days, nanos) = (self.months.unsigned_abs(), days.abs(), nanos.abs());
        let (hours, minutes) = (nanos / (3600 * SECOND), nanos / (60 * SECOND) % 60);
        // Writing to a String cannot fail.
        let _: std::fmt::Result = if months > 0 {
            let (years, months) = (months / 12, months % 12);
            let mut parts = Vec::new();
            for (count, unit) in [(years.into(), "y"), (months.into(), "mon"), (days, "d")] {
                if count > 0 {
                    parts.push(format!("{count} {unit}"));
                }
            }
            if nanos > 0 {
                parts.push(format!("{hours} h {minutes:02} min"));
            }
            write!(out, "{}", parts.join(" "))
        } else if days > 0 {
            write!(out, "{days} d {hours:02} h")
        } else if hours > 0 {
            write!(out, "{hours} h {minutes:02} min")
        } else if minutes > 0 {
            write!(out, "{minutes} min {:02} s", nanos / SECOND % 60)
        } else {
            write!(out, "{} s", seconds(nanos))
        };
    }
}

/// Seconds with two places, or as many as the first two digits need.
fn seconds(nanos: i128) -> String {
    // Fewer digits are shown than a DOUBLE carries.
    let value = nanos as f64 / 1e9;
    let places = match value.abs() {
        0.0 => 0,
        value if value >= 1.0 => 2,
        value if value >= 0.1 => 3,
        value if value >= 0.001 => 5,
        _ => 9,
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        let check = |months, days, nanos: i128, expected: &str| {
            let mut text = String::new();
            Span {
                months,
                days,
                nanos,
            }
            .write(&mut text);
            assert_eq!(text, expected);
        };
        check(0, 0, 0, "0 s");
        check(0, 0, 3_462_393_000, "3.46 s");
        check(0, 0, 60 * SECOND, "1 min 00 s");
        check(0, 0, 250_000_000, "0.25 s");
        check(0, 0, 12_000, "0.000012 s");
        check(0, 0, 125 * 60 * SECOND, "2 h 05 min");
        check(0, 0, 49 * 3600 * SECOND, "2 d 01 h");
        check(0, 3, 4 * 3600 * SECOND, "3 d 04 h");
        check(14, 3, 0, "1 y 2 mon 3 d");
        check(0, 0, -3_462_393_000, "-3.46 s");
        check(1, -1, 0, "1 mon -1 d 0 s");
    }
}
