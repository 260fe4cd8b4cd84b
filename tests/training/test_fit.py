"""One job, through a launcher that stands in for the supervisor, and what is told of it meanwhile."""

import json
from pathlib import Path

import pytest

from dl_pipelines.store import durable
from dl_pipelines.training import worker
from dl_pipelines.training.fit import TrainingFailed, _Follow, fit
from dl_pipelines.training.job import FINAL, PROGRESS, RESULT, Job
from dl_pipelines.training.launch import LaunchFailed
from dl_pipelines.training.supervise import OUTCOME

STARTED = json.dumps({"workers": 1, "communicator": "single"}) + "\n"
STEP = json.dumps({"epoch": 1, "epochs": 3, "step": 2, "steps": 7}) + "\n"


def epoch(number):
    return json.dumps({"epoch": number, "epochs": 3, "train_loss": 0.5, "validation": {"accuracy": 0.9}}) + "\n"


def told_by(told):
    return lambda message, done, total: told.append((message, done, total))


def train_here(command, environment):
    """What the supervisor has a worker do, without their processes."""
    worker.run(Job.read(Path(command[-1])))


def test_a_job_is_trained_and_each_epoch_is_told(make_job):
    job, told = make_job(training={"epochs": 2}), []
    fit(job, train_here, told_by(told))
    assert (job.folder / FINAL).exists()
    curves = durable.read_json(job.folder / RESULT)["curves"]
    epochs = [item for item in told if "train loss" in item[0]]
    assert [item[1:] for item in epochs] == [(1, 2), (2, 2)]
    assert epochs[1][0].startswith(f"epoch 2 of 2: train loss {curves[1]['train_loss']:.4f}, validation")
    assert told[0][0] == "1 worker(s) started, communicator single"


def test_what_an_earlier_attempt_told_is_not_told_again(tmp_path):
    path, told = tmp_path / PROGRESS, []
    path.write_text(STARTED + epoch(1))
    with _Follow(path, told_by(told)), path.open("a") as file:
        file.write(epoch(2))
    assert told == [("epoch 2 of 3: train loss 0.5000, validation accuracy 0.9", 2, 3)]


def test_a_line_is_told_when_it_is_whole(tmp_path):
    path, told = tmp_path / PROGRESS, []
    follow, line = _Follow(path, told_by(told)), epoch(1)
    path.write_text(STARTED + line[:20])
    follow._tell()
    follow._tell()
    assert told == [("1 worker(s) started, communicator single", None, None)]
    path.write_text(STARTED + line + STEP[:-1])
    follow._tell()
    assert told[1:] == [("epoch 1 of 3: train loss 0.5000, validation accuracy 0.9", 1, 3)]
    path.write_text(STARTED + line + STEP)
    follow._tell()
    assert told[2:] == [("epoch 1 of 3: step 2 of 7", 1, 3)]


@pytest.mark.parametrize("torn", [epoch(1)[:30], '{"epoch": 1, "é'])
def test_a_line_that_a_kill_cut_short_is_passed_over(tmp_path, torn):
    path, told = tmp_path / PROGRESS, []
    data = (STARTED + torn).encode()[: -1 if torn.endswith("é") else None]  # within a letter
    with _Follow(path, told_by(told)):
        path.write_bytes(data + STARTED.encode() + epoch(1).encode())
    assert told == [
        ("1 worker(s) started, communicator single", None, None),
        ("epoch 1 of 3: train loss 0.5000, validation accuracy 0.9", 1, 3),
    ]


@pytest.mark.parametrize(
    ("supervised", "found"), [("rank 0 found a training loss of nan", "rank 0 found a training loss of nan"),
                              (None, "the training's supervisor ended with code 9")],
)  # fmt: skip
def test_a_failure_says_what_the_supervisor_found(make_job, supervised, found):
    job = make_job()
    durable.write_json(job.folder / OUTCOME, {"failure": "of an earlier attempt"})
    durable.write_json(job.folder / RESULT, {})

    def fail(command, environment):
        assert command[-2:] == ["--job", str(job.folder / "job.json")]
        if supervised:
            durable.write_json(job.folder / OUTCOME, {"failure": supervised})
        raise LaunchFailed(9)

    with pytest.raises(TrainingFailed, match=rf"^the training by 1 single worker\(s\) failed: {found}$"):
        fit(job, fail, told_by([]))
    assert not (job.folder / RESULT).exists()
