"""Requests that no good client sends, beside good clients: mutated ones, slow ones, one that is huge.

None may be answered wrongly, none may hang; a server that such a request ended has to be back within 10 s, with all
that it had acknowledged. They come from another process, on the same cores. `p99_ratio` is the good clients' p99 beside
them by that without (at most 1.2 is wanted), median over the rounds, without what was under way in a restart. As a
control, `elsewhere` sends the huge request's bytes past the server, to a socket that drops them.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mutated_requests import Mutated
from benchmarks.serving_home import Published, direct
from benchmarks.serving_models import Network, linear
from benchmarks.soak_line import PROJECT, Clients, Line, Span, missing, opened, told
from dl_pipelines.store import durable

MUTATED, SLOW, HUGE_BYTES = 400, 200, 2**30
"""Of a round: requests; sockets; bytes of the one."""
SECONDS, LIMIT, PATIENCE = 6.0, 10.0, 60.0
"""How long good clients are watched without harm; for a restart; for a state that is waited for."""
PAUSE, LONG = 0.01, 3.0
"""Between mutated requests; what took longer is told beside a good client's failure."""
OTHER = "mutated"
P99_LIMIT = 1.2


class Watch:
    """Notes from when to when the server did not answer while it is open."""

    def __init__(self, line: Line):
        self._line, self._over = line, threading.Event()
        self.restarts, self.spans = 0, list[Span]()

    def __enter__(self) -> Watch:
        self._pid = self._alive()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _alive(self) -> int:
        state = self._line.server.state()
        return state.pid if state else 0

    def _run(self) -> None:
        while not self._over.wait(0.1):
            if self._alive() == self._pid:
                continue
            began, end = time.monotonic() - 0.2, time.monotonic() + PATIENCE
            while time.monotonic() < end and not self._answers():
                time.sleep(0.1)
            self._pid = self._alive()
            self.restarts += 1
            self.spans.append((began, time.monotonic() + 0.5))

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            control = self._line.server.control
            return control.ready() and control.model_ready(PROJECT)
        return False


def mutated(http_port: int, grpc: str, seed: int, count: int) -> dict[str, Any]:
    """Send mutated requests; the outcomes, and what was wrong."""
    sender = Mutated(http_port, grpc, OTHER, seed, direct(OTHER), depth=200)
    found: dict[str, Any] = {"answered": 0, "refused": 0, "wrong": [], "long": []}
    for place in range(count):
        started = time.monotonic()
        try:
            found[sender.send()] += 1
        except AssertionError as error:
            found["wrong"].append(f"mutated, seed {seed}: {error}")
        if (took := time.monotonic() - started) > LONG:
            found["long"].append(f"request {place} took {took:.1f} s")
        time.sleep(PAUSE)
    return found


def slow(http_port: int, count: int, seconds: float) -> dict[str, Any]:
    """Sockets that send a good request's first bytes one by one, and never its end."""
    head = f"POST /v2/models/{PROJECT}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode()
    end, place = time.monotonic() + seconds, 0
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", http_port))) for _ in range(count)]
        while time.monotonic() < end:
            for each in sockets:
                with contextlib.suppress(OSError):  # the server may end it
                    each.sendall(head[place : place + 1] or b" ")
            place += 1
            time.sleep(max(0.0, min(0.5, end - time.monotonic())))
    return {"slow": count, "wrong": []}


