"""Gradients exchanged bucket by bucket, while the next are computed: the same code over every library.

Which gradients share a bucket, and where each lies in it, is fixed; so is, with it, the order of every sum: the means
are bitwise the same whichever gradient or worker comes first. Nothing here knows a library.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import CommunicatorError, Exchange, Named

if TYPE_CHECKING:
    from dl_pipelines.training.communicators.base import Communicator

FEW = 4
"""Workers up to which gathered 16-bit gradients are no longer a message than a ring's sum of 32-bit ones."""
WORDS = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Buckets(Exchange):
    """Means over the workers of a communicator, in buckets like those of PyTorch DDP (Li et al., 2020).

    Parameters that are frozen now are not exchanged. Several exchanges may share parameters: each acts on its own
    `backward` only. After `finish`, gradients are views of the buckets until the next `zero`; a parameter that got
    none has zeros. Raises CommunicatorError when a compression is not to be had.
    """

    def __init__(self, parameters: Named, communicator: Communicator, settings: Distributed):
        unlike = {id(parameter): (name, parameter) for name, parameter in parameters if parameter.requires_grad}
        super().__init__(list(unlike.values()))
        self.buckets = [
            Bucket(f"gradients.{place}.{group[0][0]}", [parameter for _, parameter in group], communicator, settings)
            for place, group in enumerate(_groups(list(unlike.values()), settings.bucket_mb * 2**20))
        ]
        self._started, self._last = 0, False
        for bucket in self.buckets:
            for place, parameter in enumerate(bucket.parameters):
                parameter.register_post_accumulate_grad_hook(functools.partial(self._arrived, bucket, place))

    def zero(self) -> None:
        """See Exchange; gradients become None, so that the next are laid into the buckets without an addition."""
        super().zero()
        for bucket in self.buckets[: self._started]:
            bucket.finish()
        for bucket in self.buckets:
            bucket.empty()
        self._started = 0

    def backward(self, loss: torch.Tensor, last: bool = True) -> None:
        """See Exchange."""
        self._last = last
        try:
            loss.backward()
        finally:
            self._last = False

    def finish(self) -> None:
        """See Exchange."""
        for bucket in self.buckets:
            bucket.fill()
        self._start()
        for bucket in self.buckets:
            bucket.finish()

    def _arrived(self, bucket: Bucket, place: int, _: torch.Tensor) -> None:
        if self._last:
            bucket.lay(place)
            self._start()

    def _start(self) -> None:
        """In order, as every worker must; a bucket that is full early waits for those before it."""
        while self._started < len(self.buckets) and self.buckets[self._started].full:
            self.buckets[self._started].start()
            self._started += 1


class Bucket:
    """A flat buffer with a place for each parameter's gradient, and how its contents become means."""

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
        flat = torch.empty(count, dtype=first.dtype, device=first.device)
        self._sent = flat if self._words == first.dtype else torch.empty_like(flat, dtype=self._words)
        self._spare = torch.empty_like(flat) if self._gather else None
        sizes = [parameter.numel() for parameter in self.parameters]
        shapes = [parameter.shape for parameter in self.parameters]
        self._inlets = [part.view(shape) for part, shape in zip(self._sent.split(sizes), shapes, strict=True)]
        self._views = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        return flat

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


def _groups(named: Named, most: float) -> list[list[tuple[str, torch.nn.Parameter]]]:
    """Parameters from the last to the first, as backward meets them, cut where one type's reach `most` bytes."""
    open_: dict[tuple[torch.dtype, torch.device], list[tuple[str, torch.nn.Parameter]]] = {}
    done: list[list[tuple[str, torch.nn.Parameter]]] = []
    for name, parameter in reversed(named):
        kind = (parameter.dtype, parameter.device)
        group = open_.setdefault(kind, [])
        group.append((name, parameter))
        if sum(value.numel() * value.element_size() for _, value in group) >= most:
            done.append(open_.pop(kind))
    return [*done, *open_.values()]
