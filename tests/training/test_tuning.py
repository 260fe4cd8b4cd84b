"""The stage on the digits: what it holds, what the model takes of it, and that a kill loses and repeats nothing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Architecture, Search, Training
from dl_pipelines.store import durable
from dl_pipelines.store.workspace import Partition
from dl_pipelines.training import tuning, worker
from dl_pipelines.training.job import Job
from dl_pipelines.training.pool import Pool
from dl_pipelines.training.study_space import StudyError
from dl_pipelines.training.supervise import OUTCOME
from dl_pipelines.training.train import make_trained_model
from dl_pipelines.training.tuning import make_hyperparameter_study

PROGRAM = """
import json, sys
from pathlib import Path
from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.training import tuning
from dl_pipelines.training.pool import Pool

seen = Brief.model_validate(json.loads(sys.argv[2]))
tuning.Pool = lambda: Pool(side=1)
workspace = Workspace(Home(Path(sys.argv[1])), seen.project, lambda step: print(step.message, flush=True))
tuning.make_hyperparameter_study(workspace, Partition.parse(sys.argv[3]), seen.architecture, seen.training,
                                 seen.distributed, seen.data, seen.evaluation, catalog.task_of(seen))
"""
SPACE = {
    "training.learning_rate": {"low": 1e-4, "high": 0.03, "log": True},
    "training.optimizer": {"choices": ["adamw", "sgd"]},
    "architecture.family.params.width": {"low": 4, "high": 8},
}


@pytest.fixture
def small(brief):
    """The brief with a tiny network and a study of six configurations."""
    search = Search.model_validate({"trials": 6, "space": SPACE, "max_rows": 200})
    training = Training(epochs=3, learning_rate=1e-3, batch_size=32, search=search)
    family = FamilyRef(name="cnn", params={"width": 4, "blocks": 1})
    return brief.model_copy(update={"architecture": Architecture(family=family), "training": training})


@pytest.fixture(scope="module")
def pool():
    """One process, kept warm between the studies of this file."""
    with Pool(side=1) as kept:
        yield kept


@pytest.fixture
def make(workspace, training_window, partition, task, pool, monkeypatch):
    """A function: the stage for an experiment, one training at a time."""
    monkeypatch.setattr(tuning, "Pool", lambda: contextlib.nullcontext(pool))

    def run(brief, experiment):
        return make_hyperparameter_study(
            workspace, Partition(partition.day, experiment), brief.architecture, brief.training, brief.distributed,
            brief.data, brief.evaluation, task,
        )  # fmt: skip

    return run


def here(command, env):
    """A launcher that trains in this process: a supervisor and its worker would import torch twice more."""
    job = Job.read(Path(command[-1]))
    worker.run(job)
    durable.write_json(job.folder / OUTCOME, {"attempts": ["done"], "failure": None, "sandboxed": False})


def test_a_study_and_the_model_that_takes_its_settings(make, small, workspace, partition, task):
    found = make(small, "study")
    study, choice = found.read_json("study.json"), found.read_json("choice.json")
    assert study["reason"] is None and study["metric"] == "loss" and study["rungs"] == [0.3333, 1.0]
    assert [line["trial"] for line in study["history"]] == list(range(6))
    counts = study["counts"]
    assert counts["complete"] >= 2 and counts["pruned"] >= 1 and sum(counts.values()) == 6 and not counts["failed"]
    assert study["history"][0]["params"] == {
        "training.learning_rate": 1e-3, "training.optimizer": "adamw", "architecture.family.params.width": 4,
    }  # fmt: skip
    ended = {line["trial"]: line["value"] for line in study["history"] if line["state"] == "complete"}
    assert 0 in ended and study["base"]["value"] == ended[0], "the brief's own are trained to their end"
    best = study["best"]
    assert best["value"] == min(ended.values()) == ended[best["trial"]] < ended[0]
    assert [row["row"] for row in study["rows"]] == ["LR", "OPT", "other"]
    assert [row["range"] for row in study["rows"]] == ["0.0001 to 0.03, log", "adamw, sgd", "4 to 8"]
    assert {row["method"] for row in study["rows"]} == {"TPE, ASHA"} and study["train_rows"] == 200
    assert {"history.svg", "parallel.svg", "slice.svg"} <= set(found.files)
    assert [gate.passed for gate in found.gates] == [True] and not found.gates[0].blocking
    changed = {path: value for path, value in best["params"].items() if value != study["history"][0]["params"][path]}
    assert choice["overrides"] == changed and "the brief's own have" in choice["why"]
    assert set(choice["overrides"]) >= {"training.learning_rate"}

    given = small.training.model_copy(update={"epochs": 1})
    model = make_trained_model(
        workspace, Partition(partition.day, "study"), small.architecture, given, small.distributed, small.data, task,
        launcher=here,
    )  # fmt: skip
    assert model.parents["hyperparameter_study"] == found.digest
    trained = model.settings["settings"]
    assert trained["training"]["learning_rate"] == best["params"]["training.learning_rate"]
    assert trained["architecture"]["family"]["params"]["width"] == best["params"]["architecture.family.params.width"]
    assert make(small, "study").digest == found.digest

    # Made again from nothing, and killed on the way with all it has started: nothing is lost, nothing trained twice.
    workspace.home.studies.unlink()
    shutil.rmtree(workspace.home.index / workspace.project / tuning.STAGE / "keys")
    arguments = [str(workspace.home.root), small.model_dump_json(), f"{partition.day}|killed"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert any(line.startswith("configuration 1") for line in process.stdout)
        process.kill()
    again = make(small, "killed")
    assert again.read_json("study.json") == study and again.digest == found.digest


def test_without_trials_it_says_why(make, small):
    none = small.training.model_copy(update={"search": Search()})
    found = make(small.model_copy(update={"training": none}), "none")
    study = found.read_json("study.json")
    assert study["rows"] == [] and study["reason"].startswith("training.search.trials is 0")
    assert found.read_json("choice.json")["overrides"] == {} and found.parents == {}


def test_a_metric_that_is_not_measured_is_refused(make, small):
    wrong = small.training.model_copy(update={"search": Search(trials=2, metric="mape")})
    message = r"found training.search.metric 'mape'; expected one of accuracy, .*loss.*, which the task measures"
    with pytest.raises(StudyError, match=message):
        make(small.model_copy(update={"training": wrong}), "wrong")
