//! The SQL function `translate_list(list, from, to)`: a look-up for each element of a list.
//!
//! A join can look up one value of a row, but not the values of a list without taking the list
//! apart and putting it together again. This function takes the table as two lists, which a
//! subquery makes of it.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, ListBuilder, StringBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, DocSection, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use crate::error::{Error, Result};

/// The section of the generated reference.
const SECTION: DocSection = DocSection {
    include: true,
    label: "List Functions",
    description: None,
};

/// The function.
pub(super) fn function() -> ScalarUDF {
    ScalarUDF::from(TranslateList {
        signature: Signature::exact(
            vec![DataType::new_list(DataType::Utf8, true); 3],
            Volatility::Immutable,
        ),
        documentation: Documentation::builder(
            SECTION,
            "Replaces each element of a list that is in the second list by the element at the \
             same place of the third. Elements that are not in the second list are left out. \
             NULL where an argument is NULL.",
            "translate_list(list, from, to)",
        )
        .with_sql_example(
            "```sql\nSELECT translate_list(['b', 'x'], ['a', 'b'], ['1', '2']);  -- [2]\n```",
        )
        .with_argument("list", "A list of texts.")
        .with_argument("from", "A list of texts; of equal ones the first counts.")
        .with_argument("to", "A list of texts, as long as the second.")
        .build(),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TranslateList {
    signature: Signature,
    documentation: Documentation,
}

impl ScalarUDFImpl for TranslateList {
    fn name(&self) -> &str {
        "translate_list"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::new_list(DataType::Utf8, true))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array(translate(&arrays)?))
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

fn translate(arrays: &[ArrayRef]) -> Result<ArrayRef> {
    let lists: Vec<&ListArray> = arrays.iter().filter_map(|a| a.as_list_opt()).collect();
    let [list, from, to] = lists.as_slice() else {
        return Err(Error::bug("translate_list has not three lists"));
    };
    let mut translated = ListBuilder::new(StringBuilder::new());
    let mut known: Option<(ArrayRef, ArrayRef)> = None;
    let mut table: HashMap<String, Option<String>> = HashMap::new();
    for row in 0..list.len() {
        if list.is_null(row) || from.is_null(row) || to.is_null(row) {
            translated.append_null();
            continue;
        }
        let pair = (from.value(row), to.value(row));
        // The same lists come again in each row where they are made of a table.
        if known.as_ref() != Some(&pair) {
            table.clear();
            let froms = pair.0.as_string::<i32>().iter();
            for (from, to) in froms.zip(pair.1.as_string::<i32>()) {
                if let Some(from) = from {
                    let to = to.map(str::to_owned);
                    table.entry(from.to_owned()).or_insert(to);
                }
            }
            known = Some(pair);
        }
        for element in list.value(row).as_string::<i32>().iter().flatten() {
            if let Some(to) = table.get(element) {
                translated.values().append_option(to.as_deref());
            }
        }
        translated.append(true);
    }
    Ok(Arc::new(translated.finish()))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::display::array_value_to_string;

    use super::*;

    #[test]
    fn elements_are_translated_in_their_order_and_unknown_ones_left_out() {
        let lists = |rows: &[Option<&[&str]>]| -> ArrayRef {
            let mut builder = ListBuilder::new(StringBuilder::new());
            for row in rows {
                for text in row.unwrap_or_default() {
                    builder.values().append_value(text);
                }
                builder.append(row.is_some());
            }
            Arc::new(builder.finish())
        };
        let from: &[&str] = &["a", "b", "a"];
        let to: &[&str] = &["1", "2", "3"];
        let translated = translate(&[
            lists(&[Some(&["b", "x", "a", "b"]), None, Some(&[]), Some(&["a"])]),
            lists(&[Some(from), Some(from), Some(from), Some(&["a"])]),
            lists(&[Some(to), Some(to), Some(to), Some(&["9"])]),
        ])
        .unwrap();
        let shown: Vec<String> = (0..4)
            .map(|row| array_value_to_string(&translated, row).unwrap())
            .collect();
        assert_eq!(shown, ["[2, 1, 2]", "", "[]", "[9]"]);
    }
}
