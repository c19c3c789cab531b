//! `date_part('epoch', x)` of spans and moments with their fractions, as in PostgreSQL.
//! DataFusion's counts whole units of an interval, and rounds those of a moment twice.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::Result;
use crate::functions::constant::{answer, constant};

/// Seconds of a year of 365.25 days, of a month of 30 days and of a day, as PostgreSQL counts them.
const YEAR: f64 = 31_557_600.0;
const MONTH: f64 = 2_592_000.0;
const DAY: f64 = 86_400.0;

/// Seconds of spans of time, and of moments since 1970.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    signature: Signature,
}

impl Epoch {
    /// The function; its argument is an interval, a duration or a timestamp.
    pub fn udf() -> ScalarUDF {
        ScalarUDF::from(Self {
            signature: Signature::any(1, Volatility::Immutable),
        })
    }
}

/// Whole seconds and the rest apart, so that the sum is the nearest number.
fn of_units(units: i64, each_second: i64) -> f64 {
    let (whole, rest) = (units / each_second, units % each_second);
    whole as f64 + rest as f64 / each_second as f64
}

fn seconds(spans: &ArrayRef) -> Result<ArrayRef> {
    if let DataType::Timestamp(unit, _) = spans.data_type() {
        let each_second = match unit {
            TimeUnit::Second => 1,
            TimeUnit::Millisecond => 1_000,
            TimeUnit::Microsecond => 1_000_000,
            TimeUnit::Nanosecond => 1_000_000_000,
        };
        let units = cast(spans, &DataType::Int64)?;
        let units = units.as_primitive::<Int64Type>();
        let seconds: Float64Array = units.unary(|units| of_units(units, each_second));
        return Ok(Arc::new(seconds));
    }
    let exact = DataType::Interval(IntervalUnit::MonthDayNano);
    let spans = cast(spans, &exact)?;
    let spans = spans.as_primitive::<IntervalMonthDayNanoType>();
    let seconds: Float64Array = spans.unary(|span| {
        let (years, months) = (span.months / 12, span.months % 12);
        // In this order a span without a fraction stays without one.
        f64::from(years) * YEAR
            + f64::from(months) * MONTH
            + f64::from(span.days) * DAY
            + of_units(span.nanoseconds, 1_000_000_000)
    });
    Ok(Arc::new(seconds))
}

impl ScalarUDFImpl for Epoch {
    fn name(&self) -> &str {
        "epoch_seconds"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(spans) = arrays.first() else {
            return Ok(ColumnarValue::Scalar(ScalarValue::Float64(None)));
        };
        let seconds = seconds(spans)?;
        answer(constant(&args.args), seconds)
    }
}
