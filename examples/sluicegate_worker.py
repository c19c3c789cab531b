"""A worker for transforms of kind USING OUTSIDE WORKER, in plain Python.

    from sluicegate_worker import worker

    @worker("count_words")
    def count_words(source):
        return {"columns": {"words": len(source.read().split())}}

    if __name__ == "__main__":
        count_words.run()

Needs Python 3.9 or newer and pyarrow. The server is named by run(server=...) or by the variable
SLUICEGATE_SERVER, the token by SLUICEGATE_TOKEN or by the file that SLUICEGATE_TOKEN_FILE names,
own certificate authorities by SLUICEGATE_CA.

The function gets a Source and returns None or a dict with some of
    columns   new values for columns of the source, a dict
    status    the new status; without it, the first TO STATUS of the transform
    output    where the output is
Whatever it raises fails the source; Failed gives the failure a code to select by.

What is guaranteed: a source is held by its lease while the function runs, and heartbeats renew
it. A report carries the fencing token, so that of a worker which was away too long is refused and
changes nothing. Claims and reports have idempotency keys, so one whose answer was lost is sent
again: the claim is answered with the same jobs, the report counts once. Where somebody cancels a
job, Source.check() raises within some seconds. On SIGTERM and SIGINT the sources at hand are finished and the others handed back.
"""

import http.client
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor

import pyarrow.ipc

# Seconds that one request may take.
REQUEST_TIMEOUT = 60.0
# How often a request is sent while the server does not answer, and the pauses in seconds: some
# forty seconds in all, in which a server starts again.
TRIES = 12
PAUSE = 0.2
PAUSE_MAX = 5.0
# Seconds until an empty queue is looked at again.
POLL = 1.0
# Seconds until it is looked again whether somebody cancelled what runs.
WATCH = 1.0


class Error(Exception):
    """What the server refuses, or that it does not answer."""

    def __init__(self, message, code=None, retryable=False, hint=None):
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.hint = hint


class Failed(Exception):
    """Raised by the function: the source fails with this code and message."""

    def __init__(self, message, code="error"):
        super().__init__(message)
        self.code = code


class Cancelled(Exception):
    """Raised by Source.check() where somebody cancelled the job."""


class LeaseLost(Exception):
    """Raised by Source.check() where the source may be with somebody else by now."""


class Server:
    """SQL over HTTP."""

    def __init__(self, url=None, token=None, ca=None):
        url = url or os.environ.get("SLUICEGATE_SERVER", "http://127.0.0.1:8080")
        self.url = url.rstrip("/")
        self.token = token or _token()
        ca = ca or os.environ.get("SLUICEGATE_CA")
        self.tls = None
        if self.url.startswith("https:"):
            self.tls = ssl.create_default_context(cafile=ca)

    def sql(self, sql, params=(), key=None):
        """Runs one statement and returns its rows as dicts.

        With a key the statement may be sent again without acting twice, and is, while the server
        does not answer.
        """
        body = json.dumps({"sql": sql, "params": list(params)}).encode()
        headers = {
            "content-type": "application/json",
            "accept": "application/vnd.apache.arrow.stream",
        }
        if key:
            headers["idempotency-key"] = key
        answer = self.request("POST", "/v1/sql", body, headers, tries=TRIES if key else 1)
        return pyarrow.ipc.open_stream(answer).read_all().to_pylist()

    def request(self, method, path, body=None, headers=None, tries=1):
        """Sends a request and returns the whole body of the answer."""
        request = urllib.request.Request(self.url + path, data=body, method=method)
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        if self.token:
            request.add_header("authorization", "Bearer " + self.token)
        pause = PAUSE
        for left in reversed(range(tries)):
            try:
                with urllib.request.urlopen(
                    request, timeout=REQUEST_TIMEOUT, context=self.tls
                ) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                problem = _problem(error)
            except (OSError, ValueError, http.client.HTTPException) as error:
                problem = Error(f"{self.url} does not answer: {error}", retryable=True)
            if not problem.retryable or left == 0:
                raise problem
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX)
        raise AssertionError("unreachable")


