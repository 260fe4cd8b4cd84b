"""Run by every worker of a test: each collective and one step, with its results as JSON beside `out`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators import connect


def network() -> torch.nn.Module:
    """Without batch norm, so that a joined batch is its parts."""
    torch.manual_seed(11)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 [size * 8, 6] and int64 [size * 8], the same on every rank."""
    rng = np.random.default_rng(5)
    inputs, targets = rng.normal(size=(size * 8, 6)).astype(np.float32), rng.integers(0, 3, size * 8)
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def gradients(communicator, ranks: int, compression: str = "none", clip: float | None = None) -> list[list[float]]:
    """Of one step on this rank's eight rows; with one rank, on all rows of `ranks` ranks. With `clip`: new weights."""
    model = network()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = Distributed(communicator="horovod", workers=2, compression=compression)
    exchange = communicator.exchange(list(model.named_parameters()), settings)
    inputs, targets = batch(ranks)
    share = slice(communicator.rank * 8, communicator.rank * 8 + 8) if communicator.size > 1 else slice(None)
    exchange.zero()
    exchange.backward(torch.nn.functional.cross_entropy(model(inputs[share]), targets[share]))
    exchange.finish()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        plain.step()
        return [value.detach().flatten().tolist() for value in model.parameters()]
    return [value.grad.flatten().tolist() for value in model.parameters() if value.grad is not None]


def collectives(name: str) -> dict:
    """What each gave to this rank, and how long rank 0 waited for the others at the barrier."""
    communicator = connect(name)
    rank, size = communicator.rank, communicator.size
    mine = torch.arange(6.0).reshape(2, 3) * (rank + 1)
    rows = torch.arange(4.0 * size).reshape(2 * size, 2) + 10 * rank
    found = {
        "name": communicator.name,
        "rank": rank,
        "size": size,
        "broadcast": communicator.broadcast(mine, size - 1).tolist(),
        "broadcast_whole": communicator.broadcast(torch.tensor(7 + rank)).item(),
        "sum": communicator.all_reduce(mine).tolist(),
        "mean": communicator.all_reduce(mine, average=True).tolist(),
        "gather": communicator.all_gather(mine).tolist(),
        "scatter": communicator.reduce_scatter(rows).tolist(),
        "unchanged": mine.tolist(),
    }
    communicator.barrier()
    started = time.monotonic()
    if rank == size - 1:
        time.sleep(0.5)
    communicator.barrier()
    found["waited"] = time.monotonic() - started
    found["gradients"] = gradients(communicator, size)
    found["clipped"] = gradients(communicator, size, clip=0.05)
    if name == "horovod":
        found["gradients_fp16"] = gradients(communicator, size, "fp16")
    communicator.close()
    return found


if __name__ == "__main__":
    result = collectives(sys.argv[1])
    Path(f"{sys.argv[2]}-{result['rank']}.json").write_text(json.dumps(result))
