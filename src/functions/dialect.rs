//! What people of PostgreSQL and DuckDB type: other names of functions that there are, what to
//! write instead of those that there are not, and the patterns of `to_char`. The one table of them.

use std::sync::Arc;

use datafusion::execution::session_state::SessionStateBuilder;

/// Other names of functions with the same arguments in the same order.
const OTHER_NAMES: &[(&str, &[&str])] = &[
    ("arrow_typeof", &["pg_typeof", "typeof"]),
    ("date_bin", &["time_bucket"]),
    ("signum", &["sign"]),
    ("string_to_array", &["string_split", "str_split"]),
    ("to_char", &["strftime"]),
    ("to_timestamp", &["strptime"]),
    ("uuid", &["gen_random_uuid"]),
];

/// The same of aggregates.
const OTHER_AGGREGATES: &[(&str, &[&str])] = &[
    ("first_value", &["first"]),
    ("last_value", &["last"]),
    ("string_agg", &["listagg"]),
];

/// What to write instead of a function that there is not.
const INSTEAD: &[(&str, &str)] = &[
    (
        "age",
        "Write a - b, or date_part('epoch', a - b) for the seconds.",
    ),
    ("arg_max", "Write last_value(x ORDER BY y)."),
    ("arg_min", "Write first_value(x ORDER BY y)."),
    ("count_if", "Write count(*) FILTER (WHERE condition)."),
    ("countif", "Write count(*) FILTER (WHERE condition)."),
    (
        "current_user",
        "The column actor of table statements says who ran what.",
    ),
    ("date_add", "Write date + INTERVAL '1 day'."),
    (
        "date_diff",
        "Write b - a: days of dates, a span of timestamps.",
    ),
    ("date_sub", "Write date - INTERVAL '1 day'."),
    (
        "datediff",
        "Write b - a: days of dates, a span of timestamps.",
    ),
    ("day", "Write date_part('day', x)."),
    ("dayname", "Write to_char(x, '%A')."),
    ("dayofweek", "Write date_part('dow', x), where 0 is Sunday."),
    ("dayofyear", "Write date_part('doy', x)."),
    ("epoch", "Write date_part('epoch', x)."),
    ("epoch_ms", "Write 1000 * date_part('epoch', x)."),
    ("format", "Write a || b, or concat(a, b)."),
    ("group_concat", "Write string_agg(x, ',')."),
    ("hash", "Write md5(x) or sha256(x)."),
    ("hour", "Write date_part('hour', x)."),
    ("if", "Write CASE WHEN condition THEN a ELSE b END."),
    ("iif", "Write CASE WHEN condition THEN a ELSE b END."),
    ("isnull", "Write x IS NULL, or coalesce(x, y)."),
    (
        "json_agg",
        "Write array_agg(x); --format json writes it as JSON.",
    ),
    (
        "json_array_elements",
        "Declare an external table over the JSON, and unnest(list).",
    ),
    (
        "json_build_object",
        "Write named_struct('name', x); --format json writes it as JSON.",
    ),
    (
        "json_extract",
        "Write json_text(json, 'a.b.0'), or json ->> 'a'.",
    ),
    (
        "json_extract_path_text",
        "Write json_text(json, 'a.b.0'), or json ->> 'a'.",
    ),
    (
        "json_extract_string",
        "Write json_text(json, 'a.b.0'), or json ->> 'a'.",
    ),
    (
        "json_get",
        "Write json_text(json, 'a.b.0'), or json ->> 'a'.",
    ),
    (
        "json_value",
        "Write json_text(json, 'a.b.0'), or json ->> 'a'.",
    ),
    (
        "jsonb_build_object",
        "Write named_struct('name', x); --format json writes it as JSON.",
    ),
    (
        "justify_days",
        "Intervals are kept as they are written; date_part('epoch', x) compares them.",
    ),
    (
        "justify_hours",
        "Intervals are kept as they are written; date_part('epoch', x) compares them.",
    ),
    (
        "justify_interval",
        "Intervals are kept as they are written; date_part('epoch', x) compares them.",
    ),
    (
        "last_day",
        "Write date_trunc('month', x) + INTERVAL '1 month' - INTERVAL '1 day'.",
    ),
    ("len", "Write length(text), or array_length(list)."),
    (
        "list_aggregate",
        "Write SELECT sum(x) FROM (SELECT unnest(list) AS x).",
    ),
    (
        "list_filter",
        "Write unnest(list) in a subquery, and WHERE.",
    ),
    (
        "list_transform",
        "Write unnest(list) in a subquery, and array_agg.",
    ),
    ("localtimestamp", "Write now(): all times are UTC."),
    ("max_by", "Write last_value(x ORDER BY y)."),
    ("min_by", "Write first_value(x ORDER BY y)."),
    ("minute", "Write date_part('minute', x)."),
    ("mod", "Write a % b."),
    (
        "mode",
        "Write SELECT x FROM t GROUP BY x ORDER BY count(*) DESC LIMIT 1.",
    ),
    ("month", "Write date_part('month', x)."),
    ("monthname", "Write to_char(x, '%B')."),
    (
        "percentile_disc",
        "Write percentile_cont(0.5) WITHIN GROUP (ORDER BY x), or nth_value.",
    ),
    ("printf", "Write a || b, or concat(a, b)."),
    ("quarter", "Write date_part('quarter', x)."),
    ("regexp_extract", "Write regexp_match(text, pattern)[1]."),
    (
        "regexp_matches",
        "Write regexp_like(text, pattern), or regexp_match for what matches.",
    ),
    ("regexp_split_to_array", "Write string_to_array(text, ',')."),
    (
        "row_to_json",
        "Select the columns; --format json writes rows as JSON.",
    ),
    ("second", "Write date_part('second', x)."),
    (
        "timestampdiff",
        "Write b - a: days of dates, a span of timestamps.",
    ),
    (
        "to_json",
        "Select the value; --format json writes it as JSON.",
    ),
    ("to_number", "Write CAST(text AS DECIMAL(38, 2))."),
    ("unaccent", "Write translate(text, ...) with the letters."),
    ("week", "Write date_part('week', x)."),
    ("width_bucket", "Write floor((x - low) / width)."),
    ("year", "Write date_part('year', x)."),
];

