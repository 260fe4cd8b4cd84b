"""Folders of the live model repository: written under another name, verified, flushed, renamed; compared by sha256.

Not here: loading them (control.py) and deciding what serves (champion.py).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dl_pipelines.brief.live import Serving
from dl_pipelines.inference.model_files import check_model_folder, model_hashes
from dl_pipelines.serving import config
from dl_pipelines.serving.process import WIRE
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.digest import digest_bytes, digest_file, digest_json, list_files
from dl_pipelines.store.home import Home
from dl_pipelines.tasks.base import Signature

ROUTER = Path(__file__).resolve().parents[2] / "triton_models" / "router"
PROBE = "__probe"
"""Ends the name of a router that measures a model before it has traffic."""
NAME_DIGITS = 12
_MODEL = "model/"


class RepositoryError(ValueError):
    """A folder of the live repository can't be written or isn't what it should be; says what to do."""


class Listed(NamedTuple):
    """A file with the sha256 that it was listed with: what a copy is held against, whatever is on the disk now."""

    path: Path
    sha256: str


Source = Path | bytes | Listed
"""What a file of the repository is copied from."""


def write_model(folder: Path, compressed: Artifact, signature: Signature, serving: Serving) -> str:
    """Write a Triton model folder from a compressed model; returns its runtime.

    Raises ArtifactError, ModelFileError (one too) for files that nobody should load: before any of them is copied, and
    again on the copies, as their sources may have been changed or linked elsewhere in between.
    """
    choice = compressed.read_json("choice.json")
    inside = model_hashes(compressed)
    check_model_folder(compressed.path / "model", inside, signature)
    (folder / "1").mkdir(parents=True)
    for name in inside:
        shutil.copyfile(compressed.file(f"model/{name}"), folder / "1" / name)
    check_model_folder(folder / "1", inside, signature)
    text = config.model_config(signature, choice["runtime"], serving, choice["precision"])
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    config.write_labels(signature, folder)
    return choice["runtime"]


def model_name(project: str, folder: Path) -> str:
    """`<project>__<digest>`: two models of one name have the same bytes."""
    return _name(project, {name: digest_file(folder / name) for name in list_files(folder)})


def _name(project: str, digests: Mapping[str, str]) -> str:
    return f"{project}__{digest_json(dict(digests))[:NAME_DIGITS]}"


def model_files(artifact: Artifact) -> dict[str, Listed]:
    """Files of a published model by their place in its Triton folder, with the sha256 of the artifact's manifest."""
    return {
        name.removeprefix(_MODEL): Listed(artifact.file(name), sha256)
        for name, sha256 in artifact.files.items()
        if name.startswith(_MODEL)
    }


def install_model(home: Home, project: str, artifact: Artifact) -> str:
    """Install a published model under its name, which it returns.

    Raises ArtifactError when a file is damaged, RepositoryError when its name is not that of its files: a folder of
    that name may be another model's that serves.
    """
    model = artifact.read_json("model.json")["model"]
    files = model_files(artifact)
    named = _name(project, {place: source.sha256 for place, source in files.items()})
    if model != named:
        raise RepositoryError(
            f"found the name {model} in {artifact.stage} {artifact.short}; expected {named}, which its files have; "
            "remove its folder and run the stage again"
        )
    if not is_sound(home, model, files):
        artifact.verify()
        install(home, model, files)
    return model


def unlike(first: Artifact, other: Artifact) -> str | None:
    """Why one of two published models can't answer in the other's place, or None. Raises ArtifactError."""
    told = [_ends(item) for item in (first, other)]
    for name, before in told[0].items():
        if told[1][name] != before:
            return (
                f"found the {name} {', '.join(told[1][name]) or 'none'}; expected those of the champion, "
                f"{', '.join(before) or 'none'}; give a model with other {name} a project of its own"
            )
    return None


def _ends(artifact: Artifact) -> dict[str, list[str]]:
    from google.protobuf.text_format import ParseError

    labels = f"{_MODEL}{config.LABELS}"
    found = artifact.read_text(labels).splitlines() if labels in artifact.files else []
    columns = artifact.read_json("model.json").get("columns", [])
    text = artifact.read_text(f"{_MODEL}config.pbtxt")
    try:
        return {**config.ends(text), "labels": found, "columns": columns}
    except ParseError as error:
        raise RepositoryError(
            f"found a config.pbtxt of {artifact.stage} {artifact.short} that can't be read ({error}); expected a "
            "ModelConfig of Triton; remove its folder and run the stage again"
        ) from error


def router_files(router_pbtxt: str) -> dict[str, bytes]:
    """Files of a router: its config with the digest of what is copied beside it, its code, `wire/`."""
    code = {f"1/{path.name}": path.read_bytes() for path in sorted((ROUTER / "1").glob("*.py"))}
    code |= {f"1/wire/{path.name}": path.read_bytes() for path in sorted(WIRE.glob("*.py"))}
    digest = digest_bytes(b"\0".join(name.encode() + b"\0" + data for name, data in sorted(code.items())))
    text = config.with_parameters(router_pbtxt, {"code_digest": digest})
    return {"config.pbtxt": text.encode(), **code}


def install(home: Home, name: str, files: Mapping[str, Source]) -> bool:
    """Make `repository/<name>` hold exactly these files; False when it does already. Raises RepositoryError.

    A reader sees the old folder, none, or the whole new one.
    """
    target = home.repository / name
    if is_sound(home, name, files):
        return False
    fresh = home.server / "incoming" / f"{name}-{uuid.uuid4().hex[:8]}"
    for place, source in files.items():
        path = fresh / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            shutil.copyfile(source.path if isinstance(source, Listed) else source, path)
    if not _same(fresh, files):
        raise RepositoryError(f"found a copy of {name} in {fresh} that differs from its source; check the disk")
    durable.flush_tree(fresh)
    durable.remove_tree(target)
    durable.rename(fresh, target)
    return True


def is_sound(home: Home, name: str, files: Mapping[str, Source]) -> bool:
    """Whether `repository/<name>` holds exactly these files."""
    return _same(home.repository / name, files)


def remove(home: Home, name: str) -> None:
    """Take a folder out of the repository; the server must have unloaded it."""
    durable.remove_tree(home.repository / name)


def leftovers(home: Home, project: str) -> list[str]:
    """Routers of this project that a crash left behind while they measured."""
    return sorted(path.name for path in home.repository.glob(f"{project}__*{PROBE}"))


def _same(folder: Path, files: Mapping[str, Source]) -> bool:
    if not folder.is_dir():
        return False
    found = {name for name in list_files(folder) if "__pycache__" not in name}  # Triton's interpreter writes those
    if found != set(files):
        return False
    return all(digest_file(folder / name) == _digest(source) for name, source in files.items())


def _digest(source: Source) -> str:
    if isinstance(source, Listed):
        return source.sha256
    return digest_bytes(source) if isinstance(source, bytes) else digest_file(source)
