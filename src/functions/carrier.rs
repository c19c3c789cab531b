//! Carriers: the pure twins of the effect functions.
//!
//! A carrier takes the arguments of an effect call, turns them into the declared types, and
//! returns them as a struct. It does nothing else, so the planner may fold, move, duplicate or
//! drop it without harm. The root of the plan reads the structs and acts. Procedures that are
//! only called have carriers as well, to evaluate arguments that are not constants.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, DurationMicrosecondArray, GenericListArray, StructArray,
    new_null_array,
};
use datafusion::arrow::array::{ListBuilder, StringBuilder};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    DataType, DurationMicrosecondType, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature as UdfSignature,
    Volatility,
};
use datafusion::scalar::ScalarValue;

use crate::error::{Error, Result};
use crate::functions::effect::{Parameter, ParameterKind, Signature};

const MICROS_PER_DAY: i64 = 86_400_000_000;
const NANOS_PER_MICRO: i64 = 1000;

/// The name under which the carrier of a function is registered.
pub fn carrier_name(function: &str) -> String {
    format!("__arguments_of_{function}")
}

/// A pure function from the arguments of a call to a struct of them.
#[derive(Debug)]
pub struct Carrier {
    of: &'static Signature,
    name: String,
    signature: UdfSignature,
}

impl Carrier {
    /// The carrier of `of`, ready to be registered.
    pub fn udf(of: &'static Signature) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Self {
            of,
            name: carrier_name(of.name),
            signature: UdfSignature::user_defined(Volatility::Immutable),
        }))
    }
}

// Two carriers of one name are the same function: names are unique in the tables.
impl PartialEq for Carrier {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Carrier {}

impl Hash for Carrier {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Carrier {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &UdfSignature {
        &self.signature
    }

