"""Fine-tuning from end to end: 500 images of new classes, and a model that tells which weights it began from."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dl_pipelines.brief.references import FamilyRef, TaskRef
from dl_pipelines.brief.sections import AugmentationPlan, Distributed, Pretrained, Training
from dl_pipelines.models.finetune import PretrainedError
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.digest import digest_file
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.training import worker
from dl_pipelines.training.job import FINAL, RESULT, Job
from dl_pipelines.training.train import make_trained_model
from tests.training.conftest import digits


def job_of(
    folder: Path, classes: range, rows: int, epochs: int, pretrained: Pretrained | None = None, seed: int = 0
) -> Job:
    """Trained on so many digits of some classes, validated on the others of them."""
    folder.mkdir(parents=True)
    inputs, targets = digits()
    order = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(targets, classes)))
    for split, chosen in (("train", order[:rows]), ("validation", order[rows:])):
        ids = np.array([f"r{place:04d}" for place in chosen])
        for name, value in (("inputs", inputs[chosen]), ("targets", targets[chosen] - classes[0]), ("ids", ids)):
            np.save(folder / f"{split}_{name}.npy", value, allow_pickle=False)
    params = {"classes": [str(name) for name in classes], "height": 8, "width": 8, "channels": 1}
    job = Job(
        folder, TaskRef(name="image_classification", params=params), FamilyRef(name="cnn", params={"width": 16}),
        Training(epochs=epochs, batch_size=32, learning_rate=0.002, seed=seed),
        Distributed(communicator="single", workers=1), AugmentationPlan(), {"mean": [0.3], "std": [0.38]}, folder,
        pretrained,
    )  # fmt: skip
    worker.run(job)
    return job


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Weights of a network that has seen the digits 0 to 5, never 6 to 9."""
    return job_of(tmp_path_factory.mktemp("learned") / "job", range(6), 1000, 4).folder / FINAL


def accuracy(job: Job) -> float:
    return durable.read_json(job.folder / RESULT)["curves"][-1]["validation"]["accuracy"]


def test_five_hundred_images_of_new_classes_are_learned_faster_than_from_nothing(learned, tmp_path):
    asked = Pretrained(weights=str(learned), freeze=0.25, layer_decay=0.9)
    for seed in (0, 1):
        tuned = job_of(tmp_path / f"tuned{seed}", range(6, 10), 500, 1, asked, seed)
        fresh = job_of(tmp_path / f"fresh{seed}", range(6, 10), 500, 1, None, seed)
        assert accuracy(tuned) > accuracy(fresh) + 0.05
    before, after = load_file(learned), load_file(tuned.folder / FINAL)
    kept = {name for name, value in before.items() if name in after and torch.equal(value, after[name])}
    assert {name for name in before if name.split(".")[0] in ("1", "2")} <= kept, "averages of norms, too"
    assert not [name for name in kept if name.split(".")[0] in ("4", "8", "11", "18")]


def in_process(command, env):
    """A launcher that trains here."""
    path = Path(command[-1])
    worker.run(Job.read(path))
    durable.write_json(path.parent / "supervised.json", {"attempts": ["done"], "failure": None, "sandboxed": False})


@pytest.fixture
def home(training_window, workspace, tmp_path):
    """With the window and its datasets, and no model."""
    shutil.copytree(
        workspace.home.root, tmp_path / "home", symlinks=True,
        ignore=shutil.ignore_patterns("trained_model", "evaluation", "compressed_model", "work", "server"),
    )  # fmt: skip
    return Workspace(Home(tmp_path / "home").prepare(), workspace.project)


def test_a_model_says_which_weights_it_began_from(home, trained_model, partition, brief, task, tmp_path):
    def train(weights: Path, partition: Partition = partition) -> Artifact:
        asked = Pretrained(weights=str(weights), freeze=0.25)
        architecture = brief.architecture.model_copy(update={"pretrained": asked})
        training = brief.training.model_copy(update={"epochs": 1, "warm_epochs": 1})
        return make_trained_model(
            home, partition, architecture, training, brief.distributed, brief.data, task, in_process
        )

    weights, moved = tmp_path / "weights.safetensors", tmp_path / "moved.safetensors"
    weights.write_bytes(trained_model.file("weights.safetensors").read_bytes())
    found = train(weights)
    told = found.read_json("model.json")["pretrained"]
    assert told == {
        "sha256": digest_file(weights), "tensors": 26, "fresh": [], "layers": 5, "frozen": 1, "adapted": None,
    }  # fmt: skip
    assert found.settings["settings"]["architecture"]["pretrained"] == {
        "freeze": 0.25, "layer_decay": 1.0, "sha256": digest_file(weights),
    }  # fmt: skip
    gates = {gate.name: gate.summary for gate in found.gates}
    assert gates["reproducible"].endswith(f", from weights of sha256 {digest_file(weights)[:16]}")
    before, after = load_file(weights), load_file(found.file("weights.safetensors"))
    assert torch.equal(before["1.weight"], after["1.weight"]) and not torch.equal(before["4.weight"], after["4.weight"])

    made = len(home.made)
    weights.rename(moved)
    assert train(moved).digest == found.digest and len(home.made) == made, "wherever the file lies"
    with pytest.raises(PretrainedError, match=r"found no file .*weights\.safetensors"):
        train(weights)
    save_file({**before, "1.weight": before["1.weight"] + 0.1}, moved)
    assert train(moved).digest != found.digest, "other weights, another model"

    later = Partition(partition.day + timedelta(days=1), partition.experiment)
    home.point("training_window", later.daily, home.get("training_window", partition.daily))
    moved.unlink()
    warm = train(moved, later).read_json("model.json")
    assert warm["warm_start"]["from"] == home.get("trained_model", partition).digest and "pretrained" not in warm
