"""Stages' view of a home: `make` builds an artifact once for its inputs, and every partition points at its artifact."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact, ArtifactError, Draft
from dl_pipelines.store.digest import SHORT, digest_json
from dl_pipelines.store.home import Home


@dataclass(frozen=True, order=True)
class Partition:
    """A day, or a day and an experiment. The key is Dagster's: `2026-01-31` or `2026-01-31|base`."""

    day: date
    experiment: str | None = None

    @classmethod
    def parse(cls, key: str) -> Partition:
        """From a key. Raises ValueError."""
        day, _, experiment = key.partition("|")
        try:
            return cls(date.fromisoformat(day), experiment or None)
        except ValueError as error:
            raise ValueError(f"found the partition {key!r}; expected YYYY-MM-DD or YYYY-MM-DD|experiment") from error

    @property
    def key(self) -> str:
        """Dagster's partition key."""
        return f"{self.day.isoformat()}|{self.experiment}" if self.experiment else self.day.isoformat()

    @property
    def slug(self) -> str:
        """The key as a file name."""
        return self.key.replace("|", "_")

    @property
    def daily(self) -> Partition:
        """The day alone."""
        return Partition(self.day)


@dataclass(frozen=True)
class Progress:
    """One step of long work, for the terminal and Dagster's log."""

    stage: str
    message: str
    done: float | None = None
    total: float | None = None


class Workspace:
    """Artifacts of one project in one home. `on_progress` gets a Progress at each step of long work."""

    def __init__(self, home: Home, project: str, on_progress: Callable[[Progress], None] | None = None):
        self.home, self.project = home, project
        self._on_progress = on_progress
        self.made: list[Artifact] = []
        """What `make` had to build; what it found is not in it."""

    def progress(self, stage: str, message: str, done: float | None = None, total: float | None = None) -> None:
        """Tell whoever watches how far a stage is."""
        if self._on_progress:
            self._on_progress(Progress(stage, message, done, total))

    def make(
        self,
        stage: str,
        partition: Partition,
        build: Callable[[Draft], None],
        *,
        settings: Mapping[str, Any],
        parents: Mapping[str, Artifact],
        version: int = 1,
    ) -> Artifact:
        """The artifact of `stage` for these inputs; `build(draft)` is called only when there is none yet.

        `settings` (plain data), the parents' digests, the day and `version` (raised when the code's result changes)
        decide. An interrupted build leaves nothing under the final name; its `draft.work` folder is found again.
        Raises what `build` raises.
        """
        from filelock import FileLock

        asked, key, memo = self._key(stage, partition, settings, parents, version)
        self.home.locks.mkdir(parents=True, exist_ok=True)
        with FileLock(self.lock(stage, key)):
            artifact = self._known(stage, memo)
            if artifact is None:
                artifact = self._build(stage, build, asked, parents, key)
                self.made.append(artifact)
                durable.write_json(memo, {"artifact": artifact.short})
            self.point(stage, partition, artifact)  # within the lock: retention sees it pointed at, or being made
        return artifact

    def known(
        self, stage: str, partition: Partition, *, settings: Mapping[str, Any], parents: Mapping[str, Artifact],
        version: int = 1,
    ) -> Artifact | None:  # fmt: skip
        """What `make` would find for these inputs, None when it would build; nothing is pointed at it."""
        return self._known(stage, self._key(stage, partition, settings, parents, version)[2])

    def _key(
        self,
        stage: str,
        partition: Partition,
        settings: Mapping[str, Any],
        parents: Mapping[str, Artifact],
        version: int,
    ) -> tuple[dict[str, Any], str, Path]:
        asked = {"settings": dict(settings), "version": version, "day": partition.day.isoformat()}
        key = digest_json([self.project, stage, asked, {name: item.digest for name, item in parents.items()}])[:SHORT]
        return asked, key, self.home.index / self.project / stage / "keys" / f"{key}.json"

    def lock(self, stage: str, key: str) -> Path:
        """The lock that is held while `make` works on the inputs with this key."""
        return self.home.locks / f"{stage}-{key}.lock"

    def _known(self, stage: str, memo: Path) -> Artifact | None:
        if not memo.exists():
            return None
        try:
            return Artifact.open(self._folder(stage) / durable.read_json(memo)["artifact"])
        except ArtifactError:
            return None

    def _build(
        self,
        stage: str,
        build: Callable[[Draft], None],
        settings: Mapping[str, Any],
        parents: Mapping[str, Artifact],
        key: str,
    ) -> Artifact:
        folder = self._folder(stage)
        path = folder / f".draft-{uuid.uuid4().hex[:8]}"
        path.mkdir(parents=True)
        work = self.home.work / self.project / stage / key
        work.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            choices = self.home.index / self.project / stage / "choices" / f"{key}.json"
            draft = Draft(path, work, stage, parents, choices)
            build(draft)
            made_at = datetime.now(UTC).isoformat(timespec="seconds")
            artifact = draft.commit(folder, time.monotonic() - started, made_at, settings)
        except BaseException:
            durable.remove_tree(path)
            raise
        durable.remove_tree(work)
        return artifact

    def _folder(self, stage: str) -> Path:
        return self.home.artifacts / self.project / stage

    def _pointer(self, stage: str, partition: Partition) -> Path:
        return self.home.index / self.project / stage / "partitions" / f"{partition.slug}.json"

    def point(self, stage: str, partition: Partition, artifact: Artifact) -> None:
        """Make `artifact` what `partition` of `stage` means from now on."""
        pointer = self._pointer(stage, partition)
        value = {"artifact": artifact.short, "partition": partition.key}
        if not pointer.exists() or durable.read_json(pointer) != value:
            durable.write_json(pointer, value)

    def pointed(self, stage: str, partition: Partition) -> str | None:
        """The folder's name of the artifact that a partition means, None when it means none; it isn't opened."""
        try:
            return durable.read_json(self._pointer(stage, partition))["artifact"]
        except FileNotFoundError:
            return None

    def find(self, stage: str, partition: Partition) -> Artifact | None:
        """The artifact of a partition, or None when the stage has not run for it. Raises ArtifactError if damaged."""
        name = self.pointed(stage, partition)
        return None if name is None else Artifact.open(self._folder(stage) / name)

    def get(self, stage: str, partition: Partition) -> Artifact:
        """The artifact of a partition. Raises ArtifactError when the stage has not run for it."""
        artifact = self.find(stage, partition)
        if artifact is None:
            raise ArtifactError(
                f"found no {stage} of {self.project} for {partition.key}; expected it to have run; "
                f"run `dlp run` for that date, or materialise {stage} first"
            )
        return artifact

    def by_digest(self, stage: str, digest: str) -> Artifact:
        """The artifact of a stage by (the start of) its digest. Raises ArtifactError."""
        return Artifact.open(self._folder(stage) / digest[:SHORT])

    def partitions(self, stage: str) -> list[Partition]:
        """Partitions for which a stage has an artifact, sorted by day, then experiment."""
        folder = self.home.index / self.project / stage / "partitions"
        found = [Partition.parse(durable.read_json(path)["partition"]) for path in folder.glob("*.json")]
        return sorted(found, key=lambda item: (item.day, item.experiment or ""))

    def days(self, stage: str) -> list[date]:
        """Days for which a daily stage has an artifact, sorted."""
        return sorted({partition.day for partition in self.partitions(stage)})
