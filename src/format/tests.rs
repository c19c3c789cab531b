//! Golden outputs of every format over one batch with every kind of value.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array,
    ListArray, StringArray, StructArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    UInt64Array,
};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::arrow::ipc::reader::StreamReader;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;

fn scalars() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "id",
            Arc::new(Int64Array::from(vec![
                Some(i64::MIN),
                None,
                Some(9_007_199_254_740_993),
            ])),
        ),
        (
            "big",
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), Some(0), None])),
        ),
        (
            "price",
            Arc::new(
                Decimal128Array::from(vec![Some(12_345_678_901_234_567_i128), None, Some(-5)])
                    .with_precision_and_scale(38, 2)
                    .unwrap(),
            ),
        ),
        (
            "note",
            Arc::new(StringArray::from(vec![Some("a,\"b\"\nc"), Some(""), None])),
        ),
        (
            "ok",
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .unwrap()
}

fn moments() -> RecordBatch {
    let naive = TimestampNanosecondArray::from(vec![Some(1_704_067_200_123_456_789), None]);
    let zoned = TimestampMicrosecondArray::from(vec![Some(1_704_067_200_000_000), None])
        .with_timezone("+02:00");
    let in_list = TimestampMicrosecondArray::from(vec![1_704_067_200_000_000]);
    let list = ListArray::new(
        Arc::new(Field::new("item", in_list.data_type().clone(), true)),
        datafusion::arrow::buffer::OffsetBuffer::new(vec![0, 1, 1].into()),
        Arc::new(in_list),
        None,
    );
    RecordBatch::try_from_iter(vec![
        ("naive", Arc::new(naive) as ArrayRef),
        ("zoned", Arc::new(zoned)),
        ("many", Arc::new(list)),
    ])
    .unwrap()
}

fn nested() -> RecordBatch {
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
        Some(vec![Some(i64::MAX), None]),
        None,
        Some(vec![]),
    ]);
    let record = StructArray::from(vec![
        (
            Arc::new(Field::new("k", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("x\"y"), None, None])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("f", DataType::Float64, true)),
            Arc::new(Float64Array::from(vec![0.5, 1e300, f64::NAN])) as ArrayRef,
        ),
    ]);
    let bytes = BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), None, Some(b"")]);
    RecordBatch::try_from_iter(vec![
        ("list", Arc::new(list) as ArrayRef),
        ("record", Arc::new(record)),
        ("bytes", Arc::new(bytes)),
    ])
    .unwrap()
}

fn bytes_of(format: Format, look: Look, schema: SchemaRef, batches: &[RecordBatch]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = ResultWriter::try_new(format, schema, look, &mut out).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    out
}

fn text_of(format: Format, look: Look, batch: &RecordBatch) -> String {
    let bytes = bytes_of(format, look, batch.schema(), std::slice::from_ref(batch));
    String::from_utf8(bytes).unwrap()
}

#[track_caller]
fn check(format: Format, batch: &RecordBatch, expected: &[&str]) {
    let text = text_of(format, Look::Plain, batch);
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        expected,
        "{format}:\n{text}"
    );
}

const NARROW: Look = Look::Terminal {
    columns: 40,
    styled: false,
    wide: Wide::Cut,
};

fn one_text(name: &str, values: Vec<&str>) -> RecordBatch {
    RecordBatch::try_from_iter(vec![(
        name,
        Arc::new(StringArray::from(values)) as ArrayRef,
    )])
    .unwrap()
}

#[test]
fn table_aligns_numbers_right_and_shows_null() {
    check(
        Format::Table,
        &scalars(),
        &[
            "                   id |                  big |              price | note     | ok",
            "----------------------+----------------------+--------------------+----------+-------",
            concat!(
                " -9223372036854775808 | 18446744073709551615 | 123456789012345.67 | ",
                r#"a,"b"\nc | true"#
            ),
            "                 NULL |                    0 |               NULL |          | NULL",
            "     9007199254740993 |                 NULL |              -0.05 | NULL     | false",
        ],
    );
}

