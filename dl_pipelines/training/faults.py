"""What can befall workers, and how it is told: killed, stopped, out of memory. Looks at processes and output only.

Not here: starting, ending and trying again (`supervise.py`).
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

LOOK_SECONDS = 1.0
"""How often the tree of processes is gone through; those that are known are looked at in between."""
STOPPED_LOOKS = 5
"""Looks at which a process is found stopped until that is a fault, so that a short stop (a debugger's) is none."""
TAIL = 15
CGROUPS, STATISTICS = Path("/sys/fs/cgroup"), Path("/proc/vmstat")

_WORKER = ["-m", "dl_pipelines.training.worker"]
_MEMORY = re.compile(
    r"^.*(?:MemoryError\b|can't allocate memory|Cannot allocate memory|CUDA out of memory|OutOfMemoryError"
    r"|std::bad_alloc|failed to map segment|CUDA error: out of memory|can't start new thread).*$",
    re.MULTILINE,
)
_PEER = re.compile(r"HorovodInternalError|Connection (?:closed|reset) by peer|Connection refused|Broken pipe|gloo/")


@dataclass(frozen=True)
class Fault:
    """What ended an attempt. `rank` is None for the launcher, or where nobody said which; `kind` is one word."""

    kind: str
    rank: int | None
    words: str
    noticed_seconds: float | None = None
    """From the last look at which all was well to the decision: noticing took at most so long."""

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {"kind": self.kind, "rank": self.rank, "noticed_seconds": self.noticed_seconds}


@dataclass
class _Seen:
    process: psutil.Process
    rank: int | None
    well: float
    """When it was last seen alive and not stopped, by the monotonic clock."""
    stopped: int = 0


@dataclass
class Watch:
    """The processes below a launcher: which are workers, which of them are stopped, when each was last well."""

    pid: int
    seen: dict[int, _Seen] = field(default_factory=dict)
    _looked: float = float("-inf")

    def look(self) -> Fault | None:
        """The fault of a process that stays stopped (SIGSTOP), else None; cheap enough for ten times a second."""
        now = time.monotonic()
        full = now - self._looked >= LOOK_SECONDS
        if full:
            self._looked = now
            self._find(now)
        for item in self.seen.values():
            status = _status(item.process)
            if status == psutil.STATUS_STOPPED:
                item.stopped += full
            elif status is not None:
                item.well, item.stopped = now, 0
            if item.stopped >= STOPPED_LOOKS:
                who = "the launcher" if item.rank is None else f"rank {item.rank}"
                return Fault("stopped", item.rank, f"{who} was stopped (SIGSTOP)", round(now - item.well, 2))
        return None

    @property
    def processes(self) -> list[psutil.Process]:
        """Every process that was seen and is not known to be gone."""
        return [item.process for item in self.seen.values()]

    def since_well(self, rank: int | None) -> float | None:
        """Seconds since a rank, or the first that was lost of all, was last seen running; None where none was seen."""
        last = [item.well for item in self.seen.values() if item.rank is not None and rank in (None, item.rank)]
        return round(time.monotonic() - min(last), 2) if last else None

    def _find(self, now: float) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.pid)
            for process in (top, *top.children(recursive=True)):
                rank = rank_of(process)
                if process.pid not in self.seen or (rank is not None and self.seen[process.pid].rank is None):
                    self.seen[process.pid] = _Seen(process, rank, now)
        self.seen = {pid: item for pid, item in self.seen.items() if item.rank is not None or item.process.is_running()}


def _status(process: psutil.Process) -> str | None:
    """Its state; None when it has ended."""
    try:
        status = process.status()
    except psutil.NoSuchProcess:
        return None
    return None if status == psutil.STATUS_ZOMBIE else status


def alive(process: psutil.Process) -> bool:
    """Whether it runs or is stopped; one that only waits to be cleared away has ended."""
    return process.is_running() and _status(process) is not None


def rank_of(process: psutil.Process) -> int | None:
    """Which rank a process is the worker of; None for every other process."""
    try:
        if process.cmdline()[1:3] != _WORKER:
            return None
        environ = process.environ()
    except (psutil.Error, OSError):
        return None
    return int(environ.get("HOROVOD_RANK", environ.get("RANK", "0")))


