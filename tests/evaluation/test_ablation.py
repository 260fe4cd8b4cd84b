"""Effects of augmentations against other ways to work them out, and the stage on the digits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dl_pipelines.brief.sections import Ablation, AugmentationPlan
from dl_pipelines.evaluation import ablation
from dl_pipelines.evaluation.ablation import Arm, effect, make_augmentation_ablation, table, verdict
from dl_pipelines.evaluation.evaluate import answer
from dl_pipelines.evaluation.metrics import ONE_SEED, SEVERAL_SEEDS, paired_difference
from dl_pipelines.store.workspace import Partition


def arm(values, noise=0.0, seed=0, draws=4000):
    rng = np.random.default_rng(seed)
    return Arm(values, [value + noise * rng.normal(size=draws) for value in values])


def test_seeds_alone_give_students_interval():
    differences = [0.02, 0.05, 0.03, 0.06]
    found = effect(arm([0.9 + value for value in differences]), arm([0.9] * 4), "higher", 0.95, 1)
    low, high = stats.t.interval(0.95, 3, np.mean(differences), stats.sem(differences))
    assert found["value"] == pytest.approx(0.04)
    np.testing.assert_allclose([found["low"], found["high"]], [low, high], atol=0.003)


def test_rows_alone_give_the_paired_bootstrap():
    one, other = arm([0.9], 0.01, seed=1), arm([0.88], 0.02, seed=2)
    found = effect(one, other, "higher", 0.9, 1)
    low, high = np.percentile(one.drawn[0] - other.drawn[0], [5, 95])
    np.testing.assert_allclose([found["value"], found["low"], found["high"]], [0.02, low, high], atol=1e-6)
    equal = effect(Arm([0.9] * 3, one.drawn * 3), Arm([0.88] * 3, other.drawn * 3), "higher", 0.9, 1)
    assert equal == found, "seeds that all say the same add nothing"


def test_lower_is_better_turns_the_sign():
    one, other = arm([0.2, 0.21], 0.01, seed=1), arm([0.3, 0.28], 0.01, seed=2)
    up, down = (effect(one, other, better, 0.95, 1) for better in ("higher", "lower"))
    assert down["value"] == pytest.approx(0.085) == -up["value"]
    assert down["low"] < 0.085 < down["high"]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_an_interval_holds_the_true_effect_as_often_as_it_says(seeds):
    rng, held = np.random.default_rng(seeds), 0
    for number in range(400):
        values = 0.5 + rng.normal(0.01, 0.02, seeds)
        found = effect(arm(list(values), draws=400), arm([0.5] * seeds, draws=400), "higher", 0.9, number)
        held += found["low"] <= 0.01 <= found["high"]
    assert 0.86 <= held / 400 <= 0.94


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.001, 0.2, "helps"), (-0.2, -0.001, "hurts"), (-0.1, 0.2, "not distinguishable"),
     (0.0, 0.2, "not distinguishable"), (-0.2, 0.0, "not distinguishable")],
)  # fmt: skip
def test_verdicts(low, high, said):
    assert verdict({"value": 0.0, "low": low, "high": high}) == said


def test_the_table():
    found = {"value": 0.0123, "low": 0.0012, "high": 0.0234}
    row = {"augmentation": "noise", "where": "online", "with": 0.95, "without": 0.9377, "effect": found,
           "verdict": "helps"}  # fmt: skip
    result = {"metric": "accuracy", "seeds": 3, "epochs": 4, "rows": [row], "none": {**row, "value": 0.9377},
              "train_rows": 700, "validation_rows": 150, "confidence": 0.95, "interval": "by hand"}  # fmt: skip
    assert table(result) == (
        "| augmentation | accuracy with | without | effect (above 0: better) | verdict |\n|---|---|---|---|---|\n"
        "| noise (online) | 0.95 | 0.9377 | +0.0123 [+0.0012, +0.0234] | helps |\n"
        "| all of them | 0.95 | 0.9377 | +0.0123 [+0.0012, +0.0234] | helps |\n\n"
        "3 seed(s) of 4 epochs, 700 train rows, 150 validation rows; 95% intervals, by hand."
    )


@pytest.fixture
def make(workspace, training_window, partition, brief, task):
    """A function: the stage, with an ablation and other augmentations, for an experiment that no other test sees."""
    apart = Partition(partition.day, "ablated")

    def made(plan=None, **asked):
        evaluation = brief.evaluation.model_copy(update={"ablation": Ablation(**asked)})
        data = brief.data if plan is None else brief.data.model_copy(update={"augmentation": plan})
        return make_augmentation_ablation(
            workspace, apart, brief.architecture, brief.training, brief.distributed, evaluation, data, task
        )

    return made


@pytest.mark.parametrize(
    ("asked", "plan", "reason"),
    [({}, None, "evaluation.ablation.seeds is 0: `dlp run` with `--set evaluation.ablation.seeds=3` measures it"),
     ({"seeds": 2}, AugmentationPlan(factor=2), "the brief names no augmentation")],
)  # fmt: skip
def test_without_trainings_it_says_why(make, monkeypatch, asked, plan, reason):
    monkeypatch.setattr(ablation, "_job", None)
    made = make(plan, **asked)
    found = made.read_json("ablation.json")
    assert (found["rows"], found["none"], found["reason"]) == ([], None, reason)
    assert made.show["reason"] == reason
    assert found["metric"] == "accuracy" and found["better"] == "higher"


def test_what_it_says_is_what_the_models_answer(make, monkeypatch, workspace, training_window, brief, task):
    """The trainings are faked: weights drawn by trial; everything after them is real."""
    from safetensors.torch import save_file

    from dl_pipelines.data.batches import window_rows
    from dl_pipelines.models.registry import FAMILIES
    from dl_pipelines.training import ablation as trainings

    rows, asked = window_rows(workspace, training_window, "validation", brief.data, task), []

    def model(trial, job):
        import torch

        torch.manual_seed(int(trial.key[:6], 16) + trial.seed)
        return FAMILIES.make(job.family).network(task, job.statistics)

    def run(trials, job, train, validation, done):
        asked.append((trials, job))
        paths = {}
        for trial in trials:
            path = job.folder / f"{trial.key}.safetensors"
            save_file(model(trial, job).state_dict(), path)
            done(trial, {"accuracy": 0.5})
            paths[trial.key] = path
        return paths

    monkeypatch.setattr(trainings, "run_trials", run)
    told = []
    monkeypatch.setattr(workspace, "_on_progress", told.append)
    made = make(seeds=2, epochs=3, max_rows=200)
    ((trials, job),) = asked
    assert len(trials) == 10 and job.training.epochs == 3
    assert (job.distributed.communicator, job.distributed.threads) == ("single", 1)
    assert [line.message for line in told][-2] == "training 10 of 10 is done: accuracy 0.5"
    found = made.read_json("ablation.json")
    assert [(row["augmentation"], row["where"]) for row in found["rows"]] == [
        ("rotation", "offline"), ("translation", "offline"), ("noise", "online"),
    ]  # fmt: skip
    assert (found["seeds"], found["epochs"], found["train_rows"]) == (2, 3, 200)
    outputs = {trial.key: answer(model(trial, job).eval(), rows.inputs) for trial in trials}
    whole, without = ([outputs[trials[place].key] for place in (start, start + 5)] for start in (0, 3))
    measured = [[task.measure(one, rows.targets)["accuracy"] for one in arm] for arm in (whole, without)]
    row = found["rows"][2]
    assert row["with"] == pytest.approx(np.mean(measured[0]), abs=1e-6)
    assert row["without"] == pytest.approx(np.mean(measured[1]), abs=1e-6)
    assert row["effect"]["value"] == pytest.approx(np.mean(measured[0]) - np.mean(measured[1]), abs=1e-6)
    assert found["none"]["value"] == found["none"]["without"]
    assert made.show["ablation"]["md"].count("\n| ") == 4

    one = make(seeds=1).read_json("ablation.json")
    apart = paired_difference(task, "accuracy", without[0], whole[0], rows.targets, 200, 0.95, brief.evaluation.seed)
    assert one["rows"][2]["effect"] == pytest.approx(apart, abs=2e-6)
    assert one["interval"] == f"paired {ONE_SEED}" and found["interval"] == f"paired {SEVERAL_SEEDS}"
    assert make(seeds=2, epochs=3, max_rows=200).digest == made.digest
    assert len(asked) == 2, "the second time it is found"
