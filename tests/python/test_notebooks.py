"""Runs the notebooks as a user would, from top to bottom, against a real server, twice."""

import base64
import io
import json

import nbclient
import nbformat
import pytest
import sluicegate
from conftest import NOTEBOOKS, NOTICES, Server, run
from PIL import Image

NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))

# Seconds that one cell may take: far more than any does.
CELL_TIMEOUT = 120


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """A server with workers over a store of the demonstrator that only notebooks change."""
    folder = tmp_path_factory.mktemp("notebooks")
    run("demo", "--count", NOTICES, folder=folder)
    started = Server(
        "sluicegate-demo/store", folder, "--workers", "2", "--allow-root", "sluicegate-demo"
    )
    yield sluicegate.connect(started.url)
    started.stop()
    run("--store", "sluicegate-demo/store", "check", folder=folder)


def executed(name, gate, monkeypatch):
    """The notebook with what its cells print. A cell that fails is an error."""
    monkeypatch.setenv("SLUICEGATE_URL", gate.url)
    # The kernel sets the one of notebooks, which puts plots into the outputs.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOKS)}}
    nbclient.NotebookClient(notebook, timeout=CELL_TIMEOUT, resources=place).execute()
    return notebook


def outputs(notebook, kind):
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    found = (out.get("data", {}).get(kind) for cell in cells for out in cell.outputs)
    return [data for data in found if data]


def number(gate, sql, *params):
    return int(gate.query(sql, list(params)).iloc[0, 0])


def test_there_are_four():
    assert [name[:2] for name in NAMES] == ["1-", "2-", "3-", "4-"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stored_without_what_it_printed(name):
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    # One form of the file, so that a change shows only what was changed.
    text = (NOTEBOOKS / name).read_text()
    assert text == json.dumps(json.loads(text), indent=1) + "\n"


@pytest.mark.parametrize("time", ["first", "second"])
def test_the_first_job(gate, monkeypatch, time):
    before = number(gate, "SELECT max(job_id) FROM jobs")
    executed("1-first-job.ipynb", gate, monkeypatch)
    jobs = gate.query(
        """
        SELECT b.name, j.state, n.status FROM jobs AS j
          JOIN batches AS b ON b.batch_id = j.batch_id
          JOIN notices AS n ON n.notice_id = j.source_id
         WHERE j.job_id > $1
        """,
        [before],
    )
    assert jobs.values.tolist() == [["first job", "completed", "TRANSFORMED"]] * 5


@pytest.mark.parametrize("time", ["first", "second"])
def test_the_edited_rows_are_scheduled_and_no_others(gate, monkeypatch, time):
    before = number(gate, "SELECT max(job_id) FROM jobs")
    notebook = executed("2-select-and-schedule.ipynb", gate, monkeypatch)
    jobs = gate.query(
        """
        SELECT b.name, j.source_id, j.priority, j.state, j.params, j.parent_job_id
          FROM jobs AS j JOIN batches AS b ON b.batch_id = j.batch_id WHERE j.job_id > $1
        """,
        [before],
    )
    tried = jobs[jobs["name"] == "to_rdf, a try"]
    retried = jobs[jobs["name"] == "to_rdf, with a remedy"]
    assert len(tried) + len(retried) == len(jobs)
    assert tried["source_id"].is_unique and len(tried) > 10
    # Those that failed before go first, and only they.
    failed_before = {0: set(), 10: set()}
    for source, priority in zip(tried["source_id"], tried["priority"], strict=True):
        failures = number(
            gate,
            "SELECT count(*) FROM attempts WHERE source_id = $1 AND job_id <= $2"
            " AND transform = 'to_rdf' AND outcome = 'failed'",
            source,
            before,
        )
        failed_before[priority].add(failures > 0)
    assert failed_before == {0: {False}, 10: {True}}
    # The failures were retried with the remedy, and got through.
    failed = tried[tried["state"] == "discarded"]
    assert len(failed) > 0
    assert set(retried["source_id"]) == set(failed["source_id"])
    assert (retried["state"] == "completed").all() and retried["parent_job_id"].notna().all()
    assert (retried["params"] == '{"allow_no_lots": true}').all()
    # The notebook shows a refusal of each kind before it schedules.
    shown = "".join(outputs(notebook, "text/plain"))
    assert "unknown-source" in shown and "wrong-status" in shown


@pytest.mark.parametrize("time", ["first", "second"])
def test_no_lock_and_no_job_is_left(gate, monkeypatch, time):
    token = number(gate, "SELECT max(token) FROM lock_history")
    job = number(gate, "SELECT max(job_id) FROM jobs")
    statuses = "SELECT status, count(*) FROM notices GROUP BY status ORDER BY status"
    before = gate.query(statuses).values.tolist()
    executed("3-locks-and-batches.ipynb", gate, monkeypatch)
    held = gate.query(
        "SELECT owner, ending FROM lock_history WHERE job_id IS NULL AND token > $1"
        " ORDER BY token",
        [token],
    )
    assert held["owner"].tolist() == ["ann"] * 4
    assert held["ending"].str.contains("released").all(), held
    assert number(gate, "SELECT count(*) FROM locks") == 0
    states = gate.query("SELECT state FROM jobs WHERE job_id > $1", [job])
    assert states["state"].tolist() == ["cancelled"] * 8
    assert gate.query(statuses).values.tolist() == before


def test_what_a_stopped_notebook_left_is_tidied_up(gate, monkeypatch):
    raw = "FROM notices WHERE status = 'RAW' ORDER BY notice_id LIMIT 1"
    lock = "acquire_lock('notices/' || notice_id, reason => 'notebook 3', ttl => '1 hour')"
    later = "batch => 'notebook 3', run_at => TIMESTAMP '2099-01-01T00:00:00Z'"
    gate.execute(f"SELECT {lock} {raw}")
    gate.execute(f"SELECT schedule_job('normalise', notice_id, {later}) {raw}")
    assert number(gate, "SELECT count(*) FROM locks") == 1
    assert number(gate, "SELECT count(*) FROM jobs WHERE ended_at IS NULL") == 1
    executed("3-locks-and-batches.ipynb", gate, monkeypatch)
    assert number(gate, "SELECT count(*) FROM locks") == 0
    assert number(gate, "SELECT count(*) FROM jobs WHERE ended_at IS NULL") == 0


@pytest.mark.parametrize("time", ["first", "second"])
def test_the_report_draws_and_changes_nothing(gate, monkeypatch, time):
    before = number(gate, "SELECT max(version) FROM events")
    plots = outputs(executed("4-operations-report.ipynb", gate, monkeypatch), "image/png")
    assert number(gate, "SELECT max(version) FROM events") == before
    assert len(plots) == 5
    for plot in plots:
        image = Image.open(io.BytesIO(base64.b64decode(plot))).convert("L")
        # Not an empty frame: besides white and black there are bars, dots or lines.
        assert image.width > 600 and len(set(image.get_flattened_data())) > 20
