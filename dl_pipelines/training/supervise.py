"""Between the orchestrator and the workers: starts them, watches their progress, starts them again, ends them all.

`python -m dl_pipelines.training.supervise --job job.json` is the one process that an orchestrator has to know. It
tries again from the last checkpoint when a worker is lost or stalls; a failure that would repeat itself (bad input, a
loss that is not finite) is told at once. Where Dagster Pipes is in the environment it reports what rank 0 says; the
workers themselves never open it, because they may be started several times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from dl_pipelines.store import durable
from dl_pipelines.training.job import PROGRESS, RESULT, Job
from dl_pipelines.training.launch import die_with_parent, sandbox_prefix, worker_command, worker_environment

OUTCOME = "supervised.json"
POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0
START_SECONDS = 120.0
"""Workers may take so long before their first step (imports on a loaded machine)."""
TAIL = 15

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


def supervise(path: Path, tell: Tell) -> bool:
    """Run attempts until one is done or no more are allowed; True when the result is there."""
    job, attempts = Job.read(path), []
    for number in range(1, job.distributed.restarts + 2):
        for old in job.folder.glob("failure-*.json"):
            old.unlink()
        failure, final = _attempt(job, path, number, tell)
        attempts.append(failure or "done")
        sandboxed = bool(sandbox_prefix())
        durable.write_json(job.folder / OUTCOME, {"attempts": attempts, "failure": failure, "sandboxed": sandboxed})
        if failure is None:
            return True
        tell(f"attempt {number}: {failure}")
        if final:
            return False
    return False


def _attempt(job: Job, path: Path, number: int, tell: Tell) -> tuple[str | None, bool]:
    """One try: (None, True) when done, else what went wrong and whether trying again would be in vain."""
    logs = job.folder / "logs" / f"attempt-{number}"
    durable.remove_tree(logs)  # of a training that was interrupted
    logs.mkdir(parents=True)
    try:
        workers = worker_command(path, job.distributed, logs)
    except ValueError as error:
        return str(error), True
    command = [*die_with_parent(), *sandbox_prefix(), *die_with_parent(), *workers]
    environment = worker_environment(job.distributed.threads, logs)
    with (logs / "stdout").open("wb") as out, (logs / "stderr").open("wb") as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True, env=environment
        )
        stalled = False
        try:
            stalled = _watch(job, process, tell)
        finally:
            end_tree(process)
    failures = sorted(job.folder.glob("failure-*.json"))
    if failures:
        return json.loads(failures[0].read_text())["message"], True
    if stalled:
        return f"no progress for {job.distributed.stall_seconds:g} s; the workers were ended", False
    if process.returncode != 0 or not (job.folder / RESULT).exists():
        return f"{_lost(logs, process.returncode)}:\n{_ends(logs)}", False
    return None, True


def _watch(job: Job, process: subprocess.Popen[bytes], tell: Tell) -> bool:
    """Follow the progress until the process ends; True when it made none for too long."""
    progress, read = job.folder / PROGRESS, 0
    read = progress.stat().st_size if progress.exists() else 0
    last, limit = time.monotonic(), max(job.distributed.stall_seconds, START_SECONDS)
    while True:
        done = process.poll() is not None
        if progress.exists() and progress.stat().st_size > read:
            with progress.open() as file:
                file.seek(read)
                for text in file:
                    line = json.loads(text)
                    tell(describe(line))
                    if "epoch" in line:
                        limit = job.distributed.stall_seconds
                read = file.tell()
            last = time.monotonic()
        if done:
            return False
        if time.monotonic() - last > limit:
            return True
        time.sleep(POLL_SECONDS)


def describe(line: Mapping[str, Any]) -> str:
    """A line of progress as a person reads it."""
    if "train_loss" in line:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in line["validation"].items())
        return f"epoch {line['epoch']} of {line['epochs']}: train loss {line['train_loss']:.4f}, validation {metrics}"
    if "step" in line:
        return f"epoch {line['epoch']} of {line['epochs']}: step {line['step']} of {line['steps']}"
    return f"{line['workers']} worker(s) started, communicator {line['communicator']}"


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything below it: asked first, killed after the grace time. Only these are touched."""
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    end = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < end and (process.poll() is None or any(child.is_running() for child in below)):
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() == psutil.STATUS_STOPPED:
                    child.kill()
        time.sleep(POLL_SECONDS)
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


def _lost(logs: Path, code: int) -> str:
    """Which rank ended first and how, as the launcher says (Horovod, then torch); else the launcher's own end."""
    said = (logs / "stderr").read_text(errors="replace")
    for pattern in (r"Process name: (\d+)\nExit code: (\d+)", r"Root Cause.*?rank +: (\d+).*?exitcode +: (-?\d+)"):
        if found := re.search(pattern, said, re.DOTALL):
            return f"rank {found[1]} was lost ({_exit(int(found[2]))})"
    return f"the workers were lost ({_exit(code)})"


def _exit(code: int) -> str:
    """An exit code, with the signal's name where it stands for one."""
    number = -code if code < 0 else code - 128
    with contextlib.suppress(ValueError):
        return f"exit code {code}, {signal.Signals(number).name}"
    return f"exit code {code}"


def _ends(logs: Path) -> str:
    """The last lines of every rank's standard error, and of the launcher's."""
    parts = []
    for path in sorted(logs.rglob("stderr*")):
        lines = path.read_text(errors="replace").strip().splitlines()[-TAIL:]
        if lines:
            parts.append("\n".join([f"-- {path.relative_to(logs)}", *lines]))
    return "\n".join(parts)[-6000:]


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
