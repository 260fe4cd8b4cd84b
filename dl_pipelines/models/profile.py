"""What each layer of a network costs in milliseconds, measured, beside what `counting.py` counts.

Measured with the whole network in evaluation mode, where it is, in PyTorch itself: what is served has been exported,
and is faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from dl_pipelines.models.counting import batch_of, counted, evaluating, looked_at

if TYPE_CHECKING:
    import numpy as np

HOOK_SECONDS, HOOK_SHARE = 8e-6, 0.02
"""What looking at one module costs, and the share of a forward that this may be."""
MOST, ROUNDS = 256, (5, 30)
"""Largest batch, fewest and most rounds."""


@dataclass(frozen=True)
class Profile:
    """`rows`: those of layer_rows with `output_shape`, `macs`, `activation_bytes`. `times`: what was measured.

    `times` holds `by_layer` (ms in the order of the rows), `by_kind` (ms), `sum_ms`, `end_to_end_ms`, `batch`, `rounds`
    and `threads`, for one forward of the batch: processor time of the one thread that computes, or on a GPU the time
    until it is done. `end_to_end_ms` is of forwards at which nobody looks. All are means over the faster half of the
    rounds: other than medians, those of the parts add up to that of the whole.
    """

    rows: list[dict[str, Any]]
    times: dict[str, Any]


def profile(network: torch.nn.Module, inputs: np.ndarray, seconds: float = 0.6) -> Profile:
    """Of a network and some rows of its input [N, ...], N >= 1; measuring takes about so many seconds."""
    rows = counted(network, inputs)
    return Profile(rows, measured(network, inputs, rows, seconds))


def measured(
    network: torch.nn.Module, inputs: np.ndarray, rows: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """See Profile.times. Rounds with and without looking take turns, so that both see the same machine."""
    with evaluating(network):
        batch = batch_of(network, inputs, _size(network, inputs, len(rows)))
        parts, alone = [], []
        clock, started = _clock(batch), time.monotonic()
        network(batch)
        while len(alone) < ROUNDS[0] or (len(alone) < ROUNDS[1] and time.monotonic() - started < seconds):
            alone.append(_seconds(network, batch, clock))
            watch = _Watch(len(rows), clock)
            with looked_at(network, rows, watch.before, watch.after):
                network(batch)
            parts.append(watch.spent)
    by_layer = [round(1e3 * fmean(spent), 5) for spent in zip(*_quiet(parts, sum), strict=True)]
    by_kind: dict[str, float] = {}
    for ms, row in zip(by_layer, rows, strict=True):
        by_kind[row["type"]] = round(by_kind.get(row["type"], 0.0) + ms, 5)
    return {
        "by_kind": by_kind, "by_layer": by_layer, "sum_ms": round(sum(by_layer), 5),
        "end_to_end_ms": round(1e3 * fmean(_quiet(alone, float)), 5), "batch": len(batch), "rounds": len(alone),
        "threads": 1,
    }  # fmt: skip


class _Watch:
    """Hooks that add up the seconds of each row: those of a block without what its layers took."""

    def __init__(self, rows: int, clock: Callable[[], float]):
        self.spent, self.clock, self._open = [0.0] * rows, clock, list[list[float]]()

    def before(self, place: int, module: torch.nn.Module, given: Any) -> None:
        self._open.append([0.0, self.clock()])

    def after(self, place: int, module: torch.nn.Module, given: Any, answer: Any) -> None:
        now = self.clock()
        inside, start = self._open.pop()
        self.spent[place] += now - start - inside
        if self._open:
            self._open[-1][0] += now - start


def _size(network: torch.nn.Module, inputs: np.ndarray, looks: int) -> int:
    """Rows of a batch at which looking costs little, the smallest power of two that does."""
    size, least = 1, looks * HOOK_SECONDS / HOOK_SHARE
    while size < MOST:
        batch = batch_of(network, inputs, size)
        if all(_seconds(network, batch, _clock(batch)) >= least for _ in range(4)):
            break
        size *= 2
    return size


def _clock(batch: torch.Tensor) -> Callable[[], float]:
    """Seconds: of this thread on the processor, which other processes do not prolong; else until the device is done."""
    if batch.device.type != "cuda":
        return time.thread_time

    def clock() -> float:
        torch.cuda.synchronize(batch.device)
        return time.perf_counter()

    return clock


def _quiet(rounds: list[Any], seconds: Callable[[Any], float]) -> list[Any]:
    """The faster half: what else the machine did meanwhile is in the others."""
    return sorted(rounds, key=seconds)[: (len(rounds) + 1) // 2]


def _seconds(network: torch.nn.Module, batch: torch.Tensor, clock: Callable[[], float]) -> float:
    start = clock()
    network(batch)
    return clock() - start
