"""What the files that serve answer, in this process: no server, the same runtime. Not for timing (timing.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.store.artifacts import Artifact

if TYPE_CHECKING:
    import numpy as np


def compressed_answers(compressed: Artifact, inputs: np.ndarray, threads: int = 1) -> np.ndarray:
    """Outputs [N, ...] of a `compressed_model` to raw `inputs` [N, ...], through the runtime that it chose.

    Raises ArtifactError (damaged), RuntimeFileError (can't be loaded), ModelRunError (refuses these inputs).
    """
    choice = compressed.verify().read_json("choice.json")
    session = open_runtime(choice["runtime"], compressed.file(choice["file"]), threads, choice["precision"])
    return session_outputs(session, inputs)
