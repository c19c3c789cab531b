"""`sluicegate work --server`: a worker on a machine without the store."""

import os
import signal
import subprocess
import time

import pytest
from conftest import BINARY, Server, restarted, until

ANSWER = """
import json, os, sys
for line in sys.stdin:
    source = json.loads(line)
    text = open(source["uri"]).read()
    print("reading", source["source_id"], file=sys.stderr, flush=True)
    answer = {"source_id": source["source_id"]}
    if source["source_id"] == "bad":
        answer["columns"] = {"nothing": 1}
    elif source["source_id"] == "wrong":
        answer["status"] = "NOT MINE"
    else:
        os.makedirs(source["output"] + "/parts", exist_ok=True)
        open(source["output"] + "/parts/a.txt", "w").write(text.upper())
        open(source["output"] + "/b c.txt", "w").write(source["row"]["title"])
        answer["columns"] = {"size": len(text)}
    print(json.dumps(answer), flush=True)
"""


class Bench:
    """A server with its documents in one folder, and an empty folder for workers."""

    def __init__(self, top):
        self.home, self.away = top / "home", top / "away"
        self.home.mkdir()
        self.away.mkdir()
        self.server = Server("store", self.home, "--allow-root", ".")
        self.rows = self.server.rows
        self.environment = {
            name: value for name, value in os.environ.items() if name != "SLUICEGATE_TOKEN"
        }

    def guard(self):
        self.admin = f"Bearer {self.server.token('admin', 'boss')}"
        self.environment["SLUICEGATE_TOKEN"] = self.server.token("worker", "far")
        self.rows = lambda sql: self.server.rows(sql, Authorization=self.admin)

    def documents(self, ids):
        for id in ids:
            (self.home / f"{id}.txt").write_text(f"text of {id}")
        values = ", ".join(f"('{id}', 'title of {id}', '{id}.txt')" for id in ids)
        self.rows(
            "CREATE TABLE docs (id TEXT, title TEXT, uri TEXT, size BIGINT, PRIMARY KEY (id))"
        )
        self.rows(f"INSERT INTO docs (id, title, uri) VALUES {values}")

    def transform(self, name, body, options=""):
        self.rows(
            f"CREATE TRANSFORM {name} ON docs FROM STATUS 'RAW' TO STATUS 'DONE' {options} {body}"
        )

    def schedule(self, name):
        self.rows(f"SELECT schedule_job('{name}', id) FROM docs")

    def worker(self, *arguments):
        return subprocess.Popen(
            [BINARY, "work", "--server", self.server.url, "--parallel", "2", *arguments],
            cwd=self.away,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def work(self, *arguments):
        """Runs a worker until it is idle and returns what it told."""
        worker = self.worker("--until-idle", *arguments)
        told = worker.communicate(timeout=120)[1]
        assert worker.returncode == 0, told
        return told


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.server.stop()
    check = [BINARY, "--store", "store", "check"]
    subprocess.run(check, cwd=bench.home, check=True, capture_output=True)


def test_commands_run_on_copies_and_outputs_come_back(bench):
    bench.documents(["a", "b", "bad", "wrong"])
    bench.guard()
    bench.transform("shout", "USING COMMAND 'python3 answer.py'", "WITH (max_attempts 1)")
    bench.schedule("shout")
    (bench.away / "answer.py").write_text(ANSWER)
    assert "shout: 2 completed, 2 discarded" in bench.work()
    rows = bench.rows("SELECT id, size, status FROM docs ORDER BY id")
    assert rows[:2] == [("a", "9", "DONE"), ("b", "9", "DONE")]
    assert rows[2:] == [("bad", None, "RAW"), ("wrong", None, "RAW")]
    errors = bench.rows("SELECT DISTINCT error_code FROM jobs WHERE state = 'discarded'")
    assert errors == [("SG8005",)]
    text = "SELECT read_text(concat(output_uri, '/{}')) FROM jobs WHERE source_id = 'a'"
    assert bench.rows(text.format("parts/a.txt")) == [("TEXT OF A",)]
    assert bench.rows(text.format("b c.txt")) == [("title of a",)]
    log = bench.rows("SELECT read_text(log_uri) FROM jobs WHERE source_id = 'a'")
    assert "reading a" in log[0][0]
    # Nothing of the server's folder is in the worker's, and no copy stays.
    assert os.listdir(bench.away) == ["answer.py"]
    worker = bench.rows("SELECT DISTINCT actor FROM events WHERE kind = 'job-completed'")
    assert worker == [("far",)]


def test_a_command_per_source_gets_the_copy_and_its_folder(bench):
    bench.documents(["a"])
    bench.transform("copy", "USING COMMAND 'cp {uri} {output}'")
    bench.schedule("copy")
    bench.work()
    text = "SELECT read_text(concat(output_uri, '/a.txt')) FROM jobs"
    assert bench.rows(text) == [("text of a",)]


def test_a_document_outside_the_roots_fails_its_source_alone(bench):
    bench.documents(["a", "b"])
    bench.rows("UPDATE docs SET uri = '/etc/hostname' WHERE id = 'b'")
    bench.transform("copy", "USING COMMAND 'cp {uri} {output}'", "WITH (max_attempts 1)")
    bench.schedule("copy")
    bench.work()
    jobs = bench.rows("SELECT source_id, state, error_code FROM jobs ORDER BY source_id")
    assert jobs == [("a", "completed", None), ("b", "discarded", "SG6001")]


def test_transforms_in_sql_are_left_and_told_of(bench):
    bench.documents(["a"])
    bench.transform("upper", "AS SELECT id, upper(title) AS title FROM input")
    bench.schedule("upper")
    assert "upper" in bench.work()
    assert bench.rows("SELECT state FROM jobs") == [("available",)]
    worker = bench.worker("--transforms", "upper")
    told = worker.communicate(timeout=60)[1]
    assert worker.returncode == 1 and "error SG1004" in told and "in SQL" in told
    worker = bench.worker("--transforms", "nothing")
    assert "error SG2002" in worker.communicate(timeout=60)[1]


def test_a_worker_that_is_told_to_end_hands_back(bench):
    bench.documents(["a", "b"])
    bench.transform("slow", "USING COMMAND 'sh -c \"sleep 60\" {source_id}'")
    bench.schedule("slow")
    worker = bench.worker()
    until(lambda: bench.server.number("SELECT count(*) FROM jobs WHERE state = 'running'") == 2)
    worker.send_signal(signal.SIGTERM)
    assert "2 handed-back" in worker.communicate(timeout=60)[1]
    jobs = bench.rows("SELECT DISTINCT state, failures, crashes FROM jobs")
    assert jobs == [("available", "0", "0")]


@pytest.mark.parametrize("lease", ["1 s", "1 day"])
def test_a_cancelled_job_is_stopped_whatever_its_lease(bench, lease):
    bench.documents(["a", "b"])
    options = f"WITH (lease '{lease}')"
    bench.transform("slow", "USING COMMAND 'sh -c \"sleep 600\" {source_id}'", options)
    bench.schedule("slow")
    worker = bench.worker()
    until(lambda: bench.server.number("SELECT count(*) FROM jobs WHERE state = 'running'") == 2)
    bench.rows("SELECT cancel_job(job_id) FROM jobs WHERE source_id = 'a'")
    state = "SELECT state FROM jobs WHERE source_id = '{}'"
    until(lambda: bench.rows(state.format("a")) == [("cancelled",)])
    assert bench.rows(state.format("b")) == [("running",)]
    worker.send_signal(signal.SIGTERM)
    assert "1 handed-back" in worker.communicate(timeout=60)[1]


def test_a_claim_is_answered_again_by_a_server_that_was_away(bench):
    """An answer that was lost with its server left jobs running until their leases ended."""
    bench.documents(["a", "b", "c"])
    bench.transform("publish", "USING OUTSIDE WORKER", "WITH (lease '1 day')")
    bench.schedule("publish")
    claim = "CALL claim_jobs('w', 'publish', max => 2, rows => TRUE)"
    first = bench.server.sql(claim, Idempotency_Key="k")
    assert [row["source_id"] for row in first.json()] == ["a", "b"]
    bench.server.kill()
    bench.server = restarted(bench.server)
    again = bench.server.sql(claim, Idempotency_Key="k")
    assert again.headers["Sluicegate-Replayed"] == "rows"
    assert again.json() == first.json()
    job, token = (first.json()[0][name] for name in ("job_id", "token"))
    assert bench.server.rows(f"SELECT complete_job({job}, {token})") == [(True,)]
    again = bench.server.sql(claim, Idempotency_Key="k")
    assert again.json() == first.json()[1:]


def test_a_lease_that_nobody_ended_is_found(bench):
    """Nobody commits but this worker, and the only job has a worker that is gone."""
    bench.documents(["a"])
    bench.transform("copy", "USING COMMAND 'cp {uri} {output}'", "WITH (lease '1 s')")
    bench.schedule("copy")
    assert len(bench.rows("CALL claim_jobs('gone', 'copy')")) == 1
    worker = bench.worker("--until-idle", "--wait", "60")
    told = worker.communicate(timeout=120)[1]
    assert worker.returncode == 0, told
    assert bench.rows("SELECT state, crashes FROM jobs") == [("completed", "1")]


def test_a_server_that_was_away_finds_its_worker_again(bench):
    bench.documents([f"d{number}" for number in range(40)])
    bench.transform("shout", "USING COMMAND 'python3 answer.py'", "WITH (group_size 2)")
    bench.schedule("shout")
    (bench.away / "answer.py").write_text(ANSWER + "\nimport time; time.sleep(0.2)\n")
    worker = bench.worker("--until-idle", "--wait", "70")
    done = "SELECT count(*) FROM jobs WHERE state = 'completed'"
    until(lambda: bench.server.number(done) >= 4)
    bench.server.kill()
    time.sleep(1)
    bench.server = restarted(bench.server)
    bench.rows = bench.server.rows
    told = worker.communicate(timeout=180)[1]
    assert worker.returncode == 0, told
    assert bench.server.number(done) == 40
    twice = "SELECT count(*) FROM events WHERE kind = 'job-completed'"
    assert bench.server.number(twice) == 40


def test_files_of_jobs_are_for_whoever_holds_the_attempt(bench):
    bench.documents(["a"])
    (bench.home / "store" / "secret").write_text("secret")
    bench.transform("publish", "USING OUTSIDE WORKER", "WITH (lease '1 hour')")
    bench.schedule("publish")
    bench.guard()
    token = bench.rows("CALL claim_jobs('w', 'publish')")[0][1]
    worker = {"Authorization": f"Bearer {bench.environment['SLUICEGATE_TOKEN']}"}
    send = bench.server.send
    source = "/v1/jobs/1/source"
    assert send("GET", f"{source}?token={token}", **worker).body == b"text of a"
    reader = {"Authorization": f"Bearer {bench.server.token('reader', 'eyes')}"}
    for path, headers, status, code in [
        (f"{source}?token={token}", {}, 401, "SG4001"),
        (f"{source}?token={token}", reader, 403, "SG4002"),
        (f"{source}?token={int(token) + 1}", worker, 409, "SG8006"),
        (f"/v1/jobs/2/source?token={token}", worker, 409, "SG8006"),
        (source, worker, 400, "SG4003"),
        (f"{source}?token=x", worker, 400, "SG4003"),
        (f"/v1/jobs/x/source?token={token}", worker, 400, "SG4003"),
    ]:
        answer = send("GET", path, **headers)
        assert (answer.status, answer.code()) == (status, code), path
    output = f"/v1/jobs/1/output?token={token}&path="
    for name in ["", "../2/a", "/etc/passwd", "a/../../../secret", "..%2Fb", ".x", "a%00b", "a%5Cb"]:
        answer = send("PUT", output + name, b"x", **worker)
        assert (answer.status, answer.code()) == (400, "SG4003"), name
    first = send("PUT", output + "a/b.txt", b"one", **worker)
    assert first.status == 200 and first.json()["uri"].endswith("outputs/publish/1/1/a/b.txt")
    # Sent again it stays; something else under the name is refused.
    assert send("PUT", output + "a/b.txt", b"one", **worker).json() == first.json()
    assert send("PUT", output + "a/b.txt", b"other", **worker).code() == "SG2003"
    log = f"/v1/jobs/1/log?token={token}"
    assert send("PUT", log, b"x" * 70_000, **worker).code() == "SG5004"
    assert send("PUT", log, b"printed", **worker).status == 204
    bench.rows(f"SELECT complete_job(1, {token})")
    for method, path in [("GET", f"{source}?token={token}"), ("PUT", output + "late"), ("PUT", log)]:
        body = b"late" if method == "PUT" else None
        assert send(method, path, body, **worker).code() == "SG8006", path