#[test]
fn csv_tells_null_from_empty_text() {
    check(
        Format::Csv,
        &scalars(),
        &[
            "id,big,price,note,ok",
            "-9223372036854775808,18446744073709551615,123456789012345.67,\"a,\"\"b\"\"",
            "c\",true",
            ",0,,\"\",",
            "9007199254740993,,-0.05,,false",
        ],
    );
}

#[test]
fn json_keeps_every_digit_and_writes_null() {
    let rows = [
        concat!(
            r#"{"id":-9223372036854775808,"big":18446744073709551615,"#,
            r#""price":123456789012345.67,"note":"a,\"b\"\nc","ok":true}"#
        ),
        r#"{"id":null,"big":0,"price":null,"note":"","ok":null}"#,
        r#"{"id":9007199254740993,"big":null,"price":-0.05,"note":null,"ok":false}"#,
    ];
    check(Format::Ndjson, &scalars(), &rows);
    let array = [
        format!("[{},", rows[0]),
        format!(" {},", rows[1]),
        format!(" {}]", rows[2]),
    ];
    check(
        Format::Json,
        &scalars(),
        &array.each_ref().map(String::as_str),
    );
}

#[test]
fn timestamps_are_utc_in_every_text_format() {
    let naive = "2024-01-01T00:00:00.123456789Z";
    let zoned = "2024-01-01T00:00:00Z";
    check(
        Format::Csv,
        &moments(),
        &[
            "naive,zoned,many",
            &format!("{naive},{zoned},\"[\"\"{zoned}\"\"]\""),
            ",,[]",
        ],
    );
    check(
        Format::Ndjson,
        &moments(),
        &[
            &format!(r#"{{"naive":"{naive}","zoned":"{zoned}","many":["{zoned}"]}}"#),
            r#"{"naive":null,"zoned":null,"many":[]}"#,
        ],
    );
    check(
        Format::Table,
        &moments(),
        &[
            " naive                          | zoned                | many",
            "--------------------------------+----------------------+--------------------------",
            &format!(" {naive} | {zoned} | [\"{zoned}\"]"),
            " NULL                           | NULL                 | []",
        ],
    );
}

#[test]
fn nested_values_are_json() {
    check(
        Format::Table,
        &nested(),
        &[
            " list                       | record                 | bytes",
            "----------------------------+------------------------+-------",
            r#" [9223372036854775807,null] | {"k":"x\"y","f":0.5}   | 00ff"#,
            r#" NULL                       | {"k":null,"f":1.0e300} | NULL"#,
            r#" []                         | {"k":null,"f":"NaN"}   |"#,
        ],
    );
    check(
        Format::Csv,
        &nested(),
        &[
            "list,record,bytes",
            r#""[9223372036854775807,null]","{""k"":""x\""y"",""f"":0.5}",00ff"#,
            r#","{""k"":null,""f"":1.0e300}","#,
            r#"[],"{""k"":null,""f"":""NaN""}","""#,
        ],
    );
    check(
        Format::Ndjson,
        &nested(),
        &[
            r#"{"list":[9223372036854775807,null],"record":{"k":"x\"y","f":0.5},"bytes":"00ff"}"#,
            r#"{"list":null,"record":{"k":null,"f":1.0e300},"bytes":null}"#,
            r#"{"list":[],"record":{"k":null,"f":"NaN"},"bytes":""}"#,
        ],
    );
}

#[test]
fn expanded_shows_whole_values_over_several_lines() {
    check(
        Format::Expanded,
        &scalars().slice(0, 2),
        &[
            "-[ row 1 ]-",
            "id    | -9223372036854775808",
            "big   | 18446744073709551615",
            "price | 123456789012345.67",
            "note  | a,\"b\"",
            "      : c",
            "ok    | true",
            "-[ row 2 ]-",
            "id    | NULL",
            "big   | 0",
            "price | NULL",
            "note  |",
            "ok    | NULL",
        ],
    );
}

#[test]
fn empty_results_keep_their_frame() {
    let empty = scalars().slice(0, 0);
    for batches in [vec![], vec![empty.clone()]] {
        let text = |format| {
            String::from_utf8(bytes_of(format, Look::Plain, empty.schema(), &batches)).unwrap()
        };
        assert_eq!(
            text(Format::Table),
            " id | big | price | note | ok\n----+-----+-------+------+----\n"
        );
        assert_eq!(text(Format::Csv), "id,big,price,note,ok\n");
        assert_eq!(text(Format::Json), "[]\n");
        assert_eq!(text(Format::Ndjson), "");
        assert_eq!(text(Format::Expanded), "");
        let parquet = Bytes::from(bytes_of(
            Format::Parquet,
            Look::Plain,
            empty.schema(),
            &batches,
        ));
        let reader = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap();
        assert_eq!(reader.schema().fields(), empty.schema().fields());
        assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
        let arrow = bytes_of(Format::Arrow, Look::Plain, empty.schema(), &batches);
        let reader = StreamReader::try_new(arrow.as_slice(), None).unwrap();
        assert_eq!(reader.schema(), empty.schema());
        assert_eq!(reader.map(|b| b.unwrap().num_rows()).sum::<usize>(), 0);
    }
}

#[test]
fn columnar_formats_read_back_unchanged() {
    for batch in [scalars(), moments(), nested()] {
        let batches = [batch.slice(0, 1), batch.slice(1, batch.num_rows() - 1)];
        let parquet = bytes_of(Format::Parquet, Look::Plain, batch.schema(), &batches);
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(parquet)).unwrap();
        let read: Vec<_> = reader.build().unwrap().map(|b| b.unwrap()).collect();
        // NaN is not equal to itself, so the printed form is compared.
        assert_eq!(
            format!("{:?}", concat_batches(&batch.schema(), &read).unwrap()),
            format!("{batch:?}")
        );
        let arrow = bytes_of(Format::Arrow, Look::Plain, batch.schema(), &batches);
        let reader = StreamReader::try_new(arrow.as_slice(), None).unwrap();
        let read: Vec<_> = reader.map(|b| b.unwrap()).collect();
        assert_eq!(
            format!("{:?}", concat_batches(&batch.schema(), &read).unwrap()),
            format!("{batch:?}")
        );
    }
}

