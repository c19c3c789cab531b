"""Values survive each format of the server, as far as the format has their type."""

import csv
import datetime
import decimal
import io
import json
import math

import pyarrow
import pyarrow.parquet
import pytest

UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2024, 2, 29, 12, 34, 56, 789012)

# Name, SQL, what Arrow and Parquet give, what JSON gives, what CSV gives.
VALUES = [
    ("plain_time", "arrow_cast('2024-02-29T12:34:56.789012', 'Timestamp(Microsecond, None)')",
     MOMENT, "2024-02-29T12:34:56.789012Z", "2024-02-29T12:34:56.789012Z"),
    ("utc_time", "arrow_cast('2024-02-29T12:34:56.789012Z', 'Timestamp(Microsecond, Some(\"UTC\"))')",
     MOMENT.replace(tzinfo=UTC), "2024-02-29T12:34:56.789012Z", "2024-02-29T12:34:56.789012Z"),
    ("zoned_time",
     "arrow_cast('2024-02-29T14:34:56.789012+02:00', 'Timestamp(Microsecond, Some(\"+02:00\"))')",
     MOMENT.replace(tzinfo=UTC), "2024-02-29T12:34:56.789012Z", "2024-02-29T12:34:56.789012Z"),
    ("before_1970", "arrow_cast('1903-11-07T00:00:00.000001', 'Timestamp(Microsecond, None)')",
     datetime.datetime(1903, 11, 7, 0, 0, 0, 1), "1903-11-07T00:00:00.000001Z",
     "1903-11-07T00:00:00.000001Z"),
    ("day", "DATE '2024-02-29'", datetime.date(2024, 2, 29), "2024-02-29", "2024-02-29"),
    ("clock", "arrow_cast('23:59:59.000001', 'Time64(Microsecond)')",
     datetime.time(23, 59, 59, 1), "23:59:59.000001", "23:59:59.000001"),
    ("money", "arrow_cast('123456789012345678.90', 'Decimal128(20, 2)')",
     decimal.Decimal("123456789012345678.90"), "123456789012345678.90", "123456789012345678.90"),
    ("numbers", "[1, NULL, 9223372036854775807]", [1, None, 2**63 - 1],
     ["1", None, "9223372036854775807"], "[1,null,9223372036854775807]"),
    ("words", "['a', NULL, '', 'b,\"c']", ["a", None, "", 'b,"c'], ["a", None, "", 'b,"c'],
     '["a",null,"","b,\\"c"]'),
    ("nested", "[['x'], ['y', 'z']]", [["x"], ["y", "z"]], [["x"], ["y", "z"]],
     '[["x"],["y","z"]]'),
    ("pair", "named_struct('a', true, 'b', 'x')", {"a": True, "b": "x"}, {"a": True, "b": "x"},
     '{"a":true,"b":"x"}'),
    ("yes", "true", True, True, "true"),
    ("no_boolean", "arrow_cast(NULL, 'Boolean')", None, None, ""),
    ("biggest", "9223372036854775807", 2**63 - 1, "9223372036854775807", "9223372036854775807"),
    ("smallest", "arrow_cast('-9223372036854775808', 'Int64')", -(2**63),
     "-9223372036854775808", "-9223372036854775808"),
    ("unsigned", "arrow_cast('18446744073709551615', 'UInt64')", 2**64 - 1,
     "18446744073709551615", "18446744073709551615"),
    ("tiny", "arrow_cast(-128, 'Int8')", -128, -128, "-128"),
    ("fraction", "arrow_cast('0.1', 'Float64')", 0.1, 0.1, "0.1"),
    ("small", "arrow_cast('5e-324', 'Float64')", 5e-324, 5e-324, "5e-324"),
    ("single", "arrow_cast(1.5, 'Float32')", 1.5, 1.5, "1.5"),
    # JSON has no numbers for these; as texts they are no NULL.
    ("nan", "arrow_cast('NaN', 'Float64')", math.nan, "NaN", "NaN"),
    ("infinite", "arrow_cast('-inf', 'Float64')", -math.inf, "-Infinity", "-inf"),
    ("text", "'it''s \"quoted\", with\n a line, \ta tab, \u00e9\u4e2d\U0001f600 and \\'",
     "it's \"quoted\", with\n a line, \ta tab, \u00e9\u4e2d\U0001f600 and \\",
     "it's \"quoted\", with\n a line, \ta tab, \u00e9\u4e2d\U0001f600 and \\",
     "it's \"quoted\", with\n a line, \ta tab, \u00e9\u4e2d\U0001f600 and \\"),
    ("empty_text", "''", "", "", ""),
    ("no_text", "arrow_cast(NULL, 'Utf8')", None, None, ""),
    ("bytes", "x'00ff10'", b"\x00\xff\x10", "00ff10", "00ff10"),
    ("word_of_few", "arrow_cast('k', 'Dictionary(Int32, Utf8)')", "k", "k", "k"),
]  # fmt: skip

