"""How long a model may take to be loaded: longer, the more there is to read. Standard library only."""

from __future__ import annotations

import contextlib
from pathlib import Path

LOAD_SECONDS = 120.0
"""For what a load does beside reading: starting processes, optimising the network, the warm-up."""
READ_BYTES = 20e6
"""A second: a slow disk, or one that others use too."""


def reading_seconds(folder: Path) -> float:
    """What the files below a folder may take to be read; 0 for one that is not there."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it was removed meanwhile
            size += path.stat().st_size if path.is_file() else 0
    return size / READ_BYTES


def load_limit(folder: Path) -> float:
    """Seconds after which the load of the model in this folder of the repository is given up."""
    return LOAD_SECONDS + reading_seconds(folder)
