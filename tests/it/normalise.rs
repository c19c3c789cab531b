//! The transform `normalise`, run by a worker over real notices, column by column.
//!
//! The notices are not part of the project; without them the test says so and ends.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use datafusion::arrow::json::LineDelimitedWriter;
use serde_json::{Map, Value};
use sluicegate::config::Limits;
use sluicegate::demo::setup::setup_statements;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::time::Clock;

type Row = Map<String, Value>;

/// Facts of the index that are not in a notice, or are the old system's mistakes.
const NO_COLUMNS: [&str; 13] = [
    "file",
    "sha256",
    "bytes",
    "origin",
    "repo",
    "path_in_repo",
    "other_copies",
    "licence",
    "norm_status",
    "pipeline_result",
    "raw_publication_date",
    "raw_issue_date",
    "raw_deadline",
];

fn notices() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/ted/notices");
    if folder.join("expected.jsonl").is_file() {
        return Some(folder);
    }
    eprintln!("skipped: there are no notices in {}", folder.display());
    None
}

async fn engine(roots: Vec<PathBuf>) -> Engine {
    let options = EngineOptions {
        roots,
        ..EngineOptions::new("memory://")
    };
    let engine = Engine::open_with(options, Clock::System, Limits::default());
    let engine = engine.await.unwrap();
    let session = engine.session("test");
    for statement in setup_statements().unwrap() {
        let begin = statement.get(..60).unwrap_or(&statement).to_owned();
        match session.execute(&statement).await {
            // A note would tell of columns that the table does not have.
            Ok(reply) => assert_eq!(reply.notes, Vec::<String>::new(), "{begin}"),
            Err(error) => panic!("{begin}: {error:?}"),
        }
    }
    engine
}

/// Registers the files, normalises them with a worker, and gives by `notice_id` what is known
/// then: the row, and the class of the error where it failed.
async fn normalise(engine: &Engine, files: &[(String, Option<PathBuf>)]) -> HashMap<String, Row> {
    let session = engine.session("test");
    let rows = files.iter().map(|(id, uri)| match uri {
        Some(uri) => format!("('{id}', '{}')", uri.display()),
        None => format!("('{id}', NULL)"),
    });
    let rows = rows.collect::<Vec<_>>().join(", ");
    for sql in [
        &format!("INSERT INTO notices (notice_id, uri) VALUES {rows}"),
        "SELECT schedule_job('normalise', notice_id) FROM notices",
        "CALL run_jobs(wait => '1 minute')",
    ] {
        session.execute(sql).await.unwrap().collect().await.unwrap();
    }
    let sql =
        "SELECT n.*, j.error_code FROM notices AS n JOIN jobs AS j ON j.source_id = n.notice_id";
    let batches = session.execute(sql).await.unwrap().collect().await.unwrap();
    let mut lines = LineDelimitedWriter::new(Vec::new());
    lines
        .write_batches(&batches.iter().collect::<Vec<_>>())
        .unwrap();
    lines.finish().unwrap();
    let rows = String::from_utf8(lines.into_inner()).unwrap();
    rows.lines()
        .map(|line| serde_json::from_str::<Row>(line).unwrap())
        .map(|row| (row["notice_id"].as_str().unwrap().to_owned(), row))
        .collect()
}

