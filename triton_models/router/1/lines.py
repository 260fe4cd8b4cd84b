"""Lines from the router to the models' processes, past Triton; a model without one is asked through Triton.

Knows no Triton; what goes over a line is wire/channel.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection

import numpy as np
from asked import ModelError
from wire.channel import INLINE_BYTES, Channel, Died, Failed, Gone, connect

LOOK_AGAIN_S = 1.0
"""A model without a line is looked at again after so long."""


class Lines:
    """Open lines by model, as many as threads ask it at once; thread-safe."""

    def __init__(self) -> None:
        self._idle: defaultdict[str, deque[Channel]] = defaultdict(deque)
        self._without: dict[str, float] = {}
        self._lock = threading.Lock()

    def ask(self, model: str, inputs: np.ndarray) -> np.ndarray | None:
        """A model's outputs [rows, ...]; None when it is to be asked through Triton. Raises ModelError."""
        while (line := self._line(model)) is not None:
            try:
                line.send(inputs)
                outputs = line.receive()
            except Gone:  # its process ended since the last call, or is unloading the model: another may be there
                line.close()
                continue
            except Died as error:
                line.close()
                raise ModelError("its process ended") from error
            except TypeError:  # not numbers
                self._idle[model].append(line)
                return None
            except Failed as error:
                self._idle[model].append(line)
                raise ModelError(str(error)) from error
            if outputs.nbytes > INLINE_BYTES:
                outputs = np.array(outputs)  # the memory is the model's, for its next answer
            self._idle[model].append(line)
            return outputs
        return None

    def keep(self, models: Collection[str]) -> None:
        """Close the idle lines to all others."""
        for model in [model for model in list(self._idle) if model not in models]:
            lines = self._idle.pop(model, ())
            while lines:
                lines.pop().close()

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
