//! Every query gives the same answer over runs as over one table in memory that holds the live
//! rows with their system columns.

use std::sync::Mutex;

use arrow::array::{
    AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, StringDictionaryBuilder,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Int8Type, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::{BinaryExpr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::ledger::run::{ROW_GROUP_ROWS, RunWriter};
use crate::ledger::store::StoreOptions;

use super::*;

const STATUSES: [&str; 3] = ["RAW", "NORMALISED", "TRANSFORMED"];

/// System columns by rule: the status goes by blocks of rows, a few rows are locked.
#[derive(Debug)]
struct Rules {
    fields: Vec<FieldRef>,
    narrow: Narrow,
    asked: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, Copy)]
enum Narrow {
    /// `status = '...'` gives the rows, and the key is in memory.
    Status,
    /// No filter is understood, and the key is not in memory.
    Nothing,
}

fn key(run: u32, row: u64) -> String {
    format!("r{run}-{row}")
}

fn status(run: u32, row: u64) -> i8 {
    ((row / 100 + u64::from(run)) % 3) as i8
}

fn live_job(row: u64) -> Option<i64> {
    row.is_multiple_of(7).then_some(row as i64 + 1000)
}

impl Rules {
    fn new(narrow: Narrow) -> Arc<Self> {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        let fields = vec![
            Arc::new(Field::new("status", dictionary, false)),
            Arc::new(Field::new("locked", DataType::Boolean, false)),
            Arc::new(Field::new("live_job_id", DataType::Int64, true)),
        ];
        Arc::new(Self {
            fields,
            narrow,
            asked: Mutex::default(),
        })
    }
}

impl SystemColumns for Rules {
    fn fields(&self) -> &[FieldRef] {
        &self.fields
    }

    fn column(&self, run: u32, column: usize, rows: &[u64]) -> ArrayRef {
        assert!(rows.is_sorted(), "run {run}, rows {rows:?}");
        match column {
            0 => {
                let mut values = StringDictionaryBuilder::<Int8Type>::new();
                for row in rows {
                    values.append_value(STATUSES[status(run, *row) as usize]);
                }
                Arc::new(values.finish())
            }
            1 => Arc::new(
                rows.iter()
                    .map(|row| Some(row % 5 == 0))
                    .collect::<BooleanArray>(),
            ),
            2 => Arc::new(
                rows.iter()
                    .map(|row| live_job(*row))
                    .collect::<Int64Array>(),
            ),
            other => panic!("no column {other}"),
        }
    }

    fn key(&self) -> Option<&str> {
        match self.narrow {
            Narrow::Status => Some("id"),
            Narrow::Nothing => None,
        }
    }

    fn keys(&self, run: u32, rows: &[u64]) -> ArrayRef {
        let keys = rows.iter().map(|row| key(run, *row));
        Arc::new(StringArray::from_iter_values(keys))
    }

    fn select(&self, run: u32, filters: &[Expr]) -> Option<Vec<Range<u64>>> {
        let mut asked = self.asked.lock().unwrap();
        asked.extend(filters.iter().map(Expr::to_string));
        match self.narrow {
            Narrow::Nothing => None,
            Narrow::Status => filters.iter().find_map(|filter| {
                let Expr::BinaryExpr(BinaryExpr {
                    left,
                    op: Operator::Eq,
                    right,
                }) = filter
                else {
                    return None;
                };
                let (Expr::Column(column), Expr::Literal(value, _)) =
                    (left.as_ref(), right.as_ref())
                else {
                    return None;
                };
                if column.name != "status" {
                    return None;
                }
                let value = value.to_string();
                let wanted = STATUSES.iter().position(|status| *status == value);
                let blocks = (0..10_000).map(|block| block * 100..block * 100 + 100);
                let wanted = |block: &Range<u64>| wanted == Some(status(run, block.start) as usize);
                Some(blocks.filter(wanted).collect())
            }),
        }
    }
}

#[derive(Debug)]
struct Sources {
    scan: SourceScan,
}

#[async_trait]
impl TableProvider for Sources {
    fn schema(&self) -> SchemaRef {
        self.scan.table_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.scan.plan(session, projection, filters, limit)
    }
}

fn schema(width: usize) -> SchemaRef {
    let fields = [
        Field::new("id", DataType::Utf8, false),
        Field::new("number", DataType::Int64, true),
        Field::new("form", DataType::Utf8, true),
    ];
    Arc::new(Schema::new(fields[..width].to_vec()))
}

/// The rows of a run; `width` columns are in its file, the others are NULL.
fn user_rows(run: u32, rows: u64, width: usize) -> RecordBatch {
    let numbers = (0..rows as i64).map(|row| if row % 11 == 0 { None } else { Some(row) });
    let forms = (0..rows).map(|row| (width > 2).then(|| ["a", "b"][(row / 3 % 2) as usize]));
    RecordBatch::try_new(
        schema(3),
        vec![
            Arc::new(StringArray::from_iter_values(
                (0..rows).map(|row| key(run, row)),
            )),
            Arc::new(numbers.collect::<Int64Array>()),
            Arc::new(forms.collect::<StringArray>()),
        ],
    )
    .unwrap()
}

struct Fixture {
    context: SessionContext,
    system: Arc<Rules>,
    store: Store,
}

/// A run of the fixture: its number, rows, columns in the file, and dead rows.
type Run = (u32, u64, usize, Vec<usize>);

async fn fixture(runs: Vec<Run>, narrow: Narrow) -> Fixture {
    let store = Store::open("memory://", &StoreOptions::default())
        .await
        .unwrap();
    let config = SessionConfig::new()
        .with_target_partitions(3)
        .with_batch_size(64);
    let context = SessionContext::new_with_config(config);
    let store_url = register_store(&context.runtime_env(), &store).unwrap();
    let system = Rules::new(narrow);
    let mut scan = SourceScan {
        store_url,
        schema: schema(3),
        runs: Vec::new(),
        system: Arc::clone(&system) as _,
    };
    let table_schema = scan.table_schema();
    let mut live_rows = Vec::new();
    for (run, rows, width, dead) in runs {
        let path = format!("tables/t%20t/{run}.parquet");
        let batch = user_rows(run, rows, width);
        let written = batch.project(&(0..width).collect::<Vec<_>>()).unwrap();
        let mut writer = RunWriter::open(&store, &path, schema(width), "id")
            .await
            .unwrap();
        writer.write(&written).await.unwrap();
        let file = writer.finish().await.unwrap();

        let numbers: Vec<u64> = (0..rows).collect();
        let mut columns = batch.columns().to_vec();
        columns.extend((0..3).map(|column| system.column(run, column, &numbers)));
        let all = RecordBatch::try_new(Arc::clone(&table_schema), columns).unwrap();
        let keep: BooleanArray = (0..rows as usize)
            .map(|row| Some(!dead.contains(&row)))
            .collect();
        live_rows.push(filter_record_batch(&all, &keep).unwrap());

        let live = match dead.as_slice() {
            [] => LiveRows::All,
            dead => LiveRows::except(rows as usize, dead.iter().copied()),
        };
        scan.runs.push(RunScan {
            path,
            bytes: file.bytes,
            rows: file.rows,
            run,
            live,
        });
    }
    let expected = MemTable::try_new(Arc::clone(&table_schema), vec![live_rows]).unwrap();
    context
        .register_table("expected", Arc::new(expected))
        .unwrap();
    context
        .register_table("t", Arc::new(Sources { scan }))
        .unwrap();
    Fixture {
        context,
        system,
        store,
    }
}

impl Fixture {
    async fn rows(&self, sql: &str) -> RecordBatch {
        let plan = self
            .context
            .sql(sql)
            .await
            .unwrap()
            .create_physical_plan()
            .await
            .unwrap();
        let schema = plan.schema();
        let batches = datafusion::physical_plan::collect(plan, self.context.task_ctx())
            .await
            .unwrap();
        concat_batches(&schema, &batches).unwrap()
    }

    async fn plan(&self, sql: &str) -> String {
        let plan = self
            .context
            .sql(sql)
            .await
            .unwrap()
            .create_physical_plan()
            .await
            .unwrap();
        displayable(plan.as_ref()).indent(false).to_string()
    }

    /// The query, which says `FROM t`, answers as over the table in memory.
    async fn check(&self, sql: &str) {
        let answer = self.rows(sql).await;
        let expected = self
            .rows(&sql.replace("FROM t", "FROM expected AS t"))
            .await;
        assert_eq!(lines(&answer), lines(&expected), "{sql}");
    }
}

/// The rows as text, sorted, under the column names.
fn lines(batch: &RecordBatch) -> Vec<String> {
    let text = pretty_format_batches(std::slice::from_ref(batch))
        .unwrap()
        .to_string();
    let mut lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
    lines[1..].sort();
    lines.push(format!("{} rows", batch.num_rows()));
    lines
}

const QUERIES: [&str; 33] = [
    "SELECT * FROM t",
    "SELECT id FROM t",
    "SELECT status FROM t",
    "SELECT status, id, locked, form, live_job_id, number FROM t",
    "SELECT live_job_id, number FROM t",
    "SELECT count(*) FROM t",
    "SELECT 1 FROM t",
    "SELECT status, locked, count(*), count(live_job_id) FROM t GROUP BY status, locked",
    "SELECT count(*) FROM t WHERE status = 'RAW'",
    "SELECT id FROM t WHERE status = 'RAW'",
    "SELECT id, status FROM t WHERE status = 'NORMALISED' AND form = 'a'",
    "SELECT id FROM t WHERE status = 'RAW' AND number > 120 AND NOT locked",
    "SELECT id FROM t WHERE status IN ('RAW', 'TRANSFORMED') AND number < 50",
    "SELECT id FROM t WHERE status <> 'RAW' AND live_job_id IS NULL",
    "SELECT id FROM t WHERE locked AND live_job_id IS NOT NULL",
    "SELECT id FROM t WHERE status = 'RAW' OR number = 130",
    "SELECT id FROM t WHERE live_job_id > number + 900",
    "SELECT id FROM t WHERE status = 'NONE'",
    "SELECT count(*) FROM t WHERE status = 'NONE'",
    "SELECT id, status FROM t WHERE id = 'r1-104'",
    "SELECT id, status FROM t WHERE id = 'r9-1'",
    "SELECT id FROM t WHERE number IS NULL",
    "SELECT id FROM t WHERE form IS NULL AND status = 'RAW'",
    "SELECT number, status FROM t WHERE number BETWEEN 90 AND 110",
    "SELECT id, status FROM t ORDER BY number DESC NULLS LAST, id LIMIT 7",
    "SELECT id FROM t WHERE status = 'RAW' ORDER BY id LIMIT 5 OFFSET 3",
    "SELECT id, live_job_id FROM t ORDER BY live_job_id, id LIMIT 9",
    "SELECT status, locked, id, number FROM t ORDER BY number DESC, status, id LIMIT 9",
    "SELECT max(number), min(id) FROM t WHERE NOT locked",
    "SELECT form, count(*) FROM t GROUP BY form",
    "SELECT count(*) FROM (SELECT id FROM t LIMIT 150)",
    "SELECT count(*) FROM (SELECT status FROM t LIMIT 150)",
    "SELECT count(*) FROM t LIMIT 0",
];

#[tokio::test]
async fn answers_are_those_of_the_live_rows() {
    let dead: Vec<usize> = (0..400)
        .filter(|row| row % 3 == 0 || (100..180).contains(row))
        .collect();
    let cases: Vec<Vec<Run>> = vec![
        vec![],
        vec![(1, 250, 3, vec![])],
        vec![(1, 400, 3, dead.clone())],
        vec![
            (4, 400, 3, vec![7]),
            (1, 300, 2, vec![]),
            (2, 400, 3, dead),
            (3, 90, 2, vec![0, 89]),
        ],
        vec![(1, 50, 3, (0..50).collect()), (2, 50, 3, vec![])],
        vec![(1, 50, 3, (0..50).collect())],
    ];
    for runs in cases {
        for narrow in [Narrow::Status, Narrow::Nothing] {
            let fixture = fixture(runs.clone(), narrow).await;
            for sql in QUERIES {
                fixture.check(sql).await;
            }
        }
    }
}

#[tokio::test]
async fn runs_of_several_row_groups_are_split_and_keep_their_row_numbers() {
    let rows = 2 * ROW_GROUP_ROWS + 1000;
    let fixture = fixture(vec![(1, rows as u64, 3, vec![])], Narrow::Nothing).await;
    let plan = fixture.plan("SELECT id, live_job_id FROM t").await;
    assert!(plan.contains("3 groups"), "{plan}");
    let scan = scan_of(&fixture).await;

    // Most of the first row group is dead, and in the others every third row.
    let dead = |row: usize| (1000..ROW_GROUP_ROWS + 500).contains(&row) || row.is_multiple_of(3);
    let live = LiveRows::except(rows, (0..rows).filter(|row| dead(*row)));
    type Wanted = fn(usize) -> bool;
    let cases: [(&str, Wanted); 4] = [
        ("true", |_| true),
        ("number >= 0", |row| row % 11 != 0),
        ("status = 'RAW'", |row| status(1, row as u64) == 0),
        ("status = 'RAW' AND form = 'b'", |row| {
            status(1, row as u64) == 0 && row / 3 % 2 == 1
        }),
    ];
    for (table, live, dead) in [
        ("whole", LiveRows::All, (|_| false) as Wanted),
        ("holed", live, dead as Wanted),
    ] {
        let mut scan = scan.clone();
        scan.system = Rules::new(Narrow::Status);
        scan.runs[0].live = live;
        fixture
            .context
            .register_table(table, Arc::new(Sources { scan }))
            .unwrap();
        for (filter, wanted) in cases {
            let sql = format!("SELECT id, live_job_id FROM {table} WHERE {filter}");
            let batch = fixture.rows(&sql).await;
            let (ids, jobs) = (batch.column(0).as_string::<i32>(), batch.column(1));
            let mut found = Vec::with_capacity(batch.num_rows());
            for (id, job) in ids.iter().zip(jobs.as_primitive::<Int64Type>()) {
                let row = id
                    .unwrap()
                    .strip_prefix("r1-")
                    .unwrap()
                    .parse::<usize>()
                    .unwrap();
                assert_eq!(job, live_job(row as u64), "{sql}");
                found.push(row);
            }
            found.sort_unstable();
            let expected: Vec<usize> = (0..rows)
                .filter(|row| !dead(*row) && wanted(*row))
                .collect();
            assert!(
                found == expected,
                "{sql}: {} of {}",
                found.len(),
                expected.len()
            );
        }
    }
}

async fn scan_of(fixture: &Fixture) -> SourceScan {
    let table = fixture.context.table_provider("t").await.unwrap();
    table.downcast_ref::<Sources>().unwrap().scan.clone()
}

#[tokio::test]
async fn filters_on_system_columns_reach_select_and_others_do_not() {
    let fixture = fixture(vec![(1, 300, 3, vec![])], Narrow::Nothing).await;
    let cases: [(&str, &[&str]); 7] = [
        ("status = 'RAW' AND number > 3", &["status = Utf8(\"RAW\")"]),
        ("status <> 'RAW'", &["status != Utf8(\"RAW\")"]),
        ("NOT locked AND form = 'a'", &["NOT locked"]),
        ("locked", &["locked"]),
        ("live_job_id IS NULL", &["live_job_id IS NULL"]),
        (
            "status = 'RAW' OR locked",
            &["status = Utf8(\"RAW\") OR locked"],
        ),
        ("number > 3", &[]),
    ];
    for (filter, expected) in cases {
        fixture.system.asked.lock().unwrap().clear();
        fixture
            .rows(&format!("SELECT id FROM t WHERE {filter}"))
            .await;
        let asked: Vec<String> = std::mem::take(&mut *fixture.system.asked.lock().unwrap());
        let plain: Vec<String> = asked
            .iter()
            .map(|text| {
                text.replace("Dictionary(Int8, Utf8(", "Utf8(")
                    .replace("\"))", "\")")
            })
            .collect();
        assert_eq!(plain, expected, "{filter}");
    }
}

#[tokio::test]
async fn filters_on_user_columns_are_pushed_into_parquet() {
    let fixture = fixture(vec![(1, 300, 3, vec![])], Narrow::Status).await;
    let plan = fixture
        .plan("SELECT id FROM t WHERE status = 'RAW' AND number > 250")
        .await;
    assert!(plan.contains("predicate=number@1 > 250"), "{plan}");
    assert!(plan.contains("FilterExec: status@"), "{plan}");
    assert!(!plan.contains("FilterExec: number"), "{plan}");
}

#[tokio::test]
async fn query_without_user_columns_reads_no_file() {
    let fixture = fixture(
        vec![(1, 300, 3, vec![1]), (2, 300, 3, vec![])],
        Narrow::Status,
    )
    .await;
    for run in [1, 2] {
        fixture
            .store
            .delete(&format!("tables/t%20t/{run}.parquet"))
            .await
            .unwrap();
    }
    for sql in [
        "SELECT status, locked, count(*) FROM t GROUP BY status, locked",
        "SELECT count(*) FROM t WHERE status = 'RAW' AND NOT locked",
        "SELECT count(*) FROM t",
        "SELECT 1 FROM t",
    ] {
        fixture.check(sql).await;
    }
}

#[tokio::test]
async fn row_count_is_exact_without_filters_only() {
    let fixture = fixture(vec![(1, 300, 3, vec![1, 2])], Narrow::Status).await;
    let plan = fixture.plan("SELECT count(*) FROM t").await;
    assert!(plan.contains("PlaceholderRowExec"), "{plan}");
    let plan = fixture
        .plan("SELECT count(*) FROM t WHERE status = 'RAW'")
        .await;
    assert!(plan.contains("SystemRowsExec"), "{plan}");
}

#[tokio::test]
async fn limit_without_filters_cuts_the_selection() {
    let runs = vec![(1, 300, 3, vec![0, 1]), (2, 300, 3, vec![])];
    let fixture = fixture(runs, Narrow::Status).await;
    fixture
        .store
        .delete("tables/t%20t/2.parquet")
        .await
        .unwrap();
    let batch = fixture.rows("SELECT id, status FROM t LIMIT 298").await;
    assert_eq!(batch.num_rows(), 298);
    assert_eq!(batch.column(0).as_string::<i32>().value(0), "r1-2");
}

#[tokio::test]
async fn live_rows_of_another_length_are_refused() {
    let fixture = fixture(vec![(1, 300, 3, vec![])], Narrow::Status).await;
    let mut scan = scan_of(&fixture).await;
    scan.runs[0].live = LiveRows::except(299, []);
    let error = scan
        .plan(&fixture.context.state(), None, &[], None)
        .unwrap_err();
    assert!(error.to_string().contains("has 300 rows"), "{error}");
}

#[tokio::test]
async fn stores_in_one_runtime_do_not_share_footers() {
    let first = fixture(vec![(1, 300, 3, vec![])], Narrow::Status).await;
    let second = fixture(vec![(1, 300, 2, vec![])], Narrow::Status).await;
    let [of_first, of_second] = [scan_of(&first).await, scan_of(&second).await];
    let time = |scan: &SourceScan| {
        let piece = Piece {
            index: 0,
            ranges: std::iter::once(0..300).collect(),
        };
        scan.file(&piece)
            .unwrap()
            .unwrap()
            .object_meta
            .last_modified
    };
    assert_ne!(time(&of_first), time(&of_second));
    assert_eq!(time(&of_first), time(&of_first.clone()));
}
