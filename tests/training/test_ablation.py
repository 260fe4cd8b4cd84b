"""Plans and rows of an ablation, and its trainings: shared rows, side by side, found again, ended, told apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pyarrow as pa
import pytest

from dl_pipelines.brief.sections import AugmentationPlan
from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_file
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Rows
from dl_pipelines.training import ablation
from dl_pipelines.training.ablation import (
    AblationFailed,
    TrainRows,
    Trial,
    all_of,
    each_left_out,
    none_of,
    plan_key,
    run_trials,
)
from tests.tiny import FIRST, data, make_window, task  # noqa: F401 - fixtures
from tests.training.conftest import wait_for

PLAN = AugmentationPlan.model_validate(
    {"factor": 3, "seed": 5, "offline": ["rotation", "translation"], "online": ["noise"]}
)


def names(plan):
    return [ref.name for ref in plan.offline], [ref.name for ref in plan.online], plan.factor


def test_each_augmentation_is_left_out_once_and_the_steps_stay():
    left = each_left_out(PLAN)
    assert [(item.augmentation.name, item.where) for item in left] == [
        ("rotation", "offline"), ("translation", "offline"), ("noise", "online"),
    ]  # fmt: skip
    assert [names(item.plan) for item in left] == [
        (["translation"], ["noise"], 3), (["rotation"], ["noise"], 3), (["rotation", "translation"], [], 3),
    ]  # fmt: skip
    assert names(none_of(PLAN)) == ([], [], 3)
    online = AugmentationPlan.model_validate({"factor": 3, "online": ["noise"]})
    assert all_of(online).factor == 1, "a factor without stored variants counts for nothing"
    (only,) = each_left_out(online)
    assert plan_key(only.plan) == plan_key(none_of(online)), "trained once"


def test_trials_draw_anew_and_share_rows_where_they_can():
    assert Trial(PLAN, 2).seeded.seed == 7
    online = AugmentationPlan.model_validate({"online": ["noise"]})
    assert Trial(online, 0).rows_key == Trial(online, 1).rows_key == Trial(none_of(online), 1).rows_key
    assert Trial(PLAN, 0).rows_key != Trial(PLAN, 1).rows_key
    assert Trial(PLAN, 0).rows_key == Trial(each_left_out(PLAN)[2].plan, 0).rows_key
    assert Trial(PLAN, 0).key != Trial(PLAN, 1).key


def test_train_rows_of_a_plan(tmp_path, task, data):  # noqa: F811
    workspace = Workspace(Home(tmp_path).prepare(), "tiny")
    make_window(workspace, task, (FIRST,))
    window = workspace.get("training_window", FIRST.daily)
    made = TrainRows(workspace, window, data, task, None, 0)
    grown, plain = made.of(PLAN), made.of(none_of(PLAN))
    assert len(grown) == len(plain) == 3 * made.count
    assert (grown.inputs[: made.count] == plain.inputs[: made.count]).all()
    assert (grown.inputs[made.count :] != plain.inputs[made.count :]).any(axis=(1, 2, 3)).mean() > 0.9
    assert (plain.inputs == np.tile(plain.inputs[: made.count], (3, 1, 1, 1))).all()
    assert (grown.targets == plain.targets).all()
    assert len(set(plain.ids)) == len(plain) and set(plain.ids) == set(grown.ids)
    few = TrainRows(workspace, window, data, task, 20, 3)
    assert few.count == 20 and len(few.of(none_of(PLAN))) == 60
    again, other = TrainRows(workspace, window, data, task, 20, 3), TrainRows(workspace, window, data, task, 20, 4)
    assert (few.of(PLAN).ids == again.of(PLAN).ids).all()
    assert set(few.of(PLAN).ids) != set(other.of(PLAN).ids)


def test_rows_of_a_task_without_stored_variants_are_the_tasks_own(monkeypatch):
    asked = []

    class Series:
        not_applicable = {"augmented_dataset": "none"}

        def rows(self, table, chosen, training=False):
            asked.append((chosen.sum(), training))
            return Rows(np.arange(40)[:, None], np.arange(40), np.arange(40).astype(str))

    table = pa.table({"id": list("abcd")})
    monkeypatch.setattr(ablation, "window_table", lambda *_: table)
    monkeypatch.setattr(ablation, "splits_of", lambda *_: np.array(["train", "train", "gap", "test"]))
    made = TrainRows(None, None, None, Series(), 10, 0)  # type: ignore[arg-type]
    online = AugmentationPlan.model_validate({"online": ["jitter"]})
    assert made.of(online) is made.of(none_of(online))
    assert asked == [(2, True)] and made.count == 10
    assert (np.diff(made.of(online).inputs[:, 0]) > 0).all()


@pytest.fixture
def two(make_job):
    """A job of few digits, its rows by split, and two trials."""
    job = make_job(records=200, training={"epochs": 1})
    loaded = {
        split: Rows(*(np.load(job.folder / f"{split}_{part}.npy") for part in ("inputs", "targets", "ids")))
        for split in ("train", "validation")
    }
    for path in job.folder.glob("*.npy"):
        path.unlink()
    plan = AugmentationPlan.model_validate({"online": ["noise"]})
    return job, loaded, [Trial(plan, 0), Trial(none_of(plan), 0)]


def test_trainings_run_side_by_side_and_are_found_again(two, monkeypatch):
    job, rows, trials = two
    written, told = [], []

    def train(plan):
        written.append(plan)
        return rows["train"]

    found = run_trials(trials, job, train, rows["validation"], lambda trial, metrics: told.append((trial, metrics)))
    assert len(written) == 1, "both have the same rows"
    assert {trial.key for trial, _ in told} == set(found)
    assert all(0 <= metrics["accuracy"] <= 1 for _, metrics in told)
    digests = {key: digest_file(path) for key, path in found.items()}
    assert len(set(digests.values())) == 2
    assert not list(job.folder.glob("*/checkpoints")) and len(list(job.folder.glob("rows-*"))) == 1
    assert durable.read_json(job.folder / trials[1].key / "job.json")["augmentation"]["online"] == []

    told.clear()
    monkeypatch.setattr(ablation, "_start", None)
    again = run_trials(trials, job, train, rows["validation"], lambda trial, metrics: told.append((trial, metrics)))
    assert [trial for trial, _ in told] == trials
    assert {key: digest_file(path) for key, path in again.items()} == digests


def test_a_training_that_fails_is_named_and_the_others_are_ended(two, monkeypatch):
    job, rows, trials = two
    started = []

    def sleeping(job, trial):
        text = "import time; time.sleep(100)" if trial == trials[1] else "raise SystemExit('no luck')"
        (job.folder / trial.key).mkdir(exist_ok=True)
        with (job.folder / trial.key / "stderr").open("wb") as told:
            started.append(subprocess.Popen([sys.executable, "-c", text], stderr=told))
        return started[-1]

    monkeypatch.setattr(ablation, "_start", sleeping)
    monkeypatch.setattr(ablation.os, "sched_getaffinity", lambda _: {0, 1})
    message = r"the training of the ablation with noise, seed 0, failed: it ended with code 1\nno luck"
    with pytest.raises(AblationFailed, match=message):
        run_trials(trials, job, lambda _: rows["train"], rows["validation"], lambda *_: None)
    assert [process.poll() is not None for process in started] == [True, True]


def test_a_reason_that_the_worker_gives_is_told(two, monkeypatch):
    job, rows, trials = two

    def failing(job, trial):
        durable.write_json(job.folder / trial.key / "failure-0.json", {"message": "found a training loss of nan"})
        return subprocess.Popen(["false"])

    monkeypatch.setattr(ablation, "_start", failing)
    message = "the training of the ablation with no augmentation, seed 0, failed: found a training loss of nan"
    with pytest.raises(AblationFailed, match=message):
        run_trials(trials[1:], job, lambda _: rows["train"], rows["validation"], lambda *_: None)


def test_workers_end_with_a_killed_parent(two, tmp_path):
    job, rows, trials = two
    ablation._share_rows(job.folder, trials[0], lambda _: rows["train"], rows["validation"])
    slow = replace(job, training=job.training.model_copy(update={"epochs": 9000}))
    slow.write()
    program = (
        "import sys; from pathlib import Path\n"
        "from dl_pipelines.training.ablation import Trial, _start\n"
        "from dl_pipelines.training.job import Job\n"
        "job = Job.read(Path(sys.argv[1]))\n"
        "from dl_pipelines.brief.sections import AugmentationPlan\n"
        "plan = AugmentationPlan.model_validate({'online': ['noise']})\n"
        "print(_start(job, Trial(plan, 0)).pid, flush=True)\n"
        "input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(job.folder / "job.json")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ablation.Path(__file__).parents[2],
    )  # fmt: skip
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for pipe in (parent.stdin, parent.stdout):
        assert pipe is not None
        pipe.close()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10)
