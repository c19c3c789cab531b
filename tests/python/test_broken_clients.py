"""Clients that go away, are out of time, cancel or ask again: a change is whole, or it is not."""

import socket
import time
import uuid

import pyarrow.flight as flight
import pytest
from conftest import Server, until
from flight_messages import command

SOURCES = 2000
SCHEDULE = "SELECT schedule_job('index', id) FROM things"
# Reads so much before the first effect that a client can change its mind.
SLOW = f"""SELECT schedule_job('index', id) FROM things
            WHERE (SELECT count(*) FROM range(0, 40000) AS a, range(0, 40000) AS b
                    WHERE (a.value * b.value) % 7 = 1) > 0"""


@pytest.fixture
def things(tmp_path):
    """A server with sources of which none is scheduled."""
    server = Server("store", tmp_path)
    for sql in [
        "CREATE TABLE things (id TEXT, PRIMARY KEY (id))",
        f"INSERT INTO things (id) SELECT CAST(value AS TEXT) FROM range(0, {SOURCES})",
        "CREATE TRANSFORM index ON things FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER",
    ]:
        server.rows(sql)
    yield server
    server.stop()


def scheduled(server):
    return server.number("SELECT count(*) FROM events WHERE kind = 'job-scheduled'")


def still(server):
    """Whether no statement of the server runs."""
    listed = server.send("GET", "/v1/statements").json()["statements"]
    return all(one["state"] not in ("planned", "running") for one in listed)


def cancel_all(server):
    for one in server.send("GET", "/v1/statements").json()["statements"]:
        if one["state"] == "running":
            where = f"/v1/statements/{one['statement_id']}"
            assert server.send("DELETE", where).status == 202


def request(sql, key, length=None):
    body = sql.encode()
    return (
        "POST /v1/sql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
        f"Idempotency-Key: {key}\r\nContent-Length: {length or len(body)}\r\n\r\n"
    ).encode() + body


def leave(server, content, after=0.0):
    """Sends bytes and hangs up, after a while, without reading the answer."""
    host, port = server.host.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(content)
        time.sleep(after)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.1])
def test_a_client_that_hangs_up_leaves_all_or_nothing_and_its_retry_settles_it(things, after):
    key = uuid.uuid4()
    leave(things, request(SCHEDULE, key), after)
    until(lambda: still(things))
    assert scheduled(things) in (0, SOURCES)
    assert things.sql(SCHEDULE, Idempotency_Key=key).status == 200
    assert scheduled(things) == SOURCES
    known = f"SELECT count(*) FROM statements WHERE idempotency_key = '{key}'"
    assert things.number(known) == 1


def test_half_a_request_does_nothing(things):
    whole = request(SCHEDULE, "half")
    leave(things, whole[:-20])
    leave(things, request(SCHEDULE, "short", length=10_000))
    leave(things, whole[: len(whole) // 2])
    until(lambda: still(things))
    assert scheduled(things) == 0


def test_a_statement_out_of_time_is_whole_or_not_there(things):
    answer = things.sql(SLOW, Sluicegate_Timeout="200ms", Idempotency_Key="late")
    assert (answer.status, answer.code()) == (504, "SG5003")
    assert answer.json()["effects_committed"] is None
    until(lambda: still(things))
    assert scheduled(things) == 0
    # So short that the end may come at any point; the same key settles what is unknown.
    for ms in range(1, 40, 6):
        key = f"short-{ms}"
        sql = f"SELECT set_status('things', id, 'S{ms}') FROM things"
        things.sql(sql, Sluicegate_Timeout=f"{ms}ms", Idempotency_Key=key)
        until(lambda: still(things))
        done = f"SELECT count(*) FROM things WHERE status = 'S{ms}'"
        assert things.number(done) in (0, SOURCES)
        assert things.sql(sql, Idempotency_Key=key).status == 200
        assert things.number(done) == SOURCES
        assert things.number(f"SELECT count(*) FROM events WHERE to_status = 'S{ms}'") == SOURCES


def test_a_cancelled_statement_leaves_nothing(things):
    answer = things.sql(SLOW, Prefer="respond-async", Idempotency_Key="cancelled")
    assert answer.status == 202
    where = answer.headers["Location"]
    assert things.send("DELETE", where).status == 202
    until(lambda: things.send("GET", where).json()["state"] == "cancelled")
    assert things.send("GET", where + "/result").status == 409
    assert scheduled(things) == 0
    # The key is free: nothing happened under it.
    assert things.sql(SCHEDULE, Idempotency_Key="cancelled").status == 200
    assert scheduled(things) == SOURCES


# More than connections buffer.
LONG = "SELECT value, repeat('x', 1000) FROM range(0, 10000000)"


def test_a_client_that_reads_no_further_can_be_cancelled_over_http(things):
    host, port = things.host.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request(LONG, "long"))
        assert connection.recv(1000)
        cancel_all(things)
        until(lambda: still(things))


def test_rows_of_an_effect_that_nobody_reads_can_be_given_up(things):
    """It is committed; DELETE does not undo it, but ends the sending."""
    sql = "SELECT repeat('x', 20000) AS long, set_status('things', id, 'SEEN') FROM things"
    host, port = things.host.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request(sql, "unread"))
        assert connection.recv(1000)

        def records():
            return things.send("GET", "/v1/statements").json()["statements"]

        until(lambda: any(one["state"] == "committed" and "SEEN" in one["sql"] for one in records()))
        busy = "sluicegate_statements_running 1"
        assert busy in things.send("GET", "/metrics").body.decode()
        for one in records():
            things.send("DELETE", f"/v1/statements/{one['statement_id']}")
        until(lambda: busy not in things.send("GET", "/metrics").body.decode())
    assert things.number("SELECT count(*) FROM things WHERE status = 'SEEN'") == SOURCES


def test_a_client_that_reads_no_further_can_be_cancelled_over_flight(things):
    client = flight.connect("grpc://" + things.host)
    asked = flight.FlightDescriptor.for_command(command("CommandStatementQuery", LONG))
    reader = client.do_get(client.get_flight_info(asked).endpoints[0].ticket)
    assert reader.read_chunk().data.num_rows
    cancel_all(things)
    until(lambda: still(things))
    with pytest.raises(flight.FlightError, match="SG4010"):
        while True:
            reader.read_chunk()


def test_a_retry_after_the_server_was_killed_finds_the_first_outcome(things):
    first = things.sql(SCHEDULE, Idempotency_Key="once")
    assert first.status == 200
    things.kill()
    again = Server("store", things.folder)
    answer = again.sql(SCHEDULE, Idempotency_Key="once")
    assert answer.status == 200 and answer.headers["Idempotency-Replayed"] == "?1"
    for name in ["Sluicegate-Statement-Id", "Sluicegate-Version"]:
        assert answer.headers[name] == first.headers[name]
    assert scheduled(again) == SOURCES
    other = again.sql("SELECT set_status('things', '1', 'X')", Idempotency_Key="once")
    assert other.status == 422
    again.stop()
