"""Makes the int8 ResNet-18 of the serving benchmarks: `python -m benchmarks.serving_int8 IMAGES.npy MODEL.onnx`.

torchvision's network with random weights, quantized by NNCF on those images [N, 224, 224, 3]; QDQ nodes of ONNX.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    import nncf
    import onnx

    images, path = np.load(sys.argv[1], allow_pickle=False), Path(sys.argv[2])
    float32 = path.with_suffix(".float32.onnx")
    export(images[:1], float32)
    given = nncf.Dataset([{"image": image[None]} for image in images])
    onnx.save(nncf.quantize(onnx.load(str(float32)), given, subset_size=len(images)), str(path))


def export(example: np.ndarray, path: Path) -> None:
    """The float32 network as ONNX; normalisation is in the graph."""
    import torch
    import torchvision

    class Images(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torchvision.models.resnet18(weights=None)

        def forward(self, images: Any) -> Any:
            return self.body((images.permute(0, 3, 1, 2).float() - 128) / 64)

    torch.manual_seed(0)
    torch.onnx.export(
        Images().eval(), (torch.from_numpy(example),), str(path), input_names=["image"], output_names=["scores"],
        dynamic_axes={"image": {0: "rows"}, "scores": {0: "rows"}}, dynamo=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
