"""Data-parallel training on one machine: ResNet-18, 112 px, bf16, by two workers of one thread each.

`scaling.horovod` compares them with one process of two threads on the same global batch, `scaling.ddp` with PyTorch's
DistributedDataParallel over gloo. `sockets` in the conditions is Horovod without shared memory: gradients by its own
all-reduce. All live through the whole run and train in turn; those that wait are stopped, because Horovod's background
thread works also when nothing is to be done.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.contract import Comparison, main, paired
from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.launch import die_with_parent, sandbox_prefix, worker_command, worker_environment

BATCH = 64
PAIRS, STEPS = 7, 10
LIMITS = {"horovod": 0.90, "ddp": 1.0}
GOALS = {"horovod": 0.97, "ddp": 1.05}
TOLERANCE = 1e-4
"""Of weights after three steps in fp32 with fixed norms, and of their losses."""
PATIENCE_SECONDS = 300
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "single": ("ours", {"communicator": "single", "workers": 1, "threads": 2}),
    "horovod": ("ours", {"communicator": "horovod", "workers": 2, "threads": 1}),
    "sockets": ("ours", {"communicator": "horovod", "workers": 2, "threads": 1, "shared_memory": False}),
    "ddp": ("ddp", {"communicator": "torch", "workers": 2, "threads": 1, "bucket_mb": 25}),
}


class Arm:
    """The workers of one way to train, while it is open; stopped but when asked."""

    def __init__(self, folder: Path, name: str, changed: Mapping[str, Any] | None = None):
        kind, plain = ARMS[name]
        self.folder, self.settings, self._asked = folder, Distributed(**{**plain, **(changed or {})}), 0
        folder.mkdir(parents=True)
        settings = {"distributed": self.settings.model_dump(mode="json"), "batch": BATCH, "arm": kind}
        job = folder / "job.json"
        job.write_text(json.dumps(settings))
        command = [
            *die_with_parent(),
            *sandbox_prefix(),
            *worker_command(job, self.settings, folder, "benchmarks.scaling_worker"),
        ]
        self._log = (folder / "launcher.log").open("w")
        # Horovod gives up on a worker that was stopped for half a minute, unless told otherwise.
        environment = {**worker_environment(self.settings.threads, folder), "HOROVOD_GLOO_TIMEOUT_SECONDS": "900"}
        self._process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)
        self._pids: list[int] = []

    def __enter__(self) -> Arm:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGCONT)
        (self.folder / f"go-{self._asked}").write_text("end")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._process.kill()
        self._process.wait()
        self._log.close()

    def ask(self, what: str) -> list[dict[str, Any]]:
        """What each rank answers to `check`, or to a number of steps."""
        self._signal(signal.SIGCONT)
        part = self.folder / "go-part"
        part.write_text(what)
        part.rename(self.folder / f"go-{self._asked}")
        ranks = range(self.settings.workers)
        files = [self.folder / f"done-{self._asked}-{rank}" for rank in ranks]
        end = time.monotonic() + PATIENCE_SECONDS
        while not all(file.exists() for file in files):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"workers of {self.folder.name} ended or did not answer:\n{self._told()}")
            time.sleep(0.02)
        self._asked += 1
        self._pids = [int((self.folder / f"pid-{rank}").read_text()) for rank in ranks]
        self._signal(signal.SIGSTOP)
        return [json.loads(file.read_text()) for file in files]

    def _signal(self, number: int) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _told(self) -> str:
        files = [self.folder / "launcher.log", *self.folder.rglob("stderr*")]
        return "\n".join(file.read_text()[-2000:] for file in files if file.is_file())


def measure(folder: Path) -> Iterator[Comparison]:
    """Both comparisons, from the same segments."""
    with contextlib.ExitStack() as stack:
        arms = {name: stack.enter_context(Arm(folder / name, name)) for name in ARMS}
        apart = difference({name: arm.ask("check") for name, arm in arms.items()})
        for arm in arms.values():
            arm.ask("2")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
        for pair in range(PAIRS):
            for name in list(arms)[:: 1 if pair % 2 == 0 else -1]:
                ranks = arms[name].ask(str(STEPS))
                slowest = max(item["seconds"] for item in ranks)
                found[name].append({"seconds": slowest, "cpu": sum(item["cpu"] for item in ranks)})
        settings = {name: told(arm.settings) for name, arm in arms.items()}
    step = {name: [item["seconds"] / STEPS for item in items] for name, items in found.items()}
    cpu = {name: [item["cpu"] / STEPS for item in items] for name, items in found.items()}
    for name, peer in (("horovod", "single"), ("ddp", "ddp")):
        by_cpu = paired("", cpu["horovod"], cpu[peer], "s")
        yield paired(
            f"scaling.{name}", step["horovod"], step[peer], "s a step", limit=LIMITS[name], goal=GOALS[name],
            batch=BATCH, steps=STEPS, samples_per_second={
                "ours": round(BATCH / median(step["horovod"]), 1), "peer": round(BATCH / median(step[peer]), 1)
            },
            cpu_seconds={"ours": by_cpu.ours, "peer": by_cpu.peer, "ratio": by_cpu.ratio},
            sockets=paired("", step["sockets"], step[peer], "s").ratio,
            settings=settings["horovod"], peer_settings=settings[peer], tolerance=TOLERANCE, apart=apart,
        )  # fmt: skip


def difference(checked: Mapping[str, list[dict[str, Any]]]) -> float:
    """The largest between the arms, of losses and weights. Raises RuntimeError above the tolerance."""
    ranks = [rank for arm in checked.values() for rank in arm]
    found = max(
        abs(one - other)
        for key in ("losses", "weights")
        for rank in ranks
        for one, other in zip(ranks[0][key], rank[key], strict=True)
    )
    if not found <= TOLERANCE:
        raise RuntimeError(f"losses or weights of the arms are {found} apart; expected at most {TOLERANCE}")
    return float(f"{found:.2g}")


def told(settings: Distributed) -> dict[str, Any]:
    """What of the settings matters here."""
    names = ["communicator", "workers", "threads", "compression"]
    more = {"torch": ["bucket_mb"], "horovod": ["shared_memory", "cycle_ms"]}.get(settings.communicator, [])
    return settings.model_dump(mode="json", include={*names, *more})


def median(values: list[float]) -> float:
    """Of a few numbers."""
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        main({"resnet": functools.partial(measure, Path(scratch))}, __doc__ or "")