def lost(logs: Path, code: int, workers: int, watch: Watch, killed_for_memory: bool) -> Fault:
    """What the launcher's end means: its exit code, what it and the ranks wrote, what was seen of the processes.

    `killed_for_memory` is whether the kernel has ended processes for want of memory in the meantime.
    """
    rank, ended = _named(logs, code, workers)
    said = _errors(logs)
    starved = sorted((other, found) for other, text in said.items() if (found := _MEMORY.search(text)))
    if starved:
        number, found = starved[0]
        who = _who(number if number is not None else rank)
        words = f"{who} ran out of memory ({found[0].strip()[:200]})"
        rank = number if number is not None else rank
        return Fault("out of memory", rank, words, watch.since_well(rank))
    if rank is not None and ended == 1 and _PEER.search(said.get(rank, "")):
        # Its peer was lost and it says so with a traceback; the one that was lost had no time for one.
        silent = [other for other in range(workers) if other != rank and "Traceback" not in said.get(other, "")]
        if silent:
            rank, ended = silent[0], -signal.SIGKILL
    since = watch.since_well(rank)
    if _signal(ended) is signal.SIGKILL and killed_for_memory:
        return Fault("out of memory", rank, f"{_who(rank)} ran out of memory (the kernel killed it)", since)
    if (number := _signal(ended)) is not None:
        return Fault("killed", rank, f"{_who(rank)} was killed ({number.name})", since)
    return Fault("failed", rank, f"{_who(rank)} failed (exit code {ended})", since)


def _named(logs: Path, code: int, workers: int) -> tuple[int | None, int]:
    """Which rank ended first and with which code, as the launcher says (Horovod, then torch); else its own code."""
    path = logs / "stderr"
    said = path.read_text(errors="replace") if path.exists() else ""
    for pattern in (r"Process name: (\d+)\nExit code: (\d+)", r"Root Cause.*?rank +: (\d+).*?exitcode +: (-?\d+)"):
        if found := re.search(pattern, said, re.DOTALL):
            return int(found[1]), int(found[2])
    return (0 if workers == 1 else None), code


def _who(rank: int | None) -> str:
    return "the launcher of the workers" if rank is None else f"rank {rank}"


def _signal(code: int) -> signal.Signals | None:
    """The signal that an exit code stands for, in the shell's way or in Python's."""
    with contextlib.suppress(ValueError):
        return signal.Signals(-code if code < 0 else code - 128)
    return None


def _errors(logs: Path) -> dict[int | None, str]:
    """The end of each rank's standard error: `rank.N/` is Horovod's, `N/` torch's; without a rank the only worker's."""
    found: dict[int | None, str] = {}
    for path in sorted(logs.rglob("stderr*")):
        name = path.parent.name.removeprefix("rank.")
        rank = int(name) if name.isdigit() and path.parent != logs else None
        if rank is not None or not any(key is not None for key in found):
            found[rank] = path.read_text(errors="replace")[-20_000:]
    if len(found) > 1:  # the launcher repeats what the ranks say
        found.pop(None, None)
    return found


def ends(logs: Path) -> str:
    """The last lines of every rank's standard error, and of the launcher's."""
    parts = []
    for path in sorted(logs.rglob("stderr*")):
        lines = path.read_text(errors="replace").strip().splitlines()[-TAIL:]
        if lines:
            parts.append("\n".join([f"-- {path.relative_to(logs)}", *lines]))
    return "\n".join(parts)[-6000:]


def reached(line: Mapping[str, Any] | None) -> str:
    """How far a training had got, by its last line of progress."""
    if line is None or "epoch" not in line:
        return "before its first step"
    if "train_loss" in line:
        return f"after epoch {line['epoch']} of {line['epochs']}"
    return f"in epoch {line['epoch']} of {line['epochs']}, at step {line['step']} of {line['steps']} or soon after"


def memory_kills() -> int:
    """How many processes the kernel has ended for want of memory: in our control group where it says so, else in all.

    0 where nothing can be read.
    """
    for path in _counters():
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _counters() -> list[Path]:
    """Files with the counter: version 2 of control groups, version 1, the whole system."""
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), path.strip("/"))
    return [
        CGROUPS / groups.get("", "") / "memory.events",
        CGROUPS / "memory" / groups.get("memory", "") / "memory.oom_control",
        CGROUPS / "memory.events",
        STATISTICS,
    ]