#[test]
fn long_texts_are_cut_on_a_terminal_only() {
    let long = "x".repeat(100);
    let batch = RecordBatch::try_from_iter(vec![
        ("id", Arc::new(Int64Array::from(vec![i64::MAX])) as ArrayRef),
        ("text", Arc::new(StringArray::from(vec![long.as_str()]))),
    ])
    .unwrap();
    let cut = text_of(Format::Table, NARROW, &batch);
    assert_eq!(
        cut.lines().nth(2).unwrap(),
        format!(" 9223372036854775807 | {}\u{2026}", "x".repeat(15))
    );
    assert!(cut.lines().all(|line| line.chars().count() <= 40), "{cut}");
    assert!(text_of(Format::Table, Look::Plain, &batch).contains(&long));
    assert!(text_of(Format::Expanded, NARROW, &batch).contains(&long));
}

#[test]
fn widths_come_from_the_first_rows_and_later_ones_lose_nothing_in_a_pipe() {
    let schema = one_text("t", vec![]).schema();
    let mut batches = vec![one_text("t", vec!["ab"; 1_000])];
    batches.push(one_text("t", vec!["abcdef"]));
    let plain = bytes_of(Format::Table, Look::Plain, Arc::clone(&schema), &batches);
    assert!(plain.ends_with(b" ab\n abcdef\n"));
    let cut = bytes_of(Format::Table, NARROW, schema, &batches);
    assert!(cut.ends_with(" ab\n a\u{2026}\n".as_bytes()));
}

