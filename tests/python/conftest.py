"""Real servers for the tests: processes of the binary that SLUICEGATE_BINARY names."""

import copy
import http.client
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "examples" / "notebooks"
BINARY = os.environ.get("SLUICEGATE_BINARY") or str(ROOT / "target" / "debug" / "sluicegate")

sys.path.insert(0, str(NOTEBOOKS))

import sluicegate  # noqa: E402

# How many notices the demo makes: of 125 one has no lots, so that jobs fail.
NOTICES = 300


def run(*arguments, folder):
    """Runs the program to its end and returns what it printed."""
    done = subprocess.run(
        [BINARY, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def until(condition, seconds=60):
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.05)


class Answer:
    """What came back, read to its end."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)

    def code(self):
        return self.json()["code"]


class Server:
    """A server on a port of its own."""

    def __init__(self, store, folder, *arguments):
        self.store, self.folder, self.arguments = store, folder, list(arguments)
        self.process = subprocess.Popen(
            [BINARY, "--store", store, "--create", "--actor", "ann", "serve", "--bind", "127.0.0.1:0"]
            + self.arguments,
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        # What it says and nobody has taken yet.
        self.said = queue.Queue()

        def listen():
            # To the end, so that a full pipe never stops the server.
            for line in self.process.stderr:
                self.said.put(line)

        threading.Thread(target=listen, daemon=True).start()
        words = self.said.get(timeout=60).split()
        self.url = next(word for word in words if word.startswith("http://")).rstrip(";")
        self.host = urllib.parse.urlsplit(self.url).netloc

    def connect(self, timeout=120):
        return http.client.HTTPConnection(self.host, timeout=timeout)

    def send(self, method, path, body=None, **headers):
        """Sends one request; names of headers are written with _ for -."""
        headers = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def sql(self, sql, **headers):
        return self.send("POST", "/v1/sql", sql.encode(), Content_Type="text/plain", **headers)

    def rows(self, sql, **headers):
        """The rows of a statement that works, as tuples."""
        answer = self.sql(sql, **headers)
        assert answer.status == 200, answer.body.decode()
        return [tuple(row.values()) for row in answer.json()]

    def number(self, sql, **headers):
        return int(self.rows(sql, **headers)[0][0])

    def token(self, role, name):
        arguments = ["--store", self.store, "token", "create", "--role", role, "--name", name]
        return run(*arguments, folder=self.folder).strip()

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=60)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            self.kill()


def restarted(server):
    """The same server, which was killed, again at its address."""
    again = copy.copy(server)
    again.process = subprocess.Popen(
        [BINARY, "--store", server.store, "--actor", "ann", "serve", "--bind", server.host]
        + server.arguments,
        cwd=server.folder,
        stderr=subprocess.DEVNULL,
    )

    def answers():
        assert again.process.poll() is None, "it has ended"
        try:
            return again.send("GET", "/health/ready").status == 200
        except OSError:
            return False

    until(answers)
    return again


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server without workers, over an empty store."""
    folder = tmp_path_factory.mktemp("server")
    started = Server("store", folder)
    yield started
    started.stop()


@pytest.fixture
def gate(server):
    return sluicegate.connect(server.url)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A server with two workers over the store of the demonstrator."""
    folder = tmp_path_factory.mktemp("demo")
    run("demo", "--count", NOTICES, folder=folder)
    started = Server(
        "sluicegate-demo/store", folder, "--workers", "2", "--allow-root", "sluicegate-demo"
    )
    yield started
    started.stop()
    run("--store", "sluicegate-demo/store", "check", folder=folder)
