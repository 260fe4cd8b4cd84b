"""Gradients exchanged bucket by bucket, while the next are computed: the same code over every library.

Which gradients share a bucket, and where each lies in it, is fixed; so is, with it, the order of every sum: the means
are bitwise the same whichever gradient or worker comes first. Nothing here knows a library.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import Exchange, Named
from dl_pipelines.training.communicators.bucket import Bucket
from dl_pipelines.training.communicators.memory import SharedBucket, open_shared

if TYPE_CHECKING:
    from dl_pipelines.training.communicators.base import Communicator


class Buckets(Exchange):
    """Means over the workers of a communicator, in buckets like those of PyTorch DDP (Li et al., 2020).

    Parameters that are frozen now are not exchanged. Several exchanges may share parameters: each acts on its own
    `backward` only. After `finish`, gradients are views of the buckets until the next `zero`; a parameter that got
    none has zeros. Raises CommunicatorError when a compression is not to be had.
    """

    def __init__(self, parameters: Named, communicator: Communicator, settings: Distributed):
        unlike = {id(parameter): (name, parameter) for name, parameter in parameters if parameter.requires_grad}
        self._named, self._communicator, self._settings = list(unlike.values()), communicator, settings
        super().__init__(self._named)
        self.buckets = [
            Bucket(f"gradients.{place}.{group[0][0]}", [parameter for _, parameter in group], communicator, settings)
            for place, group in enumerate(_groups(self._named, settings.bucket_mb * 2**20))
        ]
        self._hooked, self._started, self._last = False, 0, False

    @property
    def route(self) -> str:
        """See Exchange."""
        shared = any(isinstance(bucket, SharedBucket) for bucket in self.buckets)
        return "shared memory" if shared else self._communicator.name

    def _prepare(self) -> None:
        """Before the first step: share memory where that can be, and have gradients laid as they arrive."""
        self.buckets = self._shared() or self.buckets
        for bucket in self.buckets:
            for place, parameter in enumerate(bucket.parameters):
                parameter.register_post_accumulate_grad_hook(functools.partial(self._arrived, bucket, place))
        self._hooked = True

    def _shared(self) -> list[Bucket] | None:
        """One bucket for all gradients of a type, in memory; None where they go through the library."""
        given, communicator = self._settings, self._communicator
        plain = given.compression == "none" and given.reduction == "average"
        near = communicator.on_one_machine and all(value.device.type == "cpu" for value in self.parameters)
        if not (given.shared_memory and plain and near):
            return None
        made: list[Bucket] = []
        for group in _groups(self._named, math.inf):
            parameters = [parameter for _, parameter in group]
            shared = open_shared(parameters, communicator)
            if shared is None:
                return None
            made.append(SharedBucket(group[0][0], parameters, communicator, given, shared))
        return made

    def zero(self) -> None:
        """See Exchange; gradients become None, so that the next are laid into the buckets without an addition."""
        super().zero()
        if not self._hooked:
            self._prepare()
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
