"""Whether the files of a model may be published: exactly those expected, and nothing in them that reaches outside.

Looks at bytes only: no runtime opens a file before it was found sound here. Whether it answers rightly is parity's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from dl_pipelines.inference.runtimes import MODEL_FILES
from dl_pipelines.store.artifacts import Artifact, ArtifactError
from dl_pipelines.store.digest import SHORT, digest_file
from dl_pipelines.tasks.base import Signature

LARGEST_BYTES = 2_000_000_000
"""Of a file; what the exporter refuses to write (export.LARGEST_BYTES) is not read either."""

KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class ModelFileError(ArtifactError):
    """Files of a model are not what was expected, or hold what no model needs; says which file and what was found."""


def check_model_folder(folder: Path, expected: Mapping[str, str], signature: Signature | None = None) -> None:
    """That `folder` holds exactly the files `expected` (name -> sha256) and that a runtime may open them.

    The names are those of one runtime (`runtimes.MODEL_FILES`). Refused: links, devices and folders, other files,
    other bytes, external data, operators of other makers, graphs with other ends than `signature` (one input and one
    output, by name and type), sizes that the bytes don't bear out, XML with a document type. Raises ModelFileError.
    """
    if (
        tuple(expected) not in MODEL_FILES.values()
        and tuple(sorted(expected, reverse=True)) not in MODEL_FILES.values()
    ):
        known = " or ".join(", ".join(names) for names in MODEL_FILES.values())
        raise refused(folder.name, f"a list of files {', '.join(sorted(expected)) or 'without any'}", known)
    _check_entries(folder, expected)
    for name, digest in expected.items():
        found = digest_file(folder / name)
        if found != digest:
            raise refused(name, f"sha256 {found[:SHORT]}", f"{digest[:SHORT]}, as its artifact lists it")
    name = "model.onnx" if "model.onnx" in expected else "model.xml"
    try:
        _check_contents(folder / name, signature)
    except ModelFileError:
        raise
    except (ValueError, LookupError, ArithmeticError) as error:  # what no check foresaw is no sound file either
        raise refused(name, f"what can't be read ({type(error).__name__}: {error})", "a whole model") from error


def _check_contents(path: Path, signature: Signature | None) -> None:
    if path.suffix == ".onnx":
        from dl_pipelines.inference.onnx_contents import check_onnx

        return check_onnx(path, signature)
    from dl_pipelines.inference.ir_contents import check_ir

    return check_ir(path, path.with_suffix(".bin"), signature)


def model_hashes(compressed: Artifact) -> dict[str, str]:
    """The files of a compressed model's `model/` by their name in it, with the sha256 that is listed; none is read.

    Raises ModelFileError for a name that lies in a folder below it or leads out of it.
    """
    prefix = "model/"
    inside = {name.removeprefix(prefix): told for name, told in compressed.files.items() if name.startswith(prefix)}
    for name in inside:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise refused("manifest.json", f"the file {prefix + name!r}", f"names right in {prefix}")
    return inside


def refused(name: str, found: str, expected: str) -> ModelFileError:
    """The error, in the words of all of them."""
    return ModelFileError(
        f"found {found} in {name}; expected {expected}; it was not published: run compressed_model again, and find out "
        "who changed its files"
    )


def _check_entries(folder: Path, expected: Mapping[str, str]) -> None:
    """By what the folder itself says of its entries; nothing is opened, and no link is followed."""
    try:
        mode = os.lstat(folder).st_mode
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if stat.S_ISDIR(mode) else None
    except OSError as error:
        raise ModelFileError(
            f"found {error.strerror} for {folder}; expected a folder with the model's files"
        ) from error
    if entries is None:
        raise refused(folder.name, _kind(mode), "a folder")
    for entry in entries:
        about = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(about.st_mode):
            raise refused(entry.name, _kind(about.st_mode), "a plain file")
        if entry.name not in expected:
            raise refused(folder.name, f"the file {entry.name}", f"only {', '.join(expected)}")
        if not 0 < about.st_size <= LARGEST_BYTES:
            raise refused(entry.name, f"{about.st_size} bytes", f"1 to {LARGEST_BYTES}")
    if missing := set(expected) - {entry.name for entry in entries}:
        raise refused(folder.name, f"no {', '.join(sorted(missing))}", f"{', '.join(expected)}")


def _kind(mode: int) -> str:
    return next((told for is_kind, told in KINDS if is_kind(mode)), "a plain file")
