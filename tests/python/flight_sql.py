"""What ADBC, pandas and pyarrow see of a server, with the drivers that people install.

Needs SLUICEGATE_URL, and SLUICEGATE_TOKEN where the store has tokens. The store has the table
`notices (id TEXT, n BIGINT)` with rows a, b, and the transform `index`. Prints one line per
check, and ends with the number of those that failed.
"""

import datetime
import decimal
import json
import math
import os
import sys
import threading
import time
import traceback
import urllib.request
import warnings

import adbc_driver_flightsql.dbapi as flight_sql
import adbc_driver_manager
import pandas
import pyarrow
import pyarrow.flight as flight
from adbc_driver_flightsql import DatabaseOptions, StatementOptions
from flight_messages import command

URL = os.environ["SLUICEGATE_URL"]
TOKEN = os.environ.get("SLUICEGATE_TOKEN")
READER = os.environ.get("SLUICEGATE_READER_TOKEN")
ADDRESS = URL.replace("http://", "grpc://")


def connect(token=TOKEN, **more):
    options = dict(more)
    if token:
        options[DatabaseOptions.AUTHORIZATION_HEADER.value] = f"Bearer {token}"
    return flight_sql.connect(ADDRESS, db_kwargs=options, autocommit=True)


def one(cursor, sql, parameters=None):
    cursor.execute(sql, parameters)
    return cursor.fetchone()[0]


def refuses(what, call, *names):
    try:
        call()
    except Exception as error:
        for name in names:
            assert name in str(error), f"{what}: {name} is not in {error}"
        return error
    raise AssertionError(f"{what} is not refused")


CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


