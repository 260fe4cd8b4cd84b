"""Plans and rows of an ablation, and its trainings: shared rows, side by side, found again, ended, told apart."""

from __future__ import annotations

import numpy as np
import psutil
import pyarrow as pa
import pytest

from benchmarks.tiny import FIRST, make_window
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
from dl_pipelines.training.pool import Ended, Pool
from tests.tiny import data, task  # noqa: F401 - fixtures

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
    assert not list(job.folder.glob("*/checkpoints")) and not list(job.folder.glob("rows-*"))
    assert durable.read_json(job.folder / trials[1].key / "job.json")["augmentation"]["online"] == []

    told.clear()
    monkeypatch.setattr(ablation.Pool, "submit", None)
    again = run_trials(trials, job, train, rows["validation"], lambda trial, metrics: told.append((trial, metrics)))
    assert [trial for trial, _ in told] == trials
    assert {key: digest_file(path) for key, path in again.items()} == digests


def test_a_training_that_fails_is_named_and_the_others_are_ended(two, monkeypatch):
    job, rows, trials = two
    ended = []

    class Failing(Pool):
        def wait(self):
            trial = next(busy.job for process in self._processes if (busy := process.task))
            return [Ended(trial, [], 0.0, "found a training loss of nan")]

        def __exit__(self, *error):
            ended.extend(self.pids)
            super().__exit__(*error)

    monkeypatch.setattr(ablation, "Pool", Failing)
    message = "the training of the ablation with noise, seed 0, failed: found a training loss of nan"
    with pytest.raises(AblationFailed, match=message):
        run_trials(trials, job, lambda _: rows["train"], rows["validation"], lambda *_: None)
    assert ended and not any(psutil.pid_exists(pid) for pid in ended)
