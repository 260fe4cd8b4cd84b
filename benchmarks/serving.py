"""An int8 ResNet-18 behind the project's router, its log on: against the runtime in process, and against FastAPI.

`latency`: what one client waits beyond the runtime itself, by each transport; `throughput`: several clients over gRPC
against the runtime in process; `fastapi`: 32 clients over HTTP, both sides with the same files. Images are 602 KB of
float32. The clients run on the cores that serve.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contract import Comparison, added, main, paired
from benchmarks.fastapi_server import FastApi, Setup
from benchmarks.rounds import Call, latencies, require_same, throughput, throughputs
from benchmarks.serving_home import Published, direct, logged, served
from benchmarks.serving_models import Network, resnet

LIMITS = {"added_p50": 0.6, "throughput": 0.7, "fastapi": 2.0}
"""Milliseconds; shares of the peer's rows a second."""
THREADS, CLIENTS, MANY = 2, 8, 32
ROUNDS, CALLS = 9, 50
PAIRS, SECONDS, TRIAL = 7, 2.0, 1.0
DURABILITIES = ("process", "disk")
DIRECT = "direct "
"""How the sides begin that ask the model without router and log."""
TOLERANCE, BETWEEN_RUNTIMES = 1e-4, 0.2
"""Of outputs whose deviation is 1.9: between two runtimes a rounding of int8 may fall otherwise."""
SETUPS = {"one": (1, THREADS), "two": (THREADS, 1)}
"""Instances, and threads of each, that are tried on our side."""
PEER_SETUPS = (Setup(1, THREADS, False), Setup(1, THREADS, True), Setup(THREADS, 1, False))


def _scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=folder, prefix="home-")


def _about(network: Network) -> dict[str, Any]:
    return {"network": network.name, "weights": "random", "input_bytes": network.bytes,
            "cores": len(os.sched_getaffinity(0)), "log": "on"}  # fmt: skip


def latency(folder: Path) -> Iterator[Comparison]:
    """By gRPC, HTTP and shared memory; the figure is that of the best, and the others stand beside it.

    So does what the model alone takes behind the same server, without router and log: the least that is to be had.
    """
    from dl_pipelines.brief.live import Serving
    from dl_pipelines.inference.runtimes import open_runtime
    from dl_pipelines.serving.protocols import PROTOCOLS, connecting

    network = resnet(folder)
    with contextlib.ExitStack() as stack:
        projects = {
            name: Published(network, Serving(max_batch=8, threads=THREADS, durability=name)) for name in DURABILITIES
        }
        server = stack.enter_context(served(Path(stack.enter_context(_scratch(folder))), projects))
        alone = open_runtime("openvino", network.ir, THREADS, "int8").run
        for project in DURABILITIES:
            sides: dict[str, Call] = {"in process": alone}
            for protocol in PROTOCOLS:
                for side, asked in ((protocol, project), (f"{DIRECT}{protocol}", direct(project))):
                    sides[side] = call = connecting(protocol, server, asked, network.signature)()
                    stack.callback(call.close)
            same = require_same(sides, network.rows, TOLERANCE)
            found = latencies(sides, network.rows, ROUNDS, CALLS)
            about = {**_about(network), "durability": project, "model_threads": THREADS, "clients": 1,
                     "calls_a_round": CALLS, "tolerance": TOLERANCE, "difference": same}  # fmt: skip
            ending = "" if project == DURABILITIES[0] else f"_{project}"
            yield from _by_transport(f"serving.added_p50{ending}", found, about)


def _by_transport(name: str, found: Mapping[str, Sequence[float]], about: dict[str, Any]) -> Iterator[Comparison]:
    """One comparison each; the best has the plain name."""
    peer, limit = found["in process"], LIMITS["added_p50"]
    each = {side: added(name, times, peer, limit, "ms", **about) for side, times in found.items() if times is not peer}
    told = {side: comparison.ours for side, comparison in each.items() if not side.startswith(DIRECT)}
    alone = {side.removeprefix(DIRECT): comparison.ours for side, comparison in each.items() if side not in told}
    best = min(told, key=lambda side: told[side])
    yield added(name, found[best], peer, limit, "ms", transport=best, by_transport=told, direct=alone, **about)


def throughput_in_process(folder: Path) -> Iterator[Comparison]:
    """With the images of the other parts, and with those that the project's own image models take (uint8)."""
    for dtype, ending in (("float32", ""), ("uint8", "_uint8")):
        network = resnet(folder, dtype)
        yield from _saturated(folder, network, f"serving.throughput{ending}")


def _saturated(folder: Path, network: Network, name: str) -> Iterator[Comparison]:
    from dl_pipelines.serving.client import Caller

    with _scratch(folder) as home, served(Path(home), _setups(network)) as server, contextlib.ExitStack() as stack:

        def calling(project: str) -> Call:
            call = Caller.of(server.grpc, project, network.signature)
            stack.callback(call.close)
            return call

        ours = {f"{clients} clients, {project}": [calling(project) for _ in range(clients)]
                for project in SETUPS for clients in (CLIENTS, 2 * CLIENTS)}  # fmt: skip
        peers = _in_process(network)
        firsts = {side: calls[0] for side, calls in {**peers, **ours}.items()}
        same = require_same(firsts, network.rows, TOLERANCE)
        mine, theirs = _best(ours, network), _best(peers, network)
        flow = throughputs({"ours": ours[mine], "peer": peers[theirs]}, network.rows, PAIRS, SECONDS)
        project = mine.rpartition(" ")[2]
        yield paired(name, flow["ours"], flow["peer"], "rows/s", higher=True, limit=LIMITS["throughput"], goal=0.95,
                     transport="gRPC", ours_by=_told(mine), peer_by=theirs, tolerance=TOLERANCE, difference=same,
                     logged_rows=logged(server, project), durability="process", **_about(network))  # fmt: skip


