//! Eligibility: which notices an active mapping suite covers, as data and as SQL.
//!
//! The rule stands in `sql/ted/eligibility.sql`; the suites' facts in
//! `data/ted/mapping_suites.csv`. Both are compiled in, for the demonstrator to load.

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::prelude::{CsvReadOptions, SessionContext};

    use crate::demo::setup::{ELIGIBILITY_SQL, MAPPING_SUITES_CSV};

    async fn run(context: &SessionContext, script: &str) {
        for statement in script.split(';').filter(|one| one.contains("CREATE")) {
            context
                .sql(statement)
                .await
                .unwrap()
                .collect()
                .await
                .unwrap();
        }
    }

    /// `notice=suite@version` of each eligible notice.
    async fn eligible(context: &SessionContext, notices: &str) -> Vec<String> {
        let table = format!(
            "CREATE TABLE notices AS SELECT column1 AS notice_id, column2 AS eforms_subtype,
             CAST(column3 AS DATE) AS publication_date, CAST(column4 AS VARCHAR) AS
             eform_sdk_version, CAST(column5 AS VARCHAR) AS xsd_version FROM (VALUES {notices})"
        );
        run(context, &table).await;
        // The comments hold semicolons.
        let views: String = ELIGIBILITY_SQL
            .lines()
            .filter(|line| !line.trim_start().starts_with("--"))
            .fold(String::new(), |text, line| text + line + "\n");
        run(context, &views).await;
        let query = "SELECT notice_id || '=' || mapping_suite || '@' || suite_version AS found
                     FROM eligible_notices ORDER BY notice_id";
        let batches = context.sql(query).await.unwrap().collect().await.unwrap();
        let mut found = Vec::new();
        for batch in &batches {
            let column = datafusion::arrow::compute::cast(
                batch.column(0),
                &datafusion::arrow::datatypes::DataType::Utf8,
            )
            .unwrap();
            found.extend(
                column
                    .as_string::<i32>()
                    .iter()
                    .flatten()
                    .map(str::to_owned),
            );
        }
        found
    }

    async fn check(suites: &str, notices: &str, expected: &[&str]) {
        let context = SessionContext::new();
        let table = format!(
            "CREATE TABLE mapping_suites AS SELECT column1 AS mapping_suite, column2 AS
             suite_version, column3 AS kind, column4 AS eforms_subtype, column5 AS sdk_version,
             column6 AS min_xsd, column7 AS max_xsd, column8 AS start_date, column9 AS end_date,
             column10 AS active FROM (VALUES {suites})"
        );
        run(&context, &table).await;
        assert_eq!(eligible(&context, notices).await, expected);
    }

    #[tokio::test]
    async fn sdk_version_is_cut_to_major_and_minor() {
        check(
            "('nine', '1.0.0', 'eforms', '16', 'eforms-sdk-1.9', NULL, NULL, NULL, NULL, true),
             ('one', '1.0.0', 'eforms', '16', 'eforms-sdk-1.1', NULL, NULL, NULL, NULL, true),
             ('ten', '1.0.0', 'eforms', '16', 'eforms-sdk-1.10', NULL, NULL, NULL, NULL, true)",
            "('a', '16', '2024-01-01', 'eforms-sdk-1.9', NULL),
             ('b', '16', '2024-01-01', 'eforms-sdk-1.10', NULL),
             ('c', '16', '2024-01-01', 'eforms-sdk-1.10.2', NULL),
             ('d', '16', NULL, 'eforms-sdk-1.1', NULL),
             ('e', '16', '2024-01-01', 'eforms-sdk-1.11', NULL),
             ('f', '17', '2024-01-01', 'eforms-sdk-1.10', NULL),
             ('g', '16', '2024-01-01', NULL, 'R2.0.9.S01.E01'),
             ('h', '16', '2024-01-01', 'eforms-sdk-2.10', NULL)",
            &["a=nine@1.0.0", "b=ten@1.0.0", "c=ten@1.0.0", "d=one@1.0.0"],
        )
        .await;
    }

    #[tokio::test]
    async fn dates_and_schema_versions_are_inclusive() {
        check(
            "('s', '1.0.0', 'standard', '29', NULL, 'R2.0.9.S02.E01', 'R2.0.9.S03.E01',
              '2018-01-01', '2018-12-31', true)",
            "('before', '29', '2017-12-31', NULL, 'R2.0.9.S02.E01'),
             ('first', '29', '2018-01-01', NULL, 'R2.0.9.S02.E01'),
             ('last', '29', '2018-12-31', NULL, 'R2.0.9.S03.E01'),
             ('after', '29', '2019-01-01', NULL, 'R2.0.9.S03.E01'),
             ('older', '29', '2018-05-05', NULL, 'R2.0.9.S01.E01'),
             ('newer', '29', '2018-05-05', NULL, 'R2.0.9.S03.E02'),
             ('undated', '29', NULL, NULL, 'R2.0.9.S02.E01'),
             ('unversioned', '29', '2018-05-05', NULL, NULL)",
            &["first=s@1.0.0", "last=s@1.0.0"],
        )
        .await;
    }

    #[tokio::test]
    async fn highest_semantic_version_of_the_active_ones_wins() {
        check(
            "('s', '1.9.0', 'eforms', '16', 'eforms-sdk-1.9', NULL, NULL, NULL, NULL, true),
             ('s', '1.10.0', 'eforms', '16', 'eforms-sdk-1.9', NULL, NULL, NULL, NULL, true),
             ('s', '1.10.0-rc.1', 'eforms', '16', 'eforms-sdk-1.9', NULL, NULL, NULL, NULL, true),
             ('s', '2.0.0', 'eforms', '16', 'eforms-sdk-1.9', NULL, NULL, NULL, NULL, false),
             ('s', '3.0.0', 'eforms', '16', 'eforms-sdk-1.9', NULL, NULL, NULL,
              '2020-01-01', true)",
            "('a', '16', '2024-01-01', 'eforms-sdk-1.9', NULL)",
            &["a=s@1.10.0"],
        )
        .await;
    }

    #[tokio::test]
    async fn shipped_suites_are_read_with_their_versions_intact() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("suites.csv");
        std::fs::write(&file, MAPPING_SUITES_CSV).unwrap();
        let context = SessionContext::new();
        let path = file.to_str().unwrap();
        context
            .register_csv("mapping_suites", path, CsvReadOptions::new())
            .await
            .unwrap();
        let notices = "('cn', '16', '2024-01-01', 'eforms-sdk-1.10', NULL),
                       ('can', '29', '2023-01-01', 'eforms-sdk-1.3.1', NULL),
                       ('pin', '4', '2024-01-01', 'eforms-sdk-1.10', NULL),
                       ('f03', '29', '2019-01-01', NULL, 'R2.0.9.S03.E01'),
                       ('f02', '16', '2019-01-01', NULL, 'R2.0.9.S03.E01'),
                       ('f17', '18', '2019-01-01', NULL, 'R2.0.8.S05.E01')";
        let expected = [
            "can=package_eforms_29_v1.3@1.0.0",
            "cn=package_eforms_16_v1.10@1.0.0",
            "f03=package_F03@1.0.0",
        ];
        assert_eq!(eligible(&context, notices).await, expected);
    }
}
