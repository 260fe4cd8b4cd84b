"""A network's answers to all validation rows: each rank gives its share, every rank gets them all."""

from __future__ import annotations

import math

import numpy as np
import torch

from dl_pipelines.training.communicators.base import Communicator
from dl_pipelines.training.precision import Numerics

ROWS = 256
"""Rows that are answered at once."""


def answer(network: torch.nn.Module, inputs: np.ndarray, communicator: Communicator, numerics: Numerics) -> np.ndarray:
    """Float32 [N, ...] of the network in eval mode, for inputs [N, ...]; in fp32, as it is exported."""
    rank, size = communicator.rank, communicator.size
    share = math.ceil(len(inputs) / size)
    mine = np.minimum(np.arange(share) * size + rank, len(inputs) - 1)
    network.eval()
    with torch.no_grad():
        found = torch.cat([
            network(numerics.put(np.ascontiguousarray(inputs[mine[start : start + ROWS]])))
            for start in range(0, share, ROWS)
        ]).cpu()  # fmt: skip
    gathered = communicator.all_gather(found).numpy().reshape(size, share, *found.shape[1:])
    return np.moveaxis(gathered, 0, 1).reshape(size * share, *found.shape[1:])[: len(inputs)]
