"""What the program says for machines: the log as JSON, and the table of the benchmark."""

import json

import pytest
from conftest import Server, run


@pytest.fixture
def server(tmp_path):
    started = Server("store", tmp_path, "--log-format", "json", "--workers", "1")
    yield started
    started.stop()


def logged(server, message):
    """The next object of the log with this message; those before it must be JSON, too."""
    while True:
        line = json.loads(server.said.get(timeout=60))
        assert {"timestamp", "level", "message", "target"} <= line.keys()
        if line["message"] == message:
            return line


def test_a_request_is_one_object_and_holds_no_sql(server):
    answer = server.sql("SELECT 'a secret' AS x")
    line = logged(server, "answered")
    assert (line["status"], line["level"]) == (200, "INFO") and line["ms"] >= 0
    span = line["span"]
    assert (span["method"], span["route"], span["actor"]) == ("POST", "/v1/sql", "ann")
    assert span["statement_id"] == answer.headers["Sluicegate-Statement-Id"]
    assert "a secret" not in json.dumps(line)
    # An address may hold SQL, and one that is not there may hold anything.
    server.send("GET", "/v1/sql?sql=SELECT+%27a+secret%27")
    assert "secret" not in json.dumps(logged(server, "answered"))
    server.send("GET", "/a-secret")
    line = logged(server, "answered")
    assert line["status"] == 404 and "secret" not in json.dumps(line)


def test_a_group_of_jobs_is_one_object(server):
    for sql in [
        "CREATE TABLE docs (id TEXT, PRIMARY KEY (id))",
        "INSERT INTO docs VALUES ('a'), ('b')",
        "CREATE TRANSFORM up ON docs FROM STATUS 'RAW' TO STATUS 'UP' AS SELECT id FROM input",
        "SELECT schedule_job('up', id) FROM docs",
    ]:
        assert server.sql(sql).status == 200
    jobs = 0
    while jobs < 2:
        span = logged(server, "a group ended")["span"]
        assert (span["name"], span["transform"]) == ("group", "up")
        jobs += span["jobs"]
    assert jobs == 2


def test_the_benchmark_fills_its_table(tmp_path):
    printed = run("bench", "--sources", 2000, "--jobs", 2000, "--rows", 3000, folder=tmp_path)
    rows = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("|")]
    head, _, *figures = [[cell.strip() for cell in row] for row in rows]
    assert head == ["work", "here", "over HTTP", "target", "others"]
    assert all(work and here for work, here, *_ in figures)
    over_http = [work for work, _, http, *_ in figures if http]
    assert [work.split()[0] for work in over_http] == ["acquire", "claim", "fetch", "fetch"]
    # It removes its store.
    assert list(tmp_path.iterdir()) == []