def huge(http_port: int, size: int) -> dict[str, Any]:
    """One request of so many bytes over HTTP, with a right head: it must be refused, or the connection end."""
    connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=PATIENCE)
    piece, wrong = bytes(2**20), list[str]()
    try:
        connection.putrequest("POST", f"/v2/models/{PROJECT}/infer")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        for _ in range(size // len(piece)):
            connection.send(piece)
        status = connection.getresponse().status
        if status == 200:
            wrong.append("a request of zeros was answered")
    except TimeoutError:
        wrong.append(f"no end of a request of {size} bytes within {PATIENCE:g} s")
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    return {"huge": 1, "wrong": wrong}


def elsewhere(size: int) -> dict[str, Any]:
    """As many bytes as `huge` sends, through a socket that no server of ours reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = threading.Thread(target=_drop, args=(listener,))
        reader.start()
        with socket.create_connection(listener.getsockname()) as sender:
            piece = bytes(2**20)
            for _ in range(size // len(piece)):
                sender.sendall(piece)
        reader.join()
    return {"wrong": []}


def _drop(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        buffer = bytearray(2**16)
        while connection.recv_into(buffer):
            pass


def one(folder: Path, number: int, mutations: int = MUTATED, slows: int = SLOW, size: int = HUGE_BYTES,
        seconds: float = SECONDS) -> dict[str, Any]:  # fmt: skip
    """A round: good clients alone, then beside each kind of harm. Counts, ratios of p99, faults."""
    found: dict[str, Any] = {"answered": 0, "refused": 0, "slow": 0, "huge": 0, "restarts": 0, "slowest": 0.0}
    ratios: dict[str, float] = {}
    faults: list[str] = []
    acknowledged: dict[str, bytes] = {}
    others = {OTHER: Published(_numbers(folder), _settings())}
    with opened(folder, others=others) as line, ProcessPoolExecutor(1, get_context("spawn")) as process:
        port, address = line.http, line.server.grpc
        harms: dict[str, tuple[Any, ...]] = {
            "mutated": (mutated, port, address, number, mutations), "slow": (slow, port, slows, seconds),
            "huge": (huge, port, size), "elsewhere": (elsewhere, size),
        }  # fmt: skip
        process.submit(_nothing).result()  # it has imported what it needs
        for name, harm in random.Random(number).sample(sorted(harms.items()), len(harms)):
            with _beside(line, f"{number}/{name}/before/", acknowledged, faults) as quiet:
                time.sleep(seconds)
            with Watch(line) as watch, _beside(line, f"{number}/{name}/", acknowledged, faults) as loaded:
                done = process.submit(*harm).result()
                time.sleep(0.5)
            faults += done.pop("wrong")
            long = ", ".join(done.pop("long", [])) or "none took long"
            for key, value in done.items():
                found[key] += value
            found["restarts"] += watch.restarts
            lost = [end - start for start, end in watch.spans]
            found["slowest"] = max([found["slowest"], *lost])
            faults += [f"{took:.1f} s until the server was back from {name}" for took in lost if took > LIMIT + 0.7]
            if not watch.restarts:
                why = [f"{reason} ({count})" for reason, count in loaded.failures.items()]
                faults += [f"a good client beside {name}: {reason}; {long}" for reason in why]
            ratios[name] = loaded.p99(watch.spans) / quiet.p99()
        checked = missing(line.workspace, acknowledged)
    faults += [f"{name}: {told(checked[name])}" for name in ("lost", "doubled", "changed") if checked[name]]
    return {**found, "acknowledged": len(acknowledged), "lost": len(checked["lost"]), "p99": ratios, "faults": faults}


@contextlib.contextmanager
def _beside(line: Line, name: str, acknowledged: dict[str, bytes], faults: list[str]) -> Iterator[Clients]:
    """Good clients while the block runs."""
    with Clients(line, name=name) as clients:
        yield clients
    acknowledged.update(clients.acknowledged)
    faults += [f"answered wrongly: {text}" for text in clients.wrong]


def _nothing() -> None:
    pass


def _numbers(folder: Path) -> Network:
    """`x` float32 [4] to `y` float32 [2], as the mutated requests ask for."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.array([[1, 2], [1, 2], [1, 2], [1, 2]], np.float32)
    return linear(folder / "numbers.onnx", weights, np.zeros((1, 4), np.float32), ("x", "y"), "tensor")


def _settings() -> Any:
    from dl_pipelines.brief.live import Serving

    return Serving(max_batch=8)


def soak(folder: Path, minutes: float) -> dict[str, object]:
    """Send for so many minutes; the counts of all soaks in `folder` so far."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "requests.json"
    names = ("answered", "refused", "slow", "huge", "acknowledged", "lost", "restarts")
    counts: dict[str, Any] = {"rounds": 0, **dict.fromkeys(names, 0), "slowest": 0.0, "p99": {}, "faults": []}
    if state.exists():
        counts = durable.read_json(state)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        number = counts["rounds"]
        shutil.rmtree(folder / "requests", ignore_errors=True)
        found = one(folder / "requests", number)
        for name in names:
            counts[name] += found[name]
        for name, ratio in found["p99"].items():
            counts["p99"].setdefault(name, []).append(round(ratio, 3))
        counts["rounds"], counts["slowest"] = number + 1, max(counts["slowest"], round(found["slowest"], 2))
        counts["faults"] += [{"round": number, "fault": fault[:2000]} for fault in found["faults"]]
        durable.write_json(state, counts)
    ratios = {name: round(statistics.median(values), 3) for name, values in counts.pop("p99").items()}
    sent = counts["answered"] + counts["refused"]
    return {"name": "soak.requests", "minutes": minutes, "mutated": sent, "p99_ratio": ratios, "p99_limit": P99_LIMIT,
            **counts}  # fmt: skip
