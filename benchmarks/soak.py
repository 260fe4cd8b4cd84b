"""Kills what works, for as long as told, and looks at what it left: writers, workers of a training, what serves.

`python -m benchmarks.soak [PART ...] --minutes N [--folder DIR]` goes on where an earlier soak in the same folder
stopped, and prints one JSON object a part with the count it reached. N is shared by the parts, all without PART.
`durable_writes` kills a writer at every operation; a reader must find nothing, or a whole artifact; never half of one.
`training` kills workers, `serving` what answers, `requests` and `publications` send and publish what is no good, `demo`
runs `dlp demo ab` (`soak_*.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from benchmarks import soak_demo, soak_publications, soak_requests, soak_serving, soak_training
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import ArtifactError, Draft
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

FIRST = date(2026, 1, 1)
OPERATIONS = 60
"""More durable operations than one artifact takes, so that some writers also end by themselves."""


def build(size: int) -> Callable[[Draft], None]:
    """A build function that writes three files of `size` bytes."""

    def write(draft: Draft) -> None:
        for number in range(3):
            durable.write_bytes(draft.file(f"part-{number}.bin"), bytes([number]) * size)
        draft.write_json("sizes.json", {"size": size})

    return write


def victim(workspace: Workspace, partition: Partition, size: int, fatal: int) -> None:
    """In a child process: make an artifact, and die at the operation `fatal` (counted from 1)."""
    count = 0

    def hook(operation: str, path: Path) -> None:
        nonlocal count
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    with durable.inject(hook):
        workspace.make("soak", partition, build(size), settings={"size": size}, parents={})


def one(workspace: Workspace, number: int, draw: random.Random) -> tuple[bool, str | None]:
    """Kill one writer, read, write again: whether it died, and what was wrong with what it left (None: nothing)."""
    partition = Partition(FIRST + timedelta(days=number % 20_000))
    size, fatal = draw.randint(1, 4096), draw.randint(1, OPERATIONS)
    child = os.fork()
    if child == 0:
        victim(workspace, partition, size, fatal)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    try:
        found = workspace.find("soak", partition)
        if found is not None:
            found.verify()
        again = workspace.make("soak", partition, build(size), settings={"size": size}, parents={}).verify()
    except ArtifactError as error:
        return os.WIFSIGNALED(status), str(error)
    if found is not None and found.digest != again.digest:
        return os.WIFSIGNALED(status), f"found digest {found.short}, then {again.short}"
    return os.WIFSIGNALED(status), None


def soak(folder: Path, minutes: float) -> dict[str, object]:
    """Kill for so many minutes; the counts of all soaks in `folder` so far."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "soak.json"
    counts = durable.read_json(state) if state.exists() else {"kills": 0, "writers": 0, "faults": []}
    workspace = Workspace(Home(folder / "home").prepare(), "soak")
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        killed, fault = one(workspace, counts["writers"], random.Random(counts["writers"]))
        counts["writers"] += 1
        counts["kills"] += killed
        if fault:
            counts["faults"].append({"writer": counts["writers"] - 1, "fault": fault})
        if counts["writers"] % 100 == 0:
            durable.write_json(state, counts)
    durable.write_json(state, counts)
    return {"name": "soak.durable_writes", "minutes": minutes, **counts}


PARTS = {
    "durable_writes": (soak, 0.1),
    "training": (soak_training.soak, 0.4),
    "serving": (soak_serving.soak, 0.3),
    "requests": (soak_requests.soak, 0.1),
    "publications": (soak_publications.soak, 0.1),
    "demo": (soak_demo.soak, 0.1),
}
"""Each part, and its share of the minutes: a kill of a writer takes milliseconds, a demo a minute."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--folder", type=Path, default=Path(".dlp-soak"))
    arguments = parser.parse_args()
    chosen = arguments.parts or list(PARTS)
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"found {unknown[0]!r}; expected of {', '.join(PARTS)}")
    shares, faults = sum(PARTS[name][1] for name in chosen), 0
    for name in chosen:
        run, share = PARTS[name]
        result = run(arguments.folder.resolve(), arguments.minutes * share / shares)
        print(json.dumps(result), flush=True)
        faults += len(result["faults"])  # type: ignore[arg-type]
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
