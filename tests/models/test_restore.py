"""A stored model answers as it did when its training ended, or is not loaded at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dl_pipelines.brief import Brief
from dl_pipelines.data.batches import window_rows
from dl_pipelines.models.restore import load_served
from dl_pipelines.store.artifacts import Artifact, ArtifactError
from dl_pipelines.store.durable import read_json, write_json
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Task


def test_it_answers_as_at_the_end_of_its_training(
    trained_model: Artifact, training_window: Artifact, workspace: Workspace, brief: Brief, task: Task
):
    """The training measured itself on the validation rows after its last epoch."""
    rows = window_rows(workspace, training_window, "validation", brief.data, task)
    network = load_served(trained_model, task)
    assert not network.training
    with torch.no_grad():
        logits = network(torch.from_numpy(rows.inputs)).numpy()
    then = trained_model.read_json("curves.json")[-1]["validation"]
    now = task.measure(logits, rows.targets)
    assert now["accuracy"] == pytest.approx(then["accuracy"], abs=1 / len(rows))
    assert now["loss"] == pytest.approx(then["loss"], rel=1e-3)


def test_its_weights_are_the_stored_ones_to_the_bit(trained_model: Artifact, task: Task):
    stored = load_file(trained_model.file("weights.safetensors"))
    state = load_served(trained_model, task).state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], value) for name, value in stored.items())
    model = trained_model.read_json("model.json")
    assert state["0.mean"].flatten().tolist() == pytest.approx(model["statistics"]["mean"])
    assert sum(layer["parameters"] for layer in trained_model.read_json("layers.json")) == model["parameters"]


def test_two_loads_answer_alike(trained_model: Artifact, task: Task):
    inputs = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8))
    with torch.no_grad():
        first, again = (load_served(trained_model, task)(inputs) for _ in range(2))
    assert torch.equal(first, again)


@pytest.fixture
def copied(trained_model: Artifact, tmp_path: Path) -> Artifact:
    return Artifact.open(Path(shutil.copytree(trained_model.path, tmp_path / trained_model.path.name)))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["changed", "missing"])
def test_a_damaged_model_is_not_loaded(copied: Artifact, task: Task, name: str, damage: Callable[[Path], None]):
    damage(copied.path / name)
    with pytest.raises(ArtifactError) as caught:
        load_served(copied, task)
    assert f"{name} of trained_model {copied.short}" in str(caught.value)
    assert str(caught.value).endswith("remove the folder and run trained_model again")


def test_a_model_that_failed_its_gates_is_not_loaded(copied: Artifact, task: Task):
    outcome = read_json(copied.path / "outcome.json")
    outcome["gates"][0] |= {"passed": False, "summary": "2 tensors with NaN"}
    write_json(copied.path / "outcome.json", outcome)
    with pytest.raises(ArtifactError, match=r"may not be used: found finite: 2 tensors with NaN; expected every"):
        load_served(copied, task)
