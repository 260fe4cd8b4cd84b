"""Between the orchestrator and the workers: starts them, watches their progress, starts them again, ends them all.

`python -m dl_pipelines.training.supervise --job job.json` is the one process that an orchestrator has to know. It
tries again from the last checkpoint when a worker is killed, is stopped, runs out of memory or stalls; a failure that
would repeat itself (bad input, a loss that is not finite) is told at once. Where Dagster Pipes is in the environment
it reports what rank 0 says; the workers themselves never open it, because they may be started several times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from dl_pipelines.store import durable
from dl_pipelines.training.faults import Fault, Watch, alive, ends, lost, memory_kills, reached
from dl_pipelines.training.hosts import hosts_of
from dl_pipelines.training.job import PROGRESS, RESULT, Job
from dl_pipelines.training.launch import (
    die_with_parent,
    network_environment,
    sandbox_prefix,
    worker_command,
    worker_environment,
)

OUTCOME = "supervised.json"
POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0
START_SECONDS = 120.0
"""Workers may take so long before their first step (imports on a loaded machine)."""

Tell = Callable[[str], None]


class Ended(BaseException):
    """SIGTERM or SIGINT arrived."""


def main() -> None:
    """Supervise the job on the command line; exit code 0 when the training is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    path = parser.parse_args().job
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        with _pipes() as tell:
            sys.exit(0 if supervise(path, tell) else 1)
    except Ended:
        sys.exit(143)


class _Ended(NamedTuple):
    """How an attempt ended: with a failure in words or none, the fault behind it, whether another try is in vain."""

    failure: str | None
    fault: Fault | None
    final: bool
    sandboxed: bool = False


def supervise(path: Path, tell: Tell) -> bool:
    """Run attempts until one is done or no more are allowed; True when the result is there."""
    job = Job.read(path)
    attempts: list[str] = []
    faults: list[dict[str, Any]] = []
    for number in range(1, job.distributed.restarts + 2):
        for old in job.folder.glob("failure-*.json"):
            old.unlink()
        ended = _attempt(job, path, number, tell)
        attempts.append(ended.failure or "done")
        if ended.fault:
            faults.append({"attempt": number, **ended.fault.plain()})
        durable.write_json(job.folder / OUTCOME, {
            "attempts": attempts, "failure": ended.failure, "faults": faults, "sandboxed": ended.sandboxed,
        })  # fmt: skip
        if ended.failure is None:
            return True
        tell(f"attempt {number}: {ended.failure}")
        if ended.final:
            return False
    return False


def _attempt(job: Job, path: Path, number: int, tell: Tell) -> _Ended:
    """One try, to its end."""
    logs = job.folder / "logs" / f"attempt-{number}"
    durable.remove_tree(logs)  # of a training that was interrupted
    logs.mkdir(parents=True)
    try:
        workers = worker_command(path, job.distributed, logs)
        environment = worker_environment(job.distributed.threads, logs) | network_environment(job.distributed)
        sandbox = _sandbox(job)
    except ValueError as error:
        return _Ended(str(error), None, True)
    command = [*die_with_parent(), *sandbox, *die_with_parent(), *workers]
    starved = memory_kills()
    with (logs / "stdout").open("wb") as out, (logs / "stderr").open("wb") as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True, env=environment
        )
        followed, fault = _Followed(job, tell), None
        watch = Watch(process.pid)
        try:
            fault = _watch(job, process, followed, watch)
        except BaseException:
            end_tree(process, known=watch.processes)
            raise
        end_tree(process, 0.0 if fault else None, watch.processes)
    apart = bool(sandbox)
    failures = sorted(job.folder.glob("failure-*.json"))
    if failures:
        return _Ended(json.loads(failures[0].read_text())["message"], None, True, apart)
    if fault is None and process.returncode == 0 and (job.folder / RESULT).exists():
        return _Ended(None, None, True, apart)
    if fault is not None:
        return _Ended(f"{fault.words} {reached(followed.last)}; the workers were ended", fault, False, apart)
    fault = lost(logs, process.returncode, job.distributed.workers, watch, memory_kills() > starved)
    return _Ended(f"{fault.words} {reached(followed.last)}:\n{ends(logs)}", fault, False, apart)


