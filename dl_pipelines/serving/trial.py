"""A challenger beside the champion: its model loaded and compared with its artifact, a share of the units, or shadow.

Which share, and when it ends, is decided elsewhere (lifecycle); a move of the champion ends every trial.
"""

from __future__ import annotations

from dl_pipelines.brief.live import Router
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.routing import RoutingTable


def put_challenger(
    workspace: Workspace, artifact: Artifact, *, share: float, salt: str, revision: int, router: Router
) -> RoutingTable:
    """Give a published model `share` of the units (0: shadow), under this revision of the ledger of rollouts.

    The model is installed, loaded and compared live with its artifact first; the champion keeps the rest. The same
    revision twice changes nothing. Raises NoChampion, ArtifactError, ParityError, TritonError: the table is then as it
    was.
    """
    raise NotImplementedError


def end_trial(workspace: Workspace, revision: int) -> RoutingTable:
    """Give the champion everything again; the challenger's model is unloaded when it does not last serve."""
    raise NotImplementedError
