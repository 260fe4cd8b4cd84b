"""One process of `scaling`: trains ResNet-18 in segments, each when a file says so, and writes what each took.

Run by a launcher as `python -m benchmarks.scaling_worker --job FOLDER/job.json`. The arms differ in how gradients
become means and in nothing else: `ours` by our exchange over the communicator of the settings, `ddp` by
DistributedDataParallel.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators import connect

SIDE, CLASSES, IMAGES, LOOK_SECONDS = 112, 10, 512, 0.02


class Training:
    """ResNet-18 of one rank; `step` trains on this rank's share of the next global batch and gives its loss."""

    def __init__(self, communicator: Any, batch: int, exchange: Callable[[torch.nn.Module], tuple[Any, Any]]):
        from torchvision.models import resnet18

        torch.manual_seed(0)
        self.network = resnet18(num_classes=CLASSES)
        images = torch.randint(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=torch.uint8)
        targets = torch.randint(0, CLASSES, (IMAGES,))
        rank, size = communicator.rank, communicator.size
        share = batch // size
        self.batches = [
            (images[start : start + share], targets[start : start + share])
            for start in range(rank * share, IMAGES - batch + 1, batch)
        ]
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9, fused=True)
        self.called, self.exchange = exchange(self.network)
        self.done = 0

    def step(self, autocast: bool = True) -> torch.Tensor:
        """One step of the optimizer."""
        images, targets = self.batches[self.done % len(self.batches)]
        self.done += 1
        inputs = images.permute(0, 3, 1, 2).float().div_(255)  # channels last, as the strides say
        self.exchange.zero()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = torch.nn.functional.cross_entropy(self.called(inputs), targets)
        self.exchange.backward(loss)
        self.exchange.finish()
        self.optimizer.step()
        return loss.detach()

    def check(self) -> dict[str, Any]:
        """Losses of three steps in fp32 with fixed norms, where a joined batch is its parts, and the weights then."""
        self.network.eval()
        losses = [float(self.step(autocast=False)) for _ in range(3)]
        self.network.train()
        weights = torch.cat([value.detach().flatten() for value in self.network.parameters()])
        return {"losses": losses, "weights": weights[::1009].tolist()}


class Ddp:
    """DistributedDataParallel behind the calls of an exchange."""

    def __init__(self, called: torch.nn.Module):
        self._parameters = list(called.parameters())

    def zero(self) -> None:
        """None, which DDP's own views survive."""
        for parameter in self._parameters:
            parameter.grad = None

    def backward(self, loss: torch.Tensor) -> None:
        """DDP exchanges within it."""
        loss.backward()

    def finish(self) -> None:
        """Nothing is left to do."""


def exchange_of(arm: str, settings: Distributed, communicator: Any) -> Callable[[torch.nn.Module], tuple[Any, Any]]:
    """From a network to what is called in its place, and the exchange."""
    if arm == "ours":
        return lambda network: (network, communicator.exchange(list(network.named_parameters()), settings))

    def wrapped(network: torch.nn.Module) -> tuple[Any, Any]:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
        from torch.nn.parallel import DistributedDataParallel

        called = DistributedDataParallel(
            network, bucket_cap_mb=settings.bucket_mb, gradient_as_bucket_view=True, broadcast_buffers=False
        )
        if settings.compression != "none":
            called.register_comm_hook(None, getattr(default_hooks, f"{settings.compression}_compress_hook"))
        return called, Ddp(called)

    return wrapped


def main() -> None:
    """Check, then segments until told to end."""
    job = Path(sys.argv[2])
    folder, given = job.parent, json.loads(job.read_text())
    settings = Distributed(**given["distributed"])
    torch.set_num_threads(settings.threads)
    communicator = connect(settings.communicator)
    training = Training(communicator, given["batch"], exchange_of(given["arm"], settings, communicator))
    rank, number = communicator.rank, 0
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    while True:
        while not (folder / f"go-{number}").exists():
            time.sleep(LOOK_SECONDS)
        if (asked := (folder / f"go-{number}").read_text()) == "end":
            break
        found = training.check() if asked == "check" else timed(training, int(asked))
        losses = torch.tensor(found["losses"])
        found["losses"] = communicator.all_reduce(losses, average=True).tolist()
        (folder / f"part-{rank}").write_text(json.dumps(found))
        (folder / f"part-{rank}").rename(folder / f"done-{number}-{rank}")
        number += 1
    communicator.close()


def timed(training: Training, steps: int) -> dict[str, Any]:
    """Wall and CPU seconds of so many steps, after one that is not timed (which waits for the other workers)."""
    training.step()
    started, before = time.perf_counter(), time.process_time()
    losses = [training.step() for _ in range(steps)]
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    return {"losses": torch.stack(losses).tolist(), "seconds": seconds, "cpu": cpu}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
