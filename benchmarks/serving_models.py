"""The two networks that `benchmarks.serving` and `benchmarks.router` serve, made at run time with random weights.

`resnet`: ResNet-18 of torchvision on float32 images (602 KB each), int8; one quantized graph, as ONNX and as OpenVINO's
IR, so that both runtimes compute the same. `tiny`: one linear layer on 64 pixels, as small as the digits' model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dl_pipelines.tasks.base import Signature, Tensor

CALIBRATION, SIDE = 16, 224


@dataclass(frozen=True)
class Network:
    """A network's files and signature; `rows` [N, ...] are what it is asked, more than a core's cache holds."""

    name: str
    onnx: Path
    ir: Path
    signature: Signature
    rows: np.ndarray

    @property
    def bytes(self) -> int:
        """Of one row of the input."""
        return self.rows[0].nbytes


def resnet(folder: Path, dtype: str = "float32") -> Network:
    """ResNet-18 in int8 with 1000 outputs; images [224, 224, 3] of float32, or of uint8 as the project's own have."""
    import torch
    import torchvision

    class Images(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torchvision.models.resnet18(weights=None)

        def forward(self, images: Any) -> Any:
            return self.body((images.permute(0, 3, 1, 2).float() - 128) / 64)

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (48, SIDE, SIDE, 3)).astype(dtype)
    float32 = _export(Images().eval(), rows[:1], folder / f"resnet-{dtype}-float32.onnx")
    return _network(f"resnet_{dtype}", _quantized(float32, rows[:CALIBRATION]), rows, 1000)


def tiny(folder: Path) -> Network:
    """One linear layer: uint8 images [8, 8, 1] to 10 numbers, as `tiny_outputs` computes them."""
    rows = np.random.default_rng(0).integers(0, 256, (256, 8, 8, 1)).astype(np.uint8)
    return linear(folder / "tiny.onnx", _weights(), rows, ("image", "scores"), "image")


def linear(path: Path, weights: np.ndarray, rows: np.ndarray, names: tuple[str, str], summary: str) -> Network:
    """Rows [N, ...] of K numbers to rows @ `weights` [K, outputs], float32; `names` are of the input and the output."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    given, gives = names
    nodes = [
        helper.make_node("Cast", [given], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], [gives]),
    ]
    constants = {"shape": np.array([-1, len(weights)], np.int64), "weights": weights}
    kind, outputs = helper.np_dtype_to_tensor_dtype(rows.dtype), weights.shape[1]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(given, kind, ["rows", *rows.shape[1:]])],
        [helper.make_tensor_value_info(gives, TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return _network(path.stem, path, rows, outputs, names, summary)


def tiny_outputs(rows: np.ndarray) -> np.ndarray:
    """What `tiny` answers to uint8 [N, 8, 8, 1]: float32 [N, 10]."""
    return rows.reshape(-1, 64).astype(np.float32) @ _weights()


def _weights() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.01, (64, 10)).astype(np.float32)


def _network(
    name: str, onnx: Path, rows: np.ndarray, outputs: int, names: tuple[str, str] = ("image", "scores"),
    summary: str = "image",
) -> Network:  # fmt: skip
    from dl_pipelines.inference.runtimes import save_openvino

    given, gives = Tensor(names[0], str(rows.dtype), rows.shape[1:]), Tensor(names[1], "float32", (outputs,))
    signature = Signature((given,), (gives,), summary=summary)
    ir, _ = save_openvino(onnx, onnx.with_suffix(".xml"))
    return Network(name, onnx, ir, signature, rows)


def _export(network: Any, example: np.ndarray, path: Path) -> Path:
    import torch

    free = {"image": {0: "rows"}, "scores": {0: "rows"}}
    torch.onnx.export(
        network, (torch.from_numpy(example),), str(path), input_names=["image"], output_names=["scores"],
        dynamic_axes=free, dynamo=False,
    )  # fmt: skip
    return path


def _quantized(onnx_path: Path, rows: np.ndarray) -> Path:
    """Static int8 by NNCF, as QDQ nodes of ONNX."""
    import nncf
    import onnx

    given = nncf.Dataset([{"image": row[None]} for row in rows])
    made = nncf.quantize(onnx.load(str(onnx_path)), given, subset_size=len(rows))
    path = onnx_path.with_name(onnx_path.name.replace("float32.onnx", "int8.onnx"))
    onnx.save(made, str(path))
    return path
