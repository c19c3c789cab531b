"""What schemathesis cannot know of the API: Arrow streams, and texts that are SQL.

Loaded by schemathesis, see test_openapi.py. Half of the texts stay as they are generated.
"""

import io

import pyarrow
import schemathesis
from hypothesis import strategies

ARROW = "application/vnd.apache.arrow.stream"

STATEMENTS = [
    "SELECT * FROM jobs",
    "SELECT id, n, status FROM notices ORDER BY id",
    "SELECT 1 / 0 AS x",
    "SELECT count(*) AS n FROM events WHERE version > $1",
    "SELECT id, schedule_job('index', id) AS job_id FROM notices",
    "PREVIEW SELECT id, set_status('notices', id, 'RAW') AS done FROM notices",
    "EXPLAIN SELECT cancel_job(job_id) FROM jobs",
    "SELECT job_id, cancel_job(job_id) AS cancelled FROM jobs",
    "CALL acquire_lock('notices/a', ttl => '1 second')",
    "CALL claim_jobs('w', max => 1)",
    "INSERT INTO notices VALUES ('c', 3)",
    "REPLACE INTO notices VALUES ('d', 4)",
    "DELETE FROM notices WHERE id = 'd'",
    "UPDATE notices SET n = n + 1 WHERE id = 'b'",
    "CREATE VIEW v AS SELECT id FROM notices",
    "DROP VIEW v",
    "SHOW TABLES",
    "SELECT read_text('../../etc/passwd')",
    "SELECT * FROM generate_series(1, 100000)",
]


@schemathesis.serializer(ARROW)
def arrow(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


def stream(rows):
    ids, numbers = [row[0] for row in rows], [row[1] for row in rows]
    table = pyarrow.table({"id": ids, "n": pyarrow.array(numbers, pyarrow.int64())})
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


ROWS = strategies.lists(
    strategies.tuples(strategies.text(max_size=4), strategies.integers(-(2**63), 2**63 - 1)),
    max_size=3,
)
schemathesis.openapi.media_type(
    ARROW, strategies.one_of(ROWS.map(stream), strategies.binary(max_size=50))
)


def statement(text):
    """A statement in the place of a text; the same text gives the same statement."""
    number = sum(str(text).encode(errors="replace"))
    return STATEMENTS[number // 2 % len(STATEMENTS)] if number % 2 == 0 else text


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and "sql" in body:
        body["sql"] = statement(body["sql"])
        # A statement that is told to end after a millisecond does, with status 504.
        body.pop("timeout_ms", None)
    return body


@schemathesis.hook
def map_headers(context, headers):
    if headers:
        headers.pop("Sluicegate-Timeout", None)
    return headers


@schemathesis.hook
def map_query(context, query):
    if query and "q" in query:
        query["q"] = statement(query["q"])
    if query and "table" in query:
        query["table"] = "notices"
    return query
