"""The prompt against a server: the same commands and formats as against a store."""

import os
import pty
import signal
import subprocess
import time

import pytest
from conftest import BINARY, Server, until


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompt")
    server = Server("store", folder)
    server.rows("CREATE TABLE things (id TEXT, n BIGINT, PRIMARY KEY (id))")
    server.rows("INSERT INTO things VALUES ('a', 1), ('b', 9007199254740993), ('c', NULL)")
    server.rows(
        "CREATE TRANSFORM index ON things FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER"
    )
    yield server
    server.stop()


def prompt(server, *arguments, place=None, script=None):
    place = place or ["--server", server.url]
    return subprocess.run(
        [BINARY, *place, *arguments],
        cwd=server.folder,
        input=script,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "format", ["table", "expanded", "csv", "json", "ndjson", "parquet", "arrow", "arrow-file"]
)
def test_rows_are_those_of_a_prompt_at_the_store(server, format):
    sql = "SELECT id, n, 1.50 AS d, [1, NULL] AS l, now() > TIMESTAMP '2020-01-01' AS t FROM things"
    arguments = ["--format", format, "-c", sql + " ORDER BY id"]
    at_server = prompt(server, *arguments)
    at_store = prompt(server, *arguments, place=["--store", "store"])
    assert at_server.returncode == at_store.returncode == 0, at_server.stderr
    assert at_server.stdout == at_store.stdout and at_server.stdout
    assert at_server.stderr == at_store.stderr


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1",
        "SELECT 1,\n  nothing FROM things",
        "SELECT * FROM nothing",
        "SELECT 1 / 0",
        "SELECT count(*) FROM things WHERE schedule_job('index', id) > 0",
        "INSERT INTO things VALUES ('a', 2)",
        "SELECT schedule_job('nothing', 'a')",
    ],
)
def test_errors_are_those_of_a_prompt_at_the_store(server, sql):
    at_server = prompt(server, "-c", sql)
    at_store = prompt(server, "-c", sql, place=["--store", "store"])
    assert at_server.returncode == at_store.returncode == 1
    assert at_server.stderr == at_store.stderr and b"error SG" in at_server.stderr


def test_effects_and_writes_tell_what_they_did(server):
    script = b"""
        INSERT INTO things VALUES ('d', 4), ('e', 5);
        SELECT schedule_job('index', id) FROM things WHERE id IN ('d', 'e');
        SELECT schedule_job('index', id) FROM things WHERE id = 'd';
        DELETE FROM things WHERE id = 'c';
        CREATE VIEW few AS SELECT id FROM things;
    """
    told = prompt(server, script=script).stderr.decode()
    for text in ["2 rows affected", "2 scheduled", "1 already-live", "1 row affected", "ok"]:
        assert text in told, told


def test_commands_list_what_there_is(server):
    tables = prompt(server, "--format", "csv", "-c", "\\d").stdout.decode()
    assert "things,source table," in tables and "jobs,system table," in tables
    assert "attempts,system view," in tables
    columns = prompt(server, "--format", "csv", "-c", "\\d things").stdout.decode()
    store = prompt(server, "--format", "csv", "-c", "\\d things", place=["--store", "store"])
    assert columns == store.stdout.decode()
    assert b"id,TEXT,The primary key." in columns.encode()
    assert b"hand_back_job" in prompt(server, "-c", "\\df hand_back*").stdout
    assert prompt(server, "-c", "\\dw").returncode == 0
    assert b"SG2001" in prompt(server, "-c", "\\d nothing").stderr


def test_parameters_are_bound_at_the_server(server):
    count = "SELECT count(*) AS n FROM things WHERE id = $id AND n <= $most"
    for name, found in [("a", "1"), ("' OR id = 'a", "0")]:
        told = prompt(server, "--format", "csv", "-v", f"id={name}", "-v", "most=1", "-c", count)
        assert told.stdout.decode() == f"n\n{found}\n", told.stderr
    assert b'parameter "$id" has no value' in prompt(server, "-c", count).stderr


