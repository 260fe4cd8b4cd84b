"""The chain from the torch network to the files that serve, link by link on the same rows, and where it breaks.

torch -> ONNX without optimisations -> optimised in float32 -> as served. Each link is compared with the one before it:
exactly where both are float32, else by the task's rule, and by how much rounding explains (rounding.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from dl_pipelines.inference.parity import TOLERANCE, check_parity
from dl_pipelines.inference.runtimes import (
    ModelRunError,
    RuntimeFileError,
    Session,
    open_runtime,
    open_unoptimised,
    save_openvino,
)
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np

LinkName = Literal["onnx", "optimised", "quantized"]
LINKS: tuple[LinkName, ...] = get_args(LinkName)

NOISE_FACTOR = 3.25
"""A file in fewer bits may lie so many times further off than plain rounding to eight bits explains.

Chosen as far above the highest that was sound as below the mildest fault that must be seen (mean and deviation of the
digits, which are nearly alike: 4.2 times). Measured in November 2026 (AVX-512 with VNNI), int8 of any kind and sixteen
bits lie at 0.1 to 2.5 times: trained on the digits cnn 0.2 to 1.6, vit 0.2 to 1.9 (by NNCF 1.9 and 2.5), rnn_rows 0.4
to 2.0; ResNet-18 with random weights 0.1 to 0.8, dynamic int8 of a forecaster 0.25. What lay above was wrong in its own
right: attention from ONNX Runtime's static int8 on OpenVINO (73, with 30 % of the decisions), a forecaster whose
calendar and levels were rounded with the rest (9 to 17).
"""


@dataclass(frozen=True)
class Files:
    """`onnx`: the float32 export. `source`: what is optimised, the same unless a fault is injected. `served`: its file.

    `runtime` and `precision` are those of what serves.
    """

    onnx: Path
    source: Path
    served: Path
    runtime: str
    precision: str
    threads: int = 1


@dataclass(frozen=True)
class Link:
    """One link, compared with the one before. Differences are absolute; None where the file gave no finite answer.

    `noise` is in units of the answers' size, with the limit that rounding explains; both None where the link is exact.
    `alike` is the task's rule alone; `passed` also asks that the noise is explained.
    """

    name: LinkName
    what: str
    before: str
    alike: bool
    rows: int
    max_difference: float | None
    mean_difference: float | None
    agreement: float
    rule: str
    noise: float | None = None
    limit: float | None = None
    failure: str | None = None
    not_judged: str | None = None
    """Why the noise of a link that is not exact has no limit."""

    @property
    def passed(self) -> bool:
        """Whether the link holds."""
        return self.alike and (self.noise is None or self.limit is None or self.noise <= self.limit)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "passed": self.passed}

    def told(self) -> str:
        """Why it broke, or how it holds, in a sentence."""
        if self.failure:
            return self.failure
        if self.alike and not self.passed:
            return (
                f"its answers lie {self.noise:.3g} of their size from those before, which rounding does not explain "
                f"(at most {self.limit:.3g}), although the decisions agree"
            )
        return f"{self.rule}; noise not judged: {self.not_judged}" if self.not_judged else self.rule


def parity_chain(task: Task, inputs: np.ndarray, own: np.ndarray, files: Files, work: Path) -> list[Link]:
    """The three links on `inputs` [N, ...], of which torch answers `own` [N, ...]; `work` takes converted files.

    A file that can't be opened or run breaks its link; what comes after it is compared with the last that answered.
    """
    links: list[Link] = []
    before, said = own, "torch"
    for name in LINKS:
        link, outputs = _link(task, inputs, before, said, files, name, work)
        links.append(link)
        if outputs is not None:
            before, said = outputs, link.what
    return links


def first_broken(links: Sequence[Link]) -> Link | None:
    """The first link that does not hold."""
    return next((link for link in links if not link.passed), None)


def _link(
    task: Task, inputs: np.ndarray, before: np.ndarray, said: str, files: Files, name: LinkName, work: Path
) -> tuple[Link, np.ndarray | None]:
    exact = name != "quantized" or files.precision == "fp32"
    what = _what(files, name)
    try:
        session = _open(files, name, work)
        parity, outputs = check_parity(task, before, session, inputs, TOLERANCE, exact)
    except (RuntimeFileError, ModelRunError) as error:
        return Link(name, what, said, False, len(inputs), None, None, 0.0, "", failure=str(error)), None
    link = Link(
        name, what, said, parity.passed, parity.rows, _finite(parity.max_difference), _mean(before, outputs),
        parity.agreement, parity.summary,
    )  # fmt: skip
    if exact or outputs.shape != before.shape or not len(inputs):
        return link, outputs
    return _with_noise(link, files.onnx, inputs, before, outputs), outputs


def _with_noise(link: Link, graph: Path, inputs: np.ndarray, before: np.ndarray, outputs: np.ndarray) -> Link:
    from dl_pipelines.inference.rounding import explained, noise

    found = _finite(noise(before, outputs))
    try:
        return replace(link, noise=found, limit=NOISE_FACTOR * explained(graph, inputs))
    except ValueError as error:
        return replace(link, noise=found, not_judged=str(error))


def _open(files: Files, name: LinkName, work: Path) -> Session:
    """Raises RuntimeFileError."""
    if name == "quantized":
        return open_runtime(files.runtime, files.served, files.threads, files.precision)
    if name == "onnx":
        return open_unoptimised(files.onnx, files.threads)
    path = files.source
    if files.runtime == "openvino":
        path, _ = save_openvino(path, work / "optimised" / "model.xml")
    return open_runtime(files.runtime, path, files.threads)


def _what(files: Files, name: LinkName) -> str:
    return {
        "onnx": "ONNX",
        "optimised": f"float32 optimised by {files.runtime}",
        "quantized": f"{files.precision} on {files.runtime}, as it serves",
    }[name]


def _mean(before: np.ndarray, after: np.ndarray) -> float | None:
    import numpy as np

    if before.shape != after.shape or not len(before):
        return None
    with np.errstate(invalid="ignore"):
        return _finite(float(np.abs(before.astype(np.float64) - after).mean()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