QUERY = "SELECT " + ", ".join(f"{sql} AS {name}" for name, sql, *_ in VALUES)
NAMES = [name for name, *_ in VALUES]


def fetch(server, form, sql):
    answer = server.send(
        "POST", f"/v1/sql?format={form}", sql.encode(), Content_Type="text/plain"
    )
    assert answer.status == 200, answer.body
    return answer.body


def arrow_stream(body):
    return pyarrow.ipc.open_stream(body).read_all()


def arrow_file(body):
    return pyarrow.ipc.open_file(io.BytesIO(body)).read_all()


def parquet(body):
    return pyarrow.parquet.read_table(io.BytesIO(body))


COLUMNAR = [("arrow", arrow_stream), ("arrow-file", arrow_file), ("parquet", parquet)]


def same(found, expected):
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(found, float) and math.isnan(found)
    # A moment is the same in another zone, and one without a zone is another thing.
    if isinstance(expected, datetime.datetime):
        return found == expected and (found.tzinfo is None) == (expected.tzinfo is None)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize(("form", "read"), COLUMNAR)
def test_columnar_formats_keep_values_and_types(server, form, read):
    table = read(fetch(server, form, QUERY))
    assert table.column_names == NAMES
    [row] = table.to_pylist()
    for name, _, expected, *_ in VALUES:
        assert same(row[name], expected), (name, row[name], expected)
    types = {name: str(table.schema.field(name).type) for name in NAMES}
    assert types["money"] == "decimal128(20, 2)"
    assert types["unsigned"] == "uint64" and types["tiny"] == "int8"
    assert types["plain_time"] == "timestamp[us]" and types["clock"] == "time64[us]"
    assert types["utc_time"] == "timestamp[us, tz=UTC]"


def test_json_keeps_every_digit(server):
    for row in [
        json.loads(fetch(server, "json", QUERY))[0],
        json.loads(fetch(server, "ndjson", QUERY).splitlines()[0]),
    ]:
        assert list(row) == NAMES
        for name, _, _, expected, _ in VALUES:
            assert same(row[name], expected), (name, row[name], expected)


def test_json_writes_numbers_where_that_is_asked_for(server):
    body = fetch(server, "json&integers=number", QUERY)
    row = json.loads(body, parse_float=decimal.Decimal)[0]
    for name in ["biggest", "smallest", "unsigned", "numbers"]:
        expected = next(value for one, _, value, *_ in VALUES if one == name)
        assert row[name] == expected, name


def test_csv_says_all_that_it_can(server):
    body = fetch(server, "csv", QUERY).decode()
    head, row = csv.reader(io.StringIO(body, newline=""))
    assert head == NAMES
    assert dict(zip(head, row, strict=True)) == {name: text for name, *_, text in VALUES}
    # NULL is nothing, and an empty text is "".
    assert fetch(server, "csv", "SELECT '' AS a, NULL AS b, 'x' AS c") == b'a,b,c\n"",,x\n'


@pytest.mark.parametrize(("form", "read"), COLUMNAR)
def test_an_empty_result_has_its_columns(server, form, read):
    whole = read(fetch(server, form, QUERY))
    empty = read(fetch(server, form, f"SELECT * FROM ({QUERY}) AS all_of_them WHERE tiny > 0"))
    assert empty.num_rows == 0
    assert empty.schema.names == whole.schema.names
    assert empty.schema.types == whole.schema.types


def test_an_empty_result_is_whole_in_texts_too(server):
    nothing = "SELECT 1 AS a, 'x' AS b WHERE false"
    assert json.loads(fetch(server, "json", nothing)) == []
    assert json.loads(fetch(server, "ndjson", nothing)) == {"$end": {"rows": 0}}
    assert fetch(server, "csv", nothing) == b"a,b\n"


@pytest.mark.parametrize("form", [form for form, _ in COLUMNAR])
def test_many_rows_of_a_type_come_in_order(server, form):
    read = dict(COLUMNAR)[form]
    table = read(fetch(server, form, "SELECT value AS n FROM generate_series(1, 100000)"))
    assert table["n"].to_pylist() == list(range(1, 100_001))


def test_what_a_format_cannot_hold_is_refused_before_the_answer_begins(server):
    sql = "SELECT INTERVAL '1 day' AS span"
    answer = server.send("POST", "/v1/sql?format=parquet", sql.encode(), Content_Type="text/plain")
    assert (answer.status, answer.code()) == (406, "SG4004")
    assert "parquet" in answer.json()["detail"]
    assert json.loads(fetch(server, "json", sql)) == [{"span": "1 days"}]
    # The rows that were kept for later, too.
    later = server.send(
        "POST", "/v1/sql", sql.encode(), Content_Type="text/plain", Prefer="respond-async, wait=5"
    )
    place = f"/v1/statements/{later.headers['Sluicegate-Statement-Id']}/result"
    assert server.send("GET", place + "?format=parquet").status == 406
    assert server.send("GET", place + "?format=csv").status == 200
