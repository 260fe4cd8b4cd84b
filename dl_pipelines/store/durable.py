"""Writes that survive a crash: temporary name, flush, rename, flush of the folder. All durable writes are here.

`inject(hook)` lets a test crash the process at each operation; there is no other use for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Hook = Callable[[str, Path], None]
_hooks: list[Hook] = []


@contextlib.contextmanager
def inject(hook: Hook) -> Iterator[None]:
    """While open, `hook(operation, path)` is called before each operation; it may raise or end the process."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)


def _step(operation: str, path: Path) -> None:
    for hook in _hooks:
        hook(operation, path)


def flush_folder(folder: Path) -> None:
    """Make the folder's own entries durable."""
    _step("flush_folder", folder)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, all or nothing. Raises OSError (no space, no permission); the old file is kept then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _step("write", path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _step("rename", path)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by UTF-8 text, all or nothing."""
    write_bytes(path, text.encode())


def put_text(path: Path, text: str) -> None:
    """Write UTF-8 text into a folder that is flushed as a whole before it gets its name; see flush_tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _step("write", path)
    path.write_bytes(text.encode())


def put_json(path: Path, value: Any) -> None:
    """The same for JSON; see write_json."""
    put_text(path, _json(value))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by indented JSON with sorted keys, all or nothing. Raises ValueError on NaN or infinity."""
    write_text(path, _json(value))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises OSError, or ValueError naming the file."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: found {error.msg} at line {error.lineno}; expected JSON") from error


def flush_tree(folder: Path) -> None:
    """Make every file and folder below `folder` durable."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            _step("flush", path)
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        flush_folder(Path(root))


def rename(source: Path, target: Path) -> None:
    """Move a finished folder or file to its final name, in the same file system. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _step("rename", target)
    source.rename(target)
    flush_folder(target.parent)


def remove_file(path: Path) -> None:
    """Delete a file, so that it stays deleted. Nothing happens when there is none."""
    if not path.exists():
        return
    _step("remove", path)
    path.unlink(missing_ok=True)
    flush_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Delete a folder: renamed aside first, so that a half-deleted one is never seen under its name."""
    if not folder.exists():
        return
    aside = folder.with_name(f".removed-{folder.name}-{uuid.uuid4().hex[:8]}")
    _step("remove", folder)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
