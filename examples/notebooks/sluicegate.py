"""Sluicegate from Python: SQL goes out, pandas DataFrames come back.

    import sluicegate

    gate = sluicegate.connect()
    picked = gate.query("SELECT notice_id, bytes FROM notices WHERE status = $1", ["RAW"])
    picked = picked[picked["bytes"] < 50_000]          # edit it as any DataFrame
    gate.preview_schedule("normalise", picked)         # what would happen, row by row
    jobs = gate.schedule("normalise", picked)          # exactly these rows
    gate.watch(jobs)                                   # a bar, until the batch has ended

Needs pandas and pyarrow; everything else is Python's own. Copy this file beside your notebook.

What it keeps for you:

- A query is sent read-only, so a cell that only looks can never change anything.
- A change carries an idempotency key. Where the connection breaks before the answer is there, the
  call is sent again with the same key, and so is the same cell when you run it again: the change
  happens once. After an answer, running the cell again is a new change. To be safe over a restart
  of the notebook as well, give a key of your own: key="reprocess-2024-06-01".
- Values go into SQL as parameters or as tables, never by pasting text together.
- The locks that a client acquires are its own: it shows their tokens with everything that it sends.
  Another client, also one of yours, is kept out by them.

Its limits: a result has to fit into memory (`rows_max` guards that), a statement has to end
within `timeout` seconds, and only the sources in a DataFrame are sent, not files.
"""

import dataclasses
import datetime
import decimal
import hashlib
import html
import http.client
import io
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

import pandas
import pyarrow

__all__ = ["Client", "SluicegateError", "connect"]

ARROW_STREAM = "application/vnd.apache.arrow.stream"

# How often a request is sent in all when the connection breaks or the server is busy.
TRIES = 4

# Columns of a source table that the server keeps; they cannot be uploaded.
KEPT_BY_THE_SERVER = {"status_at", "locked", "live_job_id", "last_job_id", "version"}

# Without these, a column of integers with a missing value would turn into floating point, and a
# large job id into another one.
PANDAS_TYPES = {
    pyarrow.int8(): pandas.Int8Dtype(),
    pyarrow.int16(): pandas.Int16Dtype(),
    pyarrow.int32(): pandas.Int32Dtype(),
    pyarrow.int64(): pandas.Int64Dtype(),
    pyarrow.uint8(): pandas.UInt8Dtype(),
    pyarrow.uint16(): pandas.UInt16Dtype(),
    pyarrow.uint32(): pandas.UInt32Dtype(),
    pyarrow.uint64(): pandas.UInt64Dtype(),
    pyarrow.bool_(): pandas.BooleanDtype(),
}


def connect(url=None, token=None, timeout=300):
    """Returns a `Client` of the server at `url`.

    Without arguments: the variables SLUICEGATE_URL and SLUICEGATE_TOKEN, else a server on this
    machine, http://127.0.0.1:8080, and no token. `timeout` is how many seconds one statement may
    take. Nothing is sent yet.
    """
    url = url or os.environ.get("SLUICEGATE_URL") or "http://127.0.0.1:8080"
    token = token or os.environ.get("SLUICEGATE_TOKEN") or None
    return Client(url, token, timeout)


class SluicegateError(Exception):
    """What the server refused or could not do.

    `code` is stable and can be looked up with `sluicegate explain CODE`; `hint` says what to try;
    `position` is (line, column) in the SQL, or None. `effects_committed` is True, False, or None
    where nobody can tell yet: then run the same call again, which settles it.
    """

    def __init__(self, problem, sql=None):
        self.code = problem.get("code")
        self.status = problem.get("status")
        self.title = problem.get("title")
        self.detail = problem.get("detail") or self.title or "an error without a description"
        self.hint = problem.get("hint")
        self.retryable = bool(problem.get("retryable"))
        self.effects_committed = problem.get("effects_committed", False)
        self.statement_id = problem.get("statement_id")
        at = problem.get("position")
        self.position = (at["line"], at["column"]) if at else None
        self.sql = sql
        super().__init__(self.detail)

    def __str__(self):
        lines = [f"{self.code}: {self.detail}" if self.code else self.detail]
        text = (self.sql or "").splitlines()
        if self.position and self.position[0] <= len(text):
            line, column = self.position
            lines += ["", f"    {text[line - 1]}", "    " + " " * (column - 1) + "^"]
        if self.hint:
            lines += ["", f"Hint: {self.hint}"]
        return "\n".join(lines)

    def _render_traceback_(self):
        """What a notebook shows: the error itself, without the way through this file."""
        return [str(self)]


