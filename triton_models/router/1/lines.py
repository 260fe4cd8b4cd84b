"""Lines from the router to the models' processes, past Triton; a model without one is asked through Triton.

Knows no Triton; what goes over a line is wire/channel.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection

import numpy as np
from asked import Answer, ModelError
from wire.channel import INLINE_BYTES, Channel, Died, Failed, Gone, connect

LOOK_AGAIN_S = 1.0
"""A model without a line is looked at again after so long."""
IDLE_S = 30.0
"""A line that nobody needed for so long is closed: it may hold memory of the largest request."""
TRIES = 3
"""New lines that are tried for a call before it goes through Triton."""


class Lines:
    """Open lines by model, as many as threads ask it at once; thread-safe."""

    def __init__(self, asks: Callable[[str, int], None] = lambda *_: None) -> None:
        """`asks` is told which process of a model this thread is about to ask."""
        self._asks = asks
        self._idle: defaultdict[str, deque[tuple[Channel, float]]] = defaultdict(deque)
        self._without: dict[str, float] = {}
        self._lock = threading.Lock()

    def ask(self, model: str, inputs: np.ndarray, meanwhile: Callable[[], None] = lambda: None) -> Answer | None:
        """A model's answer; None when it is to be asked through Triton. Raises ModelError.

        Its time is the model's own: what this thread waits for turns of its own is no model's, and no arm's alone.
        `meanwhile` is called while the model works, each time that it is asked; it must not fail.
        """
        for _ in range(len(self._idle[model]) + TRIES):
            line = self._line(model)
            if line is None:
                return None
            self._asks(model, line.process)
            try:
                line.send(inputs)
                meanwhile()
                outputs = line.receive()
            except Gone:  # its process ended since the last call, or is unloading the model: another may be there
                line.close()
                continue
            except Died as error:
                line.close()
                raise ModelError("its process ended") from error
            except TypeError:  # not numbers
                self._leave(model, line)
                return None
            except Failed as error:
                self._leave(model, line)
                raise ModelError(str(error)) from error
            if outputs.nbytes > INLINE_BYTES:
                outputs = np.array(outputs)  # the memory is the model's, for its next answer
            answer = Answer(outputs, line.seconds)
            self._leave(model, line)
            return answer
        self._do_without(model)
        return None

    def keep(self, models: Collection[str]) -> None:
        """Close the idle lines to all other models, and those that nobody needed for a while."""
        old = time.monotonic() - IDLE_S
        for model, lines in list(self._idle.items()):
            while lines and (model not in models or lines[0][1] < old):
                try:
                    line, _ = lines.popleft()
                except IndexError:  # another thread needs it
                    break
                line.close()
            if model not in models:
                self._idle.pop(model, None)

    def _line(self, model: str) -> Channel | None:
        try:
            return self._idle[model].pop()[0]
        except IndexError:
            pass
        if time.monotonic() < self._without.get(model, 0.0):
            return None
        try:
            return connect(model)
        except Gone:
            self._do_without(model)
            return None

    def _leave(self, model: str, line: Channel) -> None:
        self._idle[model].append((line, time.monotonic()))

    def _do_without(self, model: str) -> None:
        with self._lock:
            now = time.monotonic()
            self._without = {name: until for name, until in self._without.items() if until > now}
            self._without[model] = now + LOOK_AGAIN_S
