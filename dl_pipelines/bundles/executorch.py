"""ExecuTorch's `.pte` of a network, where the package is installed beside this project. It is no dependency.

Its wheel brings packages that this project does not need, and pins some that it has in another version.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.bundles.base import Source
from dl_pipelines.models.plan import NetworkPlan

if TYPE_CHECKING:
    import numpy as np

MODEL = "model.pte"


class ExecutorchFailed(ValueError):
    """The network can't be written for ExecuTorch; says why."""


def missing() -> str | None:
    """Why there can be no `.pte` here, or None."""
    if find_spec("executorch") is None:
        return "the package executorch is not installed"
    return None


def write(source: Source, path: Path) -> np.ndarray:
    """Write the float32 network, one row at a time, lowered to XNNPACK; its answers to the parity rows [N, ...].

    Raises ExecutorchFailed.
    """
    plan = NetworkPlan.read(source.compressed.read_json("network.json"))
    network = plan.load(source.task, source.compressed.file("network.safetensors"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own code; what it made is compared
            path.write_bytes(_lowered(network, source.inputs[:1]))
            return _answers(path, source.inputs)
    except Exception as error:  # exporting, lowering and loading raise whatever an unforeseen graph leads them to
        path.unlink(missing_ok=True)
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExecutorchFailed(
            f"ExecuTorch can't take this network ({type(error).__name__}: {told[0][:200] if told else 'no message'})"
        ) from error


def _lowered(network: Any, example: np.ndarray) -> bytes:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # pyright: ignore[reportMissingImports]
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        program = torch.export.export(network, (torch.from_numpy(example.copy()),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    return bytes(lowered.to_executorch().buffer)


def _answers(path: Path, rows: np.ndarray) -> np.ndarray:
    import numpy as np
    import torch
    from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]

    method = Runtime.get().load_program(str(path)).load_method("forward")
    given = [torch.from_numpy(rows[at : at + 1].copy()) for at in range(len(rows))]
    return np.concatenate([method.execute([row])[0].detach().numpy().copy() for row in given])
