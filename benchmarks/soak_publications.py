"""Publishes models that are no good, and kills publishing at its operations, while clients ask: none may notice.

The tests of publishing have the same bad models and kills (bad_models.py, faults.py), in small numbers. A round has a
home of its own with two good models; a soak that is stopped loses the round that it was in.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dl_pipelines.brief.live import Serving
from dl_pipelines.brief.references import SourceRef
from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace

BAD, BATCH = 40, 10
"""Bad publications of a round, and how many between two looks at the time."""
EVERY = 3
"""Of a flow's operations every third is killed at in a round, beginning with another one in the next."""


@contextlib.contextmanager
def published(folder: Path) -> Iterator[Any]:
    """A home with two published models, the first of which serves, and its server."""
    from benchmarks import tiny
    from benchmarks.faults import Pair
    from dl_pipelines.serving.publish import make_triton_repository
    from dl_pipelines.serving.server import running
    from dl_pipelines.serving.traffic import give_traffic
    from dl_pipelines.tasks.image_classification import ImageClassification

    task = ImageClassification(ImageClassification.Params(classes=("dark", "bright")))
    workspace = Workspace(Home(folder).prepare(), "tiny")
    tiny.make_window(workspace, task)
    serving = Serving.model_validate({"load_seconds": 0.3, "load_clients": 2, "max_batch": 8})
    given = serving, Data(source=SourceRef(name="digits")), task, Evaluation(resamples=100)
    with running(workspace.home, lazy=True):
        made = []
        for seed, day in enumerate((tiny.FIRST, tiny.SECOND)):
            tiny.make_compressed(workspace, day, task, seed, "onnxruntime")
            made.append(make_triton_repository(workspace, day, *given))
        give_traffic(workspace, made[1], tiny.SECOND, "the first")
        give_traffic(workspace, made[0], tiny.FIRST, "the start")
        yield Pair(workspace, *made)


def one(folder: Path, number: int, bad: int, end: float) -> dict[str, Any]:
    """A round: bad publications, then kills, until `end` (time.monotonic): counts and faults."""
    from benchmarks.bad_models import publish_bad
    from benchmarks.faults import FLOWS, Clients, Crashes, crash_everywhere, torn
    from benchmarks.tiny import FIRST
    from dl_pipelines.serving.champion import routed
    from dl_pipelines.serving.traffic import give_traffic

    found: dict[str, Any] = {"bad": 0, "kills": {}, "requests": 0, "failed": 0}
    faults: list[str] = []
    with published(folder) as pair, Clients(pair.workspace) as load:
        before = routed(pair.workspace)
        while found["bad"] < bad and time.monotonic() < end:
            first, found["bad"] = number * bad + found["bad"], found["bad"] + BATCH
            try:
                told = publish_bad(pair.workspace, pair.second, BATCH, first=first)
            except OSError as error:
                faults.append(f"the server ended at one of the bad models from {first} on: {error}")
                continue
            faults += [f"{kind}: {said}" for kind, pattern, said in told if not re.search(pattern, said)]
        if routed(pair.workspace) != before:
            faults.append(f"the routing table became {routed(pair.workspace)}")
        faults += torn(pair.workspace)
        with Crashes(pair.workspace) as crashes:
            for flow in FLOWS:
                if time.monotonic() < end:
                    try:
                        done = crash_everywhere(pair, crashes, (flow,), EVERY, 1 + number % EVERY)
                    except AssertionError as error:
                        faults.append(str(error))
                    else:
                        found["kills"][flow] = done[flow]
        give_traffic(pair.workspace, pair.first, FIRST, "the end")
    found["requests"], found["failed"] = load.requests, len(load.failures)
    return {**found, "faults": faults + [f"a client: {failure}" for failure in load.failures]}


def soak(folder: Path, minutes: float) -> dict[str, object]:
    """Publish for so many minutes; the counts of all soaks in `folder` so far."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "publications.json"
    counts: dict[str, Any] = {"rounds": 0, "bad": 0, "kills": {}, "requests": 0, "failed": 0, "faults": []}
    if state.exists():
        counts = durable.read_json(state)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        number = counts["rounds"]
        shutil.rmtree(folder / "publications", ignore_errors=True)
        found = one(folder / "publications", number, BAD, end)
        for name in ("bad", "requests", "failed"):
            counts[name] += found[name]
        for flow, count in found["kills"].items():
            counts["kills"][flow] = counts["kills"].get(flow, 0) + count
        counts["rounds"] = number + 1
        counts["faults"] += [{"round": number, "fault": fault[:2000]} for fault in found["faults"]]
        durable.write_json(state, counts)
    return {"name": "soak.publications", "minutes": minutes, **counts}
