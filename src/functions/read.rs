//! The SQL functions that read files: `read_text` and `content_hash`.
//!
//! They are volatile. DataFusion evaluates other functions of constants while it plans, so that
//! EXPLAIN or CREATE TRANSFORM would read files; and a file may change between two statements.
//! The price is that two equal calls in one statement read twice; the second finds the file in
//! the system's cache.
//!
//! They block the thread that evaluates them and are no async functions of DataFusion, which
//! lose CASE, so that every file would be read, and the alias and type of the call. Files of a
//! remote store are fetched several at once, on a runtime of their own.

use std::fmt::Write;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, DocSection, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use encoding_rs::{Encoding, UTF_8};
use futures::executor::block_on;
use futures::future::join_all;
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

use crate::error::{Code, Error, Result};
use crate::functions::files::{Place, Roots};
use crate::functions::xpath::Texts;
use crate::ledger::store::Store;

/// Files of a remote store that are fetched at once. Chosen: hides the latency of a bucket.
const FETCHES: usize = 16;

/// Bytes in which an XML declaration ends.
const DECLARATION_BYTES: usize = 200;

/// The section of the generated reference.
const SECTION: DocSection = DocSection {
    include: true,
    label: "File Functions",
    description: Some("Read files of the store and of the allowed folders."),
};

/// Where fetches run, whatever runtime the caller has.
static FETCHER: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("file-fetches")
        .enable_all()
        .build()
});

/// The functions of this module.
pub(super) fn functions(reader: &Arc<Reader>) -> Vec<ScalarUDF> {
    [Reading::Text, Reading::Hash]
        .map(|reading| ScalarUDF::from(FileFunction::new(reading, Arc::clone(reader))))
        .into()
}

/// Reads permitted files.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) roots: Arc<Roots>,
    pub(super) store: Store,
    pub(super) file_bytes_max: u64,
}

impl Reader {
    /// Reads some files, those of a remote store at once, and gives them in their order.
    fn read(&self, uris: &[Option<&str>]) -> Result<Vec<Option<Bytes>>> {
        let places = uris
            .iter()
            .map(|uri| uri.map(|uri| self.roots.resolve(uri)).transpose());
        let places = places.collect::<Result<Vec<_>>>()?;
        let mut fetched = self.fetch(places.iter().flatten())?.into_iter();
        let files = uris.iter().zip(&places).map(|(uri, place)| {
            let (Some(uri), Some(place)) = (uri, place) else {
                return Ok(None);
            };
            match place {
                Place::Local(path) => self.local(uri, path).map(Some),
                Place::Store(_) => match fetched.next() {
                    Some(Ok(Some(bytes))) => {
                        self.bounded(uri, bytes.len() as u64).map(|()| Some(bytes))
                    }
                    Some(Ok(None)) => Err(no_file(uri)),
                    Some(Err(error)) => Err(error),
                    None => Err(Error::bug("a file of the store was not fetched")),
                },
            }
        });
        files.collect()
    }

    /// Fetches those files that are in a remote store.
    fn fetch<'a>(
        &self,
        places: impl Iterator<Item = &'a Place>,
    ) -> Result<Vec<Result<Option<Bytes>>>> {
        let paths = places.filter_map(|place| match place {
            Place::Store(path) => Some(path.clone()),
            Place::Local(_) => None,
        });
        let paths: Vec<String> = paths.collect();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let runtime = FETCHER.as_ref().map_err(|error| {
            Error::bug("threads that fetch files cannot be started").with_detail(error.to_string())
        })?;
        let (store, max) = (self.store.clone(), self.file_bytes_max);
        let fetches = runtime.spawn(async move {
            let fetches = paths.into_iter().map(|path| {
                let store = store.clone();
                async move {
                    // One byte more than is allowed tells that the file is too large.
                    match store.size(&path).await? {
                        Some(0) => Ok(Some(Bytes::new())),
                        Some(size) => {
                            store
                                .get_range(&path, 0..size.min(max.saturating_add(1)))
                                .await
                        }
                        None => Ok(None),
                    }
                }
            });
            join_all(fetches).await
        });
        block_on(fetches).map_err(|error| Error::bug("a fetch broke").with_source(error))
    }

    fn local(&self, uri: &str, path: &Path) -> Result<Bytes> {
        let unreadable = |error: io::Error| {
            unreadable(uri)
                .with_detail(format!("{error}."))
                .with_source(error)
        };
        let meta = path.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(no_file(uri));
        }
        let mut bytes = Vec::new();
        // One byte more than is allowed tells that the file is too large.
        let limit = self.file_bytes_max.saturating_add(1);
        let file = File::open(path).map_err(unreadable)?;
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        self.bounded(uri, bytes.len() as u64)?;
        Ok(bytes.into())
    }

    fn bounded(&self, uri: &str, bytes: u64) -> Result<()> {
        if bytes <= self.file_bytes_max {
            return Ok(());
        }
        let max = self.file_bytes_max;
        Err(
            Error::new(Code::TooLarge, format!("file \"{uri}\" is too large"))
                .with_detail(format!(
                    "It may have {max} bytes: the setting file_bytes_max."
                ))
                .with_hint("Split the file, or read it in a command."),
        )
    }
}

