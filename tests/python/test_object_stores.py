"""Four processes on object stores of others, behind a proxy that cuts, refuses, delays and forgets.

Everything that a client was told is compared with the ledger afterwards.
"""

import contextlib
import json
import os
import random
import subprocess
import time

import pytest
from conftest import BINARY, until
from crew import DONE_MIN, SLOW_SECONDS, Crew, Season
from faults import FaultProxy
from object_stores import ObjectStore, azurite, moto, s3_settings
from plain_bucket import PlainBucket
from verdict import Verdict

# Seconds during which clients send statements and the proxy makes faults.
SECONDS = float(os.environ.get("SLUICEGATE_FAULT_SECONDS", "20"))

STORES = {"s3": moto, "azure": azurite}


@pytest.fixture(scope="module")
def stores():
    """Each server is started when the first test asks for it, and serves all."""
    with contextlib.ExitStack() as stack:
        started = {}

        def get(kind):
            if kind not in started:
                started[kind] = stack.enter_context(STORES[kind]())
            return started[kind]

        yield get


@pytest.mark.parametrize("kind", STORES)
def test_what_was_told_is_so_whatever_the_bucket_does(kind, stores, tmp_path):
    store = stores(kind)
    seed = int(os.environ.get("SLUICEGATE_SEED") or random.randrange(1 << 32))
    print("seed", seed)
    proxy = FaultProxy(store.port, seed)
    crew = Crew(
        tmp_path,
        f"{store.url}-{seed}",
        environment=store.environment(proxy.port),
        clean=store.environment(),
    )
    crew.start()
    season = Season(crew, seed)
    season.start()
    proxy.cruel = True
    time.sleep(SECONDS)
    until(lambda: season.failures or season.done() >= DONE_MIN, seconds=SLOW_SECONDS)
    proxy.cruel = False
    failures = season.end(60)
    failures += [f"{name} does not end" for name in crew.dismiss()]
    proxy.stop()
    verdict = Verdict(crew).judge()
    print(json.dumps({**verdict.counts, **crew.counts, **proxy.counts}, indent=1))
    assert failures + verdict.wrong == []
    assert verdict.counts["acknowledged effects"] > 20
    assert sum(proxy.counts.values()) > proxy.counts["requests"]


def at(store, *arguments, folder):
    """Runs the program on a store; returns its exit code and what it printed."""
    done = subprocess.run(
        [BINARY, "--store", store.url, "--create", "--format", "csv", *arguments],
        cwd=folder,
        env=store.environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_listing_that_begins_too_early_hides_no_commit(stores, tmp_path):
    """Azurite heeds no `startFrom`: commits before a checkpoint were taken for those after it."""
    store = stores("azure")
    store = ObjectStore(f"{store.url}-many", store.port, store.settings)
    commits = 520
    script = tmp_path / "many.sql"
    lines = [f"SELECT acquire_lock('@many/{n}', ttl => '1 day');\n" for n in range(commits)]
    script.write_text("".join(lines + ["CHECKPOINT;\n"]))
    code, _, told = at(store, "-f", str(script), folder=tmp_path)
    assert code == 0, told
    for more in range(2):
        code, out, told = at(
            store,
            "-c",
            f"SELECT acquire_lock('@more/{more}', ttl => '1 day') AS token",
            "-c",
            "SELECT count(*) AS locks FROM locks",
            folder=tmp_path,
        )
        assert code == 0, told
        assert out.split() == ["token", str(commits + more + 1), "locks", str(commits + more + 1)]
    code, out, told = at(store, "check", folder=tmp_path)
    assert code == 0, out + told


@pytest.mark.parametrize("conditions", [True, False])
def test_a_bucket_without_put_if_absent_is_refused_when_it_is_opened(conditions, tmp_path):
    """Two processes would both be told that they made the same commit."""
    bucket = PlainBucket(conditions)
    store = ObjectStore("s3://bucket/store", bucket.port, s3_settings())
    create = "CREATE TABLE things (id TEXT, PRIMARY KEY (id))"
    code, _, told = at(store, "-c", create, folder=tmp_path)
    assert (code, "SG7008" in told) == ((0, False) if conditions else (1, True)), told
    if conditions:
        code, out, told = at(store, "-c", "SELECT count(*) AS n FROM things", folder=tmp_path)
        assert (code, out.split()) == (0, ["n", "0"]), told
    else:
        assert not any("/ledger/" in name for name in bucket.objects)
    bucket.stop()
