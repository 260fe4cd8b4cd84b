"""Whether a model file answers as the original does on the same rows; what counts as alike is the task's rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.inference.runtimes import Session
from dl_pipelines.tasks.base import Parity, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

TOLERANCE = 1e-3
"""Largest absolute difference of an output between torch and an uncompressed graph (float32, other summation order)."""

BATCH = 256


def torch_outputs(module: torch.nn.Module, inputs: np.ndarray, batch: int = BATCH) -> np.ndarray:
    """Outputs [N, ...] float32 of a module in eval mode for `inputs` [N, ...], on the CPU."""
    import numpy as np
    import torch

    with torch.inference_mode():
        parts = [
            module(torch.from_numpy(np.ascontiguousarray(inputs[at : at + batch]))).float().numpy()
            for at in range(0, len(inputs), batch)
        ]
    return np.concatenate(parts) if parts else np.zeros((0,), np.float32)


def session_outputs(session: Session, inputs: np.ndarray, batch: int = BATCH) -> np.ndarray:
    """Outputs [N, ...] of a session for `inputs` [N, ...], in batches. Raises ModelRunError."""
    import numpy as np

    parts = [session.run(np.ascontiguousarray(inputs[at : at + batch])) for at in range(0, len(inputs), batch)]
    return np.concatenate(parts) if parts else np.zeros((0,), np.float32)


def check_parity(
    task: Task,
    reference: np.ndarray,
    session: Session,
    inputs: np.ndarray,
    tolerance: float = TOLERANCE,
    exact: bool = True,
) -> tuple[Parity, np.ndarray]:
    """Compare a session's outputs on `inputs` [N, ...] with `reference` [N, ...]; returns the verdict and the outputs.

    `exact` False is for a compressed model: the task then asks for decisions that mostly agree. Rows are also run one
    by one for the first few, since a server batches them as they come.
    """
    import numpy as np

    outputs = session_outputs(session, inputs)
    parity = task.parity(reference, outputs, tolerance, exact)
    few = inputs[:4]
    alone = session_outputs(session, few, batch=1)
    apart = task.parity(outputs[: len(few)], alone, tolerance, exact)
    if parity.passed and len(few) and not apart.passed:
        difference = float(np.abs(outputs[: len(few)] - alone).max())
        summary = f"answers depend on the batch: one row alone differs by {difference:.2e}"
        return Parity(False, len(few), difference, apart.agreement, tolerance, summary), outputs
    return parity, outputs
