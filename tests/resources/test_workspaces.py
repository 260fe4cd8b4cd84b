"""Where the home is, and who hears of the work in it."""

import dagster as dg
import pytest

from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Progress
from resources.workspaces import Finished, Nobody, WorkspaceResource, Workspaces


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


class Listener(Nobody):
    def __init__(self):
        self.heard: list[Progress] = []

    def progress(self, step: Progress) -> None:
        self.heard.append(step)


def test_the_home_is_the_one_that_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("DLP_HOME", str(tmp_path / "elsewhere"))
    workspace = WorkspaceResource(home=str(tmp_path / "given")).open("little", print)
    assert (workspace.home.root, workspace.project) == (tmp_path / "given", "little")
    assert workspace.home.artifacts.is_dir()


def test_without_one_it_is_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DLP_HOME", str(tmp_path / "ours"))
    assert WorkspaceResource().open("little", print).home.root == tmp_path / "ours"


def test_without_either_it_is_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("DLP_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert WorkspaceResource().open("little", print).home.root == tmp_path / ".dlp"


def test_a_home_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError) as refused:
        WorkspaceResource(home=str(tmp_path / "file")).open("little", print)
    assert str(refused.value) == (
        f"found Not a directory at {tmp_path / 'file'}; expected a folder that can be written; "
        "give another with --home or DLP_HOME"
    )


def test_dagster_hands_it_to_an_asset(tmp_path):
    @dg.asset
    def where(workspaces: dg.ResourceParam[WorkspaceResource]) -> str:
        return str(workspaces.open("little", print).home.root)

    result = dg.materialize([where], resources={"workspaces": WorkspaceResource(home=str(tmp_path))})
    assert result.output_for_node("where") == str(tmp_path)


def test_each_step_of_work_is_said_and_shown(home):
    said, listener = [], Listener()
    workspace = Workspaces(home, listener).open("little", said.append)
    workspace.progress("raw_data", "reading")
    workspace.progress("trained_model", "epoch", 2, 12)
    workspace.progress("trained_model", "epoch", 2.5, 12)
    assert said == ["reading", "epoch (2/12)", "epoch (2.5/12)"]
    assert listener.heard == [
        Progress("raw_data", "reading"),
        Progress("trained_model", "epoch", 2, 12),
        Progress("trained_model", "epoch", 2.5, 12),
    ]


def test_nobody_looks_away(home):
    watcher = Workspaces(home).watcher
    day = Partition.parse("2026-01-01")
    watcher.started("raw_data", day)
    watcher.progress(Progress("raw_data", "reading"))
    watcher.finished(Finished("raw_data", day, 0.1, skipped="no records"))
