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
