"""Locks at every door: who shows the token of a lock works under it, and nobody else does.

Two programs of one user once kept each other from acquiring a lock, and still wrote under the lock
of the other; so a program whose lease was over went on writing.
"""

import json
import subprocess

import adbc_driver_flightsql.dbapi as flight_sql
import pandas
import pyarrow
import pytest
import sluicegate
from conftest import BINARY, Server, run

CREATE = """
CREATE TABLE notices (id TEXT, title TEXT, PRIMARY KEY (id));
INSERT INTO notices VALUES ('1', 'bridge'), ('2', 'school'), ('3', 'road');
"""

UPDATE = "UPDATE notices SET title = 'new' WHERE id = '1'"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locks")
    run("--store", "store", "--create", "-c", CREATE, folder=folder)
    started = Server("store", folder)
    yield started
    started.stop()
    run("--store", "store", "check", folder=folder)


@pytest.fixture
def token(server):
    """The token of a lock on notices/1, which is over at the end."""
    yield server.number("SELECT acquire_lock('notices/1', ttl => '10 minutes')")
    server.rows("SELECT release_lock('notices/1', force => TRUE)")


def locked(answer):
    return (answer.status, answer.code()) == (409, "SG3003")


def test_a_request_works_under_the_locks_that_it_shows(server, token):
    assert locked(server.sql(UPDATE))
    assert locked(server.sql(UPDATE, Sluicegate_Lock_Tokens=token + 1))
    assert server.sql(UPDATE, Sluicegate_Lock_Tokens=f"{token + 1}, {token}").status == 200
    body = {"sql": UPDATE, "lock_tokens": [token]}

    def sent(body):
        return server.send(
            "POST", "/v1/sql", json.dumps(body).encode(), Content_Type="application/json"
        )

    assert sent(body).status == 200
    assert locked(sent({"sql": UPDATE, "lock_tokens": None}))
    change = "SELECT set_status('notices', '1', 'SEEN')"
    assert server.rows(change) == [(False,)]
    assert server.rows(change, Sluicegate_Lock_Tokens=token) == [(True,)]
    preview = "PREVIEW SELECT set_status('notices', '1', 'AGAIN')"
    [(_, _, _, outcome, reason, *_)] = server.rows(preview)
    assert outcome == "locked" and f"token {token}, which was not shown" in reason


@pytest.mark.parametrize("given", ["x", "1;2", "-1", "1,,2", "99999999999999999999"])
def test_what_is_no_token_is_a_bad_request(server, given):
    answer = server.sql("SELECT 1", Sluicegate_Lock_Tokens=given)
    assert (answer.status, answer.code()) == (400, "SG4003")
    assert "acquire_lock" in answer.json()["hint"]
    body = json.dumps({"sql": "SELECT 1", "lock_tokens": [given]}).encode()
    answer = server.send("POST", "/v1/sql", body, Content_Type="application/json")
    assert (answer.status, answer.code()) == (400, "SG4003")


def test_tickets_and_streams_of_rows_carry_locks(server, token):
    for planned, fetched in [({}, {}), ({"Sluicegate_Lock_Tokens": token}, {})] + [
        ({}, {"Sluicegate_Lock_Tokens": token})
    ]:
        asked = server.send("POST", "/v1/flight/info", UPDATE.encode(), **planned).json()
        where = "/v1/flight/stream/" + asked["endpoints"][0]["ticket"]
        answer = server.send("GET", where, **fetched)
        assert locked(answer) if not planned and not fetched else answer.status == 200
    rows = pyarrow.table({"id": ["1/a"], "title": ["below"]})
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)

    def put(**headers):
        return server.send(
            "POST",
            "/v1/flight/put?table=notices",
            sink.getvalue().to_pybytes(),
            Content_Type="application/vnd.apache.arrow.stream",
            **headers,
        )

    assert locked(put())
    assert put(Sluicegate_Lock_Tokens=token).status == 200
    assert server.sql("DELETE FROM notices WHERE id = '1/a'", Sluicegate_Lock_Tokens=token)


def test_an_answer_names_the_locks_that_it_acquired_and_released(server):
    answer = server.sql("SELECT acquire_lock('notices/' || id) AS mine FROM notices WHERE id > '1'")
    changes = json.loads(answer.headers["Sluicegate-Locks"])
    tokens = [int(row["mine"]) for row in answer.json()]
    assert changes == {"acquired": tokens, "released": []} and len(tokens) == 2
    answer = server.sql("SELECT release_lock(resource, token) AS done FROM locks ORDER BY token")
    assert json.loads(answer.headers["Sluicegate-Locks"]) == {"acquired": [], "released": tokens}
    assert "Sluicegate-Locks" not in server.sql("SELECT 1").headers


