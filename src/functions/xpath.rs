//! The SQL functions that read XML: `xpath_text`, `xpath_list`, `xpath_exists` and `xml_error`.
//!
//! They are pure and immutable, and NULL where an argument is NULL. A path that stands in the
//! statement is compiled while the statement is planned, so `CREATE TRANSFORM` refuses a wrong
//! one. A document is parsed once however many paths of a batch read it: see `functions::xml`.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, ListBuilder, StringArray, StringBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, DocSection, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::error::{Code, Error, Result};
use crate::functions::constant::{answer, constant};
use crate::functions::xml;

/// The section of the generated reference.
pub(super) const SECTION: DocSection = DocSection {
    include: true,
    label: "XML Functions",
    description: Some("Read XML documents with XPath 3.1."),
};

/// The functions of this module.
pub(super) fn functions() -> Vec<ScalarUDF> {
    [Reading::Text, Reading::List, Reading::Exists, Reading::Flaw]
        .map(|reading| ScalarUDF::from(XmlFunction::new(reading)))
        .into()
}

/// What a function gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reading {
    Text,
    List,
    Exists,
    Flaw,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct XmlFunction {
    reading: Reading,
    signature: Signature,
    documentation: Documentation,
}

impl XmlFunction {
    fn new(reading: Reading) -> Self {
        let texts = |count| TypeSignature::Exact(vec![DataType::Utf8; count]);
        let signature = match reading {
            Reading::Flaw => Signature::new(texts(1), Volatility::Immutable),
            Reading::Text | Reading::List | Reading::Exists => {
                Signature::one_of(vec![texts(2), texts(3)], Volatility::Immutable)
            }
        };
        Self {
            reading,
            signature,
            documentation: documentation(reading),
        }
    }
}

