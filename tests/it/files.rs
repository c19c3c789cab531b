//! `list_files`, `read_text`, `content_hash` and the XML functions, as statements use them.

use std::fs;

use datafusion::arrow::util::display::array_value_to_string;
use sluicegate::config::Limits;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::error::{Code, Error};
use sluicegate::ledger::store::{Store, StoreOptions};
use sluicegate::session::Session;
use sluicegate::time::Clock;
use tempfile::TempDir;

/// A folder with files, and a session that may read it.
struct Place {
    folder: TempDir,
    session: Session,
}

impl Place {
    async fn open(store: &str) -> Self {
        let folder = TempDir::new().unwrap();
        for (file, bytes) in [
            ("in/a.xml", b"<a><b>1</b><b>2</b></a>".as_slice()),
            ("in/b-c/d.xml", b"\xef\xbb\xbf<a>bom</a>"),
            (
                "in/b/d.xml",
                b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xe9</a>",
            ),
            ("in/b.json", b"{}"),
            ("in/.hidden.xml", b"<a/>"),
            ("in/bad.xml", b"\xff\x00\xd8"),
            ("in/utf16.xml", b"\xff\xfe<\0a\0/\0>\0"),
            ("in/large.txt", &[b'x'; 2000]),
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let options = EngineOptions {
            roots: vec![folder.path().join("in")],
            ..EngineOptions::new(store)
        };
        let limits = Limits {
            file_bytes_max: 1000,
            list_files_max: 7,
            ..Limits::default()
        };
        let engine = Engine::open_with(options, Clock::System, limits);
        let session = engine.await.unwrap().session("test");
        Self { folder, session }
    }

    /// The first column of the result; `@` stands for the folder.
    async fn run(&self, sql: &str) -> Result<Vec<String>, Error> {
        let top = self.folder.path().canonicalize().unwrap();
        let top = top.to_str().unwrap();
        let reply = self.session.execute(&sql.replace('@', top)).await?;
        let mut rows = Vec::new();
        for batch in reply.collect().await? {
            for row in 0..batch.num_rows() {
                let value = array_value_to_string(batch.column(0), row).unwrap();
                rows.push(value.replace(top, "@"));
            }
        }
        Ok(rows)
    }

    async fn check(&self, sql: &str, expected: Result<&[&str], Code>) {
        let found = self.run(sql).await;
        let expected = expected.map(|rows| rows.iter().map(|row| (*row).to_owned()).collect());
        assert_eq!(found.map_err(|error| error.code()), expected, "{sql}");
    }
}

#[tokio::test]
async fn files_are_listed_by_pattern_and_sorted() {
    let place = Place::open("memory://").await;
    let cases: [(&str, Result<&[&str], Code>); 11] = [
        (
            "@/in/*.xml",
            Ok(&["@/in/a.xml", "@/in/bad.xml", "@/in/utf16.xml"]),
        ),
        ("@/in/**/d.xml", Ok(&["@/in/b-c/d.xml", "@/in/b/d.xml"])),
        ("@/in/{a,b/*}.xml", Ok(&["@/in/a.xml", "@/in/b/d.xml"])),
        ("@/in/b", Ok(&["@/in/b/d.xml"])),
        ("@/in/a.xml", Ok(&["@/in/a.xml"])),
        ("file://@/in/b.*", Ok(&["@/in/b.json"])),
        ("@/in/none*", Ok(&[])),
        ("@/in/none/*", Err(Code::FileUnreadable)),
        ("@/*", Err(Code::OutsideRoots)),
        ("@/in/[", Err(Code::PlanError)),
        (
            "@/in/**/*",
            Ok(&[
                "@/in/a.xml",
                "@/in/b-c/d.xml",
                "@/in/b.json",
                "@/in/b/d.xml",
                "@/in/bad.xml",
                "@/in/large.txt",
                "@/in/utf16.xml",
            ]),
        ),
    ];
    for (pattern, expected) in cases {
        place
            .check(
                &format!("SELECT uri FROM list_files('{pattern}')"),
                expected,
            )
            .await;
    }
    fs::write(place.folder.path().join("in/one-more"), "").unwrap();
    place
        .check(
            "SELECT uri FROM list_files('@/in/**')",
            Err(Code::TooManyRows),
        )
        .await;
    let sql = "SELECT concat_ws(' ', name, bytes, modified_at > '2020-01-01')
                 FROM list_files('@/in/a.xml')";
    place.check(sql, Ok(&["a.xml 23 true"])).await;
    place
        .check("SELECT * FROM list_files(1)", Err(Code::PlanError))
        .await;
}

#[tokio::test]
async fn files_are_read_when_a_row_needs_them() {
    let place = Place::open("memory://").await;
    let hash = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let cases: [(&str, Result<&[&str], Code>); 13] = [
        ("SELECT read_text('@/in/b.json')", Ok(&["{}"])),
        ("SELECT read_text('@/in/b-c/d.xml')", Ok(&["<a>bom</a>"])),
        (
            "SELECT xpath_text(read_text('@/in/b/d.xml'), '/a')",
            Ok(&["\u{e9}"]),
        ),
        ("SELECT read_text('@/in/utf16.xml')", Ok(&["<a/>"])),
        ("SELECT read_text(NULL)", Ok(&[""])),
        ("SELECT content_hash('@/in/b.json')", Ok(&[hash])),
        (
            "SELECT content_hash(uri) FROM list_files('@/in/b.json')",
            Ok(&[hash]),
        ),
        (
            "SELECT read_text('@/in/bad.xml')",
            Err(Code::FileUnreadable),
        ),
        ("SELECT read_text('@/in/none')", Err(Code::FileUnreadable)),
        ("SELECT read_text('@/in')", Err(Code::FileUnreadable)),
        ("SELECT read_text('@/in/large.txt')", Err(Code::TooLarge)),
        ("SELECT read_text('@/in/../../x')", Err(Code::OutsideRoots)),
        (
            "SELECT CASE WHEN uri LIKE '%json' THEN read_text(uri) END
            FROM (VALUES ('@/in/b.json'), ('@/in/none')) AS t(uri)",
            Ok(&["{}", ""]),
        ),
    ];
    for (sql, expected) in cases {
        place.check(sql, expected).await;
    }
    // Planning reads nothing.
    place
        .run("EXPLAIN SELECT read_text('/etc/none')")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_remote_store_are_listed_and_read() {
    let url = "memory://files-test/store";
    let store = Store::open(url, &StoreOptions::default()).await.unwrap();
    for (path, text) in [
        ("in/a.xml", "<a/>"),
        ("in/b/c.xml", "<c/>"),
        ("in/empty.xml", ""),
    ] {
        store.put_new(path, text.into()).await.unwrap();
    }
    let place = Place::open(url).await;
    let listed = |pattern: &str| format!("SELECT uri FROM list_files('{url}/{pattern}')");
    let a = format!("{url}/in/a.xml");
    let c = format!("{url}/in/b/c.xml");
    let empty = format!("{url}/in/empty.xml");
    place
        .check(&listed("in/**/*.xml"), Ok(&[&a, &c, &empty]))
        .await;
    place.check(&listed("in"), Ok(&[&a, &empty])).await;
    place.check(&listed("in/"), Ok(&[&a, &empty])).await;
    place.check(&listed("../*"), Err(Code::OutsideRoots)).await;
    let read = format!("SELECT read_text(uri) FROM list_files('{url}/in/**/*.xml')");
    place.check(&read, Ok(&["<a/>", "<c/>", ""])).await;
    let none = format!("SELECT read_text('{url}/in/none')");
    place.check(&none, Err(Code::FileUnreadable)).await;
}

#[tokio::test]
async fn xml_is_read_with_xpath() {
    let place = Place::open("memory://").await;
    let cases: [(&str, Result<&[&str], Code>); 10] = [
        ("SELECT xpath_text('<a><b>1</b></a>', '/a/b')", Ok(&["1"])),
        ("SELECT xpath_text('<a/>', '/a/b') IS NULL", Ok(&["true"])),
        (
            "SELECT xpath_list('<a><b>1</b><b>2</b></a>', '/a/b')",
            Ok(&["[1, 2]"]),
        ),
        ("SELECT xpath_exists('<a/>', '/a')", Ok(&["true"])),
        (
            "SELECT xpath_text('<x:a xmlns:x=\"urn:a\">1</x:a>', '/p:a', 'p=urn:a')",
            Ok(&["1"]),
        ),
        ("SELECT xpath_text(NULL, '/a')", Ok(&[""])),
        ("SELECT xml_error('<a/>') IS NULL", Ok(&["true"])),
        (
            "SELECT xpath_text(d, p) FROM (VALUES ('<a>1</a>', '/a'), ('<b>2</b>', '/b'),
            (NULL, '/a')) AS t(d, p)",
            Ok(&["1", "2", ""]),
        ),
        ("SELECT xpath_text('<a>', '/a')", Err(Code::NotXml)),
        ("SELECT xpath_text('<a/>', '/a[')", Err(Code::InvalidXPath)),
    ];
    for (sql, expected) in cases {
        place.check(sql, expected).await;
    }
    // A wrong path is found before there is a document.
    place
        .check(
            "EXPLAIN SELECT xpath_text(uri, '/a[') FROM list_files('none')",
            Err(Code::InvalidXPath),
        )
        .await;
}
