"""A workshop on any exported graph and its rows: for techniques that neither train nor look at the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import Network
from dl_pipelines.compression.trials import Bench
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.tasks.base import Rows, Task


def network_of(onnx: Path) -> Network:
    """A network of the chain that is only ever read as its graph."""
    return Network("fp32", NetworkPlan(FamilyRef(name="cnn"), {}), onnx.with_suffix(".safetensors"), onnx)


def shop_of(
    folder: Path, onnx: Path, task: Task, rows: Rows, reference: np.ndarray,
    compression: Compression | None = None, calibration: np.ndarray | None = None, said: list[str] | None = None,
) -> Workshop:  # fmt: skip
    """Decisions are kept in memory; calibration rows are the given ones, else the rows themselves."""
    made: dict[str, Any] = {}

    def decide_once(name: str, measure: Any) -> Any:
        if name not in made:
            made[name] = measure()
        return made[name]

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing trains here")

    folder.mkdir(parents=True, exist_ok=True)
    inputs = rows.inputs if calibration is None else calibration
    return Workshop(
        Bench(task, rows, reference, threads=1, rounds=5), compression or Compression(), refused, network_of(onnx),
        refused, folder, lambda count: inputs[:count], decide_once,
        lambda message, done, total: said.append(message) if said is not None else None,
    )  # fmt: skip