impl ScalarUDFImpl for XmlFunction {
    fn name(&self) -> &str {
        match self.reading {
            Reading::Text => "xpath_text",
            Reading::List => "xpath_list",
            Reading::Exists => "xpath_exists",
            Reading::Flaw => "xml_error",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(match self.reading {
            Reading::Text | Reading::Flaw => DataType::Utf8,
            Reading::List => DataType::new_list(DataType::Utf8, true),
            Reading::Exists => DataType::Boolean,
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let text = |at: usize| args.scalar_arguments.get(at).copied().flatten();
        let text = |at| text(at).and_then(|value| value.try_as_str().flatten());
        if let Some(path) = text(1) {
            xml::check(path, text(2).unwrap_or_default())?;
        }
        let data_type = self.return_type(&[])?;
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let constants = constant(&args.args);
        let rows = if constants { 1 } else { args.number_rows };
        let columns = args
            .args
            .into_iter()
            .map(Column::try_new)
            .collect::<Result<Vec<_>>>()?;
        let found = self.read(&columns, rows)?;
        answer(constants, found)
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

impl XmlFunction {
    fn read(&self, columns: &[Column], rows: usize) -> Result<ArrayRef> {
        let row = |row: usize| -> Option<[&str; 3]> {
            let mut values = ["", "", ""];
            for (value, column) in values.iter_mut().zip(columns) {
                *value = column.value(row)?;
            }
            Some(values)
        };
        let rows = (0..rows).map(row);
        Ok(match self.reading {
            Reading::Text => {
                let mut found = Texts::default();
                for row in rows {
                    match row {
                        Some([document, path, prefixes]) => {
                            found.append(xml::first(document, path, prefixes)?.as_deref())?;
                        }
                        None => found.append(None)?,
                    }
                }
                found.finish()
            }
            Reading::List => {
                let mut found = ListBuilder::new(StringBuilder::new());
                let mut bytes = 0;
                for row in rows {
                    let Some([document, path, prefixes]) = row else {
                        found.append_null();
                        continue;
                    };
                    for text in xml::all(document, path, prefixes)? {
                        bytes = room(bytes, text.len())?;
                        found.values().append_value(text);
                    }
                    found.append(true);
                }
                Arc::new(found.finish())
            }
            Reading::Exists => {
                let mut found = BooleanBuilder::new();
                for row in rows {
                    found.append_option(match row {
                        Some([document, path, prefixes]) => {
                            Some(xml::exists(document, path, prefixes)?)
                        }
                        None => None,
                    });
                }
                Arc::new(found.finish())
            }
            Reading::Flaw => {
                let mut found = Texts::default();
                for row in rows {
                    let flaw = row.and_then(|[document, ..]| xml::flaw(document));
                    let reason = flaw
                        .as_ref()
                        .map(|flaw| flaw.detail().unwrap_or(flaw.message()));
                    found.append(reason)?;
                }
                found.finish()
            }
        })
    }
}

/// An argument: a text per row, or one for all rows.
enum Column {
    One(Option<String>),
    Each(StringArray),
}

impl Column {
    fn try_new(value: ColumnarValue) -> Result<Self> {
        match value {
            ColumnarValue::Array(array) => array
                .as_string_opt::<i32>()
                .map(|array| Self::Each(array.clone()))
                .ok_or_else(|| Error::bug(format!("a text came as {}", array.data_type()))),
            ColumnarValue::Scalar(value) => match value {
                ScalarValue::Utf8(text) => Ok(Self::One(text)),
                other => Err(Error::bug(format!("a text came as {}", other.data_type()))),
            },
        }
    }

    fn value(&self, row: usize) -> Option<&str> {
        match self {
            Self::One(text) => text.as_deref(),
            Self::Each(texts) => texts.is_valid(row).then(|| texts.value(row)),
        }
    }
}

/// Texts that together stay below what an Arrow array can hold.
#[derive(Default)]
pub(super) struct Texts {
    builder: StringBuilder,
    bytes: usize,
}

impl Texts {
    /// Appends a text or NULL.
    ///
    /// # Errors
    /// `SG5004 too-large`.
    pub(super) fn append(&mut self, text: Option<&str>) -> Result<()> {
        self.bytes = room(self.bytes, text.map_or(0, str::len))?;
        self.builder.append_option(text);
        Ok(())
    }

    /// The array of all texts.
    pub(super) fn finish(mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}

/// The sum, where an array with 32-bit offsets can hold so many bytes.
fn room(bytes: usize, more: usize) -> Result<usize> {
    let sum = bytes + more;
    if i32::try_from(sum).is_err() {
        return Err(Error::new(
            Code::TooLarge,
            "the texts of one batch are larger than 2 GiB",
        )
        .with_hint("Use smaller batches: SET datafusion.execution.batch_size = 100."));
    }
    Ok(sum)
}

fn documentation(reading: Reading) -> Documentation {
    let (description, syntax, example) = match reading {
        Reading::Text => (
            "The text of the first item that the path selects, exactly as it stands in the \
             document: for an element all text in it, for an attribute its value, for a number \
             or a date its usual form. NULL where the path selects nothing, '' where it selects \
             an empty element. Add /text() for the text of an element before its first child, \
             and trim() for the text without spaces around it.",
            "xpath_text(document, path [, prefixes])",
            "SELECT xpath_text('<a><b>1</b><b>2</b></a>', '/a/b');  -- 1",
        ),
        Reading::List => (
            "The texts of all items that the path selects, in their order. An empty list where \
             it selects nothing. array_distinct() leaves out what comes again, and keeps the \
             order.",
            "xpath_list(document, path [, prefixes])",
            "SELECT xpath_list('<a><b>1</b><b>2</b></a>', '/a/b');  -- [1, 2]",
        ),
        Reading::Exists => (
            "Whether the path selects anything. Where the expression gives one boolean, as a \
             comparison does, that boolean.",
            "xpath_exists(document, path [, prefixes])",
            "SELECT xpath_exists('<a><b>1</b></a>', '/a/b[. > 1]');  -- false",
        ),
        Reading::Flaw => (
            "Why a text is no well-formed XML document, with the line and column; NULL where it \
             is one. Documents with a document type declaration are refused.",
            "xml_error(document)",
            "SELECT xml_error('<a>');  -- Line 1, column 4: ...",
        ),
    };
    let mut documentation = Documentation::builder(SECTION, description, syntax)
        .with_sql_example(format!("```sql\n{example}\n```"))
        .with_argument("document", "The text of an XML document.");
    if reading != Reading::Flaw {
        documentation = documentation
            .with_argument(
                "path",
                "An XPath 3.1 expression. *:Name matches a name in any namespace; the prefixes \
                 cac, cbc, ext, efac, efbc and efext of UBL and eForms are known.",
            )
            .with_argument(
                "prefixes",
                "Further prefixes: 'a=urn:one b=urn:two'. An empty prefix stands for element \
                 names without one.",
            );
    }
    documentation.build()
}
