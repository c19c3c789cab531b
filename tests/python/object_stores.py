"""Object stores of others as local servers: S3 as moto has it, and Azure's as azurite has it.

Both check put-if-absent and make the object in one step, which many a server does not: moto with
several threads has two winners now and then, so it runs behind one synchronous process of gunicorn.
"""

import base64
import contextlib
import dataclasses
import email.utils
import hashlib
import hmac
import http.client
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import pytest
from conftest import until

# The release of azurite that is tried, and where it is kept between runs.
AZURITE = "3.37.0"
CACHE = pathlib.Path(
    os.environ.get("SLUICEGATE_AZURITE") or pathlib.Path.home() / ".cache/sluicegate/azurite"
)

# An account of our own, for azurite checks signatures.
ACCOUNT = "tests"
KEY = base64.b64encode(b"a key of an account that only tests use").decode()


@dataclasses.dataclass
class ObjectStore:
    """A bucket at a port, and how processes are told to reach it there or at a proxy's port."""

    url: str
    port: int
    settings: dict

    def environment(self, port=None):
        values = {
            name: value.format(port=port or self.port) for name, value in self.settings.items()
        }
        return dict(os.environ, **values)


def absent(reason):
    """Skips, and says why; in CI, where everything is to be had, that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def running(command, port, **environment):
    """A server's process, from when it takes connections until the end of the block."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

        def listens():
            log.seek(0)
            assert process.poll() is None, log.read().decode()[-2000:]
            with socket.socket() as one:
                return one.connect_ex(("127.0.0.1", port)) == 0

        try:
            until(listens)
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def requested(port, method, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, headers={"Content-Length": "0", **headers})
        answer = connection.getresponse()
        assert answer.status in (200, 201), answer.read()
    finally:
        connection.close()


@contextlib.contextmanager
def moto():
    for module in ("moto", "gunicorn"):
        try:
            __import__(module)
        except ImportError as error:
            absent(f"no S3 server: {error}")
    port = free_port()
    application = "moto.server:create_backend_app('s3')"
    command = [sys.executable, "-m", "gunicorn", "--workers", "1", "--worker-class", "sync"]
    command += ["--timeout", "120", "--bind", f"127.0.0.1:{port}", application]
    with running(command, port):
        requested(port, "PUT", "/bucket")
        yield ObjectStore("s3://bucket/store", port, s3_settings())


def s3_settings():
    return {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ENDPOINT": "http://127.0.0.1:{port}",
    }


def azurite_program():
    """Where azurite's program is; installed at the first time."""
    folder = CACHE / AZURITE
    program = folder / "node_modules/azurite/dist/src/blob/main.js"
    if not program.exists():
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run([*command, f"azurite@{AZURITE}"], check=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            absent(f"azurite {AZURITE} cannot be installed: {error}")
    return program


@contextlib.contextmanager
def azurite():
    program = azurite_program()
    port = free_port()
    command = ["node", program, "--inMemoryPersistence", "--blobPort", str(port)]
    command += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with running(command, port, AZURITE_ACCOUNTS=f"{ACCOUNT}:{KEY}"):
        make_container(port, "container")
        yield ObjectStore("az://container/store", port, azure_settings())


def azure_settings():
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_ALLOW_HTTP": "true",
        "AZURE_ENDPOINT": "http://127.0.0.1:{port}/" + ACCOUNT,
    }


def make_container(port, name):
    """Azure's request to create a container, signed with the key of the account.

    Source: "Authorize with Shared Key", Azure Storage REST API.
    """
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in sorted(headers.items()))]
    lines += [f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"]
    digest = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    requested(port, "PUT", f"/{ACCOUNT}/{name}?restype=container", **headers)
