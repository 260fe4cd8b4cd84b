"""A backend's line for the router: the model is asked past Triton, by the same call and never two at a time.

Runs inside Triton's own interpreter. Copied beside each backend's `model.py`, with wire/channel.py.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import numpy as np
from channel import Channel, Died, Gone, Listener  # pyright: ignore[reportMissingImports]

PATIENCE_S = 10.0
"""For the call under way when the model is unloaded."""

Run = Callable[[np.ndarray], np.ndarray]
"""[N, ...] -> [N, ...]: one call of the runtime."""


class Line:
    """Listens for the router, a thread a caller. `run` is the model, for Triton's requests too."""

    def __init__(self, model: str, run: Run, dtype: np.dtype | type):
        self._run, self._dtype, self._busy = run, dtype, threading.Lock()
        self._callers: set[Channel] = set()
        self._closed = False
        self._listener = Listener(model)
        threading.Thread(target=self._listen, name="line", daemon=True).start()

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Call the model when nobody else does."""
        with self._busy:
            return self._run(inputs)

    def close(self) -> None:
        """End after the call under way; who asks later is told and goes through Triton."""
        self._listener.close()
        free = self._busy.acquire(timeout=PATIENCE_S)
        self._closed = True
        for caller in list(self._callers):
            caller.hang_up()
        if free:
            self._busy.release()

    def _listen(self) -> None:
        with contextlib.suppress(Gone):
            while True:
                caller = self._listener.accept()
                self._callers.add(caller)
                threading.Thread(target=self._serve, args=(caller,), name="line", daemon=True).start()

    def _serve(self, caller: Channel) -> None:
        try:
            with contextlib.suppress(Gone, Died):
                while True:
                    inputs = caller.receive()
                    with self._busy:
                        self._answer(caller, inputs)
        finally:
            self._callers.discard(caller)
            caller.close()

    def _answer(self, caller: Channel, inputs: np.ndarray) -> None:
        if self._closed:
            caller.end()
            return
        try:
            caller.send(np.ascontiguousarray(self._run(inputs), dtype=self._dtype))
        except Gone:
            raise
        except Exception as error:  # noqa: BLE001 - the runtimes' own error types are not public
            caller.fail(f"the model failed on {len(inputs)} rows: {type(error).__name__}: {error}")
