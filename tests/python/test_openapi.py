"""Schemathesis sends what the OpenAPI description allows, and what it does not, to a real server.

The answers must be as the description says: statuses, types and bodies. None may be a failure of
the server. Examples are the same in every run, and bounded.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from conftest import Server, run

STORE = """
CREATE TABLE notices (id TEXT, n BIGINT, PRIMARY KEY (id));
INSERT INTO notices VALUES ('a', 1), ('b', 9007199254740993);
CREATE TRANSFORM index ON notices FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER;
SELECT schedule_job('index', id) FROM notices;
"""

# Examples for each operation, of valid and of invalid requests.
EXAMPLES = 50


def schemathesis(server, *arguments):
    folder = pathlib.Path(__file__).parent
    done = subprocess.run(
        [
            pathlib.Path(sys.executable).with_name("schemathesis"),
            "run",
            server.url + "/v1/openapi.json",
            "--phases=coverage,fuzzing",
            f"--max-examples={EXAMPLES}",
            "--seed=1",
            "--generation-database=none",
            "--request-timeout=60",
            "--no-color",
            # No schema can say which text is a statement, or which bytes are an Arrow stream.
            "--exclude-checks=positive_data_acceptance",
            *arguments,
        ],
        # Beside its reports, so that nothing is left in the project.
        cwd=server.folder,
        env={**os.environ, "PYTHONPATH": str(folder), "SCHEMATHESIS_HOOKS": "openapi_hooks"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    return done.stdout


def committed(server, headers):
    """How many statements ran to their end."""
    lines = server.send("GET", "/metrics", **headers).body.decode().splitlines()
    ended = [line for line in lines if line.startswith("sluicegate_statements_total{")]
    return sum(int(line.split()[-1]) for line in ended if 'outcome="committed"' in line)


@pytest.mark.parametrize("tokens", [False, True])
def test_answers_are_as_described(tmp_path, tokens):
    run("--store", "store", "--create", "-c", STORE, folder=tmp_path)
    headers = {}
    if tokens:
        create = ["token", "create", "--role", "reader", "--name", "r"]
        token = run("--store", "store", *create, folder=tmp_path).strip()
        headers = {"Authorization": f"Bearer {token}"}
    server = Server("store", tmp_path)
    try:
        schemathesis(server, *(f"--header={name}: {value}" for name, value in headers.items()))
        # It did not only send what is refused.
        assert committed(server, headers) > 10
    finally:
        server.stop()
    run("--store", "store", "check", folder=tmp_path)
