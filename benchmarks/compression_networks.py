"""What `benchmarks.compression` compresses: a ResNet-18 of random weights on synthetic images, a trained digits model.

The ResNet's last layer is fitted, so that its decisions mean something: which of ten gratings an image shows. What is
left of it after pruning is trained on the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import ROOT

SIDE, CLASSES, ROWS, CALIBRATION = 224, 10, 96, 128
BUDGET, EPOCHS = 0.02, 12
"""Of accuracy on the rows, and of each fine-tuning."""


def gratings(count: int, seed: int) -> Any:
    """Rows of ten classes in turn: stripes of one direction and colour each, shifted, with noise."""
    from dl_pipelines.tasks.base import Rows

    rng = np.random.default_rng(seed)
    targets = np.arange(count) % CLASSES
    vertical, horizontal = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for place, target in enumerate(targets):
        angle = np.pi * target / CLASSES
        waves = np.sin(40 * (vertical * np.sin(angle) + horizontal * np.cos(angle)) + rng.uniform(0, 6))
        colour = 0.5 + 0.5 * np.cos(2 * np.pi * (target / CLASSES + np.arange(3) / 3))
        image = 128 + 70 * waves[:, :, None] * colour + rng.normal(0, 20, (SIDE, SIDE, 3))
        images[place] = image.clip(0, 255)
    return Rows(images, targets, np.array([f"image-{place:04d}" for place in range(count)], dtype=object))


@dataclass(frozen=True)
class Compressed:
    """What a chain came to: the row that serves, its candidate, the float32 file of the trained network.

    `rows` are fresh ones, of which nothing was trained, calibrated or chosen; `reference` is what that network answers
    to them.
    """

    row: dict[str, Any]
    candidate: Any
    onnx: Path
    rows: Any
    calibration: np.ndarray
    reference: np.ndarray
    ledger: list[dict[str, Any]]


def resnet(folder: Path, threads: int, techniques: Sequence[Any]) -> Compressed:
    """The chain for latency on both runtimes, with a workshop as the stage makes it."""
    from dl_pipelines.brief.sections import Compression
    from dl_pipelines.compression.base import Network
    from dl_pipelines.compression.candidates import spread
    from dl_pipelines.compression.chain import Chain
    from dl_pipelines.compression.registry import techniques_of
    from dl_pipelines.compression.trials import Bench
    from dl_pipelines.compression.workshop import Workshop
    from dl_pipelines.inference.export import export_onnx
    from dl_pipelines.inference.parity import torch_outputs
    from dl_pipelines.training.launch import run_locally

    task, plan, network, fitted = _fitted()
    weights = folder / "weights.safetensors"
    _save(network, weights)
    onnx = export_onnx(network, task, folder / "fp32" / "model.onnx")
    rows, fresh = gratings(ROWS, seed=1), gratings(ROWS, seed=2)
    section = Compression.model_validate({"techniques": techniques, "max_loss": BUDGET, "timing_rounds": 15})
    reference, answers = (torch_outputs(network, given.inputs, batch=16) for given in (rows, fresh))
    bench = Bench(task, rows, reference, threads, section.timing_rounds)
    choices: dict[str, Any] = {}

    def decide_once(name: str, measure: Any) -> Any:
        if name not in choices:
            choices[name] = measure()
        return choices[name]

    shop = Workshop(
        bench, section, _jobs(folder, plan, task, fitted, threads), Network("fp32", plan, weights, onnx), run_locally,
        folder, lambda count: spread(fitted, count), decide_once, lambda *told: None,
    )  # fmt: skip
    chain = Chain(shop, section)
    for technique in techniques_of(section):
        chain.step(technique)
    row, candidate = chain.chosen()
    return Compressed(row, candidate, onnx, fresh, fitted.inputs, answers, chain.rows())


def _fitted() -> tuple[Any, Any, Any, Any]:
    """The task, the plan, the network with norms and a last layer that know the images, and those images."""
    import torch

    from dl_pipelines.brief.references import FamilyRef
    from dl_pipelines.models.plan import NetworkPlan
    from dl_pipelines.tasks.image_classification import ImageClassification

    classes = [f"grating-{place}" for place in range(CLASSES)]
    task = ImageClassification(ImageClassification.Params(classes=tuple(classes), height=SIDE, width=SIDE, channels=3))
    plan = NetworkPlan(FamilyRef(name="cnn", params={"network": "resnet18"}), {"mean": [0.5] * 3, "std": [0.25] * 3})
    torch.manual_seed(0)
    network: Any = plan.build(task)
    rows = gratings(CALIBRATION, seed=0)
    images = torch.from_numpy(rows.inputs)
    with torch.no_grad():
        network.train()
        for at in range(0, CALIBRATION, 32):
            network(images[at : at + 32])
        network.eval()
        last, network.body.fc = network.body.fc, torch.nn.Identity()
        features = torch.cat([network(images[at : at + 32]) for at in range(0, CALIBRATION, 32)]).double()
        wanted = torch.nn.functional.one_hot(torch.from_numpy(rows.targets), CLASSES).double() * 8 - 4
        middle = features.mean(0)
        apart = features - middle
        ridge = apart.T @ apart + 1e-2 * apart.square().sum() / len(apart.T) * torch.eye(apart.shape[1])
        solved = torch.linalg.solve(ridge, apart.T @ (wanted - wanted.mean(0)))
        last.weight.copy_(solved.T)
        last.bias.copy_(wanted.mean(0) - middle @ solved)
        network.body.fc = last
    return task, plan, network, rows


def _save(network: Any, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)


def _jobs(folder: Path, plan: Any, task: Any, rows: Any, threads: int) -> Callable[[Path], Any]:
    """How it is trained on: by one process on the images that the last layer was fitted to."""
    from dl_pipelines.brief.sections import AugmentationPlan, Distributed, Training
    from dl_pipelines.training.job import Job, write_rows
    from dl_pipelines.training.train import task_ref

    stored = folder / "rows"
    stored.mkdir()
    write_rows(stored, "train", rows)
    write_rows(stored, "validation", rows.take(np.arange(CLASSES)))
    training = Training(epochs=EPOCHS, batch_size=16, learning_rate=1e-3, compile="off", device="cpu")
    distributed = Distributed(communicator="single", workers=1, threads=threads)
    return lambda job: Job(
        job, task_ref(task), plan.family, training, distributed, AugmentationPlan(), dict(plan.statistics), stored
    )


def digits(home: Path, overrides: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """The demo's brief as far as the compressed model: the brief, the workspace, the partition, the task."""
    from dl_pipelines import catalog
    from dl_pipelines.compression.compress import make_compressed_model
    from dl_pipelines.data.augmentation import make_augmented_dataset
    from dl_pipelines.data.raw import make_raw_data
    from dl_pipelines.data.registry import SOURCES
    from dl_pipelines.data.validation import make_validated_data
    from dl_pipelines.data.window import make_training_window
    from dl_pipelines.store.home import Home
    from dl_pipelines.store.workspace import Partition, Workspace
    from dl_pipelines.training.train import make_trained_model

    brief = catalog.with_overrides(catalog.load_brief(ROOT / "briefs" / "digits.yaml"), overrides)
    task, source = catalog.task_of(brief), SOURCES.make(brief.data.source)
    workspace, today = Workspace(Home(home).prepare(), brief.project), source.default_day()
    for day in source.days(brief.data.start):
        if day <= today:
            for stage in (make_raw_data, make_validated_data, make_augmented_dataset):
                stage(workspace, Partition(day), brief.data, task)
    make_training_window(workspace, Partition(today), brief.data, task)
    at = Partition(today, "base")
    make_trained_model(workspace, at, brief.architecture, brief.training, brief.distributed, brief.data, task)
    make_compressed_model(
        workspace, at, brief.problem, brief.training, brief.distributed, brief.compression, brief.serving, brief.data,
        task,
    )  # fmt: skip
    return brief, workspace, at, task