def _token():
    path = os.environ.get("SLUICEGATE_TOKEN_FILE")
    if path:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    return os.environ.get("SLUICEGATE_TOKEN")


def _problem(error):
    """The error that an answer tells of."""
    try:
        text = error.read()
        problem = json.loads(text)
        return Error(
            problem["detail"],
            problem.get("code"),
            bool(problem.get("retryable")),
            problem.get("hint"),
        )
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return Error(f"the server answers {error.code}", retryable=error.code >= 500)


class Source:
    """One source, held by this worker."""

    def __init__(self, server, claimed):
        self._server = server
        self.job_id = claimed["job_id"]
        self.token = claimed["token"]
        self.attempt = claimed["attempt"]
        self.source_id = claimed["source_id"]
        self.params = json.loads(claimed["params"]) if claimed["params"] else None
        self.row = json.loads(claimed["row"])
        self.cancelled = False
        self.lost = False

    @property
    def uri(self):
        """Where the document is, or None."""
        return self.row.get("uri")

    def read(self):
        """The document at `uri`, as bytes, read through the server."""
        path = f"/v1/jobs/{self.job_id}/source?token={self.token}"
        return self._server.request("GET", path, tries=TRIES)

    def upload(self, name, data):
        """Stores bytes as an output of this attempt and returns their URI."""
        query = urllib.parse.urlencode({"token": self.token, "path": name})
        path = f"/v1/jobs/{self.job_id}/output?{query}"
        headers = {"content-type": "application/octet-stream"}
        return json.loads(self._server.request("PUT", path, data, headers, TRIES))["uri"]

    def check(self):
        """To be called now and then in long work: raises where going on makes no sense."""
        if self.lost:
            raise LeaseLost("the lease of the job was lost while it ran")
        if self.cancelled:
            raise Cancelled("it was stopped because somebody cancelled it")


def worker(transform, claim=10, parallel=1, name=None):
    """Makes a function from Source to result a worker for a transform.

    claim: sources that are claimed at once; parallel: sources that are worked on at once, each in
    a thread; name: the worker in jobs and events, by default host and process.
    """
    return lambda function: Worker(function, transform, claim, parallel, name)


