"""The stage on a really trained model: its files against the model's own answers, gates that block or only warn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as reference

from dl_pipelines.brief import Brief
from dl_pipelines.data.batches import window_rows
from dl_pipelines.evaluation import evaluate
from dl_pipelines.evaluation.evaluate import answer, confusion, make_evaluation
from dl_pipelines.evaluation.test_reads import count_test_reads
from dl_pipelines.models.restore import load_served
from dl_pipelines.store.artifacts import Artifact, ArtifactError
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import SPLITS, Rows, Task


@pytest.fixture(scope="module")
def scored(
    evaluation: Artifact,
    training_window: Artifact,
    trained_model: Artifact,
    workspace: Workspace,
    brief: Brief,
    task: Task,
) -> dict[str, tuple[Rows, np.ndarray]]:
    """Rows and logits of each split, by torch alone."""
    import torch

    network, found = load_served(trained_model, task), {}
    for split in SPLITS:
        rows = window_rows(workspace, training_window, split, brief.data, task)
        with torch.no_grad():
            found[split] = rows, network(torch.from_numpy(rows.inputs)).numpy()
    return found


def test_the_files_are_there(evaluation: Artifact):
    assert set(evaluation.files) == {
        "metrics.json", "rows.json", "confusion.json", "calibration.json", "slices.json", "details.json",
        "outputs_validation.npy",
    }  # fmt: skip
    assert set(evaluation.parents) == {"training_window", "trained_model"}


def test_metrics_are_scikit_learns_on_the_models_answers(evaluation: Artifact, scored, task: Task):
    metrics = evaluation.read_json("metrics.json")
    for split, (rows, logits) in scored.items():
        decided = logits.argmax(axis=1)
        assert metrics[split]["accuracy"]["value"] == pytest.approx(
            reference.accuracy_score(rows.targets, decided), abs=2 / len(rows)
        )
        assert metrics[split]["f1"]["value"] == pytest.approx(
            reference.f1_score(rows.targets, decided, average="macro"), abs=0.02
        )
        for estimate in metrics[split].values():
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
        assert set(metrics[split]) == set(task.metrics)
    assert metrics["test"]["accuracy"]["value"] > 0.8


def test_rows_are_of_originals_and_each_is_in_one_split(evaluation: Artifact, scored):
    assert evaluation.read_json("rows.json") == {split: len(rows) for split, (rows, _) in scored.items()}
    ids = [set(rows.ids) for rows, _ in scored.values()]
    assert len(set.union(*ids)) == sum(map(len, ids)) == 1017


def test_confusion_and_slices_are_of_the_test_rows(evaluation: Artifact, scored, task: Task):
    rows, logits = scored["test"]
    found = evaluation.read_json("confusion.json")
    expected = reference.confusion_matrix(rows.targets, logits.argmax(axis=1), labels=range(10))
    assert np.abs(np.array(found["counts"]) - expected).sum() <= 2
    assert found["labels"] == list(task.signature().labels)
    slices = evaluation.read_json("slices.json")
    assert [row["slice"] for row in slices] == [f"class:{digit}" for digit in range(10)]
    assert sum(row["rows"] for row in slices) == len(rows)
    assert not any(row["gated"] for row in slices)
    bins = evaluation.read_json("calibration.json")
    assert sum(line["rows"] for line in bins) == len(rows)


def test_the_validation_outputs_are_the_models(evaluation: Artifact, scored):
    rows, logits = scored["validation"]
    outputs = np.load(evaluation.file("outputs_validation.npy"))
    assert outputs.shape == (len(rows), 10)
    assert np.abs(outputs - logits).max() < 1e-3


def test_integrity_blocks_and_thresholds_only_warn(evaluation: Artifact, brief: Brief):
    assert [(gate.name, gate.blocking) for gate in evaluation.gates] == [
        ("finite_outputs", True),
        *[(f"threshold_{metric}", False) for metric in brief.evaluation.thresholds],
    ]
    assert evaluation.require_gates() is evaluation


def test_the_look_at_the_test_rows_was_counted(evaluation: Artifact, workspace: Workspace, partition: Partition):
    assert evaluation.measured["test_reads"] >= 1
    assert count_test_reads(workspace, partition) >= 1


def test_a_missed_threshold_is_told_and_the_stage_goes_on(
    evaluation: Artifact, workspace: Workspace, brief: Brief, task: Task, partition: Partition
):
    before = count_test_reads(workspace)
    bounds = {"accuracy": 0.999999, "f1": 0.1, "loss": 1e-6}
    changed = brief.evaluation.model_copy(update={"thresholds": bounds, "resamples": 100})
    made = make_evaluation(workspace, partition, changed, brief.data, task)
    workspace.point("evaluation", partition, evaluation)
    assert [(gate.name, gate.passed, gate.blocking) for gate in made.gates[1:]] == [
        ("threshold_accuracy", False, False),
        ("threshold_f1", True, False),
        ("threshold_loss", False, False),
    ]
    for gate, bound in zip(made.gates[1:], bounds.values(), strict=True):
        assert gate.summary.endswith(f"on the test rows, threshold {bound:g}")
        assert gate.facts["threshold"] == bound
    assert made.require_gates() is made
    assert count_test_reads(workspace) == before + 1


def test_nothing_is_read_again_when_nothing_changed(
    evaluation: Artifact, workspace: Workspace, brief: Brief, task: Task, partition: Partition
):
    before = count_test_reads(workspace)
    assert make_evaluation(workspace, partition, brief.evaluation, brief.data, task) == evaluation
    assert count_test_reads(workspace) == before


def test_answers_that_are_not_finite_block(
    evaluation: Artifact, workspace: Workspace, brief: Brief, task: Task, partition: Partition,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(evaluate, "answer", lambda network, inputs: np.full((len(inputs), 10), np.nan, np.float32))
    changed = brief.evaluation.model_copy(update={"seed": 99})
    made = make_evaluation(workspace, partition, changed, brief.data, task)
    workspace.point("evaluation", partition, evaluation)
    with pytest.raises(ArtifactError, match="may not be used: found finite_outputs: answers to 1017 rows; expected"):
        made.require_gates()
    assert made.read_json("metrics.json") == {split: {} for split in SPLITS}
    undecided = [gate for gate in made.gates if gate.name.startswith("threshold_")]
    assert {gate.passed for gate in undecided} == {None}
    assert undecided[0].summary == "accuracy could not be measured on these test rows"


def test_a_model_that_has_not_run_is_asked_for(
    workspace: Workspace, brief: Brief, task: Task, training_window: Artifact
):
    other = Partition(Partition.parse("2026-01-01").day, "never")
    with pytest.raises(ArtifactError, match=r"found no trained_model of digits for 2026-01-01\|never; expected it to"):
        make_evaluation(workspace, other, brief.evaluation, brief.data, task)


def test_a_window_that_has_not_run_is_asked_for(tmp_path: Path, brief: Brief, task: Task, partition: Partition):
    from dl_pipelines.store.home import Home

    with pytest.raises(ArtifactError, match=r"found no training_window of digits for 2026-01-01; expected it to"):
        make_evaluation(Workspace(Home(tmp_path), "digits"), partition, brief.evaluation, brief.data, task)


def test_answers_come_in_order_whatever_the_batches():
    import torch

    inputs = np.arange(600, dtype=np.float32).reshape(300, 2)
    assert (answer(torch.nn.Identity(), inputs) == inputs).all()
    assert answer(torch.nn.Identity(), inputs[:0]).shape == (0, 0)


def test_confusion_by_hand(task: Task):
    targets, decided = np.array([0, 0, 1, 9]), [0, 1, 1, 0]
    rows = Rows(np.zeros((4, 8, 8, 1), np.uint8), targets, np.arange(4))
    counts = np.array(confusion(task, np.eye(10)[decided], rows)["counts"])
    assert {(row, column): counts[row, column] for row, column in zip(*np.nonzero(counts), strict=True)} == {
        (0, 0): 1, (0, 1): 1, (1, 1): 1, (9, 0): 1,
    }  # fmt: skip
