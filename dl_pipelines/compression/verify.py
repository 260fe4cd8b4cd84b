"""Whether a compressed model still holds together: its parity chain on its validation rows, also with a fault put in.

The artifact is only read; a fault goes into copies in a folder of the caller's. Looks at validation rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data
from dl_pipelines.inference.faults import Fault, Injected, inject
from dl_pipelines.inference.parity_chain import Files, Link, LinkName, first_broken, parity_chain
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact, Draft
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.compression.chain import Chain

LINKS_FILE = "ledger/parity.json"
"""Measured like the ledger, and in its folder: outside the digest."""
ROWS, LEAST_ROWS, NUMBERS = 512, 32, 8_000_000
"""So many validation rows at most, evenly over all of them; fewer where rows are large, down to the least."""
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

    The rows are of the window that it was made from, whatever the day's is now. `work` takes the copies. Raises
    ArtifactError (missing or damaged), FaultError (it can't be injected there), ValueError without validation rows.
    """
    from dl_pipelines.data.batches import window_rows
    from dl_pipelines.inference.parity import torch_outputs
    from dl_pipelines.models.plan import NetworkPlan

    compressed = workspace.get("compressed_model", partition).verify()
    window = workspace.by_digest("training_window", compressed.parents["training_window"]).require_gates()
    rows = window_rows(workspace, window, "validation", data, task)
    if not len(rows):
        raise ValueError("found no validation rows in the window; expected some; raise data.split.validation")
    inputs = rows.inputs[_some(rows.inputs)]
    plan = NetworkPlan.read(compressed.read_json("network.json"))
    own = torch_outputs(plan.load(task, compressed.file("network.safetensors")), inputs)
    files, injected = files_of(compressed, threads), None
    if fault is not None:
        files, injected = _with_fault(files, fault, at, inputs, work)
    links = parity_chain(task, inputs, own, files, work)
    return Verified(partition, compressed, links, injected, at if fault else None)


def write_links(draft: Draft, chain: Chain) -> list[Link]:
    """The links of what a build of the stage has written, also as `ledger/parity.json`."""
    choice, candidate = durable.read_json(draft.path / "choice.json"), chain.strongest
    onnx, inputs = draft.path / "network.onnx", chain.bench.rows.inputs
    some = _some(inputs)
    served = draft.path / choice["file"]
    files = Files(onnx, onnx, served, choice["runtime"], choice["precision"], chain.bench.threads)
    links = parity_chain(chain.bench.task, inputs[some], chain.own(candidate)[some], files, draft.work / "parity")
    draft.write_json(LINKS_FILE, [link.plain() for link in links])
    return links


def links_gate(links: Sequence[Link]) -> tuple[bool, str, dict[str, Any]]:
    """Whether each link keeps the task's rule, a summary and facts; the noise is told, not judged.

    What serves has kept the budget on every row: that rounding does not explain all of its noise is a thing to look
    into (`dlp verify` fails for it), not one that stops the line.
    """
    served, broken = links[-1], first_broken(links)
    told = "each link holds"
    if broken is not None:
        told = f"broken between {broken.before} and {broken.what}: {broken.told()}"
    elif served.noise is not None and served.limit is not None:
        told += f", answers move by {served.noise:.3g} of their size (rounding explains {served.limit:.3g})"
    if served.not_judged and served is not broken:
        told += f", noise not judged: {served.not_judged}"
    facts = {"noise": served.noise, "noise_limit": served.limit, "mean_difference": served.mean_difference}
    return all(link.alike for link in links), told, {**facts, "breaks_at": broken.name if broken else None}


def _some(inputs: np.ndarray) -> np.ndarray:
    """Positions of the rows that are compared, evenly over all of them."""
    import numpy as np

    each = max(int(np.prod(inputs.shape[1:])), 1)
    count = min(ROWS, max(LEAST_ROWS, NUMBERS // each), len(inputs))
    return np.unique(np.linspace(0, len(inputs) - 1, count).astype(int))


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
