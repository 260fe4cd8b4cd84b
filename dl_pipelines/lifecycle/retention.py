"""What is kept of a project's artifacts, and the removal of the rest: `dlp gc`. How it is removed is store/garbage.py.

Kept are: of each stage the newest artifacts that a partition means (by day, then by when they were made); what serves,
what last served, what a rollback brings back and the challenger of an experiment; and everything that one of these was
made from, so that a kept report cites nothing that is gone and a kept window has its datasets. A report that goes takes
its copy in `reports/` with it, a drift report its page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dl_pipelines.data.row_cache import unused_rows
from dl_pipelines.serving.champion import exclusive
from dl_pipelines.serving.champion import kept as serving_kept
from dl_pipelines.serving.rollouts import open_rollout, rollout_rows
from dl_pipelines.store import durable, garbage
from dl_pipelines.store.garbage import Stored
from dl_pipelines.store.workspace import Workspace


@dataclass(frozen=True)
class Removed:
    """Something that was (or would be) removed: an artifact by its digest, or a folder left behind (no digest).

    `partition` is empty when none means it, else the newest one that does.
    """

    stage: str
    name: str
    partition: str
    digest: str
    bytes: int
    why: str

    def __str__(self) -> str:
        of = f" of {self.partition}" if self.partition else ""
        return f"{self.stage} {self.name}{of} ({self.bytes / 1e6:.2f} MB) {self.why}"


def collect_garbage(workspace: Workspace, keep: int, dry_run: bool = False) -> list[Removed]:
    """Remove what isn't kept, and what a crash left behind; returns it, also when nothing is removed (`dry_run`).

    What a run is making or has found again meanwhile stays. Raises ArtifactError (a damaged manifest: what it stands on
    isn't known), NoChampion (the ledger of another home): nothing is removed then.
    """
    with exclusive(workspace):  # no promotion between the decision and the removal
        found = garbage.stored(workspace)
        kept = garbage.with_parents(found, [*_newest(found, keep), *serving_kept(workspace), *_tried(workspace)])
        gone = found.keys() - kept
        plan = {item.artifact.digest: _told(item, keep) for item in garbage.children_first(found, gone)}
        removed = list(plan.values())
        if not dry_run:
            removed = [plan[item.artifact.digest] for item in garbage.sweep(workspace, found, gone)]
            _drop_copies(workspace)
    for stage, path in garbage.leftovers(workspace):
        removed.append(Removed(stage, path.name, "", "", garbage.size(path), "is left of a run that did not finish"))
        if not dry_run:
            durable.remove_tree(path)
    for path in unused_rows(workspace, kept):
        told = "is a copy of rows, of no window that is kept or unused for a week"
        removed.append(Removed("rows", path.name, "", "", garbage.size(path), told))
        if not dry_run:
            durable.remove_tree(path)
    return removed


def _newest(found: Mapping[str, Stored], keep: int) -> Iterator[str]:
    """Digests of the newest `keep` artifacts of each stage that a partition means."""
    by_stage = defaultdict(list)
    for digest, item in found.items():
        if item.partitions:
            by_stage[item.artifact.stage].append((item.day, item.artifact.outcome["made_at"], digest))
    for items in by_stage.values():
        yield from (digest for *_, digest in sorted(items, reverse=True)[:keep])


def _tried(workspace: Workspace) -> Iterator[str]:
    """The digest of the challenger of the experiment under way, also before it has any traffic."""
    if row := open_rollout(workspace):
        began = rollout_rows(workspace, experiment=row["experiment"])[0]
        yield began["decision"]["digest"]


def _told(item: Stored, keep: int) -> Removed:
    artifact = item.artifact
    why = f"is not among the newest {keep}" if item.partitions else "is what no partition means any more"
    partition = max((partition.key for partition in item.partitions), default="")
    return Removed(artifact.stage, artifact.short, partition, artifact.digest, garbage.size(artifact.path), why)


def _drop_copies(workspace: Workspace) -> None:
    """Remove what was drawn for partitions that have no artifact any more: a report's cells would cite what is gone."""
    home, project = workspace.home, workspace.project
    drawn = {"implementation_report": home.reports / project, "drift_report": home.docs / project / "evidently"}
    for stage, folder in drawn.items():
        there = {partition.slug for partition in workspace.partitions(stage)}
        for path in folder.glob("*"):
            if path.name not in there:
                durable.remove_tree(path)
