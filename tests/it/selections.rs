//! Every question of `sql/selections/` is one statement, says what it asks, and is run with its
//! expected rows by `tests/slt/selections/operator-questions.slt`.

use std::fs;
use std::path::Path;

use sluicegate::session::split_statements;

#[test]
fn every_question_is_one_statement_that_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let suite = root.join("tests/slt/selections/operator-questions.slt");
    let suite = fs::read_to_string(suite).expect("the suite is there");
    let mut found = 0;
    for entry in fs::read_dir(root.join("sql/selections")).expect("the folder is there") {
        let path = entry.expect("the folder is readable").path();
        let name = path
            .file_name()
            .expect("it is a file")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).expect("it is text");
        found += 1;
        assert!(text.starts_with("-- "), "{name} begins with its question");
        assert!(text.contains("-- Change: "), "{name} says what to change");
        assert_eq!(
            split_statements(&text).expect(&name).len(),
            1,
            "{name} is one statement"
        );
        let used = format!("\n\\file sql/selections/{name}\n");
        assert!(suite.contains(&used), "{name} is not tested");
    }
    assert!(found >= 30, "there are only {found} questions");
}
