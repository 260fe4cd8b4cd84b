"""A router's log without a router: requests as wire/records.py writes them."""

from __future__ import annotations

import numpy as np

from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire import records
from dl_pipelines.wire.log_format import LogWriter

MODEL = "tiny__one"


def writer_of(workspace: Workspace, segment_bytes: int = 2000) -> LogWriter:
    """Writes into the project's log, in small segments."""
    return LogWriter(workspace.home.predictions / workspace.project, segment_bytes=segment_bytes)


def outputs_of(name: str) -> np.ndarray:
    """What the router answered to a request."""
    return np.array([len(name), sum(map(ord, name)) / 7], np.float32)


def assign(writer: LogWriter, name: str, rows: int = 1, at: float = 1.0, arm: str = "champion") -> None:
    """The router is about to ask an arm."""
    writer.append([records.assigned(name, rows, at, "u-" + name, arm, MODEL, 3)], flush=False)


def answered(name: str, at: float = 1.0, kept: bool = True, **changed) -> records.Record:
    """One row's answer."""
    given = {
        "unit": "u-" + name, "arm": "champion", "by": "champion", "model": MODEL, "revision": 3, "milliseconds": 1.25,
        "outputs": outputs_of(name) if kept else None, "summary": {"mean": 0.5} if kept else {},
        "columns": {"country": "DE"},
    }  # fmt: skip
    return records.answered(name, at, **(given | changed))


def answer(writer: LogWriter, name: str, rows: int = 1, at: float = 1.0, **changed) -> None:
    """The router assigns, then answers."""
    assign(writer, name, rows, at)
    writer.append(answered(records.row_id(name, row, rows), at, **changed) for row in range(rows))
