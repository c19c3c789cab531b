"""Runs the notebooks as a user would, from top to bottom, against a real server, twice."""

import base64
import io
import json

import nbclient
import nbformat
import pytest
import sluicegate
from conftest import NOTEBOOKS, Server, run
from PIL import Image

NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))

# Seconds that one cell may take: far more than any does.
CELL_TIMEOUT = 120


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """A server with workers over a small store of the demonstrator."""
    folder = tmp_path_factory.mktemp("notebooks")
    run("demo", "--count", 125, folder=folder)
    started = Server("sluicegate-demo/store", folder, "--workers", "2")
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
    executed("1-first-job.ipynb", gate, monkeypatch)
    rows = gate.query("SELECT id, words, status FROM greetings ORDER BY id").values.tolist()
    assert rows == [
        ["goodbye", "see you tomorrow", "RAW"],
        ["hello", "GOOD MORNING", "LOUD"],
        ["thanks", "THANK YOU", "LOUD"],
    ]
    last = gate.query("SELECT * FROM batches ORDER BY batch_id DESC LIMIT 1").iloc[0]
    assert (last["name"], last["completed"], last["discarded"]) == ("first jobs", 2, 1)


@pytest.mark.parametrize("time", ["first", "second"])
def test_the_edited_rows_are_scheduled_and_no_others(gate, monkeypatch, time):
    before = number(gate, "SELECT max(job_id) FROM jobs")
    executed("2-select-edit-schedule.ipynb", gate, monkeypatch)
    jobs = gate.query(
        """
        SELECT j.source_id, j.priority, j.state, n.status, n.bytes
          FROM jobs AS j JOIN batches AS b ON b.batch_id = j.batch_id
          JOIN notices AS n ON n.notice_id = j.source_id
         WHERE b.name = 'notebook 2' AND j.job_id > $1 ORDER BY j.priority DESC
        """,
        [before],
    )
    assert len(jobs) == 12 and jobs["source_id"].is_unique
    assert jobs["priority"].tolist() == list(range(12, 0, -1))
    assert jobs["bytes"].is_monotonic_increasing
    done = jobs["state"] == "completed"
    assert done.any() and (jobs["status"][done] == "TRANSFORMED").all()
    parents = number(
        gate, "SELECT count(parent_job_id) FROM jobs WHERE parent_job_id > $1", before
    )
    assert parents > 0, "nothing was retried"


@pytest.mark.parametrize("time", ["first", "second"])
def test_no_lock_is_left(gate, monkeypatch, time):
    before = number(gate, "SELECT max(token) FROM lock_history")
    executed("3-locks-and-batches.ipynb", gate, monkeypatch)
    ends = gate.query(
        "SELECT owner, ending FROM lock_history WHERE job_id IS NULL AND token > $1", [before]
    )
    assert ends.values.tolist() == [["me", "released"]] * 3
    assert number(gate, "SELECT count(*) FROM locks") == 0
    cancelled = gate.query("SELECT * FROM batches WHERE name = 'tomorrow' ORDER BY batch_id DESC")
    assert cancelled["cancelled"][0] == cancelled["jobs"][0] == 3


@pytest.mark.parametrize("time", ["first", "second"])
def test_the_report_draws_and_changes_nothing(gate, monkeypatch, time):
    before = number(gate, "SELECT max(version) FROM events")
    plots = outputs(executed("4-history-report.ipynb", gate, monkeypatch), "image/png")
    assert number(gate, "SELECT max(version) FROM events") == before
    assert len(plots) == 5
    for plot in plots:
        image = Image.open(io.BytesIO(base64.b64decode(plot))).convert("L")
        # Not an empty frame: besides white and black there are bars, boxes or lines.
        assert image.width > 600 and len(set(image.get_flattened_data())) > 20