@dataclasses.dataclass(frozen=True)
class _Answer:
    headers: http.client.HTTPMessage
    body: bytes

    def arrow(self):
        with pyarrow.ipc.open_stream(self.body) as stream:
            return stream.read_all()

    def frame(self):
        frame = _frame(self.arrow())
        version = self.headers.get("Sluicegate-Version")
        frame.attrs = {
            "statement_id": self.headers.get("Sluicegate-Statement-Id"),
            "version": int(version) if version else None,
            "replayed": self.headers.get("Sluicegate-Replayed"),
        }
        return frame


class Client:
    """A server, as a notebook meets it. Make one with `connect`."""

    def __init__(self, url, token=None, timeout=300):
        self.url = url.rstrip("/")
        self.token = token
        self.timeout = timeout
        # The tokens of the locks that this client was given and has not released.
        self.lock_tokens = set()
        # Changes that were sent and not answered: what was sent, and the key that it carried.
        self._unanswered = {}

    def __repr__(self):
        return f"sluicegate.connect({self.url!r})"

    # ------------------------------------------------------------ SQL

    def query(self, sql, params=None, tables=None, rows_max=1_000_000):
        """Runs a query and returns a DataFrame.

        `params`: values for $1, $2 as a list, or for $name as a dict. `tables`: DataFrames that
        the query can name as tables, as in {"picked": frame}. More rows than `rows_max` are an
        error. The query is sent read-only; a statement with effects is refused.
        """
        return self._ask(sql, params, tables, rows_max).frame()

    def query_arrow(self, sql, params=None, tables=None, rows_max=1_000_000):
        """As `query`, but returns a pyarrow.Table, with the exact types of the server."""
        return self._ask(sql, params, tables, rows_max).arrow()

    def preview(self, sql, params=None, tables=None):
        """Says what a statement with effects would do, a row per source, and does nothing.

        Column `outcome` is what would happen, `reason` why not, `holder` who is in the way.
        """
        return self.query("PREVIEW\n" + sql, params, tables)

    def execute(self, sql, params=None, tables=None, key=None):
        """Runs a statement that changes something, once, and returns its rows.

        The DataFrame's `attrs` hold statement_id, version, and replayed: None; or, where the
        statement had run before, "rows" (these are its rows) or "summary" (the rows are gone, and
        these are the counts of outcomes).
        """
        return self._change(sql, *_request(sql, params, tables, {}), key).frame()

    def upload(self, table, frame, mode="insert", key=None):
        """Writes the rows of a DataFrame into a source table; returns how many.

        `mode`: "insert" refuses rows whose key is there already, "replace" replaces them. All rows
        are written or none. Columns that the server keeps itself (`locked`, `status_at` ...) are
        left out; `status` is set where it is given.
        """
        shape = self.query_arrow(f"SELECT * FROM {_quoted(table)} LIMIT 0").schema
        names = [name for name in frame.columns if name not in KEPT_BY_THE_SERVER]
        unknown = [str(name) for name in names if name not in shape.names]
        if unknown:
            raise ValueError(
                f"table {table} has no column {', '.join(unknown)}; "
                f"it has {', '.join(name for name in shape.names)}"
            )
        verb = {"insert": "INSERT", "replace": "REPLACE"}[mode]
        columns = ", ".join(_quoted(name) for name in names)
        sql = f"{verb} INTO {_quoted(table)} ({columns}) SELECT {columns} FROM uploaded"
        fields = [shape.field(name).remove_metadata() for name in names]
        rows = _table(frame[names]).cast(pyarrow.schema(fields))
        answer = self._change(sql, *_request(sql, None, {"uploaded": rows}, {}), key)
        return int(answer.headers["Sluicegate-Rows-Affected"])

    def refusals(self, done):
        """What of a change was refused and why; `done` is what `execute` returned.

        An effect that is refused is no error: the row has NULL or FALSE, and the other rows are
        done. The reason is an event, which this reads. `holder` is who is in the way.
        """
        return self.query(
            "SELECT function, resource, source_id, job_id, outcome, message AS reason,\n"
            "       owner AS holder\n"
            "  FROM events WHERE statement_id = $1 AND kind = 'effect-refused' ORDER BY ordinal",
            [done.attrs["statement_id"]],
        )

    # ------------------------------------------------------------ jobs

    def preview_schedule(self, transform, sources, key_column=None, **options):
        """Says what `schedule` with the same arguments would do, and does nothing."""
        options.pop("key", None)
        call, params, tables = _schedule(transform, sources, key_column, **options)
        return self.preview(f"SELECT {call}", params, tables)

    def schedule(self, transform, sources, key_column=None, key=None, **options):
        """Schedules a transform for exactly the rows of a DataFrame, in their order.

        The column `key_column`, by default the first one, names the sources. Options: `batch`, a
        name; and `priority`, `run_at` and `params`, each one value for all rows or a column of
        values, such as `priority=picked["urgent"]`. `params` are dicts or JSON.

        Returns a row per source: the `job_id`, or the `outcome` and `reason` of the refusal.
        """
        call, params, tables = _schedule(transform, sources, key_column, **options)
        done = self.execute(f"SELECT source_id, {call}", params, tables, key)
        return self._jobs(done, "source_id")

    def retry(self, jobs, key=None, **options):
        """Schedules failed or cancelled jobs again, as new jobs that know their parent.

        `jobs`: a DataFrame with a column `job_id`. Options as for `schedule`. Without `params`,
        each new job has the parameters of the failed one.
        """
        columns, arguments, params = _options(jobs, options)
        columns["old_job_id"] = jobs["job_id"].to_numpy()
        sql = f"SELECT old_job_id, retry_job(old_job_id{arguments}) AS job_id\n"
        sql += "  FROM selection ORDER BY place"
        tables = {"selection": pandas.DataFrame(columns)}
        return self._jobs(self.execute(sql, params, tables, key), "old_job_id")

    def watch(self, batch, every=0.5, timeout=900):
        """Shows a bar until a batch has ended, and returns its row of table `batches`.

        `batch`: its number, or what `schedule` or `retry` returned. Stopping the cell stops the
        watching, not the jobs. After `timeout` seconds: TimeoutError.
        """
        number = batch.attrs.get("batch_id") if isinstance(batch, pandas.DataFrame) else batch
        if number is None:
            print("No job was scheduled, so there is nothing to watch.")
            return None
        began, moved_at, before, show = time.monotonic(), time.monotonic(), None, _shower()
        while True:
            rows = self.query("SELECT * FROM batches WHERE batch_id = $1", [int(number)])
            if rows.empty:
                raise ValueError(f"there is no batch {number}")
            row = rows.iloc[0]
            now = time.monotonic()
            if before is None or not row.equals(before):
                before, moved_at = row, now
            show(_Bar(row, seconds=now - began, idle=now - moved_at))
            if pandas.notna(row["ended_at"]):
                return row
            if now - began > timeout:
                raise TimeoutError(
                    f"batch {number} has not ended after {timeout} s; its jobs go on. Where none "
                    "is running, a worker is missing: sluicegate serve --workers 2"
                )
            time.sleep(every)

    def failures(self, batch=None):
        """The jobs that failed for good, the newest first: of one batch, or of all."""
        number = batch.attrs.get("batch_id") if isinstance(batch, pandas.DataFrame) else batch
        return self.query(
            "SELECT job_id, source_table, source_id, transform, attempt, error_code, error,\n"
            "       params, worker, ended_at, log_uri\n"
            "  FROM jobs WHERE state = 'discarded' AND ($1 IS NULL OR batch_id = $1)\n"
            " ORDER BY job_id DESC",
            [None if number is None else int(number)],
        )

    def log(self, job_id):
        """What the command of a job's last attempt printed; None where there is no log."""
        found = self.query(
            "SELECT log_uri FROM jobs WHERE job_id = $1 AND log_uri IS NOT NULL", [int(job_id)]
        )
        if found.empty:
            return None
        return self.query("SELECT read_text($1) AS log", [found["log_uri"][0]])["log"][0]

    def _jobs(self, done, name):
        """What became of each row of an effect that makes jobs, with the reasons of refusals."""
        attrs = done.attrs
        statement = [attrs["statement_id"]]
        refused = self.refusals(done).rename(columns={"job_id": "old_job_id"})
        if attrs["replayed"] == "summary":
            # The first answer is gone; the ledger still has what it said.
            done = self.query(
                "SELECT source_id, parent_job_id AS old_job_id, job_id FROM jobs\n"
                " WHERE batch_id = (SELECT batch_id FROM batches WHERE statement_id = $1)\n"
                " ORDER BY job_id",
                statement,
            )[[name, "job_id"]]
        # Events name sources as text, whatever type their key has.
        outcomes = dict(zip(refused[name].astype(str), refused["outcome"]))
        reasons = dict(zip(refused[name].astype(str), refused["reason"]))
        jobs = done.assign(
            outcome=[outcomes.get(str(one), "scheduled") for one in done[name]],
            reason=[reasons.get(str(one)) for one in done[name]],
        )
        batch = self.query("SELECT batch_id FROM batches WHERE statement_id = $1", statement)
        number = None if batch.empty else int(batch["batch_id"][0])
        jobs.attrs = {**attrs, "batch_id": number}
        return jobs

    # ------------------------------------------------------------ HTTP

    def _ask(self, sql, params, tables, rows_max):
        body, headers = _request(sql, params, tables, {"max_rows": rows_max})
        try:
            return self._send(sql, body, {**headers, "Sluicegate-Read-Only": "?1"})
        except SluicegateError as error:
            if error.code == "SG1007":
                error.hint = (
                    "query() only looks: preview() says what this would do, execute() does it."
                )
            raise

    def _change(self, sql, body, headers, key):
        """Sends a change with its key, which is forgotten once the change is known to be over."""
        content = hashlib.sha256(body).hexdigest()
        sent = key or self._unanswered.setdefault(content, str(uuid.uuid4()))
        try:
            answer = self._send(sql, body, {**headers, "Idempotency-Key": sent})
        except SluicegateError as error:
            if error.effects_committed is False:
                self._unanswered.pop(content, None)
            raise
        self._unanswered.pop(content, None)
        if answer.headers.get("Idempotency-Replayed"):
            print("This had been done already; what you see is its first outcome.")
        self._keep_locks(answer.headers)
        return answer

    def _keep_locks(self, headers):
        """Keeps the tokens of the locks that a change was given, and drops those it released."""
        changes = json.loads(headers.get("Sluicegate-Locks") or "null")
        summary = json.loads(headers.get("Sluicegate-Summary") or "[]")
        ends = {(one["function"], one["outcome"]) for one in summary}
        if changes is None and ends & {("acquire_lock", "acquired"), ("release_lock", "released")}:
            # They were too many for a header, or the first answer is gone; the ledger has them.
            found = self.query(
                "SELECT kind, token FROM events WHERE statement_id = $1"
                " AND kind IN ('lock-acquired', 'lock-released')",
                [headers["Sluicegate-Statement-Id"]],
            )
            acquired = found["kind"] == "lock-acquired"
            changes = {
                "acquired": found["token"][acquired].tolist(),
                "released": found["token"][~acquired].tolist(),
            }
        if changes:
            self.lock_tokens.update(changes["acquired"])
            self.lock_tokens.difference_update(changes["released"])

    def _send(self, sql, body, headers):
        """Sends a request, again where that is safe and may help, and returns the answer."""
        url = self.url + "/v1/sql"
        headers = {"Accept": ARROW_STREAM, "Sluicegate-Timeout": str(self.timeout), **headers}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.lock_tokens:
            headers["Sluicegate-Lock-Tokens"] = ", ".join(map(str, sorted(self.lock_tokens)))
        for tried in range(1, TRIES + 1):
            request = urllib.request.Request(url, body, headers, method="POST")
            try:
                # The server ends the statement in time; a little later its silence is a failure.
                with urllib.request.urlopen(request, timeout=self.timeout + 10) as response:
                    return _Answer(response.headers, response.read())
            except urllib.error.HTTPError as answer:
                error = _error(answer, sql)
                if answer.code not in (429, 503) or tried == TRIES:
                    raise error from None
                pause = float(answer.headers.get("Retry-After") or 1)
            except (OSError, http.client.HTTPException) as broken:
                if tried == TRIES:
                    raise ConnectionError(self._unreachable(broken)) from None
                pause = 0.2 * 2**tried
            time.sleep(min(pause, 10))

    def _unreachable(self, broken):
        why = getattr(broken, "reason", None) or broken or type(broken).__name__
        return (
            f"no answer from {self.url}: {why}. Is the server there? sluicegate --store "
            "sluicegate-demo/store --allow-root sluicegate-demo serve --workers 2 starts one. "
            "Where this was a change, run the same cell again: it happens once."
        )