@check
def queries(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, n FROM notices ORDER BY id")
        assert [column[0] for column in cursor.description] == ["id", "n"]
        assert cursor.fetchall() == [("a", 1), ("b", 9007199254740993)], "rows"
        cursor.execute("SELECT id FROM notices WHERE false")
        assert cursor.fetchall() == []
        table = cursor.execute("SELECT id FROM notices ORDER BY id").fetch_arrow_table()
        assert table.column("id").to_pylist() == ["a", "b"]
        assert cursor.execute("EXPLAIN SELECT 1").fetchall()
        assert cursor.execute("SHOW TABLES").fetchall()


@check
def data_frames(connection):
    frame = pandas.read_sql("SELECT id, n FROM notices ORDER BY id", connection)
    assert list(frame["id"]) == ["a", "b"] and frame["n"].iloc[1] == 9007199254740993
    # pandas passes no parameters to ADBC; a cursor does.
    with connection.cursor() as cursor:
        for sql in ["SELECT id FROM notices WHERE n = ?", "SELECT id FROM notices WHERE n = $1"]:
            frame = cursor.execute(sql, (1,)).fetch_df()
            assert list(frame["id"]) == ["a"], frame
    empty = pandas.read_sql("SELECT id, n FROM notices WHERE false", connection)
    assert list(empty.columns) == ["id", "n"] and empty.empty


@check
def types_come_back(connection):
    sql = """SELECT
        9223372036854775807 AS largest,
        CAST(-9223372036854775808 AS BIGINT) AS smallest,
        CAST(1.25 AS DECIMAL(20, 3)) AS dec,
        CAST(0.1 AS DOUBLE) AS dbl,
        TIMESTAMP '2026-01-05T03:00:00.123456' AS naive,
        arrow_cast('2026-01-05T03:00:00.123456Z', 'Timestamp(Microsecond, Some("UTC"))') AS utc,
        DATE '2026-01-05' AS day,
        [1, NULL, 3] AS list,
        CAST(NULL AS TEXT) AS nothing,
        NULL AS untyped,
        true AS flag,
        X'00ff' AS bytes,
        arrow_cast('word', 'Dictionary(Int32, Utf8)') AS word,
        named_struct('a', 1, 'b', 'x') AS pair"""
    with connection.cursor() as cursor:
        row = cursor.execute(sql).fetch_arrow_table().to_pylist()[0]
    utc = datetime.timezone.utc
    moment = datetime.datetime(2026, 1, 5, 3, 0, 0, 123456)
    assert row["largest"] == 2**63 - 1 and row["smallest"] == -(2**63)
    assert row["dec"] == decimal.Decimal("1.250") and row["dbl"] == 0.1
    assert row["utc"] == moment.replace(tzinfo=utc), row["utc"]
    assert str(row["naive"]).startswith("2026-01-05 03:00:00.123456")
    assert row["day"] == datetime.date(2026, 1, 5)
    assert row["list"] == [1, None, 3] and row["nothing"] is None and row["untyped"] is None
    assert row["flag"] is True and row["bytes"] == b"\x00\xff" and row["word"] == "word"
    assert row["pair"] == {"a": 1, "b": "x"}


@check
def parameters_keep_their_types(connection):
    utc = datetime.timezone.utc
    moment = datetime.datetime(2026, 1, 5, 3, 0, 0, 123456, tzinfo=utc)
    values = [
        "o'brien",
        "'); DROP TABLE notices; --",
        2**63 - 1,
        -(2**63),
        0.1,
        True,
        moment,
        datetime.date(2026, 1, 5),
        decimal.Decimal("1.250"),
        b"\x00'\xff",
        "",
    ]
    with connection.cursor() as cursor:
        for value in values:
            back = one(cursor, "SELECT ? AS v", (value,))
            assert back == value and type(back) is type(value), (value, back)
        assert one(cursor, "SELECT ? IS NULL", (None,)) is True
        assert math.isnan(one(cursor, "SELECT ?", (math.nan,)))
        batch = pyarrow.record_batch({"a": [[1, 2, None]], "b": ["x"]})
        cursor.execute("SELECT $1 AS list, $2 AS text", batch)
        assert cursor.fetchall() == [([1, 2, None], "x")]
        refuses("a value too few", lambda: one(cursor, "SELECT ?, ?", (1,)), "SG1002")


@check
def prepared_statements(connection):
    with connection.cursor() as cursor:
        schema = cursor.adbc_prepare("SELECT id FROM notices WHERE n = ? AND id = ?")
        assert len(schema) == 2, schema
        sql = "SELECT id FROM notices WHERE n = $1"
        for n, expected in [(1, [("a",)]), (2, []), (9007199254740993, [("b",)])]:
            cursor.execute(sql, (n,))
            assert cursor.fetchall() == expected
        schema = cursor.adbc_execute_schema("SELECT id, n FROM notices")
        assert schema.names == ["id", "n"]


@check
def writes_and_counts(connection):
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO notices VALUES (?, ?)", [("x1", 1), ("x2", 2), ("x3", None)])
        assert cursor.rowcount == 3, cursor.rowcount
        assert one(cursor, "SELECT count(*) FROM notices WHERE id LIKE 'x%'") == 3
        # Done when it returns, although nobody fetches rows.
        cursor.execute("DELETE FROM notices WHERE id LIKE ?", ("x%",))
        assert one(cursor, "SELECT count(*) FROM notices") == 2
        error = refuses(
            "a key twice",
            lambda: cursor.executemany("INSERT INTO notices VALUES (?, ?)", [("a", 1)]),
            "SG3001",
        )
        assert isinstance(error, adbc_driver_manager.Error), error


@check
def ingestion(connection):
    rows = pyarrow.table({"id": ["i1", "i2"], "n": [1, None]})
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("notices", rows, mode="append") == 2
        frame = pandas.DataFrame({"id": ["i3"], "n": [3]})
        batch = pyarrow.RecordBatch.from_pandas(frame)
        assert cursor.adbc_ingest("notices", batch, mode="append") == 1
        assert one(cursor, "SELECT count(*) FROM notices WHERE id LIKE 'i%'") == 3
        new = lambda: cursor.adbc_ingest("made", rows, mode="create")
        refuses("a table of rows", new, "SG1005", "CREATE TABLE")
        again = lambda: cursor.adbc_ingest("notices", rows, mode="append")
        refuses("a key twice", again, "SG3001")
        cursor.execute("DELETE FROM notices WHERE id LIKE 'i%'")


def options():
    headers = [(b"authorization", f"Bearer {TOKEN}".encode())] if TOKEN else []
    return flight.FlightCallOptions(headers=headers)


@check
def effects_act_once(connection):
    client = flight.FlightClient(ADDRESS)
    sql = "SELECT id, schedule_job('index', id) AS job FROM notices ORDER BY id"
    descriptor = flight.FlightDescriptor.for_command(command("CommandStatementQuery", sql))
    with connection.cursor() as cursor:
        jobs = "SELECT count(*) FROM jobs"
        before = one(cursor, jobs)
        info = client.get_flight_info(descriptor, options())
        assert len(info.endpoints) == 1
        assert one(cursor, jobs) == before, "planning runs nothing"
        ticket = info.endpoints[0].ticket
        assert b"schedule_job" not in ticket.serialize()
        first = client.do_get(ticket, options()).read_all()
        again = client.do_get(ticket, options()).read_all()
        assert again == first and first.num_rows == 2
        assert one(cursor, jobs) == before + 2
        # As a driver does it.
        cursor.execute("SELECT cancel_job(job_id) AS done FROM jobs")
        assert cursor.fetchall() == [(True,), (True,)]
        cursor.execute("PREVIEW SELECT schedule_job('index', id) FROM notices")
        assert len(cursor.fetchall()) == 2
        cursor.execute("CALL claim_jobs('w', max => 1)")
        assert cursor.fetchall() == []
    forged = flight.Ticket(ticket.ticket[:-1] + b"x")
    refuses("a forged ticket", lambda: client.do_get(forged, options()).read_all(), "SG2001")


@check
def names_are_told(connection):
    objects = connection.adbc_get_objects(depth="columns").read_all().to_pylist()
    assert [one["catalog_name"] for one in objects] == ["datafusion"]
    schema = objects[0]["catalog_db_schemas"][0]
    assert schema["db_schema_name"] == "public"
    tables = {table["table_name"]: table for table in schema["db_schema_tables"]}
    assert tables["notices"]["table_type"] == "TABLE"
    assert tables["jobs"]["table_type"] == "SYSTEM TABLE"
    columns = [column["column_name"] for column in tables["notices"]["table_columns"]]
    assert columns[:2] == ["id", "n"], columns
    keys = tables["notices"]["table_constraints"] or []
    assert [key["constraint_type"] for key in keys if key] in ([], ["PRIMARY KEY"])
    only = connection.adbc_get_objects(depth="tables", table_name_filter="notic%").read_all()
    only = only.to_pylist()[0]["catalog_db_schemas"][0]["db_schema_tables"]
    assert [table["table_name"] for table in only] == ["notices"]
    assert "TABLE" in connection.adbc_get_table_types()
    assert connection.adbc_get_table_schema("notices").names[:2] == ["id", "n"]
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Sluicegate", info


@check
def errors_say_what_is_wrong(connection):
    with connection.cursor() as cursor:
        run = lambda sql: refuses(sql, lambda: cursor.execute(sql))
        error = run("SELECT * FROM nowhere")
        assert "SG2001" in str(error) and "nowhere" in str(error)
        assert isinstance(error, adbc_driver_manager.ProgrammingError), type(error)
        assert "SG1001" in str(run("SELEC 1"))
        assert "SG1005" in str(run("BEGIN"))
        assert "SG1008" in str(refuses("division", lambda: one(cursor, "SELECT 1 / (n - n) FROM notices")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuses("a transaction", lambda: connection.adbc_connection.set_autocommit(False))


@check
def large_results_are_streamed(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT value, repeat('x', 100) AS t FROM generate_series(1, 3000000)")
        reader = cursor.fetch_record_batch()
        rows = sum(batch.num_rows for batch in reader)
        assert rows == 3000000, rows


ENDLESS = """SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 10000000) b
             WHERE a.value % 7 = b.value % 11"""


def running_statements():
    """The caller's statements that the server still runs."""
    headers = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
    request = urllib.request.Request(f"{URL}/v1/statements", headers=headers)
    with urllib.request.urlopen(request) as response:
        statements = json.load(response)["statements"]
    return [one["sql"] for one in statements if one["state"] == "running"]


def nothing_runs():
    ends = time.monotonic() + 60
    while running_statements():
        assert time.monotonic() < ends, f"they still run: {running_statements()}"
        time.sleep(0.05)


@check
def statements_are_cancelled(connection):
    running = "SELECT count(*) FROM notices"
    with connection.cursor() as cursor:
        threading.Timer(0.5, cursor.adbc_cancel).start()
        began = time.monotonic()
        refuses("a cancelled statement", lambda: one(cursor, ENDLESS))
        assert time.monotonic() - began < 60
        nothing_runs()
        assert one(cursor, running) == 2
    timeout = {StatementOptions.TIMEOUT_FETCH.value: 0.5, StatementOptions.TIMEOUT_QUERY.value: 0.5}
    with connection.cursor(adbc_stmt_kwargs=timeout) as cursor:
        refuses("a statement that is late", lambda: one(cursor, ENDLESS))
    nothing_runs()
    with connection.cursor() as cursor:
        # Given up after some rows.
        cursor.execute("SELECT value FROM generate_series(1, 1000000000)")
        assert cursor.fetchone() == (1,)
    nothing_runs()
    with connection.cursor() as cursor:
        assert one(cursor, running) == 2


@check
def who_asks_decides(connection):
    if not TOKEN:
        return
    for token in ["sgt_wrong", None]:
        with connect(token) as nobody, nobody.cursor() as cursor:
            refuses("a wrong token", lambda: one(cursor, "SELECT 1"), "SG4001")
    with flight_sql.connect(
        ADDRESS, db_kwargs={"username": "any", "password": TOKEN}, autocommit=True
    ) as named, named.cursor() as cursor:
        assert one(cursor, "SELECT count(*) FROM notices") == 2
    bad = lambda: flight_sql.connect(ADDRESS, db_kwargs={"username": "a", "password": "b"})
    refuses("a wrong password", bad, "SG4001")
    with connect(READER) as reader, reader.cursor() as cursor:
        assert one(cursor, "SELECT count(*) FROM notices") == 2
        for sql in [
            "SELECT schedule_job('index', id) FROM notices",
            "DELETE FROM notices",
            "CREATE VIEW v AS SELECT 1",
        ]:
            error = refuses(sql, lambda: cursor.execute(sql), "SG1007")
            assert "SG1007" in str(error)
        rows = pyarrow.table({"id": ["r"], "n": [1]})
        refuses("ingestion", lambda: cursor.adbc_ingest("notices", rows, mode="append"), "SG1007")


def main():
    wanted = sys.argv[1:]
    failed = 0
    with connect() as connection:
        for function in CHECKS:
            if wanted and function.__name__ not in wanted:
                continue
            began = time.monotonic()
            try:
                function(connection)
                said = f"{time.monotonic() - began:.2f} s"
            except Exception:
                traceback.print_exc(file=sys.stdout)
                said, failed = "FAILED", failed + 1
            print(f"{function.__name__}: {said}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
