"""One bucket: a flat buffer with a place for each parameter's gradient, and how its contents become means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import CommunicatorError

if TYPE_CHECKING:
    from dl_pipelines.training.communicators.base import Communicator

FEW = 4
"""Workers up to which gathered 16-bit gradients are no longer a message than a ring's sum of 32-bit ones."""
WORDS = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Bucket:
    """Parameters of one type and device. A step is `lay` or `fill`, `start`, `finish` and, before the next, `empty`."""

    def __init__(
        self, name: str, parameters: list[torch.nn.Parameter], communicator: Communicator, settings: Distributed
    ):
        self.name, self.parameters, self._communicator = name, parameters, communicator
        self._adasum = settings.reduction == "adasum"
        first = parameters[0]
        wide = WORDS.get(settings.compression, first.dtype)
        self._words = wide if first.dtype == torch.float32 else first.dtype
        self._gather = not communicator.adds(self._words, first.device)
        if self._gather and (communicator.size > FEW or self._adasum):
            raise CommunicatorError(
                f"found distributed.compression {settings.compression} of {communicator.size} workers by "
                f"{communicator.name}, reduced by {settings.reduction}; expected a type that it adds, or at most {FEW} "
                "workers and average; set distributed.compression to fp16 or none"
            )
        self._share = 1.0 if self._adasum else 1 / communicator.size
        self._laid, self._running = [False] * len(parameters), None
        self._flat: torch.Tensor | None = None

    def _allocate(self) -> torch.Tensor:
        """At first use, because the phases of a training have exchanges of their own, one after the other."""
        first, count = self.parameters[0], sum(parameter.numel() for parameter in self.parameters)
        flat = self._flat_buffer(count)
        self._sent = flat if self._words == first.dtype else torch.empty_like(flat, dtype=self._words)
        self._spare = torch.empty_like(flat) if self._gather else None
        sizes = [parameter.numel() for parameter in self.parameters]
        shapes = [parameter.shape for parameter in self.parameters]
        self._inlets = [part.view(shape) for part, shape in zip(self._sent.split(sizes), shapes, strict=True)]
        self._views = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        return flat

    def _flat_buffer(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=self.parameters[0].dtype, device=self.parameters[0].device)

    @property
    def full(self) -> bool:
        """Whether every gradient has been laid."""
        return all(self._laid)

    def empty(self) -> None:
        """Forget what was laid."""
        self._laid = [False] * len(self.parameters)

    @torch.no_grad()
    def lay(self, place: int) -> None:
        """Lay a parameter's gradient, or zeros for none: scaled or cast on the way, in one pass."""
        if self._laid[place]:
            raise CommunicatorError(
                "found a second gradient of a parameter in one backward; expected one; use checkpoints of activations "
                "that are not reentrant"
            )
        if self._flat is None:
            self._flat = self._allocate()
        parameter, inlet = self.parameters[place], self._inlets[place]
        if parameter.grad is None:
            inlet.zero_()
        elif self._words != parameter.dtype:
            inlet.copy_(parameter.grad)
        else:
            torch.mul(parameter.grad, self._share, out=inlet)
        parameter.grad = self._views[place]
        self._laid[place] = True

    def fill(self) -> None:
        """Lay what has not been laid."""
        for place, laid in enumerate(self._laid):
            if not laid:
                self.lay(place)

    def start(self) -> None:
        """Hand the bucket to the library."""
        narrow, send = self._words != self.parameters[0].dtype, self._sent
        if self._gather:
            words = send if send.element_size() > 2 else send.view(torch.int16)
            self._running: Any = self._communicator.start_all_gather(words, self.name)
            return
        if narrow:
            send.mul_(self._share)  # before the sum, which could be too large for 16 bits
        self._running = self._communicator.start_all_reduce(send, self.name, self._adasum)

    def finish(self) -> None:
        """Wait for the means and put them where the gradients are."""
        if self._running is None:
            return
        found, self._running = self._communicator.wait(self._running), None
        assert self._flat is not None
        if self._gather:
            self._add(found.view(self._words))
        elif self._words != self._flat.dtype:
            self._flat.copy_(found)

    def _add(self, gathered: torch.Tensor) -> None:
        """The mean, in 32 bits and in the order of ranks, of every worker's words [size * N]."""
        assert self._flat is not None and self._spare is not None
        first, *others = gathered.chunk(self._communicator.size)
        self._flat.copy_(first)
        for other in others:
            self._flat.add_(self._spare.copy_(other))  # adding words as they are would take three times as long
        if self._words != self._flat.dtype:
            self._flat.mul_(self._share)
