"""`trained_model` from the digits' window: what it holds, that it is the same each time, what it refuses."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta

import psutil
import pytest
from safetensors import safe_open

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Distributed
from dl_pipelines.report import collect
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import ArtifactError, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.training import train
from dl_pipelines.training.job import PROGRESS, Job
from dl_pipelines.training.launch import LaunchFailed
from dl_pipelines.training.train import TrainingFailed, make_trained_model
from dl_pipelines.training.warm import earlier_model
from tests.training.conftest import device_here, wait_for

PROGRAM = """
import json, sys
from pathlib import Path
from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.training.train import make_trained_model

seen = Brief.model_validate(json.loads(Path(sys.argv[2]).read_text()))
workspace = Workspace(Home(Path(sys.argv[1])), seen.project)
make_trained_model(workspace, Partition.parse(sys.argv[3]), seen.architecture, seen.training, seen.distributed,
                   seen.data, catalog.task_of(seen))
"""


@pytest.fixture
def small(brief):
    """The brief with a smaller network, trained by two Horovod workers."""
    return brief.model_copy(
        update={
            "architecture": brief.architecture.model_copy(
                update={"family": FamilyRef(name="cnn", params={"width": 8, "blocks": 1})}
            ),
            "distributed": Distributed(communicator="horovod", workers=2),
        }
    )


@pytest.fixture
def copy_home(training_window, workspace, tmp_path):
    """A function: a home of its own with the window and its datasets, and no model."""

    def copy(name="home"):
        shutil.copytree(
            workspace.home.root, tmp_path / name, symlinks=True,
            ignore=shutil.ignore_patterns("trained_model", "evaluation", "compressed_model", "work", "server"),
        )  # fmt: skip
        return Workspace(Home(tmp_path / name).prepare(), workspace.project)

    return copy


def train_it(workspace, partition, brief, task, launcher=None):
    options = {"launcher": launcher} if launcher else {}
    return make_trained_model(
        workspace, partition, brief.architecture, brief.training, brief.distributed, brief.data, task, **options
    )


def tree_of(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def alive(processes):
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()[:4]))
    return found


def test_a_model_says_who_trained_it_and_what_it_cost(trained_model, training_window, brief):
    model, curves = trained_model.read_json("model.json"), trained_model.read_json("curves.json")
    assert (model["communicator"], model["workers"]) == ("single", 1)
    assert trained_model.parents == {"training_window": training_window.digest}
    assert [line["epoch"] for line in curves] == [1, 2, 3, 4]
    assert curves[-1]["train_loss"] < curves[0]["train_loss"]
    assert curves[-1]["validation"]["accuracy"] > 0.9
    assert all("seconds" not in line for line in curves), "what was measured is outside of the digest"
    measured = trained_model.measured
    assert measured["attempts"] == ["done"]
    assert len(measured["epoch_seconds"]) == 4
    assert measured["samples_per_second"] > 0 and measured["peak_memory_mb"][0] > 50
    assert measured["network"] == "none"
    assert {gate.name: gate.passed for gate in trained_model.gates} == {"finite": True, "reproducible": True}
    with safe_open(trained_model.file("weights.safetensors"), "np") as file:
        held = sum(file.get_tensor(name).size for name in file.keys() if "running" not in name and "num_b" not in name)  # noqa: SIM118
    assert model["parameters"] == held - 2, "mean and deviation of the inputs are no parameters"
    assert not [name for name in trained_model.files if name.endswith((".pt", ".pth", ".pkl", ".bin"))]
    assert trained_model.show["curves"]["md"].count("\n") == 5


def test_one_process_trains_the_same_model_again(copy_home, trained_model, partition, brief, task):
    home, told = copy_home(), []
    home._on_progress = told.append
    again = train_it(home, partition, brief, task)
    assert again.digest == trained_model.digest
    assert again.files["weights.safetensors"] == trained_model.files["weights.safetensors"]
    epochs = [step.message for step in told if "train loss" in step.message]
    assert [text.split(":")[0] for text in epochs] == [f"epoch {number} of 4" for number in (1, 2, 3, 4)]
    assert (told[-1].done, told[-1].total) == (4, 4)
    assert train_it(home, partition, brief, task).digest == again.digest
    assert len(home.made) == 1, "the second call found it"


@pytest.mark.slow
def test_two_workers_interrupted_and_continued_train_the_same_model(copy_home, partition, small, task, tmp_path):
    undisturbed = train_it(copy_home("other"), partition, small, task)
    home = copy_home()
    plain = tmp_path / "brief.json"
    plain.write_text(small.model_dump_json())
    said = tmp_path / "said"
    with said.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home.home.root), str(plain), partition.key],
            start_new_session=True, stdout=sink, stderr=sink,
        )  # fmt: skip
    work = home.home.work / home.project / "trained_model"

    def one_epoch():
        assert process.poll() is None, said.read_text()
        return any("train_loss" in path.read_text() for path in work.glob(f"*/{PROGRESS}"))

    wait_for(one_epoch)
    seen = tree_of(process)
    assert sum("dl_pipelines.training.worker" in child.cmdline() for child in seen) >= 2
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not alive(seen), 10)
    assert alive(seen) == []
    models = home.home.artifacts / home.project / "trained_model"
    assert list(models.iterdir()) == [], "nothing half-written"
    assert home.find("trained_model", partition) is None
    again = train_it(home, partition, small, task)
    assert again.files["weights.safetensors"] == undisturbed.files["weights.safetensors"]
    assert again.digest == undisturbed.digest
    assert again.read_json("model.json")["communicator"] == "horovod"
    assert again.measured["network"] == "gloo over loopback"
    assert len(again.measured["peak_memory_mb"]) == 2
    assert list(work.iterdir()) == [], "checkpoints are gone with their use"


def test_a_window_without_a_passing_report_is_refused(copy_home, training_window, partition, brief, task):
    home = copy_home()

    def build(draft):
        draft.write_json("window.json", training_window.read_json("window.json"))
        draft.gate(Gate("complete", False, "1 of 2 days; found 1 class (3) in the train split", blocking=True))

    window = home.make("training_window", partition.daily, build, settings={"bad": True}, parents={})
    message = (
        rf"training_window {window.short} may not be used: found complete: 1 of 2 days; found 1 class \(3\) in the "
        "train split; expected every blocking gate to pass; mend its input and run training_window again"
    )
    with pytest.raises(ArtifactError, match=message):
        train_it(home, partition, brief, task)


def test_training_alone_wants_a_window(tmp_path, partition, brief, task):
    home = Workspace(Home(tmp_path).prepare(), brief.project)
    with pytest.raises(
        ArtifactError, match=f"found no training_window of digits for {partition.daily.key}; expected it"
    ):
        train_it(home, partition, brief, task)


def test_fewer_records_than_workers_can_share_are_refused(copy_home, partition, brief, task):
    many = brief.model_copy(update={"distributed": Distributed(workers=64)})
    with pytest.raises(
        TrainingFailed,
        match=r"found 127 train records; expected at least 128 for 64 worker\(s\); bring more records, or set "
        "distributed.workers lower",
    ):
        train._check(127, many.distributed)


@pytest.mark.parametrize(
    ("wrote", "said"),
    [
        (
            {"failure": "rank 1 was lost (exit code 137, SIGKILL):\n-- rank.1/stderr\nKilled"},
            "rank 1 was lost .*Killed",
        ),
        ({"failure": None}, "the training's supervisor ended with code 9"),
        (None, "the training's supervisor ended with code 9"),
    ],
)
def test_a_failed_training_says_why_and_leaves_no_model(copy_home, partition, brief, task, wrote, said):
    home = copy_home()

    def launcher(command, env):
        assert "dl_pipelines.training.supervise" in command
        if wrote is not None:
            folder = train.Path(command[-1]).parent
            durable.write_json(folder / "supervised.json", wrote)
        raise LaunchFailed(9)

    with pytest.raises(TrainingFailed, match=rf"(?s)the training by 1 single worker\(s\) failed: {said}"):
        train_it(home, partition, brief, task, launcher)
    assert home.find("trained_model", partition) is None
    assert list((home.home.artifacts / home.project / "trained_model").iterdir()) == []


def test_a_changed_number_of_training_is_another_model_and_restarts_are_not(copy_home, partition, brief, task):
    asked = []

    class Asked(Workspace):
        def make(self, stage, partition, build, *, settings, parents, version=1):
            asked.append(durable.json.dumps(settings, sort_keys=True))
            raise KeyboardInterrupt

    home = Asked(copy_home().home, brief.project)
    variants = [
        brief,
        brief.model_copy(update={"distributed": brief.distributed.model_copy(update={"restarts": 5})}),
        brief.model_copy(update={"training": brief.training.model_copy(update={"epochs": 5})}),
        brief.model_copy(update={"distributed": Distributed(communicator="torch", workers=1)}),
    ]
    for variant in variants:
        with pytest.raises(KeyboardInterrupt):
            train_it(home, partition, variant, task)
    assert asked[0] == asked[1]
    assert len(set(asked)) == 3


def test_the_curves_say_that_a_training_was_started_again():
    line = {"epoch": 1, "train_loss": 0.5, "validation": {"loss": 0.25, "accuracy": 0.75}}
    text = train._curves([line], "accuracy", ["rank 1 was lost (exit code 137, SIGKILL):\n-- rank.1/stderr", "done"])
    assert text == (
        "| epoch | train loss | validation loss | validation accuracy |\n|---|---|---|---|\n"
        "| 1 | 0.5000 | 0.2500 | 0.7500 |\n\n"
        "Started again from its last checkpoint: rank 1 was lost (exit code 137, SIGKILL)"
    )


@pytest.fixture
def in_process():
    """A launcher that trains here."""
    from dl_pipelines.training import worker

    def launch(command, env):
        path = train.Path(command[-1])
        worker.run(Job.read(path))
        durable.write_json(path.parent / "supervised.json", {"attempts": ["done"], "failure": None, "sandboxed": False})

    return launch


def test_a_day_begins_from_the_model_of_the_day_before(copy_home, partition, brief, task, in_process):
    home, family = copy_home(), FamilyRef(name="cnn", params={"width": 8, "blocks": 1})
    seen = brief.model_copy(
        update={
            "architecture": brief.architecture.model_copy(update={"family": family}),
            "training": brief.training.model_copy(update={"epochs": 2, "warm_epochs": 1}),
        }
    )
    window = home.get("training_window", partition.daily)
    second, third = (Partition(partition.day + timedelta(days=days), "base") for days in (1, 2))
    for later in (second, third):
        home.point("training_window", later.daily, window)
    first = train_it(home, partition, seen, task, in_process)
    assert "warm_start" not in first.parents and "warm_start" not in first.read_json("model.json")
    assert len(first.read_json("curves.json")) == 2, "the first day trains in full"
    other = Partition(second.day, "other")
    assert "warm_start" not in train_it(home, other, seen, task, in_process).parents, "of the same experiment only"

    warm = train_it(home, second, seen, task, in_process)
    assert warm.parents == {"training_window": window.digest, "warm_start": first.digest}
    assert warm.read_json("model.json")["warm_start"] == {"from": first.digest, "tensors": 14, "fresh": []}
    curves = warm.read_json("curves.json")
    assert [line["epoch"] for line in curves] == [1]
    assert curves[0]["learning_rate"] < seen.training.learning_rate / 10, "the schedule ends with the warm epochs"
    assert curves[0]["train_loss"] < first.read_json("curves.json")[0]["train_loss"]
    gates = {gate.name: gate for gate in warm.gates}
    assert gates["reproducible"].passed
    assert gates["reproducible"].summary.endswith(f", 1 of 1 epochs, from the weights of {first.short}")
    before = len(home.made)
    assert train_it(home, second, seen, task, in_process).digest == warm.digest
    assert len(home.made) == before, "the same inputs find it done"
    assert collect._stale(warm, {"training_window": window, "trained_model": warm}, {}) == ""

    wider = seen.model_copy(
        update={"architecture": seen.architecture.model_copy(update={"family": FamilyRef(name="cnn", params={})})}
    )
    assert warm_parent(home, third, seen, task) == warm
    assert warm_parent(home, third, wider, task) is None, "of the same family and params only"
    assert warm_parent(home, partition, seen, task) is None, "of an earlier day only"


def warm_parent(home, partition, seen, task):
    return earlier_model(home, partition, seen.architecture.family, train.task_ref(task))


def test_a_training_that_ends_early_is_reproducible_and_says_so(copy_home, partition, brief, task, in_process):
    training = {"epochs": 9, "patience": 1, "learning_rate": 1e-9, "ema": 0.5}
    still = brief.model_copy(
        update={
            "architecture": brief.architecture.model_copy(
                update={"family": FamilyRef(name="cnn", params={"width": 8, "blocks": 1})}
            ),
            "training": brief.training.model_copy(update=training),
        }
    )
    made = train_it(copy_home(), Partition(partition.day, "early"), still, task, in_process)
    (gate,) = [gate for gate in made.gates if gate.name == "reproducible"]
    assert gate.passed
    assert gate.summary.endswith("2 of 9 epochs (no better accuracy for 1 epoch(s) after epoch 1)")
    assert made.measured["stopped"] and (made.measured["device"], made.measured["precision"]) == (device_here(), "fp32")
