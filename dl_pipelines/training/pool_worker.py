"""A process of the pool: `python -m dl_pipelines.training.pool_worker` reads one line of JSON a job, answers with one.

Not for people; pool.py starts it. It ends with its input.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

from dl_pipelines.training.job import Job

NEEDED = (
    "safetensors.torch",
    "dl_pipelines.models.registry",
    "dl_pipelines.tasks.registry",
    "dl_pipelines.training.communicators.single",
    "dl_pipelines.training.loop",
    "dl_pipelines.training.worker",
)


def main() -> None:
    """Train what is asked for until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    _import_all()
    gc.collect()
    gc.freeze()  # looking through the modules again after each job would take as long as a short training
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        answers.write(json.dumps({"error": train(Path(asked["job"]), asked["until"])}).encode() + b"\n")
        gc.collect()


def train(path: Path, until: int | None) -> str | None:
    """Train a job up to an epoch or its end; why that failed, None when it did not."""
    from dl_pipelines.training.worker import run

    try:
        run(Job.read(path), until)
    except ValueError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - one job's defect must not end the process of the others
        return "".join(traceback.format_exception(error)[-3:]).strip()
    return None


def _import_all() -> None:
    """What a training needs, before the first is asked for."""
    for name in NEEDED:
        importlib.import_module(name)


if __name__ == "__main__":
    main()
