"""The scaling report: what is made of timed steps, the clock around the loop, and one and two real workers."""

from __future__ import annotations

import json
import time
from datetime import date

import numpy as np
import pytest
import torch

from dl_pipelines.brief.sections import Distributed, Scaling
from dl_pipelines.data.feed import Feed
from dl_pipelines.store import durable
from dl_pipelines.store.workspace import Partition
from dl_pipelines.training import scaling, scaling_runs, scaling_worker
from dl_pipelines.training.communicators.single import SingleCommunicator
from dl_pipelines.training.scaling import ScalingFailed, lost_to, make_scaling_report, row_of, table
from dl_pipelines.training.scaling_runs import PARTS, Run, measured
from dl_pipelines.training.scaling_worker import Timed
from tests.training.test_loop import rows, trainer


def run_of(workers, steps, parts=(0.07, 0.02, 0.01, 0.0), seed=0, batch=64):
    """Steps of 0.1 s, the first of 5 s, each a little otherwise."""
    rng = np.random.default_rng(seed)
    made = [[part * scale for part in parts] for scale in rng.uniform(0.9, 1.1, steps)]
    return Run(workers, workers * batch, [[5.0, 0.0, 0.0, 0.0], *made[1:]], 0.5, "validation rows", None)


def test_rates_are_of_the_steps_after_the_first_tenth():
    run = run_of(1, 31)
    value, drawn = run.rates()
    seconds = [sum(step) for step in run.steps[4:]]
    assert value == pytest.approx(64 * 27 / sum(seconds)), "4 of 31 steps are not timed"
    assert np.percentile(drawn, 2.5) < value < np.percentile(drawn, 97.5)
    assert run.seconds == pytest.approx(sum(map(sum, run.steps)))
    assert run_of(1, 2).rates()[0] > 0 and len(run_of(2, 5).timed()) == 4


def test_an_interval_holds_the_true_rate_as_often_as_it_says():
    rng, held = np.random.default_rng(5), 0
    for number in range(300):
        run = Run(1, 10, [[float(value)] for value in rng.normal(0.1, 0.02, 110)], 0.0, "", None)
        low, high = np.percentile(run.rates(number)[1], [2.5, 97.5])
        held += low <= 10 / 0.1 <= high
    assert 0.85 <= held / 300 <= 0.99