def test_the_life_of_a_source_is_that_at_the_store(server):
    for line in ["\\source things a", "\\dj", "\\dx", "\\log 99"]:
        at_server = prompt(server, "-c", line)
        at_store = prompt(server, "-c", line, place=["--store", "store"])
        assert at_server.stdout == at_store.stdout and at_server.stderr == at_store.stderr


def test_run_jobs_tells_what_it_left_waiting(server):
    server.rows("INSERT INTO things VALUES ('w', 9)")
    server.rows("SELECT schedule_job('index', 'w')")
    told = prompt(server, "-c", "CALL run_jobs()").stderr.decode()
    assert 'for an outside worker of transform "index"' in told, told
    server.rows("SELECT cancel_job(job_id) FROM jobs WHERE source_id = 'w'")


def test_tokens_come_from_a_file_or_the_environment_and_read_only_is_kept(tmp_path):
    server = Server("store", tmp_path)
    token = server.token("admin", "boss")
    (tmp_path / "token").write_text(token + "\n")
    assert b"SG4001" in prompt(server, "-c", "SELECT 1").stderr
    assert prompt(server, "--token-file", "token", "-c", "SELECT 1").returncode == 0
    create = "CREATE TABLE t (id TEXT, PRIMARY KEY (id))"
    refused = prompt(server, "--token-file", "token", "--read-only", "-c", create)
    assert b"SG1007" in refused.stderr or b"SG4002" in refused.stderr, refused.stderr
    environment = {**os.environ, "SLUICEGATE_TOKEN": token}
    made = [BINARY, "--server", server.url, "-c", create]
    subprocess.run(made, env=environment, check=True, capture_output=True, timeout=60)
    assert b"absent" in prompt(server, "--token-file", "absent", "-c", "SELECT 1").stderr
    assert prompt(server, "--token-file", "token", "check").returncode == 1
    server.stop()


def test_a_large_effect_is_asked_about_and_a_no_does_nothing(server):
    """At a terminal, as a person sees it."""
    sql = "SELECT acquire_lock(concat('@r/', value)) FROM generate_series(1, 1001);\n"
    master, slave = pty.openpty()
    person = subprocess.Popen(
        [BINARY, "--server", server.url, "-c", sql],
        cwd=server.folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(slave)
    seen = b""

    def asked():
        nonlocal seen
        seen += os.read(master, 4096)
        if b"\x1b[6n" in seen:
            # The terminal is asked where its cursor is.
            os.write(master, b"\x1b[1;1R")
            seen = seen.replace(b"\x1b[6n", b"")
        return b"1,001 rows: 1,001 acquired" in seen and b"Go on?" in seen

    until(asked)
    os.write(master, b"n\r")
    assert person.wait(timeout=60) == 1
    os.close(master)
    assert server.number("SELECT count(*) FROM locks") == 0


def test_ctrl_c_cancels_at_the_server(server):
    """Before the answer has begun, and while its rows are read."""
    slow = "SELECT count(value) FROM generate_series(1, 1000000000000)"
    wide = "SELECT a.value FROM generate_series(1, 100000) a, generate_series(1, 100000) b"
    for sql in [slow, wide]:
        person = subprocess.Popen(
            [BINARY, "--server", server.url, "-c", sql],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

        def state(sql=sql):
            statements = server.send("GET", "/v1/statements").json()["statements"]
            return next((one["state"] for one in statements if one["sql"] == sql), None)

        until(lambda: state() == "running")
        if sql is wide:
            person.stdout.read(1000)
        time.sleep(0.3)
        person.send_signal(signal.SIGINT)
        told = person.communicate(timeout=60)[1]
        assert person.returncode == 130 and b"cancelled" in told, told
        until(lambda: state() == "cancelled")


def test_a_server_that_is_not_there_is_told(server):
    absent = prompt(server, "-c", "SELECT 1", place=["--server", "http://127.0.0.1:1"])
    assert absent.returncode == 1 and b"SG7002" in absent.stderr and b"does not answer" in absent.stderr
    wrong = prompt(server, "-c", "SELECT 1", place=["--server", "127.0.0.1:80"])
    assert b"SG4003" in wrong.stderr
