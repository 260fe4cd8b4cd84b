"""The home as a resource: typed settings in, a plain `Workspace` of the library out. Knows no stage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import dagster as dg

from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Progress, Workspace

RESOURCE = "workspaces"
LISTED = 31
"""A run about more days than these is summed up: how many it made, how many have no records, and each that failed."""


@dataclass(frozen=True)
class Finished:
    """What became of one partition of one stage: an artifact, made now or found, or the reason there is none."""

    stage: str
    partition: Partition
    seconds: float
    artifact: Artifact | None = None
    made: bool = False
    skipped: str | None = None
    among: int = 1
    """Partitions that the same run is about."""

    @property
    def failed(self) -> bool:
        """Whether a blocking gate did not pass."""
        gates = self.artifact.gates if self.artifact else []
        return any(gate.blocking and gate.passed is not True for gate in gates)


class Watcher(Protocol):
    """Whoever follows a run beside Dagster's log: the terminal."""

    def started(self, stage: str, partition: Partition) -> None:
        """A stage begins."""

    def progress(self, step: Progress) -> None:
        """One step of long work."""

    def finished(self, end: Finished) -> None:
        """A stage ended without an error."""


class Nobody:
    """A Watcher that looks away."""

    def started(self, stage: str, partition: Partition) -> None:
        """See Watcher."""

    def progress(self, step: Progress) -> None:
        """See Watcher."""

    def finished(self, end: Finished) -> None:
        """See Watcher."""


@dataclass(frozen=True)
class Workspaces:
    """Opens the workspaces of one home; `watcher` follows what happens in them."""

    home: Home
    watcher: Watcher = field(default_factory=Nobody)

    def open(self, project: str, say: Callable[[str], None]) -> Workspace:
        """The workspace of a project; each step of long work goes to `say` and to the watcher."""

        def tell(step: Progress) -> None:
            say(step.message if step.total is None else f"{step.message} ({step.done:g}/{step.total:g})")
            self.watcher.progress(step)

        return Workspace(self.home.prepare(), project, tell)


class WorkspaceResource(dg.ConfigurableResource):
    """Where the home is. Empty: `DLP_HOME`, else `.dlp` in the working directory."""

    home: str = ""

    @property
    def watcher(self) -> Watcher:
        """Nobody but Dagster's log."""
        return Nobody()

    def open(self, project: str, say: Callable[[str], None]) -> Workspace:
        """See Workspaces.open."""
        return Workspaces(Home.find(self.home or None)).open(project, say)
