"""`dlp run` as benchmarks call it: a process of its own, a home of its own, one JSON object back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DLP = Path(sys.executable).parent / "dlp"


def dlp(home: Path, brief: Path, *arguments: str) -> tuple[float, dict[str, Any]]:
    """Seconds and the JSON object of one `dlp run`. Raises RuntimeError when it neither met nor missed its targets."""
    started = time.perf_counter()
    done = subprocess.run(
        [str(DLP), "run", str(brief), "--home", str(home), "--json", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 3):
        raise RuntimeError(f"dlp run ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return seconds, json.loads(done.stdout)
