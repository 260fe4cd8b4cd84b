"""Warm processes that train one job after another: what is imported, is imported once. Each uses one thread.

For many short trainings (a study, a comparison, an ablation); a training that is the product goes through supervise.py.
A process that is lost is replaced, and its job goes on from its last checkpoint. The other end is pool_worker.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from dl_pipelines.store import durable
from dl_pipelines.training.job import RESULT, Job
from dl_pipelines.training.launch import die_with_parent, worker_environment

MOST = 8
"""No more at once, however many cores there are: each holds a network and torch itself."""
LOST = 3
"""A job whose process was lost so often has failed: what loses it may be the job."""
TAIL = 15
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Ended:
    """What became of a submitted job. `curves` from the first epoch on; `seconds` of this submission's training alone.

    `error` is a failure of the training itself (a loss that is not finite, bad input), or that its process was lost
    again and again; None when all went well.
    """

    job: Job
    curves: list[dict[str, Any]]
    seconds: float
    error: str | None


@dataclass(eq=False)
class _Task:
    job: Job
    until: int | None
    lost: int = 0


class Pool:
    """A context manager; on leaving it, or when this process dies, all its processes end at once.

    Each is started when there is a job for it. Raises ValueError when they can't be started.
    """

    def __init__(self, side: int | None = None):
        self.side = side or min(len(os.sched_getaffinity(0)), MOST)
        self._queue: deque[_Task] = deque()
        self._processes: list[_Process] = []
        self._ended: list[Ended] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.end()
        self._processes.clear()
        self._selector.close()

    @property
    def waiting(self) -> int:
        """Jobs that were submitted and not yet returned by `wait`."""
        return len(self._queue) + len(self._ended) + sum(process.task is not None for process in self._processes)

    @property
    def pids(self) -> list[int]:
        """Of the processes that were started and not replaced."""
        return [process.pid for process in self._processes]

    def submit(self, job: Job, until: int | None = None) -> None:
        """Train it up to that epoch, or to its end, going on from its checkpoints; queued while all are busy."""
        assert job.distributed.communicator == "single"
        job.folder.mkdir(parents=True, exist_ok=True)
        job.write()
        self._queue.append(_Task(job, until))
        self._deal()

    def wait(self) -> list[Ended]:
        """Block until at least one job has ended; those that have, [] when nothing was submitted."""
        while not self._ended and self.waiting:
            for key, _ in self._selector.select():
                self._hear(key.data)
            self._deal()
        ended, self._ended = self._ended, []
        return ended

    def _deal(self) -> None:
        """Give queued jobs to idle processes, starting those that are missing."""
        while self._queue:
            idle = [process for process in self._processes if process.task is None]
            if not idle and len(self._processes) >= self.side:
                return
            process = idle[0] if idle else self._start()
            task = self._queue.popleft()
            if not process.give(task):  # it was lost while it had nothing to do
                self._queue.appendleft(task)
                self._drop(process)

    def _start(self) -> _Process:
        process = _Process()
        self._processes.append(process)
        self._selector.register(process.told, selectors.EVENT_READ, process)
        return process

    def _drop(self, process: _Process) -> None:
        self._selector.unregister(process.told)
        self._processes.remove(process)
        process.end()

    def _hear(self, process: _Process) -> None:
        line = process.told.readline()
        if not line.endswith(b"\n"):
            self._lose(process)
        elif process.task is not None:
            task, process.task = process.task, None
            self._ended.append(_ended(task.job, json.loads(line)["error"]))

    def _lose(self, process: _Process) -> None:
        task, words = process.task, process.last_words()
        self._drop(process)
        if task is None:
            return
        task.lost += 1
        if task.lost < LOST:
            self._queue.appendleft(task)
        else:
            self._ended.append(_ended(task.job, f"its process was lost {task.lost} times: {words}"))


def _ended(job: Job, error: str | None) -> Ended:
    if error is not None:
        return Ended(job, [], 0.0, error)
    found = durable.read_json(job.folder / RESULT)
    return Ended(job, found["curves"], found["seconds"], None)


class _Process:
    """A process of the pool: `task` is what it works on, `told` the pipe on which it answers."""

    def __init__(self) -> None:
        self.task: _Task | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        command = [*die_with_parent("KILL"), sys.executable, "-m", "dl_pipelines.training.pool_worker"]
        # In a group of its own: Ctrl-C reaches the parent alone, which ends it.
        self._popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
            env=worker_environment(1), bufsize=0,
        )  # fmt: skip
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._asked: IO[bytes] = self._popen.stdin
        self.told: IO[bytes] = self._popen.stdout
        self.pid = self._popen.pid

    def give(self, task: _Task) -> bool:
        """Let it work on a task; False when it is not there any more."""
        line = {"job": str(task.job.folder / "job.json"), "until": task.until}
        try:
            self._asked.write(json.dumps(line).encode() + b"\n")
        except BrokenPipeError:
            return False
        self.task = task
        return True

    def end(self) -> None:
        """Kill it and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        with contextlib.suppress(BrokenPipeError):
            self._asked.close()
        self.told.close()
        self._errors.close()

    def last_words(self) -> str:
        """How it ended, and the last lines it wrote to its standard error."""
        try:
            code = self._popen.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its output and went on"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "\n".join([f"exit code {code}", *lines[-TAIL:]])
