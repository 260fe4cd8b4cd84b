"""A backend's line for the router: the model is asked past Triton, by the same call and never two at a time.

Runs inside Triton's own interpreter. Copied beside each backend's `model.py`, with wire/channel.py.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from channel import Channel, Died, Gone, Listener  # pyright: ignore[reportMissingImports]

PATIENCE_S = 10.0
"""For the call under way when the model is unloaded."""
LAST_WORDS_S = 1.0
"""For telling those whose calls were not looked at."""

Run = Callable[[np.ndarray], np.ndarray]
"""[N, ...] -> [N, ...]: one call of the runtime."""


class Line:
    """Listens for the router, a thread a caller. `run` is the model, for Triton's requests too."""

    def __init__(self, model: str, run: Run, dtype: np.dtype | type):
        """Where the system allows no such socket the model is asked through Triton alone."""
        self._run, self._dtype, self._busy = run, dtype, threading.Lock()
        self._callers: dict[Channel, threading.Thread] = {}
        self._closed = False
        try:
            self._listener = Listener(model)
        except OSError as error:
            self._listener = None
            print(f"{model}: no line ({error}); the router asks it through Triton", file=sys.stderr, flush=True)
            return
        threading.Thread(target=self._listen, args=(self._listener,), name="line", daemon=True).start()

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Call the model when nobody else does."""
        with self._busy:
            return self._run(inputs)

    def close(self) -> None:
        """End after the call under way; who asks later is told and goes elsewhere."""
        if self._listener is not None:
            self._listener.close()
        free = self._busy.acquire(timeout=PATIENCE_S)
        self._closed = True
        if free:
            self._busy.release()
        callers = list(self._callers.items())
        for caller, _ in callers:
            caller.hang_up()
        deadline = time.monotonic() + LAST_WORDS_S
        for _, thread in callers:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _listen(self, listener: Listener) -> None:
        with contextlib.suppress(Gone):
            while True:
                caller = listener.accept()
                thread = threading.Thread(target=self._serve, args=(caller,), name="line", daemon=True)
                self._callers[caller] = thread
                try:
                    thread.start()
                except RuntimeError:  # the system gives no thread: it is not greeted
                    self._let_go(caller)

    def _serve(self, caller: Channel) -> None:
        try:
            with contextlib.suppress(Gone, Died):
                caller.greet()
                while True:
                    inputs = caller.receive()
                    with self._busy:
                        self._answer(caller, inputs)
        finally:
            self._let_go(caller)

    def _answer(self, caller: Channel, inputs: np.ndarray) -> None:
        if self._closed:
            caller.end()
            return
        started = time.perf_counter()
        try:
            outputs = np.ascontiguousarray(self._run(inputs), dtype=self._dtype)
            caller.send(outputs, time.perf_counter() - started)
        except Gone:
            raise
        except Exception as error:  # noqa: BLE001 - the runtimes' own error types are not public
            caller.fail(f"the model failed on {len(inputs)} rows: {type(error).__name__}: {error}")

    def _let_go(self, caller: Channel) -> None:
        self._callers.pop(caller, None)
        caller.close()
