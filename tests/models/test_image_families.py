"""Every family of images: it learns the digits, twice to the same bits, and ONNX Runtime and OpenVINO answer alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dl_pipelines.brief import Named
from dl_pipelines.brief.sections import AugmentationPlan, Training
from dl_pipelines.data.augmentation import Online
from dl_pipelines.inference.export import export_onnx
from dl_pipelines.inference.parity import torch_outputs
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.models.layers import count_parameters, layer_table
from dl_pipelines.models.recipe import Recipe
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.tasks.image_classification import ImageClassification
from dl_pipelines.training.communicators.single import SingleCommunicator
from dl_pipelines.training.loop import Trainer

IMAGES = [name for name in FAMILIES.names if FAMILIES.load(name).kind == "image"]
SMALL: dict[str, dict[str, Any]] = {
    "autoencoder": {"width": 8, "pretraining": 0.34}, "cnn": {"width": 8}, "conv_attention": {"width": 32, "depth": 1},
    "gan": {"width": 8, "latent": 8}, "vit": {"width": 32, "depth": 1},
}  # fmt: skip
"""Narrow ones, for speed."""
TRAINED, HELD = 600, 150
TOLERANCE = 1e-4


def task(height: int = 8, width: int = 8, channels: int = 1) -> ImageClassification:
    names = tuple("0123456789")
    return ImageClassification(ImageClassification.Params(classes=names, height=height, width=width, channels=channels))


def statistics(channels: int = 1) -> dict[str, Any]:
    return {"mean": [0.3] * channels, "std": [0.38] * channels, "class_counts": [100] * 10}


@dataclass
class Trained:
    """A family after a few epochs of few digits."""

    recipe: Recipe
    accuracy: float
    held: np.ndarray

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return {f"{key}.{name}": value for key, module in self.recipe.modules.items()
                for name, value in module.state_dict().items()}  # fmt: skip


def train(name: str, folder: Path, epochs: int = 3) -> Trained:
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images, labels = (found.images * 15).astype(np.uint8)[order, ..., None], found.target.astype(np.int64)[order]
    ids = np.array([f"r{place:04d}" for place in order])
    training = Training(
        epochs=epochs, batch_size=32, learning_rate=0.01, loss="focal" if name == "cnn" else None, clip=5
    )
    torch.manual_seed(0)
    recipe = FAMILIES.make(Named(name=name, params=SMALL.get(name, {}))).recipe(task(), statistics(), training)
    trainer = Trainer(recipe, task(), training, Online(AugmentationPlan()), SingleCommunicator())
    split = [slice(0, TRAINED), slice(TRAINED, TRAINED + HELD)]
    rows, held = [(images[part], labels[part], ids[part]) for part in split]
    curves = trainer.run(rows, held, folder)
    for module in recipe.modules.values():
        module.cpu()
    return Trained(recipe, curves[-1].validation["accuracy"], held[0])


@pytest.fixture(scope="module", params=IMAGES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Trained]:
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        return request.param, train(request.param, tmp_path_factory.mktemp("trained"))
    finally:
        torch.set_deterministic_debug_mode(before)


def test_it_learns(trained: tuple[str, Trained]):
    name, found = trained
    assert found.accuracy > 0.5, name  # after 57 steps of a narrow one; by chance 0.1


def test_two_trainings_end_with_the_same_bits(trained: tuple[str, Trained], tmp_path: Path):
    name, found = trained
    again = train(name, tmp_path)
    assert all(torch.equal(value, again.state[key]) for key, value in found.state.items())


def test_the_runtimes_answer_as_torch_does(trained: tuple[str, Trained], tmp_path: Path):
    _, found = trained
    network, path = found.recipe.network.eval(), tmp_path / "model.onnx"
    export_onnx(network, task(), path)
    expected = torch_outputs(network, found.held)
    for runtime in ("onnxruntime", "openvino"):
        session = open_runtime(runtime, path)
        for rows in (slice(0, 1), slice(3, 10), slice(0, HELD)):
            np.testing.assert_allclose(session.run(found.held[rows]), expected[rows], atol=TOLERANCE, rtol=0)


def test_every_parameter_is_in_its_layer_table(trained: tuple[str, Trained]):
    network = trained[1].recipe.network
    assert sum(row["parameters"] for row in layer_table(network)) == count_parameters(network)
    assert all(value.is_contiguous() for value in network.state_dict().values())


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(("height", "width", "channels"), [(4, 4, 1), (5, 64, 1), (32, 32, 3), (112, 112, 3)])
def test_any_size_can_be_trained_on(name: str, height: int, width: int, channels: int):
    family = FAMILIES.make(Named(name=name, params=SMALL.get(name, {})))
    training = Training(class_weights="balanced", label_smoothing=0.1)
    recipe = family.recipe(task(height, width, channels), statistics(channels), training)
    pixels = torch.randint(0, 256, (2, height, width, channels), dtype=torch.uint8)
    for phase in recipe.phases:
        for objective in phase.objectives:
            loss = objective.loss(recipe.modules, pixels, torch.tensor([1, 7]))
            loss.backward()
            assert loss.isfinite()
            moved = [value for key in objective.modules for value in recipe.modules[key].parameters()]
            assert all(value.grad is not None and value.grad.isfinite().all() for value in moved)
    assert recipe.network(pixels).shape == (2, 10)