# ---------------------------------------------------------------- requests


def _request(sql, params, tables, limits):
    """The body and the headers of a statement: JSON, or a form where tables come along."""
    if params is not None and not isinstance(params, dict):
        params = list(params)
    request = json.dumps({"sql": sql, "params": params, **limits}, default=_plain).encode()
    if not tables:
        return request, {"Content-Type": "application/json"}
    parts = [("request", "application/json", request)]
    parts += [(name, ARROW_STREAM, _stream(_table(frame))) for name, frame in tables.items()]
    # The same content gives the same bytes, by which a call that is made again is known.
    content = hashlib.sha256(b"\0".join(part[2] for part in parts)).hexdigest()
    boundary = f"sluicegate-{content}"
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; name={json.dumps(name)}\r\n"
        f"Content-Type: {media}\r\n\r\n".encode() + data + b"\r\n"
        for name, media, data in parts
    )
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def _plain(value):
    """A parameter that JSON does not know, as what the server reads it from."""
    if value is pandas.NA or value is pandas.NaT:
        return None
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a parameter cannot be a {type(value).__name__}; try text or a number")


def _table(frame):
    if isinstance(frame, pyarrow.Table):
        return frame
    return pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def _frame(table):
    # Categories would refuse the new values that somebody who edits a column writes into it.
    for place, field in enumerate(table.schema):
        if pyarrow.types.is_dictionary(field.type):
            plain = table.column(place).cast(field.type.value_type)
            table = table.set_column(place, field.name, plain)
    return table.to_pandas(types_mapper=PANDAS_TYPES.get, date_as_object=False)