class Worker:
    """A function as a worker. Calling it calls the function."""

    def __init__(self, function, transform, claim, parallel, name):
        self.function = function
        self.transform = transform
        self.claim = claim
        self.parallel = parallel
        self.name = name or f"{socket.gethostname()}/{os.getpid()}"
        self._stop = threading.Event()
        self._held = {}
        self._lock = threading.Lock()

    def __call__(self, source):
        return self.function(source)

    def stop(self):
        """Asks it to end: what runs is finished, the rest handed back."""
        self._stop.set()

    def run(self, server=None, token=None, until_idle=False):
        """Works until it is told to end, or with until_idle until no job can be claimed."""
        server = Server(server, token)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
        lease = server.sql(
            "SELECT lease_ms FROM transforms WHERE name = $1 AND kind = 'outside'",
            [self.transform],
            key=str(uuid.uuid4()),
        )
        if not lease:
            raise Error(f'there is no transform "{self.transform}" for outside workers')
        ended = threading.Event()
        beats = threading.Thread(
            target=self._beat, args=(server, lease[0]["lease_ms"] / 1000, ended), daemon=True
        )
        beats.start()
        try:
            with ThreadPoolExecutor(self.parallel) as pool:
                while not self._stop.is_set():
                    sources = self._claim(server)
                    if sources:
                        list(pool.map(lambda source: self._work(server, source), sources))
                    elif until_idle:
                        return
                    else:
                        self._stop.wait(POLL)
        finally:
            ended.set()

    def _claim(self, server):
        rows = server.sql(
            "CALL claim_jobs($1, $2, max => $3, rows => TRUE)",
            [self.name, self.transform, self.claim],
            key=str(uuid.uuid4()),
        )
        sources = [Source(server, row) for row in rows]
        with self._lock:
            self._held.update({source.job_id: source for source in sources})
        return sources

    def _work(self, server, source):
        try:
            if self._stop.is_set():
                self._report(server, source, "hand_back_job($1, $2)", [], "handed back")
                return
            try:
                result = self.function(source) or {}
                unknown = set(result) - {"columns", "status", "output"}
                if unknown:
                    raise Failed(f"the function returned {sorted(unknown)}", "invalid-answer")
            except Exception as error:  # Whatever a function raises fails its source alone.
                code = {Failed: getattr(error, "code", None), Cancelled: "cancelled"}
                code = code.get(type(error)) or type(error).__name__
                self._fail(server, source, code, str(error) or code)
                return
            columns = result.get("columns")
            params = [
                result.get("output"),
                result.get("status"),
                json.dumps(columns) if columns else None,
            ]
            call = "complete_job($1, $2, output_uri => $3, status => $4, columns => $5)"
            try:
                self._report(server, source, call, params, "completed")
            except Error as error:
                if error.retryable:
                    raise
                self._fail(server, source, error.code or "error", str(error))
        except Error as error:
            # Its lease runs out, and it is tried again.
            self._log(source, f"not reported: {error}")
        finally:
            with self._lock:
                self._held.pop(source.job_id, None)

    def _fail(self, server, source, code, message):
        call = "fail_job($1, $2, $3, code => $4)"
        self._report(server, source, call, [message, code], f"failed: {message}")

    def _report(self, server, source, call, params, done):
        """Reports; the server alone judges whether the attempt still counts."""
        rows = server.sql(
            f"SELECT {call} AS taken",
            [source.job_id, source.token, *params],
            key=str(uuid.uuid4()),
        )
        # The repetition of a report whose rows are gone tells the outcome instead.
        taken = all(row.get("taken", row.get("outcome") != "stale-token") for row in rows)
        self._log(source, done if taken else "refused: its lease was lost")

    def _beat(self, server, lease, ended):
        """Renews the leases of all that is held, three times per lease, and looks in between
        whether somebody cancelled something."""
        answered = asked = time.monotonic()
        while not ended.wait(min(lease / 3, WATCH)):
            with self._lock:
                held = list(self._held.values())
            now = time.monotonic()
            if not held:
                answered = asked = now
                continue
            try:
                if now - asked < lease / 3:
                    self._look(server, held)
                    continue
                asked = now
                beats = self._renew(server, held)
                answered = asked
            except Exception as error:  # Without this thread every lease would run out unseen.
                print(f"heartbeats could not be sent: {error}", file=sys.stderr, flush=True)
                asked = answered
                # After a whole lease without an answer others may have the sources.
                if time.monotonic() - answered < lease:
                    continue
                beats = {}
            for source in held:
                beat = beats.get(source.job_id, "stale")
                source.cancelled |= beat == "cancel-requested"
                source.lost |= beat == "stale"

    def _renew(self, server, held):
        pairs = ", ".join(f"({source.job_id}, {source.token})" for source in held)
        rows = server.sql(
            "SELECT column1 AS job, heartbeat(column1, column2) AS beat "
            f"FROM (VALUES {pairs})"
        )
        return {row["job"]: row["beat"] for row in rows}

    def _look(self, server, held):
        jobs = ", ".join(str(source.job_id) for source in held)
        rows = server.sql(
            "SELECT job_id, token FROM jobs WHERE cancel_requested_at IS NOT NULL "
            f"AND ended_at IS NULL AND job_id IN ({jobs})"
        )
        cancelled = {(row["job_id"], row["token"]) for row in rows}
        for source in held:
            source.cancelled |= (source.job_id, source.token) in cancelled

    def _log(self, source, text):
        print(f"job {source.job_id} of {source.source_id}: {text}", file=sys.stderr, flush=True)
