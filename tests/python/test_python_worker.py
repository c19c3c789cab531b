"""examples/sluicegate_worker.py against a real server."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, Server, until

EXAMPLES = ROOT / "examples"

SLOW = """
import pathlib, time
from sluicegate_worker import Failed, worker

@worker("publish", claim=3)
def publish(source):
    if source.source_id == "bad":
        raise Failed("no lots", code="no-lots")
    pathlib.Path(f"began-{source.source_id}").touch()
    while not pathlib.Path("go").exists():
        source.check()
        time.sleep(0.05)
    return {"columns": {"words": 7}, "output": source.upload("a.txt", source.read())}

publish.run()
"""


class Bench:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.server = Server("store", folder, "--allow-root", ".")
        self.rows = self.server.rows
        self.environment = {
            **os.environ,
            "SLUICEGATE_SERVER": self.server.url,
            "PYTHONPATH": str(EXAMPLES),
        }

    def prepare(self, ids, transform, lease="1 s"):
        for id in ids:
            (self.folder / f"{id}.txt").write_text(f"two words {id}")
        self.rows("CREATE TABLE docs (id TEXT, uri TEXT, words BIGINT, PRIMARY KEY (id))")
        values = ", ".join(f"('{id}', '{id}.txt')" for id in ids)
        self.rows(f"INSERT INTO docs (id, uri) VALUES {values}")
        self.rows(
            f"CREATE TRANSFORM {transform} ON docs FROM STATUS 'RAW' TO STATUS 'COUNTED', 'EMPTY' "
            f"WITH (lease '{lease}', max_attempts 1) USING OUTSIDE WORKER"
        )
        self.rows(f"SELECT schedule_job('{transform}', id) FROM docs")

    def start(self, *arguments):
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def slow(self):
        (self.folder / "slow.py").write_text(SLOW)
        return self.start("slow.py")


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.server.stop()


def test_the_example_counts_words(bench):
    bench.prepare(["a", "b"], "count_words", lease="1 minute")
    (bench.folder / "b.txt").write_text("")
    worker = bench.start(EXAMPLES / "outside_worker.py", "--until-idle")
    told = worker.communicate(timeout=60)[1]
    assert worker.returncode == 0, told
    rows = bench.rows("SELECT id, words, status FROM docs ORDER BY id")
    assert rows == [("a", "3", "COUNTED"), ("b", "0", "EMPTY")]


def test_a_worker_that_is_told_to_end_finishes_one_and_hands_back_the_rest(bench):
    bench.prepare(["a", "b", "c"], "publish")
    worker = bench.slow()
    until(lambda: list(bench.folder.glob("began-*")))
    # Heartbeats keep all three, although only one is worked on.
    time.sleep(2.5)
    assert bench.server.number("SELECT sum(crashes) FROM jobs") == 0
    worker.send_signal(signal.SIGTERM)
    (bench.folder / "go").touch()
    told = worker.communicate(timeout=60)[1]
    assert worker.returncode == 0 and told.count("handed back") == 2, told
    states = bench.rows("SELECT state, count(*) FROM jobs GROUP BY state ORDER BY state")
    assert states == [("available", "2"), ("completed", "1")]
    output = bench.rows("SELECT read_text(output_uri) FROM jobs WHERE state = 'completed'")
    assert output[0][0].startswith("two words")


@pytest.mark.parametrize("lease", ["1 s", "1 day"])
def test_a_cancelled_source_ends_and_a_failure_has_its_code(bench, lease):
    bench.prepare(["a", "bad"], "publish", lease)
    worker = bench.slow()
    until(lambda: (bench.folder / "began-a").exists())
    bench.rows("SELECT cancel_job(job_id) FROM jobs WHERE source_id = 'a'")
    until(lambda: not bench.server.number("SELECT count(*) FROM jobs WHERE ended_at IS NULL"))
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=60)
    rows = bench.rows("SELECT source_id, state, error_code FROM jobs ORDER BY source_id")
    assert rows == [("a", "cancelled", None), ("bad", "discarded", "no-lots")]


def test_a_zombie_is_refused(bench):
    """A worker sleeps longer than its lease, another does its job, and it comes back."""
    bench.prepare(["a"], "publish")
    zombie = bench.slow()
    until(lambda: (bench.folder / "began-a").exists())
    zombie.send_signal(signal.SIGSTOP)
    claim = "CALL claim_jobs('second', 'publish')"
    claimed = []
    until(lambda: claimed.extend(bench.rows(claim)) or claimed)
    job, token = claimed[0][:2]
    # It goes on while the second one holds the source.
    (bench.folder / "go").touch()
    zombie.send_signal(signal.SIGCONT)
    refused = "SELECT count(*) FROM events WHERE kind = 'effect-refused'"
    bench.rows(f"SELECT heartbeat({job}, {token})")

    def beat():
        bench.rows(f"SELECT heartbeat({job}, {token})")
        return bench.server.number(refused) > 0

    until(beat)
    assert bench.rows("SELECT status, locked FROM docs") == [("RAW", True)]
    done = bench.rows(f"SELECT complete_job({job}, {token}, columns => '{{\"words\": 1}}')")
    assert done == [(True,)]
    zombie.send_signal(signal.SIGTERM)
    told = zombie.communicate(timeout=60)[1]
    assert "refused" in told or "not reported" in told, told
    assert bench.rows("SELECT words, status FROM docs") == [("1", "COUNTED")]
    completed = "SELECT count(*) FROM events WHERE kind = 'job-completed'"
    assert bench.server.number(completed) == 1