def _stream(table):
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'


def _error(answer, sql):
    """The error that an answer is, also where what answered is no Sluicegate."""
    try:
        problem = json.loads(answer.read())
    except (ValueError, OSError, http.client.HTTPException):
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": f"HTTP status {answer.code} {answer.reason}", "status": answer.code}
        # What stands before the server may have lost the answer to a change that was made.
        problem["effects_committed"] = None
    return SluicegateError(problem, sql)


def _schedule(transform, sources, key_column=None, **options):
    """What follows SELECT, the parameters and the table that schedule a DataFrame's rows."""
    if not isinstance(sources, pandas.DataFrame):
        sources = pandas.DataFrame({"source_id": sources})
    name = key_column or sources.columns[0]
    columns, arguments, params = _options(sources, options)
    columns["source_id"] = sources[name].to_numpy()
    call = f"schedule_job($transform, source_id{arguments}) AS job_id\n"
    call += "  FROM selection ORDER BY place"
    return call, {"transform": transform, **params}, {"selection": pandas.DataFrame(columns)}


def _options(rows, options):
    """The columns, the arguments and the parameters of the options of new jobs."""
    unknown = set(options) - {"batch", "priority", "run_at", "params"}
    if unknown:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
    columns, arguments, params = {"place": range(len(rows))}, "", {}
    for name, value in options.items():
        if value is None:
            continue
        if name == "batch":
            arguments += ", batch => $batch"
            params["batch"] = value
            continue
        if not isinstance(value, (pandas.Series, list)):
            value = [value] * len(rows)
        if name == "params":
            value = [json.dumps(one) if isinstance(one, dict) else one for one in value]
        columns[name] = pandas.Series(value).to_numpy()
        arguments += f", {name} => {name}"
    return columns, arguments, params


