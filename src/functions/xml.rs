//! XML documents and the XPath expressions that read them.
//!
//! The library is `xee-xpath`: XPath 3.1, maintained, MIT, in Rust. It refuses every document type
//! declaration, so there are no entities to expand, and it gives an expression no way to read
//! files or the environment. Documents and expressions that it would take too long for, or too
//! deep a stack, are refused before it sees them.
//!
//! A projection evaluates one expression over a whole batch, then the next, so a document meets
//! its paths one after the other. Parsed documents are therefore kept for a while, and so are
//! compiled expressions: per thread, because the library shares by `Rc`.
//!
//! Invariants: `kept bytes <= DOCUMENT_BYTES_KEPT`, or one document alone;
//! `compiled expressions <= EXPRESSIONS_KEPT`. A document is found again by its whole text, never
//! by a hash alone. Only `functions::xpath` calls this.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use foldhash::fast::FixedState;
use xee_xpath::context::StaticContextBuilder;
use xee_xpath::error::{DocumentsError, SourceSpan};
use xee_xpath::query::SequenceQuery;
use xee_xpath::{Atomic, DocumentHandle, Documents, Item, Queries, Query, Sequence};

use crate::error::{Code, Error, Result};

/// Bytes of XML text whose documents a thread keeps. Chosen: a worker's batch of 32 documents of
/// the largest usual size (200 kB) fits; a parsed document takes some ten times its text.
const DOCUMENT_BYTES_KEPT: usize = 8 << 20;

/// Expressions that a thread keeps compiled. Chosen: ten large transforms.
const EXPRESSIONS_KEPT: usize = 1024;

/// The longest expression in bytes. Chosen: several times what a person writes; compiling takes
/// time that grows with the square of the number of steps.
const EXPRESSION_BYTES_MAX: usize = 2 << 10;

/// Brackets inside brackets in an expression. The library's parser takes twice as long for each:
/// measured, ten take 0.4 s in a debug build.
const EXPRESSION_DEPTH_MAX: usize = 10;

/// Elements inside elements in a document. The library takes time that grows with the square of
/// the depth: measured, 4000 take 1 s in a debug build. Chosen: ten times what documents have.
const DOCUMENT_DEPTH_MAX: usize = 500;

/// Bytes of stack to compile an expression on: the library recurses with the length and depth of
/// the expression, more than a thread's 2 MiB hold. Chosen: the largest expressions of the tests
/// pass with a debug build; only what is touched is ever backed by memory.
const COMPILE_STACK_BYTES: usize = 256 << 20;

/// The prefixes of UBL and eForms, which every expression may use.
const PREFIXES: [(&str, &str); 6] = [
    (
        "cac",
        "urn:oasis:names:specification:ubl:schema:xsd:CommonAggregateComponents-2",
    ),
    (
        "cbc",
        "urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2",
    ),
    (
        "ext",
        "urn:oasis:names:specification:ubl:schema:xsd:CommonExtensionComponents-2",
    ),
    (
        "efac",
        "http://data.europa.eu/p27/eforms-ubl-extension-aggregate-components/1",
    ),
    (
        "efbc",
        "http://data.europa.eu/p27/eforms-ubl-extension-basic-components/1",
    ),
    ("efext", "http://data.europa.eu/p27/eforms-ubl-extensions/1"),
];

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// The string value of the first item that the path selects; `None` where it selects nothing.
///
/// # Errors
/// `SG6003 not-xml`; `SG6004 invalid-xpath`: the path cannot be read, or fails on this document.
pub(super) fn first(document: &str, path: &str, prefixes: &str) -> Result<Option<String>> {
    evaluate(document, path, prefixes, |found, documents| {
        found
            .iter()
            .next()
            .map(|item| text_of(&item, documents, path))
            .transpose()
    })
}

/// The string values of all items that the path selects, in their order.
///
/// # Errors
/// Those of [`first`].
pub(super) fn all(document: &str, path: &str, prefixes: &str) -> Result<Vec<String>> {
    evaluate(document, path, prefixes, |found, documents| {
        found
            .iter()
            .map(|item| text_of(&item, documents, path))
            .collect()
    })
}

