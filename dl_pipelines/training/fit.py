"""Trains one job as its communicator says: through the supervisor and a launcher, whoever asked for it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from dl_pipelines.store import durable
from dl_pipelines.training.job import PROGRESS, RESULT, Job
from dl_pipelines.training.launch import Launcher, LaunchFailed, worker_environment

Say = Callable[[str, int | None, int | None], None]


class TrainingFailed(ValueError):
    """A training ended without a model; says why, with the ends of each worker's error output."""


def fit(job: Job, launcher: Launcher, say: Say) -> None:
    """Train a job in its folder to its end: `FINAL` and `RESULT`. What was interrupted goes on. Raises TrainingFailed.

    `say(message, done, total)` is told each epoch.
    """
    from dl_pipelines.training.supervise import OUTCOME

    outcome = job.folder / OUTCOME
    outcome.unlink(missing_ok=True)
    (job.folder / RESULT).unlink(missing_ok=True)
    command = [sys.executable, "-m", "dl_pipelines.training.supervise", "--job", str(job.folder / "job.json")]
    with _Follow(job.folder / PROGRESS, say):
        try:
            launcher(command, worker_environment(job.distributed.threads))
        except LaunchFailed as error:
            found = (durable.read_json(outcome)["failure"] if outcome.exists() else None) or str(error)
            raise TrainingFailed(
                f"the training by {job.distributed.workers} {job.distributed.communicator} worker(s) failed: {found}"
            ) from error


class _Follow:
    """Tells a training's progress while it is open, by reading the file that rank 0 appends to.

    Only whole lines are read, and one that was cut short by a kill is passed over.
    """

    def __init__(self, path: Path, say: Say):
        self.path, self._say, self._over = path, say, threading.Event()
        self._read = path.stat().st_size if path.exists() else 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._tell()

    def _run(self) -> None:
        while not self._over.wait(0.25):
            self._tell()

    def _tell(self) -> None:
        from dl_pipelines.training.supervise import describe

        if not self.path.exists() or self.path.stat().st_size <= self._read:
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for one in whole.splitlines():
            try:
                line = json.loads(one)
            except ValueError:
                continue
            self._say(describe(line), line.get("epoch"), line.get("epochs"))
