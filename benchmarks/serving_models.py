"""The two networks that `benchmarks.serving` and `benchmarks.router` serve, made at run time with random weights.

`resnet`: ResNet-18 of torchvision on float32 images (602 KB each), int8; one quantized graph, as ONNX and as OpenVINO's
IR, so that both runtimes compute the same. `tiny`: one linear layer on 64 pixels, as small as the digits' model.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.command import ROOT
from dl_pipelines.tasks.base import Signature, Tensor

CALIBRATION, ROWS, SIDE = 16, 48, 224


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
    """ResNet-18 in int8 with 1000 outputs; images [224, 224, 3] of float32, or of uint8 as the project's own have.

    Made by `serving_int8`, once a folder, in a process of its own: what torch and NNCF leave is not where one measures.
    """
    rows = np.random.default_rng(0).integers(0, 256, (ROWS, SIDE, SIDE, 3)).astype(dtype)
    np.save(folder / "calibration.npy", rows[:CALIBRATION], allow_pickle=False)
    path = folder / f"resnet-{dtype}.onnx"
    command = [sys.executable, "-m", "benchmarks.serving_int8", str(folder / "calibration.npy"), str(path)]
    if not path.exists():
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return _network(f"resnet_{dtype}", path, rows, 1000)


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
