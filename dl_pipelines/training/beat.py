"""Signs of life: what rank 0 tells while an epoch runs, so that a stall can be told from work."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Say = Callable[[Mapping[str, Any]], None]
BEAT_SECONDS = 2.0


class Beat:
    """Tells the step at hand, at most every `seconds`."""

    def __init__(self, say: Say, epochs: int, seconds: float):
        self._say, self._epochs, self._seconds, self._last = say, epochs, seconds, -math.inf

    def tell(self, epoch: int, step: int, steps: int) -> None:
        """So many steps of an epoch are done."""
        now = time.monotonic()
        if now - self._last > self._seconds:
            self._last = now
            self._say({"epoch": epoch, "epochs": self._epochs, "step": step, "steps": steps})

    @contextmanager
    def during(self, epoch: int, step: int, steps: int) -> Iterator[None]:
        """Tell it again and again while something runs that takes long and is no step: a compiler."""
        over = threading.Event()

        def run() -> None:
            while not over.wait(self._seconds / 2):
                self.tell(epoch, step, steps)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