/// Whether the path selects something; where it gives one boolean, that boolean.
///
/// # Errors
/// Those of [`first`].
pub(super) fn exists(document: &str, path: &str, prefixes: &str) -> Result<bool> {
    evaluate(document, path, prefixes, |found, _| {
        let mut items = found.iter();
        Ok(match (items.next(), items.next()) {
            (None, _) => false,
            (Some(Item::Atomic(Atomic::Boolean(value))), None) => value,
            (Some(_), _) => true,
        })
    })
}

/// Why the text is no XML document; `None` where it is one.
pub(super) fn flaw(document: &str) -> Option<Error> {
    KEPT.with_borrow_mut(|kept| kept.document(document).err())
}

/// Compiles a path, so that a wrong one is found before there is a document.
///
/// # Errors
/// `SG6004 invalid-xpath`.
pub(super) fn check(path: &str, prefixes: &str) -> Result<()> {
    KEPT.with_borrow_mut(|kept| kept.expression(path, prefixes).map(drop))
}

fn evaluate<T>(
    document: &str,
    path: &str,
    prefixes: &str,
    answer: impl FnOnce(&Sequence, &Documents) -> Result<T>,
) -> Result<T> {
    KEPT.with_borrow_mut(|kept| {
        let expression = kept.expression(path, prefixes)?;
        let parsed = kept.document(document)?;
        let (documents, root) = (&mut parsed.documents, parsed.root);
        let found = catch_unwind(AssertUnwindSafe(|| expression.execute(documents, root)));
        match found {
            Ok(Ok(found)) => answer(&found, documents),
            Ok(Err(error)) => Err(invalid_path(path, &error)),
            Err(_) => {
                kept.forget(document);
                Err(broke(path))
            }
        }
    })
}

fn text_of(item: &Item, documents: &Documents, path: &str) -> Result<String> {
    item.string_value(documents.xot()).map_err(|error| {
        unusable(path)
            .with_detail("It gives a function, a map or an array, which have no text.")
            .with_source(error)
    })
}

/// A parsed document with the text that it is known by.
struct Parsed {
    text: Box<str>,
    documents: Documents,
    root: DocumentHandle,
}

/// What one thread keeps.
#[derive(Default)]
struct Kept {
    documents: HashMap<u64, Parsed, FixedState>,
    bytes: usize,
    expressions: HashMap<Box<str>, HashMap<Box<str>, Rc<SequenceQuery>>>,
    compiled: usize,
}

impl Kept {
    fn document(&mut self, text: &str) -> Result<&mut Parsed> {
        let key = FixedState::default().hash_one(text);
        let known = self.documents.get(&key);
        if known.is_none_or(|parsed| *parsed.text != *text) {
            let parsed = parse(text)?;
            self.remove(key);
            self.make_room(text.len());
            self.bytes += text.len();
            self.documents.insert(key, parsed);
        }
        self.documents
            .get_mut(&key)
            .ok_or_else(|| Error::bug("a document is gone that was just parsed"))
    }

    /// Drops documents in the order of their hashes, which is none: in a batch too large to
    /// keep, which is read from its beginning for each path, dropping the oldest would always
    /// drop what is asked for next.
    fn make_room(&mut self, bytes: usize) {
        while self.bytes + bytes > DOCUMENT_BYTES_KEPT {
            let Some(key) = self.documents.keys().next().copied() else {
                return;
            };
            self.remove(key);
        }
    }

    fn remove(&mut self, key: u64) {
        if let Some(parsed) = self.documents.remove(&key) {
            self.bytes -= parsed.text.len();
        }
    }

    fn forget(&mut self, text: &str) {
        self.remove(FixedState::default().hash_one(text));
    }

    fn expression(&mut self, path: &str, prefixes: &str) -> Result<Rc<SequenceQuery>> {
        let known = self.expressions.get(prefixes);
        if let Some(expression) = known.and_then(|known| known.get(path)) {
            return Ok(Rc::clone(expression));
        }
        let expression = Rc::new(compile(path, prefixes)?);
        if self.compiled >= EXPRESSIONS_KEPT {
            self.expressions.clear();
            self.compiled = 0;
        }
        self.compiled += 1;
        self.expressions
            .entry(prefixes.into())
            .or_default()
            .insert(path.into(), Rc::clone(&expression));
        Ok(expression)
    }
}

