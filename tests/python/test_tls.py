"""HTTPS with a certificate that is made here, by the server, the prompt and workers."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import BINARY, ROOT, until


def certificate(folder, name):
    """A key, and a certificate of it for this machine, signed by itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext"]
        + ["subjectAltName=DNS:localhost,IP:127.0.0.1"]
        # Else it is an authority, which rustls does not take for a server.
        + ["-addext", "basicConstraints=critical,CA:FALSE"]
        + ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"],
        check=True,
        capture_output=True,
    )


def serve(folder, *arguments):
    return subprocess.Popen(
        [BINARY, "--store", "store", "--create", "--actor", "ann", "serve", "--bind", "127.0.0.1:0"]
        + list(arguments),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with certificates, and the address of a server that has one of them."""
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder, "own")
    certificate(folder, "other")
    server = serve(folder, "--tls-cert", "own.pem", "--tls-key", "own.key", "--allow-root", ".")
    line = server.stderr.readline()
    url = next(word for word in line.split() if word.startswith("https://")).rstrip(";")
    yield folder, url
    server.terminate()
    server.communicate(timeout=60)
    assert server.returncode == 0


def prompt(place, *arguments):
    folder, url = place
    return subprocess.run(
        [BINARY, "--server", url, "--format", "csv", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_both_versions_of_http_are_chosen_by_alpn(place):
    folder, url = place
    host, port = url.removeprefix("https://").split(":")
    for offered, chosen in [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["h2"], "h2")]:
        context = ssl.create_default_context(cafile=folder / "own.pem")
        context.set_alpn_protocols(offered)
        with socket.create_connection((host, int(port))) as plain:
            with context.wrap_socket(plain, server_hostname=host) as tls:
                assert tls.selected_alpn_protocol() == chosen
                assert tls.version() in ("TLSv1.2", "TLSv1.3")


def test_the_prompt_trusts_what_it_is_told_to(place):
    assert prompt(place, "--ca", "own.pem", "-c", "SELECT 1 AS a").stdout == "a\n1\n"
    for arguments in [[], ["--ca", "other.pem"]]:
        refused = prompt(place, *arguments, "-c", "SELECT 1")
        assert refused.returncode == 1 and "SG7002" in refused.stderr, refused.stderr
        assert "certificate" in refused.stderr.lower(), refused.stderr
    absent = prompt(place, "--ca", "absent.pem", "-c", "SELECT 1")
    assert absent.returncode == 1 and "absent.pem" in absent.stderr


def test_clients_that_say_nothing_keep_nobody_waiting(place):
    folder, url = place
    host, port = url.removeprefix("https://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(50)]
    context = ssl.create_default_context(cafile=folder / "own.pem")
    with urllib.request.urlopen(f"{url}/health/live", timeout=60, context=context) as answer:
        assert answer.status == 200
    for connection in silent:
        connection.close()


def test_plain_http_gets_no_answer(place):
    with pytest.raises((OSError, http.client.HTTPException)):
        urllib.request.urlopen(place[1].replace("https", "http") + "/health/live", timeout=60)


def test_workers_speak_tls(place):
    folder, url = place
    sql = """
        CREATE TABLE docs (notice_id TEXT, uri TEXT, words BIGINT, PRIMARY KEY (notice_id));
        INSERT INTO docs (notice_id, uri) VALUES ('a', 'a.txt');
        CREATE TRANSFORM count_words ON docs FROM STATUS 'RAW' TO STATUS 'COUNTED', 'EMPTY'
          USING OUTSIDE WORKER;
        CREATE TRANSFORM copy ON docs FROM STATUS 'COUNTED' TO STATUS 'COPIED'
          USING COMMAND 'cp {uri} {output}';
        SELECT schedule_job('count_words', 'a');
    """
    (folder / "a.txt").write_text("three plain words")
    made = prompt(place, "--ca", "own.pem", "-c", sql)
    assert made.returncode == 0, made.stderr
    environment = {
        **os.environ,
        "SLUICEGATE_SERVER": url,
        "SLUICEGATE_CA": str(folder / "own.pem"),
    }
    python = [sys.executable, ROOT / "examples" / "outside_worker.py", "--until-idle"]
    subprocess.run(python, env=environment, check=True, capture_output=True, timeout=60)
    copy = "SELECT schedule_job('copy', notice_id) FROM docs"
    assert prompt(place, "--ca", "own.pem", "-c", copy).returncode == 0
    work = [BINARY, "work", "--server", url, "--ca", "own.pem", "--until-idle"]
    subprocess.run(work, cwd=folder, check=True, capture_output=True, timeout=60)
    rows = prompt(place, "--ca", "own.pem", "-c", "SELECT words, status FROM docs")
    assert rows.stdout == "words,status\n3,COPIED\n"


@pytest.mark.parametrize(
    ("pem", "key", "told"),
    [
        ("absent.pem", "own.key", "absent.pem"),
        ("own.pem", "absent.key", "absent.key"),
        ("own.key", "own.key", "no certificate"),
        ("own.pem", "own.pem", "no private key"),
        ("own.pem", "other.key", "cannot be used"),
    ],
)
def test_files_that_do_not_fit_are_told(place, pem, key, told):
    server = serve(place[0], "--tls-cert", pem, "--tls-key", key)
    error = server.communicate(timeout=60)[1]
    assert server.returncode == 1 and "error SG6002" in error and told in error, error


def test_a_server_ends_although_a_handshake_hangs(tmp_path):
    certificate(tmp_path, "own")
    server = serve(tmp_path, "--tls-cert", "own.pem", "--tls-key", "own.key")
    line = server.stderr.readline()
    url = next(word for word in line.split() if word.startswith("https://")).rstrip(";")
    host, port = url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port))):
        context = ssl.create_default_context(cafile=tmp_path / "own.pem")
        until(lambda: urllib.request.urlopen(f"{url}/health/live", context=context))
        server.terminate()
        began = time.monotonic()
        server.communicate(timeout=90)
        assert server.returncode == 0, time.monotonic() - began


def test_a_new_certificate_is_used_from_sighup_on_and_a_broken_one_never(tmp_path):
    certificate(tmp_path, "own")
    server = serve(tmp_path, "--tls-cert", "own.pem", "--tls-key", "own.key")
    line = server.stderr.readline()
    url = next(word for word in line.split() if word.startswith("https://")).rstrip(";")
    # It listens before it says so, but hears SIGHUP only when it serves.
    first = ssl.create_default_context(cafile=tmp_path / "own.pem")
    until(lambda: urllib.request.urlopen(f"{url}/health/live", context=first).status == 200)

    def shown():
        return ssl.get_server_certificate(tuple(url.removeprefix("https://").split(":")))

    old = shown()
    certificate(tmp_path, "own")
    server.send_signal(signal.SIGHUP)
    until(lambda: shown() != old)
    new = shown()
    (tmp_path / "own.pem").write_text("no certificate")
    server.send_signal(signal.SIGHUP)
    told = ""
    while "SG6002" not in told:
        told = server.stderr.readline()
        assert told, "it has ended"
    assert shown() == new
    server.terminate()
    server.communicate(timeout=60)
    assert server.returncode == 0
