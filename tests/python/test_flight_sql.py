"""Runs flight_sql.py against servers with and without tokens."""

import os
import pathlib
import subprocess
import sys

import pytest
from conftest import Server, run

SCRIPT = pathlib.Path(__file__).with_name("flight_sql.py")

STORE = """
CREATE TABLE notices (id TEXT, n BIGINT, PRIMARY KEY (id));
INSERT INTO notices VALUES ('a', 1), ('b', 9007199254740993);
CREATE TRANSFORM index ON notices FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER;
"""


@pytest.mark.parametrize("tokens", [False, True])
def test_adbc_pandas_and_pyarrow_speak_flight_sql(tmp_path, tokens):
    run("--store", "store", "--create", "-c", STORE, folder=tmp_path)
    environment = dict(os.environ)
    if tokens:
        for role, variable in [
            ("admin", "SLUICEGATE_TOKEN"),
            ("reader", "SLUICEGATE_READER_TOKEN"),
        ]:
            arguments = ["token", "create", "--role", role]
            environment[variable] = run("--store", "store", *arguments, folder=tmp_path).strip()
    server = Server("store", tmp_path)
    try:
        done = subprocess.run(
            [sys.executable, SCRIPT],
            env={**environment, "SLUICEGATE_URL": server.url},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    finally:
        server.stop()
    run("--store", "store", "check", folder=tmp_path)