#[test]
fn values_cannot_steer_the_terminal_or_pass_for_null() {
    let batch = one_text("t\n", vec!["a\u{1b}[2Jb\tc", "NULL"]);
    let expected = [" t\\n", "-----------------", " a\\x1b[2Jb\\tc", " 'NULL'"];
    let text = text_of(Format::Table, Look::Plain, &batch);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines[0], &lines[2..]), (expected[0], &expected[2..]));
    assert!(!text_of(Format::Expanded, Look::Plain, &batch).contains('\u{1b}'));
}

#[test]
fn wide_characters_count_two_columns() {
    let batch = RecordBatch::try_from_iter(vec![
        (
            "a",
            Arc::new(StringArray::from(vec!["\u{65e5}\u{672c}", "x"])) as ArrayRef,
        ),
        ("b", Arc::new(StringArray::from(vec!["1", "2"]))),
    ])
    .unwrap();
    check(
        Format::Table,
        &batch,
        &[
            " a    | b",
            "------+---",
            " \u{65e5}\u{672c} | 1",
            " x    | 2",
        ],
    );
}

#[test]
fn equal_column_names_are_numbered_where_keys_must_differ() {
    let column = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let schema = Schema::new(
        ["id", "id", "id_2"]
            .map(|name| Field::new(name, DataType::Int64, false))
            .to_vec(),
    );
    let batch = RecordBatch::try_new(Arc::new(schema), vec![column(), column(), column()]).unwrap();
    check(Format::Ndjson, &batch, &[r#"{"id":1,"id_3":1,"id_2":1}"#]);
    check(Format::Csv, &batch, &["id,id,id_2", "1,1,1"]);
}

#[test]
fn format_names_parse_and_unknown_ones_list_the_known() {
    for format in Format::ALL {
        assert_eq!(
            format.as_str().to_uppercase().parse::<Format>().unwrap(),
            *format
        );
    }
    let error = "xlsx".parse::<Format>().unwrap_err();
    assert!(error.hint().unwrap().contains("table, expanded, csv"));
}

/// The rows on a terminal of 40 columns that wants wide ones expanded.
fn on_terminal(batches: &[RecordBatch]) -> String {
    let look = Look::Terminal {
        columns: 40,
        styled: false,
        wide: Wide::Expand,
    };
    let mut out = Vec::new();
    let schema = batches[0].schema();
    let mut writer = ResultWriter::try_new(Format::Table, schema, look, &mut out).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn rows_wider_than_the_terminal_get_a_line_per_value() {
    let long = "x".repeat(50);
    let wide = one_text("text", vec!["a", &long]);
    assert_eq!(
        on_terminal(std::slice::from_ref(&wide)),
        format!("-[ row 1 ]-\ntext | a\n-[ row 2 ]-\ntext | {long}\n")
    );
    let fits = one_text("text", vec![&long[..38]]);
    assert!(on_terminal(std::slice::from_ref(&fits)).starts_with(" text\n---"));
    let over = one_text("text", vec![&long[..39]]);
    assert!(on_terminal(std::slice::from_ref(&over)).starts_with("-[ row 1 ]-\n"));
}

#[test]
fn layout_of_the_first_rows_is_kept_and_no_rows_are_never_too_wide() {
    let many = one_text("text", vec!["a"; 1_000]);
    let long = "x".repeat(50);
    let wide = one_text("text", vec![&long]);
    let table = on_terminal(&[many, wide.clone()]);
    assert!(table.starts_with(" text\n") && !table.contains("row 1"));
    let many = one_text("text", vec![long.as_str(); 1_000]);
    let lines = on_terminal(&[many, one_text("text", vec!["a"])]);
    assert!(lines.ends_with("-[ row 1001 ]-\ntext | a\n"), "{lines}");
    let name = "n".repeat(50);
    let none = one_text(&name, vec![]);
    assert!(!on_terminal(&[none]).contains("row"));
}
