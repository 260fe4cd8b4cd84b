"""Whether a model file answers as the original does on the same rows; what counts as alike is the task's rule."""

from __future__ import annotations

from collections.abc import Callable
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

    def run(rows: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(np.ascontiguousarray(rows))).float().numpy()

    with torch.inference_mode():
        return _in_batches(run, inputs, batch)


def session_outputs(session: Session, inputs: np.ndarray, batch: int = BATCH) -> np.ndarray:
    """Outputs [N, ...] of a session for `inputs` [N, ...], in batches. Raises ModelRunError."""
    import numpy as np

    return _in_batches(lambda rows: session.run(np.ascontiguousarray(rows)), inputs, batch)


def _in_batches(run: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, batch: int) -> np.ndarray:
    import numpy as np

    if not len(inputs):  # what an answer looks like is only known from one
        return run(np.zeros((1, *inputs.shape[1:]), inputs.dtype))[:0]
    return np.concatenate([run(inputs[at : at + batch]) for at in range(0, len(inputs), batch)])


def check_parity(
    task: Task,
    reference: np.ndarray,
    session: Session,
    inputs: np.ndarray,
    tolerance: float = TOLERANCE,
    exact: bool = True,
) -> tuple[Parity, np.ndarray]:
    """Compare a session's outputs on `inputs` [N, ...] with `reference` [N, ...]; returns the verdict and the outputs.

    `exact` False is for a compressed model: the task then asks for decisions that mostly agree. The first few rows are
    also run one by one, since a server batches them as they come: whatever the model, that may change nothing.
    """
    outputs = session_outputs(session, inputs)
    parity = task.parity(reference, outputs, tolerance, exact)
    few = inputs[:4]
    alone = session_outputs(session, few, batch=1)
    apart = task.parity(outputs[: len(few)], alone, tolerance, exact=True)
    if parity.passed and len(few) and not apart.passed:
        difference = apart.max_difference
        summary = f"answers depend on the batch: one row alone differs by {difference:.2e}"
        return Parity(False, len(few), difference, apart.agreement, tolerance, summary), outputs
    return parity, outputs
