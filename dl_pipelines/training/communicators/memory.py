"""Gradients of workers on one machine, exchanged through memory that all of them see.

Each worker adds up a share of every worker's gradients and writes the mean into all of them, in place and in the order
of ranks: what goes through sockets otherwise is copied four times more. The files are nameless as soon as all workers
have them, so that nothing is left of workers that are killed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.bucket import Bucket

if TYPE_CHECKING:
    from dl_pipelines.training.communicators.base import Communicator

FOLDER = Path("/dev/shm")
NAP_SECONDS = 0.0001
PIECE = 2**17
"""Numbers that are added up at a time: few enough to stay in a core's cache."""
LONGEST = 200


class Shared:
    """One flat tensor of each worker; signals [2, size]: the last round that each has laid, and finished."""

    def __init__(self, folder: Path, count: int, dtype: torch.dtype, size: int):
        self.rows = [
            torch.from_file(str(folder / str(rank)), shared=True, size=count, dtype=dtype) for rank in range(size)
        ]
        self.laid, self.done = torch.from_file(
            str(folder / "signals"), shared=True, size=2 * size, dtype=torch.int64
        ).view(2, size)


def open_shared(parameters: list[torch.nn.Parameter], communicator: Communicator) -> Shared | None:
    """Memory for the gradients of parameters of one type; None where the workers share none, or not enough.

    Called by every worker at once.
    """
    count, dtype = sum(value.numel() for value in parameters), parameters[0].dtype
    folder = _folder(communicator)
    needed = {str(communicator.rank): count * dtype.itemsize}
    if communicator.rank == 0:
        needed["signals"] = 2 * communicator.size * 8
    try:
        _every(communicator, all(_reserve(folder, name, size) for name, size in needed.items()))
        shared = Shared(folder, count, dtype, communicator.size)
        _every(communicator, True)
        return shared
    except OSError:
        return None
    finally:
        communicator.barrier()
        if communicator.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _folder(communicator: Communicator) -> Path:
    """Made by rank 0; a name that is not there where none could be."""
    name = b""
    if communicator.rank == 0 and os.access(FOLDER, os.W_OK):
        name = tempfile.mkdtemp(prefix="dlp-", dir=FOLDER).encode()
    told = torch.zeros(LONGEST, dtype=torch.uint8)
    told[: len(name)] = torch.tensor(list(name), dtype=torch.uint8)
    return Path(bytes(communicator.broadcast(told).tolist()).rstrip(b"\0").decode() or "/nowhere")


def _reserve(folder: Path, name: str, size: int) -> bool:
    """A file whose bytes are there: writing to one that is only promised ends the process when memory is full."""
    try:
        with (folder / name).open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        return False
    return True


def _every(communicator: Communicator, mine: bool) -> None:
    """Raise OSError on every worker when one of them failed."""
    if int(communicator.all_reduce(torch.tensor([int(mine)]))) < communicator.size:
        raise OSError("a worker could not reserve its memory")


class SharedBucket(Bucket):
    """All gradients of one type, in memory that every worker sees."""

    def __init__(
        self, name: str, parameters: list[torch.nn.Parameter], communicator: Communicator, settings: Distributed,
        shared: Shared,
    ):  # fmt: skip
        super().__init__(name, parameters, communicator, settings)
        self._shared, self._round, self._waiting = shared, 0, False

    def _flat_buffer(self, count: int) -> torch.Tensor:
        return self._shared.rows[self._communicator.rank]

    def start(self) -> None:
        """See Bucket."""
        self._round, self._waiting = self._round + 1, True
        self._signal(self._shared.laid)

    @torch.no_grad()
    def finish(self) -> None:
        """See Bucket."""
        if not self._waiting:
            return
        self._waiting = False
        self._await(self._shared.laid)
        rank, size, rows = self._communicator.rank, self._communicator.size, self._shared.rows
        count = rows[0].numel()
        first, end = count * rank // size, count * (rank + 1) // size
        for start in range(first, end, PIECE):
            part = slice(start, min(start + PIECE, end))
            total = rows[0][part] + rows[1][part]
            for row in rows[2:]:
                total.add_(row[part])
            for row in rows:
                row[part].copy_(total)
        self._signal(self._shared.done)
        self._await(self._shared.done)

    def _signal(self, signals: torch.Tensor) -> None:
        time.sleep(0)  # gives up and takes the interpreter's lock: what was written before is seen before the signal
        signals[self._communicator.rank] = self._round

    def _await(self, signals: torch.Tensor) -> None:
        """Until every worker has signalled this round. A worker that is lost is its launcher's to notice."""
        while int(signals.min()) < self._round:
            time.sleep(NAP_SECONDS)
