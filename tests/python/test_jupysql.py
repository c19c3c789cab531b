"""JupySQL's %sql over an ADBC connection, as in a notebook."""

import adbc_driver_flightsql.dbapi as flight_sql
import pytest
from conftest import Server, run
from IPython.core.interactiveshell import InteractiveShell

STORE = """
CREATE TABLE notices (id TEXT, n BIGINT, PRIMARY KEY (id));
INSERT INTO notices VALUES ('a', 1), ('b', 9007199254740993);
CREATE TRANSFORM index ON notices FROM STATUS 'RAW' TO STATUS 'DONE' USING OUTSIDE WORKER;
"""


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A shell of IPython whose %sql is connected as the README says."""
    # Else it sends statistics of its use to its makers.
    monkeypatch.setenv("PLOOMBER_STATS_ENABLED", "false")
    run("--store", "store", "--create", "-c", STORE, folder=tmp_path)
    server = Server("store", tmp_path)
    address = server.url.replace("http://", "grpc://")
    shell = InteractiveShell.instance()
    with flight_sql.connect(address, autocommit=True) as connection:
        shell.user_ns["connection"] = connection
        shell.run_line_magic("load_ext", "sql")
        shell.run_line_magic("sql", "connection --alias sluicegate")
        shell.run_line_magic("config", "SqlMagic.autopandas = True")
        yield shell
        shell.run_line_magic("sql", "--close sluicegate")
    server.stop()
    run("--store", "store", "check", folder=tmp_path)


def test_rows_come_as_a_data_frame(shell):
    shell.user_ns["wanted"] = "RAW"
    query = "SELECT id, n FROM notices WHERE status = '{{wanted}}' ORDER BY id"
    frame = shell.run_line_magic("sql", query)
    assert frame.values.tolist() == [["a", 1], ["b", 9007199254740993]]


def test_a_cell_previews_and_acts_once(shell):
    schedule = "SELECT id, schedule_job('index', id) AS job_id FROM notices ORDER BY id"
    preview = shell.run_cell_magic("sql", "", "PREVIEW " + schedule)
    assert preview["outcome"].tolist() == ["scheduled", "scheduled"]
    done = shell.run_cell_magic("sql", "", schedule)
    assert done.values.tolist() == [["a", 1], ["b", 2]]
    statements = "SELECT count(*) AS n FROM statements WHERE sql LIKE '%schedule_job%'"
    assert shell.run_line_magic("sql", statements)["n"].tolist() == [1]
    # Nothing was tried a second time and refused.
    events = "SELECT count(*) AS n FROM events WHERE kind = 'effect-refused'"
    assert shell.run_line_magic("sql", events)["n"].tolist() == [0]


def test_an_error_says_what_is_wrong(shell):
    with pytest.raises(Exception, match="SG1002.*column \"colour\" does not exist"):
        shell.run_line_magic("sql", "SELECT colour FROM notices")
