"""The ledger of rollouts as serving sees it: which experiment is open, and that a move of the champion ends it.

What an experiment does and why is decided in lifecycle/; rows are only ever added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from dl_pipelines.store.database import Database, patiently
from dl_pipelines.store.workspace import Workspace

Row = Mapping[str, Any]
"""A row of `rollouts` as plain data; its id is the revision of a routing table."""
OPEN = ("stage", "proposed")
"""Events after which an experiment goes on."""


def rollout_rows(workspace: Workspace, **equal: Any) -> list[Row]:
    """Rows of the project whose columns equal these values, oldest first."""
    from dl_pipelines.store.tables import rollouts

    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return patiently(lambda: database.rows(rollouts, project=workspace.project, **equal), "read what was tried")


def open_rollout(workspace: Workspace) -> Row | None:
    """The last row of the experiment that is under way, or None."""
    rows = rollout_rows(workspace)
    return rows[-1] if rows and rows[-1]["event"] in OPEN else None


def end_rollout(workspace: Workspace, number: int, champion: str, reason: str, actor: str) -> bool:
    """Add the end of the experiment that the row with this id is of, once; False when it has ended already.

    `promoted` when its challenger is the new `champion`, else `stopped`.
    """
    from dl_pipelines.store.tables import rollouts

    (row,) = rollout_rows(workspace, id=number)
    names = ("project", "experiment", "stage", "share", "champion", "challenger", "partition")
    event = "promoted" if champion == row["challenger"] else "stopped"
    values = {name: row[name] for name in names} | {"event": event, "decision": {}, "reason": reason, "actor": actor}
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return patiently(
            lambda: database.append_once(rollouts, **values, key=f"{row['experiment']}:end"), "write what was tried"
        )
