"""Judges a store by what clients were told: their logs against the ledger.

What was acknowledged is in the ledger exactly once, what was refused or never sent is not there,
nobody held what another held, versions have no holes, every job ended, and `check` agrees.
"""

import collections
import datetime
import json
import re

from crew import COUNTERS

# What begins and ends the holding of a path.
BEGINNINGS = {"job-started", "lock-acquired"}
ENDINGS = {
    "job-completed",
    "job-failed",
    "job-crashed",
    "job-released",
    "job-cancelled",
    "lock-released",
    "lock-expired",
}

# Of each kind of statement: the event that its acknowledgement promises, by its token or job.
PROMISES = {
    "lock": ("lock-acquired", "token"),
    "claim": ("job-started", "token"),
    "schedule": ("job-scheduled", "job_id"),
    "unlock": ("lock-released", "released"),
    "complete": ("job-completed", "reported"),
    "fail": ("job-failed", "reported"),
}

# What is read of the store, by the name that each row carries.
TABLES = {
    "events": "SELECT 'events' AS part, version, ordinal, at, kind, statement_id, source_table,"
    " source_id, job_id, token, resource, to_state FROM events ORDER BY version, ordinal",
    "statements": "SELECT 'statements' AS part, statement_id, sql, idempotency_key FROM statements",
    "lock_history": "SELECT 'lock_history' AS part, resource, token, acquired_at, expires_at,"
    " ended_at FROM lock_history",
    "docs": "SELECT 'docs' AS part, id, note FROM docs",
    "counters": "SELECT 'counters' AS part, id, n FROM counters",
    "jobs": "SELECT 'jobs' AS part, job_id, state, transform FROM jobs",
}

Span = collections.namedtuple("Span", "path begin end who")


