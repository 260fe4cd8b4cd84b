"""What a project has stored, what stands on what, and how it is removed whole. What is kept is decided elsewhere.

Order of a removal: the partitions' pointers, then the artifact, renamed aside in one step, then what `make` remembers
of it. A reader sees the artifact, or that the stage has not run; after a crash the next removal goes on. The choices
made by measurement stay: made again from the same inputs, an artifact has the same digest.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TypeVar

from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Partition, Workspace

Name = TypeVar("Name")

HOUR = 3600
DRAFT_AGE = HOUR
"""Seconds after which a folder that was never finished, or not removed to its end, counts as left behind."""
WORK_AGE = 7 * 24 * HOUR
"""Seconds for which unfinished work waits to be resumed."""

TOLD = ("warm_start",)
"""Parents that are named and not kept: each training begins from the one before, and all that ever was would stay."""


@dataclass(frozen=True)
class Stored:
    """An artifact, the partitions that mean it, and the keys of the inputs that `make` remembers it by."""

    artifact: Artifact
    partitions: tuple[Partition, ...]
    keys: tuple[str, ...]

    @property
    def day(self) -> str:
        """The newest day that means it, ISO 8601; empty when none does."""
        return max((partition.day.isoformat() for partition in self.partitions), default="")


def stored(workspace: Workspace) -> dict[str, Stored]:
    """Every finished artifact of the project by its digest. Raises ArtifactError when a manifest is damaged."""
    found = {}
    for stage in stages(workspace):
        partitions = _by_artifact(_pointers(workspace, stage))
        keys = _by_artifact({path.stem: path for path in _index(workspace, stage, "keys").glob("*.json")})
        for path in sorted(_folder(workspace, stage).iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            artifact = Artifact.open(path)
            pointed = tuple(partitions[artifact.short])
            found[artifact.digest] = Stored(artifact, pointed, tuple(keys[artifact.short]))
    return found


def stages(workspace: Workspace) -> list[str]:
    """Stages of which the project has artifacts."""
    return sorted(path.name for path in (workspace.home.artifacts / workspace.project).glob("*") if path.is_dir())


def with_parents(found: Mapping[str, Stored], roots: Iterable[str]) -> set[str]:
    """Digests of these artifacts and of all that they were made from, and that from what, as far as it is stored."""
    reached: set[str] = set()
    left = [digest for digest in roots if digest in found]
    while left:
        digest = left.pop()
        if digest not in reached:
            reached.add(digest)
            parents = found[digest].artifact.parents.items()
            left += [parent for name, parent in parents if parent in found and name not in TOLD]
    return reached


def children_first(found: Mapping[str, Stored], digests: Set[str]) -> list[Stored]:
    """These artifacts, each before all that it was made from."""
    graph = {digest: sorted(set(found[digest].artifact.parents.values()) & digests) for digest in sorted(digests)}
    return [found[digest] for digest in reversed(list(TopologicalSorter(graph).static_order()))]


def sweep(workspace: Workspace, found: Mapping[str, Stored], digests: Set[str]) -> list[Stored]:
    """Remove these artifacts, children first: what is still there has its lineage, also after a crash. Returns them.

    What a run holds stays, with all that it was made from.
    """
    removed, stays = [], set[str]()
    for item in children_first(found, digests):
        if item.artifact.digest in stays:
            continue
        if remove(workspace, item):
            removed.append(item)
        else:
            stays |= with_parents(found, [item.artifact.digest])
    return removed


def remove(workspace: Workspace, item: Stored) -> bool:
    """Remove an artifact; False when it is just being made, or was found again by a run since `stored` looked."""
    artifact, stage = item.artifact, item.artifact.stage
    if not item.keys and time.time() - artifact.path.stat().st_mtime < DRAFT_AGE:
        return False  # committed, and not yet remembered
    with contextlib.ExitStack() as stack:
        if not all(_taken(stack, workspace, stage, key) for key in item.keys):
            return False
        pointers = _pointers(workspace, stage)
        now = [partition for partition, path in pointers.items() if _means(path) == artifact.short]
        if not set(now) <= set(item.partitions):
            return False
        for partition in now:
            durable.remove_file(pointers[partition])
        durable.remove_tree(artifact.path)
        for key in item.keys:
            durable.remove_file(_index(workspace, stage, "keys") / f"{key}.json")
    return True


def leftovers(workspace: Workspace) -> list[tuple[str, Path]]:
    """Stage and folder of what a crash left: drafts and half-removed artifacts after an hour, work after a week.

    What a running stage holds is not among them, however long it runs.
    """
    found, now = [], time.time()
    for stage in stages(workspace):
        folder = _folder(workspace, stage)
        drafts = [] if _running(workspace, stage) else sorted(folder.glob(".draft-*"))
        old = [path for path in (*drafts, *sorted(folder.glob(".removed-*"))) if now - _newest(path) > DRAFT_AGE]
        found += [(stage, path) for path in old]
    for path in sorted((workspace.home.work / workspace.project).glob("*/*")):
        stage = path.parent.name
        if not _held(workspace, stage, path.name) and now - _newest(path) > WORK_AGE:
            found.append((stage, path))
    return found


def busy(workspace: Workspace) -> bool:
    """Whether anybody makes an artifact of the project."""
    return any(_running(workspace, stage) for stage in stages(workspace))


def size(folder: Path) -> int:
    """Bytes of every file below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _folder(workspace: Workspace, stage: str) -> Path:
    return workspace.home.artifacts / workspace.project / stage


def _index(workspace: Workspace, stage: str, name: str) -> Path:
    return workspace.home.index / workspace.project / stage / name


def _pointers(workspace: Workspace, stage: str) -> dict[Partition, Path]:
    paths = sorted(_index(workspace, stage, "partitions").glob("*.json"))
    return {Partition.parse(durable.read_json(path)["partition"]): path for path in paths}


def _by_artifact(paths: Mapping[Name, Path]) -> defaultdict[str, list[Name]]:
    """Names of pointers by the artifact that they mean."""
    found: defaultdict[str, list[Name]] = defaultdict(list)
    for name, path in paths.items():
        found[_means(path)].append(name)
    return found


def _means(path: Path) -> str:
    return durable.read_json(path)["artifact"]


def _newest(folder: Path) -> float:
    """When a folder or anything below it last changed, in seconds since the epoch."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def _taken(stack: contextlib.ExitStack, workspace: Workspace, stage: str, key: str) -> bool:
    """Take the lock of a key until the stack closes; False when somebody holds it."""
    from filelock import FileLock, Timeout

    workspace.home.locks.mkdir(parents=True, exist_ok=True)
    try:
        stack.enter_context(FileLock(workspace.lock(stage, key), timeout=0))
    except Timeout:
        return False
    return True


def _held(workspace: Workspace, stage: str, key: str) -> bool:
    with contextlib.ExitStack() as stack:
        return not _taken(stack, workspace, stage, key)


def _running(workspace: Workspace, stage: str) -> bool:
    """Whether anybody builds an artifact of this stage: a build has a work folder, and holds the lock of its name."""
    return any(
        _held(workspace, stage, path.name) for path in (workspace.home.work / workspace.project / stage).glob("*")
    )
