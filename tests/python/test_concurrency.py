"""Two hundred clients at once: nothing is lost and nothing happens twice, by the ledger's count."""

import collections
import json
import threading
import time

SOURCES = 300
CLIENTS = 200


class Crowd:
    """Clients that begin together; what one of them runs into fails the test."""

    def __init__(self, server):
        self.server = server
        self.start = threading.Barrier(CLIENTS)
        self.errors = []
        self.claimed = collections.Counter()
        self.completed = threading.Semaphore(0)
        self.lock = threading.Lock()

    def client(self, task, number):
        try:
            self.start.wait(timeout=60)
            task(number)
        except Exception as error:  # noqa: BLE001: told by the test, whatever it is
            self.errors.append(f"{task.__name__} {number}: {error!r}")

    def ask(self, sql, **headers):
        """Sends until the server has room: it runs a bounded number of statements at once."""
        deadline = time.monotonic() + 120
        while True:
            answer = self.server.sql(sql, **headers)
            if answer.status == 200:
                return [tuple(row.values()) for row in answer.json()]
            busy = answer.status == 503 and answer.json()["retryable"]
            assert busy and time.monotonic() < deadline, answer.body.decode()
            time.sleep(0.05)

    def schedules(self, number):
        """Schedules a part that overlaps with that of others, and sends the request again."""
        first = number * 7 % SOURCES
        sql = f"""SELECT schedule_job('index', id) FROM things
                   WHERE (CAST(id AS INT) - {first} + {SOURCES}) % {SOURCES} < 40"""
        jobs = self.ask(sql, Idempotency_Key=f"schedule-{number}")
        assert len(jobs) == 40
        self.ask(sql, Idempotency_Key=f"schedule-{number}")

    def works(self, number):
        """Claims jobs and completes them, until there have been none for a while."""
        quiet = 0
        while quiet < 5:
            jobs = self.ask(f"CALL claim_jobs('worker-{number}', max => 3)")
            quiet = 0 if jobs else quiet + 1
            for row in jobs:
                job, token = row[0], row[1]
                with self.lock:
                    self.claimed[job] += 1
                [(done,)] = self.ask(f"SELECT complete_job({job}, {token})")
                assert done is True
            time.sleep(0.1)

    def reads(self, number):
        """Sees a running job exactly where it sees its lock, in every snapshot."""
        for _ in range(3):
            [(jobs, locks)] = self.ask(
                "SELECT (SELECT count(*) FROM jobs WHERE state = 'running') AS jobs,"
                " (SELECT count(*) FROM locks WHERE job_id IS NOT NULL) AS locks"
            )
            assert jobs == locks

    def writes(self, number):
        """Adds a row, twice the same request."""
        for _ in range(2):
            sql = f"INSERT INTO notes VALUES ('{number}', 'hello')"
            self.ask(sql, Idempotency_Key=f"note-{number}")


def test_two_hundred_clients_lose_nothing_and_do_nothing_twice(server):
    for sql in [
        "CREATE TABLE things (id TEXT, PRIMARY KEY (id))",
        "CREATE TABLE notes (id TEXT, text TEXT, PRIMARY KEY (id))",
        f"INSERT INTO things (id) SELECT CAST(value AS TEXT) FROM range(0, {SOURCES})",
        "CREATE TRANSFORM index ON things FROM STATUS 'RAW' TO STATUS 'DONE'"
        " WITH (group_size 1000, concurrency 10) USING OUTSIDE WORKER",
    ]:
        server.rows(sql)

    crowd = Crowd(server)
    tasks = [crowd.schedules, crowd.works, crowd.reads, crowd.writes]
    threads = [
        threading.Thread(target=crowd.client, args=(tasks[number % 4], number), daemon=True)
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert not any(thread.is_alive() for thread in threads)
    assert crowd.errors == []
    # What came after the last worker had left.
    crowd.works(CLIENTS)

    # Every thing was scheduled, started and completed once; nobody claimed what another had.
    kinds = dict(server.rows("SELECT kind, count(*) FROM events GROUP BY kind"))
    for kind in ["job-scheduled", "job-started", "job-completed"]:
        assert kinds[kind] == str(SOURCES), kinds
    assert set(crowd.claimed.values()) == {1} and len(crowd.claimed) == SOURCES
    ended = server.rows("SELECT outcome, count(*), count(DISTINCT source_id) FROM attempts GROUP BY 1")
    assert ended == [("completed", str(SOURCES), str(SOURCES))]
    assert server.rows("SELECT DISTINCT status FROM things") == [("DONE",)]

    # Every request with a key is in the ledger once, though it was sent twice.
    keys = server.rows(
        "SELECT idempotency_key, count(*) FROM statements"
        " WHERE idempotency_key IS NOT NULL GROUP BY idempotency_key"
    )
    names = {json.dumps(key) if isinstance(key, dict) else key for key, _ in keys}
    assert {count for _, count in keys} == {"1"}
    assert {f"note-{number}" for number in range(3, CLIENTS, 4)} <= names
    assert server.number("SELECT count(*) FROM notes") == CLIENTS // 4
