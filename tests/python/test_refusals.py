"""What must be refused, and with which status."""

import gzip
import os
import time
import uuid

import pytest
from conftest import Server, run

EFFECT = "SELECT schedule_job('index', id) FROM things"
CLAIM = "CALL claim_jobs('w', max => 1)"
INSERT = "INSERT INTO things VALUES ('z')"
CREATE = "CREATE TABLE others (id TEXT, PRIMARY KEY (id))"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with a token of each role, and a secret beside the folders that it may read."""
    top = tmp_path_factory.mktemp("guarded")
    folder = top / "work"
    folder.mkdir()
    documents = folder / "docs"
    documents.mkdir()
    (top / "secret.txt").write_text("secret")
    (folder / "server.key").write_text("secret")
    (documents / "open.txt").write_text("open")
    os.symlink(top / "secret.txt", documents / "link.txt")
    os.symlink(top, documents / "linked")
    server = Server("store", folder, "--allow-root", "docs")
    server.rows("CREATE TABLE things (id TEXT, PRIMARY KEY (id))")
    server.rows("INSERT INTO things VALUES ('a')")
    server.rows(
        "CREATE TRANSFORM index ON things FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER"
    )
    roles = ["reader", "worker", "operator", "admin"]
    server.tokens = {role: f"Bearer {server.token(role, 'the-' + role)}" for role in roles}
    server.secret = top / "secret.txt"
    yield server
    server.stop()


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer nonsense", "Basic YW5uOmFubg==", "Bearer \xff"],
)
def test_without_a_known_token_nothing_is_answered(guarded, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in [
        ("POST", "/v1/sql"),
        ("GET", "/v1/sql?q=SELECT+1"),
        ("GET", "/v1/statements"),
        ("GET", "/v1/statements/1"),
        ("DELETE", "/v1/statements/1"),
        ("GET", "/metrics"),
    ]:
        answer = guarded.send(method, path, b"SELECT 1" if method == "POST" else None, **headers)
        assert (answer.status, answer.code()) == (401, "SG4001"), (method, path)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_revoked_token_is_refused_at_once(guarded):
    token = f"Bearer {guarded.token('reader', 'short-lived')}"
    assert guarded.sql("SELECT 1", Authorization=token).status == 200
    run("--store", guarded.store, "token", "revoke", "short-lived", folder=guarded.folder)
    assert guarded.sql("SELECT 1", Authorization=token).status == 401


@pytest.mark.parametrize(
    ("role", "sql", "status"),
    [
        ("reader", "SELECT count(*) FROM events", 200),
        ("reader", f"PREVIEW {EFFECT}", 200),
        ("reader", EFFECT, 403),
        ("reader", CLAIM, 403),
        ("reader", INSERT, 403),
        ("reader", "COPY (SELECT 1) TO 'docs/reader.csv'", 403),
        ("worker", CLAIM, 200),
        ("worker", EFFECT, 403),
        ("worker", INSERT, 403),
        ("operator", EFFECT, 200),
        ("operator", "DELETE FROM things WHERE id = 'nobody'", 200),
        ("operator", CREATE, 403),
        ("operator", "DROP TRANSFORM index", 403),
        ("operator", "CREATE EXTERNAL TABLE e STORED AS CSV LOCATION 'docs/open.txt'", 403),
        ("admin", CREATE, 200),
    ],
)
def test_a_role_allows_what_it_says(guarded, role, sql, status):
    answer = guarded.sql(sql, Authorization=guarded.tokens[role])
    assert answer.status == status, answer.body.decode()


def test_a_statement_of_another_is_not_there(guarded):
    mine = guarded.sql("SELECT 1", Authorization=guarded.tokens["admin"])
    where = "/v1/statements/" + mine.headers["Sluicegate-Statement-Id"]
    assert guarded.send("GET", where, Authorization=guarded.tokens["admin"]).status == 200
    for method, path in [("GET", where), ("GET", where + "/result"), ("DELETE", where)]:
        answer = guarded.send(method, path, Authorization=guarded.tokens["reader"])
        assert answer.status == 404, answer.body.decode()


@pytest.mark.parametrize("role", ["reader", "operator", "admin"])
def test_no_path_leads_out_of_the_allowed_folders(guarded, role):
    secret = guarded.secret
    tricks = [
        f"{secret}",
        f"file://{secret}",
        f"FILE://{secret}",
        f"file://localhost{secret}",
        "../secret.txt",
        "./../secret.txt",
        "docs/linked/secret.txt",
        "docs/link.txt",
        "server.key",
        f"{secret.parent}/work/server.key",
        "docs/../server.key",
        "store/../../secret.txt",
        "%2e%2e/secret.txt",
        "file:..%2fsecret.txt",
        f"//{secret}",
        "/proc/self/environ",
        "/etc/passwd",
    ]
    authorization = guarded.tokens[role]
    for path in tricks:
        for sql in [
            f"SELECT read_text('{path}')",
            f"SELECT content_hash('{path}')",
            f"SELECT * FROM list_files('{path}')",
        ]:
            answer = guarded.sql(sql, Authorization=authorization)
            found = answer.status == 200 and answer.json()
            assert not found and answer.status in (200, 400, 403, 404), (sql, answer.body)
            assert b"root:" not in answer.body and b'"secret"' not in answer.body
    for path in ["../*", "/etc/*", f"{secret.parent}/*", "docs/linked/*", "../**", "*.key"]:
        answer = guarded.sql(f"SELECT uri FROM list_files('{path}')", Authorization=authorization)
        found = answer.status == 200 and answer.json()
        assert not found and answer.status in (200, 403), (path, answer.body)


@pytest.mark.parametrize("role", ["operator", "admin"])
def test_copy_writes_nowhere_else(guarded, role):
    top = guarded.secret.parent
    before = sorted(top.iterdir())
    for path in [
        "../out.csv",
        f"{top}/out.csv",
        f"file://{top}/out.csv",
        "docs/linked/out.csv",
        "store/../../out.csv",
        "docs/link.txt",
        "server.key",
        "docs/../script.py",
        "/tmp/sluicegate-must-not-be-here.csv",
    ]:
        answer = guarded.sql(
            f"COPY (SELECT 1 AS a) TO '{path}' STORED AS CSV", Authorization=guarded.tokens[role]
        )
        assert answer.status == 403, (path, answer.body)
    assert sorted(top.iterdir()) == before
    assert guarded.secret.read_text() == "secret"


def test_what_is_in_the_folder_can_be_read(guarded):
    authorization = guarded.tokens["reader"]
    assert guarded.rows("SELECT read_text('docs/open.txt')", Authorization=authorization) == [("open",)]


@pytest.mark.parametrize(
    "sql",
    [
        "SET datafusion.runtime.memory_limit = '100G'",
        "SET datafusion.runtime.max_temp_directory_size = '100G'",
        "SET datafusion.runtime.temp_directory = '/'",
        "set Datafusion.Runtime.Memory_Limit to '100G'",
        "RESET datafusion.runtime.memory_limit",
        "SET datafusion.execution.target_partitions = 100000",
        "SET datafusion.catalog.information_schema = false",
    ],
)
@pytest.mark.parametrize("role", ["reader", "operator", "admin"])
def test_no_setting_lifts_a_limit(guarded, sql, role):
    answer = guarded.sql(sql, Authorization=guarded.tokens[role])
    assert answer.status in (400, 403), answer.body.decode()
    assert answer.code() in ("SG1005", "SG1006", "SG4002"), answer.body.decode()


def test_a_body_that_is_too_large_is_refused_and_the_next_request_works(guarded):
    authorization = guarded.tokens["operator"]
    body = b"SELECT '" + b"x" * (17 << 20) + b"'"
    answer = guarded.send("POST", "/v1/sql", body, Authorization=authorization)
    assert (answer.status, answer.code()) == (413, "SG5004")
    pieces = (b"SELECT 1 -- " + b"x" * (1 << 20) for _ in range(18))
    connection = guarded.connect()
    headers = {"Authorization": authorization, "Content-Type": "text/plain"}
    connection.request("POST", "/v1/sql", pieces, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    assert guarded.sql("SELECT 1", Authorization=authorization).status == 200


@pytest.mark.parametrize(
    ("sql", "headers", "status"),
    [
        ("SELEC 1", {}, 400),
        ("SELECT 1; SELECT 2", {}, 400),
        ("SELECT * FROM range(0, 100)", {"Sluicegate_Max_Rows": 10}, 413),
        ("SELECT 1", {"Sluicegate_Max_Rows": "many"}, 400),
        ("SELECT 1", {"Sluicegate_Timeout": "soon"}, 400),
        ("SELECT 1", {"Accept": "image/png"}, 406),
        ("SELECT 1", {"Idempotency_Key": "k" * 1000}, 400),
        (EFFECT, {"Sluicegate_Read_Only": "?1"}, 403),
        (EFFECT, {"Sluicegate_Read_Only": "yes"}, 400),
    ],
)
def test_a_request_that_cannot_be_answered_says_so(guarded, sql, headers, status):
    answer = guarded.sql(sql, Authorization=guarded.tokens["admin"], **headers)
    assert answer.status == status, answer.body.decode()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"] and answer.json()["code"]


def test_get_is_for_queries_only(guarded):
    for sql in ["SELECT+set_status('things','a','X')", "DELETE+FROM+things", "CHECKPOINT"]:
        answer = guarded.send("GET", f"/v1/sql?q={sql}", Authorization=guarded.tokens["admin"])
        assert (answer.status, answer.headers["Allow"]) == (405, "POST"), sql


def test_a_token_that_is_revoked_while_its_body_comes_does_nothing_more(guarded):
    token = guarded.token("operator", "slow")
    head = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
    sql = EFFECT.encode()

    def half_and_half():
        yield sql[:10]
        run("--store", guarded.store, "token", "revoke", "slow", folder=guarded.folder)
        # For so long a judgement counts.
        time.sleep(1.1)
        yield sql[10:]

    connection = guarded.connect()
    connection.request("POST", "/v1/sql", half_and_half(), head, encode_chunked=True)
    assert connection.getresponse().status == 401


def test_whoever_may_write_no_rows_is_refused_before_they_are_read(guarded):
    connection = guarded.connect()
    connection.putrequest("POST", "/v1/flight/put?table=things")
    connection.putheader("Authorization", guarded.tokens["worker"])
    connection.putheader("Content-Type", "application/vnd.apache.arrow.stream")
    connection.putheader("Content-Length", "1000000000")
    connection.endheaders()
    # Not one byte of the body was sent.
    assert connection.getresponse().status == 403


def test_a_compressed_body_is_refused_for_what_it_is(guarded):
    answer = guarded.send(
        "POST",
        "/v1/sql",
        gzip.compress(b"SELECT 1"),
        Authorization=guarded.tokens["reader"],
        Content_Encoding="gzip",
    )
    assert (answer.status, answer.code()) == (415, "SG4005")


def test_more_rows_than_wanted_are_refused_before_anything_is_changed(guarded):
    headers = {"Authorization": guarded.tokens["admin"], "Sluicegate_Max_Rows": 1}
    guarded.rows(CREATE.replace("others", "few"), Authorization=headers["Authorization"])
    before = guarded.number("SELECT max(version) FROM events", **headers)
    for sql in [
        "INSERT INTO few VALUES ('a'), ('b')",
        "SELECT acquire_lock('few/' || value) FROM range(0, 2)",
    ]:
        answer = guarded.sql(sql, **headers)
        assert (answer.status, answer.code()) == (413, "SG5001"), sql
        assert answer.json()["effects_committed"] is False
    claim = guarded.sql("CALL claim_jobs('w', max => 2)", **headers)
    assert (claim.status, claim.code()) == (413, "SG5001")
    none = {**headers, "Sluicegate_Max_Rows": 0}
    assert guarded.sql("SELECT acquire_lock('few')", **none).status == 413
    assert guarded.number("SELECT max(version) FROM events", **headers) == before
    assert guarded.sql("INSERT INTO few VALUES ('a')", **headers).status == 200


def test_a_ticket_is_run_by_get_only(guarded):
    authorization = guarded.tokens["admin"]
    asked = guarded.send(
        "POST", "/v1/flight/info", b"SELECT acquire_lock('@once')", Authorization=authorization
    )
    where = "/v1/flight/stream/" + asked.json()["endpoints"][0]["ticket"]
    answer = guarded.send("HEAD", where, Authorization=authorization)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    held = "SELECT count(*) FROM locks WHERE resource = '@once'"
    assert guarded.number(held, Authorization=authorization) == 0
    assert guarded.send("GET", where, Authorization=authorization).status == 200
    assert guarded.number(held, Authorization=authorization) == 1


def test_the_ticket_of_a_statement_that_has_ended_tells_its_outcome_also_after_a_cancel(guarded):
    authorization = guarded.tokens["admin"]

    def plan(resource):
        sql = f"SELECT acquire_lock('{resource}') AS token".encode()
        asked = guarded.send("POST", "/v1/flight/info", sql, Authorization=authorization).json()
        where = "/v1/flight/stream/" + asked["endpoints"][0]["ticket"]
        return where, "/v1/statements/" + asked["statement_id"]

    where, record = plan("@ended")
    first = guarded.send("GET", where, Authorization=authorization)
    assert guarded.send("DELETE", record, Authorization=authorization).status == 202
    again = guarded.send("GET", where, Authorization=authorization)
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["Idempotency-Replayed"] == "?1"
    # One that was taken back before it ran never runs, and says why.
    where, record = plan("@taken-back")
    assert guarded.send("DELETE", record, Authorization=authorization).status == 202
    for path in (where, record + "/result"):
        answer = guarded.send("GET", path, Authorization=authorization)
        assert (answer.status, answer.code()) == (409, "SG4010"), path
        assert answer.json()["effects_committed"] is False


def test_the_limits_of_a_fetch_count_beside_those_of_its_plan(guarded):
    authorization = guarded.tokens["reader"]
    asked = guarded.send(
        "POST", "/v1/flight/info", b"SELECT * FROM range(0, 100)", Authorization=authorization
    )
    where = "/v1/flight/stream/" + asked.json()["endpoints"][0]["ticket"]
    for most, status in [("1", 413), ("many", 400), ("100", 200)]:
        headers = {"Authorization": authorization, "Sluicegate_Max_Rows": most}
        assert guarded.send("GET", where, **headers).status == status, most


def test_a_change_whose_rows_have_no_such_format_says_that_it_is_committed(guarded):
    for prefer in ({}, {"Prefer": "wait=60"}):
        name = f"@unfit-{len(prefer)}"
        headers = {
            "Authorization": guarded.tokens["admin"],
            "Accept": "application/vnd.apache.parquet",
            **prefer,
        }
        sql = f"SELECT INTERVAL '1 month 1 day' AS long, acquire_lock('{name}')"
        answer = guarded.sql(sql, **headers)
        assert (answer.status, answer.code()) == (406, "SG4004"), answer.body
        assert answer.json()["effects_committed"] is True
        held = f"SELECT count(*) FROM locks WHERE resource = '{name}'"
        assert guarded.number(held, Authorization=headers["Authorization"]) == 1


def test_a_repetition_that_is_not_waited_for_says_so(guarded):
    headers = {
        "Authorization": guarded.tokens["admin"],
        "Idempotency_Key": uuid.uuid4(),
        "Prefer": "wait=60",
    }
    sql = "SELECT acquire_lock('@asynchronous')"
    first = guarded.sql(sql, **headers)
    again = guarded.sql(sql, **headers)
    assert first.status == again.status == 200 and again.body == first.body
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "?1"
    assert again.headers["Sluicegate-Statement-Id"] == first.headers["Sluicegate-Statement-Id"]


def test_a_claim_that_finds_nothing_is_no_commit(guarded):
    headers = {"Authorization": guarded.tokens["admin"], "Idempotency_Key": uuid.uuid4()}
    guarded.rows(
        "CREATE TRANSFORM idle ON things FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER",
        Authorization=headers["Authorization"],
    )
    before = guarded.number("SELECT max(version) FROM events", **headers)
    assert guarded.rows("CALL claim_jobs('w', 'idle')", **headers) == []
    assert guarded.number("SELECT max(version) FROM events", **headers) == before


def test_a_file_of_an_attempt_is_stored_once_and_only_the_same_again(guarded):
    authorization = guarded.tokens["admin"]
    for sql in [
        "CREATE TRANSFORM store ON things FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER",
        "INSERT INTO things VALUES ('stored')",
        "SELECT schedule_job('store', 'stored')",
    ]:
        guarded.rows(sql, Authorization=authorization)
    claimed = guarded.rows("CALL claim_jobs('w', 'store')", Authorization=authorization)
    job, token = claimed[0][:2]
    where = f"/v1/jobs/{job}/output?token={token}&path=a.ttl"

    def put(content, place=where):
        return guarded.send("PUT", place, content, Authorization=authorization).status

    assert put(b"<a> <b> <c>") == 200
    assert put(b"<a> <b> <c>") == 200
    assert put(b"<a> <b> <d>") == 409
    assert put(b"<a>") == 409
    assert put(b"<a>", where.replace(f"token={token}", f"token={int(token) + 1}")) == 409
    read = f"SELECT read_text(concat('store/outputs/store/{job}/1/', 'a.ttl'))"
    assert guarded.rows(read, Authorization=authorization) == [("<a> <b> <c>",)]