def seconds(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def related(one, other):
    """Whether two paths are the same, or one is above the other."""
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def overlaps(spans):
    """Pairs of spans of related paths that have a moment in common."""
    found, open_spans = [], []
    for span in sorted(spans, key=lambda each: each.begin):
        open_spans = [each for each in open_spans if each.end > span.begin]
        found += [(each, span) for each in open_spans if related(each.path, span.path)]
        open_spans.append(span)
    return found


class Verdict:
    """What is wrong, in words, and how much was compared."""

    def __init__(self, crew):
        self.crew = crew
        self.wrong = []
        self.counts = collections.Counter()

    def judge(self):
        self.drain()
        self.read()
        self.versions()
        self.statements()
        self.effects()
        self.rows()
        self.holders()
        self.jobs()
        check = self.crew.at_the_store("check")
        self.counts["lines of check"] = len(check.splitlines())
        return self

    def drain(self):
        """Works until no job is live."""
        for _ in range(20):
            *_, last = self.lines(
                "CALL claim_jobs('judge', transforms => 'outside', max => 10000)",
                "SELECT complete_job(job_id, token) FROM jobs"
                " WHERE worker = 'judge' AND state = 'running'",
                "CALL run_jobs(wait => INTERVAL '5 seconds')",
                "SELECT count(*) AS live FROM jobs WHERE ended_at IS NULL",
            )
            if last["live"] == 0:
                return
        self.wrong.append(f"{last['live']} jobs do not end")

    def lines(self, *statements):
        arguments = [word for statement in statements for word in ("-c", statement)]
        return [json.loads(line) for line in self.crew.at_the_store(*arguments).splitlines()]

    def read(self):
        self.entries = []
        for path in sorted(self.crew.folder.glob("*.client.log")):
            self.entries += [json.loads(line) for line in path.read_text().splitlines()]
        for entry in self.entries:
            self.counts[f"{entry['op']} {entry['outcome']}"] += 1
        # One process for all of them, for each has to open the store.
        self.tables = {name: [] for name in TABLES}
        for row in self.lines(*TABLES.values()):
            self.tables[row.pop("part")].append(row)
        self.events = self.tables["events"]
        self.kinds = collections.defaultdict(list)
        for event in self.events:
            self.kinds[event["kind"]].append(event)
        # The statement of each tag that the ledger has.
        self.tagged = collections.defaultdict(list)
        for row in self.tables["statements"]:
            # The key alone tells where a statement has one.
            text = row["idempotency_key"] or row["sql"] or ""
            for tag in set(re.findall(r"tag_[\w-]+?_\d+_", text)):
                self.tagged[tag].append(row["statement_id"])

    def versions(self):
        found = sorted({event["version"] for event in self.events})
        self.counts["versions"] = len(found)
        if found != list(range(1, len(found) + 1)):
            self.wrong.append(f"versions have holes: {len(found)} of {found[-1]}")
        times = [event["at"] for event in self.events]
        if times != sorted(times):
            self.wrong.append("time runs back")

    def statements(self):
        """Each statement once at most, and not at all where it was refused."""
        keys = collections.Counter(row["idempotency_key"] for row in self.tables["statements"])
        del keys[None]
        self.wrong += [f"key acted {n} times: {key}" for key, n in keys.items() if n > 1]
        for entry in self.entries:
            times = len(self.tagged[entry["tag"]])
            if times > 1:
                self.wrong.append(f"acted {times} times: {entry}")
            if entry["outcome"] in ("refused", "unsent") and times:
                self.wrong.append(f"acted though {entry['outcome']}: {entry}")
            if entry["outcome"] == "done" and entry["op"] in ("insert", "race", "count", "change"):
                self.counts["acknowledged effects"] += 1
                if times == 0:
                    self.wrong.append(f"acknowledged and lost: {entry}")

    def effects(self):
        """What rows of answers say is what events say, once each."""
        by_value = collections.defaultdict(collections.Counter)
        for kind, column in {("lock-acquired", "token"), ("job-started", "token"),
                             ("job-scheduled", "job_id"), ("lock-released", "token"),
                             ("job-completed", "token"), ("job-failed", "token")}:
            for event in self.kinds[kind]:
                by_value[kind][event[column]] += 1
        resources = {event["token"]: event["resource"] for event in self.kinds["lock-acquired"]}
        sources = {event["job_id"]: event["source_id"] for event in self.kinds["job-scheduled"]}
        told = collections.Counter()
        for entry in self.entries:
            if entry["op"] not in PROMISES or entry["outcome"] != "done":
                continue
            kind, column = PROMISES[entry["op"]]
            for row in entry["rows"] or []:
                value = row.get(column)
                if value is None or value is False:
                    self.counts[f"{entry['op']} told no"] += 1
                    self.refused(entry, kind)
                    continue
                value = entry["about"]["token"] if value is True else int(value)
                self.counts["acknowledged effects"] += 1
                if by_value[kind][value] != 1:
                    self.wrong.append(f"{kind} {by_value[kind][value]} times: {value}, {entry}")
                if entry["op"] == "lock":
                    told[value] += 1
                    if resources.get(value) != entry["about"]["resource"] or told[value] > 1:
                        self.wrong.append(f"a lock of another's: {entry}")
                if entry["op"] == "schedule" and sources.get(value) != row["id"]:
                    self.wrong.append(f"a job of another's: {entry}")

    def refused(self, entry, kind):
        """A row that says no leaves no such event of its statement, where it is the only row."""
        if len(entry["rows"]) > 1:
            return
        for statement in self.tagged[entry["tag"]]:
            if any(event["statement_id"] == statement for event in self.kinds[kind]):
                self.wrong.append(f"{kind} though told no: {entry}")

    def rows(self):
        """The rows of the tables are those of the clients."""
        docs = {row["id"]: row for row in self.tables["docs"]}
        for entry in self.entries:
            key = entry["about"].get("key") or f"new-{entry['tag']}"
            if entry["op"] not in ("insert", "race"):
                continue
            mine = key in docs and docs[key]["note"] == entry["tag"]
            if entry["outcome"] == "done" and not mine:
                self.wrong.append(f"the row is not there: {entry}")
            if entry["outcome"] in ("refused", "unsent") and mine:
                self.wrong.append(f"the row is there: {entry}")
        counters = {row["id"]: row["n"] for row in self.tables["counters"]}
        for counter in (f"c{number}" for number in range(COUNTERS)):
            mine = [e for e in self.entries if e["about"].get("counter") == counter]
            least = sum(entry["outcome"] == "done" for entry in mine)
            exact = sum(bool(self.tagged[entry["tag"]]) for entry in mine)
            if counters[counter] != exact or exact < least:
                self.wrong.append(f"{counter} is {counters[counter]}, not {exact}, {least} told")

    def holders(self):
        """By the order of the ledger, by its times, and by the clients' clocks."""
        spans, open_holds = [], {}
        for place, event in enumerate(self.events):
            if event["kind"] in BEGINNINGS:
                path = event["resource"] or f"{event['source_table']}/{event['source_id']}"
                open_holds[event["token"]] = (path, place)
            elif event["kind"] in ENDINGS and event["token"] in open_holds:
                path, begin = open_holds.pop(event["token"])
                spans.append(Span(path, begin, place, event["token"]))
        spans += [
            Span(path, begin, len(self.events), token)
            for token, (path, begin) in open_holds.items()
        ]
        self.compare("in the order of the ledger", spans)
        self.compare(
            "in lock_history",
            [
                Span(
                    row["resource"],
                    seconds(row["acquired_at"]),
                    seconds(row["ended_at"] or row["expires_at"]),
                    row["token"],
                )
                for row in self.tables["lock_history"]
            ],
        )
        self.compare("by the clients' clocks", self.client_spans())
        tokens = [e["token"] for e in self.events if e["kind"] in BEGINNINGS]
        if tokens != sorted(set(tokens)):
            self.wrong.append("tokens do not grow")

    def client_spans(self):
        """From the answer until the client let go, or the lease that it knew of was over."""
        let_go = {}
        for entry in self.entries:
            if entry["op"] in ("unlock", "complete", "fail") and entry["outcome"] != "unsent":
                let_go[entry["about"]["token"]] = entry["sent"]
        for entry in self.entries:
            if entry["outcome"] != "done":
                continue
            for row in entry["rows"] or []:
                if entry["op"] == "lock" and row["token"] is not None:
                    path, end = entry["about"]["resource"], entry["sent"] + entry["about"]["ttl"]
                elif entry["op"] == "claim":
                    path, end = f"docs/{row['source_id']}", seconds(row["expires_at"])
                else:
                    continue
                token = int(row["token"])
                end = min(end, let_go.get(token, end))
                if end > entry["told"]:
                    yield Span(path, entry["told"], end, token)

    def compare(self, where, spans):
        spans = list(spans)
        self.counts[f"holdings {where}"] = len(spans)
        for one, other in overlaps(spans):
            self.wrong.append(f"two holders {where}: {one}, {other}")

    def jobs(self):
        ends = collections.Counter(
            event["job_id"]
            for event in self.events
            if event["to_state"] in ("completed", "cancelled", "discarded")
        )
        ran = set()
        if (self.crew.folder / "commands.log").exists():
            lines = (self.crew.folder / "commands.log").read_text().splitlines()
            ran = {line.split()[-1] for line in lines}
        jobs = self.tables["jobs"]
        self.counts["jobs"] = len(jobs)
        if len(jobs) != len(self.kinds["job-scheduled"]):
            self.wrong.append(f"{len(jobs)} jobs of {len(self.kinds['job-scheduled'])} scheduled")
        for job in jobs:
            self.counts[f"jobs {job['state']}"] += 1
            if ends[job["job_id"]] != 1:
                self.wrong.append(f"{ends[job['job_id']]} ends: {job}")
            command = job["transform"] == "command" and job["state"] == "completed"
            if command and str(job["job_id"]) not in ran:
                self.wrong.append(f"completed and never run: {job}")
