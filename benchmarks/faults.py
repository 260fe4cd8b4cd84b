"""Faults of publishing: a process killed at any operation, models that are no good, clients that must notice nothing.

For tests, with small numbers, and for the soak, with large ones. They work on a home with published models of
benchmarks/tiny.py, whose server runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.command import ROOT
from benchmarks.tiny import FIRST, SECOND, reference
from dl_pipelines.brief.live import Router
from dl_pipelines.serving import repository
from dl_pipelines.serving.champion import kept_models, ledger, routed
from dl_pipelines.serving.client import Caller
from dl_pipelines.serving.repair import reconcile
from dl_pipelines.serving.served import served
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.serving.traffic import give_traffic
from dl_pipelines.serving.trial import put_challenger
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Partition, Workspace


@dataclass
class Clients:
    """Threads that ask a project's router for single rows until the block ends, and count what is wrong.

    An answer is right when one of the `allowed` models (seeds of benchmarks/tiny.py) gives it.
    """

    workspace: Workspace
    count: int = 2
    allowed: Sequence[int] = (0, 1, 2)
    pause: float = 0.002
    requests: int = 0
    by_model: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0

    def __enter__(self) -> Clients:
        rng = np.random.default_rng(5)
        self._inputs = rng.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8)
        self._expected = {seed: reference(self._inputs, seed) for seed in self.allowed}
        self._over, self._guard = threading.Event(), threading.Lock()
        address = TritonServer(self.workspace.home).grpc
        self._threads = [threading.Thread(target=self._ask, args=(address, n)) for n in range(self.count)]
        for thread in self._threads:
            thread.start()
        while self.requests < self.count and any(thread.is_alive() for thread in self._threads):
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, address: str, number: int) -> None:
        from tritonclient.utils import InferenceServerException

        call, place = Caller(address, self.workspace.project, "image", "logits", 5000), 0
        try:
            while not self._over.is_set():
                row, started = place % len(self._inputs), time.perf_counter()
                wrong, seed = "", -1
                try:
                    found = call(self._inputs[row : row + 1], f"load/{number}/{place}/{time.time_ns()}")[0]
                    right = [seed for seed in self.allowed if np.allclose(found, self._expected[seed][row], atol=1e-4)]
                    seed, wrong = (right[0], "") if right else (-1, f"answered {found.tolist()}")
                except InferenceServerException as error:
                    wrong = str(error)
                took = 1000 * (time.perf_counter() - started)
                with self._guard:
                    self.requests += 1
                    self.slowest_ms = max(self.slowest_ms, took)
                    if wrong:
                        self.failures.append(wrong)
                    else:
                        self.by_model[seed] += 1
                place += 1
                time.sleep(self.pause)
        finally:
            call.close()


@dataclass(frozen=True)
class Crash:
    """A flow that ran in a process of its own: the operations that it came to; `ended` when it was not killed."""

    operations: list[str]
    ended: bool
    said: str


class Crashes:
    """Runs flows in children that are killed before their n-th operation (benchmarks/crashing.py lists them)."""

    def __init__(self, workspace: Workspace):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.crashing", str(workspace.home.root), workspace.project],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Crashes:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)

    def run(self, flow: str, kill_at: int = 0, **given: Any) -> Crash:
        """Run a flow; killed before operation `kill_at` (from 1; 0: never)."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"flow": flow, "kill_at": kill_at, **given}) + "\n")
        self._process.stdin.flush()
        return Crash(**json.loads(self._process.stdout.readline()))


