//! External tables over files of others: read as they were written, or an error that names the file.

use std::fs;
use std::io::Write;

use datafusion::arrow::util::display::array_value_to_string;
use sluicegate::config::Limits;
use sluicegate::engine::{Engine, EngineOptions};
use sluicegate::error::{Code, Error};
use sluicegate::session::Session;
use sluicegate::time::Clock;
use tempfile::TempDir;

struct Place {
    folder: TempDir,
    session: Session,
}

impl Place {
    async fn open() -> Self {
        let folder = TempDir::new().unwrap();
        let options = EngineOptions {
            roots: vec![folder.path().to_owned()],
            ..EngineOptions::new("memory://")
        };
        let engine = Engine::open_with(options, Clock::System, Limits::default());
        let session = engine.await.unwrap().session("test");
        Self { folder, session }
    }

    /// A table over a file with these bytes; `rest` stands between the name and LOCATION, or is
    /// the OPTIONS behind it.
    async fn table(
        &self,
        name: &str,
        bytes: &[u8],
        before: &str,
        after: &str,
    ) -> Result<(), Error> {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let location = path.canonicalize().unwrap();
        let sql = format!(
            "CREATE OR REPLACE EXTERNAL TABLE x {before} LOCATION '{}' {after}",
            location.display()
        );
        self.session.execute(&sql).await.map(drop)
    }

    /// The rows of a query, the columns with bars between them.
    async fn rows(&self, sql: &str) -> Result<Vec<String>, Error> {
        let reply = self.session.execute(sql).await?;
        let mut rows = Vec::new();
        for batch in reply.collect().await? {
            for row in 0..batch.num_rows() {
                let cells = batch.columns().iter();
                let cells = cells.map(|column| array_value_to_string(column, row).unwrap());
                rows.push(cells.collect::<Vec<_>>().join("|"));
            }
        }
        Ok(rows)
    }

    async fn check(&self, sql: &str, expected: &[&str]) {
        assert_eq!(self.rows(sql).await.unwrap(), expected, "{sql}");
    }

    async fn fails(&self, name: &str, bytes: &[u8], before: &str, after: &str) {
        let made = self.table(name, bytes, before, after).await;
        let error = made.expect_err(name);
        assert_eq!(error.code(), Code::FileUnreadable, "{error:?}");
        assert!(error.message().contains(name), "{error:?}");
    }
}

#[tokio::test]
async fn csv_keeps_codes_line_ends_and_written_days() {
    let place = Place::open().await;
    let text = "\u{feff}code,label,n\r\n03000000,\"Lot 1, a\r\nLot 2\",1\r\n45000000,,2\r\n";
    place
        .table("a.csv", text.as_bytes(), "STORED AS CSV", "")
        .await
        .unwrap();
    place
        .check(
            "SELECT code, label, n + 1 FROM x ORDER BY code",
            &["03000000|Lot 1, a\r\nLot 2|2", "45000000||3"],
        )
        .await;
    // The record that DataFusion cut in two while it inferred.
    let long: String = (0..400)
        .map(|n| format!("{n},\"a\nb, {n}\nc\"\n"))
        .collect();
    let text = format!("id,text\n{long}");
    place
        .table("b.csv", text.as_bytes(), "STORED AS CSV", "")
        .await
        .unwrap();
    place
        .check("SELECT count(*), max(id) FROM x", &["400|399"])
        .await;
    let dates = b"id,day\n1,2024-01-01T02:00:00+05:00\n2,\n3,2024-01-01+05:00\n";
    let columns = "(id BIGINT, day DATE) STORED AS CSV";
    place.table("c.csv", dates, columns, "").await.unwrap();
    place
        .check(
            "SELECT id, day FROM x ORDER BY id",
            &["1|2024-01-01", "2|", "3|2024-01-01"],
        )
        .await;
    place
        .check(
            "SELECT id FROM x WHERE day = '2024-01-01' ORDER BY id",
            &["1", "3"],
        )
        .await;
}

#[tokio::test]
async fn json_documents_are_one_object_or_an_array_of_rows() {
    let place = Place::open().await;
    let whole = "OPTIONS ('format.newline_delimited' 'false')";
    let object = br#"{"errors":[{"code":"E1"}],"notices":[]}"#;
    place
        .table("a.json", object, "STORED AS JSON", whole)
        .await
        .unwrap();
    place
        .check(
            "SELECT array_length(errors), errors[1]['code'] FROM x",
            &["1|E1"],
        )
        .await;
    let array = b"[{\"a\":1},\n {\"a\":2}]\n";
    place
        .table("b.json", array, "STORED AS JSON", whole)
        .await
        .unwrap();
    place.check("SELECT a FROM x ORDER BY a", &["1", "2"]).await;
    place
        .fails("cut.json", b"[{\"a\":1},{\"a\":2}", "STORED AS JSON", whole)
        .await;
    place
        .fails("scalar.json", b"[1, 2]", "STORED AS JSON", whole)
        .await;
}

#[tokio::test]
async fn packed_files_are_read() {
    let place = Place::open().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"id,code\n1,007\n2,008\n").unwrap();
    place
        .table("a.csv.gz", &gzip.finish().unwrap(), "STORED AS CSV", "")
        .await
        .unwrap();
    place
        .check("SELECT id, code FROM x ORDER BY id", &["1|007", "2|008"])
        .await;
    let zstd = zstd::encode_all(b"{\"a\":1}\n{\"a\":2}\n".as_slice(), 1).unwrap();
    place
        .table("a.json.zst", &zstd, "STORED AS JSON", "")
        .await
        .unwrap();
    place.check("SELECT sum(a) FROM x", &["3"]).await;
    place
        .fails("broken.csv.gz", b"id\n1\n", "STORED AS CSV", "")
        .await;
}

#[tokio::test]
async fn files_that_are_empty_or_broken_are_named() {
    let place = Place::open().await;
    for (name, stored) in [
        ("empty.csv", "STORED AS CSV"),
        ("declared.csv", "(id TEXT) STORED AS CSV"),
        ("empty.json", "STORED AS JSON"),
        ("empty.parquet", "STORED AS PARQUET"),
    ] {
        place.fails(name, b"", stored, "").await;
    }
    place
        .fails(
            "broken.parquet",
            b"PAR1 is no file",
            "STORED AS PARQUET",
            "",
        )
        .await;
    place
        .fails("broken.json", b"{\"a\":1}\n{\"a\":", "STORED AS JSON", "")
        .await;
    place
        .fails("broken.csv", b"a,b\n1,2\n3\n", "STORED AS CSV", "")
        .await;
}