    // Types are judged in `return_type`: DataFusion turns errors of coercion into text.
    fn coerce_types(&self, arg_types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> DataFusionResult<DataType> {
        if arg_types.len() != self.of.parameters.len() {
            return Err(external(Error::bug(format!(
                "carrier \"{}\" has {} arguments",
                self.name,
                arg_types.len()
            ))));
        }
        for (parameter, given) in self.of.parameters.iter().zip(arg_types) {
            check_type(self.of, parameter, given).map_err(external)?;
        }
        Ok(DataType::Struct(self.of.fields()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let constant = args
            .args
            .iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let mut columns = Vec::with_capacity(args.args.len());
        for (parameter, arg) in self.of.parameters.iter().zip(args.args) {
            columns.push(match arg {
                ColumnarValue::Array(array) => {
                    convert(self.of, parameter, &array).map_err(external)?
                }
                ColumnarValue::Scalar(scalar) => {
                    let one = convert(self.of, parameter, &scalar.to_array()?).map_err(external)?;
                    ScalarValue::try_from_array(&one, 0)?.to_array_of_size(rows)?
                }
            });
        }
        let array = StructArray::try_new(self.of.fields(), columns, None)?;
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::Struct(Arc::new(array)))
        } else {
            ColumnarValue::Array(Arc::new(array))
        })
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Refuses a type that no value of which can become the parameter's.
///
/// # Errors
/// `SG1004 effect-argument`.
pub fn check_type(of: &Signature, parameter: &Parameter, given: &DataType) -> Result<()> {
    if accepts(parameter.kind, given) {
        return Ok(());
    }
    Err(of.argument_error(format!(
        "argument \"{}\" of {} is {given}, but must be {}",
        parameter.name,
        of.name,
        parameter.kind.sql_name()
    )))
}

fn accepts(kind: ParameterKind, given: &DataType) -> bool {
    let given = match given {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let text = matches!(
        given,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null
    );
    text || match kind {
        ParameterKind::Text
        | ParameterKind::Json
        | ParameterKind::JsonObject
        | ParameterKind::Choice(_) => false,
        ParameterKind::Key | ParameterKind::Integer => given.is_integer(),
        ParameterKind::Boolean => matches!(given, DataType::Boolean),
        ParameterKind::Timestamp => {
            matches!(
                given,
                DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
            )
        }
        ParameterKind::Interval => matches!(given, DataType::Interval(_) | DataType::Duration(_)),
        ParameterKind::TextList => match given {
            DataType::List(item) | DataType::LargeList(item) => {
                accepts(ParameterKind::Text, item.data_type())
            }
            _ => false,
        },
    }
}

/// Turns an array of any accepted type into the parameter's declared type.
///
/// # Errors
/// `SG1004 effect-argument`: a type or a value that cannot become it; the value is named.
pub fn convert(of: &Signature, parameter: &Parameter, array: &ArrayRef) -> Result<ArrayRef> {
    check_type(of, parameter, array.data_type())?;
    let target = parameter.kind.data_type();
    if matches!(array.data_type(), DataType::Null) {
        return Ok(new_null_array(&target, array.len()));
    }
    match parameter.kind {
        ParameterKind::Text | ParameterKind::Key => cast(of, parameter, array, &target),
        ParameterKind::Integer | ParameterKind::Boolean | ParameterKind::Timestamp => {
            cast(of, parameter, array, &target)
        }
        ParameterKind::Json | ParameterKind::JsonObject => {
            let texts = cast(of, parameter, array, &target)?;
            check_texts(of, parameter, &texts, |text| is_json(parameter.kind, text))?;
            Ok(texts)
        }
        ParameterKind::Choice(choices) => {
            let texts = cast(of, parameter, array, &target)?;
            check_texts(of, parameter, &texts, |text| choices.contains(&text))?;
            Ok(texts)
        }
        ParameterKind::Interval => convert_interval(of, parameter, array),
        ParameterKind::TextList => match array.data_type() {
            DataType::List(_) | DataType::LargeList(_) => cast(of, parameter, array, &target),
            _ => split_texts(of, parameter, array),
        },
    }
}

fn value_error(of: &Signature, parameter: &Parameter, value: &str) -> Error {
    let must = match parameter.kind {
        ParameterKind::Choice(choices) => format!("one of '{}'", choices.join("', '")),
        ParameterKind::Integer => "a whole number".to_owned(),
        ParameterKind::Boolean => "true or false".to_owned(),
        ParameterKind::Timestamp => "a moment such as '2026-01-31T08:00:00Z'".to_owned(),
        ParameterKind::Interval => {
            "a length of time such as '30 seconds', without months or years".to_owned()
        }
        ParameterKind::Json => "JSON".to_owned(),
        ParameterKind::JsonObject => "a JSON object".to_owned(),
        ParameterKind::Text | ParameterKind::Key | ParameterKind::TextList => "text".to_owned(),
    };
    of.argument_error(format!(
        "argument \"{}\" of {} is '{value}', but must be {must}",
        parameter.name, of.name
    ))
}

fn cast(
    of: &Signature,
    parameter: &Parameter,
    array: &ArrayRef,
    target: &DataType,
) -> Result<ArrayRef> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    // Safe mode gives NULL for a value that does not fit; the comparison of NULLs finds it.
    let options = CastOptions {
        safe: true,
        format_options: FormatOptions::default(),
    };
    let done = cast_with_options(array, target, &options).map_err(|error| {
        of.argument_error(format!(
            "argument \"{}\" of {} cannot be read as {}",
            parameter.name,
            of.name,
            parameter.kind.sql_name()
        ))
        .with_source(error)
    })?;
    let source_nulls = array.logical_null_count();
    if done.logical_null_count() != source_nulls {
        let nulls = array.logical_nulls();
        let row = (0..array.len())
            .find(|row| done.is_null(*row) && nulls.as_ref().is_none_or(|n| n.is_valid(*row)));
        let value = row.and_then(|row| display(array, row)).unwrap_or_default();
        return Err(value_error(of, parameter, &value));
    }
    Ok(done)
}

fn display(array: &ArrayRef, row: usize) -> Option<String> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options).ok()?;
    Some(formatter.value(row).to_string())
}

fn check_texts(
    of: &Signature,
    parameter: &Parameter,
    texts: &ArrayRef,
    fits: impl Fn(&str) -> bool,
) -> Result<()> {
    match texts
        .as_string::<i32>()
        .iter()
        .flatten()
        .find(|text| !fits(text))
    {
        Some(text) => Err(value_error(of, parameter, text)),
        None => Ok(()),
    }
}

fn is_json(kind: ParameterKind, text: &str) -> bool {
    let object = text.trim_start().starts_with('{');
    (object || kind != ParameterKind::JsonObject)
        && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn convert_interval(of: &Signature, parameter: &Parameter, array: &ArrayRef) -> Result<ArrayRef> {
    let micros = if matches!(array.data_type(), DataType::Duration(_)) {
        cast(
            of,
            parameter,
            array,
            &DataType::Duration(TimeUnit::Microsecond),
        )?
    } else {
        let unit = DataType::Interval(IntervalUnit::MonthDayNano);
        let intervals = cast(of, parameter, array, &unit)?;
        let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
        let mut micros = Vec::with_capacity(intervals.len());
        for (row, interval) in intervals.iter().enumerate() {
            let length = interval.map(|interval| {
                let days = i64::from(interval.days).checked_mul(MICROS_PER_DAY)?;
                let length = days.checked_add(interval.nanoseconds / NANOS_PER_MICRO)?;
                (interval.months == 0).then_some(length)
            });
            if length == Some(None) {
                let value = display(array, row).unwrap_or_default();
                return Err(value_error(of, parameter, &value));
            }
            micros.push(length.flatten());
        }
        Arc::new(DurationMicrosecondArray::from(micros)) as ArrayRef
    };
    let durations = micros.as_primitive::<DurationMicrosecondType>();
    match durations
        .iter()
        .position(|value| value.is_some_and(|micros| micros <= 0))
    {
        None => Ok(micros),
        Some(row) => {
            let value = display(array, row).unwrap_or_default();
            Err(of.argument_error(format!(
                "argument \"{}\" of {} is '{value}', but must be longer than zero",
                parameter.name, of.name
            )))
        }
    }
}

fn split_texts(of: &Signature, parameter: &Parameter, array: &ArrayRef) -> Result<ArrayRef> {
    let texts = cast(of, parameter, array, &DataType::Utf8)?;
    let mut lists = ListBuilder::new(StringBuilder::new());
    for text in texts.as_string::<i32>() {
        if let Some(text) = text {
            for part in text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
            {
                lists.values().append_value(part);
            }
        }
        lists.append(text.is_some());
    }
    let lists: GenericListArray<i32> = lists.finish();
    Ok(Arc::new(lists))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::functions::effect::{CLAIM_JOBS, EffectFunction};
    use datafusion::arrow::array::{
        Date32Array, Float64Array, Int32Array, IntervalMonthDayNanoArray, NullArray, StringArray,
        UInt64Array,
    };
    use datafusion::arrow::datatypes::IntervalMonthDayNano;

    /// Converts one value for a parameter and shows the result, or the error's message.
    fn check(of: &'static Signature, parameter: &str, value: ArrayRef, expected: &str) {
        let found = of
            .parameters
            .iter()
            .find(|known| known.name == parameter)
            .unwrap();
        let shown = match convert(of, found, &value) {
            Ok(array) => {
                assert_eq!(array.data_type(), &found.kind.data_type());
                if array.is_null(0) {
                    "NULL".to_owned()
                } else {
                    display(&array, 0).unwrap()
                }
            }
            Err(error) => {
                assert_eq!(error.code(), Code::EffectArgument);
                assert!(error.hint().unwrap().contains(&of.usage()));
                error.message().to_owned()
            }
        };
        assert_eq!(shown, expected, "{parameter} from {}", value.data_type());
    }

    fn text(value: &str) -> ArrayRef {
        Arc::new(StringArray::from(vec![value]))
    }

    #[test]
    fn values_become_the_declared_type_or_are_named() {
        let schedule = EffectFunction::ScheduleJob.signature();
        let lock = EffectFunction::AcquireLock.signature();
        let complete = EffectFunction::CompleteJob.signature();
        let int = |value| Arc::new(Int32Array::from(vec![value])) as ArrayRef;
        check(schedule, "source_id", int(7), "7");
        check(schedule, "source_id", Arc::new(NullArray::new(1)), "NULL");
        check(
            schedule,
            "transform",
            int(7),
            "argument \"transform\" of schedule_job is Int32, but must be TEXT",
        );
        check(schedule, "priority", int(7), "7");
        check(schedule, "priority", text("7"), "7");
        check(
            schedule,
            "priority",
            text("high"),
            "argument \"priority\" of schedule_job is 'high', but must be a whole number",
        );
        check(
            schedule,
            "priority",
            Arc::new(UInt64Array::from(vec![u64::MAX])),
            "argument \"priority\" of schedule_job is '18446744073709551615', but must be a whole \
             number",
        );
        check(
            schedule,
            "priority",
            Arc::new(Float64Array::from(vec![0.5])),
            "argument \"priority\" of schedule_job is Float64, but must be BIGINT",
        );
        check(
            schedule,
            "run_at",
            text("2026-01-31T08:00:00+01:00"),
            "2026-01-31T07:00:00Z",
        );
        check(
            schedule,
            "run_at",
            Arc::new(Date32Array::from(vec![1])),
            "1970-01-02T00:00:00Z",
        );
        check(
            schedule,
            "run_at",
            text("soon"),
            "argument \"run_at\" of schedule_job is 'soon', but must be a moment such as \
             '2026-01-31T08:00:00Z'",
        );
        check(schedule, "params", text(r#"{"a": [1]}"#), r#"{"a": [1]}"#);
        check(
            schedule,
            "params",
            text("{a}"),
            "argument \"params\" of schedule_job is '{a}', but must be JSON",
        );
        check(
            complete,
            "columns",
            text("[1]"),
            "argument \"columns\" of complete_job is '[1]', but must be a JSON object",
        );
        check(lock, "ttl", text("1 day 30 seconds"), "PT86430S");
        check(
            lock,
            "ttl",
            text("1 month"),
            "argument \"ttl\" of acquire_lock is '1 month', but must be a length of time such as \
             '30 seconds', without months or years",
        );
        check(
            lock,
            "ttl",
            text("999999999 days"),
            "argument \"ttl\" of acquire_lock is '999999999 days', but must be a length of time \
             such as '30 seconds', without months or years",
        );
        check(
            lock,
            "ttl",
            text("-5 seconds"),
            "argument \"ttl\" of acquire_lock is '-5 seconds', but must be longer than zero",
        );
        let interval = IntervalMonthDayNano::new(0, 0, 1_500_000_000);
        check(
            lock,
            "ttl",
            Arc::new(IntervalMonthDayNanoArray::from(vec![interval])),
            "PT1.5S",
        );
        check(
            lock,
            "ttl",
            int(30),
            "argument \"ttl\" of acquire_lock is Int32, but must be INTERVAL",
        );
        check(lock, "mode", text("shared"), "shared");
        check(
            lock,
            "mode",
            text("greedy"),
            "argument \"mode\" of acquire_lock is 'greedy', but must be one of 'exclusive', \
             'shared'",
        );
        check(&CLAIM_JOBS, "transforms", text("a, b,"), "[a, b]");
    }
}
