"""What the project's router adds to a model in the same Triton: latency of one client, throughput of several.

The log is on, in both durabilities. `small` has as small a model as the digits', `large` an int8 ResNet-18 whose images
are 602 KB; models and router as they are published, asked over gRPC by the project's own client.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contract import Comparison, added, main, paired
from benchmarks.rounds import latencies, require_same, throughputs
from benchmarks.serving_home import Published, direct, logged, served
from benchmarks.serving_models import Network, resnet, tiny

LIMITS = {"added_p50": 0.5, "throughput": 0.6}
"""Milliseconds; share of the direct model's."""
ROUNDS, CALLS = 11, 60
PAIRS, SECONDS, CLIENTS = 7, 1.5, 8
DURABILITIES = ("process", "disk")
TOLERANCE = 1e-4


def small() -> Iterator[Comparison]:
    """The tiny model."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        yield from compared(Path(scratch), "", tiny(Path(scratch)), threads=1)


def large() -> Iterator[Comparison]:
    """ResNet-18."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        yield from compared(Path(scratch), "resnet_", resnet(Path(scratch)), threads=2)


def compared(folder: Path, prefix: str, network: Network, threads: int) -> Iterator[Comparison]:
    """Router against direct model, by both durabilities."""
    from dl_pipelines.brief.live import Serving
    from dl_pipelines.serving.client import Caller

    projects = {
        name: Published(network, Serving(max_batch=16, threads=threads, durability=name)) for name in DURABILITIES
    }
    with served(folder / "home", projects) as server, contextlib.ExitStack() as stack:

        def calling(model: str) -> Any:
            call = Caller.of(server.grpc, model, network.signature)
            stack.callback(call.close)
            return call

        for project in DURABILITIES:
            sides = {"direct": calling(direct(project)), "router": calling(project)}
            about = {"durability": project, "network": network.name, "input_bytes": network.bytes,
                     "model_threads": threads, "queue_delay_ms": 0, "cores": len(os.sched_getaffinity(0)),
                     "tolerance": TOLERANCE, "difference": require_same(sides, network.rows, TOLERANCE),
                     "transport": "gRPC"}  # fmt: skip
            found = latencies(sides, network.rows, ROUNDS, CALLS)
            ending = "" if project == DURABILITIES[0] else f"_{project}"
            yield added(f"router.{prefix}added_p50{ending}", found["router"], found["direct"], LIMITS["added_p50"],
                        "ms", calls_a_round=CALLS, clients=1, **about)  # fmt: skip
            models = {"direct": direct(project), "router": project}
            many = {name: [calling(model) for _ in range(CLIENTS)] for name, model in models.items()}
            flow = throughputs(many, network.rows, PAIRS, SECONDS)
            yield paired(f"router.{prefix}throughput{ending}", flow["router"], flow["direct"], "rows/s", higher=True,
                         limit=LIMITS["throughput"], clients=CLIENTS, seconds=SECONDS,
                         logged_rows=logged(server, project), **about)  # fmt: skip


if __name__ == "__main__":
    main({"small": small, "large": large}, __doc__ or "")