/// The index writes no form as '', and countries in another list for each kind of notice.
fn wanted(expected: &Row, column: &str, value: &Value) -> Value {
    match column {
        "form_number" if value == "" => Value::Null,
        "country_of_buyer_code" => {
            let uri = expected["country_of_buyer"].as_str();
            let code = uri.and_then(|uri| uri.rsplit('/').next());
            code.map_or(Value::Null, Value::from)
        }
        _ => value.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_are_normalised_as_expected() {
    let Some(folder) = notices() else { return };
    let engine = engine(vec![folder.clone()]).await;
    let expected = fs::read_to_string(folder.join("expected.jsonl")).unwrap();
    let expected: Vec<Row> = expected
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let file = |row: &Row| row["file"].as_str().unwrap().to_owned();
    let files = expected
        .iter()
        .map(|row| (file(row), Some(folder.join(file(row)))));
    let started = Instant::now();
    let found = normalise(&engine, &files.collect::<Vec<_>>()).await;
    let each = started.elapsed() / u32::try_from(expected.len()).unwrap();
    eprintln!("{} notices, {each:?} each", expected.len());

    let mut differences = Vec::new();
    let (mut good, mut failed) = (0, 0);
    for expected in &expected {
        let file = file(expected);
        let found = &found[&file];
        let status = expected["norm_status"].as_str().unwrap();
        let error = found.get("error_code").and_then(Value::as_str);
        let class = error.unwrap_or("ok");
        if class != status.trim_start_matches("error:") {
            differences.push(format!("{file}: {status}, but {error:?}"));
        }
        if status != "ok" {
            failed += 1;
            continue;
        }
        good += 1;
        for (column, value) in expected {
            if NO_COLUMNS.contains(&column.as_str()) || column.starts_with("reg_") {
                continue;
            }
            let found = found.get(column).unwrap_or(&Value::Null);
            if *found != wanted(expected, column, value) {
                differences.push(format!("{file}: {column} is {found}, not {value}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!((good, failed), (106, 16));
}

/// A pretty printer put line ends around dates and codes, and dates were NULL without a word.
#[tokio::test(flavor = "multi_thread")]
async fn line_ends_around_values_do_not_count() {
    let folder = tempfile::TempDir::new().unwrap();
    let engine = engine(vec![folder.path().to_owned()]).await;
    let loose = |text: &str| format!("\r\n      {text}\n    ");
    let text = format!(
        r#"<ContractNotice xmlns="urn:n"
        xmlns:cbc="urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2"
        xmlns:ext="urn:oasis:names:specification:ubl:schema:xsd:CommonExtensionComponents-2"
        xmlns:efac="http://data.europa.eu/p27/eforms-ubl-extension-aggregate-components/1"
        xmlns:efbc="http://data.europa.eu/p27/eforms-ubl-extension-basic-components/1"
        ><ext:UBLExtensions><efac:NoticeSubType><cbc:SubTypeCode>{}</cbc:SubTypeCode
        ></efac:NoticeSubType><efac:Publication>
        <efbc:NoticePublicationID schemeName="ojs-notice-id">{}</efbc:NoticePublicationID>
        <efbc:PublicationDate>{}</efbc:PublicationDate></efac:Publication></ext:UBLExtensions>
        <cbc:IssueDate>{}</cbc:IssueDate><cbc:VersionID>{}</cbc:VersionID></ContractNotice>"#,
        loose("16"),
        loose("1-2024"),
        loose("2024-01-02+14:00"),
        loose("2024-01-01-11:00"),
        loose("01"),
    );
    let path = folder.path().join("loose.xml");
    fs::write(&path, text).unwrap();
    let found = normalise(&engine, &[("loose".to_owned(), Some(path))]).await;
    let row = &found["loose"];
    for (column, expected) in [
        ("status", "NORMALISED_METADATA"),
        ("notice_publication_number", "1-2024"),
        ("eforms_subtype", "16"),
        ("publication_date", "2024-01-02"),
        ("document_sent_date", "2024-01-01"),
        ("x_notice_version", "01"),
    ] {
        assert_eq!(row[column], expected, "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_notice_fails_with_its_class() {
    let folder = tempfile::TempDir::new().unwrap();
    let engine = engine(vec![folder.path().to_owned()]).await;
    let eforms = |subtype: &str, published: &str| {
        format!(
            r#"<ContractNotice xmlns="urn:n"
            xmlns:cbc="urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2"
            xmlns:ext="urn:oasis:names:specification:ubl:schema:xsd:CommonExtensionComponents-2"
            xmlns:efac="http://data.europa.eu/p27/eforms-ubl-extension-aggregate-components/1"
            ><ext:UBLExtensions><efac:NoticeSubType><cbc:SubTypeCode>{subtype}</cbc:SubTypeCode
            ></efac:NoticeSubType>{published}</ext:UBLExtensions></ContractNotice>"#
        )
    };
    let standard = |form: &str| {
        format!(r#"<TED_EXPORT><FORM_SECTION><F {form}/></FORM_SECTION></TED_EXPORT>"#)
    };
    let cases = [
        (None, "no_content"),
        (Some("<html><p>Not found".to_owned()), "not_xml"),
        (Some("<html/>".to_owned()), "no_eforms_mapping"),
        (Some(eforms("E9", "")), "no_eforms_mapping"),
        (Some(eforms("16", "")), "no_publication_section"),
        (
            Some(eforms("16", "<efac:Publication/>")),
            "no_publication_number",
        ),
        (Some(standard("")), "no_standard_form_mapping"),
        (Some(standard(r#"FORM="F14""#)), "no_standard_form_mapping"),
        (Some(standard(r#"FORM="21""#)), "no_standard_form_mapping"),
        (Some(standard(r#"FORM="2""#)), "no_publication_number"),
    ];
    let file = |(n, (text, _)): (usize, &(Option<String>, &str))| {
        let path = text.as_ref().map(|text| {
            let path = folder.path().join(format!("{n}.xml"));
            fs::write(&path, text).unwrap();
            path
        });
        (n.to_string(), path)
    };
    let files: Vec<_> = cases.iter().enumerate().map(file).collect();
    let found = normalise(&engine, &files).await;
    for (n, (text, class)) in cases.iter().enumerate() {
        let row = &found[&n.to_string()];
        assert_eq!(row["error_code"], *class, "{text:?}");
        // It is kept as it was, to be selected by its class.
        assert_eq!(row["status"], "RAW", "{text:?}");
    }
}
