"""Starts the peer of `serving.fastapi` (fastapi_peer.py) in processes of its own, and calls it over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.command import ROOT
from benchmarks.peer import PACKAGES

PATIENCE, TRIES = 60.0, 50
"""Seconds; connections tried for each that is wanted."""


@dataclass(frozen=True)
class Setup:
    """Processes, threads of the model in each, and whether it runs in a pool of threads or in the event loop."""

    workers: int
    threads: int
    pool: bool

    def __str__(self) -> str:
        where = "a pool of threads" if self.pool else "the event loop"
        return f"{self.workers} workers, {self.threads} threads of the model each, run in {where}"


class FastApi:
    """A model file behind FastAPI and uvicorn while it is open. `row` is what one row of its input looks like."""

    def __init__(self, model: Path, row: np.ndarray, setup: Setup, log: Path):
        if not (PACKAGES / "fastapi").exists():
            raise SystemExit(f"found no fastapi in {PACKAGES.name}; expected the peer's packages: run `make bench`")
        self.setup, self._row, self._log = setup, row, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        given = {"PEER_MODEL": str(model), "PEER_WORKERS": str(setup.workers), "PEER_THREADS": str(setup.threads),
                 "PEER_POOL": str(int(setup.pool)), "PEER_DTYPE": str(row.dtype),
                 "PEER_SHAPE": ",".join(map(str, row.shape))}  # fmt: skip
        with log.open("w") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fastapi_peer", str(self.port)], cwd=ROOT, stdout=sink, stderr=sink,
                env={**os.environ, **given, "PYTHONPATH": os.pathsep.join([str(PACKAGES), str(ROOT)])},
                start_new_session=True,
            )  # fmt: skip
        self._calls: list[RawCaller] = []

    def __enter__(self) -> FastApi:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.calling()(self._row[None])
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise RuntimeError(f"the peer did not start:\n{self._log.read_text()[-3000:]}") from error
                time.sleep(0.2)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        for call in self._calls:
            call.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def calling(self) -> RawCaller:
        """A client of its own connection. Raises OSError when nothing listens."""
        self._calls.append(RawCaller(self.port))
        return self._calls[-1]

    def spread(self, count: int) -> list[RawCaller]:
        """Clients whose connections are shared evenly by the workers, as a balancer would.

        Left to the kernel, one worker may accept all of them, and the others do nothing. Raises RuntimeError.
        """
        share, found = count // self.setup.workers, dict[int, list[RawCaller]]()
        for _ in range(TRIES * count):
            call = self.calling()
            mine = found.setdefault(call.worker(), [])
            if len(mine) < share:
                mine.append(call)
            if sum(map(len, found.values())) == share * self.setup.workers:
                return [call for calls in found.values() for call in calls]
        raise RuntimeError(f"found workers with {[*map(len, found.values())]} connections; expected {share} each")


class RawCaller:
    """Rows as raw bytes over one HTTP connection, float32 outputs back. One thread at a time."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """[N, ...] in, [N, outputs] out. Raises OSError."""
        self._connection.request("POST", "/predict", inputs.tobytes())
        reply = self._connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise OSError(f"status {reply.status}: {body[:200]!r}")
        return np.frombuffer(body, np.float32).reshape(len(inputs), -1)

    def worker(self) -> int:
        """The process at the other end."""
        self._connection.request("GET", "/worker")
        return int(self._connection.getresponse().read())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
