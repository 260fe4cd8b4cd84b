"""The main job on the digits: first run, second run, one number changed, memory, definitions, accuracy, overhead."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.command import ROOT, dlp
from benchmarks.contract import Comparison, against_limit, main, paired

BRIEF = ROOT / "briefs" / "digits.yaml"
PAIRS = 5
DEFINITIONS = """
import sys, time
started = time.perf_counter()
from dl_pipelines.definitions import defs
defs() if callable(defs) else defs
print(time.perf_counter() - started)
heavy = [name for name in ("torch", "great_expectations", "evidently") if name in sys.modules]
assert not heavy, heavy
"""


class Watch:
    """Peak resident memory, in MB, of any process below this one while it is open."""

    def __init__(self) -> None:
        self.peak, self.name, self._over = 0.0, "", threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    high = next(line for line in status.splitlines() if line.startswith("VmHWM"))
                    megabytes = int(high.split()[1]) / 1024
                    if megabytes > self.peak:
                        self.peak, self.name = megabytes, " ".join(process.cmdline()[:4])[:80]
                except (OSError, StopIteration, psutil.Error):
                    continue


def made(run: dict[str, Any]) -> list[str]:
    """The stages that a run had to do."""
    return [stage["asset"] for stage in run["stages"] if stage["made"]]


def first_and_second(home: Path) -> Iterator[Comparison]:
    """A first run, one with nothing changed, and what one changed number does again."""
    with Watch() as watch:
        seconds, run = dlp(home, BRIEF)
    yield against_limit("main_job.first", seconds, 120, "s", goal=60, verdict=run["verdict"], stages=len(made(run)))
    yield against_limit("main_job.memory", watch.peak, 2000, "MB", process=watch.name)
    yield from accuracy(home)
    seconds, run = dlp(home, BRIEF)
    yield against_limit("main_job.second", seconds, 10, "s", redone=made(run))
    seconds, run = dlp(home, BRIEF, "--set", "training.learning_rate=0.002")
    yield against_limit("main_job.training_changed", seconds, 120, "s", redone=made(run))
    seconds, run = dlp(home, BRIEF, "--set", "serving.max_batch=8")
    yield against_limit("main_job.serving_changed", seconds, 120, "s", redone=made(run))


def accuracy(home: Path) -> Iterator[Comparison]:
    """Test accuracy of the trained model, and what compression and serving took from it, in points."""
    report = json.loads(next((home / "reports" / "digits").glob("*/report.json")).read_text())
    measured = {target["name"]: target["measured"] for target in report["verdict"]["targets"]}
    trained = measured["accuracy >= 0.97 (trained)"]
    served = measured["accuracy >= 0.95 (served)"]
    yield against_limit("main_job.accuracy", trained, 0.97, "share", higher=True, rows="test")
    loss = 100 * (trained - served)
    yield Comparison(
        "main_job.loss",
        round(loss, 3),
        None,
        "points",
        round(0.5 / max(loss, 0.01), 3),
        None,
        1,
        {"limit": 0.5, "rows": "test", "ratio": "limit / ours, ours at least 0.01"},
    )


def definitions() -> Iterator[Comparison]:
    """Loading every brief's definitions, in a fresh interpreter, median of five; without torch, GX, Evidently."""
    runs = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", DEFINITIONS], cwd=ROOT, capture_output=True, text=True, check=True)
        runs.append(float(done.stdout.splitlines()[-1]))
    briefs = len(list(ROOT.glob("briefs/*.yaml")))
    yield against_limit("main_job.definitions", sorted(runs)[2], 2.5, "s", briefs=briefs)


def overhead(folder: Path) -> Iterator[Comparison]:
    """`dlp run` against the same library calls in a plain script, interleaved; a shorter training, none to compare."""
    data = yaml.safe_load(BRIEF.read_text())
    del data["architecture"]["comparison"], data["distributed"]["scaling"]
    data["training"] |= {"epochs": 4}
    data["serving"] = {"load_seconds": 1}
    brief = folder / "short.yaml"
    brief.write_text(yaml.safe_dump(data))
    ours, peer, same = [], [], True
    for pair in range(PAIRS):
        seconds, run = dlp(folder / f"ours-{pair}", brief)
        ours.append(seconds)
        started = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.plain", str(brief), str(folder / f"peer-{pair}")]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        peer.append(time.perf_counter() - started)
        digest = next(stage["digest"] for stage in run["stages"] if stage["asset"] == "trained_model")
        same &= (folder / f"peer-{pair}" / "artifacts" / "digits" / "trained_model" / digest[:16]).exists()
    yield paired("main_job.overhead", ours, peer, "s", limit=0.85, same_trained_model=same)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        parts = {
            "definitions": definitions,
            "run": functools.partial(first_and_second, Path(folder) / "home"),
            "overhead": functools.partial(overhead, Path(folder)),
        }
        main(parts, __doc__ or "")
