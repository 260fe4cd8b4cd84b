"""What a bundle is made from, and what a target gives back; `make.py` writes the manifest and gives it its name.

A target writes files into a folder and says which parities it was held to. It decides nothing about where they go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dl_pipelines.brief.live import Serving
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Partition
from dl_pipelines.tasks.base import Parity, Signature, Task

if TYPE_CHECKING:
    import numpy as np

TargetName = Literal["edge", "mobile", "embedded", "cloud"]

TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:26.10-py3"
"""NVIDIA's newest release when this was written (docs.nvidia.com, Triton release notes). Its security bulletins say
which one is needed at least; bulletin 5828 of May 2026 is the last that is known here."""


class BundleError(ValueError):
    """A bundle can't be made of this model or on this machine; says what is missing."""


class BundleParityError(BundleError):
    """What would be in the bundle answers otherwise than the model that serves; it is not written."""


@dataclass(frozen=True)
class Options:
    """What a user may choose; all of it concerns the cloud.

    `triton_image` is what the container is built from, `image` the name it gets ("" for `<project>:<digest>`),
    `memory` what Kubernetes gives a pod, as a quantity, `max_pods` how many the autoscaler may start, `host` the name
    that clients outside of the cluster use.
    """

    triton_image: str = TRITON_IMAGE
    image: str = ""
    memory: str = "2Gi"
    max_pods: int = 1
    host: str = ""


@dataclass(frozen=True)
class Source:
    """A compressed model with rows that it was recorded on.

    `inputs` [N, ...] are validation rows that the bundle keeps, `outputs` [N, ...] what the served files answered to
    them when they were made; `many_inputs`, `many_outputs` are more of them, to count decisions on. `calibrate(count)`
    gives up to `count` train rows; `repository()` the partition's `triton_repository`.
    """

    project: str
    partition: Partition
    compressed: Artifact
    task: Task
    serving: Serving
    inputs: np.ndarray
    outputs: np.ndarray
    many_inputs: np.ndarray
    many_outputs: np.ndarray
    calibrate: Callable[[int], np.ndarray]
    repository: Callable[[], Artifact]
    tell: Callable[[str], None]
    options: Options = field(default_factory=Options)

    @property
    def signature(self) -> Signature:
        """Of the served model."""
        return self.task.signature()

    @property
    def choice(self) -> dict[str, Any]:
        """What compression chose: `variant`, `runtime`, `precision`, `file`."""
        choice = self.compressed.read_json("choice.json")
        return {"precision": "fp32", **choice}

    @property
    def model(self) -> Path:
        """The served file that a runtime opens first."""
        return self.compressed.file(self.choice["file"])

    @property
    def network(self) -> Path:
        """The float32 ONNX of the network that serves."""
        return self.compressed.file("network.onnx")

    def check(
        self, name: str, reference: np.ndarray, outputs: np.ndarray, exact: bool = True, tolerance: float | None = None
    ) -> Check:  # fmt: skip
        """Compare by the task's rule; where `exact` within `tolerance` (the brief's `serving.parity_tolerance`)."""
        within = self.serving.parity_tolerance if tolerance is None else tolerance
        return Check(name, self.task.parity(reference, outputs, within, exact))

    def served_check(self) -> Check:
        """The served files in this process with their recorded answers: that both are of one model."""
        from dl_pipelines.inference.parity import session_outputs
        from dl_pipelines.inference.runtimes import open_runtime

        choice = self.choice
        session = open_runtime(choice["runtime"], self.model, self.serving.threads, choice["precision"])
        answers = session_outputs(session, self.many_inputs)
        return self.check("the served files with their recorded answers", self.many_outputs, answers)

    def largest_allowed(self, reference: np.ndarray, tolerance: float) -> float:
        """The absolute difference to answers [N, ...] that `tolerance` in the task's units is, where it is most.

        For self-tests that don't know the task: what passes the task's rule on these rows passes them.
        """
        rows = [reference[at : at + 1].astype("float64") for at in range(len(reference))]
        return tolerance / min(self.task.parity(row, row + 1.0, tolerance).max_difference for row in rows)

    def tolerance_of(self, float32: np.ndarray, quantized: np.ndarray) -> float:
        """How far executors of an int8 graph may be apart: what quantizing it changed, at least the brief's tolerance.

        A value on the edge between two integers may fall either way on another executor; that matters less than the
        quantization did.
        """
        apart = self.task.parity(float32, quantized, self.serving.parity_tolerance).max_difference
        return max(self.serving.parity_tolerance, apart)


@dataclass(frozen=True)
class Check:
    """One parity that a bundle was held to: `name` says between what."""

    name: str
    parity: Parity

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {"name": self.name, **asdict(self.parity)}


@dataclass(frozen=True)
class Built:
    """What a target wrote: the parities, plain facts for the manifest, the part of README.md that is its own."""

    checks: tuple[Check, ...]
    facts: Mapping[str, Any]
    readme: str


Build = Callable[[Source, Path, Path], Built]
"""`build(source, folder, work)`: write into `folder`; `work` is thrown away. Raises BundleError."""
