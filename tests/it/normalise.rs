//! The transform `normalise` over real notices, column by column.
//!
//! The notices are not part of the project; without them the test says so and ends.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::collect;
use serde_json::{Map, Value};
use sluicegate::config::Limits;
use sluicegate::demo::setup::{NORMALISE_SQL, setup_statements};
use sluicegate::engine::{Access, Engine, EngineOptions};
use sluicegate::session::catalog::state_over;
use sluicegate::session::parser::parse;
use sluicegate::session::statement::{Statement, TransformBody};
use sluicegate::session::transforms::INPUT;
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
        store: "memory://".to_owned(),
        access: Access::ReadWrite,
        roots,
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

/// Runs the body of the transform as a worker does; the rows by `notice_id`.
async fn run(engine: &Engine, ids: Vec<String>, contents: ArrayRef) -> HashMap<String, Row> {
    let Statement::CreateTransform(create) = parse(NORMALISE_SQL).unwrap().statement else {
        panic!("not a transform");
    };
    let TransformBody::Sql { text, .. } = create.body else {
        panic!("not a query");
    };
    let ids: ArrayRef = Arc::new(StringArray::from(ids));
    let input = RecordBatch::try_from_iter([("notice_id", ids), ("content", contents)]).unwrap();
    let table = MemTable::try_new(input.schema(), vec![vec![input]]).unwrap();
    let session = engine.session("test");
    let core = session.core();
    let mut base = core.base.clone();
    base.config_mut()
        .options_mut()
        .set("datafusion.execution.batch_size", "32")
        .unwrap();
    let sight = core.sight(core.ledger.seen());
    let state = state_over(&base, sight, vec![(INPUT.to_owned(), Arc::new(table))]);
    let plan = state.create_logical_plan(&text).await.unwrap();
    let plan = state.create_physical_plan(&plan).await.unwrap();
    let batches = collect(plan, state.task_ctx()).await.unwrap();
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

async fn contents(engine: &Engine, uris: &[PathBuf]) -> ArrayRef {
    let list = uris.iter().enumerate();
    let list = list.map(|(n, uri)| format!("({n}, '{}')", uri.display()));
    let list = list.collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT n, read_text(uri) AS content FROM (VALUES {list}) AS files(n, uri) ORDER BY n"
    );
    let reply = engine.session("test").execute(&sql).await.unwrap();
    let schema = Arc::clone(&reply.schema);
    let batches = reply.collect().await.unwrap();
    let whole = datafusion::arrow::compute::concat_batches(&schema, &batches).unwrap();
    let order: &Int64Array = whole.column(0).as_any().downcast_ref().unwrap();
    assert_eq!(order.len(), uris.len());
    Arc::clone(whole.column(1))
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
    let uris: Vec<PathBuf> = expected.iter().map(|row| folder.join(file(row))).collect();
    let contents = contents(&engine, &uris).await;
    let started = Instant::now();
    let found = run(&engine, expected.iter().map(file).collect(), contents).await;
    let each = started.elapsed() / u32::try_from(expected.len()).unwrap();
    eprintln!("{} notices, {each:?} each", expected.len());

    let mut differences = Vec::new();
    let (mut good, mut failed) = (0, 0);
    for expected in &expected {
        let file = file(expected);
        let found = &found[&file];
        let status = expected["norm_status"].as_str().unwrap();
        let error = found.get("error").and_then(Value::as_str);
        let class = error.map_or("ok", |error| error.split(':').next().unwrap());
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
            if found != value {
                differences.push(format!("{file}: {column} is {found}, not {value}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!((good, failed), (106, 16));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_notice_fails_with_its_class() {
    let engine = engine(Vec::new()).await;
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
    let texts: StringArray = cases.iter().map(|(text, _)| text.as_deref()).collect();
    let ids = (0..cases.len()).map(|n| n.to_string()).collect();
    let found = run(&engine, ids, Arc::new(texts)).await;
    for (n, (text, class)) in cases.iter().enumerate() {
        let error = found[&n.to_string()]["error"].as_str().unwrap();
        assert_eq!(error.split(':').next(), Some(*class), "{text:?}: {error}");
    }
}
