"""A server that is killed at any moment: a repeated idempotency key acts once, and is answered."""

import concurrent.futures
import http.client
import random
import threading
import time
import uuid

from conftest import Server, restarted, run

SENDERS = 4
KILLS = 12
# So many at most, until some answer was lost behind its commit.
KILLS_MAX = 200


class Sender:
    """Sends statements, each with a key of its own, until each was answered."""

    def __init__(self, place):
        self.place = place
        self.answered = {}
        self.replayed = 0

    def send(self, number):
        key = str(uuid.uuid4())
        sql = f"SELECT schedule_job('index', id) FROM things WHERE id = '{number}'"
        while True:
            try:
                answer = self.place[0].sql(sql, Idempotency_Key=key)
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)
                continue
            if answer.status == 503:
                continue
            assert answer.status == 200, answer.body
            replayed = answer.headers.get("Idempotency-Replayed") == "?1"
            self.replayed += replayed
            # A repetition tells the counts of outcomes where the rows went with the server.
            row = answer.json()[0]
            outcome = row.get("outcome", "scheduled" if "outcome" not in row else None)
            self.answered[number] = (key, outcome, answer.headers["Sluicegate-Statement-Id"])
            return


def test_each_key_acts_once_however_often_the_server_is_killed(tmp_path):
    """Without keys in the ledger, a retry after a lost answer would find `already-live`."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    server = Server("store", tmp_path)
    server.rows("CREATE TABLE things (id TEXT, PRIMARY KEY (id))")
    server.rows(
        "INSERT INTO things SELECT CAST(value AS TEXT) FROM generate_series(0, 19999)"
    )
    server.rows(
        "CREATE TRANSFORM index ON things FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER"
    )
    place = [server]
    over = threading.Event()
    senders = [Sender(place) for _ in range(SENDERS)]

    def work(which):
        number = which
        while not over.is_set() and number < 20_000:
            senders[which].send(number)
            number += SENDERS

    with concurrent.futures.ThreadPoolExecutor(SENDERS) as pool:
        works = [pool.submit(work, which) for which in range(SENDERS)]
        try:
            for kill in range(KILLS_MAX):
                # Not each kill comes between a commit and its answer.
                if kill >= KILLS and any(sender.replayed for sender in senders):
                    break
                time.sleep(chance.uniform(0.02, 0.4))
                place[0].kill()
                place[0] = restarted(place[0])
            time.sleep(0.3)
        finally:
            over.set()
        for done in works:
            done.result(timeout=60)
    server = place[0]
    answered = {}
    for sender in senders:
        answered.update(sender.answered)
    assert len(answered) > KILLS
    assert {outcome for _, outcome, _ in answered.values()} == {"scheduled"}
    # From the ledger: each source was scheduled once, by the statement that the answer names.
    rows = server.rows(
        "SELECT source_id, count(*), min(statement_id) FROM events WHERE kind = 'job-scheduled' "
        "GROUP BY source_id"
    )
    scheduled = {source: (int(count), statement) for source, count, statement in rows}
    for number, (_, _, statement) in answered.items():
        assert scheduled[str(number)] == (1, statement), number
    assert len(scheduled) == len(answered)
    # Some answer was lost and told again; else nothing was tried.
    assert sum(sender.replayed for sender in senders) > 0
    server.stop()
    run("--store", "store", "check", folder=tmp_path)
