"""Two servers and a prompt on one store at the same time."""

import concurrent.futures
import subprocess

from conftest import BINARY, Server, run


def test_two_servers_and_a_prompt_share_a_store(tmp_path):
    first = Server("store", tmp_path)
    second = Server("store", tmp_path)
    first.rows("CREATE TABLE things (id TEXT, PRIMARY KEY (id))")
    first.rows("INSERT INTO things SELECT CAST(value AS TEXT) FROM generate_series(1, 300)")
    second.rows(
        "CREATE TRANSFORM index ON things FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER"
    )
    prompt = subprocess.Popen(
        [BINARY, "--store", "store", "--format", "csv"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    script = "".join(
        f"SELECT schedule_job('index', id) FROM things WHERE CAST(id AS BIGINT) % 10 = {rest};\n"
        for rest in range(10)
    )
    told = [None]

    def at_the_prompt():
        told[0] = prompt.communicate(script, timeout=120)[0]

    def at_a_server(server, name):
        done = 0
        for _ in range(400):
            claimed = server.rows(f"CALL claim_jobs('{name}', 'index', max => 7)")
            for row in claimed:
                assert server.rows(f"SELECT complete_job({row[0]}, {row[1]})") == [(True,)]
            done += len(claimed)
            if told[0] is not None and not claimed:
                break
        return done

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        prompted = pool.submit(at_the_prompt)
        done = [
            pool.submit(at_a_server, server, name)
            for server, name in [(first, "one"), (second, "two")]
        ]
        prompted.result(timeout=120)
        done = [each.result(timeout=120) for each in done]
    assert prompt.returncode == 0
    # What one of them did, the others see at once.
    query = "SELECT count(*) FROM things WHERE status = 'DONE'"
    assert first.number(query) == second.number(query) == sum(done) == 300
    counts = "SELECT max(n) FROM (SELECT count(*) AS n FROM events WHERE kind = '{}' GROUP BY job_id)"
    for kind in ["job-started", "job-completed"]:
        assert second.number(counts.format(kind)) == 1
    token = f"Bearer {first.token('admin', 'boss')}"
    assert second.sql("SELECT 1").status == 401
    assert second.sql("SELECT 1", Authorization=token).status == 200
    first.stop()
    assert second.sql("SELECT 1", Authorization=token).status == 200
    second.stop()
    run("--store", "store", "check", folder=tmp_path)


def test_a_plan_that_is_taken_back_runs_on_no_server_and_one_that_has_run_says_so(tmp_path):
    first = Server("store", tmp_path)
    second = Server("store", tmp_path)
    first.rows("CREATE TABLE things (id TEXT, PRIMARY KEY (id))")

    def plan(resource):
        sql = f"SELECT acquire_lock('{resource}')".encode()
        asked = first.send("POST", "/v1/flight/info", sql).json()
        where = "/v1/flight/stream/" + asked["endpoints"][0]["ticket"]
        return where, "/v1/statements/" + asked["statement_id"]

    where, record = plan("@taken-back")
    assert first.send("DELETE", record).json()["state"] == "cancelled"
    for server in (first, second):
        answer = server.send("GET", where)
        assert (answer.status, answer.code()) == (409, "SG4010")
    where, record = plan("@run-elsewhere")
    answer = second.send("GET", where)
    # Whichever server runs it, it is the statement that was planned.
    assert answer.status == 200 and answer.headers["Sluicegate-Statement-Id"] in record
    assert first.send("DELETE", record).json()["state"] == "committed"
    assert first.send("GET", where).headers["Idempotency-Replayed"] == "?1"
    first.kill()
    third = Server("store", tmp_path)
    held = third.rows("SELECT resource FROM locks")
    assert held == [("@run-elsewhere",)]
    second.stop()
    third.stop()
    run("--store", "store", "check", folder=tmp_path)


def test_a_repeated_run_of_jobs_runs_none_that_came_since(tmp_path):
    server = Server("store", tmp_path)
    for sql in [
        "CREATE TABLE things (id TEXT, n BIGINT, PRIMARY KEY (id))",
        "INSERT INTO things VALUES ('a', 0), ('b', 0)",
        "CREATE TRANSFORM one ON things FROM STATUS 'RAW' TO STATUS 'DONE' "
        "AS SELECT id, 1 AS n FROM input",
        "SELECT schedule_job('one', 'a')",
    ]:
        server.rows(sql)
    assert server.sql("CALL run_jobs()", Idempotency_Key="run").status == 200
    server.rows("SELECT schedule_job('one', 'b')")
    again = server.sql("CALL run_jobs()", Idempotency_Key="run")
    assert again.headers["Idempotency-Replayed"] == "?1"
    assert server.rows("SELECT id, status FROM things ORDER BY id") == [("a", "DONE"), ("b", "RAW")]
    server.stop()
