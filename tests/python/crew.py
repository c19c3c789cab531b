"""Four processes on one store, and clients that keep logs of their own of what they were told.

Two servers with a worker each, a worker, and a prompt that is started again and again. Whatever
ends is started again until the crew is dismissed. A client writes a line per statement: what it
sent, when, and what came of it:

- done: it was told so, with the rows in `rows`, or None where a repeated request got the counts only;
- refused: it was told by an error that nothing was changed;
- unknown: nobody told;
- unsent: an earlier statement of its script failed.
"""

import collections
import dataclasses
import http.client
import json
import pathlib
import random
import re
import signal
import subprocess
import threading
import time

from conftest import BINARY
from object_stores import free_port

# What is there at the beginning. Leases are short, so that some are over while a process is away.
DOCUMENTS = 40
COUNTERS = 4
JOB_LEASE = 4
SETUP = f"""
CREATE TABLE docs (id TEXT, n BIGINT, note TEXT, PRIMARY KEY (id));
INSERT INTO docs SELECT 'd' || value, value, '' FROM generate_series(0, {DOCUMENTS - 1});
CREATE TABLE counters (id TEXT, n BIGINT, note TEXT, PRIMARY KEY (id));
INSERT INTO counters SELECT 'c' || value, 0, '' FROM generate_series(0, {COUNTERS - 1});
""" + "".join(
    f"CREATE TRANSFORM {name} ON docs FROM STATUS 'RAW', 'DONE' TO STATUS 'DONE' "
    f"WITH (lease '{JOB_LEASE} seconds', max_attempts 3, backoff '1 millisecond', "
    f"group_size {group}, concurrency 20) {body};"
    for name, group, body in [
        ("inside", 5, "AS SELECT id, concat('job ', job_id) AS note FROM input"),
        ("command", 2, "USING COMMAND 'sh command.sh {source_id} {job_id}'"),
        ("outside", 4, "USING OUTSIDE WORKER"),
    ]
)

# Tells in a file of its own that it ran for a job.
COMMAND = 'echo "$1 $2" >> commands.log; sleep 0.02\n'

# Errors that promise that nothing was changed: a duplicate key, a lock, a conflict, contention.
REFUSALS = {"SG3001", "SG3003", "SG3004", "SG3005", "SG5005"}

# Statements that a season has done before it ends, however slow the machine is.
DONE_MIN = 60
# Seconds that a season may take beyond its time to get there.
SLOW_SECONDS = 180

# Seconds until a client gives up waiting for an answer, and tries it at the other server.
PATIENCE = 6
# Seconds that a client goes on asking after the crew was told to end.
LAST_TRIES = 60


@dataclasses.dataclass
class Statement:
    """One statement with a tag that is in its text, so that the ledger tells of it."""

    tag: str
    op: str
    sql: str
    tokens: tuple = ()
    about: dict = dataclasses.field(default_factory=dict)


