"""What a rank trains on, batch by batch: an order that is a function of (seed, epoch) alone, cut among the ranks.

Nothing is carried from one batch to the next, so that a training goes on from any step as if it had not stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dl_pipelines.data.augmentation import Online
from dl_pipelines.data.augmentations import Picked

if TYPE_CHECKING:
    import numpy as np

    Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
    Batch = tuple[np.ndarray, np.ndarray]


class Feed:
    """Batches of inputs and targets [N, ...], for one rank of `size`, augmented by `online`; memory maps will do.

    `batch_size` records a batch; each rank has as many steps an epoch. `ahead` batches are made by a thread while
    others are used, which pays where a device computes meanwhile; `pinned` (only with CUDA) puts them where it copies
    from without waiting. Neither changes any batch.
    """

    def __init__(
        self, arrays: Arrays, online: Online, batch_size: int, seed: int, rank: int = 0, size: int = 1, ahead: int = 0,
        pinned: bool = False,
    ):  # fmt: skip
        import numpy as np

        # Each indexing of a memory map makes another one, which costs more than reading its rows.
        self._inputs, self._targets, self._ids = np.asarray(arrays[0]), np.asarray(arrays[1]), arrays[2]
        self._online, self._batch, self._seed, self._rank, self._size = online, batch_size, seed, rank, size
        self._keys = online.keys(self._ids)
        self._ahead, self._pinned = ahead, pinned

    @property
    def steps(self) -> int:
        """Batches of an epoch: the same on every rank; a last, smaller one counts unless it is a single record."""
        share = len(self._inputs) // self._size
        return max(1, share // self._batch + (1 if share % self._batch > 1 else 0))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Inputs and targets of each batch of an epoch (from 1), from step `first` (from 0) on."""
        batches = self._batches(epoch, first)
        return _made_ahead(batches, self._ahead) if self._ahead else batches

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        import numpy as np

        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._inputs))
        share = len(self._inputs) // self._size
        mine = order[self._rank :: self._size][:share] if share else order[:1]
        for step in range(first, self.steps):
            chosen = mine[step * self._batch : (step + 1) * self._batch]
            keys = None if self._keys is None else self._keys[chosen]
            # What moves each image anyway takes it from where it lies.
            inputs: Any = Picked(self._inputs, chosen.tolist()) if self._online.moves else self._inputs[chosen]
            batch = self._online(inputs, self._targets[chosen], self._ids[chosen], epoch, keys)
            yield (_pinned(batch[0]), _pinned(batch[1])) if self._pinned else batch


def _made_ahead(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """The same in the same order, `count` of them made by one thread before they are asked for."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, "feed") as thread:
        waiting = deque(thread.submit(next, batches, None) for _ in range(count))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, batches, None))
            yield batch


def _pinned(array: np.ndarray) -> np.ndarray:
    """A copy in page-locked memory, which torch does not use again before a copy from it to the device has ended."""
    import torch

    return torch.from_numpy(array).pin_memory().numpy()
