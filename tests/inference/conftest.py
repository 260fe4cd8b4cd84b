"""A small network of this room's own, so that its tests need no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dl_pipelines.tasks.image_classification import ImageClassification


@pytest.fixture(scope="session")
def small_task() -> ImageClassification:
    """Three classes, 6 x 5 pixels, RGB."""
    return ImageClassification(ImageClassification.Params(classes=("a", "b", "c"), height=6, width=5, channels=3))


@pytest.fixture(scope="session")
def network():
    """uint8 [N, 6, 5, 3] -> float32 [N, 3], preprocessing inside."""
    import torch
    from torch import nn

    torch.set_num_threads(1)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Dropout(0.5),
                nn.Linear(8, 3),
            )

        def forward(self, image):
            return self.body(image.permute(0, 3, 1, 2).float() / 255 - self.mean)

    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """uint8 [37, 6, 5, 3]."""
    return np.random.default_rng(0).integers(0, 256, (37, 6, 5, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def onnx_file(network, small_task, tmp_path_factory) -> Path:
    """The network as ONNX."""
    from dl_pipelines.inference.export import export_onnx

    return export_onnx(network, small_task, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="session")
def xml_file(onnx_file) -> Path:
    """The network as OpenVINO's IR."""
    from dl_pipelines.inference.runtimes import save_openvino

    return save_openvino(onnx_file, onnx_file.parent / "ir" / "model.xml")[0]