fn parse(text: &str) -> Result<Parsed> {
    if deeper(text, DOCUMENT_DEPTH_MAX) {
        return Err(Error::new(Code::NotXml, "the document is not usable XML")
            .with_detail(format!(
                "Line 1, column 1: it has more than {DOCUMENT_DEPTH_MAX} elements inside each \
                 other."
            ))
            .with_hint("Read it with a command."));
    }
    let parsed = catch_unwind(|| {
        let mut documents = Documents::new();
        let root = documents.add_string_without_uri(text);
        root.map(|root| (documents, root))
    });
    match parsed {
        Ok(Ok((documents, root))) => Ok(Parsed {
            text: text.into(),
            documents,
            root,
        }),
        Ok(Err(error)) => Err(not_xml(text, &error)),
        Err(_) => Err(Error::new(Code::NotXml, "the document is not XML")
            .with_detail("The XML parser broke on it.")
            .with_hint("Please report the document, if you may share it.")),
    }
}

/// Whether elements stand inside each other more than `max` times. What is not well-formed is
/// left for the parser to find.
fn deeper(text: &str, max: usize) -> bool {
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some((_, tag)) = rest.split_once('<') {
        let after = |end: &str| tag.split_once(end).map_or("", |(_, after)| after);
        rest = if tag.starts_with("!--") {
            after("-->")
        } else if tag.starts_with("![CDATA[") {
            after("]]>")
        } else if tag.starts_with('?') {
            after("?>")
        } else if tag.starts_with('/') {
            depth = depth.saturating_sub(1);
            after(">")
        } else {
            let mut quote = None;
            let end = tag.bytes().position(|byte| match (quote, byte) {
                (None, b'"' | b'\'') => {
                    quote = Some(byte);
                    false
                }
                (Some(open), _) => {
                    quote = quote.filter(|_| byte != open);
                    false
                }
                (None, _) => byte == b'>',
            });
            let Some((inner, after)) = end.and_then(|end| tag.split_at_checked(end)) else {
                return false;
            };
            if !inner.ends_with('/') {
                depth += 1;
            }
            if depth > max {
                return true;
            }
            after
        };
    }
    false
}

fn compile(path: &str, prefixes: &str) -> Result<SequenceQuery> {
    bounded(path)?;
    let mut context = StaticContextBuilder::default();
    context.namespaces(PREFIXES);
    context.namespaces(pairs(prefixes)?);
    let queries = Queries::default();
    let compiled = stacker::grow(COMPILE_STACK_BYTES, || {
        catch_unwind(AssertUnwindSafe(|| {
            queries.sequence_with_context(path, context.build())
        }))
    });
    match compiled {
        Ok(Ok(expression)) => Ok(expression),
        Ok(Err(error)) => Err(invalid_path(path, &error)),
        Err(_) => Err(broke(path)),
    }
}

/// Refuses what would make the library's parser recurse too far.
fn bounded(path: &str) -> Result<()> {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in path.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if path.len() <= EXPRESSION_BYTES_MAX && deepest <= EXPRESSION_DEPTH_MAX {
        return Ok(());
    }
    Err(
        Error::new(Code::InvalidXPath, "an XPath expression is too large").with_detail(format!(
            "It may have {EXPRESSION_BYTES_MAX} bytes and {EXPRESSION_DEPTH_MAX} brackets inside \
             each other."
        )),
    )
}

/// The pairs of a prefix map such as `a=urn:one b=urn:two`.
fn pairs(prefixes: &str) -> Result<Vec<(&str, &str)>> {
    let pairs = prefixes.split_ascii_whitespace().map(|pair| {
        let (prefix, uri) = pair.split_once('=')?;
        (!prefix.contains(':') && !uri.is_empty()).then_some((prefix, uri))
    });
    pairs.collect::<Option<_>>().ok_or_else(|| {
        Error::new(
            Code::InvalidXPath,
            format!("prefix map \"{prefixes}\" cannot be read"),
        )
        .with_hint(
            "Write prefix=namespace, with a space between pairs: 'a=urn:one b=urn:two'. An empty \
             prefix stands for names without one.",
        )
    })
}

