//! Functions of constants: DataFusion wants a constant back, not a column of one row.

use datafusion::arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

/// Whether all arguments of a call are constants.
pub(super) fn constant(args: &[ColumnarValue]) -> bool {
    args.iter()
        .all(|arg| matches!(arg, ColumnarValue::Scalar(_)))
}

/// The values of a call, of constants or of columns.
pub(super) fn answer(constant: bool, values: ArrayRef) -> Result<ColumnarValue> {
    Ok(match constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?),
        false => ColumnarValue::Array(values),
    })
}