def test_a_table_lock_keeps_new_rows_out(server):
    mine = server.number("SELECT acquire_lock('notices')")
    insert = "INSERT INTO notices VALUES ('9', 'intruder')"
    assert locked(server.sql(insert))
    assert server.sql(insert, Sluicegate_Lock_Tokens=mine).status == 200
    assert server.rows(f"SELECT release_lock('notices', {mine})") == [(True,)]
    assert server.sql("DELETE FROM notices WHERE id = '9'").status == 200


def test_a_resource_without_a_table_is_refused_with_a_near_name(server):
    answer = server.sql("SELECT acquire_lock('notises/1')")
    assert (answer.status, answer.code()) == (404, "SG2001")
    assert "notices/1" in answer.json()["hint"] and "'@notises/1'" in answer.json()["hint"]


@pytest.mark.parametrize("place", ["store", "server"])
def test_a_script_is_one_program(server, place):
    where = ["--store", "store", "--actor", "ann"] if place == "store" else ["--server", server.url]

    def said(*arguments, script=None):
        done = subprocess.run(
            [BINARY, *where, "--format", "csv", *arguments],
            cwd=server.folder,
            input=script,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr

    script = f"SELECT acquire_lock('notices/1') AS token; {UPDATE};"
    text = said(script=script)
    assert "1 row affected" in text, text
    token = text.split()[1]
    assert "SG3003" in said("-c", UPDATE)
    assert "SG3003" in said("--lock-token", "999999", "-c", UPDATE)
    assert "1 row affected" in said("--lock-token", "999999", "--lock-token", token, "-c", UPDATE)
    release = f"SELECT release_lock('notices/1', {token}) AS released"
    assert "true" in said("-c", release)
    # What a program released is its own no longer, and what it takes next is.
    again = (
        "SELECT acquire_lock('notices/1'); SELECT release_lock(resource, token) FROM locks;"
        f"SELECT acquire_lock('notices'); {UPDATE}; SELECT release_lock(resource, token) FROM locks"
    )
    assert "1 row affected" in said(script=again)
    assert server.number("SELECT count(*) FROM locks") == 0


def test_many_locks_are_kept_by_prompt_and_helper_alike(server):
    """More than a header holds: their tokens are read from the ledger."""
    take = "SELECT acquire_lock('@many/' || value) FROM generate_series(1, 3000)"
    hold = "SELECT acquire_lock('notices/1'); SELECT acquire_lock('notices/2')"
    done = subprocess.run(
        [BINARY, "--server", server.url],
        input=f"{take}; {hold}; {UPDATE};",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 row affected" in done.stderr, done.stderr
    server.rows("SELECT release_lock(resource, token) FROM locks")
    gate = sluicegate.connect(server.url)
    gate.execute(take)
    assert len(gate.lock_tokens) == 3000
    gate.execute("SELECT acquire_lock('notices/1')")
    gate.execute(UPDATE)
    gate.execute("SELECT release_lock(resource, token) FROM locks")
    assert gate.lock_tokens == set()


def test_a_client_of_the_helper_is_one_program(server):
    first, second = sluicegate.connect(server.url), sluicegate.connect(server.url)
    taken = first.execute("SELECT acquire_lock('notices/1') AS token")
    assert first.lock_tokens == set(taken["token"])
    with pytest.raises(sluicegate.SluicegateError, match="SG3003"):
        second.execute(UPDATE)
    frame = pandas.DataFrame({"id": ["1"], "title": ["by upload"]})
    with pytest.raises(sluicegate.SluicegateError, match="SG3003"):
        second.upload("notices", frame, mode="replace")
    assert first.upload("notices", frame, mode="replace") == 1
    [outcome] = first.preview("SELECT set_status('notices', '1', 'X')")["outcome"]
    assert outcome == "status-set"
    first.execute("SELECT release_lock('notices/1', $1)", [int(taken["token"][0])])
    assert first.lock_tokens == set()
    second.execute(UPDATE)


def test_flight_sql_shows_locks_in_its_metadata(server, token):
    grpc = server.url.replace("http://", "grpc://")

    def updated(**headers):
        options = {f"adbc.flight.sql.rpc.call_header.{name}": value for name, value in headers.items()}
        with flight_sql.connect(grpc, db_kwargs=options, autocommit=True) as connection:
            with connection.cursor() as cursor:
                cursor.execute(UPDATE)
                return cursor.rowcount

    with pytest.raises(flight_sql.Error, match="SG3003"):
        updated()
    with pytest.raises(flight_sql.Error, match="SG4003"):
        updated(**{"sluicegate-lock-tokens": "one"})
    updated(**{"sluicegate-lock-tokens": f"{token}, {token + 1}"})
    # Parameters of a prepared statement, and rows that are ingested.
    options = {"adbc.flight.sql.rpc.call_header.sluicegate-lock-tokens": str(token)}
    with flight_sql.connect(grpc, db_kwargs=options, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE notices SET title = ? WHERE id = '1'", ("bound",))
    assert server.rows("SELECT title FROM notices WHERE id = '1'") == [("bound",)]
