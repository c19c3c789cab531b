"""The prompt at a terminal, as a person meets it: what fits, what is paged, what is asked."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time

import pytest
from conftest import BINARY, run

ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>78]|\x1b\][^\x07]*\x07")


class Person:
    """Somebody at a terminal of 24 lines."""

    def __init__(self, folder, *arguments, columns=80, **environment):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [BINARY, *arguments],
            cwd=folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # The terminal is that of the new session, so that Ctrl-C and less work.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={
                **os.environ,
                "TERM": "xterm",
                "NO_COLOR": "1",
                "SLUICEGATE_HISTORY": "",
                **environment,
            },
        )
        os.close(slave)
        os.set_blocking(self.master, False)
        self.seen = b""

    def type(self, text):
        os.write(self.master, text.encode())

    def enter(self, text):
        """Types a line, and forgets what was seen before."""
        self.seen = b""
        self.type(text + "\r")

    def look(self):
        """What the terminal shows, without what moves its cursor."""
        try:
            new = os.read(self.master, 1 << 16)
        except (BlockingIOError, OSError):
            return ESCAPE.sub(b"", self.seen).decode(errors="replace")
        for _ in range(new.count(b"\x1b[6n")):
            # It is asked where its cursor is.
            os.write(self.master, b"\x1b[1;1R")
        self.seen += new
        return self.look()

    def expect(self, text, seconds=60):
        end = time.monotonic() + seconds
        while text not in self.look():
            assert time.monotonic() < end, f"no {text!r} in:\n{self.look()}"
            time.sleep(0.02)
        return self.look()

    def leave(self, text="exit"):
        self.enter(text)
        end = time.monotonic() + 60
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < end, "it does not leave"
            time.sleep(0.02)
        os.close(self.master)
        return self.process.returncode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    script = """
        CREATE TABLE things (id BIGINT, name TEXT, PRIMARY KEY (id));
        INSERT INTO things SELECT value, repeat('x', 100) FROM generate_series(1, 3000);
        CREATE TRANSFORM index ON things FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER;
        SELECT schedule_job('index', id) FROM things WHERE id > 2152;
    """
    (folder / "make.sql").write_text(script)
    run("--store", "store", "--create", "-f", "make.sql", folder=folder)
    return folder


@pytest.fixture
def person(folder):
    person = Person(folder, "--store", "store")
    person.expect("=> ")
    yield person
    person.process.kill()
    person.process.wait()


def test_rows_that_are_too_wide_are_expanded_and_listings_are_not(person):
    person.enter("SELECT id, name FROM things WHERE id = 1;")
    assert "-[ row 1 ]-" in person.expect("(1 row)")
    person.enter("\\x off")
    person.expect("format is table")
    person.enter("SELECT id, name FROM things WHERE id = 1;")
    assert "-[ row 1 ]-" not in person.expect("(1 row)")
    person.enter("\\x auto")
    person.expect("format is table, expanded")
    person.enter("\\dx")
    assert "-[ row" not in person.expect("(1 row)")
    person.enter("\\dx+")
    assert "-[ row 1 ]-" in person.expect("(1 row)")
    assert person.leave("quit;") == 0


def test_what_is_longer_than_the_screen_is_paged(person):
    person.enter("SELECT id FROM things ORDER BY id;")
    assert "3000" not in person.expect("\n:")
    # q leaves less; no further rows are wanted.
    person.type("q")
    person.expect("=> ")
    person.enter("SELECT 42 AS answer;")
    person.expect("(1 row)")
    person.enter("\\pager off")
    person.expect("pager is off")
    person.enter("SELECT id FROM things ORDER BY id;")
    person.expect("(3,000 rows)")
    assert person.leave() == 0


def test_pagers_are_those_of_the_environment(folder):
    person = Person(folder, "--store", "store", PAGER="wc -l")
    person.expect("=> ")
    person.enter("SELECT id FROM things;")
    assert "3002" in person.expect("(3,000 rows)")
    person.leave("\\q")
    for pager in ["", "no-such-pager"]:
        person = Person(folder, "--store", "store", PAGER=pager)
        person.expect("=> ")
        person.enter("SELECT id FROM things;")
        person.expect("(3,000 rows)")
        person.leave("\\q")


def test_questions_tell_outcomes_and_the_way_back(person):
    person.enter("SELECT schedule_job('index', id) FROM things;")
    asked = person.expect("Go on? [y/N]")
    assert "3,000 rows: 2,152 scheduled, 848 already-live" in asked
    assert "To take it back" in asked and "cancel_job" in asked
    person.enter("n")
    person.expect("nothing was done")
    person.enter("DELETE FROM things WHERE id > 100;")
    asked = person.expect("Go on? [y/N]")
    assert "This would delete 2,900 of the 3,000 rows" in asked
    person.enter("n")
    person.expect("nothing was done")
    person.enter("DROP TABLE things;")
    person.expect("drop the table with all 3,000 rows")
    person.enter("")
    person.expect("nothing was done")
    person.enter("UPDATE things SET name = 'y' WHERE id = 1;")
    assert "Go on?" not in person.expect("1 row affected")
    person.leave()


def test_watch_tells_the_time_and_refuses_what_changes_something(person):
    person.enter("SELECT count(*) AS n FROM jobs;")
    person.expect("(1 row)")
    person.enter("\\watch 0.2")
    person.expect("(every 0.2 s)")
    watched = person.expect("848")
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z \(every 0.2 s\)", watched)
    person.seen = b""
    person.expect("(every 0.2 s)")
    person.type("\x03")
    time.sleep(0.5)
    person.enter("UPDATE things SET name = 'z' WHERE id = 2;")
    person.expect("1 row affected")
    person.enter("\\watch")
    person.expect("repeats queries only")
    person.leave()


def test_tab_completes_statuses_and_columns(person):
    time.sleep(0.5)
    person.enter("\\set most 2")
    person.type("SELECT count(*) AS found FROM things WHERE status = 'RA\t AND id <= $mo\t;\r")
    assert re.search(r" 2\s+\(1 row\)", person.expect("(1 row)"))
    person.leave("exit;")


def test_the_prompt_makes_a_store_and_says_so(tmp_path):
    person = Person(tmp_path, "--store", "fresh")
    said = person.expect("fresh=> ")
    assert "made the new store fresh" in said and "at fresh: type SQL" in said
    person.leave()
    person = Person(tmp_path, "--store", "fresh")
    assert "made the new store" not in person.expect("fresh=> ")
    person.leave()