class Crew:
    """The processes. `place` is a folder or a URL, `environment` how the processes reach it."""

    def __init__(self, folder, place, environment=None, clean=None):
        self.folder, self.place = pathlib.Path(folder), str(place)
        self.environment, self.clean = environment, clean or environment
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.running = {}
        self.counts = collections.Counter()
        self.ports = [free_port(), free_port()]
        self.keepers = []

    def command(self, *arguments):
        return [BINARY, "--store", self.place, *map(str, arguments)]

    def start(self):
        (self.folder / "command.sh").write_text(COMMAND)
        self.at_the_store("--create", "-c", SETUP)
        members = {
            f"server-{number}": ["serve", "--bind", f"127.0.0.1:{port}", "--workers", 1]
            for number, port in enumerate(self.ports)
        }
        members["worker"] = ["work", "--name", "worker", "--parallel", 1]
        for name, arguments in members.items():
            keeper = threading.Thread(target=self.keep, args=(name, arguments), daemon=True)
            keeper.start()
            self.keepers.append(keeper)

    def at_the_store(self, *arguments, timeout=300):
        """Runs the program to its end where nothing makes faults; returns what it printed."""
        done = subprocess.run(
            self.command("--actor", "judge", "--format", "ndjson", *arguments),
            cwd=self.folder,
            env=self.clean,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def launch(self, name, *arguments, **pipes):
        # Keys belong to who sends them, and who sends no access token is the server's own actor.
        actor = "server" if name.startswith("server") else name
        process = subprocess.Popen(
            self.command("--actor", actor, *arguments),
            cwd=self.folder,
            env=self.environment,
            **pipes,
        )
        with self.lock:
            self.running[name] = process
        return process

    def keep(self, name, arguments):
        while not self.over.is_set():
            with open(self.folder / f"{name}.err", "a", encoding="utf-8") as told:
                code = self.launch(name, *arguments, stdout=told, stderr=told).wait()
            self.counts[f"{name} ended with {code}"] += 1
            self.over.wait(0.2)

    def send(self, name, number):
        """Sends a signal to a process that lives."""
        with self.lock:
            process = self.running.get(name)
            if process is None or process.poll() is not None:
                return None
            process.send_signal(number)
            return process

    def dismiss(self):
        """Tells all to end; returns those that had to be killed."""
        self.over.set()
        for name in list(self.running):
            self.send(name, signal.SIGCONT)
            self.send(name, signal.SIGTERM)
        for keeper in self.keepers:
            keeper.join(timeout=60)
        stuck = [name for name in list(self.running) if self.send(name, signal.SIGKILL)]
        return stuck


class Client:
    """Sends statements that it makes up by its chance, and logs what it is told."""

    def __init__(self, crew, name, seed):
        self.crew, self.name = crew, name
        self.chance = random.Random(f"{seed}-{name}")
        self.tags = self.done = 0
        self.log = open(crew.folder / f"{name}.client.log", "w", encoding="utf-8")

    def run(self, quiet):
        """Makes steps until `quiet` is set."""
        steps = [self.insert, self.race, self.count, self.hold, self.schedule, self.work]
        while not quiet.is_set():
            self.chance.choice(steps)()
        self.log.close()

    def statement(self, op, sql, tokens=(), **about):
        """`{tag}` in the text becomes a word that no other statement has."""
        self.tags += 1
        tag = f"tag_{self.name}_{self.tags}_"
        return Statement(tag, op, sql.replace("{tag}", tag), tuple(tokens), about)

    def ask(self, *statements):
        """Sends them one after the other; returns and logs what came of each."""
        entries = self.sent(statements)
        for entry in entries:
            self.log.write(json.dumps(entry) + "\n")
            self.done += entry["outcome"] == "done"
        self.log.flush()
        return entries

    def entry(self, statement, sent, outcome, rows=None, code=None):
        return {
            "client": self.name,
            **dataclasses.asdict(statement),
            "sent": sent,
            "told": time.time(),
            "outcome": outcome,
            "rows": rows,
            "code": code,
        }

    def insert(self):
        sql = "INSERT INTO docs VALUES ('new-{tag}', 1000, '{tag}')"
        self.ask(*(self.statement("insert", sql) for _ in range(self.chance.randint(1, 3))))

    def race(self):
        """Several clients insert the same key."""
        key = f"race-{int(time.time() * 2)}"
        sql = f"INSERT INTO docs VALUES ('{key}', 1000, '{{tag}}')"
        self.ask(self.statement("race", sql, key=key))

    def count(self):
        counter = f"c{self.chance.randrange(COUNTERS)}"
        sql = f"UPDATE counters SET n = n + 1, note = '{{tag}}' WHERE id = '{counter}'"
        self.ask(self.statement("count", sql, counter=counter))

    def schedule(self):
        transform = self.chance.choice(["inside", "command", "outside"])
        first = self.chance.randrange(DOCUMENTS)
        sql = f"""SELECT '{{tag}}' AS tag, id, schedule_job('{transform}', id) AS job_id FROM docs
                   WHERE n BETWEEN {first} AND {first + 3}"""
        self.ask(self.statement("schedule", sql, transform=transform))

    def hold(self):
        """Takes a lock, changes what it covers, and lets go, or leaves that to the lease."""
        source = f"d{self.chance.randrange(10)}"
        resource = self.chance.choice([f"docs/{source}"] * 6 + ["@free/a", "@free", "docs"])
        ttl = 1 if resource == "docs" else self.chance.choice([1, 2, 5])
        sql = f"""SELECT '{{tag}}' AS tag, acquire_lock('{resource}',
                   ttl => INTERVAL '{ttl} seconds', reason => '{{tag}}') AS token"""
        [taken] = self.ask(self.statement("lock", sql, resource=resource, ttl=ttl))
        if taken["outcome"] != "done" or not taken["rows"] or taken["rows"][0]["token"] is None:
            return
        token = int(taken["rows"][0]["token"])
        time.sleep(self.chance.uniform(0, 0.3))
        then = []
        if resource.startswith("docs"):
            sql = f"UPDATE docs SET note = '{{tag}}' WHERE id = '{source}'"
            then.append(self.statement("change", sql, [token], source=source, token=token))
        if self.chance.random() < 0.8:
            sql = f"SELECT '{{tag}}' AS tag, release_lock('{resource}', {token}) AS released"
            then.append(self.statement("unlock", sql, [token], token=token))
        if then:
            self.ask(*then)

    def work(self):
        """Claims jobs and reports most of them; the leases of the others run out."""
        sql = f"CALL claim_jobs('{self.name}', transforms => 'outside', max => 3)"
        [claimed] = self.ask(self.statement("claim", sql))
        reports = []
        for row in claimed["rows"] or []:
            job, token = int(row["job_id"]), int(row["token"])
            call = self.chance.choice([f"complete_job({job}, {token})"] * 6 + [
                f"fail_job({job}, {token}, 'odd: by chance')", None
            ])
            if call is not None:
                op = call.split("_")[0]
                sql = f"SELECT '{{tag}}' AS tag, {call} AS reported"
                reports.append(self.statement(op, sql, job_id=job, token=token))
        if reports:
            self.ask(*reports)


class AtServers(Client):
    """Asks by HTTP, each statement under a key of its own and until somebody tells."""

    def __init__(self, crew, name, seed):
        super().__init__(crew, name, seed)
        self.port = self.chance.randrange(len(crew.ports))

    def sent(self, statements):
        return [self.one(statement) for statement in statements]

    def one(self, statement):
        sent, silent, code = time.time(), False, None
        while True:
            try:
                answer = self.post(statement)
            except (OSError, http.client.HTTPException):
                # It may have arrived, and may be done at any time from now on.
                silent, answer = True, None
                self.port = (self.port + 1) % len(self.crew.ports)
            if answer is not None:
                status, headers, body = answer
                if status == 200:
                    counts_only = headers.get("Sluicegate-Replayed") == "summary"
                    return self.entry(statement, sent, "done", None if counts_only else body)
                code = body.get("code")
                self.crew.counts[f"answers {code}"] += 1
                if code in REFUSALS:
                    return self.entry(statement, sent, "unknown" if silent else "refused", code=code)
                # Others may have left it open, whatever they say.
                silent = True
            if self.crew.over.is_set() or time.time() - sent > LAST_TRIES:
                return self.entry(statement, sent, "unknown", code=code)
            time.sleep(self.chance.uniform(0.1, 0.4))

    def post(self, statement):
        port = self.crew.ports[self.port]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        headers = {"Content-Type": "text/plain", "Idempotency-Key": statement.tag}
        if statement.tokens:
            headers["Sluicegate-Lock-Tokens"] = ", ".join(map(str, statement.tokens))
        try:
            connection.request("POST", "/v1/sql", statement.sql.encode(), headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())
        except ValueError as error:
            raise http.client.HTTPException("half an answer") from error
        finally:
            connection.close()


class AtPrompts(Client):
    """Starts the program for each script. After each statement, a row tells that it is done."""

    def sent(self, statements):
        arguments = ["--format", "ndjson"]
        for token in sorted({token for statement in statements for token in statement.tokens}):
            arguments += ["--lock-token", token]
        for statement in statements:
            arguments += ["-c", statement.sql, "-c", f"SELECT '{statement.tag}' AS done"]
        sent = time.time()
        process = self.crew.launch(
            self.name, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        errors = []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read()), daemon=True)
        reader.start()
        entries, rows = [], []
        for line in process.stdout:
            # A process that was killed may leave half a line.
            row = json.loads(line) if line.endswith("}\n") else {}
            if "done" in row:
                entries.append(self.entry(statements[len(entries)], sent, "done", rows))
                rows = []
            else:
                rows.append(row)
        exit_code = process.wait()
        reader.join()
        return entries + self.undone(statements[len(entries) :], sent, exit_code, errors[0])

    def undone(self, statements, sent, exit_code, text):
        if not statements:
            return []
        found = re.search(r"error (SG\d+)", text)
        code = found.group(1) if found else f"exit code {exit_code}"
        self.crew.counts[f"prompts {code}"] += 1
        first = self.entry(
            statements[0], sent, "refused" if code in REFUSALS else "unknown", code=code
        )
        return [first, *(self.entry(each, sent, "unsent") for each in statements[1:])]


class Season:
    """Clients at work in threads, from `start` to `end`."""

    def __init__(self, crew, seed):
        self.quiet = threading.Event()
        self.clients = [AtServers(crew, f"client-{number}", seed) for number in range(3)]
        self.clients.append(AtPrompts(crew, "prompt", seed))
        self.failures = []
        self.threads = [
            threading.Thread(target=self.guarded, args=(client,), daemon=True)
            for client in self.clients
        ]

    def done(self):
        """How many statements were told to be done."""
        return sum(client.done for client in self.clients)

    def guarded(self, client):
        try:
            client.run(self.quiet)
        except Exception as error:  # noqa: BLE001: told by the verdict, whatever it is
            self.failures.append(f"{client.name}: {error!r}")

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self, seconds):
        """Lets each client finish its step; returns what went wrong with them."""
        self.quiet.set()
        limit = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(timeout=max(0.1, limit - time.monotonic()))
        hung = [f"client {index} hangs" for index, t in enumerate(self.threads) if t.is_alive()]
        return self.failures + hung


