"""Run by every worker of a test: each collective and one step, with its results as JSON beside `out`."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators import CommunicatorError, connect
from dl_pipelines.training.communicators.memory import FOLDER


def network() -> torch.nn.Module:
    """Without batch norm, so that a joined batch is its parts."""
    torch.manual_seed(11)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 [size * 8, 6] and int64 [size * 8], the same on every rank."""
    rng = np.random.default_rng(5)
    inputs, targets = rng.normal(size=(size * 8, 6)).astype(np.float32), rng.integers(0, 3, size * 8)
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def gradients(communicator, ranks: int, clip: float | None = None, **changed) -> list[list[float]]:
    """Of one step on this rank's eight rows; with one rank, on all rows of `ranks` ranks. With `clip`: new weights."""
    model = network()
    settings = Distributed(communicator="horovod", workers=2, **changed)
    exchange = communicator.exchange(list(model.named_parameters()), settings)
    inputs, targets = batch(ranks)
    share = slice(communicator.rank * 8, communicator.rank * 8 + 8) if communicator.size > 1 else slice(None)
    exchange.zero()
    exchange.backward(torch.nn.functional.cross_entropy(model(inputs[share]), targets[share]))
    exchange.finish()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        # Plain descent: each of torch's optimizers imports its compiler, for seconds in each of these processes.
        return [(value - 0.1 * value.grad).flatten().tolist() for value in model.parameters()]
    return [value.grad.flatten().tolist() for value in model.parameters() if value.grad is not None]


def arrivals(communicator, **changed) -> list[str]:
    """Digests of the gradients of 12 steps, alike but for which rank is late and which branch is first in backward."""
    torch.manual_seed(5)
    branches = [torch.nn.Linear(300, 200) for _ in range(3)]
    named = [(f"{place}.{key}", value) for place, part in enumerate(branches) for key, value in part.named_parameters()]
    exchange = communicator.exchange(named, Distributed(communicator="horovod", workers=2, bucket_mb=0.1, **changed))
    inputs = torch.randn(16, 300, generator=torch.Generator().manual_seed(communicator.rank))
    digests = []
    for step in range(12):
        exchange.zero()
        losses = [part(inputs).square().mean() for part in branches]
        for place in np.random.default_rng([step, communicator.rank]).permutation(2):
            exchange.backward(losses[place], last=False)
        time.sleep(0.005 * ((step + communicator.rank) % 2))
        exchange.backward(losses[2])
        exchange.finish()
        flat = torch.cat([value.grad.flatten() for _, value in named])
        digests.append(hashlib.sha256(flat.numpy().tobytes()).hexdigest())
    return digests


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
    for kind in ("fp16", "bf16"):
        found[f"gradients_{kind}"] = gradients(communicator, size, compression=kind)
    found["gradients_by_sockets"] = gradients(communicator, size, shared_memory=False)
    found["arrivals"] = {
        name: arrivals(communicator, **changed)
        for name, changed in {
            "memory": {}, "sockets": {"shared_memory": False}, "fp16": {"compression": "fp16"},
            "bf16": {"compression": "bf16"},
        }.items()
    }  # fmt: skip
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{FOLDER}/dlp-" in line]
    found["shared"] = len(mapped), all(line.endswith("(deleted)") for line in mapped)
    try:
        communicator.exchange([], Distributed(communicator="horovod", workers=2, reduction="adasum"))
    except CommunicatorError as error:
        found["adasum"] = str(error)
    communicator.close()
    return found


if __name__ == "__main__":
    result = collectives(sys.argv[1])
    Path(f"{sys.argv[2]}-{result['rank']}.json").write_text(json.dumps(result))