def test_a_row_beside_one_worker():
    one, two = run_of(1, 31), run_of(2, 16, (0.08, 0.04, 0.01, 0.0), seed=1)
    given = Distributed(communicator="torch", workers=2, threads=1, price_per_hour=3.6)
    row = row_of(two, one, 2, given)
    alone, together = one.rates()[0], two.rates()[0]
    assert row["samples_per_second"]["value"] == pytest.approx(together, abs=1e-5)
    assert row["efficiency"]["value"] == pytest.approx(together / (2 * alone), abs=1e-6)
    assert row["efficiency"]["low"] < row["efficiency"]["value"] < row["efficiency"]["high"]
    assert row["step_ms"] == pytest.approx(
        {name: 1e3 * np.mean([step[place] for step in two.steps[2:]]) for place, name in enumerate(PARTS)}, abs=1e-3
    )  # fmt: skip
    assert (row["bottleneck"], row["lost_to"]) == ("compute", "communication")
    assert row["samples"] == 2 * 64 * 16 and row["cost"] == pytest.approx(two.seconds / 1000)
    assert (row["communicator"], row["loss"], row["energy_j"]) == ("torch", 0.5, None)
    first = row_of(one, one, 1, given.model_copy(update={"price_per_hour": None}))
    assert first["efficiency"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert (first["communicator"], first["cost"], first["lost_to"]) == ("single", None, None)


def test_what_grew_most_is_what_efficiency_is_lost_to():
    alone = dict.fromkeys(PARTS, 1.0)
    assert lost_to({**alone, "input": 3.0, "communication": 2.0}, alone) == "input"
    assert lost_to(alone, alone) is None


def test_the_table():
    one = run_of(1, 31)
    found = {"rows": [row_of(one, one, 1, Distributed()), row_of("no | cores", one, 4, Distributed())],
             "samples": 1984, "steps": 31}  # fmt: skip
    lines = table(found).splitlines()
    assert lines[0] == (
        "| workers | samples/s | efficiency | ms of a step: compute, communication, input, other | bottleneck | loss |"
    )
    assert lines[2].startswith("| 1 | 6") and "| 100.0% [100.0%, 100.0%] | " in lines[2]
    assert lines[2].endswith("| compute | 0.5 |") and lines[3] == "| 4 | no / cores | - | - | - | - |"
    assert lines[5] == "1984 samples each, 31 steps of one worker."


def test_the_clock_finds_where_the_time_went(make_job, monkeypatch, tmp_path):
    """A feed, an exchange and a loss of known slowness; the weights are those of a training without a clock."""
    job = make_job(records=128, training={"epochs": 1, "batch_size": 32, "compile": "off"})
    plain = trainer(job)
    plain.run(rows(job, "train"), rows(job, "validation"), tmp_path / "plain")
    timed = Timed(plain_recipe(job), plain.task, job.training, plain.online, SingleCommunicator())
    epoch = Feed.epoch

    def slow(self, *args, **options):
        for batch in epoch(self, *args, **options):
            time.sleep(0.03)
            yield batch

    monkeypatch.setattr(Feed, "epoch", slow)
    for exchange in timed.exchanges.values():
        finish = exchange._exchange.finish
        exchange._exchange.finish = lambda finish=finish: (time.sleep(0.06), finish())[1]
    timed.run(rows(job, "train"), rows(job, "validation"), tmp_path / "timed", 1)
    assert len(timed.steps) == 4 and timed.joules is None
    compute, communication, batch, other = np.array(timed.steps).T
    assert (communication >= 0.06).all() and (communication < 0.5).all()
    assert (batch >= 0.03).all() and (compute > 0).all() and (other >= 0).all()
    for one, two in zip(plain.recipe.network.parameters(), timed.recipe.network.parameters(), strict=True):
        assert torch.equal(one, two)


def plain_recipe(job):
    from dl_pipelines.models.registry import FAMILIES
    from dl_pipelines.tasks.registry import TASKS

    torch.manual_seed(job.training.seed)
    return FAMILIES.make(job.family).recipe(TASKS.make(job.task), job.statistics, job.training)


def test_energy_is_of_the_steps(make_job, monkeypatch, tmp_path):
    class Counter:
        def around(self, work):
            return work(), 12.5

    monkeypatch.setattr(scaling_worker, "find_counter", lambda: (Counter(), ""))
    job = make_job(records=64, training={"epochs": 1, "batch_size": 32, "compile": "off"})
    plain = trainer(job)
    timed = Timed(plain.recipe, plain.task, job.training, plain.online, SingleCommunicator())
    timed.run(rows(job, "train"), rows(job, "validation"), tmp_path / "timed", 1)
    assert timed.joules == 12.5 and len(timed.steps) == 2


def test_workers_that_cannot_be_are_told_why(make_job, monkeypatch):
    monkeypatch.setattr(scaling_runs, "_launch", None)
    job = make_job(communicator="torch", workers=2, threads=2)
    cores = len(scaling_runs.os.sched_getaffinity(0))
    assert measured(job, 64) == f"64 workers of 2 thread(s) need 128 cores; this machine has {cores}"
    assert measured(make_job(name="alone"), 2) == (
        "distributed.communicator is single: one worker only" if cores > 1
        else f"2 workers of 1 thread(s) need 2 cores; this machine has {cores}"
    )  # fmt: skip


def test_a_failing_worker_says_why(make_job, monkeypatch):
    command = ["sh", "-c", "echo Traceback >&2; echo 'IndexError: target 99' >&2; exit 3"]
    monkeypatch.setattr(scaling_runs, "worker_command", lambda *_: command)
    assert measured(make_job(), 1) == "the workers ended with code 3: IndexError: target 99"


@pytest.fixture
def make(workspace, training_window, partition, brief, task):
    """A function: the scaling report of an experiment."""

    def made(experiment="scaled", day=None, **asked):
        changed = {"communicator": "torch", "workers": 2, "price_per_hour": 3.6, "scaling": Scaling(**asked)}
        distributed = brief.distributed.model_copy(update=changed)
        given = Partition(day or partition.day, experiment)
        return make_scaling_report(
            workspace, given, brief.architecture, brief.training, distributed, brief.data, task
        )  # fmt: skip

    return made


@pytest.mark.slow
def test_two_real_workers_beside_one(make, monkeypatch, workspace, training_window):
    monkeypatch.setattr(scaling_runs.os, "sched_getaffinity", lambda _: {0, 1})
    made = make(workers=(2, 3), steps=5)
    found = made.measured["scaling"]
    assert (found["steps"], found["samples"], found["workers"]) == (6, 384, [1, 2, 3])
    one, two, three = found["rows"]
    assert (one["samples"], two["samples"]) == (384, 384)
    assert three["reason"] == "3 workers of 1 thread(s) need 3 cores; this machine has 2"
    assert (one["communicator"], two["communicator"]) == ("single", "torch")
    assert two["step_ms"]["communication"] > 0 and two["samples_per_second"]["value"] > 0
    assert one["loss_of"] == two["loss_of"] == "validation rows" and one["loss"] != two["loss"]
    assert two["cost"] == pytest.approx(two["seconds"] / 1000, rel=1e-3)
    assert made.read_json("scaling.json")["workers"] == [1, 2, 3]
    assert "| 2 | " in made.show["scaling"]["md"]
    monkeypatch.setattr(scaling, "measured", None)
    assert make(workers=(2, 3), steps=5) == made
    workspace.point("training_window", Partition(date(2026, 1, 9)), training_window)
    assert make(workers=(2, 3), steps=5, day=date(2026, 1, 9)) == made, "it holds for days"


def test_without_one_worker_there_is_no_report(make, monkeypatch):
    monkeypatch.setattr(scaling, "measured", lambda job, count: "no launcher" if count == 1 else run_of(2, 5))
    with pytest.raises(ScalingFailed, match=r"one worker could not train \(no launcher\)"):
        make("failing", workers=(2,), steps=7)


def test_samples_are_repeated_where_there_are_few(make, monkeypatch):
    jobs = []
    monkeypatch.setattr(scaling, "measured", lambda job, count: jobs.append(job) or told(job) or run_of(count, 40))
    lengths = []

    def told(job):
        ids = np.load(job.rows / "train_ids.npy")
        lengths.append((len(ids), len(set(ids.tolist())), json.dumps(ids[:1].tolist() == ids[-1:].tolist())))

    make("many", workers=(1,), steps=40)
    (job,) = jobs
    count, different, _ = lengths[0]
    assert count == 40 * 64 > different and job.training.epochs == 1
    assert job.training.compile == "off" and job.training.patience is None


def test_when_not_asked_for_it_says_so(make, monkeypatch):
    monkeypatch.setattr(scaling, "measured", None)
    made = make("unasked")
    assert made.read_json("scaling.json") == {"workers": [], "reason": "distributed.scaling.workers names none"}
    assert made.measured["scaling"]["rows"] == [] and not made.parents


def test_a_stalled_worker_is_ended(make_job, monkeypatch):
    monkeypatch.setattr(scaling_runs, "START_SECONDS", 0.3)
    monkeypatch.setattr(scaling_runs, "worker_command", lambda *_: ["sleep", "30"])
    assert measured(make_job(stall_seconds=0.2), 1) == "no progress for 0.3 s"


def test_what_the_worker_writes_for_a_person(make_job, monkeypatch):
    job = make_job()

    def fail(_):
        raise ValueError("found nothing")

    monkeypatch.setattr(scaling_worker, "run", fail)
    monkeypatch.setattr("sys.argv", ["scaling_worker", "--job", str(job.folder / "job.json")])
    with pytest.raises(ValueError, match="found nothing"):
        scaling_worker.main()
    assert durable.read_json(job.folder / "failure-0.json") == {"message": "found nothing"}