/// What a function gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reading {
    Text,
    Hash,
}

#[derive(Debug)]
struct FileFunction {
    reading: Reading,
    reader: Arc<Reader>,
    signature: Signature,
    documentation: Documentation,
}

impl PartialEq for FileFunction {
    fn eq(&self, other: &Self) -> bool {
        self.reading == other.reading && Arc::ptr_eq(&self.reader, &other.reader)
    }
}

impl Eq for FileFunction {}

impl Hash for FileFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.reading.hash(state);
        Arc::as_ptr(&self.reader).hash(state);
    }
}

impl FileFunction {
    fn new(reading: Reading, reader: Arc<Reader>) -> Self {
        Self {
            reading,
            reader,
            signature: Signature::exact(vec![DataType::Utf8], Volatility::Volatile),
            documentation: documentation(reading),
        }
    }

    fn answer(&self, uri: &str, bytes: &[u8]) -> Result<String> {
        match self.reading {
            Reading::Text => decode(bytes).ok_or_else(|| {
                unreadable(uri)
                    .with_detail("It is no text in UTF-8, nor in the encoding that it declares.")
            }),
            Reading::Hash => Ok(hexadecimal(&Sha256::digest(bytes))),
        }
    }
}

impl ScalarUDFImpl for FileFunction {
    fn name(&self) -> &str {
        match self.reading {
            Reading::Text => "read_text",
            Reading::Hash => "content_hash",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let uris = arrays
            .first()
            .and_then(|array| array.as_string_opt::<i32>());
        let uris = uris.ok_or_else(|| Error::bug("a function of files has no text argument"))?;
        let uris: Vec<Option<&str>> = uris.iter().collect();
        let mut answers = Texts::default();
        for uris in uris.chunks(FETCHES) {
            for (uri, bytes) in uris.iter().zip(self.reader.read(uris)?) {
                match (uri, bytes) {
                    (Some(uri), Some(bytes)) => answers.append(Some(&self.answer(uri, &bytes)?))?,
                    _ => answers.append(None)?,
                }
            }
        }
        let answers = answers.finish();
        if args
            .args
            .iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)))
        {
            return Ok(ScalarValue::try_from_array(&answers, 0)?.into());
        }
        Ok(ColumnarValue::Array(answers))
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

/// The text of a file: by its byte order mark, else in the encoding that its XML declaration
/// names, else UTF-8. `None` where it is none.
fn decode(bytes: &[u8]) -> Option<String> {
    let (encoding, mark) = Encoding::for_bom(bytes).unwrap_or((declared(bytes), 0));
    let text = bytes.get(mark..)?;
    let text = encoding.decode_without_bom_handling_and_without_replacement(text)?;
    Some(text.into_owned())
}

/// The encoding that an XML declaration names, where it is one that has ASCII in it.
fn declared(bytes: &[u8]) -> &'static Encoding {
    let begin = bytes
        .get(..bytes.len().min(DECLARATION_BYTES))
        .unwrap_or_default();
    let begin = String::from_utf8_lossy(begin);
    let encoding = begin.strip_prefix("<?xml").and_then(|rest| {
        let (declaration, _) = rest.split_once("?>")?;
        let (_, value) = declaration.split_once("encoding")?;
        let value = value.trim_start().strip_prefix('=')?.trim_start();
        let quote = value
            .chars()
            .next()
            .filter(|quote| matches!(quote, '"' | '\''))?;
        Encoding::for_label(value.split(quote).nth(1)?.as_bytes())
    });
    encoding
        .filter(|one| one.is_ascii_compatible())
        .unwrap_or(UTF_8)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn unreadable(uri: &str) -> Error {
    Error::new(
        Code::FileUnreadable,
        format!("file \"{uri}\" cannot be read"),
    )
    .with_hint("Check the path and its permissions on the machine that runs the statement.")
}

fn no_file(uri: &str) -> Error {
    unreadable(uri).with_detail("It does not exist, or is no plain file.")
}

fn documentation(reading: Reading) -> Documentation {
    let (description, syntax, example) = match reading {
        Reading::Text => (
            "The text of a file. A byte order mark is honoured and left out; without one, the \
             encoding that an XML declaration names; else the file must be UTF-8. A file that \
             cannot be read, or is larger than file_bytes_max, is an error.",
            "read_text(uri)",
            "SELECT xpath_text(read_text(uri), '/*/@id') FROM list_files('in/*.xml');",
        ),
        Reading::Hash => (
            "The SHA-256 of the bytes of a file, in 64 hexadecimal digits.",
            "content_hash(uri)",
            "SELECT uri, content_hash(uri) FROM list_files('in/*.xml');",
        ),
    };
    Documentation::builder(SECTION, description, syntax)
        .with_sql_example(format!("```sql\n{example}\n```"))
        .with_argument(
            "uri",
            "A path, absolute or from the working folder; file:///path; or a URL below that of a \
             remote store. It must be in the store, in a folder that was allowed with \
             --allow-root, or, except at a server, in the working folder.",
        )
        .build()
}
