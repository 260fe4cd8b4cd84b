"""Whether a compressed model still holds together: its parity chain on its validation rows, also with a fault put in.

The artifact is only read; a fault goes into copies in a folder of the caller's. Looks at validation rows only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data
from dl_pipelines.compression.candidates import spread
from dl_pipelines.inference.faults import Fault, Injected, inject
from dl_pipelines.inference.parity_chain import Files, Link, LinkName, first_broken, parity_chain
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np

ROWS = 512
"""So many validation rows at most, evenly over all of them."""
EFFECT_ROWS = 64
"""Rows on which a place for a fault is tried."""


@dataclass(frozen=True)
class Verified:
    """The links, and what was injected where (None: nothing)."""

    partition: Partition
    artifact: Artifact
    links: list[Link]
    injected: Injected | None = None
    at: LinkName | None = None

    @property
    def broken(self) -> Link | None:
        """The first link that does not hold."""
        return first_broken(self.links)

    def plain(self) -> dict[str, Any]:
        """As plain data; an answer that is not finite moved infinitely far, which is None."""
        broken, injected = self.broken, self.injected
        return {
            "partition": self.partition.key,
            "artifact": self.artifact.digest,
            "sound": broken is None,
            "breaks_at": broken.name if broken else None,
            "between": [broken.before, broken.what] if broken else None,
            "links": [link.plain() for link in self.links],
            "injected": injected and {
                "fault": injected.fault, "at": self.at, "what": injected.told,
                "moved": injected.moved if injected.moved < float("inf") else None,
            },
        }  # fmt: skip


def verify_compressed(
    workspace: Workspace, partition: Partition, task: Task, data: Data, work: Path, threads: int = 1,
    fault: Fault | None = None, at: LinkName = "onnx",
) -> Verified:  # fmt: skip
    """The chain of a partition's `compressed_model`, with `fault` put into a copy of the link `at`.

    `work` takes the copies. Raises ArtifactError (missing or damaged), FaultError (it can't be injected there),
    ValueError when there are no validation rows.
    """
    from dl_pipelines.data.batches import window_rows
    from dl_pipelines.inference.parity import torch_outputs
    from dl_pipelines.models.plan import NetworkPlan

    compressed = workspace.get("compressed_model", partition).verify()
    window = workspace.get("training_window", partition.daily).require_gates()
    inputs = spread(window_rows(workspace, window, "validation", data, task), ROWS)
    if not len(inputs):
        raise ValueError("found no validation rows in the window; expected some; raise data.split.validation")
    plan = NetworkPlan.read(compressed.read_json("network.json"))
    own = torch_outputs(plan.load(task, compressed.file("network.safetensors")), inputs)
    files, injected = files_of(compressed, threads), None
    if fault is not None:
        files, injected = _with_fault(files, fault, at, inputs, work)
    links = parity_chain(task, inputs, own, files, work)
    return Verified(partition, compressed, links, injected, at if fault else None)


def files_of(compressed: Artifact, threads: int = 1) -> Files:
    """The files of a `compressed_model` by their place in the chain. Raises ArtifactError."""
    choice, onnx = compressed.read_json("choice.json"), compressed.file("network.onnx")
    served = compressed.file(choice["file"])
    return Files(onnx, onnx, served, choice["runtime"], choice["precision"], threads)


def _with_fault(
    files: Files, fault: Fault, at: LinkName, inputs: np.ndarray, work: Path
) -> tuple[Files, Injected]:  # fmt: skip
    """The files with one of them replaced by a spoiled copy; a fault in the export is in what is optimised too."""
    from dl_pipelines.inference.parity import session_outputs
    from dl_pipelines.inference.rounding import noise
    from dl_pipelines.inference.runtimes import open_runtime

    few = inputs[:: max(len(inputs) // EFFECT_ROWS, 1)][:EFFECT_ROWS]
    runtime, precision = (files.runtime, files.precision) if at == "quantized" else ("onnxruntime", "fp32")
    source = files.served if at == "quantized" else files.onnx

    def answers(path: Path) -> np.ndarray:
        return session_outputs(open_runtime(runtime, path, files.threads, precision), few)

    before = answers(source)
    target = work / "faulty" / source.name
    injected = inject(fault, source, target, lambda path: noise(before, answers(path)))
    if at == "onnx":
        return replace(files, onnx=target, source=target), injected
    return replace(files, **{"source" if at == "optimised" else "served": target}), injected