def _setups(network: Network, runtime: str = "openvino", ending: str = "") -> dict[str, Published]:
    from dl_pipelines.brief.live import Serving

    return {
        f"{name}{ending}": Published(network, Serving(max_batch=8, threads=threads, instances=instances), runtime)
        for name, (instances, threads) in SETUPS.items()
    }


def _in_process(network: Network, runtime: str = "openvino") -> dict[str, list[Call]]:
    from dl_pipelines.inference.runtimes import open_runtime

    file = _file(network, runtime)
    return {
        f"{callers} callers of {threads} threads": [
            open_runtime(runtime, file, threads, "int8").run for _ in range(callers)
        ]
        for callers, threads in SETUPS.values()
    }


def _file(network: Network, runtime: str) -> Path:
    return network.ir if runtime == "openvino" else network.onnx


def _best(sides: Mapping[str, Sequence[Call]], network: Network) -> str:
    """The side with most rows a second, each tried once."""
    return max(sides, key=lambda side: throughput(sides[side], network.rows, TRIAL))


def _told(side: str) -> str:
    clients, _, project = side.rpartition(" ")
    instances, threads = SETUPS[project.partition("_")[0]]
    return f"{clients} {instances} instances of {threads} threads"


def fastapi(folder: Path) -> Iterator[Comparison]:
    """One int8 graph in all: ours as compression chooses (OpenVINO) against FastAPI with ONNX Runtime; then each alike.

    Both sides' settings are chosen by a short trial. Beside each ratio stands the one of our runtime in process: of a
    server that costs nothing.
    """
    network = resnet(folder)
    with contextlib.ExitStack() as stack:
        projects = {**_setups(network), **_setups(network, "onnxruntime", "_onnx")}
        server = stack.enter_context(served(Path(stack.enter_context(_scratch(folder))), projects))
        sides: dict[str, Sequence[Call]] = {}
        told: dict[str, str] = {}
        for runtime, ending in (("openvino", ""), ("onnxruntime", "_onnx")):
            mine = {f"{MANY} clients, {name}{ending}": _over_http(stack, server, f"{name}{ending}", network)
                    for name in SETUPS}  # fmt: skip
            chosen = _best(mine, network)
            sides[f"ours {runtime}"], told[f"ours {runtime}"] = mine[chosen], _told(chosen)
            file = _file(network, runtime)
            setup = _best_setup(file, network, folder)
            peer = stack.enter_context(FastApi(file, network.rows[0], setup, folder / f"{runtime}.log"))
            sides[f"FastAPI {runtime}"] = peer.spread(MANY)
            told[f"FastAPI {runtime}"] = str(setup)
            alone = _in_process(network, runtime)
            sides[f"in process {runtime}"] = alone[_best(alone, network)]
        firsts = {side: calls[0] for side, calls in sides.items()}
        same = require_same(firsts, network.rows, BETWEEN_RUNTIMES)
        flow = throughputs(sides, network.rows, PAIRS, SECONDS)
        about = {"clients": MANY, "transport": "HTTP", "tolerance": BETWEEN_RUNTIMES, "difference": same,
                 "durability": "process", "limit": LIMITS["fastapi"], **_about(network)}  # fmt: skip
        for name, ours, theirs in (
            ("serving.fastapi", "openvino", "onnxruntime"),
            ("serving.fastapi_openvino", "openvino", "openvino"),
            ("serving.fastapi_onnxruntime", "onnxruntime", "onnxruntime"),
        ):
            mine, peer, alone = f"ours {ours}", f"FastAPI {theirs}", flow[f"in process {ours}"]
            free = paired(name, alone, flow[peer], "rows/s", higher=True)
            yield paired(name, flow[mine], flow[peer], "rows/s", higher=True, ours_by=f"{ours}: {told[mine]}",
                         peer_by=f"FastAPI and uvicorn, {theirs}: {told[peer]}", in_process=free.ours,
                         in_process_ratio=free.ratio, **about)  # fmt: skip


def _over_http(stack: contextlib.ExitStack, server: Any, project: str, network: Network) -> list[Call]:
    from dl_pipelines.serving.protocols import connecting

    make: Callable[[], Any] = connecting("http", server, project, network.signature)
    calls = [make() for _ in range(MANY)]
    for call in calls:
        stack.callback(call.close)
    return calls


def _best_setup(model: Path, network: Network, folder: Path) -> Setup:
    """The peer's strongest."""
    found: dict[Setup, float] = {}
    for setup in PEER_SETUPS:
        with FastApi(model, network.rows[0], setup, folder / "trial.log") as peer:
            found[setup] = throughput(peer.spread(MANY), network.rows, TRIAL)
    return max(found, key=lambda setup: found[setup])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        named = {"latency": latency, "throughput": throughput_in_process, "fastapi": fastapi}
        main({name: functools.partial(part, Path(scratch)) for name, part in named.items()}, __doc__ or "")
