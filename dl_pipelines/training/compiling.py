"""Whether `torch.compile` pays: a rule first, then a measurement on a copy of the modules, which changes no state.

The choice is written down and replayed, so that a training that goes on computes as it began.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dl_pipelines.models.recipe import Loss, Objective
from dl_pipelines.store import durable
from dl_pipelines.training.communicators.base import Communicator
from dl_pipelines.training.precision import Numerics

COMPILE_SECONDS = 40.0
"""About what compiling one objective of a network of 20 layers takes on two cores."""
GAIN = 0.4
"""The largest share of a step that compiling may be hoped to save, where nothing was measured."""
CHOICE = "compile.json"
ROUNDS = 3
COMPILERS = ("g++", "clang++", "c++")


class NoCompiler(ValueError):
    """`training.compile: on`, and nothing to compile with."""


@dataclass(frozen=True)
class Choice:
    """`milliseconds` a forward and backward pass: eager and compiled, as far as they were measured."""

    compiled: bool
    why: str
    milliseconds: tuple[float, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def compiler() -> str | None:
    """The C++ compiler that torch.compile would call."""
    return shutil.which(os.environ.get("CXX", "")) or next(filter(None, map(shutil.which, COMPILERS)), None)


def decide(
    setting: str, objectives: Sequence[Objective], modules: Mapping[str, torch.nn.Module], numerics: Numerics,
    batch: Callable[[], tuple[torch.Tensor, torch.Tensor]], steps: int,
) -> Choice:  # fmt: skip
    """For the `steps` batches that remain, measured on `batch`. Raises NoCompiler."""
    if setting == "off":
        return Choice(False, "training.compile is off")
    if compiler() is None:
        if setting == "on":
            raise NoCompiler(
                f"found training.compile: on and no C++ compiler; expected one of {', '.join(COMPILERS)}; install g++, "
                "or set training.compile to auto or off"
            )
        return Choice(False, "there is no C++ compiler")
    if setting == "on":
        return Choice(True, "training.compile is on")
    state = torch.get_rng_state()
    devices = torch.cuda.get_rng_state() if numerics.device.type == "cuda" else None
    try:
        return _measure(objectives, copy.deepcopy(dict(modules)), numerics, batch(), steps)
    finally:
        torch.set_rng_state(state)
        if devices is not None:
            torch.cuda.set_rng_state(devices)


def agree(communicator: Communicator, path: Path, choose: Callable[[], Choice]) -> Choice:
    """Rank 0 looks up what was chosen before, or chooses and writes it down; every rank follows."""
    choice = Choice(False, "as rank 0 chose")
    if communicator.rank == 0:
        choice = Choice(**durable.read_json(path)) if path.exists() else choose()
        durable.write_json(path, choice.plain())
    compiled = bool(communicator.broadcast(torch.tensor([int(choice.compiled)])))
    return replace(choice, compiled=compiled)


def compile_losses(objectives: Sequence[Objective]) -> dict[str, Loss]:
    """Each objective's loss, compiled at its first call for the shapes that it is called with."""
    torch._dynamo.reset()  # of another training in this process
    return {item.name: torch.compile(item.loss, dynamic=False) for item in objectives}


def forget() -> None:
    """Leave nothing of compiled losses in the process, and none of the processes that compiled them."""
    from torch._inductor.async_compile import shutdown_compile_workers

    torch._dynamo.reset()
    shutdown_compile_workers()


def _measure(
    objectives: Sequence[Objective], modules: dict[str, torch.nn.Module], numerics: Numerics,
    batch: tuple[torch.Tensor, torch.Tensor], steps: int,
) -> Choice:  # fmt: skip
    plain = {item.name: item.loss for item in objectives}
    eager = min(_seconds(plain, modules, numerics, batch) for _ in range(ROUNDS))
    if eager * steps * GAIN < COMPILE_SECONDS * len(objectives):
        left = f"{steps} batches of {eager * 1000:.3g} ms are {eager * steps:.3g} s"
        why = f"{left}: too few for {COMPILE_SECONDS * len(objectives):g} s of compiling"
        return Choice(False, why, (round(eager * 1000, 3),))
    losses = compile_losses(objectives)
    began = time.monotonic()
    try:
        _seconds(losses, modules, numerics, batch)
    except Exception as error:  # noqa: BLE001 - whatever the compiler can't do, the eager step can
        return Choice(False, f"torch.compile failed: {type(error).__name__}", (round(eager * 1000, 3),))
    finally:
        cost = time.monotonic() - began
    pairs = [
        (_seconds(plain, modules, numerics, batch), _seconds(losses, modules, numerics, batch)) for _ in range(ROUNDS)
    ]
    eager, compiled = (min(times) for times in zip(*pairs, strict=True))
    forget()
    saved = (eager - compiled) * steps
    told = f"{eager * 1000:.3g} ms eager, {compiled * 1000:.3g} ms compiled, {steps} batches, {cost:.3g} s of compiling"
    times = round(eager * 1000, 3), round(compiled * 1000, 3)
    return Choice(saved > cost, f"{told}: {'it pays' if saved > cost else 'it does not pay'}", times)


def _seconds(
    losses: Mapping[str, Loss], modules: Mapping[str, torch.nn.Module], numerics: Numerics,
    batch: tuple[torch.Tensor, torch.Tensor],
) -> float:  # fmt: skip
    started = time.perf_counter()
    for loss in losses.values():
        with numerics.autocast():
            value = loss(modules, *batch)
        value.backward()
    if numerics.device.type == "cuda":
        torch.cuda.synchronize()
    for module in modules.values():
        module.zero_grad(set_to_none=True)
    return time.perf_counter() - started
