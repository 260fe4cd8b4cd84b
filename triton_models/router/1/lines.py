"""Lines from the router to the models' processes, past Triton; a model without one is asked through Triton.

Knows no Triton; what goes over a line is wire/channel.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque

import numpy as np
from asked import ModelError
from wire.channel import INLINE_BYTES, Channel, Failed, Gone, connect

LOOK_AGAIN_S = 1.0
"""A model without a line is looked at again after so long."""


class Lines:
    """Open lines by model, as many as threads ask it at once; thread-safe."""

    def __init__(self) -> None:
        self._idle: defaultdict[str, deque[Channel]] = defaultdict(deque)
        self._without: dict[str, float] = {}
        self._lock = threading.Lock()

    def ask(self, model: str, inputs: np.ndarray) -> np.ndarray | None:
        """A model's outputs [rows, ...]; None when it is to be asked through Triton. Raises ModelError with its own.

        That also says what became of a process that ended meanwhile.
        """
        line = self._line(model)
        if line is None:
            return None
        try:
            line.send(inputs)
            outputs = line.receive()
        except Failed as error:
            self._idle[model].append(line)
            raise ModelError(str(error)) from error
        except (Gone, TypeError):
            line.close()
            self._forget(model)
            return None
        if outputs.nbytes > INLINE_BYTES:
            outputs = np.array(outputs)  # the memory is the model's, for its next answer
        self._idle[model].append(line)
        return outputs

    def close(self) -> None:
        """End all that nobody waits at."""
        for model in list(self._idle):
            self._forget(model)

    def _line(self, model: str) -> Channel | None:
        try:
            return self._idle[model].pop()
        except IndexError:
            pass
        if time.monotonic() < self._without.get(model, 0.0):
            return None
        try:
            return connect(model)
        except Gone:
            with self._lock:
                now = time.monotonic()
                self._without = {name: until for name, until in self._without.items() if until > now}
                self._without[model] = now + LOOK_AGAIN_S
            return None

    def _forget(self, model: str) -> None:
        """Its process has ended: the other lines to it are no better."""
        with self._lock:
            lines = self._idle.pop(model, ())
        for line in lines:
            line.close()