# ---------------------------------------------------------------- the bar


class _Bar:
    """How far a batch is: HTML in a notebook, text elsewhere."""

    # In the order in which they stand in the bar, from the left.
    PARTS = [
        ("completed", "#2a9d8f"),
        ("discarded", "#d1495b"),
        ("cancelled", "#8d99ae"),
        ("running", "#4f86c6"),
        ("retryable", "#edae49"),
        ("available", "#e9ecef"),
    ]

    def __init__(self, row, seconds, idle):
        self.counts = {name: int(row[name]) for name, _ in self.PARTS}
        self.jobs = int(row["jobs"])
        done = sum(self.counts[name] for name in ("completed", "discarded", "cancelled"))
        named = [f"{count} {name}" for name, count in self.counts.items() if count]
        label = f"batch {row['batch_id']}"
        if pandas.notna(row["name"]):
            label += f" ({row['name']})"
        self.text = f"{label}: {done} of {self.jobs} done in {seconds:.0f} s: {', '.join(named)}"
        if idle > 20 and not self.counts["running"] and done < self.jobs:
            self.text += ". Nothing runs: is a worker there? sluicegate serve --workers 2"

    def __repr__(self):
        width = 40
        done = width - round(width * self.counts["available"] / max(self.jobs, 1))
        return f"[{'#' * done}{'.' * (width - done)}] {self.text}"

    def _repr_html_(self):
        pieces = "".join(
            f'<div title="{name}" style="width:{100 * self.counts[name] / max(self.jobs, 1):.3f}%;'
            f'background:{colour}"></div>'
            for name, colour in self.PARTS
        )
        return (
            '<div style="display:flex;height:14px;max-width:640px;border-radius:4px;'
            f'overflow:hidden;background:#e9ecef">{pieces}</div>'
            f'<div style="font-size:90%;margin-top:4px">{html.escape(self.text)}</div>'
        )


def _shower():
    """A function that shows a bar in the place of the one before."""
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from IPython.display import display

        handles = []

        def in_notebook(bar):
            if handles:
                handles[0].update(bar)
            else:
                handles.append(display(bar, display_id=True))

        return in_notebook

    def in_terminal(bar):
        live = sum(bar.counts[name] for name in ("available", "running", "retryable"))
        end = "" if live else "\n"
        print(f"\r{bar!r}", end=end, flush=True)

    return in_terminal