def torn(workspace: Workspace) -> Iterator[str]:
    """What is not whole after a repair: nothing, if all is well."""
    table, folder = routed(workspace), workspace.home.repository
    if table is None:
        yield "no routing table"
        return
    if again := reconcile(workspace):
        yield f"a second repair found {again}"
    now = served(workspace)
    if now.open or [arm.model for arm in now.arms] != list(table.models):
        yield f"the ledger has {[arm.model for arm in now.arms]}, the table {table.models}"
    there = {path.name for path in folder.iterdir()}
    if extra := there - kept_models(workspace) - {workspace.project}:
        yield f"folders of no model that is kept: {sorted(extra)}"
    if left := list((workspace.home.server / "incoming").glob("*")):
        yield f"unfinished copies: {left}"
    digests = {row["model"]: row["digest"] for row in ledger(workspace)}
    for model in table.models:
        artifact = workspace.by_digest("triton_repository", digests[model])
        if not repository.is_sound(workspace.home, model, repository.model_files(artifact)):
            yield f"the folder of {model} is not its artifact's"
    versions = Counter(row["evidence"].get("version") for row in ledger(workspace) if row["event"] != "published")
    if twice := {version: count for version, count in versions.items() if version is not None and count > 1}:
        yield f"moves that are in the ledger twice: {twice}"


FLOWS = ("promote", "rollback", "put_challenger", "end_trial", "publish")
"""What is killed, in the words of benchmarks/crashing.py."""


@dataclass
class Pair:
    """Two published models of a project, and the states that flows start from; the first serves before each.

    `deaths` says during what the server itself died: this Triton's Python backend crashed three times in some 500 loads
    on a busy machine (SIGSEGV in ModelInstanceExecute), and its supervisor starts it again.
    """

    workspace: Workspace
    first: Artifact
    second: Artifact
    days: tuple[Partition, Partition] = (FIRST, SECOND)
    number: int = 1000
    deaths: list[str] = field(default_factory=list)

    def start(self, flow: str) -> dict[str, Any]:
        """Bring the project into the state before a flow; what the flow is given."""
        self.number += 2
        second = {"day": self.days[1].day.isoformat()}
        give_traffic(self.workspace, self.first, self.days[0], f"the start of {self.number}")
        if flow in ("promote", "put_challenger"):
            repository.remove(self.workspace.home, self.second.read_json("model.json")["model"])
        if flow == "rollback":
            give_traffic(self.workspace, self.second, self.days[1], f"better, {self.number}")
        if flow == "end_trial":
            put_challenger(
                self.workspace, self.second, share=0.5, salt="s", revision=self.number, router=Router(timeout_ms=2000)
            )
        given = {
            "promote": second,
            "put_challenger": {**second, "share": self.number % 4 / 4, "revision": self.number},
            "publish": {**second, "number": self.number},
        }
        return given.get(flow, {"number": self.number, "revision": self.number + 1})


def crash_at(pair: Pair, crashes: Crashes, flow: str, number: int) -> Crash:
    """Kill a flow before its n-th operation, then look: who serves is whole, a repair completes it, it can go on.

    Raises AssertionError on a torn state. A rollback that has moved the traffic is not asked for again: that would be
    a second one.
    """
    workspace, given, server = pair.workspace, pair.start(flow), TritonServer(pair.workspace.home)
    before, pid = routed(workspace), server.start().pid
    crash = crashes.run(flow, number, **given)
    table = routed(workspace)
    assert before and table, "a table was there and is"
    where = f"{flow} killed before operation {number} ({crash.operations[-1:]}, {crash.said})"
    assert not crash.said, where
    reconcile(workspace)
    assert routed(workspace) == table, f"{where}: a repair moves no traffic"
    assert (wrong := list(torn(workspace))) == [], f"{where}: {wrong}"
    if flow != "rollback" or table == before:
        again = crashes.run(flow, **given)
        if again.said and server.start().pid != pid:
            pair.deaths.append(where)
            again = crashes.run(flow, **given)
        assert again.ended and not again.said, f"{where}: the next try said {again.said}"
        assert (wrong := list(torn(workspace))) == [], f"after the next try, {where}: {wrong}"
    return crash


def crash_everywhere(
    pair: Pair, crashes: Crashes, flows: Sequence[str] = FLOWS, every: int = 1, first: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:  # fmt: skip
    """Kill each flow before every (or each `every`-th, from `first` on) of its operations; how many by flow."""
    done: dict[str, int] = {}
    for flow in flows:
        number, ended = first, False
        while not ended:
            crash = crash_at(pair, crashes, flow, number)
            ended, number = crash.ended, number + every
            done[flow] = done.get(flow, 0) + (not ended)
            tell(f"{flow}: killed {done[flow]} times, last before {crash.operations[-1]}")
    return done