fn unusable(path: &str) -> Error {
    Error::new(
        Code::InvalidXPath,
        format!("XPath expression \"{path}\" cannot be used"),
    )
}

fn broke(path: &str) -> Error {
    unusable(path)
        .with_detail("The XPath library broke on it.")
        .with_hint("Write the expression in another way, and please report it.")
}

fn invalid_path(path: &str, error: &xee_xpath::error::Error) -> Error {
    let at = error.span.map(|span| place(path, span));
    let place = at.map_or_else(String::new, |at| format!(" at character {at}"));
    unusable(path)
        .with_detail(format!(
            "{}{place}: {}",
            error.error.code(),
            error.error.message()
        ))
        .with_hint(
            "Shorten it until it works. *:Name matches a name in any namespace; a third argument \
             declares prefixes: 'a=urn:one'.",
        )
}

fn place(path: &str, span: SourceSpan) -> usize {
    path.get(..span.range().start)
        .unwrap_or(path)
        .chars()
        .count()
        + 1
}

fn not_xml(text: &str, error: &DocumentsError) -> Error {
    let (reason, at) = match error {
        DocumentsError::Parse(error) => (error.to_string(), error.span().start),
        DocumentsError::DuplicateUri(_) => (error.to_string(), 0),
    };
    let before = text.get(..at).unwrap_or(text);
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Error::new(Code::NotXml, "the document is not XML")
        .with_detail(format!("Line {line}, column {column}: {reason}."))
        .with_hint("xml_error(document) gives this reason, and NULL where the document is XML.")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const NOTICE: &str = r#"<n:Notice xmlns:n="urn:n" xmlns="urn:d"
        xmlns:cbc="urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2">
        <cbc:ID>1</cbc:ID><Lot id="a">one <b>two</b></Lot><Lot id="b"/></n:Notice>"#;

    fn check_list(path: &str, prefixes: &str, expected: &[&str]) {
        assert_eq!(all(NOTICE, path, prefixes).unwrap(), expected, "{path}");
    }

    #[test]
    fn names_are_matched_with_and_without_their_namespace() {
        check_list("/*/cbc:ID", "", &["1"]);
        check_list("/*:Notice/*:Lot/@id", "", &["a", "b"]);
        check_list("/x:Notice/y:Lot[1]", "x=urn:n y=urn:d", &["one two"]);
        check_list("/x:Notice/Lot[1]/@id", "x=urn:n =urn:d", &["a"]);
        check_list("/*/Lot", "", &[]);
        check_list("/*/*:Lot/text()", "", &["one "]);
        check_list("count(/*/*:Lot), 'x'", "", &["2", "x"]);
        assert_eq!(
            all("<a><b>1</b><b>2</b></a>", "/a/b", "").unwrap(),
            ["1", "2"]
        );
    }

    #[test]
    fn first_and_exists_tell_nothing_from_empty() {
        assert_eq!(
            first(NOTICE, "//*:Lot[@id='b']", "").unwrap(),
            Some(String::new())
        );
        assert_eq!(first(NOTICE, "//*:Part", "").unwrap(), None);
        assert!(exists(NOTICE, "//*:Lot", "").unwrap());
        assert!(!exists(NOTICE, "//*:Part", "").unwrap());
        assert!(!exists(NOTICE, "count(//*:Lot) = 3", "").unwrap());
    }

    #[test]
    fn wrong_paths_are_refused_with_their_place() {
        for (path, prefixes) in [
            ("/a[", ""),
            ("", ""),
            ("/p:a", ""),
            ("/a", "p"),
            ("unknown()", ""),
            ("$x", ""),
            ("1 + 'a'", ""),
        ] {
            let error = first("<a/>", path, prefixes).unwrap_err();
            assert_eq!(error.code(), Code::InvalidXPath, "{path}: {error:?}");
        }
        let error = check("/a/b[", "").unwrap_err();
        assert!(
            error.detail().unwrap().contains("at character"),
            "{error:?}"
        );
    }

    #[test]
    fn texts_that_are_not_xml_say_where() {
        for text in [
            "",
            "text",
            "<a>",
            "<a><b></a>",
            "<a/><b/>",
            "<p:a/>",
            "<a>&x;</a>",
        ] {
            let error = flaw(text).unwrap();
            assert_eq!(error.code(), Code::NotXml, "{text}");
            assert!(error.detail().unwrap().starts_with("Line 1"), "{error:?}");
            assert_eq!(first(text, "/a", "").unwrap_err().code(), Code::NotXml);
        }
        assert!(flaw("<a/>").is_none());
    }

    #[test]
    fn entity_bombs_are_refused_at_once() {
        let mut bomb = String::from("<!DOCTYPE l [<!ENTITY a0 \"ha\">");
        for n in 1..20 {
            let inner = format!("&a{};", n - 1).repeat(10);
            bomb += &format!("<!ENTITY a{n} \"{inner}\">");
        }
        bomb += "]><l>&a19;</l>";
        let started = Instant::now();
        assert_eq!(flaw(&bomb).unwrap().code(), Code::NotXml);
        assert!(started.elapsed().as_secs() < 5);
    }

    #[test]
    fn deep_documents_are_refused_and_others_are_read() {
        let nested = |n: usize| {
            let open = "<a b='>'><!-- <x> --><?p <x> ?><![CDATA[<x>]]><c d=\"'/>\"/>";
            format!("{}x{}", open.repeat(n), "</a>".repeat(n))
        };
        let deepest = nested(DOCUMENT_DEPTH_MAX);
        let count = first(&deepest, "count(/descendant::a)", "").unwrap();
        assert_eq!(count, Some(DOCUMENT_DEPTH_MAX.to_string()));
        assert!(exists(&deepest, "//a/c", "").unwrap());
        for deeper in [
            nested(DOCUMENT_DEPTH_MAX + 1),
            nested(100_000),
            "<a>".repeat(100_000),
        ] {
            assert_eq!(flaw(&deeper).unwrap().code(), Code::NotXml);
        }
        assert!(flaw(&"<a/>".repeat(100_000)).is_some());
        assert!(flaw(&format!("<a>{}</a>", "<a/>".repeat(10_000))).is_none());
    }

    #[test]
    fn deep_expressions_do_not_overflow_the_stack() {
        let nested = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
        let one = Some("1".to_owned());
        assert_eq!(
            first("<a/>", &nested(EXPRESSION_DEPTH_MAX), "").unwrap(),
            one
        );
        assert!(first("<a/>", &nested(EXPRESSION_DEPTH_MAX + 1), "").is_err());
        // Whether these can be used does not matter here, only that they end.
        let fill = |with: &str| with.repeat((EXPRESSION_BYTES_MAX - 100) / with.len());
        for path in [
            format!(
                "/a{}1{}",
                "[a".repeat(EXPRESSION_DEPTH_MAX),
                "]".repeat(EXPRESSION_DEPTH_MAX)
            ),
            fill("/a"),
            fill("//a"),
            format!("1{}", fill("+1")),
            format!("{}1", fill("-")),
            format!("{}1", fill("not ")),
            format!("{}1{}", "if (1) then ".repeat(200), " else 2".repeat(200)),
            format!("{}1", fill("for $x in 1 return ")),
        ] {
            drop(first("<a/>", &path, ""));
        }
    }

    #[test]
    fn what_a_thread_keeps_is_bounded() {
        let mut kept = Kept::default();
        let text = |n: usize| format!("<a>{n}{}</a>", " ".repeat(DOCUMENT_BYTES_KEPT / 10));
        for n in 0..30 {
            kept.document(&text(n)).unwrap();
            assert!(kept.bytes <= DOCUMENT_BYTES_KEPT);
        }
        assert!(kept.documents.len() >= 8);
        kept.document(&format!("<a>{}</a>", " ".repeat(DOCUMENT_BYTES_KEPT)))
            .unwrap();
        assert_eq!(kept.documents.len(), 1);
        for n in 0..EXPRESSIONS_KEPT + 10 {
            kept.expression(&format!("/a[{n}]"), "").unwrap();
        }
        assert!(kept.compiled <= EXPRESSIONS_KEPT);
    }
}
