"""An artifact: a folder of files whose `manifest.json`, written last, lists every sha256 and the parents' digests.

What was measured (`outcome.json`: gates, times, what to show) lies outside the digest, so that the same inputs give
the same digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dl_pipelines.store import durable
from dl_pipelines.store.digest import SHORT, digest_file, digest_json, list_files

MANIFEST = "manifest.json"
OUTCOME = "outcome.json"


class ArtifactError(ValueError):
    """An artifact is missing, damaged or may not be used; says what to do."""


class StageSkipped(Exception):
    """Nothing to do for this partition, and why (a day without records); not an error."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Gate:
    """One check of a stage. A blocking gate that failed stops what is downstream; the others set the verdict.

    `passed` None means undecided. `facts` are plain data (numbers, strings, short lists).
    """

    name: str
    passed: bool | None
    summary: str
    blocking: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, opened by its folder."""

    path: Path
    stage: str
    digest: str
    parents: Mapping[str, str]
    files: Mapping[str, str]
    contents: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it was asked with: `settings` of the stage, `version`, `day`."""

    @classmethod
    def open(cls, path: Path) -> Artifact:
        """Read a manifest. Raises ArtifactError when it is missing or doesn't fit its own digest."""
        try:
            manifest = durable.read_json(path / MANIFEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArtifactError(
                f"found no {MANIFEST} in {path}; expected a finished artifact; run the stage again"
            ) from error
        except ValueError as error:
            raise ArtifactError(
                f"found a {MANIFEST} that can't be read ({error}); remove the folder {path} and run the stage again"
            ) from error
        if not isinstance(manifest, dict):
            manifest = {}
        digest = manifest.pop("digest", None)
        if digest != digest_json(manifest):
            raise ArtifactError(
                f"found a manifest in {path} that was changed after it was written; expected digest "
                f"{digest}; remove the folder and run {manifest.get('stage', 'the stage')} again"
            )
        names = ("parents", "files", "contents", "settings")
        return cls(path, manifest["stage"], digest, *(manifest[name] for name in names))

    @property
    def short(self) -> str:
        """The first digits of the digest, as used in names."""
        return self.digest[:SHORT]

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists. Raises ArtifactError when it does not."""
        if name not in self.files:
            raise ArtifactError(
                f"found no {name!r} in {self.stage} {self.short}; expected one of {', '.join(self.files)}"
            )
        return self.path / name

    def read_json(self, name: str) -> Any:
        """A listed JSON file, checked against its sha256. Raises ArtifactError."""
        self._check(name)
        return durable.read_json(self.path / name)

    def read_text(self, name: str) -> str:
        """A listed text file, checked against its sha256. Raises ArtifactError."""
        self._check(name)
        return (self.path / name).read_text(encoding="utf-8")

    def verify(self) -> Artifact:
        """Check every listed file against its sha256. Raises ArtifactError naming the first that differs."""
        for name in self.files:
            self._check(name)
        for name, expected in self.outcome.get("stored", {}).items():
            self._compare(name, expected)
        return self

    def _check(self, name: str) -> None:
        self._compare(name, self.files[self.file(name).relative_to(self.path).as_posix()])

    def _compare(self, name: str, expected: str) -> None:
        try:
            found = digest_file(self.path / name)
        except OSError as error:
            raise ArtifactError(
                f"found {error.strerror} for {name} of {self.stage} {self.short} in {self.path}; expected a readable "
                f"file; remove the folder and run {self.stage} again"
            ) from error
        if found != expected:
            raise ArtifactError(
                f"found {name} of {self.stage} {self.short} damaged in {self.path}; expected sha256 "
                f"{expected[:SHORT]}, measured {found[:SHORT]}; remove the folder and run {self.stage} again"
            )

    @cached_property
    def outcome(self) -> dict[str, Any]:
        """What was measured: `gates`, `measured`, `show`, `stored`, `seconds`, `made_at`. Raises ArtifactError."""
        try:
            return durable.read_json(self.path / OUTCOME)
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"found no readable {OUTCOME} of {self.stage} {self.short} ({error}); expected what it measured; "
                f"remove the folder {self.path} and run {self.stage} again"
            ) from error

    @property
    def measured(self) -> dict[str, Any]:
        """Measured values by name (times, rates, costs)."""
        return self.outcome["measured"]

    @property
    def show(self) -> dict[str, Any]:
        """What a person sees of it in Dagster and in the terminal: plain values, Markdown as `{"md": text}`."""
        return self.outcome["show"]

    @property
    def gates(self) -> list[Gate]:
        """The gates that the stage evaluated."""
        return [Gate(**gate) for gate in self.outcome["gates"]]

    def require_gates(self) -> Artifact:
        """This artifact when no blocking gate failed. Raises ArtifactError otherwise: a manual run can skip a check."""
        bad = [gate for gate in self.gates if gate.blocking and gate.passed is not True]
        if bad or not self.gates:
            what = "; ".join(f"{gate.name}: {gate.summary}" for gate in bad) or "no gate was evaluated"
            raise ArtifactError(
                f"{self.stage} {self.short} may not be used: found {what}; expected every blocking gate to pass; "
                f"mend its input and run {self.stage} again"
            )
        return self


class Draft:
    """An artifact being built, in a folder of its own; `commit` finishes it."""

    def __init__(self, path: Path, work: Path, stage: str, parents: Mapping[str, Artifact], choices: Path):
        self.path, self.work, self.stage, self.parents = path, work, stage, dict(parents)
        self._choices = choices
        self._contents: dict[str, str] = {}
        self._gates: list[Gate] = []
        self._measured: dict[str, Any] = {}
        self._show: dict[str, Any] = {}

    def file(self, name: str) -> Path:
        """Where to write a file of the artifact; folders above it are made."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, value: Any) -> None:
        """Write plain data. Raises ValueError on NaN: a value that could not be measured is absent with a reason."""
        durable.put_json(self.file(name), value)

    def write_text(self, name: str, text: str) -> None:
        """Write UTF-8 text."""
        durable.put_text(self.file(name), text)

    def content(self, folder: str, digest: str) -> None:
        """Declare that `folder` holds data whose bytes differ from write to write: `digest` is of its content."""
        self._contents[folder] = digest

    def gate(self, gate: Gate) -> Gate:
        """Record a gate; names are unique within a stage."""
        assert all(gate.name != other.name for other in self._gates), f"gate {gate.name} twice"
        self._gates.append(gate)
        return gate

    def decide_once(self, name: str, decide: Callable[[], Any]) -> Any:
        """A choice made by measurement: taken the first time for these inputs, replayed ever after (plain data)."""
        made = self._chosen()
        if name not in made:
            taken = decide()
            made = {**self._chosen(), name: taken}  # read again: `decide` may have taken others on its way
            durable.write_json(self._choices, made)
        return made[name]

    def _chosen(self) -> dict[str, Any]:
        return durable.read_json(self._choices) if self._choices.exists() else {}

    def measure(self, **values: Any) -> None:
        """Record measured values (plain data), outside the digest."""
        self._measured.update(values)

    def show(self, **values: Any) -> None:
        """Record what a person sees: numbers, strings, or Markdown as `{"md": text}`."""
        self._show.update(values)

    def commit(self, folder: Path, seconds: float, made_at: str, settings: Mapping[str, Any]) -> Artifact:
        """Write outcome and manifest, flush, rename to `folder/<digest>`. Raises OSError (no space)."""
        inside = tuple(f"{name}/" for name in self._contents)
        names = list_files(self.path)
        stored = {name: digest_file(self.path / name) for name in names if name.startswith(inside)} if inside else {}
        manifest = {
            "stage": self.stage,
            "settings": dict(settings),
            "parents": {name: parent.digest for name, parent in self.parents.items()},
            "files": {name: digest_file(self.path / name) for name in names if name not in stored},
            "contents": self._contents,
        }
        digest = digest_json(manifest)
        outcome = {
            "gates": [asdict(gate) for gate in self._gates],
            "measured": self._measured,
            "show": self._show,
            "stored": stored,
            "seconds": round(seconds, 3),
            "made_at": made_at,
        }
        durable.put_json(self.path / OUTCOME, outcome)
        durable.put_json(self.path / MANIFEST, {**manifest, "digest": digest})
        durable.flush_tree(self.path)
        target = folder / digest[:SHORT]
        if target.exists() and not _sound(target):
            durable.remove_tree(target)
        if target.exists():
            durable.remove_tree(self.path)
        else:
            durable.rename(self.path, target)
        return Artifact.open(target)


def _sound(folder: Path) -> bool:
    try:
        Artifact.open(folder).verify()
    except (ArtifactError, OSError):
        return False
    return True
