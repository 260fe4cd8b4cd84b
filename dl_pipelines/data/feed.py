"""What a rank trains on, batch by batch: an order that is a function of (seed, epoch) alone, cut among the ranks.

Nothing is carried from one batch to the next, so that a training goes on from any step as if it had not stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dl_pipelines.data.augmentation import Online

if TYPE_CHECKING:
    import numpy as np

    Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class Feed:
    """Batches of (inputs, targets, ids), each an array [N, ...], for one rank of `size`, augmented by `online`.

    `batch_size` records a batch; each rank has as many steps an epoch.
    """

    def __init__(self, arrays: Arrays, online: Online, batch_size: int, seed: int, rank: int = 0, size: int = 1):
        import numpy as np

        # Each indexing of a memory map makes another one, which costs more than reading its rows.
        self._inputs, self._targets, self._ids = np.asarray(arrays[0]), np.asarray(arrays[1]), arrays[2]
        self._online, self._batch, self._seed, self._rank, self._size = online, batch_size, seed, rank, size
        self._keys = online.keys(self._ids)

    @property
    def steps(self) -> int:
        """Batches of an epoch: the same on every rank; a last, smaller one counts unless it is a single record."""
        share = len(self._inputs) // self._size
        return max(1, share // self._batch + (1 if share % self._batch > 1 else 0))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Inputs and targets of each batch of an epoch (from 1), from step `first` (from 0) on."""
        import numpy as np

        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._inputs))
        share = len(self._inputs) // self._size
        mine = order[self._rank :: self._size][:share] if share else order[:1]
        for step in range(first, self.steps):
            chosen = mine[step * self._batch : (step + 1) * self._batch]
            given = np.ascontiguousarray(self._inputs[chosen]), np.ascontiguousarray(self._targets[chosen])
            yield self._online(*given, self._ids[chosen], epoch, None if self._keys is None else self._keys[chosen])
