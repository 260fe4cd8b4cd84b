"""What is trained in the benchmark of the loop, and a bare PyTorch loop for it; nothing of ours is imported here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

RATE = 1e-3


@dataclass(frozen=True)
class Work:
    """A network from raw inputs to outputs, its loss, and an epoch of rows [N, ...]."""

    make: Callable[[], nn.Module]
    inputs: np.ndarray
    targets: np.ndarray
    batch: int

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return len(self.inputs) // self.batch

    def network(self) -> nn.Module:
        """With the same weights each time."""
        torch.manual_seed(0)
        return self.make()

    def loss(self, modules: Mapping[str, nn.Module], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy; of each position, where targets are sequences."""
        outputs = modules["network"](inputs)
        return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """In the order of our loop, so that losses can be compared."""
        order = np.random.default_rng([0, epoch]).permutation(len(self.inputs))
        for step in range(self.steps):
            chosen = order[step * self.batch : (step + 1) * self.batch]
            yield torch.from_numpy(self.inputs[chosen]), torch.from_numpy(self.targets[chosen])


class Pixels(nn.Module):
    """uint8 [N, H, W, C] -> float32 [N, C, H, W]; channels last in memory unless `contiguous`."""

    def __init__(self, contiguous: bool):
        super().__init__()
        self.contiguous = contiguous

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        found = (pixels.permute(0, 3, 1, 2).to(torch.float32) / 255 - 0.45) / 0.22
        return found.contiguous() if self.contiguous else found


def images(name: str, side: int, batch: int, steps: int, contiguous: bool = False) -> Work:
    """A network of torchvision's on random images of ten classes."""
    import torchvision

    rng = np.random.default_rng(0)
    rows = batch * steps
    inputs = rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
    network = getattr(torchvision.models, name)
    return Work(
        lambda: nn.Sequential(Pixels(contiguous), network(num_classes=10)), inputs, rng.integers(0, 10, rows), batch
    )


def nothing(batch: int, steps: int) -> Work:
    """One parameter and next to no work: what is left is the loop."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.zeros(2))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.values.expand(inputs.shape[0], 2)

    rows = batch * steps
    return Work(Constant, np.zeros((rows, 4), np.uint8), np.zeros(rows, np.int64), batch)


def text(width: int, layers: int, length: int, batch: int, steps: int, vocabulary: int = 32_000) -> Work:
    """A GPT-style stack of blocks (Radford et al., 2019) on random tokens, with causal attention."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
            self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = self.mix(self.first(x)).unflatten(-1, (3, width // 64, 64)).permute(2, 0, 3, 1, 4)
            found = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
            x = x + self.out(found.transpose(1, 2).flatten(2))
            return x + self.wide(self.second(x))

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Embedding(vocabulary, width), *[Block() for _ in range(layers)], nn.LayerNorm(width),
            nn.Linear(width, vocabulary, bias=False),
        )  # fmt: skip

    tokens = np.random.default_rng(0).integers(0, vocabulary, (batch * steps, length + 1))
    return Work(make, np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:]), batch)


class Bare:
    """The plain loop: as short as it gets, with the fused optimizer and, with `bf16`, autocast."""

    def __init__(self, work: Work, bf16: bool, device: str = "cpu"):
        self.work, self.device, self.epoch = work, device, 0
        self.network = work.network().to(device)
        # As ours has it: weights decay, norms and biases do not.
        weights = [value for value in self.network.parameters() if value.ndim > 1]
        others = [value for value in self.network.parameters() if value.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 1e-4}] if weights else []
        groups += [{"params": others, "weight_decay": 0.0}] if others else []
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
        self.autocast = torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()
        self.loss = 0.0

    def run(self, clock: Callable[[], float] = time.perf_counter) -> float:
        """Seconds of an epoch; `loss` is its mean then."""
        self.epoch += 1
        losses, modules, loss_of = [], {"network": self.network}, self.work.loss
        self.network.train()
        started = clock()
        for inputs, targets in self.work.batches(self.epoch):
            if self.device != "cpu":
                inputs, targets = inputs.pin_memory(), targets.pin_memory()
                inputs, targets = inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
            self.optimizer.zero_grad()
            with self.autocast:
                loss = loss_of(modules, inputs, targets)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        self.loss = float(torch.stack(losses).mean())
        return clock() - started