def _sandbox(job: Job) -> tuple[str, ...]:
    """Where only loopback exists; no place for a training over several machines."""
    return () if hosts_of(job.distributed) else sandbox_prefix()


def _watch(job: Job, process: subprocess.Popen[bytes], followed: _Followed, watch: Watch) -> Fault | None:
    """Follow progress and processes until the launcher ends (None), a worker is stopped, or nothing moves any more."""
    last, limit = time.monotonic(), max(job.distributed.stall_seconds, START_SECONDS)
    while True:
        done = process.poll() is not None
        if followed.read():
            last = time.monotonic()
            if followed.last and "epoch" in followed.last:
                limit = job.distributed.stall_seconds
        if done:
            return None
        if (fault := watch.look()) is not None:
            return fault
        if (still := time.monotonic() - last) > limit:
            return Fault("stalled", None, f"no progress for {job.distributed.stall_seconds:g} s", round(still, 2))
        time.sleep(POLL_SECONDS)


class _Followed:
    """The lines that rank 0 appends to the progress of a job from now on."""

    def __init__(self, job: Job, tell: Tell):
        self._path, self._tell = job.folder / PROGRESS, tell
        self._read = self._path.stat().st_size if self._path.exists() else 0
        self.last: dict[str, Any] | None = None

    def read(self) -> bool:
        """Tell the lines that have come; whether there were any. A line that was cut short by a kill is passed over."""
        if not self._path.exists() or self._path.stat().st_size <= self._read:
            return False
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                self._tell(describe(said))
                self.last = said
        return bool(whole)


def describe(line: Mapping[str, Any]) -> str:
    """A line of progress as a person reads it."""
    if "train_loss" in line:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in line["validation"].items())
        return f"epoch {line['epoch']} of {line['epochs']}: train loss {line['train_loss']:.4f}, validation {metrics}"
    if "step" in line:
        return f"epoch {line['epoch']} of {line['epochs']}: step {line['step']} of {line['steps']}"
    return f"{line['workers']} worker(s) started, communicator {line['communicator']}"


def end_tree(
    process: subprocess.Popen[bytes], grace: float | None = None, known: Iterable[psutil.Process] = ()
) -> None:
    """End a process and everything below it: asked first, killed after the grace time. Only these are touched.

    With a grace of 0 nobody is asked: what a worker has finished is on disk, and a stopped one hears nothing. `known`
    were below it once: when a launcher was killed, its workers are nobody's children, and the next ones must not meet
    them.
    """
    grace = GRACE_SECONDS if grace is None else grace
    below = {item for item in known if item.pid != process.pid}
    with contextlib.suppress(psutil.NoSuchProcess):
        below |= set(psutil.Process(process.pid).children(recursive=True))
    if process.poll() is None and grace > 0:
        process.send_signal(signal.SIGTERM)
    end = time.monotonic() + grace
    while time.monotonic() < end and (process.poll() is None or any(map(alive, below))):
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() == psutil.STATUS_STOPPED:
                    child.kill()
        time.sleep(POLL_SECONDS)
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            if not _tidies(child):
                child.kill()
    if process.poll() is None:
        process.kill()
    process.wait()
    end = time.monotonic() + GRACE_SECONDS
    while any(map(alive, below)) and time.monotonic() < end:
        time.sleep(POLL_SECONDS / 10)
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _tidies(process: psutil.Process) -> bool:
    """Python's tracker of resources: it removes the semaphores of those it served, and ends with the last of them."""
    return "multiprocessing.resource_tracker" in " ".join(process.cmdline())


def _end(number: int, _: object) -> None:
    # Ctrl-C reaches the whole group and the parent asks as well: a second signal must not cut the ending short.
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise Ended(number)


@contextlib.contextmanager
def _pipes() -> Iterator[Tell]:
    """How to tell progress: Dagster Pipes where it is open, else nowhere (the parent reads the progress file)."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield lambda _: None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield lambda message: pipes.log.info(message)


if __name__ == "__main__":
    main()