/// What to write instead of a function that there is not.
pub fn instead(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let found = INSTEAD.iter().find(|(known, _)| *known == name);
    found.map(|(_, hint)| *hint)
}

/// Registers the other names. A name that is taken stays what it is.
pub fn install(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    let scalars = builder.scalar_functions().get_or_insert_default();
    let mut renamed = Vec::new();
    for (name, others) in OTHER_NAMES {
        let function = scalars
            .iter()
            .rev()
            .find(|function| function.name() == *name);
        let free = others
            .iter()
            .copied()
            .filter(|other| scalars.iter().all(|function| function.name() != *other));
        if let Some(function) = function {
            renamed.push(Arc::new(function.as_ref().clone().with_aliases(free)));
        }
    }
    scalars.extend(renamed);
    let aggregates = builder.aggregate_functions().get_or_insert_default();
    let mut renamed = Vec::new();
    for (name, others) in OTHER_AGGREGATES {
        let function = aggregates
            .iter()
            .rev()
            .find(|function| function.name() == *name);
        if let Some(function) = function {
            let function = function.as_ref().clone();
            renamed.push(Arc::new(function.with_aliases(others.iter().copied())));
        }
    }
    aggregates.extend(renamed);
    builder
}

/// Patterns of PostgreSQL, longest first, and what they are here.
const PATTERNS: &[(&str, &str)] = &[
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("IYYY", "%G"),
    ("YYYY", "%Y"),
    ("Month", "%B"),
    ("DDD", "%j"),
    ("Day", "%A"),
    ("Mon", "%b"),
    ("AM", "%p"),
    ("DD", "%d"),
    ("Dy", "%a"),
    ("HH", "%I"),
    ("IW", "%V"),
    ("MI", "%M"),
    ("MM", "%m"),
    ("MS", "%3f"),
    ("PM", "%p"),
    ("SS", "%S"),
    ("US", "%6f"),
    ("YY", "%y"),
];

/// A pattern of PostgreSQL in the signs of `to_char` here, which would print its letters; none
/// where
/// it has none of them.
pub fn time_pattern(pattern: &str) -> Option<String> {
    if pattern.contains('%') {
        return None;
    }
    let (mut rest, mut written, mut changed) = (pattern, String::new(), false);
    while let Some(first) = rest.chars().next() {
        if let Some((sign, ours)) = PATTERNS.iter().find(|(sign, _)| rest.starts_with(sign)) {
            written.push_str(ours);
            rest = rest.strip_prefix(sign).unwrap_or_default();
            changed = true;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (text, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            written.push_str(text);
            rest = after;
        } else {
            written.push(first);
            rest = rest.strip_prefix(first).unwrap_or_default();
        }
    }
    changed.then_some(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_postgresql_are_translated() {
        let check = |pattern: &str, expected: Option<&str>| {
            assert_eq!(time_pattern(pattern).as_deref(), expected, "{pattern}");
        };
        check("YYYY-MM-DD", Some("%Y-%m-%d"));
        check(
            "YYYY-MM-DD\"T\"HH24:MI:SS.MS",
            Some("%Y-%m-%dT%H:%M:%S.%3f"),
        );
        check("%Y-%m-%d", None);
        check("", None);
    }

    #[test]
    fn the_table_is_sorted_and_names_each_once() {
        assert!(INSTEAD.is_sorted_by(|(a, _), (b, _)| a < b));
    }
}
