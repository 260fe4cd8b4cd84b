"""A wider network than the demo's, whose weights outweigh the graph, and rows of two classes that it tells apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.compression.base import Network
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.image_classification import ImageClassification
from tests.compressing import workshop


@pytest.fixture(scope="session")
def wide_task() -> ImageClassification:
    """Two classes, 8 x 8 pixels, grey."""
    return ImageClassification(ImageClassification.Params(classes=("dark", "bright")))


@pytest.fixture(scope="session")
def wide_rows() -> Rows:
    """200 rows, half of them bright."""
    rng = np.random.default_rng(0)
    targets = np.arange(200) % 2
    inputs = (rng.integers(0, 128, (200, 8, 8, 1)) + 100 * targets[:, None, None, None]).astype(np.uint8)
    return Rows(inputs, targets, np.array([f"row-{place:03d}" for place in range(200)], dtype=object))


@pytest.fixture(scope="session")
def wide_network(wide_rows):
    """uint8 [N, 8, 8, 1] -> logits [N, 2]; random features, a last layer fitted by least squares."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 256, 3, padding=1),
                nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(256, 512, 2), nn.ReLU(), nn.Flatten(),
            )  # fmt: skip
            self.head = nn.Linear(512, 2)

        def forward(self, image):
            return self.head(self.features(image.permute(0, 3, 1, 2).float() / 255))

    network = Network().eval()
    with torch.no_grad():
        features = network.features(torch.from_numpy(wide_rows.inputs).permute(0, 3, 1, 2).float() / 255)
        wanted = torch.nn.functional.one_hot(torch.from_numpy(wide_rows.targets), 2).float() * 8 - 4
        features = torch.cat([features, torch.ones(len(features), 1)], 1)
        ridge = features.T @ features + 1e-2 * torch.eye(513)
        solved = torch.linalg.solve(ridge, features.T @ wanted)
        network.head.weight.copy_(solved[:-1].T)
        network.head.bias.copy_(solved[-1])
    return network


@pytest.fixture(scope="session")
def wide_onnx(wide_network, wide_task, tmp_path_factory) -> Path:
    """The wide network as ONNX."""
    from dl_pipelines.inference.export import export_onnx

    return export_onnx(wide_network, wide_task, tmp_path_factory.mktemp("wide") / "fp32" / "model.onnx")


@pytest.fixture(scope="session")
def wide_reference(wide_network, wide_rows) -> np.ndarray:
    """What torch answers."""
    from dl_pipelines.inference.parity import torch_outputs

    return torch_outputs(wide_network, wide_rows.inputs)


@pytest.fixture
def make_shop(trained_model, tmp_path, brief, workspace, partition, task):
    """`make_shop(compression=None)`: a workshop on the session's trained model, in this test's folder."""
    return lambda compression=None: workshop(tmp_path, brief, workspace, partition, task, compression)


@pytest.fixture
def shop(make_shop):
    """A workshop with the session brief's section."""
    return make_shop()


@pytest.fixture(scope="session")
def networks(wide_task, wide_rows, tmp_path_factory) -> dict[str, Network]:
    """Networks of the family cnn that tell the wide rows apart, by their width: `wide` and `narrow`."""
    import torch
    from safetensors.torch import save_file

    from dl_pipelines.inference.export import export_onnx

    def made(name: str, width: int) -> Network:
        folder = tmp_path_factory.mktemp(name)
        plan = NetworkPlan(FamilyRef(name="cnn", params={"width": width, "blocks": 1}), {"mean": [0.5], "std": [0.2]})
        torch.manual_seed(0)
        network = plan.build(wide_task).train()
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        inputs, targets = torch.from_numpy(wide_rows.inputs), torch.from_numpy(wide_rows.targets)
        for _ in range(25):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
        save_file(network.state_dict(), folder / "weights.safetensors")
        onnx = export_onnx(network.eval(), wide_task, folder / "model.onnx")
        return Network(name, plan, folder / "weights.safetensors", onnx)

    return {"wide": made("wide", 48), "narrow": made("narrow", 12)}
