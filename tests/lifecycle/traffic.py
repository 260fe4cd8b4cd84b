"""Rows of the router's log as the carrier leaves them in the tables, by hand: tests of evidence need no server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from dl_pipelines.store.database import Database, now
from dl_pipelines.store.tables import labels, predictions, rollouts, router_events, shadow_predictions
from dl_pipelines.store.workspace import Workspace

RIGHT, WRONG = np.array([-1.0, 1.0], np.float32), np.array([1.0, -1.0], np.float32)
"""Logits that say 1 and 0; every label below is 1."""


class Table:
    """Adds rows to the tables of a workspace; times in seconds since 1970."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace

    def _insert(self, table: Any, rows: Iterable[dict[str, Any]]) -> None:
        database = Database.of(self.workspace.home, self.workspace.project)
        with contextlib.closing(database), database.begin() as connection:
            if rows := [{"project": self.workspace.project, **row} for row in rows]:
                connection.execute(table.insert(), rows)

    def stage(self, share: float, number: int = 1, project: str | None = None, at: str | None = None, **given: Any):
        """A row of `rollouts` as it is read back."""
        row = {
            "project": project or self.workspace.project, "experiment": "e", "event": "stage", "stage": number,
            "share": share, "champion": "old", "challenger": "new", "partition": "2026-01-02|base", "decision": {},
            "reason": "by a test", "actor": "test", "key": f"e:stage:{number}:{share}:{project}", "at": at or now(),
            **given,
        }  # fmt: skip
        with contextlib.closing(Database.of(self.workspace.home, self.workspace.project)) as database:
            number = database.append(rollouts, **row)
            return database.rows(rollouts, id=number)[0]

    def answers(self, revision: int, rows: Iterable[dict[str, Any]]) -> None:
        """Rows of `predictions`: each needs `request_id`, `arm`; an output [2] as `out`, None outside of the sample."""
        self._insert(predictions, [self._answer(revision, **row) for row in rows])

    def _answer(self, revision: int, request_id: str, arm: str, out: Any = RIGHT, **given: Any) -> dict[str, Any]:
        return {
            "request_id": request_id, "asked_at": 1000.0, "unit": request_id, "arm": arm, "answered_by": arm,
            "model": arm, "revision": revision, "latency_ms": 1.0, "failure": None, **_packed(out), "summary": {},
            "columns": {}, **given,
        }  # fmt: skip

    def shadows(self, revision: int, rows: Iterable[dict[str, Any]]) -> None:
        """Rows of `shadow_predictions`: each needs `request_id`."""
        self._insert(shadow_predictions, [self._shadow(revision, **row) for row in rows])

    def _shadow(self, revision: int, request_id: str, out: Any = RIGHT, **given: Any) -> dict[str, Any]:
        return {
            "request_id": request_id, "asked_at": 1000.0, "model": "new", "revision": revision, "latency_ms": 1.0,
            "failure": None, **_packed(out), **given,
        }  # fmt: skip

    def event(self, revision: int, kind: str, arm: str, request_id: str = "", unit: str = "", detail: str = "why"):
        """A row of `router_events`."""
        row = {
            "kind": kind, "request_id": request_id, "unit": unit or request_id, "arm": arm, "model": arm,
            "revision": revision, "detail": detail, "asked_at": 1000.0,
        }  # fmt: skip
        self._insert(router_events, [row])

    def labels(self, known: dict[str, Any]) -> None:
        """Labels by request id."""
        self._insert(labels, [{"request_id": name, "label": label, "at": now()} for name, label in known.items()])


def _packed(out: Any) -> dict[str, Any]:
    if out is None:
        return {"outputs": None, "dtype": "", "shape": []}
    return {"outputs": out.astype("<f4").tobytes(), "dtype": "<f4", "shape": list(out.shape)}
